//! Runs steps on both agents, collects what differs, and holds it against the list.

use std::collections::BTreeMap;

use http::Method;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::agents::{Agent, Setup};
use crate::client::{Answer, Call, send};
use crate::compare::{self, Depth, Difference};

/// The checked-in list of intended differences.
const LIST: &str = include_str!("../../host/dev-agent/DIFFERENCES.md");

/// What older lines of Consul answer otherwise, by the beginning of their versions.
const OLDER: [(&str, &str); 1] = [("1.20.", include_str!("../peers/consul-1.20/DIFFERENCES.md"))];

/// Both agents, and what has been found.
pub(crate) struct Suite {
    pub(crate) real: Agent,
    pub(crate) ours: Agent,
    group: &'static str,
    /// What was asked, and the status that we answered with.
    steps: BTreeMap<String, u16>,
    differences: Vec<Difference>,
}

/// A request with a name; `{td}` in its target or body stands for the trust domain.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    name: String,
    method: Method,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: String,
    depth: Depth,
}

/// A step that both agents are about to answer.
pub(crate) struct Sent {
    step: Step,
    real: JoinHandle<Answer>,
    ours: JoinHandle<Answer>,
}

impl Step {
    pub(crate) fn new(name: &str, method: Method, target: &str) -> Self {
        Self {
            name: name.to_owned(),
            method,
            target: target.to_owned(),
            headers: Vec::new(),
            body: String::new(),
            depth: Depth::Full,
        }
    }

    pub(crate) fn get(name: &str, target: &str) -> Self {
        Self::new(name, Method::GET, target)
    }

    pub(crate) fn put(name: &str, target: &str, body: &Value) -> Self {
        Self::new(name, Method::PUT, target).body(&body.to_string())
    }

    pub(crate) fn body(mut self, body: &str) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn token(self, secret: &str) -> Self {
        self.header("x-consul-token", secret)
    }

    pub(crate) fn depth(mut self, depth: Depth) -> Self {
        self.depth = depth;
        self
    }

    fn call(&self, agent: &Agent) -> Call {
        Call {
            method: self.method.clone(),
            target: self.target.replace("{td}", &agent.trust_domain),
            headers: self.headers.clone(),
            body: self.body.replace("{td}", &agent.trust_domain).into(),
        }
    }
}

impl Suite {
    /// Starts both agents; `None` when no peers are wanted.
    pub(crate) async fn start(group: &'static str, setup: Setup) -> Option<Self> {
        let test = match group {
            "plain" => "api: without ACLs",
            "acl" => "api: with ACLs",
            _ => "api: intentions denied by default",
        };
        let real = Agent::real(test, &setup).await?;
        let ours = Agent::dev(&setup).await;
        Some(Self {
            real,
            ours,
            group,
            steps: BTreeMap::new(),
            differences: Vec::new(),
        })
    }

    /// Sends a step to both and compares the replies, which are handed back.
    pub(crate) async fn run(&mut self, step: Step) -> (Answer, Answer) {
        let real = step.call(&self.real);
        let ours = step.call(&self.ours);
        let (real, ours) = tokio::join!(self.real.call(&real), self.ours.call(&ours));
        self.compare(&step.name, step.depth, &real, &ours);
        (real, ours)
    }

    /// Sends steps to both, all at once and beside whatever else is done: for those that change
    /// nothing, do not depend on what is changed, and take long. [`Suite::compare_all`] has the
    /// replies.
    pub(crate) fn send_all(&self, steps: Vec<Step>) -> Vec<Sent> {
        let send_to = |agent: &Agent, step: &Step| {
            let (address, call) = (agent.address, step.call(agent));
            tokio::spawn(async move {
                send(address, &call)
                    .await
                    .unwrap_or_else(|error| panic!("{call:?}: {error}"))
            })
        };
        let both = |step: Step| Sent {
            real: send_to(&self.real, &step),
            ours: send_to(&self.ours, &step),
            step,
        };
        steps.into_iter().map(both).collect()
    }

    /// Compares the replies to steps that were sent.
    pub(crate) async fn compare_all(&mut self, all: Vec<Sent>) {
        for Sent { step, real, ours } in all {
            let (real, ours) = (real.await.expect("a reply"), ours.await.expect("a reply"));
            self.compare(&step.name, step.depth, &real, &ours);
        }
    }

