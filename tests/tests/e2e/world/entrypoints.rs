//! Entry points of real programs in the sandbox of smoke tests, compared with `docker run --read-only --network none`.

use crate::tools::program;
use multiarch_tests::need;
use multiarch_tests::world::{Engine, debian_root, require_root};
use sandbox::{Sandbox, SandboxEvent, SandboxIds, SandboxUser};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// Packages whose programs are run.
pub const PACKAGES: [&str; 27] = [
    "ca-certificates",
    "caddy",
    "catatonit",
    "curl",
    "dumb-init",
    "git",
    "gosu",
    "haproxy",
    "lighttpd",
    "lua5.4",
    "memcached",
    "mosquitto",
    "nginx-light",
    "nodejs",
    "openjdk-17-jre-headless",
    "openssl",
    "perl",
    "php-cli",
    "postgresql-15",
    "prometheus-node-exporter",
    "python3",
    "redis-server",
    "ruby",
    "runit",
    "s6",
    "sqlite3",
    "tini",
];

/// USER of the image, and the command. All of them end in the same way in both.
const SAME: [(&str, &[&str]); 45] = [
    ("", &["sh", "-c", "echo hello; exit 7"]),
    ("", &["tini", "--", "sh", "-c", "echo below tini"]),
    ("", &["dumb-init", "echo", "below dumb-init"]),
    ("", &["catatonit", "--", "echo", "below catatonit"]),
    ("", &["gosu", "nobody", "id"]),
    ("", &["gosu", "nobody:mail", "id", "-g"]),
    ("", &["chpst", "-u", "nobody", "id", "-u"]),
    ("", &["s6-setuidgid", "nobody", "id", "-u"]),
    ("", &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "id"]),
    ("", &["su", "-s", "/bin/sh", "nobody", "-c", "id -un"]),
    (
        "",
        &[
            "sh",
            "-c",
            "touch /tmp/x && chown nobody:mail /tmp/x && chmod 4711 /tmp/x && stat -c '%U %G %a' /tmp/x",
        ],
    ),
    ("", &["chroot", "/", "id", "-u"]),
    ("", &["id"]),
    ("nobody", &["id"]),
    ("1000", &["id", "-u"]),
    ("1000:2000", &["id", "-G"]),
    ("www-data", &["sh", "-c", "echo $HOME; id -un"]),
    ("postgres", &["sh", "-c", "/usr/lib/postgresql/15/bin/postgres --version; id -Gn"]),
    ("", &["sh", "-c", "echo $HOME $PATH; umask; pwd"]),
    ("", &["java", "-version"]),
    ("", &["java", "-Xmx64m", "-XshowSettings:vm", "-version"]),
    (
        "",
        &[
            "python3",
            "-c",
            "import ssl, threading; t = threading.Thread(target=print, args=['thread']); t.start(); t.join()",
        ],
    ),
    ("", &["python3", "-c", "from multiprocessing import Pool; print(sum(Pool(2).map(abs, [-1, -2])))"]),
    ("", &["python3", "-c", "import os; f = os.memfd_create('x'); print(os.write(f, b'abc'))"]),
    ("", &["node", "-e", "setTimeout(() => console.log('timer'), 5)"]),
    ("", &["nginx", "-v"]),
    ("", &["nginx", "-t"]),
    (
        "",
        &[
            "sh",
            "-c",
            "redis-server --port 7001 --save '' --dir /tmp --daemonize yes > /dev/null; \
                        for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2; redis-cli -p 7001 ping 2> /dev/null && exit; done; exit 1",
        ],
    ),
    ("", &["memcached", "-V"]),
    ("", &["haproxy", "-v"]),
    ("", &["lighttpd", "-v"]),
    ("", &["mosquitto", "-h"]),
    ("", &["perl", "-e", "print fork() ? 'parent' : exit(0)"]),
    ("", &["ruby", "-e", "puts [1, 2].map { |x| Thread.new { x * 2 }.value }.sum"]),
    ("", &["php", "-r", "echo intdiv(7, 2);"]),
    ("", &["lua5.4", "-e", "print(7 // 2)"]),
    ("", &["sh", "-c", "git init -q /tmp/r && cd /tmp/r && git status -s && echo done"]),
    ("", &["openssl", "version"]),
    ("", &["sqlite3", ":memory:", "select 1 + 1"]),
    ("", &["caddy", "version"]),
    ("", &["prometheus-node-exporter", "--version"]),
    ("", &["curl", "-s", "-o", "/dev/null", "http://192.0.2.1/"]),
    (
        "",
        &[
            "sh",
            "-c",
            "touch /x 2> /dev/null; echo $?; unshare -U true 2> /dev/null; echo $?; mount -t tmpfs t /tmp 2> /dev/null; echo $?",
        ],
    ),
    ("", &["sh", "-c", "echo $$; cat /proc/1/comm; ls -d /proc/[0-9]* | wc -l"]),
    ("", &["/absent"]),
];

