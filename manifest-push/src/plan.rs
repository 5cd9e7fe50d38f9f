//! Which images go into an index, and what is wrong with that: decided over what was read, nothing written.

use crate::index::{Kind, Style, build_index};
use crate::spec::{Member, Place};
use error::Error;
use image_model::manifest::{Descriptor, Document, DocumentError};
use image_model::patch::{MatchRule, Patched, patch_config, patch_manifest};
use image_model::platform::Platform;
use image_store::plan::WantedImage;
use image_store::store::ImageSource;
use image_store::tree::{Image, IndexNode, NestedMember, TreeNode};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A member of the spec with what was found under its name.
pub struct Found {
    pub member: Member,
    pub source: Arc<dyn ImageSource>,
    pub node: TreeNode,
}

/// What a person asked for beside the spec.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `--type`; `None`: by the members.
    pub kind: Option<Kind>,
    pub style: Style,
    pub annotations: BTreeMap<String, String>,
    /// Publish although a label contradicts the spec.
    pub force: bool,
    /// Put such a label right.
    pub relabel: bool,
}

/// What is to be published, and what a person should know about it.
#[derive(Clone)]
pub struct Combined {
    pub wanted: WantedImage,
    pub notes: Vec<String>,
}

/// An image as an entry of an index, with what belongs to it.
pub struct Part<'a> {
    /// The entry, and behind it those of its attestations.
    pub entry: Descriptor,
    pub attestations: Vec<Descriptor>,
    content: Content<'a>,
    attesting: Vec<&'a TreeNode>,
    source: &'a Arc<dyn ImageSource>,
    pub notes: Vec<String>,
}

enum Content<'a> {
    AsItIs(&'a TreeNode),
    Relabelled { image: &'a Image, config: Vec<u8>, manifest: Document },
}

/// Something wrong with a member, and its line in the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub line: usize,
    pub text: String,
}

/// Puts the members together. Every misfit is told; with any, nothing is made.
pub fn combine(found: &[Found], request: &Request) -> Result<Combined, Vec<Misfit>> {
    let mut misfits = Vec::new();
    let mut parts: Vec<(usize, Part<'_>)> = Vec::new();
    for one in found {
        let line = one.member.line;
        match part(one, request) {
            Ok(part) => parts.push((line, part)),
            Err(text) => misfits.push(Misfit { line, text }),
        }
    }
    for (i, (line, part)) in parts.iter().enumerate() {
        // Told by the spec's reader where the spec says both; here where configs do.
        let twice = parts[..i].iter().any(|(_, other)| are_one_platform(&other.entry, &part.entry));
        if let (true, Some(platform)) = (twice, &part.entry.platform) {
            misfits.push(Misfit { line: *line, text: format!("duplicate platform {platform}") });
        }
    }
    if !misfits.is_empty() {
        return Err(misfits);
    }
    // Attestations behind the images, as manifest-tool has them.
    let images = parts.iter().map(|(_, part)| part.entry.clone());
    let attestations = parts.iter().flat_map(|(_, part)| part.attestations.clone());
    let entries: Vec<Descriptor> = images.chain(attestations).collect();
    let kind = request.kind.unwrap_or_else(|| request.style.kind_of(&entries));
    let whole = |e: DocumentError| vec![Misfit { line: 1, text: e.to_string() }];
    let root = build_index(kind, request.style, &entries, &request.annotations).map_err(whole)?;
    let mut wanted = WantedImage::of_root(root);
    let mut notes = Vec::new();
    for (_, part) in &parts {
        part.add_to(&mut wanted);
        notes.extend(part.notes.iter().cloned());
    }
    Ok(Combined { wanted, notes })
}

/// Would a client take either of them?
pub fn are_one_platform(a: &Descriptor, b: &Descriptor) -> bool {
    match (&a.platform, &b.platform) {
        (Some(a), Some(b)) => a.matches(b) && a.os_features == b.os_features && a.os_version == b.os_version,
        _ => false,
    }
}

/// One member as an entry, or what is wrong with it.
pub fn part<'a>(one: &'a Found, request: &Request) -> Result<Part<'a>, String> {
    let chosen = choose(one)?;
    let (platform, content, contradiction) = settle(one, &chosen, request)?;
    let mut notes = Vec::from_iter(contradiction);
    let (document, subject) = match &content {
        Content::AsItIs(_) => (&chosen.image.document, None),
        Content::Relabelled { manifest, .. } => {
            let name = &one.member.image;
            let was = chosen.image.document.digest();
            notes.push(format!("{name}: platform set to {platform}; {was} became {}", manifest.digest()));
            (manifest, Some(manifest.digest().to_string()))
        }
    };
    let mut entry = document.descriptor();
    entry.annotations = chosen.entry.map(|entry| entry.annotations.clone()).unwrap_or_default();
    entry.annotations.extend(one.member.annotations.clone());
    entry.platform = Some(platform);
    let mut attestations = Vec::new();
    for (descriptor, _) in &chosen.attestations {
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
    let attesting = chosen.attestations.iter().map(|(_, node)| *node).collect();
    Ok(Part { entry, attestations, content, attesting, source: &one.source, notes })
}

