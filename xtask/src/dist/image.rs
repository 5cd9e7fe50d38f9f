//! The tools as an image of their own: a release.yaml in the folder, and `cargo xtask release` of it. Whoever has the folder
//! can publish it anywhere with `--to`.

use super::Tool;
use super::folder::Folder;
use super::parts::program_place;
use super::targets::Target;
use error::Error;
use error::Exit;
use std::process::{Command, Stdio};

pub fn make(
    folder: &Folder,
    targets: &[&Target],
    tools: &[Tool],
    version: &str,
    epoch: u64,
) -> Result<(), Error> {
    folder.add("release.yaml", 0o644, spec(targets, tools, version).as_bytes())?;
    let doing = || "make the image of the tools".to_string();
    let work = tempfile::tempdir().map_err(|e| Error::from_io(doing(), e))?;
    let own = std::env::current_exe().map_err(|e| Error::from_io(doing(), e))?;
    let mut release = Command::new(own);
    release.args(["release", "release.yaml", "--work-dir"]).arg(work.path()).current_dir(folder.path());
    release.env("SOURCE_DATE_EPOCH", epoch.to_string()).stdin(Stdio::null()).stdout(std::io::stderr());
    let status = release.status().map_err(|e| Error::from_io(doing(), e))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(Exit::CheckFailed, doing(), format!("its release ended with {status}"))),
    }
}

fn spec(targets: &[&Target], tools: &[Tool], version: &str) -> String {
    let mut text = format!(
        "# The tools as one image for all platforms that they were made for. To publish it:\n\
         #\n#     cargo xtask release release.yaml --to HOST/REPOSITORY\n\n\
         image: oci:image\ntags: [latest, \"{version}\"]\nbuilder: rootfs\nplatforms:\n"
    );
    for target in targets {
        let copies: Vec<String> = tools
            .iter()
            .map(|tool| format!("{}: /usr/bin/{}", program_place(target, tool), tool.name))
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
