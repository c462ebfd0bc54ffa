//! Intentions: match, check, exact, list, and the legacy ones by ID.

use http::Method;
use serde_json::{Map, Value, json};

use crate::acl::Authorizer;
use crate::config::DefaultPolicy;
use crate::core::{Core, Keep};
use crate::entry::intentions::{Side, Verdict};
use crate::entry::precedence::text;
use crate::http::options::Options;
use crate::http::reply::{CONSISTENCY, FILTERED, Outcome, Reply};
use crate::http::{Request, json};

/// A name in a query parameter: `svc`, `ns/svc`, `partition/ns/svc`, `peer:p/svc`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    peer: String,
    partition: String,
    namespace: String,
    name: String,
}

impl Name {
    fn parse(param: &str, text: &str, peer_allowed: bool) -> Result<Self, Reply> {
        let invalid =
            |reason: &str| Reply::server_error(format!("{param} {text:?} is invalid: {reason}"));
        let (peer, rest) = match text.strip_prefix("peer:") {
            None => (String::new(), text),
            Some(_) if !peer_allowed => return Err(invalid("cannot specify a peer here")),
            Some(rest) => {
                let (peer, rest) = rest.split_once('/').unwrap_or((rest, ""));
                (peer.to_owned(), rest)
            }
        };
        let parts: Vec<&str> = rest.split('/').collect();
        let (partition, namespace, name) = match parts.as_slice() {
            [name] => ("default", "default", *name),
            [namespace, name] => ("default", *namespace, *name),
            [partition, namespace, name] => (*partition, *namespace, *name),
            _ => return Err(invalid("input can contain at most two '/'")),
        };
        Ok(Self {
            peer,
            partition: partition.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Refuses what only the Enterprise edition has.
    fn community(&self, what: &str) -> Result<(), Reply> {
        let refuse = |kind: &str, value: &str, feature: &str| {
            Err(Reply::server_error(format!(
                "Invalid {what} {kind} {value:?}: {feature} is a Consul Enterprise feature"
            )))
        };
        if !matches!(self.namespace.as_str(), "default" | "") {
            return refuse("namespace", &self.namespace, "Namespaces");
        }
        if !matches!(self.partition.as_str(), "default" | "") {
            return refuse("partition", &self.partition, "Partitions");
        }
        Ok(())
    }
}

fn required<'a>(request: &'a Request, name: &str) -> Result<&'a str, Reply> {
    request
        .param(name)
        .ok_or_else(|| Reply::server_error(format!("required query parameter '{name}' not set")))
}

fn can_read(token: &Authorizer, intention: &Map<String, Value>) -> bool {
    ["SourceName", "DestinationName"]
        .iter()
        .any(|side| token.intention_read(text(intention, side)))
}

/// Intentions with IDs were never made here.
pub(super) fn by_id(id: &str) -> Outcome {
    if id.len() != 36 {
        let text = "failed config entry lookup: index error: UUID must be 36 characters";
        return Err(Reply::bad_request(text));
    }
    Err(Reply::not_found("Intention not found"))
}

impl Core {
    /// `GET /v1/connect/intentions/match`.
    pub(super) async fn intention_match(&self, request: &Request, options: &Options) -> Outcome {
        let side = match required(request, "by")? {
            "source" => Side::Source,
            "destination" => Side::Destination,
            _ => {
                let text = "'by' parameter must be one of 'source' or 'destination'";
                return Err(Reply::server_error(text));
            }
        };
        required(request, "name")?;
        let mut names = Vec::new();
        for text in request.params("name") {
            let name = Name::parse("name", text, false)?;
            names.push((text.to_owned(), name));
        }
        let token = self.acl.resolve_at_server(&options.token)?;
        for (_, name) in &names {
            name.community("match entry").map_err(Reply::failed_query)?;
            token
                .need_intention_read(&name.name)
                .map_err(Reply::failed_query)?;
        }
        let (index, body) = self
            .blocking(options, |state| {
                let mut body = Map::new();
                for (text, name) in &names {
                    let found = state.entries.matching(side, &name.name);
                    let value = if found.is_empty() {
                        Value::Null
                    } else {
                        json!(found)
                    };
                    body.insert(text.clone(), value);
                }
                (state.entries.index.max(1), body)
            })
            .await;
        Ok(Reply::json(Value::Object(body))
            .query_meta(index)
            .with(CONSISTENCY, options.consistency.as_str()))
    }

    /// `GET /v1/connect/intentions/check`.
    pub(super) fn intention_check(&self, request: &Request, options: &Options) -> Outcome {
        let source = Name::parse("source", required(request, "source")?, false)?;
        let destination = Name::parse("destination", required(request, "destination")?, false)?;
        if let Some(kind) = request
            .param("source-type")
            .filter(|kind| *kind != "consul")
        {
            return Err(Reply::server_error(format!(
                "unsupported SourceType: {kind:?}"
            )));
        }
        source.community("source")?;
        destination.community("destination")?;
        self.acl
            .resolve(&options.token)?
            .need_service_read(&destination.name)?;
        let verdict = self.read(|state| {
            state
                .entries
                .judge("default", &source.name, &destination.name)
        });
        let allowed = match verdict {
            Verdict::Intention { allowed, .. } => allowed,
            Verdict::Default => self.default_for_intentions() == DefaultPolicy::Allow,
        };
        Ok(Reply::json(json!({"Allowed": allowed})))
    }

    /// What a connection gets that no intention names.
    pub(crate) fn default_for_intentions(&self) -> DefaultPolicy {
        self.config
            .default_intention_policy
            .unwrap_or(self.acl.default_policy())
    }

