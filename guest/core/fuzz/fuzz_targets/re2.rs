#![no_main]
#[path = "../../tests/fuzz_targets/mod.rs"]
mod targets;
libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::re2::run(input));
