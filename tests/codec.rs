//! Every request that the core writes, and every reply that it reads, with the development
//! agent and with a real Consul agent.

use std::net::SocketAddr;

use portcullis::agent_client::{AgentClient, AgentConfig, AgentReply, Secret, TokenSource};
use portcullis_core::agent::registration::{self, Registration, Role, TtlCheck};
use portcullis_core::agent::{
    After, AllowDeny, Consistency, HttpRequest, Query, ReplyError, accepted, authorize, config,
    default_policy, default_policy::Discovery, health, intentions, leaf, matches, roots, self_info,
    service,
};
use portcullis_core::watch::Position;
use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig, Token};
use portcullis_tests::consul::{Consul, MANAGEMENT_TOKEN, Options};
use serde_json::json;

const NOW: &Query = &Query {
    after: After::Nothing,
    wait_ms: 0,
    datacenter: None,
    namespace: None,
    partition: None,
    consistency: Consistency::Leader,
};

fn client(agent: SocketAddr, token: Option<&str>) -> AgentClient {
    let mut config = AgentConfig::at(&agent.to_string()).expect("an address");
    config.token = token.map_or(TokenSource::None, |token| {
        TokenSource::Value(Secret::new(token))
    });
    AgentClient::new(config).expect("a client")
}

async fn send(client: &AgentClient, request: &HttpRequest) -> AgentReply {
    client.execute(request).await.expect("the agent answers")
}

async fn done(client: &AgentClient, request: HttpRequest) {
    let reply = send(client, &request).await;
    accepted(&reply.as_core())
        .unwrap_or_else(|error| panic!("{}: {error}", request.path_and_query));
}

async fn discover(client: &AgentClient) -> (Discovery, Discovery) {
    let about = self_info::decode(&send(client, &self_info::request()).await.as_core());
    let roots = roots::decode(&send(client, &roots::request(NOW)).await.as_core()).expect("roots");
    let probe = default_policy::probe("db", &roots.trust_domain, 7).expect("a probe");
    let answer = authorize::decode(&send(client, &probe).await.as_core());
    (
        default_policy::from_self(&about),
        default_policy::from_probe(&answer),
    )
}

/// All of the codec, in an order in which each step has something to read.
async fn everything(client: &AgentClient) {
    let about = send(client, &self_info::request()).await;
    assert!(about.as_core().is_consul());
    let about = self_info::decode(&about.as_core()).expect("self");
    assert_eq!(
        (about.datacenter.as_str(), about.connect_enabled),
        ("dc1", Some(true))
    );
    let known = ["1.22.", "1.20."];
    assert!(
        known.iter().any(|line| about.version.starts_with(line)),
        "{about:?}"
    );

    // Roots and leaf, and the index to block on.
    let reply = send(client, &roots::request(NOW)).await;
    let roots = roots::decode(&reply.as_core()).expect("roots");
    assert!(Position::of(&reply.as_core()).index > Some(0));
    assert!(
        roots
            .pems()
            .all(|pem| pem.starts_with("-----BEGIN CERTIFICATE-----"))
    );
    let reply = send(client, &leaf::request("web", NOW).expect("a name")).await;
    let leaf = leaf::decode(&reply.as_core(), "web").expect("a leaf");
    assert_eq!(
        leaf.uri,
        format!("spiffe://{}/ns/default/dc/dc1/svc/web", roots.trust_domain)
    );
    assert!(leaf.valid_after < leaf.valid_before);
    let index = reply.as_core().index().expect("a leaf has an index");
    let blocking = Query::blocking(After::Index(index), 1_000);
    let again = send(client, &leaf::request("web", &blocking).expect("a name")).await;
    let again = leaf::decode(&again.as_core(), "web").expect("a leaf after the wait");
    assert_eq!(again.serial, leaf.serial);

    // Intentions: write, list, read, match, judge, remove.
    let put = |source, action| intentions::put(source, "db", action, "by a test").expect("names");
    done(client, put("web", AllowDeny::Allow)).await;
    done(client, put("*", AllowDeny::Deny)).await;
    let list = send(client, &intentions::list(NOW)).await;
    let list = intentions::decode_list(&list.as_core()).expect("a list");
    let read: Vec<_> = list
        .iter()
        .map(|one| (one.source.1.as_str(), one.action, one.precedence))
        .collect();
    assert_eq!(
        read,
        [
            ("web", Some(AllowDeny::Allow), 9),
            ("*", Some(AllowDeny::Deny), 8)
        ]
    );
    let exact = send(client, &intentions::exact("web", "db").expect("names")).await;
    assert_eq!(
        intentions::decode_exact(&exact.as_core())
            .expect("one")
            .description,
        "by a test"
    );
    let names = ["db", "default/db", "nobody"];
    let query = Query {
        consistency: Consistency::Consistent,
        ..NOW.clone()
    };
    let reply = send(client, &matches::request(&names, &query).expect("names")).await;
    let core = reply.as_core();
    let split = matches::decode(&core, &names).expect("a match reply");
    assert!(split.unexpected.is_empty() && Position::of(&core).index > Some(0));
    let lists: Vec<_> = split
        .lists
        .into_iter()
        .map(|(_, list)| list.expect("a list").json)
        .collect();
    assert!(
        lists[0].contains("\"web\"") && lists[1].contains("\"web\""),
        "{lists:?}"
    );
    assert_eq!(lists[2], "null");
    for (source, allowed) in [("web", true), ("api", false)] {
        let uri = format!(
            "spiffe://{}/ns/default/dc/dc1/svc/{source}",
            roots.trust_domain
        );
        let asked = authorize::request("db", &uri, "01:02").expect("a name");
        let answer = authorize::decode(&send(client, &asked).await.as_core()).expect("an answer");
        assert_eq!(
            (answer.authorized, answer.by_default()),
            (allowed, false),
            "{answer:?}"
        );
        let asked = intentions::check(source, "db").expect("names");
        assert_eq!(
            intentions::decode_check(&send(client, &asked).await.as_core()),
            Ok(allowed)
        );
    }
    done(client, intentions::delete("web", "db").expect("names")).await;
    let gone = send(client, &intentions::exact("web", "db").expect("names")).await;
    assert!(intentions::decode_exact(&gone.as_core()).is_err_and(|error| error.is_not_found()));
    done(client, intentions::delete("*", "db").expect("names")).await;

    // Config entries; absence is Consul's default.
    let protocol = config::get("service-defaults", "db", NOW).expect("names");
    let none = send(client, &protocol).await;
    assert_eq!(
        config::decode_protocol(&none.as_core()),
        Ok("tcp".to_owned())
    );
    done(
        client,
        config::put(
            &json!({"Kind": "service-defaults", "Name": "db", "Protocol": "HTTP"}),
            None,
        ),
    )
    .await;
    let set = send(client, &protocol).await;
    assert_eq!(
        config::decode_protocol(&set.as_core()),
        Ok("http".to_owned())
    );
    done(
        client,
        config::delete("service-defaults", "db").expect("names"),
    )
    .await;
    let mesh = config::get("mesh", "mesh", NOW).expect("names");
    assert_eq!(
        config::decode_normalization(&send(client, &mesh).await.as_core()),
        Ok(None)
    );

    services(client).await;
}

