//! Health and catalog: instances of a service, and lists.

use serde_json::{Map, Value, json};

use crate::catalog::{Service, Status};
use crate::core::{Core, State};
use crate::http::Request;
use crate::http::options::Options;
use crate::http::reply::{BACKEND, CONSISTENCY, FILTERED, KNOWN_LEADER, Outcome, Reply, X_CACHE};

impl Core {
    /// `/v1/health/service/:name` and `/v1/health/connect/:name`.
    pub(super) async fn health(
        &self,
        request: &Request,
        options: &Options,
        name: &str,
        in_mesh: bool,
    ) -> Outcome {
        if name.is_empty() {
            return Err(Reply::bad_request("Missing service name"));
        }
        let passing = match request.param("passing") {
            None => false,
            Some("") => true,
            Some(text) => super::ca::boolean(text)
                .ok_or_else(|| Reply::bad_request("Invalid value for ?passing"))?,
        };
        let token = self.acl.resolve(&options.token)?;
        if in_mesh && !token.service_read(name) {
            return Err(Reply::forbidden("Permission denied"));
        }
        let peer = request.param("peer").is_some_and(|peer| !peer.is_empty());
        let tags: Vec<&str> = request.params("tag").collect();
        let sees_node = token.node_read(&self.node.name);
        let read = |state: &State| {
            let fits = |service: &&Service| {
                !peer
                    && tags
                        .iter()
                        .all(|tag| service.tags.iter().any(|own| own.eq_ignore_ascii_case(tag)))
                    && !(passing && state.catalog.status_of(service) != Status::Passing)
            };
            let all: Vec<_> = instances(state, name, in_mesh)
                .into_iter()
                .filter(fits)
                .collect();
            let visible = |service: &&&Service| sees_node && token.service_read(&service.name);
            let found = all.iter().filter(visible);
            let found: Vec<Value> = found
                .map(|service| state.catalog.health_json(service, &self.node))
                .collect();
            let filtered = found.len() != all.len();
            (index_of(state, name, in_mesh), (found, filtered))
        };
        let (index, (found, filtered)) = self.blocking(options, read).await;
        let streaming = options.cached || options.index != 0;
        let reply = Reply::json(Value::Array(found)).query_meta(index);
        let reply = finish(reply, options, filtered && !token.is_anonymous());
        Ok(if streaming {
            let reply = reply.with(BACKEND, "streaming").with(KNOWN_LEADER, "false");
            if options.cached {
                reply.with(X_CACHE, "MISS")
            } else {
                reply
            }
        } else {
            reply
        })
    }

    /// `/v1/catalog/service/:name` and `/v1/catalog/connect/:name`.
    pub(super) async fn catalog(&self, options: &Options, name: &str, in_mesh: bool) -> Outcome {
        if name.is_empty() {
            return Err(Reply::bad_request("Missing service name"));
        }
        let token = self.acl.resolve_at_server(&options.token)?;
        if in_mesh && !token.service_read(name) {
            let reply = Reply::json(json!([])).failed_query();
            return Ok(finish(reply, options, false));
        }
        let read = |state: &State| {
            let all = instances(state, name, in_mesh);
            let found: Vec<Value> = all
                .iter()
                .filter(|service| {
                    token.service_read(&service.name) && token.node_read(&self.node.name)
                })
                .map(|service| state.catalog.catalog_json(service, &self.node))
                .collect();
            let filtered = found.len() != all.len();
            (index_of(state, name, in_mesh), (found, filtered))
        };
        let (index, (found, filtered)) = self.blocking(options, read).await;
        let reply = Reply::json(Value::Array(found)).query_meta(index);
        Ok(finish(reply, options, filtered && !token.is_anonymous()))
    }

    /// `/v1/catalog/services`.
    pub(super) async fn catalog_services(&self, options: &Options) -> Outcome {
        let token = self.acl.resolve_at_server(&options.token)?;
        let read = |state: &State| {
            let mut names: Map<String, Value> = Map::new();
            let mut filtered = false;
            if token.service_read("consul") && token.node_read(&self.node.name) {
                names.insert("consul".to_owned(), json!([]));
            }
            for service in state.catalog.services.values() {
                if !token.service_read(&service.name) || !token.node_read(&self.node.name) {
                    filtered = true;
                    continue;
                }
                let tags = names
                    .entry(service.name.clone())
                    .or_insert_with(|| json!([]));
                for tag in service.tags.iter().map(|tag| json!(tag)) {
                    if let Some(tags) = tags.as_array_mut().filter(|tags| !tags.contains(&tag)) {
                        tags.push(tag);
                    }
                }
            }
            (state.catalog.index.max(1), (names, filtered))
        };
        let (index, (names, filtered)) = self.blocking(options, read).await;
        let reply = Reply::json(Value::Object(names)).query_meta(index);
        Ok(finish(reply, options, filtered && !token.is_anonymous()))
    }

    /// `/v1/catalog/nodes`: this one.
    pub(super) fn catalog_nodes(&self, options: &Options) -> Outcome {
        let token = self.acl.resolve_at_server(&options.token)?;
        let visible = token.node_read(&self.node.name);
        let nodes = if visible {
            json!([self.node.json()])
        } else {
            json!([])
        };
        let filtered = !visible && !token.is_anonymous();
        Ok(finish(Reply::json(nodes).query_meta(14), options, filtered))
    }
}

fn finish(reply: Reply, options: &Options, filtered: bool) -> Reply {
    let reply = reply.with(CONSISTENCY, options.consistency.as_str());
    if filtered {
        reply.with(FILTERED, "true")
    } else {
        reply
    }
}

fn instances<'a>(state: &'a State, name: &'a str, in_mesh: bool) -> Vec<&'a Service> {
    if in_mesh {
        state.catalog.in_mesh(name).collect()
    } else {
        state.catalog.named(name).collect()
    }
}

fn index_of(state: &State, name: &str, in_mesh: bool) -> u64 {
    let index = if in_mesh {
        state.catalog.index_of(&format!("mesh:{name}"))
    } else {
        state.catalog.index_of(name)
    };
    index.max(1)
}
