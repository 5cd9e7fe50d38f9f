//! Checks of a built program: its platform, static linking, and no path of this machine in it.

use super::targets::Target;
use error::{Error, Exit};
use image_evidence::elf;
use image_evidence::elf::sampler::Sampler;
use image_model::platform::Platform;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Fails if the program is for another platform, is not static, or contains one of the paths in `here`.
pub fn check(program: &Path, target: &Target, here: &[PathBuf]) -> Result<(), Error> {
    let doing = || format!("distribute \"{}\"", program.display());
    let bytes = fs::read(program).map_err(|e| Error::from_io(doing(), e))?;
    match problems(&bytes, target.platform, here) {
        problems if problems.is_empty() => Ok(()),
        problems => Err(Error::new(Exit::CheckFailed, doing(), "it has problems").problems(problems)),
    }
}

fn problems(bytes: &[u8], platform: &str, here: &[PathBuf]) -> Vec<String> {
    let mut sampler = Sampler::default();
    sampler.push(bytes);
    let Some(elf) = elf::read(&sampler.finish()) else {
        return vec!["it is not an ELF file".into()];
    };
    let mut problems = Vec::new();
    let wanted = platform.parse::<Platform>().unwrap_or_default();
    if (elf.platform.os.as_str(), elf.platform.architecture.as_str())
        != (wanted.os.as_str(), wanted.architecture.as_str())
    {
        problems.push(format!("it is for {}, not for {platform}", elf.platform));
    }
    if let Some(loader) = &elf.interpreter {
        problems.push(format!("it is not static: it needs {}", String::from_utf8_lossy(loader)));
    }
    for library in &elf.needed {
        problems.push(format!("it is not static: it needs {}", String::from_utf8_lossy(library)));
    }
    for dir in here.iter().filter(|dir| dir.as_os_str().len() > 1) {
        let name = dir.as_os_str().as_bytes();
        if let Some(at) = bytes.windows(name.len()).position(|window| window == name) {
            let around = &bytes[at..bytes.len().min(at + name.len() + 60)];
            let text: String =
                String::from_utf8_lossy(around).chars().take_while(|c| !c.is_control()).collect();
            problems.push(format!("it contains a path of this machine: {text}"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_of_a_program_are_listed() {
        let hello = multiarch::example_binaries::write_all;
        let dir = tempfile::tempdir().unwrap();
        hello(dir.path()).unwrap();
        let program = fs::read(dir.path().join("linux-arm64/hello")).unwrap();
        let check = |bytes: &[u8], platform: &str, here: &str, said: &[&str]| {
            assert_eq!(problems(bytes, platform, &[here.into()]), said);
        };
        check(&program, "linux/arm64", "/nowhere", &[]);
        check(&program, "linux/amd64", "/nowhere", &["it is for linux/arm64, not for linux/amd64"]);
        let with_path = [&program[..], b"/home/ann/src/main.rs\0more"].concat();
        let said = "it contains a path of this machine: /home/ann/src/main.rs";
        check(&with_path, "linux/arm64", "/home/ann", &[said]);
        check(b"#!/bin/sh", "linux/arm64", "/nowhere", &["it is not an ELF file"]);
        // The program of this test is dynamic.
        let own = fs::read("/proc/self/exe").unwrap();
        let said = problems(&own, "linux/amd64", &[]);
        assert!(said.iter().any(|line| line.starts_with("it is not static: it needs /")), "{said:?}");
    }
}
