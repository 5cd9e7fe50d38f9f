//! The program `multiarch` alone in an empty directory, as after `cargo install`: without the repository, other
//! programs of it, or files in HOME.

use super::{EXAMPLE_DIGEST, digest_of, platforms_of};
use crate::tools::{Ran, User, program, run};
use std::fs;
use std::process::Command;

struct Installed {
    user: User,
}

impl Installed {
    fn new() -> Self {
        let user = User::new();
        fs::create_dir(user.path("bin")).unwrap();
        fs::copy(program("multiarch"), user.path("bin/multiarch")).unwrap();
        fs::create_dir(user.path("home")).unwrap();
        fs::create_dir(user.path("elsewhere")).unwrap();
        Self { user }
    }

    fn run(&self, name: &str, args: &[&str]) -> Ran {
        let mut command = Command::new(self.user.path("bin").join(name));
        command.args(args).current_dir(self.user.path("elsewhere")).env_clear();
        command.env("HOME", self.user.path("home"));
        run(command)
    }
}

#[test]
fn the_installed_program_releases_its_example() {
    let installed = Installed::new();
    let ran = installed.run("multiarch", &["release", "--example"]).exits(0);
    assert_eq!(digest_of(&ran), EXAMPLE_DIGEST);
    assert_eq!(platforms_of(&installed.user.path("elsewhere/multi-arch-example")).len(), 12);
    let again = installed
        .run("multiarch", &["release", "--example"])
        .exits(0)
        .assert_stderr_contains("nothing to do");
    assert_eq!(digest_of(&again), EXAMPLE_DIGEST);
}

#[test]
fn the_installed_program_releases_plain_files_without_binfmt_setup() {
    let installed = Installed::new();
    installed
        .run("multiarch", &["release"])
        .exits(5)
        .assert_stderr_contains("there is no release.yaml in this directory");
    installed.user.run("xtask", &["example-binaries", "elsewhere/programs"]).exits(0);
    let rows = ["amd64", "arm64", "s390x"].map(|name| {
        format!("  linux/{name}: {{ copy: {{ programs/linux-{name}/hello: /hello }}, cmd: [/hello] }}\n")
    });
    let text = format!("image: oci:out\nplatforms:\n{}smoke: [/hello]\n", rows.concat());
    installed.user.write("elsewhere/release.yaml", text);
    let report = installed.run("multiarch", &["release", "--format", "json"]).exits(0).json();
    for platform in report["platforms"].as_array().unwrap() {
        assert_eq!(platform["evidence"]["verdict"], "consistent", "{platform}");
        if platform["platform"]["architecture"] != "amd64" {
            assert_eq!(platform["smoke"]["result"], "not-run", "{platform}");
            assert_eq!(platform["smoke"]["why"], "binfmt-setup is not installed", "{platform}");
        }
    }
    assert_eq!(platforms_of(&installed.user.path("elsewhere/out")).len(), 3);
    installed.run("multiarch", &["verify", "oci:out"]).exits(0);
    installed
        .run("multiarch", &["binfmt", "status"])
        .exits(5)
        .assert_stderr_contains("cargo install --path binfmt-setup");
}

#[test]
fn a_link_with_the_name_of_a_program_is_that_program() {
    let installed = Installed::new();
    for name in ["config-patcher", "manifest-push"] {
        std::os::unix::fs::symlink("multiarch", installed.user.path("bin").join(name)).unwrap();
        let version = installed.run(name, &["--version"]).exits(0);
        assert_eq!(version.line(), format!("{name} {}", env!("CARGO_PKG_VERSION")));
        installed.run(name, &["release"]).exits(2);
    }
    let own = installed.run("multiarch", &["--version"]).exits(0);
    assert_eq!(own.line(), format!("multiarch {}", env!("CARGO_PKG_VERSION")));
}
