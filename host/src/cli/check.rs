//! `portcullis check`: one question about a connection or a request, live or from a file.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use portcullis::clock::Clock;
use portcullis_core::identity::SpiffeId;
use portcullis_core::intention::{Destination, Effect};
use portcullis_core::policy::{
    Client, Document, LoadProblem, LoadReport, Request, Trace, encode_headers,
};
use portcullis_core::time::Timestamp;
use serde_json::{Value, json};

use super::agent::AgentArgs;
use super::decider::{self, ComponentArgs};
use super::facts::{Facts, HttpFacts, from_agent, from_file};
use super::failure::Failure;
use super::identity::Identity;
use super::jwks::JwksArgs;
use super::output::{self, Format, OutputArgs, Paint, paint};
use super::proxy::arguments::{DefaultPolicy, Matching};
use portcullis::escape::escape;

/// What the names of documents with keys begin with; the provider's name follows.
const KEY_SETS: &str = "jwks/";

/// Ask one question: may SOURCE connect to DESTINATION or send it a request, and why
///
/// With --path or --method the question is about that request, to a service that speaks
/// HTTP; without them it is about a connection.
///
/// Reads the intentions of DESTINATION from the agent, or from a file, and lets the
/// policy component decide as a proxy would. Ends with status 0 when allowed, 1 when
/// denied, 2 for any error, so that a broken question never reads as an answer.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis check web db
  portcullis check web db -explain
  portcullis check spiffe://TRUST-DOMAIN/ns/default/dc/dc1/svc/web db
  portcullis check web api -method GET -path /items -header 'x-tenant: a' -explain
  portcullis check web api -path /items -header @token.txt -jwks-allow login.example.com
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
    /// With --from: `mesh` and `jwt-provider` config entries (HCL or JSON) for questions about requests; may be repeated
    #[arg(long, value_name = "FILE", requires = "from")]
    entries: Vec<PathBuf>,
    /// Show every intention that was considered, and why it did or did not match
    #[arg(long)]
    explain: bool,
    /// Ask about a request with this method (`GET` where only --path is given)
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Ask about a request for this path, as the client writes it, with its query
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// A header of the request, or `@FILE` with one on each line, so that tokens stay out of the process list; may be repeated
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<Headers>,
    /// Show the values of this header in the explanation, which otherwise has none; may be repeated
    #[arg(long, value_name = "NAME", requires = "explain")]
    show_header: Vec<String>,
    /// What holds when no intention matches; `auto` asks the agent
    #[arg(long, value_enum, value_name = "POLICY", default_value_t)]
    default_intention_policy: DefaultPolicy,
    /// How to judge what can be read in two ways
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    matching: Matching,
    #[command(flatten)]
    jwks: JwksArgs,
    #[command(flatten)]
    component: ComponentArgs,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
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
    let (name, default) = (&arguments.destination, arguments.default_intention_policy);
    let request = asked_request(arguments)?;
    let jwks = arguments.jwks.settings()?;
    let (facts, http) = match &arguments.from {
        Some(file) => {
            let id = SpiffeId::parse(&arguments.source).ok();
            let trust_domain = id.map(|id| id.trust_domain().to_string());
            let facts = from_file(file, name, trust_domain, default)?;
            let http = HttpFacts::from_files(&arguments.entries, &facts.intentions, &jwks).await?;
            (facts, http)
        }
        None => {
            let client = arguments.agent.client()?;
            let facts = from_agent(&client, name, default).await?;
            let http = match request {
                Some(_) => HttpFacts::from_agent(&client, &facts.intentions, &jwks).await?,
                None => HttpFacts::default(),
            };
            (facts, http)
        }
    };
    let uri = source_uri(arguments, &facts)?;
    let component = arguments.component.component()?;
    let policy = decider::policy(&component)?;
    let now = Clock::system().now();
    let documents = documents(
        arguments,
        &facts,
        request.as_ref().map(|_| &http),
        &destination,
        now,
    );
    let mut report = policy
        .load(documents)
        .map_err(|error| Failure::while_doing("the policy cannot load the intentions", &error))?;
    // A proxy goes on without them, too.
    let is_key_set = |problem: &LoadProblem| problem.document.starts_with(KEY_SETS);
    let lacks = facts
        .lacks
        .iter()
        .chain(&http.lacks)
        .map(|(document, text)| LoadProblem {
            document: document.clone(),
            pointer: String::new(),
            text: text.clone(),
        });
    let refused = report.refused.extract_if(.., |problem| is_key_set(problem));
    report.warnings.extend(refused.chain(lacks));
    if let Some(problem) = report.refused.first() {
        return Err(Failure::runtime(format_args!(
            "the policy refuses `{}` at `{}`: {}",
            problem.document, problem.pointer, problem.text
        )));
    }
    let trace = policy.explain(
        &arguments.destination,
        &Client::from_uri(uri.to_string()),
        request.as_ref(),
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

/// The request that is asked about, if any.
fn asked_request(arguments: &CheckArgs) -> Result<Option<Request>, Failure> {
    let (method, path) = (&arguments.method, &arguments.path);
    if method.is_none() && path.is_none() {
        return match given_headers(arguments).next() {
            Some(_) => Err(Failure::runtime(
                "--header is about a request: give --path as well",
            )),
            None => Ok(None),
        };
    }
    let mut headers = Vec::new();
    for header in given_headers(arguments) {
        let (name, value) = pair(header).ok_or_else(|| {
            Failure::runtime(format_args!(
                "--header `{header}` is not of the form `NAME: VALUE`"
            ))
        })?;
        headers.push((name.as_bytes(), value.as_bytes()));
    }
    let headers = encode_headers(headers)
        .ok_or_else(|| Failure::runtime("a value of --header is longer than 4 GiB"))?;
    Ok(Some(Request {
        method: method.as_deref().unwrap_or("GET").as_bytes().to_vec(),
        path: path.as_deref().unwrap_or("/").as_bytes().to_vec(),
        headers,
        ..Request::default()
    }))
}

/// One value of --header.
#[derive(Clone, Debug)]
struct Headers(Vec<String>);

impl FromStr for Headers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(file) = text.strip_prefix('@') else {
            return Ok(Self(vec![text.to_owned()]));
        };
        let read = std::fs::read_to_string(file)
            .map_err(|error| format!("cannot read `{file}`: {error}"))?;
        let mut headers = Vec::new();
        for (line, number) in read.lines().zip(1_usize..) {
            if line.trim().is_empty() {
                continue;
            }
            if pair(line).is_none() {
                // Not the line itself: it may be a token.
                return Err(format!(
                    "line {number} of `{file}` is not of the form `NAME: VALUE`"
                ));
            }
            headers.push(line.to_owned());
        }
        Ok(Self(headers))
    }
}

