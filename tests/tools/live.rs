//! `test`, `lint` and `diff` against agents: the dev agent, and a real one.

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig, Token};
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::program::{portcullis, run};
use serde_json::{Value, json};

use crate::{API, Folder};

fn http() -> Value {
    json!({"Kind": "service-defaults", "Name": "api", "Protocol": "http"})
}

fn api() -> Value {
    json!({"Kind": "service-intentions", "Name": "api", "Sources": [
        {"Name": "web", "Permissions": [
            {"Action": "deny", "HTTP": {"PathPrefix": "/items/secret"}},
            {"Action": "allow", "HTTP": {"PathPrefix": "/items/", "Methods": ["GET"]}},
        ]},
        {"Name": "batch", "Action": "allow"},
    ]})
}

const TESTS: &str = r#"
target = "api"
source = "web"
test { name = "reads" request { path = "/items/1" } expect = "allow" }
test { name = "no secret" request { path = "/items/secret" } expect { effect = "deny" code = "permission" } }
test { name = "others" source = "stranger" request { path = "/items/1" } expect = "deny" }
"#;

/// The three commands against an agent that has `api()` and denies by default.
fn all_three(address: &str, token: &str) {
    let folder = Folder::new(&[("live.test.hcl", TESTS), ("api.hcl", API)]);
    let wider = API.replace(r#"["GET"]"#, r#"["GET", "PUT"]"#);
    folder.write("wider.hcl", &wider);
    let ask = |arguments: &[&str], code: i32| {
        let mut command = portcullis(arguments.iter().copied());
        command
            .args(["-http-addr", address])
            .current_dir(folder.path());
        if !token.is_empty() {
            command.env("CONSUL_HTTP_TOKEN", token);
        }
        let said = run(&mut command);
        assert_eq!(
            (said.code, said.err.as_str()),
            (Some(code), ""),
            "{arguments:?}: {said:?}"
        );
        said.out
    };
    assert_eq!(
        ask(&["test", "live.test.hcl"], 0),
        "3 tests: 3 passed, 0 failed\n"
    );
    let out = ask(&["lint"], 0);
    assert!(
        out.contains("agent: service-intentions (api Sources[0].Permissions[0])"),
        "{out}"
    );
    assert!(out.contains("default policy deny ("), "{out}");
    assert!(!out.contains("assumed"), "{out}");
    // Written as a file what the agent has: nothing changes.
    let out = ask(&["diff", "api.hcl"], 0);
    assert!(out.contains("none gets another answer"), "{out}");
    let out = ask(&["diff", "wider.hcl"], 1);
    assert!(
        out.starts_with("web -> api  deny -> allow\n  request  PUT /items/"),
        "{out}"
    );
    // Without the rest: what the candidate does not have is gone only if it is whole.
    folder.write("other.hcl", "Kind = \"service-intentions\"\nName = \"db\"\nSources = [{ Name = \"web\" Action = \"deny\" }]\n");
    ask(&["diff", "other.hcl"], 0);
    let out = ask(&["diff", "other.hcl", "-whole"], 1);
    assert!(out.contains("batch -> api  allow -> deny"), "{out}");
}

#[test]
fn the_dev_agent() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let rules = "service_prefix \"\" { policy = \"read\" intentions = \"read\" }\nmesh = \"read\"\nagent_prefix \"\" { policy = \"read\" }\n";
    let config = DevAgentConfig {
        default_policy: DefaultPolicy::Deny,
        tokens: vec![Token::with_rules("reader", rules)],
        ..DevAgentConfig::for_tests()
    };
    let agent = runtime
        .block_on(DevAgent::start(config))
        .expect("it starts");
    for entry in [http(), api()] {
        agent.put_config_entry(&entry).expect("stored");
    }
    all_three(&agent.url(), "reader");
    // A token that may not read is an error, never an answer.
    let said =
        run(portcullis(["lint", "-http-addr", &agent.url()]).env("CONSUL_HTTP_TOKEN", "nobody"));
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
    runtime.block_on(agent.shutdown());
    let said = run(&mut portcullis(["lint", "-http-addr", "127.0.0.1:9"]));
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
}

#[test]
fn a_real_consul() {
    let options = Options::new().with_config("default_intention_policy = \"deny\"");
    let Some(consul) = Consul::start("tools", options) else {
        return;
    };
    for entry in [http(), api()] {
        let _ = consul.api().put("/v1/config", &entry).good();
    }
    all_three(&consul.address().to_string(), "");
    // Replies of the real agent as files, in each form.
    let folder = Folder::new(&[]);
    for (name, path) in [
        ("entries.json", "/v1/config/service-intentions"),
        ("entry.json", "/v1/config/service-intentions/api"),
        (
            "match.json",
            "/v1/connect/intentions/match?by=destination&name=api",
        ),
        ("list.json", "/v1/connect/intentions"),
    ] {
        let body = consul.api().get(path).good().json();
        folder.write(name, &body.to_string());
        let (code, document) = folder.json(&["lint", name]);
        assert_eq!(
            (code, &document["intentions"]),
            (Some(0), &2.into()),
            "{name}: {document:#}"
        );
        let codes: Vec<&Value> = document["findings"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|finding| &finding["code"])
            .collect();
        assert!(
            codes.contains(&&json!("deny-escapable-slashes")),
            "{name}: {document:#}"
        );
        assert!(
            !codes.contains(&&json!("ignored-field")),
            "{name}: {document:#}"
        );
        let said = folder.run(&["diff", name, "-against", "entries.json"]);
        assert_eq!(said.code, Some(0), "{name}: {said:?}");
    }
    // What Consul takes as a file, we read alike.
    folder.write("api.hcl", API);
    let file = folder.path().join("api.hcl");
    let binary = portcullis_tests::peers::require("tools", "consul").expect("it was there");
    let mut write = std::process::Command::new(binary);
    write.args([
        "config",
        "write",
        &format!("-http-addr={}", consul.address()),
    ]);
    let said = run(write.arg(file));
    assert_eq!(said.code, Some(0), "{said:?}");
    let said = folder.run(&["diff", "api.hcl", "-against", "entries.json"]);
    assert_eq!(said.code, Some(0), "{said:?}");
}
