//! Clients with the certificate of anybody, whose requests go out byte for byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use loona_hpack::Decoder;
use portcullis_core::http::HttpVersion;
use portcullis_tests::any_server::AnyServer;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::frames::{ACK, Frame, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS};
use crate::question::{Answer, Question, Response};

/// Nothing takes longer unless it hangs.
const HUNG: Duration = Duration::from_secs(60);

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A client with a certificate.
#[derive(Clone)]
pub(crate) struct Client {
    /// The URI names of the certificate.
    pub(crate) uris: Vec<String>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl Client {
    pub(crate) fn new(
        uris: Vec<String>,
        chain: &[CertificateDer<'static>],
        key: &PrivateKeyDer<'static>,
    ) -> Self {
        let config = |alpn: &[u8]| {
            let provider = Arc::new(aws_lc_rs::default_provider());
            let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("TLS 1.3")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
                .with_client_auth_cert(chain.to_vec(), key.clone_key())
                .expect("a certificate");
            config.alpn_protocols = vec![alpn.to_vec()];
            // Every request is somebody's first.
            config.resumption = Resumption::disabled();
            Arc::new(config)
        };
        Self {
            uris,
            http1: config(b"http/1.1"),
            http2: config(b"h2"),
        }
    }

    /// The same client, which resumes its sessions where it may.
    pub(crate) fn resuming(&self) -> Self {
        let resumes = |config: &ClientConfig| {
            let mut config = config.clone();
            config.resumption = Resumption::in_memory_sessions(8);
            Arc::new(config)
        };
        Self {
            uris: self.uris.clone(),
            http1: resumes(&self.http1),
            http2: resumes(&self.http2),
        }
    }

    /// Sends a request on a connection of its own.
    pub(crate) fn ask(&self, address: SocketAddr, question: &Question) -> Answer {
        match self.exchange(address, question) {
            Exchange::Answered(response) => response.answer(),
            Exchange::Closed => Answer::BadRequest,
            Exchange::NoHandshake => Answer::NoHandshake,
        }
    }

    /// The same, with whatever comes back.
    pub(crate) fn exchange(&self, address: SocketAddr, question: &Question) -> Exchange {
        let is_http2 = question.version == HttpVersion::Http2;
        let mut stream = self.connect(address, is_http2);
        let exchanged = if is_http2 {
            http2(&mut stream, question)
        } else {
            http1(&mut stream, question)
        };
        match exchanged {
            Ok(response) => Exchange::Answered(response),
            Err(error) if error.to_string().contains("fatal alert") => Exchange::NoHandshake,
            Err(error) if is_end(&error) => Exchange::Closed,
            Err(error) => panic!("{question}: {error}"),
        }
    }

    /// Sends bytes, and reads until the other side ends.
    pub(crate) fn raw(&self, address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect(address, false);
        // Whoever refuses may not read all of it.
        let _ = stream.write_all(bytes).and_then(|()| stream.flush());
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert!(is_end(&error), "{error}");
        }
        answer
    }

    fn connect(&self, address: SocketAddr, is_http2: bool) -> Stream {
        let config = if is_http2 { &self.http2 } else { &self.http1 };
        let name = ServerName::try_from("api").expect("a name");
        let tls = ClientConnection::new(Arc::clone(config), name).expect("a connection");
        let socket = TcpStream::connect(address).expect("it listens");
        socket.set_nodelay(true).expect("a socket");
        socket.set_read_timeout(Some(HUNG)).expect("a socket");
        StreamOwned::new(tls, socket)
    }
}

/// What came back for a request.
pub(crate) enum Exchange {
    Answered(Response),
    /// The connection or stream ended without an answer.
    Closed,
    /// The certificate was refused.
    NoHandshake,
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::BrokenPipe
            | ErrorKind::ConnectionAborted
    )
}

fn http1(stream: &mut Stream, question: &Question) -> io::Result<Response> {
    stream.write_all(&question.http1())?;
    stream.flush()?;
    let mut head = Vec::new();
    let mut part = [0; 4096];
    loop {
        let count = stream.read(&mut part)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        head.extend(&part[..count]);
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            head.truncate(end);
            break;
        }
    }
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let line = lines.next().unwrap_or_default();
    let status = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let status = std::str::from_utf8(status)
        .ok()
        .and_then(|text| text.parse().ok());
    let headers = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        Some((name.to_ascii_lowercase(), value[1..].trim_ascii().to_vec()))
    });
    Ok(Response {
        status: status.expect("a status"),
        headers: headers.collect(),
    })
}

fn http2(stream: &mut Stream, question: &Question) -> io::Result<Response> {
    let mut opening = PREFACE.to_vec();
    // No dynamic table for what comes back.
    Frame::new(SETTINGS, 0, 0, vec![0, 1, 0, 0, 0, 0]).write(&mut opening)?;
    Frame::headers(1, &question.http2()).write(&mut opening)?;
    stream.write_all(&opening)?;
    stream.flush()?;
    let mut decoder = Decoder::new();
    loop {
        let frame = Frame::read(stream)?;
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => {
                Frame::new(SETTINGS, ACK, 0, Vec::new()).write(stream)?;
                stream.flush()?;
            }
            HEADERS => {
                let headers = frame.list(&mut decoder)?;
                let status = headers.iter().find(|(name, _)| name == b":status");
                let status =
                    status.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok());
                return Ok(Response {
                    status: status.expect("a status"),
                    headers,
                });
            }
            RST_STREAM | GOAWAY => return Err(ErrorKind::ConnectionReset.into()),
            _ => {}
        }
    }
}
