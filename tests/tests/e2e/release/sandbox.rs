//! Smoke tests of an image that tries to leave the sandbox, and of images that try to disable the test.

use crate::tools::{Ran, User, program, run};
use multiarch_tests::fake_registry::FakeRegistry;
use multiarch_tests::{need, world};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A user ID that does not exist on the host.
const ORDINARY: u32 = 12_345;

/// A release of one image for this machine whose smoke test is the attack program.
struct Attacked {
    user: User,
    /// A process of the same user, which the image must not see.
    bystander: world::Proc,
    token: String,
    uid: Option<u32>,
}

impl Attacked {
    fn new(uid: Option<u32>) -> Self {
        Self::of_platform(uid, "linux/amd64", "gcc", "0")
    }

    /// `image_user` is the USER of the image, a number.
    fn of_platform(uid: Option<u32>, platform: &str, compiler: &str, image_user: &str) -> Self {
        let user = User::new();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/attack.c");
        let mut gcc = Command::new(compiler);
        gcc.args(["-static", "-O1", "-Wall", "-o"]).arg(user.path("attack")).arg(source);
        run(gcc).exits(0);
        let secret = user.write("secret", "of the host");
        let token = format!("left-behind-{}", std::process::id());
        let mut sleeping = Command::new("sleep");
        sleeping.arg("600");
        if let Some(uid) = uid {
            sleeping.uid(uid).gid(uid);
        }
        let bystander = world::Proc::spawn(sleeping);
        let smoke = format!("[/attack, \"{}\", \"{}\", \"{token}\"]", secret.display(), bystander.id());
        user.write(
            "release.yaml",
            format!(
                "image: oci:out\nsmoke: {smoke}\nplatforms:\n  {platform}: {{ copy: {{ attack: /attack }}, \
                 user: \"{image_user}\", env: {{ WANTED_UID: \"{image_user}\" }} }}\n"
            ),
        );
        if let Some(uid) = uid {
            own(user.work().parent().unwrap(), uid);
        }
        Self { user, bystander, token, uid }
    }

    fn release(&self) -> Ran {
        let home = self.user.work().parent().unwrap().join("bin");
        let mut command = self.user.command("xtask", &["release"]);
        if let Some(uid) = self.uid {
            // The build directory may be closed to others.
            let mut copied = Command::new(copy(&program("xtask"), &home));
            for (key, value) in command.get_envs() {
                copied.env(key, value.unwrap());
            }
            copied.env("MULTIARCH_BINFMT_SETUP", copy(&program("binfmt-setup"), &home));
            copied.arg("release").current_dir(self.user.work()).uid(uid).gid(uid);
            command = copied;
        }
        command.args(["release.yaml", "--format", "json"]);
        run(command)
    }
}

fn copy(file: &Path, to: &Path) -> PathBuf {
    let to = to.join(file.file_name().unwrap());
    fs::copy(file, &to).unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
    to
}

fn own(dir: &Path, uid: u32) {
    chown(dir, Some(uid), Some(uid)).unwrap();
    for path in crate::tools::listing(dir).keys() {
        chown(path, Some(uid), Some(uid)).unwrap();
    }
}

