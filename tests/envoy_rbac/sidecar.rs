//! The filter inside a sidecar of Consul's own, by its `builtin/wasm` extension: Consul's RBAC
//! stays, and the filter can only narrow.

use std::fs;
use std::process::Command;
use std::time::Duration;

use portcullis_core::http::HttpVersion::Http1;
use portcullis_core::intention::Effect;
use portcullis_tests::process::eventually;
use portcullis_tests::{components, program};
use serde_json::{Value, json};

use crate::client::{Client, Exchange};
use crate::ours::{Ours, Setting};
use crate::question::Question;
use crate::scene::{Scene, TARGET};

const SOON: Duration = Duration::from_secs(90);

/// The `service-defaults` with the extension, as `host/ENVOY.md` writes it.
fn defaults(configuration: &Value) -> Value {
    json!({ "Kind": "service-defaults", "Name": TARGET, "Protocol": "http", "EnvoyExtensions": [{
        "Name": "builtin/wasm", "Required": true,
        "Arguments": { "Protocol": "http", "ListenerType": "inbound", "PluginConfig": {
            "Name": "portcullis", "RootID": "portcullis",
            "VmConfig": { "VmID": "portcullis", "Runtime": "v8", "Code": {
                "Local": { "Filename": components::envoy_filter().display().to_string() },
            }},
            "Configuration": configuration.to_string(),
        }},
    }]})
}

fn configuration() -> Value {
    json!({
        "service": TARGET, "protocol": "http", "agent": { "cluster": "portcullis" },
        "peer_verification": "filter",
    })
}

/// The filters of the listener for callers.
fn filters(scene: &Scene) -> Vec<Value> {
    let listener = scene.listener().unwrap_or_default();
    let network = listener["filter_chains"][0]["filters"].as_array();
    let manager = network.into_iter().flatten();
    let filters = manager.filter_map(|filter| filter["typed_config"]["http_filters"].as_array());
    filters.flatten().cloned().collect()
}

/// The plugin as Envoy has it.
fn plugin(scene: &Scene) -> Option<Value> {
    let mut filters = filters(scene).into_iter();
    let filter = filters.find(|filter| filter["name"] == "envoy.filters.http.wasm")?;
    Some(filter["typed_config"]["config"].clone())
}

/// Writes the extension, and waits until Envoy has it.
fn extend(scene: &Scene, configuration: &Value) {
    write(scene, &defaults(configuration));
    let text = configuration.to_string();
    eventually("the extension is in Envoy", SOON, || {
        let plugin = plugin(scene)?;
        (plugin["configuration"]["value"] == text.as_str()).then_some(())
    });
}

fn write(scene: &Scene, entry: &Value) {
    let reply = scene.consul.api().put("/v1/config", entry);
    assert_eq!(reply.status, 200, "{}: {entry}", reply.body);
}

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Application,
    Rbac,
    Filter,
}

fn ask(scene: &Scene, client: &Client, target: &str) -> By {
    answers(scene, client, &Question::get(Http1, target))
}

fn answers(scene: &Scene, client: &Client, question: &Question) -> By {
    let Exchange::Answered(answer) = client.exchange(scene.envoy, question) else {
        panic!("{question:?}: no answer");
    };
    let length = answer.header("content-length").unwrap_or_default();
    match (answer.status, length) {
        (200, _) if answer.header("x-target").is_some() => By::Application,
        // `RBAC: access denied`, and our `Forbidden`.
        (403, b"19") => By::Rbac,
        (403, b"9") => By::Filter,
        _ => panic!("{question:?}: {answer:?}"),
    }
}

fn stat(scene: &Scene, name: &str) -> u64 {
    let text = scene
        .admin(&format!("/stats?filter={name}"))
        .unwrap_or_default();
    let values = text.lines().filter_map(|line| line.split_once(": "));
    values
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum()
}

#[test]
fn in_consuls_sidecar_the_filter_only_narrows() {
    let Some(mut scene) = Scene::start("in_consuls_sidecar_the_filter_only_narrows", "allow")
    else {
        return;
    };
    extend(&scene, &configuration());
    let sources = [
        json!({ "Name": "web", "Permissions": [{ "Action": "deny", "HTTP": { "PathPrefix": "/admin" } }] }),
        json!({ "Name": "web.v1", "Action": "deny" }),
    ];
    let list = scene.set(&sources, &[], None);
    let names = filters(&scene);
    let names: Vec<&str> = names
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    let place = |name: &str| names.iter().position(|other| *other == name);
    let (rbac, wasm) = ("envoy.filters.http.rbac", "envoy.filters.http.wasm");
    assert!(
        place(rbac) < place(wasm) && place(rbac).is_some(),
        "{names:?}"
    );

    let mut core = Ours::new();
    let setting = Setting {
        protocol: "http",
        normalization: json!({}),
    };
    core.load(&scene, &setting, &list);
    let (web, other) = (scene.client("web"), scene.client("webxv1"));
    // Either may have followed before the other.
    eventually("both have followed", SOON, || {
        let by = |target| ask(&scene, &web, target);
        (by("//admin") == By::Filter && by("/admin") == By::Rbac).then_some(())
    });
    // By the client, what it asks for, what ours says by itself, and who answers.
    for (client, target, ours, answer) in [
        (&web, "/public", Effect::Allow, By::Application),
        (&web, "/admin", Effect::Deny, By::Rbac),
        // As strict matching reads it.
        (&web, "//admin", Effect::Deny, By::Filter),
        // As Consul writes `web.v1` into a pattern.
        (&other, "/public", Effect::Allow, By::Rbac),
    ] {
        let [_, strict] = core.ask(&client.uris, &Question::get(Http1, target));
        assert_eq!(strict.effect, ours, "{target}");
        for _ in 0..5 {
            assert_eq!(ask(&scene, client, target), answer, "{target}");
        }
    }
    // Consul's sidecars resume sessions, of which Envoy says no longer what it has verified.
    let resuming = web.resuming();
    for _ in 0..20 {
        assert_eq!(ask(&scene, &resuming, "/public"), By::Application);
    }
    assert!(stat(&scene, "listener.*ssl.session_reused") > 0);
    assert!(!scene.application.has_seen("//admin"));
    assert!(!scene.application.has_seen("/admin"));
}

