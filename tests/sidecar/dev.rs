//! The same on the development agent: services from files, and a sidecar that follows.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use portcullis_tests::api::Api;
use portcullis_tests::echo::{self, Echo};
use portcullis_tests::ports;
use portcullis_tests::process::{Process, eventually};
use portcullis_tests::program;
use portcullis_tests::proxy::Proxy;
use serde_json::{Value, json};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(90);

/// `portcullis dev` with these flags, and where it listens.
struct Dev {
    _process: Process,
    address: SocketAddr,
}

impl Dev {
    fn start(flags: &[&str]) -> Self {
        let mut command = program::portcullis(["dev", "-listen=127.0.0.1:0", "-output=json"]);
        command.args(flags).stdout(Stdio::piped());
        let mut process = Process::new(command.spawn().expect("the agent starts"));
        let out = process.child().stdout.take().expect("standard output");
        let mut text = String::new();
        let mut reader = BufReader::new(out);
        let serving: Value = loop {
            let length = reader.read_line(&mut text).expect("a line");
            assert!(length > 0, "the agent ended: {text}");
            if let Ok(value) = serde_json::from_str(&text) {
                break value;
            }
        };
        let url = serving["address"].as_str().expect("an address");
        let address = url
            .trim_start_matches("http://")
            .parse()
            .expect("an address");
        Self {
            _process: process,
            address,
        }
    }

    fn api(&self) -> Api {
        Api::new(self.address, None)
    }
}

fn file(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("a file is written");
    path.display().to_string()
}

