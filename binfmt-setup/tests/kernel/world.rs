//! A user and mount namespace with a private table, kept open by a process, and commands that run in it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};

pub const TABLE: &str = "/proc/sys/fs/binfmt_misc";
const NOBODY: &str = "65534";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum User {
    /// The user who runs the tests.
    Caller,
    Nobody,
}

/// A namespace with an empty private table. It ends when the value is dropped or the test process ends.
pub struct World {
    holder: Child,
    _stdin: ChildStdin,
    user: User,
    /// Readable by every user. Contains a copy of the program and the writable directory.
    pub directory: tempfile::TempDir,
}

/// Reports a test as skipped if this host does not allow it. Fails unless MULTIARCH_ALLOW_SKIP is set.
pub fn skip(why: &str) {
    let allowed = std::env::var_os("MULTIARCH_ALLOW_SKIP").is_some();
    assert!(allowed, "cannot run here: {why}; set MULTIARCH_ALLOW_SKIP=1 to skip such tests");
    eprintln!("SKIPPED: {why}");
}

/// Returns `None` after skipping the test if user namespaces with a private table are not allowed.
pub fn world(user: User) -> Option<World> {
    world_with(user, &format!("mount -t binfmt_misc binfmt_misc {TABLE}"))
}

/// Creates a namespace and runs the shell script `setup` in it.
pub fn world_with(user: User, setup: &str) -> Option<World> {
    let unshare = ["--user", "--map-root-user", "--mount", "--propagation", "private", "sh", "-ec"];
    world_in(user, setup, |_| {
        let mut command = as_user(user, "unshare");
        command.args(unshare);
        command
    })
}

/// Creates a namespace in which all users have the same ids as outside, with an empty table. `None` without root.
pub fn world_of_all_users(setup: &str) -> Option<World> {
    if !nix::unistd::geteuid().is_root() {
        skip("only root can map other users");
        return None;
    }
    world_in(User::Caller, setup, |program| {
        let mut command = Command::new(program);
        // Nothing is registered for the platform of the CPU.
        command.args(["run", "--quiet", "--platform", "linux/amd64", "--", "sh", "-ec"]);
        command
    })
}

fn world_in(user: User, setup: &str, enter: impl FnOnce(&Path) -> Command) -> Option<World> {
    if user == User::Nobody && !nix::unistd::geteuid().is_root() {
        skip("only root can become nobody");
        return None;
    }
    let directory = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let program = directory.path().join("binfmt-setup");
    fs::copy(env!("CARGO_BIN_EXE_binfmt-setup"), &program).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let writable = directory.path().join("writable");
    fs::create_dir(&writable).unwrap();
    fs::set_permissions(&writable, PermissionsExt::from_mode(0o1777)).unwrap();

    let mut command = enter(&program);
    // cat ends with the test process, which has the other end of its stdin.
    command.arg(format!("{setup}\necho ready\nexec cat"));
    let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let stdin = holder.stdin.take().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line != "ready\n" {
        holder.wait().unwrap();
        skip("a user namespace with its own binfmt_misc is not allowed");
        return None;
    }
    let world = World { holder, _stdin: stdin, user, directory };
    world.assert_private_table();
    Some(world)
}

fn as_user(user: User, program: &str) -> Command {
    match user {
        User::Caller => Command::new(program),
        User::Nobody => {
            let mut command = Command::new("setpriv");
            command.args([
                "--reuid",
                NOBODY,
                "--regid",
                NOBODY,
                "--clear-groups",
                "--inh-caps=-all",
                program,
            ]);
            command
        }
    }
}

impl World {
    /// Fails if commands would use the table of the host, which root in a user namespace could write.
    pub fn assert_private_table(&self) {
        for namespace in ["user", "mnt"] {
            let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{namespace}")).unwrap();
            assert_ne!(of("self"), of(&self.holder.id().to_string()));
        }
        // If no table is mounted inside, there is nothing to write to.
        let table = |path: &Path| is_table(path).then(|| fs::metadata(path).unwrap().dev());
        let inside = table(&self.table());
        assert!(inside.is_none() || inside != table(TABLE.as_ref()), "this is the table of the host");
    }

