//! Runs the workspace's programs, each test in a home directory of its own, without the environment of the test's user: no
//! credentials, no proxies, no `SOURCE_DATE_EPOCH`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A user: a home directory, a working directory, and a PATH that begins with a directory of this user.
pub struct User {
    dir: TempDir,
}

/// Exit status and output of a program.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    line: String,
}

/// The path of one of the workspace's programs in cargo's target directory.
pub fn program(name: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let directory = exe.parent().and_then(Path::parent).unwrap();
    let path = directory.join(name);
    assert!(path.is_file(), "{} is not there: run `cargo build --workspace --bins` first", path.display());
    path
}

impl User {
    pub fn new() -> Self {
        // In /tmp, because paths of unix sockets are short.
        let dir = tempfile::Builder::new().prefix("user-").tempdir_in("/tmp").unwrap();
        for name in ["home/.docker", "run", "bin", "work"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    /// The working directory of commands.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.work().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Writes credentials to Docker's `config.json`, as `docker login` does.
    pub fn log_in(&self, host: &str, name: &str, password: &str) {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
        let text = serde_json::json!({"auths": {host: {"auth": auth}}}).to_string();
        let path = self.dir.path().join("home/.docker/config.json");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Adds a program to this user's directory, the first in PATH.
    pub fn script(&self, name: &str, text: &str) {
        let path = self.dir.path().join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Makes `cargo xtask ...` work outside the workspace: it runs the program under test and builds nothing.
    pub fn has_cargo_xtask(&self) {
        let xtask = program("xtask");
        self.script("cargo", &format!("test \"$1\" = xtask && shift && exec '{}' \"$@\"", xtask.display()));
    }

    pub fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program(name));
        let home = self.dir.path().join("home");
        let bin = self.dir.path().join("bin");
        command
            .args(args)
            .current_dir(self.work())
            .stdin(Stdio::null())
            .env_clear()
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", home.join(".config"))
            .env("XDG_RUNTIME_DIR", self.dir.path().join("run"))
            .env(
                "PATH",
                format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()),
            )
            .env("MULTIARCH_TEST_BACKOFF_MS", "1");
        command
    }

    pub fn run(&self, name: &str, args: &[&str]) -> Ran {
        run(self.command(name, args))
    }

    pub fn config_patcher(&self, args: &[&str]) -> Ran {
        self.run("config-patcher", args)
    }

    pub fn manifest_push(&self, args: &[&str]) -> Ran {
        self.run("manifest-push", args)
    }

    pub fn release(&self, args: &[&str]) -> Ran {
        self.run("xtask", &[&["release"], args].concat())
    }
}

pub fn run(mut command: Command) -> Ran {
    let line = shown(&command);
    let output = command.output().unwrap_or_else(|error| panic!("{line}: {error}"));
    Ran::of(line, output)
}

pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

impl Ran {
    pub fn of(line: String, output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr), line }
    }

    /// Asserts the exit code; the panic shows all output.
    #[track_caller]
    pub fn exits(self, code: u8) -> Self {
        assert_eq!(self.code, Some(i32::from(code)), "{self}");
        self
    }

    /// Asserts that stderr contains this text.
    #[track_caller]
    pub fn assert_stderr_contains(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "stderr lacks {text:?}\n{self}");
        self
    }

    /// Asserts that stdout is this line and nothing else.
    #[track_caller]
    pub fn prints(self, line: &str) -> Self {
        assert_eq!(self.stdout, format!("{line}\n"), "{self}");
        self
    }

    /// Asserts that stdout is empty.
    #[track_caller]
    pub fn prints_nothing(self) -> Self {
        assert_eq!(self.stdout, "", "{self}");
        self
    }

    /// The one line of stdout.
    #[track_caller]
    pub fn line(&self) -> &str {
        let line = self.stdout.strip_suffix('\n').unwrap_or_else(|| panic!("no line on stdout\n{self}"));
        assert!(!line.contains('\n'), "more than a line on stdout\n{self}");
        line
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.line()).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, stdout, stderr, line } = self;
        write!(f, "{line}\nended with {code:?}\n--- stdout\n{stdout}--- stderr\n{stderr}")
    }
}

/// Every file below a directory: path, mode, time of the last change, and content.
pub fn listing(dir: &Path) -> BTreeMap<PathBuf, (u32, i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut directories = vec![dir.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in
            fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            if meta.is_dir() {
                directories.push(path.clone());
            }
            found.insert(path, (meta.mode(), meta.mtime(), meta.mtime_nsec(), content));
        }
    }
    found
}
