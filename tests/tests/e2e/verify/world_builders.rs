//! Mislabeled images from real builders: foreign programs, built without `--platform`, have the platform of the host. `verify`
//! reports it, and the command that it prints fixes it.

use super::made::verify;
use crate::tools::{Ran, User, run};
use multiarch_tests::need;
use multiarch_tests::world::{
    Engine, Namespace, Registry, containers_env, foreign_busybox, require, rootfs_tar,
};
use std::path::Path;
use std::process::{Command, Output};

const DOCKERFILE: &str = "FROM scratch\nADD rootfs.tar /\nCMD [\"sh\", \"-c\", \"uname -m\"]\n";

fn context(user: &User, busybox: &Path) {
    user.write("context/rootfs.tar", rootfs_tar(busybox));
    user.write("context/Dockerfile", DOCKERFILE);
}

fn assert_success(done: Output) {
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Verifies the image, runs the printed command, and verifies it again.
fn check_report_and_fix(look: impl Fn(&[&str]) -> Ran, name: &str) {
    let wrong = look(&["verify", name, "--format", "json"]).exits(1);
    let found = wrong.json()["images"][0].clone();
    assert_eq!(
        (&found["verdict"], &found["declaredPlatform"]["architecture"]),
        (&"mislabeled".into(), &"amd64".into()),
        "{wrong}"
    );
    let fix = found["fix"].as_str().unwrap().to_string();
    assert_eq!(fix, format!("config-patcher fix {name} --set-platform linux/arm/v7"));
    let words: Vec<&str> = fix.split(' ').skip(1).collect();
    look(&words).exits(0);
    look(&["verify", name]).exits(0);
    look(&["verify", name, "--full", "--strict", "--no-cache"]).exits(0);
}

#[test]
fn images_that_docker_mislabels_are_reported_and_fixed() {
    let busybox = need!(foreign_busybox("armhf"));
    let registry = need!(Registry::start());
    let engine = need!(Engine::start());
    engine.reach(registry.host());
    let user = User::new();
    context(&user, &busybox);
    for (kit, tag) in [("0", "classic"), ("1", "buildkit")] {
        let name = format!("{}/app:{tag}", registry.host());
        let mut build = engine.command(&["build", "-q", "-t", &name, "."]);
        assert_success(build.env("DOCKER_BUILDKIT", kit).current_dir(user.path("context")).output().unwrap());
        assert_success(engine.docker(&["push", "-q", &name]));
        check_report_and_fix(|arguments| user.config_patcher(arguments), &name);
        // The image in the engine, read with the docker program of that engine.
        let within = |arguments: &[&str]| {
            let mut command = user.command("config-patcher", arguments);
            command.envs(engine.env().into_iter().filter(|(key, _)| key != "PATH"));
            run(command)
        };
        check_report_and_fix(within, &format!("docker-daemon:{name}"));
        let saved = user.write("saved.tar", engine.docker(&["save", &name]).stdout);
        verify(&user, &[&format!("docker-archive:{}", saved.display())]).exits(0);
    }
}

#[test]
fn images_that_buildah_mislabels_are_reported_and_fixed() {
    need!(require(&["buildah", "runc"]));
    let busybox = need!(foreign_busybox("armhf"));
    let registry = need!(Registry::start());
    let namespace = need!(Namespace::with_debian_emulators());
    let user = User::new();
    context(&user, &busybox);
    let home = tempfile::tempdir().unwrap();
    let variables = containers_env(home.path());
    let name = format!("{}/app:buildah", registry.host());
    for words in [&["bud", "-q", "-t", &name, "."][..], &["push", "-q", &name]] {
        let mut command = Command::new("buildah");
        command.args(words).envs(variables.iter().cloned()).current_dir(user.path("context"));
        assert_success(namespace.enter(&command).output().unwrap());
    }
    check_report_and_fix(|arguments| user.config_patcher(arguments), &name);
}
