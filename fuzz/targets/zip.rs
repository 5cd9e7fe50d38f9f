#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| multiarch_fuzz::properties::zip(bytes));
