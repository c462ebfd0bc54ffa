//! The fields of Consul's configuration entries, by their names in the API.

use crate::definitions::schema::Schema;
use crate::definitions::schema::Type::{Block, Blocks, Flag, Number, Opaque, Text, TextMap, Texts};

/// The schema of a kind that is read here.
pub(super) fn of_kind(kind: &str) -> Option<&'static Schema> {
    Some(match kind {
        "service-intentions" => &INTENTIONS,
        "service-defaults" => &SERVICE_DEFAULTS,
        "proxy-defaults" => &PROXY_DEFAULTS,
        "mesh" => &MESH,
        "jwt-provider" => &JWT_PROVIDER,
        _ => return None,
    })
}

static INTENTIONS: Schema = Schema {
    what: "a `service-intentions` entry",
    renamed: None,
    fields: &[
        ("Kind", Text),
        ("Name", Text),
        ("Namespace", Text),
        ("Partition", Text),
        ("Sources", Blocks(&SOURCE)),
        ("JWT", Block(&JWT)),
        ("Meta", TextMap),
        ("CreateIndex", Opaque),
        ("ModifyIndex", Opaque),
        ("Hash", Opaque),
    ],
};

static SOURCE: Schema = Schema {
    what: "a source",
    renamed: None,
    fields: &[
        ("Name", Text),
        ("Namespace", Text),
        ("Partition", Text),
        ("Peer", Text),
        ("SamenessGroup", Text),
        ("Action", Text),
        ("Permissions", Blocks(&PERMISSION)),
        ("Precedence", Number),
        ("Type", Text),
        ("Description", Text),
        ("LegacyID", Text),
        ("LegacyMeta", TextMap),
        ("LegacyCreateTime", Opaque),
        ("LegacyUpdateTime", Opaque),
    ],
};

static PERMISSION: Schema = Schema {
    what: "a permission",
    renamed: None,
    fields: &[
        ("Action", Text),
        ("HTTP", Block(&HTTP)),
        ("JWT", Block(&JWT)),
    ],
};

static HTTP: Schema = Schema {
    what: "`HTTP` of a permission",
    renamed: None,
    fields: &[
        ("PathExact", Text),
        ("PathPrefix", Text),
        ("PathRegex", Text),
        ("Header", Blocks(&HEADER)),
        ("Methods", Texts),
    ],
};

static HEADER: Schema = Schema {
    what: "a header",
    renamed: None,
    fields: &[
        ("Name", Text),
        ("Present", Flag),
        ("Exact", Text),
        ("Prefix", Text),
        ("Suffix", Text),
        ("Contains", Text),
        ("Regex", Text),
        ("Invert", Flag),
        ("IgnoreCase", Flag),
    ],
};

static JWT: Schema = Schema {
    what: "`JWT`",
    renamed: None,
    fields: &[("Providers", Blocks(&PROVIDER))],
};

static PROVIDER: Schema = Schema {
    what: "a JWT provider",
    renamed: None,
    fields: &[("Name", Text), ("VerifyClaims", Blocks(&CLAIM))],
};

static CLAIM: Schema = Schema {
    what: "a claim",
    renamed: None,
    fields: &[("Path", Texts), ("Value", Text)],
};

static SERVICE_DEFAULTS: Schema = Schema {
    what: "a `service-defaults` entry",
    renamed: None,
    fields: &[
        ("Kind", Text),
        ("Name", Text),
        ("Namespace", Text),
        ("Partition", Text),
        ("Protocol", Text),
        ("Mode", Text),
        ("MutualTLSMode", Text),
        ("BalanceInboundConnections", Text),
        ("TransparentProxy", Opaque),
        ("MeshGateway", Opaque),
        ("Expose", Opaque),
        ("ExternalSNI", Text),
        ("UpstreamConfig", Opaque),
        ("Destination", Opaque),
        ("MaxInboundConnections", Number),
        ("MaxRequestHeadersKB", Number),
        ("LocalConnectTimeoutMs", Number),
        ("LocalRequestTimeoutMs", Number),
        ("RateLimits", Opaque),
        ("EnvoyExtensions", Opaque),
        ("Meta", TextMap),
        ("CreateIndex", Opaque),
        ("ModifyIndex", Opaque),
        ("Hash", Opaque),
    ],
};

