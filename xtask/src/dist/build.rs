//! Reproducible builds of the programs.

use super::targets::Target;
use super::{Tool, check};
use error::{Error, Exit};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Settings of a build.
#[derive(Debug)]
pub struct Setting {
    /// Root of the workspace.
    pub root: PathBuf,
    pub profile: String,
    pub epoch: u64,
}

/// Paths of this machine, and their replacements in the programs.
fn renamed(setting: &Setting) -> Vec<(PathBuf, &'static str)> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| Some(home?.join(".cargo")));
    // Sorted by length, since one may contain the other: rustc and C compilers use the last match.
    let mut renamed = vec![(setting.root.clone(), "/multiarch")];
    renamed.extend(cargo.map(|dir| (dir, "/cargo")));
    renamed.sort_by_key(|(dir, _)| dir.as_os_str().len());
    renamed
}

/// Builds and checks the programs for one target. Returns their files, in the order of `tools`.
pub fn build(setting: &Setting, target: &Target, tools: &[Tool]) -> Result<Vec<PathBuf>, Error> {
    let doing = || format!("build the tools for {}", target.triple);
    // A target directory of its own: other flags would invalidate the usual builds.
    let out = setting.root.join("target/dist-build");
    let status = command(setting, target, tools, &out).status();
    let status = status.map_err(|e| Error::from_io(doing(), e))?;
    if !status.success() {
        return Err(Error::new(Exit::CheckFailed, doing(), format!("cargo ended with {status}")));
    }
    let dir = if setting.profile == "dev" { "debug" } else { setting.profile.as_str() };
    let dir = out.join(&target.triple).join(dir);
    let programs: Vec<PathBuf> = tools.iter().map(|tool| dir.join(tool.name)).collect();
    let here: Vec<PathBuf> = renamed(setting).into_iter().map(|(dir, _)| dir).collect();
    for program in &programs {
        check::check(program, target, &here)?;
    }
    Ok(programs)
}

fn command(setting: &Setting, target: &Target, tools: &[Tool], out: &Path) -> Command {
    let mut flags: Vec<OsString> = vec!["-Ctarget-feature=+crt-static".into(), "-Cstrip=symbols".into()];
    let mut c_flags = OsString::new();
    for (dir, name) in renamed(setting) {
        let map = |flag: &str| {
            let mut text = OsString::from(flag);
            text.push(&dir);
            text.push(format!("={name}"));
            text
        };
        flags.push(map("--remap-path-prefix="));
        c_flags.push(map(if c_flags.is_empty() { "-ffile-prefix-map=" } else { " -ffile-prefix-map=" }));
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--locked", "--target", &target.triple, "--profile", &setting.profile]);
    for tool in tools {
        command.args(["--package", tool.name]);
    }
    command.current_dir(&setting.root).stdin(Stdio::null()).stdout(std::io::stderr());
    // In this variable flags are separated by 0x1f, so that they may contain spaces.
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join(&OsString::from("\x1f")));
    command.env("CARGO_TARGET_DIR", out).env("CARGO_INCREMENTAL", "0").env_remove("RUSTFLAGS");
    let triple = target.triple.replace('-', "_");
    command.env(format!("CARGO_TARGET_{}_LINKER", triple.to_uppercase()), &target.compiler);
    command.env(format!("CC_{triple}"), &target.compiler).env(format!("CFLAGS_{triple}"), c_flags);
    command.env("SOURCE_DATE_EPOCH", setting.epoch.to_string());
    command
}
