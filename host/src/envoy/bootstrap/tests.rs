//! What is written is YAML with what was asked for, and the linter finds nothing in it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use portcullis_core::identity::SpiffeId;
use portcullis_core::intention::Protocol;
use serde_json::Map;

use super::*;
use crate::envoy::lint::lint;

fn filter() -> PolicyBy {
    PolicyBy::Filter(Box::new(Filter {
        file: PathBuf::from("/x/filter.wasm"),
        agent: None,
        jwks: KeySets {
            uris: vec![
                "https://login.example.com/keys?v=1".to_owned(),
                "https://[::1]:8443/k".to_owned(),
            ],
            ca_file: PathBuf::from("/etc/ca.pem"),
        },
        settings: Map::new(),
    }))
}

fn inbound(protocol: Protocol, policy: PolicyBy) -> Bootstrap {
    Bootstrap {
        service: "db".to_owned(),
        sds: PathBuf::from("/run/\"quoted\" #.sock"),
        admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 19000)),
        access_log: None,
        inbound: Some(Inbound {
            listen: ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8443))),
            application: Application::Tcp("127.0.0.1:5432".to_owned()),
            protocol,
            policy,
            client_first: true,
            normalization: Normalization::default(),
            peers: false,
        }),
        upstreams: vec![Upstream {
            name: "web".to_owned(),
            listen: ListenAddress::Unix(PathBuf::from("/run/web.sock")),
            endpoints: vec!["[::1]:1".to_owned(), "web.example:2".to_owned()],
            id: SpiffeId::parse("spiffe://td.consul/ns/default/dc/dc1/svc/web").unwrap(),
        }],
        assumed: vec!["one\nthing".to_owned()],
    }
}

#[test]
fn the_linter_finds_nothing_in_what_is_written() {
    let socket = || PolicyBy::ExtAuthz(ListenAddress::Unix(PathBuf::from("/run/authz.sock")));
    for protocol in [
        Protocol::Tcp,
        Protocol::Http,
        Protocol::Http2,
        Protocol::Grpc,
    ] {
        for policy in [filter(), socket()] {
            let bootstrap = inbound(protocol, policy);
            let yaml = bootstrap.yaml().unwrap();
            assert_eq!(lint(&yaml).unwrap(), [], "{yaml}");
            let json = bootstrap.json().unwrap();
            assert_eq!(lint(&json.to_string()).unwrap(), []);
            assert!(yaml.contains("# - one thing\n"), "{yaml}");
            let sds = &json["static_resources"]["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"]
                [0]["endpoint"]["address"]["pipe"]["path"];
            assert_eq!(sds, "/run/\"quoted\" #.sock");
        }
    }
}

#[test]
fn upstreams_must_be_who_they_are_and_resume_nothing() {
    let json = inbound(Protocol::Tcp, filter()).json().unwrap();
    let clusters = json["static_resources"]["clusters"].as_array().unwrap();
    let web = clusters
        .iter()
        .find(|cluster| cluster["name"] == "upstream_web")
        .unwrap();
    assert_eq!(web["type"], "STRICT_DNS");
    assert_eq!(web["dns_lookup_family"], "V4_PREFERRED");
    let tls = &web["transport_socket"]["typed_config"];
    assert_eq!(tls["max_session_keys"], 0);
    assert_eq!(tls["sni"], "web.default.dc1.internal.td.consul");
    let names = &tls["common_tls_context"]["combined_validation_context"]["default_validation_context"]
        ["match_typed_subject_alt_names"];
    assert_eq!(
        names[0]["matcher"]["exact"],
        "spiffe://td.consul/ns/default/dc/dc1/svc/web"
    );
}

