//! Images of the published index that `--only` retains.

use super::{VerdictDepth, contradictions, stops_release};
use crate::context::{ReleaseContext, Reporter};
use crate::report::{DeclaredPlatform, EvidenceReport, PlatformReport, SmokeResult};
use crate::request::Request;
use crate::spec::Spec;
use crate::stages::build::declared_platform;
use crate::work_dir::records::Records;
use error::{Error, Exit};
use image_evidence::verify::{VerifyDepth, VerifyOptions, VerifyTarget, verify_all};
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Index};
use image_model::platform::Platform;
use image_store::open::Target;
use image_store::store::{ImageSource, Pointer};
use image_store::tree::{Image, IndexNode, TreeNode, read_tree};
use std::sync::Arc;

const HINT: &str = "nothing was published; build it too, with another --only, or run without --only";
const NOT_RUN: &str = "it is retained as published";

/// Members of the published index that stay in the new one.
#[derive(Default)]
pub struct RetainedMembers {
    pub members: Vec<RetainedMember>,
    pub source: Option<Arc<dyn ImageSource>>,
}

/// An image or attestation that stays in the index.
pub struct RetainedMember {
    pub entry: Descriptor,
    pub node: TreeNode,
    /// `None` until it is verified.
    evidence: Option<EvidenceReport>,
    smoke: Option<SmokeResult>,
}

impl RetainedMembers {
    /// The members of the published index that the request does not replace. None without `--only`.
    ///
    /// # Errors
    /// `NotFound` if nothing is published, or a platform of the spec that is not built is not published.
    pub fn read(request: &Request, target: &Target) -> Result<Self, Error> {
        if !request.retains_others {
            return Ok(Self::default());
        }
        let tag = target.tags.first().cloned().unwrap_or_default();
        let doing = format!("retain the other platforms of \"{}:{tag}\"", target.store.display_name());
        let source: Arc<dyn ImageSource> = target.store.clone();
        let node = match source.resolve(&Pointer::Tag(tag.clone()))? {
            Some(_) => read_tree(&*source, &Pointer::Tag(tag))?,
            // All platforms of the spec are built.
            None if request.retained.is_empty() => return Ok(Self::default()),
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
        let mut retained = Vec::new();
        for (entry, node) in index.manifests.into_iter().zip(members) {
            if stays.contains(&entry.digest) {
                retained.push(RetainedMember { entry, node, evidence: None, smoke: None });
            }
        }
        for platform in &request.retained {
            let is_it =
                |one: &RetainedMember| one.entry.platform.as_ref().is_some_and(|said| said.matches(platform));
            if !retained.iter().any(is_it) {
                let why = format!("it has no {platform}");
                return Err(Error::not_found(doing, why).hint("run without --only"));
            }
        }
        Ok(Self { members: retained, source: Some(source) })
    }

    /// The images among the members. Attestations are none.
    pub fn images(&self) -> impl Iterator<Item = &RetainedMember> {
        self.members.iter().filter(|member| member.is_image())
    }
}

/// Digests of the members that no platform of the spec replaces, and of their attestations.
fn not_built(index: &Index, spec: &Spec) -> Vec<Digest> {
    let is_built = |entry: &Descriptor| {
        let said = entry.platform.as_ref();
        said.is_some_and(|said| spec.platforms.iter().any(|one| one.platform.matches(said)))
    };
    let images = index.manifests.iter().filter(|entry| entry.attested_digest().is_none() && !is_built(entry));
    let images: Vec<Digest> = images.map(|entry| entry.digest.clone()).collect();
    let attests_one = |entry: &&Descriptor| {
        entry
            .attested_digest()
            .is_some_and(|attested| images.iter().any(|image| image.to_string() == attested))
    };
    let attesting = index.manifests.iter().filter(attests_one).map(|entry| entry.digest.clone());
    images.iter().cloned().chain(attesting).collect()
}

/// Published images that no platform of the spec, as far as it is built now, replaces.
pub fn other_images<'a>(index: &'a Index, spec: &Spec) -> Vec<&'a Descriptor> {
    let others = not_built(index, spec);
    let entries = index.manifests.iter().filter(|entry| entry.attested_digest().is_none());
    entries.filter(|entry| others.contains(&entry.digest)).collect()
}

