//! Applications that refuse, hang and end early, under load.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig};
use portcullis_tests::load::{Live, Load};
use portcullis_tests::ports;
use portcullis_tests::process::eventually;
use portcullis_tests::proxy::Proxy;

use crate::scene::told;

const SOON: Duration = Duration::from_secs(60);

/// `web` may call `db`, whose application is ours to break.
struct Scene {
    application: SocketAddr,
    door: SocketAddr,
    db: Proxy,
    _web: Proxy,
    _agent: DevAgent,
    _runtime: tokio::runtime::Runtime,
}

impl Scene {
    fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let config = DevAgentConfig {
            default_intention_policy: Some(DefaultPolicy::Deny),
            ..DevAgentConfig::for_tests()
        };
        let agent = runtime.block_on(DevAgent::start(config)).expect("an agent");
        agent.allow("web", "db").expect("an intention");
        let [application, listen, door] = ports::free::<3>();
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let db = Proxy::start(
            agent.address(),
            None,
            &[
                "-service=db",
                &format!("-service-addr={}", local(application)),
                &format!("-listen={}", local(listen)),
                "-register",
            ],
        );
        let web = Proxy::start(
            agent.address(),
            None,
            &["-service=web", &format!("-upstream=db:{door}")],
        );
        db.logs("ready: connections are taken");
        web.logs("ready: connections are taken");
        Self {
            application: local(application),
            door: local(door),
            db,
            _web: web,
            _agent: agent,
            _runtime: runtime,
        }
    }
}

/// An echo that can be stopped: its listener closes, its connections go on.
struct Application {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Application {
    fn start(address: SocketAddr) -> Self {
        let listener = eventually("the port is free", SOON, || TcpListener::bind(address).ok());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                std::thread::spawn(move || echo(stream));
            }
        });
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

#[test]
fn an_application_that_refuses_for_a_while_loses_only_what_came_meanwhile() {
    let scene = Scene::start();
    let application = Application::start(scene.application);
    let load = Load::start(scene.door);
    eventually("it is reached", SOON, || {
        (load.next(1).passed > 0).then_some(())
    });
    let live = Live::start(scene.door, 10);
    drop(application);
    let meanwhile = load.next(50);
    told("while the application refused", &meanwhile, "");
    // Ended, not left hanging, and nobody got an answer from nobody.
    assert_eq!(
        (meanwhile.passed, meanwhile.hung, meanwhile.wrong),
        (0, 0, 0),
        "{meanwhile}"
    );
    scene.db.logs("application-unreachable");
    assert_eq!(live.broken(), 0, "{}", scene.db.log());
    let _application = Application::start(scene.application);
    let after = load.next(100);
    told("after it came back", &after, "");
    assert_eq!(after.failed(), 0, "{after}\n{}", scene.db.log());
    assert_eq!(live.broken(), 0);
}

#[test]
fn an_application_that_hangs_gets_what_waited_once_it_goes_on() {
    let scene = Scene::start();
    // It listens and takes nothing: the kernel connects for it.
    let hanging = TcpListener::bind(scene.application).unwrap();
    let callers: Vec<_> = (0..50)
        .map(|number: u32| {
            let door = scene.door;
            std::thread::spawn(move || -> std::io::Result<bool> {
                let mut stream = TcpStream::connect(door)?;
                stream.write_all(&number.to_be_bytes())?;
                let mut answer = [0; 4];
                stream.read_exact(&mut answer)?;
                Ok(answer == number.to_be_bytes())
            })
        })
        .collect();
    // All have reached the application's queue, with what they had to say.
    let mut waiting = Vec::new();
    for _ in 0..callers.len() {
        let (stream, _) = hanging.accept().unwrap();
        waiting.push(stream);
    }
    assert!(callers.iter().all(|caller| !caller.is_finished()));
    for stream in waiting {
        std::thread::spawn(move || echo(stream));
    }
    let answered = callers
        .into_iter()
        .map(|caller| caller.join().unwrap())
        .filter(|answer| matches!(answer, Ok(true)))
        .count();
    assert_eq!(answered, 50, "{}", scene.db.log());
}

#[test]
fn an_application_that_ends_its_half_first_still_gets_everything() {
    const SIZE: usize = 512 * 1024;
    let scene = Scene::start();
    let listener = TcpListener::bind(scene.application).unwrap();
    let received = std::thread::spawn(move || {
        let taken: Vec<_> = listener
            .incoming()
            .take(30)
            .map(|stream| {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    stream.write_all(b"greeting").unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                    let mut bytes = Vec::new();
                    stream.read_to_end(&mut bytes).map(|_| bytes.len())
                })
            })
            .collect();
        taken
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .filter(|length| matches!(length, Ok(SIZE)))
            .count()
    });
    let callers: Vec<_> = (0..30)
        .map(|_| {
            let door = scene.door;
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(door).unwrap();
                let mut greeting = Vec::new();
                stream.read_to_end(&mut greeting).unwrap();
                stream.write_all(&vec![7; SIZE]).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                greeting == b"greeting"
            })
        })
        .collect();
    let greeted = callers.into_iter().map(|caller| caller.join().unwrap());
    assert_eq!(greeted.filter(|good| *good).count(), 30);
    assert_eq!(received.join().unwrap(), 30, "{}", scene.db.log());
}
