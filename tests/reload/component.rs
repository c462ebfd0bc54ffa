//! The component of a running proxy is exchanged under load: no connection is lost, and
//! a bad one changes nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig};
use portcullis_tests::echo::{self, Echo};
use portcullis_tests::process::eventually;
use portcullis_tests::proxy::Proxy;
use portcullis_tests::{components, ports};

use crate::{SOON, replace, variant};

const REPLACED: &str = "another policy component decides";

/// `web` reaches `db`, whose proxy has its component from a file.
struct Mesh {
    runtime: tokio::runtime::Runtime,
    agent: DevAgent,
    app: Echo,
    door: SocketAddr,
    db: Proxy,
    web: Proxy,
}

impl Mesh {
    fn start(component: &Path) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let agent = runtime
            .block_on(DevAgent::start(DevAgentConfig {
                default_intention_policy: Some(DefaultPolicy::Deny),
                ..DevAgentConfig::for_tests()
            }))
            .expect("the agent starts");
        agent.allow("web", "db").expect("it is allowed");
        let app = Echo::start();
        let [inbound, door] = ports::free::<2>();
        let db = Proxy::start(
            agent.address(),
            None,
            &[
                "-service=db",
                &format!("-service-addr={}", app.address()),
                &format!("-listen=127.0.0.1:{inbound}"),
                &format!("-component={}", component.display()),
                "-register",
            ],
        );
        let web = Proxy::start(
            agent.address(),
            None,
            &["-service=web", &format!("-upstream=db:{door}")],
        );
        let door = SocketAddr::from(([127, 0, 0, 1], door));
        db.logs("ready");
        web.logs("ready");
        eventually("a connection goes through", SOON, || echo::open(door).ok());
        Self {
            runtime,
            agent,
            app,
            door,
            db,
            web,
        }
    }

    fn denied(&self) {
        eventually("connections are refused", SOON, || {
            echo::open(self.door).is_err().then_some(())
        });
        let before = self.app.accepted();
        assert!(echo::open(self.door).is_err());
        assert_eq!(self.app.accepted(), before);
    }

    /// Waits until the log of `db` has `text` so many times.
    fn logs(&self, text: &str, times: usize) {
        eventually(text, SOON, || {
            (self.db.log().matches(text).count() >= times).then_some(())
        });
    }

    fn stop(mut self) {
        assert_eq!(self.db.stop(), Some(0), "{}", self.db.log());
        assert_eq!(self.web.stop(), Some(0), "{}", self.web.log());
        self.runtime.block_on(self.agent.shutdown());
    }
}

#[test]
fn under_load_no_connection_is_lost() {
    const SWAPS: u32 = 6;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("policy.wasm");
    fs::write(&file, variant(0)).expect("a file");
    let mut mesh = Mesh::start(&file);

    let door = mesh.door;
    let mut live: Vec<_> = (0..8).map(|_| echo::open(door).expect("allowed")).collect();
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failed = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    while !stop.load(Ordering::SeqCst) {
                        match echo::open(door) {
                            Ok(_) => {
                                done.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(error) => failed.push(error.to_string()),
                        }
                    }
                    failed
                })
            })
            .collect();
        for swap in 1..=SWAPS {
            replace(&file, &variant(swap));
            // The others are found by looking at the file.
            if swap % 3 != 0 {
                mesh.db.process().signal(1);
            }
            let swaps = usize::try_from(swap).expect("a few");
            mesh.logs(REPLACED, swaps);
            let seen = done.load(Ordering::SeqCst);
            eventually("connections go on", SOON, || {
                (done.load(Ordering::SeqCst) > seen + 20).then_some(())
            });
            for stream in &mut live {
                echo::exchange(stream).expect("a live connection goes on");
            }
        }
        stop.store(true, Ordering::SeqCst);
        callers
            .into_iter()
            .flat_map(|caller| caller.join().expect("no panic"))
            .collect::<Vec<_>>()
    });
    let done = done.into_inner();
    assert_eq!(failed, Vec::<String>::new(), "of {done}\n{}", mesh.db.log());
    println!("{done} connections over {SWAPS} exchanges, none failed");
    // The component that decides now also judges what is open.
    mesh.agent.deny("web", "db").expect("it is denied");
    mesh.denied();
    for stream in &mut live {
        eventually("it is cut", SOON, || echo::exchange(stream).err().map(drop));
    }
    mesh.stop();
}

#[test]
fn what_is_of_no_use_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("policy.wasm");
    fs::write(&file, variant(100)).expect("a file");
    let mut mesh = Mesh::start(&file);
    let mut live = echo::open(mesh.door).expect("allowed");

    let whole = variant(101);
    let hostile = fs::read(components::allow_everything()).expect("a file");
    let bad: [(&[u8], &str); 5] = [
        (b"", "not a WebAssembly component"),
        (b"not found\n", "not a WebAssembly component"),
        (&whole[..whole.len() / 2], "cannot be compiled"),
        (b"\0asm\x0d\0\x01\0", "is not a policy"),
        (&hostile, "does not take over"),
    ];
    let kept = "the last good one stays";
    let mut times = 0;
    for (content, because) in bad {
        replace(&file, content);
        mesh.db.process().signal(1);
        times += 1;
        mesh.logs(kept, times);
        let log = mesh.db.log();
        let line = log
            .lines()
            .rev()
            .find(|line| line.contains(kept))
            .expect("it is there");
        assert!(line.contains("ERROR") && line.contains(because), "{line}");
        drop(echo::open(mesh.door).expect("the old one decides"));
        echo::exchange(&mut live).expect("a live connection goes on");
    }
    fs::remove_file(&file).expect("it can be removed");
    mesh.db.process().signal(1);
    mesh.logs(kept, times + 1);
    // Nobody allows everything.
    mesh.agent.deny("web", "db").expect("it is denied");
    mesh.denied();
    mesh.agent.allow("web", "db").expect("it is allowed");

    // And a good one is taken, without a signal.
    assert!(!mesh.db.log().contains(REPLACED), "{}", mesh.db.log());
    replace(&file, &whole);
    mesh.logs(REPLACED, 1);
    eventually("allowed again", SOON, || echo::open(mesh.door).ok());
    mesh.stop();
}
