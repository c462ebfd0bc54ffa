//! The two services of the demo: `web`, which answers HTTP by asking `db`, and
//! `db`, which answers lines. Neither knows of TLS or the mesh.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::shutdown::{Shutdown, StopArgs};

/// How long a service waits for another.
const PATIENCE: Duration = Duration::from_secs(5);

/// One of the demo's services
#[derive(Debug, clap::Args)]
pub(crate) struct ServiceArgs {
    /// Which one
    #[arg(value_enum)]
    role: Role,
    /// Where `web` finds `db`
    #[arg(long, required_if_eq("role", "web"))]
    upstream: Option<SocketAddr>,
    #[command(flatten)]
    stop: StopArgs,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    /// Answers HTTP by asking `db`.
    Web,
    /// Answers lines.
    Db,
}

/// Runs the service until it is told to stop; prints its address as JSON.
pub(crate) async fn run(arguments: &ServiceArgs) -> Result<ExitCode, Failure> {
    let failed = |error| Failure::while_doing("demo service", &error);
    let mut shutdown = Shutdown::listen(&arguments.stop).map_err(failed)?;
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    output::json(&serde_json::json!({ "address": address }))?;
    let serving = async {
        match (arguments.role, arguments.upstream) {
            (Role::Web, Some(db)) => web(listener, db).await,
            _ => db(listener).await,
        }
    };
    tokio::select! {
        ended = serving => ended.map_err(failed)?,
        _ = shutdown.requested() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Answers each line. `connections` is answered with how many connections have
/// arrived so far, this one included; the demo uses it to prove that a refused
/// client never got here.
async fn db(listener: TcpListener) -> io::Result<()> {
    let arrived = Arc::new(AtomicU64::new(0));
    loop {
        let (stream, _) = listener.accept().await?;
        let number = arrived.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let answer = match line.as_str() {
                    "connections" => number.to_string(),
                    "ping" => "pong".to_owned(),
                    _ => format!("db knows {line}: 42"),
                };
                if write
                    .write_all(format!("{answer}\n").as_bytes())
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
    }
}

/// `GET /` asks `db` once; `GET /watch` keeps one connection open and asks
/// every quarter of a second until it is cut.
async fn web(listener: TcpListener, db: SocketAddr) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A browser that goes away is no failure of ours.
            let _ = answer(stream, db).await;
        });
    }
}

async fn answer(stream: TcpStream, db: SocketAddr) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let request = lines.next_line().await?.unwrap_or_default();
    while lines
        .next_line()
        .await?
        .is_some_and(|line| !line.is_empty())
    {}
    let mut start = async |status: &str| {
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n");
        write.write_all(head.as_bytes()).await
    };
    match request.split(' ').nth(1) {
        Some("/") => match ask(db, "the answer").await {
            Ok(line) => {
                start("200 OK").await?;
                write
                    .write_all(format!("web asked db: {line}\n").as_bytes())
                    .await?;
            }
            Err(error) => {
                start("502 Bad Gateway").await?;
                write
                    .write_all(format!("web cannot reach db: {error}\n").as_bytes())
                    .await?;
            }
        },
        Some("/watch") => {
            start("200 OK").await?;
            let (read, mut to_db) = TcpStream::connect(db).await?.into_split();
            let mut from_db = BufReader::new(read).lines();
            for count in 1_u64.. {
                if to_db
                    .write_all(format!("tick {count}\n").as_bytes())
                    .await
                    .is_err()
                {
                    break;
                }
                match tokio::time::timeout(PATIENCE, from_db.next_line()).await {
                    Ok(Ok(Some(line))) => write.write_all(format!("{line}\n").as_bytes()).await?,
                    _ => break,
                }
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(250)) => {}
                    // Anything here is the end: `db` speaks only when asked.
                    _ = from_db.next_line() => break,
                }
            }
            write.write_all(b"the connection to db was cut\n").await?;
        }
        _ => {
            start("404 Not Found").await?;
            write.write_all(b"try / or /watch\n").await?;
        }
    }
    write.shutdown().await
}

/// One connection, one line out, one line back.
pub(crate) async fn ask(address: SocketAddr, line: &str) -> io::Result<String> {
    let exchange = async {
        let (read, mut write) = TcpStream::connect(address).await?.into_split();
        write.write_all(format!("{line}\n").as_bytes()).await?;
        let mut lines = BufReader::new(read).lines();
        let closed = || {
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed without an answer",
            )
        };
        lines.next_line().await?.ok_or_else(closed)
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no answer within 5 s",
            ))
        })
}
