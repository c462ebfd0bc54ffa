//! Calls to Envoy that can fail and never panic. Every pointer of ours is in this file.
//!
//! Where the crate `proxy-wasm` takes every status that Envoy gives, it makes the call:
//!
//! - `dispatch_http_call`: only the crate can make it, for its dispatcher panics at a reply to a
//!   call that it does not know. Envoy answers 0, 2 (no such cluster) and 10 (not sent, or
//!   not allowed), all of which the crate takes; it forgets a call for which it answered 10, and
//!   numbers calls for the whole VM, so that no number is given twice.
//! - `set_effective_context`: 0 and 2, which the crate takes. It panics at 10, but so does the
//!   crate's dispatcher before every reply: who takes this call away gets no filter.
//!
//! At the others it panics, and a panic is the VM's end:
//!
//! - `proxy_get_header_map_pairs`: 2 where there are no headers;
//! - `proxy_get_buffer_bytes`: 2 for a range that is none;
//! - `proxy_set_property`: 1 without a stream, 2 for state that cannot be written;
//! - `proxy_remove_header_map_value`, `proxy_replace_header_map_value`: 2 where headers cannot
//!   be changed any more;
//! - `proxy_continue_stream`, `proxy_close_stream`: 2 and 12, of which its type does not even
//!   know the latter;
//! - all of them: 10, where an operator has not allowed the call
//!   (`capability_restriction_config`). So clocks, log, ticks, metrics and shared data are here
//!   too;
//! - `proxy_get_property`: here because the crate puts its path together anew for each call;
//! - `proxy_send_local_response`: here for the response code details, which the crate does not
//!   pass.
#![expect(
    unsafe_code,
    reason = "the ABI passes pointers into our memory; each block says why they are valid"
)]

use std::fmt;
use std::ptr;
use std::time::Duration;

use portcullis_core::agent::HttpRequest;
use portcullis_core::filter::{Route, Shelf};
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, LogLevel, MapType, MetricType, Status, StreamType};

/// Why a host call came to nothing: its status, which the crate's type may not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal(u32);

impl Refusal {
    /// `Ok` for 0.
    const fn check(code: u32) -> Result<(), Self> {
        match code {
            0 => Ok(()),
            other => Err(Self(other)),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.0)
    }
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: LogLevel, text: *const u8, length: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_buffer_bytes(
        kind: BufferType,
        start: usize,
        max: usize,
        bytes: *mut *mut u8,
        length: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(kind: MapType, bytes: *mut *mut u8, length: *mut usize) -> u32;
    fn proxy_remove_header_map_value(kind: MapType, name: *const u8, length: usize) -> u32;
    fn proxy_replace_header_map_value(
        kind: MapType,
        name: *const u8,
        name_length: usize,
        value: *const u8,
        value_length: usize,
    ) -> u32;
    fn proxy_get_property(
        path: *const u8,
        path_length: usize,
        bytes: *mut *mut u8,
        length: *mut usize,
    ) -> u32;
    fn proxy_set_property(
        path: *const u8,
        path_length: usize,
        value: *const u8,
        value_length: usize,
    ) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_length: usize,
        bytes: *mut *mut u8,
        length: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_length: usize,
        value: *const u8,
        value_length: usize,
        cas: u32,
    ) -> u32;
    fn proxy_continue_stream(stream: StreamType) -> u32;
    fn proxy_close_stream(stream: StreamType) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_length: usize,
        body: *const u8,
        body_length: usize,
        headers: *const u8,
        headers_length: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_define_metric(kind: MetricType, name: *const u8, length: usize, id: *mut u32) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_increment_metric(id: u32, by: i64) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u16;
}

/// WASI's clock that nobody sets; of std's `Instant` only differences can be had.
const MONOTONIC: u32 = 1;

/// Bytes that Envoy has written into memory that the crate's allocator gave it.
fn taken(code: u32, bytes: *mut u8, length: usize) -> Result<Vec<u8>, Refusal> {
    Refusal::check(code)?;
    if bytes.is_null() || length == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: Envoy got this memory from `proxy_on_memory_allocate(length)`, a boxed slice of
    // that length, within the call, filled it whole, and gives it to us alone.
    Ok(unsafe { Vec::from_raw_parts(bytes, length, length) })
}

