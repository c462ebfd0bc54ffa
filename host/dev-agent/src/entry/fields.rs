//! The fields of configuration entries, as tables for the decoder.

/// What a field holds.
#[derive(Clone, Copy)]
pub(super) enum Type {
    Text,
    Bool,
    Number,
    /// Nanoseconds, or a text such as `30m`.
    Duration,
    Texts,
    /// Text to text.
    Meta,
    /// Anything, kept as it is.
    Any,
    One(Fields),
    Many(Fields),
}

/// The fields of an object: name in Consul's spelling, and type.
pub(super) type Fields = &'static [(&'static str, Type)];

const JWT: Fields = &[(
    "Providers",
    Type::Many(&[
        ("Name", Type::Text),
        (
            "VerifyClaims",
            Type::Many(&[("Path", Type::Texts), ("Value", Type::Text)]),
        ),
    ]),
)];

const HEADER: Fields = &[
    ("Name", Type::Text),
    ("Present", Type::Bool),
    ("Exact", Type::Text),
    ("Prefix", Type::Text),
    ("Suffix", Type::Text),
    ("Contains", Type::Text),
    ("Regex", Type::Text),
    ("Invert", Type::Bool),
    ("IgnoreCase", Type::Bool),
];

const PERMISSION: Fields = &[
    ("Action", Type::Text),
    (
        "HTTP",
        Type::One(&[
            ("PathExact", Type::Text),
            ("PathPrefix", Type::Text),
            ("PathRegex", Type::Text),
            ("Header", Type::Many(HEADER)),
            ("Methods", Type::Texts),
        ]),
    ),
    ("JWT", Type::One(JWT)),
];

/// A source as it is written; the exact endpoint takes part of it too.
const SOURCE: Fields = &[
    ("Name", Type::Text),
    ("Action", Type::Text),
    ("Permissions", Type::Many(PERMISSION)),
    ("Precedence", Type::Number),
    ("LegacyID", Type::Text),
    ("Type", Type::Text),
    ("Description", Type::Text),
    ("LegacyMeta", Type::Meta),
    ("LegacyCreateTime", Type::Any),
    ("LegacyUpdateTime", Type::Any),
    ("Peer", Type::Text),
    ("SamenessGroup", Type::Text),
];

pub(super) const INTENTIONS: Fields = &[
    ("Kind", Type::Text),
    ("Name", Type::Text),
    ("Sources", Type::Many(SOURCE)),
    ("JWT", Type::One(JWT)),
    ("Meta", Type::Meta),
];

pub(super) const SERVICE_DEFAULTS: Fields = &[
    ("Kind", Type::Text),
    ("Name", Type::Text),
    ("Protocol", Type::Text),
    ("Mode", Type::Text),
    ("MutualTLSMode", Type::Text),
    ("BalanceInboundConnections", Type::Text),
    ("TransparentProxy", Type::Any),
    ("MeshGateway", Type::Any),
    ("Expose", Type::Any),
    ("ExternalSNI", Type::Text),
    ("UpstreamConfig", Type::Any),
    ("Destination", Type::Any),
    ("MaxInboundConnections", Type::Number),
    ("MaxRequestHeadersKB", Type::Number),
    ("LocalConnectTimeoutMs", Type::Number),
    ("LocalRequestTimeoutMs", Type::Number),
    ("RateLimits", Type::Any),
    ("EnvoyExtensions", Type::Any),
    ("Meta", Type::Meta),
];

pub(super) const PROXY_DEFAULTS: Fields = &[
    ("Kind", Type::Text),
    ("Name", Type::Text),
    ("Config", Type::Any),
    ("Mode", Type::Text),
    ("MutualTLSMode", Type::Text),
    ("TransparentProxy", Type::Any),
    ("MeshGateway", Type::Any),
    ("Expose", Type::Any),
    ("AccessLogs", Type::Any),
    ("EnvoyExtensions", Type::Any),
    ("FailoverPolicy", Type::Any),
    ("PrioritizeByLocality", Type::Any),
    ("Meta", Type::Meta),
];

const DIRECTION_TLS: Fields = &[
    ("TLSMinVersion", Type::Text),
    ("TLSMaxVersion", Type::Text),
    ("CipherSuites", Type::Texts),
];

