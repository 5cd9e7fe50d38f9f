//! What `--only` keeps of the published index, and what is known of it.

use crate::request::Request;
use crate::spec::Spec;
use crate::stages::build::label_of;
use crate::stages::report::{EvidenceReport, LabelReport, PlatformReport};
use crate::stages::smoke::Smoke;
use crate::stages::verify::{BUILT, contradictions};
use crate::work_dir::records::Records;
use cli::Output;
use error::Error;
use error::Exit;
use image_evidence::verdict::VerdictKind;
use image_evidence::verify::{VerifyDepth, VerifyOptions, VerifyTarget, verify_all};
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Index};
use image_model::platform::Platform;
use image_store::open::Target;
use image_store::store::{ImageSource, Pointer};
use image_store::tree::{IndexNode, TreeNode, read_tree};
use std::sync::Arc;

/// Records of images that were kept: a quick look, where an image that was built is read to its end.
const KEPT: &str = "binaries of what was kept";
const BUILD_IT: &str = "nothing was published; build it, too, with another --only, or run without --only";
const NOT_RUN: &str = "it is kept as it was published";

/// What `--only` keeps of the published index.
pub struct Published {
    pub kept: Vec<Kept>,
    pub source: Option<Arc<dyn ImageSource>>,
}

pub struct Kept {
    pub entry: Descriptor,
    pub node: TreeNode,
    /// What its binaries say, once they were held against its label.
    evidence: Option<EvidenceReport>,
    smoke: Option<Smoke>,
}

impl Published {
    pub fn read(request: &Request, target: &Target) -> Result<Self, Error> {
        let nothing = || Ok(Self { kept: Vec::new(), source: None });
        if !request.keeps_others {
            return nothing();
        }
        let tag = target.tags.first().cloned().unwrap_or_default();
        let doing = format!("keep the other platforms of \"{}:{tag}\"", target.store.display_name());
        let source: Arc<dyn ImageSource> = target.store.clone();
        let node = match source.resolve(&Pointer::Tag(tag.clone()))? {
            Some(_) => read_tree(&*source, &Pointer::Tag(tag))?,
            // All of the spec is built.
            None if request.kept.is_empty() => return nothing(),
            None => {
                return Err(
                    Error::not_found(doing, "nothing is published there yet").hint("run without --only")
                );
            }
        };
        let TreeNode::Index(IndexNode { index, members, .. }) = node else {
            return Err(Error::bad_input(doing, "it is one image, not an index").hint("run without --only"));
        };
        let stays = not_built(&index, &request.spec);
        let mut kept = Vec::new();
        for (entry, node) in index.manifests.into_iter().zip(members) {
            if stays.contains(&entry.digest) {
                kept.push(Kept { entry, node, evidence: None, smoke: None });
            }
        }
        for platform in &request.kept {
            if !kept.iter().any(|one| one.entry.platform.as_ref().is_some_and(|said| said.fits(platform))) {
                let why = format!("it has no {platform}");
                return Err(Error::not_found(doing, why).hint("run without --only"));
            }
        }
        Ok(Self { kept, source: Some(source) })
    }
}

/// The members of a published index that no platform of the spec takes the place of, and what attests them.
fn not_built(index: &Index, spec: &Spec) -> Vec<Digest> {
    let is_built = |entry: &Descriptor| {
        let said = entry.platform.as_ref();
        said.is_some_and(|said| spec.platforms.iter().any(|one| one.platform.fits(said)))
    };
    let images = index.manifests.iter().filter(|entry| entry.attests().is_none() && !is_built(entry));
    let images: Vec<Digest> = images.map(|entry| entry.digest.clone()).collect();
    let attests_one = |entry: &&Descriptor| {
        entry.attests().is_some_and(|attested| images.iter().any(|image| image.to_string() == attested))
    };
    let attesting = index.manifests.iter().filter(attests_one).map(|entry| entry.digest.clone());
    images.iter().cloned().chain(attesting).collect()
}

