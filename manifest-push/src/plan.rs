//! Combines fetched images into an index, or returns every problem with them. Nothing is read or written here.

use crate::index::{IndexKind, IndexStyle, build_index};
use crate::spec::{Member, SpecSource};
use cli::suggest;
use error::Error;
use image_model::manifest::{Descriptor, Document, DocumentError};
use image_model::patch::{MatchRule, Patched, patch_config, patch_manifest};
use image_model::platform::Platform;
use image_store::plan::WantedImage;
use image_store::store::ImageSource;
use image_store::tree::{Image, IndexNode, NestedMember, TreeNode};
use std::collections::BTreeMap;
use std::sync::Arc;
use strict_yaml::Problem;

/// An image of the spec, as it was read from its store.
pub struct FetchedMember {
    pub member: Member,
    pub source: Arc<dyn ImageSource>,
    pub node: TreeNode,
}

/// Options of the index that the spec does not have.
#[derive(Clone, Debug, Default)]
pub struct IndexOptions {
    /// `--type`; `None`: it follows from the members.
    pub kind: Option<IndexKind>,
    pub style: IndexStyle,
    pub annotations: BTreeMap<String, String>,
    /// Publish an image even if it declares another platform.
    pub force: bool,
    /// Fix images that declare another platform.
    pub relabel: bool,
}

/// The index with its content, and notes for the user.
#[derive(Clone)]
pub struct CombinedIndex {
    pub wanted: WantedImage,
    pub notes: Vec<String>,
}

/// An image as an entry of an index, with its content and attestations.
pub struct PreparedMember<'a> {
    pub entry: Descriptor,
    /// The entries of its attestations.
    pub attestations: Vec<Descriptor>,
    content: Content<'a>,
    attesting: Vec<&'a TreeNode>,
    source: &'a Arc<dyn ImageSource>,
    pub notes: Vec<String>,
}

enum Content<'a> {
    Unchanged(&'a TreeNode),
    Relabeled { image: &'a Image, config: Vec<u8>, manifest: Document },
}

/// Returns the index over these images, or all problems with them.
pub fn combine(found: &[FetchedMember], options: &IndexOptions) -> Result<CombinedIndex, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut parts: Vec<(usize, PreparedMember<'_>)> = Vec::new();
    for one in found {
        let line = one.member.line;
        match prepare_member(one, options) {
            Ok(part) => parts.push((line, part)),
            Err(text) => problems.push(Problem { line, text }),
        }
    }
    for (i, (line, part)) in parts.iter().enumerate() {
        // The spec's reader finds duplicates that the spec declares; these are declared by configs.
        let is_duplicate = parts[..i].iter().any(|(_, other)| same_platform(&other.entry, &part.entry));
        if let (true, Some(platform)) = (is_duplicate, &part.entry.platform) {
            problems.push(Problem { line: *line, text: format!("duplicate platform {platform}") });
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    // Attestations follow the images, as in manifest-tool.
    let images = parts.iter().map(|(_, part)| part.entry.clone());
    let attestations = parts.iter().flat_map(|(_, part)| part.attestations.clone());
    let entries: Vec<Descriptor> = images.chain(attestations).collect();
    let kind = options.kind.unwrap_or_else(|| options.style.kind_of(&entries));
    let invalid = |e: DocumentError| vec![Problem { line: 1, text: e.to_string() }];
    let root = build_index(kind, options.style, &entries, &options.annotations).map_err(invalid)?;
    let mut wanted = WantedImage::of_root(root);
    let mut notes = Vec::new();
    for (_, part) in &parts {
        part.add_to(&mut wanted);
        notes.extend(part.notes.iter().cloned());
    }
    Ok(CombinedIndex { wanted, notes })
}

/// Returns whether a client on one host could select either of these entries.
pub fn same_platform(a: &Descriptor, b: &Descriptor) -> bool {
    match (&a.platform, &b.platform) {
        (Some(a), Some(b)) => a.matches(b) && a.os_features == b.os_features && a.os_version == b.os_version,
        _ => false,
    }
}

/// Returns an image as an entry of an index, or the problem with it.
pub fn prepare_member<'a>(
    one: &'a FetchedMember,
    options: &IndexOptions,
) -> Result<PreparedMember<'a>, String> {
    let selected = select_image(one)?;
    let (platform, content, contradiction) = entry_platform(one, &selected, options)?;
    let mut notes = Vec::from_iter(contradiction);
    let (document, subject) = match &content {
        Content::Unchanged(_) => (&selected.image.document, None),
        Content::Relabeled { manifest, .. } => {
            let name = &one.member.image;
            let was = selected.image.document.digest();
            notes.push(format!("{name}: platform set to {platform}; {was} became {}", manifest.digest()));
            (manifest, Some(manifest.digest().to_string()))
        }
    };
    let mut entry = document.descriptor();
    entry.annotations = selected.entry.map(|entry| entry.annotations.clone()).unwrap_or_default();
    entry.annotations.extend(one.member.annotations.clone());
    entry.platform = Some(platform);
    for (descriptor, _) in &selected.absent_attestations {
        notes.push(format!(
            "attestation {} of {} is absent and left out",
            descriptor.digest, one.member.image
        ));
    }
    let mut attestations = Vec::new();
    for (descriptor, _) in &selected.attestations {
        let mut descriptor = (*descriptor).clone();
        if let Some(subject) = &subject {
            notes.push(format!(
                "attestation {} now refers to {subject}; its signed statement still refers to the old image",
                descriptor.digest
            ));
            descriptor.annotations.insert("vnd.docker.reference.digest".into(), subject.clone());
        }
        attestations.push(descriptor);
    }
    let attesting = selected.attestations.iter().map(|(_, node)| *node).collect();
    Ok(PreparedMember { entry, attestations, content, attesting, source: &one.source, notes })
}

impl PreparedMember<'_> {
    /// Adds everything that the entry references.
    pub fn add_to(&self, wanted: &mut WantedImage) {
        match &self.content {
            Content::Unchanged(node) => drop(wanted.add(node, self.source, false)),
            Content::Relabeled { image, config, manifest } => {
                wanted.add_relabeled(image, self.source, config, manifest.clone());
            }
        }
        for node in &self.attesting {
            wanted.add(node, self.source, false);
        }
    }
}

