//! The host calls of the ABI.

use wasmtime::{Caller, Linker};

use super::OK;
use super::memory::{give, header_map, pairs, put, read, text};
use super::world::{Call, World};

const NOT_FOUND: u32 = 1;
const BAD_ARGUMENT: u32 = 2;
const CAS_MISMATCH: u32 = 8;

type Host<'a> = Caller<'a, World>;

pub(super) fn link(linker: &mut Linker<World>) -> wasmtime::Result<()> {
    linker.func_wrap(
        "env",
        "proxy_log",
        |mut host: Host<'_>, _: u32, at: u32, size: u32| {
            let line = text(&mut host, at, size);
            host.data_mut().log.push(line);
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_current_time_nanoseconds",
        |mut host: Host<'_>, at: u32| {
            let now = host.data().wall;
            put(&mut host, at, &now.to_le_bytes());
            OK
        },
    )?;
    linker.func_wrap("env", "proxy_set_tick_period_milliseconds", |_: u32| OK)?;
    linker.func_wrap(
        "env",
        "proxy_get_buffer_bytes",
        |mut host: Host<'_>, kind: u32, _: u32, _: u32, at: u32, size: u32| {
            let bytes = match (kind, &host.data().reply) {
                (7, _) => host.data().configuration.clone(),
                (4, Some((_, body))) => body.clone(),
                _ => return NOT_FOUND,
            };
            give(&mut host, &bytes, at, size)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_header_map_pairs",
        |mut host: Host<'_>, kind: u32, at: u32, size: u32| {
            let map = match (kind, &host.data().reply) {
                (0, _) => header_map(&host.data().headers),
                (6, Some((headers, _))) => header_map(headers),
                // As Envoy, which a filter must not ask for headers of no reply.
                _ => return BAD_ARGUMENT,
            };
            give(&mut host, &map, at, size)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_remove_header_map_value",
        |mut host: Host<'_>, kind: u32, name: u32, name_size: u32| {
            let name = text(&mut host, name, name_size);
            if kind != 0 {
                return BAD_ARGUMENT;
            }
            let headers = &mut host.data_mut().headers;
            headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name.as_bytes()));
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_replace_header_map_value",
        |mut host: Host<'_>, kind: u32, name: u32, name_size: u32, at: u32, size: u32| {
            let name = text(&mut host, name, name_size);
            let value = read(&mut host, at, size);
            if kind != 0 {
                return BAD_ARGUMENT;
            }
            let headers = &mut host.data_mut().headers;
            // As Envoy, which leaves further ones of the name.
            let there = headers
                .iter_mut()
                .find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
            match there {
                Some((_, there)) => *there = value,
                None => headers.push((name.into_bytes(), value)),
            }
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_property",
        |mut host: Host<'_>, path: u32, path_size: u32, at: u32, size: u32| {
            let path = text(&mut host, path, path_size);
            match host.data().properties.get(&path).cloned() {
                Some(value) => give(&mut host, &value, at, size),
                None => NOT_FOUND,
            }
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_property",
        |mut host: Host<'_>, path: u32, path_size: u32, value: u32, value_size: u32| {
            let path = text(&mut host, path, path_size);
            let value = text(&mut host, value, value_size);
            host.data_mut().did.state.insert(path, value);
            OK
        },
    )?;
    shared_data(linker)?;
    streams(linker)?;
    metrics(linker)
}

fn shared_data(linker: &mut Linker<World>) -> wasmtime::Result<()> {
    linker.func_wrap(
        "env",
        "proxy_get_shared_data",
        |mut host: Host<'_>, key: u32, key_size: u32, at: u32, size: u32, cas: u32| {
            let key = text(&mut host, key, key_size);
            let found = {
                let shared = host.data().shelf.0.lock().expect("unpoisoned");
                shared.values.get(&key).cloned()
            };
            let Some((value, number)) = found else {
                return NOT_FOUND;
            };
            put(&mut host, cas, &number.to_le_bytes());
            give(&mut host, &value, at, size)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_shared_data",
        |mut host: Host<'_>, key: u32, key_size: u32, value: u32, value_size: u32, cas: u32| {
            let key = text(&mut host, key, key_size);
            let value = read(&mut host, value, value_size);
            let shelf = host.data().shelf.clone();
            {
                let shared = shelf.0.lock().expect("unpoisoned");
                if let Some((_, number)) = shared.values.get(&key)
                    && cas != 0
                    && cas != *number
                {
                    return CAS_MISMATCH;
                }
            }
            shelf.write(&key, &value);
            OK
        },
    )?;
    Ok(())
}

fn streams(linker: &mut Linker<World>) -> wasmtime::Result<()> {
    linker.func_wrap(
        "env",
        "proxy_continue_stream",
        |mut host: Host<'_>, stream: u32| {
            let context = host.data().context;
            host.data_mut().did.resumed.push((context, stream));
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_close_stream",
        |mut host: Host<'_>, stream: u32| {
            host.data_mut().did.closed.push(stream);
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_send_local_response",
        |mut host: Host<'_>,
         status: u32,
         details: u32,
         details_size: u32,
         _: u32,
         _: u32,
         _: u32,
         _: u32,
         _: i32| {
            let details = text(&mut host, details, details_size);
            host.data_mut().did.replied = Some((status, details));
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_http_call",
        |mut host: Host<'_>,
         cluster: u32,
         cluster_size: u32,
         headers: u32,
         headers_size: u32,
         body: u32,
         body_size: u32,
         _: u32,
         _: u32,
         _: u32,
         token: u32| {
            let cluster = text(&mut host, cluster, cluster_size);
            if cluster == "missing" {
                return BAD_ARGUMENT;
            }
            let headers = pairs(&read(&mut host, headers, headers_size));
            let body = read(&mut host, body, body_size);
            let world = host.data_mut();
            world.tokens += 1;
            let number = world.tokens;
            world.calls.push(Call {
                root: world.context,
                token: number,
                cluster,
                headers,
                body,
            });
            put(&mut host, token, &number.to_le_bytes());
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_effective_context",
        |mut host: Host<'_>, context: u32| {
            host.data_mut().context = context;
            OK
        },
    )?;
    Ok(())
}

fn metrics(linker: &mut Linker<World>) -> wasmtime::Result<()> {
    linker.func_wrap(
        "env",
        "proxy_define_metric",
        |mut host: Host<'_>, _: u32, name: u32, name_size: u32, id: u32| {
            let name = text(&mut host, name, name_size);
            let metrics = &mut host.data_mut().metrics;
            metrics.push((name, 0));
            let number = u32::try_from(metrics.len() - 1).expect("few");
            put(&mut host, id, &number.to_le_bytes());
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_record_metric",
        |mut host: Host<'_>, id: u32, value: u64| {
            host.data_mut().metrics[id as usize].1 = i64::try_from(value).expect("small");
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_increment_metric",
        |mut host: Host<'_>, id: u32, by: i64| {
            host.data_mut().metrics[id as usize].1 += by;
            OK
        },
    )?;
    Ok(())
}
