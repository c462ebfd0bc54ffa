//! The CA is rotated while peers on the old and on the new root call our proxies, and
//! are called by them. What fails is counted.

mod callers;
mod server;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::pki_types::CertificateDer;
use serde_json::json;

use super::application::Application;
use super::client::{self, Check, Config};
use super::cores::Cores;
use super::identity::{Identity, certificates};
use super::mesh::{CLIENT, Mesh, SERVICE};
use super::patience::until;
use super::running::Running;
use crate::api::Api;
use crate::ports;
use callers::{Call, Callers};
use server::Server;

/// How long a leaf may take to follow its root: Consul delays up to 30 s, ours up to 10 s.
const SLOWEST: Duration = Duration::from_secs(90);

/// What one rotation came to.
#[derive(Debug)]
pub struct Outcome {
    /// How the rotation is called in tables.
    pub name: &'static str,
    /// Handshakes by kind of peer.
    pub made: Vec<(&'static str, u64)>,
    /// What went wrong, by kind of peer.
    pub failed: Vec<String>,
    /// Failures before both proxies knew both roots, where a CA was not cross-signed.
    pub before_known: usize,
}

/// Both proxies, their peers, and the mesh that they are in.
pub struct Rotation<'a> {
    mesh: &'a dyn Mesh,
    api: Api,
    inbound: Running,
    _outbound: Running,
    doors: [SocketAddr; 4],
    servers: [Server; 3],
}

/// Everything about one root: the certificates of those who are on it.
struct Generation {
    client: Identity,
    roots: Vec<CertificateDer<'static>>,
}

impl<'a> Rotation<'a> {
    /// Starts `portcullis proxy` in front of the application, another for a client, and
    /// three servers that only the second knows.
    ///
    /// # Errors
    /// When they do not get ready.
    pub fn start(
        binary: &Path,
        cores: Cores,
        application: &Application,
        mesh: &'a dyn Mesh,
    ) -> Result<Self> {
        let api = Api::new(mesh.agent(), None);
        let path = format!("/v1/connect/intentions/exact?source=*&destination={SERVICE}");
        let body = json!({ "SourceType": "consul", "Action": "allow" });
        let reply = api.put(&path, &body);
        ensure!(
            reply.status == 200,
            "the intention is refused: {}",
            reply.body
        );
        let trust_domain = api.get("/v1/agent/connect/ca/roots").good().json()["TrustDomain"]
            .as_str()
            .context("no trust domain")?
            .to_owned();
        let agent = mesh.agent().to_string();
        let proxy = |arguments: Vec<String>| {
            let mut command = Command::new(binary);
            command
                .arg("proxy")
                .args(arguments)
                .env("CONSUL_HTTP_ADDR", &agent);
            command
        };
        let mut inbound = Running::start(cores, |port| {
            proxy(vec![
                format!("-service={SERVICE}"),
                format!("-service-addr={}", application.address),
                format!("-listen=127.0.0.1:{port}"),
                "-register".to_owned(),
            ])
        })?;
        inbound.ready(&client::config(&mesh.issue(CLIENT)?, Check::Nothing)?)?;
        let servers = [Server::start()?, Server::start()?, Server::start()?];
        let [second, third, fourth] = ports::free::<3>();
        let mut first = 0;
        let outbound = Running::start(cores, |port| {
            first = port;
            let fixed = |port: u16, number: usize| {
                format!(
                    "-static-upstream={port}={}=spiffe://{trust_domain}/ns/default/dc/dc1/svc/api-{}",
                    servers[number].address,
                    number + 1
                )
            };
            proxy(vec![
                format!("-service={CLIENT}"),
                format!("-upstream={SERVICE}:{port}"),
                fixed(second, 0),
                fixed(third, 1),
                fixed(fourth, 2),
            ])
        })?;
        let doors = [first, second, third, fourth]
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        until("our proxies reach each other", || {
            callers::through(doors[0]).ok()
        })
        .with_context(|| outbound.last_words())?;
        Ok(Self {
            mesh,
            api,
            inbound,
            _outbound: outbound,
            doors,
            servers,
        })
    }

    /// A rotation that is cross-signed, and one that is not, with at least `handshakes`
    /// each, and until our leaves have followed; where `brief`, only the first, and that
    /// only for so many handshakes.
    ///
    /// # Errors
    /// When a rotation is refused or never completes.
    pub fn run(&mut self, handshakes: u64, brief: bool) -> Result<Vec<Outcome>> {
        let first = self.generation(0)?;
        let (second, crossed) = self.rotate("cross-signed", 1, &first, 384, (handshakes, brief))?;
        let mut outcomes = vec![crossed];
        if !brief {
            let (_, forced) = self.rotate(
                "ForceWithoutCrossSigning",
                2,
                &second,
                256,
                (handshakes, false),
            )?;
            outcomes.push(forced);
        }
        Ok(outcomes)
    }

