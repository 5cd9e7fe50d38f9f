//! `docker-daemon:` with the docker CLI and a Docker Engine.

use crate::samples::{Image, Index};
use crate::tools::{Ran, User, run};
use image_store::check::{CheckDepth, check};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use multiarch_tests::need;
use multiarch_tests::world::{self, Engine};
use std::fs;

/// An engine with an image, and a user whose `docker` is a script that logs the subcommands.
struct Rig {
    engine: Engine,
    user: User,
}

impl Rig {
    fn start(image: &Image) -> Result<Self, world::Skip> {
        let engine = Engine::start()?;
        let user = User::new();
        let docker = world::program("docker").unwrap();
        let log = user.path("log");
        user.script(
            "logging-docker",
            &format!("echo \"$2\" >> '{}'; exec '{}' \"$@\"", log.display(), docker.display()),
        );
        let rig = Self { engine, user };
        rig.user.write("app.tar", image.classic_archive("app:1"));
        rig.docker(&["load", "-i", &rig.user.path("app.tar").display().to_string()]);
        Ok(rig)
    }

    fn docker(&self, args: &[&str]) -> String {
        run(self.engine.command(args)).exits(0).stdout.trim().to_string()
    }

    fn tool(&self, name: &str, args: &[&str]) -> Ran {
        let mut command = self.user.command(name, args);
        let logging = self.user.work().parent().unwrap().join("bin/logging-docker");
        command.envs(self.engine.env().into_iter().filter(|(key, _)| key != "PATH"));
        run({
            command.env("MULTIARCH_DOCKER", logging);
            command
        })
    }

    fn fix(&self, args: &[&str]) -> Ran {
        let fix = ["fix", "docker-daemon:app:1", "--set-platform", "linux/arm/v7"];
        self.tool("config-patcher", &[&fix[..], args].concat())
    }

    fn loads(&self) -> usize {
        let log = fs::read_to_string(self.user.path("log")).unwrap_or_default();
        log.lines().filter(|line| *line == "load").count()
    }

    fn platform(&self, name: &str) -> String {
        self.docker(&["image", "inspect", "--format", "{{.Os}}/{{.Architecture}}/{{.Variant}}", name])
    }
}

/// Returns a sample whose number is an integer, as Docker requires.
fn mislabeled() -> Image {
    let image = Image::new("linux/amd64", "arm's own");
    image.with_config(image.config.replace("1.50", "15"))
}

#[test]
fn a_second_fix_in_an_engine_loads_nothing() {
    let rig = need!(Rig::start(&mislabeled()));
    rig.fix(&["--check"]).exits(1);
    rig.fix(&["--dry-run"]).exits(0);
    assert_eq!((rig.loads(), rig.platform("app:1").as_str()), (0, "linux/amd64/"));
    let inspected =
        rig.tool("config-patcher", &["inspect", "docker-daemon:app:1", "--format", "json"]).exits(0);
    assert_eq!(inspected.json()["images"][0]["declaredPlatform"]["architecture"], "amd64");
    rig.fix(&[]).exits(0);
    assert_eq!((rig.loads(), rig.platform("app:1").as_str()), (1, "linux/arm/v7"));
    rig.fix(&[]).exits(0).assert_stderr_contains("all platforms are correct");
    assert_eq!(rig.loads(), 1);
    // In the engine's description of the image, only the platform has changed.
    let id = rig.docker(&["image", "inspect", "--format", "{{.Id}}", "app:1"]);
    assert_eq!(id, mislabeled().relabeled("arm", "v7").config_digest());
}

#[test]
fn an_image_is_copied_from_an_engine_and_into_it() {
    let rig = need!(Rig::start(&mislabeled()));
    rig.fix(&["--output", "oci:out:1"]).exits(0);
    assert_eq!((rig.loads(), rig.platform("app:1").as_str()), (0, "linux/amd64/"));
    let out = OciLayout::open(&rig.user.path("out")).unwrap();
    assert_eq!(check(&out, &Pointer::Tag("1".into()), CheckDepth::Layers), []);
    rig.tool("manifest-push", &["copy", "oci:out:1", "docker-daemon:new:1"]).exits(0);
    assert_eq!(rig.platform("new:1"), "linux/arm/v7");
    rig.tool("manifest-push", &["copy", "docker-daemon:new:1", "oci:back:1"]).exits(0);
    let back = OciLayout::open(&rig.user.path("back")).unwrap();
    assert_eq!(check(&back, &Pointer::Tag("1".into()), CheckDepth::Layers), []);
    assert!(back.resolve(&Pointer::Tag("1".into())).unwrap().is_some());
}

