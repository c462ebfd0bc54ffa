//! Paths in their normalised form, as Envoy 1.40 writes them.

use std::borrow::Cow;

/// What a byte of a path means to the normaliser.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Stays.
    Plain,
    /// `.`, `%` or `\`: depends on what is around it.
    Special,
    /// Is percent-encoded.
    Encoded,
}

const fn kind(byte: u8) -> Kind {
    match byte {
        b'.' | b'%' | b'\\' => Kind::Special,
        b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | 0..=0x20 | 0x7f..=0xff => {
            Kind::Encoded
        }
        _ => Kind::Plain,
    }
}

const KINDS: [Kind; 256] = {
    let mut kinds = [Kind::Plain; 256];
    let mut byte: u8 = 0;
    loop {
        #[expect(
            clippy::indexing_slicing,
            clippy::as_conversions,
            reason = "a byte is below 256"
        )]
        {
            kinds[byte as usize] = kind(byte);
        }
        if byte == 255 {
            break;
        }
        byte += 1;
    }
    kinds
};

fn kind_of(byte: u8) -> Kind {
    KINDS
        .get(usize::from(byte))
        .copied()
        .unwrap_or(Kind::Encoded)
}

/// A NUL that is written as an escape.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Removes dot segments, turns `\` into `/`, decodes escapes that need none and encodes
/// what needs to be. `path` has no query and begins with `/`.
pub(super) fn canonical(path: &[u8]) -> Result<Cow<'_, [u8]>, Unreadable> {
    let Some(first) = first_change(path) else {
        return Ok(Cow::Borrowed(path));
    };
    let (kept, mut rest) = path.split_at_checked(first).ok_or(Unreadable)?;
    let mut normal = Normal::with_capacity(path.len());
    normal.out.extend_from_slice(kept);
    while let [byte, after @ ..] = rest {
        if normal.percent.is_none() {
            let plain = rest.iter().position(|byte| kind_of(*byte) != Kind::Plain);
            let (run, other) = rest
                .split_at_checked(plain.unwrap_or(rest.len()))
                .ok_or(Unreadable)?;
            if !run.is_empty() {
                normal.out.extend_from_slice(run);
                rest = other;
                continue;
            }
        }
        rest = after;
        match kind_of(*byte) {
            Kind::Plain => normal.push(*byte),
            // Envoy encodes byte by byte: what is no UTF-8 is no exception.
            Kind::Encoded => normal.push_encoded(*byte),
            Kind::Special if *byte == b'\\' => normal.push(b'/'),
            Kind::Special if *byte == b'.' => {
                // Only a slash that is written as one begins a segment with parameters.
                let before = path.len().checked_sub(after.len().saturating_add(2));
                let plain = before.and_then(|place| path.get(place)) == Some(&b'/');
                rest = normal.dot(after, plain);
            }
            Kind::Special => rest = normal.escape(after)?,
        }
    }
    Ok(Cow::Owned(normal.out))
}

/// Where the first byte is that the normaliser may have to look at.
fn first_change(path: &[u8]) -> Option<usize> {
    let mut before = 0;
    for (place, byte) in path.iter().enumerate() {
        match kind_of(*byte) {
            Kind::Plain => {}
            Kind::Special if *byte == b'.' && before != b'/' => {}
            Kind::Special | Kind::Encoded => return Some(place),
        }
        before = *byte;
    }
    None
}

/// A normalised path while it is written.
struct Normal {
    out: Vec<u8>,
    /// The place of the last `%` that begins no escape.
    percent: Option<usize>,
}

impl Normal {
    fn with_capacity(length: usize) -> Self {
        Self {
            out: Vec::with_capacity(length),
            percent: None,
        }
    }

