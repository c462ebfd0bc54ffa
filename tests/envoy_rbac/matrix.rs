//! Attacks on rules about requests, tried on our proxy and on Envoy, both led by the same
//! Consul; `tests/ATTACKS-HTTP.md` is the table.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use portcullis_core::http::HttpVersion::{Http1, Http2};
use portcullis_tests::ports;
use portcullis_tests::proxy::Proxy;
use serde_json::{Value, json};

use crate::client::{Client, Exchange};
use crate::question::Question;
use crate::scene::{PROVIDERS, Scene, TARGET};

/// Each attack gets its cell from what came back; ours must let none through.
#[test]
fn attacks_on_requests() {
    let mut table = Table::default();
    for default in ["deny", "allow"] {
        let Some(mut scene) = Scene::start("attacks_on_requests", default) else {
            return;
        };
        let [port] = ports::free::<1>();
        let application = format!("-service-addr=127.0.0.1:{}", scene.application.port);
        let listen = format!("-listen=127.0.0.1:{port}");
        let flags = ["-service", TARGET, &application, &listen];
        let _ours = Proxy::start(scene.consul.address(), None, &flags);
        let ours = SocketAddr::from(([127, 0, 0, 1], port));
        let attacks = if default == "deny" {
            requests
        } else {
            identities
        };
        for (rule, list) in attacks(&scene) {
            let _ = scene.set(&rule, &[], None);
            scene.arrived(ours);
            for attack in list {
                table.add(&scene, ours, &attack);
            }
        }
        if default == "deny" {
            smuggle(&mut scene, ours, &mut table);
        }
    }
    table.check();
}

struct Attack {
    what: &'static str,
    client: Client,
    question: Question,
    /// Not an attack: this must go through.
    is_control: bool,
}

#[derive(Default)]
struct Table {
    rows: Vec<String>,
    through: Vec<String>,
    held: Vec<String>,
}

impl Table {
    fn add(&mut self, scene: &Scene, ours: SocketAddr, attack: &Attack) {
        let answers = [ours, scene.envoy]
            .map(|address| cell(attack.client.exchange(address, &attack.question)));
        // Trust domain and tokens are others in each run.
        let mut question = attack.question.clone();
        for (name, value) in &mut question.headers {
            if name == b"authorization" {
                *value = b"Bearer TOKEN".to_vec();
            }
            if let Ok(text) = std::str::from_utf8(value) {
                *value = text
                    .replace(&scene.trust_domain, "TRUST-DOMAIN")
                    .into_bytes();
            }
        }
        let shown = question.to_string().replace('|', "\\|");
        self.row(attack.what, &shown, answers, attack.is_control);
    }

    fn row(&mut self, what: &str, shown: &str, [ours, envoy]: [String; 2], is_control: bool) {
        let row = format!("| {what} | {shown} | {ours} | {envoy} |");
        let is_through = ours.contains("200");
        match (is_through, is_control) {
            (true, false) => self.through.push(row.clone()),
            (false, true) => self.held.push(row.clone()),
            _ => {}
        }
        self.rows.push(row);
    }

    fn check(&self) {
        assert!(
            self.through.is_empty(),
            "through our proxy:\n{}",
            self.through.join("\n")
        );
        assert!(
            self.held.is_empty(),
            "held up by our proxy:\n{}",
            self.held.join("\n")
        );
        let page = include_str!("../ATTACKS-HTTP.md");
        let listed: BTreeSet<&str> = page
            .lines()
            .filter(|line| line.starts_with("| "))
            .skip(1)
            .collect();
        let rows: BTreeSet<&str> = self.rows.iter().map(String::as_str).collect();
        let lacks: Vec<_> = self
            .rows
            .iter()
            .map(String::as_str)
            .filter(|row| !listed.contains(row))
            .collect();
        let gone: Vec<_> = listed.difference(&rows).copied().collect();
        assert!(
            lacks.is_empty() && gone.is_empty(),
            "`tests/ATTACKS-HTTP.md` lacks\n{}\nand lists what no longer happens\n{}",
            lacks.join("\n"),
            gone.join("\n")
        );
    }
}

