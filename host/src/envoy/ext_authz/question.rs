//! What Envoy asks about: a certificate, and perhaps a request.

use envoy_types::pb::envoy::config::core::v3::{address, socket_address};
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portcullis_core::http::HttpVersion;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::envoy::percent::decoded;
use crate::escape::visible;
use crate::proxy::Question;

/// The longest text that is repeated in the log.
const SHOWN: usize = 400;

/// A question, read.
pub(super) struct Asked {
    /// The client's certificate, or why there is none.
    pub(super) chain: Result<Vec<CertificateDer<'static>>, String>,
    /// The request, if it is about one, or what is wrong with it.
    pub(super) request: Option<Result<Question, String>>,
    /// Whether headers that occur twice came as one.
    pub(super) are_headers_joined: bool,
    /// Where the client comes from.
    pub(super) from: String,
    /// Who Envoy says that the client is; nothing depends on it.
    pub(super) claims: String,
}

impl Asked {
    pub(super) fn read(request: CheckRequest) -> Self {
        let attributes = request.attributes.unwrap_or_default();
        let source = attributes.source.unwrap_or_default();
        let http = attributes.request.and_then(|request| request.http);
        Self {
            chain: certificate(&source.certificate),
            are_headers_joined: http.as_ref().is_some_and(|http| http.header_map.is_none()),
            request: http.map(question),
            from: from(&source),
            claims: visible(&source.principal, SHOWN),
        }
    }

    pub(super) fn is_http(&self) -> bool {
        self.request.is_some()
    }

    pub(super) fn method(&self) -> Option<&str> {
        match &self.request {
            Some(Ok(question)) => Some(question.method.as_str()),
            _ => None,
        }
    }

    pub(super) fn path(&self) -> Option<String> {
        match &self.request {
            Some(Ok(question)) => Some(visible(&String::from_utf8_lossy(&question.target), SHOWN)),
            _ => None,
        }
    }
}

/// PEM, percent-encoded.
fn certificate(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    if text.is_empty() {
        return Err(
            "Envoy sends no certificate: set `include_peer_certificate: true`, and demand one of clients"
                .to_owned(),
        );
    }
    let pem =
        decoded(text).ok_or_else(|| "the certificate is not percent-encoded text".to_owned())?;
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("the certificate is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err("the certificate is no PEM".to_owned());
    }
    Ok(chain)
}

fn question(http: HttpRequest) -> Result<Question, String> {
    let version = match http.protocol.as_str() {
        "HTTP/1.0" | "HTTP/1.1" => HttpVersion::Http1,
        "HTTP/2" | "HTTP/3" => HttpVersion::Http2,
        other => return Err(format!("`{}` is no version of HTTP", visible(other, SHOWN))),
    };
    let mut read = Read::default();
    match http.header_map {
        Some(map) => {
            for header in map.headers {
                let value = if header.raw_value.is_empty() {
                    header.value.into_bytes()
                } else {
                    header.raw_value
                };
                read.take(&header.key, &value)?;
            }
        }
        None => {
            for (name, value) in http.headers {
                read.take(&name, value.as_bytes())?;
            }
        }
    }
    let Read {
        method,
        path,
        authority,
        mut headers,
    } = read;
    // Those with a field of their own are there again; they cannot differ.
    let method = method.unwrap_or_else(|| http.method.clone().into_bytes());
    let path = path.unwrap_or_else(|| http.path.clone().into_bytes());
    if method != http.method.as_bytes() || path != http.path.as_bytes() {
        return Err("method or path are told in two ways".to_owned());
    }
    let mut authority =
        authority.or_else(|| (!http.host.is_empty()).then(|| http.host.into_bytes()));
    // An extended CONNECT (RFC 8441) reaches filters as the upgrade of HTTP/1.1 that it stands for.
    let version = if headers.contains_key(http::header::UPGRADE) {
        HttpVersion::Http1
    } else {
        version
    };
    if version == HttpVersion::Http1
        && let Some(host) = authority.take()
        && !headers.contains_key(http::header::HOST)
    {
        let host = HeaderValue::from_bytes(&host).map_err(|_| "the host cannot be one")?;
        headers.insert(http::header::HOST, host);
    }
    Ok(Question {
        version,
        method: Method::from_bytes(&method).map_err(|_| "the method cannot be one")?,
        target: path.into_boxed_slice(),
        authority: authority.map(Vec::into_boxed_slice),
        headers,
    })
}