impl Part<'_> {
    /// All that the entry needs to be there.
    pub fn add_to(&self, wanted: &mut WantedImage) {
        match &self.content {
            Content::AsItIs(node) => drop(wanted.add(node, self.source, false)),
            Content::Relabelled { image, config, manifest } => {
                wanted.add_relabelled(image, self.source, config, manifest.clone());
            }
        }
        for node in &self.attesting {
            wanted.add(node, self.source, false);
        }
    }
}

pub struct Chosen<'a> {
    node: &'a TreeNode,
    image: &'a Image,
    /// The entry that named it, where it was found in an index.
    entry: Option<&'a Descriptor>,
    attestations: Vec<(&'a Descriptor, &'a TreeNode)>,
}

/// The one image that a member means. An index is taken for the image it holds for the platform, with the
/// attestations that BuildKit put beside it.
pub fn choose(one: &Found) -> Result<Chosen<'_>, String> {
    let name = &one.member.image;
    match &one.node {
        TreeNode::Image(image) => match image.is_runnable() {
            true => Ok(Chosen { node: &one.node, image, entry: None, attestations: Vec::new() }),
            false => Err(format!("\"{name}\" is an artifact or attestation, not an image")),
        },
        TreeNode::Index(index) => choose_member(index, &one.member),
    }
}

fn choose_member<'a>(index: &'a IndexNode, member: &Member) -> Result<Chosen<'a>, String> {
    let seats = index.nested_members();
    let runnable: Vec<(&NestedMember<'a>, &'a Image)> = seats
        .iter()
        .filter_map(|seat| match seat.node {
            TreeNode::Image(image) if image.is_runnable() => Some((seat, image)),
            _ => None,
        })
        .collect();
    let asked = &member.platform;
    let fits = |seat: &NestedMember<'_>| seat.entry.platform.as_ref().is_some_and(|said| said.matches(asked));
    let mut fitting: Vec<_> = runnable.iter().filter(|(seat, _)| fits(seat)).copied().collect();
    if fitting.iter().any(|(seat, _)| !seat.is_nested()) {
        // What the index itself names is meant before what lies deeper.
        fitting.retain(|(seat, _)| !seat.is_nested());
    }
    let (NestedMember { index, entry, node, .. }, image) = match (runnable.as_slice(), fitting.as_slice()) {
        ([only], _) | (_, [only]) => *only,
        _ => {
            let said: Vec<String> = runnable
                .iter()
                .filter_map(|(seat, _)| seat.entry.platform.as_ref())
                .map(ToString::to_string)
                .collect();
            return Err(format!(
                "\"{}\" is an index of {} platforms ({}); specify one of them, or use the digest of an image",
                member.image,
                runnable.len(),
                said.join(", ")
            ));
        }
    };
    // Beside it, in whichever index it was found.
    let beside = index.index.manifests.iter().zip(&index.members);
    let attestations =
        beside.filter(|(other, _)| other.attested_digest() == Some(entry.digest.as_str())).collect();
    Ok(Chosen { node, image, entry: Some(entry), attestations })
}

