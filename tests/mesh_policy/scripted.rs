//! An agent that answers whatever a test wants.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// What it answers now.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) roots: String,
    pub(crate) index: u64,
    /// Headers beyond the index, each with its line end, and the body of the match reply.
    pub(crate) status: &'static str,
    pub(crate) headers: &'static str,
    pub(crate) lists: Vec<u8>,
    /// Takes questions and answers none.
    pub(crate) silent: bool,
    /// Said to the next blocking query instead, once: its index and body.
    pub(crate) once: Option<(u64, Vec<u8>)>,
}

pub(crate) struct Scripted {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    targets: Mutex<Vec<String>>,
}

impl Scripted {
    pub(crate) fn start(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let (state, targets) = (Mutex::new(state), Mutex::default());
        let shared = Arc::new(Shared {
            state,
            changed: Condvar::new(),
            targets,
        });
        let all = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&all);
                // A client that went away wants no answer.
                std::thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it answers; queries that wait for another index get it at once.
    pub(crate) fn say(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state());
        self.shared.changed.notify_all();
    }

    /// Targets of the match queries since the last call.
    pub(crate) fn targets(&self) -> Vec<String> {
        std::mem::take(
            &mut self
                .shared
                .targets
                .lock()
                .expect("no thread panics with it"),
        )
    }

    /// Whether the one answer of [`State::once`] has been given.
    pub(crate) fn said_once(&self) -> bool {
        self.shared.state().once.is_none()
    }
}

impl Shared {
    /// As Consul waits: for at most a minute.
    fn wait(&self, enough: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let minute = Duration::from_secs(60);
        let waited = self
            .changed
            .wait_timeout_while(self.state(), minute, |state| !enough(state));
        waited.expect("no thread panics with it").0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let index = target
        .split(['?', '&'])
        .find_map(|pair| pair.strip_prefix("index="));
    let index: u64 = index
        .and_then(|index| index.parse().ok())
        .unwrap_or_default();
    if shared.state().silent {
        shared
            .targets
            .lock()
            .expect("no thread panics with it")
            .push(target);
        drop(shared.wait(|state| !state.silent));
        return Ok(());
    }
    if target.starts_with("/v1/agent/connect/ca/roots") {
        let state = shared.wait(|_| index == 0);
        return answer(&mut stream, "200 OK", "", 1, state.roots.as_bytes());
    }
    shared
        .targets
        .lock()
        .expect("no thread panics with it")
        .push(target);
    let mut state = shared.wait(|state| index == 0 || index != state.index || state.once.is_some());
    if index != 0
        && let Some((at, lists)) = state.once.take()
    {
        drop(state);
        return answer(&mut stream, "200 OK", "", at, &lists);
    }
    let State {
        status,
        headers,
        index,
        lists,
        ..
    } = state.clone();
    drop(state);
    answer(&mut stream, status, headers, index, &lists)
}

fn answer(
    stream: &mut TcpStream,
    status: &str,
    headers: &str,
    index: u64,
    body: &[u8],
) -> std::io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Consul-Index: {index}\r\n\
         X-Consul-Default-ACL-Policy: allow\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}
