//! The filter as a plugin, and `ext_authz` in its place.

use portcullis_core::filter::Settings;
use serde_json::Value;

use super::tree::Node;
use super::{Code, Found};

/// `envoy.extensions.wasm.v3.FailurePolicy`, by number.
const FAILURE_POLICIES: &[&str] = &["UNSPECIFIED", "FAIL_RELOAD", "FAIL_CLOSED", "FAIL_OPEN"];

/// `FractionalPercent.DenominatorType`, by number.
const DENOMINATORS: &[&str] = &["HUNDRED", "TEN_THOUSAND", "MILLION"];

/// The callbacks of the filter (`EXPORTS` in `tests/xtask/src/filter.rs`).
const CALLBACKS: &[&str] = &[
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_downstream_data",
    "proxy_on_http_call_response",
    "proxy_on_request_headers",
    "proxy_on_tick",
    "proxy_on_upstream_data",
];

/// How our names are recognised.
const OURS: &str = "portcullis";

/// A WebAssembly plugin.
pub(super) struct Plugin<'v> {
    node: Node<'v>,
    pub(super) is_ours: bool,
    vm_id: &'v str,
    configuration: Option<Value>,
}

impl<'v> Plugin<'v> {
    /// `node` as a `PluginConfig`, if it is one.
    pub(super) fn read(node: &Node<'v>) -> Option<Self> {
        let vm = node.field("vm_config")?;
        let configuration = configuration(node);
        let file = vm.at(&["code", "local"]);
        let names = [
            node.text("name"),
            node.text("root_id"),
            vm.text("vm_id"),
            file.and_then(|file| file.text("filename")),
        ];
        let named = names
            .iter()
            .flatten()
            .any(|name| name.to_ascii_lowercase().contains(OURS));
        let configured = configuration.as_ref().is_some_and(|configuration| {
            configuration["service"].is_string() && configuration["agent"]["cluster"].is_string()
        });
        Some(Self {
            is_ours: named || configured,
            vm_id: vm.text("vm_id").unwrap_or_default(),
            configuration,
            node: node.clone(),
        })
    }

    pub(super) fn path(&self) -> &str {
        &self.node.path
    }

    /// Whether it verifies certificates itself.
    pub(super) fn verifies(&self) -> bool {
        self.says("peer_verification") == Some("filter")
    }

    fn says(&self, field: &str) -> Option<&str> {
        self.configuration.as_ref()?.get(field)?.as_str()
    }

    pub(super) fn examine(&self, all: &[Self], found: &mut Found) {
        let path = self.path();
        let policy = self.node.choice("failure_policy", FAILURE_POLICIES);
        if policy == Some("FAIL_OPEN") || self.node.flag("fail_open") == Some(true) {
            found.add(Code::FailOpen, path, "`failure_policy` is FAIL_OPEN");
        } else if policy != Some("FAIL_RELOAD") {
            let text = policy.map_or_else(
                || "`failure_policy` is not set".to_owned(),
                |policy| format!("`failure_policy` is {policy}"),
            );
            found.add(Code::NoReload, path, text);
        }
        if self.node.flag("allow_on_headers_stop_iteration") == Some(true) {
            let text = "`allow_on_headers_stop_iteration` is true";
            found.add(Code::HeadersNotHeld, path, text);
        }
        self.examine_capabilities(found);
        if self.vm_id.is_empty() {
            found.add(Code::VmIdEmpty, path, "`vm_config.vm_id` is empty");
        } else if let Some(other) = all
            .iter()
            .find(|other| !other.is_ours && other.vm_id == self.vm_id)
        {
            let text = format!("`vm_id` is `{}`, as in {}", self.vm_id, other.path());
            found.add(Code::VmIdShared, path, text);
        }
        match read_configuration(&self.node) {
            Ok(()) => {}
            Err(problem) => found.add(
                Code::PluginConfiguration,
                &format!("{path}/configuration"),
                problem,
            ),
        }
        if self.says("mode") == Some("shadow") {
            let path = format!("{path}/configuration");
            found.add(Code::Shadow, &path, "`mode` is `shadow`");
        }
    }

