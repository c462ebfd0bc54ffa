//! `portcullis envoy lint`: what makes the policy in a configuration useless or open.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use portcullis::envoy::lint::{Code, Finding, Severity, lint};
use serde_json::json;

use crate::cli::failure::Failure;
use crate::cli::lint::counted;
use crate::cli::output::{self, Format, OutputArgs, Paint, paint};
use portcullis::escape::escape;

/// Find what makes the policy in a configuration of Envoy useless or open
///
/// Reads a bootstrap, a listener, or what Envoy's `/config_dump` answers, JSON or YAML.
/// What Envoy gets from elsewhere (xDS) is in `/config_dump` alone. Ends with status 1 when
/// there are errors, 2 when the file cannot be read. Envoy itself says whether a file is
/// valid: `envoy --mode validate -c FILE`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  portcullis envoy lint envoy.yaml
  portcullis envoy lint envoy.yaml -deny warnings -output json
  curl -s http://127.0.0.1:19000/config_dump | portcullis envoy lint -")]
pub(crate) struct LintArgs {
    /// The configuration; `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// End with status 1 also for these: `warnings`, or a code; may be repeated
    #[arg(long, value_name = "WHAT", value_parser = denied(), hide_possible_values = true)]
    deny: Vec<Denied>,
    /// Leave out findings with this code; may be repeated
    #[arg(long, value_name = "CODE", value_parser = codes(), hide_possible_values = true)]
    allow: Vec<Code>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What counts as an error besides errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Denied {
    Warnings,
    Code(Code),
}

fn codes() -> impl TypedValueParser<Value = Code> {
    let names = Code::ALL.iter().map(|code| code.as_str());
    PossibleValuesParser::new(names)
        .try_map(|name| Code::from_name(&name).ok_or_else(|| format!("`{name}` is no code")))
}

fn denied() -> impl TypedValueParser<Value = Denied> {
    let names = Code::ALL.iter().map(|code| code.as_str());
    PossibleValuesParser::new(["warnings"].into_iter().chain(names)).try_map(|name| {
        if name == "warnings" {
            return Ok(Denied::Warnings);
        }
        Code::from_name(&name)
            .map(Denied::Code)
            .ok_or_else(|| format!("`{name}` is no code"))
    })
}

/// Runs the command.
pub(crate) fn run(arguments: &LintArgs) -> Result<ExitCode, Failure> {
    let shown = arguments.file.display();
    let text = read(&arguments.file).map_err(|error| {
        Failure::while_doing(format_args!("cannot read `{shown}`"), &error).code(2)
    })?;
    let mut found = lint(&text)
        .map_err(|error| Failure::while_doing(format_args!("`{shown}`"), &error).code(2))?;
    found.retain(|finding| !arguments.allow.contains(&finding.code));
    let is_failure = |finding: &Finding| {
        let severity = finding.code.severity();
        severity == Severity::Error
            || arguments.deny.iter().any(|denied| match denied {
                Denied::Warnings => severity == Severity::Warning,
                Denied::Code(code) => *code == finding.code,
            })
    };
    let failed = found.iter().any(is_failure);
    let count = |severity| {
        let of = |one: &&Finding| one.code.severity() == severity;
        found.iter().filter(of).count()
    };
    let [errors, warnings] = [Severity::Error, Severity::Warning].map(count);
    match arguments.output.output {
        Format::Json => output::json(&json!({
            "ok": !failed,
            "errors": errors,
            "warnings": warnings,
            "findings": found.iter().map(Finding::json).collect::<Vec<_>>(),
        }))?,
        Format::Text => {
            for finding in &found {
                output::line(&as_text(finding))?;
            }
            output::line(&format!(
                "{}, {}",
                counted(errors, "error"),
                counted(warnings, "warning")
            ))?;
        }
    }
    Ok(ExitCode::from(u8::from(failed)))
}

fn read(file: &Path) -> std::io::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file)
}

fn as_text(finding: &Finding) -> String {
    let show = |text: &str| escape(text, 2_000);
    let severity = finding.code.severity();
    let colour = match severity {
        Severity::Error => Paint::Bad,
        Severity::Warning => Paint::Strong,
        Severity::Note => Paint::Faint,
    };
    let place = match finding.path.as_str() {
        "" => "the whole file",
        path => path,
    };
    format!(
        "{}[{}]: {}\n  at      {}\n  why     {}\n  remedy  {}\n",
        paint(colour, severity.as_str()),
        finding.code,
        show(&finding.text),
        show(place),
        finding.code.why(),
        finding.code.remedy()
    )
}
