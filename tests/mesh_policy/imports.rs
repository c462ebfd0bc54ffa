//! What the component asks of its host, function by function.

use portcullis_tests::peers::workspace;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;
use wasmtime::{Config, Engine};

use crate::component;

/// `PORTCULLIS_BLESS=1` writes the list instead of comparing it.
#[test]
fn the_imports_are_those_of_the_list() {
    let mut config = Config::new();
    // Reading the types needs no fast code.
    config.cranelift_opt_level(wasmtime::OptLevel::None);
    let engine = Engine::new(&config).expect("an engine");
    let component = Component::from_file(&engine, component::built()).expect("a component");
    let mut names = Vec::new();
    for (interface, item) in component.component_type().imports(&engine) {
        let ComponentItem::ComponentInstance(instance) = item.ty else {
            panic!("{interface} is no interface");
        };
        let functions: Vec<String> = instance
            .exports(&engine)
            .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)))
            .map(|(function, _)| format!("{interface}#{function}"))
            .collect();
        // Types alone ask nothing of a host.
        names.extend(functions);
    }
    names.sort();
    let found = names.join("\n") + "\n";
    let file = workspace().join("guest/mesh-policy/imports.txt");
    if std::env::var_os("PORTCULLIS_BLESS").is_some() {
        std::fs::write(&file, &found).expect("the list is written");
    }
    let listed = std::fs::read_to_string(&file).expect("the list is there");
    let lacks = |all: &str, line: &&str| !all.lines().any(|other| other == *line);
    let new: Vec<_> = found.lines().filter(|line| lacks(&listed, line)).collect();
    let gone: Vec<_> = listed.lines().filter(|line| lacks(&found, line)).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "{}: new {new:?}, gone {gone:?}",
        file.display()
    );
}
