//! What host/NATIVE.md tells a newcomer to type does what it says.

use std::process::Command;

use portcullis_tests::proxy::Proxy;
use portcullis_tests::{ports, program};

use crate::scene::{SOON, example, local, run};

const PAGE: &str = include_str!("../../host/NATIVE.md");

/// The commands of the page, each with the comment behind it.
fn commands() -> Vec<(String, String)> {
    let (_, rest) = PAGE.split_once("```sh\n").expect("commands");
    let (block, _) = rest.split_once("```").expect("their end");
    let mut commands = Vec::new();
    let mut command = String::new();
    for line in block.lines() {
        command.push_str(line);
        if command.matches('\'').count().is_multiple_of(2) {
            let (command, comment) = command.split_once("  #").unwrap_or((&command, ""));
            commands.push((command.trim().to_owned(), comment.trim().to_owned()));
        } else {
            command.push('\n');
            continue;
        }
        command.clear();
    }
    commands
}

#[test]
fn what_the_page_says_to_type_works() {
    let [agent, listen] = ports::free::<2>().map(local);
    let mut running: Vec<Proxy> = Vec::new();
    let mut said = Vec::new();
    for (command, comment) in commands() {
        let words = command.replace("cargo run --release ", "");
        if words == "--bin portcullis -- dev" {
            let mut dev = program::portcullis(["dev", "-listen"]);
            dev.arg(agent.to_string());
            let dev = Proxy::spawn(dev);
            dev.logs(&agent.to_string());
            running.push(dev);
        } else if let Some(arguments) = words.strip_prefix("--bin portcullis -- ") {
            let mut command = program::portcullis(arguments.split(' '));
            let output = program::run(command.env("CONSUL_HTTP_ADDR", agent.to_string()));
            assert_eq!(output.code, Some(1), "denied: {output:?}");
            let why = comment.strip_prefix("why: ").expect("why");
            assert!(output.out.contains(why), "{output:?}");
            said.push("check");
        } else if words.starts_with("curl ") {
            let command = command.replace("localhost:8500", &agent.to_string());
            let shell = format!(
                "curl() {{ command curl --silent --show-error --fail \"$@\"; }}; {command}"
            );
            let output = program::run(Command::new("sh").args(["-c", &shell]));
            assert_eq!(output.code, Some(0), "{command}: {output:?}");
        } else {
            let example_of = words.strip_prefix("-p portcullis-examples --example ");
            let words = example_of.unwrap_or_else(|| panic!("what is `{command}`?"));
            let (name, arguments) = words.split_once(" -- ").unwrap_or((words, ""));
            assert!(example(name).is_file(), "{name}");
            if arguments.is_empty() {
                let api = run(name, agent, &[listen.to_string()]);
                api.logs("api listens on");
                running.push(api);
                continue;
            }
            let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
            let mut client = run(name, agent, &arguments);
            let ended = client.process().wait(SOON);
            assert!(
                ended.is_some_and(|status| status.success()) && client.log().starts_with(&comment),
                "{command}: {}",
                client.log()
            );
            said.push("client");
        }
    }
    assert_eq!(said, ["client", "client", "check"]);
    assert_eq!(running.len(), 2);
}
