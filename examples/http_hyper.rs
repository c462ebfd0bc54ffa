//! An application that enforces its own L7 intentions, with hyper and without a sidecar.
//!
//! The same as `http_axum`, which says what to do first; it answers each request with who
//! asked for what.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use portcullis::layer::{Body, Caller, Intentions};
use portcullis::member::Member;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let address = std::env::args().nth(1);
    let address = address.unwrap_or("127.0.0.1:20000".to_owned());

    let api = Member::join("api").await?;
    let intentions = Intentions::new(&api);
    let mut listener = intentions.listen(address.parse()?)?;
    let registration = api.announce(listener.address())?;
    println!("api listens on {}", listener.address());

    let app = intentions.layer(tower::service_fn(answer));
    loop {
        let io = tokio::select! {
            io = listener.accept() => io,
            _ = tokio::signal::ctrl_c() => break,
        };
        let served = app.serve(io);
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
    registration.leave().await;
    Ok(())
}

async fn answer(request: Request<Body<Incoming>>) -> anyhow::Result<Response<Full<Bytes>>> {
    let caller = request.extensions().get::<Caller>();
    let caller = caller.ok_or_else(|| anyhow::anyhow!("no intentions are enforced"))?;
    let text = format!(
        "{} may {} {}\n",
        caller.identity(),
        request.method(),
        request.uri()
    );
    Ok(Response::new(Full::from(text)))
}