fn cell(exchange: Exchange) -> String {
    match exchange {
        // Whether the alert arrives before the end of the connection is a race.
        Exchange::NoHandshake | Exchange::Closed => "closed".to_owned(),
        Exchange::Answered(response) => {
            match (response.header("x-target"), response.header("grpc-status")) {
                (Some(target), _) => format!("**200** as `{}`", target.escape_ascii()),
                (None, Some(status)) => format!("gRPC status {}", status.escape_ascii()),
                (None, None) => response.status.to_string(),
            }
        }
    }
}

type Attacks = Vec<(Vec<Value>, Vec<Attack>)>;

fn requests(scene: &Scene) -> Attacks {
    let web = scene.client("web");
    let attack = |what: &'static str, question: Question| Attack {
        what,
        client: web.clone(),
        question,
        is_control: false,
    };
    let control = |question: Question| Attack {
        is_control: true,
        ..attack("*none: it is allowed*", question)
    };
    let get = |target: &str| Question::get(Http1, target);
    let two = |target: &str| Question::get(Http2, target);
    let web_may = |list: Value| vec![json!({ "Name": "web", "Permissions": list })];
    let header = |matcher: Value| {
        web_may(json!([
            { "Action": "deny", "HTTP": { "Header": [matcher] } },
            { "Action": "allow", "HTTP": { "PathPrefix": "/" } },
        ]))
    };

    let admin = web_may(json!([
        { "Action": "deny", "HTTP": { "PathPrefix": "/admin" } },
        { "Action": "allow", "HTTP": { "PathPrefix": "/" } },
    ]));
    let path = "path: deny below `/admin`, allow `/`";
    let mut paths: Vec<Attack> = [
        "/admin",
        "/a/../admin",
        "/./admin",
        "//admin",
        "/x//../admin",
        "/%61dmin",
        "/%2e%2e/admin",
        "/x/%2E%2E/admin",
        "/x%2f..%2fadmin",
        "/%2fadmin",
        "/x\\..\\admin",
        "/x%5c..%5cadmin",
        "/x/..;/admin",
        "/.;x/admin",
        "/admin;x=1",
        "/admin%3fx",
        "/admin#x",
        "/admin%00",
        "http://other/admin",
        "http://other//admin",
    ]
    .into_iter()
    .map(|target| attack(path, get(target)))
    .collect();
    paths.extend(
        ["/a/../admin", "admin", "/adm\u{e9}/../admin", "/ad min"]
            .into_iter()
            .map(|target| attack(path, two(target))),
    );
    paths.push(control(get("/public/x?y=/admin")));

    let role = "header: deny `x-role` exact `admin`";
    let mut roles = vec![
        attack(role, get("/").header("x-role", "admin")),
        attack(role, get("/").header("X-Role", "admin")),
        attack(
            role,
            get("/").header("x-role", "user").header("x-role", "admin"),
        ),
        attack(
            role,
            get("/").header("x-role", "admin").header("x-role", "user"),
        ),
        attack(role, get("/").header("x-role", "  admin\t")),
        attack(role, two("/").header("x-role", " admin")),
    ];
    roles.push(control(get("/").header("x-role", "user")));
    let team = "header: deny `x-role` prefix `admin,` (repeated values, joined)";
    let teams = vec![
        attack(team, get("/").header("x-role", "admin,user")),
        attack(
            team,
            get("/").header("x-role", "admin").header("x-role", "user"),
        ),
    ];
    let pattern = "header: deny `x-role` regex `admin.*`";
    let patterns = vec![
        attack(pattern, get("/").bytes("x-role", b"admin\xff")),
        attack(pattern, get("/").bytes("x-role", "admin\u{e9}".as_bytes())),
    ];
    let host = "header: deny `:authority` exact `secret.example`";
    let mut other = two("/");
    other.authority = Some(b"Secret.Example".to_vec());
    let hosts = vec![
        attack(
            host,
            get("/").without("host").header("host", "Secret.Example"),
        ),
        attack(host, other),
        attack(host, get("http://secret.example/")),
        attack(host, get("/").header("host", "secret.example")),
    ];
    let delete = "method: deny DELETE";
    let methods = vec![
        attack(delete, get("/").method("DELETE")),
        attack(delete, get("/").method("delete")),
        attack(
            delete,
            get("/")
                .header("x-http-method-override", "x")
                .method("DELETE"),
        ),
    ];
    let call = "gRPC: deny `/admin.Api/Drop`";
    let calls = vec![
        attack(
            call,
            two("/admin.Api/Drop")
                .method("POST")
                .header("content-type", "application/grpc"),
        ),
        attack(
            call,
            two("/admin.Api/%44rop")
                .method("POST")
                .header("content-type", "application/grpc+proto"),
        ),
        attack(
            call,
            two("//admin.Api/Drop")
                .method("POST")
                .header("content-type", "application/grpc"),
        ),
    ];

    let stranger = |what: &'static str, question: Question| Attack {
        client: scene.client("mallory"),
        ..attack(what, question)
    };
    let forged = format!(
        "By=x;URI=spiffe://{}/ns/default/dc/dc1/svc/web",
        scene.trust_domain
    );
    let xfcc = "identity: `web` may; `mallory` asks";
    let others = vec![
        stranger(xfcc, get("/")),
        stranger(xfcc, get("/").header("x-forwarded-client-cert", &forged)),
        stranger(
            xfcc,
            get("/").header("connection", "x-forwarded-client-cert"),
        ),
    ];

    vec![
        (admin, paths),
        (header(json!({ "Name": "x-role", "Exact": "admin" })), roles),
        (
            header(json!({ "Name": "x-role", "Prefix": "admin," })),
            teams,
        ),
        (
            header(json!({ "Name": "x-role", "Regex": "admin.*" })),
            patterns,
        ),
        (
            header(json!({ "Name": ":authority", "Exact": "secret.example" })),
            hosts,
        ),
        (
            web_may(
                json!([{ "Action": "deny", "HTTP": { "Methods": ["DELETE"] } }, { "Action": "allow", "HTTP": { "PathPrefix": "/" } }]),
            ),
            methods,
        ),
        (
            web_may(
                json!([{ "Action": "deny", "HTTP": { "PathExact": "/admin.Api/Drop" } }, { "Action": "allow", "HTTP": { "PathPrefix": "/" } }]),
            ),
            calls,
        ),
        (
            web_may(json!([{ "Action": "allow", "HTTP": { "PathPrefix": "/" } }])),
            others,
        ),
        tokens(scene, &web),
    ]
}

