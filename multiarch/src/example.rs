//! The example of `multiarch release --example`: twelve platforms, without an engine, a registry or another file.

use crate::example_binaries;
use crate::spec::Spec;
use error::Error;
use image_model::reference::Reference;
use std::fs;
use std::io;
use std::path::PathBuf;

const SPEC: &str = include_str!("../../examples/multi-arch-example/release.yaml");
/// The OCI layout that the example writes in the current directory.
const LAYOUT: &str = "multi-arch-example";

/// The files of the example, in a temporary directory.
pub struct Example {
    dir: tempfile::TempDir,
}

impl Example {
    pub fn create() -> Result<Self, Error> {
        let create = || {
            let dir = tempfile::tempdir()?;
            fs::write(dir.path().join("release.yaml"), SPEC)?;
            example_binaries::write_all(&dir.path().join("dist/programs"))?;
            Ok::<_, io::Error>(Self { dir })
        };
        create().map_err(|error| Error::from_io("write the example", error))
    }

    /// The name of the example in work directories and messages: its temporary directory has another name each time.
    pub fn name(&self) -> PathBuf {
        LAYOUT.into()
    }

    /// The spec, with its target in the current directory.
    pub fn load(&self) -> Result<Spec, Error> {
        let mut spec = Spec::load(&self.dir.path().join("release.yaml"))?;
        // The programs are written already.
        spec.prepare.clear();
        spec.image = Reference::OciLayout { dir: LAYOUT.into(), tag: None, digest: None };
        Ok(spec)
    }
}
