//! A certificate to be, with one method for each way to spoil it.

use rustls_pki_types::CertificateDer;

use crate::der;
use crate::key::{BadPublicKey, Key, KeyType, SignatureAlgorithm};

const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_ENCIPHERMENT: u8 = 0x20;
const DATA_ENCIPHERMENT: u8 = 0x10;
const KEY_AGREEMENT: u8 = 0x08;
const KEY_CERT_SIGN: u8 = 0x04;
const CRL_SIGN: u8 = 0x02;

const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const ANY_PURPOSE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];

const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

const HOUR: i64 = 3_600;

/// What a certificate will say. It begins as Consul would write it; every method
/// changes one thing.
#[derive(Clone, Debug)]
pub struct Draft {
    pub(crate) now: i64,
    not_before: i64,
    not_after: i64,
    version: u8,
    serial: Vec<u8>,
    pub(crate) subject: Option<String>,
    names: Vec<(u8, Vec<u8>)>,
    is_ca: bool,
    path_len: Option<u8>,
    key_usage: Option<u8>,
    purposes: Option<Vec<&'static [u8]>>,
    extensions: Vec<Vec<u8>>,
    algorithm: Option<SignatureAlgorithm>,
    pub(crate) key_type: KeyType,
    bad_key: Option<BadPublicKey>,
    breaks_signature: bool,
}

impl Draft {
    /// A leaf as Consul issues it: 72 hours, back-dated by a minute.
    pub(crate) fn leaf(now: i64, uri: &str) -> Self {
        Self {
            now,
            not_before: now - 60,
            not_after: now - 60 + 72 * HOUR,
            version: 2,
            serial: vec![0x09],
            subject: None,
            names: vec![uri_name(uri.as_bytes())],
            is_ca: false,
            path_len: None,
            key_usage: Some(
                DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | DATA_ENCIPHERMENT | KEY_AGREEMENT,
            ),
            purposes: Some(vec![CLIENT_AUTH, SERVER_AUTH]),
            extensions: Vec::new(),
            algorithm: None,
            key_type: KeyType::P256,
            bad_key: None,
            breaks_signature: false,
        }
    }

    /// A root as Consul issues it: ten years, from now on.
    pub(crate) fn ca(now: i64, trust_domain: &str, subject: &str) -> Self {
        Self {
            not_before: now,
            not_after: now + 87_600 * HOUR,
            serial: vec![0x07],
            subject: Some(subject.to_owned()),
            names: vec![uri_name(format!("spiffe://{trust_domain}").as_bytes())],
            is_ca: true,
            key_usage: Some(DIGITAL_SIGNATURE | KEY_CERT_SIGN | CRL_SIGN),
            purposes: None,
            ..Self::leaf(now, "")
        }
    }

    /// Its validity in seconds from now: `(-60, 3600)` is one hour, begun a minute ago.
    #[must_use]
    pub fn valid(mut self, from: i64, to: i64) -> Self {
        (self.not_before, self.not_after) = (self.now + from, self.now + to);
        self
    }

    /// Its validity ended an hour ago.
    #[must_use]
    pub fn expired(self) -> Self {
        self.valid(-2 * HOUR, -HOUR)
    }

    /// Its validity begins in an hour.
    #[must_use]
    pub fn not_yet_valid(self) -> Self {
        self.valid(HOUR, 2 * HOUR)
    }

    /// The number in its version field: 2 is version 3.
    #[must_use]
    pub const fn version(mut self, number: u8) -> Self {
        self.version = number;
        self
    }

    /// The contents of its serial number's INTEGER.
    #[must_use]
    pub fn serial(mut self, contents: &[u8]) -> Self {
        self.serial = contents.to_vec();
        self
    }

    /// A negative serial number.
    #[must_use]
    pub fn negative_serial(self) -> Self {
        self.serial(&[0x80])
    }

    /// The common name of its subject.
    #[must_use]
    pub fn subject(mut self, common_name: &str) -> Self {
        self.subject = Some(common_name.to_owned());
        self
    }

    /// A kind of key.
    #[must_use]
    pub const fn key(mut self, key_type: KeyType) -> Self {
        self.key_type = key_type;
        self
    }

    /// These URI names instead of its own.
    #[must_use]
    pub fn uris(mut self, uris: &[&str]) -> Self {
        self.names = uris.iter().map(|uri| uri_name(uri.as_bytes())).collect();
        self
    }

    /// A second URI name after its own.
    #[must_use]
    pub fn two_uris(mut self, second: &str) -> Self {
        self.names.push(uri_name(second.as_bytes()));
        self
    }

    /// Any bytes as its only URI name.
    #[must_use]
    pub fn raw_uri(mut self, uri: &[u8]) -> Self {
        self.names = vec![uri_name(uri)];
        self
    }

    /// Any bytes as a further URI name.
    #[must_use]
    pub fn second_raw_uri(mut self, uri: &[u8]) -> Self {
        self.names.push(uri_name(uri));
        self
    }

