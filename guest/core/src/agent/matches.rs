//! `GET /v1/connect/intentions/match?by=destination`: the intentions of many services at
//! once. The reply is split by name without being decoded, so that one broken list harms
//! nobody else and an unchanged one is recognised by its digest.
use super::error::{ReplyError, RequestError, excerpt};
use super::json::Value;
use super::reply::HttpReply;
use super::request::{HttpRequest, MAX_MATCH_REPLY, Method, Query, Target, check_name, refused};
use crate::watch::Digest;

/// How many names one query may carry.
pub const MAX_NAMES: usize = 128;
/// How long one query's target may be. Go servers take a megabyte; what stands between may not.
pub const MAX_TARGET: usize = 16 * 1024;

/// One name's list, still raw: an array, or `null` for no intentions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawList<'a> {
    /// JSON.
    pub json: &'a str,
    /// Of the JSON.
    pub digest: Digest,
}

/// A reply by name, in the order in which they were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matches<'a> {
    /// Each name with its list, or why it has none.
    pub lists: Vec<(String, Result<RawList<'a>, ReplyError>)>,
    /// Names in the reply that nobody asked for, at most 8.
    pub unexpected: Vec<String>,
}

/// Cuts names into batches that fit one query each.
pub fn batches(names: &[String]) -> impl Iterator<Item = &[String]> {
    // The worst case triples a name's length; `&name=` goes with each.
    let cost = |name: &String| name.len().saturating_mul(3).saturating_add(6);
    let mut rest = names;
    std::iter::from_fn(move || {
        let mut room = MAX_TARGET.saturating_sub(512);
        let fits = rest
            .iter()
            .take(MAX_NAMES)
            .take_while(|name| {
                let fits = cost(name) <= room;
                room = room.saturating_sub(cost(name));
                fits
            })
            .count();
        let (batch, others) = rest.split_at_checked(fits.max(1))?;
        rest = others;
        Some(batch)
    })
}

/// Asks for the intentions whose destination is one of `names` (`name`, `ns/name` or
/// `partition/ns/name`). Needs `intention:read` on each: one that is refused refuses all.
///
/// # Errors
/// [`RequestError`] for no names, too many, repeated or impossible ones.
pub fn request(names: &[impl AsRef<str>], query: &Query) -> Result<HttpRequest, RequestError> {
    let mut target = Target::new("/v1/connect/intentions/match").parameter("by", "destination");
    if names.is_empty() {
        return Err(refused("names", "", "are none"));
    }
    if names.len() > MAX_NAMES {
        return Err(refused("names", "", "are more than 128"));
    }
    let mut seen = std::collections::BTreeSet::new();
    for name in names.iter().map(AsRef::as_ref) {
        check_name("name", name)?;
        if name.matches('/').count() > 2 {
            return Err(refused("name", name, "contains more than two slashes"));
        }
        if !seen.insert(name) {
            return Err(refused("name", name, "occurs twice"));
        }
        target = target.parameter("name", name);
    }
    target = target.query(query);
    if target.len() > MAX_TARGET {
        return Err(refused("names", "", "make the query too long"));
    }
    Ok(target.request(Method::Get).max_reply(MAX_MATCH_REPLY))
}

/// Splits the reply to a query for `names`.
///
/// # Errors
/// See [`ReplyError`]: only for what makes the whole reply unusable. A list that is missing,
/// occurs twice or is no list is an error in its own place.
pub fn decode<'a>(
    reply: &HttpReply<'a>,
    names: &[impl AsRef<str>],
) -> Result<Matches<'a>, ReplyError> {
    let top = reply.json(MAX_MATCH_REPLY)?.object()?;
    let mut found = top.index();
    let lists = names
        .iter()
        .map(|name| {
            let name = name.as_ref();
            let field = || top.pointer(name);
            let list = match found.remove(name).as_deref() {
                None => Err(ReplyError::Missing { field: field() }),
                Some([value]) => raw_list(value),
                Some(_) => Err(ReplyError::Duplicate { field: field() }),
            };
            (name.to_owned(), list)
        })
        .collect();
    let unexpected = found.keys().take(8).map(|name| excerpt(name)).collect();
    Ok(Matches { lists, unexpected })
}

