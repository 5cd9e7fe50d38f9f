//! An engine's command line: found, asked whether it works, and run with its output in a log.

use crate::release::spec::{BuildArgs, DockerfileRecipe};
use image_store::error::StoreError;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// How many lines of a log stand in an error, and how much of the log is looked at for them.
const LINES_SHOWN: usize = 20;
const TAIL: u64 = 16 << 10;

/// A program, by the name that people know it by.
pub struct Tool {
    pub name: &'static str,
    program: OsString,
}

impl Tool {
    /// `variable` may name another file: `MULTIARCH_DOCKER=/usr/bin/docker`.
    pub fn new(name: &'static str, variable: &str) -> Self {
        let program = std::env::var_os(variable).filter(|said| !said.is_empty());
        Self { name, program: program.unwrap_or_else(|| name.into()) }
    }

    #[cfg(test)]
    pub(super) fn at(name: &'static str, program: &Path) -> Self {
        Self { name, program: program.into() }
    }

    /// Runs a question that changes nothing. `Err` is a reason, in one line.
    pub fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.program);
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

    /// Runs a step of a build. An error has the end of what the program said.
    pub fn run(&self, step: &Step, log: &Path) -> Result<(), StoreError> {
        let doing = || format!("run \"{}\"", step.shown(self.name));
        let mut file = open_log(log).map_err(|e| StoreError::from_io(doing(), e))?;
        writeln!(file, "$ {}", step.shown(self.name)).map_err(|e| StoreError::from_io(doing(), e))?;
        let begin = file.seek(SeekFrom::End(0)).map_err(|e| StoreError::from_io(doing(), e))?;
        let for_stdout = file.try_clone().map_err(|e| StoreError::from_io(doing(), e))?;
        let for_stderr = file.try_clone().map_err(|e| StoreError::from_io(doing(), e))?;
        let mut command = Command::new(&self.program);
        command.args(&step.arguments).envs(step.environment.iter().map(|(name, value)| (name, value)));
        for name in &step.removed {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(for_stdout).stderr(for_stderr);
        let status = command.status().map_err(|e| StoreError::from_io(doing(), e))?;
        if status.success() {
            return Ok(());
        }
        let lines = last_lines(&mut file, begin).unwrap_or_default();
        Err(StoreError::local(doing(), format!("it ended with {status}"))
            .hint(format!("all that it said is in {}", log.display()))
            .problems(
                lines.iter().map(|line| format!("{}: {}", self.name, step.without_secrets(line))).collect(),
            ))
    }
}

/// One command of a builder.
#[derive(Default)]
pub struct Step {
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    /// Variables that the program does not get.
    removed: Vec<&'static str>,
    /// What must not be shown.
    secrets: Vec<String>,
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

    /// `--target` and `--build-arg`, as docker, podman and buildah all take them.
    pub fn recipe(mut self, recipe: &DockerfileRecipe) -> Self {
        if let Some(target) = &recipe.target {
            self = self.arg("--target").arg(target);
        }
        self.build_args(&recipe.build_args)
    }

    /// Names alone: arguments can be read by everyone on the host, the environment cannot. Without a value the
    /// engine takes the variable of this name, and so the value goes there.
    fn build_args(mut self, args: &BuildArgs) -> Self {
        for (name, value) in &args.0 {
            self = self.arg("--build-arg");
            match value {
                // This one would change what the engine's own program does.
                Some(value) if steers_programs(name) => {
                    self = self.arg(format!("{name}={value}"));
                }
                Some(value) => self = self.arg(name).env(name, value),
                None => self = self.arg(name),
            }
            let secret = value.clone().or_else(|| std::env::var(name).ok());
            self.secrets.extend(secret.filter(|value| value.len() >= SECRET_MIN));
        }
        self
    }

