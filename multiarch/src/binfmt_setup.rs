//! Runs the program `binfmt-setup`, which probes and registers emulators. It is a program of its own since it may need
//! root.

use error::{Error, Exit};
use image_model::platform::Platform;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program `binfmt-setup`.
#[derive(Clone, Debug)]
pub struct BinfmtSetup {
    program: PathBuf,
}

/// Whether this host runs programs of one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    pub platform: String,
    pub runs: bool,
    /// `native`, `emulated`, or the reason why not.
    pub how: String,
}

impl BinfmtSetup {
    /// `path`, $MULTIARCH_BINFMT_SETUP, binfmt-setup in the directory of this program, or the first in PATH.
    pub fn find(path: Option<&Path>) -> Option<Self> {
        let given = path.map(Path::to_path_buf);
        let variable = std::env::var_os("MULTIARCH_BINFMT_SETUP").filter(|program| !program.is_empty());
        if let Some(program) = given.or(variable.map(PathBuf::from)) {
            return Some(Self { program });
        }
        let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("binfmt-setup")));
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let in_path = std::env::split_paths(&paths).map(|dir| dir.join("binfmt-setup"));
        let program = beside.into_iter().chain(in_path).find(|program| program.is_file())?;
        Some(Self { program })
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs a tiny program of each platform.
    pub fn probe(&self, platforms: &[Platform]) -> Result<Vec<Probed>, Error> {
        let doing = || "probe which platforms run on this host".to_string();
        let names = platforms.iter().map(ToString::to_string);
        let output = Command::new(&self.program)
            .args(["probe", "--quiet", "--format", "json"])
            .args(names)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| Error::from_io(doing(), e))?;
        parse_probe(&output.stdout).ok_or_else(|| {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
            Error::local(doing(), format!("\"binfmt-setup probe\" ended with {}: {said}", output.status))
        })
    }

    /// The command that registers emulators for these platforms, with sudo unless this user is root.
    pub fn register_command(&self, platforms: &[Platform]) -> Vec<String> {
        let mut command = Vec::new();
        if !nix::unistd::geteuid().is_root() {
            command.push("sudo".to_string());
        }
        command.extend([self.program.display().to_string(), "register".into()]);
        command.extend(platforms.iter().map(ToString::to_string));
        command
    }

    /// Registers emulators. Without a terminal sudo does not prompt for a password.
    ///
    /// # Errors
    /// `NotPermitted` with the command to run.
    pub fn register(&self, platforms: &[Platform]) -> Result<(), Error> {
        let command = self.register_command(platforms);
        let doing = || "register emulators for foreign programs".to_string();
        let hint = format!("run: {}", command.join(" "));
        let mut run = Command::new(&command[0]);
        if command[0] == "sudo" && !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
            run.arg("--non-interactive");
        }
        let status = run.args(&command[1..]).stdout(Stdio::null()).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                let why = format!("\"{}\" ended with {status}", command.join(" "));
                Err(Error::not_permitted(doing(), why).hint(hint))
            }
            Err(error) => Err(Error::new(Exit::NotPermitted, doing(), error.to_string()).hint(hint)),
        }
    }
}

fn parse_probe(text: &[u8]) -> Option<Vec<Probed>> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    let one = |row: &serde_json::Value| {
        let runs = row.get("runs")?.as_bool()?;
        let said = |key: &str| row.get(key).and_then(|v| v.as_str()).map(str::to_string);
        let how = if runs { said("how") } else { said("reason") }.unwrap_or_default();
        Some(Probed { platform: said("platform")?, runs, how })
    };
    value.get("platforms")?.as_array()?.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_of_probe_is_parsed() {
        let text = br#"{"platforms":[{"platform":"linux/amd64","runs":true,"how":"native","ms":1},{"platform":"linux/arm64","runs":false,"how":null,"reason":"no entry"}]}"#;
        let found = parse_probe(text).unwrap();
        assert_eq!((found[0].runs, found[0].how.as_str()), (true, "native"));
        assert_eq!((found[1].runs, found[1].how.as_str()), (false, "no entry"));
        assert_eq!(parse_probe(b"{}"), None);
    }
}
