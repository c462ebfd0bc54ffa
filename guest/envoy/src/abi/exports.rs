//! What Envoy calls. Callbacks that are not here are not called, and cost nothing.
#![expect(
    unsafe_code,
    reason = "Envoy finds these functions by name, which only unsafe attributes can keep"
)]

use super::host;
use crate::vm;

unsafe extern "C" {
    /// Given by wasi-libc.
    fn __wasm_call_ctors();
}

/// The first call of all.
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: this is the module's beginning, where constructors have not run yet.
    unsafe { __wasm_call_ctors() };
}

/// Names the version of the ABI by its presence.
#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

/// Memory for what Envoy passes to us.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(length: usize) -> *mut u8 {
    host::allocate(length)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(context: u32, root: u32) {
    vm::created(context, root);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_root: u32, _configuration_length: usize) -> u32 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root: u32, configuration_length: usize) -> u32 {
    u32::from(vm::configured(root, configuration_length))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    vm::tick(root);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(
    root: u32,
    token: u32,
    headers: usize,
    body_length: usize,
    _trailers: usize,
) {
    vm::replied(root, token, headers, body_length);
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_downstream_data(context: u32, _length: usize, _end: u32) -> u32 {
    vm::bytes(context, vm::Side::Client).code()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_upstream_data(context: u32, _length: usize, _end: u32) -> u32 {
    vm::bytes(context, vm::Side::Application).code()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(context: u32, _headers: usize, _end: u32) -> u32 {
    vm::request(context).code()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(context: u32) {
    vm::deleted(context);
}
