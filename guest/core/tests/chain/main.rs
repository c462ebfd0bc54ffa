//! Certificate chains: the leaf's rules, paths, trust, and chains that others made.

use portcullis_testkit::Draft;

mod leaf;
mod path;
mod support;
mod trust;
mod vectors;

/// The trust domain of the test mesh.
const TD: &str = "mesh.example";

/// One way to spoil a certificate.
type Change = fn(Draft) -> Draft;
