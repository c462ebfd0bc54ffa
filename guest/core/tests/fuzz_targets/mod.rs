//! Fuzz targets, shared by `tests/fuzz_smoke.rs` (stable, in CI) and `fuzz/` (cargo-fuzz).
//!
//! To add one: a file here with `run` and `seeds`, a line in [`ALL`], and a file of
//! three lines in `fuzz/fuzz_targets/` with its `[[bin]]` in `fuzz/Cargo.toml`.

pub mod agent;
pub mod bundle;
pub mod chain;
pub mod identity;
pub mod intentions;
pub mod re2;

/// Something that takes any bytes and must neither panic nor break its promise.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, as in `cargo fuzz run <name>`.
    pub name: &'static str,
    /// Takes one input; panics where the promise is broken.
    pub run: fn(&[u8]),
    /// Inputs to begin with: real ones, which mutation spoils.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const ALL: &[Target] = &[
    Target {
        name: "identity",
        run: identity::run,
        seeds: identity::seeds,
    },
    Target {
        name: "chain",
        run: chain::run,
        seeds: chain::seeds,
    },
    Target {
        name: "bundle",
        run: bundle::run,
        seeds: bundle::seeds,
    },
    Target {
        name: "agent",
        run: agent::run,
        seeds: agent::seeds,
    },
    Target {
        name: "intentions",
        run: intentions::run,
        seeds: intentions::seeds,
    },
    Target {
        name: "re2",
        run: re2::run,
        seeds: re2::seeds,
    },
];

/// A file of `tests/data`.
fn data(name: &str) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/").to_owned();
    // cargo-fuzz's crate is one folder below the core.
    let root = path.strip_suffix("fuzz/").unwrap_or(&path);
    std::fs::read(format!("{root}tests/data/{name}")).expect("test data")
}
