//! A small host of the proxy-wasm ABI, so that the filter runs without Envoy.
//!
//! It has what the filter calls, and traps at what else it imports: the test sets time,
//! properties, headers and answers, and sees what the filter did. Shared data can be given to
//! several machines, as workers have it.

mod calls;
mod machine;
mod memory;
mod wasi;
mod world;

use std::path::Path;
use std::sync::Arc;

use wasmtime::{Config, Engine, Linker, Module};

pub use self::machine::{Machine, Spent};
pub use self::world::{Answer, Call, Did, Headers, Shelf, World};

/// The status of a host call that did what it should.
const OK: u32 = 0;

/// The compiled filter.
#[derive(Clone)]
pub struct Filter {
    module: Module,
    linker: Arc<Linker<World>>,
    counts: bool,
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
        Self::compile_with(file, false)
    }

    /// Compiles a module whose machines count what they do.
    ///
    /// # Panics
    /// When it is none, or imports something else.
    #[must_use]
    pub fn counting(file: &Path) -> Self {
        Self::compile_with(file, true)
    }

    fn compile_with(file: &Path, counts: bool) -> Self {
        let mut config = Config::new();
        config.consume_fuel(counts);
        let engine = Engine::new(&config).expect("an engine");
        let module = Module::from_file(&engine, file).expect("a module");
        let mut linker = Linker::new(&engine);
        calls::link(&mut linker).expect("the host calls");
        wasi::link(&mut linker).expect("what WASI gives");
        // The crate `proxy-wasm` imports more than the filter calls.
        linker
            .define_unknown_imports_as_traps(&module)
            .expect("the other imports");
        Self {
            module,
            linker: Arc::new(linker),
            counts,
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
            counts: self.counts,
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
