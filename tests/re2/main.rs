//! Our reading of RE2 patterns beside RE2 itself and beside Go's `regexp`, over
//! seeded random patterns and texts.
//!
//! Where an answer is meant to differ, [`intended`] says which, and each of its
//! reasons must appear; every other difference fails.

mod generate;
mod intended;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use portcullis_core::re2::Pattern;
use portcullis_tests::peers;
use rand::SeedableRng;
use rand::rngs::StdRng;

use generate::Question;
use intended::Peer;

/// How many patterns are made; each is asked about several texts.
const PATTERNS: usize = 12_000;
/// How many pairs must have been compared in the end.
const PAIRS: usize = 60_000;

#[test]
fn matches_as_re2_does() {
    let Some(python) = peers::require("re2::matches_as_re2_does", "re2/bin/python") else {
        return;
    };
    let mut command = Command::new(python);
    command.arg(peers::workspace().join("tests/peers/re2/match.py"));
    compare(Peer::Re2, command);
}

#[test]
fn matches_as_go_does() {
    let Some(program) = peers::require("re2::matches_as_go_does", "regexp") else {
        return;
    };
    compare(Peer::Go, Command::new(program));
}

fn compare(peer: Peer, command: Command) {
    let seed = match std::env::var("PORTCULLIS_SEED") {
        Ok(text) => text.parse().expect("PORTCULLIS_SEED is a number"),
        Err(_) => 0x20_26_11_21,
    };
    println!("seed {seed}; PORTCULLIS_SEED=<number> tries another");
    let mut random = StdRng::seed_from_u64(seed);
    let mut questions = generate::fixed();
    questions.extend((0..PATTERNS).map(|_| generate::question(&mut random)));
    let answers = ask(peer, command, &questions);

    let mut pairs = 0;
    let mut tally = BTreeMap::<&str, usize>::new();
    let mut unexpected = Vec::new();
    for (question, theirs) in questions.iter().zip(&answers) {
        pairs += question.texts.len();
        let ours = Pattern::parse(&question.pattern);
        let kind = match (&ours, theirs) {
            (Ok(_), Some(_)) => "read by both",
            (Err(_), None) => "refused by both",
            _ => "read by one",
        };
        *tally.entry(kind).or_default() += 1;
        match (&ours, theirs) {
            (Err(_), None) => {}
            (Ok(pattern), Some(theirs)) => {
                for (text, theirs) in question.texts.iter().zip(theirs) {
                    let ours = pattern.is_full_match(text);
                    let kind = if ours { "matched" } else { "not matched" };
                    *tally.entry(kind).or_default() += 1;
                    if ours == *theirs {
                        continue;
                    }
                    match intended::of_match(peer, &question.pattern, text) {
                        Some(reason) => *tally.entry(reason).or_default() += 1,
                        None => unexpected.push(format!(
                            "{pattern:?} on {:?} ({text:02x?}): we say {ours}, they say {theirs}",
                            String::from_utf8_lossy(text)
                        )),
                    }
                }
            }
            (ours, theirs) => {
                let reason = intended::of_syntax(peer, &question.pattern, ours.as_ref().err());
                match reason {
                    Some(reason) => *tally.entry(reason).or_default() += 1,
                    None => unexpected.push(format!(
                        "{:?}: we say {ours:?}, they {}",
                        question.pattern,
                        theirs.as_ref().map_or("refuse it", |_| "read it")
                    )),
                }
            }
        }
    }
    println!("{pairs} pairs; {tally:#?}");
    for line in unexpected.iter().take(40) {
        println!("{line}");
    }
    assert_eq!(unexpected.len(), 0, "differences that nobody intended");
    assert!(pairs >= PAIRS, "only {pairs} pairs");
    for (kind, least) in [
        ("read by both", PATTERNS / 2),
        ("refused by both", PATTERNS / 20),
        ("matched", PAIRS / 10),
        ("not matched", PAIRS / 10),
    ] {
        let count = tally.get(kind).copied().unwrap_or(0);
        assert!(count >= least, "only {count} {kind}");
    }
    for reason in intended::reasons(peer) {
        assert!(tally.contains_key(reason), "never seen: {reason}");
    }
}

/// The peer's answers: `None` where it refuses the pattern.
fn ask(peer: Peer, mut command: Command, questions: &[Question]) -> Vec<Option<Vec<bool>>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the peer starts");
    let mut input = child.stdin.take().expect("it is piped");
    let mut lines = String::new();
    for question in questions {
        lines.push_str(&hex(&written_for(peer, question.pattern.as_bytes())));
        for text in &question.texts {
            lines.push(' ');
            lines.push_str(&hex(&written_for(peer, text)));
        }
        lines.push('\n');
    }
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().expect("the peer ends");
    writer
        .join()
        .expect("the writer ends")
        .expect("the peer reads everything");
    assert!(output.status.success(), "the peer failed");
    let answers: Vec<_> = String::from_utf8(output.stdout)
        .expect("it answers in ASCII")
        .lines()
        .map(|line| {
            (!line.starts_with('E')).then(|| line.bytes().map(|byte| byte == b'1').collect())
        })
        .collect();
    assert_eq!(answers.len(), questions.len(), "an answer for each line");
    answers
}

/// RE2 can take each byte for a character, as we do; Go is given that character.
fn written_for(peer: Peer, bytes: &[u8]) -> Vec<u8> {
    match peer {
        Peer::Re2 => bytes.to_vec(),
        Peer::Go => bytes
            .iter()
            .map(|byte| char::from(*byte))
            .collect::<String>()
            .into_bytes(),
    }
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".to_owned();
    }
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("memory");
        text
    })
}
