//! The smallest filter: one callback of each kind, which lets everything go on.

use wasm_encoder::{
    CodeSection, ExportKind, ExportSection, Function, FunctionSection, MemorySection, MemoryType,
    Module, TypeSection, ValType,
};

/// What Envoy finds in it: each with its number of parameters, and what it gives.
const FUNCTIONS: [(&str, usize, Option<i32>); 4] = [
    // Names the version of the ABI by its presence.
    ("proxy_abi_version_0_2_1", 0, None),
    // Envoy demands it, and has nothing to write here.
    ("proxy_on_memory_allocate", 1, Some(0)),
    ("proxy_on_request_headers", 3, Some(0)),
    ("proxy_on_downstream_data", 3, Some(0)),
];

/// A module of the proxy-wasm ABI. It has no contexts, no configuration and no memory to
/// speak of: whatever else is exported, Envoy calls.
pub(super) fn module() -> Vec<u8> {
    let (mut types, mut functions) = (TypeSection::new(), FunctionSection::new());
    let (mut exports, mut code) = (ExportSection::new(), CodeSection::new());
    for (index, (name, parameters, gives)) in (0_u32..).zip(FUNCTIONS) {
        types
            .ty()
            .function(vec![ValType::I32; parameters], gives.map(|_| ValType::I32));
        functions.function(index);
        exports.export(name, ExportKind::Func, index);
        let mut body = Function::new([]);
        if let Some(constant) = gives {
            body.instructions().i32_const(constant);
        }
        body.instructions().end();
        code.function(&body);
    }
    exports.export("memory", ExportKind::Memory, 0);
    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: 1,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    let mut module = Module::new();
    module
        .section(&types)
        .section(&functions)
        .section(&memories)
        .section(&exports)
        .section(&code);
    module.finish()
}
