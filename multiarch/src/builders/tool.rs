//! Runs the command line of an engine, with its output in a log.

use super::BuildJob;
use crate::spec::{BuildArgs, DockerfileRecipe, Secret, SecretSource};
use error::Error;
use error::Exit;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Number of lines of a log in an error, and number of bytes that are searched for them.
const LINES_SHOWN: usize = 20;
const TAIL: u64 = 16 << 10;

#[cfg(test)]
mod tests;

/// The program of an engine.
#[derive(Clone)]
pub struct Tool {
    pub name: &'static str,
    program: OsString,
    /// The docker context, if one was given.
    context: Option<String>,
}

impl Tool {
    /// `variable` overrides the file: `MULTIARCH_DOCKER=/usr/bin/docker`.
    pub fn new(name: &'static str, variable: &str) -> Self {
        let program = std::env::var_os(variable).filter(|said| !said.is_empty());
        Self { name, program: program.unwrap_or_else(|| name.into()), context: None }
    }

    #[cfg(test)]
    pub(super) fn at(name: &'static str, program: &Path) -> Self {
        Self { name, program: program.into(), context: None }
    }

    /// The program for the engine of a docker context, which overrides DOCKER_HOST.
    pub fn in_context(self, context: &str) -> Self {
        Self { context: Some(context.to_string()), ..self }
    }

    /// The name in a spec: `docker:arm-node`.
    pub fn builder_name(&self) -> String {
        match &self.context {
            Some(context) => format!("{}:{context}", self.name),
            None => self.name.to_string(),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(context) = &self.context {
            command.arg("--context").arg(context);
        }
        command
    }

    /// The command as text.
    pub fn shown(&self, step: &Step) -> String {
        match &self.context {
            Some(context) => step.shown(&format!("{} --context {}", self.name, quoted(context))),
            None => step.shown(self.name),
        }
    }

    /// Returns the output of a command that changes nothing. `Err` is a reason, in one line.
    pub fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.command();
        let output =
            command.args(arguments).stdin(Stdio::null()).output().map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => "it is not installed".to_string(),
                _ => format!("it does not start: {error}"),
            })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_string());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
        Err(line.map_or_else(|| format!("it ends with {}", output.status), str::to_string))
    }

    /// Runs a step of a build.
    ///
    /// # Errors
    /// `CommandFailed` if the program fails, with the last lines of its output; as [`Error::from_io`] if it does not start.
    pub fn run(&self, step: &Step, log: &Path) -> Result<(), Error> {
        let doing = || format!("run \"{}\"", self.shown(step));
        let mut file = open_log(log).map_err(|e| Error::from_io(doing(), e))?;
        writeln!(file, "$ {}", self.shown(step)).map_err(|e| Error::from_io(doing(), e))?;
        let begin = file.seek(SeekFrom::End(0)).map_err(|e| Error::from_io(doing(), e))?;
        let mut command = self.command();
        command.args(&step.arguments).envs(step.environment.iter().map(|(name, value)| (name, value)));
        for name in &step.removed {
            command.env_remove(name);
        }
        command.stdin(Stdio::null());
        let status = match step.secrets.is_empty() {
            true => run_into(command, &file),
            false => run_redacted(command, &file, &step.secrets),
        };
        let status = status.map_err(|e| Error::from_io(doing(), e))?;
        if status.success() {
            return Ok(());
        }
        let lines = last_lines(&mut file, begin).unwrap_or_default();
        Err(Error::new(Exit::CommandFailed, doing(), format!("it ended with {status}"))
            .hint(format!("nothing was published; all that it said is in {}", log.display()))
            .problems(lines.iter().map(|line| format!("{}: {line}", self.name)).collect()))
    }
}

fn run_into(mut command: Command, log: &File) -> std::io::Result<ExitStatus> {
    command.stdout(log.try_clone()?).stderr(log.try_clone()?).status()
}

