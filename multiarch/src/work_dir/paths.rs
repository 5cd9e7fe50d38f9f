//! Files of a work directory that belong to one spec and one image. Several specs may use the same work directory, and a
//! spec may change its image; none of them may overwrite what a rollback of another one needs.

use image_model::digest::Digest;
use image_model::reference::Reference;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Characters of the image's name in a file name.
const NAME_MAX: usize = 80;

/// The files of one spec and one image.
#[derive(Clone, Debug)]
pub struct ReleasePaths {
    work_dir: PathBuf,
    name: String,
    /// The repository, or the OCI layout with its absolute path.
    pub image: String,
    /// The same as a reference, without a tag.
    pub reference: Reference,
}

impl ReleasePaths {
    pub fn new(work_dir: &Path, spec: &Path, image: &Reference, place: &str) -> Self {
        let reference = match image {
            Reference::OciLayout { dir, .. } => {
                Reference::OciLayout { dir: absolute(dir), tag: None, digest: None }
            }
            _ => image.clone(),
        };
        let image = match &reference {
            Reference::OciLayout { .. } => reference.to_string(),
            _ => place.to_string(),
        };
        let key = [absolute(spec).as_os_str().as_bytes(), b"\0", image.as_bytes()].concat();
        let shown: Vec<char> =
            image.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        // The end of a long name distinguishes it better than its beginning.
        let shown: String = shown[shown.len().saturating_sub(NAME_MAX)..].iter().collect();
        let name = format!("{}-{}.json", shown.trim_start_matches(['.', '-']), Digest::of(&key).short());
        Self { work_dir: work_dir.to_path_buf(), name, image, reference }
    }

    /// The report of the last successful release, which a rollback needs.
    pub fn released(&self) -> PathBuf {
        self.work_dir.join("released").join(&self.name)
    }

    /// Identifies the release in the journal of tag moves.
    pub fn id(&self) -> &str {
        self.name.trim_end_matches(".json")
    }
}

/// The absolute path without links, whether the file exists or not.
fn absolute(path: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => absolute(Path::new(".")).join(name),
        (Some(parent), Some(name)) => absolute(parent).join(name),
        _ => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spec_and_image_has_its_own_stable_file() {
        let dir = tempfile::tempdir().unwrap();
        let name = |spec: &str, image: &str| {
            let image: Reference = image.parse().unwrap();
            ReleasePaths::new(Path::new("w"), &dir.path().join(spec), &image, &image.to_string()).released()
        };
        let one = name("a.yaml", "127.0.0.1:5000/team/app");
        assert!(one.to_str().unwrap().starts_with("w/released/127.0.0.1-5000-team-app-"), "{one:?}");
        assert_ne!(one, name("b.yaml", "127.0.0.1:5000/team/app"));
        assert_ne!(one, name("a.yaml", "127.0.0.1:5000/team/app2"));
        // Through a link, and before and after the layout is created.
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        let layout = format!("oci:{}/link/out", dir.path().display());
        let before = name("link/a.yaml", &layout);
        fs::create_dir(dir.path().join("out")).unwrap();
        assert_eq!(before, name("a.yaml", &layout.replace("/link", "")));
        assert!(before.file_name().unwrap().len() < 110);
    }
}
