//! What the linter says: a closed list of codes, and findings with their proof.

use std::fmt;

use portcullis_core::policy::HttpVersion;
use serde_json::{Map, Value, json};

use crate::entries::{Asked, Place};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The rule does not do what it says.
    Error,
    /// The rule may not do what was meant.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $severity:ident, $remedy:literal;)*) => {
        /// What a finding is about. Codes are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[doc = $doc])* $name,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// How bad it is, where the matching that was asked for has it too.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity),* }
            }

            /// What to do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy),* }
            }
        }
    };
}

codes! {
    /// A rule that cannot be read denies whatever reaches it.
    UnreadableRule = "unreadable-rule", Error, "correct the field that is named";
    /// A pattern that RE2 refuses.
    InvalidRegex = "invalid-regex", Error, "correct the pattern: Envoy refuses the whole listener for it, Portcullis denies whatever reaches the rule";
    /// A field that is not known, or a list that says something twice.
    IgnoredField = "ignored-field", Warning, "remove it, or correct its name";
    /// No client can ever reach the intention.
    UnreachableIntention = "unreachable-intention", Warning, "remove it, or correct the names";
    /// Earlier permissions take all that the permission could decide.
    UnreachablePermission = "unreachable-permission", Warning, "remove it, or move it before the permission that takes its requests";
    /// A denial stands behind an allow that takes its requests.
    DenyBehindAllow = "deny-behind-allow", Error, "move the denial before the allow: the first permission that matches decides";
    /// No request has what the permission asks for.
    NeverMatches = "never-matches", Error, "write the path as it is after normalisation, without query; patterns must match the whole of it";
    /// A second slash leads past a denial.
    DenyEscapableSlashes = "deny-escapable-slashes", Error, "keep strict matching, or set `MergeSlashes` in the mesh entry and deny by `PathRegex` such as `/+admin(/.*)?`; better: allow what is wanted and deny the rest";
    /// An encoded slash leads past a denial.
    DenyEscapableEncoding = "deny-escapable-encoding", Error, "keep strict matching, or set `PathWithEscapedSlashesAction = \"REJECT_REQUEST\"` in the mesh entry; better: allow what is wanted and deny the rest";
    /// Path parameters lead past a denial.
    DenyEscapableParameters = "deny-escapable-parameters", Error, "keep strict matching, or deny by `PathRegex` such as `/admin([/;].*)?`; better: allow what is wanted and deny the rest";
    /// Another case leads past a denial.
    DenyEscapableCase = "deny-escapable-case", Note, "if the application does not tell cases apart, deny by `PathRegex` with `(?i)`, or a header with `IgnoreCase`";
    /// A slash at the end more or less leads past a denial.
    DenyEscapableTrailingSlash = "deny-escapable-trailing-slash", Warning, "if the application takes both, deny both: `PathRegex` such as `/admin/?`, or `PathPrefix` without the slash";
    /// Leaving a header out leads past a denial.
    DenyEscapableMissingHeader = "deny-escapable-missing-header", Error, "add a denial for requests without the header (`Present` with `Invert`), or allow by the header what is wanted and deny the rest";
    /// Repeating a header leads past a denial.
    DenyEscapableRepeatedHeader = "deny-escapable-repeated-header", Error, "keep strict matching, or allow by the header what is wanted and deny the rest";
    /// White space around a value leads past a denial, by HTTP/2.
    DenyEscapableSpaces = "deny-escapable-spaces", Error, "keep strict matching, or deny by `Regex` such as `\\s*value\\s*`";
    /// Another spelling of the host leads past a denial.
    DenyEscapableHost = "deny-escapable-host", Warning, "deny by `Regex` such as `(?i)name\\.?(:[0-9]+)?`; better: allow the hosts that are wanted and deny the rest";
    /// HEAD leads past a denial of GET.
    DenyEscapableHead = "deny-escapable-head", Warning, "name HEAD beside GET, or leave `Methods` out";
    /// A pattern matches more than it says.
    BroadRegex = "broad-regex", Warning, "write `\\.` for a dot; for any path leave `PathRegex` out";
    /// A pattern that is no pattern.
    NeedlessRegex = "needless-regex", Note, "use `PathExact` or `PathPrefix`, or a header's `Exact` or `Prefix`: they are read at a glance";
    /// A prefix does not end with a segment.
    BroadPrefix = "broad-prefix", Note, "end the prefix with `/` and allow the path itself by `PathExact`, if only what is below is meant";
    /// A requirement for a JWT that changes nothing.
    JwtWithoutEffect = "jwt-without-effect", Error, "ask for the JWT where the action is not the default policy's; under default allow, deny requests otherwise";
    /// A requirement for a JWT that nothing can meet.
    JwtNeverSatisfied = "jwt-never-satisfied", Error, "name a provider for which there is a `jwt-provider` entry";
    /// A requirement for a JWT on a service that speaks TCP.
    JwtOnTcp = "jwt-on-tcp", Error, "set `Protocol` in the service's `service-defaults`, or take the JWT out: Envoy ignores it there, Portcullis denies";
    /// Permissions of a service that speaks TCP.
    L7OnTcp = "l7-on-tcp", Error, "set `Protocol` in the service's `service-defaults`, or use `Action`";
    /// Envoy lets another rule decide.
    EnvoyPrecedence = "envoy-precedence", Warning, "write the narrower source into the destination's own entry";
    /// Envoy reads a source's name as a pattern.
    EnvoyNamePattern = "envoy-name-pattern", Warning, "name services without dots: where Envoy enforces the rule, it also covers the other name";
}

