//! Two hundred services start together on one agent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portcullis::member::Member;
use portcullis::proxy::{Application, InboundConfig, Proxy, ProxyConfig};
use portcullis::registration::RegistrationConfig;
use portcullis::watcher::{Watcher, WatcherConfig};
use portcullis_dev_agent::{DevAgentConfig, Fault};
use portcullis_tests::api::Api;
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::stage::{ANY, Stage, client, policy};
use tokio::task::JoinSet;

use crate::counting::Relay;

const SERVICES: usize = 200;

/// What takes longer does not come.
const SOON: Duration = Duration::from_secs(180);

/// Starts all of them at once, each with its proxy, and waits until they are ready.
async fn start(relay: &Relay) -> Vec<Proxy> {
    let url = format!("http://{}", relay.address);
    let mut starting = JoinSet::new();
    for number in 0..SERVICES {
        let service = format!("svc-{number}");
        let config = WatcherConfig::new(client(&url), policy(), service.as_str());
        starting.spawn(async move {
            let application = Application::Tcp("127.0.0.1:9".to_owned());
            let config = (
                Member::start(config),
                ProxyConfig {
                    inbound: Some(InboundConfig::new(ANY, application)),
                    register: Some(RegistrationConfig {
                        service,
                        native: false,
                        suffix: None,
                        address: "127.0.0.1".to_owned(),
                        port: 0,
                        local: None,
                    }),
                    ..ProxyConfig::default()
                },
            );
            let proxy = Proxy::start(config.0, config.1).expect("a proxy");
            proxy.ready().await;
            proxy
        });
    }
    let mut proxies = Vec::new();
    let all = async {
        while let Some(proxy) = starting.join_next().await {
            proxies.push(proxy.expect("no panic"));
        }
    };
    let done = tokio::time::timeout(SOON, all).await;
    assert!(
        done.is_ok(),
        "{} of {SERVICES} are ready: {:?}",
        proxies.len(),
        relay.tally()
    );
    proxies
}

/// Waits until the agent calls every check passing.
async fn all_pass(agent: SocketAddr, relay: &Relay) {
    let api = Api::new(agent, None);
    let passing = move || {
        let checks = api.get("/v1/agent/checks").good().json();
        let checks = checks
            .as_object()
            .map(|checks| checks.values().cloned().collect::<Vec<_>>());
        let good = |check: &&serde_json::Value| {
            check["Status"] == "passing"
                && check["ServiceName"]
                    .as_str()
                    .is_some_and(|name| name.starts_with("svc-"))
        };
        checks.unwrap_or_default().iter().filter(good).count()
    };
    let began = Instant::now();
    loop {
        let passing = passing.clone();
        let count = tokio::task::spawn_blocking(passing)
            .await
            .expect("no panic");
        if count == SERVICES {
            return;
        }
        assert!(
            began.elapsed() < SOON,
            "{count} of {SERVICES} pass: {:?}",
            relay.tally()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Reports by second, over some beats.
async fn reports(relay: &Relay) -> BTreeMap<u64, usize> {
    let began = Instant::now();
    let mut seconds = BTreeMap::new();
    let is_report = |what: &str| what.starts_with("PUT /v1/agent/check/pass/");
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let asked = relay.asked();
        let late = asked
            .iter()
            .filter(|asked| asked.at > began && is_report(&asked.what));
        if late.clone().count() >= 2 * SERVICES {
            for report in late {
                *seconds.entry((report.at - began).as_secs()).or_default() += 1;
            }
            return seconds;
        }
        assert!(
            began.elapsed() < SOON,
            "reports stay away: {:?}",
            relay.tally()
        );
    }
}

fn told(what: &str, took: Duration, relay: &Relay) {
    if std::env::var_os("PORTCULLIS_TEST_LOG").is_some() {
        let all = relay.asked().len();
        eprintln!(
            "COUNTED {what}: all ready and passing after {took:.1?}, {all} requests: {:#?}",
            relay.tally()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_services_get_their_certificates_from_consul() {
    let test = "two_hundred_services_get_their_certificates_from_consul";
    // Its limit of certificates is the usual one: 50 a second.
    let limits = "limits { http_max_conns_per_client = 4000 }";
    let Some(consul) = Consul::start(test, Options::new().with_config(limits)) else {
        return;
    };
    let relay = Relay::start(consul.address()).await;
    let began = Instant::now();
    let proxies = start(&relay).await;
    all_pass(consul.address(), &relay).await;
    told("200 services on Consul", began.elapsed(), &relay);
    let seconds = reports(&relay).await;
    if std::env::var_os("PORTCULLIS_TEST_LOG").is_some() {
        eprintln!("COUNTED reports by second: {seconds:?}");
    }
    let most = seconds.values().max().copied().unwrap_or_default();
    assert!(most < SERVICES, "all report at once: {seconds:?}");
    drop(proxies);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_sent_away_comes_back_no_earlier_than_told() {
    let stage = Stage::with(DevAgentConfig {
        max_connections: 4_000,
        ..DevAgentConfig::for_tests()
    })
    .await;
    let busy = || Fault::Foreign {
        status: 429,
        headers: vec![("Retry-After".to_owned(), "1".to_owned())],
        body: b"Rate limit reached, try again later".to_vec(),
    };
    for _ in 0..SERVICES + SERVICES / 2 {
        stage.agent.inject("/v1/agent/connect/ca/leaf", busy());
    }
    for _ in 0..SERVICES / 2 {
        stage.agent.inject("/v1/agent/service/register", busy());
    }
    let relay = Relay::start(stage.agent.address()).await;
    let began = Instant::now();
    let proxies = start(&relay).await;
    all_pass(stage.agent.address(), &relay).await;
    told("200 services on a busy dev agent", began.elapsed(), &relay);

    let asked = relay.asked();
    let mut sent_away = 0;
    for (number, first) in asked.iter().enumerate() {
        let Some((at, 429)) = first.answered else {
            continue;
        };
        if !first.what.contains("/ca/leaf/") {
            continue;
        }
        sent_away += 1;
        let next = asked[number + 1..]
            .iter()
            .find(|later| later.what == first.what && later.at > at);
        let next = next.expect("it came back");
        let waited = next.at - at;
        // A little less, as the answer takes its time to us.
        assert!(
            waited >= Duration::from_millis(950),
            "{}: {waited:?}",
            first.what
        );
    }
    assert_eq!(sent_away, SERVICES + SERVICES / 2);
    drop(proxies);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_question_follows_the_intentions_of_many_services() {
    let stage = Stage::new().await;
    let relay = Relay::start(stage.agent.address()).await;
    let url = format!("http://{}", relay.address);
    let watcher = Watcher::start(WatcherConfig {
        destinations: (1..SERVICES)
            .map(|number| format!("svc-{number}"))
            .collect(),
        ..WatcherConfig::new(client(&url), policy(), "svc-0")
    });
    tokio::time::timeout(SOON, watcher.ready())
        .await
        .expect("ready");
    let matches = || {
        let asked = relay.asked();
        asked
            .iter()
            .filter(|asked| asked.what == "GET /v1/connect/intentions/match")
            .count()
    };
    // Our own service, and two batches of up to 128; each once more, waiting.
    portcullis_tests::stage::eventually("all are followed", async || matches() >= 6).await;
    assert_eq!(matches(), 6, "{:?}", relay.tally());
    watcher.stop().await;
}
