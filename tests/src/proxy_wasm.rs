//! A small host of the proxy-wasm ABI, so that the filter runs without Envoy.
//!
//! It has what the filter calls, and traps at what else it imports: the test sets time,
//! properties, headers and answers, and sees what the filter did. Shared data can be given to
//! several machines, as workers have it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use wasmtime::{
    Caller, Config, Engine, Extern, Instance, Linker, Memory, Module, Store, TypedFunc,
};

/// What workers share.
#[derive(Clone, Debug, Default)]
pub struct Shelf(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    values: BTreeMap<String, (Vec<u8>, u32)>,
    writes: u32,
}

impl Shelf {
    /// What stands under each key.
    ///
    /// # Panics
    /// When another test panicked while it wrote.
    #[must_use]
    pub fn values(&self) -> BTreeMap<String, Vec<u8>> {
        let shared = self.0.lock().expect("unpoisoned");
        let copy = |(key, (value, _)): (&String, &(Vec<u8>, u32))| (key.clone(), value.clone());
        shared.values.iter().map(copy).collect()
    }

    /// Writes, as another plugin with the same `vm_id` could.
    ///
    /// # Panics
    /// When another test panicked while it wrote.
    pub fn write(&self, key: &str, value: &[u8]) {
        let mut shared = self.0.lock().expect("unpoisoned");
        shared.writes += 1;
        let number = shared.writes;
        shared
            .values
            .insert(key.to_owned(), (value.to_vec(), number));
    }
}

/// A request of the filter.
#[derive(Clone, Debug)]
pub struct Call {
    /// What its answer is found by.
    pub token: u32,
    /// Envoy's cluster.
    pub cluster: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Call {
    /// Its target.
    #[must_use]
    pub fn path(&self) -> &str {
        let path = self.headers.iter().find(|(name, _)| name == ":path");
        path.map_or("", |(_, path)| path)
    }
}

/// An answer to a [`Call`]: status, headers and body.
pub type Answer = (u16, Vec<(String, String)>, Vec<u8>);

/// Names and values.
pub type Headers = Vec<(Vec<u8>, Vec<u8>)>;

/// What the filter did in the last callback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Did {
    /// Status and response code details of a local reply.
    pub replied: Option<(u32, String)>,
    /// Streams that it closed.
    pub closed: Vec<u32>,
    /// Streams that it let go, with the context in effect.
    pub resumed: Vec<(u32, u32)>,
    /// Filter state that it wrote.
    pub state: BTreeMap<String, String>,
}

/// Everything outside of the filter.
#[derive(Debug, Default)]
pub struct World {
    shelf: Shelf,
    configuration: Vec<u8>,
    /// Nanoseconds of the clock that nobody sets.
    pub monotonic: u64,
    /// Nanoseconds since the epoch.
    pub wall: u64,
    /// Properties, the parts of their paths separated by NUL.
    pub properties: BTreeMap<String, Vec<u8>>,
    /// The request's headers.
    pub headers: Headers,
    reply: Option<(Headers, Vec<u8>)>,
    /// Requests that wait for an answer.
    pub calls: Vec<Call>,
    tokens: u32,
    context: u32,
    /// What was done since it was looked at last.
    pub did: Did,
    /// The log.
    pub log: Vec<String>,
    metrics: Vec<(String, i64)>,
}

/// The compiled filter.
#[derive(Clone)]
pub struct Filter {
    module: Module,
    linker: Arc<Linker<World>>,
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter").finish_non_exhaustive()
    }
}

impl Filter {
    /// Compiles a module.
    ///
    /// # Panics
    /// When it is none, or imports something else.
    #[must_use]
    pub fn compile(file: &Path) -> Self {
        let engine = Engine::new(&Config::new()).expect("an engine");
        let module = Module::from_file(&engine, file).expect("a module");
        let mut linker = Linker::new(&engine);
        link(&mut linker).expect("the imports");
        // The crate `proxy-wasm` imports more than the filter calls.
        linker
            .define_unknown_imports_as_traps(&module)
            .expect("the other imports");
        Self {
            module,
            linker: Arc::new(linker),
        }
    }

    /// What it imports from the host of the ABI.
    #[must_use]
    pub fn host_calls(&self) -> Vec<String> {
        self.module
            .imports()
            .filter(|import| import.module() == "env")
            .map(|import| import.name().to_owned())
            .collect()
    }