/// Runs a step with secrets, which are replaced in the log.
fn run_redacted(mut command: Command, log: &File, secrets: &[Hidden]) -> std::io::Result<ExitStatus> {
    let (reader, writer) = std::io::pipe()?;
    let mut child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // Closes its ends of the pipe: the reader waits until all of them are closed.
    drop(command);
    let (mut log, secrets) = (log.try_clone()?, secrets.to_vec());
    let (ended, has_ended) = mpsc::channel();
    std::thread::spawn(move || {
        let copied = copy_redacted(reader, &mut log, &secrets);
        // A process of the build that is still running may keep the pipe open.
        let _ = ended.send(copied);
    });
    let status = child.wait()?;
    match has_ended.recv_timeout(LEFT_BEHIND) {
        Ok(copied) => copied.map(|()| status),
        Err(_) => Ok(status),
    }
}

/// Time limit for output after the build has ended.
const LEFT_BEHIND: Duration = Duration::from_secs(2);

/// Bytes that are redacted and written at once, however long a line is.
const CHUNK: usize = 64 << 10;

/// Copies the output. Only as many bytes are kept as a secret at the end of a chunk may need to be complete.
fn copy_redacted(mut reader: impl Read, log: &mut impl Write, secrets: &[Hidden]) -> std::io::Result<()> {
    let longest = secrets.iter().map(|secret| secret.value.len()).max().unwrap_or(0);
    let mut kept = Vec::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = match reader.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        kept.extend_from_slice(&chunk[..count]);
        let end = if count == 0 { kept.len() } else { kept.len().saturating_sub(longest.saturating_sub(1)) };
        let done = write_redacted(&kept, end, log, secrets)?;
        kept.drain(..done);
        if count == 0 {
            return Ok(());
        }
    }
}

/// Writes the bytes before `end`, and a secret that begins there with its last byte. Returns the number of bytes.
fn write_redacted(
    text: &[u8],
    end: usize,
    log: &mut impl Write,
    secrets: &[Hidden],
) -> std::io::Result<usize> {
    let (mut at, mut plain) = (0, 0);
    while at < end {
        // Of two secrets that begin here, the longer one.
        let found = secrets.iter().filter(|secret| text[at..].starts_with(secret.value.as_bytes()));
        let Some(secret) = found.max_by_key(|secret| secret.value.len()) else {
            at += 1;
            continue;
        };
        log.write_all(&text[plain..at])?;
        log.write_all(secret.shown.as_bytes())?;
        at += secret.value.len();
        plain = at;
    }
    log.write_all(&text[plain..at])?;
    Ok(at)
}

/// A value that must not be printed, and its replacement.
#[derive(Clone)]
struct Hidden {
    value: String,
    shown: &'static str,
}

/// One command of a builder.
#[derive(Default)]
pub struct Step {
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    /// Environment variables that are removed.
    removed: Vec<&'static str>,
    /// Values that must not be printed.
    secrets: Vec<Hidden>,
}

