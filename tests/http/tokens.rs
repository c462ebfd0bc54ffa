//! Issuers of tokens, and servers that publish their keys.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use portcullis_testkit::TestCa;
use portcullis_tests::stage::ANY;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Who signs tokens.
pub(crate) struct Issuer {
    key: KeyPair,
    kid: String,
}

impl Issuer {
    pub(crate) fn new(kid: &str) -> Self {
        Self {
            key: KeyPair::generate_for(&PKCS_ED25519).expect("a key"),
            kid: kid.to_owned(),
        }
    }

    /// Its key set.
    pub(crate) fn keys(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.key.der_bytes());
        let own = json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": x });
        let mut rsa = rsa_key();
        rsa["kid"] = json!(self.kid);
        json!({ "keys": [rsa, own] })
    }

    /// The key set as config entries hold it.
    pub(crate) fn inline(&self) -> String {
        STANDARD.encode(self.keys().to_string())
    }

    /// A token of `okta` that ends in so many seconds.
    pub(crate) fn token(&self, lifetime: i64, role: &str) -> String {
        self.token_with_kid(&self.kid, lifetime, role)
    }

    pub(crate) fn token_with_kid(&self, kid: &str, lifetime: i64, role: &str) -> String {
        let head = json!({ "alg": "EdDSA", "typ": "JWT", "kid": kid });
        self.signed(&head, &self.claims(lifetime, role))
    }

    /// What [`Self::token`] says.
    pub(crate) fn claims(&self, lifetime: i64, role: &str) -> Value {
        json!({
            "iss": "okta", "aud": ["api", "else"], "sub": "alice", "exp": after(lifetime),
            "role": role, "in": { "depth": role }, "in.depth": "guest",
        })
    }

    fn signed(&self, head: &Value, claims: &Value) -> String {
        let unsigned = unsigned(head, claims);
        let signature = self.key.sign(unsigned.as_bytes()).expect("a signature");
        format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Tokens that are wrong in one way each. The set of `keys` is public.
    pub(crate) fn bad(&self, role: &str) -> Vec<(&'static str, String)> {
        let head = json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.kid });
        let but = |name: &str, value: Value| {
            let mut claims = self.claims(600, role);
            claims[name] = value;
            self.signed(&head, &claims)
        };
        let claims = self.claims(600, role);
        let good = self.signed(&head, &claims);
        let none = |alg: &str| unsigned(&json!({ "alg": alg, "kid": self.kid }), &claims) + ".";
        // Whoever takes the algorithm from the token takes a public key for a secret.
        let confused = |secret: &[u8]| {
            let head = json!({ "alg": "HS256", "typ": "JWT", "kid": self.kid });
            let unsigned = unsigned(&head, &claims);
            let signature = hmac_sha256(secret, unsigned.as_bytes());
            format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode(signature))
        };
        let rsa = rsa_key();
        let modulus = URL_SAFE_NO_PAD.decode(rsa["n"].as_str().expect("a modulus"));
        vec![
            ("expired", self.token(-600, role)),
            ("not yet valid", but("nbf", json!(after(600)))),
            ("no end", but("exp", Value::Null)),
            ("another issuer", but("iss", json!("okta2"))),
            ("no issuer", but("iss", Value::Null)),
            ("another audience", but("aud", json!(["else"]))),
            ("another role", self.token(600, "guest")),
            ("a role that is none", but("role", json!([role]))),
            ("another key", Self::new(&self.kid).token(600, role)),
            ("algorithm none", none("none")),
            ("algorithm None", none("None")),
            ("HS256 with the public key", confused(self.key.der_bytes())),
            (
                "HS256 with the modulus",
                confused(&modulus.expect("base64")),
            ),
            (
                "RS256",
                self.signed(&json!({ "alg": "RS256", "kid": self.kid }), &claims),
            ),
            ("cut", good[..good.len() - 3].to_owned()),
            (
                "without signature",
                good[..=good.rfind('.').expect("dots")].to_owned(),
            ),
            ("empty", String::new()),
        ]
    }
}

