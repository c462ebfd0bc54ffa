//! The CA is rotated while handshakes run: none fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use portcullis::connector::Upstream;
use portcullis_dev_agent::KeyType;
use portcullis_tests::stage::{Echo, Stage, ask, door, eventually, within};

const HANDSHAKES: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn no_handshake_fails_while_the_ca_is_rotated_twice() {
    let stage = Stage::new().await;
    stage.agent.allow("web", "db").unwrap();
    let echo = Echo::start().await;
    let inbound = stage.inbound("db", echo.application()).await;
    stage.listed("db", 1).await;
    let outbound = stage.outbound("web", Upstream::service("db")).await;
    let door = door(&outbound);
    let serial = |proxy: &portcullis::proxy::Proxy| {
        proxy
            .member()
            .tls()
            .leaf()
            .current()
            .unwrap()
            .serial
            .clone()
    };

    let (done, stop) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) || done.load(Ordering::SeqCst) < HANDSHAKES {
                    let answer = ask(door, b"ping").await.expect("a handshake failed");
                    assert_eq!(answer, b"ping");
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();

    for key in [KeyType::EcP384, KeyType::EcP256] {
        let at = done.load(Ordering::SeqCst);
        eventually("handshakes run", async || {
            done.load(Ordering::SeqCst) > at + 20
        })
        .await;
        let (there, here) = (serial(&inbound), serial(&outbound));
        stage.agent.rotate(key).await.unwrap();
        eventually("both have leaves of the new CA", async || {
            serial(&inbound) != there && serial(&outbound) != here
        })
        .await;
        let at = done.load(Ordering::SeqCst);
        eventually("handshakes go on", async || {
            done.load(Ordering::SeqCst) > at + 20
        })
        .await;
    }
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        within(caller).await.unwrap();
    }
    let total = done.load(Ordering::SeqCst);
    assert!(total >= HANDSHAKES, "{total}");
    assert_eq!(inbound.stats().refused, 0);
    assert_eq!(outbound.stats().refused, 0);
    assert_eq!(echo.seen(), total);
    // A chain with the cross-signed intermediate is presented whole.
    assert_eq!(
        inbound
            .member()
            .tls()
            .leaf()
            .current()
            .unwrap()
            .chain()
            .len(),
        2
    );
}
