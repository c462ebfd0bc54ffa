//! Hostile peers beside healthy ones: real processes, load running, failures counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portcullis_testkit::{KeyType, TestCa};
use portcullis_tests::bench::identity::{Identity, certificates};
use portcullis_tests::process::eventually;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::scene::{Scene, descriptors, limit_descriptors, need_descriptors, silent, told};
use crate::strangers::Stranger;

const SOON: Duration = Duration::from_secs(60);

/// How many silent connections there are.
const SILENT: usize = 10_000;

#[test]
fn ten_thousand_silent_connections_cost_nobody_else_anything() {
    need_descriptors(SILENT as u64 + 1_000);
    // First all are kept, then most have to give way.
    for (most, kept) in [("12000", true), ("4096", false)] {
        let flags = [
            &format!("-max-handshakes={most}"),
            "-handshake-timeout=10m",
            "-max-connections=16000",
        ];
        let flags: Vec<&str> = flags.iter().map(|flag| flag.as_ref()).collect();
        let scene = Scene::start(&flags);
        let id = scene.pair.db.id();
        let mut open = Vec::new();
        scene.all_pass("while 10,000 silent connections are opened", 100, || {
            open = silent(scene.pair.inbound, SILENT);
            let enough = if kept { SILENT } else { 4_096 };
            eventually("they are taken", SOON, || {
                (descriptors(id) >= enough).then_some(())
            });
        });
        assert_eq!(open.len(), SILENT);
        scene.all_pass("beside 10,000 silent connections", 200, || ());
        assert_eq!(descriptors(id) >= SILENT, kept, "{}", scene.db());
        drop(open);
        scene.all_pass("while 10,000 connections are closed", 100, || {
            eventually("they are gone", SOON, || {
                (descriptors(id) < 1_000).then_some(())
            });
        });
    }
}

