//! The callbacks about connections and requests, straight to `vm`.
//!
//! The crate `proxy-wasm` must know what a context is when it is made, which costs a property
//! of Envoy for each request, and keeps two tables for them. Here the first callback tells.
//! `cargo xtask filter` gives these functions the names of the ABI, in the place of the
//! crate's: in a module that cargo alone has built, Envoy does not know them and calls those.
#![expect(
    unsafe_code,
    reason = "exports by name, and the crate's own exports, which take numbers only"
)]

use proxy_wasm::types::Action;

use crate::vm::{self, Side};

unsafe extern "C" {
    /// The crate's: makes root contexts.
    fn proxy_on_context_create(context: u32, root: u32);
    /// The crate's: drops root contexts.
    fn proxy_on_delete(context: u32);
}

#[unsafe(export_name = "portcullis_on_context_create")]
extern "C" fn on_context_create(context: u32, root: u32) {
    if root == 0 {
        // SAFETY: no pointers. Envoy calls this once for each root context.
        unsafe { proxy_on_context_create(context, root) }
    } else {
        vm::created(context, root);
    }
}

#[unsafe(export_name = "portcullis_on_delete")]
extern "C" fn on_delete(context: u32) {
    if !vm::deleted(context) {
        // SAFETY: no pointers. What is not ours is a root context, which the crate has.
        unsafe { proxy_on_delete(context) }
    }
}

#[unsafe(export_name = "portcullis_on_downstream_data")]
extern "C" fn on_downstream_data(context: u32, _length: usize, _is_end: bool) -> Action {
    vm::bytes(context, Side::Client)
}

#[unsafe(export_name = "portcullis_on_upstream_data")]
extern "C" fn on_upstream_data(context: u32, _length: usize, _is_end: bool) -> Action {
    vm::bytes(context, Side::Application)
}

#[unsafe(export_name = "portcullis_on_request_headers")]
extern "C" fn on_request_headers(context: u32, _headers: usize, _is_end: bool) -> Action {
    vm::request(context)
}