pub struct SelectedImage<'a> {
    node: &'a TreeNode,
    image: &'a Image,
    /// Its entry, if it was found in an index.
    entry: Option<&'a Descriptor>,
    attestations: Vec<(&'a Descriptor, &'a TreeNode)>,
    /// Attestations that could not be read. They are left out.
    absent_attestations: Vec<(&'a Descriptor, &'a TreeNode)>,
}

/// Returns the one image for a member: the image itself or, of an index, the image for the member's platform with the
/// attestations that BuildKit added for it.
pub fn select_image(one: &FetchedMember) -> Result<SelectedImage<'_>, String> {
    let name = &one.member.image;
    match &one.node {
        TreeNode::Image(image) => match image.is_runnable() {
            true => Ok(SelectedImage {
                node: &one.node,
                image,
                entry: None,
                attestations: Vec::new(),
                absent_attestations: Vec::new(),
            }),
            false => Err(format!("\"{name}\" is an artifact or attestation, not an image")),
        },
        TreeNode::Index(index) => select_from_index(index, &one.member),
        TreeNode::Unread(unread) => Err(unread.error.to_string()),
    }
}

/// Returns the error of a member of a source index that is needed and could not be read. Its siblings may be absent: Docker
/// Engine saves an index with the images that it has.
pub fn unread_selection(one: &FetchedMember) -> Option<Error> {
    let TreeNode::Index(index) = &one.node else { return None };
    let seats = index.nested_members();
    let asked = &one.member.platform;
    let fits = |nested: &&NestedMember<'_>| match &nested.entry.platform {
        _ if asked.architecture.is_empty() => true,
        Some(platform) => platform.matches(asked),
        None => false,
    };
    let is_image =
        |nested: &&NestedMember<'_>| matches!(nested.node, TreeNode::Image(image) if image.is_runnable());
    if seats.iter().any(|nested| is_image(&nested) && fits(&nested)) {
        return None;
    }
    let (nested, unread) = seats.iter().filter(fits).find_map(|nested| match nested.node {
        TreeNode::Unread(unread) => Some((nested, unread)),
        TreeNode::Image(_) | TreeNode::Index(_) => None,
    })?;
    let name = nested.entry.platform.as_ref().map_or(unread.digest.to_string(), ToString::to_string);
    let why = unread.absent_part().unwrap_or_else(|| unread.error.to_string());
    let there = seats.iter().filter(is_image).filter_map(|nested| nested.entry.platform.as_ref());
    let there: Vec<String> = there.map(ToString::to_string).collect();
    let error = Error::new(unread.error.kind, format!("read {name} of \"{}\"", one.member.image), why);
    Some(match there.is_empty() {
        true => error,
        false => error.hint(format!("these are there: {}", there.join(", "))),
    })
}

fn select_from_index<'a>(index: &'a IndexNode, member: &Member) -> Result<SelectedImage<'a>, String> {
    let seats = index.nested_members();
    let runnable: Vec<(&NestedMember<'a>, &'a Image)> = seats
        .iter()
        .filter_map(|nested| match nested.node {
            TreeNode::Image(image) if image.is_runnable() => Some((nested, image)),
            _ => None,
        })
        .collect();
    // What is absent counts: the only image that is there need not be the one that is meant.
    let absent: Vec<&Platform> = seats
        .iter()
        .filter(|nested| matches!(nested.node, TreeNode::Unread(_)))
        .filter_map(|nested| nested.entry.platform.as_ref())
        .collect();
    let asked = &member.platform;
    let fits = |nested: &NestedMember<'_>| {
        nested.entry.platform.as_ref().is_some_and(|platform| platform.matches(asked))
    };
    let mut fitting: Vec<_> = runnable.iter().filter(|(nested, _)| fits(nested)).copied().collect();
    if fitting.iter().any(|(nested, _)| !nested.is_nested()) {
        // Entries of the index itself take precedence over those of nested indexes.
        fitting.retain(|(nested, _)| !nested.is_nested());
    }
    let (NestedMember { index, entry, node, .. }, image) = match (runnable.as_slice(), fitting.as_slice()) {
        ([only], []) if absent.is_empty() => *only,
        (_, [only]) => *only,
        _ => {
            let there = runnable.iter().filter_map(|(nested, _)| nested.entry.platform.as_ref());
            let platforms: Vec<String> = there
                .map(ToString::to_string)
                .chain(absent.iter().map(|platform| format!("{platform}, which is absent")))
                .collect();
            return Err(format!(
                "\"{}\" is an index of {} platforms ({}); specify one of them, or use the digest of an image",
                member.image,
                runnable.len() + absent.len(),
                platforms.join(", ")
            ));
        }
    };
    // Attestations are in the same index as their image.
    let beside = index.index.manifests.iter().zip(&index.members);
    let own = beside.filter(|(other, _)| other.attested_digest() == Some(entry.digest.as_str()));
    let (absent, attestations) = own.partition(|(_, node)| matches!(node, TreeNode::Unread(_)));
    Ok(SelectedImage { node, image, entry: Some(entry), attestations, absent_attestations: absent })
}

