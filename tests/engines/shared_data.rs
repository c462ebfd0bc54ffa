//! Shared data in which another plugin writes: two workers, in each of which two plugins with
//! opposite intentions share a VM.

use portcullis_tests::components;
use portcullis_tests::proxy_wasm::{Filter, Machine, Shelf};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::mesh::{Kind, Mesh};

/// The root contexts, in the order in which they are made.
const DB: u32 = 1;
const API: u32 = 2;

struct Workers {
    mesh: Mesh,
    shelf: Shelf,
    machines: [Machine; 2],
    asked: u64,
}

impl Workers {
    /// `db` is for `web`, and `api` for `evil`.
    fn start() -> Self {
        let filter = Filter::compile(&components::envoy_filter());
        let shelf = Shelf::default();
        let machines = [1, 2].map(|_| {
            let db = Mesh::configuration("db", 0);
            let mut machine = Machine::start(&filter, &shelf, &db).expect("a good one");
            let api = machine.plugin(&Mesh::configuration("api", 0));
            assert_eq!(api, Ok(API));
            machine
        });
        let mut workers = Self {
            mesh: Mesh::new(&[("db", "web"), ("api", "evil")]),
            shelf,
            machines,
            asked: 0,
        };
        workers.settle([true, false, false, true]);
        workers
    }

    fn tick(&mut self) {
        for machine in &mut self.machines {
            self.mesh.tick(machine);
        }
    }

    /// Whether `web` and `evil` reach `db`, and `web` and `evil` `api`, on a worker. Connections
    /// and requests take turns.
    fn passes(&mut self, worker: usize) -> [bool; 4] {
        [(DB, "web"), (DB, "evil"), (API, "web"), (API, "evil")].map(|(root, client)| {
            self.asked += 1;
            let kind = if self.asked.is_multiple_of(2) {
                Kind::Connection
            } else {
                Kind::Request
            };
            self.mesh
                .passes(&mut self.machines[worker], root, client, kind)
        })
    }

    /// Nobody passes who does not in `most`.
    fn hold(&mut self, most: [bool; 4], told: &str) {
        for worker in 0..2 {
            let passes = self.passes(worker);
            let excess = passes.iter().zip(most).any(|(passes, may)| *passes && !may);
            assert!(!excess, "{told}: {passes:?}, at most {most:?}");
        }
    }

    /// Within ten seconds everybody is judged so on both workers.
    fn settle(&mut self, expected: [bool; 4]) {
        for _ in 0..20 {
            self.tick();
            if (0..2).all(|worker| self.passes(worker) == expected) {
                return;
            }
        }
        let got = [0, 1].map(|worker| self.passes(worker));
        panic!("{got:?}, not {expected:?}\n{:?}", self.shelf.values());
    }
}

/// What does not fit where it is written; `others` are values that stand elsewhere.
fn garbage(random: &mut StdRng, real: &[u8], others: &[Vec<u8>]) -> Vec<u8> {
    match random.random_range(0..10) {
        0 => Vec::new(),
        1 => (0..random.random_range(1..400))
            .map(|_| random.random())
            .collect(),
        2 => real[..random.random_range(0..=real.len())].to_vec(),
        3 => {
            let mut flipped = real.to_vec();
            let place = random.random_range(0..real.len().max(1));
            if let Some(byte) = flipped.get_mut(place) {
                *byte ^= 1 << random.random_range(0..8);
            }
            flipped
        }
        // The right form, and nothing true in it: a number out of reach, a time to come, a
        // digest of nothing.
        4 => format!("{} {} {:064x}", u64::MAX, random.random::<u32>(), 0).into_bytes(),
        5 => format!("2 {} {:064x}", u64::MAX, random.random::<u128>()).into_bytes(),
        6 => format!("{} {}", random.random::<u64>(), u64::MAX).into_bytes(),
        7 => "[".repeat(100_000).into_bytes(),
        // The next head, of a value that nobody has.
        8 => next_head(real, random.random()),
        // A value of another thing, whose head does not come with it.
        _ => others.choose(random).cloned().unwrap_or_default(),
    }
}

/// Everybody may do everything.
const OPEN: &[u8] = br#"[{"SourceName":"*","SourceNS":"default","DestinationName":"db","DestinationNS":"default","SourceType":"consul","Action":"allow"}]"#;

/// What follows a head as far as its number and its time go.
fn next_head(real: &[u8], digest: u128) -> Vec<u8> {
    let text = String::from_utf8_lossy(real);
    let mut parts = text.split(' ');
    let number: u64 = parts.next().and_then(|part| part.parse().ok()).unwrap_or(1);
    let at: u64 = parts.next().and_then(|part| part.parse().ok()).unwrap_or(1);
    format!("{} {at} {digest:064x}", number.saturating_add(1)).into_bytes()
}

#[test]
fn garbage_lets_nobody_pass_and_is_repaired() {
    let mut workers = Workers::start();
    let seed = rand::random();
    let told = format!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let most = [true, false, false, true];
    for round in 0..150 {
        let there = workers.shelf.values();
        let keys: Vec<&String> = there.keys().collect();
        let others: Vec<Vec<u8>> = there
            .iter()
            .filter(|(key, _)| key.ends_with("/value"))
            .map(|(_, value)| value.clone())
            .collect();
        for _ in 0..random.random_range(1..4) {
            let key = keys.choose(&mut random).expect("there are keys");
            let real = there[*key].clone();
            let bad = garbage(&mut random, &real, &others);
            workers.shelf.write(key, &bad);
        }
        if round % 3 == 0 {
            // An open list, and a head that would follow but is another's.
            for (key, real) in there.iter().filter(|(key, _)| key.contains("/db/")) {
                if key.ends_with("/value") {
                    workers.shelf.write(key, OPEN);
                } else if key.ends_with("/head") {
                    workers.shelf.write(key, &next_head(real, random.random()));
                }
            }
        }
        workers.hold(most, &told);
        workers.tick();
        workers.hold(most, &told);
        // It is repaired in between, too, and not only at the end.
        if round % 50 == 49 {
            workers.settle(most);
        }
    }
    // What the agent says now is learnt all the same.
    workers.mesh.allowed = [("api", "web")].into();
    workers.mesh.index += 1;
    workers.settle([false, false, true, false]);
}

#[test]
fn what_was_true_once_is_not_believed_again() {
    let mut workers = Workers::start();
    let mut once = workers.shelf.values();
    once.retain(|key, _| !key.ends_with("/leader"));
    workers.mesh.allowed.clear();
    workers.mesh.index += 1;
    let nobody = [false; 4];
    workers.settle(nobody);
    for round in 0..30 {
        for (index, (key, value)) in once.iter().enumerate() {
            // All at once, heads alone, values alone.
            let is_head = key.ends_with("/head");
            if round % 3 == 0 || (round % 3 == 1) == is_head || index % 7 == round % 7 {
                workers.shelf.write(key, value);
            }
        }
        workers.hold(nobody, "before the tick");
        workers.tick();
        workers.hold(nobody, "after the tick");
    }
    workers.mesh.allowed = [("db", "evil")].into();
    workers.mesh.index += 1;
    workers.settle([false, true, false, false]);
}
