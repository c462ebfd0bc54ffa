//! Just enough DER to write certificates, the broken ones included.

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// An element with a tag and contents.
pub(crate) fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let mut der = vec![tag];
    if length < 0x80 {
        der.push(u8::try_from(length).expect("below 128"));
    } else {
        let bytes = length.to_be_bytes();
        let first = bytes
            .iter()
            .position(|byte| *byte != 0)
            .expect("at least 128");
        let bytes = &bytes[first..];
        der.push(0x80 | u8::try_from(bytes.len()).expect("at most 8"));
        der.extend_from_slice(bytes);
    }
    der.extend_from_slice(contents);
    der
}

/// A sequence of elements that are already written.
pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(SEQUENCE, &parts.concat())
}

/// An object identifier by its encoded contents.
pub(crate) fn oid(contents: &[u8]) -> Vec<u8> {
    element(OBJECT_IDENTIFIER, contents)
}

/// A bit string of whole bytes.
pub(crate) fn bits(bytes: &[u8]) -> Vec<u8> {
    element(BIT_STRING, &[&[0], bytes].concat())
}

/// Named bits, the first in the highest bit, without trailing zeros.
pub(crate) fn named_bits(byte: u8) -> Vec<u8> {
    let unused = byte.trailing_zeros().min(7);
    element(
        BIT_STRING,
        &[u8::try_from(unused).expect("at most 7"), byte],
    )
}

/// A time by its seconds since the epoch, as RFC 5280 wants it written.
pub(crate) fn time(unix_secs: i64) -> Vec<u8> {
    let time = time::OffsetDateTime::from_unix_timestamp(unix_secs).expect("a time in range");
    let (hour, minute, second) = time.to_hms();
    let rest = format!(
        "{:02}{:02}{hour:02}{minute:02}{second:02}Z",
        u8::from(time.month()),
        time.day()
    );
    if (1950..2050).contains(&time.year()) {
        element(
            UTC_TIME,
            format!("{:02}{rest}", time.year() % 100).as_bytes(),
        )
    } else {
        element(
            GENERALIZED_TIME,
            format!("{:04}{rest}", time.year()).as_bytes(),
        )
    }
}