fn open(port: u16, log: impl Fn() -> String) -> std::net::TcpStream {
    let began = Instant::now();
    loop {
        match echo::open(SocketAddr::from(([127, 0, 0, 1], port))) {
            Ok(stream) => return stream,
            Err(error) => assert!(began.elapsed() < SOON, "{error}\n{}", log()),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_mesh_from_files_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let app = Echo::start();
    let [db_port, to_db, to_cache] = ports::free::<3>();
    let db = file(
        &folder,
        "db.hcl",
        &format!(
            "service {{ name = \"db\" port = {} connect {{ sidecar_service {{ port = {db_port} }} }} }}",
            app.address().port()
        ),
    );
    let dev = Dev::start(&["-service-file", &db]);
    let api = dev.api();
    let web = |upstreams: &[(&str, u16)]| {
        let list = upstreams
            .iter()
            .map(|(name, port)| json!({"destination_name": name, "local_bind_port": port}));
        let text = json!({"service": {"name": "web", "connect": {"sidecar_service": {"proxy": {"upstreams": list.collect::<Vec<_>>()}}}}});
        file(&folder, "web.json", &text.to_string())
    };
    let db = Proxy::start(dev.address, None, &["-sidecar-for=db"]);
    let web_file = web(&[("db", to_db)]);
    let mut ours = Proxy::start(
        dev.address,
        None,
        &["-register", "-service-file", &web_file],
    );
    let logs = || format!("db:\n{}\nweb:\n{}", db.log(), ours.log());
    let mut live = open(to_db, logs);

    // Somebody registers it anew: it is followed.
    let body = json!({"Name": "web", "Connect": {"SidecarService": {"Proxy": {"Upstreams": [
        {"DestinationName": "db", "LocalBindPort": to_db},
        {"DestinationName": "db", "Datacenter": "dc1", "LocalBindPort": to_cache},
    ]}}}});
    let reply = api.put("/v1/agent/service/register", &body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    drop(open(to_cache, logs));
    echo::exchange(&mut live).expect("undisturbed");

    // An agent that has forgotten what a file says is told again.
    let _ = api.put_empty("/v1/agent/service/deregister/web").good();
    eventually("it is registered again", SOON, || {
        (api.get("/v1/agent/service/web-sidecar-proxy").status == 200).then_some(())
    });
    eventually("as the file says", SOON, || {
        std::net::TcpStream::connect(("127.0.0.1", to_cache))
            .is_err()
            .then_some(())
    });
    echo::exchange(&mut live).expect("undisturbed");
    drop(live);

    // At the end it takes away what it registered.
    assert_eq!(ours.stop(), Some(0), "{}", ours.log());
    assert_eq!(api.get("/v1/agent/service/web").status, 404);
    assert_eq!(api.get("/v1/agent/service/web-sidecar-proxy").status, 404);
}

#[test]
fn a_directory_of_files_and_the_health_of_a_sidecar() {
    let folder = tempfile::tempdir().expect("a folder");
    let _ = file(
        &folder,
        "a.hcl",
        "services {\n name = \"a\"\n port = 1\n check {\n id = \"a\"\n ttl = \"10m\"\n }\n connect { sidecar_service {} }\n}\nservices { name = \"b\" port = 2 connect { native = true } }\n",
    );
    let _ = file(
        &folder,
        "c.json",
        r#"{"service": {"Name": "c", "Port": 3}}"#,
    );
    let dev = Dev::start(&["-config-dir", &folder.path().display().to_string()]);
    let api = dev.api();
    let services = api.get("/v1/agent/services").good().json();
    let ids: Vec<&String> = services.as_object().expect("services").keys().collect();
    assert_eq!(ids, ["a", "a-sidecar-proxy", "b", "c"]);
    let healthy = || {
        api.get("/v1/health/connect/a?passing")
            .good()
            .json()
            .as_array()
            .map(Vec::len)
    };
    assert_eq!(healthy(), Some(0), "as its service, which has not reported");
    let _ = api.put_empty("/v1/agent/check/pass/a").good();
    assert_eq!(healthy(), Some(1));
}

#[test]
fn files_that_cannot_be_used_are_named_with_their_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |flags: &[&str], parts: &[&str]| {
        let said = program::run(
            program::portcullis(flags.iter().copied()).env("CONSUL_HTTP_ADDR", "127.0.0.1:1"),
        );
        assert_eq!(said.code, Some(2), "{flags:?}: {}{}", said.out, said.err);
        for part in parts {
            assert!(
                said.err.contains(part),
                "{flags:?}: no `{part}` in {}",
                said.err
            );
        }
    };
    let dev = |name: &str, text: &str, parts: &[&str]| {
        let path = file(&folder, name, text);
        refused(
            &["dev", "-listen=127.0.0.1:0", "-service-file", &path],
            parts,
        );
    };
    dev(
        "typo.hcl",
        "service {\n name = \"web\"\n prot = 1\n}",
        &["typo.hcl:3", "`prot`", "did you mean `port`"],
    );
    dev("broken.json", "{\n\"service\": {", &["broken.json:2"]);
    dev("notes.txt", "", &["notes.txt", ".hcl"]);
    dev(
        "http.hcl",
        "service {\n name = \"web\"\n check {\n http = \"http://127.0.0.1:1/\"\n interval = \"1s\"\n }\n}",
        &["http.hcl:1", "`HTTP` checks are refused"],
    );
    dev(
        "token.hcl",
        "service {\n name = \"web\"\n token = \"canary-token\"\n}",
        &["token.hcl:1", "`token`"],
    );

    let plain = file(&folder, "plain.hcl", "service { name = \"web\" port = 1 }");
    let side = file(
        &folder,
        "side.hcl",
        "service { name = \"a\" port = 1 connect { sidecar_service {} } }",
    );
    let more = file(
        &folder,
        "more.hcl",
        "service { name = \"b\" port = 1 connect { sidecar_service {} } }",
    );
    let again = file(&folder, "again.hcl", "service { name = \"a\" port = 1 }");
    refused(&["proxy", "-service-file", &side], &["--register"]);
    refused(
        &["proxy", "-register", "-service-file", &plain],
        &["no proxy", "sidecar_service"],
    );
    refused(
        &[
            "proxy",
            "-register",
            "-service-file",
            &side,
            "-service-file",
            &more,
        ],
        &["several", "-sidecar-for"],
    );
    refused(
        &[
            "proxy",
            "-register",
            "-service-file",
            &side,
            "-service-file",
            &again,
        ],
        &["both define", "`a`"],
    );
    refused(
        &["proxy", "-register", "-service-file", &side, "-service=a"],
        &["-service and -service-file"],
    );
    refused(
        &["proxy", "-register", "-sidecar-for=a"],
        &["-register", "-service-file"],
    );
}
