//! Rust targets that the installed toolchain can build, and how their programs are linked.

use error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An architecture with its Rust targets, OCI platform and Debian architecture.
#[derive(Debug)]
struct Machine {
    /// Rust's name of the architecture, and the suffix after `musl` and `gnu` in its targets.
    rust: &'static str,
    abi: &'static str,
    platform: &'static str,
    debian: &'static str,
    /// Debian's cross compiler without its `-gcc`.
    gnu: &'static str,
}

const MACHINES: [Machine; 8] = [
    machine("x86_64", "", "linux/amd64", "amd64", "x86_64-linux-gnu"),
    machine("i686", "", "linux/386", "i386", "i686-linux-gnu"),
    machine("aarch64", "", "linux/arm64", "arm64", "aarch64-linux-gnu"),
    machine("armv7", "eabihf", "linux/arm/v7", "armhf", "arm-linux-gnueabihf"),
    machine("riscv64gc", "", "linux/riscv64", "riscv64", "riscv64-linux-gnu"),
    machine("powerpc64le", "", "linux/ppc64le", "ppc64el", "powerpc64le-linux-gnu"),
    machine("s390x", "", "linux/s390x", "s390x", "s390x-linux-gnu"),
    machine("loongarch64", "", "linux/loong64", "loong64", "loongarch64-linux-gnu"),
];

const fn machine(
    rust: &'static str,
    abi: &'static str,
    platform: &'static str,
    debian: &'static str,
    gnu: &'static str,
) -> Machine {
    Machine { rust, abi, platform, debian, gnu }
}

/// A target that can be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub triple: String,
    pub platform: &'static str,
    pub debian: &'static str,
    /// C compiler and linker.
    pub compiler: String,
    /// Linkage of its programs, for the table.
    pub linking: String,
    /// This host can run its programs.
    pub is_host: bool,
}

/// A target, or the reason why an installed one cannot be built.
pub type Found = Result<Target, String>;

/// The targets of the toolchain, one for each architecture: musl rather than glibc.
pub fn installed() -> Result<Vec<Found>, Error> {
    let sysroot = ask_rustc(&["--print", "sysroot"])?;
    let host = ask_rustc(&["-vV"])?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let is_installed =
        |triple: &str| Path::new(&sysroot).join("lib/rustlib").join(triple).join("lib").is_dir();
    Ok(choose(host, is_installed, |program| find(program).is_some()))
}

fn choose(host: &str, is_installed: impl Fn(&str) -> bool, has: impl Fn(&str) -> bool) -> Vec<Found> {
    let mut found = Vec::new();
    for machine in &MACHINES {
        let is_host = host.split('-').next() == Some(machine.rust);
        let mut reasons = Vec::new();
        let musl = format!("{}-unknown-linux-musl{}", machine.rust, machine.abi);
        let gnu = format!("{}-unknown-linux-gnu{}", machine.rust, machine.abi);
        let with_musl =
            if is_host { "musl-gcc".to_string() } else { machine.gnu.replace("gnu", "musl") + "-gcc" };
        let with_gnu = if is_host { "cc".to_string() } else { format!("{}-gcc", machine.gnu) };
        let ways = [(musl, with_musl, "musl"), (gnu, with_gnu, "glibc")];
        let usable =
            ways.into_iter().filter(|(triple, ..)| is_installed(triple)).find(|(triple, compiler, _)| {
                let usable = has(compiler);
                if !usable {
                    reasons.push(format!("{triple}: there is no {compiler}"));
                }
                usable
            });
        match usable {
            Some((triple, compiler, libc)) => {
                let Machine { platform, debian, .. } = *machine;
                let linking = match (libc, reasons.first()) {
                    ("musl", _) => "static, musl".to_string(),
                    (_, Some(why)) => format!("static, {libc}; {why}"),
                    (_, None) => format!("static, {libc}; no musl target is installed"),
                };
                found.push(Ok(Target { triple, platform, debian, compiler, linking, is_host }));
            }
            None if reasons.is_empty() => {}
            None => found.push(Err(reasons.join("; "))),
        }
    }
    found
}

fn ask_rustc(arguments: &[&str]) -> Result<String, Error> {
    let doing = || "list the targets of rustc".to_string();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|e| Error::from_io(doing(), e))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_string()),
        false => Err(Error::local(doing(), format!("it ended with {}", output.status))),
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).map(|dir| dir.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_architecture_has_its_best_target_or_a_reason() {
        let check = |installed: &[&str], compilers: &[&str], said: &[&str]| {
            let found = choose(
                "x86_64-unknown-linux-gnu",
                |triple| installed.contains(&triple),
                |program| compilers.contains(&program),
            );
            let found: Vec<String> = found
                .into_iter()
                .map(|one| {
                    one.map_or_else(
                        |why| why,
                        |t| format!("{} {} {} ({})", t.platform, t.triple, t.compiler, t.linking),
                    )
                })
                .collect();
            assert_eq!(found, said, "{installed:?} {compilers:?}");
        };
        let (gnu, musl) = ("x86_64-unknown-linux-gnu", "x86_64-unknown-linux-musl");
        check(
            &[gnu],
            &["cc"],
            &["linux/amd64 x86_64-unknown-linux-gnu cc (static, glibc; no musl target is installed)"],
        );
        check(
            &[gnu, musl],
            &["cc"],
            &[
                "linux/amd64 x86_64-unknown-linux-gnu cc (static, glibc; x86_64-unknown-linux-musl: there is no musl-gcc)",
            ],
        );
        check(
            &[gnu, musl],
            &["cc", "musl-gcc"],
            &["linux/amd64 x86_64-unknown-linux-musl musl-gcc (static, musl)"],
        );
        check(
            &[gnu, "armv7-unknown-linux-musleabihf", "aarch64-unknown-linux-gnu"],
            &["cc", "aarch64-linux-gnu-gcc"],
            &[
                "linux/amd64 x86_64-unknown-linux-gnu cc (static, glibc; no musl target is installed)",
                "linux/arm64 aarch64-unknown-linux-gnu aarch64-linux-gnu-gcc (static, glibc; no musl target is installed)",
                "armv7-unknown-linux-musleabihf: there is no arm-linux-musleabihf-gcc",
            ],
        );
    }

    #[test]
    fn platforms_of_the_table_are_valid() {
        for machine in &MACHINES {
            assert!(machine.platform.parse::<image_model::platform::Platform>().is_ok(), "{machine:?}");
        }
    }
}
