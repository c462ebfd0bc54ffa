//! The Consul agent for Envoy's filter: the questions that it needs, with our token.
//!
//! The filter knows no token, and Envoy's configuration should hold none. What is asked is
//! read and written anew, so that only these questions about only this service ever reach
//! the agent.

mod keys;
mod peerings;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use portcullis_core::agent::{
    After, Consistency, HttpRequest, Query, authorize, config, matches, providers, roots,
};
use portcullis_core::intention::Destination;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tonic::body::Body;

use super::percent::decoded;
use crate::agent_client::AgentClient;
use crate::jwks::JwksSettings;

/// The largest question: `authorize` has three short fields.
const MAX_QUESTION: usize = 8 * 1024;

/// How long a question's body may take.
const BODY: Duration = Duration::from_secs(10);

/// How many key sets are fetched at once.
const FETCHES: usize = 8;

/// Questions to the agent about one service, answered with our token. Clones share it.
#[derive(Clone, Debug)]
pub struct Relay {
    agent: AgentClient,
    service: Arc<str>,
    destination: Option<Destination>,
    jwks: JwksSettings,
    fetches: Arc<Semaphore>,
}

/// A question that is answered.
#[derive(Debug)]
enum Question {
    /// By the agent.
    Agents(HttpRequest),
    /// By what the agent says about peerings and intentions.
    Peerings(Query),
    /// By whoever has the keys of this provider.
    Keys(String),
}

/// Why a question is not asked.
#[derive(Debug, PartialEq, Eq)]
struct Refused(StatusCode, String);

impl Relay {
    /// What may be asked, for people.
    pub const QUESTIONS: &'static str = "GET /v1/agent/connect/ca/roots, GET /v1/connect/intentions/match?by=destination&name=SERVICE, GET /v1/config/mesh/mesh, GET /v1/peerings (those that intentions of SERVICE name), GET /v1/config/jwt-provider, GET /v1/portcullis/jwks/PROVIDER, POST /v1/agent/connect/authorize with Target SERVICE";

    /// A relay to `agent` about `service`, which fetches keys of JWT providers from those whom
    /// `jwks` allows.
    #[must_use]
    pub fn new(agent: AgentClient, service: &str, jwks: JwksSettings) -> Self {
        Self {
            agent,
            service: service.into(),
            destination: Destination::parse(service).ok(),
            jwks,
            fetches: Arc::new(Semaphore::new(FETCHES)),
        }
    }

    /// Whether a request with this path is for a relay.
    pub(super) fn is_for(path: &str) -> bool {
        path.starts_with("/v1/")
    }

