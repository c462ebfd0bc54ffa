//! Listeners: where the policy stands in their filter chains, and what TLS lets in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_core::chain::{NoTrustDomain, trust_domain_of};
use std::collections::BTreeSet;
use std::net::IpAddr;

use super::plugin::{Authz, Plugin};
use super::tree::Node;
use super::{Code, Found};

/// `TcpProxy.UpstreamConnectMode`, by number.
const CONNECT_MODES: &[&str] = &[
    "IMMEDIATE",
    "ON_DOWNSTREAM_DATA",
    "ON_DOWNSTREAM_TLS_HANDSHAKE",
];

/// `CertificateValidationContext.TrustChainVerification`, by number.
const VERIFICATIONS: &[&str] = &["VERIFY_TRUST_CHAIN", "ACCEPT_UNTRUSTED"];

/// A listener and its filter chains.
pub(super) struct Listener<'v> {
    node: Node<'v>,
    chains: Vec<Chain<'v>>,
}

/// A filter chain.
struct Chain<'v> {
    node: Node<'v>,
    filters: Vec<Filter<'v>>,
    /// What the policy in it is, of all layers.
    policies: Vec<Policy>,
}

/// A network filter, with its HTTP filters if it is the HTTP connection manager.
struct Filter<'v> {
    node: Node<'v>,
    kind: Kind,
    policy: Option<Policy>,
    http: Vec<HttpFilter<'v>>,
    /// What takes the place of `http` for upgrades.
    upgrades: Vec<Upgrade<'v>>,
}

/// A kind of upgrade that has HTTP filters of its own.
struct Upgrade<'v> {
    node: Node<'v>,
    http: Vec<HttpFilter<'v>>,
}

/// An HTTP filter.
struct HttpFilter<'v> {
    node: Node<'v>,
    is_router: bool,
    policy: Option<Policy>,
}

/// What matters of a network filter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    TcpProxy,
    Http,
    Other,
}

/// What decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// The filter; whether it verifies certificates itself.
    Filter { verifies: bool },
    /// `ext_authz`.
    Authz,
}

impl<'v> Listener<'v> {
    /// `node` as a listener, if it is one.
    pub(super) fn read(
        node: &Node<'v>,
        plugins: &[Plugin<'v>],
        authz: &[Authz<'v>],
    ) -> Option<Self> {
        let listed = node.field("filter_chains");
        let default = node.field("default_filter_chain");
        if listed.is_none() && default.is_none() {
            return None;
        }
        let chains = listed.map(|list| list.items()).unwrap_or_default();
        let chains = chains
            .into_iter()
            .chain(default)
            .map(|chain| Chain::read(chain, plugins, authz));
        Some(Self {
            node: node.clone(),
            chains: chains.collect(),
        })
    }

    /// Whether it is for this machine's own programs: on loopback or a unix socket, without
    /// TLS, as listeners for upstreams are.
    pub(super) fn is_local(&self) -> bool {
        let is_plain = |chain: &Chain<'v>| chain.node.field("transport_socket").is_none();
        let stands_here = |place: &Node<'v>| place.field("address").as_ref().is_some_and(is_here);
        let others = self.node.list("additional_addresses");
        stands_here(&self.node)
            && others.iter().all(stands_here)
            && self.chains.iter().all(is_plain)
    }

    /// The clusters that it leads to, as far as the file says.
    fn clusters(&self) -> BTreeSet<&'v str> {
        let filters = self.chains.iter().flat_map(|chain| &chain.filters);
        filters.flat_map(Filter::clusters).collect()
    }

    pub(super) fn has_policy(&self) -> bool {
        self.chains.iter().any(|chain| !chain.policies.is_empty())
    }

    /// `guarded` are the clusters that listeners with a policy lead to.
    pub(super) fn examine(
        &self,
        is_policy_elsewhere: bool,
        guarded: &BTreeSet<&str>,
        secrets: &Secrets<'v>,
        found: &mut Found,
    ) {
        if !self.has_policy() {
            let mut open = self.chains.iter().filter(|_| is_policy_elsewhere);
            if open.any(Chain::is_for_the_mesh) {
                let text = "this listener asks for no decision";
                found.add(Code::Unguarded, &self.node.path, text);
            } else if !self.is_local()
                && let Some(cluster) = self.clusters().intersection(guarded).next()
            {
                let text =
                    format!("this listener leads to `{cluster}` as well, and asks for no decision");
                found.add(Code::Unguarded, &self.node.path, text);
            }
            return;
        }
        for chain in &self.chains {
            if chain.policies.is_empty() {
                let text = "this filter chain asks for no decision";
                found.add(Code::Bypass, &chain.node.path, text);
            } else {
                chain.examine_tls(secrets, found);
                chain.examine_filters(found);
            }
        }
    }
}

impl<'v> Chain<'v> {
    fn read(node: Node<'v>, plugins: &[Plugin<'v>], authz: &[Authz<'v>]) -> Self {
        let filters: Vec<Filter<'v>> = node
            .list("filters")
            .into_iter()
            .map(|filter| Filter::read(filter, plugins, authz))
            .collect();
        let http = filters.iter().flat_map(Filter::http_policies);
        let policies = filters
            .iter()
            .filter_map(|filter| filter.policy)
            .chain(http)
            .collect();
        Self {
            node,
            filters,
            policies,
        }
    }

