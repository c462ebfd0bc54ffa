//! The agent client against agents that misbehave, and by every way to reach one.

use std::path::Path;
use std::sync::{Arc, Mutex};

use portcullis::agent_client::{
    AgentClient, AgentConfig, AgentError, AgentFlags, Secret, TokenSource,
};
use portcullis_core::agent::{HttpRequest, Query, roots};
use portcullis_dev_agent::{DevAgent, DevAgentConfig, Token};
use portcullis_testkit::TestCa;
use portcullis_tests::stage::{ANY, within};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};

const GOOD: &str = "HTTP/1.1 200 OK\r\nX-Consul-Default-Acl-Policy: allow\r\nX-Consul-Index: 7\r\n";

/// Answers each connection with `reply`, and keeps what was asked.
async fn scripted(reply: impl Into<Vec<u8>>) -> (String, Arc<Mutex<Vec<String>>>) {
    let (reply, asked) = (reply.into(), Arc::new(Mutex::new(Vec::new())));
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, reply.clone(), Arc::clone(&seen)));
        }
    });
    (address, asked)
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    reply: Vec<u8>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    seen.lock()
        .unwrap()
        .push(String::from_utf8(request).unwrap());
    let _ = stream.write_all(&reply).await;
    let _ = stream.shutdown().await;
}

fn question() -> HttpRequest {
    roots::request(&Query::default())
}

fn at(address: &str) -> AgentClient {
    AgentClient::new(AgentConfig::at(address).unwrap()).unwrap()
}

async fn error(client: &AgentClient) -> AgentError {
    within(client.ask(&question(), roots::decode))
        .await
        .unwrap_err()
}