/// Returns (platform, content, warning). The platform is that of the spec, else of the existing entry, else of the
/// config. The warning is set if `--force` accepted an image that declares another platform.
///
/// Without `--force` that is a problem: containerd, and clients that go by the config, would get the wrong image.
fn entry_platform<'a>(
    one: &FetchedMember,
    selected: &SelectedImage<'a>,
    options: &IndexOptions,
) -> Result<(Platform, Content<'a>, Option<String>), String> {
    let name = &one.member.image;
    let config = selected.image.config.as_ref();
    let declared = config.map(|config| config.parsed.platform.clone()).unwrap_or_default();
    let from_entry = selected.entry.and_then(|entry| entry.platform.clone());
    let base = from_entry.filter(|p| !p.architecture.is_empty()).unwrap_or_else(|| declared.clone());
    let mut platform = merge_platform(&one.member.platform, base);
    if platform.architecture.is_empty() || platform.os.is_empty() {
        return Err(format!(
            "\"{name}\" declares no platform; specify one: \"platform\" in a spec, `annotate` for a draft, PLATFORM=IMAGE with `edit --add`"
        ));
    }
    let fits = platform.matches(&declared);
    if let (true, Some(config)) = (options.relabel && !declared.satisfies_entry(&platform), config) {
        let failed = |e: DocumentError| format!("\"{name}\": its platform cannot be fixed: {e}");
        if let Patched::Changed(config) =
            patch_config(&config.bytes, &platform, MatchRule::IndexEntry).map_err(failed)?
        {
            let manifest = patch_manifest(&selected.image.document, &config).map_err(failed)?;
            return Ok((platform, Content::Relabeled { image: selected.image, config, manifest }, None));
        }
    }
    if !fits && !options.force {
        let fix = ["fix", &name.to_string(), "--set-platform", &platform.to_string()];
        let fix = suggest("config-patcher", &fix);
        return Err(format!(
            "\"{name}\" declares {declared} but would be published as {platform}; fix it with --relabel or \
             `{fix}`, or publish it unchanged with --force"
        ));
    }
    let contradiction = (!fits).then(|| {
        format!("warning: {name} declares {declared} and is published as {platform} (--force); clients that go by the config get the wrong image")
    });
    // Keep what only the config has: clients select Windows images by os.version.
    if fits {
        platform.variant = platform.variant.or(declared.variant);
        platform.os_version = platform.os_version.or(declared.os_version);
        if platform.os_features.is_empty() {
            platform.os_features = declared.os_features;
        }
    }
    Ok((platform, Content::Unchanged(selected.node), contradiction))
}

/// Returns the specified platform, completed from the found one if both are for the same architecture and OS.
fn merge_platform(specified: &Platform, found: Platform) -> Platform {
    let or = |one: &str, other: &str| if one.is_empty() { other.to_string() } else { one.to_string() };
    let mut platform = Platform {
        architecture: or(&specified.architecture, &found.architecture),
        os: or(&specified.os, &found.os),
        ..specified.clone()
    };
    let is_complete = !specified.architecture.is_empty() && !specified.os.is_empty();
    if !is_complete && platform.architecture == found.architecture && platform.os == found.os {
        platform.variant = platform.variant.or(found.variant);
        platform.os_version = platform.os_version.or(found.os_version);
        if platform.os_features.is_empty() {
            platform.os_features = found.os_features;
        }
    }
    platform
}

/// All problems as one error, with the source of each.
pub fn refuse_problems(source: &SpecSource, problems: &[Problem]) -> Error {
    let lines: Vec<String> =
        problems.iter().map(|problem| source.format_problem(problem.line, &problem.text)).collect();
    let error = match lines.as_slice() {
        [only] => Error::bad_input(source.doing.clone(), only.clone()),
        several => {
            Error::bad_input(source.doing.clone(), format!("{} errors", several.len())).problems(lines)
        }
    };
    error.hint("nothing was written")
}

#[cfg(test)]
mod tests;
