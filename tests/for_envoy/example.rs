//! `examples/envoy/run`, as the page says to run it.

use std::process::{Command, Stdio};

use portcullis_tests::program::{self, Said};
use portcullis_tests::{components, envoy_process, peers};

#[test]
fn the_example_allows_refuses_explains_and_rotates() {
    let Some(envoy) = envoy_process::program("the_example_allows_refuses") else {
        return;
    };
    let mut command = Command::new(peers::workspace().join("examples/envoy/run"));
    command
        .env("ENVOY", envoy)
        .env("FILTER", components::envoy_filter())
        .env("PORTCULLIS", program::path())
        .stdin(Stdio::null());
    let said: Said = program::run(&mut command);
    assert_eq!(said.code, Some(0), "{}\n{}", said.out, said.err);
    for part in [
        "0 errors, 0 warnings",
        "hello from db",
        "\nstatus 403\n",
        "\"details\":\"portcullis[permission]",
        "\nbefore \"serial_number\"",
        "9. Changed",
        "\nDone.\n",
    ] {
        assert!(said.out.contains(part), "no `{part}` in\n{}", said.out);
    }
    let why = said.out.split("7. Explained").nth(1).expect("a step");
    let why = why.split("8. Rotated").next().expect("another one");
    assert!(why.contains("/admin"), "{why}");
}
