//! Bytes to a pattern and a text: a line is the pattern, the rest is the text.

use portcullis_core::re2::Pattern;

/// Reads the pattern and matches the text.
pub fn run(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let first = parts.next().unwrap_or_default();
    let text = parts.next().unwrap_or_default();
    let Ok(pattern) = std::str::from_utf8(first) else {
        return;
    };
    let compiled = match Pattern::parse(pattern) {
        Ok(compiled) => compiled,
        Err(error) => {
            assert!(error.position <= pattern.len(), "{error}");
            return;
        }
    };
    let matched = compiled.is_full_match(text);
    // What a group holds is the same pattern; a quotation or the limit on nesting
    // may keep it from closing.
    if let Ok(group) = Pattern::parse(&format!("(?:{pattern})"))
        && !pattern.contains("\\Q")
    {
        assert_eq!(group.is_full_match(text), matched);
    }
    if !pattern.contains("\\Q") {
        let any = Pattern::parse(&format!("(?:{pattern})|(?s:\\C*)"));
        assert!(any.is_err() || any.is_ok_and(|any| any.is_full_match(text)));
    }
}

/// Patterns of every kind, with texts.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "/v[0-9]+/items/.*\n/v1/items/x",
        "(?i)(?P<a>stra[^a-k]e|\\p{Greek}{2,3})\\b\nSTRAẞE",
        "[]a-z[:^alpha:]\\d\\x{e9}-\\x{ff}]*?\\Qa*\\E$\nabcé",
        "\\A(?s-m:.)\\C{0,3}(a|b)*a(a|b){10}\\z\naab",
        "(((((a{2}){2}){2})+)?)*\\pL\\PN\naaaaaaaab",
    ]
    .map(|seed| seed.as_bytes().to_vec())
    .to_vec()
}
