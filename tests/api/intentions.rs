//! Intentions: exact, list, match, check, and what authorize makes of them.

use http::Method;
use serde_json::{Value, json};

use crate::suite::{Step, Suite};

const EXACT: &str = "/v1/connect/intentions/exact";
const MATCH: &str = "/v1/connect/intentions/match";
const CHECK: &str = "/v1/connect/intentions/check";

pub(crate) async fn run(suite: &mut Suite) {
    exact(suite).await;
    old_and_filtered(suite).await;
    by_match(suite).await;
    check(suite).await;
    decisions(suite, "").await;
    deleting(suite).await;
}

/// On agents whose `default_intention_policy` is deny.
pub(crate) async fn run_denied_by_default(suite: &mut Suite) {
    suite
        .run(Step::get("roots with rsa", "/v1/connect/ca/roots"))
        .await;
    suite
        .run(Step::get(
            "leaf of an rsa root",
            "/v1/agent/connect/ca/leaf/web",
        ))
        .await;
    let step = Step::get(
        "check without intentions",
        &format!("{CHECK}?source=web&destination=db"),
    );
    suite.run(step).await;
    authorize(suite, "nothing", "web", "db").await;
    put(suite, "web to db", "web", "db", &json!({"Action": "allow"})).await;
    authorize(suite, "web to db", "web", "db").await;
    authorize(suite, "other to db", "other", "db").await;
    let step = Step::get(
        "check allowed",
        &format!("{CHECK}?source=web&destination=db"),
    );
    suite.run(step).await;
}

async fn put(suite: &mut Suite, name: &str, source: &str, destination: &str, body: &Value) {
    let target = format!("{EXACT}?source={source}&destination={destination}");
    suite
        .run(Step::put(&format!("exact put {name}"), &target, body))
        .await;
}

async fn authorize(suite: &mut Suite, name: &str, source: &str, target: &str) {
    let uri = format!("spiffe://{{td}}/ns/default/dc/dc1/svc/{source}");
    let body = json!({"Target": target, "ClientCertURI": uri}).to_string();
    let step = Step::new(
        &format!("authorize {name}"),
        Method::POST,
        "/v1/agent/connect/authorize",
    );
    suite.run_until_same(step.body(&body)).await;
}

