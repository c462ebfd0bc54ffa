//! A real Envoy as a process, with whatever configuration it is given.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::peers;
use crate::process::{Process, eventually};

/// How long a start may take: the filter is compiled in it.
const START: Duration = Duration::from_secs(60);

/// The program; `None` where peers are left out on purpose.
///
/// # Panics
/// If it is missing.
pub fn program(test: &str) -> Option<PathBuf> {
    peers::require(test, "envoy/bin/envoy")
}

/// Whether Envoy takes the configuration in `file`; else what it says.
///
/// # Errors
/// When it does not.
///
/// # Panics
/// When it cannot be started.
pub fn validate(program: &Path, file: &Path) -> Result<(), String> {
    let mut command = Command::new(program);
    let said = command
        .args(["--mode", "validate", "--log-level", "warning", "-c"])
        .arg(file)
        .stdin(Stdio::null())
        .process_group(0)
        .output()
        .expect("Envoy starts");
    if said.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&said.stderr).into_owned())
    }
}

/// Starts it with a configuration file; what it says goes to `log`.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn spawn(program: &Path, configuration: &Path, log: &Path, flags: &[&str]) -> Process {
    let log = File::create(log).expect("the log is created");
    let child = Command::new(program)
        .args(["--disable-hot-restart", "-c"])
        .arg(configuration)
        .args(flags)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the log is shared"))
        .stderr(log)
        // In a group of its own: Envoy signals its whole group when it ends.
        .process_group(0)
        .spawn();
    Process::new(child.expect("Envoy starts"))
}

/// A running Envoy; killed when dropped.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    folder: TempDir,
    admin: SocketAddr,
}

impl Envoy {
    /// Starts it with `config`, whose admin listener is on the port `admin` of loopback, and
    /// waits until it takes connections.
    ///
    /// # Panics
    /// If it does not, with its log.
    pub fn start(program: &Path, config: &Value, admin: u16) -> Self {
        // What asks for secrets must say who it is.
        let node = ["--service-node", "test", "--service-cluster", "test"];
        Self::start_with(program, &config.to_string(), "json", admin, &node)
    }

