//! The program `multiarch` alone in an empty directory, as after `cargo install`: without the repository, other
//! programs of it, or files in HOME.

use super::{EXAMPLE_DIGEST, digest_of, platforms_of};
use crate::tools::{Ran, User, program, run};
use multiarch_tests::need;
use multiarch_tests::world::require;
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

#[test]
fn docker_runs_it_as_a_plugin() {
    need!(require(&["docker"]));
    let installed = Installed::new();
    let plugins = installed.user.path("docker config/cli-plugins");
    fs::create_dir_all(&plugins).unwrap();
    std::os::unix::fs::symlink(installed.user.path("bin/multiarch"), plugins.join("docker-multiarch"))
        .unwrap();
    let docker = |args: &[&str]| {
        let mut command = Command::new(multiarch_tests::world::program("docker").unwrap());
        command.args(args).current_dir(installed.user.path("elsewhere")).env_clear();
        command.env("HOME", installed.user.path("home"));
        command.env("DOCKER_CONFIG", installed.user.path("docker config"));
        run(command)
    };
    installed.run("multiarch", &["release", "--example"]).exits(0);
    let found =
        docker(&["multiarch", "verify", "oci:multi-arch-example", "--format", "json"]).exits(0).json();
    assert_eq!(found["images"].as_array().unwrap().len(), 12);
    // Docker's global options, which it passes on, and its help.
    docker(&["--context", "default", "-D", "multiarch", "inspect", "oci:multi-arch-example"]).exits(0);
    let host = ["--host", "unix:///nowhere.sock", "multiarch", "verify", "docker-daemon:app"];
    docker(&host).exits(9).assert_stderr_contains("/nowhere.sock");
    let help = docker(&["help", "multiarch"]).exits(0).stdout;
    assert!(help.contains("\n  docker multiarch verify HOST/app:1\n"), "{help}");
    assert!(docker(&["--help"]).exits(0).stdout.contains("Build, verify, repair and publish multi-platform"));
    docker(&["multiarch", "verify"]).exits(2).assert_stderr_contains("Usage: docker multiarch verify");
}

#[test]
fn kubectl_runs_it_as_a_plugin() {
    need!(require(&["kubectl"]));
    let installed = Installed::new();
    let link = installed.user.path("bin/kubectl-multiarch");
    std::os::unix::fs::symlink("multiarch", link).unwrap();
    installed.run("multiarch", &["release", "--example"]).exits(0);
    let mut command = Command::new(multiarch_tests::world::program("kubectl").unwrap());
    command.args(["multiarch", "verify", "oci:multi-arch-example"]).env_clear();
    command.current_dir(installed.user.path("elsewhere")).env("HOME", installed.user.path("home"));
    command.env("PATH", installed.user.path("bin"));
    run(command).exits(0);
}
