//! Intentions changed and VMs killed while connections and requests run: nobody who is denied
//! is ever let in, and nobody who is allowed is refused, from the moment that the change holds.
//!
//! A change holds in a worker once it has ended what lived there by the old rule. So before
//! each change something lives in every worker, on a listener of its own with the same plugin.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use portcullis_dev_agent::DevAgent;
use portcullis_tests::envoy::{
    Envoy, Plan, Plugin, cluster, http_manager, listener, settings, tcp_proxy, tls,
};
use portcullis_tests::stage::{eventually, within};
use portcullis_tests::{components, ports, wasm_trap};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use crate::application::Application;
use crate::client::{Client, empty};
use crate::greeter::Greeter;
use crate::scene::{agent, client};

const WORKERS: usize = 2;
/// Who calls; at each time one is allowed and the other is not.
const CALLERS: [&str; 2] = ["one", "two"];
/// How often each has to ask while nothing changes.
const ENOUGH: u64 = 60;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Connections,
    Requests,
}

impl Layer {
    const fn service(self) -> &'static str {
        match self {
            Self::Connections => "db",
            Self::Requests => "api",
        }
    }
}

/// What must come out meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Either may be right.
    Changing,
    /// This one passes, the other does not.
    Steady(&'static str),
    /// The other does not pass, whatever becomes of this one.
    Killing(&'static str),
}

/// Answers by phase, layer and caller: how many passed and how many did not.
type Counts = BTreeMap<(usize, Layer, &'static str), [u64; 2]>;

/// Callers at work until this is dropped.
struct Load {
    shared: Arc<Shared>,
    phases: Vec<Phase>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    phase: AtomicUsize,
    counts: Mutex<Counts>,
}

impl Drop for Load {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Load {
    fn start(agent: &DevAgent, doors: &[(Layer, SocketAddr)]) -> Self {
        let shared = Arc::new(Shared::default());
        let mut tasks = Vec::new();
        for (layer, door) in doors {
            for name in CALLERS.iter().flat_map(|name| [*name; 2]) {
                let client = client(agent, name, *door);
                let shared = Arc::clone(&shared);
                tasks.push(tokio::spawn(shared.call(*layer, name, client)));
            }
        }
        Self {
            shared,
            phases: vec![Phase::Changing],
            tasks,
        }
    }

    /// From now on this must come out.
    fn begin(&mut self, phase: Phase) {
        self.phases.push(phase);
        self.shared
            .phase
            .store(self.phases.len() - 1, Ordering::SeqCst);
    }

    /// Waits until all have asked often enough in this phase.
    async fn goes_on(&self) {
        let phase = self.phases.len() - 1;
        eventually("there is load", async || {
            let counts = self.shared.counts.lock().expect("unpoisoned");
            let of = counts.iter().filter(|((of, ..), _)| *of == phase);
            let enough = of.filter(|(_, [yes, no])| yes + no >= ENOUGH).count();
            enough == self.tasks.len() / 2
        })
        .await;
    }

    /// What came out must be right.
    fn check(&self) {
        let counts = self.shared.counts.lock().expect("unpoisoned");
        let (mut right, mut wrong) = ([0, 0], Vec::new());
        for ((place, layer, name), [yes, no]) in counts.iter() {
            let phase = self.phases[*place];
            let is_wrong = match phase {
                Phase::Changing => continue,
                Phase::Steady(allowed) if allowed == *name => *no > 0,
                Phase::Steady(_) => *yes > 0,
                Phase::Killing(allowed) => allowed != *name && *yes > 0,
            };
            if is_wrong {
                wrong.push(format!(
                    "{layer:?} of {name} in {phase:?}: {yes} passed, {no} did not"
                ));
            }
            right[0] += yes;
            right[1] += no;
        }
        println!(
            "{} passed and {} refused in {} phases",
            right[0],
            right[1],
            self.phases.len()
        );
        assert!(wrong.is_empty(), "wrong answers: {wrong:#?}");
    }
}

impl Shared {
    async fn call(self: Arc<Self>, layer: Layer, name: &'static str, client: Client) {
        let mut connection = None;
        let mut turn = 0_u32;
        loop {
            turn += 1;
            let began = self.phase.load(Ordering::SeqCst);
            let passed = match layer {
                Layer::Connections => open(&client).await.is_some(),
                Layer::Requests => {
                    if turn.is_multiple_of(16) {
                        connection = None;
                    }
                    get(&client, &mut connection).await
                }
            };
            // What is answered in another phase than it was asked in may be either.
            if began == self.phase.load(Ordering::SeqCst) {
                let mut counts = self.counts.lock().expect("unpoisoned");
                let count = counts.entry((began, layer, name)).or_default();
                count[usize::from(!passed)] += 1;
            }
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
    }
}

/// A connection on which an echo has come; `None` if it was refused.
async fn open(client: &Client) -> Option<TlsStream<TcpStream>> {
    let mut stream = client.try_connect().await?;
    let exchange = async {
        stream.write_all(b"ping").await.ok()?;
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.ok()?;
        assert_eq!(&echo, b"ping");
        Some(())
    };
    within(exchange).await?;
    Some(stream)
}

type Http = hyper::client::conn::http1::SendRequest<crate::client::Body>;

/// Whether a request passes, on a connection that is kept.
async fn get(client: &Client, connection: &mut Option<Http>) -> bool {
    let mut http = match connection.take() {
        Some(http) => http,
        None => client.http1().await,
    };
    let request = Request::get("/").header("host", "api").body(empty());
    let exchange = async {
        http.ready().await.ok()?;
        let answer = http.send_request(request.expect("a request")).await.ok()?;
        let status = answer.status();
        answer.into_body().collect().await.ok()?;
        Some(status)
    };
    let status = within(exchange).await;
    if status.is_some() {
        *connection = Some(http);
    }
    match status.map(|status| status.as_u16()) {
        Some(200) => true,
        // A connection may end, and a VM may have failed.
        None | Some(403 | 503) => false,
        other => panic!("an odd answer: {other:?}"),
    }
}

/// What lives until a change ends it.
enum Living {
    Connection(Box<TlsStream<TcpStream>>),
    Request(Incoming),
}

impl Living {
    async fn begin(layer: Layer, client: &Client) -> Option<Self> {
        if layer == Layer::Connections {
            return open(client)
                .await
                .map(|stream| Self::Connection(Box::new(stream)));
        }
        let request = Request::get("/live").header("host", "api").body(empty());
        let mut http = client.http1().await;
        let answer = within(http.send_request(request.expect("a request"))).await;
        let answer = answer.ok().filter(|answer| answer.status() == 200)?;
        let mut body = answer.into_body();
        within(body.frame()).await?.ok()?;
        Some(Self::Request(body))
    }

    async fn ends(self) {
        match self {
            Self::Connection(mut stream) => {
                let mut rest = Vec::new();
                let _ = within(stream.read_to_end(&mut rest)).await;
                assert_eq!(rest, b"");
            }
            Self::Request(mut body) => {
                let end = within(body.frame()).await;
                assert!(end.is_none_or(|end| end.is_err()));
            }
        }
    }
}

/// An Envoy and the listeners on which something lives.
struct Stand {
    agent: DevAgent,
    envoy: Envoy,
    living: Vec<(Layer, SocketAddr)>,
}

impl Stand {
    /// Connections that a listener has had by worker.
    fn by_worker(&self, door: SocketAddr) -> [u64; WORKERS] {
        std::array::from_fn(|worker| {
            let listener = format!("listener.{}_{}", door.ip(), door.port());
            let name = format!("{listener}.worker_{worker}.downstream_cx_total");
            self.envoy.stat(&name).expect("a statistic")
        })
    }

    /// Lets something of the one who is allowed live in each worker.
    async fn live(&self, allowed: &str) -> Vec<Living> {
        let mut all = Vec::new();
        for (layer, door) in &self.living {
            let client = client(&self.agent, allowed, *door);
            let (mut before, mut lives) = (self.by_worker(*door), [false; WORKERS]);
            eventually("something lives in each worker", async || {
                let living = Living::begin(*layer, &client).await;
                let now = self.by_worker(*door);
                for ((lives, now), before) in lives.iter_mut().zip(&now).zip(&before) {
                    *lives |= living.is_some() && now > before;
                }
                before = now;
                all.extend(living);
                lives == [true; WORKERS]
            })
            .await;
        }
        all
    }

    /// Allows this one and denies the other.
    fn allow(&self, allowed: &str) {
        for (layer, _) in &self.living {
            let sources = CALLERS.map(|name| {
                json!({ "Name": name, "Action": if name == allowed { "allow" } else { "deny" } })
            });
            let entry = json!({
                "Kind": "service-intentions", "Name": layer.service(), "Sources": sources,
            });
            self.agent.put_config_entry(&entry).expect("an entry");
        }
    }

    /// The change to this one, until it holds in each worker.
    async fn change(&self, load: &mut Load, living: Vec<Living>, allowed: &'static str) {
        load.begin(Phase::Changing);
        self.allow(allowed);
        for one in living {
            one.ends().await;
        }
        load.begin(Phase::Steady(allowed));
        load.goes_on().await;
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_under_load_give_no_wrong_answer() {
    let agent = agent().await;
    let entry = json!({ "Kind": "service-defaults", "Name": "api", "Protocol": "http" });
    agent.put_config_entry(&entry).expect("an entry");
    let (app, http) = (Greeter::start(b"").await, Application::start().await);
    let mut plan = Plan::new(&agent, "db")
        .workers(2)
        .cluster(cluster("app", app.address))
        .cluster(cluster("http", http.address));
    let (tls, log) = (tls(plan.folder()), plan.access_log());
    let (mut doors, mut living) = (Vec::new(), Vec::new());
    for layer in [Layer::Connections, Layer::Requests] {
        let plugin = Plugin::new(settings(layer.service()));
        for place in [&mut doors, &mut living] {
            let [port] = ports::free::<1>();
            let filters = match layer {
                Layer::Connections => vec![
                    plugin.network(),
                    tcp_proxy("app", "ON_DOWNSTREAM_TLS_HANDSHAKE", &log),
                ],
                Layer::Requests => vec![http_manager("http", &[plugin.http()], &log)],
            };
            plan = plan.listener(listener(port, &tls, &filters));
            place.push((layer, local(port)));
        }
    }
    let Some(envoy) = plan.start("changes_under_load_give_no_wrong_answer") else {
        return;
    };
    let stand = Stand {
        agent,
        envoy,
        living,
    };
    stand.allow(CALLERS[0]);
    let mut load = Load::start(&stand.agent, &doors);
    for turn in 0..6 {
        let [allowed, next] = [CALLERS[turn % 2], CALLERS[(turn + 1) % 2]];
        let living = stand.live(allowed).await;
        stand.change(&mut load, living, next).await;
    }
    load.check();
    for service in ["db", "api"] {
        let name = format!("wasmcustom.portcullis.{service}.closed.intention");
        // Six times at least one in each worker.
        stand.envoy.stat_reaches(&name, 12);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_killed_under_load_let_nobody_in_and_are_succeeded() {
    let agent = agent().await;
    let (app, quiet) = (Greeter::start(b"").await, Greeter::start(b"").await);
    let http = Application::start().await;
    let mut plan = Plan::new(&agent, "db")
        .workers(2)
        .cluster(cluster("app", app.address))
        .cluster(cluster("quiet", quiet.address))
        .cluster(cluster("http", http.address));
    let module = std::fs::read(components::envoy_filter()).expect("the filter");
    let file = plan.folder().join("trap.wasm");
    let module = wasm_trap::trap_in(&module, "proxy_on_request_headers");
    std::fs::write(&file, module).expect("it can be written");
    let mut plugin = Plugin::new(settings("db"));
    plugin.module = Some(file);
    let (tls, log) = (tls(plan.folder()), plan.access_log());
    let [load, lives, bomb] = ports::free::<3>().map(local);
    for (door, app) in [(load, "app"), (lives, "quiet")] {
        let filters = [
            plugin.network(),
            tcp_proxy(app, "ON_DOWNSTREAM_TLS_HANDSHAKE", &log),
        ];
        plan = plan.listener(listener(door.port(), &tls, &filters));
    }
    // Each request kills the VM of its worker, in which the connections are judged, too.
    let manager = http_manager("http", &[plugin.http()], &log);
    plan = plan.listener(listener(bomb.port(), &tls, &[manager]));
    let Some(envoy) = plan.start("leaders_killed_under_load_let_nobody_in_and_are_succeeded")
    else {
        return;
    };
    let killer = client(&agent, CALLERS[0], bomb);
    let layer = Layer::Connections;
    let stand = Stand {
        agent,
        envoy,
        living: vec![(layer, lives)],
    };
    stand.allow(CALLERS[0]);
    let mut load = Load::start(&stand.agent, &[(layer, load)]);
    let mut lost = Vec::new();
    for turn in 0..4 {
        let [allowed, next] = [CALLERS[turn % 2], CALLERS[(turn + 1) % 2]];
        let living = stand.live(allowed).await;
        // Wherever the leader is, it is killed.
        load.begin(Phase::Killing(allowed));
        let before = stand.by_worker(bomb);
        eventually("each worker has had its bomb", async || {
            assert!(!get(&killer, &mut None).await);
            let now = stand.by_worker(bomb);
            now.iter().zip(&before).all(|(now, before)| now > before)
        })
        .await;
        load.goes_on().await;
        // Nobody judges again what lived there: not one byte goes on in either direction.
        for one in living {
            let Living::Connection(mut stream) = one else {
                continue;
            };
            let _ = stream.write_all(b"lost").await;
            lost.push(stream);
        }
        quiet.say(b"lost");
        let living = stand.live(allowed).await;
        stand.change(&mut load, living, next).await;
    }
    load.check();
    for mut stream in lost {
        let mut heard = [0];
        let heard = tokio::time::timeout(Duration::ZERO, stream.read(&mut heard)).await;
        assert!(!matches!(heard, Ok(Ok(1))), "{heard:?}");
    }
    let received = quiet.received();
    assert_eq!(received, b"ping".repeat(received.len() / 4));
    stand
        .envoy
        .stat_reaches("wasm.portcullis.vm_reload_success", 8);
}
