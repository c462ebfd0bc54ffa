//! Calls to Envoy. Every pointer of the ABI is in this file.
#![expect(
    unsafe_code,
    reason = "the ABI passes pointers into our memory; each block says why they are valid"
)]

use std::ptr;

use portcullis_core::agent::HttpRequest;
use portcullis_core::filter::Shelf;

use super::{Level, MetricKind, Status, Stream};

const REQUEST_HEADERS: u32 = 0;
const CALL_RESPONSE_HEADERS: u32 = 6;
const CALL_RESPONSE_BODY: u32 = 4;
const PLUGIN_CONFIGURATION: u32 = 7;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, text: *const u8, length: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_buffer_bytes(
        kind: u32,
        start: usize,
        max: usize,
        bytes: *mut *mut u8,
        length: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(kind: u32, bytes: *mut *mut u8, length: *mut usize) -> u32;
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
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_close_stream(stream: u32) -> u32;
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
    fn proxy_http_call(
        cluster: *const u8,
        cluster_length: usize,
        headers: *const u8,
        headers_length: usize,
        body: *const u8,
        body_length: usize,
        trailers: *const u8,
        trailers_length: usize,
        timeout: u32,
        token: *mut u32,
    ) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, length: usize, id: *mut u32) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_increment_metric(id: u32, by: i64) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u16;
}

/// WASI's clock that nobody sets; of std's `Instant` only differences can be had.
const MONOTONIC: u32 = 1;

/// Bytes that Envoy has written into memory that [`allocate`] gave it.
fn taken(code: u32, bytes: *mut u8, length: usize) -> Result<Vec<u8>, Status> {
    Status::check(code)?;
    if bytes.is_null() || length == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: Envoy got this memory from `allocate(length)` within the call, filled it whole,
    // and gives it to us alone.
    Ok(unsafe { Vec::from_raw_parts(bytes, length, length) })
}

/// Memory for Envoy to write into; [`taken`] takes charge of it.
pub(super) fn allocate(length: usize) -> *mut u8 {
    // A capacity of exactly `length` is what `taken` gives back to the allocator.
    Box::into_raw(vec![0_u8; length].into_boxed_slice()).cast()
}

/// A line in Envoy's log.
pub(crate) fn log(level: Level, text: &str) {
    // SAFETY: the text outlives the call, which only reads it.
    let _ = unsafe { proxy_log(level.code(), text.as_ptr(), text.len()) };
}

/// Nanoseconds since the epoch; 0 if Envoy does not tell.
pub(crate) fn wall_clock() -> u64 {
    let mut time = 0;
    // SAFETY: Envoy writes eight bytes to a place that is ours.
    let code = unsafe { proxy_get_current_time_nanoseconds(&raw mut time) };
    Status::check(code).map_or(0, |()| time)
}

/// Nanoseconds of a clock that all VMs of the process share; 0 if Envoy does not tell.
pub(crate) fn monotonic_clock() -> u64 {
    let mut time = 0;
    // SAFETY: the host writes eight bytes to a place that is ours.
    let code = unsafe { clock_time_get(MONOTONIC, 1, &raw mut time) };
    if code == 0 { time } else { 0 }
}

/// How often `on_tick` comes, for the root in effect.
pub(crate) fn set_tick_period(milliseconds: u32) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::check(unsafe { proxy_set_tick_period_milliseconds(milliseconds) })
}

fn buffer(kind: u32, length: usize) -> Result<Vec<u8>, Status> {
    let (mut bytes, mut given) = (ptr::null_mut(), 0);
    // SAFETY: Envoy writes a pointer and a length to places that are ours.
    let code = unsafe { proxy_get_buffer_bytes(kind, 0, length, &raw mut bytes, &raw mut given) };
    taken(code, bytes, given)
}

/// The plugin's configuration, in `on_configure`.
pub(crate) fn configuration(length: usize) -> Result<Vec<u8>, Status> {
    buffer(PLUGIN_CONFIGURATION, length)
}

/// The body of a reply, in `on_http_call_response`.
pub(crate) fn reply_body(length: usize) -> Result<Vec<u8>, Status> {
    if length == 0 {
        return Ok(Vec::new());
    }
    buffer(CALL_RESPONSE_BODY, length)
}

