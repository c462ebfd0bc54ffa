//! Configuration entries: what is refused, in which words, and what is stored.

use http::Method;
use serde_json::{Value, json};

use crate::suite::{Step, Suite};

const CONFIG: &str = "/v1/config";

pub(crate) async fn run(suite: &mut Suite) {
    reading_nothing(suite).await;
    refused_documents(suite).await;
    refused_sources(suite).await;
    refused_permissions(suite).await;
    stored(suite).await;
    jwt(suite).await;
}

async fn put(suite: &mut Suite, name: &str, body: &Value) {
    suite
        .run(Step::put(&format!("config {name}"), CONFIG, body))
        .await;
}

async fn source(suite: &mut Suite, name: &str, source: Value) {
    let body = json!({"Kind": "service-intentions", "Name": "v", "Sources": [source]});
    put(suite, name, &body).await;
}

async fn permission(suite: &mut Suite, name: &str, permission: Value) {
    source(
        suite,
        name,
        json!({"Name": "web", "Permissions": [permission]}),
    )
    .await;
}

async fn http(suite: &mut Suite, name: &str, http: Value) {
    permission(suite, name, json!({"Action": "allow", "HTTP": http})).await;
}

async fn reading_nothing(suite: &mut Suite) {
    for kind in [
        "service-intentions",
        "service-defaults",
        "proxy-defaults",
        "mesh",
        "jwt-provider",
        "nope",
        "service-router",
        "",
    ] {
        suite
            .run(Step::get(
                &format!("config list {kind}"),
                &format!("/v1/config/{kind}"),
            ))
            .await;
        if !kind.is_empty() {
            let target = format!("/v1/config/{kind}/nosuch");
            suite
                .run(Step::get(&format!("config get {kind}"), &target))
                .await;
            suite
                .run(Step::new(
                    &format!("config delete {kind}"),
                    Method::DELETE,
                    &target,
                ))
                .await;
        }
    }
    suite
        .run(Step::new(
            "config delete without name",
            Method::DELETE,
            "/v1/config/mesh",
        ))
        .await;
}