/// Tokens that open nothing, where the rule asks for one of the first issuer with a role.
fn tokens(scene: &Scene, web: &Client) -> (Vec<Value>, Vec<Attack>) {
    let provider =
        json!({ "Name": PROVIDERS[0], "VerifyClaims": [{ "Path": ["role"], "Value": "admin" }] });
    let rule = json!({ "Name": "web", "Permissions": [
        { "Action": "allow", "HTTP": { "PathPrefix": "/" }, "JWT": { "Providers": [provider] } },
    ] });
    let [one, two] = [&scene.issuers[0], &scene.issuers[1]];
    let admin = json!({ "role": "admin" });
    let good = one.token(600, &admin);
    let other = one.token(600, &json!({ "role": "user" }));
    let (head, rest) = good.split_once('.').expect("three parts");
    let (body, _) = rest.split_once('.').expect("three parts");
    let (_, signature) = other.rsplit_once('.').expect("three parts");
    // {"alg":"none","typ":"JWT"}
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let cases = [
        ("JWT: none", None),
        ("JWT: another role", Some(other.clone())),
        (
            "JWT: a role in a list",
            Some(one.token(600, &json!({ "role": ["admin"] }))),
        ),
        ("JWT: expired", Some(one.token(-600, &admin))),
        (
            "JWT: another issuer with the role",
            Some(two.token(600, &admin)),
        ),
        (
            "JWT: another issuer's key, this issuer's name",
            Some(two.token(600, &json!({ "iss": one.name, "role": "admin" }))),
        ),
        (
            "JWT: the signature of another token",
            Some(format!("{head}.{body}.{signature}")),
        ),
        ("JWT: no signature", Some(format!("{head}.{body}."))),
        ("JWT: `alg: none`", Some(format!("{none}.{body}."))),
        (
            "JWT: `exp` as text",
            Some(one.token(600, &json!({ "exp": "never", "role": "admin" }))),
        ),
        (
            "JWT: `exp` is null",
            Some(one.token(600, &json!({ "exp": null, "role": "admin" }))),
        ),
    ];
    let question = |token: &Option<String>| match token {
        Some(token) => {
            Question::get(Http1, "/").header("authorization", &format!("Bearer {token}"))
        }
        None => Question::get(Http1, "/"),
    };
    let mut attacks: Vec<Attack> = cases
        .into_iter()
        .map(|(what, token)| Attack {
            what,
            client: web.clone(),
            question: question(&token),
            is_control: false,
        })
        .collect();
    attacks.push(Attack {
        what: "*none: a good token*",
        client: web.clone(),
        question: question(&Some(good)),
        is_control: true,
    });
    (vec![rule], attacks)
}