    /// Whether Envoy may call what the filter decides in.
    fn examine_capabilities(&self, found: &mut Found) {
        for place in [Some(self.node.clone()), self.node.field("vm_config")] {
            let allowed = ["capability_restriction_config", "allowed_capabilities"];
            let Some(allowed) = place.and_then(|place| place.at(&allowed)) else {
                continue;
            };
            // Without a name everything is allowed.
            let Some(names) = allowed.value.as_object().filter(|names| !names.is_empty()) else {
                continue;
            };
            let missing: Vec<String> = CALLBACKS
                .iter()
                .filter(|name| !names.contains_key(**name))
                .map(|name| format!("`{name}`"))
                .collect();
            if !missing.is_empty() {
                let text = format!("`allowed_capabilities` lacks {}", missing.join(", "));
                found.add(Code::Capabilities, &allowed.path, text);
            }
        }
    }

    /// Whether the agent's cluster is among those of the bootstrap `root`.
    pub(super) fn examine_cluster(&self, root: &Node<'v>, found: &mut Found) {
        let is_whole = root.at(&["dynamic_resources", "cds_config"]).is_none();
        let Some(clusters) = root
            .field("static_resources")
            .filter(|_| is_whole)
            .map(|resources| resources.list("clusters"))
        else {
            return;
        };
        let Some(configuration) = &self.configuration else {
            return;
        };
        let path = format!("{}/configuration", self.path());
        let named = |wanted: &str| {
            let mut clusters = clusters.iter();
            clusters.find(|cluster| cluster.text("name") == Some(wanted))
        };
        if let Some(wanted) = configuration["agent"]["cluster"].as_str()
            && named(wanted).is_none()
        {
            let text = format!("`agent.cluster` is `{wanted}`, and there is no such cluster");
            found.add(Code::AgentCluster, &path, text);
        }
        let servers = configuration["jwks"].as_array();
        for server in servers.into_iter().flatten() {
            let (Some(uri), Some(wanted)) = (server["uri"].as_str(), server["cluster"].as_str())
            else {
                continue;
            };
            match named(wanted) {
                None => {
                    let text = format!("`{uri}` has the cluster `{wanted}`, which is not there");
                    found.add(Code::KeyCluster, &path, text);
                }
                Some(cluster) if uri.starts_with("https:") => {
                    if let Err(lack) = verifies_server(cluster) {
                        let text = format!("`{uri}` is asked without {lack}");
                        found.add(Code::KeyClusterTls, &cluster.path, text);
                    }
                }
                Some(cluster) => {
                    let text = format!("`{uri}` is asked without TLS");
                    found.add(Code::KeyClusterTls, &cluster.path, text);
                }
            }
        }
    }
}

/// Whether a cluster verifies who its server is, or what it lacks for that.
fn verifies_server(cluster: &Node<'_>) -> Result<(), &'static str> {
    let socket = cluster.field("transport_socket");
    let context = socket
        .as_ref()
        .and_then(|socket| socket.any("typed_config"));
    let Some((_, tls)) = context.filter(|(kind, _)| *kind == "UpstreamTlsContext") else {
        return Err("TLS");
    };
    let common = tls.field("common_tls_context");
    let validation = common.and_then(|common| {
        let combined = ["combined_validation_context", "default_validation_context"];
        common
            .field("validation_context")
            .or_else(|| common.at(&combined))
    });
    let Some(validation) = validation.filter(|context| context.field("trusted_ca").is_some())
    else {
        return Err("verification of its certificate (`trusted_ca`)");
    };
    match validation.list("match_typed_subject_alt_names").is_empty() {
        true => Err("looking at the name in its certificate (`match_typed_subject_alt_names`)"),
        false => Ok(()),
    }
}

/// The plugin's JSON, if it can be read.
fn configuration(node: &Node<'_>) -> Option<Value> {
    let (_, any) = node.any("configuration")?;
    serde_json::from_str(any.text("value")?).ok()
}

/// Whether the filter will take its configuration.
fn read_configuration(node: &Node<'_>) -> Result<(), String> {
    let Some((kind, any)) = node.any("configuration") else {
        return Err("there is none".to_owned());
    };
    if !matches!(kind, "StringValue" | "BytesValue") {
        return Err(format!(
            "it is a {kind}, which reaches the filter as protobuf"
        ));
    }
    let Some(text) = any.text("value") else {
        return Err("it has no `value`".to_owned());
    };
    if kind == "BytesValue" {
        return Ok(());
    }
    Settings::parse(text.as_bytes())
        .map(drop)
        .map_err(|error| error.to_string())
}

/// An `ext_authz` filter, network or HTTP.
pub(super) struct Authz<'v> {
    /// The `typed_config`.
    node: Node<'v>,
    is_http: bool,
    is_ours: bool,
}

