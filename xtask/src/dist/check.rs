//! Whether a program may leave: for the right machine, in need of no other file, and with no folder of this machine in it.

use super::targets::Target;
use error::Error;
use error::Exit;
use image_evidence::elf;
use image_evidence::elf::sampler::Sampler;
use image_model::platform::Platform;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// `here` are folders that must not stand in the program.
pub fn check(program: &Path, target: &Target, here: &[PathBuf]) -> Result<(), Error> {
    let doing = || format!("let \"{}\" leave", program.display());
    let bytes = fs::read(program).map_err(|e| Error::from_io(doing(), e))?;
    match problems(&bytes, target.platform, here) {
        problems if problems.is_empty() => Ok(()),
        problems => {
            Err(Error::new(Exit::CheckFailed, doing(), "it is not what it should be").problems(problems))
        }
    }
}

fn problems(bytes: &[u8], platform: &str, here: &[PathBuf]) -> Vec<String> {
    let mut sampler = Sampler::default();
    sampler.push(bytes);
    let Some(elf) = elf::read(&sampler.finish()) else {
        return vec!["it is no ELF file".into()];
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
    for folder in here.iter().filter(|folder| folder.as_os_str().len() > 1) {
        let name = folder.as_os_str().as_bytes();
        if let Some(at) = bytes.windows(name.len()).position(|window| window == name) {
            let around = &bytes[at..bytes.len().min(at + name.len() + 60)];
            let text: String =
                String::from_utf8_lossy(around).chars().take_while(|c| !c.is_control()).collect();
            problems.push(format!("a folder of this machine stands in it: {text}"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_not_leave_is_said() {
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
        let said = "a folder of this machine stands in it: /home/ann/src/main.rs";
        check(&with_path, "linux/arm64", "/home/ann", &[said]);
        check(b"#!/bin/sh", "linux/arm64", "/nowhere", &["it is no ELF file"]);
        // Whatever runs this test needs a loader.
        let own = fs::read("/proc/self/exe").unwrap();
        let said = problems(&own, "linux/amd64", &[]);
        assert!(said.iter().any(|line| line.starts_with("it is not static: it needs /")), "{said:?}");
    }
}
