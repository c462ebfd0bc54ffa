//! `portcullis inspect`: certificates and SPIFFE IDs as the policy sees them.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use portcullis::clock::Clock;
use portcullis::runtime::Policy;
use portcullis_core::chain::{Usage, VerifyErrorKind};
use portcullis_core::policy::Document;
use portcullis_core::time::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;

use super::certificate::Certificate;
use super::decider::ComponentArgs;
use super::failure::Failure;
use super::identity::Identity;
use super::output::{self, Format, OutputArgs, Paint, paint};
use portcullis::escape::escape;

/// The largest file that is read.
const LARGEST: u64 = 1 << 20;

/// See a certificate or SPIFFE ID as the policy sees it
///
/// Takes files with certificates (PEM or DER, leaf first), SPIFFE IDs, or `-` for
/// standard input. With --roots the chain is verified as in a handshake; without it
/// only the names are judged. Ends with status 0 when all is acceptable, 1 when
/// something is refused, 2 when something cannot be read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis inspect spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web
  portcullis inspect leaf.pem --roots roots.pem
  curl -s $CONSUL_HTTP_ADDR/v1/agent/connect/ca/leaf/web | jq -r .CertPEM | portcullis inspect -")]
pub(crate) struct InspectArgs {
    /// Certificate file, SPIFFE ID, or `-` for standard input
    #[arg(required = true, value_name = "WHAT")]
    what: Vec<String>,
    /// Verify against these root certificates (PEM)
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// The mesh's trust domain [default: that of the leaf]
    #[arg(long, value_name = "NAME", requires = "roots")]
    trust_domain: Option<String>,
    /// What the certificate's owner acts as in the handshake
    #[arg(long, value_enum, value_name = "ROLE", default_value_t)]
    usage: Role,
    /// The exact SPIFFE ID that is expected
    #[arg(long, value_name = "URI", requires = "roots")]
    expect: Option<String>,
    /// Verify as at this time, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    #[command(flatten)]
    component: ComponentArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A side of the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    /// It connects.
    #[default]
    Client,
    /// It is connected to.
    Server,
}

/// What was found out about one argument.
#[derive(Debug, Serialize)]
struct Report {
    what: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    certificates: Vec<Certificate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
    verdict: Verdict,
}

/// Whether the policy takes it.
#[derive(Debug, Serialize)]
struct Verdict {
    ok: bool,
    /// Whether a chain was verified, and not only a name read.
    verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    text: String,
}

/// Runs the command.
pub(crate) fn run(arguments: &InspectArgs) -> Result<ExitCode, Failure> {
    inspect(arguments).map_err(|failure| failure.code(2))
}

