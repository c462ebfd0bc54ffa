//! `filter.wasm`: what cargo builds, with the callbacks that the filter uses.
//!
//! The crate `proxy-wasm` exports every callback there is, and Envoy calls each one that a module
//! exports. Those about connections and requests are not the crate's here but the filter's own
//! (`guest/envoy/src/streams.rs`), which cost less. What cargo has built works as well.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use wasm_encoder::{ExportKind, ExportSection, Module, RawSection};
use wasmparser::{ExternalKind, Parser, Payload};

/// What the module exports: the memory, what a module of the ABI must have, and the callbacks
/// of `guest/envoy/src/contexts.rs` and `guest/envoy/src/streams.rs`. Sorted.
pub const EXPORTS: [&str; 12] = [
    "_initialize",
    "memory",
    "proxy_abi_version_0_2_1",
    "proxy_on_configure",
    "proxy_on_context_create",
    "proxy_on_delete",
    "proxy_on_downstream_data",
    "proxy_on_http_call_response",
    "proxy_on_memory_allocate",
    "proxy_on_request_headers",
    "proxy_on_tick",
    "proxy_on_upstream_data",
];

/// What stands before the name of a callback of the filter's own, in place of `proxy_`.
const OWN: &str = "portcullis_";

/// The name under which `filter.wasm` exports what the module exports as `name`.
fn place_of<'n>(name: &'n str, all: &[String]) -> Option<Cow<'n, str>> {
    let place = match (name.strip_prefix(OWN), name.strip_prefix("proxy_")) {
        (Some(callback), _) => Cow::Owned(format!("proxy_{callback}")),
        // The filter has one of its own.
        (_, Some(callback)) if all.contains(&format!("{OWN}{callback}")) => return None,
        _ => Cow::Borrowed(name),
    };
    EXPORTS.contains(&&*place).then_some(place)
}

/// Writes `filter.wasm` from what cargo has built in its target folder for guests.
///
/// # Errors
/// When there is nothing, or something else, or the file cannot be written.
pub fn place(guests: &Path) -> Result<PathBuf> {
    let built = guests.join("wasm32-wasip1/filter/portcullis_envoy.wasm");
    let module = fs::read(&built).with_context(|| format!("cannot read `{}`", built.display()))?;
    let module = trim(&module).with_context(|| format!("`{}`", built.display()))?;
    let file = guests.join("filter.wasm");
    // Several test programs may do this at once.
    let new = guests.join(format!("filter.wasm.{}", std::process::id()));
    fs::write(&new, module).with_context(|| format!("cannot write `{}`", new.display()))?;
    fs::rename(&new, &file).with_context(|| format!("cannot write `{}`", file.display()))?;
    Ok(file)
}

/// The module with the exports of [`EXPORTS`] and no others; its own callbacks go before those
/// of the crate.
///
/// # Errors
/// When it is none, or does not export each of them once.
pub fn trim(module: &[u8]) -> Result<Vec<u8>> {
    let mut trimmed = Module::new();
    let mut found = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload?;
        if let Payload::ExportSection(section) = payload {
            let mut exports = ExportSection::new();
            let section: Vec<_> = section.into_iter().collect::<Result<_, _>>()?;
            let all: Vec<_> = section
                .iter()
                .map(|export| export.name.to_owned())
                .collect();
            for export in section {
                let Some(name) = place_of(export.name, &all) else {
                    continue;
                };
                let kind = match export.kind {
                    ExternalKind::Func => ExportKind::Func,
                    ExternalKind::Memory => ExportKind::Memory,
                    other => bail!("the export `{}` is a {other:?}", export.name),
                };
                exports.export(&name, kind, export.index);
                found.push(name.into_owned());
            }
            trimmed.section(&exports);
        } else if let Some((id, range)) = payload.as_section() {
            let data = module.get(range).context("a section ends outside")?;
            trimmed.section(&RawSection { id, data });
        }
    }
    for name in EXPORTS {
        if found.iter().filter(|found| *found == name).count() != 1 {
            bail!("there is not one export for `{name}`");
        }
    }
    Ok(trimmed.finish())
}
