//! Writes a Debian package: deb(5), an ar(5) archive of a version and two tars.

use image_store::compress::Gzip;
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::Path;

/// A file of a package.
#[derive(Debug)]
pub struct Packed {
    /// Relative to the root: `usr/bin/config-patcher`.
    pub path: String,
    pub mode: u32,
    pub content: Vec<u8>,
}

/// Fields of the control file.
#[derive(Debug)]
pub struct Control<'a> {
    pub package: &'a str,
    pub version: &'a str,
    pub architecture: &'a str,
    pub recommends: Option<&'a str>,
    /// One line.
    pub summary: &'a str,
    /// Further lines, without the leading space.
    pub description: &'a str,
}

/// The bytes of the package. `epoch` is the modification time of all files.
pub fn package(control: &Control<'_>, files: &[Packed], epoch: u64) -> io::Result<Vec<u8>> {
    let installed: usize = files.iter().map(|file| file.content.len().div_ceil(1024)).sum();
    let text = control_file(control, installed);
    let control = Packed { path: "control".into(), mode: 0o644, content: text.into_bytes() };
    let mut out = b"!<arch>\n".to_vec();
    member(&mut out, "debian-binary", epoch, b"2.0\n")?;
    member(&mut out, "control.tar.gz", epoch, &tar_gz(&[control], epoch)?)?;
    member(&mut out, "data.tar.gz", epoch, &tar_gz(files, epoch)?)?;
    Ok(out)
}

fn control_file(control: &Control<'_>, installed_kib: usize) -> String {
    let mut text = format!(
        "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: The multiarch developers <multiarch@localhost>\n\
         Installed-Size: {installed_kib}\nSection: utils\nPriority: optional\n",
        control.package, control.version, control.architecture
    );
    if let Some(recommends) = control.recommends {
        text.push_str(&format!("Recommends: {recommends}\n"));
    }
    text.push_str(&format!("Description: {}\n", control.summary));
    for line in control.description.lines() {
        text.push_str(&format!(" {line}\n"));
    }
    text
}

/// Appends a header of 60 bytes, the content, and a byte to make the length even. ar(5)
fn member(out: &mut Vec<u8>, name: &str, epoch: u64, content: &[u8]) -> io::Result<()> {
    writeln!(out, "{name:<16}{epoch:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, "100644", content.len())?;
    out.extend_from_slice(content);
    if content.len() % 2 == 1 {
        out.push(b'\n');
    }
    Ok(())
}

/// Directories first, sorted names, owner root: the same files give the same bytes.
pub fn tar_gz(files: &[Packed], epoch: u64) -> io::Result<Vec<u8>> {
    let mut dirs = BTreeSet::new();
    for file in files {
        dirs.extend(Path::new(&file.path).ancestors().skip(1).map(Path::to_path_buf));
    }
    let mut tar = tar::Builder::new(Vec::new());
    for dir in dirs {
        let slash = if dir.as_os_str().is_empty() { "" } else { "/" };
        let name = format!("./{}{slash}", dir.display());
        tar.append(&header(&name, tar::EntryType::Directory, 0o755, 0, epoch)?, io::empty())?;
    }
    let mut sorted: Vec<&Packed> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    for file in sorted {
        let name = format!("./{}", file.path);
        let header = header(&name, tar::EntryType::Regular, file.mode, file.content.len(), epoch)?;
        tar.append(&header, file.content.as_slice())?;
    }
    gzip(&tar.into_inner()?)
}

fn header(name: &str, kind: tar::EntryType, mode: u32, size: usize, epoch: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    // Names in a Debian package begin with "./", which the crate would remove.
    let field = &mut header.as_old_mut().name;
    let room = field.get_mut(..name.len()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("\"{name}\" is too long for a package"))
    })?;
    room.copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(epoch);
    header.set_uid(0);
    header.set_gid(0);
    header.set_username("root")?;
    header.set_groupname("root")?;
    header.set_cksum();
    Ok(header)
}

pub fn gzip(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    Gzip::new(content).read_to_end(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_files_does_not_change_a_package() {
        let file = |path: &str, mode| Packed { path: path.into(), mode, content: path.as_bytes().to_vec() };
        let control = Control {
            package: "a",
            version: "1",
            architecture: "amd64",
            recommends: None,
            summary: "s",
            description: "one\ntwo",
        };
        let make = |files: &[Packed]| package(&control, files, 7).unwrap();
        let one = make(&[file("usr/bin/a", 0o755), file("usr/share/x", 0o644)]);
        assert_eq!(one, make(&[file("usr/share/x", 0o644), file("usr/bin/a", 0o755)]));
        assert!(
            one.starts_with(b"!<arch>\ndebian-binary   7           0     0     100644  4         `\n2.0\n")
        );
        assert!(one.len() % 2 == 0);
    }
}
