//! The command line: `portcullis COMMAND`.
//!
//! [`WHICH`] says when to use which; the README has the same table.

mod agent;
mod argv;
mod certificate;
mod check;
mod completions;
mod component;
mod decider;
mod demo;
mod dev;
mod diff;
mod duration;
mod entries;
mod envoy;
mod eval;
#[cfg(feature = "envoy")]
mod ext_authz;
mod facts;
mod failure;
mod first_look;
mod health;
mod identity;
mod inspect;
mod intention;
mod jwks;
mod lint;
mod man;
mod output;
mod proxy;
#[cfg(feature = "envoy")]
mod sds;
mod shutdown;
mod systemd;
mod test;
mod version;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::log_writer;
use crate::telemetry::{self, LogArgs};
use failure::Failure;

/// Which command to use when.
const WHICH: &str = "\
Commands, and when to use which:
  demo         see it work: two services, allowed, refused, cut off; no Consul needed
  dev          develop or test without Consul: an agent with its own CA, in memory
  proxy        put a service into the mesh: mTLS in and out, each connection decided by the policy
  sds          give Envoy the certificates of a service, and new ones before they end
  ext-authz    decide for an Envoy that cannot load the filter
  health       ask a running proxy whether it takes connections, for container checks
  intention    list or change who may talk to whom, on a Consul or dev agent
  check        ask one question: may SOURCE connect to DESTINATION, and why
  eval         ask many questions from a file, without an agent: replay, CI, comparing engines
  test         check expectations against intentions before they are live
  lint         find rules that do not do what they say, each with a request that proves it
  diff         see which callers or logged requests a change of intentions would affect
  envoy        write a configuration of Envoy for a service, or check one
  inspect      see a certificate or SPIFFE ID as the policy sees it
  component    compile and try out a policy component before a proxy uses it
  completions  the completion script of a shell
  man          write the manual pages
  version      which policy component is built in, its sha256 and size";

/// What holds for every command.
const NOTES: &str = "\
`portcullis COMMAND --help` has examples. Every long flag takes one dash or two: `-service web`,
`--service=web`. The agent is found by -http-addr or CONSUL_HTTP_ADDR, its token by -token-file or
CONSUL_HTTP_TOKEN_FILE; a flag beats its variable.
Exit status: 0 done or allowed, 1 failed or denied, 2 wrong usage (for `check`, `test`, `lint`,
`diff` and `envoy lint`: any error).";

/// Who may talk to whom in a Consul service mesh, decided by one WebAssembly policy that says why.
#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    version,
    before_help = WHICH,
    after_help = NOTES,
    help_template = "{about}\n\n{usage-heading} {usage}\n\n{before-help}Options:\n{options}{after-help}",
    max_term_width = 100,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = false
)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Dev(dev::DevArgs),
    Proxy(Box<proxy::arguments::ProxyArgs>),
    #[cfg(feature = "envoy")]
    Sds(Box<sds::SdsArgs>),
    #[cfg(feature = "envoy")]
    #[command(name = "ext-authz")]
    ExtAuthz(Box<ext_authz::ExtAuthzArgs>),
    Health(health::HealthArgs),
    Intention(intention::IntentionArgs),
    Check(Box<check::CheckArgs>),
    Eval(eval::EvalArgs),
    Test(Box<test::TestArgs>),
    Lint(Box<lint::LintArgs>),
    Diff(Box<diff::DiffArgs>),
    Envoy(envoy::EnvoyArgs),
    Inspect(inspect::InspectArgs),
    Component(component::ComponentArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    Version(version::VersionArgs),
    /// One of the demo's services
    #[command(name = "__demo-service", hide = true)]
    DemoService(demo::service::ServiceArgs),
    /// Compiles a component for another process
    #[command(name = "__compile", hide = true)]
    Compile,
}

impl Command {
    /// How much is logged unless somebody says otherwise.
    fn log_level(&self) -> &'static str {
        match self {
            Self::Dev(_) | Self::Proxy(_) => "info",
            #[cfg(feature = "envoy")]
            Self::Sds(_) | Self::ExtAuthz(_) => "info",
            _ => "warn",
        }
    }
}