/// The classic engine loads one image of an index and ignores the others silently.
#[test]
fn an_index_is_refused_before_any_transfer_and_one_of_its_images_is_loaded() {
    let rig = need!(Rig::start(&mislabeled()));
    let (amd64, arm) = (Image::new("linux/amd64", "one"), Image::new("linux/arm/v7", "two"));
    let plain = |image: Image| image.with_config(image.config.replace("1.50", "15"));
    let (amd64, arm) = (plain(amd64), plain(arm));
    let index = Index::of(&[("linux/amd64", &amd64), ("linux/arm/v7", &arm)]);
    index.store(&OciLayout::open_or_create(&rig.user.path("in")).unwrap(), "1");
    let copy = |args: &[&str]| rig.tool("manifest-push", &[&["copy"], args].concat());
    for more in [&[][..], &["--dry-run"]] {
        let ran = copy(&[&["oci:in:1", "docker-daemon:app:2"], more].concat()).exits(3);
        ran.assert_stderr_contains("it holds single images")
            .assert_stderr_contains(&format!("linux/arm/v7 is {}", arm.digest()))
            .assert_stderr_contains("--platform PLATFORM");
    }
    assert_eq!((rig.loads(), rig.docker(&["image", "ls", "-q", "app:2"]).as_str()), (0, ""));
    // A script prints the driver type of an engine with containerd's store, as documented, since Debian 12 has none.
    let docker = world::program("docker").unwrap();
    let info = "case $1 in info) echo '[[driver-type io.containerd.snapshotter.v1]]';; *) exec";
    let path = rig.user.path("log");
    let log = path.display();
    rig.user.script("logging-docker", &format!("{info} '{}' \"$@\";; esac", docker.display()));
    copy(&["--dry-run", "oci:in:1", "docker-daemon:app:2"]).exits(0);
    rig.user.script("logging-docker", &format!("echo \"$2\" >> '{log}'; exec '{}' \"$@\"", docker.display()));
    let ran = copy(&["--platform", "linux/arm/v7", "oci:in:1", "docker-daemon:app:2"]).exits(0);
    assert!(ran.stderr.contains("  docker-daemon:app:2  new\n"), "must occur once: {ran}");
    assert_eq!(rig.platform("app:2"), "linux/arm/v7");
    // The old image is still in the engine, and the message has the docker command that restores the name.
    copy(&["--platform", "linux/amd64", "oci:in:1", "docker-daemon:app:2"]).exits(0);
    let ran = rig.tool("manifest-push", &["rollback", "docker-daemon:app:2"]).exits(3);
    let command = ran.stderr.split("; docker ").nth(1).unwrap().trim();
    rig.docker(&command.split(' ').collect::<Vec<_>>());
    assert_eq!(rig.platform("app:2"), "linux/arm/v7");
}

#[test]
fn a_missing_image_is_not_found() {
    let rig = need!(Rig::start(&mislabeled()));
    rig.tool("config-patcher", &["inspect", "docker-daemon:absent:1"])
        .exits(5)
        .assert_stderr_contains("no such image");
    let mut command = rig.user.command("config-patcher", &["inspect", "docker-daemon:app:1"]);
    run({
        command.env("MULTIARCH_DOCKER", "/nowhere/docker");
        command
    })
    .exits(5)
    .assert_stderr_contains("MULTIARCH_DOCKER");
    let mut command = rig.user.command("config-patcher", &["inspect", "docker-daemon:app:1"]);
    run({
        command.env("DOCKER_HOST", "unix:///nowhere.sock");
        command
    })
    .exits(9)
    .assert_stderr_contains("docker:");
}

/// Another build replaces the image while it is fixed.
#[test]
fn an_image_that_is_replaced_during_a_fix_is_not_overwritten() {
    let rig = need!(Rig::start(&mislabeled()));
    let other = Image::new("linux/amd64", "built meanwhile");
    let other = other.with_config(other.config.replace("1.50", "15"));
    rig.user.write("other.tar", other.classic_archive("app:1"));
    let docker = world::program("docker").unwrap();
    // Another image gets the name right after `docker save`.
    rig.user.script(
        "logging-docker",
        &format!(
            "'{docker}' \"$@\"; ended=$?; test \"$2\" = save && '{docker}' load -q -i '{}' >&2; exit $ended",
            rig.user.path("other.tar").display(),
            docker = docker.display()
        ),
    );
    rig.fix(&[]).exits(8).assert_stderr_contains("--force");
    assert_eq!(rig.docker(&["image", "inspect", "--format", "{{.Id}}", "app:1"]), other.config_digest());
}