/// The images that are published and that the spec, as far as it is built now, does not have.
pub fn other_images<'a>(index: &'a Index, spec: &Spec) -> Vec<&'a Descriptor> {
    let others = not_built(index, spec);
    let entries = index.manifests.iter().filter(|entry| entry.attests().is_none());
    entries.filter(|entry| others.contains(&entry.digest)).collect()
}

/// Was this image held against its binaries by an earlier run?
pub fn is_proven(records: &Records, digest: &Digest, platform: &Platform) -> bool {
    [BUILT, KEPT].iter().any(|kind| records.has(kind, &(digest, platform)))
}

/// Nothing leaves with a label that its binaries contradict, whoever built it: each image that is kept must be there,
/// must say what its entry says, and must not be contradicted by what it would execute. What an earlier run found of
/// the same image counts; what none has seen is looked into, from the top layer down until its program is known.
pub fn hold_kept(
    request: &Request,
    published: &mut Published,
    target: &Target,
    output: &Output,
) -> Result<(), Error> {
    let records = Records::new(&request.work_dir);
    let doing = || format!("keep what is published of {}", request.spec.image);
    let mut problems = Vec::new();
    for kept in published.kept.iter_mut().filter(|kept| kept.is_image()) {
        let platform = kept.platform();
        for (_, image) in kept.node.images() {
            // Within a nested index each image says for itself what it is.
            let wanted = if kept.node.images().len() == 1 { platform.clone() } else { label_of(image) };
            let key = (image.document.digest(), &wanted);
            if !label_of(image).answers_entry(&wanted) {
                problems.push(format!("{wanted}: its config says {}", label_of(image)));
                continue;
            }
            kept.smoke = records.get("smoke", &(key.0, key.1, &request.spec.smoke));
            if let Some(known) = [BUILT, KEPT].iter().find_map(|kind| records.get(kind, &key)) {
                kept.evidence = Some(known);
                continue;
            }
            let subject = VerifyTarget { source: &*target.store, image, platform: &wanted };
            let found = verify_all(&[subject], &VerifyOptions::new(VerifyDepth::Quick)).into_iter().next();
            let finding = found.unwrap_or_else(|| Err(Error::local(doing(), "it was not looked at")));
            let verdict = &finding.map_err(|error| error.hint(BUILD_IT))?.verdict;
            let found = EvidenceReport { quick: true, ..EvidenceReport::from(verdict) };
            output.info(&format!("binaries {wanted}: {}, kept as published", found.shown()));
            match verdict.kind {
                VerdictKind::Mislabeled | VerdictKind::Mixed => {
                    problems.extend(contradictions(&wanted, image, verdict))
                }
                VerdictKind::Consistent | VerdictKind::ForeignPayload | VerdictKind::Undetermined => {
                    records.keep(KEPT, &key, &found)?;
                }
            }
            kept.evidence = Some(found);
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let why = "what is published is not what it says";
    Err(Error::new(Exit::CheckFailed, doing(), why).hint(BUILD_IT).problems(problems))
}

impl Kept {
    /// What attests an image is no image.
    pub fn is_image(&self) -> bool {
        self.entry.attests().is_none()
    }

    fn platform(&self) -> Platform {
        let image = self.node.images().into_iter().map(|(_, image)| image).next();
        self.entry.platform.clone().or_else(|| image.map(label_of)).unwrap_or_default()
    }

    /// `runs`: the spec has a smoke command.
    pub fn report(&self, runs: bool) -> PlatformReport {
        let platform = self.platform();
        let image = self.node.images().into_iter().map(|(_, image)| image).next();
        let label = image.map(label_of).unwrap_or_default();
        PlatformReport {
            platform,
            builder: String::new(),
            manifest: self.entry.digest.clone(),
            config: image.map_or(self.entry.digest.clone(), |image| image.manifest.config.digest.clone()),
            layer_bytes: image.map_or(0, |image| image.manifest.layers.iter().map(|layer| layer.size).sum()),
            label: LabelReport { built: label.clone(), published: label },
            evidence: self.evidence.clone(),
            smoke: self.smoke.clone().or_else(|| runs.then(|| Smoke::NotRun { why: NOT_RUN.into() })),
            seconds: 0.0,
        }
    }
}
