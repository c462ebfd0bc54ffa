//! `mesh-policy` components: decisions from documents that the component fetches itself.
//!
//! The agent is reached through HTTP that this host lends: four endpoints of one
//! authority, with a token that the component never sees. A component runs only while it is
//! called, so calls may wait for the agent; they are asynchronous, and never part
//! of a TLS callback.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_core::chain::{Usage, VerifiedPeer, VerifyErrorKind};
use portcullis_core::intention::{Decision, Reason};
use portcullis_core::policy::{Client, Request, Trace};
use portcullis_core::time::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use wasmtime::Store;

use super::allowed::Scope;
use super::answer::{Failure, VerifyError, bounded};
use super::bindings::portcullis::mesh::types as wit;
use super::brake::Brake;
use super::cache::hex;
use super::compile::one_line;
use super::component::{ComponentError, ComponentOptions, compiled, read};
use super::convert;
use super::engine::{Running, engine, ticks};
use super::instance::{failure, running};
use super::lent_http::LentHttp;
use super::mesh_bindings::exports::portcullis::mesh::agent;
use super::mesh_bindings::{Mesh, MeshPre};
use super::mesh_imports::{State, linker, store};
use super::pool::{REBUILD_EVERY, REBUILDS};
use crate::agent_client::{AgentAddress, AgentClient};

pub use super::mesh_settings::{MeshError, MeshSettings, Watched};
pub use agent::{DefaultPolicy, Mode};

/// One instance of a `mesh-policy` component. Clones share it; its calls take turns.
///
/// An instance that fails is dropped, and what it had fetched with it; the call that
/// met the failure is denied with [`Reason::PolicyFailed`].
#[derive(Clone)]
pub struct MeshPolicy(Arc<Inner>);

struct Inner {
    name: String,
    sha256: [u8; 32],
    pre: MeshPre<State>,
    client: AgentClient,
    settings: MeshSettings,
    brake: Brake,
    live: Mutex<Option<Live>>,
}

struct Live {
    store: Store<State>,
    exports: Mesh,
}

impl MeshPolicy {
    /// An instance of the component in `path`, configured with `settings`. Opens no connection.
    ///
    /// # Errors
    /// When the file cannot be read, is no `mesh-policy` component of our version, or
    /// refuses the settings.
    pub async fn from_file(
        path: impl AsRef<Path>,
        options: &ComponentOptions,
        client: AgentClient,
        settings: MeshSettings,
    ) -> Result<Self, MeshError> {
        let path = path.as_ref();
        let wasm = read(path).map_err(|error| ComponentError::Read {
            path: path.to_owned(),
            error,
        })?;
        let name = format!("`{}`", path.display());
        let engine = engine().map_err(ComponentError::Engine)?;
        let sha256: [u8; 32] = Sha256::digest(&wasm).into();
        let component = compiled(engine, &name, &wasm, sha256, options)?;
        let linker = linker(engine).map_err(|error| failed(&name, &failure(&error)))?;
        let pre = linker
            .instantiate_pre(&component)
            .and_then(MeshPre::new)
            .map_err(|error| ComponentError::NotAPolicy {
                name: name.clone(),
                detail: one_line(&error),
            })?;
        let brake = Brake::new(Instant::now(), REBUILDS, REBUILD_EVERY);
        let policy = Self(Arc::new(Inner {
            name,
            sha256,
            pre,
            client,
            settings,
            brake,
            live: Mutex::new(None),
        }));
        let first = policy.start().await?;
        *policy.0.live.lock().await = Some(first);
        Ok(policy)
    }

