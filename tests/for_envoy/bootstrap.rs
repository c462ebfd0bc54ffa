//! `portcullis envoy bootstrap` and `lint`: what is written is valid, clean, and runs.

use std::fs;
use std::path::Path;

use portcullis_dev_agent::DevAgentConfig;
use portcullis_tests::echo::{self, Echo};
use portcullis_tests::envoy_process::{self as envoy, Envoy};
use portcullis_tests::process::eventually;
use portcullis_tests::program::{self, Said};
use portcullis_tests::{components, pair, ports};
use serde_json::{Value, json};

use crate::scene::{Agent, Dev, SOON, Server};

/// `portcullis envoy bootstrap` with these flags.
pub(crate) fn bootstrap(agent: &dyn Agent, flags: &[&str]) -> Said {
    let mut command = program::portcullis(["envoy", "bootstrap"]);
    command
        .args(flags)
        .env("CONSUL_HTTP_ADDR", agent.address().to_string());
    if let Some(token) = agent.token() {
        command.env("CONSUL_HTTP_TOKEN", token);
    }
    let said = program::run(&mut command);
    assert_eq!(said.code, Some(0), "{flags:?}: {}", said.err);
    said
}

/// Registers a proxy of `service` at this port.
pub(crate) fn register(agent: &dyn Agent, service: &str, port: u16) {
    let body = json!({
        "Kind": "connect-proxy",
        "Name": format!("{service}-proxy"),
        "Address": "127.0.0.1",
        "Port": port,
        "Proxy": { "DestinationServiceName": service },
    });
    let _ = agent.api().put("/v1/agent/service/register", &body).good();
}

fn lint(file: &Path, flags: &[&str]) -> Said {
    let mut command = program::portcullis(["envoy", "lint", "-deny", "warnings"]);
    program::run(command.args(flags).arg(file))
}

