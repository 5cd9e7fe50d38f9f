//! Debian's own programs of nine architectures: static and dynamic, glibc and musl, C and Go; each with the verdict
//! that it must get under the right declared, under a wrong one, and what a container would load with it.

use super::made::{image, verify};
use crate::tools::{Ran, User};
use image_model::platform::Platform;
use multiarch_tests::need;
use multiarch_tests::world::{FOREIGN, debian_packages};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// What is packed, what is run, which roles its chain must have.
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
    // Debian has no program that is linked with it; its loader is one.
    Kind { name: "dynamic musl", packages: &["musl"], command: "/lib/ld-musl-", roles: &["command"] },
    Kind { name: "static Go", packages: &["gosu"], command: "/usr/sbin/gosu", roles: &["command"] },
];

/// Debian's name, the right declared.
fn architectures() -> impl Iterator<Item = (&'static str, &'static str)> {
    FOREIGN.iter().map(|row| (row.debian, row.platform)).chain([("amd64", "linux/amd64")])
}

/// A layer of packages, with /bin, /lib and so on as links into /usr where the packages have nothing there.
fn layer(root: &Path, packages: &[&str]) -> Vec<u8> {
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

/// A command that names only the beginning of a file.
fn command(root: &Path, kind: &Kind) -> String {
    let Some((dir, begin)) = kind.command.rsplit_once('/').filter(|(_, begin)| begin.ends_with('-')) else {
        return kind.command.into();
    };
    for place in
        [root.join(kind.packages[0]).join(&dir[1..]), root.join(kind.packages[0]).join("usr").join(&dir[1..])]
    {
        for entry in fs::read_dir(place).into_iter().flatten() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.starts_with(begin) {
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
fn every_kind_of_program_of_every_architecture_is_known() {
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
            let meant: Platform = serde_json::from_value(mislabeled["binaryPlatform"].clone()).unwrap();
            // What the binaries ask for is the machine of the declared, and never more than the declared's level.
            let fits = meant.architecture == declared.split('/').nth(1).unwrap();
            let row = format!("{name}: {} {} {meant} {roles:?}", right["verdict"], mislabeled["verdict"]);
            if (right["verdict"].as_str(), mislabeled["verdict"].as_str(), fits && has_roles)
                != (Some("consistent"), Some("mislabeled"), true)
            {
                table.push(row);
            }
        }
    }
    assert_eq!(table, [""; 0], "not as expected");
}

#[test]
fn go_programs_tell_the_version_of_arm_that_their_distribution_does_not_ask_for() {
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
        let meant: Platform = serde_json::from_value(found["binaryPlatform"].clone()).unwrap();
        assert_eq!(
            (found["verdict"].as_str(), meant.to_string().as_str()),
            (Some(verdict), binaries),
            "{debian} {declared}"
        );
        assert!(found["executedChain"][0]["details"].to_string().contains("GOARM="), "{found}");
    }
}

#[test]
fn one_foreign_library_in_a_right_image_is_found() {
    let user = User::new();
    let (arm64, s390x) = (need!(debian_packages("arm64")), need!(debian_packages("s390x")));
    // A build that copied libc from another stage: everything is arm64's, what dash loads is not.
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
