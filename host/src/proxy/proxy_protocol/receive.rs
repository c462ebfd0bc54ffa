//! Reads a PROXY header, and not one byte more.

use std::io;
use std::net::SocketAddr;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{CRC32C, Route};

/// How long a header of version 1 can be.
const V1_LONGEST: usize = 107;

/// What comes before the length in version 2, and with it.
const V2_FIXED: usize = 16;

/// How much may follow that in version 2. Load balancers send some hundred bytes.
const V2_LONGEST: usize = 4_096;

/// Both versions are told apart by so many bytes, and neither is shorter.
const BEGINNING: usize = 12;

/// Why no header was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// The connection begins with something else.
    #[error("it does not begin with a PROXY header")]
    Absent,
    /// The header is not as it must be.
    #[error("its PROXY header cannot be read: {0}")]
    Malformed(String),
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads the header at the beginning of `stream`. The route is absent when the sender
/// speaks for itself (a health check) or does not know the client.
///
/// # Errors
/// When there is no header, it is malformed or too long, or the connection breaks.
pub(crate) async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<Route>, ReceiveError> {
    let mut header = vec![0; BEGINNING];
    let mut read = 0;
    while read < BEGINNING {
        // Never past the beginning: what follows a short header is not ours.
        let more = stream.read(&mut header[read..]).await?;
        if more == 0 {
            return Err(ReceiveError::Absent);
        }
        read += more;
        let so_far = &header[..read];
        let v1 = b"PROXY ".iter().zip(so_far).all(|(a, b)| a == b);
        if !v1 && !v2::PROTOCOL_PREFIX.starts_with(so_far) {
            return Err(ReceiveError::Absent);
        }
    }
    if header == v2::PROTOCOL_PREFIX {
        version_2(stream, header).await
    } else {
        version_1(stream, header).await
    }
}

async fn version_1(
    stream: &mut (impl AsyncRead + Unpin),
    mut header: Vec<u8>,
) -> Result<Option<Route>, ReceiveError> {
    while !header.ends_with(b"\n") {
        if header.len() == V1_LONGEST {
            return Err(malformed("its line is longer than 107 bytes"));
        }
        header.push(stream.read_u8().await?);
    }
    // Rust reads `+80` as a number.
    if header.contains(&b'+') {
        return Err(malformed("a port has a sign"));
    }
    let header = v1::Header::try_from(header.as_slice()).map_err(malformed)?;
    Ok(match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(both) => Some(route(
            (both.source_address, both.source_port).into(),
            (both.destination_address, both.destination_port).into(),
        )),
        v1::Addresses::Tcp6(both) => Some(route(
            (both.source_address, both.source_port).into(),
            (both.destination_address, both.destination_port).into(),
        )),
    })
}

async fn version_2(
    stream: &mut (impl AsyncRead + Unpin),
    mut header: Vec<u8>,
) -> Result<Option<Route>, ReceiveError> {
    header.resize(V2_FIXED, 0);
    stream.read_exact(&mut header[BEGINNING..]).await?;
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if length > V2_LONGEST {
        return Err(malformed(format_args!(
            "it announces {length} bytes, of which {V2_LONGEST} are taken"
        )));
    }
    header.resize(V2_FIXED + length, 0);
    stream.read_exact(&mut header[V2_FIXED..]).await?;
    let parsed = v2::Header::try_from(header.as_slice()).map_err(malformed)?;
    check_fields(&header, &parsed)?;
    if parsed.command == v2::Command::Local {
        return Ok(None);
    }
    let both = match parsed.addresses {
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => return Ok(None),
        _ if parsed.protocol != v2::Protocol::Stream => {
            return Err(malformed("it is not about a stream"));
        }
        v2::Addresses::IPv4(both) => route(
            (both.source_address, both.source_port).into(),
            (both.destination_address, both.destination_port).into(),
        ),
        v2::Addresses::IPv6(both) => route(
            (both.source_address, both.source_port).into(),
            (both.destination_address, both.destination_port).into(),
        ),
    };
    Ok(Some(both))
}

/// The fields after the addresses: whole, and with the right checksum if there is one.
fn check_fields(header: &[u8], parsed: &v2::Header<'_>) -> Result<(), ReceiveError> {
    let mut at = header.len() - parsed.tlv_bytes().len();
    for field in parsed.tlvs() {
        let field = field.map_err(malformed)?;
        let value = at + 3;
        at = value + field.value.len();
        if field.kind != CRC32C {
            continue;
        }
        let told = <[u8; 4]>::try_from(field.value.as_ref())
            .map_err(|_| malformed("its checksum is not of four bytes"))?;
        let mut blank = header.to_vec();
        blank[value..at].fill(0);
        if crc32c(&blank) != u32::from_be_bytes(told) {
            return Err(malformed("its checksum is wrong"));
        }
    }
    Ok(())
}

/// CRC-32C (RFC 3720, appendix B.4), bit by bit: headers are short and rarely have one.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum: u32, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg())
        })
    })
}

fn route(from: SocketAddr, to: SocketAddr) -> Route {
    Route {
        from: Some(from),
        to: Some(to),
    }
}

