//! A certificate as the rules see it: raw names, times, and extensions read strictly.
//!
//! x509-parser splits the certificate; the extensions that decide are read here,
//! byte for byte, because lenient readers disagree about what they mean.

use x509_parser::certificate::{X509Certificate, X509CertificateParser};
use x509_parser::nom::Parser as _;
use x509_parser::x509::{X509Name, X509Version};

use super::der;
use crate::identity::Excerpt;
use crate::time::Timestamp;

const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];

/// A certificate, split but not yet judged.
pub(super) struct Certificate<'a> {
    der: &'a [u8],
    x509: X509Certificate<'a>,
}

/// Where a time lies in a certificate's validity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Period {
    NotBegun,
    Current,
    Ended,
}

/// The bits of a key usage that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyUsageBits {
    pub(super) digital_signature: bool,
    pub(super) key_cert_sign: bool,
    pub(super) crl_sign: bool,
}

/// An extension that is there twice or cannot be read; the name is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadExtension(pub(super) &'static str);

impl<'a> Certificate<'a> {
    /// Splits DER; `None` unless it is exactly one X.509 version 3 certificate.
    pub(super) fn parse(der: &'a [u8]) -> Option<Self> {
        // Nothing may follow the outermost sequence, so nothing is left over below.
        der::only(der::SEQUENCE, der)?;
        let (_, x509) = X509CertificateParser::new()
            .with_deep_parse_extensions(false)
            .parse(der)
            .ok()?;
        (x509.version() == X509Version::V3).then_some(Self { der, x509 })
    }

