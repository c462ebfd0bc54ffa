//! Answers before the answer, and what an application of HTTP/1.1 sends behind its body.

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use portcullis_tests::stage::within;
use serde_json::json;

use crate::application::Application;
use crate::client::{empty, send};
use crate::scene::Scene;

const ANSWER: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-late: 1\r\nconnection: x-gone\r\nx-gone: 1\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_end_here_and_the_answer_arrives_whole() {
    let application = Application::saying(ANSWER).await;
    let sources = json!([{ "Name": "web", "Action": "allow" }]);
    let scene = Scene::before(application, "http", sources, &[]).await;
    let client = scene.client("web");
    let mut two = client.http2().await;
    let mut one = client.http1().await;
    // Twice: the connection onward is still in step.
    for _ in 0..2 {
        let request = Request::get("https://a/x").body(empty()).unwrap();
        let answer = within(two.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(!answer.headers().contains_key("link"));
        let all = within(answer.into_body().collect()).await.unwrap();
        let trailers = all.trailers().expect("trailers that nobody announced");
        assert_eq!(trailers["x-late"], "1");
        assert_eq!(trailers.len(), 1, "{trailers:?}");
        assert_eq!(all.to_bytes(), "abc");

        let request = Request::get("/x").header("host", "a").body(empty());
        let answer = send(&mut one, request.unwrap()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let all = within(answer.into_body().collect()).await.unwrap();
        assert_eq!(all.to_bytes(), "abc");
    }
}
