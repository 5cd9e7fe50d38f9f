//! The state of the registry: manifests, tags and blobs per repository, and unfinished uploads.
//!
//! Blobs are files: tests push layers that are larger than their memory limit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha512};
use tempfile::TempDir;

/// `sha256:...` of these bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// The digest of these bytes by the algorithm of another digest; sha256 if that is not a digest.
pub(super) fn digest_like(like: &str, bytes: &[u8]) -> String {
    if like.starts_with("sha512:") {
        return format!("sha512:{}", hex(&Sha512::digest(bytes)));
    }
    digest_of(bytes)
}

#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct Repository {
    pub(super) manifests: BTreeMap<String, Manifest>,
    pub(super) tags: BTreeMap<String, String>,
    /// Digests of the blobs of this repository; the bytes are shared by all.
    pub(super) blobs: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) path: PathBuf,
    pub(super) size: u64,
}

/// An upload session. The hash is computed while bytes arrive, so that finishing does not read the file again.
pub(super) struct Upload {
    pub(super) repository: String,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    hash: Sha256,
    /// A chunk was shorter than the announced minimum: allowed only for the last one.
    pub(super) short_chunk: Option<u64>,
}

impl Upload {
    /// Appends until the body ends. After an error the bytes that arrived are kept, as by a real registry.
    pub(super) fn append(&mut self, body: &mut dyn Read) -> io::Result<u64> {
        let mut file = File::options().append(true).create(true).open(&self.path)?;
        let mut buffer = vec![0; 64 * 1024];
        let mut added = 0;
        loop {
            let got = body.read(&mut buffer)?;
            if got == 0 {
                return Ok(added);
            }
            file.write_all(&buffer[..got])?;
            self.hash.update(&buffer[..got]);
            self.size += got as u64;
            added += got as u64;
        }
    }

    /// The digest of all bytes so far, by the algorithm of `like`.
    pub(super) fn digest(&self, like: &str) -> io::Result<String> {
        if !like.starts_with("sha512:") {
            return Ok(format!("sha256:{}", hex(&self.hash.clone().finalize())));
        }
        let mut hash = Sha512::new();
        let mut file = File::open(&self.path)?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let got = file.read(&mut buffer)?;
            if got == 0 {
                return Ok(format!("sha512:{}", hex(&hash.finalize())));
            }
            hash.update(&buffer[..got]);
        }
    }
}

pub(super) struct State {
    directory: TempDir,
    pub(super) repositories: BTreeMap<String, Repository>,
    blobs: HashMap<String, Blob>,
    pub(super) uploads: HashMap<String, Arc<Mutex<Upload>>>,
    made: usize,
}

impl State {
    pub(super) fn new() -> io::Result<Self> {
        Ok(State {
            directory: tempfile::Builder::new().prefix("fake-registry-").tempdir()?,
            repositories: BTreeMap::new(),
            blobs: HashMap::new(),
            uploads: HashMap::new(),
            made: 0,
        })
    }

    fn fresh_path(&mut self) -> PathBuf {
        self.made += 1;
        self.directory.path().join(format!("{}", self.made))
    }

