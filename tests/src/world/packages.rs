//! Debian's packages of other architectures, and of another release, unpacked and never installed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::busybox::FOREIGN;
use super::{Skip, require};

/// Static and dynamic, glibc and musl, C and Go.
const PACKAGES: [&str; 5] = ["busybox-static", "dash", "gosu", "libc6", "musl"];

/// The packages of a Debian architecture, downloaded once and kept under the target directory: a directory with a
/// directory for each of them.
///
/// # Panics
/// If the architecture is neither amd64 nor in [`FOREIGN`], or the archive returns something that is not a package.
pub fn debian_packages(debian: &str) -> Result<PathBuf, Skip> {
    let suites = match FOREIGN.iter().find(|row| row.debian == debian) {
        Some(row) => row.suites,
        None if debian == "amd64" => &["bookworm"],
        None => panic!("no row for {debian:?} in FOREIGN"),
    };
    unpacked(debian, debian, suites, &PACKAGES, |_| ())
}

/// Programs of Debian's armhf, and libgcrypt, which has code for ARMv8 that it runs after a check of the CPU. `gpgv` loads it,
/// `python3.11` does not. A directory with a directory for each package.
pub fn code_behind_a_check() -> Result<PathBuf, Skip> {
    const PACKAGES: [&str; 4] = ["gpgv", "libc6", "libgcrypt20", "python3.11-minimal"];
    unpacked("code-behind-a-check", "armhf", &["bookworm"], &PACKAGES, |_| ())
}

/// The Docker of Debian 13: its engine can keep images in containerd's store, and its client has buildx.
pub struct NewerDocker {
    /// A directory with `docker`, `dockerd`, `containerd` and its shim.
    pub bin: PathBuf,
    /// The plugin.
    pub buildx: PathBuf,
}

/// Docker of Debian 13, downloaded once and kept under the target directory.
pub fn newer_docker() -> Result<NewerDocker, Skip> {
    const PACKAGES: [&str; 4] = ["containerd", "docker-buildx", "docker-cli", "docker.io"];
    const PROGRAMS: [(&str, &str); 4] = [
        ("docker", "docker-cli/usr/bin"),
        ("dockerd", "docker.io/usr/sbin"),
        ("containerd", "containerd/usr/bin"),
        ("containerd-shim-runc-v2", "containerd/usr/bin"),
    ];
    let kept = unpacked("newer-docker", "amd64", &["trixie"], &PACKAGES, |root| {
        fs::create_dir(root.join("bin")).expect("a directory under target");
        for (name, place) in PROGRAMS {
            let link = root.join("bin").join(name);
            std::os::unix::fs::symlink(format!("../{place}/{name}"), link).expect("a link under target");
        }
    })?;
    let buildx = kept.join("docker-buildx/usr/libexec/docker/cli-plugins/docker-buildx");
    Ok(NewerDocker { bin: kept.join("bin"), buildx })
}

/// A tar file of a minimal Debian 12 with these packages installed, made once and kept under the target directory. Takes minutes.
///
/// # Panics
/// If mmdebstrap fails.
pub fn debian_root(name: &str, packages: &[&str]) -> Result<PathBuf, Skip> {
    require(&["mmdebstrap"])?;
    let home = target_directory().join("world/packages");
    fs::create_dir_all(&home).expect("a directory under target");
    let kept = home.join(format!("{name}.tar"));
    let lock = File::create(home.join(format!("{name}.lock"))).expect("a lock file");
    lock.lock().expect("a lock");
    if !kept.exists() {
        let work = tempfile::tempdir_in(&home).expect("a directory under target");
        let made = work.path().join("root.tar");
        let mut make = Command::new("mmdebstrap");
        make.args(["--quiet", "--variant=minbase", &format!("--include={}", packages.join(","))]);
        let done = make.arg("bookworm").arg(&made).arg(archive()?).output().expect("mmdebstrap");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs::rename(made, &kept).expect("a rename within target");
    }
    Ok(kept)
}

