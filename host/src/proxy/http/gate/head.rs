//! One head of HTTP/1.1: the request line and the headers, read strictly.
//!
//! Refused is what RFC 9112 lets a server repair, because the next server may repair it
//! otherwise: bare line feeds, folded lines, more than one length, a length beside a
//! transfer coding, any coding but `chunked` alone, none or several `Host`s.

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum Bad {
    /// It is larger than allowed.
    #[error("the request line and the headers are larger than allowed")]
    TooLarge,
    /// There are more headers than allowed.
    #[error("there are more headers than allowed")]
    TooMany,
    /// It did not come in time.
    #[error("the request line and the headers took too long")]
    TooSlow,
    /// A line ends without a carriage return.
    #[error("a line ends without a carriage return")]
    BareLineFeed,
    /// A carriage return ends no line.
    #[error("a carriage return ends no line")]
    BareCarriageReturn,
    /// A line goes on in the next.
    #[error("a header goes on in the next line")]
    Folded,
    /// It breaks the grammar.
    #[error("it is no HTTP/1.1: {0}")]
    Syntax(httparse::Error),
    /// HTTP/1.1 asks for exactly one `Host`.
    #[error("there is not exactly one `Host`")]
    Host,
    /// `Content-Length` stands there twice, or is no number.
    #[error("`Content-Length` is not one number")]
    Length,
    /// `Transfer-Encoding` is not `chunked`.
    #[error("`Transfer-Encoding` is not `chunked` alone, in HTTP/1.1")]
    Coding,
    /// Both stand there.
    #[error("there is a `Content-Length` beside a `Transfer-Encoding`")]
    LengthAndCoding,
    /// What the parser behind read is not what was checked.
    #[error("it could be read in two ways")]
    TwoReadings,
}

impl Bad {
    /// The status that answers it.
    pub(in super::super) fn status(self) -> http::StatusCode {
        match self {
            Self::TooLarge | Self::TooMany => http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TooSlow => http::StatusCode::REQUEST_TIMEOUT,
            _ => http::StatusCode::BAD_REQUEST,
        }
    }
}

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Nothing,
    Length(u64),
    Chunks,
}

/// A head that passes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) target: Box<[u8]>,
    pub(super) framing: Framing,
    /// Whether it asks to speak something else afterwards.
    pub(super) holds: bool,
}

/// Where the head ends, of which `looked` bytes were looked at before.
pub(super) fn end(bytes: &[u8], looked: usize) -> Option<usize> {
    let mut from = looked.saturating_sub(3);
    loop {
        let rest = bytes.get(from..)?;
        let at = from + rest.iter().position(|byte| *byte == b'\n')?;
        match bytes.get(at + 1..)? {
            [b'\n', ..] => return Some(at + 2),
            [b'\r', b'\n', ..] => return Some(at + 3),
            _ => from = at + 1,
        }
    }
}

/// The line ends of a whole head, or of the trailers.
pub(super) fn check_lines(head: &[u8]) -> Result<(), Bad> {
    let mut before = b'\n';
    let mut bytes = head.iter().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\n' if before != b'\r' => return Err(Bad::BareLineFeed),
            b'\r' if bytes.peek() != Some(&&b'\n') => return Err(Bad::BareCarriageReturn),
            b' ' | b'\t' if before == b'\n' => return Err(Bad::Folded),
            _ => {}
        }
        before = *byte;
    }
    Ok(())
}

impl Head {
    /// Reads a whole head with at most so many headers.
    pub(super) fn read(bytes: &[u8], most: usize) -> Result<Self, Bad> {
        check_lines(bytes)?;
        if bytes.starts_with(b"\r") {
            return Err(Bad::Syntax(httparse::Error::Token));
        }
        let mut headers = vec![httparse::EMPTY_HEADER; most];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) => return Err(Bad::TwoReadings),
            Err(httparse::Error::TooManyHeaders) => return Err(Bad::TooMany),
            Err(error) => return Err(Bad::Syntax(error)),
        }
        let is_11 = request.version == Some(1);
        let target = request.path.unwrap_or_default().as_bytes().into();
        let mut hosts = 0_usize;
        let mut length = None;
        let mut coded = false;
        let mut holds = request.method == Some("CONNECT");
        for header in request.headers.iter() {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("host") {
                hosts += 1;
            } else if is("content-length") {
                if length.is_some() {
                    return Err(Bad::Length);
                }
                length = Some(number(header.value).ok_or(Bad::Length)?);
            } else if is("transfer-encoding") {
                if coded || !is_11 || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(Bad::Coding);
                }
                coded = true;
            } else if is("upgrade") {
                holds = true;
            }
        }
        if hosts > 1 || hosts == 0 && is_11 {
            return Err(Bad::Host);
        }
        let framing = match (length, coded) {
            (Some(_), true) => return Err(Bad::LengthAndCoding),
            (None, true) => Framing::Chunks,
            (None | Some(0), false) => Framing::Nothing,
            (Some(length), false) => Framing::Length(length),
        };
        Ok(Self {
            target,
            framing,
            holds,
        })
    }
}

