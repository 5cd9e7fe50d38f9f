//! The programs that the world tests run, and their Debian packages.

use std::path::PathBuf;

use super::Skip;

/// Program, Debian package.
const PACKAGES: [(&str, &str); 30] = [
    ("apt-get", "apt"),
    ("buildah", "buildah"),
    ("busybox", "busybox-static"),
    ("bzip2", "bzip2"),
    ("chromium", "chromium"),
    ("containerd", "containerd"),
    ("crun", "crun"),
    ("docker", "docker.io"),
    ("docker-registry", "docker-registry"),
    ("dockerd", "docker.io"),
    ("dpkg-deb", "dpkg"),
    ("git", "git"),
    ("ip", "iproute2"),
    ("mount", "mount"),
    ("newuidmap", "uidmap"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("podman", "podman"),
    ("prlimit", "util-linux"),
    ("python3", "python3-jsonschema"),
    ("qemu-aarch64-static", "qemu-user-static"),
    ("qemu-arm-static", "qemu-user-static"),
    ("runc", "runc"),
    ("script", "bsdutils"),
    ("setpriv", "util-linux"),
    ("skopeo", "skopeo"),
    ("strace", "strace"),
    ("umoci", "umoci"),
    ("unshare", "util-linux"),
    ("xz", "xz-utils"),
];

/// Debian's program of this name. PATH is not used, because /usr/local may have another version.
pub fn program(name: &str) -> Option<PathBuf> {
    let directories = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    directories.into_iter().map(|directory| PathBuf::from(directory).join(name)).find(|path| path.exists())
}

/// Which of these are not installed.
pub fn missing<'a>(programs: &[&'a str]) -> Vec<&'a str> {
    programs.iter().copied().filter(|name| program(name).is_none()).collect()
}

/// # Errors
/// The missing programs and their packages.
pub fn require(programs: &[&str]) -> Result<(), Skip> {
    let missing = missing(programs);
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing
        .iter()
        .map(|missing| {
            PACKAGES.iter().find(|(program, _)| program == missing).map_or(*missing, |(_, package)| package)
        })
        .collect();
    packages.dedup();
    Err(Skip::because(format!("no {}: apt-get install {}", missing.join(", "), packages.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        require(&["mount"]).unwrap();
        let Err(skip) = require(&["mount", "no-such-program"]) else { panic!("it is there?") };
        assert!(format!("{skip:?}").contains("apt-get install no-such-program"), "{skip:?}");
        assert!(!format!("{skip:?}").contains("mount"), "{skip:?}");
    }
}
