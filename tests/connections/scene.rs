//! Two proxy processes with load between them, beside whom hostile peers appear.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig};
use portcullis_tests::echo;
use portcullis_tests::load::{Counts, Live, Load};
use portcullis_tests::pair::Pair;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// An agent, `web` that may call `db`, and load between them.
pub(crate) struct Scene {
    pub(crate) load: Load,
    pub(crate) live: Live,
    pub(crate) pair: Pair,
    pub(crate) agent: DevAgent,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl Scene {
    /// With flags for both proxies.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::prepared(|command| {
            command.args(flags);
        })
    }

    pub(crate) fn prepared(prepare: impl Fn(&mut Command)) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let config = DevAgentConfig {
            default_intention_policy: Some(DefaultPolicy::Deny),
            ..DevAgentConfig::for_tests()
        };
        let agent = runtime
            .block_on(DevAgent::start(config))
            .expect("the agent starts");
        agent.allow("web", "db").expect("an intention");
        let pair = Pair::prepared(agent.address(), prepare);
        let load = Load::start(pair.door);
        pair.passes(&load);
        let live = Live::start(pair.door, 20);
        Self {
            load,
            live,
            pair,
            agent,
            runtime,
        }
    }

    /// Asserts that every connection of the load that begins while `happening` runs passes,
    /// with `count` more, and that none that was there broke. Tells what it counted.
    pub(crate) fn all_pass(&self, what: &str, count: u64, happening: impl FnOnce()) {
        let counts = self.load.during(count, happening);
        let times = self.times(count.min(100));
        told(what, &counts, &format!(", then {times}; {}", self.db()));
        assert_eq!(counts.failed(), 0, "{what}: {counts}\n{}", self.pair.logs());
        assert_eq!(self.live.broken(), 0, "{what}\n{}", self.pair.logs());
    }

    /// How long healthy connections take now: for people, not for asserting.
    fn times(&self, count: u64) -> String {
        let mut times: Vec<Duration> = (0..count)
            .map(|_| {
                let began = Instant::now();
                echo::open(self.pair.door).expect("a healthy connection passes");
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        let last = times.len() - 1;
        format!(
            "p50 {:.1?}, p99 {:.1?}",
            times[last / 2],
            times[last * 99 / 100]
        )
    }

    /// What the proxy of `db` has of the system.
    pub(crate) fn db(&self) -> String {
        let id = self.pair.db.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
        let resident = status.lines().find(|line| line.starts_with("VmRSS"));
        format!(
            "{} descriptors, {}",
            descriptors(id),
            resident.unwrap_or_default()
        )
    }

    /// How often each code stands in the access log of `db`.
    pub(crate) fn codes(&self) -> BTreeMap<String, usize> {
        self.pair.codes()
    }
}

/// Tells what was counted, where somebody wants to see it.
pub(crate) fn told(what: &str, counts: &Counts, more: &str) {
    if std::env::var_os("PORTCULLIS_TEST_LOG").is_some() {
        eprintln!("COUNTED {what}: {counts}{more}");
    }
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd"))
        .expect("it runs")
        .count()
}

/// Lets this process, and those that it starts, have `count` descriptors.
pub(crate) fn need_descriptors(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    assert!(
        limit.maximum.is_none_or(|most| most >= count),
        "this test needs a hard limit of {count} open files, and there is {:?}: raise it (`ulimit -Hn`)",
        limit.maximum
    );
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("the soft limit can be raised");
}

/// Takes descriptors away from a running process, or gives them back.
pub(crate) fn limit_descriptors(process: u32, current: u64) {
    let id = i32::try_from(process).ok().and_then(Pid::from_raw);
    let limit = Rlimit {
        current: Some(current),
        ..getrlimit(Resource::Nofile)
    };
    prlimit(id, Resource::Nofile, limit).expect("it is our child");
}

/// Opens `count` connections and says nothing on them. Those that are refused count too.
pub(crate) fn silent(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count)
        .filter_map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(30)).ok())
        .collect()
}