    /// Asks the agent, or says why not.
    pub(super) async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let body = tokio::time::timeout(BODY, Limited::new(body, MAX_QUESTION).collect()).await;
        let question = match body {
            Ok(Ok(body)) => self.question(
                &parts.method,
                &path,
                parts.uri.query().unwrap_or_default(),
                &body.to_bytes(),
            ),
            Ok(Err(_)) | Err(_) => Err(Refused(
                StatusCode::BAD_REQUEST,
                format!("the body does not come, or is larger than {MAX_QUESTION} bytes"),
            )),
        };
        let question = match question {
            Ok(question) => question,
            Err(Refused(status, text)) => {
                tracing::warn!(path, problem = text, "a question is not relayed");
                return plain(status, text);
            }
        };
        let answer = match question {
            Question::Agents(question) => {
                let asked = self.agent.execute(&question).await;
                asked.map_err(|error| error.to_string())
            }
            Question::Peerings(query) => self.peerings(&query).await,
            Question::Keys(provider) => return self.answer_keys(&provider).await,
        };
        match answer {
            Ok(reply) => {
                let mut response = Response::new(Body::new(Full::new(reply.body)));
                *response.status_mut() =
                    StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
                for (name, value) in &reply.headers {
                    if is_relayed(name) {
                        response.headers_mut().append(name.clone(), value.clone());
                    }
                }
                response
            }
            Err(error) => plain(StatusCode::BAD_GATEWAY, error),
        }
    }

    /// What this request stands for.
    fn question(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        body: &[u8],
    ) -> Result<Question, Refused> {
        if let ("GET", Some(provider)) = (method.as_str(), relayed_provider(path)) {
            return match query.is_empty() {
                true => Ok(Question::Keys(provider)),
                false => Err(bad("keys are asked for without a query")),
            };
        }
        let request = match (method.as_str(), path) {
            ("GET", "/v1/agent/connect/ca/roots") => {
                Ok(roots::request(&self.parameters(query, false)?.0))
            }
            ("GET", "/v1/connect/intentions/match") => {
                let (query, name) = self.parameters(query, true)?;
                matches::request(&[&name], &query).map_err(|error| bad(error.to_string()))
            }
            ("GET", "/v1/config/mesh/mesh") => {
                let (query, _) = self.parameters(query, false)?;
                config::get("mesh", "mesh", &query).map_err(|error| bad(error.to_string()))
            }
            ("GET", "/v1/peerings") => {
                let (query, _) = self.parameters(query, false)?;
                return Ok(Question::Peerings(query));
            }
            // All of them: the headers that their payload goes into are taken from whoever
            // comes, whichever provider a rule names.
            ("GET", "/v1/config/jwt-provider") => {
                let (query, _) = self.parameters(query, false)?;
                providers::request(&query).map_err(|error| bad(error.to_string()))
            }
            ("POST", "/v1/agent/connect/authorize") => self.authorize(query, body),
            _ => Err(Refused(
                StatusCode::FORBIDDEN,
                format!("this relay answers only {}", Self::QUESTIONS),
            )),
        };
        request.map(Question::Agents)
    }

    /// Query parameters, each known; `by` and `name` where they are wanted, for our service,
    /// with the name as it was written: the agent answers by it.
    fn parameters(&self, text: &str, about_service: bool) -> Result<(Query, String), Refused> {
        let mut query = Query::default();
        let (mut index, mut by, mut name) = (None, false, String::new());
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(&value.replace('+', " "))
                .ok_or_else(|| bad(format!("`{key}` cannot be read")))?;
            match key {
                "index" => {
                    let number = value.parse().map_err(|_| bad("`index` is no number"))?;
                    index = Some(number);
                }
                "wait" => {
                    query.wait_ms =
                        wait(&value).ok_or_else(|| bad("`wait` is no duration like `60s`"))?;
                }
                "dc" => query.datacenter = Some(value),
                "stale" => query.consistency = Consistency::Stale,
                "consistent" => query.consistency = Consistency::Consistent,
                "by" if about_service && value == "destination" => by = true,
                "name" if about_service && name.is_empty() && self.is_ours(&value) => name = value,
                "name" => {
                    return Err(Refused(
                        StatusCode::FORBIDDEN,
                        format!("this relay is for `{}` alone", self.service),
                    ));
                }
                _ => return Err(bad(format!("`{key}` is not relayed"))),
            }
        }
        if about_service && (!by || name.is_empty()) {
            let want = format!("ask with by=destination and name={}", self.service);
            return Err(bad(want));
        }
        query.after = index.map_or(After::Nothing, After::Index);
        Ok((query, name))
    }

    /// Whether a name, with or without its namespace, is that of our service.
    fn is_ours(&self, name: &str) -> bool {
        self.destination.is_some() && Destination::parse(name).ok() == self.destination
    }

    fn authorize(&self, query: &str, body: &[u8]) -> Result<HttpRequest, Refused> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase", deny_unknown_fields)]
        struct Asked {
            target: String,
            #[serde(rename = "ClientCertURI")]
            uri: String,
            #[serde(rename = "ClientCertSerial", default)]
            serial: String,
        }
        if !query.is_empty() {
            return Err(bad("`authorize` takes no query"));
        }
        let asked: Asked = serde_json::from_slice(body).map_err(|error| bad(error.to_string()))?;
        if !self.is_ours(&asked.target) {
            return Err(Refused(
                StatusCode::FORBIDDEN,
                format!("this relay is for `{}` alone", self.service),
            ));
        }
        authorize::request(&asked.target, &asked.uri, &asked.serial)
            .map_err(|error| bad(error.to_string()))
    }
}

/// The provider whose keys a path asks for.
fn relayed_provider(path: &str) -> Option<String> {
    let name = path
        .strip_prefix(providers::RELAYED_KEYS)?
        .strip_prefix('/')?;
    decoded(name).filter(|name| !name.is_empty() && !name.contains('/'))
}