    /// Whether whoever comes must have a certificate.
    fn is_for_the_mesh(&self) -> bool {
        let tls = self.tls();
        tls.is_ok_and(|tls| tls.flag("require_client_certificate") == Some(true))
    }

    /// What TLS lets in here; else where it is missing, and what.
    fn tls(&self) -> Result<Node<'v>, (String, String)> {
        let Some(socket) = self.node.field("transport_socket") else {
            let text = "there is no `transport_socket`".to_owned();
            return Err((self.node.path.clone(), text));
        };
        let Some((kind, tls)) = socket.any("typed_config") else {
            let text = "`transport_socket` has no `typed_config`".to_owned();
            return Err((socket.path, text));
        };
        match kind {
            "DownstreamTlsContext" => Ok(tls),
            "QuicDownstreamTransport" => tls.field("downstream_tls_context").ok_or_else(|| {
                let text = "`downstream_tls_context` is missing".to_owned();
                (tls.path.clone(), text)
            }),
            other => Err((socket.path, format!("`transport_socket` is a {other}"))),
        }
    }

    fn examine_tls(&self, secrets: &Secrets<'v>, found: &mut Found) {
        let tls = match self.tls() {
            Ok(tls) => tls,
            Err((path, text)) => return found.add(Code::NoTls, &path, text),
        };
        if tls.flag("require_client_certificate") != Some(true) {
            let text = "`require_client_certificate` is not true";
            found.add(Code::NoClientCertificate, &tls.path, text);
        }
        // A filter that verifies itself needs no help of Envoy's.
        let by_filter = self
            .policies
            .iter()
            .all(|policy| *policy == Policy::Filter { verifies: true });
        if !by_filter {
            examine_resumption(&tls, found);
        }
        let validation = Validation::read(&tls, secrets);
        validation.examine(&tls, by_filter, found);
        // `ext-authz` verifies itself, too.
        let believes = Policy::Filter { verifies: false };
        if self.policies.contains(&believes) {
            validation.examine_roots(found);
        }
    }

    fn examine_filters(&self, found: &mut Found) {
        let ends = |filter: &Filter<'v>| filter.kind != Kind::Other;
        let end = self.filters.iter().position(ends);
        for (index, filter) in self.filters.iter().enumerate() {
            if filter.policy.is_some() && end.is_some_and(|end| end < index) {
                let text = "it stands behind the filter that ends the chain";
                found.add(Code::AfterTerminal, &filter.node.path, text);
            }
            if filter.kind == Kind::TcpProxy {
                self.examine_connect_mode(filter, found);
            }
            filter.examine_http(found);
        }
    }