fn with_body(head: &str, body: &str) -> String {
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn every_failure_is_one_line_that_says_what_to_do() {
    let dead = portcullis_tests::ports::closed().to_string();
    let unknown = error(&at("http://no-such-host.invalid:8500")).await;
    assert!(
        matches!(&unknown, AgentError::UnknownHost { host, .. } if host == "no-such-host.invalid"),
        "{unknown:?}"
    );
    let refused = error(&at(&dead)).await;
    assert!(matches!(refused, AgentError::Refused { .. }), "{refused:?}");
    assert!(
        refused.to_string().contains("CONSUL_HTTP_ADDR"),
        "{refused}"
    );

    let redirect = "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let gzip = format!("{GOOD}Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f!");
    for not_consul in [
        with_body("HTTP/1.1 200 OK\r\n", "<html>hello</html>"),
        with_body("HTTP/1.1 404 Not Found\r\n", "nothing here"),
        "SSH-2.0-OpenSSH_9.6\r\n".to_owned(),
        redirect.to_owned(),
        gzip,
    ] {
        let (address, _) = scripted(not_consul.clone()).await;
        let error = error(&at(&address)).await;
        assert!(
            matches!(error, AgentError::NotConsul { .. }),
            "{not_consul}: {error:?}"
        );
    }

    let hostile =
        "Permission denied: token lacks permission 'service:write' on \"web\"\r\n\u{1b}[2Jforged";
    let (address, _) = scripted(with_body(
        "HTTP/1.1 403 Forbidden\r\nX-Consul-Default-Acl-Policy: deny\r\n",
        hostile,
    ))
    .await;
    let denied = error(&at(&address)).await.to_string();
    assert!(
        denied.contains("service:write") && denied.contains("no token"),
        "{denied}"
    );
    assert!(!denied.contains(['\r', '\n', '\u{1b}']), "{denied}");

    let (address, _) = scripted(with_body(GOOD, "{\"TrustDomain\": 7}")).await;
    assert!(matches!(
        error(&at(&address)).await,
        AgentError::Reply { .. }
    ));
    let (address, _) = scripted(format!("{GOOD}Content-Length: 100\r\n\r\nshort")).await;
    assert!(matches!(
        error(&at(&address)).await,
        AgentError::Broken { .. }
    ));
}

#[tokio::test]
async fn size_and_time_have_limits() {
    let small = HttpRequest {
        max_reply: 10,
        ..question()
    };
    let announced = format!("{GOOD}Content-Length: 11\r\n\r\n12345678901");
    let chunked =
        format!("{GOOD}Transfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n5\r\n78901\r\n0\r\n\r\n");
    for reply in [
        announced,
        chunked,
        format!("{GOOD}Content-Length: 99999999999999\r\n\r\n"),
    ] {
        let (address, _) = scripted(reply).await;
        let error = within(at(&address).execute(&small)).await.unwrap_err();
        assert!(matches!(error, AgentError::TooLarge { .. }), "{error:?}");
    }
    let listener = TcpListener::bind(ANY).await.unwrap();
    let client = at(&listener.local_addr().unwrap().to_string());
    let hasty = HttpRequest {
        read_timeout_ms: 50,
        ..question()
    };
    let error = within(client.execute(&hasty)).await.unwrap_err();
    assert!(matches!(error, AgentError::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn the_token_is_sent_and_never_shown() {
    let (address, asked) = scripted(with_body(GOOD, "{}")).await;
    let config = AgentConfig {
        token: TokenSource::Value(Secret::new("canary-token")),
        basic_auth: Some(Secret::new("user:canary-password")),
        ..AgentConfig::at(&format!("http://{address}/prefix")).unwrap()
    };
    let client = AgentClient::new(config).unwrap();
    let error = error(&client).await;
    let request = asked.lock().unwrap().join("");
    assert!(
        request.starts_with("GET /prefix/v1/agent/connect/ca/roots HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request.contains("x-consul-token: canary-token\r\n"),
        "{request}"
    );
    assert!(
        request.contains("authorization: Basic dXNlcjpjYW5hcnktcGFzc3dvcmQ=\r\n"),
        "{request}"
    );
    let shown = format!("{client:?} {:?} {error} {error:?}", client.config());
    assert!(!shown.contains("canary"), "{shown}");
}

#[tokio::test]
async fn a_token_file_that_changes_is_read_again() {
    let agent = DevAgent::start(DevAgentConfig {
        tokens: vec![Token::with_rules(
            "good",
            r#"service "web" { policy = "write" }"#,
        )],
        ..DevAgentConfig::for_tests()
    })
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "wrong\n").unwrap();
    let flags = AgentFlags {
        token_file: Some(file.clone()),
        http_addr: Some(agent.url()),
        ..AgentFlags::default()
    };
    let client = AgentClient::new(AgentConfig::resolve(flags, |_| None).unwrap()).unwrap();
    let leaf = portcullis_core::agent::leaf::request("web", &Query::default()).unwrap();
    let denied = within(client.execute_ok(&leaf)).await.unwrap_err();
    assert!(matches!(denied, AgentError::Denied { .. }), "{denied:?}");
    assert!(
        denied.to_string().contains(&file.display().to_string()),
        "{denied}"
    );
    std::fs::write(&file, "good\n").unwrap();
    within(client.execute_ok(&leaf)).await.unwrap();
    std::fs::write(&file, "").unwrap();
    agent.shutdown().await;
}

#[tokio::test]
async fn after_a_refusal_the_token_file_is_read_again_and_the_question_asked_again() {
    let agent = DevAgent::start(DevAgentConfig {
        tokens: vec![Token::with_rules(
            "good",
            r#"service "web" { policy = "write" }"#,
        )],
        ..DevAgentConfig::for_tests()
    })
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "wrong").unwrap();
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    let flags = AgentFlags {
        token_file: Some(path.clone()),
        http_addr: Some(agent.url()),
        ..AgentFlags::default()
    };
    let client = AgentClient::new(AgentConfig::resolve(flags, |_| None).unwrap()).unwrap();
    let leaf = portcullis_core::agent::leaf::request("web", &Query::default()).unwrap();
    // Its time does not tell that it is another one.
    std::fs::write(&path, "good").unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(before).unwrap();
    within(client.execute_ok(&leaf)).await.unwrap();
    assert!(client.reload_token().unwrap(), "it says so once");
    assert!(!client.reload_token().unwrap());
    std::fs::write(&path, "another").unwrap();
    assert!(client.reload_token().unwrap());
    agent.shutdown().await;
}

#[tokio::test]
async fn over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(
                stream,
                with_body(GOOD, "{}").into_bytes(),
                Arc::clone(&seen),
            ));
        }
    });
    let reply = within(at(&format!("unix://{}", path.display())).execute(&question()))
        .await
        .unwrap();
    assert_eq!((reply.status, reply.as_core().index()), (200, Some(7)));
    assert!(asked.lock().unwrap()[0].contains("host: localhost\r\n"));
    let missing = error(&at("unix:///nonexistent/agent.sock")).await;
    assert!(matches!(missing, AgentError::Refused { .. }), "{missing:?}");
}