/// So many seconds from now.
fn after(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.expect("a time").as_secs()).expect("a time") + seconds
}

fn unsigned(head: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(head), part(claims))
}

/// An RSA key that nobody here can sign with.
fn rsa_key() -> Value {
    let data = include_str!("../../guest/core/tests/data/jwt/tokens.json");
    let data: Value = serde_json::from_str(data).expect("JSON");
    data["keys"]["all"]["keys"][0].clone()
}

fn hmac_sha256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let mut key = match secret.len() > 64 {
        true => Sha256::digest(secret).to_vec(),
        false => secret.to_vec(),
    };
    key.resize(64, 0);
    let padded = |byte: u8| key.iter().map(|own| own ^ byte).collect::<Vec<u8>>();
    let inner = Sha256::digest([&padded(0x36), message].concat());
    Sha256::digest([padded(0x5c), inner.to_vec()].concat()).to_vec()
}

/// How a server of keys answers.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Keys(Value),
    Status(u16),
    Redirect(String),
    /// So many bytes, with this length or in chunks.
    Huge {
        with_length: bool,
    },
    Garbage,
    Compressed(Value),
    /// Takes the question and says nothing.
    Silent,
}

/// A server of keys.
#[derive(Clone)]
pub(crate) struct KeyServer {
    pub(crate) address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    /// Over HTTP, or with a certificate for `localhost` over HTTPS.
    pub(crate) async fn start(answer: Answer, ca: Option<&TestCa>) -> Self {
        Self::start_at(ANY, answer, ca).await
    }

    /// The same at this address.
    pub(crate) async fn start_at(at: SocketAddr, answer: Answer, ca: Option<&TestCa>) -> Self {
        let listener = TcpListener::bind(at).await.expect("a port");
        let server = Self {
            address: listener.local_addr().expect("an address"),
            answer: Arc::new(Mutex::new(answer)),
            asked: Arc::default(),
        };
        let tls = ca.map(|ca| {
            let leaf = ca
                .leaf(&ca.service_id("keys"))
                .with(|draft| draft.dns("localhost"));
            let leaf = leaf.issue();
            let config =
                ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                    .with_safe_default_protocol_versions()
                    .expect("versions")
                    .with_no_client_auth()
                    .with_single_cert(leaf.chain().to_vec(), leaf.key())
                    .expect("a certificate");
            TlsAcceptor::from(Arc::new(config))
        });
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, tls) = (serving.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => server.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                server.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    pub(crate) fn answers(&self, answer: Answer) {
        *self.answer.lock().expect("unpoisoned") = answer;
    }

    /// How many questions it got.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        // One after the other, as Envoy asks.
        while self.answer_one(&mut stream).await.is_some() {}
    }

    async fn answer_one(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Option<()> {
        let mut read = Vec::new();
        let mut part = [0; 1024];
        while !read.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => read.extend_from_slice(&part[..count]),
            }
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answer.lock().expect("unpoisoned").clone();
        let with = |head: &str, body: &str| {
            let length = body.len();
            format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
        };
        let bytes = match answer {
            Answer::Keys(keys) => with("200 OK", &keys.to_string()),
            Answer::Status(status) => with(&format!("{status} No"), "no"),
            Answer::Redirect(to) => with(&format!("302 Found\r\nlocation: {to}"), ""),
            Answer::Garbage => with("200 OK", "{\"keys\": 7"),
            Answer::Compressed(keys) => with("200 OK\r\ncontent-encoding: gzip", &keys.to_string()),
            Answer::Huge { with_length: true } => {
                b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n{".to_vec()
            }
            Answer::Huge { with_length: false } => {
                let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
                for _ in 0..40 {
                    bytes.extend_from_slice(b"10000\r\n");
                    bytes.extend(std::iter::repeat_n(b' ', 0x1_0000));
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes
            }
            Answer::Silent => return std::future::pending().await,
        };
        stream.write_all(&bytes).await.ok()?;
        stream.flush().await.ok()
    }
}
