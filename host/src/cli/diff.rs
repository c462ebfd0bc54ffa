//! `portcullis diff`: what changes with other intentions.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;

use portcullis::difference::{Change, Comparison, Difference};
use portcullis::entries::Entries;
use serde_json::json;

use super::entries::{Mesh, MeshArgs, default_note, wrong};
use super::failure::Failure;
use super::lint::counted;
use super::output::{self, Format, OutputArgs, Paint, paint};
use portcullis::escape::escape;

/// How many requests of one pair of services are shown.
const SHOWN: usize = 5;

/// See which callers or logged requests a change of intentions would affect
///
/// The candidate's config entries are put over those of the agent, as `consul config write`
/// would do; with --whole, intentions that the candidate does not have are gone. Against
/// files (--against) both sides are taken whole. Asked are all services that either side or
/// the catalog names, with requests made from the permissions, or with --log the requests
/// of a decision log. Ends with status 0 when nothing changes, 1 when something does, 2 for
/// any error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis diff api.hcl
  portcullis diff api.hcl -log decisions.ndjson
  portcullis diff new/ -against old/ -default-intention-policy deny -output json
Which one: `diff` for what changes, `test` for what you expect, `lint` for mistakes.")]
pub(crate) struct DiffArgs {
    /// The candidate: files or directories with config entries, or a match reply
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Compare with these files instead of the agent; may be repeated
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// The candidate has all intentions: those of the agent that it does not have are gone
    #[arg(long)]
    whole: bool,
    /// Ask about the requests of this decision log
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    #[command(flatten)]
    mesh: MeshArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
pub(crate) async fn run(arguments: &DiffArgs) -> Result<ExitCode, Failure> {
    compare(arguments).await.map_err(|failure| failure.code(2))
}

async fn compare(arguments: &DiffArgs) -> Result<ExitCode, Failure> {
    let candidate = Entries::read(&arguments.files).map_err(|error| wrong(&error))?;
    if candidate.is_empty() {
        return Err(Failure::runtime("the candidate has no config entry"));
    }
    let before = arguments.mesh.read(&arguments.against).await?;
    let whole = arguments.whole || !arguments.against.is_empty();
    let after = Mesh {
        entries: before.entries.with(&candidate, whole),
        default_policy: before.default_policy,
        default_source: before.default_source.clone(),
    };
    let (now, then) = (
        arguments.mesh.settings(&before),
        arguments.mesh.settings(&after),
    );
    let settings = [&now.with_peers(&then), &then.with_peers(&now)];
    let engine = arguments.mesh.engine()?;
    let comparison = Comparison::new(&before.entries, &after.entries, settings, || {
        engine.policy()
    })
    .map_err(|error| wrong(&error))?;
    let found = match &arguments.log {
        None => comparison.probe(),
        Some(file) => {
            let log = File::open(file).map_err(|error| {
                let shown = file.display();
                Failure::while_doing(format_args!("cannot open `{shown}`"), &error)
            })?;
            comparison.replay(BufReader::new(log))
        }
    };
    let found = found.map_err(|error| wrong(&error))?;
    if found.compared == 0 {
        let why: Vec<String> = found.left_out.keys().cloned().collect();
        return Err(Failure::runtime(format_args!(
            "nothing could be compared: {}",
            if why.is_empty() {
                "the log is empty".to_owned()
            } else {
                why.join("; ")
            }
        )));
    }
    match arguments.output.output {
        Format::Json => output::json(&json!({
            "same": found.is_same(),
            "compared": found.compared,
            "changes": found.changes.iter().map(Change::json).collect::<Vec<_>>(),
            "more_changes": found.more,
            "left_out": found.left_out,
            "protocols": found.protocols.iter().map(|(name, before, after)| {
                json!({"destination": name, "before": before, "after": after})
            }).collect::<Vec<_>>(),
            "default_policy": before.default_policy.code(),
            "default_policy_source": before.default_source,
        }))?,
        Format::Text => output::line(&as_text(&found, &before, arguments.log.is_some()))?,
    }
    Ok(ExitCode::from(u8::from(!found.is_same())))
}

fn as_text(found: &Difference, mesh: &Mesh, is_log: bool) -> String {
    let show = |text: &str| escape(text, 2_000);
    let mut lines = Vec::new();
    for (name, before, after) in &found.protocols {
        lines.push(format!(
            "{}  speaks {before} now, {after} then",
            paint(Paint::Strong, &show(name))
        ));
    }
    // By pair of services and kind of change, in order.
    let mut groups: BTreeMap<(&str, &str, &str, &str), Vec<&Change>> = BTreeMap::new();
    for change in &found.changes {
        let key = (
            change.destination.as_str(),
            change.source.as_str(),
            change.before.effect,
            change.after.effect,
        );
        groups.entry(key).or_default().push(change);
    }
    for ((destination, source, before, after), changes) in &groups {
        let colour = |effect: &str| match effect {
            "allow" => paint(Paint::Good, "allow"),
            other => paint(Paint::Bad, other),
        };
        lines.push(format!(
            "{}  {} -> {}",
            paint(Paint::Strong, &show(&format!("{source} -> {destination}"))),
            colour(before),
            colour(after)
        ));
        for change in changes.iter().take(SHOWN) {
            if let Some((asked, _)) = &change.request {
                let times = if is_log {
                    format!("{}x ", change.count)
                } else {
                    String::new()
                };
                // Values of headers may be secrets, those of rules are not.
                let shown = if is_log {
                    without_values(asked)
                } else {
                    asked.to_string()
                };
                lines.push(format!("  request  {times}{}", show(&shown)));
            }
            lines.push(format!("  now      {}", show(&change.before.text)));
            lines.push(format!("  then     {}", show(&change.after.text)));
        }
        if changes.len() > SHOWN {
            lines.push(format!("  and {} requests more", changes.len() - SHOWN));
        }
    }
    for (why, count) in &found.left_out {
        lines.push(format!("left out: {count}: {}", show(why)));
    }
    let changed: u64 = found.changes.iter().map(|one| one.count).sum::<u64>() + found.more;
    let questions = usize::try_from(found.compared).unwrap_or(usize::MAX);
    lines.push(format!(
        "{} asked, {} another answer; {}",
        counted(questions, "question"),
        match changed {
            0 => "none gets".to_owned(),
            1 => "1 gets".to_owned(),
            many => format!("{many} get"),
        },
        default_note(mesh)
    ));
    lines.join("\n")
}

fn without_values(asked: &portcullis::entries::Asked) -> String {
    let names: Vec<&str> = asked
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let with = match names.as_slice() {
        [] => String::new(),
        names => format!("  (with {})", names.join(", ")),
    };
    format!("{} {}{with}", asked.method, asked.path)
}
