//! Is it still an image? Walks all that a name reaches and lists what is wrong; empty is good.

use crate::store::{ImageSource, Pointer};
use crate::tree::{Image, IndexNode, Node, read_tree};
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, media_type};
use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;

/// Something wrong with an image, not with reading it: which part, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub at: String,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

/// How far to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Documents and configs; blobs are asked for by digest and size.
    Documents,
    /// Every byte of every layer as well.
    Layers,
}

/// All that is wrong with what `at` names.
pub fn check(source: &dyn ImageSource, at: &Pointer, depth: Depth) -> Vec<Problem> {
    let mut problems = Vec::new();
    match read_tree(source, at) {
        Ok(node) => Walk { source, depth, seen: BTreeSet::new(), problems: &mut problems }
            .node(&node, &at.to_string()),
        Err(error) => problems.push(Problem { at: at.to_string(), what: error.to_string() }),
    }
    problems
}

struct Walk<'a> {
    source: &'a dyn ImageSource,
    depth: Depth,
    seen: BTreeSet<Digest>,
    problems: &'a mut Vec<Problem>,
}

impl Walk<'_> {
    fn say(&mut self, at: &str, what: String) {
        self.problems.push(Problem { at: at.into(), what });
    }

    fn node(&mut self, node: &Node, at: &str) {
        match node {
            Node::Image(image) => self.image(image, at),
            Node::Index(index) => self.index(index, at),
        }
    }

    fn index(&mut self, node: &IndexNode, at: &str) {
        for (i, (entry, member)) in node.index.manifests.iter().zip(&node.members).enumerate() {
            let name = entry.platform.as_ref().map_or(format!("member {i}"), ToString::to_string);
            let at = format!("{at} {name}");
            if let (Some(said), Node::Image(image)) = (&entry.platform, member)
                && let Some(config) = image.config.as_ref().filter(|_| image.is_runnable())
                && !config.parsed.platform.fits(said)
            {
                self.say(&at, format!("the index says {said}, the config says {}", config.parsed.platform));
            }
            let same = |other: &&Descriptor| match (&other.platform, &entry.platform) {
                (Some(a), Some(b)) => !a.is_unknown() && a.fits(b) && a.os_features == b.os_features,
                _ => false,
            };
            if node.index.manifests[..i].iter().any(|other| same(&other)) {
                self.say(&at, "this platform stands twice in the index".into());
            }
            if let Some(subject) = entry.attests()
                && !node.index.manifests.iter().any(|other| other.digest.as_str() == subject)
            {
                self.say(&at, format!("it attests {subject}, which is not in the index"));
            }
            self.node(member, &at);
        }
    }

    fn image(&mut self, image: &Image, at: &str) {
        if let Some(config) = image.config.as_ref().filter(|_| image.is_runnable()) {
            let platform = &config.parsed.platform;
            if platform.os.is_empty() || platform.architecture.is_empty() {
                self.say(at, format!("the config says no whole platform: \"{platform}\""));
            }
            let (layers, diff_ids) = (image.manifest.layers.len(), config.parsed.diff_ids.len());
            if layers != diff_ids {
                self.say(at, format!("the manifest has {layers} layers, the config {diff_ids} diff_ids"));
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
                return self.say(at, format!("blob {} of {} bytes is not there", blob.digest, blob.size));
            }
            Err(error) => return self.say(at, error.to_string()),
        }
        if self.depth == Depth::Layers {
            let read = self.source.open_blob(blob).and_then(|mut content| drain(&mut content));
            if let Err(error) = read {
                self.say(at, error.to_string());
            }
        }
    }
}

fn drain(content: &mut dyn Read) -> Result<(), error::Error> {
    let copied = std::io::copy(content, &mut std::io::sink());
    copied.map(drop).map_err(|e| error::Error::from_io("read a blob", e))
}
