//! When a command that runs until it is told to stop is told so.

use std::io::{self, Read as _};
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Flags of commands that run until they are told to stop.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StopArgs {
    /// Stop when standard input closes, too: a parent that dies takes its children along
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

/// SIGTERM, SIGINT and, where asked for, the end of standard input.
pub(crate) struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
    stdin: Option<oneshot::Receiver<()>>,
}

impl Shutdown {
    /// Starts to listen; from now on signals no longer end the process.
    ///
    /// Fails when the handlers cannot be installed.
    pub(crate) fn listen(arguments: &StopArgs) -> io::Result<Self> {
        let stdin = arguments.until_stdin_closes.then(|| {
            let (closed, receiver) = oneshot::channel();
            // A thread of its own: tokio would wait for its read at the end.
            std::thread::spawn(move || {
                let mut byte = [0];
                while matches!(io::stdin().lock().read(&mut byte), Ok(1)) {}
                let _ = closed.send(());
            });
            receiver
        });
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            stdin,
        })
    }

    /// Waits until the process is asked to stop, and says by what. Nothing is lost
    /// when the wait is broken off.
    pub(crate) async fn requested(&mut self) -> &'static str {
        let stdin = async {
            match &mut self.stdin {
                Some(closed) => {
                    let _ = closed.await;
                }
                None => std::future::pending().await,
            }
            // It is over, and must not be waited for twice.
            self.stdin = None;
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = stdin => "end of standard input",
        }
    }

    /// Runs `cleanup`; a signal that arrives meanwhile ends the process at once.
    pub(crate) async fn while_cleaning_up<T>(
        &mut self,
        cleanup: impl Future<Output = T>,
    ) -> Result<T, ExitCode> {
        tokio::select! {
            done = cleanup => Ok(done),
            _ = self.terminate.recv() => Err(ExitCode::from(143)),
            _ = self.interrupt.recv() => Err(ExitCode::from(130)),
        }
    }
}
