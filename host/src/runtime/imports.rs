//! What the policy's component is given: a seed for its hash maps, and nothing else.
//!
//! Rust's standard library makes a component import `wasi:cli`, `wasi:io` and
//! `wasi:random/insecure-seed`. Only the seed is ever used by a policy that works;
//! everything else traps when it is called.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store, StoreLimits};

use super::limits::Limits;

/// The most that one answer may hand over.
pub(super) const MAX_ANSWER: usize = 16 << 20;

/// What every instance carries.
pub(super) struct State {
    limits: StoreLimits,
    seed: (u64, u64),
}

/// A store for one instance.
pub(super) fn store(engine: &Engine, limits: &Limits) -> Store<State> {
    let state = State {
        limits: limits.store_limits(),
        seed: rand::random(),
    };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limits);
    store.epoch_deadline_trap();
    store.set_hostcall_fuel(MAX_ANSWER);
    store
}

/// The linker for `component`.
pub(super) fn linker(engine: &Engine, component: &Component) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    // By the version that it asks for: a trap of that very version would come first.
    for (interface, _) in component.component_type().imports(engine) {
        if interface.starts_with("wasi:random/insecure-seed@0.2.") {
            linker.instance(interface)?.func_wrap(
                "insecure-seed",
                |store: wasmtime::StoreContextMut<'_, State>, ()| Ok((store.data().seed,)),
            )?;
        }
    }
    linker.define_unknown_imports_as_traps(component)?;
    Ok(linker)
}

/// The names of what a component imports, sorted.
pub(super) fn imports(engine: &Engine, component: &Component) -> Vec<String> {
    let mut names: Vec<String> = component
        .component_type()
        .imports(engine)
        .flat_map(|(interface, item)| match item.ty {
            ComponentItem::ComponentInstance(instance) => {
                let functions: Vec<String> = instance
                    .exports(engine)
                    .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)))
                    .map(|(function, _)| format!("{interface}#{function}"))
                    .collect();
                if functions.is_empty() {
                    vec![format!("{interface} (types)")]
                } else {
                    functions
                }
            }
            _ => vec![interface.to_owned()],
        })
        .collect();
    names.sort();
    names
}
