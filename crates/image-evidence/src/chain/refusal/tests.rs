//! Starts that the kernel refuses, and starts about which nothing is certain.

use crate::chain::follow;
use crate::elf::tests::Made;
use crate::layer::tests::{Tar, elf};
use crate::overlay::OverlayTree;
use image_model::manifest::Config;

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
const MUSL: &str = "/lib/ld-musl-x86_64.so.1";

fn dynamic(loader: &'static str) -> Vec<u8> {
    Made { interpreter: Some(loader), ..Made::new(true, false, 62, 0) }.file()
}

fn object() -> Vec<u8> {
    let mut file = elf(62);
    file[16] = 1; // ET_REL
    file
}

fn base() -> Tar {
    Tar::default()
        .file("bin/sh", &elf(62))
        .file("bin/busybox", &elf(62))
        .file("usr/bin/env", &elf(62))
        .file("sbin/tini", &elf(62))
        .file("usr/bin/dockerize", &elf(62))
        .file("usr/bin/xz", &elf(62))
        .symlink("usr/local/bin/env", "/bin/busybox")
        .file("srv/app", &elf(62))
        .file("srv/run.sh", b"#!/bin/sh\nexec \"$@\"\n")
        .data("srv/plain", &elf(62))
        .data("usr/bin/plain", &elf(62))
        .file("srv/crlf.sh", b"#!/bin/sh\r\necho\r\n")
        .file("srv/env-crlf", b"#!/usr/bin/env xz\r\n")
        .file("srv/env-bash", b"#!/usr/bin/env bash\n")
        .file("srv/busybox-env-bash", b"#!/usr/local/bin/env bash\n")
        .file("srv/busybox-env-httpd", b"#!/usr/local/bin/env httpd\n")
        .file("srv/env-words", b"#!/usr/bin/env sh -e\n")
        .file("srv/no-bash", b"#!/bin/bash\n")
        .file("srv/relative", b"#!sh\n")
        .file("srv/no-slash", b"#!app\n")
        .file("srv/empty-line", b"#! \n")
        .file("srv/not-executable", b"#!/srv/plain\n")
        .file("srv/text", b"echo hello\n")
        .file("srv/of-text", b"#!/srv/text\n")
        .file("srv/empty", b"")
        .file("srv/bom", b"\xef\xbb\xbf#!/bin/sh\n")
        .file("srv/app.jar", b"PK\x03\x04")
        .file("srv/module.wasm", b"\0asm\x01\0\0\0")
        .file("srv/mach-o", b"\xcf\xfa\xed\xfe\x0c\0\0\x01")
        .file("srv/object.o", &object())
        .file("srv/needs-glibc", &dynamic(LOADER))
        .file("srv/needs-musl", &dynamic(MUSL))
        .file("srv/needs-text", &dynamic("/srv/text"))
        .file("srv/needs-data", &dynamic("/srv/plain"))
        .file("srv/in-volume", &dynamic("/data/ld.so"))
        .file("srv/s1", b"#!/srv/s2\n")
        .file("srv/s2", b"#!/srv/s3\n")
        .file("srv/s3", b"#!/srv/s4\n")
        .file("srv/s4", b"#!/srv/s5\n")
        .file("srv/s5", b"#!/srv/s6\n")
        .file("srv/s6", b"#!/bin/sh\n")
        .symlink("srv/link", "/data/app")
        .symlink("srv/dangling", "/nowhere/app")
        .file(&LOADER[1..], &elf(62))
}

/// Returns the text of the failure; empty if there is none.
fn failure(config: &Config) -> String {
    let layer = base().facts();
    let tree = OverlayTree::new(vec![Some(&layer)]);
    follow(&tree, config).failure.map_or(String::new(), |failure| failure.to_string())
}

fn config(entrypoint: &[&str]) -> Config {
    Config {
        entrypoint: entrypoint.iter().map(|word| (*word).to_string()).collect(),
        working_dir: "/srv".into(),
        volumes: vec!["/data".into(), "/srv/var/".into()],
        ..Config::default()
    }
}

#[track_caller]
fn check(entrypoint: &[&str], wanted: &str) {
    assert_eq!(failure(&config(entrypoint)), wanted, "{entrypoint:?}");
}

#[test]
fn programs_that_are_absent_or_not_executable_are_refused() {
    check(&["/srv/app"], "");
    check(&["./app"], "");
    check(&["sh"], "");
    check(&["/absent"], "/absent (entrypoint) is not in the image");
    check(&["./absent"], "/srv/absent (entrypoint) is not in the image");
    check(&["/srv/dangling"], "/srv/dangling (entrypoint) is not in the image");
    check(&["absent"], "absent (entrypoint) is in no directory of PATH");
    check(&[""], "");
    check(&["/srv/app --flag"], "/srv/app --flag (entrypoint) is not in the image");
    check(&["$APP"], "$APP (entrypoint) is in no directory of PATH");
    check(&["/srv"], "/srv (entrypoint) is not a regular file");
    check(&["/srv/plain"], "/srv/plain (entrypoint, layer 0) has no execute permission");
    check(&["plain"], "/usr/bin/plain (entrypoint, layer 0) has no execute permission");
    let cmd = Config { cmd: vec![String::new()], ..config(&[]) };
    assert_eq!(failure(&cmd), "the command is an empty word");
    let reset = Config { cmd: vec!["/absent".into()], ..config(&[""]) };
    assert_eq!(failure(&reset), "/absent (command) is not in the image");
}

