//! Which images go into an index, and what is wrong with that: decided over what was read, nothing written.

use crate::index::{Kind, build_index};
use crate::spec::Member;
use image_store::error::StoreError;
use image_store::manifest::{Descriptor, DocumentError};
use image_store::plan::Wanted;
use image_store::platform::Platform;
use image_store::store::ImageSource;
use image_store::tree::{Image, IndexNode, Node};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A member of the spec with what was found under its name.
pub struct Found {
    pub member: Member,
    pub source: Arc<dyn ImageSource>,
    pub node: Node,
}

/// What a person asked for beside the spec.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `--type`; `None`: by the members.
    pub kind: Option<Kind>,
    pub annotations: BTreeMap<String, String>,
    /// Publish although a label contradicts the spec.
    pub force: bool,
}

/// Something wrong with a member, and its line in the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    pub line: usize,
    pub text: String,
}

/// Puts the members together. Every misfit is told; with any, nothing is made.
pub fn combine(found: &[Found], request: &Request) -> Result<Wanted, Vec<Misfit>> {
    let mut misfits = Vec::new();
    let mut entries: Vec<Descriptor> = Vec::new();
    let mut lines: Vec<usize> = Vec::new();
    let mut attestations: Vec<Descriptor> = Vec::new();
    let mut parts: Vec<(&Node, &Arc<dyn ImageSource>)> = Vec::new();
    for one in found {
        match choose(one) {
            Ok(chosen) => {
                let platform = match settle_platform(one, chosen.image, chosen.entry, request.force) {
                    Ok(platform) => platform,
                    Err(text) => {
                        misfits.push(Misfit { line: one.member.line, text });
                        continue;
                    }
                };
                let mut entry = chosen.image.document.descriptor();
                entry.annotations = chosen.entry.map(|entry| entry.annotations.clone()).unwrap_or_default();
                entry.platform = Some(platform);
                entries.push(entry);
                lines.push(one.member.line);
                parts.push((chosen.node, &one.source));
                for (descriptor, node) in chosen.attestations {
                    attestations.push(descriptor.clone());
                    parts.push((node, &one.source));
                }
            }
            Err(text) => misfits.push(Misfit { line: one.member.line, text }),
        }
    }
    for (i, entry) in entries.iter().enumerate() {
        let same = |other: &&Descriptor| match (&other.platform, &entry.platform) {
            (Some(a), Some(b)) => a.fits(b) && a.os_features == b.os_features && a.os_version == b.os_version,
            _ => false,
        };
        // Told by the spec's reader where the spec says both; here where configs do.
        if let (Some(_), Some(platform)) = (entries[..i].iter().find(same), &entry.platform) {
            misfits.push(Misfit { line: lines[i], text: format!("platform {platform} stands twice") });
        }
    }
    if !misfits.is_empty() {
        return Err(misfits);
    }
    entries.extend(attestations);
    let kind = request.kind.unwrap_or_else(|| Kind::of(&entries));
    let whole = |e: DocumentError| vec![Misfit { line: 1, text: e.to_string() }];
    let root = build_index(kind, &entries, &request.annotations).map_err(whole)?;
    let mut wanted = Wanted::of_root(root);
    for (node, source) in parts {
        wanted.add(node, source, false);
    }
    Ok(wanted)
}

struct Chosen<'a> {
    node: &'a Node,
    image: &'a Image,
    /// The entry that named it, where it was found in an index.
    entry: Option<&'a Descriptor>,
    attestations: Vec<(&'a Descriptor, &'a Node)>,
}

/// The one image that a member means. An index is taken for the image it holds for the platform, with the
/// attestations that BuildKit put beside it.
fn choose(one: &Found) -> Result<Chosen<'_>, String> {
    let name = &one.member.image;
    match &one.node {
        Node::Image(image) => match image.is_runnable() {
            true => Ok(Chosen { node: &one.node, image, entry: None, attestations: Vec::new() }),
            false => Err(format!("\"{name}\" is an artifact or attestation, not an image")),
        },
        Node::Index(index) => choose_member(index, &one.member),
    }
}

