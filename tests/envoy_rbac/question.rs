//! A request as it goes over the wire, and what became of it.

use std::fmt;

use portcullis_core::http::{HttpVersion, Request, encode_headers};

/// A name and a value, verbatim.
pub(crate) type Header = (Vec<u8>, Vec<u8>);

/// A request, byte for byte.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) version: HttpVersion,
    pub(crate) method: Vec<u8>,
    /// The target of HTTP/1.1, `:path` of HTTP/2.
    pub(crate) target: Vec<u8>,
    /// `:authority` of HTTP/2; HTTP/1.1 has `Host` among the headers.
    pub(crate) authority: Option<Vec<u8>>,
    pub(crate) headers: Vec<Header>,
}

impl Question {
    /// A plain request.
    pub(crate) fn get(version: HttpVersion, target: &str) -> Self {
        let mut question = Self {
            version,
            method: b"GET".to_vec(),
            target: target.as_bytes().to_vec(),
            authority: None,
            headers: Vec::new(),
        };
        match version {
            HttpVersion::Http1 => question.headers.push((b"host".to_vec(), b"api".to_vec())),
            HttpVersion::Http2 => question.authority = Some(b"api".to_vec()),
        }
        question
    }

    /// The same with another method.
    pub(crate) fn method(mut self, method: &str) -> Self {
        self.method = method.as_bytes().to_vec();
        self
    }

    /// The same with one more header.
    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        self.bytes(name, value.as_bytes())
    }

    /// The same, with any bytes.
    pub(crate) fn bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.headers
            .push((name.as_bytes().to_vec(), value.to_vec()));
        self
    }

    /// The same without any header of this name.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers
            .retain(|(other, _)| !other.eq_ignore_ascii_case(name.as_bytes()));
        self
    }

    /// As HTTP/1.1 writes it.
    pub(crate) fn http1(&self) -> Vec<u8> {
        let mut bytes = [&self.method[..], b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        for (name, value) in &self.headers {
            bytes.extend([&name[..], b": ", value, b"\r\n"].concat());
        }
        bytes.extend(b"\r\n");
        bytes
    }

    /// The header list of HTTP/2.
    pub(crate) fn http2(&self) -> Vec<Header> {
        let mut list = vec![
            (b":method".to_vec(), self.method.clone()),
            (b":scheme".to_vec(), b"https".to_vec()),
        ];
        if let Some(authority) = &self.authority {
            list.push((b":authority".to_vec(), authority.clone()));
        }
        list.push((b":path".to_vec(), self.target.clone()));
        list.extend(self.headers.iter().cloned());
        list
    }

    /// As the policy is asked.
    pub(crate) fn request(&self) -> Request {
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (&name[..], &value[..]));
        Request {
            version: self.version,
            method: self.method.clone(),
            path: self.target.clone(),
            authority: self.authority.clone(),
            scheme: None,
            headers: encode_headers(headers).expect("short headers"),
        }
    }

    /// Whether a refusal must be in gRPC's words: by its content type alone.
    pub(crate) fn is_grpc(&self) -> bool {
        let types: Vec<&[u8]> = self
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(b"content-type"))
            .map(|(_, value)| &value[..])
            .collect();
        match types.as_slice() {
            [one] => *one == b"application/grpc" || one.starts_with(b"application/grpc+"),
            _ => false,
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.version {
            HttpVersion::Http1 => "HTTP/1.1",
            HttpVersion::Http2 => "HTTP/2",
        };
        write!(
            f,
            "{version} {} {}",
            self.method.escape_ascii(),
            self.target.escape_ascii()
        )?;
        if let Some(authority) = &self.authority {
            write!(f, " authority `{}`", authority.escape_ascii())?;
        }
        for (name, value) in &self.headers {
            let name = name.escape_ascii().to_string();
            // Tokens are long.
            let value = value.escape_ascii().to_string();
            match value.get(..60) {
                Some(start) => write!(f, " `{name}: {start}…`")?,
                None => write!(f, " `{name}: {value}`")?,
            }
        }
        Ok(())
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It reached the application: what arrived there.
    Allow(Arrived),
    /// 403, or status 7 of gRPC.
    Deny {
        /// In gRPC's words.
        grpc: bool,
    },
    /// 400, or the stream or connection was closed.
    BadRequest,
    /// 307 to this location.
    Redirect(Vec<u8>),
    /// 404: nobody was asked.
    NotFound,
    /// The certificate was refused in the handshake.
    NoHandshake,
}

impl Answer {
    /// Its kind, without what else it says.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Allow(_) => "allow",
            Self::Deny { .. } => "deny",
            Self::BadRequest => "bad-request",
            Self::Redirect(_) => "redirect",
            Self::NotFound => "not found",
            Self::NoHandshake => "no handshake",
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())?;
        match self {
            Self::Allow(arrived) if arrived.has_authorization => f.write_str(", token forwarded"),
            _ => Ok(()),
        }
    }
}

/// What the application saw.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) target: Vec<u8>,
    /// Whether there was an `authorization` header.
    pub(crate) has_authorization: bool,
}

impl fmt::Debug for Arrived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = if self.has_authorization {
            ", with a token"
        } else {
            ""
        };
        write!(f, "`{}`{token}", self.target.escape_ascii())
    }
}

/// An HTTP response without its body.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<Header>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        let mut found = self
            .headers
            .iter()
            .filter(|(other, _)| other == name.as_bytes());
        found.next().map(|(_, value)| &value[..])
    }

    /// What it says about the request.
    pub(crate) fn answer(&self) -> Answer {
        // The application says what it saw; nobody else has this header.
        if let Some(target) = self.header("x-target") {
            return Answer::Allow(Arrived {
                target: target.to_vec(),
                has_authorization: self.header("x-authorization").is_some(),
            });
        }
        match (self.status, self.header("grpc-status")) {
            (403, None) => Answer::Deny { grpc: false },
            (200, Some(b"7")) => Answer::Deny { grpc: true },
            // Status 13 is how gRPC says 400.
            (400, _) | (200, Some(b"13")) => Answer::BadRequest,
            (307, _) => Answer::Redirect(self.header("location").unwrap_or_default().to_vec()),
            // gRPC calls it status 12.
            (404, _) | (200, Some(b"12")) => Answer::NotFound,
            _ => panic!("an answer that nobody gives: {self:?}"),
        }
    }
}
