//! A service that takes connections from the mesh by itself, without a proxy.
//!
//! `portcullis dev` and `portcullis intention allow web db` in other terminals, then
//! `cargo run --release -p portcullis-examples --example inbound`, and call it with `outbound`.

use portcullis::member::Member;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let db = Member::join("db").await?;
    let listener = TcpListener::bind("127.0.0.1:20000").await?;
    loop {
        let (stream, from) = listener.accept().await?;
        let db = db.clone();
        tokio::spawn(async move {
            match db.accept(stream).await {
                Ok((mut client, _decision)) => {
                    let greeting = format!("hello {}\n", client.peer.id);
                    let _ = client.stream.write_all(greeting.as_bytes()).await;
                    let _ = client.stream.shutdown().await;
                }
                Err(refused) => eprintln!("{from}: {refused}"),
            }
        });
    }
}
