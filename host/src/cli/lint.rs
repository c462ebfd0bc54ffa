//! `portcullis lint`: rules that do not do what they say.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use portcullis::lint::{Code, Finding, Severity, lint};
use serde_json::json;

use super::entries::{MeshArgs, default_note, wrong};
use super::failure::Failure;
use super::output::{self, Format, OutputArgs, Paint, paint};
use portcullis::escape::escape;

/// Find rules that do not do what they say, each with a request that proves it
///
/// Reads config entries (service-intentions, service-defaults, proxy-defaults, mesh,
/// jwt-provider; HCL or JSON) or replies of `intentions/match` from files and directories;
/// without FILE those of the agent. Ends with status 1 when there are errors, 2 when
/// something cannot be read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis lint intentions/ -default-intention-policy deny
  portcullis lint api.hcl -deny warnings -allow deny-escapable-case
  portcullis lint -output json
Which one: `lint` looks for mistakes, `test` for what you expect, `diff` for what changes.
host/POLICY-TOOLS.md explains every code.")]
pub(crate) struct LintArgs {
    /// Files or directories with config entries, or a match reply; without any the agent is asked
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// End with status 1 also for these: `warnings`, `notes` (and warnings), or a code; may be repeated
    #[arg(long, value_name = "WHAT", value_parser = denied(), hide_possible_values = true)]
    deny: Vec<Denied>,
    /// Leave out findings with this code; may be repeated
    #[arg(long, value_name = "CODE", value_parser = codes(), hide_possible_values = true)]
    allow: Vec<Code>,
    #[command(flatten)]
    mesh: MeshArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What counts as an error besides errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denied {
    Warnings,
    Notes,
    Code(Code),
}

/// Shells complete the names.
fn codes() -> impl TypedValueParser<Value = Code> {
    let names = Code::ALL.iter().map(|code| code.as_str());
    PossibleValuesParser::new(names)
        .try_map(|name| Code::from_name(&name).ok_or_else(|| format!("`{name}` is no code")))
}

fn denied() -> impl TypedValueParser<Value = Denied> {
    let names = Code::ALL.iter().map(|code| code.as_str());
    PossibleValuesParser::new(["warnings", "notes"].into_iter().chain(names)).try_map(|name| {
        match name.as_str() {
            "warnings" => Ok(Denied::Warnings),
            "notes" => Ok(Denied::Notes),
            other => Code::from_name(other)
                .map(Denied::Code)
                .ok_or_else(|| format!("`{other}` is no code")),
        }
    })
}

impl Denied {
    fn covers(self, finding: &Finding) -> bool {
        match self {
            Self::Warnings => finding.severity == Severity::Warning,
            Self::Notes => finding.severity != Severity::Error,
            Self::Code(code) => finding.code == code,
        }
    }
}

/// Runs the command.
pub(crate) async fn run(arguments: &LintArgs) -> Result<ExitCode, Failure> {
    check(arguments).await.map_err(|failure| failure.code(2))
}

async fn check(arguments: &LintArgs) -> Result<ExitCode, Failure> {
    let mesh = arguments.mesh.read(&arguments.files).await?;
    let settings = arguments.mesh.settings(&mesh);
    let engine = arguments.mesh.engine()?;
    let mut found =
        lint(&mesh.entries, &settings, || engine.policy()).map_err(|error| wrong(&error))?;
    found.retain(|finding| !arguments.allow.contains(&finding.code));
    let is_failure = |finding: &Finding| {
        finding.severity == Severity::Error
            || arguments.deny.iter().any(|denied| denied.covers(finding))
    };
    let failed = found.iter().any(is_failure);
    let count = |severity| found.iter().filter(|one| one.severity == severity).count();
    let counts = [Severity::Error, Severity::Warning, Severity::Note].map(count);
    match arguments.output.output {
        Format::Json => output::json(&json!({
            "ok": !failed,
            "errors": counts[0],
            "warnings": counts[1],
            "notes": counts[2],
            "intentions": mesh.entries.rules().len(),
            "matching": settings.matching.code(),
            "default_policy": mesh.default_policy.code(),
            "default_policy_source": mesh.default_source,
            "findings": found.iter().map(Finding::json).collect::<Vec<_>>(),
        }))?,
        Format::Text => {
            for finding in &found {
                output::line(&as_text(finding))?;
            }
            let [errors, warnings, notes] = counts;
            output::line(&format!(
                "{} intentions: {}, {}, {}; {} matching, {}",
                mesh.entries.rules().len(),
                counted(errors, "error"),
                counted(warnings, "warning"),
                counted(notes, "note"),
                settings.matching.code(),
                default_note(&mesh),
            ))?;
        }
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// `1 error`, `2 errors`.
pub(crate) fn counted(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn as_text(finding: &Finding) -> String {
    let show = |text: &str| escape(text, 2_000);
    let colour = match finding.severity {
        Severity::Error => Paint::Bad,
        Severity::Warning => Paint::Strong,
        Severity::Note => Paint::Faint,
    };
    let mut lines = vec![
        format!(
            "{}[{}]: {}",
            paint(colour, finding.severity.as_str()),
            finding.code,
            show(&finding.text)
        ),
        format!("  at      {}", show(&finding.place.to_string())),
        format!("  rule    {}", show(&finding.rule)),
    ];
    for evidence in &finding.evidence {
        lines.push(format!("  proof   {}", show(&evidence.to_string())));
    }
    lines.push(format!("  remedy  {}", finding.code.remedy()));
    lines.push(String::new());
    lines.join("\n")
}