/// What differs, with the results in Docker and in the sandbox. docs/release.md lists the reasons.
const DIFFERENT: [(&[&str], &str, &str); 4] = [
    (
        &[
            "python3",
            "-c",
            "import socket\ntry: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); print('raw')\nexcept OSError: print('refused')",
        ],
        "raw",
        "refused",
    ),
    (&["sh", "-c", "ls /sys | head -1"], "block", ""),
    (&["sh", "-c", "ulimit -f"], "unlimited", "131072"),
    (&["sh", "-c", "hostname"], "test", "sandbox"),
];

struct Ended {
    code: i32,
    output: String,
}

/// Runs the command as the smoke test of a release does.
fn in_sandbox(root: &Path, user: &str, command: &[&str]) -> Ended {
    let sandbox = Sandbox {
        root: root.into(),
        ids: SandboxIds::of_process(),
        user: SandboxUser::find(root, user).unwrap(),
        command: command.iter().map(ToString::to_string).collect(),
        env: Vec::new(),
        working_dir: "/".into(),
        caller: std::process::id().cast_signed(),
    };
    let mut child = Command::new(program("multiarch"));
    child.arg("smoke-inside").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    serde_json::to_writer(child.stdin.take().unwrap(), &sandbox).unwrap();
    let done = child.wait_with_output().unwrap();
    let events: Vec<SandboxEvent> =
        String::from_utf8_lossy(&done.stdout).lines().filter_map(SandboxEvent::parse).collect();
    let output = String::from_utf8_lossy(&done.stderr).trim().to_string();
    let not_executed = events.iter().any(|event| matches!(event, SandboxEvent::NotExecuted { .. }));
    let status = events.iter().find_map(|event| match event {
        SandboxEvent::Ended { status } => Some(*status),
        _ => None,
    });
    let status = status.unwrap_or_else(|| panic!("{command:?}: {events:?} {output}"));
    let status: ExitStatus = std::os::unix::process::ExitStatusExt::from_raw(status);
    Ended { code: if not_executed { 127 } else { status.code().unwrap_or(-1) }, output }
}

fn in_docker(engine: &Engine, user: &str, command: &[&str]) -> Ended {
    let mut run = engine.command(&["run", "--rm", "--read-only", "--network", "none", "--hostname", "test"]);
    run.args(["--tmpfs", "/tmp:mode=1777", "--entrypoint", command[0]]);
    if !user.is_empty() {
        run.args(["--user", user]);
    }
    let done = run.arg("root").args(&command[1..]).output().unwrap();
    let output = [done.stdout, done.stderr].concat();
    Ended {
        code: done.status.code().unwrap_or(-1),
        output: String::from_utf8_lossy(&output).trim().to_string(),
    }
}

/// The owners of the tree become those of the sandbox, as the unpacker of smoke tests makes them.
fn own(path: &Path, ids: SandboxIds) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let (uid, gid) = ids.outside(metadata.uid().into(), metadata.gid().into());
    lchown(path, Some(uid), Some(gid)).unwrap();
    if metadata.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path(), ids);
        }
    }
    if !metadata.is_symlink() {
        fs::set_permissions(path, fs::Permissions::from_mode(metadata.mode() & 0o1777)).unwrap();
    }
}

/// Lines in any order, because two streams are joined, without what changes from run to run.
fn comparable(output: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = output.lines().map(str::trim).collect();
    lines.retain(|line| !line.contains("Max. Heap Size") && !line.contains("notice:"));
    lines.sort_unstable();
    lines
}

#[test]
fn entry_points_end_as_under_docker() {
    need!(require_root());
    let archive = need!(debian_root("entrypoints", &PACKAGES));
    let engine = need!(Engine::start());
    let imported = engine.docker(&["import", archive.to_str().unwrap(), "root"]);
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let unpacked =
        Command::new("tar").args(["--numeric-owner", "-xpf"]).arg(&archive).arg("-C").arg(&root).status();
    assert!(unpacked.unwrap().success());
    own(&root, SandboxIds::of_process());

    let mut wrong = Vec::new();
    for (user, command) in SAME {
        let (docker, ours) = (in_docker(&engine, user, command), in_sandbox(&root, user, command));
        // The texts of errors before the command runs are the engine's own.
        let same_output = docker.code == 127 || comparable(&docker.output) == comparable(&ours.output);
        if docker.code != ours.code || !same_output {
            wrong.push(format!(
                "{user} {command:?}\n  docker {}: {}\n  sandbox {}: {}",
                docker.code, docker.output, ours.code, ours.output
            ));
        }
    }
    for (command, with_docker, with_us) in DIFFERENT {
        let (docker, ours) = (in_docker(&engine, "", command), in_sandbox(&root, "", command));
        if (docker.output.as_str(), ours.output.as_str()) != (with_docker, with_us) {
            wrong.push(format!("{command:?}\n  docker: {}\n  sandbox: {}", docker.output, ours.output));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), SAME.len(), wrong.join("\n"));
}
