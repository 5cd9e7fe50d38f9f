//! Consistency check of an image: the test oracle that every write must satisfy. An empty list means no problem.

use crate::store::{ImageSource, Pointer};
use crate::tree::{Image, IndexNode, TreeNode, read_tree};
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, media_type};
use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;

/// A problem of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageProblem {
    /// The part that has it: the reference, then the platforms of the members on the way to it.
    pub at: String,
    /// Description of the problem.
    pub what: String,
}

impl fmt::Display for ImageProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

/// Amount of data that is read of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckDepth {
    /// Documents and configs. Of blobs, only the presence is checked.
    Documents,
    /// Layers as well, to the last byte.
    Layers,
}

/// Returns the problems of the image or index that `at` refers to.
pub fn check(source: &dyn ImageSource, at: &Pointer, depth: CheckDepth) -> Vec<ImageProblem> {
    let mut problems = Vec::new();
    match read_tree(source, at) {
        Ok(node) => Walk { source, depth, seen: BTreeSet::new(), problems: &mut problems }
            .node(&node, &at.to_string()),
        Err(error) => problems.push(ImageProblem { at: at.to_string(), what: error.to_string() }),
    }
    problems
}

struct Walk<'a> {
    source: &'a dyn ImageSource,
    depth: CheckDepth,
    seen: BTreeSet<Digest>,
    problems: &'a mut Vec<ImageProblem>,
}

impl Walk<'_> {
    fn add(&mut self, at: &str, what: String) {
        self.problems.push(ImageProblem { at: at.into(), what });
    }

    fn node(&mut self, node: &TreeNode, at: &str) {
        match node {
            TreeNode::Image(image) => self.image(image, at),
            TreeNode::Index(index) => self.index(index, at),
            TreeNode::Unread(unread) => self.add(at, unread.error.to_string()),
        }
    }

    fn index(&mut self, node: &IndexNode, at: &str) {
        for (i, (entry, member)) in node.index.manifests.iter().zip(&node.members).enumerate() {
            let name = entry.platform.as_ref().map_or(format!("member {i}"), ToString::to_string);
            let at = format!("{at} {name}");
            if let (Some(declared), TreeNode::Image(image)) = (&entry.platform, member)
                && let Some(config) = image.config.as_ref().filter(|_| image.is_runnable())
                && !config.parsed.platform.matches(declared)
            {
                self.add(
                    &at,
                    format!("the index declares {declared}, the config declares {}", config.parsed.platform),
                );
            }
            let same = |other: &&Descriptor| match (&other.platform, &entry.platform) {
                (Some(a), Some(b)) => !a.is_unknown() && a.matches(b) && a.os_features == b.os_features,
                _ => false,
            };
            if node.index.manifests[..i].iter().any(|other| same(&other)) {
                self.add(&at, "this platform is in the index twice".into());
            }
            if let Some(subject) = entry.attested_digest()
                && !node.index.manifests.iter().any(|other| other.digest.as_str() == subject)
            {
                self.add(&at, format!("it attests {subject}, which is not in the index"));
            }
            self.node(member, &at);
        }
    }

    fn image(&mut self, image: &Image, at: &str) {
        if let Some(config) = image.config.as_ref().filter(|_| image.is_runnable()) {
            let platform = &config.parsed.platform;
            if platform.os.is_empty() || platform.architecture.is_empty() {
                self.add(at, format!("the config declares an incomplete platform: \"{platform}\""));
            }
            let (layers, diff_ids) = (image.manifest.layers.len(), config.parsed.diff_ids.len());
            if layers != diff_ids {
                self.add(at, format!("the manifest has {layers} layers, the config {diff_ids} diff_ids"));
            }
        }
        for blob in image.manifest.layers.iter().chain([&image.manifest.config]) {
            let elsewhere = !blob.urls.is_empty() || media_type::is_foreign_layer(&blob.media_type);
            if !elsewhere && self.seen.insert(blob.digest.clone()) {
                self.blob(blob, at);
            }
        }
    }

    fn blob(&mut self, blob: &Descriptor, at: &str) {
        match self.source.has_blob(blob) {
            Ok(true) => {}
            Ok(false) => {
                return self.add(at, format!("blob {} of {} bytes is absent", blob.digest, blob.size));
            }
            Err(error) => return self.add(at, error.to_string()),
        }
        if self.depth == CheckDepth::Layers {
            let read = self.source.open_blob(blob).and_then(|mut content| drain(&mut content));
            if let Err(error) = read {
                self.add(at, error.to_string());
            }
        }
    }
}

fn drain(content: &mut dyn Read) -> Result<(), error::Error> {
    let copied = std::io::copy(content, &mut std::io::sink());
    copied.map(drop).map_err(|e| error::Error::from_io("read a blob", e))
}
