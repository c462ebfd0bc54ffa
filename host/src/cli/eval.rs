//! `portcullis eval`: questions in, answers out.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use portcullis::eval::Evaluator;
use portcullis::runtime::{Limits, Policy, PolicyError, PolicyOptions, aws_lc};

use super::decider::ComponentArgs;
use super::failure::Failure;
use super::output;
use portcullis::escape::ascii_json;

/// So much is read at once, and about so much written.
const READ_AT_ONCE: usize = 64 << 10;
/// The longest line that is read.
const LONGEST_LINE: u64 = 64 << 20;

/// Ask many questions from a file, without an agent
///
/// Reads one JSON question a line and writes one JSON answer a line, in order. A line
/// that cannot be understood gets an answer with `error` and its number; the rest goes
/// on, and the exit status is 1 at the end.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  portcullis eval <<'END'
  {\"id\":1,\"ask\":\"authorize\",\"intentions\":null,\"default_policy\":\"deny\",\"trust_domain\":\"t.consul\",\"target\":\"db\",\"client_uris\":[\"spiffe://t.consul/ns/default/dc/dc1/svc/web\"]}
  END")]
pub(crate) struct EvalArgs {
    /// What decides
    #[arg(long, value_enum, value_name = "ENGINE", default_value_t)]
    engine: EngineKind,
    /// Add to each decision how it came about
    #[arg(long)]
    explain: bool,
    #[command(flatten)]
    component: ComponentArgs,
    /// File with questions, `-` for standard input
    #[arg(default_value = "-", value_name = "FILE")]
    file: PathBuf,
}

/// What decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EngineKind {
    /// The policy component, as the proxy does
    #[default]
    Component,
    /// The same core without WebAssembly, to compare with
    Native,
}

/// Runs the command.
///
/// Fails when the questions cannot be read, or there is no policy to ask.
pub(crate) fn run(arguments: &EvalArgs) -> Result<ExitCode, Failure> {
    let questions: Box<dyn Read> = if arguments.file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(&arguments.file).map_err(|error| {
            let shown = arguments.file.display();
            Failure::while_doing(format_args!("cannot open `{shown}`"), &error)
        })?;
        Box::new(file)
    };
    match arguments.engine {
        EngineKind::Native => answer_all(questions, arguments.explain, || {
            Ok(Policy::native(aws_lc()))
        }),
        EngineKind::Component => {
            let component = arguments.component.component()?;
            let options = PolicyOptions {
                instances: 1,
                limits: Limits::default(),
            };
            answer_all(questions, arguments.explain, || {
                Policy::new(&component, options)
            })
        }
    }
}

/// Answers line by line. Answers are gathered while the next question is already here:
/// who asks one and waits for its answer has it before more is read.
fn answer_all(
    questions: Box<dyn Read>,
    explain: bool,
    new_policy: impl Fn() -> Result<Policy, PolicyError>,
) -> Result<ExitCode, Failure> {
    let mut questions = BufReader::with_capacity(READ_AT_ONCE, questions);
    let mut evaluator = Evaluator::new(new_policy, explain);
    let mut all_answered = true;
    let mut number = 0_u64;
    let mut line = Vec::new();
    let mut answers = String::new();
    loop {
        if answers.len() >= READ_AT_ONCE || !questions.buffer().contains(&b'\n') {
            output::write(&answers)?;
            answers.clear();
        }
        line.clear();
        let read = questions
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line);
        let read =
            read.map_err(|error| Failure::while_doing("cannot read the questions", &error))?;
        if read == 0 {
            break;
        }
        number = number.saturating_add(1);
        if u64::try_from(read).unwrap_or(u64::MAX) >= LONGEST_LINE && line.last() != Some(&b'\n') {
            return Err(Failure::runtime(format_args!(
                "line {number} of the questions is longer than {LONGEST_LINE} bytes"
            )));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let answer = evaluator.answer(number, &line);
        all_answered &= !answer.is_error;
        answers.push_str(&ascii_json(&answer.json));
        answers.push('\n');
    }
    Ok(if all_answered {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}
