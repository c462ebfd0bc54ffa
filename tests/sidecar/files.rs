//! Definition files mean to us what they mean to Consul: both register them on a real agent.

use portcullis::definitions::{self, FileRegistration};
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::stage::client;
use serde_json::Value;

/// Files that Consul takes.
const GOOD: [(&str, &str); 9] = [
    (
        "whole.hcl",
        r#"
service {
  name = "web"
  id = "web-1"
  port = 8080
  address = "10.0.0.9"
  tags = ["a", "b"]
  meta { version = "1" }
  weights { passing = 3 warning = 2 }
  enable_tag_override = true
  check { id = "up" name = "n" ttl = "10m" status = "passing" notes = "x" }
  tagged_addresses { lan { address = "10.0.0.1" port = 80 } }
  connect {
    sidecar_service {
      port = 21200
      tags = ["s"]
      proxy {
        local_service_address = "127.0.0.2"
        mode = "direct"
        config { handshake_timeout_ms = 1000 bind_address = "127.0.0.1" }
        upstreams = [
          { destination_name = "db" local_bind_port = 9191 datacenter = "dc1" config { connect_timeout_ms = 500 } },
          { destination_type = "prepared_query" destination_name = "q" local_bind_port = 9193 },
        ]
        upstreams { destination_name = "cache" local_bind_socket_path = "/run/c.sock" local_bind_socket_mode = "0700" }
        mesh_gateway { mode = "none" }
        expose { paths = [{ path = "/h" local_path_port = 1 listener_port = 2 }] }
      }
    }
  }
}
"#,
    ),
    (
        "line.hcl",
        r#"service { name = "web" port = 8080 connect { sidecar_service {} } }"#,
    ),
    (
        "commas.hcl",
        r#"service { name = "web", port = 8080, connect { native = true } }"#,
    ),
    (
        "quoted.hcl",
        "\"service\" {\n \"name\" = \"web\"\n \"port\" = 1\n}",
    ),
    (
        "list.hcl",
        r#"services = [ { name = "web" port = 1 connect { native = true } }, { name = "b" port = 2 } ]"#,
    ),
    (
        "blocks.hcl",
        "services { name = \"web\" port = 1 }\nservices { name = \"b\" port = 2 checks = [ { ttl = \"10m\" }, { alias_service = \"web\" } ] }\n",
    ),
    (
        "proxy.hcl",
        "service {\n kind = \"connect-proxy\"\n name = \"web\"\n port = 20000\n proxy = {\n destination_service_name = \"x\"\n local_service_port = 5\n upstreams = []\n config { a = \"w${x}b\" b = [1, 2] c { d = true } }\n }\n}\n",
    ),
    (
        "snake.json",
        r#"{"service": {"name": "web", "port": 8080, "tags": ["x"], "connect": {"sidecar_service": {"proxy": {"upstreams": [{"destination_name": "db", "local_bind_port": 9191}]}}}}}"#,
    ),
    (
        "camel.json",
        r#"{"services": [{"Name": "web", "Port": 8080, "Tags": ["x"], "Meta": {"A": "b"}}, {"ID": "w2", "name": "web", "Port": 8081}]}"#,
    ),
];

/// Files that Consul refuses, and so do we.
const BAD: [(&str, &str); 8] = [
    ("typo.hcl", "service {\n name = \"web\"\n prot = 1\n}"),
    ("label.hcl", "service \"web\" {\n port = 1\n}"),
    (
        "twice.hcl",
        "service { name = \"a\" port = 1 }\nservice { name = \"b\" port = 1 }",
    ),
    ("bare.json", r#"{"Name": "web", "Port": 8080}"#),
    (
        "port.json",
        r#"{"service": {"name": "web", "port": "8080"}}"#,
    ),
    ("tags.json", r#"{"service": {"name": "web", "tags": "x"}}"#),
    ("open.hcl", "service {\n name = \"web\"\n"),
    (
        "nested.hcl",
        "service { name = \"w\" port = 1 connect { sidecar_service { nope = 1 } } }",
    ),
];

/// What is registered, without what differs by nature.
fn registered(consul: &Consul) -> Value {
    let mut services = consul.api().get("/v1/agent/services").good().json();
    for service in services.as_object_mut().into_iter().flatten() {
        if let Some(addresses) = service.1["TaggedAddresses"].as_object_mut() {
            addresses.remove("consul-virtual");
        }
        if service.1["TaggedAddresses"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty)
            && let Some(service) = service.1.as_object_mut()
        {
            service.remove("TaggedAddresses");
        }
    }
    services
}

fn checks(consul: &Consul) -> Vec<String> {
    let checks = consul.api().get("/v1/agent/checks").good().json();
    let show = |(id, check): (&String, &Value)| {
        format!(
            "{id} {} {} {} {}",
            check["Name"], check["Type"], check["Notes"], check["ServiceID"]
        )
    };
    checks.as_object().into_iter().flatten().map(show).collect()
}

fn clear(consul: &Consul) {
    let api = consul.api();
    let services = api.get("/v1/agent/services").good().json();
    for id in services.as_object().into_iter().flatten().map(|(id, _)| id) {
        // A sidecar may have gone with its service.
        let _ = api.send("PUT", &format!("/v1/agent/service/deregister/{id}"), None);
    }
    assert_eq!(
        api.get("/v1/agent/services").good().json(),
        serde_json::json!({})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_consul_registers_from_a_file_we_register_too() {
    let Some(consul) = Consul::start("what_consul_registers_from_a_file", Options::new()) else {
        return;
    };
    let agent = client(&format!("http://{}", consul.address()));
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file is written");
        path
    };
    let theirs = |path: &std::path::Path| {
        std::process::Command::new(consul.binary())
            .args(["services", "register", "-http-addr"])
            .arg(consul.address().to_string())
            .arg(path)
            .output()
            .expect("consul runs")
    };
    for (name, text) in GOOD {
        let path = write(name, text);
        let said = theirs(&path);
        assert!(
            said.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&said.stderr)
        );
        let by_consul = (registered(&consul), checks(&consul));
        clear(&consul);
        let read = definitions::read(&path).unwrap_or_else(|error| panic!("{error}"));
        let files = FileRegistration::new(&agent, read).expect("tokens");
        files
            .register()
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((registered(&consul), checks(&consul)), by_consul, "{name}");
        files.leave().await;
        assert_eq!(registered(&consul), serde_json::json!({}), "{name}");
    }
    for (name, text) in BAD {
        let path = write(name, text);
        assert!(!theirs(&path).status.success(), "consul takes {name}");
        let error = definitions::read(&path).expect_err(name).to_string();
        assert!(error.contains(&format!("{name}:")), "{error}");
    }
}