/// Returns whether an earlier run verified this image against its binaries.
pub fn is_verified(records: &Records, digest: &Digest, platform: &Platform) -> bool {
    [VerdictDepth::Full, VerdictDepth::Quick].iter().any(|depth| depth.is_recorded(records, digest, platform))
}

/// Verifies each retained image: its config must declare the platform of its entry, and its binaries must not be for
/// another one. Images that no earlier run verified are read from the top layer down until their platform is known.
///
/// # Errors
/// `CheckFailed` if an image fails, with all that do.
pub fn verify_retained(
    ReleaseContext { request, target, records, reporter, .. }: &ReleaseContext<'_>,
    retained: &mut RetainedMembers,
) -> Result<(), Error> {
    let Reporter { output, .. } = reporter;
    let doing = || format!("retain the published images of {}", request.spec.image);
    let mut problems = Vec::new();
    for member in retained.members.iter_mut().filter(|member| member.is_image()) {
        let platform = member.platform();
        for (_, image) in member.node.images() {
            // An image of a nested index is compared with its own config: the entry describes the nested index.
            let wanted =
                if member.node.images().len() == 1 { platform.clone() } else { declared_platform(image) };
            let digest = image.document.digest();
            if !declared_platform(image).satisfies_entry(&wanted) {
                problems.push(format!("{wanted}: its config declares {}", declared_platform(image)));
                continue;
            }
            member.smoke = records.get("smoke", &(digest, &wanted, &request.spec.smoke));
            let known = [VerdictDepth::Full, VerdictDepth::Quick]
                .iter()
                .find_map(|depth| depth.recorded(records, digest, &wanted));
            if known.is_some() {
                member.evidence = known;
                continue;
            }
            let subject = VerifyTarget { source: &*target.store, image, platform: &wanted };
            // What a release publishes does not rest on what an image says about itself.
            let options = VerifyOptions { tables: false, ..VerifyOptions::new(VerifyDepth::Quick) };
            let found = verify_all(&[subject], &options).into_iter().next();
            let finding = found.unwrap_or_else(|| Err(Error::local(doing(), "it was not read")));
            let verdict = &finding.map_err(|error| error.hint(HINT))?.verdict;
            let report = EvidenceReport { quick: true, ..EvidenceReport::from(verdict) };
            output.info(&format!("verify {wanted}: {}, retained as published", report.to_text()));
            if stops_release(verdict.kind) {
                problems.extend(contradictions(&wanted, image, verdict));
            } else {
                VerdictDepth::Quick.record(records, digest, &wanted, &report)?;
            }
            member.evidence = Some(report);
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let why = "published images are not for the platforms of their entries";
    Err(Error::new(Exit::CheckFailed, doing(), why).hint(HINT).problems(problems))
}

impl RetainedMember {
    fn is_image(&self) -> bool {
        self.entry.attested_digest().is_none()
    }

    fn image(&self) -> Option<&Image> {
        self.node.images().into_iter().map(|(_, image)| image).next()
    }

    fn platform(&self) -> Platform {
        let declared = || self.image().map(declared_platform);
        self.entry.platform.clone().or_else(declared).unwrap_or_default()
    }

    /// Its row in the report. `has_smoke`: the spec has a smoke command.
    pub fn report(&self, has_smoke: bool) -> PlatformReport {
        let image = self.image();
        let declared = image.map(declared_platform).unwrap_or_default();
        let not_run = || has_smoke.then(|| SmokeResult::NotRun { why: NOT_RUN.into() });
        PlatformReport {
            platform: self.platform(),
            builder: String::new(),
            manifest: self.entry.digest.clone(),
            config: image.map_or(self.entry.digest.clone(), |image| image.manifest.config.digest.clone()),
            layer_bytes: image.map_or(0, |image| image.manifest.layers.iter().map(|layer| layer.size).sum()),
            declared: DeclaredPlatform { built: declared.clone(), published: declared },
            evidence: self.evidence.clone(),
            smoke: self.smoke.clone().or_else(not_run),
            seconds: 0.0,
        }
    }
}
