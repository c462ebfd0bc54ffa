//! The block of headers: names are tokens, values hold no control characters.

use super::bad::BadRequest;
use super::header_map::HeaderMap;
use super::normalization::Underscores;
use super::request::HttpVersion;

/// How many headers are judged.
const MAX_HEADERS: usize = 1_000;
/// How many bytes they may have together.
const MAX_BLOCK: usize = 1024 * 1024;

/// A header: its name in any case, and its value as it is matched.
pub(crate) type Header<'r> = (&'r [u8], &'r [u8]);

/// The headers of a request, in one of two forms.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Headers<'r> {
    /// Of [`Request::headers`](super::Request::headers).
    Block(&'r [u8]),
    /// Of proxy-wasm.
    Map(HeaderMap<'r>),
}

/// Checks headers. HTTP/1.1 values lose the white space around them, as in Envoy.
pub(super) fn read(
    headers: Headers<'_>,
    version: HttpVersion,
    underscores: Underscores,
) -> Result<Vec<Header<'_>>, BadRequest> {
    match headers {
        Headers::Block(block) if block.len() > MAX_BLOCK => Err(BadRequest::TooLarge),
        Headers::Block(block) => check(Block(block), version, underscores),
        Headers::Map(map) if map.is_longer_than(MAX_BLOCK) => Err(BadRequest::TooLarge),
        Headers::Map(map) => check(map.headers().map(Ok), version, underscores),
    }
}

fn check<'r>(
    all: impl Iterator<Item = Result<Header<'r>, BadRequest>>,
    version: HttpVersion,
    underscores: Underscores,
) -> Result<Vec<Header<'r>>, BadRequest> {
    let mut headers = Vec::with_capacity(24);
    for header in all {
        let (name, value) = header?;
        check_name(name, value, version)?;
        if !are_values(value) {
            return Err(BadRequest::HeaderValue);
        }
        if underscores != Underscores::Allow && name.contains(&b'_') {
            if underscores == Underscores::Reject {
                return Err(BadRequest::Underscore);
            }
            continue;
        }
        if headers.len() >= MAX_HEADERS {
            return Err(BadRequest::TooLarge);
        }
        let value = match version {
            HttpVersion::Http1 => trim(value),
            HttpVersion::Http2 => value,
        };
        headers.push((name, value));
    }
    Ok(headers)
}

/// What is left of a block.
struct Block<'r>(&'r [u8]);

impl<'r> Iterator for Block<'r> {
    type Item = Result<Header<'r>, BadRequest>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut next = || {
            let (part, after) = part(self.0)?;
            self.0 = after;
            Ok(part)
        };
        let header = next().and_then(|name| Ok((name, next()?)));
        if header.is_err() {
            self.0 = &[];
        }
        Some(header)
    }
}

fn part(block: &[u8]) -> Result<(&[u8], &[u8]), BadRequest> {
    let (length, rest) = block
        .split_first_chunk::<4>()
        .ok_or(BadRequest::HeaderBlock)?;
    let length =
        usize::try_from(u32::from_le_bytes(*length)).map_err(|_| BadRequest::HeaderBlock)?;
    rest.split_at_checked(length).ok_or(BadRequest::HeaderBlock)
}

fn check_name(name: &[u8], value: &[u8], version: HttpVersion) -> Result<(), BadRequest> {
    if !is_plain_name(name) {
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(BadRequest::HeaderName);
        }
        if version == HttpVersion::Http2 && name.iter().any(u8::is_ascii_uppercase) {
            return Err(BadRequest::HeaderName);
        }
    }
    if version == HttpVersion::Http1 {
        return Ok(());
    }
    let is_about_connection = match name {
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            true
        }
        b"te" => value != b"trailers",
        _ => false,
    };
    if is_about_connection {
        return Err(BadRequest::ConnectionHeader);
    }
    Ok(())
}

/// Whether a name has only lower-case letters, digits and hyphens, as nearly all have; if in
/// doubt, no.
fn is_plain_name(name: &[u8]) -> bool {
    let Some(end) = name.last_chunk::<8>() else {
        let (Some(start), Some(end)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) else {
            return !name.is_empty() && name.iter().all(|byte| is_plain_letter(*byte));
        };
        let both =
            (u64::from(u32::from_le_bytes(*start)) << 32) | u64::from(u32::from_le_bytes(*end));
        return are_plain_letters(both);
    };
    let (eights, _) = name.as_chunks::<8>();
    eights
        .iter()
        .chain([end])
        .all(|eight| are_plain_letters(u64::from_le_bytes(*eight)))
}

