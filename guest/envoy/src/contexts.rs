//! The contexts that the crate `proxy-wasm` dispatches Envoy's callbacks to.
//!
//! They hold a number and hand everything on to `vm`. The crate calls them while it has
//! borrowed its tables, so nothing here may be called back by Envoy within a host call; Envoy
//! defers what would: closing, resuming, local replies, and replies that are there at once.
//! A callback that is overridden here must also be named in `tests/xtask/src/filter.rs`, which
//! takes all others out of the module, and puts those of `streams` in the place of what is here
//! about connections and requests.

use proxy_wasm::traits::{Context, HttpContext, RootContext, StreamContext};
use proxy_wasm::types::{Action, ContextType};

use crate::host;
use crate::vm::{self, Side};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|context| Box::new(Root(context)));
}}

/// A plugin's root context in this VM.
#[derive(Debug)]
struct Root(u32);

/// A connection of a network filter.
#[derive(Debug)]
struct Connection(u32);

/// A request of an HTTP filter.
#[derive(Debug)]
struct HttpRequest(u32);

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, _: usize) {
        vm::replied(self.0, token, headers, body);
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, length: usize) -> bool {
        vm::configured(self.0, length)
    }

    fn on_tick(&mut self) {
        vm::tick(self.0);
    }

    /// What the stream is that Envoy makes now.
    ///
    /// It is asked for each one: a network and an HTTP filter with the same name and the same
    /// configuration share a root. A request has a protocol before its filters are made; a
    /// connection gets one, if ever, by the HTTP connection manager's first bytes.
    fn get_type(&self) -> Option<ContextType> {
        Some(match host::property("request\0protocol") {
            Some(_) => ContextType::HttpContext,
            None => ContextType::StreamContext,
        })
    }

    fn create_stream_context(&self, context: u32) -> Option<Box<dyn StreamContext>> {
        vm::created(context, self.0);
        Some(Box::new(Connection(context)))
    }

    fn create_http_context(&self, context: u32) -> Option<Box<dyn HttpContext>> {
        vm::created(context, self.0);
        Some(Box::new(HttpRequest(context)))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        vm::root_deleted(self.0);
    }
}

impl Context for Connection {}

impl StreamContext for Connection {
    fn on_downstream_data(&mut self, _: usize, _: bool) -> Action {
        vm::bytes(self.0, Side::Client)
    }

    fn on_upstream_data(&mut self, _: usize, _: bool) -> Action {
        vm::bytes(self.0, Side::Application)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = vm::deleted(self.0);
    }
}

impl Context for HttpRequest {}

impl HttpContext for HttpRequest {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        vm::request(self.0)
    }
}

impl Drop for HttpRequest {
    fn drop(&mut self) {
        let _ = vm::deleted(self.0);
    }
}
