//! Tests of definition files: what Consul takes is taken, mistakes have their line.

use serde_json::json;

use super::*;

fn parse(name: &str, text: &str) -> Result<Vec<Definition>, Problem> {
    let root = if name.ends_with(".json") {
        json::read(text)?
    } else {
        hcl::read(text)?
    };
    services(&root, name)
}

fn one(name: &str, text: &str) -> Definition {
    let mut all = parse(name, text).unwrap_or_else(|problem| panic!("{text}: {problem:?}"));
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

const WEB: &str = r#"
service {
  name = "web"
  id   = "web-1"
  port = 8080
  tags = ["a", "b"]
  token = "secret"
  meta { version = "1" }
  tagged_addresses { lan { address = "10.0.0.1" port = 80 } }
  weights { passing = 3 warning = 1 }
  enable_tag_override = true
  check { id = "up" ttl = "10s" deregister_critical_service_after = "90m" }
  checks = [{ alias_service = "db" }]
  connect {
    sidecar_service {
      port = 20000
      proxy {
        local_service_address = "127.0.0.1"
        mode = "direct"
        config { handshake_timeout_ms = 1000 }
        upstreams = [
          {
            destination_name = "db"
            local_bind_port  = 9191
            config = { connect_timeout_ms = 500, limits { max_connections = 3 } }
          }
        ]
        upstreams { destination_name = "cache" local_bind_socket_path = "/run/c.sock" local_bind_socket_mode = "0700" }
        mesh_gateway { mode = "none" }
        expose { checks = false paths = [{ path = "/h" local_path_port = 1 listener_port = 2 }] }
        transparent_proxy { outbound_listener_port = 15001 }
      }
    }
  }
}
"#;

#[test]
fn a_whole_definition_becomes_the_body_of_a_registration() {
    let web = one("web.hcl", WEB);
    assert_eq!((web.id.as_str(), web.name.as_str()), ("web-1", "web"));
    let proxy = ProxyDefinition {
        id: "web-1-sidecar-proxy".to_owned(),
        name: "web-sidecar-proxy".to_owned(),
        destination: "web".to_owned(),
        upstreams: vec!["db".to_owned(), "cache".to_owned()],
    };
    assert_eq!(web.proxy, Some(proxy));
    assert_eq!(web.token, Some(Secret::new("secret")));
    assert!(!format!("{web:?} {}", web.body).contains("secret"));
    assert_eq!(web.place, "web.hcl:2");
    assert_eq!(
        web.body,
        json!({
            "ID": "web-1", "Name": "web", "Port": 8080, "Tags": ["a", "b"], "Meta": {"version": "1"},
            "TaggedAddresses": {"lan": {"Address": "10.0.0.1", "Port": 80}},
            "Weights": {"Passing": 3, "Warning": 1}, "EnableTagOverride": true,
            "Check": {"CheckID": "up", "TTL": "10s", "DeregisterCriticalServiceAfter": "90m"},
            "Checks": [{"AliasService": "db"}],
            "Connect": {"SidecarService": {"Port": 20000, "Proxy": {
                "LocalServiceAddress": "127.0.0.1", "Mode": "direct",
                "Config": {"handshake_timeout_ms": 1000},
                "Upstreams": [
                    {"DestinationName": "db", "LocalBindPort": 9191, "Config": {"connect_timeout_ms": 500, "limits": {"max_connections": 3}}},
                    {"DestinationName": "cache", "LocalBindSocketPath": "/run/c.sock", "LocalBindSocketMode": "0700"},
                ],
                "MeshGateway": {"Mode": "none"},
                "Expose": {"Checks": false, "Paths": [{"Path": "/h", "LocalPathPort": 1, "ListenerPort": 2}]},
                "TransparentProxy": {"OutboundListenerPort": 15001},
            }}},
        })
    );
}

#[test]
fn both_spellings_in_both_formats() {
    let expected = one(
        "a.hcl",
        "service {\n name = \"web\"\n connect {\n sidecar_service {}\n }\n}",
    )
    .body;
    for (name, text) in [
        (
            "b.json",
            r#"{"service": {"name": "web", "connect": {"sidecar_service": {}}}}"#,
        ),
        (
            "c.json",
            r#"{"Service": {"Name": "web", "Connect": {"SidecarService": {}}}}"#,
        ),
        (
            "d.json",
            r#"{"services": [{"Name": "web", "connect": {"SidecarService": {}}}]}"#,
        ),
        (
            "e.json",
            r#"{"service": [{"Name": "web", "connect": {"SidecarService": {}}}]}"#,
        ),
        (
            "f.hcl",
            r#"Service { Name = "web" Connect { SidecarService {} } }"#,
        ),
    ] {
        assert_eq!(one(name, text).body, expected, "{text}");
    }
    let proxy = one(
        "p.hcl",
        "service {\n kind = \"connect-proxy\"\n name = \"p\"\n port = 1\n proxy {\n destination_service_name = \"x\"\n }\n}",
    );
    assert!(
        proxy
            .proxy
            .is_some_and(|proxy| proxy.id == "p" && proxy.destination == "x")
    );
    let native = one(
        "n.hcl",
        "service { name = \"n\" port = 1 connect { native = true } }",
    );
    assert_eq!(native.proxy, None);
    let several = parse(
        "s.hcl",
        "services { name = \"a\" }\nservices { name = \"b\" }\n",
    )
    .unwrap();
    assert_eq!(
        (several[0].id.as_str(), several[1].place.as_str()),
        ("a", "s.hcl:2")
    );
}

#[test]
fn mistakes_are_named_with_their_line() {
    for (name, text, line, part) in [
        (
            "a.hcl",
            "service {\n name = \"w\"\n prot = 1\n}",
            3,
            "did you mean `port`",
        ),
        (
            "a.hcl",
            "service {\n name = \"w\"\n xyzzy = 1\n}",
            3,
            "a service has no `xyzzy`",
        ),
        ("a.hcl", "service {\n port = 1\n}", 1, "no name"),
        (
            "a.hcl",
            "service {\n name = \"w\"\n port = \"80\"\n}",
            3,
            "`port` of a service is a text, not a number",
        ),
        (
            "a.hcl",
            "service {\n name = \"w\"\n port = 1.5\n}",
            3,
            "whole number",
        ),
        (
            "a.hcl",
            "service {\n name = \"w\"\n tags = \"x\"\n}",
            3,
            "a list of texts",
        ),
        (
            "a.hcl",
            "service {\n name = \"w\"\n tags = [\"x\",\n 1]\n}",
            4,
            "texts only",
        ),
        (
            "a.hcl",
            "service {\n name = \"w\"\n meta { a = 1 }\n}",
            3,
            "not a text",
        ),
        (
            "a.hcl",
            "service {\n name = \"w\"\n enable_tag_override = 1\n}",
            3,
            "true or false",
        ),
        (
            "a.hcl",
            "service {\n name = \"w\"\n connect = 1\n}",
            3,
            "not a block",
        ),
        (
            "a.hcl",
            "service {\n name = \"w\"\n check {\n tll = \"1s\"\n }\n}",
            4,
            "did you mean `ttl`",
        ),
        (
            "a.hcl",
            "service {\n name = \"w\"\n connect {\n sidecar_service {\n connect {}\n}}}",
            5,
            "a sidecar has no `connect`",
        ),
        (
            "a.hcl",
            "service {\n name = \"w\"\n connect { sidecar_service { proxy {\n upstreams = [{\n destination_nam = \"x\" }] } } }\n}",
            5,
            "did you mean `destination_name`",
        ),
        (
            "a.hcl",
            "service { name = \"a\" }\nservice { name = \"b\" }",
            2,
            "`services`",
        ),
        (
            "a.hcl",
            "service {\n name = \"a\"\n Name = \"b\"\n}",
            3,
            "occurs twice",
        ),
        (
            "a.hcl",
            "service {\n name = \"a\"\n check { ttl = \"1s\" }\n check { ttl = \"1s\" }\n}",
            4,
            "occurs twice",
        ),
        (
            "a.hcl",
            "datacenter = \"dc1\"\n",
            1,
            "`datacenter` is not read here",
        ),
        (
            "a.hcl",
            "name = \"web\"\n",
            1,
            "put the definition into `service`",
        ),
        ("a.hcl", "", 1, "no service"),
        ("a.hcl", "service \"web\" {\n}", 1, "label"),
        (
            "a.json",
            "{\"service\": {\n\"name\": \"w\",\n\"prot\": 1}}",
            3,
            "did you mean `port`",
        ),
        (
            "a.json",
            "{\"service\": {\n\"name\": \"w\",\n\"name\": \"x\"}}",
            3,
            "occurs twice",
        ),
        (
            "a.json",
            "{\"service\": {\n\"name\": \"w\",\n}}",
            3,
            "not JSON",
        ),
        ("a.json", "[]", 1, "begin with `service`"),
        (
            "a.json",
            "{\"services\": [\n1]}",
            2,
            "a service is a number",
        ),
        (
            "a.json",
            "{\"service\": {\"name\": \"a\",\n\"proxy\": {\"config\": {\"x\": 1,\n\"x\": 2}}}}",
            3,
            "`x` occurs twice",
        ),
    ] {
        let problem = parse(name, text).unwrap_err();
        assert!(problem.text.contains(part), "{text}: {problem:?}");
        assert_eq!(problem.line, line, "{text}: {problem:?}");
    }
}

#[test]
fn files_and_directories() {
    let folder =
        std::env::temp_dir().join(format!("portcullis-definitions-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    assert!(matches!(read(&folder), Err(DefinitionError::Empty(_))));
    std::fs::write(folder.join("b.hcl"), "service { name = \"b\" }").unwrap();
    std::fs::write(folder.join("a.json"), "{\"service\": {\"name\": \"a\"}}").unwrap();
    std::fs::write(folder.join("notes.txt"), "not read").unwrap();
    let names: Vec<String> = read(&folder)
        .unwrap()
        .into_iter()
        .map(|one| one.name)
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert!(matches!(
        read(&folder.join("notes.txt")),
        Err(DefinitionError::Extension(_))
    ));
    assert!(matches!(
        read(&folder.join("none.hcl")),
        Err(DefinitionError::Read { .. })
    ));
    std::fs::write(folder.join("b.hcl"), "service {\n nam = \"b\" }").unwrap();
    let error = read(&folder).unwrap_err().to_string();
    assert!(
        error.contains("b.hcl:2: ") && error.contains("did you mean `name`"),
        "{error}"
    );
    std::fs::remove_dir_all(&folder).unwrap();
}