fn bad(text: impl Into<String>) -> Refused {
    Refused(StatusCode::BAD_REQUEST, text.into())
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// Headers of the agent that a client of its API reads.
fn is_relayed(name: &HeaderName) -> bool {
    *name == header::CONTENT_TYPE
        || *name == header::RETRY_AFTER
        || *name == header::AGE
        || name.as_str().starts_with("x-consul-")
        || name == "x-cache"
}

/// `60s`, `5m`, `500ms` in milliseconds.
fn wait(text: &str) -> Option<u64> {
    let end = text.find(|digit: char| !digit.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_client::AgentConfig;

    fn relay() -> Relay {
        let config = AgentConfig::at("http://127.0.0.1:1").unwrap();
        Relay::new(
            AgentClient::new(config).unwrap(),
            "db",
            JwksSettings::default(),
        )
    }

    fn asked(method: Method, target: &str, body: &str) -> Result<String, StatusCode> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        relay()
            .question(&method, path, query, body.as_bytes())
            .map(|question| match question {
                Question::Agents(request) => {
                    format!("{} {}", request.method.as_str(), request.path_and_query)
                }
                Question::Peerings(query) => format!("peerings after {:?}", query.after),
                Question::Keys(provider) => format!("keys {provider}"),
            })
            .map_err(|Refused(status, _)| status)
    }

    #[test]
    fn what_the_filter_needs_is_asked_in_our_words() {
        for (target, becomes) in [
            (
                "/v1/agent/connect/ca/roots?index=7&wait=60s",
                "GET /v1/agent/connect/ca/roots?index=7&wait=60000ms",
            ),
            (
                "/v1/connect/intentions/match?by=destination&name=db&index=7&wait=5m&dc=dc2",
                "GET /v1/connect/intentions/match?by=destination&name=db&index=7&wait=300000ms&dc=dc2",
            ),
            (
                "/v1/connect/intentions/match?name=%64b&by=destination",
                "GET /v1/connect/intentions/match?by=destination&name=db",
            ),
            (
                "/v1/connect/intentions/match?by=destination&name=default/db",
                "GET /v1/connect/intentions/match?by=destination&name=default%2Fdb",
            ),
            ("/v1/config/mesh/mesh", "GET /v1/config/mesh/mesh"),
            ("/v1/peerings", "peerings after Nothing"),
            ("/v1/peerings?index=7&wait=60s", "peerings after Index(7)"),
            (
                "/v1/config/jwt-provider?index=7&wait=60s",
                "GET /v1/config/jwt-provider?index=7&wait=60000ms",
            ),
            ("/v1/portcullis/jwks/okta%20b", "keys okta b"),
        ] {
            assert_eq!(asked(Method::GET, target, ""), Ok(becomes.to_owned()));
        }
        let body = r#"{"Target":"db","ClientCertURI":"spiffe://td/ns/default/dc/dc1/svc/web","ClientCertSerial":""}"#;
        assert!(asked(Method::POST, "/v1/agent/connect/authorize", body).is_ok());
    }

    #[test]
    fn nothing_else_is_asked() {
        for (method, target) in [
            (Method::GET, "/v1/agent/connect/ca/leaf/db"),
            (Method::GET, "/v1/kv/secret"),
            (Method::GET, "/v1/portcullis/jwks/"),
            (Method::GET, "/v1/portcullis/jwks/a/b"),
            (Method::GET, "/v1/portcullis/jwks/a%2Fb"),
            (Method::GET, "/v1/portcullis/jwks/%ff"),
            (Method::PUT, "/v1/portcullis/jwks/a"),
            (Method::GET, "/v1/config/jwt-provider/a"),
            (Method::GET, "/v1/agent/connect/ca/roots/../leaf/db"),
            (Method::GET, "/v1/agent/connect/ca/roots/"),
            (Method::PUT, "/v1/agent/connect/ca/roots"),
            (Method::POST, "/v1/peerings"),
            (Method::GET, "/v1/peerings/"),
            (Method::GET, "/v1/peering/beta"),
            (Method::POST, "/v1/peering/token"),
            (
                Method::GET,
                "/v1/connect/intentions/match?by=destination&name=api",
            ),
            (
                Method::GET,
                "/v1/connect/intentions/match?by=destination&name=db&name=api",
            ),
            (
                Method::GET,
                "/v1/connect/intentions/match?by=destination&name=db&name=db",
            ),
        ] {
            let refused = asked(method, target, "");
            assert_eq!(refused, Err(StatusCode::FORBIDDEN), "{target}");
        }
        for target in [
            "/v1/connect/intentions/match?by=source&name=db",
            "/v1/connect/intentions/match?by=destination",
            "/v1/agent/connect/ca/roots?token=x",
            "/v1/connect/intentions/match?by=destination&name=db&ns=other",
            "/v1/connect/intentions/match?by=destination&name=db&partition=other",
            "/v1/agent/connect/ca/roots?index=x",
            "/v1/agent/connect/ca/roots?wait=60",
            "/v1/agent/connect/ca/roots?dc=%ff",
            "/v1/agent/connect/ca/roots?dc=%4",
            "/v1/config/mesh/mesh?name",
            "/v1/portcullis/jwks/a?uri=b",
        ] {
            assert!(asked(Method::GET, target, "").is_err(), "{target}");
        }
        for body in [
            r#"{"Target":"api","ClientCertURI":"x"}"#,
            r#"{"Target":"db"}"#,
            r#"{"Target":"db","ClientCertURI":"x","Namespace":"y"}"#,
            "",
        ] {
            let refused = asked(Method::POST, "/v1/agent/connect/authorize", body);
            assert!(refused.is_err(), "{body}");
        }
    }
}
