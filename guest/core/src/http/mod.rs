//! HTTP requests, before any rule sees them.
//!
//! [`Prepared::read`] checks a request as a strict server does and brings its path into
//! the form that is matched and forwarded; there is no second one. What the rules then
//! look at, with every way in which it can be read, is in [`Prepared`].
//!
//! The forms are those of Envoy 1.40 (`normalize_path`, `merge_slashes`,
//! `path_with_escaped_slashes_action`), observed; `guest/core/tests/data/envoy-paths.ndjson`
//! has what it answered.

mod bad;
mod header_map;
mod headers;
mod normalization;
mod path;
mod prepared;
mod readings;
mod request;
mod target;

pub use bad::BadRequest;
pub(crate) use header_map::HeaderMap;
pub(crate) use headers::Headers;
pub use normalization::{EscapedSlashes, RequestNormalization, Underscores};
pub(crate) use prepared::Field;
pub use prepared::{Found, Preparation, Prepared, Reading};
pub use request::{HttpVersion, Request, RequestRef, encode_headers};
