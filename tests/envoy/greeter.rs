//! Applications that remember every byte that reached them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use portcullis_tests::stage::ANY;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

/// An application that may speak first, and then echoes.
#[derive(Clone, Debug)]
pub(crate) struct Greeter {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    says: broadcast::Sender<&'static [u8]>,
}

impl Greeter {
    /// Starts one that begins with `greeting`.
    pub(crate) async fn start(greeting: &'static [u8]) -> Self {
        let listener = TcpListener::bind(ANY).await.expect("a port");
        let greeter = Self {
            address: listener.local_addr().expect("an address"),
            received: Arc::default(),
            says: broadcast::Sender::new(8),
        };
        let serving = greeter.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move {
                    let _ = stream.write_all(greeting).await;
                    let mut says = serving.says.subscribe();
                    let mut part = [0; 4096];
                    loop {
                        let bytes = tokio::select! {
                            read = stream.read(&mut part) => match read {
                                Ok(count @ 1..) => {
                                    let bytes = &part[..count];
                                    serving.received.lock().expect("unpoisoned").extend(bytes);
                                    bytes
                                }
                                _ => break,
                            },
                            Ok(said) = says.recv() => said,
                        };
                        if stream.write_all(bytes).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        greeter
    }

    /// Says this to all who are connected.
    pub(crate) fn say(&self, bytes: &'static [u8]) {
        let _ = self.says.send(bytes);
    }

    /// Every byte that has reached it.
    pub(crate) fn received(&self) -> Vec<u8> {
        self.received.lock().expect("unpoisoned").clone()
    }
}
