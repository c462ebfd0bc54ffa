//! Applications that remember every byte that reached them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use portcullis_tests::stage::ANY;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// An application that may speak first, and then echoes.
#[derive(Clone, Debug)]
pub(crate) struct Greeter {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Greeter {
    /// Starts one that begins with `greeting`.
    pub(crate) async fn start(greeting: &'static [u8]) -> Self {
        let listener = TcpListener::bind(ANY).await.expect("a port");
        let greeter = Self {
            address: listener.local_addr().expect("an address"),
            received: Arc::default(),
        };
        let serving = greeter.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move {
                    let _ = stream.write_all(greeting).await;
                    let mut part = [0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut part).await {
                        let bytes = &part[..count];
                        serving.received.lock().expect("unpoisoned").extend(bytes);
                        if stream.write_all(bytes).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        greeter
    }

    /// Every byte that has reached it.
    pub(crate) fn received(&self) -> Vec<u8> {
        self.received.lock().expect("unpoisoned").clone()
    }
}