    /// The same module, whose host does not allow one call.
    ///
    /// # Panics
    /// When it does not import it.
    #[must_use]
    pub fn without(&self, call: &str) -> Self {
        let mut imports = self.module.imports();
        let kind = imports
            .find(|import| import.module() == "env" && import.name() == call)
            .and_then(|import| import.ty().func().cloned())
            .expect("a function that it imports");
        let mut linker = (*self.linker).clone();
        linker.allow_shadowing(true);
        linker
            .func_new("env", call, kind, |_, _, results| {
                // As Envoy, with `capability_restriction_config`.
                results[0] = wasmtime::Val::I32(10);
                Ok(())
            })
            .expect("it can be replaced");
        Self {
            module: self.module.clone(),
            linker: Arc::new(linker),
        }
    }

    /// What it exports, sorted.
    #[must_use]
    pub fn exports(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .module
            .exports()
            .map(|export| export.name().to_owned())
            .collect();
        names.sort();
        names
    }
}

/// One VM with one root context.
pub struct Machine {
    store: Store<World>,
    instance: Instance,
    contexts: u32,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").finish_non_exhaustive()
    }
}

/// The only root context.
const ROOT: u32 = 1;
/// A second.
const SECOND: u64 = 1_000_000_000;

impl Machine {
    /// Starts a VM; `Err` is its log if it refuses the configuration.
    ///
    /// # Errors
    /// When it refuses the configuration.
    ///
    /// # Panics
    /// When it traps.
    pub fn start(filter: &Filter, shelf: &Shelf, configuration: &str) -> Result<Self, Vec<String>> {
        let world = World {
            shelf: shelf.clone(),
            configuration: configuration.as_bytes().to_vec(),
            monotonic: 1_000 * SECOND,
            wall: SECOND,
            ..World::default()
        };
        let mut store = Store::new(filter.module.engine(), world);
        let instance = filter
            .linker
            .instantiate(&mut store, &filter.module)
            .expect("an instance");
        let mut machine = Self {
            store,
            instance,
            contexts: ROOT,
        };
        machine.call::<(), ()>("_initialize", ());
        machine.call::<(u32, u32), ()>("proxy_on_context_create", (ROOT, 0));
        let length = u32::try_from(configuration.len()).expect("short");
        let good: u32 = machine.call("proxy_on_configure", (ROOT, length));
        if good == 1 {
            Ok(machine)
        } else {
            Err(std::mem::take(&mut machine.world().log))
        }
    }

    /// Everything outside of the filter.
    pub fn world(&mut self) -> &mut World {
        self.store.data_mut()
    }

    fn call<P: wasmtime::WasmParams, R: wasmtime::WasmResults>(
        &mut self,
        name: &str,
        args: P,
    ) -> R {
        let function: TypedFunc<P, R> = self
            .instance
            .get_typed_func(&mut self.store, name)
            .expect("the filter exports it");
        function
            .call(&mut self.store, args)
            .unwrap_or_else(|trap| panic!("{name}: {trap:?}"))
    }

    /// What was done since this was asked last.
    pub fn did(&mut self) -> Did {
        std::mem::take(&mut self.world().did)
    }

    /// Half a second passes.
    pub fn tick(&mut self) {
        self.world().monotonic += SECOND / 2;
        self.world().context = ROOT;
        self.call::<u32, ()>("proxy_on_tick", ROOT);
    }

    /// Answers the oldest request with what `answer` gives; `None` is no reply at all.
    /// Whether there was one.
    pub fn answer(&mut self, answer: impl FnOnce(&Call) -> Option<Answer>) -> bool {
        if self.world().calls.is_empty() {
            return false;
        }
        let call = self.world().calls.remove(0);
        let reply = answer(&call).map(|(status, headers, body)| {
            let bytes = |(name, value): (String, String)| (name.into_bytes(), value.into_bytes());
            let status = (b":status".to_vec(), status.to_string().into_bytes());
            let all: Vec<_> = std::iter::once(status)
                .chain(headers.into_iter().map(bytes))
                .collect();
            (all, body)
        });
        let (count, length) = reply.as_ref().map_or((0, 0), |(headers, body)| {
            (u32::try_from(headers.len()), u32::try_from(body.len()))
                .pipe(|(count, length)| (count.expect("few"), length.expect("short")))
        });
        self.world().reply = reply;
        self.world().context = ROOT;
        let arguments = (ROOT, call.token, count, length, 0_u32);
        self.call::<(u32, u32, u32, u32, u32), ()>("proxy_on_http_call_response", arguments);
        self.world().reply = None;
        true
    }

