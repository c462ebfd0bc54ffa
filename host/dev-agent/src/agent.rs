//! The handle of a running development agent.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::acl::Acl;
use crate::api::peerings::{Peering, Peerings};
use crate::ca::pem;
use crate::ca::roots::{CaState, Settings};
use crate::catalog::{Catalog, Node};
use crate::clock::Clock;
use crate::core::{Core, Keep, State};
use crate::entry::Entries;
use crate::http::reply::{Body, Reply};
use crate::http::server;
use crate::persist::DataDir;
use crate::{DefaultPolicy, DevAgentConfig, Fault, KeyType, StartError};

/// Life of a root, as in Consul.
const ROOT_TTL: std::time::Duration = std::time::Duration::from_secs(87600 * 3600);

/// A running development agent. Dropping it stops it without waiting.
pub struct DevAgent {
    core: Arc<Core>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    server: Option<JoinHandle<()>>,
    maintenance: JoinHandle<()>,
}

impl std::fmt::Debug for DevAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevAgent")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Why a change from inside the process was not made; the text is the one that
/// the HTTP API answers with.
#[derive(Debug, thiserror::Error)]
#[error("the development agent refused the change ({status}): {text}")]
pub struct ChangeError {
    /// The HTTP status.
    pub status: u16,
    /// The reply's body.
    pub text: String,
}

impl From<Reply> for ChangeError {
    fn from(reply: Reply) -> Self {
        let text = match &reply.body {
            Body::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Body::Json(value) => value.to_string(),
        };
        Self {
            status: reply.status.as_u16(),
            text,
        }
    }
}

/// A certificate that [`DevAgent::issue`] made.
#[derive(Clone)]
pub struct Leaf {
    /// The leaf, then intermediates, in PEM.
    pub chain_pem: String,
    /// The key, SEC 1 in PEM.
    pub key_pem: String,
    /// The identity.
    pub uri: String,
    /// When it ends.
    pub not_after: OffsetDateTime,
}

