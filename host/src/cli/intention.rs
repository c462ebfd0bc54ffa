//! `portcullis intention`: who may talk to whom, on an agent.

use std::process::ExitCode;

use portcullis_core::agent::intentions::{self, Summary};
use portcullis_core::agent::{AllowDeny, Query, accepted};
use serde_json::{Value, json};

use super::agent::{AgentArgs, ask, ask_for};
use super::failure::Failure;
use super::output::{self, Format, OutputArgs, Paint, paint};
use portcullis::escape::escape;

/// The longest description that is shown in the table.
const LONGEST_DESCRIPTION: usize = 60;

/// List or change who may talk to whom, on a Consul agent or `portcullis dev`
///
/// Changes take effect at once for new connections, and open connections that are
/// now forbidden are cut by the proxies.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis intention list
  portcullis intention allow web db
  portcullis intention deny '*' db
  portcullis intention delete web db
Which one: `intention` changes the rules, `check` asks what they lead to.")]
pub(crate) struct IntentionArgs {
    #[command(subcommand)]
    action: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List all intentions that the token may see
    List(ListArgs),
    /// Allow connections from SOURCE to DESTINATION
    Allow(PairArgs),
    /// Deny connections from SOURCE to DESTINATION
    Deny(PairArgs),
    /// Delete the intention from SOURCE to DESTINATION
    Delete(PairArgs),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
struct PairArgs {
    /// Service that connects; `*` for all
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Service that is connected to; `*` for all
    destination: String,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
pub(crate) async fn run(arguments: &IntentionArgs) -> Result<ExitCode, Failure> {
    match &arguments.action {
        Verb::List(arguments) => list(arguments).await,
        Verb::Allow(pair) => set(pair, AllowDeny::Allow).await,
        Verb::Deny(pair) => set(pair, AllowDeny::Deny).await,
        Verb::Delete(pair) => delete(pair).await,
    }
}

async fn list(arguments: &ListArgs) -> Result<ExitCode, Failure> {
    let client = arguments.agent.client()?;
    let (found, filtered) = ask(&client, Ok(intentions::list(&Query::default())), |reply| {
        Ok((intentions::decode_list(reply)?, reply.headers.filtered))
    })
    .await?;
    if filtered {
        tracing::warn!("the token does not see every intention");
    }
    match arguments.output.output {
        Format::Json => output::json(&found.iter().map(as_json).collect::<Vec<_>>())?,
        Format::Text if found.is_empty() => {
            output::line("no intentions: the default policy decides about every connection")?;
        }
        Format::Text => {
            let head = [
                "SOURCE",
                "DESTINATION",
                "ACTION",
                "PRECEDENCE",
                "DESCRIPTION",
            ]
            .map(str::to_owned);
            let rows: Vec<Vec<String>> = std::iter::once(head.to_vec())
                .chain(found.iter().map(as_row))
                .collect();
            output::line(&output::table(&rows))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn set(pair: &PairArgs, action: AllowDeny) -> Result<ExitCode, Failure> {
    let client = pair.agent.client()?;
    let request = intentions::put(&pair.source, &pair.destination, action, "");
    ask(&client, request, accepted).await?;
    done(
        pair,
        if action == AllowDeny::Allow {
            "allow"
        } else {
            "deny"
        },
    )
}

async fn delete(pair: &PairArgs) -> Result<ExitCode, Failure> {
    let client = pair.agent.client()?;
    // The agent says `true` whether there was one or not.
    let exact = intentions::exact(&pair.source, &pair.destination);
    if ask_for(&client, exact, intentions::decode_exact)
        .await?
        .is_none()
    {
        return Err(Failure::runtime(format_args!(
            "there is no intention from `{}` to `{}`; see `portcullis intention list`",
            pair.source, pair.destination
        )));
    }
    ask(
        &client,
        intentions::delete(&pair.source, &pair.destination),
        accepted,
    )
    .await?;
    done(pair, "deleted")
}

/// Says what holds now.
fn done(pair: &PairArgs, action: &str) -> Result<ExitCode, Failure> {
    let (source, destination) = (&pair.source, &pair.destination);
    match pair.output.output {
        Format::Json => output::json(
            &json!({ "source": source, "destination": destination, "action": action }),
        )?,
        Format::Text => {
            let arrow = format!("{} -> {}", escape(source, 500), escape(destination, 500));
            let painted = paint(
                if action == "deny" {
                    Paint::Bad
                } else {
                    Paint::Good
                },
                action,
            );
            output::line(&format!("{arrow}: {painted}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `name`, or with what says where it is, if that is not the default.
fn full_name((namespace, name): &(String, String), peer: &str) -> String {
    let mut out = String::new();
    if !peer.is_empty() {
        out = format!("peer:{peer}/");
    }
    if !matches!(namespace.as_str(), "" | "default") {
        out = format!("{out}{namespace}/");
    }
    escape(&format!("{out}{name}"), 500)
}

fn action(found: &Summary) -> String {
    match (found.action, found.permissions) {
        (Some(AllowDeny::Allow), _) => "allow".to_owned(),
        (Some(AllowDeny::Deny), _) => "deny".to_owned(),
        (None, 0) => "unreadable".to_owned(),
        (None, 1) => "1 permission".to_owned(),
        (None, number) => format!("{number} permissions"),
    }
}

fn as_row(found: &Summary) -> Vec<String> {
    vec![
        full_name(&found.source, &found.source_peer),
        full_name(&found.destination, ""),
        action(found),
        found.precedence.to_string(),
        escape(&found.description, LONGEST_DESCRIPTION),
    ]
}

fn as_json(found: &Summary) -> Value {
    json!({
        "source": found.source.1,
        "source_namespace": found.source.0,
        "source_peer": found.source_peer,
        "destination": found.destination.1,
        "destination_namespace": found.destination.0,
        "action": found.action.map(|action| if action == AllowDeny::Allow { "allow" } else { "deny" }),
        "permissions": found.permissions,
        "precedence": found.precedence,
        "description": found.description,
    })
}