    /// Whoever is on the root in force now.
    fn generation(&self, number: usize) -> Result<Generation> {
        let server = self.leaf(&format!("api-{}", number + 1))?;
        let client = self.leaf(&format!("caller-{}", number + 1))?;
        let roots = self.roots()?;
        self.servers[number].serve(&server, &roots)?;
        Ok(Generation { client, roots })
    }

    fn rotate(
        &self,
        name: &'static str,
        number: usize,
        old: &Generation,
        bits: u32,
        (handshakes, only_handshakes): (u64, bool),
    ) -> Result<(Generation, Outcome)> {
        let forced = name != "cross-signed";
        let config = |identity: &Identity, roots: &[_]| {
            client::config(identity, Check::Roots(roots)).map(Call::mesh(self.inbound.address))
        };
        let callers = Callers::new();
        callers.add("ours to ours", Call::Door(self.doors[0]));
        let old_server = Call::Door(self.doors[number]);
        if !forced {
            // They know the old root only, to the end.
            callers.add("old root to ours", config(&old.client, &old.roots)?);
            callers.add("ours to old root", old_server.clone());
        }
        let before = self.leaves(number - 1, old)?;
        callers.wait(handshakes / 10)?;

        let roots = old.roots.len();
        let known_before = self.newest_root()?;
        self.put_ca(bits, forced)?;
        until("the agent lists the new root", || {
            let newest = self.newest_root().ok()?;
            (newest != known_before).then_some(())
        })?;
        ensure!(
            self.roots()?.len() > roots.min(1),
            "the agent lists one root only"
        );
        let new = self.generation(number)?;
        let new_client = config(&new.client, &new.roots)?;
        let new_server = Call::Door(self.doors[number + 1]);
        let mut before_known = 0;
        if forced {
            // Until both proxies know both roots, nothing can be asked of those on the new one.
            until("our proxies know the new root", || {
                (new_client.once().is_ok() && new_server.once().is_ok()).then_some(())
            })?;
            before_known = callers.forgive();
            self.servers[number - 1].serve_more_roots(&new.roots)?;
            callers.add("old root to ours", config(&old.client, &new.roots)?);
            callers.add("ours to old root", old_server);
        }
        callers.add("new root to ours", new_client);
        callers.add("ours to new root", new_server);

        let began = Instant::now();
        loop {
            callers.wait(callers.made() + handshakes / 20)?;
            let now = self.leaves(number - 1, &new)?;
            let followed = only_handshakes || (now.0 != before.0 && now.1 != before.1);
            if followed && callers.made() >= handshakes {
                break;
            }
            if began.elapsed() > SLOWEST {
                bail!(
                    "a leaf does not follow the new root; {} handshakes, {:?}",
                    callers.made(),
                    callers.failures()
                );
            }
        }
        // And some more with everybody on the new root.
        callers.wait(callers.made() + handshakes / 10)?;
        let (made, failed) = callers.stop();
        let outcome = Outcome {
            name,
            made,
            failed,
            before_known,
        };
        Ok((new, outcome))
    }

    /// The certificates that our two proxies present now.
    fn leaves(
        &self,
        server: usize,
        generation: &Generation,
    ) -> Result<(
        Option<CertificateDer<'static>>,
        Option<CertificateDer<'static>>,
    )> {
        let any: Config = client::config(&generation.client, Check::Nothing)?;
        let session = client::Session::open(&any, self.inbound.address);
        // One that fails is counted elsewhere.
        let inbound = session.ok().and_then(|session| session.server());
        let _ = callers::through(self.doors[server + 1]);
        Ok((inbound, self.servers[server].client()))
    }

    fn put_ca(&self, bits: u32, without_cross_signing: bool) -> Result<()> {
        let config = json!({
            "Provider": "consul",
            "ForceWithoutCrossSigning": without_cross_signing,
            "Config": { "LeafCertTTL": "72h", "PrivateKeyType": "ec", "PrivateKeyBits": bits },
        });
        let reply = self.api.put("/v1/connect/ca/configuration", &config);
        ensure!(
            reply.status == 200,
            "{} refuses the rotation: {}",
            self.mesh.agent_name(),
            reply.body
        );
        Ok(())
    }

    fn roots(&self) -> Result<Vec<CertificateDer<'static>>> {
        let reply = self.api.get("/v1/agent/connect/ca/roots").good().json();
        let roots = reply["Roots"].as_array().context("no roots")?;
        let mut all = Vec::new();
        for root in roots {
            all.extend(certificates(root["RootCert"].as_str().context("no root")?)?);
        }
        Ok(all)
    }

    fn newest_root(&self) -> Result<String> {
        let reply = self.api.get("/v1/agent/connect/ca/roots").good().json();
        Ok(reply["ActiveRootID"]
            .as_str()
            .context("no root")?
            .to_owned())
    }

    /// A leaf as every member gets it.
    fn leaf(&self, service: &str) -> Result<Identity> {
        let path = format!("/v1/agent/connect/ca/leaf/{service}");
        let leaf = self.api.get(&path).good().json();
        let text = |name: &str| leaf[name].as_str().with_context(|| format!("no {name}"));
        Identity::from_pem(text("CertPEM")?, text("PrivateKeyPEM")?)
    }
}