async fn exact(suite: &mut Suite) {
    for (name, query) in [
        ("exact no parameters", ""),
        ("exact no destination", "?source=a"),
        ("exact unknown", "?source=a&destination=b"),
        ("exact too deep", "?source=a/b/c/d&destination=b"),
        ("exact peer destination", "?source=a&destination=peer:p/b"),
        ("exact peer", "?source=peer:p1/web&destination=api"),
        ("exact l7", "?source=web&destination=api"),
    ] {
        suite.run(Step::get(name, &format!("{EXACT}{query}"))).await;
    }
    for (name, query, body) in [
        ("exact put empty", "?source=a&destination=b", ""),
        ("exact put junk", "?source=a&destination=b", "nope"),
        (
            "exact put unknown key",
            "?source=a&destination=b",
            r#"{"Foo":1}"#,
        ),
        ("exact put no action", "?source=a&destination=b", "{}"),
        (
            "exact put wrong action",
            "?source=a&destination=b",
            r#"{"Action":"x"}"#,
        ),
        (
            "exact put permissions on tcp",
            "?source=a&destination=b",
            r#"{"Permissions":[{"Action":"allow","HTTP":{"PathExact":"/"}}]}"#,
        ),
        (
            "exact put meta",
            "?source=a&destination=b",
            r#"{"Action":"allow","Meta":{"a":"b"}}"#,
        ),
        (
            "exact put peer",
            "?source=peer:p/q&destination=b",
            r#"{"Action":"allow"}"#,
        ),
        (
            "exact put partial wildcard",
            "?source=a*&destination=b",
            r#"{"Action":"allow"}"#,
        ),
        (
            "exact put no source",
            "?destination=b",
            r#"{"Action":"allow"}"#,
        ),
        (
            "exact put namespace",
            "?source=foo/nsq&destination=b",
            r#"{"Action":"allow"}"#,
        ),
        (
            "exact put default namespace",
            "?source=default/a&destination=default/b",
            r#"{"Action":"allow"}"#,
        ),
        (
            "exact put other body names",
            "?source=a&destination=b2",
            r#"{"Action":"allow","SourceName":"x","DestinationName":"y"}"#,
        ),
        (
            "exact put source type",
            "?source=a&destination=b3",
            r#"{"Action":"allow","SourceType":"x"}"#,
        ),
        (
            "exact put lower-case keys",
            "?source=a&destination=b4",
            r#"{"action":"allow","sourcetype":"consul","description":"d"}"#,
        ),
    ] {
        suite
            .run(Step::new(name, Method::PUT, &format!("{EXACT}{query}")).body(body))
            .await;
    }
    suite
        .run(Step::get(
            "exact b",
            &format!("{EXACT}?source=a&destination=b"),
        ))
        .await;
    suite
        .run(Step::get(
            "exact b2",
            &format!("{EXACT}?source=a&destination=b2"),
        ))
        .await;
    suite
        .run(Step::get(
            "exact b4",
            &format!("{EXACT}?source=a&destination=b4"),
        ))
        .await;
    for name in ["b", "b2", "b4"] {
        let target = format!("{EXACT}?source=a&destination={name}");
        suite
            .run(Step::new(
                &format!("exact delete {name}"),
                Method::DELETE,
                &target,
            ))
            .await;
    }
    // Consul has stored this one although it refuses to read it.
    let target = format!("{EXACT}?source=nsq&destination=b");
    suite
        .run(Step::new("exact delete nsq", Method::DELETE, &target))
        .await;
    suite
        .run(Step::new(
            "exact delete unknown",
            Method::DELETE,
            &format!("{EXACT}?source=q&destination=q"),
        ))
        .await;
    put(
        suite,
        "web to db",
        "web",
        "db",
        &json!({"Action": "allow", "Description": "d"}),
    )
    .await;
    put(
        suite,
        "any to db",
        "*",
        "db",
        &json!({"Action": "deny", "SourceType": "consul"}),
    )
    .await;
    put(suite, "web to any", "web", "*", &json!({"Action": "deny"})).await;
    put(suite, "any to any", "*", "*", &json!({"Action": "allow"})).await;
    put(
        suite,
        "web to db again",
        "web",
        "db",
        &json!({"Action": "allow"}),
    )
    .await;
    suite
        .run(Step::get(
            "exact web to db",
            &format!("{EXACT}?source=web&destination=db"),
        ))
        .await;
    suite
        .run(Step::get("intention list", "/v1/connect/intentions"))
        .await;
    suite
        .run(Step::get("legacy short id", "/v1/connect/intentions/x"))
        .await;
    suite
        .run(Step::get(
            "legacy unknown id",
            "/v1/connect/intentions/11111111-2222-3333-4444-555555555555",
        ))
        .await;
}