#[test]
fn the_mesh_entry_is_taken_word_by_word() {
    let read = Normalization::read(
        r#"{"InsecureDisablePathNormalization":false,"MergeSlashes":true,
            "PathWithEscapedSlashesAction":"REJECT_REQUEST","HeadersWithUnderscoresAction":""}"#,
    );
    assert_eq!(
        read.unwrap(),
        Normalization {
            normalize_path: true,
            merge_slashes: true,
            escaped_slashes: Some("REJECT_REQUEST"),
            underscores: None,
        }
    );
    for (raw, part) in [
        ("7", "object"),
        (r#"{"MergeSlashes":"yes"}"#, "MergeSlashes"),
        (
            r#"{"PathWithEscapedSlashesAction":"DROP"}"#,
            "REJECT_REQUEST",
        ),
        (r#"{"Other":true}"#, "`Other`"),
    ] {
        let error = Normalization::read(raw).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn agents_that_the_filter_cannot_ask_are_refused() {
    let with = |agent: AgentConfig| {
        let mut bootstrap = inbound(Protocol::Tcp, filter());
        bootstrap.inbound.as_mut().unwrap().policy = PolicyBy::Filter(Box::new(Filter {
            file: PathBuf::from("/x/filter.wasm"),
            agent: Some(agent),
            jwks: KeySets::default(),
            settings: Map::new(),
        }));
        bootstrap.json()
    };
    let plain = with(AgentConfig::at("http://consul.example:8500").unwrap()).unwrap();
    assert_eq!(lint(&plain.to_string()).unwrap(), []);
    for agent in [
        AgentConfig::at("http://127.0.0.1:8500/prefix").unwrap(),
        AgentConfig::at("https://127.0.0.1:8501").unwrap(),
    ] {
        assert!(matches!(with(agent), Err(BootstrapError::Agent(_))));
    }
    let tls = AgentConfig {
        ca_file: Some(PathBuf::from("/x/ca.pem")),
        ..AgentConfig::at("https://127.0.0.1:8501").unwrap()
    };
    let tls = with(tls).unwrap();
    let clusters = tls["static_resources"]["clusters"].to_string();
    assert!(clusters.contains("IP_ADDRESS"), "{clusters}");
}

#[test]
fn peers_are_verified_by_their_own_roots_or_named_by_a_gateway() {
    for (protocol, peers, roots, forwards) in [
        (Protocol::Tcp, false, "roots", Value::Null),
        (Protocol::Tcp, true, "bundles", Value::Null),
        (Protocol::Http, false, "roots", "SANITIZE_SET".into()),
        (Protocol::Http, true, "roots", "APPEND_FORWARD".into()),
    ] {
        let mut bootstrap = inbound(protocol, filter());
        if let Some(inbound) = &mut bootstrap.inbound {
            inbound.peers = peers;
        }
        let yaml = bootstrap.yaml().unwrap();
        assert_eq!(lint(&yaml).unwrap(), [], "{yaml}");
        let json = bootstrap.json().unwrap();
        let chain = &json["static_resources"]["listeners"][0]["filter_chains"][0];
        let tls = &chain["transport_socket"]["typed_config"]["common_tls_context"];
        assert_eq!(tls["validation_context_sds_secret_config"]["name"], roots);
        let filters = chain["filters"].as_array().unwrap();
        let last = &filters[filters.len() - 1]["typed_config"];
        assert_eq!(last["forward_client_cert_details"], forwards);
    }
}

#[test]
fn each_key_set_has_a_cluster_that_verifies_its_server() {
    let yaml = inbound(Protocol::Http, filter()).yaml().unwrap();
    for part in [
        "sni: \"login.example.com\"",
        "{san_type: DNS, matcher: {exact: \"login.example.com\"}}",
        "{san_type: IP_ADDRESS, matcher: {exact: \"::1\"}}",
        "address: \"login.example.com\", port_value: 443",
        "address: \"::1\", port_value: 8443",
        "trusted_ca: {filename: \"/etc/ca.pem\"}",
        "{\\\"cluster\\\":\\\"jwks_0\\\",\\\"uri\\\":\\\"https://login.example.com/keys?v=1\\\"}",
        "\\\"jwks\\\":true",
    ] {
        assert!(yaml.contains(part), "{part}: {yaml}");
    }
    assert_eq!(yaml.matches("UpstreamTlsContext").count(), 3, "{yaml}");
    let named = "name: \"jwks_0\"\n    type: LOGICAL_DNS\n    dns_lookup_family: ALL\n";
    assert!(yaml.contains(named), "{yaml}");
    assert!(
        yaml.contains("name: \"jwks_1\"\n    type: STATIC\n"),
        "{yaml}"
    );
    let tcp = inbound(Protocol::Tcp, filter()).yaml().unwrap();
    assert!(!tcp.contains("jwks"), "{tcp}");
    let mut wrong = inbound(Protocol::Http, filter());
    let mut with = |uri: &str| {
        if let Some(Inbound {
            policy: PolicyBy::Filter(filter),
            ..
        }) = &mut wrong.inbound
        {
            filter.jwks.uris = vec![uri.to_owned()];
        }
        wrong.yaml()
    };
    let plain = with("http://127.0.0.1/k").unwrap();
    assert!(
        plain.contains("address: \"127.0.0.1\", port_value: 80"),
        "{plain}"
    );
    let found = lint(&plain).unwrap();
    assert!(
        matches!(found.as_slice(), [one] if one.text.contains("without TLS")),
        "{found:?}"
    );
    let error = with("login.example.com").unwrap_err().to_string();
    assert!(error.contains("login.example.com"), "{error}");
}
