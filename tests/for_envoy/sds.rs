//! `portcullis sds`: Envoy's certificates come, rotate and stay.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use envoy_types::pb::google::rpc;
use portcullis_dev_agent::{DevAgentConfig, Fault};
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::echo::{self, Echo};
use portcullis_tests::envoy_process::{self as envoy, Envoy};
use portcullis_tests::load::Load;
use portcullis_tests::process::eventually;
use portcullis_tests::{ports, program};
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::scene::{Agent, Dev, SOON, Server, WithAcls};

/// `web`'s and `db`'s Envoys in one process: the way from `door` to `app` goes through mTLS.
fn mesh(agent: &dyn Agent, web: &Path, db: &Path, app: &Echo, ports: [u16; 3]) -> Value {
    let [admin, door, inbound] = ports;
    let db_id = agent.id("db");
    let inbound_at = envoy::address(([127, 0, 0, 1], inbound).into());
    json!({
        "admin": envoy::admin(admin),
        "static_resources": {
            "listeners": [
                envoy::listener("public_listener", inbound, Some(envoy::downstream_tls("sds_db")), &[envoy::tcp_proxy("app")]),
                envoy::listener("door", door, None, &[envoy::tcp_proxy("db")]),
            ],
            "clusters": [
                envoy::grpc_cluster("sds_web", web),
                envoy::grpc_cluster("sds_db", db),
                envoy::cluster("app", envoy::address(app.address()), json!({})),
                envoy::cluster("db", inbound_at, json!({ "transport_socket": envoy::upstream_tls("sds_web", &db_id) })),
            ],
        },
    })
}

/// The serial numbers of all leaf certificates that Envoy has.
pub(crate) fn serials(envoy: &Envoy) -> Vec<String> {
    let certs: Value = serde_json::from_str(&envoy.admin("/certs")).expect("JSON");
    let chains = certs["certificates"].as_array().expect("certificates");
    let first = chains
        .iter()
        .filter_map(|one| one["cert_chain"][0]["serial_number"].as_str());
    let mut serials: Vec<_> = first.map(str::to_owned).collect();
    serials.sort();
    serials
}

fn rotates_under_load(agent: &dyn Agent, envoy_program: &Path) {
    let app = Echo::start();
    let (web, db) = (
        Server::start("sds", agent, "web", &[]),
        Server::start("sds", agent, "db", &[]),
    );
    let ports = ports::free::<3>();
    let config = mesh(agent, web.socket(), db.socket(), &app, ports);
    let envoy = Envoy::start(envoy_program, &config, ports[0]);
    let door = ([127, 0, 0, 1], ports[1]).into();
    eventually("the way through the mesh", SOON, || echo::open(door).ok());
    let mut live = echo::open(door).expect("a connection");
    let load = Load::start(door);
    for (turn, bits) in [(1, 384), (2, 256)] {
        let before = serials(&envoy);
        assert_eq!(before.len(), 2, "{before:?}");
        let counts = load.during(60, || {
            agent.rotate(bits);
            eventually("both leaves are new", SOON, || {
                let now = serials(&envoy);
                now.iter()
                    .all(|serial| !before.contains(serial))
                    .then_some(())
            });
        });
        assert_eq!(
            counts.failed(),
            0,
            "rotation {turn}: {counts}\n{}\n{}",
            web.process.log(),
            db.process.log()
        );
        let after = load.next(60);
        assert_eq!(after.failed(), 0, "after rotation {turn}: {after}");
    }
    let total = load.total();
    assert_eq!(total.failed(), 0, "{total}");
    echo::exchange(&mut live).expect("a connection from before the rotations");
    for (name, count) in envoy.stats("ssl.") {
        let bad = [
            "connection_error",
            "fail_verify_cert_hash",
            "fail_verify_error",
            "fail_verify_no_cert",
            "fail_verify_san",
        ];
        if bad.iter().any(|bad| name.ends_with(bad)) {
            assert_eq!(count, 0, "{name}");
        }
    }
    let handshakes = envoy.stat("cluster.db.ssl.handshake");
    assert!(
        handshakes >= total.passed,
        "{handshakes} handshakes for {} connections",
        total.passed
    );
    assert_eq!(
        envoy.stat("cluster.db.ssl.session_reused"),
        0,
        "each was a whole one"
    );
    let updates = envoy.stats("ssl_context_update_by_sds");
    assert!(
        updates.len() == 2 && updates.iter().all(|(_, count)| *count >= 3),
        "{updates:?}"
    );
    // The keys are in Envoy, and are not told.
    let dump = envoy.admin("/config_dump");
    assert!(dump.contains("dynamic_active_secrets"), "{dump}");
    for key in [
        "PRIVATE KEY",
        "LS0tLS1CRUdJTiBQUklWQVRF",
        "LS0tLS1CRUdJTiBFQyBQUklWQVRF",
    ] {
        assert!(!dump.contains(key), "{dump}");
    }
    for server in [web, db] {
        let log = server.process.log();
        assert!(!log.contains("PRIVATE KEY"), "{log}");
        assert!(!log.contains("refuses"), "{log}");
        drop(server.stop());
    }
}

