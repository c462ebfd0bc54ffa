//! The component in Node, made into a module by jco; `tests/adapters/node/mesh.mjs` is the host.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use base64::Engine as _;
use portcullis_tests::peers::{self, workspace};
use portcullis_tests::process::Process;
use serde_json::{Value, json};

use crate::component;
use crate::host::{Decision, Host, Settings, Watched};

/// The component as a JavaScript module; `None` where peers are left out.
pub(crate) fn module(test: &str) -> Option<PathBuf> {
    static MADE: Mutex<Option<PathBuf>> = Mutex::new(None);
    let packages = peers::require(test, "node/node_modules")?;
    let mut made = MADE.lock().expect("no test panics here");
    if made.is_none() {
        *made = Some(transpile(&packages));
    }
    made.clone()
}

/// The folder is next to the packages, so that the module finds them.
fn transpile(packages: &Path) -> PathBuf {
    let folder = workspace().join("target/peers/node/mesh-policy");
    let output = Command::new(packages.join(".bin/jco"))
        .arg("transpile")
        .arg(component::built())
        .args(["--name", "mesh", "--quiet", "--out-dir"])
        .arg(&folder)
        .output()
        .expect("jco runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::write(folder.join("package.json"), r#"{"type": "module"}"#)
        .expect("the module's kind is written");
    folder.join("mesh.js")
}

/// Node with one instance.
struct Node {
    // Declared first, so that the process ends after its input does.
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _process: Process,
}

/// Starts Node with the agent at `agent`.
pub(crate) fn start(module: &Path, agent: SocketAddr, token: Option<&str>) -> Box<dyn Host> {
    let mut command = Command::new("node");
    command
        .arg(workspace().join("tests/adapters/node/mesh.mjs"))
        .arg(module)
        .arg(agent.to_string())
        .env_remove("CONSUL_HTTP_TOKEN")
        .envs(token.map(|token| ("CONSUL_HTTP_TOKEN", token)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().expect("node runs");
    let input = child.stdin.take().expect("its input is piped");
    let output = BufReader::new(child.stdout.take().expect("its output is piped"));
    Box::new(Node {
        input,
        output,
        _process: Process::new(child),
    })
}

impl Node {
    fn call(&mut self, name: &str, argument: Value) -> Value {
        writeln!(self.input, "{}", json!([name, argument])).expect("node listens");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("node answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{name}: {error}: `{line}`"))
    }
}

impl Host for Node {
    fn configure(&mut self, settings: &Settings) -> Result<(), String> {
        let answer = self.call("configure", json!(settings));
        answer["err"]
            .as_str()
            .map_or(Ok(()), |error| Err(error.to_owned()))
    }

    fn authorize(&mut self, target: &str, uris: &[&str], now: u64) -> Decision {
        let answer = self.call(
            "authorize",
            json!({"target": target, "uris": uris, "now": now}),
        );
        serde_json::from_value(answer).expect("a decision")
    }

    fn authorize_request(
        &mut self,
        target: &str,
        uris: &[&str],
        path: &str,
        now: u64,
    ) -> (Decision, String) {
        let question = json!({"target": target, "uris": uris, "path": path, "now": now});
        let answer = self.call("authorize", question.clone());
        let decision = serde_json::from_value(answer).expect("a decision");
        let trace = self.call("explain", question);
        let explained = serde_json::from_value(trace["decision"].clone());
        assert_eq!(decision, explained.expect("a trace has a decision"));
        (decision, trace["text"].as_str().expect("a text").to_owned())
    }

    fn explain(&mut self, target: &str, uris: &[&str], now: u64) -> Decision {
        let trace = self.call(
            "explain",
            json!({"target": target, "uris": uris, "now": now}),
        );
        serde_json::from_value(trace["decision"].clone()).expect("a trace has a decision")
    }

    fn verify(&mut self, chain: &[Vec<u8>], now: u64) -> Result<String, String> {
        let engine = base64::engine::general_purpose::STANDARD;
        let chain: Vec<String> = chain.iter().map(|der| engine.encode(der)).collect();
        let answer = self.call(
            "verify",
            json!({"chain": chain, "usage": "client", "now": now}),
        );
        match answer["err"]["kind"].as_str() {
            Some(kind) => Err(kind.to_owned()),
            None => Ok(answer["ok"]["identity"]["uri"]
                .as_str()
                .expect("an identity")
                .to_owned()),
        }
    }

    fn status(&mut self) -> Vec<Watched> {
        serde_json::from_value(self.call("status", Value::Null)).expect("a status")
    }

    fn requests(&mut self) -> Vec<String> {
        serde_json::from_value(self.call("requests", Value::Null)).expect("a list of requests")
    }
}
