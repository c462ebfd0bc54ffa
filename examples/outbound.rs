//! A program that calls a service of the mesh by itself, without a proxy.
//!
//! `cargo run --release -p portcullis-examples --example outbound 127.0.0.1:20000` calls the
//! example `inbound`: a fixed address, an exact identity. Without an argument the agent is
//! asked for a registered instance of `db`.

use portcullis::connector::Upstream;
use portcullis::member::Member;
use tokio::io::AsyncReadExt as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let web = Member::join("web").await?;
    let db = match std::env::args().nth(1) {
        None => Upstream::service("db"),
        Some(address) => Upstream::Static {
            address,
            id: web.sibling("db")?,
        },
    };
    let mut server = web.connector().dial_upstream(&db).await?.stream;
    let mut answer = String::new();
    server.stream.read_to_string(&mut answer).await?;
    print!("{} says: {answer}", server.peer.id);
    Ok(())
}