    fn examine_connect_mode(&self, filter: &Filter<'v>, found: &mut Found) {
        let Some((_, proxy)) = filter.node.any("typed_config") else {
            return;
        };
        let mode = proxy
            .choice("upstream_connect_mode", CONNECT_MODES)
            .unwrap_or("IMMEDIATE");
        let text = format!("`upstream_connect_mode` is {mode}");
        let network = |policy: fn(&Policy) -> bool| {
            self.filters
                .iter()
                .any(|filter| filter.policy.as_ref().is_some_and(policy))
        };
        if network(|policy| matches!(policy, Policy::Filter { .. })) && mode == "IMMEDIATE" {
            found.add(Code::ConnectMode, &proxy.path, text);
        } else if network(|policy| *policy == Policy::Authz) && mode != "ON_DOWNSTREAM_DATA" {
            found.add(Code::GreetingLeak, &proxy.path, text);
        }
    }
}

impl<'v> Filter<'v> {
    fn read(node: Node<'v>, plugins: &[Plugin<'v>], authz: &[Authz<'v>]) -> Self {
        let kind = match node.kind("typed_config").unwrap_or_default() {
            kind if kind.ends_with("tcp_proxy.v3.TcpProxy") => Kind::TcpProxy,
            kind if kind.ends_with("HttpConnectionManager") => Kind::Http,
            _ => Kind::Other,
        };
        let manager = node.any("typed_config").filter(|_| kind == Kind::Http);
        let (http, upgrades) = match manager {
            Some((_, manager)) => (
                HttpFilter::list(&manager, "http_filters", plugins, authz),
                manager
                    .list("upgrade_configs")
                    .into_iter()
                    .map(|upgrade| Upgrade {
                        http: HttpFilter::list(&upgrade, "filters", plugins, authz),
                        node: upgrade,
                    })
                    // Without any those of all requests serve.
                    .filter(|upgrade| !upgrade.http.is_empty())
                    .collect(),
            ),
            None => (Vec::new(), Vec::new()),
        };
        Self {
            policy: policy(&node, plugins, authz),
            node,
            kind,
            http,
            upgrades,
        }
    }

    /// What the policies of its requests are, none if those without an upgrade have none.
    fn http_policies(&self) -> Vec<Policy> {
        let policies = |list: &[HttpFilter<'v>]| -> Vec<Policy> {
            list.iter().filter_map(|filter| filter.policy).collect()
        };
        let mut all = policies(&self.http);
        if !all.is_empty() {
            for upgrade in &self.upgrades {
                all.extend(policies(&upgrade.http));
            }
        }
        all
    }

    /// The clusters that it leads to.
    fn clusters(&self) -> Vec<&'v str> {
        let Some((_, config)) = self.node.any("typed_config") else {
            return Vec::new();
        };
        let mut places = Vec::new();
        match self.kind {
            Kind::TcpProxy => places.push(config),
            Kind::Http => {
                if let Some(routes) = config.field("route_config") {
                    routes.objects(&mut places);
                }
            }
            Kind::Other => {}
        }
        let mut names = Vec::new();
        for place in &places {
            names.extend(place.text("cluster"));
            let weighted = place.field("weighted_clusters");
            let weighted = weighted.map(|weighted| weighted.list("clusters"));
            names.extend(weighted.iter().flatten().filter_map(|one| one.text("name")));
        }
        names
    }

    fn examine_http(&self, found: &mut Found) {
        if !self.http.iter().any(|filter| filter.policy.is_some()) {
            return;
        }
        HttpFilter::examine_all(&self.http, found);
        for upgrade in &self.upgrades {
            if upgrade.http.iter().all(|filter| filter.policy.is_none()) {
                let kind = upgrade.node.text("upgrade_type").unwrap_or_default();
                let text = format!(
                    "`upgrade_configs` for `{kind}` have filters of their own, which ask for no decision"
                );
                found.add(Code::Bypass, &upgrade.node.path, text);
            }
            HttpFilter::examine_all(&upgrade.http, found);
        }
        if let Some((_, manager)) = self.node.any("typed_config")
            && manager.flag("normalize_path") != Some(true)
        {
            let text = "`normalize_path` is not true";
            found.add(Code::Normalization, &manager.path, text);
        }
    }
}

