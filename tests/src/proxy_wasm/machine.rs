//! One VM: the callbacks that Envoy would make.

use wasmtime::{Instance, Store, TypedFunc};

use super::Filter;
use super::world::{Answer, Call, Did, Shelf, World};

/// One VM with one root context for each plugin.
pub struct Machine {
    store: Store<World>,
    instance: Instance,
    roots: Vec<u32>,
    contexts: u32,
}

/// What calls cost, whatever the machine and its load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Of WebAssembly.
    pub instructions: u64,
    /// Calls into the filter: callbacks, and memory for what host calls give.
    pub entries: u64,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").finish_non_exhaustive()
    }
}

/// A second.
const SECOND: u64 = 1_000_000_000;

impl Machine {
    /// Starts a VM with one plugin; `Err` is its log if that refuses the configuration.
    ///
    /// # Errors
    /// When it refuses the configuration.
    ///
    /// # Panics
    /// When it traps.
    pub fn start(filter: &Filter, shelf: &Shelf, configuration: &str) -> Result<Self, Vec<String>> {
        let world = World {
            shelf: shelf.clone(),
            monotonic: 1_000 * SECOND,
            wall: SECOND,
            ..World::default()
        };
        let mut store = Store::new(filter.module.engine(), world);
        if filter.counts {
            store.set_fuel(u64::MAX).expect("it counts");
        }
        let instance = filter
            .linker
            .instantiate(&mut store, &filter.module)
            .expect("an instance");
        let mut machine = Self {
            store,
            instance,
            roots: Vec::new(),
            contexts: 0,
        };
        machine.call::<(), ()>("_initialize", ());
        machine.plugin(configuration)?;
        Ok(machine)
    }

    /// A further plugin in the same VM: its root context.
    ///
    /// # Errors
    /// The log, when it refuses the configuration.
    ///
    /// # Panics
    /// When it traps.
    pub fn plugin(&mut self, configuration: &str) -> Result<u32, Vec<String>> {
        self.contexts += 1;
        let root = self.contexts;
        self.world().configuration = configuration.as_bytes().to_vec();
        self.world().context = root;
        self.call::<(u32, u32), ()>("proxy_on_context_create", (root, 0));
        let length = u32::try_from(configuration.len()).expect("short");
        if self.call::<(u32, u32), u32>("proxy_on_configure", (root, length)) == 1 {
            self.roots.push(root);
            Ok(root)
        } else {
            Err(std::mem::take(&mut self.world().log))
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
        self.world().entries += 1;
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

    /// What was done since this was asked last, of a filter that counts.
    ///
    /// # Panics
    /// When it does not count.
    pub fn spent(&mut self) -> Spent {
        let left = self.store.get_fuel().expect("it counts");
        self.store.set_fuel(u64::MAX).expect("it counts");
        Spent {
            instructions: u64::MAX - left,
            entries: std::mem::take(&mut self.world().entries),
        }
    }

    /// Half a second passes.
    pub fn tick(&mut self) {
        self.world().monotonic += SECOND / 2;
        for root in self.roots.clone() {
            self.world().context = root;
            self.call::<u32, ()>("proxy_on_tick", root);
        }
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
        self.world().context = call.root;
        let arguments = (call.root, call.token, count, length, 0_u32);
        self.call::<(u32, u32, u32, u32, u32), ()>("proxy_on_http_call_response", arguments);
        self.world().reply = None;
        true
    }

    /// A new connection, or a request if there is the property of its protocol.
    pub fn context(&mut self) -> u32 {
        let first = self.roots[0];
        self.context_of(first)
    }

    /// The same, of a plugin.
    pub fn context_of(&mut self, root: u32) -> u32 {
        self.contexts += 1;
        let context = self.contexts;
        self.world().context = context;
        self.call::<(u32, u32), ()>("proxy_on_context_create", (context, root));
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
