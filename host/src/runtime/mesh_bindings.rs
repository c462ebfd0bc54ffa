//! The exports of `mesh-policy`; its imports are WASI's, which wasmtime-wasi defines.

wasmtime::component::bindgen!({
    path: "../wit",
    inline: "
        package portcullis:host;
        world mesh {
            export portcullis:mesh/decisions@0.1.0;
            export portcullis:mesh/agent@0.1.0;
        }
    ",
    world: "portcullis:host/mesh",
    ownership: Borrowing { duplicate_if_necessary: true },
    exports: { default: async },
    with: { "portcullis:mesh/types": super::bindings::portcullis::mesh::types },
});
