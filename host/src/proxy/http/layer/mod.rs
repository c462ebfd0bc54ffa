//! L7 intentions inside your own application, without a sidecar.
//!
//! An application that speaks HTTP takes the mesh's connections by itself, and every
//! request is judged before a handler sees it: by the same code as in the proxy, with the
//! same access log and metrics. Three pieces belong together:
//!
//! - [`Intentions`] is the [`tower_layer::Layer`] that judges. Put it around the whole
//!   application: what a router inside it sees is the path that was judged.
//! - [`MeshListener`] takes connections: mutual TLS, HTTP/1.1 heads that could be read in
//!   two ways are refused, and each connection carries who called. It is axum's
//!   [`axum::serve::Listener`], and with hyper a loop of two lines.
//! - [`Caller`] tells a handler who asked and why it may; axum handlers just take it as an
//!   argument, others find it in the request's extensions.
//!
//! What is refused is answered here, and says why to the access log and to what stands
//! around the layer ([`Refusal`]), never to the client.
//!
//! A connection is of no use to an application that forgot the layer: reading from it fails
//! until the layer was told of it, by [`Enforced::into_make_service`], [`Enforced::serve`] or
//! [`Enforced::on`].
//!
//! With axum:
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use portcullis::layer::{Caller, Intentions};
//! use portcullis::member::Member;
//!
//! # async fn run() -> anyhow::Result<()> {
//! let api = Member::join("api").await?;
//! let intentions = Intentions::new(&api);
//! let listener = intentions.listen("127.0.0.1:20000".parse()?)?;
//! let registration = api.announce(listener.address())?;
//!
//! let app = Router::new().route("/hello", get(async |caller: Caller| {
//!     format!("hello {}\n", caller.identity())
//! }));
//! axum::serve(listener, intentions.layer(app).into_make_service()).await?;
//! # registration.leave().await;
//! # Ok(())
//! # }
//! ```
//!
//! With hyper:
//!
//! ```no_run
//! use http_body_util::Full;
//! use hyper::{Request, Response, body::{Bytes, Incoming}};
//! use portcullis::layer::{Body, Caller, Intentions};
//! use portcullis::member::Member;
//!
//! async fn hello(request: Request<Body<Incoming>>) -> anyhow::Result<Response<Full<Bytes>>> {
//!     let caller = request.extensions().get::<Caller>().expect("the layer is there");
//!     Ok(Response::new(Full::from(format!("hello {}\n", caller.identity()))))
//! }
//!
//! # async fn run() -> anyhow::Result<()> {
//! let api = Member::join("api").await?;
//! let intentions = Intentions::new(&api);
//! let mut listener = intentions.listen("127.0.0.1:20000".parse()?)?;
//! let app = intentions.layer(tower::service_fn(hello));
//! loop {
//!     let io = listener.accept().await;
//!     tokio::spawn(app.serve(io));
//! }
//! # }
//! ```

mod body;
mod caller;
mod connection;
mod enforced;
mod intentions;
mod listener;
mod make;
mod refusal;
mod serve;

pub use body::Body;
pub use caller::{Caller, NoCaller};
pub use connection::{MeshConnection, MeshIo};
pub use enforced::Enforced;
pub use intentions::{Intentions, ListenError};
pub use listener::MeshListener;
pub use make::{MakeEnforced, OnAxum};
pub use refusal::Refusal;

/// The page's programs compile.
#[cfg(doctest)]
#[doc = include_str!("../../../../NATIVE.md")]
struct Page;
