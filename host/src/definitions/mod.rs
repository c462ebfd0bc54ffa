//! Service-definition files, HCL and JSON, in the forms that Consul reads: `service` with
//! one definition or `services` with several; names of fields with underscores or in
//! CamelCase.
//!
//! What the files of [`crate::entries`] say is read likewise.
//!
//! An unknown field, a repeated one and one of another type are errors with their line.

mod hcl;
mod json;
mod registration;
pub(crate) mod schema;
pub(crate) mod tree;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use registration::FileRegistration;

use crate::agent_client::Secret;
use schema::{SERVICE, folded};
use tree::{Kind, Node, Problem};

/// The largest file that is read.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Why definitions cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The file or directory cannot be read.
    #[error("cannot read `{}`: {source}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its name does not say what it is.
    #[error("`{}` is neither `.hcl` nor `.json`; rename it", .0.display())]
    Extension(PathBuf),
    /// There is none.
    #[error("`{}` has no `.hcl` or `.json` file", .0.display())]
    Empty(PathBuf),
    /// It says something that cannot be.
    #[error("{}:{line}: {problem}", .path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
}

/// One service as a file defines it.
#[derive(Clone, PartialEq)]
pub struct Definition {
    /// Its ID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The proxy that it defines: its sidecar, or itself.
    pub proxy: Option<ProxyDefinition>,
    /// The token to register it with; the command's own if absent.
    pub token: Option<Secret>,
    /// The definition as `/v1/agent/service/register` takes it, without the token.
    pub body: Value,
    /// Where it stands, for messages.
    pub place: String,
}

/// A proxy as a file defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyDefinition {
    /// Its ID.
    pub id: String,
    /// Its name as a service.
    pub name: String,
    /// The service that it stands for.
    pub destination: String,
    /// The services that it calls.
    pub upstreams: Vec<String>,
}

impl ProxyDefinition {
    /// The proxy of the service `name` with this ID: the part `proxy` of a definition.
    fn read(id: String, name: String, destination: &str, proxy: Option<&Value>) -> Self {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let own = text(proxy.and_then(|proxy| proxy.get("DestinationServiceName")));
        let upstreams = proxy
            .and_then(|proxy| proxy.get("Upstreams"))
            .and_then(Value::as_array);
        let names = upstreams.into_iter().flatten();
        Self {
            id,
            name,
            destination: own.unwrap_or_else(|| destination.to_owned()),
            upstreams: names
                .filter_map(|one| text(one.get("DestinationName")))
                .collect(),
        }
    }
}

impl fmt::Debug for Definition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Definition")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// Reads the definitions of a file, or of all `.hcl` and `.json` files of a directory, in
/// the order of their names.
///
/// # Errors
/// When something cannot be read, or says what cannot be.
pub fn read(path: &Path) -> Result<Vec<Definition>, DefinitionError> {
    let mut all = Vec::new();
    for file in files(path)? {
        let root = read_tree(&file)?;
        let found = services(&root, &file.display().to_string());
        all.extend(found.map_err(|problem| content(&file, problem))?);
    }
    Ok(all)
}

/// The file itself, or all `.hcl` and `.json` files of a directory, in the order of their
/// names.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>, DefinitionError> {
    let failed = |source| DefinitionError::Read {
        path: path.to_owned(),
        source,
    };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file
            .extension()
            .is_some_and(|ext| ext == "hcl" || ext == "json")
            && file.is_file()
        {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(DefinitionError::Empty(path.to_owned()));
    }
    files.sort_unstable();
    Ok(files)
}

/// What an `.hcl` or `.json` file says.
pub(crate) fn read_tree(path: &Path) -> Result<Node, DefinitionError> {
    let format = match path.extension().and_then(|extension| extension.to_str()) {
        Some("hcl") => hcl::read,
        Some("json") => json::read,
        _ => return Err(DefinitionError::Extension(path.to_owned())),
    };
    format(&read_text(path)?).map_err(|problem| content(path, problem))
}

