//! One client's connection: each of its requests is judged, passed on, and answered.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, COOKIE, EXPECT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use portcullis_core::http::HttpVersion;
use portcullis_core::intention::HeaderChange;
use tokio::sync::oneshot;

use super::super::access::{Access, Ending};
use super::super::stats::Stats;
use super::admission::{Allowed, Judged};
use super::answer;
use super::cutter::{Cause, Cutter};
use super::flow::Flow;
use super::gate::{Bad, Heads, Next, Release};
use super::hop;
use super::judge::Question;
use super::live::{Live, Place};
use super::onward::{Answered, Onward, Unanswered};
use super::reading;
use super::record::Record;
use super::settings::HttpSettings;
use super::trailers::{self, Trailers};
use super::tunnel::Tunnel;
use super::xfcc;

/// How long the other side may take to ask for a body that waits for it.
const CONTINUE: Duration = Duration::from_secs(1);

/// One client's connection.
pub(super) struct Conversation {
    /// Who judges it; nobody if it is our own application's.
    pub(super) judged: Option<Judged>,
    pub(super) settings: HttpSettings,
    pub(super) onward: Onward,
    pub(super) stats: Arc<Stats>,
    /// What the gate tells; none for HTTP/2.
    pub(super) heads: Option<Heads>,
    pub(super) live: Live,
    /// What is known about every request of it.
    pub(super) access: Access,
    /// Requests that were taken back.
    pub(super) taken_back: Arc<AtomicU32>,
    /// Cut when the client takes back too many.
    pub(super) calm: Cutter,
    /// What follows an upgrade.
    pub(super) tunnel: Mutex<Option<Tunnel>>,
}

/// A request that may go on.
struct Admitted {
    path: Box<[u8]>,
    /// What changes in the headers.
    headers: Vec<HeaderChange>,
    authority: Option<Box<[u8]>>,
    upgrade: Option<HeaderValue>,
    cutter: Cutter,
    place: Option<Place>,
}

