//! What follows an upgrade: bytes both ways, until both sides have ended.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

use super::super::copy::{CopyError, Side, copy_both};
use super::cutter::Cutter;
use super::onward::OnwardStream;
use super::record::Record;

/// Two connections that have left HTTP.
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) onward: OnUpgrade,
    pub(super) cutter: Cutter,
    pub(super) record: Box<Record>,
}

impl Tunnel {
    /// Copies until both directions have ended; true if they ended well.
    pub(super) async fn run(self) -> bool {
        let Self {
            client,
            onward,
            cutter,
            mut record,
        } = self;
        let both = async { tokio::try_join!(client, onward) };
        let (client, onward) = tokio::select! {
            both = both => match both {
                Ok(both) => both,
                Err(error) => {
                    record.broke(&error);
                    return false;
                }
            },
            cause = cutter.wait() => {
                record.cut(cause);
                return false;
            }
        };
        let Ok(parts) = onward.downcast::<TokioIo<OnwardStream>>() else {
            record.broke(&"the connection onward is none of ours");
            return false;
        };
        let (mut client, mut onward) = (TokioIo::new(client), parts.io.into_inner());
        // Whatever ends early ends with a reset.
        onward.reset_on_close(true);
        let counts = Arc::clone(record.counts());
        let copied = async {
            // What the other side said right after its answer.
            let early = client.write_all(&parts.read_buf).await;
            early.map_err(|error| CopyError {
                side: Side::A,
                error,
            })?;
            copy_both(&mut client, &mut onward, &counts).await
        };
        let copied = tokio::select! {
            copied = copied => copied,
            cause = cutter.wait() => {
                record.cut(cause);
                return false;
            }
        };
        match copied {
            Ok(()) => {
                onward.reset_on_close(false);
                record.complete();
                true
            }
            Err(CopyError { side, error }) => {
                let who = match side {
                    Side::A => "client",
                    Side::B => "application",
                };
                record.broke(&format!("{who}: {error}"));
                false
            }
        }
    }
}