#[test]
fn what_is_written_is_valid_and_has_no_findings() {
    let Some(program) = envoy::program("what_is_written_is_valid") else {
        return;
    };
    let agent = Dev::start(DevAgentConfig::for_tests());
    register(&agent, "web", 9191);
    let entries = [
        json!({ "Kind": "service-defaults", "Name": "api", "Protocol": "http" }),
        json!({ "Kind": "service-defaults", "Name": "rpc", "Protocol": "grpc" }),
        json!({ "Kind": "mesh", "HTTP": { "Incoming": { "RequestNormalization": {
            "MergeSlashes": true, "PathWithEscapedSlashesAction": "REJECT_REQUEST", "HeadersWithUnderscoresAction": "DROP_HEADER",
        }}}}),
    ];
    for entry in entries {
        let _ = agent.api().put("/v1/config", &entry).good();
    }
    let folder = tempfile::tempdir().expect("a folder");
    let id = agent.id("far");
    let far = format!("9292=far.example:8443={id}");
    let inbound = ["-listen=127.0.0.1:8443", "-service-addr=127.0.0.1:5432"];
    let authz = "-ext-authz=unix:/run/portcullis/authz.sock";
    let filter = format!("-filter={}", components::envoy_filter().display());
    let cases: [(&str, Vec<&str>); 10] = [
        (
            "filter-tcp",
            vec!["-service=db", inbound[0], inbound[1], &filter],
        ),
        (
            "filter-http",
            vec![
                "-service=api",
                inbound[0],
                inbound[1],
                &filter,
                "-matching=envoy",
            ],
        ),
        (
            "filter-peers-tcp",
            vec!["-service=db", inbound[0], inbound[1], &filter, "-peers"],
        ),
        (
            "filter-peers-http",
            vec!["-service=api", inbound[0], inbound[1], &filter, "-peers"],
        ),
        (
            "filter-direct",
            vec![
                "-service=rpc",
                inbound[0],
                inbound[1],
                &filter,
                "-direct",
                "-default-intention-policy=deny",
            ],
        ),
        (
            "tcp",
            vec![
                "-service=db",
                inbound[0],
                inbound[1],
                authz,
                "-client-first",
            ],
        ),
        ("http", vec!["-service=api", inbound[0], inbound[1], authz]),
        (
            "grpc",
            vec![
                "-service=rpc",
                inbound[0],
                "-service-addr=unix:/run/rpc.sock",
                "-ext-authz=127.0.0.1:9000",
            ],
        ),
        (
            "web",
            vec![
                "-service=db",
                "-upstream=web:9191",
                "-static-upstream",
                &far,
            ],
        ),
        (
            "all",
            vec![
                "-service=api",
                inbound[0],
                inbound[1],
                authz,
                "-upstream=web:unix:/tmp/web.sock",
            ],
        ),
    ];
    for (name, flags) in cases {
        let said = bootstrap(&agent, &flags);
        assert!(said.out.starts_with("# Envoy for `"), "{}", said.out);
        for line in said.err.lines() {
            let sentence = line.strip_prefix("portcullis: assumed: ").expect(line);
            assert!(said.out.contains(&format!("\n# - {sentence}\n")), "{line}");
        }
        let json = [&flags[..], &["-output=json"]].concat();
        for (ending, text) in [("yaml", said.out), ("json", bootstrap(&agent, &json).out)] {
            let file = folder.path().join(format!("{name}.{ending}"));
            fs::write(&file, &text).expect("a file");
            envoy::validate(&program, &file)
                .unwrap_or_else(|said| panic!("{name}: {said}\n{text}"));
            let found = lint(&file, &[]);
            assert_eq!(found.code, Some(0), "{name}: {}", found.out);
        }
    }
    // What the mesh entry says is what Envoy does.
    let http = fs::read_to_string(folder.path().join("http.json")).expect("it is there");
    let http: Value = serde_json::from_str(&http).expect("JSON");
    let manager =
        &http["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(manager["merge_slashes"], true);
    assert_eq!(
        manager["path_with_escaped_slashes_action"],
        "REJECT_REQUEST"
    );
    // One thing changed, and the linter says where.
    let mut open = http.clone();
    open["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
        [0]["typed_config"]["failure_mode_allow"] = json!(true);
    let file = folder.path().join("open.json");
    fs::write(&file, open.to_string()).expect("a file");
    let found = lint(&file, &["-output=json"]);
    assert_eq!(found.code, Some(1), "{}", found.err);
    let found: Value = serde_json::from_str(&found.out).expect("JSON");
    assert_eq!(found["errors"], 1, "{found}");
    assert_eq!(found["findings"][0]["code"], "failure-mode-allow");
    assert_eq!(
        found["findings"][0]["path"],
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config"
    );
    let missing = lint(Path::new("/no/such/file"), &[]);
    assert_eq!(missing.code, Some(2), "{}", missing.err);
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let agent = Dev::start(DevAgentConfig::for_tests());
    for (flags, code, part) in [
        (&["-service=db"][..], 2, "-filter"),
        (&["-service=db", "-filter=/x"], 2, "-listen"),
        (
            &["-service=db", "-listen=:1", "-filter=/x"],
            2,
            "--service-addr",
        ),
        (&["-service=db", "-upstream=nobody:1"], 1, "`nobody`"),
        (
            &["-service=db", "-upstream=web:1", "-sds=127.0.0.1:1"],
            2,
            "private keys",
        ),
        (
            &[
                "-service=db",
                "-upstream=web:1",
                "-listen=:1",
                "-service-addr=127.0.0.1:1",
            ],
            2,
            "-filter or -ext-authz",
        ),
        (
            &[
                "-service=db",
                "-listen=:1",
                "-service-addr=127.0.0.1:1",
                "-protocol=http",
                "-ext-authz=127.0.0.1:9000",
                "-peers",
            ],
            2,
            "use -filter",
        ),
    ] {
        let mut command = program::portcullis(["envoy", "bootstrap"]);
        command.args(flags);
        let said = program::run(command.env("CONSUL_HTTP_ADDR", agent.address().to_string()));
        assert_eq!(said.code, Some(code), "{flags:?}: {}", said.err);
        assert!(said.err.contains(part), "{flags:?}: {}", said.err);
        assert_eq!(said.out, "");
    }
}

/// Envoys of `web` and `db`, as the command writes their configurations, with `policy` in
/// front of `db`.
pub(crate) struct Mesh {
    pub(crate) web: Envoy,
    pub(crate) db: Envoy,
    pub(crate) door: std::net::SocketAddr,
    _servers: Vec<Server>,
}

impl Mesh {
    pub(crate) fn start(
        agent: &dyn Agent,
        program: &Path,
        application: std::net::SocketAddr,
        policy: &str,
        flags: &[&str],
    ) -> Self {
        let servers =
            ["web", "db"].map(|service| Server::start("sds", agent, service, &["-relay"]));
        let [inbound, door, web_admin, db_admin] = ports::free::<4>();
        register(agent, "db", inbound);
        let sds = |server: &Server| format!("-sds=unix:{}", server.socket().display());
        let own = [
            "-service=db".to_owned(),
            format!("-listen=127.0.0.1:{inbound}"),
            format!("-service-addr={application}"),
            format!("-envoy-admin=127.0.0.1:{db_admin}"),
            sds(&servers[1]),
            policy.to_owned(),
        ];
        let own: Vec<&str> = own
            .iter()
            .map(String::as_str)
            .chain(flags.iter().copied())
            .collect();
        let db = bootstrap(agent, &own).out;
        let own = [
            "-service=web".to_owned(),
            format!("-upstream=db:{door}"),
            format!("-envoy-admin=127.0.0.1:{web_admin}"),
            sds(&servers[0]),
        ];
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let web = bootstrap(agent, &own).out;
        Self {
            db: Envoy::start_with(program, &db, "yaml", db_admin, &[]),
            web: Envoy::start_with(program, &web, "yaml", web_admin, &[]),
            door: ([127, 0, 0, 1], door).into(),
            _servers: servers.into(),
        }
    }
}

#[test]
fn a_mesh_of_two_envoys_runs_as_written() {
    let Some(program) = envoy::program("a_mesh_of_two_envoys") else {
        return;
    };
    let agent = Dev::start(DevAgentConfig::for_tests());
    pair::intention(&agent.api(), "web", "db", "allow", "");
    let app = Echo::start();
    let authz = Server::start("ext-authz", &agent, "db", &[]);
    let policy = format!("-ext-authz=unix:{}", authz.socket().display());
    let mesh = Mesh::start(&agent, &program, app.address(), &policy, &["-client-first"]);
    eventually("the way through the mesh", SOON, || {
        echo::open(mesh.door).ok()
    });

    pair::intention(&agent.api(), "web", "db", "deny", "");
    eventually("web is refused", SOON, || {
        echo::open(mesh.door).is_err().then_some(())
    });
    authz.process.logs(" access: refused ");
    let received = app.received();
    for _ in 0..5 {
        assert!(echo::open(mesh.door).is_err());
    }
    assert_eq!(app.received(), received, "not one byte of who is refused");

    pair::intention(&agent.api(), "web", "db", "allow", "");
    eventually("web is allowed again", SOON, || echo::open(mesh.door).ok());
    // Nobody passes without an answer.
    drop(authz.stop());
    assert!(echo::open(mesh.door).is_err());
    mesh.db.logs(&format!("\"peer\":\"{}\"", agent.id("web")));
    assert!(mesh.web.stat("cluster.upstream_db.ssl.handshake") > 0);
}