fn inspect(arguments: &InspectArgs) -> Result<ExitCode, Failure> {
    let at = match &arguments.at {
        None => Clock::system().now(),
        Some(text) => text
            .parse::<Timestamp>()
            .map_err(|error| Failure::while_doing(format_args!("--at `{text}`"), &error))?,
    };
    let policy = arguments.component.policy()?;
    let mut all_good = true;
    let mut reports = Vec::new();
    for what in &arguments.what {
        let report = if what
            .get(..9)
            .is_some_and(|start| start.eq_ignore_ascii_case("spiffe://"))
        {
            of_id(&policy, what)
        } else {
            of_chain(arguments, &policy, what, at)?
        };
        all_good &= report.verdict.ok;
        reports.push(report);
    }
    match arguments.output.output {
        Format::Json => output::json(&reports)?,
        Format::Text => {
            for report in &reports {
                output::line(&text(report))?;
            }
        }
    }
    Ok(if all_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

fn of_id(policy: &Policy, uri: &str) -> Report {
    let (identity, verdict) = judged(policy, uri);
    Report {
        what: uri.to_owned(),
        certificates: Vec::new(),
        identity,
        verdict,
    }
}

/// A name alone.
fn judged(policy: &Policy, uri: &str) -> (Option<Identity>, Verdict) {
    match policy.parse_id(uri) {
        Ok(id) => {
            let text = format!("a SPIFFE ID of the kind {}", id.kind().name());
            let verdict = Verdict {
                ok: true,
                verified: false,
                kind: None,
                code: None,
                text,
            };
            (Some(Identity::from(&id)), verdict)
        }
        Err(error) => (None, refused("identity", error.code(), &error.to_string())),
    }
}

fn refused(kind: &str, code: &str, text: &str) -> Verdict {
    Verdict {
        ok: false,
        verified: false,
        kind: Some(kind.to_owned()),
        code: Some(code.to_owned()),
        text: escape(text, 1_000),
    }
}

fn of_chain(
    arguments: &InspectArgs,
    policy: &Policy,
    what: &str,
    at: Timestamp,
) -> Result<Report, Failure> {
    let chain = read_chain(what)?;
    let mut certificates = Vec::new();
    for (number, der) in chain.iter().enumerate() {
        let certificate = Certificate::read(der, at).map_err(|text| {
            Failure::runtime(format_args!(
                "certificate {} of `{what}` is {text}",
                number + 1
            ))
        })?;
        certificates.push(certificate);
    }
    let uris = certificates
        .first()
        .map(|leaf| leaf.uri_names.as_slice())
        .unwrap_or_default();
    let (identity, mut verdict) = match uris {
        [uri] => judged(policy, uri),
        [] => (
            None,
            refused(
                "identity",
                "no-identity",
                "the leaf has no URI name: it is no X.509-SVID",
            ),
        ),
        _ => {
            let text = format!(
                "the leaf has {} URI names; an X.509-SVID has exactly one",
                uris.len()
            );
            (None, refused("identity", "several-identities", &text))
        }
    };
    if let Some(roots) = &arguments.roots {
        verdict = verified(arguments, policy, roots, &chain, identity.as_ref(), at)?;
    }
    Ok(Report {
        what: what.to_owned(),
        certificates,
        identity,
        verdict,
    })
}

/// The chain's verdict, from the policy component.
fn verified(
    arguments: &InspectArgs,
    policy: &Policy,
    roots: &PathBuf,
    chain: &[CertificateDer<'static>],
    identity: Option<&Identity>,
    at: Timestamp,
) -> Result<Verdict, Failure> {
    let pem = std::fs::read_to_string(roots).map_err(|error| {
        Failure::while_doing(
            format_args!("cannot read the roots `{}`", roots.display()),
            &error,
        )
    })?;
    let own = identity.map(Identity::trust_domain);
    let Some(trust_domain) = arguments.trust_domain.as_deref().or(own) else {
        return Err(Failure::runtime(
            "the leaf names no trust domain; give it with --trust-domain",
        ));
    };
    let mesh = serde_json::json!({ "trust_domain": trust_domain, "roots": [pem], "default_policy": "deny" });
    let document = Document {
        name: "mesh".to_owned(),
        body: Some(mesh.to_string().into_bytes()),
        confirmed_at: at,
    };
    let report = policy
        .load(vec![document])
        .map_err(|error| Failure::while_doing("the policy cannot load the roots", &error))?;
    if let Some(problem) = report.refused.first() {
        return Err(Failure::runtime(format_args!(
            "the roots `{}` cannot be used: {}",
            roots.display(),
            problem.text
        )));
    }
    let usage = match arguments.usage {
        Role::Client => Usage::Client,
        Role::Server => Usage::Server,
    };
    Ok(
        match policy.verify_peer(chain, usage, arguments.expect.as_deref(), at) {
            Ok(peer) => Verdict {
                ok: true,
                verified: true,
                kind: None,
                code: None,
                text: format!("accepted as {} until {}", peer.id, peer.not_after),
            },
            Err(error) => Verdict {
                verified: true,
                ..refused(who(error.kind()), error.code(), &error.to_string())
            },
        },
    )
}

/// Who must act on a refused chain, as the WIT names it.
fn who(kind: VerifyErrorKind) -> &'static str {
    match kind {
        VerifyErrorKind::Malformed => "malformed",
        VerifyErrorKind::Untrusted => "untrusted",
        VerifyErrorKind::Identity => "identity",
        VerifyErrorKind::Expired => "expired",
        VerifyErrorKind::NotReady => "not-ready",
    }
}

/// The certificates of a file, PEM or DER, in its order.
fn read_chain(what: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let cannot =
        |error: &std::io::Error| Failure::while_doing(format_args!("cannot read `{what}`"), error);
    let mut bytes = Vec::new();
    let read = if what == "-" {
        std::io::stdin()
            .lock()
            .take(LARGEST + 1)
            .read_to_end(&mut bytes)
    } else {
        std::fs::File::open(what).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| cannot(&error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LARGEST) {
        return Err(Failure::runtime(format_args!(
            "`{what}` is larger than {LARGEST} bytes: it is no certificate chain"
        )));
    }
    if !bytes.windows(10).any(|window| window == b"-----BEGIN") {
        return match bytes.first() {
            // DER starts with a SEQUENCE.
            Some(0x30) => Ok(vec![CertificateDer::from(bytes)]),
            _ => Err(Failure::runtime(format_args!(
                "`{what}` holds neither PEM nor DER; for a SPIFFE ID write spiffe://..."
            ))),
        };
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|error| {
        Failure::while_doing(format_args!("the PEM in `{what}` cannot be read"), &error)
    })?;
    if chain.is_empty() {
        return Err(Failure::runtime(format_args!(
            "`{what}` holds PEM, but no certificate"
        )));
    }
    Ok(chain)
}

/// A report for people.
fn text(report: &Report) -> String {
    let mut out = Vec::new();
    for (number, certificate) in report.certificates.iter().enumerate() {
        let title = match (number, certificate.ca) {
            (0, false) => "leaf certificate".to_owned(),
            (_, true) => format!(
                "CA certificate ({} of {})",
                number + 1,
                report.certificates.len()
            ),
            _ => format!(
                "certificate {} of {}",
                number + 1,
                report.certificates.len()
            ),
        };
        out.push(paint(Paint::Strong, &title));
        out.push(rows(&certificate.rows()));
    }
    if let Some(identity) = &report.identity {
        out.push(paint(Paint::Strong, "identity"));
        out.push(rows(&identity.rows()));
    }
    let verdict = &report.verdict;
    let code = verdict
        .code
        .as_deref()
        .map(|code| format!(" ({code})"))
        .unwrap_or_default();
    let word = match (verdict.ok, verdict.verified) {
        (true, true) => paint(Paint::Good, "verified: "),
        (true, false) if report.certificates.is_empty() => paint(Paint::Good, "valid: "),
        (true, false) => format!(
            "{}not verified, no --roots given; the name is ",
            paint(Paint::Strong, "names only: ")
        ),
        (false, _) => paint(Paint::Bad, "refused: "),
    };
    out.push(format!("{word}{}{code}", verdict.text));
    out.join("\n")
}

fn rows(rows: &[(&'static str, String)]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|(name, value)| vec![format!("  {name}"), value.clone()])
        .collect();
    output::table(&rows)
}
