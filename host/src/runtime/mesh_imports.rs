//! What a `mesh-policy` component is given: clocks, streams, a seed, silent standard
//! streams, and the agent's HTTP.

use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Engine, Store, StoreLimits};
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::p2::bindings::cli;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::imports::MAX_ANSWER;
use super::lent_http::LentHttp;
use super::limits::Limits;

/// What an instance carries.
pub(super) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    hooks: LentHttp,
    limits: StoreLimits,
    seed: (u64, u64),
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// A store for one instance.
pub(super) fn store(engine: &Engine, hooks: LentHttp, limits: &Limits) -> Store<State> {
    let state = State {
        wasi: WasiCtx::builder().build(),
        table: ResourceTable::new(),
        http: WasiHttpCtx::new(),
        hooks,
        limits: limits.store_limits(),
        seed: rand::random(),
    };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limits);
    store.epoch_deadline_trap();
    store.set_hostcall_fuel(MAX_ANSWER);
    store
}

/// The linker for every such component.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_proxy_interfaces_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    // Rust's standard library asks for these too. Traps for unknown imports would not do: they are
    // made for the very version that is asked for, and would come before what is defined here.
    cli::environment::add_to_linker::<State, WasiCli>(&mut linker, State::cli)?;
    cli::exit::add_to_linker::<State, WasiCli>(&mut linker, State::cli)?;
    cli::terminal_input::add_to_linker::<State, WasiCli>(&mut linker, State::cli)?;
    cli::terminal_output::add_to_linker::<State, WasiCli>(&mut linker, State::cli)?;
    cli::terminal_stdin::add_to_linker::<State, WasiCli>(&mut linker, State::cli)?;
    cli::terminal_stdout::add_to_linker::<State, WasiCli>(&mut linker, State::cli)?;
    cli::terminal_stderr::add_to_linker::<State, WasiCli>(&mut linker, State::cli)?;
    linker
        .instance("wasi:random/insecure-seed@0.2.3")?
        .func_wrap(
            "insecure-seed",
            |store: wasmtime::StoreContextMut<'_, State>, ()| Ok((store.data().seed,)),
        )?;
    // What the host knows about an error, backtraces included, stays here.
    linker.allow_shadowing(true);
    linker.instance(IO_ERROR)?.func_wrap(
        "[method]error.to-debug-string",
        |_: wasmtime::StoreContextMut<'_, State>,
         (_error,): (wasmtime::component::Resource<IoError>,)| {
            Ok(("the stream failed".to_owned(),))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(linker)
}

type IoError = wasmtime_wasi::p2::bindings::io::error::Error;

/// As wasmtime-wasi names it; a test asks for it, so that a new version cannot go by unseen.
const IO_ERROR: &str = "wasi:io/error@0.2.12";
