//! `/v1/config`: configuration entries.

use http::Method;
use serde_json::{Map, Value, json};

use crate::acl::Authorizer;
use crate::core::{Core, Keep};
use crate::entry::{Entry, KINDS, OTHER_KINDS, decode};
use crate::http::options::Options;
use crate::http::reply::{FILTERED, Outcome, Reply};
use crate::http::{Request, json};

/// Whether a token may see an entry.
fn readable(token: &Authorizer, kind: &str, name: &str) -> Result<(), Reply> {
    match kind {
        "service-intentions" => token.need_intention_read(name),
        "service-defaults" => token.need_service_read(name),
        "jwt-provider" if !token.mesh_read() && !token.any_service_write() => {
            Err(token.denied("mesh:read", None))
        }
        _ => Ok(()),
    }
}

fn writable(token: &Authorizer, kind: &str, name: &str) -> Result<(), Reply> {
    match kind {
        "service-intentions" => token.need_intention_write(name),
        "service-defaults" => token.need_service_write(name),
        _ => token.need_mesh_write(),
    }
}

fn known_kind(kind: &str) -> Result<(), Reply> {
    if KINDS.contains(&kind) || OTHER_KINDS.contains(&kind) {
        return Ok(());
    }
    Err(Reply::server_error(format!(
        "invalid config entry kind: {kind}"
    )))
}

impl Core {
    /// `PUT /v1/config[?cas=]`.
    pub(super) fn config_put(&self, request: &Request, options: &Options) -> Outcome {
        let refuse =
            |error: String| Reply::bad_request(format!("Request decoding failed: {error}"));
        let token = self.acl.resolve(&options.token)?;
        let body = json::parse(&request.body).map_err(refuse)?;
        let (kind, fields) = decode(&body).map_err(refuse)?;
        let name = fields
            .get("Name")
            .and_then(Value::as_str)
            .unwrap_or(kind)
            .to_owned();
        let cas = match request.param("cas") {
            None => None,
            Some(text) => {
                let bad = || {
                    Reply::server_error(format!(
                        "strconv.ParseUint: parsing {text:?}: invalid syntax"
                    ))
                };
                Some(text.parse::<u64>().map_err(|_| bad())?)
            }
        };
        // The entry by itself is checked before the token is, what it means to
        // others after.
        crate::entry::check(kind, &fields).map_err(Reply::server_error)?;
        writable(&token, kind, &name)?;
        self.write(Keep::OnDisk, |state, index| {
            let before = state
                .entries
                .get(kind, &name)
                .map_or(0, |known| known.modify_index);
            let changed = state
                .entries
                .put(kind, fields, index)
                .map_err(Reply::server_error)?;
            if changed && cas.is_some_and(|cas| cas != before) {
                return Ok((Reply::json(json!(false)), false));
            }
            Ok((Reply::json(json!(true)), changed))
        })
    }

    /// `GET` and `DELETE /v1/config/:kind[/:name]`.
    pub(super) async fn config(&self, request: &Request, options: &Options, rest: &str) -> Outcome {
        let (kind, name) = rest.split_once('/').unwrap_or((rest, ""));
        let token = self.acl.resolve(&options.token)?;
        if request.method == Method::DELETE {
            if name.is_empty() {
                return Err(Reply::not_found(
                    "Must provide both a kind and name to delete",
                ));
            }
            known_kind(kind).map_err(|mut refusal| {
                refusal.status = http::StatusCode::BAD_REQUEST;
                refusal
            })?;
            if kind == "proxy-defaults" && name != "global" {
                let text = format!("invalid name ({name:?}), only \"global\" is supported");
                return Err(Reply::server_error(text));
            }
            writable(&token, kind, name)?;
            return self.write(Keep::OnDisk, |state, index| {
                let gone = state
                    .entries
                    .delete(kind, name, index)
                    .map_err(Reply::server_error)?;
                Ok((Reply::json(json!({})), gone))
            });
        }
        if name.is_empty() {
            return self.config_list(options, kind, &token).await;
        }
        known_kind(kind)?;
        readable(&token, kind, name)?;
        let (index, found) = self
            .blocking(options, |state| {
                (
                    state.entries.index.max(1),
                    state.entries.get(kind, name).map(Entry::json),
                )
            })
            .await;
        let found = found.ok_or_else(|| {
            Reply::not_found(format!("Config entry not found for {kind:?} / {name:?}"))
                .query_meta(index)
        })?;
        Ok(Reply::json(found).query_meta(index))
    }

    async fn config_list(&self, options: &Options, kind: &str, token: &Authorizer) -> Outcome {
        if !kind.is_empty() {
            known_kind(kind)?;
        }
        let (index, (list, filtered)) = self
            .blocking(options, |state| {
                let all: Vec<&Entry> = match kind {
                    "" => state.entries.all().collect(),
                    kind => state.entries.of_kind(kind).collect(),
                };
                let shown: Vec<Value> = all
                    .iter()
                    .filter(|entry| readable(token, &entry.kind, &entry.name).is_ok())
                    .map(|entry| entry.json())
                    .collect();
                let filtered = shown.len() != all.len();
                (state.entries.index.max(1), (shown, filtered))
            })
            .await;
        let reply = Reply::json(Value::Array(list)).query_meta(index);
        Ok(if filtered && !token.is_anonymous() {
            reply.with(FILTERED, "true")
        } else {
            reply
        })
    }

    /// Writes an entry from inside the process, checked as from outside.
    pub(crate) fn put_entry(&self, body: &Value) -> Result<(), Reply> {
        let (kind, fields): (&str, Map<String, Value>) =
            decode(body).map_err(Reply::bad_request)?;
        self.write(Keep::OnDisk, |state, index| {
            let changed = state
                .entries
                .put(kind, fields, index)
                .map_err(Reply::server_error)?;
            Ok(((), changed))
        })
    }
}
