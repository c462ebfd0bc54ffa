//! The trace that a request belongs to, by its header `traceparent` (W3C Trace Context).

use http::HeaderMap;

/// The header.
const NAME: &str = "traceparent";

/// `version-trace-parent-flags` of a request that says it once and well; else it has no trace.
pub(super) fn parent(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(NAME).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let text = value.to_str().ok()?;
    let mut parts = text.splitn(5, '-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let (flags, more) = (parts.next()?, parts.next());
    let good = is_hex(version, 2)
        && version != "ff"
        && is_hex(trace, 32)
        && is_hex(parent, 16)
        && is_hex(flags, 2)
        // Later versions may say more.
        && (more.is_none() || version != "00");
    let named = [trace, parent]
        .iter()
        .all(|id| id.bytes().any(|byte| byte != b'0'));
    (good && named).then(|| format!("{version}-{trace}-{parent}-{flags}"))
}

fn is_hex(text: &str, length: usize) -> bool {
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.len() == length && text.bytes().all(digit)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(NAME, HeaderValue::from_str(value).unwrap());
        }
        parent(&headers)
    }

    #[test]
    fn a_parent_is_believed_in_its_one_form() {
        assert_eq!(of(&[GOOD]).as_deref(), Some(GOOD));
        let later = GOOD.replacen("00", "01", 1);
        assert_eq!(of(&[&format!("{later}-more-of-it")]), Some(later));
        for bad in [
            "",
            "00",
            &format!("{GOOD}-more"),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.to_uppercase(),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace("-01", "-1"),
            &GOOD.replace('-', "_"),
        ] {
            assert_eq!(of(&[bad]), None, "{bad}");
        }
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[GOOD, GOOD]), None, "which one?");
    }
}
