//! Measurements of whole programs, which run in turn, so that a slow phase of the machine affects all of them.

use cli::table;
use error::Error;
use error::Exit;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A program that does the job.
pub struct Contestant<'a> {
    pub name: &'a str,
    /// Restores the same state before each round; not timed.
    pub prepare: Box<dyn Fn() -> Result<(), Error> + 'a>,
    /// The command that is timed. Its output is discarded by default.
    pub command: Box<dyn Fn() -> Command + 'a>,
}

/// The measured program, a temporary directory, and a number for each round.
pub struct Ground {
    pub tool: PathBuf,
    dir: TempDir,
    turn: Cell<usize>,
}

impl Ground {
    pub fn of(package: &str) -> Result<Self, Error> {
        let tool = release_build(package)?;
        let dir = folder_near(&tool)?;
        Ok(Self { tool, dir, turn: Cell::new(0) })
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn next(&self) -> usize {
        self.turn.set(self.turn.get() + 1);
        self.turn.get()
    }
}

/// A directory in the target directory, since /tmp may be in memory.
pub fn folder_near(program: &Path) -> Result<TempDir, Error> {
    let near = program.parent().unwrap_or(Path::new("."));
    let made = tempfile::Builder::new().prefix("bench-").tempdir_in(near);
    made.map_err(|e| Error::from_io("create a directory for measurements", e))
}

/// A contestant that needs no preparation.
pub fn contestant<'a>(name: &'a str, command: Box<dyn Fn() -> Command + 'a>) -> Contestant<'a> {
    Contestant { name, prepare: Box::new(|| Ok(())), command }
}

/// Time and memory of one contestant.
#[derive(Clone, Debug)]
pub struct Figures {
    pub name: String,
    /// Sorted wall-clock times, one for each round.
    pub times: Vec<Duration>,
    /// The largest VmHWM of the program itself, in KiB; 0 if it ended too soon to be sampled.
    pub peak_kib: u64,
}

impl Figures {
    pub fn median(&self) -> Duration {
        self.times.get(self.times.len() / 2).copied().unwrap_or_default()
    }
}

/// Runs every contestant once in each round, after one warm-up round.
pub fn race(contestants: &[Contestant<'_>], rounds: usize) -> Result<Vec<Figures>, Error> {
    let mut figures: Vec<Figures> = contestants
        .iter()
        .map(|one| Figures { name: one.name.to_owned(), times: Vec::new(), peak_kib: 0 })
        .collect();
    for round in 0..=rounds {
        for (contestant, figures) in contestants.iter().zip(&mut figures) {
            (contestant.prepare)()?;
            let (time, peak) = run_one(contestant)?;
            figures.peak_kib = figures.peak_kib.max(peak);
            if round > 0 {
                figures.times.push(time);
            }
        }
    }
    figures.iter_mut().for_each(|one| one.times.sort());
    Ok(figures)
}

/// One line for each contestant, with the ratio of its median to that of the contestant `against`.
pub fn print(title: &str, figures: &[Figures], against: &str) {
    let base = figures.iter().find(|one| one.name == against).map_or(Duration::ZERO, Figures::median);
    let milliseconds = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
    let ends = |one: &Figures| match (one.times.first(), one.times.last()) {
        (Some(least), Some(most)) => format!("{}..{}", milliseconds(*least), milliseconds(*most)),
        _ => String::new(),
    };
    let rows: Vec<Vec<String>> = figures
        .iter()
        .map(|one| {
            let ratio = one.median().as_secs_f64() / base.as_secs_f64().max(f64::MIN_POSITIVE);
            let peak = match one.peak_kib {
                0 => "-".to_owned(),
                kib => format!("{:.1} MiB", kib as f64 / 1024.0),
            };
            vec![one.name.clone(), milliseconds(one.median()), ends(one), format!("{ratio:.2} x"), peak]
        })
        .collect();
    println!("{title}: median of {} rounds", figures.first().map_or(0, |one| one.times.len()));
    print!("{}", table(&["", "MS", "LEAST..MOST", &format!("AGAINST {against}"), "PEAK RSS"], &rows));
    println!();
}

fn run_one(contestant: &Contestant<'_>) -> Result<(Duration, u64), Error> {
    let mut command = (contestant.command)();
    let doing = || format!("run \"{}\"", contestant.name);
    let begun = Instant::now();
    let mut child = command.spawn().map_err(|e| Error::from_io(doing(), e))?;
    let (status, peak) = wait(&mut child).map_err(|e| Error::from_io(doing(), e))?;
    let time = begun.elapsed();
    match status.success() {
        true => Ok((time, peak)),
        false => Err(Error::new(Exit::CheckFailed, doing(), format!("it ended with {status}: {command:?}"))),
    }
}

/// Waits for the process and samples its memory. `ru_maxrss` would include the memory of this process before exec.
fn wait(child: &mut Child) -> std::io::Result<(ExitStatus, u64)> {
    let mut peak = 0;
    loop {
        peak = peak.max(peak_of(child.id()));
        if let Some(status) = child.try_wait()? {
            return Ok((status, peak));
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// `VmHWM` in KiB, proc_pid_status(5); 0 for a process that has ended.
fn peak_of(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}

/// A program of the workspace, built with the release profile.
pub fn release_build(package: &str) -> Result<PathBuf, Error> {
    let doing = || format!("build {package} for release");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--quiet", "--message-format=json", "--package", package]);
    let built = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let built = built.map_err(|e| Error::from_io(doing(), e))?;
    if !built.status.success() {
        return Err(Error::new(Exit::CheckFailed, doing(), format!("cargo ended with {}", built.status)));
    }
    // The path is in cargo's messages; the target directory may be anywhere.
    let executable = String::from_utf8_lossy(&built.stdout).lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == package;
        is_it.then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executable.ok_or_else(|| Error::not_found(doing(), "cargo names no program of this package"))
}

/// A command without input and output.
pub fn quiet(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Returns whether a program is in `PATH`.
pub fn is_here(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}

/// Reports and skips a peer that is not installed.
pub fn here(program: &str) -> bool {
    let found = is_here(program);
    if !found {
        println!("{program} is not here");
    }
    found
}
