//! What a service speaks: from a real Consul, by flags, by the registration.

use http::{Request, StatusCode};
use portcullis_tests::consul::{Consul, Options};
use portcullis_tests::ports;
use portcullis_tests::program;
use portcullis_tests::proxy::Proxy;
use portcullis_tests::stage::{eventually, within};
use serde_json::json;

use crate::application::Application;
use crate::client::empty;
use crate::scene::{lines, proxy};

/// `api` and `web` on a real agent; where `web` reaches `api`.
pub(crate) struct Mesh {
    pub(crate) consul: Consul,
    pub(crate) application: Application,
    pub(crate) api: Proxy,
    _web: Proxy,
    door: std::net::SocketAddr,
}

impl Mesh {
    pub(crate) async fn start(
        test: &str,
        flags: &[&str],
        prepare: impl Fn(&Consul),
    ) -> Option<Self> {
        Self::start_with(test, Options::new(), flags, prepare).await
    }

    /// The same on an agent with these options.
    pub(crate) async fn start_with(
        test: &str,
        options: Options,
        flags: &[&str],
        prepare: impl Fn(&Consul),
    ) -> Option<Self> {
        let consul = tokio::task::block_in_place(|| Consul::start(test, options))?;
        let application = Application::start().await;
        let [listen, door] = ports::free::<2>();
        let mut all = vec![
            "-service=api".to_owned(),
            format!("-service-addr={}", application.address),
            format!("-listen=127.0.0.1:{listen}"),
            "-register".to_owned(),
        ];
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let api = tokio::task::block_in_place(|| {
            prepare(&consul);
            let api = proxy(consul.address(), &all);
            api.logs("ready: connections are taken");
            api
        });
        // So that the first list of instances that `web` reads has it.
        let list = consul.api();
        eventually("`api` is listed", async || {
            let ask = || list.get("/v1/health/connect/api?passing").good().json();
            let found = tokio::task::block_in_place(ask);
            found.as_array().is_some_and(|found| !found.is_empty())
        })
        .await;
        let web = tokio::task::block_in_place(|| {
            let web = ["-service=web".to_owned(), format!("-upstream=api:{door}")];
            let web = proxy(consul.address(), &web);
            web.logs("ready: connections are taken");
            web
        });
        Some(Self {
            consul,
            application,
            api,
            _web: web,
            door: ([127, 0, 0, 1], door).into(),
        })
    }

    pub(crate) async fn get(&self, path: &str) -> Option<StatusCode> {
        let stream = tokio::net::TcpStream::connect(self.door).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream))
                .await
                .ok()?;
        tokio::spawn(connection);
        let request = Request::get(path)
            .header("host", "a")
            .body(empty())
            .unwrap();
        within(sender.send_request(request))
            .await
            .ok()
            .map(|answer| answer.status())
    }
}

fn permit(consul: &Consul) {
    let entry = json!({ "Kind": "service-intentions", "Name": "api", "Sources": [{
        "Name": "web", "Permissions": [
            { "Action": "deny", "HTTP": { "PathPrefix": "/admin" } },
            { "Action": "allow", "HTTP": { "PathPrefix": "/", "Methods": ["GET"] } },
        ],
    }] });
    let _ = consul.api().put("/v1/config", &entry).good();
}

