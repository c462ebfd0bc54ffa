//! Every fuzz target on stable: its seeds, and mutations of them by a seeded generator.
//!
//! `FUZZ_ROUNDS` sets how many mutations each target gets, `FUZZ_SEED` which ones; a
//! failure prints both and the input. Coverage-guided runs are in `fuzz/`.

#![expect(
    unreachable_pub,
    reason = "the targets are shared with the crate in fuzz/"
)]

mod fuzz_targets;

use std::panic::{AssertUnwindSafe, catch_unwind};

use fuzz_targets::{ALL, Target};

const ROUNDS: u64 = 3_000;
const SEED: u64 = 0x5eed_c0de;
/// Mutations never make an input longer than this.
const LONGEST: usize = 40_000;

#[test]
fn no_target_panics_or_breaks_its_promise() {
    let rounds = from_environment("FUZZ_ROUNDS", ROUNDS);
    let seed = from_environment("FUZZ_SEED", SEED);
    println!("{rounds} rounds per target, seed {seed}");
    for target in ALL {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for input in &seeds {
            run(target, input, seed);
        }
        let mut random = Random(seed);
        for _ in 0..rounds {
            run(target, &random.mutated(&seeds), seed);
        }
    }
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {value}")),
        Err(_) => otherwise,
    }
}

fn run(target: &Target, input: &[u8], seed: u64) {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    assert!(
        outcome.is_ok(),
        "target `{}` failed, seed {seed}, input: {}",
        target.name,
        input.escape_ascii()
    );
}

/// Numbers that are the same in every run: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, 0 if there is none.
    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).expect("a usize").max(1);
        usize::try_from(self.next() % limit).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        let interesting = [
            0, 1, 0x7f, 0x80, 0xff, b'/', b'"', b'{', b'[', 0x30, 0x02, 0x82,
        ];
        match self.below(2) {
            0 => interesting[self.below(interesting.len())],
            _ => self.next().to_le_bytes()[0],
        }
    }

    /// One of the seeds after one to four changes.
    fn mutated(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let other = &seeds[self.below(seeds.len())];
            self.change(&mut input, other);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len());
        match self.below(7) {
            0 if !input.is_empty() => input[at] = self.byte(),
            1 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            2 => input.truncate(at),
            3 => {
                let byte = self.byte();
                input.insert(at, byte);
            }
            4 if !input.is_empty() => {
                input.remove(at);
            }
            5 => {
                // A piece of this input once more, somewhere else.
                let end = at + self.below(input.len() - at);
                let piece = input[at..end].to_vec();
                let place = self.below(input.len());
                input.splice(place..place, piece);
            }
            _ => {
                // The rest comes from another seed.
                input.truncate(at);
                input.extend_from_slice(&other[self.below(other.len())..]);
            }
        }
    }
}
