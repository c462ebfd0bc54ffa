//! A setting of a registration that this proxy cannot do.

use std::fmt;

/// Which setting, why not, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The field in Consul's terms: `Proxy.Upstreams[0].MeshGateway.Mode`.
    pub field: String,
    /// What it says and why that is not done.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl Refused {
    pub(super) fn new(
        field: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "`{}` {}: {}",
            self.field, self.problem, self.remedy
        )
    }
}

/// `/Proxy/Upstreams/0/Config` as people write it: `Proxy.Upstreams[0].Config`.
pub(super) fn dotted(pointer: &str) -> String {
    let mut out = String::new();
    for part in pointer.split('/').filter(|part| !part.is_empty()) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if !out.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            out.push_str(&format!("[{part}]"));
        } else {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(&part);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_as_people_write_them() {
        assert_eq!(
            dotted("/Proxy/Upstreams/10/Config/a~1b"),
            "Proxy.Upstreams[10].Config.a/b"
        );
        assert_eq!(dotted(""), "");
    }
}
