//! The smallest ACL policy with which a proxy can work.

use std::fmt::Write as _;

/// What the proxy is going to do.
pub(crate) struct Needs<'a> {
    /// The service that it stands for.
    pub(crate) service: &'a str,
    /// The names under which it announces services, beside the service itself.
    pub(crate) announces: Vec<String>,
    /// The name of the registration that configures it.
    pub(crate) reads: Option<&'a str>,
    /// The services that it connects to through the catalog.
    pub(crate) upstreams: Vec<&'a str>,
}

/// The policy in HCL, as `consul acl policy create -rules -` takes it.
///
/// `service:write` covers the leaf certificate, the intentions of the service
/// and the probe for the default policy. Instances of upstreams are filtered by
/// service, by the proxy in front of it, and by node.
pub(crate) fn smallest(needs: &Needs<'_>) -> String {
    let mut out = String::from("# Leaf certificate, intentions and default policy\n");
    let rule = |out: &mut String, name: &str, level: &str| {
        let _ = writeln!(out, "service {} {{ policy = \"{level}\" }}", quoted(name));
    };
    rule(&mut out, needs.service, "write");
    if !needs.announces.is_empty() {
        out.push_str("\n# Registration\n");
        for name in &needs.announces {
            rule(&mut out, name, "write");
        }
    }
    if let Some(name) = needs.reads {
        out.push_str("\n# The registration that configures it\n");
        rule(&mut out, name, "read");
    }
    if !needs.upstreams.is_empty() {
        out.push_str(
            "\n# Instances of upstreams: the service, and the proxy before it by its usual names\n",
        );
        for upstream in &needs.upstreams {
            let name = upstream.rsplit('/').next().unwrap_or(upstream);
            for suffix in ["", "-proxy", "-sidecar-proxy"] {
                rule(&mut out, &format!("{name}{suffix}"), "read");
            }
        }
        out.push_str("node_prefix \"\" { policy = \"read\" }\n");
    }
    out.push_str(
        "\n# Roots of cluster peers; only where intentions name some\n# peering = \"read\"\n",
    );
    out.trim_end().to_owned()
}

/// A name as an HCL string.
fn quoted(name: &str) -> String {
    let escaped = name
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace("${", "$${");
    format!("\"{}\"", escaped.replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_little_as_the_proxy_does() {
        let inbound = Needs {
            service: "db",
            announces: vec!["db-proxy".to_owned()],
            reads: None,
            upstreams: Vec::new(),
        };
        let policy = smallest(&inbound);
        assert_eq!(policy.matches("policy = \"write\"").count(), 2, "{policy}");
        assert!(!policy.contains("prefix"), "{policy}");
        let outbound = Needs {
            service: "web",
            announces: Vec::new(),
            reads: Some("web-sidecar-proxy"),
            upstreams: vec!["db"],
        };
        let policy = smallest(&outbound);
        assert_eq!(policy.matches("policy = \"write\"").count(), 1, "{policy}");
        assert!(
            policy.contains("service \"db\" { policy = \"read\" }"),
            "{policy}"
        );
        assert!(
            policy.contains("service \"web-sidecar-proxy\" { policy = \"read\" }"),
            "{policy}"
        );
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        let needs = Needs {
            service: "a\" { policy = \"write\" } #",
            announces: Vec::new(),
            reads: None,
            upstreams: Vec::new(),
        };
        assert!(smallest(&needs).contains(r#"service "a\" { policy = \"write\" } #" {"#));
    }
}