#[test]
fn scripts_without_their_interpreter_are_refused() {
    check(&["/srv/run.sh"], "");
    check(&["/srv/run.sh", "/absent"], "");
    let crlf = "/srv/crlf.sh (layer 0) needs the interpreter /bin/sh\\r, which is not in the image: the first line ends with a \
                carriage return (Windows line ending)";
    check(&["/srv/crlf.sh"], crlf);
    check(&["tini", "--", "/srv/crlf.sh"], crlf);
    check(&["sh", "/srv/crlf.sh"], "");
    check(&["/srv/env-crlf"], "/usr/bin/env (layer 0) starts xz\\r, which is in no directory of PATH");
    check(&["/srv/env-bash"], "/usr/bin/env (layer 0) starts bash, which is in no directory of PATH");
    check(&["/srv/env-words"], "/usr/bin/env (layer 0) starts sh -e, which is in no directory of PATH");
    check(&["/srv/busybox-env-bash"], "/bin/busybox (layer 0) starts bash, which is in no directory of PATH");
    check(&["/srv/busybox-env-httpd"], "");
    check(
        &["/srv/no-bash"],
        "/srv/no-bash (layer 0) needs the interpreter /bin/bash, which is not in the image",
    );
    // The kernel does not search PATH, but looks in the working directory.
    check(&["/srv/relative"], "/srv/relative (layer 0) needs the interpreter sh, which is not in the image");
    check(&["/srv/no-slash"], "");
    check(
        &["/srv/not-executable"],
        "/srv/not-executable (layer 0) needs the interpreter /srv/plain, which has no execute permission",
    );
    check(
        &["/srv/of-text"],
        "/srv/of-text (layer 0) needs the interpreter /srv/text, which cannot be executed: it is text without a #! line",
    );
    check(&["/srv/s2"], "");
    check(
        &["/srv/s1"],
        "/srv/s5 (layer 0) needs the interpreter /srv/s6, which starts more interpreters than the kernel follows",
    );
}

#[test]
fn files_that_are_no_programs_are_refused_where_no_shell_takes_them() {
    let refused = |name: &str, kind: &str| {
        let path = format!("/srv/{name}");
        check(&[&path], &format!("{path} (entrypoint, layer 0) cannot be executed: it is {kind}"));
        // execvp(3) of glibc starts a shell.
        check(&["tini", &path], "");
        check(&["sh", "-c", &path], "");
    };
    refused("text", "text without a #! line");
    refused("empty", "empty");
    refused("empty-line", "a script with an empty #! line");
    refused("bom", "a script with a byte order mark before #!");
    refused("app.jar", "a zip archive");
    check(&["/srv/module.wasm"], "");
    check(
        &["/srv/mach-o"],
        "/srv/mach-o (entrypoint, layer 0) is a program for darwin/arm64, which no Linux kernel runs",
    );
    check(
        &["tini", "/srv/mach-o"],
        "/sbin/tini (layer 0) starts /srv/mach-o, which is a program for darwin/arm64, which no Linux kernel runs",
    );
    check(&["/srv/object.o"], "/srv/object.o (entrypoint, layer 0) is an ELF file that is not a program");
}

#[test]
fn programs_without_their_loader_are_refused() {
    check(&["/srv/needs-glibc"], "");
    let musl = "/srv/needs-musl (layer 0) needs the loader /lib/ld-musl-x86_64.so.1, which is not in the image; the image has \
                glibc's, /lib64/ld-linux-x86-64.so.2";
    check(&["/srv/needs-musl"], musl);
    check(&["tini", "--", "/srv/needs-musl"], musl);
    check(&["/bin/sh", "-c", "exec /srv/needs-musl --port 80 > /log 2>&1"], musl);
    check(&["/srv/run.sh", "/srv/needs-musl"], "");
    check(
        &["/srv/needs-text"],
        "/srv/needs-text (layer 0) needs the loader /srv/text, which is not an ELF file",
    );
    check(
        &["/srv/needs-data"],
        "/srv/needs-data (layer 0) needs the loader /srv/plain, which has no execute permission",
    );
}

#[test]
fn what_wrappers_start_is_refused_only_if_it_is_certain() {
    check(&["tini", "--", "/absent"], "/sbin/tini (layer 0) starts /absent, which is not in the image");
    check(&["tini", "absent"], "/sbin/tini (layer 0) starts absent, which is in no directory of PATH");
    check(&["/bin/sh", "-c", "/absent -x"], "/bin/sh (layer 0) starts /absent, which is not in the image");
    // It may write the file, or be a builtin.
    check(&["dockerize", "/absent"], "");
    check(&["sh", "-c", "absent"], "");
    check(&["sh", "-c", "cp /srv/app /absent; /absent"], "");
    check(&["sh", "-c", "/absent || /srv/app"], "");
    check(&["sh", "-c", "cp /srv/app /absent\n/absent"], "");
    check(&["sh", "-c", "$APP"], "");
}

#[test]
fn what_may_be_mounted_is_not_refused() {
    check(&["/data/app"], "");
    check(&["/data"], "");
    check(&["var/app"], "");
    check(&["/srv/link"], "");
    check(&["/srv/in-volume"], "");
    check(&["/proc/self/exe"], "");
    check(&["/dev/init"], "");
    let with_path =
        |path: &str| failure(&Config { env: vec![format!("PATH={path}")], ..config(&["absent"]) });
    assert_eq!(with_path("/bin:/data/bin"), "");
    assert_eq!(with_path("/bin:bin"), "");
    assert_eq!(with_path("/bin:/sbin"), "absent (entrypoint) is in no directory of PATH");
    let all = Config { volumes: vec!["/".into()], ..config(&["/absent"]) };
    assert_eq!(failure(&all), "");
    assert_eq!(
        failure(&Config { volumes: Vec::new(), ..config(&["/data/app"]) }),
        "/data/app (entrypoint) is not in the image"
    );
}