/// Certificates of Consul's CA that are no service of the mesh, under default allow.
fn identities(scene: &Scene) -> Attacks {
    let domain = &scene.trust_domain;
    let web = format!("spiffe://{domain}/ns/default/dc/dc1/svc/web");
    let plain = |uri: &str| scene.stranger(&[uri], &scene.ca.leaf(uri).issue());
    let leaf = scene.ca.leaf(&web).with(|draft| draft.no_uri()).issue();
    let list = [
        ("identity: `*` denied: a service", scene.client("web")),
        (
            "identity: `*` denied: another trust domain",
            plain("spiffe://elsewhere.consul/ns/default/dc/dc1/svc/web"),
        ),
        (
            "identity: `*` denied: an agent",
            plain(&format!("spiffe://{domain}/agent/client/dc/dc1/id/web")),
        ),
        (
            "identity: `*` denied: a mesh gateway",
            plain(&format!("spiffe://{domain}/gateway/mesh/dc/dc1")),
        ),
        (
            "identity: `*` denied: no URI name",
            scene.stranger(&[], &leaf),
        ),
        (
            "identity: `*` denied: `SPIFFE://`",
            plain(&format!("SPIFFE{}", &web[6..])),
        ),
        (
            "identity: `*` denied: `/ap/default/`",
            plain(&format!(
                "spiffe://{domain}/ap/default/ns/default/dc/dc1/svc/web"
            )),
        ),
    ];
    let attacks = list.map(|(what, client)| Attack {
        what,
        client,
        question: Question::get(Http1, "/"),
        is_control: false,
    });
    vec![(
        vec![json!({ "Name": "*", "Action": "deny" })],
        attacks.into(),
    )]
}

/// Requests behind requests: all may be asked for but what is smuggled.
fn smuggle(scene: &mut Scene, ours: SocketAddr, table: &mut Table) {
    let rule = json!({ "Name": "web", "Permissions": [
        { "Action": "deny", "HTTP": { "PathPrefix": "/smuggled" } },
        { "Action": "allow", "HTTP": { "PathPrefix": "/" } },
    ] });
    let _ = scene.set(&[rule], &[], None);
    scene.arrived(ours);
    let web = scene.client("web");
    let cases = [
        (
            "two lengths",
            "content-length: 0\r\ncontent-length: 60\r\n",
            "",
        ),
        (
            "a length and chunks",
            "content-length: 60\r\ntransfer-encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        (
            "chunks, misspelt",
            "content-length: 0\r\ntransfer-encoding: xchunked\r\n",
            "",
        ),
        (
            "chunks behind a space",
            "content-length: 0\r\ntransfer-encoding : chunked\r\n",
            "",
        ),
        (
            "chunks behind a bare line feed",
            "x: y\ntransfer-encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        (
            "a folded header",
            "x: y\r\n transfer-encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        (
            "bytes behind an upgrade",
            "connection: upgrade\r\nupgrade: websocket\r\n",
            "",
        ),
    ];
    for (number, (what, headers, body)) in cases.into_iter().enumerate() {
        let answers = [("ours", ours), ("envoy", scene.envoy)].map(|(name, address)| {
            let target = format!("/smuggled-{name}-{number}");
            let smuggled = format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n");
            let last = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            let bytes =
                format!("POST /first HTTP/1.1\r\nhost: a\r\n{headers}\r\n{body}{smuggled}{last}");
            let answer = web.raw(address, bytes.as_bytes());
            if scene.application.has_seen(&target) {
                return "**200**: it arrived".to_owned();
            }
            let line = answer
                .split(|byte| *byte == b'\r')
                .next()
                .unwrap_or_default();
            let status = line.split(|byte| *byte == b' ').nth(1).unwrap_or(b"closed");
            match String::from_utf8_lossy(status).as_ref() {
                "200" => "the first is answered, the other refused".to_owned(),
                status => status.to_owned(),
            }
        });
        let shown = format!("POST with `{}`", headers.trim_end().escape_debug());
        table.row(&format!("smuggling: {what}"), &shown, answers, false);
    }
}