    /// The SHA-256 of the component's bytes, in lower-case hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> String {
        hex(&self.0.sha256)
    }

    async fn start(&self) -> Result<Live, MeshError> {
        let settings = &self.0.settings;
        let config = self.0.client.config();
        let tls = matches!(config.address, AgentAddress::Tls { .. });
        let scope = Scope {
            authority: settings.authority.clone(),
            tls,
            datacenter: config.datacenter.clone(),
            namespace: config.namespace.clone(),
            partition: config.partition.clone(),
        };
        let hooks = LentHttp::new(self.0.client.clone(), scope);
        let failed = |failure: Failure| failed(&self.0.name, &failure);
        let mut store = store(self.0.pre.engine(), hooks, &settings.limits);
        let _running = self.begin(&mut store).map_err(failed)?;
        let exports = self
            .0
            .pre
            .instantiate_async(&mut store)
            .await
            .map_err(|error| failed(failure(&error)))?;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let wanted = agent::Settings {
            authority: &settings.authority,
            tls,
            datacenter: config.datacenter.as_deref(),
            mode: settings.mode,
            default_policy: settings.default_policy,
            envoy_matching: settings.envoy_matching,
            max_stale: millis(settings.max_stale),
            fetch_timeout: u32::try_from(millis(settings.fetch_timeout)).unwrap_or(u32::MAX),
        };
        let answer = exports
            .portcullis_mesh_agent()
            .call_configure(&mut store, wanted)
            .await;
        match answer {
            Ok(Ok(())) => Ok(Live { store, exports }),
            Ok(Err(detail)) => Err(MeshError::Settings {
                component: self.0.name.clone(),
                detail: bounded(detail),
            }),
            Err(error) => Err(failed(failure(&error))),
        }
    }

    /// The time of the next call begins.
    fn begin(&self, store: &mut Store<State>) -> Result<Running, Failure> {
        let running = running()?;
        // Waiting counts too: the clock goes on while the host waits for the agent.
        store.set_epoch_deadline(ticks(self.longest_call()));
        Ok(running)
    }

    fn longest_call(&self) -> Duration {
        self.0
            .settings
            .fetch_timeout
            .saturating_add(self.0.settings.margin)
    }

    /// Calls the instance, for as long as a call may take.
    async fn call<R>(
        &self,
        question: impl AsyncFnOnce(&mut Live) -> wasmtime::Result<R>,
    ) -> Result<R, Failure> {
        let mut seat = self.0.live.lock().await;
        // Whoever gives up waiting for us leaves an instance in the middle of a call behind: it
        // is taken out first and only put back when it has answered.
        let mut live = match seat.take() {
            Some(live) => live,
            None if self.0.brake.allows(Instant::now()) => self
                .start()
                .await
                .map_err(|error| Failure(error.to_string()))?,
            None => {
                return Err(Failure(
                    "it failed too often and is rebuilt later".to_owned(),
                ));
            }
        };
        let _running = self.begin(&mut live.store)?;
        let answer = tokio::time::timeout(self.longest_call(), question(&mut live)).await;
        let outcome = match answer {
            Ok(Ok(answer)) => {
                *seat = Some(live);
                return Ok(answer);
            }
            Ok(Err(error)) => failure(&error),
            Err(_) => Failure("it took longer than its deadline".to_owned()),
        };
        tracing::error!(component = self.0.name, failure = %outcome, "the policy failed; its instance is replaced");
        Err(outcome)
    }

    /// Takes over replies that have arrived and sends what is due, without waiting.
    ///
    /// # Errors
    /// When the component fails.
    pub async fn poll(&self) -> Result<(), MeshError> {
        self.call(async |live| {
            live.exports
                .portcullis_mesh_agent()
                .call_poll(&mut live.store)
                .await
        })
        .await
        .map_err(|failure| failed(&self.0.name, &failure))
    }

    /// What is watched, and how fresh it is.
    ///
    /// # Errors
    /// When the component fails.
    pub async fn status(&self) -> Result<Vec<Watched>, MeshError> {
        let watched = self
            .call(async |live| {
                live.exports
                    .portcullis_mesh_agent()
                    .call_status(&mut live.store)
                    .await
            })
            .await
            .map_err(|failure| failed(&self.0.name, &failure))?;
        let watched = watched.into_iter().map(|watched| Watched {
            name: bounded(watched.name),
            index: watched.index,
            confirmed_at: Timestamp::from_millis(watched.confirmed_at),
            last_error: watched.last_error.map(bounded),
        });
        Ok(watched.collect())
    }

    /// May `client` open a connection to `target`, or with a request, send it?
    /// Fetches what is needed for the answer.
    pub async fn authorize(
        &self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Decision {
        let uris: Vec<&str> = client.uris.iter().map(String::as_str).collect();
        let client = wit::Client {
            uris: &uris,
            via_gateway: client.via_gateway.as_deref(),
        };
        let request = request.map(convert::request);
        let answer = self.call(async |live| {
            let decisions = live.exports.portcullis_mesh_decisions();
            decisions
                .call_authorize(&mut live.store, target, client, request, now.as_millis())
                .await
        });
        answer.await.map_or_else(
            |_| Decision::denied(Reason::PolicyFailed, 0),
            convert::decision,
        )
    }

    /// Checks a presented chain (DER, leaf first) against the agent's roots.
    ///
    /// # Errors
    /// When the chain or its identity breaks a rule, or is not `expected`; when the
    /// roots cannot be fetched; when the component fails.
    pub async fn verify_peer(
        &self,
        chain: &[impl AsRef<[u8]>],
        usage: Usage,
        expected: Option<&str>,
        now: Timestamp,
    ) -> Result<VerifiedPeer, VerifyError> {
        let chain: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
        let answer = self.call(async |live| {
            let decisions = live.exports.portcullis_mesh_decisions();
            decisions
                .call_verify_peer(
                    &mut live.store,
                    &chain,
                    convert::usage(usage),
                    expected,
                    now.as_millis(),
                )
                .await
        });
        let failed = |_| {
            VerifyError::new(
                VerifyErrorKind::NotReady,
                "policy-failed",
                "the policy itself failed",
            )
        };
        match answer.await.map_err(failed)? {
            Ok(peer) => convert::verified_peer(peer, expected).map_err(failed),
            Err(error) => Err(convert::verify_error(error)),
        }
    }

    /// The decision of [`MeshPolicy::authorize`] with the way to it.
    ///
    /// # Errors
    /// When the component fails.
    pub async fn explain(
        &self,
        target: &str,
        client: &Client,
        request: Option<&Request>,
        now: Timestamp,
    ) -> Result<Trace, MeshError> {
        let uris: Vec<&str> = client.uris.iter().map(String::as_str).collect();
        let client = wit::Client {
            uris: &uris,
            via_gateway: client.via_gateway.as_deref(),
        };
        let request = request.map(convert::request);
        let answer = self.call(async |live| {
            let decisions = live.exports.portcullis_mesh_decisions();
            decisions
                .call_explain(&mut live.store, target, client, request, now.as_millis())
                .await
        });
        answer
            .await
            .and_then(convert::trace)
            .map_err(|failure| failed(&self.0.name, &failure))
    }
}

impl fmt::Debug for MeshPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "MeshPolicy({}, sha256 {})",
            self.0.name,
            self.sha256()
        )
    }
}

fn failed(name: &str, failure: &Failure) -> MeshError {
    MeshError::Failed {
        component: name.to_owned(),
        detail: failure.0.clone(),
    }
}
