//! The application behind the proxies: echoes, swallows or sends, as the first byte says.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::patience::until;

/// Everything comes back, this byte included.
pub const ECHO: u8 = b'e';
/// The next eight bytes say how much will be sent; one byte comes back at its end.
pub const SWALLOW: u8 = b's';
/// The next eight bytes say how much is to come back.
pub const POUR: u8 = b'p';

/// A running application; one thread, on the core of whoever started it.
#[derive(Clone, Debug)]
pub struct Application {
    /// Where it listens.
    pub address: SocketAddr,
    open: Arc<AtomicUsize>,
}

impl Application {
    /// Starts one.
    ///
    /// # Errors
    /// When there is no free port or no thread.
    pub fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("no runtime")?;
        let listener = runtime
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .context("no free port")?;
        let address = listener.local_addr().context("no address")?;
        let open = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&open);
        std::thread::Builder::new()
            .name("application".to_owned())
            .spawn(move || runtime.block_on(accept(listener, counted)))
            .context("no thread")?;
        Ok(Self { address, open })
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Waits until only `left` connections are open.
    ///
    /// # Errors
    /// When others stay open.
    pub fn settled(&self, left: usize) -> Result<()> {
        until("the application's connections end", || {
            (self.open() <= left).then_some(())
        })
    }
}

async fn accept(listener: TcpListener, open: Arc<AtomicUsize>) {
    loop {
        // Out of descriptors, for example: the client sees that nothing comes back.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let open = Arc::clone(&open);
        open.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let _ = serve(stream).await;
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let work = stream.read_u8().await?;
    match work {
        SWALLOW => {
            let mut left = stream.read_u64().await?;
            let mut buffer = vec![0; 256 * 1024];
            while left > 0 {
                let read = stream.read(&mut buffer).await?;
                if read == 0 {
                    return Ok(());
                }
                left = left.saturating_sub(read as u64);
            }
            stream.write_u8(SWALLOW).await?;
        }
        POUR => {
            let mut left = stream.read_u64().await?;
            let buffer = vec![0x5a; 256 * 1024];
            while left > 0 {
                let size = buffer
                    .len()
                    .min(usize::try_from(left).unwrap_or(usize::MAX));
                stream.write_all(&buffer[..size]).await?;
                left -= size as u64;
            }
        }
        _ => {
            stream.write_u8(work).await?;
            let mut buffer = [0; 4096];
            loop {
                let read = stream.read(&mut buffer).await?;
                if read == 0 {
                    return Ok(());
                }
                stream.write_all(&buffer[..read]).await?;
            }
        }
    }
    // The client ends the connection.
    while stream.read(&mut [0; 64]).await? > 0 {}
    Ok(())
}
