//! A program that calls services of the mesh over HTTP by their names, without a sidecar.
//!
//! `cargo run --release -p portcullis-examples --example http_client -- GET http://api/items/7`,
//! with `x-header=value` after that as often as wanted.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use portcullis::member::Member;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let method = arguments.next().unwrap_or("GET".to_owned());
    let uri = arguments.next().unwrap_or("http://api/items/7".to_owned());
    let mut request = Request::builder().method(method.as_str()).uri(uri);
    for header in arguments {
        let (name, value) = header.split_once('=').unwrap_or((header.as_str(), ""));
        request = request.header(name, value);
    }

    let web = Member::join("web").await?;
    // The connector finds an instance, and talks to nobody but the service it was asked for.
    let client = Client::builder(TokioExecutor::new()).build(web.connector().clone());
    let response = client.request(request.body(Empty::<Bytes>::new())?).await?;
    println!("{}", response.status());
    let body = response.into_body().collect().await?.to_bytes();
    print!("{}", String::from_utf8_lossy(&body));
    Ok(())
}