fn choose_member<'a>(index: &'a IndexNode, member: &Member) -> Result<Chosen<'a>, String> {
    let all: Vec<(&Descriptor, &Node)> = index.index.manifests.iter().zip(&index.members).collect();
    let runnable: Vec<(&Descriptor, &Node, &Image)> = all
        .iter()
        .filter_map(|(entry, node)| match node {
            Node::Image(image) if image.is_runnable() && entry.attests().is_none() => {
                Some((*entry, *node, image))
            }
            _ => None,
        })
        .collect();
    let asked = &member.platform;
    let fits = |entry: &Descriptor| entry.platform.as_ref().is_some_and(|said| said.fits(asked));
    let fitting: Vec<_> = runnable.iter().filter(|(entry, ..)| fits(entry)).copied().collect();
    let (entry, node, image) = match (runnable.as_slice(), fitting.as_slice()) {
        ([only], _) | (_, [only]) => *only,
        _ => {
            let said: Vec<String> = runnable
                .iter()
                .filter_map(|(entry, ..)| entry.platform.as_ref())
                .map(ToString::to_string)
                .collect();
            return Err(format!(
                "\"{}\" is an index of {} platforms ({}); say in \"platform\" which one is meant, or name it by digest",
                member.image,
                runnable.len(),
                said.join(", ")
            ));
        }
    };
    let attestations =
        all.into_iter().filter(|(other, _)| other.attests() == Some(entry.digest.as_str())).collect();
    Ok(Chosen { node, image, entry: Some(entry), attestations })
}

/// The platform that the entry will say: the spec's, else the old entry's, else the config's. A config that says
/// another machine is a misfit: whoever pulls by it, or runs it under containerd, gets the wrong one.
fn settle_platform(
    one: &Found,
    image: &Image,
    entry: Option<&Descriptor>,
    force: bool,
) -> Result<Platform, String> {
    let name = &one.member.image;
    let label = image.config.as_ref().map(|config| config.parsed.platform.clone()).unwrap_or_default();
    let from_entry = entry.and_then(|entry| entry.platform.clone());
    let said = one.member.platform.clone();
    let mut platform = match said.architecture.is_empty() {
        true => from_entry.filter(|p| !p.architecture.is_empty()).unwrap_or_else(|| label.clone()),
        false => said,
    };
    if platform.architecture.is_empty() || platform.os.is_empty() {
        return Err(format!("\"{name}\" says no platform, nor does the spec; add \"platform\""));
    }
    if !platform.fits(&label) && !force {
        return Err(format!(
            "\"{name}\" is labelled {label}, the spec says {platform}; put the label right with \
             `config-patcher fix {name} --platform {platform}`, or publish it as it is with --force"
        ));
    }
    // What only the config says is not lost: clients choose Windows images by it.
    if platform.fits(&label) {
        platform.variant = platform.variant.or(label.variant);
        platform.os_version = platform.os_version.or(label.os_version);
        if platform.os_features.is_empty() {
            platform.os_features = label.os_features;
        }
    }
    Ok(platform)
}