#[tokio::test]
async fn over_tls_with_its_own_ca_and_a_client_certificate() {
    let ca = TestCa::new("agents.example");
    let server = ca
        .service("agent")
        .with(|leaf| leaf.dns("agent.example"))
        .issue();
    let us = ca.service("us").issue();
    let mut roots_of_clients = rustls::RootCertStore::empty();
    roots_of_clients
        .add(CertificateDer::from(ca.certificate().to_vec()))
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots_of_clients),
        Arc::clone(&provider),
    )
    .build()
    .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(server.chain().to_vec(), server.key())
        .unwrap();
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                tokio::spawn(answer(
                    stream,
                    with_body(GOOD, "{}").into_bytes(),
                    Arc::default(),
                ));
            }
        }
    });

    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let flags = AgentFlags {
        http_addr: Some(format!("https://{address}")),
        ca_file: Some(file("ca.pem", ca.pem())),
        client_cert: Some(file("us.pem", us.pem())),
        client_key: Some(file("us.key", us.key_pem())),
        tls_server_name: Some("agent.example".to_owned()),
        ..AgentFlags::default()
    };
    let client = |flags: &AgentFlags| {
        AgentClient::new(AgentConfig::resolve(flags.clone(), |_| None).unwrap())
    };
    assert_eq!(
        within(client(&flags).unwrap().execute(&question()))
            .await
            .unwrap()
            .status,
        200
    );

    let other_name = AgentFlags {
        tls_server_name: Some("other.example".to_owned()),
        ..flags.clone()
    };
    let refused = error(&client(&other_name).unwrap()).await;
    assert!(matches!(refused, AgentError::Tls { .. }), "{refused:?}");
    let other_ca = AgentFlags {
        ca_file: Some(file("other.pem", TestCa::new("x.example").pem())),
        ..flags.clone()
    };
    let refused = error(&client(&other_ca).unwrap()).await;
    assert!(matches!(refused, AgentError::Tls { .. }), "{refused:?}");
    let nobody = AgentFlags {
        client_cert: None,
        client_key: None,
        ..flags.clone()
    };
    assert!(
        within(client(&nobody).unwrap().execute(&question()))
            .await
            .is_err()
    );
    let other_key = AgentFlags {
        client_key: Some(file("other.key", server.key_pem())),
        ..flags.clone()
    };
    assert!(client(&other_key).is_err());
    for (what, path) in [
        ("missing", Path::new("/nonexistent").to_owned()),
        ("empty", file("empty", String::new())),
    ] {
        let flags = AgentFlags {
            ca_file: Some(path),
            ..flags.clone()
        };
        assert!(client(&flags).is_err(), "{what}");
    }
    // Plain HTTP to it, and TLS to what speaks plain HTTP.
    let plain = error(&at(&address.to_string())).await;
    assert!(
        matches!(
            plain,
            AgentError::NotConsul { .. } | AgentError::Broken { .. }
        ),
        "{plain:?}"
    );
    let (http, _) = scripted(with_body("HTTP/1.1 400 Bad Request\r\n", "")).await;
    let flags = AgentFlags {
        http_addr: Some(format!("https://{http}")),
        ..flags
    };
    let hasty = HttpRequest {
        read_timeout_ms: 2_000,
        ..question()
    };
    let error = within(client(&flags).unwrap().execute(&hasty))
        .await
        .unwrap_err();
    assert!(
        matches!(error, AgentError::Tls { .. } | AgentError::Timeout { .. }),
        "{error:?}"
    );
}
