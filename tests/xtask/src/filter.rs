//! `filter.wasm`: what cargo builds, without the callbacks that the filter does not use.
//!
//! The crate `proxy-wasm` exports every callback there is, and Envoy calls each one that a module
//! exports. What cargo has built works as well; a request costs more calls then.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use wasm_encoder::{ExportKind, ExportSection, Module, RawSection};
use wasmparser::{ExternalKind, Parser, Payload};

/// What the module exports: the memory, what a module of the ABI must have, and the callbacks
/// that `guest/envoy/src/contexts.rs` overrides. Sorted.
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

/// The module with the exports of [`EXPORTS`] and no others.
///
/// # Errors
/// When it is none, or does not export all of them.
pub fn trim(module: &[u8]) -> Result<Vec<u8>> {
    let mut trimmed = Module::new();
    let mut found = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload?;
        if let Payload::ExportSection(section) = payload {
            let mut exports = ExportSection::new();
            for export in section {
                let export = export?;
                if !EXPORTS.contains(&export.name) {
                    continue;
                }
                let kind = match export.kind {
                    ExternalKind::Func => ExportKind::Func,
                    ExternalKind::Memory => ExportKind::Memory,
                    other => bail!("the export `{}` is a {other:?}", export.name),
                };
                exports.export(export.name, kind, export.index);
                found.push(export.name.to_owned());
            }
            trimmed.section(&exports);
        } else if let Some((id, range)) = payload.as_section() {
            let data = module.get(range).context("a section ends outside")?;
            trimmed.section(&RawSection { id, data });
        }
    }
    for name in EXPORTS {
        if !found.iter().any(|found| found == name) {
            bail!("there is no export `{name}`");
        }
    }
    Ok(trimmed.finish())
}
