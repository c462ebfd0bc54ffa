//! The agent's CA and our certificate for it are replaced while a proxy runs, on a real
//! agent behind TLS that asks for certificates.

use std::net::SocketAddr;
use std::path::Path;

use portcullis_testkit::TestCa;
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::echo::{self, Echo};
use portcullis_tests::process::eventually;
use portcullis_tests::proxy::Proxy;
use portcullis_tests::{ports, program};
use serde_json::json;

use crate::{SOON, Secret};

/// What an agent and its clients need of one CA.
struct Pki {
    agent: [(&'static str, String); 3],
    client: [(&'static str, String); 3],
}

impl Pki {
    fn new(name: &str) -> Self {
        let ca = TestCa::new(name);
        let agent = ca
            .service("agent")
            .with(|leaf| leaf.dns("localhost"))
            .issue();
        let client = ca.service("client").issue();
        let files = |cert: &portcullis_testkit::TestLeaf| {
            [
                ("ca.pem", ca.pem()),
                ("cert.pem", cert.pem()),
                ("key.pem", cert.key_pem()),
            ]
        };
        Self {
            agent: files(&agent),
            client: files(&client),
        }
    }
}

fn write(folder: &Path, files: &[(&str, String)]) {
    for (name, content) in files {
        std::fs::write(folder.join(name), content).expect("a file");
    }
}

fn intention(consul: &Consul, action: &str) {
    let _ = consul
        .api()
        .put(
            "/v1/connect/intentions/exact?source=web&destination=db",
            &json!({ "SourceType": "consul", "Action": action }),
        )
        .good();
}

#[test]
fn the_agents_ca_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (Pki::new("old.example"), Pki::new("new.example"));
    let [https] = ports::free::<1>();
    write(folder.path(), &old.agent);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let options = Options::new().persistent().with_config(&format!(
        "ports {{ https = {https} }}\ntls {{ https {{ ca_file = \"{}\" cert_file = \"{}\" key_file = \"{}\" verify_incoming = true }} }}",
        file("ca.pem"),
        file("cert.pem"),
        file("key.pem"),
    ));
    let Some(mut consul) = Consul::start("the_agents_ca_is_replaced", options) else {
        return;
    };
    let mut secret = Secret::new(folder.path().join("secret"), &old.client);
    let start = |flags: &[&str]| {
        let mut command = program::portcullis(["proxy", "-log-level=debug"]);
        command
            .args(flags)
            .arg(format!("-http-addr=https://localhost:{https}"));
        for (flag, name) in [
            ("-ca-file", "ca.pem"),
            ("-client-cert", "cert.pem"),
            ("-client-key", "key.pem"),
        ] {
            command.arg(format!("{flag}={}", secret.path(name).display()));
        }
        Proxy::spawn(command)
    };
    let app = Echo::start();
    let [inbound, door] = ports::free::<2>();
    let mut db = start(&[
        "-service=db",
        &format!("-service-addr={}", app.address()),
        &format!("-listen=127.0.0.1:{inbound}"),
        "-register",
    ]);
    let mut web = start(&["-service=web", &format!("-upstream=db:{door}")]);
    let door = SocketAddr::from(([127, 0, 0, 1], door));
    intention(&consul, "allow");
    let mut live = eventually("a connection goes through", SOON, || echo::open(door).ok());

    // The agent comes back with certificates of another CA, and believes only that one.
    write(folder.path(), &new.agent);
    consul.restart();
    for proxy in [&db, &web] {
        proxy.logs("TLS with the agent");
    }
    drop(echo::open(door).expect("the last good data decides"));
    echo::exchange(&mut live).expect("a live connection goes on");

    // Half of it is no use, and says so.
    secret.exchange(&[
        ("ca.pem", new.client[0].1.clone()),
        ("cert.pem", new.client[1].1.clone()),
        ("key.pem", old.client[2].1.clone()),
    ]);
    db.process().signal(1);
    db.logs("the last good one stays");
    db.logs("cannot be used with its key");

    secret.exchange(&new.client);
    for proxy in [&db, &web] {
        proxy.logs("read again, and in use");
    }
    echo::exchange(&mut live).expect("a live connection goes on");
    // Nothing is heard from the agent but over new connections.
    intention(&consul, "deny");
    eventually("the live connection is cut", SOON, || {
        echo::exchange(&mut live).err().map(drop)
    });
    intention(&consul, "allow");
    eventually("allowed again", SOON, || echo::open(door).ok());
    assert_eq!(db.stop(), Some(0), "{}", db.log());
    assert_eq!(web.stop(), Some(0), "{}", web.log());
}
