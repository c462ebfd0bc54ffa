//! Blocking queries: what wakes them, what does not, and what they answer.

use std::future::Future;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::agents::Agent;
use crate::client::{Answer, Call};
use crate::compare::Depth;
use crate::suite::Suite;

/// Long enough for a request to be blocked when the write comes. A slower
/// machine makes the test weaker, not wrong: the index tells either way.
const SETTLE: Duration = Duration::from_millis(700);

fn call(method: Method, target: &str, body: &Value) -> Call {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    Call {
        method,
        target: target.to_owned(),
        headers: Vec::new(),
        body: body.into(),
    }
}

async fn get(agent: &Agent, target: &str) -> Answer {
    agent.call(&call(Method::GET, target, &Value::Null)).await
}

async fn put(agent: &Agent, target: &str, body: &Value) {
    let answer = agent.call(&call(Method::PUT, target, body)).await;
    assert!(
        answer.status.is_success(),
        "{target}: {} {}",
        answer.status,
        answer.text()
    );
}

/// What a blocked request came back with.
#[derive(Debug, PartialEq, Eq)]
struct Woken {
    status: u16,
    index: &'static str,
    same_body: bool,
}

fn woken(before: &Answer, after: &Answer) -> Woken {
    let index = match (
        before.headers.get("x-consul-index"),
        after.headers.get("x-consul-index"),
    ) {
        (Some(_), Some(_)) if after.index() == before.index() => "same",
        (Some(_), Some(_)) if after.index() > before.index() => "higher",
        (Some(_), Some(_)) => "lower",
        _ => "absent",
    };
    Woken {
        status: after.status.as_u16(),
        index,
        same_body: before.body == after.body,
    }
}

