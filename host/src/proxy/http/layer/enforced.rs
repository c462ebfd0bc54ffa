//! An application behind its intentions: every request judged before it is seen.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use portcullis_core::http::HttpVersion;
use tower_service::Service;

use super::super::super::access::{Access, Direction, Ending};
use super::super::admission::Allowed;
use super::super::answer;
use super::super::cutter::{Cause, Cutter};
use super::super::flow::{BoxError, Flow};
use super::super::gate::{Bad, Heads, Next, Release};
use super::super::hop;
use super::super::judge::Question;
use super::super::live::Place;
use super::super::reading;
use super::super::record::Record;
use super::super::trailers::Trailers;
use super::super::xfcc;
use super::body::Body;
use super::caller::Caller;
use super::connection::MeshConnection;
use super::intentions::Intentions;
use super::make::MakeEnforced;
use super::refusal::Refusal;

/// An application behind its intentions: a [`Service`] of HTTP requests.
///
/// A request that is allowed reaches the application with the path that was judged and with
/// a [`Caller`] in its extensions; any other is answered here. A request that came by no
/// connection of a [`super::MeshListener`] is refused with 403 and the code `no-identity`.
#[derive(Clone)]
pub struct Enforced<S> {
    application: S,
    intentions: Intentions,
    connection: Option<MeshConnection>,
}

/// A request that the application may see.
struct Judged<B> {
    request: Request<Body<B>>,
    cutter: Cutter,
    place: Place,
}

/// An answer of ours instead.
type Refused<B> = Box<Response<Body<B>>>;

impl<S> Enforced<S> {
    pub(super) fn new(application: S, intentions: Intentions) -> Self {
        Self {
            application,
            intentions,
            connection: None,
        }
    }

    /// For `axum::serve` on a [`super::MeshListener`].
    #[must_use]
    pub fn into_make_service(self) -> MakeEnforced<S> {
        MakeEnforced(self)
    }
}

impl<S> Enforced<S> {
    pub(super) fn intentions(&self) -> &Intentions {
        &self.intentions
    }
}

impl<S: Clone> Enforced<S> {
    /// The service for the requests of one connection, which can be read from now on.
    #[must_use]
    pub fn on(&self, connection: &MeshConnection) -> Self {
        connection.judged_by_layer();
        Self {
            connection: Some(connection.clone()),
            ..self.clone()
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Enforced<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Enforced")
            .field("application", &self.application)
            .field("intentions", &self.intentions)
            .field("connection", &self.connection)
            .finish()
    }
}

impl<S, B, R> Service<Request<B>> for Enforced<S>
where
    S: Service<Request<Body<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.application.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready.
        let waits = self.application.clone();
        let application = std::mem::replace(&mut self.application, waits);
        let intentions = self.intentions.clone();
        let told = request.extensions().get::<MeshConnection>().cloned();
        let connection = self.connection.clone().or(told);
        let is_head = request.method() == Method::HEAD;
        Box::pin(async move {
            let answered = match connection {
                // The mesh of another service's listener says nothing here.
                Some(connection)
                    if Arc::ptr_eq(&connection.0.judged.judge, &intentions.0.inbound.judge) =>
                {
                    intentions.exchange(&connection, application, request).await
                }
                _ => Ok(intentions.no_identity(&request)),
            };
            Ok(match answered? {
                answer if is_head => answer.map(|body| Body(body.0.of_head())),
                answer => answer,
            })
        })
    }
}

impl Intentions {
    fn no_identity<B, R>(&self, request: &Request<B>) -> Response<Body<R>> {
        let service = &self.0.inbound.service;
        let access = Access::new(Direction::Inbound, None, service);
        let target = reading::target_of(request);
        let mut record = self.record(access, request, &target);
        record.refused(Ending::refused(
            "no-identity",
            "the request came by no connection of the mesh: serve it from a `MeshListener`, and pass `into_make_service()` or `on(connection)` to the server",
        ));
        self.0.inbound.stats.meters().request_denied("no-identity");
        let grpc = answer::is_grpc(request.headers());
        self.told(answer::status(StatusCode::FORBIDDEN, grpc), record)
    }

