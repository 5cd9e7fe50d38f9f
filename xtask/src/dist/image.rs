//! An image of the programs: a release.yaml in the directory, released with `cargo xtask release`. It can be published
//! elsewhere with `--to`.

use super::Tool;
use super::directory::OutDirectory;
use super::parts::program_path;
use super::targets::Target;
use error::{Error, Exit};
use std::process::{Command, Stdio};

pub fn make(
    out: &OutDirectory,
    targets: &[&Target],
    tools: &[Tool],
    version: &str,
    epoch: u64,
) -> Result<(), Error> {
    out.add("release.yaml", 0o644, spec(targets, tools, version).as_bytes())?;
    let doing = || "build the image of the programs".to_string();
    let work = tempfile::tempdir().map_err(|e| Error::from_io(doing(), e))?;
    let own = std::env::current_exe().map_err(|e| Error::from_io(doing(), e))?;
    let mut release = Command::new(own);
    release.args(["release", "release.yaml", "--work-dir"]).arg(work.path()).current_dir(out.path());
    release.env("SOURCE_DATE_EPOCH", epoch.to_string()).stdin(Stdio::null()).stdout(std::io::stderr());
    let status = release.status().map_err(|e| Error::from_io(doing(), e))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(Exit::CheckFailed, doing(), format!("its release ended with {status}"))),
    }
}

fn spec(targets: &[&Target], tools: &[Tool], version: &str) -> String {
    let mut text = format!(
        "# The programs as one image for all platforms that they were built for. To publish it:\n\
         #\n#     cargo xtask release release.yaml --to HOST/REPOSITORY\n\n\
         image: oci:image\ntags: [latest, \"{version}\"]\nbuilder: rootfs\nplatforms:\n"
    );
    for target in targets {
        let copies: Vec<String> = tools
            .iter()
            .map(|tool| format!("{}: /usr/bin/{}", program_path(target, tool), tool.name))
            .collect();
        let first = tools.first().map_or("", |tool| tool.name);
        text.push_str(&format!(
            "  {}: {{ copy: {{ {} }}, cmd: [/usr/bin/{first}, --help], env: {{ PATH: /usr/bin }} }}\n",
            target.platform,
            copies.join(", ")
        ));
    }
    let first = tools.first().map_or("", |tool| tool.name);
    text.push_str(&format!("smoke: [/usr/bin/{first}, --version]\nannotations:\n"));
    text.push_str(&format!(
        "  org.opencontainers.image.title: multiarch\n  org.opencontainers.image.version: \"{version}\"\n"
    ));
    text.push_str("  org.opencontainers.image.licenses: MIT OR Apache-2.0\n");
    text
}