fn header_map(kind: u32) -> Result<Vec<u8>, Status> {
    let (mut bytes, mut length) = (ptr::null_mut(), 0);
    // SAFETY: as in `buffer`.
    let code = unsafe { proxy_get_header_map_pairs(kind, &raw mut bytes, &raw mut length) };
    taken(code, bytes, length)
}

/// All headers of the request, in the ABI's form.
pub(crate) fn request_headers() -> Result<Vec<u8>, Status> {
    header_map(REQUEST_HEADERS)
}

/// All headers of a reply, in the ABI's form. Only where there are some.
pub(crate) fn reply_headers() -> Result<Vec<u8>, Status> {
    header_map(CALL_RESPONSE_HEADERS)
}

/// A property; the parts of its path are separated by NUL. `None` if there is none.
pub(crate) fn property(path: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut length) = (ptr::null_mut(), 0);
    // SAFETY: the path outlives the call, which only reads it; the rest as in `buffer`.
    let code =
        unsafe { proxy_get_property(path.as_ptr(), path.len(), &raw mut bytes, &raw mut length) };
    taken(code, bytes, length).ok()
}

/// Writes filter state: `path` appears as `wasm.<path>`.
pub(crate) fn set_property(path: &str, value: &str) -> Result<(), Status> {
    // SAFETY: both texts outlive the call, which only reads them.
    Status::check(unsafe {
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
        Status::check(code).is_ok()
    }
}

/// Lets what is paused go on.
pub(crate) fn resume(stream: Stream) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::check(unsafe { proxy_continue_stream(stream.code()) })
}

/// Ends a stream.
pub(crate) fn close(stream: Stream) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::check(unsafe { proxy_close_stream(stream.code()) })
}

/// Answers the request instead of the application.
pub(crate) fn respond(status: u32, details: &str, body: &str) -> Result<(), Status> {
    let no_headers = 0_u32.to_le_bytes();
    // SAFETY: all texts outlive the call, which only reads them.
    Status::check(unsafe {
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
pub(crate) fn call(cluster: &str, authority: &str, request: &HttpRequest) -> Result<u32, Status> {
    let mut pairs = vec![
        (":method", request.method.as_str()),
        (":path", request.path_and_query.as_str()),
        (":authority", authority),
        (":scheme", "http"),
        ("accept", "application/json"),
    ];
    pairs.extend(
        request
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_str())),
    );
    let headers = encode(&pairs).ok_or(Status::BadArgument)?;
    let trailers = 0_u32.to_le_bytes();
    let body = request.body.as_deref().unwrap_or_default();
    let timeout = u32::try_from(request.read_timeout_ms).unwrap_or(u32::MAX);
    let mut token = 0;
    // SAFETY: everything outlives the call, which only reads it; Envoy writes four bytes to
    // the token, which is ours.
    let code = unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            trailers.as_ptr(),
            trailers.len(),
            timeout,
            &raw mut token,
        )
    };
    Status::check(code).map(|()| token)
}

/// A header map in the ABI's form; `None` if something is longer than 4 GiB.
fn encode(pairs: &[(&str, &str)]) -> Option<Vec<u8>> {
    let mut map = u32::try_from(pairs.len()).ok()?.to_le_bytes().to_vec();
    for (name, value) in pairs {
        for part in [name, value] {
            map.extend_from_slice(&u32::try_from(part.len()).ok()?.to_le_bytes());
        }
    }
    for (name, value) in pairs {
        for part in [name, value] {
            map.extend_from_slice(part.as_bytes());
            map.push(0);
        }
    }
    Some(map)
}

/// What follows is about this context.
pub(crate) fn set_effective_context(context: u32) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::check(unsafe { proxy_set_effective_context(context) })
}

/// A metric's number.
pub(crate) fn define_metric(kind: MetricKind, name: &str) -> Result<u32, Status> {
    let mut id = 0;
    // SAFETY: the name outlives the call, which only reads it; Envoy writes four bytes to the
    // number, which is ours.
    let code = unsafe { proxy_define_metric(kind.code(), name.as_ptr(), name.len(), &raw mut id) };
    Status::check(code).map(|()| id)
}

/// Sets a gauge.
pub(crate) fn record_metric(id: u32, value: u64) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::check(unsafe { proxy_record_metric(id, value) })
}

/// Adds to a counter.
pub(crate) fn increment_metric(id: u32, by: i64) -> Result<(), Status> {
    // SAFETY: no pointers.
    Status::check(unsafe { proxy_increment_metric(id, by) })
}