/// Asks, asks again with the index and blocks, writes meanwhile, and says how it ended.
async fn blocked<'a, W: Future<Output = ()> + 'a>(
    agent: &'a Agent,
    target: &str,
    wait: &str,
    write: impl FnOnce(&'a Agent) -> W,
) -> (Answer, Woken) {
    let before = get(agent, target).await;
    let join = if target.contains('?') { '&' } else { '?' };
    let again = format!("{target}{join}index={}&wait={wait}", before.index());
    let writing = async {
        tokio::time::sleep(SETTLE).await;
        write(agent).await;
    };
    let (after, ()) = tokio::join!(get(agent, &again), writing);
    let woken = woken(&before, &after);
    (after, woken)
}

macro_rules! both {
    ($suite:expr, $name:expr, $target:expr, $wait:expr, $write:expr) => {{
        let name = format!("blocking {}", $name);
        let (real, ours) = tokio::join!(
            blocked(&$suite.real, $target, $wait, $write),
            blocked(&$suite.ours, $target, $wait, $write)
        );
        $suite.same(&name, "woken", &real.1, &ours.1);
        $suite.compare(&name, Depth::Full, &real.0, &ours.0);
    }};
}

async fn nothing(_: &Agent) {}

async fn intention_db(agent: &Agent) {
    put(
        agent,
        "/v1/connect/intentions/exact?source=late&destination=db",
        &json!({"Action": "allow"}),
    )
    .await;
}

async fn intention_unrelated(agent: &Agent) {
    put(
        agent,
        "/v1/connect/intentions/exact?source=late&destination=unrelated",
        &json!({"Action": "allow"}),
    )
    .await;
}

async fn intention_unrelated_2(agent: &Agent) {
    put(
        agent,
        "/v1/connect/intentions/exact?source=later&destination=unrelated",
        &json!({"Action": "allow"}),
    )
    .await;
}

async fn register(agent: &Agent) {
    let body = json!({"Name": "late", "Port": 9000, "Connect": {"Native": true}, "Check": {"TTL": "10m", "Status": "passing"}});
    put(agent, "/v1/agent/service/register", &body).await;
}

async fn fail(agent: &Agent) {
    put(
        agent,
        "/v1/agent/check/fail/service:late?note=down",
        &Value::Null,
    )
    .await;
}

async fn ttl_only(agent: &Agent) {
    put(
        agent,
        "/v1/connect/ca/configuration",
        &json!({"Provider": "consul", "Config": {"LeafCertTTL": "70h"}}),
    )
    .await;
}

pub(crate) async fn run(suite: &mut Suite) {
    const MATCH_DB: &str = "/v1/connect/intentions/match?by=destination&name=db";
    const MATCH_NONE: &str = "/v1/connect/intentions/match?by=destination&name=nothing";
    both!(suite, "match, nothing happens", MATCH_DB, "1s", nothing);
    both!(suite, "match, related write", MATCH_DB, "30s", intention_db);
    both!(
        suite,
        "match, unrelated write",
        MATCH_DB,
        "2s",
        intention_unrelated
    );
    both!(
        suite,
        "match of nothing, unrelated write",
        MATCH_NONE,
        "2s",
        intention_unrelated_2
    );
    both!(
        suite,
        "agent roots, nothing happens",
        "/v1/agent/connect/ca/roots",
        "1s",
        nothing
    );
    both!(
        suite,
        "agent roots, ttl change",
        "/v1/agent/connect/ca/roots",
        "30s",
        ttl_only
    );
    both!(
        suite,
        "leaf, nothing happens",
        "/v1/agent/connect/ca/leaf/web",
        "1s",
        nothing
    );
    both!(
        suite,
        "config list, nothing happens",
        "/v1/config/service-intentions",
        "1s",
        nothing
    );
    both!(
        suite,
        "intention list, nothing happens",
        "/v1/connect/intentions",
        "1s",
        nothing
    );
    both!(
        suite,
        "health, registration",
        "/v1/health/connect/late?passing",
        "30s",
        register
    );
    both!(
        suite,
        "health, check fails",
        "/v1/health/connect/late?passing",
        "30s",
        fail
    );
    both!(
        suite,
        "health, nothing happens",
        "/v1/health/connect/late",
        "1s",
        nothing
    );
    unrelated_write_first(suite).await;
    future_index(suite).await;
    by_hash(suite).await;
    ttl(suite).await;
}

/// An unrelated write leaves a query blocked, the related one after it wakes it.
async fn unrelated_write_first(suite: &mut Suite) {
    async fn ask(agent: &Agent) -> (bool, Woken) {
        let target = "/v1/connect/intentions/match?by=destination&name=ordered";
        let exact = "/v1/connect/intentions/exact?destination=";
        let allow = json!({"Action": "allow"});
        put(agent, &format!("{exact}ordered&source=first"), &allow).await;
        let before = get(agent, target).await;
        let again = format!("{target}&index={}&wait=40s", before.index());
        let blocked = get(agent, &again);
        tokio::pin!(blocked);
        let unrelated = async {
            tokio::time::sleep(SETTLE).await;
            put(agent, &format!("{exact}else&source=first"), &allow).await;
            tokio::time::sleep(SETTLE).await;
        };
        let early = tokio::select! {
            after = &mut blocked => Some(after),
            () = unrelated => None,
        };
        put(agent, &format!("{exact}ordered&source=second"), &allow).await;
        match early {
            Some(after) => (true, woken(&before, &after)),
            None => (false, woken(&before, &blocked.await)),
        }
    }
    let (real, ours) = tokio::join!(ask(&suite.real), ask(&suite.ours));
    suite.same(
        "blocking, unrelated write first",
        "woken early, and how",
        real,
        ours,
    );
}

/// An index from the future blocks for the whole wait and then states the real one.
async fn future_index(suite: &mut Suite) {
    async fn ask(agent: &Agent) -> (Answer, Woken) {
        let target = "/v1/connect/intentions/match?by=destination&name=db";
        let before = get(agent, target).await;
        let after = get(agent, &format!("{target}&index=99999999&wait=1s")).await;
        let woken = woken(&before, &after);
        (after, woken)
    }
    let (real, ours) = tokio::join!(ask(&suite.real), ask(&suite.ours));
    suite.same("blocking on a future index", "woken", &real.1, &ours.1);
    suite.compare("blocking on a future index", Depth::Full, &real.0, &ours.0);
}

/// `agent/service/:id` blocks by hash; a change and a removal wake it.
async fn by_hash(suite: &mut Suite) {
    async fn hash(agent: &Agent) -> String {
        let answer = get(agent, "/v1/agent/service/late").await;
        let value = answer
            .headers
            .get("x-consul-contenthash")
            .expect("a hash")
            .to_str()
            .expect("text");
        assert_eq!(
            answer.json()["ContentHash"],
            value,
            "header and body state the same hash"
        );
        assert!(
            value.chars().all(|char| char.is_ascii_hexdigit()),
            "{value}"
        );
        value.to_owned()
    }
    async fn ask(agent: &Agent) -> Vec<(u16, bool)> {
        let first = hash(agent).await;
        let same = get(
            agent,
            &format!("/v1/agent/service/late?hash={first}&wait=1s"),
        )
        .await;
        let other = get(agent, "/v1/agent/service/late?hash=0&wait=30s").await;
        let target = format!("/v1/agent/service/late?hash={first}&wait=30s");
        let change = async {
            tokio::time::sleep(SETTLE).await;
            put(
                agent,
                "/v1/agent/service/register",
                &json!({"Name": "late", "Port": 9001, "Connect": {"Native": true}}),
            )
            .await;
        };
        let (changed, ()) = tokio::join!(get(agent, &target), change);
        let second = hash(agent).await;
        let target = format!("/v1/agent/service/late?hash={second}&wait=30s");
        let removal = async {
            tokio::time::sleep(SETTLE).await;
            put(agent, "/v1/agent/service/deregister/late", &Value::Null).await;
        };
        let (removed, ()) = tokio::join!(get(agent, &target), removal);
        let of = |answer: &Answer| {
            let hash = answer
                .headers
                .get("x-consul-contenthash")
                .map(|hash| hash.as_bytes() == first.as_bytes());
            (answer.status.as_u16(), hash.unwrap_or(false))
        };
        vec![of(&same), of(&other), of(&changed), of(&removed)]
    }
    let (real, ours) = tokio::join!(ask(&suite.real), ask(&suite.ours));
    suite.same("blocking by hash", "status and same hash", real, ours);
}

/// A TTL check that nobody passes turns critical, and a blocked query sees it.
async fn ttl(suite: &mut Suite) {
    async fn ask(agent: &Agent) -> Value {
        let body = json!({"Name": "brief", "Port": 9002, "Connect": {"Native": true}, "Check": {"TTL": "1s", "Status": "passing"}});
        put(agent, "/v1/agent/service/register", &body).await;
        let target = "/v1/health/connect/brief";
        let mut index = 0;
        for _ in 0..20 {
            let answer = get(agent, &format!("{target}?index={index}&wait=5s")).await;
            index = answer.index();
            let checks = answer.json()[0]["Checks"].clone();
            let own = checks
                .as_array()
                .into_iter()
                .flatten()
                .find(|check| check["CheckID"] == "service:brief")
                .cloned();
            if let Some(own) = own.filter(|own| own["Status"] == "critical") {
                put(agent, "/v1/agent/service/deregister/brief", &Value::Null).await;
                return json!([own["Status"], own["Output"]]);
            }
        }
        panic!("the check did not turn critical on {}", agent.address);
    }
    let (real, ours) = tokio::join!(ask(&suite.real), ask(&suite.ours));
    suite.same(
        "blocking until a ttl is over",
        "status and output",
        real,
        ours,
    );
}
