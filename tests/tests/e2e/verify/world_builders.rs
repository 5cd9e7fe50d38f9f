//! Mislabeled images from real builders: foreign programs, built without `--platform`, have the platform of the host. `verify`
//! reports it, and the command that it prints fixes it.

use super::made::verify;
use crate::tools::{Ran, User, run};
use image_model::platform::Platform;
use multiarch_tests::need;
use multiarch_tests::world::{
    Engine, Namespace, Registry, Skip, containers_env, foreign_busybox, newer_docker, require, rootfs_tar,
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

fn stored_index(user: &User, name: &str) -> serde_json::Value {
    let stored = user.manifest_push(&["inspect", "--bytes", name]).exits(0).stdout;
    serde_json::from_str(&stored).unwrap()
}

/// Builds an app for two platforms on a base that is pinned to the digest of its image for amd64, as litellm and others did in
/// 2025. `build` builds a context for both platforms and pushes it.
fn check_pinned_base(user: &User, registry: &Registry, build: impl Fn(&Path, &str)) -> Result<(), Skip> {
    for (arch, debian) in [("amd64", "amd64"), ("arm64", "arm64")] {
        user.write(&format!("base/{arch}.tar"), rootfs_tar(&foreign_busybox(debian)?));
        user.write(&format!("app/{arch}.txt"), arch);
    }
    let (base, app) = (format!("{}/base", registry.host()), format!("{}/app:1", registry.host()));
    user.write("base/Dockerfile", "FROM scratch\nARG TARGETARCH\nADD $TARGETARCH.tar /\n");
    build(&user.path("base"), &format!("{base}:1"));
    let index = stored_index(user, &format!("{base}:1"));
    let is_amd64 = |entry: &&serde_json::Value| entry["platform"]["architecture"] == "amd64";
    let member = index["manifests"].as_array().unwrap().iter().find(is_amd64).expect("a member for amd64");
    let digest = member["digest"].as_str().unwrap();
    user.write(
        "app/Dockerfile",
        format!("FROM {base}@{digest}\nARG TARGETARCH\nCOPY $TARGETARCH.txt /app.txt\nCMD [\"sh\", \"-c\", \"cat /app.txt\"]\n"),
    );
    build(&user.path("app"), &app);

    let wrong = verify(user, &[&app, "--format", "json"]).exits(1);
    let mut found = wrong.json()["images"].as_array().unwrap().clone();
    found.sort_by_key(|image| image["indexPlatform"]["architecture"].to_string());
    let verdicts: Vec<&str> = found.iter().map(|image| image["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["consistent", "wrong-build"], "{wrong}");
    let reasons = found[1]["reasons"].to_string();
    assert!(
        reasons.contains("it has the same base as linux/amd64: its first layer is that image's"),
        "{wrong}"
    );
    // No relabel, and the advice leaves a sound index.
    user.config_patcher(&["fix", &app, "--from-binaries"]).exits(1);
    let advice = found[1]["rebuild"].as_str().unwrap();
    let remove = advice.split_once("run: manifest-push ").expect("a command").1;
    user.manifest_push(&remove.split(' ').collect::<Vec<_>>()).exits(0);
    verify(user, &[&app, "--full"]).exits(0);
    Ok(())
}

#[test]
fn an_app_on_a_base_pinned_to_one_platform_is_a_wrong_build_of_buildx() {
    let newer = need!(newer_docker());
    let registry = need!(Registry::start());
    let engine =
        need!(Namespace::with_debian_emulators().and_then(|space| Engine::start_newer(space, &newer)));
    engine.reach(registry.host());
    let user = User::new();
    need!(check_pinned_base(&user, &registry, |context, name| {
        let words = [
            "buildx",
            "build",
            "--quiet",
            "--platform",
            "linux/amd64,linux/arm64",
            "--push",
            "-t",
            name,
            ".",
        ];
        assert_success(engine.command(&words).current_dir(context).output().unwrap());
    }));
}

#[test]
fn an_app_on_a_base_pinned_to_one_platform_is_a_wrong_build_of_buildah_and_podman() {
    need!(require(&["buildah", "podman", "runc"]));
    let namespace = need!(Namespace::with_debian_emulators());
    for program in ["buildah", "podman"] {
        let registry = need!(Registry::start());
        let user = User::new();
        let home = tempfile::tempdir().unwrap();
        let variables = containers_env(home.path());
        need!(check_pinned_base(&user, &registry, |context, name| {
            let build = [
                "build",
                "-q",
                "--tls-verify=false",
                "--platform",
                "linux/amd64,linux/arm64",
                "--manifest",
                name,
                ".",
            ];
            let push =
                ["manifest", "push", "-q", "--all", "--tls-verify=false", name, &format!("docker://{name}")];
            for words in [&build[..], &push] {
                let mut command = Command::new(program);
                command.args(words).envs(variables.iter().cloned()).current_dir(context);
                assert_success(namespace.enter(&command).output().unwrap());
            }
        }));
    }
}

/// The case from which this project began, moby#36552.
#[test]
fn an_index_of_docker_manifest_create_is_fixed_from_its_binaries() {
    let busyboxes = [("amd64", need!(foreign_busybox("amd64"))), ("arm", need!(foreign_busybox("armhf")))];
    let registry = need!(Registry::start());
    let engine = need!(Engine::start());
    engine.reach(registry.host());
    let user = User::new();
    let list = format!("{}/app:1", registry.host());
    let mut create = vec!["manifest".to_string(), "create".into(), "--insecure".into(), list.clone()];
    for (tag, busybox) in busyboxes {
        context(&user, &busybox);
        let name = format!("{}/app:{tag}", registry.host());
        let mut build = engine.command(&["build", "-q", "-t", &name, "."]);
        assert_success(build.env("DOCKER_BUILDKIT", "0").current_dir(user.path("context")).output().unwrap());
        assert_success(engine.docker(&["push", "-q", &name]));
        create.push(name);
    }
    assert_success(engine.docker(&create.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_success(engine.docker(&["manifest", "push", "--insecure", &list]));
    let platforms = || -> Vec<String> {
        let index = stored_index(&user, &list);
        let of = |entry: &serde_json::Value| {
            serde_json::from_value::<Platform>(entry["platform"].clone()).unwrap().to_string()
        };
        index["manifests"].as_array().unwrap().iter().map(of).collect()
    };
    assert_eq!(platforms(), ["linux/amd64", "linux/amd64"]);
    let wrong = verify(&user, &[&list, "--format", "json"]).exits(1).json();
    assert_eq!(wrong["images"][0]["verdict"], "consistent", "{wrong}");
    assert_eq!(wrong["images"][1]["verdict"], "mislabeled", "{wrong}");
    user.config_patcher(&["fix", &list, "--from-binaries"]).exits(0);
    assert_eq!(platforms(), ["linux/amd64", "linux/arm/v7"]);
    verify(&user, &[&list, "--full", "--strict"]).exits(0);
}
