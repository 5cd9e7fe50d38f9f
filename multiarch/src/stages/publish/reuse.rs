//! Published images that differ from the built ones only in their timestamps.
//!
//! Engines write the time of the build into the config, and their caches are pruned: on another machine, the same inputs
//! give the same layers but another digest. Publishing that digest would make every client pull the image again.

use crate::stages::build::Member;
use cli::Output;
use error::Error;
use image_model::manifest::Index;
use image_store::open::Target;
use image_store::parallel;
use image_store::store::{ImageSource, Pointer};
use image_store::tree::{Image, TreeNode, read_tree};
use serde_json::Value;

/// Replaces each member by the published image that is the same but for its timestamps. A published image that cannot be
/// read counts as different: publishing again is always correct.
pub fn reuse_published(
    members: Vec<Member>,
    index: Option<&Index>,
    target: &Target,
    output: &Output,
) -> Vec<Member> {
    let Some(index) = index else { return members };
    let find = |member: &Member| Ok::<_, Error>(find_same(member, index, &*target.store));
    let at_once = target.store.concurrency(parallel::REQUESTS);
    let found = parallel::map(&members, at_once, find).unwrap_or_default();
    let pairs = members.into_iter().zip(found.into_iter().chain(std::iter::repeat_with(|| None)));
    pairs
        .map(|(member, published)| match published {
            Some(image) => {
                output.info(&format!(
                    "unchanged {}: the published image differs only in its timestamps",
                    member.platform
                ));
                Member { image, is_published: true, ..member }
            }
            None => member,
        })
        .collect()
}

fn find_same(member: &Member, index: &Index, target: &dyn ImageSource) -> Option<Image> {
    let built = &member.image;
    let fits = |said: &image_model::platform::Platform| said.matches(&member.platform);
    let entry = index.manifests.iter().find(|entry| entry.platform.as_ref().is_some_and(fits))?;
    if entry.digest == *built.document.digest() {
        return None;
    }
    match read_tree(target, &Pointer::from(&entry.digest)).ok()? {
        TreeNode::Image(published) => differs_only_in_time(built, &published).then_some(published),
        TreeNode::Index(_) | TreeNode::Unread(_) => None,
    }
}

fn differs_only_in_time(a: &Image, b: &Image) -> bool {
    let config = |image: &Image| {
        let config = image.config.as_ref()?;
        serde_json::from_slice(&config.bytes).ok().map(timeless_config)
    };
    let manifest = |image: &Image| serde_json::from_slice(image.document.bytes()).ok().map(timeless_manifest);
    let same = |a: Option<Value>, b: Option<Value>| a.is_some() && a == b;
    same(config(a), config(b)) && same(manifest(a), manifest(b))
}

/// A config without its timestamps, and without the names of the containers and images in which the classic builder
/// made it. `rootfs.diff_ids` stands for the contents.
fn timeless_config(mut config: Value) -> Value {
    remove(&mut config, &["created", "container", "container_config"]);
    if let Some(run) = config.get_mut("config") {
        remove(run, &["Image", "Hostname"]);
    }
    for step in config.get_mut("history").and_then(Value::as_array_mut).into_iter().flatten() {
        remove(step, &["created"]);
        // buildah: "FROM 4508b97acaff", the image of the previous step, whose ID depends on its timestamp.
        if step.get("comment").and_then(Value::as_str).is_some_and(is_previous_step) {
            remove(step, &["comment"]);
        }
    }
    config
}

/// A manifest without what follows from the timestamps: the digest of the config, and the digests of layers, which depend
/// on the gzip implementation.
fn timeless_manifest(mut manifest: Value) -> Value {
    let layers = manifest.get_mut("layers").and_then(Value::as_array_mut).into_iter().flatten();
    layers.for_each(|layer| remove(layer, &["digest", "size"]));
    if let Some(config) = manifest.get_mut("config") {
        remove(config, &["digest", "size"]);
    }
    if let Some(annotations) = manifest.get_mut("annotations") {
        remove(annotations, &["org.opencontainers.image.created"]);
        // A base without a name is an intermediate image of buildah.
        if annotations.get("org.opencontainers.image.base.name").is_some_and(|name| name == "") {
            remove(annotations, &["org.opencontainers.image.base.digest"]);
        }
    }
    manifest
}

fn is_previous_step(comment: &str) -> bool {
    let id = comment.strip_prefix("FROM ").unwrap_or_default();
    id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

fn remove(value: &mut Value, keys: &[&str]) {
    if let Some(object) = value.as_object_mut() {
        object.retain(|key, _| !keys.contains(&key.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_model::manifest::{Document, media_type};
    use image_store::store::memory::MemoryStore;
    use image_store::tree::read_tree_below;

    fn image(config: &str, layer: &str) -> Image {
        let store = MemoryStore::new();
        let config = store.add_blob(media_type::OCI_CONFIG, config.as_bytes());
        let layer = store.add_blob(media_type::OCI_LAYER_GZIP, layer.as_bytes());
        let text = serde_json::json!({"schemaVersion":2,"mediaType":media_type::OCI_MANIFEST,"config":config,"layers":[layer]});
        let document = Document::new(text.to_string().into_bytes(), None).unwrap();
        match read_tree_below(&store, document, 0).unwrap() {
            TreeNode::Image(image) => image,
            TreeNode::Index(_) | TreeNode::Unread(_) => unreachable!("it is an image"),
        }
    }

    #[test]
    fn only_timestamps_and_names_of_the_engine_are_ignored() {
        let config = |created: &str, more: &str| {
            format!(
                r#"{{"created":"{created}","os":"linux","architecture":"arm",{more}"history":[{{"created":"{created}","created_by":"x"}}],"rootfs":{{"type":"layers","diff_ids":["sha256:{0}"]}}}}"#,
                "0".repeat(64)
            )
        };
        let was = image(&config("2026-01-01T00:00:00Z", ""), "layer");
        let check = |config: String, layer: &str, same: bool| {
            assert_eq!(differs_only_in_time(&image(&config, layer), &was), same, "{config}");
        };
        let later = "2026-02-02T00:00:00Z";
        check(config(later, ""), "layer", true);
        check(config(later, ""), "the same, by another gzip", true);
        check(config(later, r#""container":"1a2b","container_config":{"Hostname":"1a2b"},"#), "layer", true);
        let commented = |comment: &str| {
            let comment = format!(r#""created_by":"x","comment":"{comment}""#);
            config(later, "").replace(r#""created_by":"x""#, &comment)
        };
        check(commented("FROM 4508b97acaff"), "layer", true);
        check(commented("FROM debian:12"), "layer", false);
        check(config(later, r#""config":{"Env":["A=b"]},"#), "layer", false);
        check(config(later, r#""variant":"v7","#), "layer", false);
        check(config(later, "").replace(&"0".repeat(64), &"1".repeat(64)), "layer", false);
        check(config(later, "").replace(r#""created_by":"x""#, r#""created_by":"y""#), "layer", false);
    }
}
