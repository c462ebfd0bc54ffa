//! The data directory: what outlives a run, who may read it, and what happens
//! when it cannot be written.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use portcullis_dev_agent::{DevAgent, DevAgentConfig, KeyType, StartError};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn config(path: &Path) -> DevAgentConfig {
    DevAgentConfig {
        data_dir: Some(path.to_owned()),
        ..DevAgentConfig::for_tests()
    }
}

async fn start(path: &Path) -> DevAgent {
    DevAgent::start(config(path)).await.expect("an agent")
}

async fn refused(path: &Path) -> String {
    let error = DevAgent::start(config(path))
        .await
        .expect_err("it must not start");
    assert!(matches!(error, StartError::DataDir(_)), "{error}");
    error.to_string()
}

async fn ask(agent: &DevAgent, method: &str, target: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(agent.address())
        .await
        .expect("a connection");
    let (address, length) = (agent.address(), body.len());
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.expect("a reply");
    reply
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path)
        .expect("a file")
        .permissions()
        .mode()
        & 0o777
}

fn key_files(path: &Path) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(path)
        .expect("a folder")
        .map(|file| file.expect("a file").path());
    files
        .filter(|path| path.to_string_lossy().contains("ca-key-"))
        .collect()
}

#[tokio::test]
async fn roots_intentions_and_identity_outlive_a_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state");
    for key_type in [
        KeyType::EcP256,
        KeyType::EcP384,
        KeyType::EcP521,
        KeyType::Rsa2048,
    ] {
        let agent = start(&path).await;
        agent.rotate(key_type).await.expect("a rotation");
        agent.allow("web", "db").expect("an intention");
        let (domain, roots) = (agent.trust_domain(), agent.roots_pem());
        let before = agent.issue("web").expect("a leaf");
        agent.shutdown().await;

        assert_eq!(mode(&path), 0o700);
        let keys = key_files(&path);
        assert_eq!(
            keys.len(),
            1,
            "keys of replaced roots are removed: {keys:?}"
        );
        for file in fs::read_dir(&path).expect("a folder") {
            let file = file.expect("a file").path();
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }

        let agent = start(&path).await;
        assert_eq!(agent.trust_domain(), domain);
        assert_eq!(agent.roots_pem(), roots);
        // The same root signs; no serial number is used twice.
        let after = agent.issue("web").expect("a leaf");
        assert_ne!(after.chain_pem, before.chain_pem);
        assert_eq!(
            after.chain_pem.matches("BEGIN").count(),
            before.chain_pem.matches("BEGIN").count()
        );
        agent.delete_intention("web", "db").expect("it is there");
        agent.shutdown().await;
    }
}

#[tokio::test]
async fn registrations_outlive_a_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state");
    let agent = start(&path).await;
    let service = r#"{"Name":"web","Port":80,"Connect":{"Native":true},"Check":{"TTL":"1h","Status":"passing"}}"#;
    let register = "/v1/agent/service/register";
    assert!(
        ask(&agent, "PUT", register, service)
            .await
            .starts_with("HTTP/1.1 200")
    );
    let health = "/v1/health/connect/web?passing";
    assert!(ask(&agent, "GET", health, "").await.contains("\"web\""));
    agent.shutdown().await;

    let agent = start(&path).await;
    assert!(
        ask(&agent, "GET", "/v1/agent/services", "")
            .await
            .contains("\"web\"")
    );
    let passing = ask(&agent, "GET", health, "").await;
    assert!(
        passing.ends_with("[]"),
        "critical until it reports: {passing}"
    );
    ask(&agent, "PUT", "/v1/agent/check/pass/service:web", "").await;
    assert!(ask(&agent, "GET", health, "").await.contains("\"web\""));
    ask(&agent, "PUT", "/v1/agent/service/deregister/web", "").await;
    agent.shutdown().await;

    let agent = start(&path).await;
    assert!(
        ask(&agent, "GET", "/v1/agent/services", "")
            .await
            .ends_with("{}")
    );
    agent.shutdown().await;
}

#[tokio::test]
async fn what_others_could_read_or_swap_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state");
    start(&path).await.shutdown().await;

    let link = folder.path().join("link");
    symlink(&path, &link).expect("a link");
    assert!(refused(&link).await.contains("symbolic links"));

    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    assert!(refused(&path).await.contains("chmod 700"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("a mode");

    let key = key_files(&path).remove(0);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("a mode");
    assert!(refused(&path).await.contains("chmod 600"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("a mode");

    let elsewhere = folder.path().join("elsewhere");
    fs::rename(&key, &elsewhere).expect("it moves");
    assert!(refused(&path).await.contains("is missing"));
    symlink(&elsewhere, &key).expect("a link");
    assert!(refused(&path).await.contains("symbolic links"));
    fs::remove_file(&key).expect("it goes");
    fs::rename(&elsewhere, &key).expect("it moves back");
    start(&path).await.shutdown().await;

    fs::write(path.join("state.json"), "{\"version\": 1").expect("it is written");
    assert!(refused(&path).await.contains("state.json"));

    let file = folder.path().join("file");
    fs::write(&file, "").expect("it is written");
    assert!(refused(&file).await.contains("is not a directory"));
}

#[tokio::test]
async fn a_key_that_is_not_the_roots_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    start(&one).await.shutdown().await;
    start(&two).await.shutdown().await;
    let key = key_files(&one).remove(0);
    let other = fs::read(key_files(&two).remove(0)).expect("a key");
    fs::write(&key, other).expect("it is written");
    assert!(
        refused(&one)
            .await
            .contains("not the key of the active root")
    );
}

#[tokio::test]
async fn one_agent_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state");
    let agent = start(&path).await;
    assert!(refused(&path).await.contains("in use by another"));
    agent.shutdown().await;
    start(&path).await.shutdown().await;
}

#[tokio::test]
async fn a_failed_write_is_reported_and_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state");
    let agent = start(&path).await;
    agent.allow("web", "db").expect("an intention");
    let roots = agent.roots_pem();

    // What a full disk does at the same place: the new file cannot take the old one's.
    let (state, aside) = (path.join("state.json"), folder.path().join("aside"));
    fs::rename(&state, &aside).expect("it moves");
    fs::create_dir(&state).expect("a folder in its place");
    fs::write(state.join("x"), "").expect("that cannot be replaced");

    let error = agent.allow("other", "db").expect_err("it cannot be stored");
    assert_eq!(error.status, 500);
    assert!(error.text.contains("state.json"), "{}", error.text);
    let entry = json!({"Kind": "service-defaults", "Name": "db", "Protocol": "http"});
    agent
        .put_config_entry(&entry)
        .expect_err("it cannot be stored");
    agent
        .rotate(KeyType::EcP384)
        .await
        .expect_err("it cannot be stored");

    // The running agent has the state that is on disk, and goes on.
    assert_eq!(agent.roots_pem(), roots);
    agent.issue("web").expect("certificates need no disk");
    let left = fs::read_dir(&path).expect("a folder").filter(|file| {
        let name = file.as_ref().expect("a file").file_name();
        name.to_string_lossy().starts_with(".new-")
    });
    assert_eq!(left.count(), 0, "no half-written file stays");

    fs::remove_dir_all(&state).expect("it goes");
    fs::rename(&aside, &state).expect("it moves back");
    agent.allow("other", "db").expect("it can be stored again");
    agent.shutdown().await;
    start(&path).await.shutdown().await;
}
