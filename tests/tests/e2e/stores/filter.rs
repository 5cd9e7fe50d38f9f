//! `config-patcher fix -`: fixes a `docker save` stream between two programs.

use crate::samples::{Image, Index};
use crate::tools::{Ran, User, program, shown};
use image_store::archive::{DockerArchive, OciArchive};
use image_store::check::{CheckDepth, check};
use image_store::store::{ImageSource, Pointer};
use multiarch_tests::need;
use multiarch_tests::world::{self, Engine, run_with_rusage};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

const ARM: [&str; 4] = ["fix", "-", "--set-platform", "linux/arm/v7"];

/// Runs the filter with stdin and stdout redirected to files of the user.
fn filter(user: &User, from: &str, to: &str, args: &[&str]) -> Ran {
    let mut command = user.command("config-patcher", args);
    command.stdin(File::open(user.path(from)).unwrap()).stdout(File::create(user.path(to)).unwrap());
    Ran::of(shown(&command), command.output().unwrap())
}

fn mislabeled() -> Image {
    Image::new("linux/amd64", "arm's own")
}

fn digest_of(path: &Path) -> Option<String> {
    let store = DockerArchive::open(path, None).ok()?;
    let tag = Pointer::Tag("app:1".into());
    assert_eq!(check(&store, &tag, CheckDepth::Layers), []);
    Some(store.resolve(&tag).unwrap().unwrap().digest.to_string())
}

/// Returns whether GNU tar reads the file to its end.
fn is_complete_tar(path: &Path) -> bool {
    Command::new("tar").arg("-tf").arg(path).output().unwrap().status.success()
}

#[test]
fn the_filter_and_a_fix_of_the_file_produce_the_same_image() {
    let user = User::new();
    user.write("app.tar", mislabeled().classic_archive("app:1"));
    let ran = filter(&user, "app.tar", "out.tar", &ARM)
        .exits(0)
        .assert_stderr_contains("declared platform linux/amd64 -> linux/arm/v7");
    user.config_patcher(&["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7"]).exits(0);
    let fixed = digest_of(&user.path("app.tar")).unwrap();
    assert_eq!(digest_of(&user.path("out.tar")).unwrap(), fixed);
    assert!(ran.stderr.lines().any(|line| line == fixed), "{ran}");
}

#[test]
fn a_correct_image_is_passed_through_unchanged_in_both_formats() {
    let user = User::new();
    let right = mislabeled().relabeled("arm", "v7");
    user.write("classic.tar", right.classic_archive("app:1"));
    right.store(&DockerArchive::open_or_create(&user.path("new.tar")).unwrap(), "app:1");
    for name in ["classic.tar", "new.tar"] {
        filter(&user, name, "out.tar", &ARM).exits(0).assert_stderr_contains("all platforms are correct");
        assert!(fs::read(user.path(name)).unwrap() == fs::read(user.path("out.tar")).unwrap(), "{name}");
    }
}

#[test]
fn an_index_is_fixed_from_its_entries_with_and_without_manifest_json() {
    let user = User::new();
    let index = Index::attested(
        &[("linux/amd64", &Image::new("linux/amd64", "amd64's own")), ("linux/arm/v7", &mislabeled())],
        Some(1),
    );
    index.store(&DockerArchive::open_or_create(&user.path("docker.tar")).unwrap(), "app:1");
    index.store(&OciArchive::open_or_create(&user.path("oci.tar")).unwrap(), "1");
    for name in ["docker.tar", "oci.tar"] {
        filter(&user, name, "out.tar", &["fix", "-", "--from-index"])
            .exits(0)
            .assert_stderr_contains("attestation");
        let scheme = name.trim_end_matches(".tar");
        let archive = if scheme == "oci" { "oci-archive:out.tar" } else { "docker-archive:out.tar" };
        let reference = format!("{scheme}-archive:{name}");
        let fixed = user.config_patcher(&["fix", &reference, "--from-index"]).exits(0).stdout;
        let json = user.config_patcher(&["inspect", archive, "--format", "json"]).exits(0).json();
        assert_eq!(json["digest"], fixed.trim());
        user.config_patcher(&["fix", archive, "--from-index", "--check"]).exits(0);
    }
    filter(&user, "docker.tar", "out.tar", &ARM).exits(3).assert_stderr_contains("an index of 2 platforms");
    assert!(
        !is_complete_tar(&user.path("out.tar")) || fs::metadata(user.path("out.tar")).unwrap().len() == 0
    );
}

#[test]
fn check_and_dry_run_write_no_archive() {
    let user = User::new();
    user.write("app.tar", mislabeled().classic_archive("app:1"));
    let out = || fs::read_to_string(user.path("out")).unwrap();
    filter(&user, "app.tar", "out", &[&ARM[..], &["--check"]].concat()).exits(1);
    assert_eq!(out(), "");
    filter(&user, "app.tar", "out", &[&ARM[..], &["--dry-run"]].concat()).exits(0);
    assert_eq!(out(), "");
    filter(&user, "app.tar", "out", &[&ARM[..], &["--dry-run", "--format", "json"]].concat()).exits(0);
    let json: serde_json::Value = serde_json::from_str(&out()).unwrap();
    assert_eq!((&json["changed"], &json["written"]), (&true.into(), &false.into()));
    // A fix of the file prints the same JSON.
    let args =
        ["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7", "--check", "--format", "json"];
    assert_eq!(json, user.config_patcher(&args).exits(1).json());
}