impl Conversation {
    /// Answers a request.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Flow>, Infallible> {
        let passed = self.heads.as_ref().map(Heads::take);
        let holds = matches!(&passed, Some(Some(passed)) if passed.holds);
        let target = match passed {
            // The gate and the parser behind it must agree on every head.
            Some(passed) => passed.map_or(Err(Bad::TwoReadings), |passed| passed.target),
            None => Ok(reading::target_of(&request)),
        };
        let upgraded = Release {
            heads: self.heads.clone().filter(|_| holds),
            next: Next::Http,
        };
        let is_head = request.method() == Method::HEAD;
        let response = self.exchange(request, target, upgraded).await;
        Ok(if is_head {
            response.map(Flow::of_head)
        } else {
            response
        })
    }

    async fn exchange(
        &self,
        mut request: Request<Incoming>,
        target: Result<Box<[u8]>, Bad>,
        mut upgraded: Release,
    ) -> Response<Flow> {
        let (version, method) = (request.version(), request.method().clone());
        let shown = target.as_deref().unwrap_or_default();
        let mut record = Record::new(self.access.again(), &self.stats, version, &method, shown);
        record.traced(request.headers());
        if version == Version::HTTP_2 {
            record.watch(&self.taken_back);
            if self.taken_back.load(Ordering::Relaxed) > self.settings.resets {
                self.calm.cut(Cause {
                    code: "too-many-resets",
                    reason: "the client takes back too many of its requests".to_owned(),
                });
            }
        }
        let grpc = answer::is_grpc(request.headers());
        let target = match target {
            Ok(target) if reading::agrees(&request, &target) => target,
            Ok(_) => return self.bad(Bad::TwoReadings, grpc, record),
            Err(bad) => return self.bad(bad, grpc, record),
        };
        if request.headers().len() > self.settings.headers {
            return self.bad(Bad::TooMany, grpc, record);
        }
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (mut parts, body) = request.into_parts();
        hop::remove_named(&mut parts.headers);
        let admitted = match self.admit(&parts, target, grpc, &mut record) {
            Ok(admitted) => admitted,
            Err(response) => return self.told(*response, record),
        };
        let Admitted {
            path,
            headers,
            authority,
            upgrade,
            cutter,
            place,
        } = admitted;
        hop::change(&mut parts.headers, &headers);
        let upgrades = upgrade.is_some() || method == Method::CONNECT;

        let (hold, mut asked) = expects(&parts.headers);
        let trailers = match &self.judged {
            Some(judged) => Trailers::judged(&judged.judge, &headers),
            None => Trailers::Passed,
        };
        let flow = Flow::there(body, record.counts(), trailers, &cutter, hold);
        let Some(mut onward) =
            self.onward_request(&parts, &path, authority.as_deref(), upgrade.as_ref(), flow)
        else {
            return self.bad(Bad::TwoReadings, grpc, record);
        };
        if let Some(asked) = asked.take() {
            let asked = Arc::new(Mutex::new(Some(asked)));
            let ask = Arc::clone(&asked);
            hyper::ext::on_informational(&mut onward, move |response| {
                if response.status() == StatusCode::CONTINUE
                    && let Some(asked) = ask.lock().unwrap_or_else(PoisonError::into_inner).take()
                {
                    let _ = asked.send(());
                }
            });
            // Some never ask, and wait.
            tokio::spawn(async move {
                tokio::time::sleep(CONTINUE).await;
                asked.lock().unwrap_or_else(PoisonError::into_inner).take();
            });
        }
        let shape = |request: &mut Request<Flow>, http2| {
            shape(
                request,
                http2,
                authority.as_deref(),
                self.access.dst_service.as_str(),
            );
        };
        let sent = tokio::select! {
            sent = self.onward.send(onward, upgrades, shape) => sent,
            cause = cutter.wait() => {
                record.cut(cause);
                let response = answer::status(StatusCode::FORBIDDEN, grpc);
                return self.told(response, record);
            }
        };
        let Answered { response, reached } = match sent {
            Ok(answered) => answered,
            Err(Unanswered { status, ending }) => {
                record.refused(ending);
                return self.told(answer::status(status, grpc), record);
            }
        };
        record.access.dst_addr = reached.address.clone().or(record.access.dst_addr.take());
        record.access.dst_identity = reached
            .identity
            .clone()
            .or(record.access.dst_identity.take());
        let status = response.status();
        let switches = match method {
            Method::CONNECT => status.is_success(),
            _ => status == StatusCode::SWITCHING_PROTOCOLS,
        };
        if switches && upgrades {
            upgraded.next = Next::Raw;
            let answered = (on_upgrade, response);
            return self.switch(answered, cutter, place, record);
        }
        if status.is_informational() {
            record.refused(Ending::refused(
                "application-failed",
                "it was answered with another protocol that nobody asked for",
            ));
            return self.told(answer::status(StatusCode::BAD_GATEWAY, grpc), record);
        }
        let mut response = self.back(response, &cutter, place, record);
        if version != Version::HTTP_2
            && hop::wants_trailers(&parts.headers)
            && answer::is_grpc(response.headers())
        {
            trailers::announce_grpc(response.headers_mut());
        }
        response
    }

    /// The policy's answer: what goes on, or what is answered instead.
    fn admit(
        &self,
        parts: &http::request::Parts,
        target: Box<[u8]>,
        grpc: bool,
        record: &mut Record,
    ) -> Result<Admitted, Box<Response<Flow>>> {
        let http2 = parts.version == Version::HTTP_2;
        let upgrade = hop::upgrade(&parts.headers).filter(|_| !http2);
        let authority = reading::authority(&parts.uri);
        let host = parts.headers.get(http::header::HOST);
        let called = authority
            .clone()
            .or_else(|| host.map(|host| host.as_bytes().into()));
        let cutter = Cutter::default();
        let mut admitted = Admitted {
            path: target,
            headers: Vec::new(),
            authority: called,
            upgrade,
            cutter: cutter.clone(),
            place: None,
        };
        let Some(judged) = &self.judged else {
            if admitted.path.contains(&b'#') {
                return Err(Box::new(self.malformed(Bad::TwoReadings, grpc, record)));
            }
            record.passed();
            return self.connects(parts, grpc, record).map(|()| admitted);
        };
        let question = Arc::new(Question {
            version: if http2 {
                HttpVersion::Http2
            } else {
                HttpVersion::Http1
            },
            method: parts.method.clone(),
            target: admitted.path.clone(),
            authority: authority.filter(|_| http2),
            headers: parts.headers.clone(),
        });
        let under_way = (&self.live, &cutter);
        let Allowed {
            path,
            headers,
            place,
        } = judged.admit(&question, under_way, &self.stats, grpc, record)?;
        if let Some(path) = path {
            admitted.path = path;
        }
        admitted.headers = headers;
        admitted.place = Some(place);
        self.connects(parts, grpc, record).map(|()| admitted)
    }

    /// CONNECT is refused unless the listener is told otherwise.
    fn connects(
        &self,
        parts: &http::request::Parts,
        grpc: bool,
        record: &mut Record,
    ) -> Result<(), Box<Response<Flow>>> {
        let http2 = parts.version == Version::HTTP_2;
        if parts.method != Method::CONNECT || self.settings.connect && !http2 {
            return Ok(());
        }
        record.refused(Ending::refused(
            "connect-refused",
            "CONNECT is not passed on: -allow-connect would, for HTTP/1.1",
        ));
        Err(Box::new(answer::status(StatusCode::FORBIDDEN, grpc)))
    }

    fn bad(&self, bad: Bad, grpc: bool, mut record: Box<Record>) -> Response<Flow> {
        let response = self.malformed(bad, grpc, &mut record);
        self.told(response, record)
    }

    fn malformed(&self, bad: Bad, grpc: bool, record: &mut Record) -> Response<Flow> {
        record.refused(Ending::refused("bad-request", bad.to_string()));
        if self.judged.is_some() {
            self.stats.meters().request_denied("bad-request");
        }
        answer::status(bad.status(), grpc)
    }

    /// An answer of ours.
    fn told(&self, mut response: Response<Flow>, mut record: Box<Record>) -> Response<Flow> {
        self.debug(&mut response, &record);
        record.status = Some(response.status());
        record.complete();
        response
    }

    fn debug(&self, response: &mut Response<Flow>, record: &Record) {
        if self.settings.debug_header
            && let Ok(code) = HeaderValue::from_str(record.code())
        {
            response.headers_mut().insert(answer::REASON, code);
        }
    }

    /// The request as it goes on, in the form of HTTP/1.1; nothing if it cannot be written so.
    fn onward_request(
        &self,
        parts: &http::request::Parts,
        path: &[u8],
        authority: Option<&[u8]>,
        upgrade: Option<&HeaderValue>,
        body: Flow,
    ) -> Option<Request<Flow>> {
        let uri = if parts.method == Method::CONNECT {
            Uri::try_from(path).ok()?
        } else {
            Uri::from(reading::written(path)?)
        };
        let mut headers = parts.headers.clone();
        hop::remove(&mut headers);
        // What is written says how long it is; what was announced does not matter.
        headers.remove(CONTENT_LENGTH);
        join_cookies(&mut headers);
        if let Some(judged) = &self.judged {
            xfcc::apply(
                self.settings.client_cert,
                judged.element.as_ref(),
                &mut headers,
            );
        }
        let called = authority.unwrap_or(self.access.dst_service.as_bytes());
        hop::set_host(&mut headers, called);
        if let Some(upgrade) = upgrade {
            headers.insert(
                http::header::CONNECTION,
                HeaderValue::from_static("upgrade"),
            );
            headers.insert(http::header::UPGRADE, upgrade.clone());
        }
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Some(request)
    }

    /// An answer on its way back.
    fn back(
        &self,
        response: Response<Incoming>,
        cutter: &Cutter,
        place: Option<Place>,
        mut record: Box<Record>,
    ) -> Response<Flow> {
        let (parts, body) = response.into_parts();
        record.status = Some(parts.status);
        record.place(place);
        let mut headers = parts.headers;
        hop::remove_named(&mut headers);
        hop::remove(&mut headers);
        headers.remove(http::header::TE);
        let code = self
            .settings
            .debug_header
            .then(|| HeaderValue::from_str(record.code()));
        let mut response = Response::new(Flow::back(body, cutter, record));
        *response.status_mut() = parts.status;
        *response.headers_mut() = headers;
        if let Some(Ok(code)) = code {
            response.headers_mut().insert(answer::REASON, code);
        }
        response
    }

    /// From here on both sides speak something else.
    fn switch(
        &self,
        (client, mut answered): (hyper::upgrade::OnUpgrade, Response<Incoming>),
        cutter: Cutter,
        place: Option<Place>,
        mut record: Box<Record>,
    ) -> Response<Flow> {
        let onward = hyper::upgrade::on(&mut answered);
        let (parts, _) = answered.into_parts();
        record.status = Some(parts.status);
        record.place(place);
        let mut headers = parts.headers;
        let protocol = headers.get(http::header::UPGRADE).cloned();
        hop::remove_named(&mut headers);
        hop::remove(&mut headers);
        headers.remove(CONTENT_LENGTH);
        if let Some(protocol) = protocol {
            headers.insert(
                http::header::CONNECTION,
                HeaderValue::from_static("upgrade"),
            );
            headers.insert(http::header::UPGRADE, protocol);
        }
        let mut response = Response::new(Flow::nothing());
        *response.status_mut() = parts.status;
        *response.headers_mut() = headers;
        self.debug(&mut response, &record);
        let tunnel = Tunnel {
            client,
            onward,
            cutter,
            record,
        };
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
        response
    }
}

/// HTTP/2 may split cookies, which HTTP/1.1 must not (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// For a request that waits to be asked for its body: what holds it, and how to ask.
type Asked = (Option<oneshot::Receiver<()>>, Option<oneshot::Sender<()>>);

fn expects(headers: &HeaderMap) -> Asked {
    let waits = headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if !waits {
        return (None, None);
    }
    let (asked, hold) = oneshot::channel();
    (Some(hold), Some(asked))
}

/// Brings a request into the form of the version that is spoken onward.
fn shape(request: &mut Request<Flow>, http2: bool, authority: Option<&[u8]>, service: &str) {
    if !http2 {
        *request.version_mut() = Version::HTTP_11;
        if request.headers().get(http::header::TE).is_some()
            && !request.headers().contains_key(http::header::CONNECTION)
        {
            let te = HeaderValue::from_static("te");
            request.headers_mut().insert(http::header::CONNECTION, te);
        }
        return;
    }
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(http::header::HOST);
    request.headers_mut().remove(http::header::CONNECTION);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = authority
        .and_then(|authority| http::uri::Authority::try_from(authority).ok())
        .or_else(|| http::uri::Authority::try_from(service).ok());
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}