impl<'v> Authz<'v> {
    /// Those that ask `portcullis ext-authz`; all, where no name says so and no plugin is ours.
    pub(super) fn among(objects: &[Node<'v>], plugins: &[Plugin<'v>]) -> Vec<Self> {
        let mut all: Vec<Self> = objects.iter().filter_map(Self::read).collect();
        if all.iter().any(|one| one.is_ours) || plugins.iter().any(|plugin| plugin.is_ours) {
            all.retain(|one| one.is_ours);
        }
        all
    }

    fn read(node: &Node<'v>) -> Option<Self> {
        let kind = node.kind("typed_config")?;
        let is_http = kind.ends_with("http.ext_authz.v3.ExtAuthz");
        if !is_http && !kind.ends_with("network.ext_authz.v3.ExtAuthz") {
            return None;
        }
        let (_, config) = node.any("typed_config")?;
        let cluster = config.at(&["grpc_service", "envoy_grpc"]);
        let names = [
            config.text("stat_prefix"),
            cluster.and_then(|cluster| cluster.text("cluster_name")),
        ];
        let is_ours = names.iter().flatten().any(|name| name.contains(OURS));
        Some(Self {
            node: config,
            is_http,
            is_ours,
        })
    }

    pub(super) fn path(&self) -> &str {
        &self.node.path
    }

    pub(super) fn examine(&self, found: &mut Found) {
        let path = self.path();
        if self.node.flag("failure_mode_allow") == Some(true) {
            let text = "`failure_mode_allow` is true";
            found.add(Code::FailureModeAllow, path, text);
        }
        if self.node.flag("include_peer_certificate") != Some(true) {
            let text = "`include_peer_certificate` is not true";
            found.add(Code::NoPeerCertificate, path, text);
        }
        self.examine_switches(found);
        for list in ["allowed_headers", "disallowed_headers"] {
            if self.is_http && self.node.field(list).is_some() {
                let text = format!("`{list}` is given");
                found.add(Code::PartialHeaders, path, text);
            }
        }
        if self.is_http && self.node.flag("encode_raw_headers") != Some(true) {
            let text = "`encode_raw_headers` is not true";
            found.add(Code::JoinedHeaders, path, text);
        }
    }

    /// Whether it is asked always.
    fn examine_switches(&self, found: &mut Found) {
        let path = self.path();
        let denies = self.node.field("deny_at_disable").filter(|_| self.is_http);
        if denies.and_then(|flag| flag.flag("default_value")) == Some(true) {
            return;
        }
        if self.node.field("filter_enabled_metadata").is_some() {
            let text = "`filter_enabled_metadata` is given";
            found.add(Code::Disabled, path, text);
        }
        let enabled = self.node.field("filter_enabled").filter(|_| self.is_http);
        if let Some(enabled) = enabled
            && !is_always(&enabled)
        {
            let text = "`filter_enabled` is not always so";
            found.add(Code::Disabled, path, text);
        }
    }
}

/// Whether a `RuntimeFractionalPercent` is everything, whatever the runtime says.
fn is_always(percent: &Node<'_>) -> bool {
    if percent
        .text("runtime_key")
        .is_some_and(|key| !key.is_empty())
    {
        return false;
    }
    let Some(value) = percent.field("default_value") else {
        return false;
    };
    let whole = match value.choice("denominator", DENOMINATORS) {
        None | Some("HUNDRED") => 100,
        Some("TEN_THOUSAND") => 10_000,
        Some(_) => 1_000_000,
    };
    let numerator = value.field("numerator");
    let numerator = numerator.and_then(|number| match number.value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    });
    numerator.is_some_and(|numerator| numerator >= whole)
}