#[test]
fn options_that_need_a_file_are_refused() {
    let user = User::new();
    user.write("app.tar", mislabeled().classic_archive("app:1"));
    let refused = |args: &[&str], why: &str| {
        filter(&user, "app.tar", "out", args).exits(2).assert_stderr_contains(why);
    };
    refused(&[&ARM[..], &["--output", "oci:x"]].concat(), "omit --output");
    refused(&[&ARM[..], &["--tag", "x"]].concat(), "omit --output and --tag");
    refused(&["fix", "-", "--from-binaries"], "--set-platform");
    user.config_patcher(&["inspect", "-"]).exits(2).assert_stderr_contains("docker-archive:FILE");
}

#[test]
fn a_closed_output_pipe_is_an_error_and_not_a_signal() {
    let user = User::new();
    let image = Image::new("linux/amd64", &"x".repeat(4 << 20));
    user.write("app.tar", image.classic_archive("app:1"));
    let mut command = user.command("config-patcher", &ARM);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdin(File::open(user.path("app.tar")).unwrap()).stdout(writer);
    Ran::of(shown(&command), command.output().unwrap()).exits(9).assert_stderr_contains("broken pipe");
}

#[test]
fn a_filter_killed_at_any_write_leaves_no_complete_archive() {
    need!(world::require(&["strace"]));
    let user = User::new();
    let image = Image::new("linux/amd64", &"x".repeat(3 << 20));
    user.write("app.tar", image.classic_archive("app:1"));
    let mut killed = 0;
    for nth in 1.. {
        let mut command = Command::new(world::program("strace").unwrap());
        command
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=write,pwrite64"])
            .args(["-e", &format!("inject=write,pwrite64:signal=SIGKILL:when={nth}")])
            .arg(program("config-patcher"))
            .args(ARM)
            .stdin(File::open(user.path("app.tar")).unwrap())
            .stdout(File::create(user.path("out.tar")).unwrap());
        let done = command.output().unwrap();
        if done.status.success() {
            break;
        }
        killed += 1;
        let length = fs::metadata(user.path("out.tar")).unwrap().len();
        // The last message is written after the last byte of the archive.
        if has_image(&user.path("out.tar")) {
            assert!(is_complete_tar(&user.path("out.tar")));
            continue;
        }
        assert!(
            length == 0 || !is_complete_tar(&user.path("out.tar")),
            "killed at write {nth}, {length} bytes"
        );
    }
    assert!(killed > 10, "{killed}");
    assert!(digest_of(&user.path("out.tar")).is_some());
}

fn has_image(path: &Path) -> bool {
    digest_of(path).is_some()
}

/// 300 MiB of layers.
#[test]
fn memory_use_does_not_grow_with_the_layers() {
    let user = User::new();
    let small = mislabeled();
    let layer_size = 300_u64 << 20;
    let mut file = File::create(user.path("app.tar")).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_path("abc/layer.tar").unwrap();
    header.set_size(layer_size);
    header.set_mode(0o644);
    header.set_cksum();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(512 + layer_size).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
    let mut rest = &small.classic_archive("app:1")[..];
    rest = &rest[512 + small.layer.len().next_multiple_of(512)..];
    file.write_all(rest).unwrap();
    // exec, so that the memory of the filter is measured and not that of the shell.
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(
        "exec '{}' {} < '{}' > '{}'",
        program("config-patcher").display(),
        ARM.join(" "),
        user.path("app.tar").display(),
        user.path("out.tar").display()
    ));
    let (done, peak) = run_with_rusage(command);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(peak < 32 << 10, "{peak} KiB");
    assert!(fs::metadata(user.path("out.tar")).unwrap().len() > layer_size);
}

#[test]
fn docker_saves_to_the_filter_and_loads_its_output() {
    let engine = need!(Engine::start());
    let user = User::new();
    // Docker requires an integer there.
    let image = mislabeled();
    let image = image.with_config(image.config.replace("1.50", "15"));
    user.write("app.tar", image.classic_archive("app:1"));
    let docker = |args: &[&str]| {
        let done = engine.docker(args);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_string()
    };
    docker(&["load", "-i", &user.path("app.tar").display().to_string()]);
    let pipe = |platform: &str| {
        let mut command = Command::new("bash");
        command.args(["-o", "pipefail", "-c"]).envs(engine.env());
        let tool = program("config-patcher");
        let text =
            format!("docker save app:1 | '{}' fix - --set-platform {platform} | docker load", tool.display());
        Ran::of(text.clone(), command.arg(text).output().unwrap())
    };
    pipe("linux/arm/v7").exits(0);
    let shown =
        || docker(&["image", "inspect", "--format", "{{.Os}}/{{.Architecture}}/{{.Variant}}", "app:1"]);
    assert_eq!(shown(), "linux/arm/v7");
    // After an error of the filter, the engine still has the old image.
    let id = docker(&["image", "inspect", "--format", "{{.Id}}", "app:1"]);
    let ran = pipe("linux/arm64 --member linux/arm");
    assert_ne!(ran.code, Some(0), "{ran}");
    assert_eq!(docker(&["image", "inspect", "--format", "{{.Id}}", "app:1"]), id);
}
