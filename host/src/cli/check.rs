//! `portcullis check`: one question, live or from a file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use portcullis::agent_client::AgentClient;
use portcullis_core::agent::default_policy::{self, Discovery};
use portcullis_core::agent::{
    AllowDeny, HttpReply, Query, ReplyHeaders, authorize, matches, roots, self_info,
};
use portcullis_core::identity::SpiffeId;
use portcullis_core::intention::Destination;
use portcullis_core::policy::{Client, Document, LoadReport, Trace};
use portcullis_core::time::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::agent::{AgentArgs, ask};
use super::decider::{self, ComponentArgs, now};
use super::failure::Failure;
use super::identity::Identity;
use super::output::{self, Format, OutputArgs, Paint, paint};
use super::proxy::arguments::{DefaultPolicy, Matching};
use crate::escape::escape;

/// Ask one question: may SOURCE connect to DESTINATION, and why
///
/// Reads the intentions of DESTINATION from the agent, or from a file, and lets the
/// policy component decide as a proxy would. Ends with status 0 when allowed, 1 when
/// denied, 2 for any error, so that a broken question never reads as an answer.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis check web db
  portcullis check web db -explain
  portcullis check spiffe://TRUST-DOMAIN/ns/default/dc/dc1/svc/web db
  curl -s \"$CONSUL_HTTP_ADDR/v1/connect/intentions/match?by=destination&name=db\" > db.json
  portcullis check web db -from db.json -default-intention-policy deny