impl<'v> HttpFilter<'v> {
    /// The filters in the list `name` of `node`.
    fn list(node: &Node<'v>, name: &str, plugins: &[Plugin<'v>], authz: &[Authz<'v>]) -> Vec<Self> {
        let read = |filter: Node<'v>| Self {
            is_router: filter
                .kind("typed_config")
                .is_some_and(|kind| kind.ends_with("router.v3.Router")),
            policy: policy(&filter, plugins, authz),
            node: filter,
        };
        node.list(name).into_iter().map(read).collect()
    }

    /// Whether the policies in a list are asked.
    fn examine_all(list: &[Self], found: &mut Found) {
        let router = list.iter().position(|filter| filter.is_router);
        for (index, filter) in list.iter().enumerate() {
            if filter.policy.is_none() {
                continue;
            }
            if router.is_some_and(|router| router < index) {
                let text = "it stands behind the router";
                found.add(Code::AfterTerminal, &filter.node.path, text);
            }
            if filter.node.flag("disabled") == Some(true) {
                found.add(Code::Disabled, &filter.node.path, "`disabled` is true");
            }
        }
    }
}

/// The clusters that listeners with a policy lead to.
pub(super) fn guarded_clusters<'v>(listeners: &[Listener<'v>]) -> BTreeSet<&'v str> {
    let guarded = listeners.iter().filter(|listener| listener.has_policy());
    guarded.flat_map(Listener::clusters).collect()
}

/// Whether an address is of this machine alone.
fn is_here(address: &Node<'_>) -> bool {
    let host = address.field("socket_address");
    let host = host.and_then(|socket| socket.text("address")?.parse::<IpAddr>().ok());
    address.field("pipe").is_some() || host.is_some_and(|host| host.is_loopback())
}

/// The policy that a filter is, if it is one.
fn policy(filter: &Node<'_>, plugins: &[Plugin<'_>], authz: &[Authz<'_>]) -> Option<Policy> {
    let (_, config) = filter.any("typed_config")?;
    let plugin = config.field("config").and_then(|config| {
        plugins
            .iter()
            .find(|plugin| plugin.is_ours && plugin.path() == config.path)
    });
    match plugin {
        Some(plugin) => Some(Policy::Filter {
            verifies: plugin.verifies(),
        }),
        None => authz
            .iter()
            .any(|one| one.path() == config.path)
            .then_some(Policy::Authz),
    }
}

fn examine_resumption(tls: &Node<'_>, found: &mut Found) {
    for switch in [
        "disable_stateless_session_resumption",
        "disable_stateful_session_resumption",
    ] {
        if tls.flag(switch) != Some(true) {
            let text = format!("`{switch}` is not true");
            found.add(Code::Resumption, &tls.path, text);
        }
    }
    for keys in [
        "session_ticket_keys",
        "session_ticket_keys_sds_secret_config",
    ] {
        if let Some(keys) = tls.field(keys) {
            let text = "session ticket keys are given";
            found.add(Code::Resumption, &keys.path, text);
        }
    }
}

/// Validation contexts that stand in the file as secrets, by their names.
pub(super) struct Secrets<'v>(Vec<(&'v str, Node<'v>)>);

impl<'v> Secrets<'v> {
    pub(super) fn among(objects: &[Node<'v>]) -> Self {
        let read = |object: &Node<'v>| {
            let context = object.field("validation_context")?;
            Some((object.text("name")?, context))
        };
        Self(objects.iter().filter_map(read).collect())
    }

    /// Those of this name: a dump may have several.
    fn named(&self, name: &str) -> Vec<Node<'v>> {
        let named = self.0.iter().filter(|(other, _)| *other == name);
        named.map(|(_, context)| context.clone()).collect()
    }
}

/// What certificates are verified by.
struct Validation<'v> {
    /// The contexts in the file, also as secrets.
    contexts: Vec<Node<'v>>,
    /// Whether a secret is asked for that is not in the file.
    is_elsewhere: bool,
}