const fn is_plain_letter(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')
}

/// Whether eight bytes are lower-case letters, digits or hyphens.
const fn are_plain_letters(eight: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    /// The highest bit of each byte that is at least so large; of bytes below 0x80 only.
    const fn at_least(eight: u64, least: u64) -> u64 {
        eight.wrapping_add(ONES * (0x80 - least))
    }
    if eight & HIGH != 0 {
        return false;
    }
    let letters = at_least(eight, 0x61) & !at_least(eight, 0x7b);
    let digits = at_least(eight, 0x30) & !at_least(eight, 0x3a);
    let hyphens = at_least(eight, 0x2d) & !at_least(eight, 0x2e);
    (letters | digits | hyphens) & HIGH == HIGH
}

/// Whether a token (RFC 9110) may have the byte.
pub(super) fn is_token(byte: u8) -> bool {
    TOKENS.get(usize::from(byte)).copied().unwrap_or(false)
}

const TOKENS: [bool; 256] = {
    let mut tokens = [false; 256];
    let mut byte: u8 = 0;
    loop {
        #[expect(
            clippy::indexing_slicing,
            clippy::as_conversions,
            reason = "a byte is below 256"
        )]
        {
            tokens[byte as usize] = may_be_in_token(byte);
        }
        if byte == 255 {
            break;
        }
        byte += 1;
    }
    tokens
};

const fn may_be_in_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

const fn is_value(byte: u8) -> bool {
    (byte >= 0x20 && byte != 0x7f) || byte == b'\t'
}

/// Whether a value may have all these bytes. Most are looked at eight at a time.
fn are_values(value: &[u8]) -> bool {
    let (eights, rest) = value.as_chunks::<8>();
    eights
        .iter()
        .all(|eight| are_plain(u64::from_le_bytes(*eight)) || eight.iter().all(|b| is_value(*b)))
        && rest.iter().all(|byte| is_value(*byte))
}

/// Whether none of eight bytes is a control character; if in doubt, no.
const fn are_plain(eight: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    // The highest bit of a byte in these words says that it is below 0x20, or DEL. A byte that
    // borrows from its neighbour does so only when its own bit is set already.
    let below = eight.wrapping_sub(ONES * 0x20) & !eight & HIGH;
    let other = eight ^ (ONES * 0x7f);
    let delete = other.wrapping_sub(ONES) & !other & HIGH;
    below | delete == 0
}

/// Without the spaces and tabs around it.
pub(crate) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bytes_at_once_are_judged_like_each() {
        for byte in 0..=255 {
            for place in 0..17 {
                for around in [b' ', b'a', 0x7e, 0x80, 0xff] {
                    let mut value = [around; 17];
                    value[place] = byte;
                    let each = value.iter().all(|byte| is_value(*byte));
                    assert_eq!(are_values(&value), each, "{byte:#x} at {place}");
                }
            }
        }
        assert!(are_values(b""));
        assert!(are_values(b"a\tb, \xc3\xa4 and some more"));
        assert!(!are_values(b"\t\t\t\t\t\t\t\n"));
    }

    #[test]
    fn names_at_once_are_judged_like_each_byte() {
        for length in 0..20_usize {
            let plain = vec![b'a'; length];
            assert_eq!(is_plain_name(&plain), length > 0, "{length}");
            for place in 0..length {
                for byte in 0..=255 {
                    for around in [b'a', b'z', b'0', b'9', b'-'] {
                        let mut name = vec![around; length];
                        name[place] = byte;
                        assert_eq!(
                            is_plain_name(&name),
                            is_plain_letter(byte),
                            "{byte:#x} at {place}"
                        );
                    }
                }
            }
        }
        for byte in 0..=255 {
            if is_plain_letter(byte) {
                assert!(is_token(byte) && !byte.is_ascii_uppercase());
            }
        }
    }

    #[test]
    fn tokens_have_letters_digits_and_marks() {
        let token: Vec<u8> = (0..=255).filter(|byte| is_token(*byte)).collect();
        let marks = "!#$%&'*+-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`abcdefghijklmnopqrstuvwxyz|~";
        assert_eq!(String::from_utf8(token).unwrap(), marks);
    }
}