    /// A command that runs inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = as_user(self.user, "nsenter");
        command.args(["--user", "--mount", "--preserve-credentials", "--target"]);
        command.arg(self.holder.id().to_string()).arg("--").arg(program);
        command
    }

    pub fn program(&self) -> PathBuf {
        self.directory.path().join("binfmt-setup")
    }

    /// A directory that the user of the namespace may write.
    pub fn writable_dir(&self) -> PathBuf {
        self.directory.path().join("writable")
    }

    /// Runs binfmt-setup inside.
    pub fn run(&self, arguments: &[&str]) -> RunResult {
        self.assert_private_table();
        run_command(self.command(self.program()).args(arguments))
    }

    /// Runs binfmt-setup under strace, which can make a system call fail or kill the program at it.
    pub fn traced(&self, strace: &[&str], arguments: &[&str]) -> Option<RunResult> {
        if !Path::new("/usr/bin/strace").exists() {
            skip("strace is not installed");
            return None;
        }
        self.assert_private_table();
        let log = self.directory.path().join("strace");
        let mut command = self.command("strace");
        command.arg("-o").arg(log).args(strace).arg(self.program()).args(arguments);
        Some(run_command(&mut command))
    }

    /// The log of strace.
    pub fn trace(&self) -> String {
        fs::read_to_string(self.directory.path().join("strace")).unwrap()
    }

    pub fn shell(&self, script: &str) -> RunResult {
        self.assert_private_table();
        run_command(self.command("sh").args(["-ec", script]))
    }

    /// The path of the table from outside.
    pub fn table(&self) -> PathBuf {
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(&TABLE[1..])
    }

    /// Names of all entries, sorted.
    pub fn entries(&self) -> Vec<String> {
        let names = fs::read_dir(self.table()).unwrap().map(|file| file.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.retain(|name| name != "register" && name != "status");
        names.sort();
        names
    }

    /// The text of one entry.
    pub fn entry(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.table().join(name)).unwrap()).into_owned()
    }

    /// The names and texts of all entries.
    pub fn snapshot(&self) -> Vec<(String, String)> {
        self.entries().into_iter().map(|name| (self.entry(&name), name)).collect()
    }

    /// Registers a line like another program.
    pub fn write(&self, line: &[u8]) {
        self.assert_private_table();
        let file = self.directory.path().join("line");
        fs::write(&file, line).unwrap();
        let script = format!("dd bs=4096 status=none if={} of={TABLE}/register", file.display());
        self.shell(&script).succeeds();
    }

    /// A copy of Debian's emulator of `machine` in the directory of this test.
    pub fn copy_of_emulator(&self, machine: &str, name: &str) -> PathBuf {
        let copy = self.directory.path().join(name);
        fs::copy(format!("/usr/bin/qemu-{machine}-static"), &copy).unwrap();
        fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
        copy
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn is_table(path: &Path) -> bool {
    // BINFMTFS_MAGIC, linux/magic.h.
    nix::sys::statfs::statfs(path).unwrap().filesystem_type() == nix::sys::statfs::FsType(0x4249_4e4d)
}

/// Exit code and output of a program.
#[derive(Debug)]
pub struct RunResult {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

pub fn run_command(command: &mut Command) -> RunResult {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    RunResult { code: status.code(), stdout: text(&stdout), stderr: text(&stderr) }
}

impl RunResult {
    #[track_caller]
    pub fn succeeds(&self) -> &Self {
        self.exits(0)
    }

    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Asserts that an error on stderr contains `word`: `TOOL: cannot VERB THING: REASON; WAY OUT`.
    #[track_caller]
    pub fn reports(&self, word: &str) -> &Self {
        let line = self.stderr.lines().find(|line| line.starts_with("binfmt-setup: cannot "));
        assert!(line.is_some_and(|line| line.contains(word)), "no {word:?} in {self:#?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}
