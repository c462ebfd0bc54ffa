//! What `portcullis` answers on the command line: every mistake is one clear
//! line with the right exit status, and no secret is shown.

use portcullis_tests::program::{Said, portcullis, run};

/// Runs `portcullis ARGUMENTS`, which must fail: with this status, in one line
/// on standard error that has all of `parts`, and nothing on standard output.
#[track_caller]
fn refused(arguments: &[&str], code: i32, parts: &[&str]) {
    refused_as(&run(&mut portcullis(arguments.iter().copied())), code, parts);
}

#[track_caller]
fn refused_as(said: &Said, code: i32, parts: &[&str]) {
    assert_eq!(said.code, Some(code), "{said:?}");
    assert_eq!(said.out, "", "{said:?}");
    let line = said.err.strip_suffix('\n').expect("a line");
    assert!(line.starts_with("portcullis: ") && !line.contains('\n'), "{said:?}");
    assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{said:?}");
    for part in parts {
        assert!(line.contains(part), "`{part}` is missing in: {line}");
    }
    for word in ["panicked", "RUST_BACKTRACE", "unwrap", "stack backtrace"] {
        assert!(!line.contains(word), "{line}");
    }
}

#[test]
fn usage_errors_say_what_and_where_to_read() {
    refused(&[], 2, &["no command", "portcullis demo", "portcullis --help"]);
    refused(&["verson"], 2, &["verson", "version", "portcullis --help"]);
    refused(&["version", "--outptu", "json"], 2, &["--outptu", "--output", "portcullis version --help"]);
    refused(&["version", "-o", "xml"], 2, &["xml", "text, json", "portcullis version --help"]);
    refused(&["version", "-log-level", "loud"], 2, &["loud", "--log-level", "info"]);
}