/// Envoy's `jwt_authn` stands before the filter, and takes a token out that it has verified.
#[test]
fn in_consuls_sidecar_a_token_must_be_forwarded_to_the_filter() {
    let test = "in_consuls_sidecar_a_token_must_be_forwarded_to_the_filter";
    let Some(mut scene) = Scene::start(test, "deny") else {
        return;
    };
    extend(&scene, &configuration());
    let jwt = json!({ "Providers": [{ "Name": scene.issuers[0].name }] });
    let allow = json!({ "Action": "allow", "HTTP": { "PathPrefix": "/" }, "JWT": jwt });
    let free = json!({ "Action": "allow", "HTTP": { "PathPrefix": "/free" } });
    let sources = [json!({ "Name": "web", "Permissions": [free, allow] })];
    let _ = scene.set(&sources, &[], None);
    let web = scene.client("web");
    let (good, bad) = (&scene.issuers[0], &scene.issuers[1]);
    let asks = |token: &str| {
        let bearer = format!("Bearer {token}");
        let question = Question::get(Http1, "/a").header("authorization", &bearer);
        answers(&scene, &web, &question)
    };
    let token = good.token(600, &json!({}));
    eventually("the filter has followed", SOON, || {
        (ask(&scene, &web, "/free") == By::Application).then_some(())
    });
    // RBAC has seen the token, the filter has not.
    for _ in 0..5 {
        assert_eq!(asks(&token), By::Filter);
    }
    let mut entry = good.entry();
    entry["Locations"] = json!([{ "Header": {
        "Name": "Authorization", "ValuePrefix": "Bearer ", "Forward": true,
    } }]);
    write(&scene, &entry);
    eventually("the token is forwarded", SOON, || {
        (asks(&token) == By::Application).then_some(())
    });
    for _ in 0..5 {
        assert_eq!(asks(&token), By::Application);
        assert_eq!(ask(&scene, &web, "/a"), By::Rbac, "no token");
        assert_eq!(asks(&bad.token(600, &json!({}))), By::Rbac);
    }
}

#[test]
fn consuls_extension_fails_closed_and_names_the_wrong_field() {
    let test = "consuls_extension_fails_closed_and_names_the_wrong_field";
    let Some(mut scene) = Scene::start(test, "allow") else {
        return;
    };
    scene.may_reject = true;
    // It has no way to ask for another failure policy than closed: Consul takes the field, and
    // writes none.
    let mut entry = defaults(&configuration());
    entry["EnvoyExtensions"][0]["Arguments"]["PluginConfig"]["FailurePolicy"] =
        json!("FAIL_RELOAD");
    write(&scene, &entry);
    let plugin = eventually("the extension is in Envoy", SOON, || plugin(&scene));
    assert_eq!(plugin.get("failure_policy"), None, "{plugin}");
    assert_eq!(plugin.get("fail_open"), None, "{plugin}");
    let _ = scene.set(&[json!({ "Name": "web", "Action": "deny" })], &[], None);
    let web = scene.client("web");
    // The filter may have followed before Envoy has Consul's RBAC.
    eventually("RBAC has followed", SOON, || {
        (ask(&scene, &web, "/") == By::Rbac).then_some(())
    });
    let dump = tempfile::NamedTempFile::new().expect("a file");
    fs::write(dump.path(), scene.admin("/config_dump").expect("a dump")).expect("it is written");
    let mut lint: Command = program::portcullis(["envoy", "lint"]);
    let found = program::run(lint.arg(dump.path()));
    assert!(found.out.contains("no-reload"), "{}", found.out);

    // What it is wrongly told is named, and what was there goes on.
    let mut wrong = configuration();
    wrong["defaultpolicy"] = json!("allow");
    write(&scene, &defaults(&wrong));
    let named = "portcullis: plugin configuration: `defaultpolicy`: this field is not known";
    eventually("the field in Envoy's log", SOON, || {
        scene.log().contains(named).then_some(())
    });
    assert_eq!(ask(&scene, &web, "/"), By::Rbac);
    assert_eq!(ask(&scene, &scene.client("other"), "/"), By::Application);
    // And Envoy follows Consul again once it is right.
    extend(&scene, &configuration());
    let _ = scene.set(&[json!({ "Name": "other", "Action": "deny" })], &[], None);
    let other = scene.client("other");
    eventually("RBAC has followed again", SOON, || {
        (ask(&scene, &other, "/") == By::Rbac).then_some(())
    });
}
