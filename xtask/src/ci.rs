//! `cargo xtask ci`: all checks of a change. The tests run last, so that their summary ends the output.

mod fuzz;

use error::{Error, Exit};
use std::path::Path;
use std::process::{Command, Stdio};

/// Debian packages that the tests use: engines, a registry, emulators, and other readers of the same formats.
const PACKAGES: [&str; 21] = [
    "binutils",
    "buildah",
    "busybox-static",
    "bzip2",
    "ca-certificates",
    "chromium",
    "crun",
    "docker-registry",
    "docker.io",
    "file",
    "groff-base",
    "iptables",
    "openssl",
    "podman",
    "python3-jsonschema",
    "qemu-user-static",
    "skopeo",
    "strace",
    "uidmap",
    "umoci",
    "xz-utils",
];

/// Debian packages that only the long tests use.
const FULL_PACKAGES: [&str; 3] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "mmdebstrap"];

/// The variable that proptest reads.
const SEED: &str = "PROPTEST_RNG_SEED";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Do not install Debian packages; tests that need a missing one are skipped
    #[arg(long)]
    no_install: bool,
    /// Run the long tests as well: escape attempts under emulation, sweeps, licenses of all dependencies
    #[arg(long)]
    full: bool,
    /// Run each fuzz target for one minute instead (needs the nightly toolchain)
    #[arg(long)]
    fuzz: bool,
}

pub fn run(args: &Args) -> Result<Exit, Error> {
    if args.fuzz {
        return fuzz::run().map(|()| Exit::Done);
    }
    let install =
        !args.no_install && nix::unistd::geteuid().is_root() && Path::new("/etc/debian_version").exists();
    if install {
        install_packages(&PACKAGES)?;
        if args.full {
            install_packages(&FULL_PACKAGES)?;
        }
    } else {
        eprintln!("ci: not root on Debian, or --no-install: tests that need a missing program are skipped");
    }
    // If all packages are installed, a skipped test counts as failed.
    let world: &[(&str, &str)] = if install { &[("MULTIARCH_REQUIRE_WORLD", "1")] } else { &[] };
    // With the long tests, so that they compile in every run.
    let lints = cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]);
    step("format", cargo(&["fmt", "--all", "--check"]))?;
    step("lints", lints)?;
    let mut docs = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    docs.env("RUSTDOCFLAGS", "-D warnings");
    step("documentation", docs)?;
    if args.full && !has("cargo-deny") {
        step("cargo-deny", cargo(&["install", "cargo-deny", "--locked", "--quiet"]))?;
    }
    if has("cargo-deny") {
        step(
            "licenses, bans, sources",
            cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]),
        )?;
    } else {
        eprintln!(
            "ci: cargo-deny is not installed: --full installs it and checks licenses, bans and sources"
        );
    }
    // The end-to-end tests run the tools as programs; no test harness builds the binaries of other packages.
    step("programs", cargo(&["build", "--workspace", "--bins", "--quiet"]))?;
    let mut tests = match has("cargo-nextest") {
        true => cargo(&["nextest", "run", "--workspace", "--no-fail-fast"]),
        false => cargo(&["test", "--workspace", "--no-fail-fast"]),
    };
    if args.full {
        tests.args(["--features", "multiarch-tests/full"]).env("MULTIARCH_SWEEP", "1");
    }
    tests.envs(world.iter().copied());
    // A failure must be reproducible on another machine, so generated cases are the same in each run. `cargo test` without
    // the variable generates new ones.
    if std::env::var_os(SEED).is_none() {
        tests.env(SEED, "36552");
    }
    step("tests", tests)?;
    Ok(Exit::Done)
}

fn install_packages(packages: &[&str]) -> Result<(), Error> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut update = Command::new("apt-get");
    update.args(["--quiet", "--quiet", "update"]);
    step("package lists", update)?;
    let mut install = Command::new("apt-get");
    install.args(["--quiet", "--yes", "--no-install-recommends", "install"]).args(&missing);
    install.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
    step(&format!("packages: {}", missing.join(" ")), install)
}

fn is_installed(package: &str) -> bool {
    let query =
        Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

/// Runs one step. A failure ends the run.
fn step(name: &str, mut command: Command) -> Result<(), Error> {
    eprintln!("ci: {name}");
    let doing = || format!("pass the step \"{name}\"");
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|e| Error::from_io(format!("run {:?}", command.get_program()), e))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(Exit::CheckFailed, doing(), format!("it ended with {status}"))),
    }
}