/// A native service and a proxy with a TTL check, from registration to removal.
async fn services(client: &AgentClient) {
    let native = Registration {
        id: "redis-1".into(),
        name: "redis".into(),
        address: String::new(),
        port: 8000,
        tags: vec!["t".into()],
        meta: vec![("by".into(), "a test".into())],
        role: Role::Native,
        check: None,
    };
    let proxy = Registration {
        id: "redis-proxy".into(),
        name: "redis-proxy".into(),
        address: "127.0.0.9".into(),
        port: 20_000,
        role: Role::Proxy {
            destination: "redis".into(),
            destination_id: Some("redis-1".into()),
            local: Some(("127.0.0.1".into(), 8000)),
        },
        check: Some(TtlCheck {
            id: "redis-proxy-ttl".into(),
            name: "proxy".into(),
            ttl_ms: 30_000,
            deregister_after_ms: Some(60_000),
        }),
        ..native.clone()
    };
    for registration in [&native, &proxy] {
        done(
            client,
            registration::register(registration).expect("a registration"),
        )
        .await;
    }
    let critical = instances(client, 2).await;
    assert_eq!(
        critical
            .usable()
            .map(|one| one.id.as_str())
            .collect::<Vec<_>>(),
        ["redis-1"]
    );
    done(
        client,
        registration::warn("redis-proxy-ttl", "").expect("an ID"),
    )
    .await;
    done(
        client,
        registration::pass("redis-proxy-ttl", "all well").expect("an ID"),
    )
    .await;
    let mut passing = instances(client, 2).await;
    for _ in 0..200 {
        if passing.usable().count() == 2 {
            break;
        }
        // The agent tells its servers in the background.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        passing = instances(client, 2).await;
    }
    let mut read: Vec<_> = passing
        .usable()
        .map(|one| {
            (
                one.id.as_str(),
                one.address.as_str(),
                one.port,
                one.service.as_str(),
                one.native,
            )
        })
        .collect();
    read.sort_unstable();
    let expected = [
        ("redis-1", "127.0.0.1", 8000, "redis", true),
        ("redis-proxy", "127.0.0.9", 20_000, "redis", false),
    ];
    assert_eq!(read, expected);
    assert!(
        passing
            .all
            .iter()
            .all(|one| one.datacenter == "dc1" && one.weight == 1)
    );

    let asked = service::request("redis-proxy", NOW).expect("an ID");
    let reply = send(client, &asked).await;
    let read = service::decode(&reply.as_core()).expect("a service");
    assert_eq!(
        Position::of(&reply.as_core()).hash.as_ref(),
        Some(&read.content_hash)
    );
    let behind = read.proxy.expect("a proxy has something behind it");
    assert_eq!(
        (behind.destination.as_str(), behind.local_port),
        ("redis", 8000)
    );
    let blocking = Query::blocking(After::Hash(read.content_hash.clone()), 1_000);
    let reply = send(
        client,
        &service::request("redis-proxy", &blocking).expect("an ID"),
    )
    .await;
    assert!(service::decode(&reply.as_core()).is_ok());

    done(
        client,
        registration::fail("redis-proxy-ttl", "bye").expect("an ID"),
    )
    .await;
    for id in ["redis-1", "redis-proxy"] {
        done(client, registration::deregister(id).expect("an ID")).await;
    }
    let gone = send(client, &asked).await;
    assert!(service::decode(&gone.as_core()).is_err_and(|error| error.is_not_found()));
    let gone = send(
        client,
        &registration::pass("redis-proxy-ttl", "").expect("an ID"),
    )
    .await;
    assert!(accepted(&gone.as_core()).is_err_and(|error| error.is_not_found()));
}