/// These packages of a Debian architecture from the first suite that has them, in a directory of this name.
fn unpacked(
    name: &str,
    debian: &str,
    suites: &[&str],
    packages: &[&str],
    prepare: impl Fn(&Path),
) -> Result<PathBuf, Skip> {
    let home = target_directory().join("world/packages");
    fs::create_dir_all(&home).expect("a directory under target");
    let kept = home.join(name);
    if kept.exists() {
        return Ok(kept);
    }
    require(&["apt-get", "dpkg-deb"])?;
    // Each test is a process: the first one downloads, the others wait.
    let lock = File::create(home.join(format!("{name}.lock"))).expect("a lock file");
    lock.lock().expect("a lock");
    if kept.exists() {
        return Ok(kept);
    }
    let mut refused = Skip::because("no release has it");
    for suite in suites {
        let work = tempfile::tempdir_in(&home).expect("a directory under target");
        match download(debian, suite, packages, work.path()) {
            Ok(()) => {
                let root = unpack(work.path());
                prepare(&root);
                fs::rename(root, &kept).expect("a rename within target");
                return Ok(kept);
            }
            // The lists and packages of a mirror that is being synchronized may not match.
            Err(skip) => refused = skip,
        }
    }
    Err(refused)
}

/// `apt-get download` with separate state: the host's lists, architectures and cache are unchanged.
fn download(debian: &str, suite: &str, packages: &[&str], work: &Path) -> Result<(), Skip> {
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let source = format!("deb [signed-by={keyring}] {} {} main\n", archive()?, suite);
    for directory in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(work.join(directory)).expect("a directory under target");
    }
    fs::write(work.join("sources.list"), source).expect("a file under target");
    let place = |name: &str| work.join(name).display().to_string();
    let options = [
        // Only our source, not those of the host.
        format!("Dir::Etc::sourcelist={}", place("sources.list")),
        "Dir::Etc::sourceparts=-".to_owned(),
        format!("Dir::State::Lists={}", place("lists")),
        format!("Dir::Cache={}", place("cache")),
        // Nothing is installed, so the host's packages are irrelevant.
        "Dir::State::status=/dev/null".to_owned(),
        format!("APT::Architecture={}", debian),
        format!("APT::Architectures={}", debian),
        // Saves megabytes of descriptions.
        "Acquire::Languages=none".to_owned(),
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        // The sandbox user could not write below target.
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Retries=3".to_owned(),
    ];
    let download = [&["download"], packages].concat();
    for arguments in [&["update"][..], &download] {
        let mut apt = Command::new("apt-get");
        apt.current_dir(work).env("LC_ALL", "C").args(options.iter().flat_map(|option| ["-o", option]));
        let done = apt.args(arguments).output().expect("apt-get");
        // `update` warns and succeeds if a mirror does not respond; then `download` fails.
        if !done.status.success() {
            let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
            return Err(Skip::because(format!("no packages of {} in {suite}: {}", debian, stderr.trim())));
        }
    }
    Ok(())
}

/// The Debian sources of this machine.
fn archive() -> Result<String, Skip> {
    let format = "$(ORIGIN) $(COMPONENT) $(REPO_URI)";
    let listed =
        Command::new("apt-get").args(["indextargets", "--format", format]).output().expect("apt-get");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let uris = listed.lines().filter_map(|line| line.strip_prefix("Debian main "));
    // The security archive has the same origin without these packages.
    let mut plain = uris.filter(|uri| !uri.contains("security"));
    plain.next().map(str::to_owned).ok_or_else(|| Skip::because("apt knows no Debian archive"))
}

/// Unpacks each package into a directory of its name.
fn unpack(work: &Path) -> PathBuf {
    let entries = fs::read_dir(work).expect("our own directory");
    let packages = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "deb"));
    let root = work.join("root");
    for package in packages {
        let file = package.file_name().expect("a file has a name").to_string_lossy().into_owned();
        // NAME_VERSION_ARCHITECTURE.deb
        let place = root.join(file.split('_').next().unwrap_or(&file));
        fs::create_dir_all(&place).expect("a directory under target");
        let done = Command::new("dpkg-deb").arg("-x").args([&package, &place]).status().expect("dpkg-deb");
        assert!(done.success(), "dpkg-deb -x {}", package.display());
    }
    root
}

/// The target directory of the build that this test belongs to.
fn target_directory() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this program");
    // cargo marks it for backup programs.
    let target = own.ancestors().find(|place| place.join("CACHEDIR.TAG").is_file());
    target.map_or_else(std::env::temp_dir, Path::to_path_buf)
}
