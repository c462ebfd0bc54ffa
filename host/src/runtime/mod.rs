//! The policy component and the wasmtime engine that runs it.
//!
//! [`Component`] is the compiled WebAssembly, [`Policy`] a pool of its instances
//! that all hold the same documents. Questions and answers have the types of
//! `portcullis_core`.

mod allowed;
mod answer;
mod bindings;
mod brake;
mod cache;
mod compile;
mod component;
mod convert;
mod documents;
mod engine;
mod imports;
mod instance;
mod lent_http;
mod limits;
pub mod mesh;
mod mesh_bindings;
mod mesh_imports;
mod mesh_settings;
mod native;
mod policy;
mod pool;
mod trial;

pub use answer::{IdentityError, VerifyError};
pub use compile::{COMPILE_ARGUMENT, compile_stdin_to_stdout};
pub use component::{Component, ComponentError, ComponentOptions};
pub use documents::MeshVersion;
pub use limits::Limits;
pub use native::aws_lc;
pub use policy::{Policy, PolicyError, PolicyOptions};
pub use pool::Counts;
