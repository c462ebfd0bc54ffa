//! What wit-bindgen makes of the WIT package.

wit_bindgen::generate!({
    path: "../../wit",
    world: "mesh-policy",
    pub_export_macro: true,
    generate_all,
});
