//! `GET /v1/agent/connect/ca/roots`: trust domain and roots.
use super::error::ReplyError;
use super::reply::HttpReply;
use super::request::{HttpRequest, MAX_REPLY, Method, Query, Target};

/// The mesh's trust domain and every root to trust, not only the active one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// `<cluster id>.consul`, as the agent spells it.
    pub trust_domain: String,
    /// ID of the root that signs now.
    pub active_id: String,
    /// Never empty.
    pub roots: Vec<Root>,
}

/// One root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// SHA-1 of its DER, lower-case hex joined by `:`.
    pub id: String,
    /// For people.
    pub name: String,
    /// Whether it signs now.
    pub active: bool,
    /// The certificate.
    pub pem: String,
    /// The intermediates that Consul lists beside it, in PEM. They are no roots: whoever
    /// trusts them for their own sake trusts too much.
    pub intermediates: Vec<String>,
}

impl Roots {
    /// The PEM texts.
    pub fn pems(&self) -> impl Iterator<Item = &str> {
        self.roots.iter().map(|root| root.pem.as_str())
    }
}

/// Asks for the roots. Needs no permission. The agent answers from its cache: the query's
/// consistency is left out.
#[must_use]
pub fn request(query: &Query) -> HttpRequest {
    Target::new("/v1/agent/connect/ca/roots")
        .query(&query.cached())
        .request(Method::Get)
}

/// Reads the reply.
///
/// # Errors
/// See [`ReplyError`]; an empty list of roots, a repeated root and an active root that is
/// not listed are refused too.
pub fn decode(reply: &HttpReply<'_>) -> Result<Roots, ReplyError> {
    let top = reply.json(MAX_REPLY)?.object()?;
    let trust_domain = top.required("TrustDomain")?;
    let active = top.required("ActiveRootID")?;
    let list = top.required("Roots")?;
    let mut roots: Vec<Root> = Vec::new();
    for item in list.list()? {
        let root = item.object()?;
        let id = root.required("ID")?;
        let read = Root {
            id: id.string()?,
            name: root.text("Name")?,
            active: root.required("Active")?.boolean()?,
            pem: root.required("RootCert")?.string()?,
            intermediates: root
                .list("IntermediateCerts")?
                .iter()
                .map(super::json::Value::string)
                .collect::<Result<_, _>>()?,
        };
        if roots.iter().any(|other| other.id == read.id) {
            return Err(id.invalid("this root is listed twice"));
        }
        roots.push(read);
    }
    if roots.is_empty() {
        return Err(list.invalid("no roots"));
    }
    let read = Roots {
        trust_domain: trust_domain.string()?,
        active_id: active.string()?,
        roots,
    };
    if read.trust_domain.is_empty() {
        return Err(trust_domain.invalid("empty"));
    }
    if !read.roots.iter().any(|root| root.id == read.active_id) {
        return Err(active.invalid("this root is not listed"));
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::Consistency;
    use crate::agent::testing::ok;

    const BODY: &str = r#"{"ActiveRootID":"39:a0","TrustDomain":"9d67.consul","Roots":[
        {"ID":"39:a0","Name":"Consul CA Primary Cert","SerialNumber":10,"RootCert":"PEM1\n",
         "IntermediateCerts":["X"],"Active":true,"PrivateKeyBits":384,"CreateIndex":52},
        {"ID":"3e:b0","Name":"","RootCert":"PEM2\n","IntermediateCerts":null,"Active":false}]}"#;

    #[test]
    fn all_roots_are_read_and_intermediates_are_not() {
        let roots = decode(&ok(BODY)).unwrap();
        assert_eq!(roots.trust_domain, "9d67.consul");
        assert_eq!(roots.active_id, "39:a0");
        assert_eq!(roots.pems().collect::<Vec<_>>(), ["PEM1\n", "PEM2\n"]);
        assert!(roots.roots[0].active && !roots.roots[1].active);
        assert_eq!(roots.roots[0].intermediates, ["X"]);
        assert!(roots.roots[1].intermediates.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (from, to, field) in [
            (
                "\"TrustDomain\":\"9d67.consul\"",
                "\"TrustDomain\":\"\"",
                "/TrustDomain",
            ),
            ("\"TrustDomain\"", "\"trustDomain\"", "/TrustDomain"),
            (
                "\"ActiveRootID\":\"39:a0\"",
                "\"ActiveRootID\":\"zz\"",
                "/ActiveRootID",
            ),
            ("\"3e:b0\"", "\"39:a0\"", "/Roots/1/ID"),
            (
                "\"Active\":false",
                "\"Active\":\"false\"",
                "/Roots/1/Active",
            ),
            (
                "\"RootCert\":\"PEM2\\n\"",
                "\"RootCert\":null",
                "/Roots/1/RootCert",
            ),
            (
                "\"RootCert\":\"PEM2\\n\"",
                "\"RootCert\":\"a\",\"rootcert\":\"b\"",
                "/Roots/1/RootCert",
            ),
        ] {
            let body = BODY.replace(from, to);
            assert_ne!(body, BODY);
            let error = decode(&ok(&body)).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        let none = r#"{"ActiveRootID":"a","TrustDomain":"b","Roots":null}"#;
        assert!(
            decode(&ok(none))
                .unwrap_err()
                .to_string()
                .contains("/Roots")
        );
        assert!(matches!(
            decode(&ok(BODY.get(..BODY.len() - 3).unwrap())),
            Err(ReplyError::Syntax { .. })
        ));
    }

    #[test]
    fn the_request_is_the_agents_endpoint() {
        let query = Query {
            consistency: Consistency::Consistent,
            ..Query::default()
        };
        assert_eq!(request(&query).path_and_query, "/v1/agent/connect/ca/roots");
    }
}