/// A line in Envoy's log.
pub(crate) fn log(level: LogLevel, text: &str) {
    // SAFETY: the text outlives the call, which only reads it.
    let _ = unsafe { proxy_log(level, text.as_ptr(), text.len()) };
}

/// Nanoseconds since the epoch; 0 if Envoy does not tell.
pub(crate) fn wall_clock() -> u64 {
    let mut time = 0;
    // SAFETY: Envoy writes eight bytes to a place that is ours.
    let code = unsafe { proxy_get_current_time_nanoseconds(&raw mut time) };
    Refusal::check(code).map_or(0, |()| time)
}

/// Nanoseconds of a clock that all VMs of the process share; 0 if Envoy does not tell.
pub(crate) fn monotonic_clock() -> u64 {
    let mut time = 0;
    // SAFETY: the host writes eight bytes to a place that is ours.
    let code = unsafe { clock_time_get(MONOTONIC, 1, &raw mut time) };
    if code == 0 { time } else { 0 }
}

/// How often `on_tick` comes, for the root in effect.
pub(crate) fn set_tick_period(milliseconds: u32) -> Result<(), Refusal> {
    // SAFETY: no pointers.
    Refusal::check(unsafe { proxy_set_tick_period_milliseconds(milliseconds) })
}

fn buffer(kind: BufferType, length: usize) -> Result<Vec<u8>, Refusal> {
    let (mut bytes, mut given) = (ptr::null_mut(), 0);
    // SAFETY: Envoy writes a pointer and a length to places that are ours.
    let code = unsafe { proxy_get_buffer_bytes(kind, 0, length, &raw mut bytes, &raw mut given) };
    taken(code, bytes, given)
}

/// The plugin's configuration, in `on_configure`.
pub(crate) fn configuration(length: usize) -> Result<Vec<u8>, Refusal> {
    buffer(BufferType::PluginConfiguration, length)
}

/// The body of a reply, in `on_http_call_response`.
pub(crate) fn reply_body(length: usize) -> Result<Vec<u8>, Refusal> {
    if length == 0 {
        return Ok(Vec::new());
    }
    buffer(BufferType::HttpCallResponseBody, length)
}

fn header_map(kind: MapType) -> Result<Vec<u8>, Refusal> {
    let (mut bytes, mut length) = (ptr::null_mut(), 0);
    // SAFETY: as in `buffer`.
    let code = unsafe { proxy_get_header_map_pairs(kind, &raw mut bytes, &raw mut length) };
    taken(code, bytes, length)
}

/// All headers of the request, in the ABI's form.
pub(crate) fn request_headers() -> Result<Vec<u8>, Refusal> {
    header_map(MapType::HttpRequestHeaders)
}

/// All headers of a reply, in the ABI's form. Only where there are some.
pub(crate) fn reply_headers() -> Result<Vec<u8>, Refusal> {
    header_map(MapType::HttpCallResponseHeaders)
}

/// Takes all headers of a name out of the request in effect.
pub(crate) fn remove_header(name: &str) -> Result<(), Refusal> {
    // SAFETY: the name outlives the call, which only reads it.
    Refusal::check(unsafe {
        proxy_remove_header_map_value(MapType::HttpRequestHeaders, name.as_ptr(), name.len())
    })
}

/// Gives the request in effect a header; if there is one of this name, that gets the value.
pub(crate) fn set_header(name: &str, value: &[u8]) -> Result<(), Refusal> {
    // SAFETY: name and value outlive the call, which only reads them.
    Refusal::check(unsafe {
        proxy_replace_header_map_value(
            MapType::HttpRequestHeaders,
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        )
    })
}

