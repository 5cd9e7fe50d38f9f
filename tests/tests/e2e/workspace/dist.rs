//! `cargo xtask dist` for the program that builds fastest: twice, with dpkg and coreutils as second readers.

use crate::tools::{listing, program, run};
use multiarch_tests::{need, world};
use oci_spec::image::ImageIndex;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Returns the command dpkg(1).
const DPKG: &str = "dpkg-deb";

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Returns the command `xtask dist` for the workspace at `root`.
fn dist(root: &Path, out: &Path) -> Command {
    let mut command = Command::new(program("xtask"));
    command.args(["dist", "--tool", "binfmt-setup", "--profile", "quick", "--allow-dirty", "--out"]).arg(out);
    command
        .env("CARGO_MANIFEST_DIR", root.join("xtask"))
        .env("SOURCE_DATE_EPOCH", "1750000000")
        .env_remove("CARGO_TARGET_DIR");
    command.current_dir(root);
    command
}

fn verify(dir: &Path) -> Command {
    let mut command = Command::new(program("xtask"));
    command.args(["dist", "--verify"]).arg(dir);
    command
}

/// Copies the sources to another directory.
fn copy_workspace(to: &Path) {
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        fs::create_dir_all(to.join(&folder)).unwrap();
        for entry in fs::read_dir(workspace().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let name = folder.join(entry.file_name());
            let is_left = ["target", ".git", "dist"].iter().any(|left| entry.file_name() == *left);
            match entry.file_type().unwrap() {
                _ if is_left && folder.as_os_str().is_empty() => {}
                kind if kind.is_dir() => folders.push(name),
                _ => drop(fs::copy(entry.path(), to.join(&name)).unwrap()),
            }
        }
    }
}