Which one: `check` for one question, `eval` for many from a file.")]
pub(crate) struct CheckArgs {
    /// Service that connects (`name`, `namespace/name` or `partition/namespace/name`), or a SPIFFE ID
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Service that is connected to
    #[arg(value_name = "DESTINATION")]
    destination: String,
    /// Read intentions from this file instead of an agent: a reply to `intentions/match`, or a list of intentions
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Show every intention that was considered, and why it did or did not match
    #[arg(long)]
    explain: bool,
    /// What holds when no intention matches; `auto` asks the agent
    #[arg(long, value_enum, value_name = "POLICY", default_value_t)]
    default_intention_policy: DefaultPolicy,
    /// How to judge what can be read in two ways
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    matching: Matching,
    #[command(flatten)]
    component: ComponentArgs,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The trust domain of questions from files, where any will do.
const NO_TRUST_DOMAIN: &str = "from-a-file.consul";

/// What the policy is to know.
struct Facts {
    trust_domain: String,
    roots: Vec<String>,
    /// The destination's intentions, raw.
    intentions: String,
    /// `allow`, `deny` or `unknown`.
    default_policy: &'static str,
    /// Where that comes from, or why it is not known.
    default_source: String,
}

/// Runs the command.
pub(crate) async fn run(arguments: &CheckArgs) -> Result<ExitCode, Failure> {
    check(arguments).await.map_err(|failure| failure.code(2))
}

async fn check(arguments: &CheckArgs) -> Result<ExitCode, Failure> {
    let destination = Destination::parse(&arguments.destination).map_err(|error| {
        Failure::while_doing(
            format_args!("DESTINATION `{}`", arguments.destination),
            &error,
        )
    })?;
    let facts = match &arguments.from {
        Some(file) => from_file(arguments, file, &destination)?,
        None => from_agent(arguments, &arguments.agent.client()?).await?,
    };
    let uri = source_uri(arguments, &facts)?;
    let component = arguments.component.component()?;
    let policy = decider::policy(&component)?;
    let now = now();
    let report = policy
        .load(documents(arguments, &facts, &destination, now))
        .map_err(|error| Failure::while_doing("the policy cannot load the intentions", &error))?;
    if let Some(problem) = report.refused.first() {
        return Err(Failure::runtime(format_args!(
            "the policy refuses `{}` at `{}`: {}",
            problem.document, problem.pointer, problem.text
        )));
    }
    let trace = policy.explain(
        &arguments.destination,
        &Client::from_uri(uri.to_string()),
        None,
        now,
    );
    let trace = trace.map_err(|error| Failure::while_doing("the policy cannot answer", &error))?;
    if arguments.from.is_some() && trace.decision.code.code() == "default-policy-unknown" {
        return Err(Failure::runtime(
            "no intention in the file matches, and what holds then is not known: give -default-intention-policy allow or deny",
        ));
    }
    match arguments.output.output {
        Format::Json => output::json(&as_json(
            arguments,
            &uri,
            &trace,
            &report,
            &component.sha256(),
        ))?,
        Format::Text => output::line(&as_text(arguments, &trace, &report))?,
    }
    Ok(if trace.decision.is_allowed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// Trust domain, intentions and default policy, from the agent.
async fn from_agent(arguments: &CheckArgs, client: &AgentClient) -> Result<Facts, Failure> {
    let roots = ask(client, Ok(roots::request(&Query::default())), roots::decode).await?;
    let names = [arguments.destination.as_str()];
    let intentions = ask(
        client,
        matches::request(&names, &Query::default()),
        |reply| {
            let mut lists = matches::decode(reply, &names)?.lists;
            lists.pop().map_or(Ok("null".to_owned()), |(_, list)| {
                list.map(|list| list.json.to_owned())
            })
        },
    )
    .await?;
    let (default_policy, default_source) = match arguments.default_intention_policy {
        DefaultPolicy::Auto => discover(arguments, client, &roots.trust_domain).await,
        given => (given.as_str(), "flag".to_owned()),
    };
    Ok(Facts {
        roots: roots.pems().map(str::to_owned).collect(),
        trust_domain: roots.trust_domain,
        intentions,
        default_policy,
        default_source,
    })
}

/// The default policy by what the agent tells, and how it was found or why it was not.
async fn discover(
    arguments: &CheckArgs,
    client: &AgentClient,
    trust_domain: &str,
) -> (&'static str, String) {
    let told = client.ask(&self_info::request(), self_info::decode).await;
    let mut found = match told {
        Ok(info) => default_policy::from_self(&Ok(info)),
        Err(_) => Discovery::Probe,
    };
    if found == Discovery::Probe {
        found = match default_policy::probe(&arguments.destination, trust_domain, rand::random()) {
            Ok(request) => match client.ask(&request, authorize::decode).await {
                Ok(answer) => default_policy::from_probe(&Ok(answer)),
                Err(error) => Discovery::Unknown {
                    because: error.to_string(),
                },
            },
            Err(error) => Discovery::Unknown {
                because: error.to_string(),
            },
        };
    }
    match found {
        Discovery::Known {
            policy: AllowDeny::Allow,
            source,
        } => ("allow", source.to_owned()),
        Discovery::Known {
            policy: AllowDeny::Deny,
            source,
        } => ("deny", source.to_owned()),
        Discovery::Unknown { because } => ("unknown", because),
        Discovery::Probe => ("unknown", "the agent does not tell".to_owned()),
    }
}

/// The same from a file; the trust domain is the source's own.
fn from_file(
    arguments: &CheckArgs,
    file: &Path,
    destination: &Destination,
) -> Result<Facts, Failure> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::while_doing(format_args!("cannot read `{shown}`"), &error))?;
    let not_json = |error: &(dyn std::error::Error + 'static)| {
        Failure::while_doing(format_args!("`{shown}` cannot be read"), error)
    };
    let intentions = if text.trim_start().starts_with('[') {
        let list: Vec<&RawValue> = serde_json::from_str(&text).map_err(|error| not_json(&error))?;
        let ours: Vec<&str> = list
            .iter()
            .map(|item| item.get())
            .filter(|item| concerns(item, destination))
            .collect();
        format!("[{}]", ours.join(","))
    } else {
        let reply = HttpReply {
            status: 200,
            headers: ReplyHeaders::default(),
            body: text.as_bytes(),
        };
        let mut lists = matches::decode(&reply, &[&arguments.destination])
            .map_err(|error| not_json(&error))?
            .lists;
        let (_, list) = lists
            .pop()
            .ok_or_else(|| Failure::runtime(format_args!("`{shown}` holds no list")))?;
        let advice = || {
            format!(
                "it must be the reply for the name `{}`, or a list of intentions",
                arguments.destination
            )
        };
        list.map_err(|error| not_json(&error).advice(advice()))?
            .json
            .to_owned()
    };
    let trust_domain = SpiffeId::parse(&arguments.source).map(|id| id.trust_domain().to_string());
    Ok(Facts {
        trust_domain: trust_domain.unwrap_or_else(|_| NO_TRUST_DOMAIN.to_owned()),
        roots: Vec::new(),
        intentions,
        default_policy: match arguments.default_intention_policy {
            DefaultPolicy::Auto => "unknown",
            given => given.as_str(),
        },
        default_source: "flag".to_owned(),
    })
}

/// Whether an intention of a list is about `destination`. One that cannot be read
/// is: the policy then denies and says so.
fn concerns(item: &str, destination: &Destination) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct About {
        destination_name: String,
        #[serde(rename = "DestinationNS", default)]
        destination_namespace: String,
        #[serde(default)]
        destination_partition: String,
    }
    let covers = |given: &str, ours: &str| {
        let given = if given.is_empty() { "default" } else { given };
        given == "*" || given.eq_ignore_ascii_case(ours)
    };
    serde_json::from_str::<About>(item).map_or(true, |about| {
        covers(&about.destination_name, destination.name())
            && covers(&about.destination_namespace, destination.namespace())
            && covers(&about.destination_partition, destination.partition())
    })
}

/// The client's SPIFFE ID.
fn source_uri(arguments: &CheckArgs, facts: &Facts) -> Result<SpiffeId, Failure> {
    let source = &arguments.source;
    let uri = if source
        .get(..9)
        .is_some_and(|start| start.eq_ignore_ascii_case("spiffe://"))
    {
        source.clone()
    } else {
        let parts: Vec<&str> = source.split('/').collect();
        let (partition, namespace, name) = match parts[..] {
            [name] => ("default", "default", name),
            [namespace, name] => ("default", namespace, name),
            [partition, namespace, name] => (partition, namespace, name),
            _ => {
                return Err(Failure::runtime(format_args!(
                    "SOURCE `{source}` has more than two slashes"
                )));
            }
        };
        let datacenter = arguments.agent.datacenter.as_deref().unwrap_or("dc1");
        let partition = if partition == "default" {
            String::new()
        } else {
            format!("/ap/{partition}")
        };
        format!(
            "spiffe://{}{partition}/ns/{namespace}/dc/{datacenter}/svc/{name}",
            facts.trust_domain
        )
    };
    SpiffeId::parse(&uri)
        .map_err(|error| Failure::while_doing(format_args!("SOURCE `{source}`"), &error))
}

