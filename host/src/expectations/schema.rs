//! The fields of a file of expectations.

use crate::definitions::schema::Schema;
use crate::definitions::schema::Type::{Blocks, Number, Opaque, Text, Texts};

/// A whole file: fields that each test takes unless it has its own, and the tests.
pub(super) static FILE: Schema = Schema {
    what: "a file of expectations",
    renamed: None,
    fields: &[
        ("intentions", Opaque),
        ("default_policy", Text),
        ("trust_domain", Text),
        ("source", Text),
        ("target", Text),
        ("target_namespace", Text),
        ("target_partition", Text),
        ("protocol", Text),
        ("peers", Opaque),
        ("http_version", Text),
        ("request_normalization", Opaque),
        ("jwt_providers", Opaque),
        ("matching", Text),
        ("at", Text),
        ("test", Blocks(&TEST)),
        ("tests", Blocks(&TEST)),
    ],
};

/// One test: a question of `eval`, `source` for `client_uris`, and what is expected.
pub(super) static TEST: Schema = Schema {
    what: "a test",
    renamed: None,
    fields: &[
        ("id", Text),
        ("name", Text),
        ("ask", Text),
        ("intentions", Opaque),
        ("default_policy", Text),
        ("trust_domain", Text),
        ("source", Text),
        ("client_uris", Texts),
        ("target", Text),
        ("target_namespace", Text),
        ("target_partition", Text),
        ("protocol", Text),
        ("peers", Opaque),
        ("via_gateway", Text),
        ("request", Opaque),
        ("http_version", Text),
        ("request_normalization", Opaque),
        ("jwt_providers", Opaque),
        ("matching", Text),
        ("at", Text),
        ("expect", Opaque),
    ],
};

/// What is expected, where it is more than an effect.
pub(super) static EXPECT: Schema = Schema {
    what: "`expect`",
    renamed: None,
    fields: &[
        ("effect", Text),
        ("code", Text),
        ("intention", Number),
        ("permission", Number),
        ("forwarded_path", Text),
    ],
};