pub(crate) fn put(consul: &Consul, kind: &str, name: &str, fields: serde_json::Value) {
    let mut entry = json!({ "Kind": kind, "Name": name });
    entry
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    let _ = consul.api().put("/v1/config", &entry).good();
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_says_it_by_service_defaults() {
    let test = "consul_says_it_by_service_defaults";
    let Some(mesh) = Mesh::start(test, &[], |consul| {
        put(
            consul,
            "service-defaults",
            "api",
            json!({ "Protocol": "http" }),
        );
        permit(consul);
    })
    .await
    else {
        return;
    };
    assert_eq!(mesh.get("/a").await, Some(StatusCode::OK));
    assert_eq!(mesh.get("/admin").await, Some(StatusCode::FORBIDDEN));
    assert_eq!(mesh.application.paths(), ["/a"]);
    assert_eq!(lines(&mesh.api, 2).len(), 2);
    // A change of intentions holds for the next request.
    tokio::task::block_in_place(|| {
        let path = "/v1/config/service-intentions/api";
        let _ = mesh.consul.api().delete(path).good();
        let entry = json!({ "Kind": "service-intentions", "Name": "api", "Sources": [{ "Name": "*", "Action": "deny" }] });
        let _ = mesh.consul.api().put("/v1/config", &entry).good();
    });
    eventually("denied", async || {
        mesh.get("/a").await == Some(StatusCode::FORBIDDEN)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_says_it_by_proxy_defaults() {
    let test = "consul_says_it_by_proxy_defaults";
    let Some(mesh) = Mesh::start(test, &[], |consul| {
        put(
            consul,
            "proxy-defaults",
            "global",
            json!({ "Config": { "protocol": "http2" } }),
        );
        permit(consul);
    })
    .await
    else {
        return;
    };
    assert_eq!(mesh.get("/a").await, Some(StatusCode::OK));
    assert_eq!(mesh.get("/admin").await, Some(StatusCode::FORBIDDEN));
    assert_eq!(mesh.application.asked()[0].version, http::Version::HTTP_2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_word_it_is_tcp() {
    let test = "without_a_word_it_is_tcp";
    let Some(mesh) = Mesh::start(test, &[], |consul| {
        let path = "/v1/connect/intentions/exact?source=web&destination=api";
        let body = json!({ "SourceType": "consul", "Action": "allow" });
        let _ = consul.api().put(path, &body).good();
    })
    .await
    else {
        return;
    };
    assert_eq!(mesh.get("/a").await, Some(StatusCode::OK));
    let asked = mesh.application.asked().remove(0);
    assert!(
        !asked.headers.contains_key("x-forwarded-client-cert"),
        "bytes"
    );
    assert_eq!(lines(&mesh.api, 0).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_win_over_consul() {
    let test = "flags_win_over_consul";
    let prepare = |consul: &Consul| {
        put(
            consul,
            "service-defaults",
            "api",
            json!({ "Protocol": "http2" }),
        );
        permit(consul);
    };
    let Some(mesh) = Mesh::start(test, &["-protocol=http"], prepare).await else {
        return;
    };
    assert_eq!(mesh.get("/a").await, Some(StatusCode::OK));
    assert_eq!(mesh.get("/admin").await, Some(StatusCode::FORBIDDEN));
    assert_eq!(mesh.application.asked()[0].version, http::Version::HTTP_11);

    // An intention with permissions denies whatever comes by TCP.
    let Some(mesh) = Mesh::start(test, &["-protocol=tcp"], prepare).await else {
        return;
    };
    assert_ne!(mesh.get("/a").await, Some(StatusCode::OK));
    tokio::task::block_in_place(|| mesh.api.logs("l7-intention-on-tcp"));
    assert_eq!(mesh.application.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_it_is_told_the_flag() {
    use portcullis_dev_agent::{DevAgent, DevAgentConfig, Fault};
    let agent = DevAgent::start(DevAgentConfig::for_tests()).await.unwrap();
    let refused = Fault::Status(403, "Permission denied".to_owned());
    agent.inject_until_cleared("/v1/config/service-defaults/api", refused);
    let mut command = program::portcullis([
        "proxy",
        "-service=api",
        "-service-addr=127.0.0.1:1",
        "-listen=127.0.0.1:0",
    ]);
    command.env("CONSUL_HTTP_ADDR", agent.address().to_string());
    let said = tokio::task::block_in_place(|| program::run(&mut command));
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(
        said.err.contains("-protocol") && said.err.contains("service-defaults/api"),
        "{}",
        said.err
    );
    // With it, nobody asks.
    let flags = [
        "-service=api",
        "-service-addr=127.0.0.1:1",
        "-listen=127.0.0.1:0",
        "-protocol=tcp",
    ];
    let flags = flags.map(str::to_owned);
    let proxy = proxy(agent.address(), &flags);
    tokio::task::block_in_place(|| proxy.logs("ready: connections are taken"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_says_it() {
    let test = "a_registration_says_it";
    let Some(consul) = tokio::task::block_in_place(|| Consul::start(test, Options::new())) else {
        return;
    };
    let application = Application::start().await;
    let [listen, door] = ports::free::<2>();
    let (api, _web) = tokio::task::block_in_place(|| {
        put(
            &consul,
            "service-defaults",
            "api",
            json!({ "Protocol": "http2" }),
        );
        permit(&consul);
        let service = |protocol: &str| {
            json!({ "Name": "api", "ID": "api-1", "Port": application.address.port(), "Connect": { "SidecarService": {
                "Port": listen, "Address": "127.0.0.1",
                "Proxy": { "LocalServiceAddress": "127.0.0.1", "Config": { "protocol": protocol, "bind_address": "127.0.0.1" } },
                "Checks": [{ "Name": "on", "TTL": "1h", "Status": "passing" }],
            } } })
        };
        let _ = consul
            .api()
            .put("/v1/agent/service/register", &service("http"))
            .good();
        let api = proxy(consul.address(), &["-sidecar-for=api-1".to_owned()]);
        let flags = [
            "-service=web".to_owned(),
            format!("-upstream=api:{door}"),
            "-upstream-protocol=api=http".to_owned(),
        ];
        let web = proxy(consul.address(), &flags);
        api.logs("ready: connections are taken");
        web.logs("ready: connections are taken");
        (api, web)
    });
    let mesh = |path: &'static str| async move {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", door))
            .await
            .ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream))
                .await
                .ok()?;
        tokio::spawn(connection);
        let request = Request::get(path)
            .header("host", "a")
            .body(empty())
            .unwrap();
        within(sender.send_request(request))
            .await
            .ok()
            .map(|answer| answer.status())
    };
    eventually("an instance is known", async || {
        mesh("/a").await == Some(StatusCode::OK)
    })
    .await;
    assert_eq!(mesh("/admin").await, Some(StatusCode::FORBIDDEN));
    assert_eq!(application.asked()[0].version, http::Version::HTTP_11);
    let told = lines(&api, 2);
    assert!(told.iter().any(|line| line.to_string().contains("/admin")));
}