    /// No names at all.
    #[must_use]
    pub fn no_uri(mut self) -> Self {
        self.names.clear();
        self
    }

    /// A DNS name after the others.
    #[must_use]
    pub fn dns(mut self, name: &str) -> Self {
        self.names.push((0x82, name.as_bytes().to_vec()));
        self
    }

    /// Its URI as a DNS name instead.
    #[must_use]
    pub fn uri_in_dns(self) -> Self {
        self.rename(0x82)
    }

    /// Its URI as an e-mail address instead.
    #[must_use]
    pub fn uri_in_email(self) -> Self {
        self.rename(0x81)
    }

    /// Its URI as an otherName instead.
    #[must_use]
    pub fn uri_in_other_name(mut self) -> Self {
        for (tag, name) in &mut self.names {
            let value = der::element(0xa0, &der::element(der::UTF8_STRING, name));
            *tag = 0xa0;
            *name = [der::oid(&[0x2a, 0x03]), value].concat();
        }
        self
    }

    /// Its URI as the common name instead.
    #[must_use]
    pub fn uri_in_common_name(mut self) -> Self {
        let (_, uri) = self.names.remove(0);
        self.subject = Some(String::from_utf8(uri).expect("a URI in UTF-8"));
        self
    }

    /// Its URI under a constructed tag, which no reader should take for one.
    #[must_use]
    pub fn uri_in_constructed_form(self) -> Self {
        self.rename(0xa6)
    }

    /// The same identity in a trust domain of somebody else.
    #[must_use]
    pub fn wrong_trust_domain(mut self) -> Self {
        for (_, name) in &mut self.names {
            let text = String::from_utf8(name.clone()).expect("a URI in UTF-8");
            let rest = text.strip_prefix("spiffe://").expect("a SPIFFE ID");
            let path = rest.find('/').map_or("", |at| &rest[at..]);
            *name = format!("spiffe://somebody-else.example{path}").into_bytes();
        }
        self
    }

    /// Basic constraints that say CA, on a leaf.
    #[must_use]
    pub const fn ca_leaf(mut self) -> Self {
        self.is_ca = true;
        self
    }

    /// Basic constraints that do not say CA, on an issuer.
    #[must_use]
    pub const fn not_ca(mut self) -> Self {
        self.is_ca = false;
        self
    }

    /// How many CAs may follow.
    #[must_use]
    pub const fn path_len(mut self, length: u8) -> Self {
        self.path_len = Some(length);
        self
    }

    /// No key usage at all.
    #[must_use]
    pub const fn without_key_usage(mut self) -> Self {
        self.key_usage = None;
        self
    }

    /// A key usage without digitalSignature.
    #[must_use]
    pub fn without_digital_signature(mut self) -> Self {
        self.key_usage = self.key_usage.map(|usage| usage & !DIGITAL_SIGNATURE);
        self
    }

    /// A key usage with keyCertSign.
    #[must_use]
    pub fn with_cert_sign(mut self) -> Self {
        self.key_usage = self.key_usage.map(|usage| usage | KEY_CERT_SIGN);
        self
    }

    /// A key usage with cRLSign.
    #[must_use]
    pub fn with_crl_sign(mut self) -> Self {
        self.key_usage = self.key_usage.map(|usage| usage | CRL_SIGN);
        self
    }

    /// A key usage without keyCertSign, on an issuer.
    #[must_use]
    pub fn without_cert_sign(mut self) -> Self {
        self.key_usage = self.key_usage.map(|usage| usage & !KEY_CERT_SIGN);
        self
    }

    /// Client authentication only.
    #[must_use]
    pub fn client_only(mut self) -> Self {
        self.purposes = Some(vec![CLIENT_AUTH]);
        self
    }

    /// Server authentication only.
    #[must_use]
    pub fn server_only(mut self) -> Self {
        self.purposes = Some(vec![SERVER_AUTH]);
        self
    }

    /// anyExtendedKeyUsage only.
    #[must_use]
    pub fn any_eku(mut self) -> Self {
        self.purposes = Some(vec![ANY_PURPOSE]);
        self
    }

    /// No extended key usage.
    #[must_use]
    pub fn without_eku(mut self) -> Self {
        self.purposes = None;
        self
    }

    /// An extended key usage without a purpose.
    #[must_use]
    pub fn empty_eku(mut self) -> Self {
        self.purposes = Some(Vec::new());
        self
    }

    /// Name constraints: only URIs of this host are permitted.
    #[must_use]
    pub fn uri_name_constraints(self, host: &str) -> Self {
        self.name_constraint(0xa0, 0x86, host)
    }

    /// Name constraints: URIs of this host are excluded.
    #[must_use]
    pub fn excluded_uri(self, host: &str) -> Self {
        self.name_constraint(0xa1, 0x86, host)
    }

    /// Name constraints: only DNS names of this domain are permitted.
    #[must_use]
    pub fn dns_name_constraints(self, domain: &str) -> Self {
        self.name_constraint(0xa0, 0x82, domain)
    }