    /// The command for a person, quoted where a shell would need it. Values of build arguments are left out.
    pub fn shown(&self, name: &str) -> String {
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

    fn without_secrets(&self, line: &str) -> String {
        self.secrets
            .iter()
            .fold(line.to_string(), |line, secret| line.replace(secret.as_str(), "[build argument]"))
    }
}

/// Values shorter than this are no secrets, and replacing them would make the text unreadable.
const SECRET_MIN: usize = 4;

/// Variables that programs read for themselves: a build argument of that name must not reach the engine's.
fn steers_programs(name: &str) -> bool {
    const PREFIXES: [&str; 10] = [
        "DOCKER_",
        "BUILDKIT_",
        "BUILDX_",
        "BUILDAH_",
        "CONTAINER",
        "LD_",
        "SSH_",
        "XDG_",
        "REGISTRY_",
        "GO",
    ];
    const NAMES: [&str; 5] = ["PATH", "HOME", "TMPDIR", "LANG", "USER"];
    let is_proxy = name.to_ascii_lowercase().ends_with("_proxy");
    is_proxy || NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn quoted(argument: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:=,@%+{}".contains(&b);
    match !argument.is_empty() && argument.bytes().all(is_plain) {
        true => argument.to_string(),
        false => format!("'{}'", argument.replace('\'', "'\\''")),
    }
}

fn open_log(log: &Path) -> std::io::Result<File> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).read(true).open(log)
}

/// The last lines that were written behind `begin`. Lines that rewrite themselves show as they were left.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(args: &[(&str, Option<&str>)]) -> DockerfileRecipe {
        let args = args.iter().map(|(name, value)| ((*name).to_string(), value.map(str::to_string)));
        DockerfileRecipe {
            dockerfile: "D".into(),
            context: ".".into(),
            target: Some("run time".into()),
            build_args: BuildArgs(args.collect()),
        }
    }

    #[test]
    fn values_of_build_arguments_are_neither_shown_nor_arguments() {
        let step = Step::new(&["build"]).recipe(&recipe(&[("TOKEN", Some("hunter2")), ("FROM_ENV", None)]));
        assert_eq!(
            step.shown("docker"),
            "docker build --target 'run time' --build-arg FROM_ENV --build-arg TOKEN"
        );
        assert!(step.arguments.iter().all(|argument| !argument.to_string_lossy().contains("hunter2")));
        assert_eq!(step.environment, [("TOKEN".to_string(), "hunter2".to_string())]);
        // What the program itself would heed goes another way, and is not shown either.
        let step = Step::new(&["build"]).recipe(&recipe(&[("HTTP_PROXY", Some("http://me:secret@proxy"))]));
        assert!(step.environment.is_empty());
        assert_eq!(step.shown("docker"), "docker build --target 'run time' --build-arg HTTP_PROXY");
    }

    #[test]
    fn a_step_that_fails_says_its_command_its_status_and_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("logs/build.log");
        let shell = Tool { name: "sh", program: "sh".into() };
        shell.run(&Step::new(&["-c", "echo before"]), &log).unwrap();
        let script = "for i in $(seq 30); do echo line $i; done; echo bad password-9 >&2; exit 7";
        let mut step = Step::new(&["-c", script]);
        step.secrets.push("password-9".into());
        let error = shell.run(&step, &log).unwrap_err();
        assert!(error.to_string().contains("it ended with exit status: 7"), "{error}");
        assert!(error.to_string().contains("build.log"), "{error}");
        assert_eq!(error.problems.len(), LINES_SHOWN);
        assert_eq!(error.problems[0], "sh: line 12");
        assert_eq!(error.problems[LINES_SHOWN - 1], "sh: bad [build argument]");
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(text.starts_with("$ sh -c 'echo before'\nbefore\n$ sh -c"), "{text}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let none = Tool { name: "none", program: "/nonexistent/none".into() };
        assert_eq!(none.ask(&["version"]), Err("it is not installed".into()));
        let sh = Tool { name: "sh", program: "sh".into() };
        assert_eq!(
            sh.ask(&["-c", "echo a >&2; echo 'no daemon' >&2; echo >&2; exit 1"]),
            Err("no daemon".into())
        );
        assert_eq!(sh.ask(&["-c", "exit 3"]), Err("it ends with exit status: 3".into()));
        assert_eq!(sh.ask(&["-c", "echo yes"]), Ok("yes".into()));
    }
}