fn given_headers(arguments: &CheckArgs) -> impl Iterator<Item = &str> {
    let given = arguments.header.iter();
    given.flat_map(|given| &given.0).map(String::as_str)
}

/// A header taken apart.
fn pair(header: &str) -> Option<(&str, &str)> {
    let (name, value) = header.split_once(':')?;
    (!name.is_empty()).then_some((name, value.trim_matches([' ', '\t'])))
}

/// The headers of the request whose values are asked for by name.
fn shown_headers(arguments: &CheckArgs) -> Vec<(&str, &str)> {
    let is_shown = |name: &str| {
        arguments
            .show_header
            .iter()
            .any(|shown| shown.eq_ignore_ascii_case(name))
    };
    given_headers(arguments)
        .filter_map(pair)
        .filter(|(name, _)| is_shown(name))
        .collect()
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
    http: Option<&HttpFacts>,
    destination: &Destination,
    now: Timestamp,
) -> Vec<Document> {
    let mut mesh = json!({
        "trust_domain": facts.trust_domain,
        "roots": facts.roots,
        "default_policy": facts.default_policy,
        "default_policy_source": facts.default_source,
        "matching": arguments.matching.as_str(),
        "peers": facts.peers,
    })
    .to_string();
    // All goes in as it came: parsing it here could hide what is wrong with it.
    let raw = http.map(|http| {
        [
            ("request_normalization", &http.normalization),
            ("jwt_providers", &http.providers),
        ]
    });
    for (field, raw) in raw.into_iter().flatten() {
        if let Some(raw) = raw {
            mesh.pop();
            mesh.push_str(&format!(",\"{field}\":{raw}}}"));
        }
    }
    let service = format!(
        "{{\"protocol\":\"{}\",\"intentions\":{}}}",
        if http.is_some() { "http" } else { "tcp" },
        facts.intentions
    );
    let document = |name: String, body: Vec<u8>| Document {
        name,
        body: Some(body),
        confirmed_at: now,
    };
    let key_sets = http
        .map(|http| http.key_sets.as_slice())
        .unwrap_or_default();
    let key_sets = key_sets
        .iter()
        .map(|(provider, keys)| document(format!("{KEY_SETS}{provider}"), keys.clone()));
    let mut documents = vec![
        document("mesh".to_owned(), mesh.into_bytes()),
        document(destination.document(), service.into_bytes()),
    ];
    documents.extend(key_sets);
    documents
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
        "forwarded_path": decision.path.as_deref().map(String::from_utf8_lossy),
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
            "headers": shown_headers(arguments),
        });
    }
    answer
}

fn as_text(arguments: &CheckArgs, trace: &Trace, report: &LoadReport) -> String {
    let show = |text: &str| escape(text, 2_000);
    let (word, colour) = match trace.decision.effect {
        Effect::Allow => ("allowed", Paint::Good),
        Effect::Deny => ("denied", Paint::Bad),
        Effect::BadRequest => ("refused as a bad request", Paint::Bad),
        Effect::Redirect => ("redirected", Paint::Bad),
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
    if let Some(path) = &trace.decision.path {
        let path = String::from_utf8_lossy(path);
        let what = match trace.decision.effect {
            Effect::Redirect => "location       ",
            _ => "forwarded as   ",
        };
        out.push(format!("  {what} {}", show(&path)));
    }
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
        out.extend(
            shown_headers(arguments)
                .iter()
                .map(|(name, value)| format!("  header          {}: {}", show(name), show(value))),
        );
    }
    for warning in &report.warnings {
        let at = match warning.pointer.as_str() {
            "" => String::new(),
            pointer => format!(" at {}", show(pointer)),
        };
        out.push(format!(
            "  warning: {}{at}: {}",
            show(&warning.document),
            show(&warning.text)
        ));
    }
    out.join("\n")
}