/// Runs the command of this process.
pub(crate) fn main() -> ExitCode {
    report_panics_in_one_line();
    write_no_core_dumps();
    let mut command = Cli::command();
    let arguments = argv::normalise(&command, std::env::args_os());
    let name = name_of(&command, &arguments);
    let parsed = command
        .try_get_matches_from_mut(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => {
            let ended = run(cli);
            telemetry::finish();
            ended.unwrap_or_else(|failure| {
                // What led to it comes first.
                log_writer::flush();
                failure.report()
            })
        }
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => output::help(&error),
            ErrorKind::MissingSubcommand => Failure::usage(
                "no command given; start with `portcullis demo`, or see `portcullis --help`",
            )
            .report(),
            _ => failure::from_clap(&error, &name).report(),
        },
    }
}

/// The command that `arguments` ask for, as people write it.
fn name_of(command: &clap::Command, arguments: &[OsString]) -> String {
    let mut name = vec![command.get_name()];
    let mut command = command;
    for argument in arguments
        .iter()
        .skip(1)
        .filter_map(|argument| argument.to_str())
    {
        if let Some(inner) = command.find_subcommand(argument) {
            name.push(inner.get_name());
            command = inner;
        }
    }
    name.join(" ")
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    telemetry::start(&cli.log, cli.command.log_level()).map_err(Failure::usage)?;
    match cli.command {
        Command::Demo(arguments) => wait_for(demo::run(&arguments)),
        Command::Dev(arguments) => wait_for(dev::run(&arguments)),
        Command::Proxy(mut arguments) => {
            proxy::sockets::adopt(&mut arguments)?;
            wait_for(proxy::run(&arguments))
        }
        #[cfg(feature = "envoy")]
        Command::Sds(arguments) => wait_for(sds::run(&arguments)),
        #[cfg(feature = "envoy")]
        Command::ExtAuthz(arguments) => wait_for(ext_authz::run(&arguments)),
        Command::Health(arguments) => wait_for(health::run(&arguments)),
        Command::Intention(arguments) => wait_for(intention::run(&arguments)),
        Command::Check(arguments) => wait_for(check::run(&arguments)),
        Command::Eval(arguments) => eval::run(&arguments),
        Command::Test(arguments) => wait_for(test::run(&arguments)),
        Command::Lint(arguments) => wait_for(lint::run(&arguments)),
        Command::Diff(arguments) => wait_for(diff::run(&arguments)),
        Command::Envoy(arguments) => wait_for(envoy::run(&arguments)),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Component(arguments) => component::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments, &Cli::command()),
        Command::Man(arguments) => man::run(&arguments, Cli::command()),
        Command::Version(arguments) => version::run(&arguments),
        Command::DemoService(arguments) => wait_for(demo::service::run(&arguments)),
        Command::Compile => decider::compile(),
    }
}

/// Runs a command that waits for sockets.
fn wait_for(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::while_doing("cannot start the runtime", &error))?;
    let ended = runtime.block_on(command);
    // Whatever still runs in the background must not keep us.
    runtime.shutdown_background();
    ended
}

/// Tokens and keys would be in them.
fn write_no_core_dumps() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limits = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Core)
    };
    // A limit that may not even be lowered is not ours to judge.
    let _ = setrlimit(Resource::Core, limits);
}

/// A panic is our defect: one line that can be reported, no backtrace.
fn report_panics_in_one_line() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("unknown");
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let failure = Failure::runtime(format_args!(
            "this is a defect of portcullis: {message} (at {place}); please report it with what you ran"
        ));
        output::to_stderr(&format!("portcullis: {failure}"));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_is_in_the_table() {
        for command in Cli::command()
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
        {
            let row = format!("\n  {} ", command.get_name());
            assert!(WHICH.contains(&row), "{row}");
        }
    }
}
