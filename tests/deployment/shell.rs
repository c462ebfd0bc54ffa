//! Completion scripts and manual pages.

use std::fs;
use std::process::Command;

use portcullis_tests::program::{portcullis, run};

/// What bash offers for the last of `words`.
fn completed(script: &str, words: &[&str]) -> Vec<String> {
    let program = r#"
        eval "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
        _portcullis portcullis "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let said = run(Command::new("bash")
        .args(["-c", program, "bash", script])
        .args(words));
    assert_eq!(said.code, Some(0), "{}", said.err);
    said.out.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_flags_by_one_dash_or_two_and_values() {
    let script = run(&mut portcullis(["completions", "bash"])).out;
    let commands = completed(&script, &["portcullis", ""]);
    for command in ["proxy", "check", "component", "completions"] {
        assert!(
            commands.iter().any(|found| found == command),
            "{commands:?}"
        );
    }
    for (typed, flag) in [
        ("-serv", "-service"),
        ("--serv", "--service"),
        ("-token-f", "-token-file"),
        ("-print", "-print-acl-policy"),
    ] {
        let found = completed(&script, &["portcullis", "proxy", typed]);
        assert!(
            found.iter().any(|found| found == flag),
            "{typed}: {found:?}"
        );
    }
    for flag in ["-matching", "--matching"] {
        let found = completed(&script, &["portcullis", "proxy", flag, ""]);
        assert_eq!(found, ["strict", "envoy"], "{flag}");
    }
}

#[test]
fn other_shells_have_scripts_with_both_forms() {
    for (shell, both) in [
        ("zsh", ["'-service=[", "'--service=["]),
        ("fish", ["-l service", "-o service"]),
    ] {
        let script = run(&mut portcullis(["completions", shell]));
        assert_eq!(script.code, Some(0), "{}", script.err);
        assert!(
            both.iter().all(|form| script.out.contains(form)),
            "{shell}: {}",
            script.out
        );
        assert!(
            !["demo-service", "until-stdin"]
                .iter()
                .any(|hidden| script.out.contains(hidden)),
            "{shell}: what is hidden is offered"
        );
    }
    let unknown = run(&mut portcullis(["completions", "tcsh"]));
    assert_eq!(unknown.code, Some(2), "{}", unknown.err);
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man1");
    let written = run(portcullis(["man"]).arg(&pages));
    assert_eq!(written.code, Some(0), "{}", written.err);
    let page = |name: &str| fs::read_to_string(pages.join(name)).expect(name);
    assert!(
        page("portcullis.1").starts_with(".ie") || page("portcullis.1").contains(".TH portcullis")
    );
    assert!(page("portcullis-proxy.1").contains("drain\\-timeout"));
    assert!(pages.join("portcullis-component-compile.1").exists());
    let hidden = fs::read_dir(&pages)
        .expect("a folder")
        .filter_map(Result::ok)
        .filter(|page| page.file_name().to_string_lossy().contains("__"))
        .count();
    assert_eq!(hidden, 0, "hidden commands have no page");
}