    /// The names twice, in two extensions.
    #[must_use]
    pub fn duplicate_san(mut self) -> Self {
        let names = self.names_extension();
        self.extensions.push(names);
        self
    }

    /// A critical extension that nobody knows.
    #[must_use]
    pub fn unknown_critical_extension(mut self) -> Self {
        self.extensions
            .push(extension(&[0x2a, 0x03, 0x04], true, &[0x05, 0x00]));
        self
    }

    /// An extension nobody knows, of so many bytes.
    #[must_use]
    pub fn padding(mut self, bytes: usize) -> Self {
        self.extensions
            .push(extension(&[0x2a, 0x03, 0x05], false, &vec![0; bytes]));
        self
    }

    /// Claims another signature algorithm than the CA uses.
    #[must_use]
    pub const fn signature_algorithm(mut self, algorithm: SignatureAlgorithm) -> Self {
        self.algorithm = Some(algorithm);
        self
    }

    /// Certifies a key that should not be certified.
    #[must_use]
    pub const fn public_key(mut self, key: BadPublicKey) -> Self {
        self.bad_key = Some(key);
        self
    }

    /// A signature that does not fit.
    #[must_use]
    pub const fn bad_signature(mut self) -> Self {
        self.breaks_signature = true;
        self
    }

    fn rename(mut self, tag: u8) -> Self {
        for name in &mut self.names {
            name.0 = tag;
        }
        self
    }

    fn name_constraint(mut self, list: u8, tag: u8, base: &str) -> Self {
        let subtree = der::sequence(&[&der::element(tag, base.as_bytes())]);
        let constraints = der::sequence(&[&der::element(list, &subtree)]);
        self.extensions
            .push(extension(NAME_CONSTRAINTS, true, &constraints));
        self
    }

    fn names_extension(&self) -> Vec<u8> {
        let names: Vec<Vec<u8>> = self
            .names
            .iter()
            .map(|(tag, name)| der::element(*tag, name))
            .collect();
        let list = der::element(der::SEQUENCE, &names.concat());
        extension(SUBJECT_ALT_NAME, !self.is_ca, &list)
    }

    fn extensions(&self) -> Vec<u8> {
        let mut list = Vec::new();
        if let Some(usage) = self.key_usage {
            list.push(extension(KEY_USAGE, true, &der::named_bits(usage)));
        }
        if let Some(purposes) = &self.purposes {
            let purposes: Vec<Vec<u8>> = purposes.iter().map(|oid| der::oid(oid)).collect();
            let purposes = der::element(der::SEQUENCE, &purposes.concat());
            list.push(extension(EXTENDED_KEY_USAGE, false, &purposes));
        }
        let is_ca = if self.is_ca {
            der::element(der::BOOLEAN, &[0xff])
        } else {
            Vec::new()
        };
        let path_len = self
            .path_len
            .map_or_else(Vec::new, |n| der::element(der::INTEGER, &[n]));
        list.push(extension(
            BASIC_CONSTRAINTS,
            true,
            &der::sequence(&[&is_ca, &path_len]),
        ));
        if !self.names.is_empty() {
            list.push(self.names_extension());
        }
        list.extend(self.extensions.iter().cloned());
        der::element(0xa3, &der::element(der::SEQUENCE, &list.concat()))
    }

    /// Writes and signs it.
    pub(crate) fn sign(
        &self,
        key: &Key,
        issuer: Option<&str>,
        signer: &Key,
    ) -> CertificateDer<'static> {
        let algorithm = match self.algorithm {
            Some(algorithm) => algorithm.der(),
            None => signer.signature_algorithm(),
        };
        let public_key = match self.bad_key {
            Some(bad) => bad.public_key_info(),
            None => key.public_key_info(),
        };
        let tbs = der::sequence(&[
            &der::element(0xa0, &der::element(der::INTEGER, &[self.version])),
            &der::element(der::INTEGER, &self.serial),
            &algorithm,
            &name(issuer),
            &der::sequence(&[&der::time(self.not_before), &der::time(self.not_after)]),
            &name(self.subject.as_deref()),
            &public_key,
            &self.extensions(),
        ]);
        let mut signature = signer.sign(&tbs);
        if self.breaks_signature {
            let last = signature.last_mut().expect("a signature");
            *last ^= 1;
        }
        der::sequence(&[&tbs, &algorithm, &der::bits(&signature)]).into()
    }
}

fn uri_name(uri: &[u8]) -> (u8, Vec<u8>) {
    (0x86, uri.to_vec())
}

fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical {
        der::element(der::BOOLEAN, &[0xff])
    } else {
        Vec::new()
    };
    der::sequence(&[
        &der::oid(oid),
        &critical,
        &der::element(der::OCTET_STRING, value),
    ])
}

fn name(common_name: Option<&str>) -> Vec<u8> {
    let Some(text) = common_name else {
        return der::sequence(&[]);
    };
    let attribute = der::sequence(&[
        &der::oid(COMMON_NAME),
        &der::element(der::UTF8_STRING, text.as_bytes()),
    ]);
    der::sequence(&[&der::element(der::SET, &attribute)])
}
