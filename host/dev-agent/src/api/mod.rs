//! The endpoints: which handler answers a path, and with which methods.

mod agent;
mod authorize;
mod ca;
mod catalog;
mod checks;
mod config;
mod intentions;
mod leaf;
pub(crate) mod peerings;
mod services;

use http::{Method, StatusCode};

use crate::core::Core;
use crate::http::options::{self, Options};
use crate::http::reply::{DEFAULT_ACL, Outcome, Reply};
use crate::http::{Request, unescape};

/// What a path stands for; the text is what follows the prefix, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Endpoint {
    Leaf(String),
    AgentRoots,
    Authorize,
    ConnectRoots,
    CaConfiguration,
    Intentions,
    IntentionMatch,
    IntentionCheck,
    IntentionExact,
    IntentionById(String),
    ConfigPut,
    Config(String),
    AgentSelf,
    AgentServices,
    AgentService(String),
    AgentChecks,
    RegisterService,
    DeregisterService(String),
    RegisterCheck,
    DeregisterCheck(String),
    ReportCheck(&'static str, String),
    HealthService(String),
    HealthConnect(String),
    CatalogConnect(String),
    CatalogService(String),
    CatalogServices,
    CatalogNodes,
    CatalogDatacenters,
    StatusLeader,
    StatusPeers,
    Peerings,
    Peering(String),
}

const GET: &[&str] = &["GET"];
const PUT: &[&str] = &["PUT"];

/// Finds the endpoint of a path and its methods.
fn route(path: &str) -> Option<(Endpoint, &'static [&'static str])> {
    use Endpoint as E;
    let path = path.strip_prefix("/v1/")?;
    let plain = match path {
        "agent/connect/ca/roots" => Some((E::AgentRoots, GET)),
        "agent/connect/authorize" => Some((E::Authorize, &["POST"][..])),
        "connect/ca/roots" => Some((E::ConnectRoots, GET)),
        "connect/ca/configuration" => Some((E::CaConfiguration, &["GET", "PUT"][..])),
        "connect/intentions" => Some((E::Intentions, &["GET", "POST"][..])),
        "connect/intentions/match" => Some((E::IntentionMatch, GET)),
        "connect/intentions/check" => Some((E::IntentionCheck, GET)),
        "connect/intentions/exact" => Some((E::IntentionExact, &["GET", "PUT", "DELETE"][..])),
        "config" => Some((E::ConfigPut, PUT)),
        "agent/self" => Some((E::AgentSelf, GET)),
        "agent/services" => Some((E::AgentServices, GET)),
        "agent/checks" => Some((E::AgentChecks, GET)),
        "agent/service/register" => Some((E::RegisterService, PUT)),
        "agent/check/register" => Some((E::RegisterCheck, PUT)),
        "catalog/services" => Some((E::CatalogServices, GET)),
        "catalog/nodes" => Some((E::CatalogNodes, GET)),
        "catalog/datacenters" => Some((E::CatalogDatacenters, GET)),
        "status/leader" => Some((E::StatusLeader, GET)),
        "status/peers" => Some((E::StatusPeers, GET)),
        "peerings" => Some((E::Peerings, GET)),
        _ => None,
    };
    if plain.is_some() {
        return plain;
    }
    let rest = |prefix: &str| path.strip_prefix(prefix).and_then(unescape);
    let found = if let Some(name) = rest("agent/connect/ca/leaf/") {
        (E::Leaf(name), GET)
    } else if let Some(id) = rest("connect/intentions/") {
        (E::IntentionById(id), &["GET", "PUT", "DELETE"][..])
    } else if let Some(rest) = rest("config/") {
        (E::Config(rest), &["GET", "DELETE"][..])
    } else if let Some(id) = rest("agent/service/deregister/") {
        (E::DeregisterService(id), PUT)
    } else if let Some(id) = rest("agent/service/") {
        (E::AgentService(id), GET)
    } else if let Some(id) = rest("agent/check/deregister/") {
        (E::DeregisterCheck(id), PUT)
    } else if let Some(id) = rest("agent/check/pass/") {
        (E::ReportCheck("passing", id), PUT)
    } else if let Some(id) = rest("agent/check/warn/") {
        (E::ReportCheck("warning", id), PUT)
    } else if let Some(id) = rest("agent/check/fail/") {
        (E::ReportCheck("critical", id), PUT)
    } else if let Some(id) = rest("agent/check/update/") {
        (E::ReportCheck("", id), PUT)
    } else if let Some(name) = rest("health/service/") {
        (E::HealthService(name), GET)
    } else if let Some(name) = rest("health/connect/") {
        (E::HealthConnect(name), GET)
    } else if let Some(name) = rest("catalog/connect/") {
        (E::CatalogConnect(name), GET)
    } else if let Some(name) = rest("peering/") {
        (E::Peering(name), GET)
    } else if let Some(name) = rest("catalog/service/") {
        (E::CatalogService(name), GET)
    } else {
        return None;
    };
    Some(found)
}

