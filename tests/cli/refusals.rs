//! Every mistake is one clear line that says what, where and what to do.

use portcullis_tests::program::{portcullis, run};

use crate::{Server, refused, refused_as};

#[test]
fn usage_errors_say_what_and_where_to_read() {
    refused(
        &[],
        2,
        &["no command", "portcullis demo", "portcullis --help"],
    );
    refused(&["verson"], 2, &["verson", "version", "portcullis --help"]);
    refused(
        &["version", "--outptu", "json"],
        2,
        &["--outptu", "--output", "portcullis version --help"],
    );
    refused(
        &["version", "-o", "xml"],
        2,
        &["xml", "text, json", "portcullis version --help"],
    );
    refused(
        &["version", "-log-level", "loud"],
        2,
        &["loud", "--log-level", "info"],
    );
}

#[test]
fn flags_that_make_no_sense_together_are_named() {
    let proxy = |arguments: &[&str], parts: &[&str]| {
        let all: Vec<&str> = ["proxy"]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        refused(&all, 2, parts);
    };
    proxy(&[], &["-service", "missing"]);
    proxy(
        &["-service", "web"],
        &["nothing to do", "-listen", "-upstream"],
    );
    proxy(
        &["-service", "web", "-listen", ":8443"],
        &["-service-addr is missing", "127.0.0.1:8080"],
    );
    proxy(
        &["-service", "web", "-service-addr", "127.0.0.1:1"],
        &["-listen is missing"],
    );
    proxy(
        &["-service", "web", "-upstream", "db:1", "-register"],
        &["-register needs -listen"],
    );
    for flag in ["-service=x", "-upstream=db:1", "-listen=:1"] {
        let name = flag.split('=').next().unwrap_or(flag);
        proxy(&["-sidecar-for", "web", flag], &["--sidecar-for", name]);
        proxy(&["-proxy-id=web-1", flag], &["--proxy-id", name]);
    }
    proxy(
        &["-sidecar-for", "web", "-register"],
        &["-register", "registered already", "-service-file"],
    );
    proxy(
        &["-sidecar-for", "web", "-proxy-id", "web-1"],
        &["--sidecar-for", "--proxy-id"],
    );
    proxy(&["-sidecar-for="], &["-sidecar-for", "need an ID"]);
    proxy(
        &["-service", "web", "-register-id", "x", "-upstream", "db:1"],
        &["--register"],
    );
    proxy(
        &["-servize", "web"],
        &["-servize", "portcullis proxy --help"],
    );
}

#[test]
fn impossible_values_are_named_with_their_flag() {
    for (upstream, part) in [
        ("db", "no port"),
        (":9191", "no service"),
        ("db:65536", "`65536`"),
        ("db:host:9191", "`host`"),
        ("db.query:9191", "prepared queries"),
    ] {
        refused(
            &["proxy", "-service", "web", "-upstream", upstream],
            2,
            &["--upstream", upstream, part],
        );
    }
    for duration in ["NaN", "inf", "-5s", "5", "1e9s", "900000000000h"] {
        refused(
            &[
                "proxy",
                "-service",
                "web",
                "-upstream",
                "db:1",
                "-max-stale",
                duration,
            ],
            2,
            &["--max-stale", duration],
        );
        refused(
            &[
                "proxy",
                "-service",
                "web",
                "-upstream",
                "db:1",
                "-drain-timeout",
                duration,
            ],
            2,
            &["--drain-timeout"],
        );
    }
    for listen in ["8443", "host:x", "127.0.0.1:70000", ""] {
        refused(
            &[
                "proxy",
                "-service",
                "web",
                "-service-addr",
                "127.0.0.1:1",
                "-listen",
                listen,
            ],
            2,
            &["-listen"],
        );
    }
    for application in ["8080", "unix:", "host:", ":"] {
        refused(
            &[
                "proxy",
                "-service",
                "web",
                "-service-addr",
                application,
                "-listen",
                ":0",
            ],
            2,
            &["-service-addr"],
        );
    }
    refused(
        &["proxy", "-service", "web db", "-upstream", "db:1"],
        2,
        &["web db"],
    );
}

