//! Finds what makes the policy useless or open in a configuration of Envoy.
//!
//! Reads bootstraps, single listeners and what `/config_dump` answers, JSON or YAML. Only
//! what stands in the file is judged: what comes by xDS is not seen.

mod chain;
mod finding;
mod plugin;
mod tree;

use serde_json::Value;

pub use finding::{Code, Finding, Severity};

use chain::{Listener, Secrets};
use plugin::{Authz, Plugin};
use tree::Node;
pub(super) use tree::read;

/// Why a file is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LintError(String);

/// What is wrong with the configuration in `text`, worst first.
///
/// # Errors
/// When it is neither JSON nor YAML, or nothing that has fields.
pub fn lint(text: &str) -> Result<Vec<Finding>, LintError> {
    let tree = read(text).map_err(LintError)?;
    if !tree.is_object() {
        return Err(LintError(
            "it is no configuration: there must be fields".to_owned(),
        ));
    }
    let mut found = Found::default();
    examine(&tree, &mut found);
    let mut found = found.0;
    found.sort_by(|a, b| {
        let key = |one: &Finding| (one.code.severity(), one.code);
        key(a).cmp(&key(b)).then_with(|| a.path.cmp(&b.path))
    });
    found.dedup();
    Ok(found)
}

/// Findings so far.
#[derive(Debug, Default)]
struct Found(Vec<Finding>);

impl Found {
    fn add(&mut self, code: Code, path: &str, text: impl Into<String>) {
        self.0.push(Finding {
            code,
            path: path.to_owned(),
            text: text.into(),
        });
    }
}

fn examine(tree: &Value, found: &mut Found) {
    let root = Node::root(tree);
    let mut objects = Vec::new();
    root.objects(&mut objects);
    let plugins: Vec<Plugin<'_>> = objects.iter().filter_map(Plugin::read).collect();
    let authz = Authz::among(&objects, &plugins);
    for plugin in plugins.iter().filter(|plugin| plugin.is_ours) {
        plugin.examine(&plugins, found);
        plugin.examine_cluster(&root, found);
    }
    for filter in &authz {
        filter.examine(found);
    }
    let listeners: Vec<Listener<'_>> = objects
        .iter()
        .filter_map(|object| Listener::read(object, &plugins, &authz))
        .collect();
    let anywhere = plugins.iter().any(|plugin| plugin.is_ours) || !authz.is_empty();
    let secrets = Secrets::among(&objects);
    let guarded = chain::guarded_clusters(&listeners);
    for listener in &listeners {
        listener.examine(anywhere, &guarded, &secrets, found);
    }
    let is_outbound = !listeners.is_empty() && listeners.iter().all(Listener::is_local);
    if !anywhere && !is_outbound {
        let text = "there is no filter of Portcullis in this file";
        found.add(Code::NoPolicy, "", text);
    }
    chain::examine_routes(&objects, &plugins, &authz, found);
}

#[cfg(test)]
mod tests;
