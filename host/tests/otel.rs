//! A proxy with traces, and a small collector: what is delivered, and that the end
//! delivers what is left. `cargo test --release -p portcullis --features otel --test otel`

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

/// Anything that takes longer has hung.
const SOON: Duration = Duration::from_secs(60);

/// One delivery: the request's head, and its body.
type Delivery = (String, Vec<u8>);

/// Takes deliveries as a collector does.
fn collector() -> (String, mpsc::Receiver<Delivery>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let delivered = take(stream);
            let _ = sender.send(delivered);
        }
    });
    (url, receiver)
}

fn take(mut stream: TcpStream) -> Delivery {
    let mut input = BufReader::new(stream.try_clone().expect("a descriptor"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(input.read_line(&mut head).expect("text") > 0, "{head}");
    }
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    input.read_exact(&mut body).expect("a whole body");
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .expect("it is answered");
    (head, body)
}

/// A command that runs, and the line of JSON that it printed; killed at the end.
struct Running(Child, Value);

impl Running {
    fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(arguments)
            .args(["-output=json", "-log-level=off"])
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("text");
        let ready = serde_json::from_str(&line).expect("JSON");
        Self(child, ready)
    }

    fn text(&self, pointer: &str) -> String {
        let found = self.1.pointer(pointer).and_then(Value::as_str);
        found
            .unwrap_or_else(|| panic!("{pointer} in {}", self.1))
            .to_owned()
    }

    fn stop(mut self) {
        let id = self.0.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status();
        assert!(sent.expect("kill starts").success());
        assert!(self.0.wait().expect("it ends").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn has(body: &[u8], text: &str) -> bool {
    body.windows(text.len())
        .any(|found| found == text.as_bytes())
}

/// Connects and waits for the end.
fn knock(door: &str) {
    let mut stream = TcpStream::connect(door).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a limit");
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn each_connection_is_a_span_and_the_end_delivers_what_is_left() {
    let (url, deliveries) = collector();
    let agent = Running::start(&["dev", "-listen=127.0.0.1:0"], &[]);
    let address = agent.text("/address");
    let start = |delay: &'static str| {
        Running::start(
            &["proxy", "-service=web", "-upstream=db:0"],
            &[
                ("CONSUL_HTTP_ADDR", &address),
                ("CONSUL_HTTP_TOKEN", "canary-token"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
                ("OTEL_EXPORTER_OTLP_HEADERS", "x-team=mesh"),
                ("OTEL_SERVICE_NAME", "web-proxy"),
                ("OTEL_BSP_SCHEDULE_DELAY", delay),
            ],
        )
    };
    // While it runs, though nothing is logged.
    let proxy = start("50");
    knock(&proxy.text("/upstreams/0/listen"));
    let (head, body) = deliveries.recv_timeout(SOON).expect("a delivery");
    assert!(
        head.starts_with("post /v1/traces ") && head.contains("x-team: mesh"),
        "{head}"
    );
    for text in [
        "web-proxy",
        "outbound connection",
        "portcullis.code",
        "no-instance",
        "portcullis.dst.service",
        "error.type",
    ] {
        assert!(
            has(&body, text),
            "no {text}: {}",
            String::from_utf8_lossy(&body)
        );
    }
    assert!(!has(&body, "canary-token"));
    proxy.stop();

    // Nothing is due for an hour but at the end.
    let proxy = start("3600000");
    let door = proxy.text("/upstreams/0/listen");
    for _ in 0..3 {
        knock(&door);
    }
    assert!(deliveries.try_recv().is_err(), "it was delivered too early");
    proxy.stop();
    let mut spans = 0;
    while spans < 3 {
        let (_, body) = deliveries
            .recv_timeout(SOON)
            .expect("a delivery at the end");
        let name = b"outbound connection";
        spans += body
            .windows(name.len())
            .filter(|found| found == name)
            .count();
    }
    assert_eq!(spans, 3);
    agent.stop();
}

/// Asks for `/` as part of a trace, and waits for the end.
fn ask(door: &str, traceparent: &str) {
    let mut stream = TcpStream::connect(door).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a limit");
    let head = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntraceparent: {traceparent}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it is sent");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 503"), "{answer:?}");
}

#[test]
fn a_request_belongs_to_the_trace_that_it_names() {
    let (url, deliveries) = collector();
    let agent = Running::start(&["dev", "-listen=127.0.0.1:0"], &[]);
    let address = agent.text("/address");
    let proxy = Running::start(
        &[
            "proxy",
            "-service=web",
            "-upstream=db:0",
            "-upstream-protocol=db=http",
        ],
        &[
            ("CONSUL_HTTP_ADDR", &address),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
            ("OTEL_BSP_SCHEDULE_DELAY", "3600000"),
        ],
    );
    let door = proxy.text("/upstreams/0/listen");
    // One that its sender samples, one that it does not, and one that is nonsense.
    ask(
        &door,
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    );
    ask(
        &door,
        "00-aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb-cccccccccccccccc-00",
    );
    ask(&door, "00-zz");
    proxy.stop();
    let (_, body) = deliveries.recv_timeout(SOON).expect("a delivery");
    let trace = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes();
    let parent = 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes();
    let holds = |bytes: &[u8]| body.windows(bytes.len()).any(|found| found == bytes);
    assert!(holds(&trace) && holds(&parent), "the sampled one");
    assert!(!holds(&[0xaa; 8]) && !holds(&[0xcc; 8]), "the other one");
    let name = b"outbound request";
    let spans = body.windows(name.len()).filter(|found| found == name);
    assert_eq!(spans.count(), 2, "{}", String::from_utf8_lossy(&body));
    agent.stop();
}

#[test]
fn what_is_asked_for_and_not_there_is_refused_by_name() {
    let said = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["proxy", "-service=web", "-upstream=db:0"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(2), "{error}");
    assert!(
        error.contains("OTEL_EXPORTER_OTLP_PROTOCOL=grpc"),
        "{error}"
    );
}