#[test]
fn two_rotations_under_load_fail_no_handshake() {
    let Some(program) = envoy::program("two_rotations_under_load") else {
        return;
    };
    rotates_under_load(&Dev::start(DevAgentConfig::for_tests()), &program);
}

#[test]
fn two_rotations_of_consul_under_load_fail_no_handshake() {
    let name = "two_rotations_of_consul_under_load";
    let (Some(program), Some(consul)) = (
        envoy::program(name),
        Consul::start(name, Options::new().with_acls()),
    ) else {
        return;
    };
    rotates_under_load(&WithAcls(consul), &program);
}

#[test]
fn envoy_keeps_what_it_has_while_the_server_is_gone_and_learns_afterwards() {
    let Some(program) = envoy::program("envoy_keeps_what_it_has") else {
        return;
    };
    let agent = Dev::start(DevAgentConfig::for_tests());
    let app = Echo::start();
    let (web, db) = (
        Server::start("sds", &agent, "web", &[]),
        Server::start("sds", &agent, "db", &[]),
    );
    let ports = ports::free::<3>();
    let config = mesh(&agent, web.socket(), db.socket(), &app, ports);
    let envoy = Envoy::start(&program, &config, ports[0]);
    let door = ([127, 0, 0, 1], ports[1]).into();
    eventually("the way through the mesh", SOON, || echo::open(door).ok());
    let load = Load::start(door);
    let before = serials(&envoy);
    let folder = db.stop();
    assert!(!folder.path().join("socket").exists(), "the socket stays");
    let counts = load.next(40);
    assert_eq!(counts.failed(), 0, "without a server: {counts}");
    // What a server that died left behind is replaced.
    let stale = std::os::unix::net::UnixListener::bind(folder.path().join("socket"));
    drop(stale.expect("a socket"));
    agent.rotate(384);
    let db = Server::start_in(folder, "sds", &agent, "db", &[]);
    db.process.logs("ready: ");
    eventually("both leaves are new", SOON, || {
        let now = serials(&envoy);
        now.iter()
            .all(|serial| !before.contains(serial))
            .then_some(())
    });
    let counts = load.next(40);
    assert_eq!(counts.failed(), 0, "after its return: {counts}");
}

#[test]
fn certificates_come_when_the_agent_gives_them_late() {
    let Some(program) = envoy::program("certificates_come_when_the_agent_gives_them_late") else {
        return;
    };
    let agent = Dev::start(DevAgentConfig::for_tests());
    let missing = Fault::Status(500, "no leader".to_owned());
    let leaf = "/v1/agent/connect/ca/leaf/db";
    agent.agent.inject_until_cleared(leaf, missing);
    let app = Echo::start();
    let web = Server::start("sds", &agent, "web", &[]);
    let folder = tempfile::tempdir().expect("a folder");
    let late = Server::start_in(folder, "sds", &agent, "db", &[]);
    late.process.logs("certificates for Envoy");
    let ports = ports::free::<3>();
    let config = mesh(&agent, web.socket(), late.socket(), &app, ports);
    // Envoy starts without its certificate, and refuses everybody.
    let envoy = Envoy::start(&program, &config, ports[0]);
    let door = ([127, 0, 0, 1], ports[1]).into();
    assert!(echo::open(door).is_err());
    assert_eq!(serials(&envoy).len(), 1);
    agent.agent.clear_faults();
    eventually("the way through the mesh", SOON, || echo::open(door).ok());
    assert_eq!(serials(&envoy).len(), 2);
}