async fn refused_documents(suite: &mut Suite) {
    for (name, body) in [
        ("empty", ""),
        ("cut", "{"),
        ("array", "[]"),
        ("no kind", "{}"),
        ("unknown kind", r#"{"Kind":"nope","Name":"x"}"#),
    ] {
        suite
            .run(Step::new(&format!("config {name}"), Method::PUT, CONFIG).body(body))
            .await;
    }
    put(
        suite,
        "no name",
        &json!({"Kind": "service-intentions", "Sources": [{"Name": "a", "Action": "allow"}]}),
    )
    .await;
    put(
        suite,
        "no sources",
        &json!({"Kind": "service-intentions", "Name": "v"}),
    )
    .await;
    put(suite, "partial destination", &json!({"Kind": "service-intentions", "Name": "v*", "Sources": [{"Name": "a", "Action": "allow"}]})).await;
    put(
        suite,
        "unknown top key",
        &json!({"Kind": "service-intentions", "Name": "v", "Foo": 1}),
    )
    .await;
    put(suite, "namespace", &json!({"Kind": "service-intentions", "Name": "v", "Namespace": "x", "Sources": [{"Name": "a", "Action": "allow"}]})).await;
    put(
        suite,
        "wrong type",
        &json!({"Kind": "service-intentions", "Name": "v", "Sources": "x"}),
    )
    .await;
    put(
        suite,
        "proxy-defaults name",
        &json!({"Kind": "proxy-defaults", "Name": "foo"}),
    )
    .await;
    put(
        suite,
        "mesh with name",
        &json!({"Kind": "mesh", "Name": "foo"}),
    )
    .await;
    put(
        suite,
        "service-defaults without name",
        &json!({"Kind": "service-defaults", "Protocol": "http"}),
    )
    .await;
    put(
        suite,
        "jwt-provider without keys",
        &json!({"Kind": "jwt-provider", "Name": "okta"}),
    )
    .await;
}

async fn refused_sources(suite: &mut Suite) {
    for (name, one) in [
        ("source without name", json!({"Action": "allow"})),
        ("partial source", json!({"Name": "w*", "Action": "allow"})),
        ("no action", json!({"Name": "web"})),
        ("upper action", json!({"Name": "web", "Action": "ALLOW"})),
        (
            "both",
            json!({"Name": "web", "Action": "allow", "Permissions": [{"Action": "allow", "HTTP": {"PathExact": "/"}}]}),
        ),
        (
            "type",
            json!({"Name": "web", "Action": "allow", "Type": "x"}),
        ),
        (
            "peer wildcard",
            json!({"Name": "web", "Action": "allow", "Peer": "*"}),
        ),
        (
            "sameness",
            json!({"Name": "web", "Action": "allow", "SamenessGroup": "g"}),
        ),
        (
            "legacy meta",
            json!({"Name": "web", "Action": "allow", "LegacyMeta": {"a": "b"}}),
        ),
        (
            "description",
            json!({"Name": "web", "Action": "allow", "Description": "x".repeat(513)}),
        ),
        (
            "source namespace",
            json!({"Name": "web", "Action": "allow", "Namespace": "x"}),
        ),
        (
            "source partition",
            json!({"Name": "web", "Action": "allow", "Partition": "x"}),
        ),
        (
            "source key",
            json!({"Name": "web", "Action": "allow", "Foo": 1}),
        ),
    ] {
        source(suite, name, one).await;
    }
    let twice = json!([{"Name": "web", "Action": "allow"}, {"Name": "web", "Action": "deny"}]);
    put(
        suite,
        "source twice",
        &json!({"Kind": "service-intentions", "Name": "v", "Sources": twice}),
    )
    .await;
    let twice = json!([{"Name": "web", "Peer": "p1", "Action": "allow"}, {"Name": "web", "Peer": "p1", "Action": "deny"}]);
    put(
        suite,
        "peer source twice",
        &json!({"Kind": "service-intentions", "Name": "v", "Sources": twice}),
    )
    .await;
    let wide =
        json!([{"Name": "web", "Permissions": [{"Action": "allow", "HTTP": {"PathExact": "/"}}]}]);
    put(
        suite,
        "permissions on wildcard",
        &json!({"Kind": "service-intentions", "Name": "*", "Sources": wide}),
    )
    .await;
    let jwt = json!({"Providers": [{"Name": ""}]});
    put(suite, "nameless provider", &json!({"Kind": "service-intentions", "Name": "v", "JWT": jwt, "Sources": [{"Name": "web", "Action": "allow"}]})).await;
    let jwt = json!({"Providers": [{"Name": "okta"}]});
    put(suite, "unknown provider", &json!({"Kind": "service-intentions", "Name": "v", "JWT": jwt, "Sources": [{"Name": "web", "Action": "allow"}]})).await;
    let meta: Value = (0..65)
        .map(|number| (format!("k{number}"), json!("v")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    put(suite, "meta count", &json!({"Kind": "service-intentions", "Name": "v", "Meta": meta, "Sources": [{"Name": "web", "Action": "allow"}]})).await;
}

async fn refused_permissions(suite: &mut Suite) {
    permission(
        suite,
        "permission action",
        json!({"Action": "x", "HTTP": {"PathExact": "/"}}),
    )
    .await;
    permission(suite, "permission without http", json!({"Action": "allow"})).await;
    permission(
        suite,
        "permission jwt without http",
        json!({"Action": "allow", "JWT": {"Providers": [{"Name": "okta"}]}}),
    )
    .await;
    for (name, one) in [
        ("empty http", json!({})),
        ("relative exact", json!({"PathExact": "x"})),
        ("relative prefix", json!({"PathPrefix": "x"})),
        ("two paths", json!({"PathExact": "/a", "PathPrefix": "/b"})),
        ("nameless header", json!({"Header": [{"Exact": "x"}]})),
        ("header without matcher", json!({"Header": [{"Name": "x"}]})),
        (
            "header with two",
            json!({"Header": [{"Name": "x", "Exact": "a", "Prefix": "b"}]}),
        ),
        (
            "header with present and regex",
            json!({"Header": [{"Name": "x", "Present": true, "Regex": "b"}]}),
        ),
        (
            "ignore case present",
            json!({"Header": [{"Name": "x", "Present": true, "IgnoreCase": true}]}),
        ),
        (
            "ignore case regex",
            json!({"Header": [{"Name": "x", "Regex": "a", "IgnoreCase": true}]}),
        ),
        ("method", json!({"Methods": ["FOO"]})),
        ("method twice", json!({"Methods": ["get", "GET"]})),
        ("l7 on tcp", json!({"PathExact": "/"})),
        ("http key", json!({"PathExact": "/", "Foo": 1})),
    ] {
        http(suite, name, one).await;
    }
}

async fn stored(suite: &mut Suite) {
    put(
        suite,
        "service-defaults api",
        &json!({"Kind": "service-defaults", "Name": "api", "Protocol": "http"}),
    )
    .await;
    suite
        .run(Step::get(
            "config read service-defaults",
            "/v1/config/service-defaults/api",
        ))
        .await;
    let permissions = json!([
        {"Action": "deny", "HTTP": {"PathPrefix": "/admin"}},
        {"Action": "allow", "HTTP": {"PathPrefix": "/v1", "Methods": ["get", "post"], "Header": [
            {"Name": "x-auth", "Present": true}, {"Name": "x-debug", "Exact": "1", "Invert": true},
            {"Name": "x-tenant", "Prefix": "A", "IgnoreCase": true}, {"Name": "x", "Contains": "c"}]}},
        {"Action": "allow", "HTTP": {"PathRegex": "("}},
    ]);
    let l7 = json!({"Kind": "service-intentions", "Name": "api", "Meta": {"k": "v"}, "Sources": [
        {"Name": "*", "Action": "deny"}, {"Name": "web", "Permissions": permissions},
        {"Name": "web", "Peer": "p1", "Action": "allow", "Description": "d"}]});
    put(suite, "l7", &l7).await;
    suite
        .run(Step::get(
            "config read l7",
            "/v1/config/service-intentions/api",
        ))
        .await;
    suite
        .run(Step::get(
            "config read upper case",
            "/v1/config/service-intentions/API",
        ))
        .await;
    put(suite, "l7 again", &l7).await;
    suite
        .run(Step::put(
            "config cas of an identical entry",
            "/v1/config?cas=1",
            &l7,
        ))
        .await;
    let other = json!({"Kind": "service-intentions", "Name": "api", "Sources": [{"Name": "web", "Action": "deny"}]});
    suite
        .run(Step::put("config cas lost", "/v1/config?cas=1", &other))
        .await;
    suite
        .run(Step::put("config cas junk", "/v1/config?cas=x", &other))
        .await;
    let fresh = json!({"Kind": "service-intentions", "Name": "fresh", "Sources": [{"Name": "web", "Action": "deny"}]});
    suite
        .run(Step::put("config cas new", "/v1/config?cas=0", &fresh))
        .await;
    suite
        .run(Step::new(
            "config delete fresh",
            Method::DELETE,
            "/v1/config/service-intentions/fresh",
        ))
        .await;
    put(
        suite,
        "back to tcp",
        &json!({"Kind": "service-defaults", "Name": "api", "Protocol": "tcp"}),
    )
    .await;
    suite
        .run(Step::new(
            "config delete defaults in use",
            Method::DELETE,
            "/v1/config/service-defaults/api",
        ))
        .await;
    let snake = json!({"kind": "service-intentions", "name": "snake", "sources": [{"name": "web", "action": "allow", "description": "s"}], "meta": {"a": "b"}});
    put(suite, "snake case", &snake).await;
    suite
        .run(Step::get(
            "config read snake",
            "/v1/config/service-intentions/snake",
        ))
        .await;
    let mesh = json!({"Kind": "mesh", "TransparentProxy": {}, "HTTP": {"SanitizeXForwardedClientCert": true, "Incoming": {"RequestNormalization": {
        "MergeSlashes": true, "PathWithEscapedSlashesAction": "REJECT_REQUEST", "HeadersWithUnderscoresAction": "DROP_HEADER"}}}});
    put(suite, "mesh", &mesh).await;
    suite
        .run(Step::get("config read mesh", "/v1/config/mesh/mesh"))
        .await;
    let junk = json!({"Kind": "mesh", "HTTP": {"Incoming": {"RequestNormalization": {"PathWithEscapedSlashesAction": "x"}}}});
    put(suite, "mesh slashes junk", &junk).await;
    let junk = json!({"Kind": "mesh", "HTTP": {"Incoming": {"RequestNormalization": {"HeadersWithUnderscoresAction": "x"}}}});
    put(suite, "mesh underscores junk", &junk).await;
    put(suite, "mesh plain", &json!({"Kind": "mesh"})).await;
    suite
        .run(Step::get("config read mesh plain", "/v1/config/mesh/mesh"))
        .await;
    suite
        .run(Step::new(
            "config delete mesh",
            Method::DELETE,
            "/v1/config/mesh/mesh",
        ))
        .await;
    put(
        suite,
        "proxy-defaults",
        &json!({"Kind": "proxy-defaults", "Name": "global", "Config": {"protocol": "http"}}),
    )
    .await;
    suite
        .run(Step::get(
            "config read proxy-defaults",
            "/v1/config/proxy-defaults/global",
        ))
        .await;
    http(suite, "l7 under global http", json!({"PathExact": "/"})).await;
    suite
        .run(Step::new(
            "config delete proxy-defaults in use",
            Method::DELETE,
            "/v1/config/proxy-defaults/global",
        ))
        .await;
    suite
        .run(Step::new(
            "config delete v",
            Method::DELETE,
            "/v1/config/service-intentions/v",
        ))
        .await;
    suite
        .run(Step::new(
            "config delete proxy-defaults",
            Method::DELETE,
            "/v1/config/proxy-defaults/global",
        ))
        .await;
    suite
        .run(Step::get(
            "config list intentions",
            "/v1/config/service-intentions",
        ))
        .await;
}

async fn jwt(suite: &mut Suite) {
    let keys = json!({"Local": {"JWKS": "eyJrZXlzIjpbXX0="}});
    put(suite, "jwt provider", &json!({"Kind": "jwt-provider", "Name": "okta", "Issuer": "iss", "JSONWebKeySet": keys,
        "Audiences": ["a"], "Locations": [{"Header": {"Name": "x-jwt", "ValuePrefix": "Bearer "}}, {"QueryParam": {"Name": "t"}}],
        "Forwarding": {"HeaderName": "x-claims"}})).await;
    suite
        .run(Step::get(
            "config read jwt provider",
            "/v1/config/jwt-provider/okta",
        ))
        .await;
    let remote = json!({"Remote": {"URI": "https://example.com/jwks", "RequestTimeoutMs": 500, "CacheDuration": "30m", "FetchAsynchronously": true}});
    put(
        suite,
        "jwt provider remote",
        &json!({"Kind": "jwt-provider", "Name": "far", "JSONWebKeySet": remote}),
    )
    .await;
    suite
        .run(Step::get(
            "config read jwt provider remote",
            "/v1/config/jwt-provider/far",
        ))
        .await;
    put(suite, "jwt provider both", &json!({"Kind": "jwt-provider", "Name": "both", "JSONWebKeySet": {"Local": {"JWKS": "eyJrZXlzIjpbXX0="}, "Remote": {"URI": "https://example.com"}}})).await;
    put(
        suite,
        "jwt provider neither",
        &json!({"Kind": "jwt-provider", "Name": "none", "JSONWebKeySet": {}}),
    )
    .await;
    refused_providers(suite).await;
    let requirement = json!({"Providers": [{"Name": "okta", "VerifyClaims": [{"Path": ["perms", "role"], "Value": "admin"}]}]});
    let sources = json!([{"Name": "*", "Action": "allow"}, {"Name": "web", "Permissions": [
        {"Action": "allow", "HTTP": {"PathExact": "/x"}, "JWT": {"Providers": [{"Name": "okta"}]}}]}]);
    put(
        suite,
        "jwt service",
        &json!({"Kind": "service-defaults", "Name": "guarded", "Protocol": "http2"}),
    )
    .await;
    put(suite, "jwt intentions", &json!({"Kind": "service-intentions", "Name": "guarded", "JWT": requirement, "Sources": sources})).await;
    suite
        .run(Step::get(
            "config read jwt intentions",
            "/v1/config/service-intentions/guarded",
        ))
        .await;
    suite
        .run(Step::get(
            "match jwt",
            "/v1/connect/intentions/match?by=destination&name=guarded",
        ))
        .await;
    suite
        .run(Step::new(
            "config delete jwt provider in use",
            Method::DELETE,
            "/v1/config/jwt-provider/okta",
        ))
        .await;
    suite
        .run(Step::new(
            "config delete jwt provider",
            Method::DELETE,
            "/v1/config/jwt-provider/far",
        ))
        .await;
}

async fn provider(suite: &mut Suite, name: &str, fields: Value) {
    let mut body = json!({"Kind": "jwt-provider", "Name": "p"});
    let entry = body.as_object_mut().expect("an object");
    entry.extend(fields.as_object().expect("an object").clone());
    put(suite, &format!("jwt provider {name}"), &body).await;
    suite
        .run(Step::get(
            &format!("config read jwt provider {name}"),
            "/v1/config/jwt-provider/p",
        ))
        .await;
}

/// What the keys and places of a provider may be.
async fn refused_providers(suite: &mut Suite) {
    for (name, keys) in [
        ("keys twice", json!({"JWKS": "e30=", "Filename": "/x"})),
        ("no keys", json!({})),
        ("no base64", json!({"JWKS": "%%%"})),
        ("base64 without padding", json!({"JWKS": "e30"})),
        ("base64 in lines", json!({"JWKS": "e3\r\n0="})),
        ("base64 with a rest", json!({"JWKS": "e31="})),
        ("no key set", json!({"JWKS": "AAAA"})),
        ("file", json!({"Filename": "keys.json"})),
    ] {
        provider(suite, name, json!({"JSONWebKeySet": {"Local": keys}})).await;
    }
    for uri in [
        "",
        "nonsense",
        "*",
        "/x",
        "?x",
        "a.b:80",
        "mailto:a",
        "file:///etc/passwd",
        "https://u:p@a/",
        "https://a:b/",
        "https://a:99999/",
        "https://[::1",
        "https://[::1]:a/",
        "https://[::1]x/",
        "https://a b/",
        "https://a/b c",
        "https://a/%zz",
        "https://a/%4",
        "http://a%41/",
        "https://a\u{1}\t\"b",
        "1http://a",
    ] {
        let keys = json!({"Remote": {"URI": uri}});
        provider(
            suite,
            &format!("uri {uri:?}"),
            json!({"JSONWebKeySet": keys}),
        )
        .await;
    }
    for (name, more) in [
        (
            "negative times",
            json!({"RequestTimeoutMs": -5, "CacheDuration": "-5s"}),
        ),
        (
            "retry",
            json!({"RetryPolicy": {"NumRetries": 3, "RetryPolicyBackOff": {"BaseInterval": "1s", "MaxInterval": "10s"}}}),
        ),
        (
            "retry without end",
            json!({"RetryPolicy": {"NumRetries": -1, "RetryPolicyBackOff": {"BaseInterval": "5s"}}}),
        ),
        (
            "retry backwards",
            json!({"RetryPolicy": {"RetryPolicyBackOff": {"BaseInterval": "10s", "MaxInterval": "1s"}}}),
        ),
        (
            "retry empty",
            json!({"RetryPolicy": {"RetryPolicyBackOff": {}}}),
        ),
        ("retry unknown", json!({"RetryPolicy": {"Foo": 1}})),
        ("sni", json!({"UseSNI": true})),
        (
            "cluster",
            json!({"JWKSCluster": {"DiscoveryType": "STATIC", "ConnectTimeout": "5s", "TLSCertificates": {"TrustedCA": {"Filename": "/a"}}}}),
        ),
        ("cluster empty", json!({"JWKSCluster": {}})),
        (
            "cluster type",
            json!({"JWKSCluster": {"DiscoveryType": "static"}}),
        ),
        (
            "cluster tls empty",
            json!({"JWKSCluster": {"TLSCertificates": {}}}),
        ),
        (
            "cluster tls both",
            json!({"JWKSCluster": {"TLSCertificates": {"TrustedCA": {"Filename": "/a"}, "CaCertificateProviderInstance": {"InstanceName": "x"}}}}),
        ),
        (
            "cluster tls instance",
            json!({"JWKSCluster": {"TLSCertificates": {"CaCertificateProviderInstance": {"InstanceName": "x", "CertificateName": "b"}}}}),
        ),
        (
            "cluster ca empty",
            json!({"JWKSCluster": {"TLSCertificates": {"TrustedCA": {}}}}),
        ),
        (
            "cluster ca twice",
            json!({"JWKSCluster": {"TLSCertificates": {"TrustedCA": {"Filename": "/a", "InlineString": "x"}}}}),
        ),
        (
            "cluster ca bytes",
            json!({"JWKSCluster": {"TLSCertificates": {"TrustedCA": {"InlineBytes": "AAEC"}}}}),
        ),
    ] {
        let mut remote = json!({"URI": "https://a/"});
        let fields = remote.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        let keys = json!({"Remote": remote});
        provider(suite, name, json!({"JSONWebKeySet": keys})).await;
    }
    for (name, more) in [
        (
            "two places",
            json!({"Locations": [{"Header": {"Name": "a"}, "Cookie": {"Name": "b"}}]}),
        ),
        ("no place", json!({"Locations": [{}, {"Header": {}}]})),
        ("nameless query", json!({"Locations": [{"QueryParam": {}}]})),
        ("nameless cookie", json!({"Locations": [{"Cookie": {}}]})),
        ("no places", json!({"Locations": []})),
        ("nameless forwarding", json!({"Forwarding": {}})),
        ("no skew", json!({"ClockSkewSeconds": 0})),
        ("negative skew", json!({"ClockSkewSeconds": -5})),
        ("cache", json!({"CacheConfig": {"Size": 20}})),
        ("star", json!({"Name": "*"})),
        ("nameless", json!({"Name": ""})),
    ] {
        let mut fields = json!({"JSONWebKeySet": {"Local": {"JWKS": "e30="}}});
        let own = fields.as_object_mut().expect("an object");
        own.extend(more.as_object().expect("an object").clone());
        provider(suite, name, fields).await;
    }
    for name in ["p", "*"] {
        suite
            .run(Step::new(
                &format!("config delete jwt provider {name}"),
                Method::DELETE,
                &format!("/v1/config/jwt-provider/{name}"),
            ))
            .await;
    }
}
