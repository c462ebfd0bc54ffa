//! Runs a development agent until Ctrl-C: `cargo run --release -p portcullis-dev-agent --example serve -- 127.0.0.1:8500`.

use portcullis_dev_agent::{DefaultPolicy, DevAgent, DevAgentConfig, Token};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut config = DevAgentConfig::default();
    if let Some(listen) = arguments.next() {
        config.listen = listen.parse()?;
    }
    if let Some(secret) = arguments.next() {
        config.default_policy = DefaultPolicy::Deny;
        config.tokens.push(Token::management(secret));
    }
    let agent = DevAgent::start(config).await?;
    println!("{} trust domain {}", agent.url(), agent.trust_domain());
    tokio::signal::ctrl_c().await?;
    agent.shutdown().await;
    Ok(())
}
