//! What the filter's standard library asks of WASI.

use wasmtime::{Caller, Linker};

use super::OK;
use super::memory::put;
use super::world::World;

type Host<'a> = Caller<'a, World>;

pub(super) fn link(linker: &mut Linker<World>) -> wasmtime::Result<()> {
    const WASI: &str = "wasi_snapshot_preview1";
    linker.func_wrap(
        WASI,
        "clock_time_get",
        |mut host: Host<'_>, clock: u32, _: u64, at: u32| {
            let now = match clock {
                0 => host.data().wall,
                _ => host.data().monotonic,
            };
            put(&mut host, at, &now.to_le_bytes());
            OK
        },
    )?;
    linker.func_wrap(
        WASI,
        "random_get",
        |mut host: Host<'_>, at: u32, size: u32| {
            let bytes: Vec<u8> = (0..size).map(|_| rand::random()).collect();
            put(&mut host, at, &bytes);
            OK
        },
    )?;
    linker.func_wrap(WASI, "environ_get", |_: u32, _: u32| OK)?;
    linker.func_wrap(
        WASI,
        "environ_sizes_get",
        |mut host: Host<'_>, count: u32, size: u32| {
            put(&mut host, count, &[0; 4]);
            put(&mut host, size, &[0; 4]);
            OK
        },
    )?;
    linker.func_wrap(WASI, "fd_write", |_: u32, _: u32, _: u32, _: u32| -> u32 {
        panic!("the filter writes to a file: it panics")
    })?;
    linker.func_wrap(WASI, "proc_exit", |_: u32| -> () {
        panic!("the filter exits")
    })?;
    Ok(())
}
