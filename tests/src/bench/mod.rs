//! The benchmark harness: our proxy beside Consul's and Envoy, in one run.
//!
//! Every proxy has one core, load, application and agents have another. Rounds are
//! interleaved, so that whatever else the machine does meets all alike. Read the ratios;
//! the times are those of this machine now.

pub mod application;
pub mod client;
pub mod contender;
pub mod cores;
pub mod envoy;
pub mod figures;
pub mod filter;
pub mod http;
pub mod identity;
pub mod mesh;
pub mod meter;
pub mod patience;
pub mod rotation;
pub mod rows;
pub mod running;
pub mod settings;
mod stand;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use application::Application;
use contender::{ConsulProxy, Contender, Envoy, Ours};
use cores::Cores;
use figures::Figure;
use mesh::{ConsulMesh, DevMesh, Mesh};
use settings::Settings;
use stand::Stand;

/// What all rows share.
pub struct Bench {
    /// How much to measure.
    pub settings: Settings,
    /// Who runs where.
    pub cores: Cores,
    /// Behind every proxy.
    pub application: Application,
    /// Our agent.
    pub dev: Rc<DevMesh>,
    /// The real agent, or why there is none.
    pub consul: Result<Rc<ConsulMesh>, String>,
    /// Our command.
    pub ours: PathBuf,
    /// Contenders; ours is the first.
    pub contenders: Vec<Rc<dyn Contender>>,
    /// Who is missing, and why.
    pub missing: Vec<String>,
    stands: Vec<Stand>,
}

impl Bench {
    /// Starts agents and the application, and looks who can take part.
    ///
    /// # Errors
    /// When not even ours can.
    pub fn new(settings: Settings) -> Result<Self> {
        let cores = Cores::of_this_machine()?;
        cores.enter_load()?;
        let dev = Rc::new(DevMesh::start()?);
        let consul = if settings.wants("consul") {
            ConsulMesh::start()
                .map(Rc::new)
                .map_err(|error| format!("{error:#}"))
        } else {
            Err("not asked for".to_owned())
        };
        let ours = crate::program::path();
        let mesh: Rc<dyn Mesh> = Rc::clone(&dev) as Rc<dyn Mesh>;
        let mut contenders: Vec<Rc<dyn Contender>> =
            vec![Rc::new(Ours::new("ours", ours.clone(), Rc::clone(&mesh)))];
        for binary in settings.builds_beside() {
            let binary = binary
                .canonicalize()
                .with_context(|| format!("no build of ours at `{}`", binary.display()))?;
            let name = format!("ours{}", "'".repeat(contenders.len()));
            println!("{name} is `{}`", binary.display());
            contenders.push(Rc::new(Ours::new(name, binary, Rc::clone(&mesh))));
        }
        let mut missing = Vec::new();
        if settings.wants("envoy") {
            match Envoy::prepare() {
                Ok(envoy) => contenders.push(Rc::new(envoy)),
                Err(error) => missing.push(format!("envoy: {error:#}")),
            }
        } else {
            missing.push("envoy: not asked for".to_owned());
        }
        match &consul {
            Ok(mesh) => contenders.push(Rc::new(ConsulProxy(Rc::clone(mesh)))),
            Err(reason) => missing.push(format!("consul: {reason}")),
        }
        Ok(Self {
            settings,
            cores,
            application: Application::start()?,
            dev,
            consul,
            ours,
            contenders,
            missing,
            stands: Vec::new(),
        })
    }

    /// All contenders, running, each with a client that it has seen.
    fn stands(&mut self) -> Result<&mut [Stand]> {
        if self.stands.is_empty() {
            for contender in &self.contenders {
                self.stands
                    .push(Stand::start(contender, self.cores, &self.application)?);
            }
        }
        Ok(&mut self.stands)
    }

    /// Measures what was asked for, and prints each row when it is there.
    ///
    /// # Errors
    /// When a contender fails in the middle; what was measured before is printed.
    pub fn run(&mut self) -> Result<Vec<Figure>> {
        let mut all = Vec::new();
        println!(
            "{}; proxies on core {}, load on core {}{}; {} rounds",
            meter::machine(),
            self.cores.proxy,
            self.cores.load,
            if self.cores.apart() {
                ""
            } else {
                " (there is no other!)"
            },
            self.settings.rounds
        );
        for missing in &self.missing {
            println!("MISSING {missing}");
        }
        for row in rows::ALL {
            if !self.settings.has_row(row.name) {
                continue;
            }
            let (began, before) = (Instant::now(), meter::load_average());
            let figures = (row.measure)(self).with_context(|| format!("row `{}`", row.name))?;
            println!(
                "\n== {} ({:.0} s; load average {before} -> {})",
                row.name,
                began.elapsed().as_secs_f64(),
                meter::load_average()
            );
            for figure in &figures {
                print!("{}", figure.text());
            }
            all.extend(figures);
        }
        if all.is_empty() {
            bail!("nothing was measured");
        }
        Ok(all)
    }
}