    /// The same with the text of a configuration file, its ending, and further flags.
    ///
    /// # Panics
    /// As [`Envoy::start`].
    pub fn start_with(
        program: &Path,
        text: &str,
        ending: &str,
        admin: u16,
        flags: &[&str],
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join(format!("envoy.{ending}"));
        fs::write(&file, text).expect("the configuration is written");
        let usual = ["--concurrency", "2", "--log-level", "info"];
        let flags = [&usual[..], flags].concat();
        let mut envoy = Self {
            process: spawn(program, &file, &folder.path().join("log"), &flags),
            folder,
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, admin)),
        };
        envoy.becomes_ready();
        envoy
    }

    fn becomes_ready(&mut self) {
        let began = Instant::now();
        while get(self.admin, "/ready").is_none() {
            let ended = self.process.wait(Duration::ZERO);
            assert!(
                ended.is_none() && began.elapsed() < START,
                "Envoy is not ready ({ended:?}):\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What its admin interface answers.
    ///
    /// # Panics
    /// If it does not answer with status 200.
    pub fn admin(&self, path: &str) -> String {
        get(self.admin, path).expect("Envoy's admin interface answers")
    }

    /// The statistics whose names contain `part`, by name.
    ///
    /// # Panics
    /// If the admin interface does not answer.
    pub fn stats(&self, part: &str) -> Vec<(String, u64)> {
        let text = self.admin("/stats");
        let read = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            let found = name.contains(part).then(|| value.parse().ok()).flatten()?;
            Some((name.to_owned(), found))
        };
        text.lines().filter_map(read).collect()
    }

    /// One statistic; 0 if there is none of this name.
    ///
    /// # Panics
    /// If the admin interface does not answer.
    pub fn stat(&self, name: &str) -> u64 {
        let found = self
            .stats(name)
            .into_iter()
            .find(|(found, _)| found == name);
        found.map_or(0, |(_, value)| value)
    }

    /// Waits until a statistic is at least `least`.
    ///
    /// # Panics
    /// If it never is.
    pub fn reaches(&self, name: &str, least: u64) {
        eventually(name, START, || (self.stat(name) >= least).then_some(()));
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read(self.folder.path().join("log"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Waits until its log has this text.
    ///
    /// # Panics
    /// If it never has.
    pub fn logs(&self, text: &str) {
        eventually(text, START, || self.log().contains(text).then_some(()));
    }

    /// Its folder, for what its configuration writes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// What the admin interface there answers with a 200.
#[must_use]
pub fn get(admin: SocketAddr, path: &str) -> Option<String> {
    let (status, body) = request(admin, "GET", path, "").ok()?;
    (status == 200).then_some(body)
}

/// Status and body of a request with further lines of headers, each with its line end. Envoy
/// refuses HTTP/1.0, so this is HTTP/1.1.
///
/// # Errors
/// When the connection breaks or the answer is not HTTP.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &str,
) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(START))?;
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let broken = || io::Error::other("the answer is not HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        joined(body).ok_or_else(broken)?
    } else {
        body.to_owned()
    };
    Ok((status.ok_or_else(broken)?, body))
}

/// A body of chunks.
fn joined(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n")?;
        let length = usize::from_str_radix(length, 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.push_str(after.get(..length)?);
        rest = after.get(length..)?.strip_prefix("\r\n")?;
    }
}

/// The admin listener of a configuration.
#[must_use]
pub fn admin(port: u16) -> Value {
    json!({ "address": address(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) })
}

/// An address as configurations have it.
#[must_use]
pub fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
}

/// A cluster with one fixed endpoint; `more` is put into it.
#[must_use]
pub fn cluster(name: &str, endpoint: Value, more: Value) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": endpoint } }] }],
        },
    });
    if let (Some(cluster), Value::Object(more)) = (cluster.as_object_mut(), more) {
        cluster.extend(more);
    }
    cluster
}

/// A cluster that speaks gRPC with what listens on a unix socket.
#[must_use]
pub fn grpc_cluster(name: &str, socket: &Path) -> Value {
    let options = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": { "http2_protocol_options": {} },
    }});
    cluster(
        name,
        json!({ "pipe": { "path": socket.display().to_string() } }),
        json!({ "typed_extension_protocol_options": options }),
    )
}

/// Where a secret comes from: by gRPC from `cluster`.
#[must_use]
pub fn sds(name: &str, cluster: &str) -> Value {
    json!({
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            "initial_fetch_timeout": "5s",
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": cluster } }],
            },
        },
    })
}

/// The transport socket of a listener in the mesh, with certificates from `cluster`.
#[must_use]
pub fn downstream_tls(cluster: &str) -> Value {
    json!({ "name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "disable_stateless_session_resumption": true,
        "disable_stateful_session_resumption": true,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [sds("leaf", cluster)],
            "validation_context_sds_secret_config": sds("roots", cluster),
        },
    }})
}

/// The transport socket of a cluster in the mesh whose servers are `id`.
#[must_use]
pub fn upstream_tls(cluster: &str, id: &str) -> Value {
    json!({ "name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "max_session_keys": 0,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [sds("leaf", cluster)],
            "combined_validation_context": {
                "default_validation_context": { "match_typed_subject_alt_names": [
                    { "san_type": "URI", "matcher": { "exact": id } },
                ]},
                "validation_context_sds_secret_config": sds("roots", cluster),
            },
        },
    }})
}

/// A listener on loopback with one filter chain.
#[must_use]
pub fn listener(name: &str, port: u16, tls: Option<Value>, filters: &[Value]) -> Value {
    let mut chain = json!({ "filters": filters });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({
        "name": name,
        "address": address(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        "filter_chains": [chain],
    })
}

/// The TCP proxy to `cluster`.
#[must_use]
pub fn tcp_proxy(cluster: &str) -> Value {
    json!({ "name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": cluster,
        "cluster": cluster,
    }})
}
