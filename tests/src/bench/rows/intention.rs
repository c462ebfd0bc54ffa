//! From the writing of an intention to its effect: on new connections, and on open ones.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::bench::Bench;
use crate::bench::client::{self, Session};
use crate::bench::contender::{ConsulProxy, Contender, Ours};
use crate::bench::figures::Figure;
use crate::bench::mesh::Mesh;
use crate::bench::patience::PATIENCE;
use crate::bench::stand::Stand;

/// How often the intention is changed for each contender: enough for a 99th percentile.
const CHANGES: u32 = 100;
/// An open connection that stands that long after it was forbidden is not closed at all.
const NEVER: Duration = Duration::from_secs(5);

/// Least time between two changes, the same for all: ours asks its agent again 50 ms after
/// a change at the earliest, so changes in quick succession would measure that.
const PAUSE: Duration = Duration::from_millis(80);

/// A proxy and the mesh whose agent is written to.
struct Follower {
    name: String,
    mesh: Rc<dyn Mesh>,
    stand: Stand,
}

/// Our proxy with either agent, and Consul's.
fn followers(bench: &mut Bench) -> Result<Vec<Follower>> {
    bench.stands.clear();
    let start = |name: &str, contender: Rc<dyn Contender>, mesh: Rc<dyn Mesh>| {
        Ok::<_, anyhow::Error>(Follower {
            name: name.to_owned(),
            stand: Stand::start(&contender, bench.cores, &bench.application)?,
            mesh,
        })
    };
    let ours =
        |mesh: &Rc<dyn Mesh>| Rc::new(Ours::new("ours", bench.ours.clone(), Rc::clone(mesh)));
    let dev: Rc<dyn Mesh> = Rc::clone(&bench.dev) as _;
    let mut followers = vec![start("ours, dev agent", ours(&dev), dev)?];
    if let Ok(consul) = &bench.consul {
        let mesh: Rc<dyn Mesh> = Rc::clone(consul) as _;
        followers.push(start(
            "ours, Consul's agent",
            ours(&mesh),
            Rc::clone(&mesh),
        )?);
        let theirs = Rc::new(ConsulProxy(Rc::clone(consul)));
        followers.push(start("consul", theirs, mesh)?);
    }
    Ok(followers)
}

/// New connections.
pub(super) fn new_connections(bench: &mut Bench) -> Result<Vec<Figure>> {
    let changes = bench.settings.amount(CHANGES);
    let title = "intention written, new connections judged by it, p99";
    let mut figure = Figure::new(title, "ms", Some(30.0)).p99();
    let mut middle = Figure::new("the same, median", "ms", None);
    let followers = followers(bench)?;
    for _ in 0..changes {
        for follower in &followers {
            for (action, allowed) in [("deny", false), ("allow", true)] {
                std::thread::sleep(PAUSE);
                let took = follower.change(action, allowed)?;
                figure.add(&follower.name, took.as_secs_f64() * 1e3);
                middle.add(&follower.name, took.as_secs_f64() * 1e3);
            }
        }
    }
    figure.notes.push(format!(
        "{changes} denials and as many permissions each, {} ms or more apart, over HTTP; from before the request to the end of the first connection judged by it",
        PAUSE.as_millis()
    ));
    if let Err(reason) = &bench.consul {
        figure.notes.push(format!("MISSING consul: {reason}"));
    }
    bench.application.settled(0)?;
    Ok(vec![figure, middle])
}

/// Open connections.
pub(super) fn open_connections(bench: &mut Bench) -> Result<Vec<Figure>> {
    let changes = bench.settings.amount(CHANGES);
    let never = if bench.settings.small() {
        NEVER / 5
    } else {
        NEVER
    };
    let title = "intention written, live connection closed, p99";
    let mut figure = Figure::new(title, "ms", Some(100.0)).p99();
    let mut middle = Figure::new("the same, median", "ms", None);
    for follower in followers(bench)? {
        for _ in 0..changes {
            let mut session = Session::open(&follower.stand.known, follower.stand.running.address)?;
            std::thread::sleep(PAUSE);
            let began = Instant::now();
            follower.mesh.set("deny")?;
            let ended = session.ended_within(never)?;
            let took = began.elapsed();
            follower.change("allow", true)?;
            if ended.is_none() {
                figure.notes.push(format!(
                    "{}: still open after {} s",
                    follower.name,
                    never.as_secs()
                ));
                break;
            }
            figure.add(&follower.name, took.as_secs_f64() * 1e3);
            middle.add(&follower.name, took.as_secs_f64() * 1e3);
        }
    }
    bench.application.settled(0)?;
    Ok(vec![figure, middle])
}

impl Follower {
    /// Writes the intention; how long until connections are judged by it.
    fn change(&self, action: &str, allowed: bool) -> Result<Duration> {
        let began = Instant::now();
        self.mesh.set(action)?;
        while self.lets_in()? != allowed {
            if began.elapsed() > PATIENCE {
                bail!("{}: `{action}` has no effect", self.name);
            }
        }
        let took = began.elapsed();
        for _ in 0..2 {
            ensure!(
                self.lets_in()? == allowed,
                "{}: `{action}` was in effect, and then not",
                self.name
            );
        }
        Ok(took)
    }

    fn lets_in(&self) -> Result<bool> {
        match client::once(&self.stand.known, self.stand.running.address) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Err(error).with_context(|| format!("{} is gone", self.name))
            }
            Err(_) => Ok(false),
        }
    }
}