/// A property, the parts of its path separated by NUL. `None` if there is none, or an
/// empty one, or none that can be read.
pub(crate) fn property(path: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut length) = (ptr::null_mut(), 0);
    // SAFETY: the path outlives the call, which only reads it; the rest as in `buffer`.
    let code =
        unsafe { proxy_get_property(path.as_ptr(), path.len(), &raw mut bytes, &raw mut length) };
    taken(code, bytes, length)
        .ok()
        .filter(|value| !value.is_empty())
}

/// Writes filter state: `path` appears as `wasm.<path>`.
pub(crate) fn set_property(path: &str, value: &str) -> Result<(), Refusal> {
    // SAFETY: both texts outlive the call, which only reads them.
    Refusal::check(unsafe {
        proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len())
    })
}

/// Envoy's shared data.
#[derive(Debug)]
pub(crate) struct SharedData;

impl Shelf for SharedData {
    fn read(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        let (mut bytes, mut length, mut cas) = (ptr::null_mut(), 0, 0);
        // SAFETY: the key outlives the call, which only reads it; the rest as in `buffer`.
        let code = unsafe {
            proxy_get_shared_data(
                key.as_ptr(),
                key.len(),
                &raw mut bytes,
                &raw mut length,
                &raw mut cas,
            )
        };
        taken(code, bytes, length).ok().map(|value| (value, cas))
    }

    fn write(&self, key: &str, value: &[u8], unless_newer_than: Option<u32>) -> bool {
        let cas = unless_newer_than.unwrap_or(0);
        // SAFETY: key and value outlive the call, which only reads them.
        let code = unsafe {
            proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas)
        };
        Refusal::check(code).is_ok()
    }
}

/// Lets what is paused go on.
pub(crate) fn resume(stream: StreamType) -> Result<(), Refusal> {
    // SAFETY: no pointers.
    Refusal::check(unsafe { proxy_continue_stream(stream) })
}

/// Ends a stream.
pub(crate) fn close(stream: StreamType) -> Result<(), Refusal> {
    // SAFETY: no pointers.
    Refusal::check(unsafe { proxy_close_stream(stream) })
}

/// Answers the request instead of the application.
pub(crate) fn respond(status: u32, details: &str, body: &str) -> Result<(), Refusal> {
    let no_headers = 0_u32.to_le_bytes();
    // SAFETY: all texts outlive the call, which only reads them.
    Refusal::check(unsafe {
        proxy_send_local_response(
            status,
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            no_headers.as_ptr(),
            no_headers.len(),
            -1,
        )
    })
}

/// Sends a request by one of Envoy's clusters; gives the token of its reply.
pub(crate) fn call(route: Route<'_>, request: &HttpRequest) -> Result<u32, Status> {
    let mut headers = vec![
        (":method", request.method.as_str()),
        (":path", request.path_and_query.as_str()),
        (":authority", route.authority),
        (":scheme", route.scheme),
        ("accept", "application/json"),
    ];
    headers.extend(
        request
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_str())),
    );
    // The ABI has 32 bits for it, into which the crate cuts what is longer.
    let timeout = request.read_timeout_ms.min(u64::from(u32::MAX));
    hostcalls::dispatch_http_call(
        route.cluster,
        headers,
        request.body.as_deref(),
        Vec::new(),
        Duration::from_millis(timeout),
    )
}

/// What follows is about this context.
pub(crate) fn set_effective_context(context: u32) -> Result<(), Status> {
    hostcalls::set_effective_context(context)
}

/// A metric's number.
pub(crate) fn define_metric(kind: MetricType, name: &str) -> Result<u32, Refusal> {
    let mut id = 0;
    // SAFETY: the name outlives the call, which only reads it; Envoy writes four bytes to the
    // number, which is ours.
    let code = unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut id) };
    Refusal::check(code).map(|()| id)
}

/// Sets a gauge.
pub(crate) fn record_metric(id: u32, value: u64) -> Result<(), Refusal> {
    // SAFETY: no pointers.
    Refusal::check(unsafe { proxy_record_metric(id, value) })
}

/// Adds to a counter.
pub(crate) fn increment_metric(id: u32, by: i64) -> Result<(), Refusal> {
    // SAFETY: no pointers.
    Refusal::check(unsafe { proxy_increment_metric(id, by) })
}