    pub(super) const fn der(&self) -> &'a [u8] {
        self.der
    }

    /// The subject's DER.
    pub(super) fn subject(&self) -> &[u8] {
        self.x509.subject().as_raw()
    }

    /// The issuer's DER.
    pub(super) fn issuer(&self) -> &[u8] {
        self.x509.issuer().as_raw()
    }

    pub(super) fn subject_name(&self) -> Excerpt {
        common_name(self.x509.subject())
    }

    pub(super) fn issuer_name(&self) -> Excerpt {
        common_name(self.x509.issuer())
    }

    /// The contents of the serial number's INTEGER.
    pub(super) fn serial(&self) -> &[u8] {
        self.x509.raw_serial()
    }

    pub(super) fn has_negative_serial(&self) -> bool {
        self.serial().first().is_none_or(|byte| byte & 0x80 != 0)
    }

    /// The DER of the SubjectPublicKeyInfo.
    pub(super) fn public_key(&self) -> &[u8] {
        self.x509.public_key().raw
    }

    /// The beginning of the validity; what lies before 1970 counts as 1970.
    pub(super) fn not_before(&self) -> Timestamp {
        seconds(self.x509.validity().not_before.timestamp())
    }

    /// The end of the validity; what lies before 1970 counts as 1970.
    pub(super) fn not_after(&self) -> Timestamp {
        seconds(self.x509.validity().not_after.timestamp())
    }

    /// Whether the validity contains no moment after 1970 at all.
    pub(super) fn is_never_valid(&self) -> bool {
        let validity = self.x509.validity();
        let end = validity.not_after.timestamp();
        end < 0 || end < validity.not_before.timestamp()
    }

    /// Where `now` lies, by whole seconds, both ends included (RFC 5280, 4.1.2.5).
    pub(super) fn period(&self, now: Timestamp) -> Period {
        period(self.not_before(), self.not_after(), now)
    }

    /// `cA` of the basic constraints; absent is false.
    pub(super) fn is_ca(&self) -> Result<bool, BadExtension> {
        const NAME: &str = "basic constraints";
        let Some(value) = self.extension(BASIC_CONSTRAINTS, NAME)? else {
            return Ok(false);
        };
        let fields = der::only(der::SEQUENCE, value).ok_or(BadExtension(NAME))?;
        match der::next(der::BOOLEAN, fields) {
            Some(([0xff], _)) => Ok(true),
            Some(([0], _)) | None => Ok(false),
            Some(_) => Err(BadExtension(NAME)),
        }
    }

    pub(super) fn key_usage(&self) -> Result<Option<KeyUsageBits>, BadExtension> {
        const NAME: &str = "key usage";
        let Some(value) = self.extension(KEY_USAGE, NAME)? else {
            return Ok(None);
        };
        let bits = der::only(der::BIT_STRING, value).ok_or(BadExtension(NAME))?;
        let (unused, first) = match bits {
            [unused @ 0..=7, first] => (*unused, *first),
            // `decipherOnly` is the only bit of the second byte.
            [7, first, 0x80] => (0, *first),
            _ => return Err(BadExtension(NAME)),
        };
        let padding = u8::MAX
            .checked_shr(8_u32.saturating_sub(u32::from(unused)))
            .unwrap_or(0);
        if first & padding != 0 {
            return Err(BadExtension(NAME));
        }
        Ok(Some(KeyUsageBits {
            digital_signature: first & 0x80 != 0,
            key_cert_sign: first & 0x04 != 0,
            crl_sign: first & 0x02 != 0,
        }))
    }

    /// The object identifiers of the extended key usage.
    pub(super) fn extended_key_usage(&self) -> Result<Option<Vec<&[u8]>>, BadExtension> {
        const NAME: &str = "extended key usage";
        let Some(value) = self.extension(EXTENDED_KEY_USAGE, NAME)? else {
            return Ok(None);
        };
        let list = der::only(der::SEQUENCE, value)
            .and_then(der::elements)
            .ok_or(BadExtension(NAME))?;
        list.into_iter()
            .map(|(tag, oid)| (tag == der::OBJECT_IDENTIFIER).then_some(oid))
            .collect::<Option<Vec<_>>>()
            .filter(|oids| !oids.is_empty())
            .map(Some)
            .ok_or(BadExtension(NAME))
    }

    /// The raw bytes of every URI name, whatever characters they have.
    pub(super) fn uri_names(&self) -> Result<Vec<&[u8]>, BadExtension> {
        const NAME: &str = "subject alternative name";
        let Some(value) = self.extension(SUBJECT_ALT_NAME, NAME)? else {
            return Ok(Vec::new());
        };
        let names = der::only(der::SEQUENCE, value)
            .and_then(der::elements)
            .ok_or(BadExtension(NAME))?;
        names
            .into_iter()
            .filter(|(tag, _)| tag & 0x1f == der::URI_NAME & 0x1f)
            // A URI in another class or form is not DER of a GeneralName.
            .map(|(tag, uri)| (tag == der::URI_NAME).then_some(uri))
            .collect::<Option<Vec<_>>>()
            .ok_or(BadExtension(NAME))
    }

    /// Whether name constraints restrict URI names.
    pub(super) fn constrains_uris(&self) -> Result<bool, BadExtension> {
        const NAME: &str = "name constraints";
        let Some(value) = self.extension(NAME_CONSTRAINTS, NAME)? else {
            return Ok(false);
        };
        uri_constraints(value).ok_or(BadExtension(NAME))
    }

    /// The value of an extension that may be there once.
    fn extension(&self, oid: &[u8], name: &'static str) -> Result<Option<&'a [u8]>, BadExtension> {
        let mut values = self
            .x509
            .extensions()
            .iter()
            .filter(|extension| extension.oid.as_bytes() == oid)
            .map(|extension| extension.value);
        let first = values.next();
        match values.next() {
            None => Ok(first),
            Some(_) => Err(BadExtension(name)),
        }
    }
}

/// Where `now` lies between two times, by whole seconds, both ends included.
pub(super) fn period(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> Period {
    if now.as_unix_secs() < not_before.as_unix_secs() {
        Period::NotBegun
    } else if now.as_unix_secs() > not_after.as_unix_secs() {
        Period::Ended
    } else {
        Period::Current
    }
}

/// Any `GeneralSubtree` whose base is a URI, in either list.
fn uri_constraints(value: &[u8]) -> Option<bool> {
    let mut found = false;
    for (_, subtrees) in der::elements(der::only(der::SEQUENCE, value)?)? {
        for (tag, subtree) in der::elements(subtrees)? {
            if tag != der::SEQUENCE {
                return None;
            }
            let (base, _, _) = der::element(subtree)?;
            found |= base & 0x1f == der::URI_NAME & 0x1f;
        }
    }
    Some(found)
}

fn seconds(since_epoch: i64) -> Timestamp {
    Timestamp::from_unix_secs(u64::try_from(since_epoch).unwrap_or(0))
}

fn common_name(name: &X509Name<'_>) -> Excerpt {
    let common_name = name
        .iter_common_name()
        .next()
        .and_then(|attribute| attribute.as_str().ok());
    Excerpt::of(common_name.unwrap_or("no common name"))
}
