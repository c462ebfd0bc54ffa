//! Classes of characters: `[…]`, `\d`, `[:alpha:]`, `\pN`.

use super::error::{Error, Reason};
use super::parse::{Cursor, Work, written};
use super::set::Set;
use super::{escape, unicode};

const DIGIT: &[(u8, u8)] = &[(b'0', b'9')];
const SPACE: &[(u8, u8)] = &[(b'\t', b'\n'), (0x0c, b'\r'), (b' ', b' ')];
const WORD: &[(u8, u8)] = &[(b'0', b'9'), (b'A', b'Z'), (b'_', b'_'), (b'a', b'z')];

/// The classes of POSIX; all are ASCII.
const POSIX: [(&str, &[(u8, u8)]); 14] = [
    ("alnum", &[(b'0', b'9'), (b'A', b'Z'), (b'a', b'z')]),
    ("alpha", &[(b'A', b'Z'), (b'a', b'z')]),
    ("ascii", &[(0x00, 0x7f)]),
    ("blank", &[(b'\t', b'\t'), (b' ', b' ')]),
    ("cntrl", &[(0x00, 0x1f), (0x7f, 0x7f)]),
    ("digit", DIGIT),
    ("graph", &[(b'!', b'~')]),
    ("lower", &[(b'a', b'z')]),
    ("print", &[(b' ', b'~')]),
    (
        "punct",
        &[(b'!', b'/'), (b':', b'@'), (b'[', b'`'), (b'{', b'~')],
    ),
    ("space", &[(b'\t', b'\r'), (b' ', b' ')]),
    ("upper", &[(b'A', b'Z')]),
    ("word", WORD),
    ("xdigit", &[(b'0', b'9'), (b'A', b'F'), (b'a', b'f')]),
];

/// Reads the class at the cursor, which stands on `[`.
pub(super) fn bracketed(
    cursor: &mut Cursor<'_>,
    fold: bool,
    work: &mut Work,
) -> Result<Set, Error> {
    let start = *cursor;
    let unclosed = || start.error(Reason::MissingBracket);
    cursor.next();
    let is_negated = cursor.eat("^");
    let mut set = Set::default();
    // A `]` right at the beginning is one.
    let mut is_first = true;
    while is_first || cursor.peek() != Some(']') {
        is_first = false;
        if cursor.peek().is_none() {
            return Err(unclosed());
        }
        let class = match posix(cursor, fold, work)? {
            None => named(cursor, fold, work)?,
            posix => posix,
        };
        if let Some(class) = class {
            // Folded already, and before it was negated.
            work.add(&mut set, class, false, cursor)?;
            continue;
        }
        let (from, low) = (*cursor, single(cursor, start)?);
        // A `-` before the closing bracket is one.
        let high = if cursor.starts_with("-") && !cursor.starts_with("-]") && cursor.has_two() {
            cursor.next();
            single(cursor, start)?
        } else {
            low
        };
        if high < low {
            let text = from.text_to(cursor);
            return Err(from.error(Reason::BackwardRange(text)));
        }
        work.add(&mut set, Set::range(low, high), fold, cursor)?;
    }
    cursor.next();
    if is_negated {
        set.negate();
    }
    work.count(&set, cursor)?;
    Ok(set)
}

fn single(cursor: &mut Cursor<'_>, start: Cursor<'_>) -> Result<u32, Error> {
    match cursor.peek() {
        None => Err(start.error(Reason::MissingBracket)),
        Some('\\') => escape::character(cursor),
        Some(character) => {
            cursor.next();
            Ok(u32::from(character))
        }
    }
}

/// Reads `[:name:]`; without its end the bracket is a character like others.
fn posix(cursor: &mut Cursor<'_>, fold: bool, work: &mut Work) -> Result<Option<Set>, Error> {
    let Some(inner) = cursor.rest().strip_prefix("[:") else {
        return Ok(None);
    };
    let Some((name, _)) = inner.split_once(":]") else {
        return Ok(None);
    };
    let (plain, is_negated) = match name.strip_prefix('^') {
        Some(plain) => (plain, true),
        None => (name, false),
    };
    let Some((_, ranges)) = POSIX.iter().find(|(known, _)| *known == plain) else {
        let text = written(&format!("[:{name}:]"));
        return Err(cursor.error(Reason::UnknownClass(text)));
    };
    cursor.eat("[:");
    cursor.eat(name);
    cursor.eat(":]");
    finish(Set::ascii(ranges), is_negated, fold, cursor, work).map(Some)
}

/// Reads `\d`, `\pN` and the like; `None` if something else stands here.
pub(super) fn named(
    cursor: &mut Cursor<'_>,
    fold: bool,
    work: &mut Work,
) -> Result<Option<Set>, Error> {
    let letter = cursor
        .rest()
        .strip_prefix('\\')
        .and_then(|r| r.chars().next());
    let (ranges, is_negated) = match letter {
        Some('d') => (DIGIT, false),
        Some('D') => (DIGIT, true),
        Some('s') => (SPACE, false),
        Some('S') => (SPACE, true),
        Some('w') => (WORD, false),
        Some('W') => (WORD, true),
        Some('p' | 'P') => return property(cursor, fold, work).map(Some),
        _ => return Ok(None),
    };
    cursor.next();
    cursor.next();
    finish(Set::ascii(ranges), is_negated, fold, cursor, work).map(Some)
}

/// Reads `\pN`, `\p{Greek}`, `\p{^Greek}` and their negations with `\P`.
fn property(cursor: &mut Cursor<'_>, fold: bool, work: &mut Work) -> Result<Set, Error> {
    let start = *cursor;
    cursor.next();
    let mut is_negated = cursor.next() == Some('P');
    let unknown = |end: &Cursor<'_>| {
        let text = start.text_to(end);
        Err(start.error(Reason::UnknownClass(text)))
    };
    let rest = cursor.rest();
    let name = if let Some(inner) = rest.strip_prefix('{') {
        let Some((name, _)) = inner.split_once('}') else {
            return unknown(cursor);
        };
        cursor.eat("{");
        cursor.eat(name);
        cursor.eat("}");
        name
    } else {
        cursor.next();
        rest.strip_suffix(cursor.rest()).unwrap_or_default()
    };
    let name = match name.strip_prefix('^') {
        Some(name) if rest.starts_with('{') => {
            is_negated = !is_negated;
            name
        }
        _ => name,
    };
    let Some(set) = unicode::named(name) else {
        return unknown(cursor);
    };
    finish(set, is_negated, fold, cursor, work)
}

/// Case is folded before a class is negated.
fn finish(
    class: Set,
    is_negated: bool,
    fold: bool,
    cursor: &Cursor<'_>,
    work: &mut Work,
) -> Result<Set, Error> {
    let mut set = Set::default();
    work.add(&mut set, class, fold, cursor)?;
    if is_negated {
        set.negate();
    }
    work.count(&set, cursor)?;
    Ok(set)
}