/// Digits and nothing else.
fn number(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    // Some parsers know numbers of 63 bits only.
    std::str::from_utf8(value)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
        .filter(|number| *number <= i64::MAX.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> Result<Head, Bad> {
        let head = format!("{lines}\r\n\r\n");
        assert_eq!(end(head.as_bytes(), 0), Some(head.len()), "{lines:?}");
        Head::read(head.as_bytes(), 10)
    }

    #[test]
    fn lengths_and_codings_have_one_reading() {
        let framing = |lines: &str| {
            read(&format!("POST / HTTP/1.1\r\nhost: h\r\n{lines}")).map(|head| head.framing)
        };
        assert_eq!(framing("a: b"), Ok(Framing::Nothing));
        assert_eq!(framing("content-length: 0"), Ok(Framing::Nothing));
        assert_eq!(framing("Content-Length:\t7 "), Ok(Framing::Length(7)));
        assert_eq!(framing("Transfer-Encoding: CHUNKED"), Ok(Framing::Chunks));
        for lines in [
            "content-length: 1\r\ncontent-length: 2",
            "content-length: 1\r\ncontent-length: 1",
            "content-length: 1, 1",
            "content-length: +1",
            "content-length: -1",
            "content-length: 0x1",
            "content-length: 1 1",
            "content-length:",
            "content-length: 99999999999999999999",
            "content-length: 9223372036854775808",
        ] {
            assert_eq!(framing(lines), Err(Bad::Length), "{lines}");
        }
        for lines in [
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            "transfer-encoding: identity",
            "transfer-encoding: chunked, identity",
            "transfer-encoding: gzip, chunked",
            "transfer-encoding: xchunked",
            "transfer-encoding: chunked,",
            "transfer-encoding: \"chunked\"",
            "transfer-encoding:",
        ] {
            assert_eq!(framing(lines), Err(Bad::Coding), "{lines}");
        }
        for lines in [
            "content-length: 4\r\ntransfer-encoding: chunked",
            "transfer-encoding: chunked\r\ncontent-length: 4",
        ] {
            assert_eq!(framing(lines), Err(Bad::LengthAndCoding), "{lines}");
        }
        assert_eq!(
            read("POST / HTTP/1.0\r\ntransfer-encoding: chunked"),
            Err(Bad::Coding)
        );
    }

    #[test]
    fn lines_have_one_reading() {
        let bad = |head: &str| Head::read(head.as_bytes(), 10).unwrap_err();
        assert_eq!(bad("GET / HTTP/1.1\nhost: h\n\n"), Bad::BareLineFeed);
        assert_eq!(
            bad("GET / HTTP/1.1\r\nhost: h\nx: y\r\n\r\n"),
            Bad::BareLineFeed
        );
        assert_eq!(
            bad("GET / HTTP/1.1\r\nhost: h\rx: y\r\n\r\n"),
            Bad::BareCarriageReturn
        );
        assert_eq!(
            bad("GET / HTTP/1.1\r\nhost: h\r\n x: y\r\n\r\n"),
            Bad::Folded
        );
        assert_eq!(bad("GET / HTTP/1.1\r\n\thost: h\r\n\r\n"), Bad::Folded);
        for head in [
            "GET  / HTTP/1.1\r\nhost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nhost : h\r\n\r\n",
            "GET / HTTP/1.1\r\nhost\r\n\r\n",
            "GET / HTTP/1.1\r\nx: \0\r\n\r\n",
            "GET / HTTP/1.2\r\nhost: h\r\n\r\n",
            "GET / HTTP/2.0\r\nhost: h\r\n\r\n",
            "GET /\r\nhost: h\r\n\r\n",
            "GET /a b HTTP/1.1\r\nhost: h\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\nhost: h\r\n\r\n",
            "G\u{e9}T / HTTP/1.1\r\nhost: h\r\n\r\n",
        ] {
            assert!(matches!(bad(head), Bad::Syntax(_)), "{head:?}");
        }
    }

    #[test]
    fn one_host_and_not_too_many_headers() {
        assert_eq!(read("GET / HTTP/1.1\r\na: b"), Err(Bad::Host));
        assert_eq!(read("GET / HTTP/1.1\r\nhost: a\r\nHost: a"), Err(Bad::Host));
        assert!(read("GET / HTTP/1.0\r\na: b").is_ok());
        let many = "a: b\r\n".repeat(10);
        assert_eq!(
            read(&format!("GET / HTTP/1.1\r\nhost: h\r\n{many}c: d")),
            Err(Bad::TooMany)
        );
    }

    #[test]
    fn targets_stay_as_they_are() {
        for target in ["/a/../b?x#y", "*", "http://H/a", "//x", "/%2e%2E\\", "h:1"] {
            let head = read(&format!("OPTIONS {target} HTTP/1.1\r\nhost: h")).unwrap();
            assert_eq!(&*head.target, target.as_bytes());
            assert!(!head.holds);
        }
        assert!(read("CONNECT h:1 HTTP/1.1\r\nhost: h").unwrap().holds);
        assert!(
            read("GET / HTTP/1.1\r\nhost: h\r\nupgrade: x")
                .unwrap()
                .holds
        );
    }

    #[test]
    fn the_end_is_found_wherever_one_looked_before() {
        let head = b"GET / HTTP/1.1\r\nhost: h\r\n\r\nmore";
        for looked in 0..head.len() - 4 {
            assert_eq!(end(head, looked), Some(head.len() - 4), "{looked}");
        }
        assert_eq!(end(b"GET / HTTP/1.1\r\nhost: h\r\n\r", 0), None);
    }
}