impl Core {
    /// Answers a request.
    pub(crate) async fn answer(&self, request: Request) -> Reply {
        let Some((endpoint, methods)) = route(&request.path) else {
            return Reply::not_found("Invalid URL path: not a recognized HTTP API endpoint\n");
        };
        let allow = format!("OPTIONS,{}", methods.join(","));
        let mut reply = if request.method == Method::OPTIONS {
            Reply::empty().allow(&allow)
        } else if !methods.contains(&request.method.as_str()) {
            let text = format!("method {} not allowed", request.method);
            Reply::error(StatusCode::METHOD_NOT_ALLOWED, text).allow(&allow)
        } else {
            match self.dispatch(&request, endpoint).await {
                Ok(reply) | Err(reply) => reply,
            }
        };
        reply.set(http::header::VARY, "Accept-Encoding");
        reply.set(DEFAULT_ACL, self.acl.default_policy().as_str());
        reply
    }

    async fn dispatch(&self, request: &Request, endpoint: Endpoint) -> Outcome {
        use Endpoint as E;
        // A write without a body of its own still has these options checked.
        match endpoint {
            // These do not look for them.
            E::AgentRoots | E::ConnectRoots | E::CaConfiguration | E::AgentSelf => {}
            E::StatusLeader | E::StatusPeers => {}
            E::CatalogNodes | E::Peerings | E::Peering(_) => options::no_partition(request)?,
            _ => {
                options::no_namespace(request)?;
                options::no_partition(request)?;
            }
        }
        let lists = matches!(
            endpoint,
            E::Intentions
                | E::Config(_)
                | E::AgentServices
                | E::AgentChecks
                | E::HealthService(_)
                | E::HealthConnect(_)
                | E::CatalogService(_)
                | E::CatalogConnect(_)
                | E::CatalogServices
                | E::CatalogNodes
        );
        if lists {
            no_filter(request)?;
        }
        let options = Options::parse(request, &self.config.datacenter)?;
        match endpoint {
            E::Leaf(name) => self.leaf(&options, &name).await,
            E::AgentRoots => self.agent_roots(&options).await,
            E::ConnectRoots => self.connect_roots(request, &options).await,
            E::CaConfiguration if request.method == Method::GET => self.ca_config(&options),
            E::CaConfiguration => self.set_ca_config(request, &options).await,
            E::Authorize => self.authorize(request, &options),
            E::Intentions if request.method == Method::GET => self.intention_list(&options).await,
            E::Intentions => self.intention_create(request, &options),
            E::IntentionMatch => self.intention_match(request, &options).await,
            E::IntentionCheck => self.intention_check(request, &options),
            E::IntentionExact => self.intention_exact(request, &options),
            E::IntentionById(id) => intentions::by_id(&id),
            E::ConfigPut => self.config_put(request, &options),
            E::Config(rest) => self.config(request, &options, &rest).await,
            E::AgentSelf => self.agent_self(&options),
            E::AgentServices => self.agent_services(&options),
            E::AgentService(id) => self.agent_service(request, &options, &id).await,
            E::AgentChecks => self.agent_checks(&options),
            E::RegisterService => self.register_service(request, &options),
            E::DeregisterService(id) => self.deregister_service(&options, &id),
            E::RegisterCheck => self.register_check(request, &options),
            E::DeregisterCheck(id) => self.deregister_check(&options, &id),
            E::ReportCheck(status, id) => self.report_check(request, &options, status, &id),
            E::HealthService(name) => self.health(request, &options, &name, false).await,
            E::HealthConnect(name) => self.health(request, &options, &name, true).await,
            E::CatalogService(name) => self.catalog(&options, &name, false).await,
            E::CatalogConnect(name) => self.catalog(&options, &name, true).await,
            E::CatalogServices => self.catalog_services(&options).await,
            E::CatalogNodes => self.catalog_nodes(&options),
            E::CatalogDatacenters => Ok(Reply::json(serde_json::json!([self.config.datacenter]))),
            E::StatusLeader => Ok(Reply::json(serde_json::json!(self.leader()))),
            E::Peerings => self.peerings(&options).await,
            E::Peering(name) => self.peering(&options, &name).await,
            E::StatusPeers => Ok(Reply::json(serde_json::json!([self.leader()]))),
        }
    }
}

/// Evaluates `?filter=`, which this agent does not.
///
/// # Errors
/// 501 when one was given: leaving it out of account would answer too much.
fn no_filter(request: &Request) -> Result<(), Reply> {
    match request.param("filter").filter(|text| !text.is_empty()) {
        None => Ok(()),
        Some(_) => Err(Reply::error(
            StatusCode::NOT_IMPLEMENTED,
            "filter expressions are not part of this development agent",
        )),
    }
}