/// What was there before 1.9, and filters.
async fn old_and_filtered(suite: &mut Suite) {
    let body = json!({"SourceName": "x", "DestinationName": "y", "Action": "allow"}).to_string();
    suite
        .run(Step::new("legacy create", Method::POST, "/v1/connect/intentions").body(&body))
        .await;
    for (name, body) in [
        ("legacy create twice", body.as_str()),
        ("legacy create nothing", "{}"),
        ("legacy create junk", "nope"),
        ("legacy create unknown key", r#"{"Foo":1}"#),
    ] {
        let step = Step::new(name, Method::POST, "/v1/connect/intentions");
        suite.run(step.body(body)).await;
    }
    suite
        .run(Step::get(
            "exact of the legacy one",
            &format!("{EXACT}?source=x&destination=y"),
        ))
        .await;
    let target = format!("{EXACT}?source=x&destination=y");
    suite
        .run(Step::new(
            "exact delete of the legacy one",
            Method::DELETE,
            &target,
        ))
        .await;
    for (name, target) in [
        (
            "filtered intentions",
            "/v1/connect/intentions?filter=SourceName==web",
        ),
        ("junk filter", "/v1/connect/intentions?filter=Foo==x"),
        (
            "filtered health",
            "/v1/health/connect/web?filter=Service.Port==1",
        ),
        ("filtered services", "/v1/agent/services?filter=Port==1"),
    ] {
        suite.run(Step::get(name, target)).await;
    }
}

async fn by_match(suite: &mut Suite) {
    for (name, query) in [
        ("match no by", "?name=db"),
        ("match by junk", "?by=x&name=db"),
        ("match no name", "?by=source"),
        ("match destination", "?by=destination&name=db"),
        ("match source", "?by=source&name=web"),
        (
            "match several",
            "?by=destination&name=db&name=api&name=nothing",
        ),
        ("match twice", "?by=destination&name=db&name=db"),
        ("match default namespace", "?by=destination&name=default/db"),
        (
            "match three parts",
            "?by=destination&name=default/default/db",
        ),
        ("match four parts", "?by=destination&name=a/b/c/d"),
        ("match peer", "?by=destination&name=peer:p/db"),
        ("match namespace", "?by=destination&name=foo/db"),
        ("match partition", "?by=destination&name=foo/default/db"),
        ("match empty name", "?by=destination&name="),
        ("match upper case", "?by=destination&name=DB"),
        ("match source upper case", "?by=source&name=WEB"),
        ("match wildcard", "?by=destination&name=*"),
        ("match source wildcard", "?by=source&name=*"),
        ("match stale", "?by=destination&name=db&stale"),
        ("match consistent", "?by=destination&name=db&consistent"),
        ("match l7", "?by=destination&name=api"),
    ] {
        suite.run(Step::get(name, &format!("{MATCH}{query}"))).await;
    }
}

async fn check(suite: &mut Suite) {
    for (name, query) in [
        ("check no source", "?destination=db"),
        ("check no destination", "?source=web"),
        ("check type", "?source=web&destination=db&source-type=x"),
        ("check allowed", "?source=web&destination=db"),
        ("check denied", "?source=other&destination=db"),
        (
            "check wildcard destination",
            "?source=web&destination=cache",
        ),
        (
            "check default",
            "?source=a&destination=b&source-type=consul",
        ),
        ("check l7", "?source=web&destination=api"),
        ("check upper case", "?source=WEB&destination=DB"),
        ("check namespace", "?source=foo/web&destination=db"),
        ("check too deep", "?source=a/b/c/d&destination=db"),
    ] {
        suite.run(Step::get(name, &format!("{CHECK}{query}"))).await;
    }
}

async fn decisions(suite: &mut Suite, suffix: &str) {
    let pairs = [
        ("web", "db"),
        ("other", "db"),
        ("WEB", "db"),
        ("web", "DB"),
        ("web", "cache"),
        ("other", "cache"),
        ("web", "api"),
        ("other", "api"),
        ("*", "db"),
        ("web", "guarded"),
        ("web", "nothing"),
        ("w%20b", "db"),
    ];
    for (source, target) in pairs {
        authorize(
            suite,
            &format!("{source} to {target}{suffix}"),
            source,
            target,
        )
        .await;
    }
}

async fn deleting(suite: &mut Suite) {
    for (source, destination) in [("*", "*"), ("web", "*"), ("web", "db")] {
        let target = format!("{EXACT}?source={source}&destination={destination}");
        let name = format!("exact delete {source} to {destination}");
        suite.run(Step::new(&name, Method::DELETE, &target)).await;
    }
    decisions(suite, " after deleting").await;
    suite
        .run(Step::get(
            "match nothing",
            &format!("{MATCH}?by=destination&name=nothing"),
        ))
        .await;
    suite
        .run(Step::get(
            "intention list at the end",
            "/v1/connect/intentions",
        ))
        .await;
}