    /// As [`Suite::run`], again until the replies agree or five seconds are
    /// over: a real agent judges by a cache that follows a write a moment later.
    pub(crate) async fn run_until_same(&mut self, step: Step) {
        let (real, ours) = (step.call(&self.real), step.call(&self.ours));
        let mut tries = 0;
        loop {
            let (real, ours) = tokio::join!(self.real.call(&real), self.ours.call(&ours));
            let (a, b) = ((&self.real, &real), (&self.ours, &ours));
            tries += 1;
            if tries == 50 || compare::replies("", a, b, step.depth).is_empty() {
                self.compare(&step.name, step.depth, &real, &ours);
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    pub(crate) fn compare(&mut self, name: &str, depth: Depth, real: &Answer, ours: &Answer) {
        let name = self.name(name);
        self.steps.insert(name.clone(), ours.status.as_u16());
        let found = compare::replies(&name, (&self.real, real), (&self.ours, ours), depth);
        self.differences.extend(found);
    }

    /// Compares two facts that were derived from replies.
    pub(crate) fn same<T: std::fmt::Debug>(&mut self, name: &str, field: &str, real: T, ours: T) {
        let step = self.name(name);
        let (real, ours) = (format!("{real:?}"), format!("{ours:?}"));
        if real != ours {
            self.differences.push(Difference {
                step,
                field: field.to_owned(),
                real,
                ours,
            });
        }
    }

    fn name(&mut self, name: &str) -> String {
        let name = format!("{}: {name}", self.group);
        self.steps.entry(name.clone()).or_default();
        name
    }

    /// Asks until both replies to a GET satisfy `ready`: the real agent takes
    /// a moment to bring its registrations to the catalog.
    pub(crate) async fn settle(&self, target: &str, ready: impl Fn(&Value) -> bool) {
        let step = Step::get("", target);
        for agent in [&self.real, &self.ours] {
            let mut tries = 0;
            while !ready(&agent.call(&step.call(agent)).await.json()) {
                tries += 1;
                assert!(tries < 300, "{target} did not settle on {}", agent.address);
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }

    /// Status and output of a check on both agents, when they agree or two seconds are over:
    /// the real agent's aliases follow a moment later.
    pub(crate) async fn settled_check(&self, id: &str) -> (Vec<Value>, Vec<Value>) {
        let step = Step::get("", "/v1/agent/checks");
        let mut tries = 0;
        loop {
            let mut seen = Vec::new();
            for agent in [&self.real, &self.ours] {
                let checks = agent.call(&step.call(agent)).await.json();
                let check = &checks[id];
                seen.push(
                    ["Status", "Output", "Type", "Name"]
                        .map(|field| check[field].clone())
                        .to_vec(),
                );
            }
            tries += 1;
            if let [real, ours] = seen.as_slice()
                && (real == ours || tries == 20)
            {
                return (real.clone(), ours.clone());
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// Holds the differences against the list.
    pub(crate) fn finish(self) {
        let expected: Vec<Row> = listed(&self.real.version)
            .into_iter()
            .filter(|row| row.step.starts_with(&format!("{}: ", self.group)))
            .collect();
        let mut problems = Vec::new();
        for found in &self.differences {
            if !expected.iter().any(|row| row.means(found)) {
                problems.push(format!(
                    "NOT LISTED | `{}` | `{}` |\n    consul: {:.400}\n    ours:   {:.400}",
                    found.step, found.field, found.real, found.ours
                ));
            }
        }
        for row in &expected {
            let status = self.steps.get(&row.step).copied();
            if !row.step.ends_with(": *") && status.is_none() {
                problems.push(format!("LISTED, BUT THERE IS NO SUCH STEP | {row:?}"));
            } else if !self.differences.iter().any(|found| row.means(found)) {
                problems.push(format!("LISTED, BUT BOTH AGREE | {row:?}"));
            } else if row.status.is_some() && row.status != status {
                problems.push(format!("LISTED, BUT WE ANSWERED {status:?} | {row:?}"));
            }
        }
        eprintln!(
            "{}: {} steps on both agents, {} differences, {} listed",
            self.group,
            self.steps.len(),
            self.differences.len(),
            expected.len()
        );
        assert!(
            problems.is_empty(),
            "{} problems:\n{}",
            problems.len(),
            problems.join("\n")
        );
    }
}

/// A row of a list: `| step | field | why |`, step and field in backticks.
#[derive(Clone, Debug)]
struct Row {
    step: String,
    field: String,
    /// Our status, where any difference in the reply is meant.
    status: Option<u16>,
}

impl Row {
    /// Whether it means a difference; the step `*` is any of its group, the
    /// field `* (403)` any of a step that we answer with 403.
    fn means(&self, found: &Difference) -> bool {
        let group = self.step.strip_suffix('*');
        (self.is_about(&found.field) || self.status.is_some())
            && (self.step == found.step
                || group
                    .is_some_and(|group| group.ends_with(": ") && found.step.starts_with(group)))
    }

    /// `*` in the row's field is any place in a list.
    fn is_about(&self, field: &str) -> bool {
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let parts = |text: &str| text.split('/').count();
        parts(&self.field) == parts(field)
            && self
                .field
                .split('/')
                .zip(field.split('/'))
                .all(|(wanted, found)| wanted == found || (wanted == "*" && number(found)))
    }
}

/// The rows that hold for a real agent of this version.
fn listed(version: &str) -> Vec<Row> {
    let older = OLDER
        .iter()
        .filter(|(line, _)| version.starts_with(line))
        .map(|(_, list)| *list);
    std::iter::once(LIST).chain(older).flat_map(rows).collect()
}

fn rows(list: &str) -> Vec<Row> {
    let cell = |text: &str| Some(text.trim().strip_prefix('`')?.strip_suffix('`')?.to_owned());
    let status = |field: &str| {
        let status = field.strip_prefix("* (")?.strip_suffix(')')?;
        Some(status.parse().expect("a status"))
    };
    let rows: Vec<Row> = list
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|');
            let (step, field) = (cell(cells.next()?)?, cell(cells.next()?)?);
            let status = status(&field);
            Some(Row {
                step,
                field,
                status,
            })
        })
        .collect();
    assert!(!rows.is_empty(), "the list of differences cannot be read");
    rows
}