    pub(super) fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }

    pub(super) fn open_upload(&mut self, repository: &str) -> io::Result<String> {
        let path = self.fresh_path();
        File::create(&path)?;
        // Opaque and unguessable enough for a test; real registries use a UUID.
        let id = hex(&Sha256::digest(path.as_os_str().as_encoded_bytes()))[..32].to_owned();
        let upload = Upload {
            repository: repository.to_owned(),
            path,
            size: 0,
            hash: Sha256::new(),
            short_chunk: None,
        };
        self.uploads.insert(id.clone(), Arc::new(Mutex::new(upload)));
        Ok(id)
    }

    /// Stores the bytes in `path` as the blob `digest` of the repository. The caller has verified them.
    pub(super) fn adopt_blob(&mut self, repository: &str, digest: &str, path: PathBuf) -> io::Result<()> {
        if self.blobs.contains_key(digest) {
            fs::remove_file(&path)?;
        } else {
            let size = fs::metadata(&path)?.len();
            self.blobs.insert(digest.to_owned(), Blob { path, size });
        }
        self.repository(repository).blobs.insert(digest.to_owned());
        Ok(())
    }

    pub(super) fn put_blob(&mut self, repository: &str, digest: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.fresh_path();
        fs::write(&path, bytes)?;
        self.adopt_blob(repository, digest, path)
    }

    pub(super) fn copy_blob_file(&mut self, repository: &str, file: &Path) -> io::Result<String> {
        let path = self.fresh_path();
        let mut upload =
            Upload { repository: String::new(), path, size: 0, hash: Sha256::new(), short_chunk: None };
        upload.append(&mut File::open(file)?)?;
        let digest = upload.digest("sha256:")?;
        self.adopt_blob(repository, &digest, upload.path)?;
        Ok(digest)
    }

    /// A blob of this repository.
    pub(super) fn blob(&self, repository: &str, digest: &str) -> Option<&Blob> {
        self.repositories.get(repository)?.blobs.get(digest)?;
        self.blobs.get(digest)
    }

    /// A blob of any repository, as the storage behind a redirect serves it.
    pub(super) fn any_blob(&self, digest: &str) -> Option<&Blob> {
        self.blobs.get(digest)
    }

    /// Replaces stored bytes under their old digest.
    pub(super) fn corrupt_blob(&mut self, digest: &str, bytes: &[u8]) -> io::Result<bool> {
        let Some(blob) = self.blobs.get_mut(digest) else { return Ok(false) };
        fs::write(&blob.path, bytes)?;
        blob.size = bytes.len() as u64;
        Ok(true)
    }

    pub(super) fn resolve(&self, repository: &str, reference: &str) -> Option<(String, &Manifest)> {
        let repository = self.repositories.get(repository)?;
        let digest = if reference.contains(':') { reference } else { repository.tags.get(reference)? };
        Some((digest.to_owned(), repository.manifests.get(digest)?))
    }

    /// Returns the digests that the manifest references and the repository lacks: the check that a registry makes at every PUT.
    pub(super) fn missing_of(&self, repository: &str, manifest: &Value) -> Vec<String> {
        let held = self.repositories.get(repository);
        let lacks_manifest =
            |digest: &str| held.is_none_or(|repository| !repository.manifests.contains_key(digest));
        let mut missing = Vec::new();
        for (_, descriptor) in children(manifest) {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            if lacks_manifest(digest) {
                missing.push(format!("manifest {digest}"));
            }
        }
        for (_, descriptor) in blobs(manifest) {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            if self.blob(repository, digest).is_none() {
                missing.push(format!("blob {digest}"));
            }
        }
        missing
    }

    /// Sizes and media types that contradict what is stored. Real registries accept these, so they are
    /// recorded and not refused.
    pub(super) fn contradictions_of(&self, repository: &str, manifest: &Value) -> Vec<String> {
        let mut found = Vec::new();
        for (place, descriptor) in children(manifest) {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            let Some((_, child)) = self.resolve(repository, digest) else { continue };
            if descriptor["size"].as_u64() != Some(child.bytes.len() as u64) {
                found.push(format!("{place} {digest}: size {} of {}", descriptor["size"], child.bytes.len()));
            }
            if descriptor["mediaType"].as_str() != Some(child.media_type.as_str()) {
                found.push(format!(
                    "{place} {digest}: media type {} of {}",
                    descriptor["mediaType"], child.media_type
                ));
            }
        }
        for (place, descriptor) in blobs(manifest) {
            let digest = descriptor["digest"].as_str().unwrap_or_default();
            let Some(blob) = self.blob(repository, digest) else { continue };
            if descriptor["size"].as_u64() != Some(blob.size) {
                found.push(format!("{place} {digest}: size {} of {}", descriptor["size"], blob.size));
            }
        }
        found
    }

    /// Checks that everything reachable from a manifest exists with the declared size, and that manifests match their digests.
    pub(super) fn closure_complete(&self, repository: &str, digest: &str) -> Result<(), String> {
        let mut waiting = vec![digest.to_owned()];
        let mut seen = BTreeSet::new();
        let mut problems = Vec::new();
        while let Some(digest) = waiting.pop() {
            if !seen.insert(digest.clone()) {
                continue;
            }
            let Some((_, manifest)) = self.resolve(repository, &digest) else {
                problems.push(format!("manifest {digest} is not there"));
                continue;
            };
            let found = digest_like(&digest, &manifest.bytes);
            if found != digest {
                problems.push(format!("manifest {digest} hashes to {found}"));
            }
            let value: Value = match serde_json::from_slice(&manifest.bytes) {
                Ok(value) => value,
                Err(error) => {
                    problems.push(format!("manifest {digest} is not JSON: {error}"));
                    continue;
                }
            };
            problems.extend(self.missing_of(repository, &value).into_iter().map(|what| format!("no {what}")));
            problems.extend(self.contradictions_of(repository, &value));
            waiting.extend(
                children(&value).filter_map(|(_, child)| child["digest"].as_str().map(str::to_owned)),
            );
        }
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }
}

fn children(manifest: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    manifest["manifests"].as_array().into_iter().flatten().map(|descriptor| ("child", descriptor))
}

/// Config and layers, without foreign layers: those have `urls` and need not be in the registry.
fn blobs(manifest: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    let config = manifest.get("config").filter(|config| config.is_object()).map(|config| ("config", config));
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let own = layers.filter(|layer| layer.get("urls").is_none());
    config.into_iter().chain(own.map(|layer| ("layer", layer)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