/// A client of the server at `socket`.
async fn client(socket: &Path) -> SecretDiscoveryServiceClient<Channel> {
    let uri = format!("unix:{}", socket.display());
    let endpoint = Endpoint::from_shared(uri).expect("an address");
    SecretDiscoveryServiceClient::new(endpoint.connect().await.expect("a connection"))
}

fn asks(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DiscoveryRequest::default()
    }
}

#[test]
fn refusals_delta_and_wrong_questions_are_answered_clearly() {
    let agent = Dev::start(DevAgentConfig::for_tests());
    let server = Server::start("sds", &agent, "db", &[]);
    let mode = std::fs::metadata(server.socket())
        .expect("a socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut client = client(server.socket()).await;
        let both = client
            .fetch_secrets(asks(&["roots", "leaf"]))
            .await
            .expect("both")
            .into_inner();
        assert_eq!(both.resources.len(), 2);
        let unknown = client
            .fetch_secrets(asks(&["ROOTCA"]))
            .await
            .expect_err("none");
        assert_eq!(unknown.code(), Code::InvalidArgument);
        assert!(unknown.message().contains("`ROOTCA`"), "{unknown}");

        let delta = tokio_stream(vec![DeltaDiscoveryRequest::default()]);
        let refused = client.delta_secrets(delta).await.expect_err("no delta");
        assert_eq!(refused.code(), Code::Unimplemented);
        assert!(refused.message().contains("api_type: GRPC"), "{refused}");

        // A stream: answer, refusal, nothing until there is something else.
        let (send, receive) = tokio::sync::mpsc::channel(4);
        send.send(asks(&["leaf"])).await.expect("room");
        let stream = tonic::codegen::tokio_stream::wrappers::ReceiverStream::new(receive);
        let mut answers = client
            .stream_secrets(stream)
            .await
            .expect("a stream")
            .into_inner();
        let first = answers.message().await.expect("an answer").expect("one");
        assert_eq!(first.resources.len(), 1);
        assert!(!first.version_info.is_empty());
        let nack = DiscoveryRequest {
            response_nonce: first.nonce.clone(),
            error_detail: Some(rpc::Status {
                message: "the key is of a kind that I do not like".to_owned(),
                ..rpc::Status::default()
            }),
            ..asks(&["leaf"])
        };
        send.send(nack).await.expect("room");
        server
            .process
            .logs("the key is of a kind that I do not like");
        agent.rotate(384);
        let second = answers.message().await.expect("an answer").expect("one");
        assert_ne!(second.version_info, first.version_info);
        assert_ne!(second.nonce, first.nonce);

        let mut other = asks(&["leaf"]);
        other.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
        send.send(other).await.expect("room");
        let ended = answers.message().await.expect_err("it ends");
        assert_eq!(ended.code(), Code::InvalidArgument);
    });
    let log = server.process.log();
    assert!(!log.contains("PRIVATE KEY"), "{log}");
    drop(server.stop());
}

fn tokio_stream<T>(items: Vec<T>) -> impl tonic::codegen::tokio_stream::Stream<Item = T> {
    tonic::codegen::tokio_stream::iter(items)
}

#[test]
fn tcp_and_a_missing_folder_are_refused_by_name() {
    for (listen, part) in [("127.0.0.1:1", "private keys"), ("unix:", "unix:/run")] {
        let mut command = program::portcullis(["sds", "-service=db"]);
        let said = program::run(command.arg(format!("-listen={listen}")));
        assert_eq!(said.code, Some(2), "{}", said.err);
        assert!(said.err.contains(part), "{}", said.err);
    }
    let agent = Dev::start(DevAgentConfig::for_tests());
    let mut command =
        program::portcullis(["sds", "-service=db", "-listen=unix:/no/such/folder/socket"]);
    let said = program::run(command.env("CONSUL_HTTP_ADDR", agent.address().to_string()));
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("/no/such/folder/socket"), "{}", said.err);
    let mut command = program::portcullis(["sds", "-service=db", "-print-acl-policy"]);
    let said = program::run(&mut command);
    assert!(
        said.out.contains("service \"db\" { policy = \"write\" }"),
        "{}",
        said.out
    );
}
