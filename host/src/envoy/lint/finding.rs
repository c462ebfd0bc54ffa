//! What the linter of Envoy's configuration says: a closed list of codes, and findings.

use std::fmt;

use serde_json::{Value, json};

pub use crate::lint::Severity;

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $severity:ident, $why:literal, $remedy:literal;)*) => {
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

            /// How bad it is.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity),* }
            }

            /// What it leads to.
            #[must_use]
            pub const fn why(self) -> &'static str {
                match self { $(Self::$name => $why),* }
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
    /// Neither the filter nor an `ext_authz` filter is there.
    NoPolicy = "no-policy", Error,
        "nothing in this file asks for a decision, so everybody passes",
        "add the filter, or an `ext_authz` filter; `portcullis envoy bootstrap` writes one";
    /// The filter lets everybody pass when its VM has failed.
    FailOpen = "fail-open", Error,
        "once its VM has failed, the filter lets everybody pass",
        "set `failure_policy: FAIL_RELOAD`, and remove `fail_open`";
    /// A failed VM is never replaced.
    NoReload = "no-reload", Warning,
        "once its VM has failed, the worker refuses everybody for ever",
        "set `failure_policy: FAIL_RELOAD`";
    /// A request with a body does not wait for its policy.
    HeadersNotHeld = "headers-not-held", Error,
        "a request with a body that waits for its policy goes on to the application before there is a decision",
        "remove `allow_on_headers_stop_iteration`";
    /// Envoy may not call what the filter decides in.
    Capabilities = "capabilities", Error,
        "callbacks of the filter that are not named are not called, and Envoy lets pass what they would have refused",
        "remove `capability_restriction_config`, or name every callback and host call of the filter in it";
    /// `vm_id` is empty.
    VmIdEmpty = "vm-id-empty", Error,
        "every plugin without a `vm_id` reads and writes the policy that workers share",
        "set `vm_config.vm_id` to a name that no other plugin has, such as `portcullis`";
    /// Another plugin has the same `vm_id`.
    VmIdShared = "vm-id-shared", Error,
        "another plugin with this `vm_id` reads and writes the policy that workers share",
        "give the filter a `vm_id` of its own";
    /// The plugin configuration is not what the filter takes.
    PluginConfiguration = "plugin-configuration", Error,
        "the filter refuses its configuration, and Envoy the listener",
        "correct the field that is named; give JSON in a google.protobuf.StringValue";
    /// The filter refuses nothing.
    Shadow = "shadow", Warning,
        "in shadow mode the filter refuses nothing",
        "remove `mode`, or set it to `enforce`, once its counters show what you expect";
    /// The agent's cluster is not there.
    AgentCluster = "agent-cluster", Error,
        "the filter cannot ask the agent, and refuses everybody",
        "add a cluster of this name for the Consul agent, or for `portcullis sds -relay`";
    /// The cluster of a key server is not there.
    KeyCluster = "key-cluster", Error,
        "the keys of a JWT provider cannot be fetched, and nobody has a valid token of it",
        "add a cluster of this name for the server of the keys; `portcullis envoy bootstrap -jwks URI` writes one";
    /// A key server is not verified.
    KeyClusterTls = "key-cluster-tls", Warning,
        "whoever answers in place of the key server chooses the keys, and with them who has a valid token",
        "give the cluster an UpstreamTlsContext with `sni`, `trusted_ca` and `match_typed_subject_alt_names`, or ask `portcullis sds -relay -jwks-allow`";
    /// The policy decides about connections without TLS.
    NoTls = "no-tls", Error,
        "without TLS nobody has an identity, so everybody is refused",
        "give the filter chain a DownstreamTlsContext";
    /// No client certificate is demanded.
    NoClientCertificate = "no-client-certificate", Error,
        "clients need no certificate, and those without one have no identity",
        "set `require_client_certificate: true`";
    /// Nothing verifies the client's certificate.
    NoValidation = "no-validation", Error,
        "without a validation context Envoy neither asks for a certificate nor verifies one",
        "set `validation_context_sds_secret_config` (`roots` of `portcullis sds`), or `validation_context.trusted_ca`";
    /// Roots of several trust domains vouch for every name.
    PooledRoots = "pooled-roots", Error,
        "Envoy believes each of these roots for every name, so that a cluster peer can be anybody of this mesh",
        "ask for `bundles` of `portcullis sds`: Envoy's SPIFFE validator with one bundle for each trust domain; only a filter with `peer_verification: filter` may do without it";
    /// Certificates of anybody are accepted.
    AcceptUntrusted = "accept-untrusted", Error,
        "Envoy accepts certificates that nobody signed, with any name in them",
        "remove `trust_chain_verification`; only a filter with `peer_verification: filter` may do without it";
    /// Certificates that have ended are accepted.
    AcceptExpired = "accept-expired", Error,
        "Envoy accepts certificates that have ended",
        "remove `allow_expired_certificate`";
    /// TLS sessions are resumed.
    Resumption = "resumption", Error,
        "on a resumed session Envoy does not say whether the certificate was verified: the filter refuses it, and `ext-authz` decides about a certificate of yesterday",
        "set `disable_stateless_session_resumption: true` and `disable_stateful_session_resumption: true`, and give no session ticket keys; where that is not yours to set, `peer_verification: filter` in the plugin configuration";
    /// A filter chain of a listener goes round the policy, or upgrades do.
    Bypass = "bypass", Error,
        "what else comes by this listener is asked about, what comes here is not",
        "add the filter here, too";
    /// A listener for clients of the mesh, or to what is guarded, has no policy, while others have.
    Unguarded = "unguarded", Error,
        "another listener has a policy; this one has none, so everybody who reaches it passes",
        "add the filter here, too";
    /// The filter stands where it is never asked.
    AfterTerminal = "after-terminal", Error,
        "a filter before it ends the chain, so it is never asked",
        "move it before the router, or before `tcp_proxy`";
    /// The filter is switched off.
    Disabled = "disabled", Error,
        "the filter is switched off, here or for some routes",
        "remove it: the policy itself says who may do what";
    /// Paths are not normalised.
    Normalization = "normalization", Error,
        "paths like `//admin` and `/a/../admin` reach the policy and the application unchanged; the filter answers 400 to them",
        "set `normalize_path: true`, and `merge_slashes` and `path_with_escaped_slashes_action` as the `mesh` entry says";
    /// Servers that speak first hang.
    ConnectMode = "connect-mode", Warning,
        "`tcp_proxy` connects before the client is known: servers that speak first hang behind the filter",
        "set `upstream_connect_mode: ON_DOWNSTREAM_TLS_HANDSHAKE` with `max_early_data_bytes`, or ON_DOWNSTREAM_DATA where clients speak first";
    /// A server's greeting reaches those who are refused.
    GreetingLeak = "greeting-leak", Warning,
        "Envoy's network `ext_authz` decides when the client speaks: what the server says before reaches those who are refused",
        "use the filter, or `upstream_connect_mode: ON_DOWNSTREAM_DATA` where clients speak first";
    /// `ext_authz` lets everybody pass when its server does not answer.
    FailureModeAllow = "failure-mode-allow", Error,
        "when its server does not answer, `ext_authz` lets everybody pass",
        "remove `failure_mode_allow`";
    /// `ext_authz` does not send the certificate.
    NoPeerCertificate = "no-peer-certificate", Error,
        "`portcullis ext-authz` verifies the certificate itself, and refuses whoever comes without",
        "set `include_peer_certificate: true`";
    /// `ext_authz` sends some headers only.
    PartialHeaders = "partial-headers", Error,
        "a denial of what a header says does not hold where the header is not sent",
        "remove `allowed_headers` and `disallowed_headers`";
    /// `ext_authz` sends joined headers.
    JoinedHeaders = "joined-headers", Warning,
        "headers that occur twice arrive as one: `portcullis ext-authz` refuses requests where a rule looks at headers",
        "set `encode_raw_headers: true`";
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl Code {
    /// The code of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }
}

/// Something in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub code: Code,
    /// Where, as a JSON pointer (RFC 6901).
    pub path: String,
    /// What is there.
    pub text: String,
}

impl Finding {
    /// For machines.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "severity": self.code.severity().as_str(),
            "code": self.code.as_str(),
            "path": self.path,
            "text": self.text,
            "why": self.code.why(),
            "remedy": self.code.remedy(),
        })
    }
}
