//! An application that enforces its own L7 intentions, with axum and without a sidecar.
//!
//! host/NATIVE.md is its page. In other terminals `portcullis dev`, then:
//!
//! ```text
//! curl -X PUT localhost:8500/v1/config -d '{"Kind": "service-defaults", "Name": "api", "Protocol": "http"}'
//! curl -X PUT localhost:8500/v1/config -d '{"Kind": "service-intentions", "Name": "api", "Sources": [
//!   {"Name": "web", "Permissions": [
//!     {"Action": "allow", "HTTP": {"PathPrefix": "/items/", "Methods": ["GET"]}},
//!     {"Action": "deny", "HTTP": {"PathPrefix": "/"}}]}]}'
//! cargo run --release -p portcullis-examples --example http_axum
//! cargo run --release -p portcullis-examples --example http_client -- GET http://api/items/7
//! ```
//!
//! Arguments: where the mesh reaches it, and where `/metrics` is told, if anywhere.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::routing::{get, post};
use http_body_util::channel::Channel;
use portcullis::admin::{Admin, Role};
use portcullis::layer::{Caller, Intentions};
use portcullis::member::Member;
use portcullis::proxy::ListenAddress;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Every request is a line of the access log here.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or("127.0.0.1:20000".to_owned());
    let metrics = arguments.next();

    let api = Member::join("api").await?;
    let intentions = Intentions::new(&api);
    let listener = intentions.listen(address.parse()?)?;
    // Others find it by its name; `connect.native` says that it needs no sidecar.
    let registration = api.announce(listener.address())?;
    if let Some(metrics) = metrics {
        let admin = Admin::new(serde_json::Value::Null, None);
        admin.observe(intentions.observer());
        admin.serve(Role::Metrics, &ListenAddress::Tcp(metrics.parse()?))?;
    }
    println!("api listens on {}", listener.address());

    let app = Router::new()
        .route("/items/{id}", get(item))
        .route("/ticks", get(ticks))
        .route("/echo", post(async |body: Bytes| body));
    // Around the whole router: it sees the path that was judged.
    let app = intentions.layer(app).into_make_service();
    axum::serve(listener, app)
        .with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) })
        .await?;
    registration.leave().await;
    Ok(())
}

/// Only who may ask comes here, and it is known who it is.
async fn item(caller: Caller, Path(id): Path<String>) -> String {
    let why = caller.decision();
    format!(
        "item {id} for {} (intention {:?}, permission {:?})\n",
        caller.identity(),
        why.intention,
        why.permission,
    )
}

/// Goes on until the client has enough, or is no longer allowed to listen.
async fn ticks() -> Body {
    let (mut sender, body) = Channel::<Bytes>::new(1);
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        loop {
            tick.tick().await;
            if sender.send_data("tick\n".into()).await.is_err() {
                return;
            }
        }
    });
    Body::new(body)
}
