//! Where a body in chunks ends, read strictly.

use super::head::{Bad, check_lines, end};

/// The longest line with a chunk's size and its extensions.
const LINE: usize = 4 * 1024;

/// Where one is in a body in chunks.
#[derive(Debug)]
pub(super) struct Chunks {
    at: At,
    /// The limits of the trailers: bytes and number.
    most: (usize, usize),
}

#[derive(Debug)]
enum At {
    /// In the line with a size.
    Size,
    /// In a chunk with so many bytes left, the line end after it included.
    Data(u64),
    /// After the last chunk.
    Trailers,
}

impl Chunks {
    pub(super) const fn new(bytes: usize, headers: usize) -> Self {
        Self {
            at: At::Size,
            most: (bytes, headers),
        }
    }

    /// How much of `bytes` belongs to the body, and whether it ends there. What is in doubt
    /// is not taken until there is more of it.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), Bad> {
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            match &mut self.at {
                At::Size => {
                    let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                        let long = rest.len() > LINE;
                        return if long {
                            Err(Bad::TooLarge)
                        } else {
                            Ok((used, false))
                        };
                    };
                    let line = rest.get(..length).unwrap_or_default();
                    let line = line.strip_suffix(b"\r").ok_or(Bad::BareLineFeed)?;
                    let size = size(line)?;
                    used += length + 1;
                    self.at = match size {
                        0 => At::Trailers,
                        size => At::Data(size + 2),
                    };
                }
                At::Data(left) => {
                    // The line end is taken as a whole, after a look at it.
                    let here = u64::try_from(rest.len()).unwrap_or(u64::MAX);
                    if here < *left {
                        let take = here.min(*left - 2);
                        *left -= take;
                        return Ok((used + usize::try_from(take).unwrap_or(rest.len()), false));
                    }
                    let all = usize::try_from(*left).unwrap_or(rest.len());
                    if rest.get(all - 2..all) != Some(b"\r\n") {
                        return Err(Bad::Coding);
                    }
                    used += all;
                    self.at = At::Size;
                }
                At::Trailers => {
                    if rest.starts_with(b"\r\n") {
                        return Ok((used + 2, true));
                    }
                    if rest.starts_with(b"\n") {
                        return Err(Bad::BareLineFeed);
                    }
                    let Some(length) = end(rest, 0) else {
                        let long = rest.len() > self.most.0;
                        return if long {
                            Err(Bad::TooLarge)
                        } else {
                            Ok((used, false))
                        };
                    };
                    let trailers = rest.get(..length).unwrap_or_default();
                    check_lines(trailers)?;
                    let mut headers = vec![httparse::EMPTY_HEADER; self.most.1];
                    return match httparse::parse_headers(trailers, &mut headers) {
                        Ok(httparse::Status::Complete((parsed, _))) if parsed == length => {
                            Ok((used + length, true))
                        }
                        Ok(_) => Err(Bad::TwoReadings),
                        Err(error) => Err(Bad::Syntax(error)),
                    };
                }
            }
        }
    }
}

/// `1f;name=value`: up to 15 hexadecimal digits, and extensions that are ignored.
fn size(line: &[u8]) -> Result<u64, Bad> {
    let digits = line
        .iter()
        .position(|byte| !byte.is_ascii_hexdigit())
        .unwrap_or(line.len());
    let (digits, extension) = line.split_at_checked(digits).ok_or(Bad::Coding)?;
    let control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    let odd = digits.is_empty() || digits.len() > 15 || extension.iter().any(control);
    if odd || !matches!(extension.first(), None | Some(b';')) {
        return Err(Bad::Coding);
    }
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or(Bad::Coding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(body: &[u8]) -> Result<(usize, bool), Bad> {
        Chunks::new(200, 3).advance(body)
    }

    #[test]
    fn a_body_ends_after_its_trailers() {
        for body in [
            &b"0\r\n\r\n"[..],
            b"3\r\nabc\r\n00\r\n\r\n",
            b"A;x\r\n0123456789\r\n0\r\na: b\r\nc: d\r\n\r\n",
        ] {
            let followed = [body, b"GET /"].concat();
            assert_eq!(whole(&followed), Ok((body.len(), true)));
            // Byte by byte: the same end.
            let (mut chunks, mut used, mut done) = (Chunks::new(200, 3), 0, false);
            for end in 1..=body.len() {
                let step = chunks.advance(&body[used..end]).unwrap();
                (used, done) = (used + step.0, step.1);
            }
            assert_eq!((used, done), (body.len(), true));
        }
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        for body in [
            &b"3\nabc\r\n"[..],
            b"3\r\nabcd\r\n",
            b"3\r\nabc\n0\r\n",
            b"0\n\n",
            b"0\r\n\n",
            b"0\r\na: b\n\r\n",
            b"0\r\na b\r\n\r\n",
            b"0\r\n a: b\r\n\r\n",
            b"\r\n\r\n",
            b"+3\r\nabc\r\n",
            b"0x3\r\nabc\r\n",
            b"3 \r\nabc\r\n",
            b"-1\r\n",
            b"3;a=\x01\r\n",
            b"1000000000000000\r\n",
            b"0\r\na: b\r\na: b\r\na: b\r\na: b\r\n\r\n",
        ] {
            assert!(whole(body).is_err(), "{:?}", String::from_utf8_lossy(body));
        }
    }
}
