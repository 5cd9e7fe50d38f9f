//! The file SHA256SUMS over every file of a directory, in the format of sha256sum(1).

use error::Error;
use image_model::digest::Digest;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

pub const NAME: &str = "SHA256SUMS";

/// Names and digests in hex of all files below `dir` except the sums.
fn read_all(dir: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut sums = BTreeMap::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
            if name != NAME {
                sums.insert(name, Digest::of(&fs::read(&path)?).hex().to_string());
            }
        }
    }
    Ok(sums)
}

pub fn write(dir: &Path) -> io::Result<()> {
    let text: String = read_all(dir)?.into_iter().map(|(name, hex)| format!("{hex}  {name}\n")).collect();
    fs::write(dir.join(NAME), text)
}

/// Verifies that the directory has exactly the files of its sums. Returns their number.
///
/// # Errors
/// `Integrity` with all differences.
pub fn verify(dir: &Path) -> Result<usize, Error> {
    let doing = || format!("verify \"{}\"", dir.display());
    let text = fs::read_to_string(dir.join(NAME)).map_err(|e| Error::from_io(doing(), e))?;
    let mut found = read_all(dir).map_err(|e| Error::from_io(doing(), e))?;
    let mut problems = Vec::new();
    let mut count = 0;
    for line in text.lines() {
        let Some((hex, name)) = line.split_once("  ") else {
            problems.push(format!("\"{line}\" is not a line of {NAME}"));
            continue;
        };
        match found.remove(name) {
            Some(is) if is == hex => count += 1,
            Some(is) => problems.push(format!("{name}: {is}, not {hex}")),
            None => problems.push(format!("{name} is missing")),
        }
    }
    problems.extend(found.into_keys().map(|name| format!("{name} is not in {NAME}")));
    if count == 0 {
        problems.push(format!("{NAME} lists no file"));
    }
    match problems.is_empty() {
        true => Ok(count),
        false => Err(Error::integrity(doing(), "it differs from its sums").problems(problems)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use error::Exit;

    #[test]
    fn a_changed_an_added_and_a_missing_file_are_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("man")).unwrap();
        let files = [("a", "1"), ("man/b", "2")];
        let reset = || {
            for (name, text) in files {
                fs::write(dir.path().join(name), text).unwrap();
            }
        };
        reset();
        write(dir.path()).unwrap();
        assert_eq!(verify(dir.path()).unwrap(), 2);
        let check = |spoil: &dyn Fn(), said: &str| {
            reset();
            spoil();
            let error = verify(dir.path()).unwrap_err();
            assert_eq!(error.kind, Exit::Integrity);
            assert!(error.problems.iter().any(|line| line.contains(said)), "{said}: {:?}", error.problems);
        };
        check(&|| fs::write(dir.path().join("man/b"), "3").unwrap(), "man/b: ");
        check(&|| fs::remove_file(dir.path().join("a")).unwrap(), "a is missing");
        check(&|| fs::write(dir.path().join("more"), "").unwrap(), "more is not in SHA256SUMS");
        fs::remove_file(dir.path().join("more")).unwrap();
        check(&|| fs::write(dir.path().join(NAME), "").unwrap(), "lists no file");
    }
}
