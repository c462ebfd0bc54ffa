//! `-sidecar-for` and `-proxy-id` on a real Consul agent, beside Consul's own proxy.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portcullis_tests::api::Api;
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::echo::{self, Echo};
use portcullis_tests::ports;
use portcullis_tests::process::eventually;
use portcullis_tests::program;
use portcullis_tests::proxy::Proxy;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(90);

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn register(api: &Api, body: &Value) {
    let reply = api.put("/v1/agent/service/register", body);
    assert_eq!(reply.status, 200, "{body}: {}", reply.body);
}

/// A service with a sidecar that counts as healthy at once.
fn service(name: &str, app: Option<u16>, sidecar: u16, proxy: Value) -> Value {
    json!({
        "Name": name, "Port": app.unwrap_or(0),
        "Connect": {"SidecarService": {
            "Port": sidecar, "Address": "127.0.0.1", "Proxy": proxy,
            "Check": {"TTL": "10m", "Status": "passing"},
        }},
    })
}

fn upstreams(list: &[(&str, u16)]) -> Value {
    let one = |(name, port): &(&str, u16)| json!({"DestinationName": name, "LocalBindPort": port});
    Value::Array(list.iter().map(one).collect())
}

/// Opens a connection until one goes through.
fn open(address: SocketAddr, log: impl Fn() -> String) -> std::net::TcpStream {
    let began = Instant::now();
    loop {
        match echo::open(address) {
            Ok(stream) => return stream,
            Err(error) => assert!(began.elapsed() < SOON, "{error}\n{}", log()),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn follows_its_registration_beside_a_connection_that_stays() {
    let Some(consul) = Consul::start("follows_its_registration", Options::new()) else {
        return;
    };
    let api = consul.api();
    let (db_app, cache_app) = (Echo::start(), Echo::start());
    let [db_port, cache_port, web_port, to_db, to_cache] = ports::free::<5>();
    register(
        &api,
        &service("db", Some(db_app.address().port()), db_port, json!({})),
    );
    register(
        &api,
        &service(
            "cache",
            Some(cache_app.address().port()),
            cache_port,
            json!({}),
        ),
    );
    let web = |list: &[(&str, u16)], config: Value| {
        let proxy = json!({"Upstreams": upstreams(list), "Config": config});
        register(&api, &service("web", None, web_port, proxy));
    };
    web(&[("db", to_db)], json!({}));
    let theirs = Proxy::start_consul(&consul, &["-sidecar-for=db"]);
    let cache = Proxy::start(consul.address(), None, &["-sidecar-for=CACHE"]);
    let ours = Proxy::start(consul.address(), None, &["-sidecar-for", "web"]);
    let logs = || {
        format!(
            "ours:\n{}\ntheirs:\n{}\ncache:\n{}",
            ours.log(),
            theirs.log(),
            cache.log()
        )
    };

    let mut live = open(local(to_db), logs);
    assert!(echo::open(local(to_cache)).is_err(), "not an upstream yet");

    // One more, and the connection through the other goes on.
    web(&[("cache", to_cache), ("db", to_db)], json!({}));
    let mut drained = open(local(to_cache), logs);
    echo::exchange(&mut live).expect("undisturbed by an added upstream");
    assert_eq!(db_app.accepted(), 1, "never dialled again");

    // A change that cannot be done is refused by name, and what was before stays.
    web(
        &[],
        json!({"protocol": "http", "local_request_timeout_ms": 7, "envoy_extra_static_listeners_json": "{}"}),
    );
    ours.logs("Proxy.Config.local_request_timeout_ms");
    ours.logs("Proxy.Config.envoy_extra_static_listeners_json");
    drop(open(local(to_cache), logs));
    echo::exchange(&mut live).expect("undisturbed by a refused change");

    // One less: its listener is gone, its connection may end in peace.
    web(&[("db", to_db)], json!({}));
    eventually("the listener is gone", SOON, || {
        std::net::TcpStream::connect(local(to_cache))
            .is_err()
            .then_some(())
    });
    ours.logs("can be done again");
    echo::exchange(&mut drained).expect("a removed upstream drains");
    echo::exchange(&mut live).expect("undisturbed by a removed upstream");

    // A listener that cannot be bound harms no other, and is bound once it can be.
    let blocker = std::net::TcpListener::bind(local(to_cache)).expect("a free port");
    let [another] = ports::free::<1>();
    let mut three = upstreams(&[("cache", to_cache), ("cache", another), ("db", to_db)]);
    three[1]["Datacenter"] = json!("dc1");
    let proxy = json!({"Upstreams": three});
    register(&api, &service("web", None, web_port, proxy));
    ours.logs("in use by another program");
    drop(open(local(another), logs));
    drop(blocker);
    drop(open(local(to_cache), logs));
    echo::exchange(&mut live).expect("undisturbed to the end");

    // The registration goes, and its last settings stay in use.
    let _ = api.put_empty("/v1/agent/service/deregister/web").good();
    ours.logs("the registration is gone");
    drop(open(local(another), logs));
    web(&[("db", to_db)], json!({}));
    ours.logs("there again");
    eventually("it is followed again", SOON, || {
        std::net::TcpStream::connect(local(another))
            .is_err()
            .then_some(())
    });
}

#[test]
fn consuls_sidecar_calls_ours_and_its_application_moves() {
    let Some(consul) = Consul::start("consuls_sidecar_calls_ours", Options::new()) else {
        return;
    };
    let api = consul.api();
    let (first, second) = (Echo::start(), Echo::start());
    let [db_port, moved, web_port, to_db] = ports::free::<4>();
    register(
        &api,
        &service(
            "db",
            Some(first.address().port()),
            db_port,
            json!({"Config": {"handshake_timeout_ms": 5000}}),
        ),
    );
    register(
        &api,
        &service(
            "web",
            None,
            web_port,
            json!({"Upstreams": upstreams(&[("db", to_db)])}),
        ),
    );
    let ours = Proxy::start(consul.address(), None, &["-proxy-id=db-sidecar-proxy"]);
    let theirs = Proxy::start_consul(&consul, &["-sidecar-for=web"]);
    let logs = || format!("ours:\n{}\ntheirs:\n{}", ours.log(), theirs.log());
    let mut live = open(local(to_db), logs);
    assert_eq!((first.accepted(), second.accepted()), (1, 0));

    register(
        &api,
        &service("db", Some(second.address().port()), db_port, json!({})),
    );
    eventually("new connections meet the new application", SOON, || {
        drop(echo::open(local(to_db)));
        (second.accepted() > 0).then_some(())
    });
    register(
        &api,
        &service("db", Some(second.address().port()), moved, json!({})),
    );
    eventually("the old place is closed", SOON, || {
        std::net::TcpStream::connect(local(db_port))
            .is_err()
            .then_some(())
    });
    drop(open(local(to_db), logs));
    echo::exchange(&mut live).expect("a running connection is not disturbed");

    // Its identity is for life.
    register(
        &api,
        &json!({"Kind": "connect-proxy", "ID": "db-sidecar-proxy", "Name": "x", "Port": moved,
        "Proxy": {"DestinationServiceName": "other", "LocalServicePort": 1}}),
    );
    ours.logs("a running proxy keeps its identity");
    echo::exchange(&mut live).expect("a running connection is not disturbed");
}

#[test]
fn consuls_own_checks_find_our_listener() {
    let Some(consul) = Consul::start("consuls_own_checks", Options::new()) else {
        return;
    };
    let api = consul.api();
    let app = Echo::start();
    let [port] = ports::free::<1>();
    register(
        &api,
        &json!({"Name": "db", "Port": app.address().port(), "Connect": {"SidecarService": {"Port": port}}}),
    );
    let ours = Proxy::start(consul.address(), None, &["-sidecar-for=db"]);
    eventually("the sidecar is healthy", SOON, || {
        let list = api.get("/v1/health/connect/db?passing").good().json();
        (!list.as_array().expect("a list").is_empty()).then_some(())
    });
    // A check that connects and leaves is no client.
    assert!(!ours.log().contains("\"allowed\""), "{}", ours.log());
}

#[test]
fn what_is_missing_or_refused_is_said_at_once() {
    let Some(consul) = Consul::start("what_is_missing", Options::new()) else {
        return;
    };
    let api = consul.api();
    let proxy = |id: &str, destination: &str, extra: Value| {
        let mut body = json!({"Kind": "connect-proxy", "ID": id, "Name": id, "Port": 21000,
            "Proxy": {"DestinationServiceName": destination, "DestinationServiceID": destination, "LocalServicePort": 1}});
        for (name, value) in extra.as_object().into_iter().flatten() {
            body["Proxy"][name] = value.clone();
        }
        register(&api, &body);
    };
    register(&api, &json!({"Name": "plain", "Port": 1}));
    proxy("one", "twice", json!({}));
    proxy("two", "TWICE", json!({}));
    proxy(
        "captured",
        "captured",
        json!({
            "Mode": "transparent",
            "Expose": {"Paths": [{"Path": "/health", "LocalPathPort": 1, "ListenerPort": 21500}]},
            "MeshGateway": {"Mode": "local"},
            "Config": {"local_request_timeout_ms": 5},
            "Upstreams": [
                {"DestinationName": "q", "DestinationType": "prepared_query", "LocalBindPort": 9191},
                {"DestinationName": "p", "DestinationPeer": "east", "LocalBindPort": 9192, "Config": {"passive_health_check": {"max_failures": 1}}},
            ],
        }),
    );
    let said = |flags: &[&str], variables: &[(&str, &str)]| {
        let mut command = program::portcullis(["proxy"]);
        command
            .args(flags)
            .env("CONSUL_HTTP_ADDR", consul.address().to_string())
            .envs(variables.iter().copied());
        program::run(&mut command)
    };
    let refused = |flags: &[&str], variables: &[(&str, &str)], parts: &[&str]| {
        let said = said(flags, variables);
        assert_eq!(said.code, Some(1), "{flags:?}: {}", said.err);
        for part in parts {
            assert!(
                said.err.contains(part),
                "{flags:?}: no `{part}` in {}",
                said.err
            );
        }
    };
    refused(
        &["-sidecar-for=nobody"],
        &[],
        &["`nobody`", "sidecar_service"],
    );
    refused(
        &["-sidecar-for=plain"],
        &[],
        &["no proxy is registered", "`plain`"],
    );
    refused(&["-sidecar-for=twice"], &[], &["one, two", "-proxy-id"]);
    refused(&[], &[("CONNECT_SIDECAR_FOR", "nobody")], &["`nobody`"]);
    refused(&["-proxy-id=nobody"], &[], &["`nobody`", "register it"]);
    refused(
        &[],
        &[("CONNECT_PROXY_ID", "plain"), ("CONNECT_SIDECAR_FOR", "x")],
        &["`plain`", "not a proxy"],
    );
    refused(
        &["-sidecar-for=captured"],
        &[],
        &[
            "`Proxy.Mode`",
            "`Proxy.Expose`",
            "`Proxy.MeshGateway.Mode`",
            "`Proxy.Config.local_request_timeout_ms`",
            "`Proxy.Upstreams[0].DestinationType (`q`)`",
            "`Proxy.Upstreams[1].DestinationPeer (`p`)`",
            "`Proxy.Upstreams[1].Config.passive_health_check`",
        ],
    );
    let clash = said(
        &["-service=web", "-upstream=db:1"],
        &[("CONNECT_SIDECAR_FOR", "x")],
    );
    assert_eq!(clash.code, Some(2), "{}", clash.err);
    assert!(
        clash.err.contains("CONNECT_SIDECAR_FOR") && clash.err.contains("-service"),
        "{}",
        clash.err
    );
}

#[test]
fn central_configuration_is_honoured_or_refused_too() {
    let Some(consul) = Consul::start("central_configuration", Options::new()) else {
        return;
    };
    let api = consul.api();
    let (db_app, [db_port, web_port, to_db]) = (Echo::start(), ports::free::<3>());
    register(
        &api,
        &service("db", Some(db_app.address().port()), db_port, json!({})),
    );
    register(
        &api,
        &service(
            "web",
            None,
            web_port,
            json!({"Upstreams": upstreams(&[("db", to_db)])}),
        ),
    );
    let db = Proxy::start(consul.address(), None, &["-sidecar-for=db"]);
    let web = Proxy::start(consul.address(), None, &["-sidecar-for=web"]);
    let logs = || format!("db:\n{}\nweb:\n{}", db.log(), web.log());
    let mut live = open(local(to_db), logs);
    let write = |body: Value| {
        let reply = api.put("/v1/config", &body);
        assert_eq!(reply.status, 200, "{}", reply.body);
    };
    write(
        json!({"Kind": "service-defaults", "Name": "db", "MaxInboundConnections": 7, "LocalConnectTimeoutMs": 900}),
    );
    db.logs("the registration has changed");
    write(
        json!({"Kind": "proxy-defaults", "Name": "global", "Config": {"envoy_prometheus_bind_addr": "0.0.0.0:9102"}}),
    );
    db.logs("Proxy.Config.envoy_prometheus_bind_addr");
    web.logs("Proxy.Config.envoy_prometheus_bind_addr");
    drop(open(local(to_db), logs));
    echo::exchange(&mut live).expect("undisturbed");
}

#[test]
fn works_with_the_smallest_acl_policy_that_it_prints() {
    let Some(consul) = Consul::start("sidecar_acl", Options::new().with_acls()) else {
        return;
    };
    let api = consul.api();
    let (app, [db_port, web_port, to_db]) = (Echo::start(), ports::free::<3>());
    register(
        &api,
        &service("db", Some(app.address().port()), db_port, json!({})),
    );
    register(
        &api,
        &service(
            "web",
            None,
            web_port,
            json!({"Upstreams": upstreams(&[("db", to_db)])}),
        ),
    );
    let rules = |id: &str| {
        let mut command = program::portcullis(["proxy", "-print-acl-policy"]);
        command
            .arg(format!("-sidecar-for={id}"))
            .env("CONSUL_HTTP_ADDR", consul.address().to_string())
            .env(
                "CONSUL_HTTP_TOKEN",
                portcullis_tests::consul::MANAGEMENT_TOKEN,
            );
        let said = program::run(&mut command);
        assert_eq!(said.code, Some(0), "{}", said.err);
        said.out
    };
    let (db_token, web_token) = (
        consul.token("db", &rules("db")),
        consul.token("web", &rules("web")),
    );
    let db = Proxy::start(consul.address(), Some(&db_token), &["-sidecar-for=db"]);
    let web = Proxy::start(consul.address(), Some(&web_token), &["-sidecar-for=web"]);
    let path = "/v1/connect/intentions/exact?source=web&destination=db";
    let _ = api
        .put(path, &json!({"SourceType": "consul", "Action": "allow"}))
        .good();
    drop(open(local(to_db), || {
        format!("db:\n{}\nweb:\n{}", db.log(), web.log())
    }));
}

#[test]
fn registers_from_a_file_with_the_smallest_acl_policy() {
    let Some(consul) = Consul::start("sidecar_file_acl", Options::new().with_acls()) else {
        return;
    };
    let api = consul.api();
    let (app, [db_port, web_port, to_db]) = (Echo::start(), ports::free::<3>());
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file is written");
        path.display().to_string()
    };
    let healthy = "check { ttl = \"10m\" status = \"passing\" }";
    let db_file = write(
        "db.hcl",
        format!(
            "service {{ name = \"db\" port = {} connect {{ sidecar_service {{ port = {db_port} {healthy} }} }} }}",
            app.address().port()
        ),
    );
    let web_service = |token: &str| {
        format!(
            "service {{ name = \"web\" {token} connect {{ sidecar_service {{ port = {web_port} {healthy} proxy {{ upstreams = [{{ destination_name = \"db\" local_bind_port = {to_db} }}] }} }} }} }}"
        )
    };
    let web_file = write("web.hcl", web_service(""));
    // No agent is asked for that.
    let rules = |file: &str| {
        let said = program::run(&mut program::portcullis([
            "proxy",
            "-register",
            "-print-acl-policy",
            "-http-addr=127.0.0.1:1",
            "-service-file",
            file,
        ]));
        assert_eq!(said.code, Some(0), "{}", said.err);
        said.out
    };
    let (db_token, web_token) = (
        consul.token("db", &rules(&db_file)),
        consul.token("web", &rules(&web_file)),
    );
    let web_file = write("web.hcl", web_service(&format!("token = \"{web_token}\"")));
    let mut db = Proxy::start(
        consul.address(),
        Some(&db_token),
        &["-register", "-service-file", &db_file],
    );
    let web = Proxy::start(
        consul.address(),
        Some(&web_token),
        &["-register", "-service-file", &web_file],
    );
    let path = "/v1/connect/intentions/exact?source=web&destination=db";
    let _ = api
        .put(path, &json!({"SourceType": "consul", "Action": "allow"}))
        .good();
    drop(open(local(to_db), || {
        format!("db:\n{}\nweb:\n{}", db.log(), web.log())
    }));
    assert!(!web.log().contains(&web_token), "a token is in the log");
    assert_eq!(db.stop(), Some(0), "{}", db.log());
    assert_eq!(api.get("/v1/agent/service/db").status, 404, "{}", db.log());

    // One that cannot start leaves nothing behind.
    let taken = std::net::TcpListener::bind(local(db_port)).expect("a free port");
    let mut command = program::portcullis(["proxy", "-register", "-service-file", &db_file]);
    command
        .env("CONSUL_HTTP_ADDR", consul.address().to_string())
        .env("CONSUL_HTTP_TOKEN", &db_token);
    let said = program::run(&mut command);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("in use"), "{}", said.err);
    assert_eq!(api.get("/v1/agent/service/db").status, 404, "{}", said.err);
    drop(taken);
    // What the file's token may not do is said.
    let wrong = write(
        "wrong.hcl",
        "service { name = \"other\" token = \"no-such-token\" connect { sidecar_service {} } }"
            .to_owned(),
    );
    let mut command = program::portcullis(["proxy", "-register", "-service-file", &wrong]);
    let said = program::run(command.env("CONSUL_HTTP_ADDR", consul.address().to_string()));
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(
        said.err.contains("ACL not found") && !said.err.contains("no-such-token"),
        "{}",
        said.err
    );
}
