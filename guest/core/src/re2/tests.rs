//! Each rule, and the bounds. What patterns mean is compared with RE2 in `tests/re2`.

use super::{Engine, Error, MAX_PATTERN, MAX_PROGRAM, Pattern, Reason};

fn refused(pattern: &str) -> Error {
    Pattern::parse(pattern).expect_err(pattern)
}

#[test]
fn matches_the_whole_text() {
    for (pattern, text, expected) in [
        ("a|ab", "ab", true),
        ("ab|a", "ab", true),
        ("/v[123]", "/v1/x", false),
        ("/v[123]", "x/v1", false),
        ("", "", true),
        ("", "a", false),
        ("a{,2}", "a{,2}", true),
        (r"\d", "\u{0663}", false),
        ("[a&&b]", "&", true),
        ("straße", "straße", true),
        // Only ASCII letters have another case.
        ("(?i)straße", "STRAẞE", false),
        (".*", "a\nb", false),
        ("(?s).*", "a\nb", true),
        (r"a\z", "a\n", false),
        ("a$", "a\n", false),
    ] {
        let pattern = Pattern::parse(pattern).unwrap();
        assert_eq!(
            pattern.is_full_match(text.as_bytes()),
            expected,
            "{pattern:?} {text:?}"
        );
    }
}

#[test]
fn matches_bytes() {
    for (pattern, text, expected) in [
        (".", &b"\xff"[..], true),
        (".", b"\xc3\xa9", false),
        ("..", b"\xc3\xa9", true),
        ("\u{e9}", b"\xc3\xa9", true),
        ("\u{e9}", b"\xe9", false),
        (r"\xe9", b"\xe9", true),
        (r"\x{e9}+", b"\xe9\xe9", true),
        (r"(?i)\xe9", b"\xc9", false),
        (r"(?i)[\xe9]", b"\xc9", false),
        (r"(?i)[a\xe9]", b"A", true),
        (r"(?i)\p{Lu}", b"a", true),
        (r"(?i)\p{Lu}", b"\xe9", false),
        (r"(?i)k", b"\xe2\x84\xaa", false),
        (r"\pL", b"\xe9", true),
        (r"\p{Greek}|a", b"a", true),
        (r"\P{Greek}", b"\xff", true),
        (r"\W", b"\xe9", true),
        ("[^a]", b"\xff", true),
        (r"[\x80-\xff]", b"\x80", true),
        (r"\C\C", b"\xff\n", true),
        ("admin.*", b"admin\xff", true),
    ] {
        let pattern = Pattern::parse(pattern).unwrap();
        assert_eq!(
            pattern.is_full_match(text),
            expected,
            "{pattern:?} {text:?}"
        );
    }
}

#[test]
fn says_where_and_why() {
    use Reason::*;
    let text = str::to_owned;
    for (pattern, position, reason) in [
        ("a\\", 1, TrailingBackslash),
        (r"aé\Z", 3, UnknownEscape(text(r"\Z"))),
        (r"\1", 0, UnknownEscape(text(r"\1"))),
        (r"\u0041", 0, UnknownEscape(text(r"\u"))),
        (r"\x{100}", 0, UnknownEscape(text(r"\x{100"))),
        (r"\é", 0, UnknownEscape(text("\\\u{fffd}"))),
        (r"\400", 0, UnknownEscape(text(r"\400"))),
        (r"\x{110000}", 0, UnknownEscape(text(r"\x{110"))),
        (r"[\b]", 1, UnknownEscape(text(r"\b"))),
        ("a(?=b)", 1, UnknownGroup(text("(?="))),
        ("(?x)a", 0, UnknownGroup(text("(?x"))),
        ("(?i", 0, UnknownGroup(text("(?i"))),
        ("(?P<a-b>c)", 0, GroupName(text("a-b"))),
        ("(?P<a", 0, GroupName(text("(?P<a"))),
        ("a(b(c)", 1, MissingParenthesis),
        ("a)", 1, UnexpectedParenthesis),
        ("a[b", 1, MissingBracket),
        ("[]", 0, MissingBracket),
        ("[a-", 0, MissingBracket),
        ("[x[:foo:]]", 2, UnknownClass(text("[:foo:]"))),
        (r"\p{greek}", 0, UnknownClass(text(r"\p{greek}"))),
        (r"a\pX", 1, UnknownClass(text(r"\pX"))),
        (r"\p{L", 0, UnknownClass(text(r"\p"))),
        ("[0b-a]", 2, BackwardRange(text("b-a"))),
        ("a|*", 2, NothingToRepeat),
        ("(+)", 1, NothingToRepeat),
        ("a**", 2, RepeatedRepetition),
        ("a{2}{3}", 4, RepeatedRepetition),
        ("a{1001}", 1, RepetitionSize),
        ("a{2,1}", 1, RepetitionSize),
        ("(a{50}){21}", 7, RepetitionSize),
    ] {
        assert_eq!(refused(pattern), Error { position, reason }, "{pattern}");
    }
    assert_eq!(
        refused("a**").to_string(),
        "a repetition follows another: put the inner one into `(?:…)` (at byte 2)"
    );
}

#[test]
fn everything_is_bounded() {
    assert_eq!(
        refused(&"a".repeat(MAX_PATTERN + 1)).reason,
        Reason::TooLong { limit: MAX_PATTERN }
    );
    assert!(Pattern::parse(&"a".repeat(MAX_PATTERN)).is_ok());
    let deep = |levels| "(".repeat(levels) + &")".repeat(levels);
    assert!(Pattern::parse(&deep(100)).is_ok());
    for pattern in [
        deep(101),
        deep(8000),
        "a*(?i)".to_owned() + &"*(?i)".repeat(100),
    ] {
        assert_eq!(
            refused(&pattern).reason,
            Reason::TooDeep { limit: 100 },
            "{pattern}"
        );
    }
    for pattern in [
        "[^a]{1000}".repeat(60),
        "(.{10}x){100}[^a]{1000}[^b]{1000}(?:.{30}){30}".repeat(20),
    ] {
        let limit = MAX_PROGRAM;
        assert_eq!(refused(&pattern).reason, Reason::ProgramTooLarge { limit });
    }
    for pattern in [
        r"(?i)".to_owned() + &r"[\PL]".repeat(100),
        r"\PL".repeat(1000),
    ] {
        assert_eq!(
            refused(&pattern).reason,
            Reason::ClassesTooLarge,
            "{pattern}"
        );
    }
}

/// States that double with each character do not make a larger table.
#[test]
fn what_has_no_table_is_stepped() {
    let doubling = Pattern::parse("(?:a|b)*a(?:a|b){12}").unwrap();
    assert!(matches!(*doubling.engine, Engine::Program(_)));
    assert!(doubling.is_full_match(b"bbabbbbbbbbbbbb"));
    assert!(!doubling.is_full_match(b"bbbbbbbbbbbbbbb"));
    let plain = Pattern::parse("/v[0-9]+/items/.*").unwrap();
    assert!(matches!(*plain.engine, Engine::Table { .. }));
}
