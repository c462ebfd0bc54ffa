//! From the agent's reply to the last instance of the policy that judges by it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use portcullis::agent_client::{AgentClient, AgentConfig};
use portcullis::clock::Clock;
use portcullis::runtime::{Component, ComponentOptions, Policy, PolicyOptions};
use portcullis::watcher::{Watcher, WatcherConfig};
use portcullis_core::policy::Client;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::bench::Bench;
use crate::bench::figures::Figure;
use crate::bench::mesh::CLIENT;
use crate::bench::patience::PATIENCE;

/// How many changes are followed.
const CHANGES: u32 = 200;
/// Instances of the policy, all of them busy.
const INSTANCES: usize = 2;

/// Least time between two changes: a watch waits 50 ms before it asks again after a change,
/// so that an agent that changes without end is not asked without end.
const PAUSE: Duration = Duration::from_millis(80);

/// Through the library, in this process, with the watcher that the proxy has. A relay in
/// front of the development agent notes when a reply passes; the policy says when its
/// last live instance judges by it.
pub(super) fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    bench.stands.clear();
    let changes = bench.settings.amount(CHANGES);
    let title = "agent's reply received, last instance judges by it";
    let mut figures = Vec::new();
    for rules in [10, 1_000] {
        let title = format!("{title}, {rules} intentions");
        let mut last = Figure::new(format!("{title}, p99"), "ms", Some(20.0)).p99();
        let mut middle = Figure::new(format!("{title}, median"), "ms", None);
        for sample in follow(bench, rules, changes)? {
            last.add("ours", sample);
            middle.add("ours", sample);
        }
        last.notes.push(format!(
            "{changes} changes, {INSTANCES} busy instances, all in this process on the core of the load"
        ));
        figures.extend([last, middle]);
    }
    Ok(figures)
}

fn follow(bench: &Bench, rules: u32, changes: u32) -> Result<Vec<f64>> {
    let service = format!("judged-by-{rules}");
    let component = Component::embedded(&ComponentOptions::default()).context("no component")?;
    let options = PolicyOptions {
        instances: INSTANCES,
        ..PolicyOptions::default()
    };
    let policy = Policy::new(&component, options).context("no policy")?;
    let agent = &bench.dev.agent;
    let entry = |action: &str| entry(&service, rules, action);
    agent
        .put_config_entry(&entry("allow"))
        .context("the rules")?;
    let uri = format!(
        "spiffe://{}/ns/default/dc/dc1/svc/{CLIENT}",
        agent.trust_domain()
    );
    let client = Client {
        uris: vec![uri],
        via_gateway: None,
    };
    let ask = |policy: &Policy| {
        policy
            .authorize(&service, &client, None, Clock::system().now())
            .is_allowed()
    };
    let busy = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for _ in 0..INSTANCES {
            scope.spawn(|| {
                while busy.load(Ordering::Relaxed) {
                    for _ in 0..20 {
                        let _ = ask(&policy);
                    }
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
        }
        let samples = bench.dev.runtime.block_on(async {
            let relay = Relay::start(agent.address()).await?;
            let config = AgentConfig::at(&format!("http://{}", relay.address));
            let config = config.context("the relay's address")?;
            let watcher = Watcher::start(WatcherConfig::new(
                AgentClient::new(config).context("no client")?,
                policy.clone(),
                service.clone(),
            ));
            tokio::time::timeout(PATIENCE, watcher.ready())
                .await
                .context("the watcher does not get ready")?;
            let mut published = policy.subscribe();
            let mut samples = Vec::new();
            for change in 0..changes {
                let (action, allowed) = [("deny", false), ("allow", true)][change as usize % 2];
                tokio::time::sleep(PAUSE).await;
                published.mark_unchanged();
                agent
                    .put_config_entry(&entry(action))
                    .context("the rules")?;
                loop {
                    tokio::time::timeout(PATIENCE, published.changed())
                        .await
                        .context("nothing is published")?
                        .context("the policy is gone")?;
                    let judged = Instant::now();
                    if ask(&policy) == allowed {
                        let took = judged.saturating_duration_since(relay.passed());
                        samples.push(took.as_secs_f64() * 1e3);
                        break;
                    }
                }
            }
            watcher.stop().await;
            Ok(samples)
        });
        busy.store(false, Ordering::Relaxed);
        samples
    })
}

/// Hands bytes on, and notes when the agent's last ones passed.
struct Relay {
    address: SocketAddr,
    passed: Arc<Mutex<Instant>>,
}

impl Relay {
    async fn start(agent: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("no port for the relay")?;
        let address = listener.local_addr().context("no address")?;
        let passed = Arc::new(Mutex::new(Instant::now()));
        let noted = Arc::clone(&passed);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let noted = Arc::clone(&noted);
                tokio::spawn(async move {
                    let server = TcpStream::connect(agent).await?;
                    client.set_nodelay(true)?;
                    server.set_nodelay(true)?;
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_agent, mut to_agent) = server.into_split();
                    tokio::spawn(async move {
                        let _ = tokio::io::copy(&mut from_client, &mut to_agent).await;
                    });
                    let mut buffer = vec![0; 1 << 20];
                    loop {
                        let read = from_agent.read(&mut buffer).await?;
                        if read == 0 {
                            return to_client.shutdown().await;
                        }
                        *noted.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                        to_client.write_all(&buffer[..read]).await?;
                    }
                });
            }
        });
        Ok(Self { address, passed })
    }

    fn passed(&self) -> Instant {
        *self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That many sources, the last of them our client.
fn entry(service: &str, rules: u32, action: &str) -> Value {
    let others =
        (1..rules).map(|number| json!({ "Name": format!("source-{number}"), "Action": "allow" }));
    let sources: Vec<Value> = others
        .chain([json!({ "Name": CLIENT, "Action": action })])
        .collect();
    json!({ "Kind": "service-intentions", "Name": service, "Sources": sources })
}
