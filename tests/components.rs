//! What the published components are: their imports, their size, and what is said about others.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use portcullis::runtime::{COMPILE_ARGUMENT, ComponentError};
use portcullis::{Component, ComponentOptions};
use portcullis_tests::components::{mesh_policy, policy};
use portcullis_tests::peers::workspace;
use portcullis_tests::program;
use wasmtime::component::types::ComponentItem;
use wasmtime::{Config, Engine};

/// Every function that a component imports, as `wit/imports` lists it.
fn imports(file: &Path) -> String {
    let engine = Engine::new(&Config::new()).expect("an engine");
    let component = wasmtime::component::Component::from_file(&engine, file).expect("a component");
    let mut names = Vec::new();
    for (interface, item) in component.component_type().imports(&engine) {
        let ComponentItem::ComponentInstance(instance) = item.ty else {
            panic!("{interface} is no interface");
        };
        let before = names.len();
        for (function, item) in instance.exports(&engine) {
            if matches!(item.ty, ComponentItem::ComponentFunc(_)) {
                names.push(format!("{interface}#{function}\n"));
            }
        }
        if names.len() == before {
            names.push(format!("{interface}\n"));
        }
    }
    names.sort();
    names.concat()
}

/// `UPDATE=1 cargo test` writes the lists.
fn compare(list: &str, actual: &str) {
    let path = workspace().join("wit/imports").join(list);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, actual).expect("the list can be written");
    }
    let listed = fs::read_to_string(&path).expect("the list is there");
    assert_eq!(
        listed, actual,
        "what is imported and `wit/imports/{list}` differ"
    );
}

#[test]
fn policy_imports_what_is_listed() {
    compare("policy.txt", &imports(&policy()));
}

#[test]
fn mesh_policy_imports_what_is_listed() {
    compare("mesh-policy.txt", &imports(&mesh_policy()));
}

#[test]
fn the_policy_imports_nothing_by_which_it_could_learn_or_tell() {
    let imports = imports(&policy());
    for interface in [
        "wasi:http",
        "wasi:sockets",
        "wasi:filesystem",
        "wasi:clocks",
        "wasi:random/random",
    ] {
        assert!(!imports.contains(interface), "{interface}");
    }
}

#[test]
fn the_built_in_component_is_this_one() {
    assert!(
        fs::read(policy()).expect("the component") == Component::embedded_bytes(),
        "build the host again"
    );
}

#[test]
fn the_policy_is_small() {
    let size = Component::embedded_bytes().len();
    assert!(size <= 2_000_000, "{size} bytes");
}

fn refused(name: &str, bytes: &[u8]) -> ComponentError {
    let options = ComponentOptions {
        cache: None,
        ..ComponentOptions::default()
    };
    Component::from_bytes(name, bytes, &options).expect_err("it is refused")
}

#[test]
fn what_is_no_policy_is_refused_in_one_line_each() {
    let good = Component::embedded_bytes();
    let mut later = good.to_vec();
    for place in 0..later.len() - 12 {
        if later[place..].starts_with(b"decisions@0.1.0") {
            later[place + 12] = b'2';
        }
    }
    let mut torn = good[..good.len() / 2].to_vec();
    let half = refused("it", &torn).to_string();
    torn.truncate(8);
    let cases: [(&str, &[u8], &str); 8] = [
        ("empty", b"", "it is empty"),
        ("text", b"(component)", "does not begin like WebAssembly"),
        (
            "core module",
            b"\0asm\x01\0\0\0",
            "build it for wasm32-wasip2",
        ),
        ("unknown version", b"\0asm\x77\0\x09\0", "its version"),
        (
            "machine code",
            b"\x7fELF\x02\x01\x01\0",
            "give the .wasm itself",
        ),
        ("no exports", &torn, "exports nothing"),
        (
            "another version",
            &later,
            "implements `portcullis:mesh/decisions@0.2.0`",
        ),
        (
            "wrong bytes",
            &[good, b"garbage"].concat(),
            "cannot be compiled",
        ),
    ];
    assert!(half.contains("cannot be compiled"), "{half}");
    for (name, bytes, part) in cases {
        let said = refused(name, bytes).to_string();
        assert!(said.contains(part), "{name}: {said}");
        assert!(
            said.contains(name) && said.lines().count() == 1 && said.len() < 600,
            "{said}"
        );
    }
}

#[test]
fn a_component_that_wants_http_is_sent_elsewhere() {
    let error = Component::from_file(mesh_policy(), &ComponentOptions::default())
        .expect_err("it is refused");
    assert!(matches!(error, ComponentError::WantsHttp { .. }), "{error}");
    assert!(error.to_string().contains("wasi:http/"), "{error}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    for path in ["/nonexistent/policy.wasm", "/tmp"] {
        let error =
            Component::from_file(path, &ComponentOptions::default()).expect_err("it is refused");
        assert!(matches!(&error, ComponentError::Read { .. }), "{error}");
        assert!(error.to_string().contains(path), "{error}");
    }
}

#[test]
fn the_command_compiles_in_a_process_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    Component::embedded(&ComponentOptions {
        cache: Some(cache.clone()),
        ..ComponentOptions::default()
    })
    .expect("it compiles");
    let file = fs::read_dir(&cache)
        .expect("the folder")
        .next()
        .expect("one file")
        .expect("an entry")
        .path();
    let ours = fs::read(file).expect("the file");

    let mut child = Command::new(program::path())
        .arg(COMPILE_ARGUMENT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(Component::embedded_bytes())
        .expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", output.status);
    assert!(
        !output.stdout.is_empty() && ours.ends_with(&output.stdout),
        "the machine code is another"
    );
}

#[test]
fn a_damaged_cache_is_compiled_anew_and_a_good_one_is_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    // A compiler that cannot be started: then this process compiles.
    let options = ComponentOptions {
        cache: Some(cache.clone()),
        compiler: Some("/nonexistent/compiler".into()),
        ..ComponentOptions::default()
    };
    let component = || Component::embedded(&options).expect("it compiles");
    let first = component();
    let file = fs::read_dir(&cache)
        .expect("the folder")
        .next()
        .expect("one file")
        .expect("an entry")
        .path();
    let written = fs::metadata(&file)
        .expect("the file")
        .modified()
        .expect("a time");
    assert_eq!(component().sha256(), first.sha256());
    assert_eq!(
        fs::metadata(&file)
            .expect("the file")
            .modified()
            .expect("a time"),
        written,
        "it was compiled again"
    );

    let mut damaged = fs::read(&file).expect("the file");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&file, &damaged).expect("damage");
    component();
    let mended = fs::read(&file).expect("the file");
    assert!(
        mended != damaged && mended.len() == damaged.len(),
        "the damaged file stayed"
    );

    // A cache that others can write to is neither read nor written.
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).expect("permissions");
    fs::remove_file(&file).expect("removed");
    component();
    assert!(
        fs::read_dir(&cache).expect("the folder").next().is_none(),
        "something was kept"
    );
}
