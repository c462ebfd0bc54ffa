//! What `portcullis` answers on the command line: every mistake is one clear
//! line with the right exit status, commands do what they say, and no secret is shown.

mod answers;
mod refusals;
mod running;
mod secrets;

use portcullis_tests::program::{Said, portcullis, run};

/// Runs `portcullis ARGUMENTS`, which must fail: with this status, in one line
/// on standard error that has all of `parts`, and nothing on standard output.
#[track_caller]
fn refused(arguments: &[&str], code: i32, parts: &[&str]) {
    refused_as(
        &run(&mut portcullis(arguments.iter().copied())),
        code,
        parts,
    );
}

#[track_caller]
fn refused_as(said: &Said, code: i32, parts: &[&str]) {
    assert_eq!(said.code, Some(code), "{said:?}");
    assert_eq!(said.out, "", "{said:?}");
    let line = said.err.strip_suffix('\n').expect("a line");
    assert!(
        line.starts_with("portcullis: ") && !line.contains('\n'),
        "{said:?}"
    );
    assert!(
        line.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
        "{said:?}"
    );
    for part in parts {
        assert!(line.contains(part), "`{part}` is missing in: {line}");
    }
    for word in ["panicked", "RUST_BACKTRACE", "unwrap", "stack backtrace"] {
        assert!(!line.contains(word), "{line}");
    }
}

/// Answers every connection with the same bytes.
struct Server {
    /// `host:port`.
    address: String,
}

impl Server {
    fn start(answer: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let answer = answer.as_bytes().to_vec();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                // The request must be read, or closing would reset the connection.
                let _ = std::io::Read::read(&mut stream, &mut [0; 65_536]);
                let _ = std::io::Write::write_all(&mut stream, &answer);
            }
        });
        Self { address }
    }
}