impl DevAgent {
    /// Starts an agent on the current tokio runtime.
    ///
    /// # Errors
    /// When the address is taken or not loopback, when ACL rules cannot be
    /// read, or when the data directory cannot be used.
    pub async fn start(config: DevAgentConfig) -> Result<Self, StartError> {
        let listen = config.listen;
        if !listen.ip().to_canonical().is_loopback() && !config.allow_non_loopback {
            return Err(StartError::NotLoopback(listen));
        }
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::AddrInUse => StartError::AddressInUse(listen),
                _ => StartError::Listen {
                    address: listen,
                    source,
                },
            })?;
        let failed = |source| StartError::Listen {
            address: listen,
            source,
        };
        let address = listener.local_addr().map_err(failed)?;
        let core = core(config, address, Clock::System)?;
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(server::run(Arc::clone(&core), listener, address, stopped));
        let maintenance = tokio::spawn(Arc::clone(&core).maintain());
        Ok(Self {
            core,
            address,
            stop,
            server: Some(server),
            maintenance,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base address for `CONSUL_HTTP_ADDR`: `http://127.0.0.1:8500`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The trust domain: `<cluster id>.consul`.
    #[must_use]
    pub fn trust_domain(&self) -> String {
        self.core.read(|state| state.ca.trust_domain())
    }

    /// The datacenter.
    #[must_use]
    pub fn datacenter(&self) -> &str {
        &self.core.config.datacenter
    }

    /// What a connection gets that no intention names.
    #[must_use]
    pub fn default_for_intentions(&self) -> DefaultPolicy {
        self.core.default_for_intentions()
    }

    /// Whether requests need a token.
    #[must_use]
    pub fn acls_enabled(&self) -> bool {
        self.core.acl.enabled()
    }

    /// The listed roots in PEM, the active one first.
    #[must_use]
    pub fn roots_pem(&self) -> Vec<String> {
        self.core.read(|state| {
            let mut roots: Vec<_> = state.ca.roots.iter().collect();
            roots.sort_by_key(|root| root.rotated_out.is_some());
            roots
                .iter()
                .map(|root| pem::encode("CERTIFICATE", &root.der))
                .collect()
        })
    }

    /// Writes an intention that allows `source` to call `destination`.
    ///
    /// # Errors
    /// When the names are not valid or the change cannot be stored.
    pub fn allow(&self, source: &str, destination: &str) -> Result<(), ChangeError> {
        self.intention(source, destination, "allow")
    }

    /// Registers a service as `/v1/agent/service/register` takes it, without asking for a token.
    ///
    /// # Errors
    /// When the API would refuse it.
    pub fn register(&self, definition: &Value) -> Result<(), ChangeError> {
        let read = crate::catalog::registration(definition).map_err(Reply::bad_request)?;
        self.core.register(read, true, |_| Ok(()))?;
        Ok(())
    }

    /// Writes an intention that denies `source` to call `destination`.
    ///
    /// # Errors
    /// As [`DevAgent::allow`].
    pub fn deny(&self, source: &str, destination: &str) -> Result<(), ChangeError> {
        self.intention(source, destination, "deny")
    }

    fn intention(&self, source: &str, destination: &str, action: &str) -> Result<(), ChangeError> {
        let fields = json!({"Action": action})
            .as_object()
            .cloned()
            .unwrap_or_default();
        self.core.write(Keep::OnDisk, |state, index| {
            let put = state
                .entries
                .put_intention(source, destination, fields, index);
            put.map_err(Reply::server_error)?;
            Ok(((), state.entries.index == index))
        })?;
        Ok(())
    }

    /// Removes an intention; that there was none is no error.
    ///
    /// # Errors
    /// When the change cannot be stored.
    pub fn delete_intention(&self, source: &str, destination: &str) -> Result<(), ChangeError> {
        self.core.write(Keep::OnDisk, |state, index| {
            let gone = state.entries.delete_intention(source, destination, index);
            Ok(((), gone.map_err(Reply::server_error)?))
        })?;
        Ok(())
    }

    /// Writes a configuration entry, as `PUT /v1/config` does.
    ///
    /// # Errors
    /// Consul's words when it is not valid.
    pub fn put_config_entry(&self, entry: &Value) -> Result<(), ChangeError> {
        Ok(self.core.put_entry(entry)?)
    }

    /// Replaces the root by a new one with this kind of key, signed also by the
    /// old root.
    ///
    /// # Errors
    /// When no key can be made or the change cannot be stored.
    pub async fn rotate(&self, key_type: KeyType) -> Result<(), ChangeError> {
        let (mut config, mut settings) = self
            .core
            .read(|state| (state.ca.config.clone(), state.ca.settings));
        settings.key_type = key_type;
        if !config.is_object() {
            config = json!({});
        }
        config["PrivateKeyType"] = json!(key_type.kind());
        config["PrivateKeyBits"] = json!(key_type.bits());
        Ok(self.core.reconfigure(config, settings, false, true).await?)
    }

    /// Sets up a peering with a cluster whose roots are these (PEM), or gives it others: what
    /// the agent then tells about it. Without roots it is pending.
    ///
    /// # Errors
    /// Never at present.
    pub fn set_peering(&self, name: &str, roots: Vec<String>) -> Result<(), ChangeError> {
        Ok(self.core.write(Keep::InMemory, |state, index| {
            state.peerings.index = index;
            let known = state.peerings.by_name.get(name);
            let peering = Peering {
                id: known.map_or_else(
                    || uuid::Uuid::new_v4().to_string(),
                    |known| known.id.clone(),
                ),
                create_index: known.map_or(index, |known| known.create_index),
                modify_index: index,
                roots,
            };
            state.peerings.by_name.insert(name.to_owned(), peering);
            Ok(((), true))
        })?)
    }

    /// Ends a peering.
    ///
    /// # Errors
    /// Never at present.
    pub fn remove_peering(&self, name: &str) -> Result<(), ChangeError> {
        Ok(self.core.write(Keep::InMemory, |state, index| {
            let is_gone = state.peerings.by_name.remove(name).is_some();
            if is_gone {
                state.peerings.index = index;
            }
            Ok(((), is_gone))
        })?)
    }

    /// Makes a certificate for a service, beside the one that the leaf
    /// endpoint keeps for it: each call makes another.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn issue(&self, service: &str) -> Result<Leaf, ChangeError> {
        let now = self.core.clock.second();
        let leaf = self.core.write(Keep::InMemory, |state, index| {
            let kept = state.ca.leafs.get(service).cloned();
            let issued = state
                .ca
                .issue(service, &self.core.config.datacenter, now, index);
            let leaf = issued
                .map_err(|error| Reply::server_error(error.to_string()))?
                .clone();
            match kept {
                Some(kept) => state.ca.leafs.insert(service.to_owned(), kept),
                None => state.ca.leafs.remove(service),
            };
            Ok((leaf, true))
        })?;
        Ok(Leaf {
            chain_pem: leaf.chain_pem.clone(),
            key_pem: leaf.key_pem.clone(),
            uri: leaf.uri.clone(),
            not_after: leaf.not_after,
        })
    }

    /// Lets the next request whose path starts with `path` go wrong. Several
    /// faults for a path are used up one after another.
    pub fn inject(&self, path: &str, fault: Fault) {
        self.core.faults.push(path, fault, false);
    }

    /// Lets every request whose path starts with `path` go wrong from now on, until
    /// [`DevAgent::clear_faults`]. Requests that are blocked already are answered.
    pub fn inject_until_cleared(&self, path: &str, fault: Fault) {
        self.core.faults.push(path, fault, true);
    }

    /// Forgets all faults.
    pub fn clear_faults(&self) {
        self.core.faults.clear();
    }

    /// Stops accepting, closes every connection, and returns when that is done.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(server) = self.server.take()
            && let Err(error) = server.await
        {
            tracing::error!(%error, "the development agent's listener ended badly");
        }
        // The last holder of the data directory's lock.
        self.maintenance.abort();
        let _aborted = (&mut self.maintenance).await;
    }
}