fn malformed(why: impl ToString) -> ReceiveError {
    ReceiveError::Malformed(why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read, and what is left.
    async fn read(bytes: &[u8]) -> (Result<Option<Route>, ReceiveError>, usize) {
        let mut rest = bytes;
        let result = receive(&mut rest).await;
        (result, rest.len())
    }

    fn v2(version_command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([version_command, family]);
        header.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        header.extend(payload);
        header
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x13, 0x88, 0x01, 0xbb];

    fn told() -> Option<Route> {
        Some(route(
            "192.0.2.1:5000".parse().unwrap(),
            "192.0.2.2:443".parse().unwrap(),
        ))
    }

    #[tokio::test]
    async fn both_versions_tell_the_client_and_leave_what_follows() {
        let hello = b"\x16\x03\x01the hello";
        for header in [
            b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\n".to_vec(),
            v2(0x21, 0x11, &V4),
            v2(
                0x21,
                0x11,
                &[V4.as_slice(), &[4, 0, 1, 0], &[0xe0, 0, 0]].concat(),
            ),
        ] {
            let (result, left) = read(&[header.as_slice(), hello].concat()).await;
            assert_eq!(result.unwrap(), told());
            assert_eq!(left, hello.len());
        }
        let v6 = "PROXY TCP6 2001:db8::1 ::1 1 2\r\n";
        let route = read(v6.as_bytes()).await.0.unwrap().unwrap();
        assert_eq!(route.from, Some("[2001:db8::1]:1".parse().unwrap()));
    }

    #[tokio::test]
    async fn who_speaks_for_itself_names_no_client() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN what ever this is\r\n".to_vec(),
            v2(0x20, 0x00, &[]),
            v2(0x20, 0x11, &V4),
            v2(0x21, 0x00, &[]),
            v2(0x21, 0x31, &[0; 216]),
        ] {
            let (result, left) = read(&[header.as_slice(), b"x"].concat()).await;
            assert_eq!((result.unwrap(), left), (None, 1), "{header:?}");
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused_without_waiting_for_more() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        for (bytes, absent) in [
            (
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00".to_vec(),
                true,
            ),
            (b"P".to_vec(), true),
            (b"PROXX".to_vec(), true),
            (
                b"proxy TCP4 192.0.2.1 192.0.2.2 5000 443\r\n".to_vec(),
                true,
            ),
            (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), true),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\n".to_vec(), false),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 5000\r\n".to_vec(), false),
            (
                b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443 x\r\n".to_vec(),
                false,
            ),
            (
                b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 70000\r\n".to_vec(),
                false,
            ),
            (
                b"PROXY TCP4 192.0.2.1 192.0.2.2 +5000 443\r\n".to_vec(),
                false,
            ),
            (
                b"PROXY TCP4 192.0.2.1 192.0.2.2 05000 443\r\n".to_vec(),
                false,
            ),
            (b"PROXY TCP4 2001:db8::1 ::1 5000 443\r\n".to_vec(), false),
            (
                b"PROXY TCP4 192.0.2.256 192.0.2.2 5000 443\r\n".to_vec(),
                false,
            ),
            (
                b"PROXY UDP4 192.0.2.1 192.0.2.2 5000 443\r\n".to_vec(),
                false,
            ),
            (
                b"PROXY TCP4  192.0.2.1 192.0.2.2 5000 443\r\n".to_vec(),
                false,
            ),
            (b"PROXY TCP4 \xff 192.0.2.2 5000 443\r\n".to_vec(), false),
            (long.into_bytes(), false),
            (v2(0x31, 0x11, &V4), false),
            (v2(0x22, 0x11, &V4), false),
            (v2(0x21, 0x41, &V4), false),
            (v2(0x21, 0x12, &V4), false),
            (v2(0x21, 0x11, &V4[..11]), false),
            (
                v2(0x21, 0x11, &[V4.as_slice(), &[4, 0, 9, 0]].concat()),
                false,
            ),
            (v2(0x21, 0x11, &[V4.as_slice(), &[4]].concat()), false),
            (
                v2(0x21, 0x11, &[V4.as_slice(), &[CRC32C, 0, 1, 0]].concat()),
                false,
            ),
            (
                v2(
                    0x21,
                    0x11,
                    &[V4.as_slice(), &[CRC32C, 0, 4, 1, 2, 3, 4]].concat(),
                ),
                false,
            ),
            (v2(0x21, 0x11, &[0; V2_LONGEST + 1]), false),
        ] {
            let error = read(&bytes).await.0.unwrap_err();
            let good = match error {
                ReceiveError::Absent => absent,
                ReceiveError::Malformed(_) => !absent,
                ReceiveError::Io(_) => false,
            };
            assert!(good, "{bytes:?}: {error}");
        }
        // Cut off at any place.
        let whole = v2(0x21, 0x11, &V4);
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).await.0.is_err(), "{end}");
        }
    }

    #[tokio::test]
    async fn a_checksum_is_checked() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let mut header = v2(
            0x21,
            0x11,
            &[V4.as_slice(), &[CRC32C, 0, 4, 0, 0, 0, 0]].concat(),
        );
        let sum = crc32c(&header).to_be_bytes();
        let at = header.len() - 4;
        header[at..].copy_from_slice(&sum);
        assert_eq!(read(&header).await.0.unwrap(), told());
        header[20] ^= 1;
        assert!(read(&header).await.0.is_err());
    }
}