static PROXY_DEFAULTS: Schema = Schema {
    what: "a `proxy-defaults` entry",
    renamed: None,
    fields: &[
        ("Kind", Text),
        ("Name", Text),
        ("Namespace", Text),
        ("Partition", Text),
        ("Config", Opaque),
        ("Mode", Text),
        ("MutualTLSMode", Text),
        ("TransparentProxy", Opaque),
        ("MeshGateway", Opaque),
        ("Expose", Opaque),
        ("AccessLogs", Opaque),
        ("EnvoyExtensions", Opaque),
        ("FailoverPolicy", Opaque),
        ("PrioritizeByLocality", Opaque),
        ("Meta", TextMap),
        ("CreateIndex", Opaque),
        ("ModifyIndex", Opaque),
        ("Hash", Opaque),
    ],
};

static MESH: Schema = Schema {
    what: "a `mesh` entry",
    renamed: None,
    fields: &[
        ("Kind", Text),
        ("Name", Text),
        ("Namespace", Text),
        ("Partition", Text),
        ("TransparentProxy", Opaque),
        ("AllowEnablingPermissiveMutualTLS", Flag),
        ("TLS", Opaque),
        ("HTTP", Block(&MESH_HTTP)),
        ("Peering", Opaque),
        ("ValidateClusters", Flag),
        ("Meta", TextMap),
        ("CreateIndex", Opaque),
        ("ModifyIndex", Opaque),
        ("Hash", Opaque),
    ],
};

static MESH_HTTP: Schema = Schema {
    what: "`HTTP` of the mesh",
    renamed: None,
    fields: &[
        ("SanitizeXForwardedClientCert", Flag),
        ("Incoming", Block(&INCOMING)),
    ],
};

static INCOMING: Schema = Schema {
    what: "`Incoming`",
    renamed: None,
    fields: &[("RequestNormalization", Block(&NORMALIZATION))],
};

static NORMALIZATION: Schema = Schema {
    what: "`RequestNormalization`",
    renamed: None,
    fields: &[
        ("InsecureDisablePathNormalization", Flag),
        ("MergeSlashes", Flag),
        ("PathWithEscapedSlashesAction", Text),
        ("HeadersWithUnderscoresAction", Text),
    ],
};

static JWT_PROVIDER: Schema = Schema {
    what: "a `jwt-provider` entry",
    renamed: None,
    fields: &[
        ("Kind", Text),
        ("Name", Text),
        ("Namespace", Text),
        ("Partition", Text),
        ("Issuer", Text),
        ("Audiences", Texts),
        ("JSONWebKeySet", Block(&KEY_SET)),
        ("Locations", Blocks(&LOCATION)),
        ("Forwarding", Block(&FORWARDING)),
        ("ClockSkewSeconds", Number),
        ("CacheConfig", Opaque),
        ("Meta", TextMap),
        ("CreateIndex", Opaque),
        ("ModifyIndex", Opaque),
        ("Hash", Opaque),
    ],
};

static KEY_SET: Schema = Schema {
    what: "`JSONWebKeySet`",
    renamed: None,
    fields: &[("Local", Block(&LOCAL)), ("Remote", Block(&REMOTE))],
};

static LOCAL: Schema = Schema {
    what: "`Local`",
    renamed: None,
    fields: &[("JWKS", Text), ("Filename", Text)],
};

static REMOTE: Schema = Schema {
    what: "`Remote`",
    renamed: None,
    fields: &[
        ("URI", Text),
        ("RequestTimeoutMs", Number),
        ("CacheDuration", Opaque),
        ("FetchAsynchronously", Flag),
        ("UseSNI", Flag),
        ("RetryPolicy", Opaque),
        ("JWKSCluster", Opaque),
    ],
};

static LOCATION: Schema = Schema {
    what: "a location",
    renamed: None,
    fields: &[
        ("Header", Block(&LOCATION_HEADER)),
        ("QueryParam", Block(&LOCATION_NAME)),
        ("Cookie", Block(&LOCATION_NAME)),
    ],
};

static LOCATION_HEADER: Schema = Schema {
    what: "`Header` of a location",
    renamed: None,
    fields: &[("Name", Text), ("ValuePrefix", Text), ("Forward", Flag)],
};

static LOCATION_NAME: Schema = Schema {
    what: "a location",
    renamed: None,
    fields: &[("Name", Text)],
};

static FORWARDING: Schema = Schema {
    what: "`Forwarding`",
    renamed: None,
    fields: &[("HeaderName", Text), ("PadForwardPayloadHeader", Flag)],
};
