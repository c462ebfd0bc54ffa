//! The application: says which target reached it, byte for byte, by HTTP/1.1 and HTTP/2.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use loona_hpack::Decoder;

use crate::frames::{ACK, Frame, HEADERS, PING, PREFACE, SETTINGS};
use crate::question::Header;

/// A running application.
pub(crate) struct Application {
    pub(crate) port: u16,
    seen: Seen,
}

/// The targets that have arrived by HTTP/1.1.
type Seen = Arc<Mutex<Vec<Vec<u8>>>>;

impl Application {
    /// Whether this target has arrived.
    pub(crate) fn has_seen(&self, target: &str) -> bool {
        let seen = self.seen.lock().expect("no thread has panicked");
        seen.iter().any(|other| other == target.as_bytes())
    }
}

/// Starts it. Its threads end with the process.
pub(crate) fn start() -> Application {
    let seen = Seen::default();
    let noting = Arc::clone(&seen);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let seen = Arc::clone(&noting);
            std::thread::spawn(move || {
                // A proxy that goes away is no error.
                let _ = serve(stream, &seen);
            });
        }
    });
    Application { port, seen }
}

fn serve(mut stream: TcpStream, seen: &Seen) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    loop {
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        if PREFACE.starts_with(&head) {
            let mut rest = vec![0; PREFACE.len() - head.len()];
            stream.read_exact(&mut rest)?;
            return serve_http2(stream);
        }
        let target = target_of(&head).to_vec();
        seen.lock().map_err(|_| io::ErrorKind::Other)?.push(target);
        stream.write_all(&http1_answer(&head))?;
        head.clear();
    }
}

fn target_of(head: &[u8]) -> &[u8] {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    line.split(|byte| *byte == b' ').nth(1).unwrap_or_default()
}

fn http1_answer(head: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let authorization = if text.contains("\r\nauthorization:") {
        "x-authorization: yes\r\n"
    } else {
        ""
    };
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-target: ".to_vec();
    answer.extend(target_of(head));
    answer.extend(format!("\r\n{authorization}\r\n").as_bytes());
    answer
}

fn serve_http2(mut stream: TcpStream) -> io::Result<()> {
    let mut decoder = Decoder::new();
    Frame::new(SETTINGS, 0, 0, Vec::new()).write(&mut stream)?;
    loop {
        let frame = Frame::read(&mut stream)?;
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                Frame::new(SETTINGS, ACK, 0, Vec::new()).write(&mut stream)?
            }
            PING if frame.flags & ACK == 0 => {
                Frame::new(PING, ACK, 0, frame.payload).write(&mut stream)?
            }
            HEADERS => {
                let list = frame.list(&mut decoder)?;
                let find = |name: &[u8]| list.iter().find(|(other, _)| other == name);
                let target = find(b":path").map_or(Vec::new(), |(_, value)| value.clone());
                let mut answer: Vec<Header> = vec![
                    (b":status".to_vec(), b"200".to_vec()),
                    (b"x-target".to_vec(), target),
                ];
                if find(b"authorization").is_some() {
                    answer.push((b"x-authorization".to_vec(), b"yes".to_vec()));
                }
                Frame::headers(frame.stream, &answer).write(&mut stream)?;
            }
            _ => {}
        }
    }
}
