//! Applications that get it wrong stay closed.

use axum::Router;
use axum::routing::get;
use http::{Request, StatusCode};
use portcullis::layer::{Caller, Intentions};
use portcullis_tests::stage::{ANY, Stage, logged, within};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

use crate::client::{Client, empty, read_until};
use crate::scene::permit;

fn app() -> Router {
    Router::new().route("/", get(async || "secret"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_an_identity_is_refused() {
    let stage = Stage::new().await;
    let all = serde_json::json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    permit(&stage.agent, all);
    let member = stage.member("api").await;
    let intentions = Intentions::new(&member);
    // A plain listener has no identities, and a header makes none.
    let request = Request::get("/")
        .header(
            "x-forwarded-client-cert",
            "URI=spiffe://td/ns/default/dc/dc1/svc/web",
        )
        .body(empty())
        .unwrap();
    let answer = intentions.layer(app()).oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let line = logged("inbound", "api", "no-identity").await;
    assert!(line["reason"].contains("MeshListener"), "{line:?}");

    // The connections of one service say nothing to the intentions of another.
    let listener = intentions.listen(ANY).unwrap();
    let address = listener.address();
    let others = Intentions::new(&stage.member("other").await).layer(app());
    tokio::spawn(async move { axum::serve(listener, others.into_make_service()).await });
    let client = Client::new(&stage.agent, "web", address);
    let answer = client.raw(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", |read| {
        read.contains("\r\n\r\n")
    });
    let answer = answer.await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let _ = logged("inbound", "other", "no-identity").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_forgot_the_layer_gets_no_request() {
    let stage = Stage::new().await;
    let all = serde_json::json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }]);
    permit(&stage.agent, all);
    let member = stage.member("api").await;
    let listener = Intentions::new(&member).listen(ANY).unwrap();
    let address = listener.address();
    tokio::spawn(async move { axum::serve(listener, app()).await });
    let client = Client::new(&stage.agent, "web", address);
    let answer = client
        .raw(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", |_| false)
        .await;
    assert_eq!(answer, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_wants_a_caller_needs_the_layer() {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().route(
        "/",
        get(async |caller: Caller| caller.identity().to_string()),
    );
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let answer = within(read_until(&mut stream, |read| read.contains("\r\n\r\n"))).await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
}