fn processes_with(argument: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let named =
        |path: PathBuf| fs::read(path.join("cmdline")).is_ok_and(|line| contains(&line, argument.as_bytes()));
    entries.filter(|entry| named(entry.path())).count()
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn attack(mut attacked: Attacked) {
    need!(world::require(&["unshare"]));
    let ran = attacked.release();
    if ran.stderr.contains("not run on this host") {
        world::Skip::because("no private namespaces on this host").report();
        return;
    }
    let report = ran.exits(0).json();
    let smoke = &report["platforms"][0]["smoke"];
    // Before it, an emulator may complain about the limit of processes.
    assert_eq!(smoke["output"].as_str().unwrap().lines().last(), Some("no attack succeeded"), "{smoke}");
    assert_eq!(smoke["result"], "passed", "{smoke}");
    // The process that left its session and its parent has ended with the test.
    assert_eq!(processes_with(&attacked.token), 0);
    assert!(attacked.bystander.ended().is_none());
    assert_eq!(fs::read_to_string(attacked.user.path("secret")).unwrap(), "of the host");
}

#[test]
fn an_image_cannot_reach_the_host_of_an_ordinary_user() {
    need!(world::require_root());
    attack(Attacked::new(Some(ORDINARY)));
}

#[test]
fn an_image_cannot_reach_the_host() {
    attack(Attacked::new(None));
}

#[test]
fn an_image_runs_as_its_user() {
    need!(world::require_root());
    for uid in [None, Some(ORDINARY)] {
        attack(Attacked::of_platform(uid, "linux/amd64", "gcc", "1000"));
    }
}

/// The filter applies to the system calls of the emulator.
#[cfg(feature = "full")]
#[test]
fn an_image_of_another_machine_cannot_reach_the_host() {
    need!(world::require_root());
    need!(world::require(&["aarch64-linux-gnu-gcc", "qemu-aarch64-static"]));
    for uid in [None, Some(ORDINARY)] {
        attack(Attacked::of_platform(uid, "linux/arm64", "aarch64-linux-gnu-gcc", "0"));
    }
}

/// The program runs forever, and the release is killed.
#[test]
fn a_killed_release_leaves_no_process_behind() {
    for signal in [nix::sys::signal::Signal::SIGKILL, nix::sys::signal::Signal::SIGTERM] {
        let attacked = Attacked::new(None);
        let token = format!("endless-{signal}-{}", std::process::id());
        attacked.user.write(
            "release.yaml",
            format!("image: oci:out\nsmoke: [/attack, {token}]\nplatforms:\n  linux/amd64: {{ copy: {{ attack: /attack }} }}\n"),
        );
        let mut command = attacked.user.command("xtask", &["release", "release.yaml"]);
        let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while processes_with(&token) == 0 {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                world::Skip::because("no private namespaces on this host").report();
                return;
            }
            assert!(Instant::now() < until, "the test did not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        child.wait().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while processes_with(&token) > 0 {
            assert!(Instant::now() < until, "{signal}: a process of the image lives on");
            std::thread::sleep(Duration::from_millis(5));
        }
        // The next run removes the tree that was left.
        attacked.user.write(
            "release.yaml",
            "image: oci:out\nplatforms:\n  linux/amd64: { copy: { attack: /attack } }\n",
        );
        attacked.user.release(&["release.yaml"]).exits(0);
        let cache = attacked.user.work().parent().unwrap().join("home/.cache/multiarch");
        let directory = fs::read_dir(cache).unwrap().flatten().find(|entry| entry.path().is_dir()).unwrap();
        assert!(!directory.path().join("smoke").exists());
    }
}

/// Configs with words that look like options, and layers that cannot be unpacked, must not be "not run".
#[test]
fn problems_that_an_image_causes_are_failures_and_nothing_is_published() {
    let registry = FakeRegistry::start();
    let image = format!("{}/team/app", registry.host());
    let user = User::new();
    user.run("xtask", &["example-binaries", "programs"]).exits(0);
    let release = |more: &str, smoke: &str| {
        user.write(
            "release.yaml",
            format!("image: {image}\nsmoke: [{smoke}]\nplatforms:\n  linux/amd64: {{ copy: {{ programs/linux-amd64/hello: /hello }}{more} }}\n"),
        );
        user.release(&["release.yaml"])
    };
    let ran = release("", "/hello");
    if ran.stderr.contains("not run on this host") {
        world::Skip::because("no private namespaces on this host").report();
        return;
    }
    ran.exits(0);
    let published = registry.tag("team/app", "latest");
    for (more, smoke, why) in [
        (", env: { \"-x\": \"1\" }", "/absent", "\"/absent\" is not in the image"),
        (", env: { \"--root\": \"/\" }", "/absent", "\"/absent\" is not in the image"),
        ("", "--root, /", "\"--root\" is not in the image"),
        (", workdir: /hello", "/hello", "working directory \"/hello\""),
    ] {
        let ran = release(more, smoke);
        assert!(!ran.stderr.contains("not run"), "{more}: {ran}");
        let ran = ran.exits(1);
        assert!(ran.stderr.contains("nothing was published") && ran.stderr.contains(why), "{more}: {ran}");
        assert_eq!(registry.tag("team/app", "latest"), published, "{more}");
    }
}

/// Another user could write a record that lets an arm64 program pass as amd64, or a link named `lock`.
#[test]
fn a_work_directory_that_others_can_write_is_refused() {
    need!(world::require_root());
    let user = User::new();
    user.write("app", "the program");
    user.write("release.yaml", "image: oci:out\nplatforms:\n  linux/amd64: { copy: { app: /app } }\n");
    let precious = user.write("precious", "mine");
    let release = |more: &[&str]| user.release(&[&["release.yaml", "--work-dir", "w"], more].concat());
    let mode = |mode: u32| fs::set_permissions(user.path("w"), fs::Permissions::from_mode(mode)).unwrap();
    release(&[]).exits(0);
    let is_private = || fs::metadata(user.path("w")).unwrap().permissions().mode() & 0o777 == 0o700;
    assert!(is_private());
    mode(0o755);
    release(&[]).exits(0);
    assert!(is_private(), "what others may only read is closed to them");

    for (writable, args) in [(0o777, &[][..]), (0o770, &[]), (0o1777, &["--dry-run"])] {
        mode(writable);
        let ran = release(args).exits(4);
        for part in ["w\": other users can write in it", "chmod -R go-w \"w\"", "--work-dir"] {
            assert!(ran.stderr.contains(part), "{part}: {ran}");
        }
    }
    // The advice works as printed.
    let mut chmod = Command::new("chmod");
    chmod.args(["-R", "go-w", "w"]).current_dir(user.work());
    run(chmod).exits(0);
    release(&[]).exits(0);

    chown(user.path("w/records"), Some(ORDINARY), None).unwrap();
    release(&[]).exits(4).assert_stderr_contains("records\": it belongs to user 12345");
    chown(user.path("w"), Some(ORDINARY), None).unwrap();
    release(&[]).exits(4).assert_stderr_contains("w\": it belongs to user 12345");

    fs::remove_dir_all(user.path("w")).unwrap();
    fs::create_dir(user.path("w")).unwrap();
    std::os::unix::fs::symlink(&precious, user.path("w/lock")).unwrap();
    release(&[]).exits(4).assert_stderr_contains("lock\": it is a link");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "mine");
    fs::remove_file(user.path("w/lock")).unwrap();
    nix::unistd::mkfifo(&user.path("w/lock"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    release(&[]).exits(4).assert_stderr_contains("lock\": it is a link or a FIFO");
    fs::remove_file(user.path("w/lock")).unwrap();
    fs::write(user.path("w/lock"), "kept").unwrap();
    release(&[]).exits(0);
    assert_eq!(fs::read_to_string(user.path("w/lock")).unwrap(), "kept");
}

/// A host without the emulator, or without namespaces, must be able to say that this is not enough.
#[test]
fn a_required_test_that_cannot_run_is_a_failure() {
    let registry = FakeRegistry::start();
    let user = User::new();
    user.run("xtask", &["example-binaries", "programs"]).exits(0);
    let platform = |platform: &str, file: &str| {
        format!("  {platform}: {{ copy: {{ programs/{file}/hello: /hello }} }}\n")
    };
    let spec = |smoke: &str, platforms: &str| {
        user.write(
            "release.yaml",
            format!("image: {}/team/app\n{smoke}platforms:\n{platforms}", registry.host()),
        );
    };
    let arm = platform("linux/arm64", "linux-arm64");
    // Without binfmt-setup beside it, no emulator can be used.
    let alone = copy(&program("multiarch"), &user.work().parent().unwrap().join("bin"));
    let release = |args: &[&str]| {
        let mut command = Command::new(&alone);
        for (key, value) in user.command("multiarch", &[]).get_envs() {
            value.map(|value| command.env(key, value));
        }
        command.env_remove("MULTIARCH_BINFMT_SETUP").env("PATH", "/usr/bin:/bin");
        command.args(["release", "release.yaml"]).args(args).current_dir(user.work());
        run(command)
    };
    spec("smoke: [/hello]\n", &arm);
    release(&["--require-smoke"])
        .exits(1)
        .assert_stderr_contains("linux/arm64: not run on this host: ")
        .assert_stderr_contains("1 of 1 smoke tests were not run; nothing was published");
    assert_eq!(registry.tags("team/app"), [""; 0]);
    release(&[]).exits(0).assert_stderr_contains("not run on this host");
    spec("", &arm);
    release(&["--require-smoke"]).exits(3).assert_stderr_contains("the spec has no smoke command");
}
