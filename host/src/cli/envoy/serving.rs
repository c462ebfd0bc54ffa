//! What the commands that serve Envoy have in common: from the first look at the agent to
//! the signal that ends them.

use std::process::ExitCode;

use portcullis::admin::{Admin, Subject};
use portcullis::agent_client::AgentClient;
use portcullis::decisions::Decisions;
use portcullis::envoy::ServerObserver;
use portcullis::jwks::JwksSettings;
use portcullis::runtime::Policy;
use portcullis::watcher::WatcherConfig;
use serde_json::Value;

use crate::cli::agent::AgentArgs;
use crate::cli::decider::{self, ComponentArgs};
use crate::cli::failure::Failure;
use crate::cli::first_look;
use crate::cli::output::{self, Format, OutputArgs};
use crate::cli::proxy::acl;
use crate::cli::proxy::operate::OperateArgs;
use crate::cli::proxy::reload::{self, Hangup};
use crate::cli::shutdown::{Shutdown, StopArgs};
use crate::cli::systemd::Manager;

/// Flags of the commands that serve Envoy.
#[derive(Debug, clap::Args)]
pub(crate) struct ServingArgs {
    /// Print the smallest ACL policy with which this works, and end
    #[arg(long)]
    pub(crate) print_acl_policy: bool,
    #[command(flatten)]
    component: ComponentArgs,
    #[command(flatten)]
    operate: OperateArgs,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    stop: StopArgs,
}

impl ServingArgs {
    /// Prints what a token needs.
    pub(crate) fn print_acl_policy(&self, service: &str) -> Result<ExitCode, Failure> {
        output::line(&acl::smallest(&acl::Needs {
            service,
            announces: Vec::new(),
            reads: None,
            upstreams: Vec::new(),
        }))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A command that serves Envoy, while it runs.
pub(crate) struct Serving<'a> {
    arguments: &'a ServingArgs,
    pub(crate) agent: AgentClient,
    policy: Policy,
    admin: Admin,
    shutdown: Shutdown,
    hangup: Hangup,
    manager: Manager,
}

impl<'a> Serving<'a> {
    /// Listens for signals and operators, and asks the agent once for what this cannot do
    /// without. None if it is stopped meanwhile. `settings` are told to operators.
    ///
    /// Fails when a flag is of no use, or the agent's answer makes it hopeless.
    pub(crate) async fn begin(
        arguments: &'a ServingArgs,
        service: &str,
        needs_protocol: bool,
        settings: Value,
    ) -> Result<Option<Self>, Failure> {
        let agent = arguments.agent.client()?;
        let mut shutdown = Shutdown::listen(&arguments.stop)
            .map_err(|error| Failure::while_doing("cannot listen for signals", &error))?;
        let hangup = Hangup::listen()?;
        let manager = Manager::from_env();
        // From here on operators get answers, whatever the agent does.
        let admin = arguments.operate.listen(settings, &agent)?;
        admin.waits_for("the policy component is being compiled");
        let policy = decider::policy(&arguments.component.component()?)?;
        admin.waits_for("the agent has not answered yet");
        tokio::select! {
            looked = first_look::look(&agent, service, needs_protocol) => looked?,
            _ = shutdown.requested() => return Ok(None),
            () = admin.drain_requested() => return Ok(None),
        }
        Ok(Some(Self {
            arguments,
            agent,
            policy,
            admin,
            shutdown,
            hangup,
            manager,
        }))
    }

    /// What is followed of `service`, with key sets from those.
    pub(crate) fn config(&self, service: &str, jwks: JwksSettings) -> WatcherConfig {
        WatcherConfig {
            jwks,
            ..WatcherConfig::new(self.agent.clone(), self.policy.clone(), service)
        }
    }

    /// Serves until it is asked to stop, and says by what. `told` is printed once nothing is
    /// missing, if the output is JSON.
    ///
    /// Fails when that cannot be printed.
    pub(crate) async fn run(
        &mut self,
        server: ServerObserver,
        is_accepting: impl Fn() -> bool,
        told: &Value,
    ) -> Result<&'static str, Failure> {
        let subject = Subject::from(server);
        self.admin.observe(subject.clone());
        let none = Decisions::default();
        let reloader = reload::reloader(
            &self.arguments.component,
            self.agent.clone(),
            self.policy.clone(),
            &none,
        );
        let serve = async {
            subject.ready().await;
            tracing::info!("ready: Envoy is answered");
            if self.arguments.output.output == Format::Json {
                output::json(told)?;
            }
            std::future::pending().await
        };
        tokio::select! {
            ended = serve => ended,
            () = reload::keep_current(&reloader, &none, &mut self.hangup, &self.manager) => Ok("the end of all signals"),
            () = self.manager.tend(&subject, is_accepting) => Ok("the end of all signals"),
            () = self.admin.drain_requested() => Ok("POST /drain"),
            signal = self.shutdown.requested() => Ok(signal),
        }
    }

    /// Ends, with what is to be done at the end.
    pub(crate) async fn end(mut self, stop: impl Future<Output = ()>) -> ExitCode {
        self.manager.stopping();
        match self.shutdown.while_cleaning_up(stop).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(code) => code,
        }
    }
}