impl Code {
    /// The code of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// An answer of the policy that proves a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// SPIFFE ID of the client.
    pub source: String,
    /// The request; none for a connection.
    pub request: Option<(Asked, HttpVersion)>,
    /// `strict` or `envoy`.
    pub matching: &'static str,
    /// The effect's name.
    pub effect: &'static str,
    /// The reason's name.
    pub code: &'static str,
    /// The deciding intention's place in the destination's list.
    pub intention: Option<u32>,
    /// The deciding permission's place in it.
    pub permission: Option<u32>,
    /// The decision in one sentence.
    pub text: String,
}

impl Evidence {
    /// As JSON: the question in the words of `eval`, and the answer.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut because = Map::new();
        because.insert("code".to_owned(), json!(self.code));
        for (name, index) in [
            ("intention", self.intention),
            ("permission", self.permission),
        ] {
            if let Some(index) = index {
                because.insert(name.to_owned(), json!(index));
            }
        }
        let mut fields = json!({
            "source": self.source,
            "matching": self.matching,
            "effect": self.effect,
            "because": because,
            "text": self.text,
        });
        if let Some((asked, version)) = &self.request {
            fields["request"] = json!(asked);
            fields["http_version"] = json!(version_name(*version));
        }
        fields
    }
}

/// `1.1` or `2`.
pub(crate) fn version_name(version: HttpVersion) -> &'static str {
    match version {
        HttpVersion::Http1 => "1.1",
        HttpVersion::Http2 => "2",
    }
}

/// The client's name out of its SPIFFE ID, for people.
impl fmt::Display for Evidence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.source.rsplit('/').next().unwrap_or(&self.source);
        match &self.request {
            None => write!(formatter, "{name} connects")?,
            Some((asked, version)) => {
                let http2 = match version {
                    HttpVersion::Http1 => "",
                    HttpVersion::Http2 => " (HTTP/2)",
                };
                write!(formatter, "{name}: {asked}{http2}")?;
            }
        }
        write!(formatter, "  =>  {} [{}]", self.text, self.matching)
    }
}

/// Something that the linter found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// Where it stands.
    pub place: Place,
    /// The destination whose list was looked at.
    pub destination: String,
    /// The rule in words.
    pub rule: String,
    /// What was found.
    pub text: String,
    /// Answers of the policy that prove it; none where there is nothing to ask.
    pub evidence: Vec<Evidence>,
}

impl Finding {
    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "code": self.code.as_str(),
            "severity": self.severity.as_str(),
            "file": self.place.file,
            "line": self.place.line,
            "field": self.place.field,
            "destination": self.destination,
            "rule": self.rule,
            "text": self.text,
            "remedy": self.code.remedy(),
            "evidence": self.evidence.iter().map(Evidence::json).collect::<Vec<_>>(),
        })
    }
}