#[test]
fn settings_of_the_agent_that_cannot_be_used_are_named() {
    let list = |arguments: &[&str], environment: &[(&str, &str)], parts: &[&str]| {
        let all = ["intention", "list"]
            .into_iter()
            .chain(arguments.iter().copied());
        let said = run(portcullis(all).envs(environment.iter().copied()));
        refused_as(&said, 2, parts);
    };
    list(
        &["-http-addr", "ftp://127.0.0.1"],
        &[],
        &["ftp://127.0.0.1", "http, https or unix"],
    );
    list(
        &["-http-addr", "127.0.0.1:x"],
        &[],
        &["127.0.0.1:x", "port"],
    );
    list(
        &["-client-cert", "/tmp/c.pem"],
        &[],
        &["the key", "missing"],
    );
    list(
        &["-client-key", "/tmp/k.pem"],
        &[],
        &["the certificate", "missing"],
    );
    list(
        &[],
        &[("CONSUL_CLIENT_CERT", "/tmp/c.pem")],
        &["the key", "missing"],
    );
    list(
        &[],
        &[("CONSUL_HTTP_SSL_VERIFY", "flase")],
        &["CONSUL_HTTP_SSL_VERIFY", "flase"],
    );
    list(
        &["-token-file", "/nonexistent/token"],
        &[],
        &["/nonexistent/token", "No such file"],
    );
    list(
        &[
            "-ca-file",
            "/nonexistent/ca",
            "-http-addr",
            "https://127.0.0.1:1",
        ],
        &[],
        &["/nonexistent/ca"],
    );
}

#[test]
fn agents_that_do_not_answer_as_one_are_named() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    let closed = format!("http://{closed}");
    // `check` answers 2 where others answer 1, so that it never reads as `denied`.
    for (command, code) in [
        (["intention", "list", "", ""], 1),
        (["check", "web", "db", ""], 2),
    ] {
        let ask = |address: &str, parts: &[&str]| {
            let words = command
                .into_iter()
                .filter(|word| !word.is_empty())
                .chain(["-http-addr", address]);
            refused_as(&run(&mut portcullis(words)), code, parts);
        };
        ask(
            "no-such-host.invalid:8500",
            &["unknown host", "no-such-host.invalid", "CONSUL_HTTP_ADDR"],
        );
        ask(
            &closed,
            &["no agent at", &closed["http://".len()..], "is it running"],
        );
        ask(
            "unix:///nonexistent/consul.sock",
            &["/nonexistent/consul.sock"],
        );
        let page = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>");
        ask(&page.address, &["not a Consul agent", &page.address]);
        let missing = Server::start("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        ask(&missing.address, &["not a Consul agent", "404"]);
        let redirect = Server::start(
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        );
        ask(&redirect.address, &["not a Consul agent", "redirect"]);
        let ssh = Server::start("SSH-2.0-OpenSSH_9.9\r\n");
        ask(&ssh.address, &["not a Consul agent", "HTTP"]);
        let tls = ask_https(&page.address);
        ask(&tls, &["TLS", &page.address]);
    }
}

fn ask_https(address: &str) -> String {
    format!("https://{address}")
}

#[test]
fn answers_that_break_off_or_make_no_sense_are_named() {
    let consul = |body: &str| {
        Server::start(&format!(
            "HTTP/1.1 200 OK\r\nx-consul-index: 7\r\nx-consul-default-acl-policy: allow\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    };
    for (body, part) in [
        (r#"[{"SourceName":"web","#, "not JSON"),
        (r#"{"a":1}"#, "not"),
        (r#"[{"SourceName":"web"}]"#, "/0/DestinationName"),
        (
            r#"[{"SourceName":7,"DestinationName":"db","Precedence":9}]"#,
            "/0/SourceName",
        ),
        ("\u{1b}[31m\u{2028}", "not JSON"),
    ] {
        let agent = consul(body);
        refused(
            &["intention", "list", "-http-addr", &agent.address],
            1,
            &["/v1/connect/intentions", part],
        );
    }
    let short =
        Server::start("HTTP/1.1 200 OK\r\nx-consul-index: 7\r\ncontent-length: 900\r\n\r\n[");
    refused(
        &["intention", "list", "-http-addr", &short.address],
        1,
        &[&short.address, "broke off"],
    );
    let hostile = "no\u{1b}[2Jway\u{2028}\r\nportcullis: forged";
    let agent = Server::start(&format!(
        "HTTP/1.1 500 Internal Server Error\r\nx-consul-default-acl-policy: allow\r\ncontent-length: {}\r\n\r\n{hostile}",
        hostile.len()
    ));
    refused(
        &["intention", "list", "-http-addr", &agent.address],
        1,
        &["500", "u{1b}"],
    );
}