pub(super) const MESH: Fields = &[
    ("Kind", Type::Text),
    (
        "TransparentProxy",
        Type::One(&[("MeshDestinationsOnly", Type::Bool)]),
    ),
    ("AllowEnablingPermissiveMutualTLS", Type::Bool),
    (
        "TLS",
        Type::One(&[
            ("Incoming", Type::One(DIRECTION_TLS)),
            ("Outgoing", Type::One(DIRECTION_TLS)),
        ]),
    ),
    (
        "HTTP",
        Type::One(&[
            ("SanitizeXForwardedClientCert", Type::Bool),
            (
                "Incoming",
                Type::One(&[(
                    "RequestNormalization",
                    Type::One(&[
                        ("InsecureDisablePathNormalization", Type::Bool),
                        ("MergeSlashes", Type::Bool),
                        ("PathWithEscapedSlashesAction", Type::Text),
                        ("HeadersWithUnderscoresAction", Type::Text),
                    ]),
                )]),
            ),
        ]),
    ),
    ("Peering", Type::Any),
    ("ValidateClusters", Type::Bool),
    ("Meta", Type::Meta),
];

const JWKS_CLUSTER: Fields = &[
    ("DiscoveryType", Type::Text),
    ("ConnectTimeout", Type::Duration),
    (
        "TLSCertificates",
        Type::One(&[
            (
                "CaCertificateProviderInstance",
                Type::One(&[
                    ("InstanceName", Type::Text),
                    ("CertificateName", Type::Text),
                ]),
            ),
            (
                "TrustedCA",
                Type::One(&[
                    ("Filename", Type::Text),
                    ("EnvironmentVariable", Type::Text),
                    ("InlineString", Type::Text),
                    ("InlineBytes", Type::Any),
                ]),
            ),
        ]),
    ),
];

pub(super) const JWT_PROVIDER: Fields = &[
    ("Kind", Type::Text),
    ("Name", Type::Text),
    (
        "JSONWebKeySet",
        Type::One(&[
            (
                "Local",
                Type::One(&[("JWKS", Type::Text), ("Filename", Type::Text)]),
            ),
            (
                "Remote",
                Type::One(&[
                    ("URI", Type::Text),
                    ("RequestTimeoutMs", Type::Number),
                    ("CacheDuration", Type::Duration),
                    ("FetchAsynchronously", Type::Bool),
                    ("UseSNI", Type::Bool),
                    (
                        "RetryPolicy",
                        Type::One(&[
                            ("NumRetries", Type::Number),
                            (
                                "RetryPolicyBackOff",
                                Type::One(&[
                                    ("BaseInterval", Type::Duration),
                                    ("MaxInterval", Type::Duration),
                                ]),
                            ),
                        ]),
                    ),
                    ("JWKSCluster", Type::One(JWKS_CLUSTER)),
                ]),
            ),
        ]),
    ),
    ("Audiences", Type::Texts),
    (
        "Locations",
        Type::Many(&[
            (
                "Header",
                Type::One(&[
                    ("Name", Type::Text),
                    ("ValuePrefix", Type::Text),
                    ("Forward", Type::Bool),
                ]),
            ),
            ("QueryParam", Type::One(&[("Name", Type::Text)])),
            ("Cookie", Type::One(&[("Name", Type::Text)])),
        ]),
    ),
    (
        "Forwarding",
        Type::One(&[
            ("HeaderName", Type::Text),
            ("PadForwardPayloadHeader", Type::Bool),
        ]),
    ),
    ("ClockSkewSeconds", Type::Number),
    ("CacheConfig", Type::One(&[("Size", Type::Number)])),
    ("Issuer", Type::Text),
    ("Meta", Type::Meta),
];

/// The body of the exact endpoint's PUT, which is an intention.
pub(super) const INTENTION: Fields = &[
    ("ID", Type::Text),
    ("Description", Type::Text),
    ("SourceNS", Type::Text),
    ("SourceName", Type::Text),
    ("DestinationNS", Type::Text),
    ("DestinationName", Type::Text),
    ("SourcePartition", Type::Text),
    ("DestinationPartition", Type::Text),
    ("SourcePeer", Type::Text),
    ("SourceSamenessGroup", Type::Text),
    ("SourceType", Type::Text),
    ("Action", Type::Text),
    ("Permissions", Type::Many(PERMISSION)),
    ("JWT", Type::Any),
    ("DefaultAddr", Type::Text),
    ("DefaultPort", Type::Number),
    ("Meta", Type::Meta),
    ("Precedence", Type::Number),
    ("CreatedAt", Type::Any),
    ("UpdatedAt", Type::Any),
    ("Hash", Type::Any),
    ("CreateIndex", Type::Number),
    ("ModifyIndex", Type::Number),
];