/// Misfits as the error of publishing `file`.
pub fn refuse(file: &str, misfits: &[Misfit]) -> StoreError {
    let lines = misfits.iter().map(|misfit| format!("{file}:{}: {}", misfit.line, misfit.text)).collect();
    let count = misfits.len();
    let why =
        if count == 1 { "there is a problem".to_string() } else { format!("there are {count} problems") };
    StoreError::bad_input(format!("publish \"{file}\""), why).hint("nothing was written").problems(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_store::check::{Depth, check};
    use image_store::manifest::media_type::{OCI_CONFIG, OCI_LAYER};
    use image_store::manifest::{Content, Document};
    use image_store::plan::{MovedTag, apply, plan};
    use image_store::store::memory::MemoryStore;
    use image_store::store::{ImageStore, Pointer};
    use image_store::tree::grow;

    fn add_image(store: &MemoryStore, label: &str) -> Document {
        let layer = store.add_blob(OCI_LAYER, label.as_bytes());
        let mut config = serde_json::to_value(label.parse::<Platform>().unwrap()).unwrap();
        config["rootfs"] = serde_json::json!({"type":"layers","diff_ids":[layer.digest]});
        let config = store.add_blob(OCI_CONFIG, config.to_string().as_bytes());
        let manifest = serde_json::json!({"schemaVersion":2,"config":config,"layers":[layer]});
        let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
        store.write_document(&document).unwrap();
        document
    }

    fn found(label: &str, said: &str) -> Found {
        let store = MemoryStore::new();
        let document = add_image(&store, label);
        let node = grow(&store, document, 0).unwrap();
        let platform = if said.is_empty() { Platform::default() } else { said.parse().unwrap() };
        let member = Member { image: "q.io/a:1".parse().unwrap(), platform, line: 3 };
        Found { member, source: Arc::new(store), node }
    }

    fn said(found: &[Found], request: &Request) -> String {
        match combine(found, request) {
            Err(misfits) => misfits.iter().map(|m| format!("{}: {}\n", m.line, m.text)).collect(),
            Ok(wanted) => {
                let Content::Index(index) = wanted.root.parse().unwrap() else { panic!("an index") };
                let said =
                    index.manifests.iter().filter_map(|m| m.platform.as_ref()).map(ToString::to_string);
                said.collect::<Vec<_>>().join(" ")
            }
        }
    }

    #[test]
    fn members_from_several_stores_become_one_whole_image() {
        let found = [found("linux/amd64", "linux/amd64"), found("linux/arm/v7", "linux/arm/v7")];
        let wanted = combine(&found, &Request::default()).unwrap();
        let target = MemoryStore::new();
        let steps = plan(wanted, &target, &["latest".into()]).unwrap();
        apply(&steps, &target, MovedTag::Refuse, &|_| {}).unwrap();
        assert_eq!(check(&target, &Pointer::Tag("latest".into()), Depth::Layers), []);
    }

    #[test]
    fn the_platform_comes_from_the_spec_or_the_config() {
        let request = Request::default();
        assert_eq!(said(&[found("linux/arm/v7", "")], &request), "linux/arm/v7");
        assert_eq!(said(&[found("linux/arm64/v8", "linux/arm64")], &request), "linux/arm64/v8");
        assert_eq!(said(&[found("windows/amd64:10.0.1", "windows/amd64")], &request), "windows/amd64:10.0.1");
    }

    #[test]
    fn a_label_that_contradicts_the_spec_is_told_with_the_way_out() {
        let wrong = || [found("linux/amd64", "linux/arm/v7")];
        let text = said(&wrong(), &Request::default());
        assert!(
            text.starts_with("3: ") && text.contains("config-patcher fix q.io/a:1 --platform linux/arm/v7"),
            "{text}"
        );
        assert_eq!(said(&wrong(), &Request { force: true, ..Request::default() }), "linux/arm/v7");
    }

    #[test]
    fn a_platform_twice_by_config_is_a_misfit() {
        let text = said(&[found("linux/arm64", ""), found("linux/arm64/v8", "")], &Request::default());
        assert!(text.contains("stands twice"), "{text}");
    }

    /// What BuildKit pushes for one platform: an index over the image and its attestation (docker/buildx#1509).
    #[test]
    fn an_index_of_one_image_and_its_attestation_is_taken_whole() {
        let store = MemoryStore::new();
        let image = add_image(&store, "linux/arm64");
        let attestation = add_image(&store, "unknown/unknown");
        let mut entry = image.descriptor();
        entry.platform = Some("linux/arm64".parse().unwrap());
        let mut attests = attestation.descriptor();
        attests.platform = Some("unknown/unknown".parse().unwrap());
        attests.annotations.insert("vnd.docker.reference.digest".into(), image.digest().to_string());
        let text = serde_json::json!({"schemaVersion":2,"manifests":[entry, attests]}).to_string();
        let node = grow(&store, Document::new(text.into_bytes(), None).unwrap(), 0).unwrap();
        let member = Member { image: "q.io/a:1".parse().unwrap(), platform: Platform::default(), line: 1 };
        let index = Found { member, source: Arc::new(store), node };
        let both = [found("linux/amd64", ""), index];
        assert_eq!(said(&both, &Request::default()), "linux/amd64 linux/arm64 unknown/unknown");
        let target = MemoryStore::new();
        let wanted = combine(&both, &Request::default()).unwrap();
        let steps = plan(wanted, &target, &["x".into()]).unwrap();
        apply(&steps, &target, MovedTag::Refuse, &|_| {}).unwrap();
        assert_eq!(check(&target, &Pointer::Tag("x".into()), Depth::Layers), []);
    }
}
