//! `cargo xtask ci --fuzz`: runs each target of fuzz/ for one minute, starting from the committed seeds.
//!
//! cargo-fuzz is not needed: the compiler flags, programs, corpus and artifacts are the same.

use error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Source: cargo-fuzz, `build_command`. Coverage for libFuzzer, and the address sanitizer, which needs nightly.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Clink-dead-code -Zsanitizer=address -Ccodegen-units=1 --cfg fuzzing";
/// Sanitizers need an explicit target: then build scripts are built without them.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Archives are written and synced for each input: in memory that is four times as fast.
const MEMORY: &str = "/dev/shm";

/// Time for each target.
const SECONDS: u32 = 60;

pub fn run() -> Result<(), Error> {
    // Cargo sets its own toolchain in the environment, which would override `rustup run nightly`.
    let mut build = Command::new("rustup");
    build.args(["run", "nightly", "cargo", "build", "--release", "--quiet", "--target", TRIPLE]);
    build.args(["--manifest-path", "fuzz/Cargo.toml"]).env("RUSTFLAGS", FLAGS);
    for name in ["RUSTC", "RUSTDOC", "CARGO", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR"] {
        build.env_remove(name);
    }
    super::step("fuzz targets", build).map_err(|error| {
        error.hint("they need the nightly toolchain: rustup toolchain install nightly --profile minimal")
    })?;
    for target in targets()? {
        let found = |error: Error| error.hint(format!("see fuzz/artifacts/{target}"));
        super::step(&format!("fuzz {target}, {SECONDS} s"), fuzz(&target)?).map_err(found)?;
    }
    Ok(())
}

/// The names of the targets: each has a directory of seeds.
fn targets() -> Result<Vec<String>, Error> {
    let failed = |error| Error::from_io("list the targets in \"fuzz/seeds\"", error);
    let mut names = Vec::new();
    for entry in fs::read_dir("fuzz/seeds").map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn fuzz(target: &str) -> Result<Command, Error> {
    let [corpus, artifacts] = ["corpus", "artifacts"].map(|kind| format!("fuzz/{kind}/{target}/"));
    for dir in [&corpus, &artifacts] {
        fs::create_dir_all(dir).map_err(|e| Error::from_io(format!("create \"{dir}\""), e))?;
    }
    let program = Path::new("fuzz/target").join(TRIPLE).join("release").join(target);
    let mut command = Command::new(program);
    // libFuzzer writes to the first directory only.
    command.arg(corpus).arg(format!("fuzz/seeds/{target}"));
    command.arg(format!("-artifact_prefix={artifacts}")).arg(format!("-max_total_time={SECONDS}"));
    command.args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]);
    if Path::new(MEMORY).is_dir() {
        command.env("TMPDIR", MEMORY);
    }
    // libFuzzer prints thousands of lines. A crash is reported in the last ones.
    let log = format!("{artifacts}log");
    command.stderr(fs::File::create(&log).map_err(|e| Error::from_io(format!("write \"{log}\""), e))?);
    Ok(command)
}
