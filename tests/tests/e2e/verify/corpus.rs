//! Programs of Debian for nine architectures, static and dynamic, glibc and musl, C and Go: their verdicts with a correct and
//! with a wrong declared platform, and the roles in their executed chains.

use super::made::{image, verify};
use crate::tools::{Ran, User};
use image_model::platform::Platform;
use multiarch_tests::need;
use multiarch_tests::world::{FOREIGN, debian_packages};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Packages of an image, its command, and the roles that its executed chain must have.
struct Kind {
    name: &'static str,
    packages: &'static [&'static str],
    command: &'static str,
    roles: &'static [&'static str],
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "dynamic glibc",
        packages: &["dash", "libc6"],
        command: "/bin/dash",
        roles: &["command", "loader", "library"],
    },
    Kind {
        name: "static glibc",
        packages: &["busybox-static"],
        command: "/bin/busybox",
        roles: &["command"],
    },
    // No Debian program is linked with musl; its loader is a program.
    Kind { name: "dynamic musl", packages: &["musl"], command: "/lib/ld-musl-", roles: &["command"] },
    Kind { name: "static Go", packages: &["gosu"], command: "/usr/sbin/gosu", roles: &["command"] },
];

/// Returns Debian's names of architectures with their platforms.
pub fn architectures() -> impl Iterator<Item = (&'static str, &'static str)> {
    FOREIGN.iter().map(|row| (row.debian, row.platform)).chain([("amd64", "linux/amd64")])
}

/// Returns a layer with the packages, and with links such as /bin to /usr/bin if the packages have no such directory.
pub fn layer(root: &Path, packages: &[&str]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(false);
    for package in packages {
        tar.append_dir_all("", root.join(package)).unwrap();
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        if packages.iter().all(|package| !root.join(package).join(name).exists()) {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, name, format!("usr/{name}")).unwrap();
        }
    }
    tar.into_inner().unwrap()
}

/// Returns the command. If its file name ends with `-`, it is completed from the package.
fn command(root: &Path, kind: &Kind) -> String {
    let Some((dir, prefix)) = kind.command.rsplit_once('/').filter(|(_, prefix)| prefix.ends_with('-'))
    else {
        return kind.command.into();
    };
    for directory in
        [root.join(kind.packages[0]).join(&dir[1..]), root.join(kind.packages[0]).join("usr").join(&dir[1..])]
    {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.starts_with(prefix) {
                return format!("{dir}/{name}");
            }
        }
    }
    panic!("no {} in {}", kind.command, root.display())
}

fn found(ran: &Ran) -> Value {
    ran.json()["images"][0].clone()
}

#[test]
fn every_kind_of_program_of_every_architecture_is_verified() {
    let user = User::new();
    let mut table = Vec::new();
    for (debian, declared) in architectures() {
        let root = need!(debian_packages(debian));
        for kind in &KINDS {
            let command = command(&root, kind);
            let layer = layer(&root, kind.packages);
            let wrong = if debian == "arm64" { "linux/s390x" } else { "linux/arm64" };
            let look = |declared: &str, name: &str| {
                let words = [command.as_str()];
                let made = image(declared, &words, vec![layer.clone()]);
                found(&verify(&user, &[&made.layout(&user, name), "--no-cache", "--format", "json"]))
            };
            let name = format!("{debian}-{}", kind.name.replace(' ', "-"));
            let right = look(declared, &format!("{name}-right"));
            let mislabeled = look(wrong, &format!("{name}-wrong"));
            let roles: Vec<&str> = right["executedChain"]
                .as_array()
                .unwrap()
                .iter()
                .map(|link| link["role"].as_str().unwrap())
                .collect();
            let has_roles = kind.roles.iter().all(|role| roles.contains(role));
            let binary: Platform = serde_json::from_value(mislabeled["binaryPlatform"].clone()).unwrap();
            // The binary platform must have the architecture of the correct declared platform.
            let fits = binary.architecture == declared.split('/').nth(1).unwrap();
            let row = format!("{name}: {} {} {binary} {roles:?}", right["verdict"], mislabeled["verdict"]);
            if (right["verdict"].as_str(), mislabeled["verdict"].as_str(), fits && has_roles)
                != (Some("consistent"), Some("mislabeled"), true)
            {
                table.push(row);
            }
        }
    }
    assert_eq!(table, [""; 0], "unexpected verdicts");
}

#[test]
fn go_programs_have_their_own_arm_version() {
    let user = User::new();
    // Debian's armhf, which is v7, has Go programs for v6; its armel has them for v5. Source: their build settings.
    for (debian, binaries, declared, verdict) in [
        ("armhf", "linux/arm/v6", "linux/arm/v7", "consistent"),
        ("armhf", "linux/arm/v6", "linux/arm/v6", "consistent"),
        ("armhf", "linux/arm/v6", "linux/arm/v5", "mislabeled"),
        ("armel", "linux/arm/v5", "linux/arm/v5", "consistent"),
        ("armel", "linux/arm/v5", "linux/arm/v7", "consistent"),
    ] {
        let root = need!(debian_packages(debian));
        let made = image(declared, &["/usr/sbin/gosu"], vec![layer(&root, &["gosu"])]);
        let name = format!("{debian}-{}", declared.replace('/', "-"));
        let found = found(&verify(&user, &[&made.layout(&user, &name), "--format", "json"]));
        let binary: Platform = serde_json::from_value(found["binaryPlatform"].clone()).unwrap();
        assert_eq!(
            (found["verdict"].as_str(), binary.to_string().as_str()),
            (Some(verdict), binaries),
            "{debian} {declared}"
        );
        assert!(found["executedChain"][0]["details"].to_string().contains("GOARM="), "{found}");
    }
}

#[test]
fn one_foreign_library_in_a_correct_image_is_found() {
    let user = User::new();
    let (arm64, s390x) = (need!(debian_packages("arm64")), need!(debian_packages("s390x")));
    // The image is arm64, but libc was copied from a build stage of another platform.
    let path = "lib/aarch64-linux-gnu/libc.so.6";
    let stray = fs::read(s390x.join("libc6/lib/s390x-linux-gnu/libc.so.6")).unwrap();
    let stray = super::made::Layer::new().file(path, &stray).end();
    let made = image("linux/arm64", &["/bin/dash"], vec![layer(&arm64, &["dash", "libc6"]), stray]);
    let found = found(&verify(&user, &[&made.layout(&user, "stray"), "--format", "json"]).exits(1));
    assert_eq!(found["verdict"], "mixed");
    assert_eq!(
        (&found["evidence"][0]["role"], &found["evidence"][0]["layer"]),
        (&"library".into(), &1.into()),
        "{found}"
    );
    assert_eq!(found["evidence"][0]["path"], format!("/{path}"));
}
