//! In which other ways servers behind a proxy may read a path.
//!
//! Some merge slashes, some decode `%2F` and `%5C`, some cut `;parameters`, each before
//! they remove dot segments. Strict matching lets a denial cover every such reading, and
//! an allow must hold in all of them.

use super::path;

/// A way in which a path may be changed before its dot segments are removed.
#[derive(Clone, Copy)]
struct Ways {
    decode: bool,
    cut: Cut,
    merge: bool,
}

/// When `;parameters` are cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Never,
    /// From the segments as they came.
    First,
    /// From the segments after decoding.
    Decoded,
}

/// The other readings of a path without its query; mostly none. They begin with what
/// arrived and with what is forwarded, because the order of the steps makes a difference:
/// `/x//../admin` is `/x/admin` to a server that leaves `//`, and `/admin` to others.
///
/// `is_canonical` says that dot segments are removed from what is forwarded; if not, that
/// too is a reading.
pub(super) fn of(arrived: &[u8], forwarded: &[u8], is_canonical: bool) -> Vec<Vec<u8>> {
    let mut readings = Vec::new();
    if !is_canonical || may_differ(forwarded) {
        add(forwarded, forwarded, &mut readings);
    }
    if arrived != forwarded && may_differ(arrived) {
        add(arrived, forwarded, &mut readings);
    }
    readings
}

/// Adds the readings of `path` that are not known yet.
fn add(path: &[u8], forwarded: &[u8], readings: &mut Vec<Vec<u8>>) {
    let all = [false, true].into_iter().flat_map(|merge| {
        [
            (false, Cut::Never),
            (true, Cut::Never),
            (false, Cut::First),
            (true, Cut::First),
            (true, Cut::Decoded),
        ]
        .map(|(decode, cut)| Ways { decode, cut, merge })
    });
    for ways in all {
        let Some(reading) = read(path, ways) else {
            continue;
        };
        if reading != forwarded && !readings.contains(&reading) {
            readings.push(reading);
        }
    }
}

/// Whether any of the ways changes the path.
fn may_differ(path: &[u8]) -> bool {
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        match byte {
            b';' => return true,
            b'/' | b'\\' if matches!(after, [b'/' | b'\\', ..]) => return true,
            b'%' if path::slash(rest).is_some() => return true,
            _ => {}
        }
        rest = after;
    }
    false
}

fn read(path: &[u8], ways: Ways) -> Option<Vec<u8>> {
    let mut reading = path.to_vec();
    if ways.cut == Cut::First {
        reading = cut_parameters(&with_slashes(reading));
    }
    if ways.decode
        && let Some(decoded) = path::unescape_slashes(&reading)
    {
        reading = decoded;
    }
    reading = with_slashes(reading);
    if ways.cut == Cut::Decoded {
        reading = cut_parameters(&reading);
    }
    if ways.merge
        && let Some(merged) = path::merge_all(&reading)
    {
        reading = merged;
    }
    Some(path::canonical(&reading).ok()?.into_owned())
}

/// With `/` in the place of each `\`.
fn with_slashes(mut path: Vec<u8>) -> Vec<u8> {
    path.iter_mut()
        .filter(|byte| **byte == b'\\')
        .for_each(|byte| *byte = b'/');
    path
}

/// Without what follows `;` in each segment.
fn cut_parameters(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut is_parameter = false;
    for byte in path {
        match byte {
            b'/' => is_parameter = false,
            b';' => is_parameter = true,
            _ => {}
        }
        if !is_parameter {
            out.push(*byte);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &str) -> Vec<String> {
        let mut texts: Vec<String> = of(path.as_bytes(), path.as_bytes(), true)
            .into_iter()
            .map(|reading| String::from_utf8(reading).unwrap())
            .collect();
        texts.sort();
        texts
    }

    #[test]
    fn each_way_and_all_together() {
        for plain in ["/", "/a", "/a/b%20c", "/a.b/%41", "/%25"] {
            assert!(
                of(plain.as_bytes(), plain.as_bytes(), true).is_empty(),
                "{plain}"
            );
        }
        assert_eq!(texts("//admin"), ["/admin"]);
        assert_eq!(texts("/a%2Fb"), ["/a/b"]);
        assert_eq!(texts("/a%5cb"), ["/a/b"]);
        assert_eq!(texts("/a;x/b"), ["/a/b"]);
        assert_eq!(texts("/public/..%2fadmin"), ["/admin"]);
        assert!(texts("/x//..;y%2fadmin").contains(&"/admin".to_owned()));
        // Parameters are cut before or after `%2F` is decoded.
        assert!(texts("/x%2f..;a%2fb/admin").contains(&"/admin".to_owned()));
    }

    #[test]
    fn what_arrived_is_read_too() {
        let readings = of(b"/x//../admin", b"/x/admin", true);
        assert_eq!(readings, [b"/admin".to_vec()]);
        assert!(of(b"/x/../admin", b"/admin", true).is_empty());
        assert!(of(b"/x\\/..;/../admin", b"/x/admin", true).contains(&b"/admin".to_vec()));
    }

    #[test]
    fn where_normalisation_is_off_the_normalised_form_is_a_reading() {
        let readings = of(b"/a/../admin", b"/a/../admin", false);
        assert_eq!(readings, [b"/admin".to_vec()]);
        assert!(of(b"/a", b"/a", false).is_empty());
    }
}