#[test]
fn a_distribution_is_complete_and_reproducible_in_another_directory() {
    need!(world::require(&[DPKG]));
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("made/dist");
    let shown = run({
        let mut command = dist(&workspace(), &made);
        command.arg("--dry-run");
        command
    });
    let shown = shown.exits(0);
    assert!(shown.stderr.contains("x86_64-unknown-linux-"), "the plan names the targets");
    assert_eq!(shown.stderr.lines().last(), Some(super::dry_runs::LAST_LINE));
    assert!(!dir.path().join("made").exists(), "a dry run writes nothing");

    let ran = run(dist(&workspace(), &made)).exits(0);
    assert_eq!(ran.stdout.trim(), made.display().to_string());
    assert!(ran.stderr.contains("static, "), "the table reports how it is linked: {ran}");
    for file in [
        "bin/linux-amd64/binfmt-setup",
        "man/binfmt-setup.8.gz",
        "completions/bash/binfmt-setup",
        "completions/zsh/_binfmt-setup",
        "completions/fish/binfmt-setup.fish",
        "doc/binfmt-setup/copyright",
        "release.yaml",
        "SHA256SUMS",
    ] {
        assert!(fs::metadata(made.join(file)).unwrap().len() > 100, "{file}");
    }
    check_sums(&made);
    check_package(&made, dir.path());
    let index = ImageIndex::from_file(made.join("image/index.json")).unwrap();
    assert_eq!(index.manifests().len(), 2, "latest and the version");
    keeps_the_old_one_on_failure(&made);

    // Another directory, another umask, one job: the same bytes.
    let copy = dir.path().join("a much longer path to the very same sources");
    copy_workspace(&copy);
    let again = dir.path().join("again");
    let mut shell = Command::new("sh");
    let second = dist(&copy, &again);
    shell.args(["-c", r#"umask 077; exec "$0" "$@""#]).arg(second.get_program()).args(second.get_args());
    for (name, value) in second.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    run({
        shell.env("CARGO_BUILD_JOBS", "1").current_dir(&copy);
        shell
    })
    .exits(0);
    let sums = |dir: &Path| fs::read_to_string(dir.join("SHA256SUMS")).unwrap();
    assert_eq!(sums(&again), sums(&made));
    run(verify(&again)).exits(0);
}

/// coreutils and `--verify` agree; a changed byte is exit 7.
fn check_sums(made: &Path) {
    let mut coreutils = Command::new("sha256sum");
    coreutils.args(["--check", "--quiet", "--strict", "SHA256SUMS"]).current_dir(made);
    run(coreutils).exits(0);
    run(verify(made)).exits(0);
    let file = made.join("man/binfmt-setup.8.gz");
    let right = fs::read(&file).unwrap();
    let mut wrong = right.clone();
    wrong[20] ^= 1;
    fs::write(&file, wrong).unwrap();
    run(verify(made)).exits(7).assert_stderr_contains("it differs from its sums");
    fs::write(&file, right).unwrap();
    run(verify(made)).exits(0);
}

fn check_package(made: &Path, dir: &Path) {
    let package = made.join(format!("binfmt-setup_{}_amd64.deb", env!("CARGO_PKG_VERSION")));
    let dpkg = |args: &[&str]| {
        let mut command = Command::new(world::program(DPKG).unwrap());
        command.args(args).arg(&package);
        command
    };
    let field = |name: &str| {
        let mut command = dpkg(&["--field"]);
        command.arg(name);
        run(command).exits(0).stdout.trim().to_string()
    };
    assert_eq!((field("Package"), field("Architecture")), ("binfmt-setup".into(), "amd64".into()));
    assert_eq!(field("Recommends"), "qemu-user-static");
    let listed = run(dpkg(&["--contents"])).exits(0).stdout;
    for line in ["-rwxr-xr-x root/root", "./usr/sbin/binfmt-setup", "./usr/share/man/man8/binfmt-setup.8.gz"]
    {
        assert!(listed.contains(line), "{line}: {listed}");
    }
    assert!(listed.lines().all(|line| line.contains("2025-06-15")), "all files have the same time: {listed}");
    let root = dir.join("root");
    let mut unpack = dpkg(&["--extract"]);
    unpack.arg(&root);
    run(unpack).exits(0);
    // Without a loader and libraries: it runs in an empty root directory.
    let result = run({
        let mut command = Command::new(root.join("usr/sbin/binfmt-setup"));
        command.arg("--version").env_clear();
        command
    });
    assert_eq!(result.exits(0).stdout, format!("binfmt-setup {}\n", env!("CARGO_PKG_VERSION")));
}

/// A full disk, simulated by a limit of 64 KiB for files.
fn keeps_the_old_one_on_failure(made: &Path) {
    let before = listing(made);
    let complete = dist(&workspace(), made);
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"trap '' XFSZ; ulimit -f 128; exec "$0" "$@""#]).arg(complete.get_program());
    shell
        .args(complete.get_args())
        .envs(complete.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = run(shell);
    assert_eq!(ran.code, Some(9), "{ran}");
    assert!(listing(made) == before, "the old one has changed: {ran}");
    let beside: Vec<_> =
        fs::read_dir(made.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!beside.iter().any(|name| name == ".dist.new"), "{beside:?}");
}

/// System calls that change files. Each element is counted separately.
const CALLS: &str = "openat,write,mkdir,chmod,rename,renameat2,copy_file_range,unlinkat,rmdir";
/// Number of moments for each kind of call, including the first and the last one.
const MOMENTS: usize = 4;

/// Returns the command `xtask dist` under strace, without its children, cargo and the release of the image.
fn traced(out: &Path, arguments: &[&str]) -> Command {
    let plain = dist(&workspace(), out);
    let mut command = Command::new(world::program("strace").unwrap());
    command.args(["-qq"]).args(arguments).arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(workspace());
    command
}

/// Returns the numbers of calls of each kind after the programs were built, as strace counts them from the start.
fn moments(log: &str) -> Vec<(String, usize)> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut after: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut is_packaging = false;
    for line in log.lines() {
        let Some((call, arguments)) = line.split_once('(') else { continue };
        let nth = seen.entry(call.to_string()).or_default();
        *nth += 1;
        is_packaging |= arguments.contains(".dist.new");
        if is_packaging {
            after.entry(call.to_string()).or_default().push(*nth);
        }
    }
    let mut moments = Vec::new();
    for (call, all) in after {
        let last = all.len() - 1;
        let mut chosen: Vec<usize> = (0..MOMENTS).map(|part| all[last * part / (MOMENTS - 1)]).collect();
        chosen.dedup();
        moments.extend(chosen.into_iter().map(|nth| (call.clone(), nth)));
    }
    moments
}

#[test]
fn a_killed_run_leaves_the_old_distribution_and_the_next_run_completes() {
    need!(world::require(&[DPKG, "strace"]));
    let dir = tempfile::tempdir().unwrap();
    let (first, made) = (dir.path().join("first/dist"), dir.path().join("made/dist"));
    let log = dir.path().join("log");
    // Both directories have an older distribution.
    for place in [&first, &made] {
        run({
            let mut command = dist(&workspace(), place);
            command.env("SOURCE_DATE_EPOCH", "1740000000");
            command
        })
        .exits(0);
    }
    let sums = |place: &Path| fs::read(place.join("SHA256SUMS")).unwrap();
    let old = sums(&first);
    run(traced(&first, &["-o", log.to_str().unwrap(), "-e", &format!("trace={CALLS}")])).exits(0);
    let new = sums(&first);
    assert_ne!(old, new);
    let moments = moments(&fs::read_to_string(&log).unwrap());
    let begun = Instant::now();
    let (mut killed, mut moved) = (0, 0);
    for (call, nth) in &moments {
        let inject = format!("inject={call}:signal=SIGKILL:when={nth}");
        let ran = run(traced(&made, &["-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject]));
        assert!(matches!(ran.code, None | Some(0)), "{call} {nth}: {ran}");
        killed += usize::from(ran.code.is_none());
        run(verify(&made)).exits(0);
        let now = sums(&made);
        assert!(now == old || now == new, "{call} {nth}");
        moved += usize::from(now == new);
    }
    // Children of killed runs exit without a signal.
    std::thread::sleep(Duration::from_millis(200));
    run(dist(&workspace(), &made)).exits(0);
    assert_eq!(sums(&made), new, "the same as without a kill");
    let mut left: Vec<_> =
        fs::read_dir(made.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".dist.lock", "dist"]);
    let took = begun.elapsed();
    eprintln!(
        "killed at {killed} of {} moments in {took:?}, {moved} times with the new one there",
        moments.len()
    );
    assert!(killed > 15 && moved > 0 && moved < killed, "{killed} {moved} of {moments:?}");
}
