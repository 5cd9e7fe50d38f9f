//! A private table to test against: a process that holds a user and mount namespace open, and commands run in there.

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
    /// Whoever runs the tests.
    Caller,
    Nobody,
}

/// A namespace with an empty table of its own. It ends with the value, or with the test process.
pub struct World {
    keeper: Child,
    _stdin: ChildStdin,
    user: User,
    /// Readable by everybody: a copy of the program, and room for the test.
    pub folder: tempfile::TempDir,
}

/// Ends the test as skipped where this machine does not allow what it needs: a failure, unless the caller said that
/// such a machine is meant.
pub fn skip(why: &str) {
    let allowed = std::env::var_os("MULTIARCH_ALLOW_SKIP").is_some();
    assert!(allowed, "cannot run here: {why}; set MULTIARCH_ALLOW_SKIP=1 to skip such tests");
    eprintln!("SKIPPED: {why}");
}

/// `None`, and the test counts as skipped, where user namespaces with a table of their own are not allowed.
pub fn world(user: User) -> Option<World> {
    world_with(user, &format!("mount -t binfmt_misc binfmt_misc {TABLE}"))
}

/// A namespace that `setup`, a shell script, prepares.
pub fn world_with(user: User, setup: &str) -> Option<World> {
    if user == User::Nobody && !nix::unistd::geteuid().is_root() {
        skip("only root can become nobody");
        return None;
    }
    let folder = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let program = folder.path().join("binfmt-setup");
    fs::copy(env!("CARGO_BIN_EXE_binfmt-setup"), &program).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let room = folder.path().join("room");
    fs::create_dir(&room).unwrap();
    fs::set_permissions(&room, PermissionsExt::from_mode(0o1777)).unwrap();

    let mut command = as_user(user, "unshare");
    command.args(["--user", "--map-root-user", "--mount", "--propagation", "private", "sh", "-ec"]);
    // cat ends when the test process, which holds its stdin, does.
    command.arg(format!("{setup}\necho ready\nexec cat"));
    let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let stdin = keeper.stdin.take().unwrap();
    let mut line = String::new();
    BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line != "ready\n" {
        keeper.wait().unwrap();
        skip("a user namespace with its own binfmt_misc is not allowed");
        return None;
    }
    let world = World { keeper, _stdin: stdin, user, folder };
    world.assert_not_the_hosts();
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
    /// Root in a user namespace could write the host's table by accident; never here.
    pub fn assert_not_the_hosts(&self) {
        for namespace in ["user", "mnt"] {
            let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{namespace}")).unwrap();
            assert_ne!(of("self"), of(&self.keeper.id().to_string()));
        }
        // The same folder is no table where none is mounted; then there is nothing to write to.
        let table = |path: &Path| is_table(path).then(|| fs::metadata(path).unwrap().dev());
        let inside = table(&self.table());
        assert!(inside.is_none() || inside != table(TABLE.as_ref()), "this is the table of the host");
    }

    /// Any command inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = as_user(self.user, "nsenter");
        command.args(["--user", "--mount", "--preserve-credentials", "--target"]);
        command.arg(self.keeper.id().to_string()).arg("--").arg(program);
        command
    }

    pub fn program(&self) -> PathBuf {
        self.folder.path().join("binfmt-setup")
    }

    /// Room that the user of the world may write.
    pub fn room(&self) -> PathBuf {
        self.folder.path().join("room")
    }

    pub fn tool(&self, arguments: &[&str]) -> Ended {
        self.assert_not_the_hosts();
        ended(self.command(self.program()).args(arguments))
    }

    /// The tool under strace, which can spoil a system call or kill the tool at it.
    pub fn traced(&self, strace: &[&str], arguments: &[&str]) -> Option<Ended> {
        if !Path::new("/usr/bin/strace").exists() {
            skip("strace is not installed");
            return None;
        }
        self.assert_not_the_hosts();
        let log = self.folder.path().join("strace");
        let mut command = self.command("strace");
        command.arg("-o").arg(log).args(strace).arg(self.program()).args(arguments);
        Some(ended(&mut command))
    }

    /// What strace saw.
    pub fn trace(&self) -> String {
        fs::read_to_string(self.folder.path().join("strace")).unwrap()
    }

    pub fn shell(&self, script: &str) -> Ended {
        self.assert_not_the_hosts();
        ended(self.command("sh").args(["-ec", script]))
    }

    /// The table as seen from outside.
    pub fn table(&self) -> PathBuf {
        Path::new("/proc").join(self.keeper.id().to_string()).join("root").join(&TABLE[1..])
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

    /// Everything that the table says.
    pub fn snapshot(&self) -> Vec<(String, String)> {
        self.entries().into_iter().map(|name| (self.entry(&name), name)).collect()
    }

    /// Registers a line as somebody else would.
    pub fn write(&self, line: &[u8]) {
        self.assert_not_the_hosts();
        let file = self.folder.path().join("line");
        fs::write(&file, line).unwrap();
        let script = format!("dd bs=4096 status=none if={} of={TABLE}/register", file.display());
        self.shell(&script).succeeds();
    }

    /// A copy of Debian's emulator of `machine`, in a place of its own.
    pub fn copy_of_emulator(&self, machine: &str, name: &str) -> PathBuf {
        let copy = self.folder.path().join(name);
        fs::copy(format!("/usr/bin/qemu-{machine}-static"), &copy).unwrap();
        fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
        copy
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn is_table(path: &Path) -> bool {
    // BINFMTFS_MAGIC, linux/magic.h.
    nix::sys::statfs::statfs(path).unwrap().filesystem_type() == nix::sys::statfs::FsType(0x4249_4e4d)
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

pub fn ended(command: &mut Command) -> Ended {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: status.code(), stdout: text(&stdout), stderr: text(&stderr) }
}

impl Ended {
    #[track_caller]
    pub fn succeeds(&self) -> &Self {
        self.exits(0)
    }

    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// One line on stderr, in the form `TOOL: cannot ...: where: what to do`.
    #[track_caller]
    pub fn says(&self, word: &str) -> &Self {
        let line = self.stderr.lines().find(|line| line.starts_with("binfmt-setup: cannot "));
        assert!(line.is_some_and(|line| line.contains(word)), "no {word:?} in {self:#?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}
