//! An application that upgrades: what follows goes on, and ends when the policy says so.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use portcullis::layer::{Body, Intentions};
use portcullis_tests::stage::{ANY, Stage, logged_of};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{Client, read_until};
use crate::scene::permit;

async fn echo(mut request: Request<Body<Incoming>>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let mut stream = TokioIo::new(upgraded);
        let mut part = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut part).await {
            if stream.write_all(&part[..count]).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [("connection", "upgrade"), ("upgrade", "echo")] {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    Ok(response)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_is_judged_again() {
    let stage = Stage::new().await;
    permit(
        &stage.agent,
        json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]),
    );
    let member = stage.member("api").await;
    let intentions = Intentions::new(&member);
    let mut listener = intentions.listen(ANY).unwrap();
    let address = listener.address();
    let app = intentions.layer(tower::service_fn(echo));
    tokio::spawn(async move {
        loop {
            let io = listener.accept().await;
            let service = TowerToHyperService::new(app.on(io.connection()));
            tokio::spawn(async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                let served = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
                let _ = served.await;
            });
        }
    });
    let mut stream = Client::new(&stage.agent, "web", address).connect(&[]).await;
    // What comes before the answer waits for it.
    stream
        .write_all(
            b"GET /a HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nearly",
        )
        .await
        .unwrap();
    let answer = read_until(&mut stream, |read| read.contains("early")).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    stream.write_all(b"late").await.unwrap();
    assert_eq!(
        read_until(&mut stream, |read| read.len() >= 4).await,
        "late"
    );
    permit(
        &stage.agent,
        json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/b" } }]),
    );
    assert_eq!(read_until(&mut stream, |_| false).await, "", "it ends");
    let line = logged_of(&member, "no-permission-matched").await;
    assert!(
        line["reason"].contains("cut off by a change of policy"),
        "{line:?}"
    );
}