#[test]
fn slow_handshakes_byte_by_byte_hold_up_nobody() {
    need_descriptors(4_000);
    let scene = Scene::start(&["-max-handshakes=400", "-handshake-timeout=60s"]);
    let web = Identity::from(&TestCa::new("somewhere.consul").service("web").issue());
    let hello = Stranger::honest(&web).hello();
    let (stop, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let attack = |count: usize| {
        for _ in 0..count {
            let (hello, stop, sent) = (hello.clone(), Arc::clone(&stop), Arc::clone(&sent));
            // Again and again, as soon as it is thrown out.
            scene
                .runtime
                .spawn(slowly(scene.pair.inbound, hello, stop, sent));
        }
    };
    let at_work = |bytes: u64| {
        let before = sent.load(Ordering::SeqCst);
        eventually("they are at work", SOON, || {
            (sent.load(Ordering::SeqCst) > before + bytes).then_some(())
        });
    };
    attack(300);
    at_work(1_000);
    scene.all_pass("beside 300 slow handshakes, 400 places", 200, || ());
    // More than there are places: those who speak wait until one has had its second.
    attack(400);
    at_work(1_000);
    scene.all_pass("beside 700 slow handshakes, 400 places", 20, || ());
    stop.store(true, Ordering::SeqCst);
    let codes = scene.codes();
    assert!(codes.contains_key("too-many-handshakes"), "{codes:?}");
}

/// Sends `hello` one byte at a time.
async fn slowly(address: SocketAddr, hello: Vec<u8>, stop: Arc<AtomicBool>, sent: Arc<AtomicU64>) {
    let pause = Duration::from_millis(50);
    while !stop.load(Ordering::SeqCst) {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            for byte in &hello {
                if stream.write_all(&[*byte]).await.is_err() || stop.load(Ordering::SeqCst) {
                    break;
                }
                sent.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(pause).await;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

#[test]
fn costly_chains_without_a_key_deny_no_healthy_client() {
    let scene = Scene::start(&[]);
    let domain = scene.agent.trust_domain();
    let root = certificates(&scene.agent.roots_pem().join("\n"))
        .unwrap()
        .remove(0);
    let (_, parsed) = x509_parser::parse_x509_certificate(&root).unwrap();
    let name = parsed
        .subject()
        .iter_common_name()
        .next()
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned();
    // Named like the real root; five issuers of one name, each as if issued by it, so that
    // there are many paths to try. Their leaf's key is the attacker's own.
    let impostor = TestCa::with(&domain, |ca| ca.subject(&name));
    let pretenders: Vec<TestCa> = (0..5)
        .map(|_| impostor.intermediate(|ca| ca.subject("the issuer").key(KeyType::P521)))
        .collect();
    let others: Vec<_> = pretenders[1..]
        .iter()
        .map(|ca| ca.certificate().clone())
        .collect();
    let own = pretenders[0].service("web").issue().presenting(&others);
    let forged = Stranger::honest(&Identity::from(&own));
    // The real chain of `web`, which anybody sees in its handshakes, without its key; and
    // the same with slow keys in it.
    let real = scene.agent.issue("web").unwrap();
    let real = Identity::from_pem(&real.chain_pem, &real.key_pem).unwrap();
    let thief = impostor.service("thief").issue();
    let slow = pretenders[0]
        .service("web")
        .with(|leaf| leaf.key(KeyType::P521))
        .issue();
    let thief_of_slow = impostor
        .service("thief")
        .with(|leaf| leaf.key(KeyType::P521))
        .issue();
    let keyless = [
        Stranger::with_key(&real.chain, &thief.key()),
        Stranger::with_key(slow.chain(), &thief_of_slow.key()),
    ];
    let stop = Arc::new(AtomicBool::new(false));
    let (got_in, tried) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let attack = {
        let (stop, got_in, tried) = (Arc::clone(&stop), Arc::clone(&got_in), Arc::clone(&tried));
        let address = scene.pair.inbound;
        async move {
            // 50 a second without a key, and 50 with one of their own.
            let mut turn = tokio::time::interval(Duration::from_millis(20));
            let mut number = 0;
            while !stop.load(Ordering::SeqCst) {
                turn.tick().await;
                number += 1;
                for stranger in [&keyless[number % 2], &forged] {
                    let (stranger, got_in, tried) =
                        (stranger.clone(), Arc::clone(&got_in), Arc::clone(&tried));
                    tokio::spawn(async move {
                        let call = stranger.call(address).await;
                        tried.fetch_add(1, Ordering::SeqCst);
                        got_in.fetch_add(u64::from(call.is_ok()), Ordering::SeqCst);
                    });
                }
            }
        }
    };
    let _attack = scene.runtime.spawn(attack);
    eventually("they are at work", SOON, || {
        (tried.load(Ordering::SeqCst) > 50).then_some(())
    });
    // Beside the load, whose certificate is known: clients that were never seen before.
    let mut new = 0;
    scene.all_pass("beside costly chains at 100 a second", 400, || {
        for _ in 0..40 {
            let leaf = scene.agent.issue("web").unwrap();
            let identity = Identity::from_pem(&leaf.chain_pem, &leaf.key_pem).unwrap();
            let call = Stranger::honest(&identity);
            let called = scene.runtime.block_on(call.call(scene.pair.inbound));
            assert!(
                called.is_ok(),
                "a healthy client was refused: {called:?}\n{}",
                scene.pair.logs()
            );
            new += 1;
        }
    });
    stop.store(true, Ordering::SeqCst);
    let tried = tried.load(Ordering::SeqCst);
    told(
        "clients never seen before",
        &Default::default(),
        &format!(": {new} passed beside {tried} hostile ones"),
    );
    assert_eq!(got_in.load(Ordering::SeqCst), 0, "an impostor got in");
    assert!(tried > 100, "{tried}");
    let codes = scene.codes();
    assert!(
        codes.keys().all(|code| code != "policy-failed"),
        "{codes:?}"
    );
}

#[test]
fn without_descriptors_those_that_are_there_go_on_and_all_is_well_again() {
    let scene = Scene::start(&[]);
    let id = scene.pair.db.id();
    let before = descriptors(id);
    // Room for a few more, then for none.
    limit_descriptors(id, before as u64 + 60);
    let mut open = Vec::new();
    let meanwhile = scene.load.during(100, || {
        open = silent(scene.pair.inbound, 300);
        scene
            .pair
            .db
            .logs("connections are refused: raise the limit of open files");
        // Without busy waiting: the processor is there for the others.
        let exchanges = scene.live.exchanges();
        eventually("those that are there go on", SOON, || {
            (scene.live.exchanges() > exchanges + 400).then_some(())
        });
    });
    told("new ones without descriptors", &meanwhile, "");
    assert_eq!(scene.live.broken(), 0, "{}", scene.pair.logs());
    // Refused at once, not left to wait.
    assert_eq!(meanwhile.hung, 0, "{meanwhile}");
    assert!(
        meanwhile.failed() > 0,
        "the descriptors were never exhausted: {meanwhile}"
    );
    drop(open);
    eventually("descriptors come free", SOON, || {
        (descriptors(id) < before + 50).then_some(())
    });
    scene.pair.passes(&scene.load);
    scene.all_pass("after descriptors came free", 100, || ());
    limit_descriptors(id, 10_000);
    scene.all_pass("with more descriptors", 100, || ());
}

#[test]
fn at_a_termination_nothing_that_is_there_is_lost() {
    let mut scene = Scene::start(&["-drain-timeout=60s"]);
    let before = scene.load.next(100);
    assert_eq!(before.failed(), 0, "{before}");
    let exchanges = scene.live.exchanges();
    let id = scene.pair.db.id();
    let signal = || {
        let pid = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    };
    let meanwhile = scene.load.during(100, signal);
    // New ones find nobody; those that are there go on for as long as they like.
    eventually("they go on", SOON, || {
        (scene.live.exchanges() > exchanges + 2_000).then_some(())
    });
    told("that began after SIGTERM", &meanwhile, "");
    assert_eq!(scene.live.broken(), 0, "{}", scene.pair.logs());
    assert_eq!(meanwhile.hung + meanwhile.wrong, 0, "{meanwhile}");
    let Scene { live, pair, .. } = &mut scene;
    assert!(live.exchanges() > exchanges);
    // Once the last has ended, the proxy ends, well before its patience does.
    live.end();
    assert_eq!(pair.db.stop(), Some(0), "{}", pair.logs());
    let codes = scene.codes();
    assert!(
        !codes.contains_key("shutdown"),
        "connections were cut off: {codes:?}"
    );
}
