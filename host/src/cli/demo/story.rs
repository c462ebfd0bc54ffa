//! What the demo shows, step by step, and the check of each claim.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::DemoArgs;
use super::children::PATIENCE;
use super::evidence::{
    Access, access, active_root, client, connections, get, intention, is_listed, rotate, until,
};
use super::load::Load;
use super::stage::{Ready, Role, Stage};
use super::telling::{claim, command, quote, row, short, step, thousands};
use crate::cli::failure::Failure;
use crate::cli::output::{self, Paint, paint};

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
        stage.use_component(Path::new(file));
    }
    let began = Instant::now();
    let (_, version) = stage.command(&prepare, false).await?;
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
            &[
                "dev",
                "--listen",
                "127.0.0.1:0",
                "--default-intention-policy",
                "deny",
                "--rotation-delay",
                "0",
                "--output",
                "json",
            ],
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

    is_listed(&client(&address)?, "db").await?;
    let web_proxy = stage
        .start(
            "web proxy",
            &["proxy", "--service", "web", "--upstream", "db:127.0.0.1:0"],
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
    let before = connections(cast.db).await?;
    let mark = stage.process(&cast.db_proxy)?.log.mark();
    let web_mark = stage.process(&cast.web_proxy)?.log.mark();
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
        !log.allowed && log.code == "default-policy",
        &format!("db's proxy says why: {} ({})", log.reason, log.code),
        || format!("db's proxy logged {log:?}"),
    )?;
    claim(
        log.source.ends_with("/svc/web"),
        &format!("and to whom: {}", log.source),
        || format!("the access log names `{}`", log.source),
    )?;
    let told = stage
        .process(&cast.web_proxy)?
        .log
        .find(web_mark, Access::read)
        .await;
    let told = told.map(|log| log.reason).unwrap_or_default();
    claim(
        told.contains("refuses us"),
        &format!("web's proxy says: {told}"),
        || format!("web's proxy logged `{told}`"),
    )?;
    let seen = connections(cast.db).await?.saturating_sub(before + 1);
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
        async || get(cast.web).await,
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
        .find(mark, |line| Access::read(line).filter(|log| log.allowed))
        .await;
    claim(
        log.as_ref().is_some_and(|log| log.code == "intention"),
        "db's proxy logged both identities and the reason `intention`",
        || format!("db's proxy logged {log:?}"),
    )
}

/// The intention changes while a connection is open.
async fn an_open_connection_is_cut(stage: &Stage, cast: &Cast) -> Result<(), Failure> {
    step("3. The intention changes while a connection is open")?;
    let mark = stage.process(&cast.db_proxy)?.log.mark();
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
    let changed = Instant::now();
    intention(stage, "deny").await?;
    let end = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    claim(
        matches!(end, Ok(Ok(None) | Err(_))),
        &format!(
            "it was cut within {} ms of the command",
            changed.elapsed().as_millis()
        ),
        || "the open connection was not cut".to_owned(),
    )?;
    let log = stage
        .process(&cast.db_proxy)?
        .log
        .find(mark, |line| Access::read(line).filter(|log| !log.allowed))
        .await;
    let reason = log.map(|log| log.reason).unwrap_or_default();
    claim(
        reason.contains("change of policy"),
        &format!("db's proxy says: {reason}"),
        || format!("db's proxy logged `{reason}` for the cut"),
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
    let wanted = u64::from(handshakes);
    step(&format!(
        "4. The CA is rotated while {} handshakes run",
        thousands(wanted)
    ))?;
    intention(stage, "allow").await?;
    until(
        async || get(cast.web).await,
        |answer| answer.starts_with("HTTP/1.1 200"),
    )
    .await?;
    let agent = client(&cast.agent)?;
    let old = active_root(&agent).await?;
    let (at_db, at_web) = (
        &stage.process(&cast.db_proxy)?.log,
        &stage.process(&cast.web_proxy)?.log,
    );
    let (db_mark, web_mark) = (at_db.mark(), at_web.mark());

    let began = Instant::now();
    let load = Load::start(cast.to_db);
    load.reach(wanted / 5).await?;
    let before = load.done();
    rotate(&agent).await?;
    let new = active_root(&agent).await?;
    claim(
        old != new,
        &format!(
            "the active root was {}, and now is {}",
            short(&old),
            short(&new)
        ),
        || "the agent still signs with the old root".to_owned(),
    )?;
    for (log, mark, whose) in [(at_db, db_mark, "db"), (at_web, web_mark, "web")] {
        let renewed = log
            .find(mark, |line| {
                (line["message"] == "leaf certificate").then_some(())
            })
            .await;
        claim(renewed.is_some(), "", || {
            format!("the proxy of {whose} did not renew its certificate")
        })?;
    }
    let changed = load.done();
    load.reach(wanted.max(changed + wanted / 5)).await?;
    let (done, failed, first) = load.finish().await;
    claim(
        failed == 0,
        &format!(
            "{} handshakes in {:.1} s: {} before, {} while both proxies took new certificates, {} after; none failed",
            thousands(done),
            began.elapsed().as_secs_f64(),
            thousands(before),
            thousands(changed - before),
            thousands(done - changed),
        ),
        || {
            format!(
                "{failed} of {done} handshakes failed, the first with: {}",
                first.unwrap_or_default()
            )
        },
    )?;
    let verdicts = || at_db.since(db_mark, |line| Access::read(line).map(|log| log.allowed));
    let all_told =
        |verdicts: &Vec<bool>| u64::try_from(verdicts.len()).is_ok_and(|lines| lines >= done);
    let (verdicts, _) = until(async || Ok(verdicts()), all_told).await?;
    claim(
        all_told(&verdicts) && verdicts.iter().all(|allowed| *allowed),
        "db's proxy logged every one of them, and refused none",
        || {
            let refused = verdicts.iter().filter(|allowed| !**allowed).count();
            format!(
                "db's proxy logged {} connections, {refused} of them refused",
                verdicts.len()
            )
        },
    )
}

/// Commands to paste.
fn what_next(stage: &Stage, cast: &Cast, keep: bool) -> String {
    if !keep {
        return "\nTry next:\n  portcullis demo --keep      leave it running and try it yourself\n  portcullis dev              the development agent alone, for your own services\n  portcullis proxy --help     put a service into the mesh of a real Consul".to_owned();
    }
    format!(
        "\nTry in another terminal:\n  export CONSUL_HTTP_ADDR={}\n  curl http://{}/\n  curl -N http://{}/watch        # keep this open, and then:\n  portcullis intention deny web db\n  portcullis check web db -explain\n  portcullis intention list\n  tail -f {}/*.log",
        cast.agent,
        cast.web,
        cast.web,
        stage.logs().display(),
    )
}
