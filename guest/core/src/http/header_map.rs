//! Headers in proxy-wasm's form.
//!
//! The number of headers, the lengths of all names and values (four bytes each, least
//! significant first), then names and values, each with a NUL behind it.

use super::headers::Header;

/// The headers of a request in a map that was checked. Pseudo headers are left out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeaderMap<'r> {
    lengths: &'r [u8],
    text: &'r [u8],
    /// What comes last, as `host`.
    host: Option<&'r [u8]>,
}

impl<'r> HeaderMap<'r> {
    /// `lengths` and `text` are of one map, without its number of headers.
    pub(crate) const fn new(lengths: &'r [u8], text: &'r [u8], host: Option<&'r [u8]>) -> Self {
        Self {
            lengths,
            text,
            host,
        }
    }

    /// Every name and value, up to the first that is not whole.
    pub(crate) fn pairs(&self) -> Pairs<'r> {
        Pairs {
            lengths: self.lengths,
            text: self.text,
        }
    }

    /// The request's headers.
    pub(crate) fn headers(self) -> impl Iterator<Item = Header<'r>> {
        self.pairs()
            .filter(|(name, _)| !name.starts_with(b":"))
            .chain(self.host.map(|host| (&b"host"[..], host)))
    }

    /// Whether the headers have more than so many bytes, with four more for each name and value.
    pub(super) fn is_longer_than(self, most: usize) -> bool {
        // The map has all of that, and more.
        let whole = self.lengths.len().saturating_add(self.text.len());
        whole > most && self.length() > most
    }

    fn length(self) -> usize {
        self.headers().fold(0, |sum, (name, value)| {
            sum.saturating_add(8)
                .saturating_add(name.len())
                .saturating_add(value.len())
        })
    }
}

/// The names and values of a map.
#[derive(Clone, Debug)]
pub(crate) struct Pairs<'r> {
    lengths: &'r [u8],
    text: &'r [u8],
}

impl<'r> Pairs<'r> {
    /// What is left of the texts.
    pub(crate) const fn rest(&self) -> &'r [u8] {
        self.text
    }
}

impl<'r> Iterator for Pairs<'r> {
    type Item = Header<'r>;

    fn next(&mut self) -> Option<Self::Item> {
        let (lengths, rest) = self.lengths.split_first_chunk::<8>()?;
        let [a, b, c, d, e, f, g, h] = *lengths;
        let [name, value] = [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes);
        let (name, text) = part(self.text, name)?;
        let (value, text) = part(text, value)?;
        (self.lengths, self.text) = (rest, text);
        Some((name, value))
    }
}

fn part(text: &[u8], length: u32) -> Option<(&[u8], &[u8])> {
    let (part, rest) = text.split_at_checked(usize::try_from(length).ok()?)?;
    match rest {
        [0, rest @ ..] => Some((part, rest)),
        _ => None,
    }
}