    /// A new connection, or a request if there is the property of its protocol.
    pub fn context(&mut self) -> u32 {
        self.contexts += 1;
        let context = self.contexts;
        self.world().context = context;
        self.call::<(u32, u32), ()>("proxy_on_context_create", (context, ROOT));
        context
    }

    /// Bytes come from the client, or from the application; whether they go on.
    pub fn bytes(&mut self, context: u32, from_client: bool) -> bool {
        self.world().context = context;
        let name = if from_client {
            "proxy_on_downstream_data"
        } else {
            "proxy_on_upstream_data"
        };
        self.call::<(u32, u32, u32), u32>(name, (context, 4, 0)) == 0
    }

    /// Headers come; whether they go on.
    pub fn request(&mut self, context: u32) -> bool {
        self.world().context = context;
        let arguments = (context, 1_u32, 1_u32);
        self.call::<(u32, u32, u32), u32>("proxy_on_request_headers", arguments) == 0
    }

    /// A context ends.
    pub fn delete(&mut self, context: u32) {
        self.call::<u32, ()>("proxy_on_delete", context);
    }

    /// A metric by name.
    pub fn metric(&mut self, name: &str) -> Option<i64> {
        let metrics = &self.world().metrics;
        let found = metrics.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| *value)
    }
}

/// `value.pipe(f)` is `f(value)`.
trait Pipe: Sized {
    fn pipe<R>(self, f: impl FnOnce(Self) -> R) -> R {
        f(self)
    }
}

impl<T> Pipe for T {}

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const BAD_ARGUMENT: u32 = 2;
const CAS_MISMATCH: u32 = 8;

fn memory(caller: &mut Caller<'_, World>) -> Memory {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => memory,
        _ => panic!("the filter has no memory"),
    }
}

fn read(caller: &mut Caller<'_, World>, start: u32, length: u32) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    memory(caller)
        .read(caller, start as usize, &mut bytes)
        .expect("inside of the memory");
    bytes
}

fn text(caller: &mut Caller<'_, World>, start: u32, length: u32) -> String {
    String::from_utf8(read(caller, start, length)).expect("text")
}

fn put(caller: &mut Caller<'_, World>, place: u32, bytes: &[u8]) {
    memory(caller)
        .write(caller, place as usize, bytes)
        .expect("inside of the memory");
}

/// Gives bytes as Envoy does: into memory that the filter allocates.
fn give(caller: &mut Caller<'_, World>, bytes: &[u8], start: u32, length: u32) -> u32 {
    let Some(Extern::Func(allocate)) = caller.get_export("proxy_on_memory_allocate") else {
        panic!("the filter allocates nothing");
    };
    let allocate = allocate
        .typed::<u32, u32>(&mut *caller)
        .expect("its type is known");
    let size = u32::try_from(bytes.len()).expect("short");
    let place = allocate.call(&mut *caller, size).expect("memory");
    put(caller, place, bytes);
    put(caller, start, &place.to_le_bytes());
    put(caller, length, &size.to_le_bytes());
    OK
}

/// A header map in the ABI's form.
#[must_use]
pub fn header_map(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let size = |length: usize| u32::try_from(length).expect("short").to_le_bytes();
    let mut map = size(pairs.len()).to_vec();
    for (name, value) in pairs {
        map.extend_from_slice(&size(name.len()));
        map.extend_from_slice(&size(value.len()));
    }
    for part in pairs.iter().flat_map(|(name, value)| [name, value]) {
        map.extend_from_slice(part);
        map.push(0);
    }
    map
}

fn pairs(map: &[u8]) -> Vec<(String, String)> {
    let number = |place: usize| {
        let bytes = map[place..place + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    };
    let count = number(0);
    let mut place = 4 + count * 8;
    let mut part = |length: usize| {
        let text = String::from_utf8(map[place..place + length].to_vec()).expect("text");
        place += length + 1;
        text
    };
    (0..count)
        .map(|index| {
            let name = part(number(4 + index * 8));
            (name, part(number(8 + index * 8)))
        })
        .collect()
}

type Host<'a> = Caller<'a, World>;

fn link(linker: &mut Linker<World>) -> wasmtime::Result<()> {
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
    metrics(linker)?;
    wasi(linker)
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

fn wasi(linker: &mut Linker<World>) -> wasmtime::Result<()> {
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
