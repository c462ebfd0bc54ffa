//! Tests of everything that waits, under tokio's paused clock: no socket, no sleep.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::DevAgentConfig;
use crate::clock::Clock;
use crate::core::Core;
use crate::http::Request;
use crate::http::reply::{Body, INDEX, Reply, X_CACHE};

const LEAF: &str = "/v1/agent/connect/ca/leaf/web";
const MATCH: &str = "/v1/connect/intentions/match?by=destination&name=db";
const HOUR: Duration = Duration::from_secs(3600);

fn agent(config: DevAgentConfig) -> Arc<Core> {
    let start = OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("a date");
    let address = "127.0.0.1:8500".parse().expect("an address");
    let clock = Clock::Tokio(start, Instant::now());
    let core = crate::agent::core(config, address, clock).expect("an agent");
    tokio::spawn(Arc::clone(&core).maintain());
    core
}

async fn ask(core: &Core, method: Method, target: &str, body: &Value) -> Reply {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    core.answer(Request::new(method, target, HeaderMap::new(), body.into()))
        .await
}

async fn get(core: &Core, target: &str) -> Reply {
    ask(core, Method::GET, target, &Value::Null).await
}

async fn put(core: &Core, target: &str, body: &Value) {
    let reply = ask(core, Method::PUT, target, body).await;
    assert_eq!(reply.status, 200, "{target}: {:?}", reply.body);
}

fn spawn_get(core: &Arc<Core>, target: String) -> JoinHandle<(Reply, Duration)> {
    let core = Arc::clone(core);
    let start = Instant::now();
    tokio::spawn(async move { (get(&core, &target).await, start.elapsed()) })
}

fn index(reply: &Reply) -> u64 {
    reply.headers[INDEX]
        .to_str()
        .expect("text")
        .parse()
        .expect("a number")
}

fn json(reply: &Reply) -> &Value {
    match &reply.body {
        Body::Json(value) => value,
        Body::Bytes(bytes) => panic!("no JSON: {bytes:?}"),
    }
}

async fn allow(core: &Core, source: &str, destination: &str) {
    let target = format!("/v1/connect/intentions/exact?source={source}&destination={destination}");
    put(core, &target, &json!({"Action": "allow"})).await;
}

