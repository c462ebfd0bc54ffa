//! An application that speaks HTTP/1.1 and HTTP/2 and remembers what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_tests::stage::ANY;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

type Body = Either<Full<Bytes>, Channel<Bytes, Infallible>>;

/// What it was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) version: Version,
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
}

/// A running application.
#[derive(Clone, Debug)]
pub(crate) struct Application {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<Mutex<usize>>,
}

impl Application {
    /// Starts one that takes both versions.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(ANY).await.expect("a port");
        let application = Self {
            address: listener.local_addr().expect("an address"),
            asked: Arc::default(),
            connections: Arc::default(),
        };
        let serving = application.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *serving.connections.lock().expect("unpoisoned") += 1;
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        application
    }

    /// Starts one that answers each head of HTTP/1.1 with these bytes, and remembers nothing.
    pub(crate) async fn saying(answer: &'static str) -> Self {
        let listener = TcpListener::bind(ANY).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    loop {
                        let mut head = Vec::new();
                        while !head.ends_with(b"\r\n\r\n") {
                            let mut byte = [0];
                            match stream.read(&mut byte).await {
                                Ok(1..) => head.extend_from_slice(&byte),
                                _ => return,
                            }
                        }
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            address,
            asked: Arc::default(),
            connections: Arc::default(),
        }
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("unpoisoned").clone()
    }

    /// The paths that it was asked for so far.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.uri).collect()
    }

    /// How many connections it has taken.
    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().expect("unpoisoned")
    }

    async fn serve(self, stream: TcpStream) {
        let mut first = [0; 3];
        while stream.peek(&mut first).await.is_ok_and(|count| count < 3) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let application = self.clone();
        let service = service_fn(move |request| {
            let application = application.clone();
            async move {
                let is_head = request.method() == Method::HEAD;
                let mut answer = application.answer(request).await;
                if is_head {
                    // hyper leaves that to us in HTTP/2.
                    let length = answer.body().size_hint().exact().unwrap_or_default();
                    answer.headers_mut().insert("content-length", length.into());
                    *answer.body_mut() = Either::Left(Full::default());
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let io = TokioIo::new(stream);
        if &first == b"PRI" {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(io, service).await;
        } else {
            let builder = hyper::server::conn::http1::Builder::new();
            let _ = builder.serve_connection(io, service).with_upgrades().await;
        }
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        self.asked.lock().expect("unpoisoned").push(Asked {
            version: request.version(),
            uri: request
                .uri()
                .path_and_query()
                .map_or_else(|| request.uri().to_string(), ToString::to_string),
            headers: request.headers().clone(),
        });
        match request.uri().path() {
            // The body and its trailers, as they come.
            "/echo" | "/test.Echo/Stream" => echo(request),
            // The body, and in trailers that nobody announced, which trailers came with it.
            "/trailers" => trailers(request).await,
            // So many bytes.
            "/big" => {
                let size = request.uri().query().and_then(|query| query.parse().ok());
                let mut left: usize = size.expect("a size");
                let (mut sender, body) = Channel::new(4);
                tokio::spawn(async move {
                    while left > 0 {
                        let part = left.min(64 * 1024);
                        left -= part;
                        if sender.send_data(Bytes::from(vec![7; part])).await.is_err() {
                            return;
                        }
                    }
                });
                Response::new(Either::Right(body))
            }
            // Swallows the body, and says how large it was.
            "/count" => {
                let mut count = 0;
                while let Some(frame) = request.body_mut().frame().await {
                    let Ok(frame) = frame else {
                        return refusal(StatusCode::IM_A_TEAPOT);
                    };
                    count += frame.data_ref().map_or(0, Bytes::len);
                }
                text(count.to_string())
            }
            // One piece now, and then nothing for ever.
            "/live" => {
                let (mut sender, body) = Channel::new(1);
                tokio::spawn(async move {
                    let _ = sender.send_data(Bytes::from_static(b"first")).await;
                    std::future::pending::<()>().await;
                });
                Response::new(Either::Right(body))
            }
            // No answer at all.
            "/never" => std::future::pending().await,
            // Does not want the body.
            "/unwanted" => refusal(StatusCode::EXPECTATION_FAILED),
            "/ws" => upgrade(request),
            _ => {
                let mut response = text("hello from the application".to_owned());
                let headers = response.headers_mut();
                headers.insert("x-app", HeaderValue::from_static("1"));
                headers.insert("keep-alive", HeaderValue::from_static("timeout=5"));
                response
            }
        }
    }
}

fn text(text: String) -> Response<Body> {
    Response::new(Either::Left(Full::new(text.into())))
}

fn refusal(status: StatusCode) -> Response<Body> {
    let mut response = text(String::new());
    *response.status_mut() = status;
    response
}

fn echo(mut request: Request<Incoming>) -> Response<Body> {
    let (mut sender, body) = Channel::new(1);
    let kind = request.headers().get("content-type").cloned();
    tokio::spawn(async move {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("none"));
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        while let Some(Ok(frame)) = request.body_mut().frame().await {
            let frame = match frame.into_data() {
                Ok(data) => Frame::data(data),
                Err(frame) => {
                    trailers.extend(frame.into_trailers().unwrap_or_default());
                    continue;
                }
            };
            if sender.send(frame).await.is_err() {
                return;
            }
        }
        let _ = sender.send(Frame::trailers(trailers)).await;
    });
    let mut response = Response::new(Either::Right(body));
    let headers = response.headers_mut();
    headers.insert(
        "trailer",
        HeaderValue::from_static("x-checksum, grpc-status"),
    );
    if let Some(kind) = kind {
        headers.insert("content-type", kind);
    }
    response
}

async fn trailers(request: Request<Incoming>) -> Response<Body> {
    let grpc = request.uri().query().is_some();
    let (mut sender, body) = Channel::new(2);
    let Ok(all) = request.into_body().collect().await else {
        return refusal(StatusCode::IM_A_TEAPOT);
    };
    let seen = all.trailers().into_iter().flat_map(HeaderMap::keys);
    let mut seen: Vec<&str> = seen.map(HeaderName::as_str).collect();
    seen.sort_unstable();
    let mut fields = HeaderMap::new();
    fields.insert("x-application", HeaderValue::from_static("late"));
    let names = HeaderValue::try_from(seen.join(" ")).expect("names");
    fields.insert("x-seen", names);
    if grpc {
        fields.insert("grpc-status", HeaderValue::from_static("0"));
    }
    tokio::spawn(async move {
        let _ = sender.send(Frame::data(all.to_bytes())).await;
        let _ = sender.send(Frame::trailers(fields)).await;
    });
    let mut response = Response::new(Either::Right(body));
    if grpc {
        let kind = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", kind);
    }
    response
}

/// After 101 every byte comes back.
fn upgrade(mut request: Request<Incoming>) -> Response<Body> {
    let Some(protocol) = request.headers().get("upgrade").cloned() else {
        return refusal(StatusCode::UPGRADE_REQUIRED);
    };
    if protocol == "refused" {
        return refusal(StatusCode::OK);
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else {
            return;
        };
        let mut stream = TokioIo::new(upgraded);
        let _ = stream.write_all(b"welcome ").await;
        let mut bytes = [0; 1024];
        while let Ok(read @ 1..) = stream.read(&mut bytes).await {
            if stream.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
        let _ = stream.shutdown().await;
    });
    let mut response = refusal(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("upgrade"));
    headers.insert("upgrade", protocol);
    response
}
