//! The filter in a mesh of Envoys as `portcullis envoy bootstrap` writes them, on a Consul with
//! ACLs: certificates and policy come by way of `portcullis sds -relay`, which has the token.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use portcullis_dev_agent::DevAgentConfig;
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::echo::{self, Echo};
use portcullis_tests::envoy_process as envoy;
use portcullis_tests::load::Load;
use portcullis_tests::process::eventually;
use portcullis_tests::{components, pair};

use crate::bootstrap::Mesh;
use crate::scene::{Agent, Dev, SOON, Server, WithAcls};
use crate::sds::serials;

/// The same agent for those who have another token.
struct As<'a> {
    agent: &'a WithAcls,
    token: String,
}

impl Agent for As<'_> {
    fn address(&self) -> SocketAddr {
        self.agent.address()
    }

    fn token(&self) -> Option<&str> {
        Some(&self.token)
    }
}

#[test]
fn the_filter_behind_a_relay_stands_a_rotation_under_load() {
    let name = "the_filter_behind_a_relay_stands_a_rotation_under_load";
    let (Some(program), Some(consul)) = (
        envoy::program(name),
        Consul::start(name, Options::new().with_acls()),
    ) else {
        return;
    };
    // What the pages ask for, and to read what others have registered for the upstream.
    let rules = r#"service "db" { policy = "write" intentions = "read" }
        service "web" { policy = "write" }
        service "db-proxy" { policy = "write" }
        node_prefix "" { policy = "read" }"#;
    let token = consul.token("mesh", rules);
    let agent = WithAcls(consul);
    let member = As {
        agent: &agent,
        token,
    };
    let app = Echo::start();
    let filter = format!("-filter={}", components::envoy_filter().display());
    let mesh = Mesh::start(&member, &program, app.address(), &filter, &[]);
    // ACLs deny by default, and so does the mesh.
    mesh.db.reaches("wasmcustom.portcullis.db.generation", 1);
    assert!(echo::open(mesh.door).is_err());
    assert_eq!(app.received(), 0);
    mesh.db
        .reaches("wasmcustom.portcullis.db.denied.default-policy", 1);
    pair::intention(&agent.api(), "web", "db", "allow", "");
    // So many in a row that each worker has had some.
    eventually("the way through the mesh", SOON, || {
        let all = (0..32).all(|_| echo::open(mesh.door).is_ok());
        all.then_some(())
    });

    let denied = || mesh.db.stats("wasmcustom.portcullis.db.denied");
    let (before, mut live) = (denied(), echo::open(mesh.door).expect("a connection"));
    let load = Load::start(mesh.door);
    let old = [&mesh.web, &mesh.db].map(serials);
    assert!(old.iter().all(|serials| serials.len() == 1), "{old:?}");
    // Consul spreads the new leaves over half a minute.
    let counts = load.during(1_500, || {
        agent.rotate(384);
        eventually("both leaves are new", SOON, || {
            let new = [&mesh.web, &mesh.db].map(serials);
            let mut pairs = new.iter().zip(&old);
            pairs.all(|(new, old)| new != old).then_some(())
        });
    });
    assert_eq!(counts.failed(), 0, "meanwhile: {counts}");
    let counts = load.next(500);
    assert_eq!(counts.failed(), 0, "afterwards: {counts}");
    let total = load.total();
    drop(load);
    assert_eq!(total.failed(), 0, "{total}");
    echo::exchange(&mut live).expect("a connection from before the rotation");
    assert_eq!(denied(), before, "the filter has refused none");
    let handshakes = mesh.web.stat("cluster.upstream_db.ssl.handshake");
    println!("{total}, {handshakes} handshakes");
    assert!(total.passed >= 2_000 && handshakes >= total.passed);
    for envoy in [&mesh.web, &mesh.db] {
        let failed = envoy.stats("ssl.").into_iter().filter(|(name, count)| {
            *count > 0 && (name.contains(".fail_verify") || name.ends_with(".connection_error"))
        });
        assert_eq!(failed.collect::<Vec<_>>(), []);
        let reused = envoy.stats("ssl.session_reused");
        assert!(reused.iter().all(|(_, count)| *count == 0), "{reused:?}");
        assert!(!envoy.log().contains(&member.token));
    }

    pair::intention(&agent.api(), "web", "db", "deny", "");
    live.set_read_timeout(Some(SOON)).expect("a socket");
    let ended = live.read(&mut [0]).map_err(|error| error.kind());
    let is_end = matches!(ended, Ok(0) | Err(ErrorKind::ConnectionReset));
    assert!(is_end, "it is judged again: {ended:?}");
    // Each worker looks on a tick of its own.
    eventually("every worker refuses", SOON, || {
        let all = (0..32).all(|_| echo::open(mesh.door).is_err());
        all.then_some(())
    });
    let received = app.received();
    for _ in 0..5 {
        assert!(echo::open(mesh.door).is_err());
    }
    assert_eq!(app.received(), received, "not one byte of who is refused");
}

/// An application that speaks first, and then echoes.
fn greeter() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut part = [0; 64];
                stream.write_all(GREETING)?;
                while let count @ 1.. = stream.read(&mut part)? {
                    stream.write_all(&part[..count])?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    address
}

const GREETING: &[u8] = b"220 hello\r\n";

/// How much of the greeting is heard, and whether an echo comes for what is said then.
fn meet(door: SocketAddr) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(door).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a socket");
    let (mut heard, mut byte) = (Vec::new(), [0]);
    while heard != GREETING && matches!(stream.read(&mut byte), Ok(1)) {
        heard.push(byte[0]);
    }
    let is_served = heard == GREETING && echo::exchange(&mut stream).is_ok();
    (heard, is_served)
}

#[test]
fn a_greeting_leaks_by_ext_authz_and_not_by_the_filter() {
    let Some(program) = envoy::program("a_greeting_leaks_by_ext_authz_and_not_by_the_filter")
    else {
        return;
    };
    let agent = Dev::start(DevAgentConfig::for_tests());
    let authz = Server::start("ext-authz", &agent, "db", &[]);
    for (policy, leaks) in [
        (
            format!("-ext-authz=unix:{}", authz.socket().display()),
            true,
        ),
        (
            format!("-filter={}", components::envoy_filter().display()),
            false,
        ),
    ] {
        pair::intention(&agent.api(), "web", "db", "allow", "");
        let mesh = Mesh::start(&agent, &program, greeter(), &policy, &[]);
        eventually("web is served", SOON, || {
            (0..16).all(|_| meet(mesh.door).1).then_some(())
        });
        pair::intention(&agent.api(), "web", "db", "deny", "");
        eventually("web is refused", SOON, || {
            (0..16).all(|_| !meet(mesh.door).1).then_some(())
        });
        for _ in 0..10 {
            let (heard, is_served) = meet(mesh.door);
            assert!(!is_served);
            assert!(leaks || heard.is_empty(), "{policy}: {heard:?}");
        }
        if leaks {
            // It is a race of the greeting and the answer, so not every time.
            eventually("the greeting leaks", SOON, || {
                (meet(mesh.door).0 == GREETING).then_some(())
            });
        }
    }
    drop(authz.stop());
}
