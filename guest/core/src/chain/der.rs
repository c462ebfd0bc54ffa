//! The little DER that must be read strictly: lengths are minimal, nothing is left over.

/// Tags that are read here.
pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
/// `uniformResourceIdentifier [6] IA5String` of a GeneralName.
pub(super) const URI_NAME: u8 = 0x86;

/// One element: its tag, its contents, and what follows it. `None` if it is not DER.
pub(super) fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    // Tags above 30 take more bytes; X.509 has none.
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (&length, rest) = rest.split_first()?;
            (length >= 0x80).then_some((usize::from(length), rest))?
        }
        0x82 => {
            let (bytes, rest) = rest.split_first_chunk::<2>()?;
            let length = u16::from_be_bytes(*bytes);
            (length >= 0x100).then_some((usize::from(length), rest))?
        }
        // 64 KiB and more: far beyond the limit of a whole chain.
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

/// The contents of the one element that `input` is, if it has this tag.
pub(super) fn only(tag: u8, input: &[u8]) -> Option<&[u8]> {
    match element(input)? {
        (found, contents, []) if found == tag => Some(contents),
        _ => None,
    }
}

/// The contents of the first element, if it has this tag, and what follows.
pub(super) fn next(tag: u8, input: &[u8]) -> Option<(&[u8], &[u8])> {
    match element(input)? {
        (found, contents, rest) if found == tag => Some((contents, rest)),
        _ => None,
    }
}

/// All elements in `input`; `None` if any is not DER.
pub(super) fn elements(mut input: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while !input.is_empty() {
        let (tag, contents, rest) = element(input)?;
        found.push((tag, contents));
        input = rest;
    }
    Some(found)
}

/// The magnitude of a non-negative INTEGER's contents, without leading zeros.
pub(super) fn magnitude(contents: &[u8]) -> Option<&[u8]> {
    match contents {
        [] => None,
        [first, ..] if first & 0x80 != 0 => None,
        [0, rest @ ..] if rest.first().is_some_and(|byte| byte & 0x80 == 0) => None,
        [0, rest @ ..] => Some(rest),
        _ => Some(contents),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_must_be_minimal_and_present() {
        assert_eq!(element(&[2, 1, 5, 9]), Some((2, &[5][..], &[9][..])));
        for bad in [
            &[][..],
            &[2],
            &[2, 2, 5],
            &[2, 0x80, 5],
            &[2, 0x81, 1, 5],
            &[2, 0x82, 0, 1, 5],
            &[2, 0x83, 0, 0, 1, 5],
            &[0x1f, 1, 5],
        ] {
            assert_eq!(element(bad), None, "{bad:?}");
        }
        let long = [&[2, 0x81, 0x80][..], &[7; 0x80]].concat();
        assert_eq!(only(2, &long), Some(&[7; 0x80][..]));
        let longer = [&[2, 0x82, 1, 0][..], &[7; 0x100]].concat();
        assert_eq!(only(2, &longer), Some(&[7; 0x100][..]));
    }

    #[test]
    fn only_leaves_nothing_over() {
        assert_eq!(only(2, &[2, 1, 5, 9]), None);
        assert_eq!(only(3, &[2, 1, 5]), None);
        assert_eq!(
            elements(&[2, 1, 5, 6, 0]),
            Some(vec![(2, &[5][..]), (6, &[][..])])
        );
        assert_eq!(elements(&[2, 1, 5, 6]), None);
    }

    #[test]
    fn magnitudes_are_minimal_and_not_negative() {
        assert_eq!(magnitude(&[0]), Some(&[][..]));
        assert_eq!(magnitude(&[0, 0x80]), Some(&[0x80][..]));
        assert_eq!(magnitude(&[1, 2]), Some(&[1, 2][..]));
        for bad in [&[][..], &[0x80], &[0, 1], &[0, 0]] {
            assert_eq!(magnitude(bad), None, "{bad:?}");
        }
    }
}
