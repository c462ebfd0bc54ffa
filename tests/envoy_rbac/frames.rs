//! As much of HTTP/2 as it takes to send header lists verbatim, and to read them.

use std::io::{self, Read, Write};

use loona_hpack::Decoder;

use crate::question::Header;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: u8, flags: u8, stream: u32, payload: Vec<u8>) -> Self {
        Self {
            kind,
            flags,
            stream,
            payload,
        }
    }

    /// A header list that ends its stream, nothing in it compressed.
    pub(crate) fn headers(stream: u32, list: &[Header]) -> Self {
        let mut block = Vec::new();
        for (name, value) in list {
            block.push(0);
            for text in [name, value] {
                length(text.len(), &mut block);
                block.extend(text);
            }
        }
        Self::new(HEADERS, END_STREAM | END_HEADERS, stream, block)
    }

    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.payload.len()).map_err(io::Error::other)?;
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        to.write_all(&bytes)
    }

    pub(crate) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 9];
        from.read_exact(&mut head)?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        from.read_exact(&mut payload)?;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        Ok(Self {
            kind,
            flags,
            stream,
            payload,
        })
    }

    /// The header list of a HEADERS frame, which must be whole.
    pub(crate) fn list(&self, decoder: &mut Decoder<'_>) -> io::Result<Vec<Header>> {
        // Neither padding nor continuations; a priority takes five bytes.
        assert_eq!(self.flags & (END_HEADERS | 0x8), END_HEADERS, "{self:?}");
        let skip = if self.flags & 0x20 == 0 { 0 } else { 5 };
        decoder
            .decode(&self.payload[skip..])
            .map_err(|error| io::Error::other(format!("{error:?}")))
    }
}

/// A length with a prefix of seven bits.
fn length(mut number: usize, to: &mut Vec<u8>) {
    let byte = |number: usize| u8::try_from(number).expect("less than 256");
    if number < 0x7f {
        to.push(byte(number));
        return;
    }
    to.push(0x7f);
    number -= 0x7f;
    while number >= 0x80 {
        to.push(byte(number % 0x80) | 0x80);
        number /= 0x80;
    }
    to.push(byte(number));
}