    /// `GET /v1/connect/intentions`.
    pub(super) async fn intention_list(&self, options: &Options) -> Outcome {
        let token = self.acl.resolve_at_server(&options.token)?;
        let (index, (list, filtered)) = self
            .blocking(options, |state| {
                let all = state.entries.intentions();
                let count = all.len();
                let readable: Vec<_> = all
                    .into_iter()
                    .filter(|intention| can_read(&token, intention))
                    .collect();
                let filtered = readable.len() != count;
                (state.entries.index.max(1), (readable, filtered))
            })
            .await;
        let reply = Reply::json(json!(list)).query_meta(index);
        let tell = filtered && !token.is_anonymous();
        Ok(if tell {
            reply.with(FILTERED, "true")
        } else {
            reply
        })
    }

    /// `POST /v1/connect/intentions`, as `consul intention create` sends it: the
    /// answer has an ID, as before 1.9, but the intention is kept without one.
    pub(super) fn intention_create(&self, request: &Request, options: &Options) -> Outcome {
        let refuse =
            |error: String| Reply::server_error(format!("Failed to decode request body: {error}"));
        let body = json::parse(&request.body).map_err(refuse)?;
        let fields = crate::entry::decode_intention(&body).map_err(refuse)?;
        let name = |side: &str| Name {
            peer: String::new(),
            partition: text(&fields, &format!("{side}Partition")).to_owned(),
            namespace: text(&fields, &format!("{side}NS")).to_owned(),
            name: text(&fields, &format!("{side}Name")).to_owned(),
        };
        let (source, destination) = (name("Source"), name("Destination"));
        source.community("source")?;
        destination.community("destination")?;
        let token = self.acl.resolve(&options.token)?;
        if destination.name.is_empty() || !token.intention_write(&destination.name) {
            return Err(Reply::forbidden("Permission denied"));
        }
        if fields.contains_key("Meta") || fields.contains_key("Permissions") {
            return Err(Reply::server_error(
                "an intention with Meta or Permissions is written by PUT /v1/config",
            ));
        }
        let (source, destination) = (source.name, destination.name);
        let source_fields = source_of(&fields);
        self.write(Keep::OnDisk, |state, index| {
            if state.entries.exact("", &source, &destination).is_some() {
                let all = state.entries.matching(Side::Destination, &destination);
                let own = all
                    .iter()
                    .filter(|one| text(one, "DestinationName") == destination);
                let position = own.count();
                return Err(Reply::server_error(format!(
                    "Sources[{position}] defines {source:?} more than once"
                )));
            }
            let put = state
                .entries
                .put_intention(&source, &destination, source_fields, index);
            put.map_err(Reply::server_error)?;
            let id = uuid::Uuid::new_v4().to_string();
            Ok((Reply::json(json!({"ID": id})), true))
        })
    }

    /// `/v1/connect/intentions/exact`.
    pub(super) fn intention_exact(&self, request: &Request, options: &Options) -> Outcome {
        let reading = request.method == Method::GET;
        let source = Name::parse("source", required(request, "source")?, reading)?;
        let destination = Name::parse("destination", required(request, "destination")?, false)?;
        let token = self.acl.resolve(&options.token)?;
        let denied = || Reply::forbidden("Permission denied");
        if reading {
            source.community("source")?;
            destination.community("destination")?;
            let found = self.read(|state| {
                state
                    .entries
                    .exact(&source.peer, &source.name, &destination.name)
            });
            let found = found.ok_or_else(|| Reply::not_found("Intention not found"))?;
            if !can_read(&token, &found) {
                return Err(denied());
            }
            return Ok(Reply::json(Value::Object(found)));
        }
        let mut fields = Map::new();
        if request.method == Method::PUT {
            let refuse =
                |error: String| Reply::bad_request(format!("Request decode failed: {error}"));
            let body = json::parse(&request.body).map_err(refuse)?;
            fields = crate::entry::decode_intention(&body).map_err(refuse)?;
        }
        source.community("source")?;
        destination.community("destination")?;
        if !token.intention_write(&destination.name) {
            return Err(denied());
        }
        if request.method == Method::DELETE {
            return self.write(Keep::OnDisk, |state, index| {
                let gone = state
                    .entries
                    .delete_intention(&source.name, &destination.name, index);
                let gone = gone.map_err(Reply::server_error)?;
                Ok((Reply::json(json!(true)), gone))
            });
        }
        let source_fields = source_of(&fields);
        self.write(Keep::OnDisk, |state, index| {
            let known = state.entries.get("service-intentions", &destination.name);
            let known_meta = known.and_then(|entry| entry.fields.get("Meta"));
            if fields
                .get("Meta")
                .is_some_and(|meta| Some(meta) != known_meta)
            {
                return Err(Reply::server_error(match known {
                    Some(_) => {
                        "Meta must not be specified, or should be unchanged during an update."
                    }
                    None => "Meta must not be specified",
                }));
            }
            let before = state.entries.index;
            state
                .entries
                .put_intention(&source.name, &destination.name, source_fields, index)
                .map_err(Reply::server_error)?;
            Ok((Reply::json(json!(true)), state.entries.index != before))
        })
    }
}

/// The part of an intention that is kept with its source.
fn source_of(intention: &Map<String, Value>) -> Map<String, Value> {
    let pairs = [
        ("SourceType", "Type"),
        ("Action", "Action"),
        ("Permissions", "Permissions"),
        ("Description", "Description"),
    ];
    pairs
        .iter()
        .filter_map(|(from, to)| Some(((*to).to_owned(), intention.get(*from)?.clone())))
        .collect()
}