/// Headers, with those that begin with a colon apart.
#[derive(Default)]
struct Read {
    method: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    authority: Option<Vec<u8>>,
    headers: HeaderMap,
}

impl Read {
    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), String> {
        let place = match name {
            ":method" => &mut self.method,
            ":path" => &mut self.path,
            ":authority" => &mut self.authority,
            _ if name.starts_with(':') => return Ok(()),
            _ => {
                let shown = || visible(name, SHOWN);
                let name = HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| format!("`{}` is no name of a header", shown()))?;
                let value = HeaderValue::from_bytes(value)
                    .map_err(|_| format!("the value of `{name}` cannot be one"))?;
                self.headers
                    .try_append(name, value)
                    .map_err(|_| "there are too many headers")?;
                return Ok(());
            }
        };
        match place.replace(value.to_vec()) {
            None => Ok(()),
            Some(_) => Err(format!("`{name}` occurs twice")),
        }
    }
}

fn from(source: &Peer) -> String {
    let address = source.address.as_ref().and_then(|at| at.address.as_ref());
    match address {
        Some(address::Address::SocketAddress(at)) => {
            let port = match at.port_specifier {
                Some(socket_address::PortSpecifier::PortValue(port)) => port,
                _ => 0,
            };
            visible(&format!("{}:{port}", at.address), SHOWN)
        }
        Some(address::Address::Pipe(pipe)) => visible(&format!("unix:{}", pipe.path), SHOWN),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::config::core::v3::{HeaderMap as Raw, HeaderValue as RawValue};

    fn http(headers: &[(&str, &[u8])]) -> HttpRequest {
        HttpRequest {
            method: "GET".to_owned(),
            path: "/a?b".to_owned(),
            host: "db".to_owned(),
            protocol: "HTTP/1.1".to_owned(),
            header_map: Some(Raw {
                headers: headers
                    .iter()
                    .map(|(name, value)| RawValue {
                        key: (*name).to_owned(),
                        raw_value: value.to_vec(),
                        ..RawValue::default()
                    })
                    .collect(),
            }),
            ..HttpRequest::default()
        }
    }

    #[test]
    fn headers_are_read_whole() {
        let read = question(http(&[
            (":method", b"GET"),
            (":path", b"/a?b"),
            (":authority", b"db"),
            (":scheme", b"https"),
            ("x-a", b"1"),
            ("x-a", b"\xff"),
        ]))
        .unwrap();
        assert_eq!(read.target.as_ref(), b"/a?b");
        assert_eq!(read.authority, None);
        assert_eq!(read.headers["host"], "db");
        let values: Vec<&[u8]> = read
            .headers
            .get_all("x-a")
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        assert_eq!(values, [&b"1"[..], b"\xff"]);
        let mut second = http(&[(":authority", b"db")]);
        second.protocol = "HTTP/2".to_owned();
        let read = question(second).unwrap();
        assert_eq!(read.authority.as_deref(), Some(&b"db"[..]));
    }

    #[test]
    fn what_is_told_in_two_ways_is_no_request() {
        for (headers, part) in [
            (&[(":path", &b"/other"[..])][..], "two ways"),
            (&[(":method", b"POST")], "two ways"),
            (&[(":path", b"/a?b"), (":path", b"/a?b")], "twice"),
            (&[("a b", b"")], "name of a header"),
            (&[("a", b"\n")], "value of `a`"),
        ] {
            let error = question(http(headers)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let mut other = http(&[]);
        other.protocol = "SPDY".to_owned();
        assert!(question(other).is_err());
    }

    #[test]
    fn a_certificate_that_is_none_is_said_to_be_missing_or_unreadable() {
        assert!(
            certificate("")
                .unwrap_err()
                .contains("include_peer_certificate")
        );
        for text in ["x", "%", "%ff", "-----BEGIN%20CERTIFICATE-----%0A"] {
            assert!(certificate(text).is_err(), "{text}");
        }
    }
}