fn raw_list<'a>(value: &Value<'a>) -> Result<RawList<'a>, ReplyError> {
    if value.is_null() || value.raw().starts_with('[') {
        let json = value.raw();
        Ok(RawList {
            json,
            digest: Digest::of(json.as_bytes()),
        })
    } else {
        Err(value.mistyped("an array or null"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::ok;

    fn lists<'a>(body: &'a str, names: &[&str]) -> Vec<(String, Result<RawList<'a>, ReplyError>)> {
        decode(&ok(body), names).unwrap().lists
    }

    #[test]
    fn a_reply_is_split_by_name() {
        let body = r#"{"default/db":[{"Action":"deny"}], "web":null,"api":[]}"#;
        let lists = lists(body, &["web", "default/db", "api"]);
        let json: Vec<_> = lists
            .iter()
            .map(|(n, l)| (n.as_str(), l.as_ref().unwrap().json))
            .collect();
        assert_eq!(
            json,
            [
                ("web", "null"),
                ("default/db", r#"[{"Action":"deny"}]"#),
                ("api", "[]")
            ]
        );
        assert_ne!(
            lists[0].1.as_ref().unwrap().digest,
            lists[2].1.as_ref().unwrap().digest
        );
    }

    #[test]
    fn one_bad_list_harms_no_other() {
        let body =
            r#"{"a":[1],"b":{"x":[]},"c":"[]","d":[2],"d":[3],"E":[4],"evil\n":[5],"f":[6]}"#;
        let reply = ok(body);
        let matches = decode(&reply, &["a", "b", "c", "d", "e", "f"]).unwrap();
        let good: Vec<_> = matches
            .lists
            .iter()
            .filter(|(_, l)| l.is_ok())
            .map(|(n, _)| n.as_str())
            .collect();
        assert_eq!(good, ["a", "f"]);
        let error = |i: usize| matches.lists[i].1.clone().unwrap_err();
        assert!(matches!(error(1), ReplyError::Type { field, .. } if field == "/b"));
        assert!(matches!(error(2), ReplyError::Type { field, .. } if field == "/c"));
        assert_eq!(error(3), ReplyError::Duplicate { field: "/d".into() });
        assert_eq!(
            error(4),
            ReplyError::Missing { field: "/e".into() },
            "`E` is another service"
        );
        assert_eq!(matches.unexpected, ["E", "evil"]);
    }

    #[test]
    fn what_is_no_object_is_no_reply() {
        for body in ["[]", "null", "", "{\"a\":[}", "{\"a\":[1]"] {
            assert!(decode(&ok(body), &["a"]).is_err(), "{body}");
        }
    }

    #[test]
    fn queries_are_bounded() {
        let names: Vec<String> = (0..300).map(|i| format!("svc-{i}")).collect();
        let sizes: Vec<_> = batches(&names).map(<[String]>::len).collect();
        assert_eq!(sizes, [128, 128, 44]);
        let long: Vec<String> = (0..40)
            .map(|i| format!("{i:03}{}", "é".repeat(250)))
            .collect();
        assert_eq!(batches(&long).map(<[String]>::len).sum::<usize>(), 40);
        for batch in batches(&long).chain(batches(&names)) {
            assert!(request(batch, &Query::default()).is_ok());
        }
        assert!(request(&names, &Query::default()).is_err());
        assert!(request(&[] as &[&str], &Query::default()).is_err());
        assert!(request(&["a", "a"], &Query::default()).is_err());
        assert!(request(&["a/b/c/d"], &Query::default()).is_err());
        assert_eq!(batches(&[]).count(), 0);
    }

    #[test]
    fn the_target_carries_every_name() {
        let request = request(&["db", "ns/web&by=source"], &Query::default()).unwrap();
        assert_eq!(
            request.path_and_query,
            "/v1/connect/intentions/match?by=destination&name=db&name=ns%2Fweb%26by%3Dsource"
        );
    }
}