/// What a text in JSON says.
pub(crate) fn json_tree(text: &str) -> Result<Node, Problem> {
    json::read(text)
}

/// The text of a file.
pub(crate) fn read_text(path: &Path) -> Result<String, DefinitionError> {
    use io::Read as _;
    let failed = |source| DefinitionError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    let length = file
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if u64::try_from(length).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(content(path, Problem::new(1, "is larger than 4 MB")));
    }
    Ok(text)
}

/// What is wrong with a file's content.
pub(crate) fn content(path: &Path, problem: Problem) -> DefinitionError {
    DefinitionError::Content {
        path: path.to_owned(),
        line: problem.line,
        problem: crate::escape::visible(&problem.text, 400),
    }
}

/// The definitions in a whole file.
fn services(root: &Node, path: &str) -> Result<Vec<Definition>, Problem> {
    let Kind::Object(fields) = &root.kind else {
        return Err(Problem::new(
            root.line,
            format!("is {}, not a definition: begin with `service`", root.what()),
        ));
    };
    let mut found = Vec::new();
    let mut single = false;
    for field in fields {
        match folded(&field.name).as_str() {
            "service" => {
                if std::mem::replace(&mut single, true) {
                    return Err(Problem::new(
                        field.line,
                        "a second `service`: several go into `services`, such as `services { ... }` for each",
                    ));
                }
                found.push(service(&field.value, path)?);
            }
            "services" => match &field.value.kind {
                Kind::List(items) => {
                    for item in items {
                        found.push(service(item, path)?);
                    }
                }
                _ => found.push(service(&field.value, path)?),
            },
            "name" | "port" | "connect" => {
                return Err(Problem::new(
                    field.line,
                    format!(
                        "`{}` stands alone: put the definition into `service`",
                        field.name
                    ),
                ));
            }
            _ => {
                return Err(Problem::new(
                    field.line,
                    format!(
                        "`{}` is not read here, only `service` and `services` are; move it to the agent's configuration",
                        field.name
                    ),
                ));
            }
        }
    }
    if found.is_empty() {
        return Err(Problem::new(root.line, "defines no service"));
    }
    Ok(found)
}

fn service(node: &Node, path: &str) -> Result<Definition, Problem> {
    let mut body = SERVICE.read(node)?;
    let text = |name: &str| match body.get(name) {
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    };
    let (name, kind) = (text("Name"), text("Kind"));
    if name.is_empty() {
        return Err(Problem::new(
            node.line,
            "a service has no name; write `name = \"web\"`",
        ));
    }
    let id = match text("ID") {
        empty if empty.is_empty() => name.clone(),
        id => id,
    };
    let token = match body.remove("Token") {
        Some(Value::String(token)) if !token.is_empty() => Some(Secret::new(token)),
        _ => None,
    };
    let sidecar = body
        .get("Connect")
        .and_then(|connect| connect.get("SidecarService"));
    let proxy = match (kind.as_str(), sidecar) {
        ("connect-proxy", _) => {
            let proxy = body.get("Proxy");
            Some(ProxyDefinition::read(id.clone(), name.clone(), "", proxy))
        }
        (_, Some(sidecar)) => {
            let own = sidecar.get("Name").and_then(Value::as_str);
            let own = own.map_or_else(|| format!("{name}-sidecar-proxy"), str::to_owned);
            let id = format!("{id}-sidecar-proxy");
            Some(ProxyDefinition::read(id, own, &name, sidecar.get("Proxy")))
        }
        _ => None,
    };
    body.insert("ID".to_owned(), Value::from(id.as_str()));
    Ok(Definition {
        id,
        name,
        proxy,
        token,
        body: Value::Object(body),
        place: format!("{path}:{}", node.line),
    })
}

#[cfg(test)]
mod tests;