impl Drop for DevAgent {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.maintenance.abort();
    }
}

/// An agent without its listener.
pub(crate) fn core(
    config: DevAgentConfig,
    address: SocketAddr,
    clock: Clock,
) -> Result<Arc<Core>, StartError> {
    check(&config)?;
    let acl = Acl::new(&config)?;
    let data_dir = config.data_dir.as_deref().map(DataDir::open).transpose()?;
    let restored = match &data_dir {
        Some(data_dir) => data_dir.load()?,
        None => None,
    };
    let is_new = restored.is_none();
    let mut node = Node {
        id: uuid::Uuid::new_v4().to_string(),
        name: config.node_name.clone(),
        address: address.ip().to_string(),
        datacenter: config.datacenter.clone(),
    };
    let state = match restored {
        Some(restored) => {
            if restored.datacenter != config.datacenter {
                return Err(StartError::Config(format!(
                    "the data directory belongs to datacenter `{}`, not `{}`",
                    restored.datacenter, config.datacenter
                )));
            }
            node.id = restored.node_id;
            restored.state
        }
        None => {
            let cluster_id = config
                .cluster_id
                .clone()
                .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
            let settings = Settings {
                leaf_ttl: config.leaf_ttl,
                root_ttl: ROOT_TTL,
                key_type: config.key_type,
            };
            State {
                index: 20,
                entries: Entries::default(),
                catalog: Catalog::default(),
                ca: CaState::bootstrap(cluster_id, settings, clock.second())?,
                peerings: Peerings::default(),
            }
        }
    };
    if let (Some(data_dir), true) = (&data_dir, is_new) {
        data_dir.save(&state, &node)?;
    }
    Ok(Core::new(config, acl, clock, node, data_dir, state))
}

fn check(config: &DevAgentConfig) -> Result<(), StartError> {
    let refuse = |text: String| Err(StartError::Config(text));
    let is_name = |name: &str| {
        !name.is_empty()
            && name.len() <= 64
            && name
                .chars()
                .all(|char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_'))
    };
    if !is_name(&config.datacenter) || config.datacenter != config.datacenter.to_lowercase() {
        return refuse(format!(
            "`{}` is not a name for a datacenter",
            config.datacenter
        ));
    }
    if !is_name(&config.node_name) {
        return refuse(format!("`{}` is not a name for a node", config.node_name));
    }
    if let Some(id) = config.cluster_id.as_deref()
        && (!is_name(id) || id != id.to_lowercase())
    {
        return refuse(format!("`{id}` is not a cluster id"));
    }
    if config.leaf_ttl < std::time::Duration::from_secs(2) {
        return refuse("leaf certificates must live 2 s or longer".to_owned());
    }
    let (soft, hard) = config.renewal_window;
    if !(0.2..=1.0).contains(&soft) || !(soft..=1.0).contains(&hard) {
        return refuse(
            "the renewal window must be two rising numbers between 0.2 and 1".to_owned(),
        );
    }
    Ok(())
}
