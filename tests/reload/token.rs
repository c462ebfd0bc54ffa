//! A proxy's ACL token is replaced while it runs, on a real agent with ACLs.

use std::net::SocketAddr;

use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::echo::{self, Echo};
use portcullis_tests::ports;
use portcullis_tests::process::eventually;
use portcullis_tests::proxy::Proxy;
use serde_json::json;

use crate::{SOON, Secret, replace};

const RULES: &str = r#"service "db" { policy = "write" }
service "db-proxy" { policy = "write" }
service "web" { policy = "write" }
node_prefix "" { policy = "read" }"#;

fn revoke(consul: &Consul, secret: &str) {
    let api = consul.api();
    let tokens = api.get("/v1/acl/tokens").good().json();
    let accessor = tokens
        .as_array()
        .expect("a list")
        .iter()
        .find(|token| token["SecretID"] == secret)
        .expect("the token is listed")["AccessorID"]
        .as_str()
        .expect("text")
        .to_owned();
    let _ = api.delete(&format!("/v1/acl/token/{accessor}")).good();
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
fn by_signal_and_by_a_kubernetes_secret() {
    let Some(consul) = Consul::start("a_token_is_replaced", Options::new().with_acls()) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let [one, two, three] = ["one", "two", "three"].map(|name| consul.token(name, RULES));
    let file = folder.path().join("db-token");
    std::fs::write(&file, &one).expect("a file");
    let mut secret = Secret::new(folder.path().join("web"), &[("token", one.clone())]);

    let app = Echo::start();
    let [inbound, door] = ports::free::<2>();
    let mut db = Proxy::start(
        consul.address(),
        None,
        &[
            "-service=db",
            &format!("-service-addr={}", app.address()),
            &format!("-listen=127.0.0.1:{inbound}"),
            &format!("-token-file={}", file.display()),
            "-register",
        ],
    );
    let mut web = Proxy::start(
        consul.address(),
        None,
        &[
            "-service=web",
            &format!("-upstream=db:{door}"),
            &format!("-token-file={}", secret.path("token").display()),
        ],
    );
    let door = SocketAddr::from(([127, 0, 0, 1], door));
    intention(&consul, "allow");
    let mut live = eventually("a connection goes through", SOON, || echo::open(door).ok());

    let read = "what=\"the token file\"";
    for (token, old) in [(&two, &one), (&three, &two)] {
        replace(&file, token.as_bytes());
        db.process().signal(1);
        secret.exchange(&[("token", format!("{token}\n"))]);
        let times = if token == &two { 1 } else { 2 };
        for proxy in [&db, &web] {
            eventually("the token is read again", SOON, || {
                let told = |line: &&str| line.contains(read) && line.contains("in use");
                (proxy.log().lines().filter(told).count() >= times).then_some(())
            });
        }
        revoke(&consul, old);
        // Both go on following: the new token must be the one that asks.
        intention(&consul, "deny");
        eventually("the live connection is cut", SOON, || {
            echo::exchange(&mut live).err().map(drop)
        });
        intention(&consul, "allow");
        live = eventually("allowed again", SOON, || echo::open(door).ok());
    }
    assert_eq!(db.stop(), Some(0), "{}", db.log());
    assert_eq!(web.stop(), Some(0), "{}", web.log());
    for token in [one, two, three] {
        assert!(
            !db.log().contains(&token) && !web.log().contains(&token),
            "a token is in a log"
        );
    }
}
