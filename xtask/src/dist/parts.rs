//! The files of a distribution: their paths in the directory and in a Debian package.

use super::Tool;
use super::deb::{self, Control, Packed};
use super::targets::Target;
use error::{Error, Exit};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// Man page, completions, changelog and license of a program, with their paths in Debian. `program` runs on this host
/// and prints the first two.
pub fn documents(tool: &Tool, program: &Path, root: &Path) -> Result<Vec<Packed>, Error> {
    let Tool { name, section, .. } = tool;
    let packed = |path: String, content: Vec<u8>| Packed { path, mode: 0o644, content };
    let gzipped = |content: &[u8]| deb::gzip(content).map_err(|e| Error::from_io("compress a document", e));
    let read = |file: &str| {
        let path = root.join(file);
        std::fs::read(&path).map_err(|e| Error::from_io(format!("read \"{}\"", path.display()), e))
    };
    let man = gzipped(&stdout_of(program, &["man"])?)?;
    let mut found = vec![packed(format!("usr/share/man/man{section}/{name}.{section}.gz"), man)];
    for (shell, path) in [
        ("bash", format!("usr/share/bash-completion/completions/{name}")),
        ("zsh", format!("usr/share/zsh/vendor-completions/_{name}")),
        ("fish", format!("usr/share/fish/vendor_completions.d/{name}.fish")),
    ] {
        found.push(packed(path, stdout_of(program, &["completions", shell])?));
    }
    found.push(packed(format!("usr/share/doc/{name}/changelog.gz"), gzipped(&read("CHANGELOG.md")?)?));
    let license = [b"MIT OR Apache-2.0, as you like.\n\n".to_vec(), read("LICENSE-MIT")?].concat();
    let license = [license, b"\n".to_vec(), read("LICENSE-APACHE")?].concat();
    found.push(packed(format!("usr/share/doc/{name}/copyright"), license));
    Ok(found)
}

fn stdout_of(program: &Path, arguments: &[&str]) -> Result<Vec<u8>, Error> {
    let doing = || format!("run \"{} {}\"", program.display(), arguments.join(" "));
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|e| Error::from_io(doing(), e))?;
    match output.status.success() && !output.stdout.is_empty() {
        true => Ok(output.stdout),
        false => Err(Error::new(Exit::CheckFailed, doing(), format!("it ended with {}", output.status))),
    }
}

/// The path in the directory: `man/config-patcher.1.gz`, `completions/bash/config-patcher`; other files under `doc`.
pub fn document_path(document: &Packed) -> String {
    let name = document.path.rsplit('/').next().unwrap_or_default();
    let tool = document.path.rsplit('/').nth(1).unwrap_or_default();
    let of = |part: &str| document.path.starts_with(part);
    match () {
        () if of("usr/share/man/") => format!("man/{name}"),
        () if of("usr/share/bash-completion/") => format!("completions/bash/{name}"),
        () if of("usr/share/zsh/") => format!("completions/zsh/{name}"),
        () if of("usr/share/fish/") => format!("completions/fish/{name}"),
        () => format!("doc/{tool}/{name}"),
    }
}

/// The path in the directory: `bin/linux-amd64/config-patcher`.
pub fn program_path(target: &Target, tool: &Tool) -> String {
    format!("bin/{}/{}", target.platform.replace('/', "-"), tool.name)
}

pub fn package(
    tool: &Tool,
    target: &Target,
    version: &str,
    program: &[u8],
    documents: &[Packed],
    epoch: u64,
) -> io::Result<Vec<u8>> {
    let path = format!("{}/{}", tool.bin, tool.name);
    let mut files = vec![Packed { path, mode: 0o755, content: program.to_vec() }];
    files.extend(documents.iter().map(|document| Packed {
        path: document.path.clone(),
        mode: document.mode,
        content: document.content.clone(),
    }));
    let control = Control {
        package: tool.name,
        version,
        architecture: target.debian,
        recommends: tool.recommends,
        summary: tool.summary,
        description: tool.description,
    };
    deb::package(&control, &files, epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_document_has_its_path() {
        let check = |path: &str, expected: &str| {
            assert_eq!(
                super::document_path(&Packed { path: path.into(), mode: 0, content: Vec::new() }),
                expected
            );
        };
        check("usr/share/man/man1/a.1.gz", "man/a.1.gz");
        check("usr/share/bash-completion/completions/a", "completions/bash/a");
        check("usr/share/zsh/vendor-completions/_a", "completions/zsh/_a");
        check("usr/share/fish/vendor_completions.d/a.fish", "completions/fish/a.fish");
        check("usr/share/doc/a/copyright", "doc/a/copyright");
    }
}