/// The platform that the entry will say: the spec's, else the old entry's, else the config's; and the image with a
/// label that does not contradict it; with `--force`, what contradicts is the third. A config that says another machine is a misfit: whoever pulls by it, or runs it
/// under containerd, gets the wrong one.
fn settle<'a>(
    one: &Found,
    chosen: &Chosen<'a>,
    request: &Request,
) -> Result<(Platform, Content<'a>, Option<String>), String> {
    let name = &one.member.image;
    let config = chosen.image.config.as_ref();
    let label = config.map(|config| config.parsed.platform.clone()).unwrap_or_default();
    let from_entry = chosen.entry.and_then(|entry| entry.platform.clone());
    let base = from_entry.filter(|p| !p.architecture.is_empty()).unwrap_or_else(|| label.clone());
    let mut platform = said_over(&one.member.platform, base);
    if platform.architecture.is_empty() || platform.os.is_empty() {
        return Err(format!(
            "\"{name}\" declares no platform; specify one: \"platform\" in a spec, `annotate` for a draft, PLATFORM=IMAGE with `edit --add`"
        ));
    }
    let fits = platform.matches(&label);
    if let (true, Some(config)) = (request.relabel && !label.satisfies_entry(&platform), config) {
        let refuse = |e: DocumentError| format!("\"{name}\": its platform cannot be fixed: {e}");
        if let Patched::Changed(config) =
            patch_config(&config.bytes, &platform, MatchRule::IndexEntry).map_err(refuse)?
        {
            let manifest = patch_manifest(&chosen.image.document, &config).map_err(refuse)?;
            return Ok((platform, Content::Relabelled { image: chosen.image, config, manifest }, None));
        }
    }
    if !fits && !request.force {
        return Err(format!(
            "\"{name}\" declares {label} but would be published as {platform}; fix it with --relabel or \
             `config-patcher fix {name} --set-platform {platform}`, or publish it unchanged with --force"
        ));
    }
    let contradiction = (!fits).then(|| {
        format!("warning: {name} declares {label} and is published as {platform} (--force); clients that go by the config get the wrong image")
    });
    // What only the config says is not lost: clients choose Windows images by it.
    if fits {
        platform.variant = platform.variant.or(label.variant);
        platform.os_version = platform.os_version.or(label.os_version);
        if platform.os_features.is_empty() {
            platform.os_features = label.os_features;
        }
    }
    Ok((platform, Content::AsItIs(chosen.node), contradiction))
}

/// What is said holds; what is not said is taken from what was found, as far as that is of the same machine.
fn said_over(said: &Platform, found: Platform) -> Platform {
    let or = |said: &str, found: &str| if said.is_empty() { found.to_string() } else { said.to_string() };
    let mut platform = Platform {
        architecture: or(&said.architecture, &found.architecture),
        os: or(&said.os, &found.os),
        ..said.clone()
    };
    let whole = !said.architecture.is_empty() && !said.os.is_empty();
    if !whole && platform.architecture == found.architecture && platform.os == found.os {
        platform.variant = platform.variant.or(found.variant);
        platform.os_version = platform.os_version.or(found.os_version);
        if platform.os_features.is_empty() {
            platform.os_features = found.os_features;
        }
    }
    platform
}

/// Misfits as one error.
pub fn refuse(place: &Place, misfits: &[Misfit]) -> Error {
    let lines: Vec<String> = misfits.iter().map(|misfit| place.told(misfit.line, &misfit.text)).collect();
    let error = match lines.as_slice() {
        [only] => Error::bad_input(place.doing.clone(), only.clone()),
        several => Error::bad_input(place.doing.clone(), format!("{} errors", several.len())).problems(lines),
    };
    error.hint("nothing was written")
}

#[cfg(test)]
mod tests;
