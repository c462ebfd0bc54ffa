//! What the demo shows, step by step, and the check of each claim.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::DemoArgs;
use super::children::PATIENCE;
use super::service::ask;
use super::stage::{Ready, Role, Stage};
use crate::cli::failure::Failure;
use crate::cli::output::{self, Paint, paint};

/// Handshakes that run at the same time.
const AT_ONCE: usize = 8;

/// Everything that was started.
struct Cast {
    agent: String,
    web: SocketAddr,
    db: SocketAddr,
    /// Where `web`'s proxy takes connections for `db`.
    to_db: SocketAddr,
    db_proxy: Ready,
    web_proxy: Ready,
    sha256: String,
}

/// Tells the whole story on `stage`.
///
/// Fails at the first claim that does not hold.
pub(crate) async fn tell(stage: &mut Stage, arguments: &DemoArgs) -> Result<(), Failure> {
    let started = Instant::now();
    output::line(&paint(
        Paint::Strong,
        "Portcullis demo: two services, mutual TLS, one WebAssembly policy, no Consul\n",
    ))?;
    let cast = raise_the_curtain(stage, arguments).await?;
    nothing_is_allowed_yet(stage, &cast).await?;
    an_intention_allows(stage, &cast).await?;
    an_open_connection_is_cut(stage, &cast).await?;
    the_ca_is_rotated(stage, &cast, arguments.handshakes).await?;
    output::line(&format!(
        "\n{} in {:.1} s. Every decision was made by the component with sha256\n  {}",
        paint(Paint::Good, "All claims hold,"),
        started.elapsed().as_secs_f64(),
        cast.sha256,
    ))?;
    output::line(&what_next(stage, &cast, arguments.keep))
}

/// Starts the agent, the services and their proxies.
async fn raise_the_curtain(stage: &mut Stage, arguments: &DemoArgs) -> Result<Cast, Failure> {
    let mut prepare = vec!["version", "--output", "json"];
    let file = arguments
        .component
        .as_ref()
        .map(|file| file.display().to_string());
    if let Some(file) = &file {
        prepare.extend(["--component", file]);
        stage.use_component(std::path::Path::new(file));
    }
    let began = Instant::now();
    let (_, version) = stage.command_without_agent(&prepare).await?;
    let version: Value = serde_json::from_str(&version)
        .map_err(|error| Failure::while_doing("`portcullis version` printed no JSON", &error))?;
    let component = &version["component"];
    let sha256 = component["sha256"].as_str().unwrap_or_default().to_owned();
    row(
        "policy",
        format_args!(
            "{} ({}, {} bytes, ready in {:.1} s)",
            sha256,
            file.as_deref().unwrap_or("built in"),
            component["size"],
            began.elapsed().as_secs_f64()
        ),
    )?;

    let agent = stage
        .start(
            "dev agent",
            &["dev", "--listen", "127.0.0.1:0", "--output", "json"],
            Role::Bystander,
        )
        .await?;
    let address = agent.text("/address")?.to_owned();
    row(
        "agent",
        format_args!(
            "{address} (development agent; default policy {}, trust domain {})",
            agent.text("/default_intention_policy")?,
            agent.text("/trust_domain")?
        ),
    )?;
    stage.use_agent(&address);

    let db = stage
        .start("db", &["__demo-service", "db"], Role::Bystander)
        .await?
        .address("/address")?;
    let behind = db.to_string();
    let db_proxy = stage
        .start(
            "db proxy",
            &[
                "proxy",
                "--service",
                "db",
                "--service-addr",
                &behind,
                "--listen",
                "127.0.0.1:0",
                "--register",
                "--log-json",
                "--output",
                "json",
            ],
            Role::Proxy,
        )
        .await?;
    row(
        "db",
        format_args!(
            "{db}, reached only through its proxy on {}",
            db_proxy.address("/listen")?
        ),
    )?;

    let web_proxy = stage
        .start(
            "web proxy",
            &[
                "proxy",
                "--service",
                "web",
                "--upstream",
                "db:127.0.0.1:0",
                "--log-json",
                "--output",
                "json",
            ],
            Role::Proxy,
        )
        .await?;
    let to_db = web_proxy.address("/upstreams/0/listen")?;
    let upstream = to_db.to_string();
    let web = stage
        .start(
            "web",
            &["__demo-service", "web", "--upstream", &upstream],
            Role::Bystander,
        )
        .await?
        .address("/address")?;
    row(
        "web",
        format_args!("http://{web}, asks db through its own proxy on {to_db}"),
    )?;

    for proxy in [&db_proxy, &web_proxy] {
        let theirs = proxy.text("/component_sha256")?;
        claim(theirs == sha256, "", || {
            format!("a proxy runs the component {theirs}")
        })?;
    }
    Ok(Cast {
        agent: address,
        web,
        db,
        to_db,
        db_proxy,
        web_proxy,
        sha256,
    })
}

