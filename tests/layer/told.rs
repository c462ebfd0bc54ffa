//! Why a request was refused: told to what stands around the layer, and to the client only
//! where that is asked for.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use portcullis::decisions::{DecisionLog, DecisionLogConfig, Decisions, Destination};
use portcullis::layer::{Body, Intentions, Refusal};
use portcullis::proxy::Limits;
use portcullis_tests::process::eventually;
use portcullis_tests::stage::{ANY, Stage};
use tower::ServiceExt as _;

use crate::client::{Client, body, empty, send};
use crate::scene::{SOON, permit, usual};

async fn hello(_: Request<Body<Incoming>>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("hello")))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_around_the_layer_learns_why() {
    let stage = Stage::new().await;
    permit(&stage.agent, usual());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.ndjson");
    let log = DecisionLog::open(DecisionLogConfig {
        destination: Destination::File(file.clone()),
        allows: 1,
        headers: Vec::new(),
        queries: Vec::new(),
    });
    let log = log.unwrap();
    let member = stage.member("api").await.with_decisions(Decisions {
        log: Some(log.clone()),
        shadow: None,
    });
    let mut limits = Limits::default();
    limits.http.debug_header = true;
    let intentions = Intentions::with_limits(&member, limits);
    let mut listener = intentions.listen(ANY).unwrap();
    let address = listener.address();
    let app = intentions.layer(tower::service_fn(hello));
    let told: Arc<Mutex<Vec<Option<Refusal>>>> = Arc::default();
    let tells = Arc::clone(&told);
    tokio::spawn(async move {
        let io = listener.accept().await;
        let app = app.on(io.connection()).map_response(move |answer| {
            let refusal = answer.extensions().get::<Refusal>().cloned();
            tells.lock().unwrap().push(refusal);
            answer
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        let service = TowerToHyperService::new(app);
        let _ = builder.serve_connection(TokioIo::new(io), service).await;
    });
    let mut client = Client::new(&stage.agent, "web", address).http1().await;
    let mut shown = Vec::new();
    for path in ["/items/7", "/items/secret", "/other"] {
        let request = Request::get(path).header("host", "api");
        let answer = send(&mut client, request.body(empty()).unwrap()).await;
        let reason = answer.headers()["x-portcullis-reason"].to_str().unwrap();
        shown.push(reason.to_owned());
        let text = body(answer).await;
        assert!(text == "hello" || text == "Forbidden", "{text}");
    }
    assert_eq!(shown, ["permission", "permission", "no-permission-matched"]);
    let told = told.lock().unwrap();
    let [None, Some(secret), Some(other)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(secret.code(), "permission");
    assert_eq!(secret.decision().unwrap().permission, Some(0));
    assert!(secret.reason().contains("web"), "{}", secret.reason());
    assert_eq!(other.code(), "no-permission-matched");
    assert_eq!(other.decision().unwrap().permission, None);

    // The decision log of an application is that of a proxy.
    tokio::task::block_in_place(|| {
        eventually("three lines", SOON, || (log.written() == 3).then_some(()))
    });
    let text = std::fs::read_to_string(&file).unwrap();
    let logged: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let codes: Vec<&str> = logged
        .iter()
        .map(|line| line["because"]["code"].as_str().unwrap())
        .collect();
    assert_eq!(codes, shown);
    assert_eq!(logged[1]["because"]["permission"], 0);
    assert_eq!(logged[1]["request"]["path"], "/items/secret");
}