impl<'v> Validation<'v> {
    fn read(tls: &Node<'v>, secrets: &Secrets<'v>) -> Self {
        let at = |name: &str| {
            let common = tls.field("common_tls_context")?;
            common.field(name)
        };
        let combined = at("combined_validation_context");
        let combined = |name: &str| combined.as_ref()?.field(name);
        let fixed = [
            at("validation_context"),
            combined("default_validation_context"),
        ];
        let discovered = [
            at("validation_context_sds_secret_config"),
            combined("validation_context_sds_secret_config"),
        ];
        let mut contexts: Vec<Node<'v>> = fixed.into_iter().flatten().collect();
        let mut is_elsewhere = false;
        for secret in discovered.iter().flatten() {
            let named = secret.text("name").map(|name| secrets.named(name));
            let named = named.unwrap_or_default();
            is_elsewhere |= named.is_empty();
            contexts.extend(named);
        }
        Self {
            contexts,
            is_elsewhere,
        }
    }

    fn examine(&self, tls: &Node<'v>, by_filter: bool, found: &mut Found) {
        let Some(common) = tls.field("common_tls_context") else {
            found.add(
                Code::NoValidation,
                &tls.path,
                "`common_tls_context` is missing",
            );
            return;
        };
        let anchors = [
            "trusted_ca",
            "ca_certificate_provider_instance",
            "custom_validator_config",
            "system_root_certs",
        ];
        let is_anchored =
            |context: &Node<'_>| anchors.iter().any(|name| context.field(name).is_some());
        let verifies = self.is_elsewhere || self.contexts.iter().any(is_anchored);
        let asks = self.is_elsewhere || !self.contexts.is_empty();
        if !asks || !(verifies || by_filter) {
            found.add(
                Code::NoValidation,
                &common.path,
                "there are no roots to verify by",
            );
        }
        for context in &self.contexts {
            let verification = context.choice("trust_chain_verification", VERIFICATIONS);
            if verification == Some("ACCEPT_UNTRUSTED") && !by_filter {
                let text = "`trust_chain_verification` is ACCEPT_UNTRUSTED";
                found.add(Code::AcceptUntrusted, &context.path, text);
            }
            if context.flag("allow_expired_certificate") == Some(true) && !by_filter {
                let text = "`allow_expired_certificate` is true";
                found.add(Code::AcceptExpired, &context.path, text);
            }
        }
    }

    /// Roots that stand in the file, of one trust domain or of several.
    fn examine_roots(&self, found: &mut Found) {
        let roots = self.contexts.iter();
        for roots in roots.filter_map(|context| context.field("trusted_ca")) {
            let bytes = roots.text("inline_bytes");
            let bytes = bytes.and_then(|text| STANDARD.decode(text).ok());
            let bytes = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            let text = roots.text("inline_string").map(str::to_owned).or(bytes);
            if let Some(Err(several @ NoTrustDomain::Several { .. })) =
                text.map(|text| trust_domain_of(&[text]))
            {
                found.add(Code::PooledRoots, &roots.path, several.to_string());
            }
        }
    }
}

/// Routes that switch the policy off, wherever they stand.
pub(super) fn examine_routes(
    objects: &[Node<'_>],
    plugins: &[Plugin<'_>],
    authz: &[Authz<'_>],
    found: &mut Found,
) {
    let names: Vec<&str> = objects
        .iter()
        .filter(|object| policy(object, plugins, authz).is_some())
        .filter_map(|object| object.text("name"))
        .collect();
    for object in objects {
        for name in &names {
            let Some(per_route) = object.field("typed_per_filter_config") else {
                continue;
            };
            let Some((_, config)) = per_route.any(name) else {
                continue;
            };
            // In a `FilterConfig` the filter's own may stand.
            let own = config.any("config").map(|(_, own)| own);
            for config in [Some(config), own].into_iter().flatten() {
                if config.flag("disabled") == Some(true) {
                    let text = format!("`{name}` is disabled");
                    found.add(Code::Disabled, &config.path, text);
                }
            }
        }
    }
}