    /// Writes a byte. If it would make an escape of a `%` that was none, as in `%%341`,
    /// that is written as `%25`.
    fn push(&mut self, byte: u8) {
        self.out.push(byte);
        let Some(percent) = self.percent else { return };
        let Some([_, digits @ ..]) = self.out.get(percent..) else {
            return;
        };
        if digits.len() >= 2 {
            let is_escape = digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit);
            self.percent = None;
            if is_escape {
                let after = percent.saturating_add(1);
                self.out.splice(after..after, *b"25");
            }
        }
    }

    fn push_encoded(&mut self, byte: u8) {
        const HEX: [u8; 16] = *b"0123456789ABCDEF";
        let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
        self.push_escape([digit(byte >> 4), digit(byte & 15)]);
    }

    fn push_escape(&mut self, digits: [u8; 2]) {
        self.percent = None;
        self.out.push(b'%');
        self.out.extend_from_slice(&digits);
    }

    /// Handles what follows a dot, which was written as such or as `%2e`.
    fn dot<'p>(&mut self, after: &'p [u8], plain: bool) -> &'p [u8] {
        let segment = match self.out.last() {
            Some(b'/') => segment_after_dot(after, plain),
            _ => None,
        };
        match segment {
            Some((true, rest)) => {
                self.up();
                rest
            }
            Some((false, rest)) => rest,
            None => {
                self.push(b'.');
                after
            }
        }
    }

    /// Goes back to the slash before the last one; the first one stays.
    fn up(&mut self) {
        self.out.pop();
        while self.out.last().is_some_and(|byte| *byte != b'/') {
            self.out.pop();
        }
        if self.out.is_empty() {
            self.out.push(b'/');
        }
        self.percent = None;
    }

    /// Handles what follows `%`.
    fn escape<'p>(&mut self, after: &'p [u8]) -> Result<&'p [u8], Unreadable> {
        let Some((byte, digits, rest)) = decode(after) else {
            self.percent = Some(self.out.len());
            self.out.push(b'%');
            return Ok(after);
        };
        match byte {
            0 => return Err(Unreadable),
            b'.' => return Ok(self.dot(rest, false)),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => self.push(byte),
            _ => self.push_escape(digits),
        }
        Ok(rest)
    }
}

/// Whether the segment whose first dot was read is `..` (true) or `.`, and what comes
/// after it and its slash. Parameters of a dot segment count only after plain dots.
fn segment_after_dot(after: &[u8], plain: bool) -> Option<(bool, &[u8])> {
    if let Some(rest) = end(after, plain) {
        return Some((false, rest));
    }
    let (second_is_plain, rest) = match after {
        [b'.', rest @ ..] => (true, rest),
        [b'%', b'2', b'e' | b'E', rest @ ..] => (false, rest),
        _ => return None,
    };
    end(rest, plain && second_is_plain).map(|rest| (true, rest))
}

/// What comes after the end of a dot segment: nothing, a slash, or `;` and all up to one.
fn end(rest: &[u8], parameters: bool) -> Option<&[u8]> {
    match rest {
        [] => Some(rest),
        [b'/' | b'\\', rest @ ..] => Some(rest),
        [b';', ..] if parameters => {
            let slash = rest.iter().position(|byte| *byte == b'/');
            let place = slash.map_or(rest.len(), |place| place.saturating_add(1));
            rest.get(place..)
        }
        _ => None,
    }
}

fn decode(after: &[u8]) -> Option<(u8, [u8; 2], &[u8])> {
    let [high, low, rest @ ..] = after else {
        return None;
    };
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    let byte = digit(*high)?.checked_mul(16)?.checked_add(digit(*low)?)?;
    Some((byte, [*high, *low], rest))
}

/// Puts slashes in the place of `%2F` and backslashes in that of `%5C`; `None` if there are none.
pub(super) fn unescape_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let first = path.windows(3).position(|three| slash(three).is_some())?;
    let (kept, mut rest) = path.split_at_checked(first)?;
    let mut out = kept.to_vec();
    while let [byte, after @ ..] = rest {
        if let Some(found) = slash(rest) {
            out.push(found);
            rest = rest.get(3..).unwrap_or_default();
        } else {
            out.push(*byte);
            rest = after;
        }
    }
    Some(out)
}

/// The slash that is encoded at the beginning.
pub(super) fn slash(text: &[u8]) -> Option<u8> {
    match text {
        [b'%', b'2', b'f' | b'F', ..] => Some(b'/'),
        [b'%', b'5', b'c' | b'C', ..] => Some(b'\\'),
        _ => None,
    }
}

/// Makes one slash of several, as Envoy does: a path of slashes alone keeps two.
pub(super) fn merge_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let mut merged = merge_all(path)?;
    if merged == b"/" {
        merged.push(b'/');
    }
    Some(merged)
}

/// Makes one slash of several; `None` if there are none.
pub(super) fn merge_all(path: &[u8]) -> Option<Vec<u8>> {
    let first = path.windows(2).position(|two| two == b"//")?;
    let mut out = Vec::with_capacity(path.len());
    let (kept, rest) = path.split_at_checked(first)?;
    out.extend_from_slice(kept);
    for byte in rest {
        if *byte != b'/' || out.last() != Some(&b'/') {
            out.push(*byte);
        }
    }
    Some(out)
}