/// What the policy loads.
fn documents(
    arguments: &CheckArgs,
    facts: &Facts,
    destination: &Destination,
    now: Timestamp,
) -> Vec<Document> {
    let mesh = json!({
        "trust_domain": facts.trust_domain,
        "roots": facts.roots,
        "default_policy": facts.default_policy,
        "default_policy_source": facts.default_source,
        "matching": arguments.matching.as_str(),
    });
    // The list goes in as it came: parsing it here could hide what is wrong with it.
    let service = format!(
        "{{\"protocol\":\"tcp\",\"intentions\":{}}}",
        facts.intentions
    );
    let name = destination.document();
    vec![
        Document {
            name: "mesh".to_owned(),
            body: Some(mesh.to_string().into_bytes()),
            confirmed_at: now,
        },
        Document {
            name,
            body: Some(service.into_bytes()),
            confirmed_at: now,
        },
    ]
}

fn as_json(
    arguments: &CheckArgs,
    uri: &SpiffeId,
    trace: &Trace,
    report: &LoadReport,
    sha256: &str,
) -> Value {
    let decision = &trace.decision;
    let mut answer = json!({
        "source": uri.to_string(),
        "destination": arguments.destination,
        "allowed": decision.is_allowed(),
        "effect": decision.effect.code(),
        "because": {
            "code": decision.code.code(),
            "intention": decision.intention,
            "permission": decision.permission,
        },
        "text": trace.text,
        "component_sha256": sha256,
        "warnings": report.warnings.iter().map(|warning| {
            json!({ "document": warning.document, "pointer": warning.pointer, "text": warning.text })
        }).collect::<Vec<_>>(),
    });
    if arguments.explain {
        answer["trace"] = json!({
            "source": trace.source.as_ref().map(Identity::from),
            "steps": trace.steps.iter().map(|step| json!({
                "intention": step.intention,
                "precedence": step.precedence,
                "rule": step.rule,
                "matched": step.matched,
                "failed": step.failed,
            })).collect::<Vec<_>>(),
            "default_policy": trace.default_policy,
            "notes": trace.notes,
        });
    }
    answer
}

fn as_text(arguments: &CheckArgs, trace: &Trace, report: &LoadReport) -> String {
    let show = |text: &str| escape(text, 2_000);
    let (word, colour) = match trace.decision.is_allowed() {
        true => ("allowed", Paint::Good),
        false => ("denied", Paint::Bad),
    };
    // The component's sentence begins with the word as a rule.
    let text = trace
        .text
        .strip_prefix(word)
        .map_or(trace.text.as_str(), |rest| {
            rest.trim_start_matches([':', ' '])
        });
    let mut out = vec![format!(
        "{}: {} ({})",
        paint(colour, word),
        show(text),
        trace.decision.code
    )];
    if arguments.explain {
        if let Some(source) = &trace.source {
            out.push(format!("  client          {}", show(&source.to_string())));
        }
        for step in &trace.steps {
            let end = match (&step.failed, step.matched) {
                (_, true) => paint(Paint::Good, "matches"),
                (Some(failed), false) => format!("no: {}", show(failed)),
                (None, false) => "no".to_owned(),
            };
            out.push(format!(
                "  precedence {:<4} {}  {end}",
                step.precedence,
                show(&step.rule)
            ));
        }
        out.push(format!("  default policy  {}", show(&trace.default_policy)));
        out.extend(
            trace
                .notes
                .iter()
                .map(|note| format!("  note            {}", show(note))),
        );
    }
    for warning in &report.warnings {
        out.push(format!(
            "  warning: {} at {}: {}",
            show(&warning.document),
            show(&warning.pointer),
            show(&warning.text)
        ));
    }
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_to_the_destination_and_never_lose_what_cannot_be_read() {
        let db = Destination::parse("db").unwrap();
        let about = |name: &str, more: &str| {
            concerns(&format!("{{\"DestinationName\":\"{name}\"{more}}}"), &db)
        };
        assert!(about("db", ""));
        assert!(about("DB", ""));
        assert!(about("*", ""));
        assert!(about("db", ",\"DestinationNS\":\"default\""));
        assert!(!about("api", ""));
        assert!(!about("db", ",\"DestinationNS\":\"other\""));
        for unreadable in [
            "7",
            "{}",
            r#"{"DestinationName":7}"#,
            r#"{"DestinationName":"api","DestinationName":"db"}"#,
        ] {
            assert!(concerns(unreadable, &db), "{unreadable}");
        }
    }
}