/// Lets everything that is ready run.
async fn turn() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_query_blocks_for_its_wait_and_a_sixteenth_at_most() {
    let core = agent(DevAgentConfig::for_tests());
    allow(&core, "web", "db").await;
    let first = get(&core, MATCH).await;
    for wait in [1u64, 16, 160] {
        let target = format!("{MATCH}&index={}&wait={wait}s", index(&first));
        let (reply, took) = spawn_get(&core, target).await.expect("a reply");
        assert_eq!(index(&reply), index(&first));
        assert_eq!(json(&reply), json(&first));
        let wait = Duration::from_secs(wait);
        assert!(
            took >= wait && took <= wait + wait / 16 + Duration::from_millis(1),
            "{took:?}"
        );
    }
    // Without a wait, or a negative one: five minutes. Longer than ten: ten.
    for (wait, least) in [("", 300), ("&wait=-3s", 300), ("&wait=5h", 600)] {
        let target = format!("{MATCH}&index={}{wait}", index(&first));
        let (_, took) = spawn_get(&core, target).await.expect("a reply");
        let least = Duration::from_secs(least);
        assert!(
            took >= least && took <= least + least / 16 + Duration::from_millis(1),
            "{took:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn index_0_and_an_old_index_do_not_block() {
    let core = agent(DevAgentConfig::for_tests());
    allow(&core, "web", "db").await;
    let start = Instant::now();
    get(&core, &format!("{MATCH}&wait=60s")).await;
    get(&core, &format!("{MATCH}&index=0&wait=60s")).await;
    get(&core, &format!("{MATCH}&index=1&wait=60s")).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn related_writes_wake_and_others_do_not() {
    let core = agent(DevAgentConfig::for_tests());
    allow(&core, "web", "db").await;
    let before = index(&get(&core, MATCH).await);
    let blocked = spawn_get(&core, format!("{MATCH}&index={before}&wait=60s"));
    turn().await;
    allow(&core, "web", "other").await;
    turn().await;
    assert!(!blocked.is_finished(), "an unrelated write woke it");
    tokio::time::advance(Duration::from_secs(5)).await;
    allow(&core, "*", "db").await;
    let (reply, took) = blocked.await.expect("a reply");
    assert_eq!(took, Duration::from_secs(5));
    assert!(index(&reply) > before);
    assert_eq!(json(&reply)["db"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(start_paused = true)]
async fn agent_roots_block_without_a_limit() {
    let core = agent(DevAgentConfig::for_tests());
    let target = "/v1/agent/connect/ca/roots";
    let before = index(&get(&core, target).await);
    let blocked = spawn_get(&core, format!("{target}?index={before}"));
    turn().await;
    tokio::time::advance(24 * HOUR).await;
    turn().await;
    assert!(!blocked.is_finished(), "it has no deadline");
    // A change of the lifetime alone wakes, with the same roots.
    let config = json!({"Provider": "consul", "Config": {"LeafCertTTL": "71h"}});
    put(&core, "/v1/connect/ca/configuration", &config).await;
    let (reply, _) = blocked.await.expect("a reply");
    assert!(index(&reply) > before);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_caller_gets_a_new_leaf_in_the_window() {
    let core = agent(DevAgentConfig::for_tests());
    let first = get(&core, LEAF).await;
    let start = Instant::now();
    // As a watcher does it: ten minutes at a time.
    let second = loop {
        let reply = get(&core, &format!("{LEAF}?index={}&wait=10m", index(&first))).await;
        if index(&reply) != index(&first) {
            break reply;
        }
        assert_eq!(
            json(&reply),
            json(&first),
            "a reply without a change is the same"
        );
    };
    // 60 % to 90 % of 72 h, less the minute that it was dated back.
    let took = start.elapsed();
    assert!(took >= 43 * HOUR && took <= 65 * HOUR, "{took:?}");
    assert_ne!(
        json(&second)["PrivateKeyPEM"],
        json(&first)["PrivateKeyPEM"]
    );
    assert_ne!(json(&second)["SerialNumber"], json(&first)["SerialNumber"]);
}

#[tokio::test(start_paused = true)]
async fn a_poller_keeps_its_leaf_up_to_90_percent() {
    let core = agent(DevAgentConfig::for_tests());
    let first = get(&core, LEAF).await;
    tokio::time::advance(64 * HOUR).await;
    assert_eq!(json(&get(&core, LEAF).await), json(&first));
    tokio::time::advance(HOUR).await;
    let second = get(&core, LEAF).await;
    assert!(index(&second) > index(&first));
}

#[tokio::test(start_paused = true)]
async fn a_blocked_caller_with_an_index_from_the_future_does_not_spin() {
    let config = DevAgentConfig {
        leaf_ttl: Duration::from_secs(2),
        ..DevAgentConfig::for_tests()
    };
    let core = agent(config);
    let first = get(&core, LEAF).await;
    let reply = get(&core, &format!("{LEAF}?index=99999999&wait=10s")).await;
    // A certificate of two seconds is renewed some ten times in ten seconds.
    let renewed = index(&reply) - index(&first);
    assert!((2..40).contains(&renewed), "{renewed}");
}

#[tokio::test(start_paused = true)]
async fn rotation_reaches_blocked_callers_late_and_others_at_once() {
    let config = DevAgentConfig {
        rotation_delay: Duration::from_secs(30),
        ..DevAgentConfig::for_tests()
    };
    let core = agent(config);
    let mut delays = Vec::new();
    for number in 0..12 {
        let before = index(&get(&core, LEAF).await);
        let blocked = spawn_get(&core, format!("{LEAF}?index={before}&wait=60s"));
        turn().await;
        let bits = if number % 2 == 0 { 384 } else { 256 };
        let config = json!({"Provider": "consul", "Config": {"PrivateKeyType": "ec", "PrivateKeyBits": bits}});
        put(&core, "/v1/connect/ca/configuration", &config).await;
        let (reply, took) = blocked.await.expect("a reply");
        assert!(took <= Duration::from_millis(30_001), "{took:?}");
        assert!(index(&reply) > before);
        assert_eq!(reply.headers[X_CACHE], "MISS");
        let chain = json(&reply)["CertPEM"].as_str().expect("PEM");
        assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);
        delays.push(took);
    }
    delays.sort();
    delays.dedup();
    assert!(delays.len() > 6, "the delay is random: {delays:?}");

    let before = index(&get(&core, LEAF).await);
    let config =
        json!({"Provider": "consul", "Config": {"PrivateKeyType": "ec", "PrivateKeyBits": 384}});
    put(&core, "/v1/connect/ca/configuration", &config).await;
    let start = Instant::now();
    let reply = get(&core, LEAF).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(index(&reply) > before);
}

#[tokio::test(start_paused = true)]
async fn an_old_root_goes_after_two_leaf_lives() {
    let core = agent(DevAgentConfig::for_tests());
    let config =
        json!({"Provider": "consul", "Config": {"PrivateKeyType": "ec", "PrivateKeyBits": 384}});
    put(&core, "/v1/connect/ca/configuration", &config).await;
    let roots = async || {
        let reply = get(&core, "/v1/connect/ca/roots").await;
        json(&reply)["Roots"].as_array().map(Vec::len)
    };
    tokio::time::sleep(143 * HOUR).await;
    assert_eq!(roots().await, Some(2));
    tokio::time::sleep(3 * HOUR).await;
    assert_eq!(roots().await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_ttl_check_runs_out_and_wakes_who_waits() {
    let core = agent(DevAgentConfig::for_tests());
    let service = json!({"Name": "db", "Port": 1, "Connect": {"Native": true},
        "Check": {"TTL": "10s", "Status": "passing", "DeregisterCriticalServiceAfter": "90s"}});
    put(&core, "/v1/agent/service/register", &service).await;
    let target = "/v1/health/connect/db?passing";
    let first = get(&core, target).await;
    assert_eq!(json(&first).as_array().map(Vec::len), Some(1));
    // Reports keep it alive, and do not wake anybody.
    let blocked = spawn_get(&core, format!("{target}&index={}&wait=60s", index(&first)));
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(8)).await;
        put(&core, "/v1/agent/check/pass/service:db", &Value::Null).await;
    }
    assert!(!blocked.is_finished(), "a report without a change woke it");
    let (reply, took) = blocked.await.expect("a reply");
    assert_eq!(took.as_secs(), 42, "8 s four times, then 10 s");
    assert_eq!(json(&reply).as_array().map(Vec::len), Some(0));
    let reply = get(&core, "/v1/agent/checks").await;
    assert_eq!(json(&reply)["service:db"]["Status"], "critical");
    assert_eq!(json(&reply)["service:db"]["Output"], "TTL expired");
    // Critical for 90 s: the service goes.
    tokio::time::sleep(Duration::from_secs(89)).await;
    assert!(json(&get(&core, "/v1/agent/services").await)["db"].is_object());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(json(&get(&core, "/v1/agent/services").await)["db"].is_null());
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_leaves_nothing_behind() {
    let core = agent(DevAgentConfig::for_tests());
    let before = index(&get(&core, MATCH).await);
    let waiting = Arc::strong_count(&core);
    let blocked = spawn_get(&core, format!("{MATCH}&index={before}&wait=60s"));
    turn().await;
    assert_eq!(Arc::strong_count(&core), waiting + 1);
    blocked.abort();
    assert!(blocked.await.is_err());
    assert_eq!(Arc::strong_count(&core), waiting);
}