async fn instances(client: &AgentClient, wanted: usize) -> health::Instances {
    for _ in 0..200 {
        let reply = send(client, &health::request("redis", NOW).expect("a name")).await;
        let read = health::decode(&reply.as_core()).expect("instances");
        assert_eq!(read.refused, []);
        if read.all.len() == wanted {
            return read;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{wanted} instances do not show");
}

fn known(policy: AllowDeny, source: &'static str) -> Discovery {
    Discovery::Known { policy, source }
}

/// With ACLs: what a small token learns, and what a refusal looks like.
async fn access(management: &AgentClient, small: &AgentClient, none: &AgentClient) {
    let deny = |source| known(AllowDeny::Deny, source);
    assert_eq!(
        discover(management).await,
        (deny("agent/self"), deny("probe"))
    );
    assert_eq!(discover(small).await, (Discovery::Probe, deny("probe")));
    let (about, probed) = discover(none).await;
    assert_eq!(about, Discovery::Probe);
    assert!(matches!(probed, Discovery::Refused { because } if because.contains("403")));
    let reply = send(none, &matches::request(&["db"], NOW).expect("a name")).await;
    let error = matches::decode(&reply.as_core(), &["db"]).expect_err("it is refused");
    assert!(
        matches!(&error, ReplyError::Status { status: 403, message } if message.contains("Permission denied"))
    );
    assert_eq!(
        reply.as_core().index(),
        None,
        "the index of a refusal means nothing"
    );
    assert!(reply.as_core().is_consul());
}

const RULES: &str = r#"service "db" { policy = "write" }"#;

async fn dev(config: DevAgentConfig) -> DevAgent {
    DevAgent::start(config)
        .await
        .expect("the development agent starts")
}

#[tokio::test]
async fn the_development_agent_understands_everything() {
    let agent = dev(DevAgentConfig::for_tests()).await;
    let client = client(agent.address(), None);
    everything(&client).await;
    let allow = |source| known(AllowDeny::Allow, source);
    assert_eq!(
        discover(&client).await,
        (allow("agent/self"), allow("probe"))
    );
}

#[tokio::test]
async fn the_development_agent_refuses_as_consul_does() {
    let agent = dev(DevAgentConfig {
        default_policy: DefaultPolicy::Deny,
        tokens: vec![
            Token::management(MANAGEMENT_TOKEN),
            Token::with_rules("small", RULES),
        ],
        ..DevAgentConfig::for_tests()
    })
    .await;
    let to = |token| client(agent.address(), token);
    access(&to(Some(MANAGEMENT_TOKEN)), &to(Some("small")), &to(None)).await;
}

#[tokio::test]
async fn consul_understands_everything() {
    let Some(consul) = Consul::start("consul_understands_everything", Options::new()) else {
        return;
    };
    let client = client(consul.address(), None);
    everything(&client).await;
    let allow = |source| known(AllowDeny::Allow, source);
    assert_eq!(
        discover(&client).await,
        (allow("agent/self"), allow("probe"))
    );
}

#[tokio::test]
async fn consul_refuses_by_its_acls() {
    let test = "consul_refuses_by_its_acls";
    let Some(consul) = Consul::start(test, Options::new().with_acls()) else {
        return;
    };
    let token = consul.token("db", RULES);
    let to = |token| client(consul.address(), token);
    access(&to(Some(MANAGEMENT_TOKEN)), &to(Some(&token)), &to(None)).await;
}

/// The default for intentions is not that of ACLs, and rules for everybody do not hide it.
#[tokio::test]
async fn the_default_for_intentions_is_found_behind_rules_for_everybody() {
    let test = "the_default_for_intentions_is_found_behind_rules_for_everybody";
    let options = Options::new().with_config("default_intention_policy = \"deny\"");
    let Some(consul) = Consul::start(test, options) else {
        return;
    };
    let client = client(consul.address(), None);
    done(
        &client,
        intentions::put("*", "db", AllowDeny::Allow, "").expect("names"),
    )
    .await;
    let deny = |source| known(AllowDeny::Deny, source);
    assert_eq!(discover(&client).await, (deny("agent/self"), deny("probe")));
}