impl Step {
    pub fn new(arguments: &[&str]) -> Self {
        Self { arguments: arguments.iter().map(OsString::from).collect(), ..Self::default() }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn without_env(mut self, name: &'static str) -> Self {
        self.removed.push(name);
        self
    }

    /// The options of a recipe that docker, buildx, podman and buildah share.
    pub fn recipe(mut self, recipe: &DockerfileRecipe) -> Self {
        if let Some(target) = &recipe.target {
            self = self.arg("--target").arg(target);
        }
        self = self.build_args(&recipe.build_args);
        for secret in &recipe.secrets {
            self = self.secret(secret);
        }
        for (name, context) in &recipe.build_contexts {
            self = self.arg("--build-context").arg(format!("{name}={context}"));
        }
        for from in &recipe.cache_from {
            self = self.arg("--cache-from").arg(from);
        }
        for to in &recipe.cache_to {
            self = self.arg("--cache-to").arg(to);
        }
        self.arg("--file").arg(&recipe.dockerfile).arg(operand(&recipe.context))
    }

    /// The options of a recipe for BuildKit: one image without attestations, with the creation time of SOURCE_DATE_EPOCH.
    pub fn buildkit(mut self, job: &BuildJob, recipe: &DockerfileRecipe) -> Self {
        if let Some(epoch) = job.epoch {
            self = self.env("SOURCE_DATE_EPOCH", &epoch.to_string());
        }
        self.env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1").recipe(recipe)
    }

    fn hide(&mut self, value: String, shown: &'static str) {
        if value.len() >= SECRET_MIN {
            self.secrets.push(Hidden { value, shown });
        }
    }

    /// The source of a secret is an argument, its value never is.
    fn secret(mut self, secret: &Secret) -> Self {
        let (source, value) = match &secret.source {
            SecretSource::File(file) => {
                (format!("src={}", file.display()), std::fs::read_to_string(file).ok())
            }
            SecretSource::Variable(name) => (format!("env={name}"), std::env::var(name).ok()),
        };
        // Each line of a file may be printed separately.
        let value = value.unwrap_or_default();
        let lines = value.lines().map(|line| line.trim().to_string());
        lines.for_each(|line| self.hide(line, "[secret]"));
        self.arg("--secret").arg(format!("id={},{source}", secret.id))
    }

    /// Arguments are visible to every user of the host, so the values of secrets are passed in the environment, where the engine
    /// reads the variable with the name. All other values are arguments: a variable could configure the engine's program.
    fn build_args(mut self, args: &BuildArgs) -> Self {
        for (name, value) in &args.0 {
            self = self.arg("--build-arg");
            let secret = match value {
                Some(value) if is_secret(name) => {
                    self = self.arg(name).env(name, value);
                    Some(value.clone())
                }
                Some(value) => {
                    self = self.arg(format!("{name}={value}"));
                    None
                }
                None => {
                    self = self.arg(name);
                    std::env::var(name).ok()
                }
            };
            if let Some(value) = secret {
                self.hide(value, "[build argument]");
            }
        }
        self
    }

    /// The command as text, quoted for a shell, without values of build arguments.
    fn shown(&self, name: &str) -> String {
        let mut shown = name.to_string();
        let mut is_build_arg = false;
        for argument in &self.arguments {
            let mut argument = argument.to_string_lossy().into_owned();
            if is_build_arg {
                argument.truncate(argument.find('=').unwrap_or(argument.len()));
            }
            is_build_arg = argument == "--build-arg";
            shown.push(' ');
            shown.push_str(&quoted(&argument));
        }
        shown
    }
}

/// Shorter values are not replaced: they are no secrets, and the log would become unreadable.
const SECRET_MIN: usize = 4;

/// Returns whether a build argument has the name of a secret. Names of variables that engines, or the programs that they start, read are
/// excluded.
fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 7] =
        ["TOKEN", "PASSWORD", "PASSWD", "SECRET", "CREDENTIAL", "API_KEY", "PRIVATE_KEY"];
    const OF_PROGRAMS: [&str; 12] = [
        "BUILDAH",
        "BUILDKIT",
        "BUILDX",
        "CONTAINER",
        "DOCKER",
        "GIT_",
        "LD_",
        "PODMAN",
        "REGISTRY",
        "SSH_",
        "XDG_",
        "_",
    ];
    let name = name.to_ascii_uppercase();
    WORDS.iter().any(|word| name.contains(word)) && !OF_PROGRAMS.iter().any(|prefix| name.starts_with(prefix))
}

/// A path as an operand, which is never read as an option.
fn operand(path: &Path) -> PathBuf {
    if path.as_os_str().as_bytes().starts_with(b"-") { Path::new(".").join(path) } else { path.to_path_buf() }
}

fn quoted(argument: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,@%+{}".contains(&b);
    match !argument.is_empty() && argument.bytes().all(is_plain) {
        true => argument.to_string(),
        false => format!("'{}'", argument.replace('\'', "'\\''")),
    }
}

fn open_log(log: &Path) -> std::io::Result<File> {
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir)?;
    }
    OpenOptions::new().create(true).append(true).read(true).open(log)
}

/// The last lines after the offset `begin`. Of a line with carriage returns, the last part.
fn last_lines(log: &mut File, begin: u64) -> std::io::Result<Vec<String>> {
    let end = log.seek(SeekFrom::End(0))?;
    log.seek(SeekFrom::Start(begin.max(end.saturating_sub(TAIL))))?;
    let mut bytes = Vec::new();
    log.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.trim_end_matches('\r').rsplit('\r').next().unwrap_or(line).trim_end().to_string())
        .filter(|line| !line.is_empty())
        .collect();
    Ok(lines[lines.len().saturating_sub(LINES_SHOWN)..].to_vec())
}