    async fn exchange<S, B, R>(
        &self,
        connection: &MeshConnection,
        mut application: S,
        request: Request<B>,
    ) -> Result<Response<Body<R>>, S::Error>
    where
        S: Service<Request<Body<B>>, Response = Response<R>>,
        B: http_body::Body<Data = Bytes>,
        R: http_body::Body<Data = Bytes>,
    {
        let passed = connection.0.heads.as_ref().map(Heads::take);
        let holds = matches!(&passed, Some(Some(passed)) if passed.holds);
        let mut follows = Release {
            heads: connection.0.heads.clone().filter(|_| holds),
            next: Next::Http,
        };
        let target = match passed {
            // The gate and the parser behind it must agree on every head.
            Some(passed) => passed.map_or(Err(Bad::TwoReadings), |passed| passed.target),
            None => Ok(reading::target_of(&request)),
        };
        let shown = target.as_deref().unwrap_or_default();
        let mut record = self.record(connection.0.access.again(), &request, shown);
        let grpc = answer::is_grpc(request.headers());
        let upgrades =
            request.version() != Version::HTTP_2 && hop::upgrade(request.headers()).is_some();
        let judged = match self.judge(connection, request, target, grpc, &mut record) {
            Ok(judged) => judged,
            Err(response) => return Ok(self.told_body(*response, record)),
        };
        let Judged {
            request,
            cutter,
            place,
        } = judged;
        let response = tokio::select! {
            response = application.call(request) => response,
            cause = cutter.wait() => {
                record.cut(cause);
                return Ok(self.told(answer::status(StatusCode::FORBIDDEN, grpc), record));
            }
        };
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                record.broke(&"the application failed");
                return Err(error);
            }
        };
        let (mut parts, body) = response.into_parts();
        record.status = Some(parts.status);
        record.place(Some(place));
        self.debug(&mut parts.headers, record.code());
        let switches = parts.status == StatusCode::SWITCHING_PROTOCOLS && upgrades;
        if !switches {
            let body = Flow::back(Box::pin(body), &cutter, record);
            return Ok(Response::from_parts(parts, Body(body)));
        }
        follows.next = Next::Raw;
        // What follows is not ours to see, but to end.
        let connection = connection.clone();
        tokio::spawn(async move {
            tokio::select! {
                cause = cutter.wait() => {
                    record.cut(cause.clone());
                    connection.0.end.cut(cause);
                }
                () = connection.0.gone.cancelled() => record.complete(),
            }
        });
        Ok(Response::from_parts(parts, Body(Flow::nothing())))
    }

    /// The policy's answer: what the application sees, or what is answered instead.
    fn judge<B, R>(
        &self,
        connection: &MeshConnection,
        request: Request<B>,
        target: Result<Box<[u8]>, Bad>,
        grpc: bool,
        record: &mut Box<Record>,
    ) -> Result<Judged<B>, Refused<R>>
    where
        B: http_body::Body<Data = Bytes>,
    {
        let settings = &self.0.limits.http;
        let http2 = request.version() == Version::HTTP_2;
        if http2 {
            record.watch(&connection.0.taken_back);
            if connection.0.taken_back.load(Ordering::Relaxed) > settings.resets {
                connection.0.end.cut(Cause {
                    code: "too-many-resets",
                    reason: "the client takes back too many of its requests".to_owned(),
                });
            }
        }
        let target = match target {
            Ok(target) if reading::agrees(&request, &target) => target,
            Ok(_) => return Err(self.bad(Bad::TwoReadings, grpc, record)),
            Err(bad) => return Err(self.bad(bad, grpc, record)),
        };
        if request.headers().len() > settings.headers {
            return Err(self.bad(Bad::TooMany, grpc, record));
        }
        let (mut parts, body) = request.into_parts();
        hop::remove_named(&mut parts.headers);
        let authority = reading::authority(&parts.uri);
        let question = Arc::new(Question {
            version: if http2 {
                HttpVersion::Http2
            } else {
                HttpVersion::Http1
            },
            method: parts.method.clone(),
            target: target.clone(),
            authority: authority.clone().filter(|_| http2),
            headers: parts.headers.clone(),
        });
        let cutter = Cutter::default();
        let under_way = (&connection.0.live, &cutter);
        let stats = &self.0.inbound.stats;
        let judged = &connection.0.judged;
        let Allowed {
            path,
            headers,
            place,
        } = judged
            .admit(&question, under_way, stats, grpc, record)
            .map_err(|response| Box::new(response.map(Body)))?;
        if parts.method == Method::CONNECT {
            record.refused(Ending::refused(
                "connect-refused",
                "CONNECT is not for applications",
            ));
            let refused = answer::status(StatusCode::FORBIDDEN, grpc);
            return Err(Box::new(refused.map(Body)));
        }
        hop::change(&mut parts.headers, &headers);
        xfcc::apply(
            settings.client_cert,
            judged.element.as_ref(),
            &mut parts.headers,
        );
        let Some(uri) = seen(&parts.uri, path.as_deref().unwrap_or(&target), http2) else {
            return Err(self.bad(Bad::TwoReadings, grpc, record));
        };
        parts.uri = uri;
        if let Some(authority) = authority.filter(|_| !http2)
            && let Ok(host) = HeaderValue::from_bytes(&authority)
        {
            // RFC 9112, 3.2.2: it takes the place of the header.
            parts.headers.insert(HOST, host);
        }
        if let Some(decision) = record.access.decision.clone() {
            parts.extensions.insert(Caller {
                connection: connection.clone(),
                decision,
            });
        }
        parts.extensions.insert(connection.clone());
        let trailers = Trailers::judged(&judged.judge, &headers);
        let body = Flow::there(Box::pin(body), record.counts(), trailers, &cutter, None);
        Ok(Judged {
            request: Request::from_parts(parts, Body(body)),
            cutter,
            place,
        })
    }

    fn record<B>(&self, access: Access, request: &Request<B>, target: &[u8]) -> Box<Record> {
        let (version, method) = (request.version(), request.method());
        let mut record = Record::new(access, &self.0.inbound.stats, version, method, target);
        record.traced(request.headers());
        record
    }

    fn bad<R>(&self, bad: Bad, grpc: bool, record: &mut Record) -> Refused<R> {
        record.refused(Ending::refused("bad-request", bad.to_string()));
        self.0.inbound.stats.meters().request_denied("bad-request");
        Box::new(answer::status(bad.status(), grpc).map(Body))
    }

    /// An answer of ours.
    fn told<R>(
        &self,
        response: Response<Flow<Pin<Box<R>>>>,
        record: Box<Record>,
    ) -> Response<Body<R>> {
        self.told_body(response.map(Body), record)
    }

    fn told_body<R>(
        &self,
        mut response: Response<Body<R>>,
        mut record: Box<Record>,
    ) -> Response<Body<R>> {
        self.debug(response.headers_mut(), record.code());
        response.extensions_mut().insert(Refusal {
            code: record.code().to_owned(),
            reason: record.reason().to_owned(),
            decision: record.access.decision.clone(),
        });
        record.status = Some(response.status());
        record.complete();
        response
    }

    fn debug(&self, headers: &mut http::HeaderMap, code: &str) {
        if self.0.limits.http.debug_header
            && let Ok(code) = HeaderValue::from_str(code)
        {
            headers.insert(answer::REASON, code);
        }
    }
}

/// What the application sees of the target: the path that was judged, byte by byte.
fn seen(uri: &Uri, path: &[u8], http2: bool) -> Option<Uri> {
    let path = reading::written(path)?;
    if !http2 {
        return Some(Uri::from(path));
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_application_sees_the_path_that_was_judged() {
        let two = Uri::from_static("https://api/a//b?x=1");
        let judged = seen(&two, b"/a/b?x=1", true).unwrap();
        assert_eq!(judged, "https://api/a/b?x=1");
        let one = Uri::from_static("http://api/a//b");
        assert_eq!(seen(&one, b"/a/b", false).unwrap(), "/a/b");
        // What cannot be written as it was judged is not shown at all.
        assert_eq!(seen(&one, b"/a#b", false), None);
        assert_eq!(seen(&one, b"/a b", false), None);
    }
}