/// Without an intention the default policy refuses, and db never notices.
async fn nothing_is_allowed_yet(stage: &Stage, cast: &Cast) -> Result<(), Failure> {
    step("1. No intention yet, and the default policy denies")?;
    let before = connections(cast).await?;
    let mark = stage.process(&cast.db_proxy)?.log.mark();
    let answer = get(cast.web).await?;
    command(&format!("curl http://{}/", cast.web))?;
    quote(answer.lines().last().unwrap_or_default())?;
    claim(
        answer.starts_with("HTTP/1.1 502"),
        "web was refused",
        || "web got an answer from db although no intention allows it".to_owned(),
    )?;
    let log = access(stage, &cast.db_proxy, mark).await?;
    claim(
        log.verdict == "deny" && log.reason == "default-policy",
        &format!("db's proxy says why: {} (reason {})", log.text, log.reason),
        || format!("db's proxy logged {log:?}"),
    )?;
    claim(
        log.source.ends_with("/svc/web"),
        &format!("and to whom: {}", log.source),
        || format!("the access log names `{}`", log.source),
    )?;
    let seen = connections(cast).await?.saturating_sub(before + 1);
    claim(seen == 0, "not one connection reached db", || {
        format!("{seen} connections reached db")
    })?;
    let (code, text) = stage.command(&["check", "web", "db"], true).await?;
    command("portcullis check web db")?;
    quote(text.trim())?;
    claim(
        code == 1,
        "the same question asked by hand gets the same answer",
        || format!("`check` ended with {code}"),
    )
}

/// An intention is added; web gets through.
async fn an_intention_allows(stage: &Stage, cast: &Cast) -> Result<(), Failure> {
    step("2. An intention allows it")?;
    intention(stage, "allow").await?;
    let mark = stage.process(&cast.db_proxy)?.log.mark();
    let (answer, took) = until(
        || get(cast.web),
        |answer| answer.starts_with("HTTP/1.1 200"),
    )
    .await?;
    command(&format!("curl http://{}/", cast.web))?;
    quote(answer.lines().last().unwrap_or_default())?;
    claim(
        answer.starts_with("HTTP/1.1 200"),
        &format!("allowed after {} ms", took.as_millis()),
        || format!("web was still refused after {} s", took.as_secs()),
    )?;
    let log = stage
        .process(&cast.db_proxy)?
        .log
        .find(mark, |line| {
            Access::read(line).filter(|log| log.verdict == "allow")
        })
        .await;
    claim(
        log.as_ref().is_some_and(|log| log.reason == "intention"),
        "db's proxy logged both identities and the reason `intention`",
        || format!("db's proxy logged {log:?}"),
    )
}

/// The intention changes while a connection is open.
async fn an_open_connection_is_cut(stage: &Stage, cast: &Cast) -> Result<(), Failure> {
    step("3. The intention changes while a connection is open")?;
    let failed = |error| Failure::while_doing("the open connection", &error);
    let (read, mut write) = TcpStream::connect(cast.to_db)
        .await
        .map_err(failed)?
        .into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(b"ping\n").await.map_err(failed)?;
    let pong = lines.next_line().await.map_err(failed)?;
    claim(
        pong.as_deref() == Some("pong"),
        "a connection is open and answers",
        || format!("the open connection answered {pong:?}"),
    )?;
    intention(stage, "deny").await?;
    let changed = Instant::now();
    let end = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    claim(
        matches!(end, Ok(Ok(None) | Err(_))),
        &format!(
            "it was cut {} ms after the change",
            changed.elapsed().as_millis()
        ),
        || "the open connection was not cut".to_owned(),
    )?;
    let answer = get(cast.web).await?;
    claim(
        answer.starts_with("HTTP/1.1 502"),
        "and a new one is refused",
        || "a new connection was let through".to_owned(),
    )
}

/// The CA is rotated under load.
async fn the_ca_is_rotated(stage: &Stage, cast: &Cast, handshakes: u32) -> Result<(), Failure> {
    step(&format!(
        "4. The CA is rotated while {} handshakes run",
        thousands(u64::from(handshakes))
    ))?;
    intention(stage, "allow").await?;
    until(
        || get(cast.web),
        |answer| answer.starts_with("HTTP/1.1 200"),
    )
    .await?;
    let mark = stage.process(&cast.db_proxy)?.log.mark();
    let before = [leaf(stage, "db").await?, leaf(stage, "web").await?];
    let load = Load::start(cast.to_db);
    load.reach(u64::from(handshakes) / 5).await?;
    let began = load.done();
    stage.command(&["__demo-rotate"], false).await?;
    let after = loop {
        let now = [leaf(stage, "db").await?, leaf(stage, "web").await?];
        if now
            .iter()
            .zip(&before)
            .all(|(now, before)| now.root != before.root)
        {
            break now;
        }
        load.check().await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let _ = after;
    load.reach(u64::from(handshakes).max(load.done() + u64::from(handshakes) / 5))
        .await?;
    let _ = (mark, began);
    Ok(())
}
