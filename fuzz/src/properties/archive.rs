//! `docker save` archives and OCI layouts in a tar: rewritten, overwritten in place or passed through a pipe, the resulting
//! image is the same, and no less complete than before.

use super::{change, filled};
use config_patcher::plan::{Relabeled, RequestedPlatforms, relabel};
use error::Error;
use error::Exit;
use image_model::digest::Digest;
use image_store::archive::OciArchive;
use image_store::archive::stream::filter;
use image_store::archive::tar::write::{END, file_headers, padding};
use image_store::archive::{DockerArchive, Relabel};
use image_store::check::{CheckDepth, check};
use image_store::plan::{MovedTag, apply, plan_new};
use image_store::store::{ImageSource, Pointer};
use image_store::tree::{TreeNode, read_tree};
use registry_client::meter::Meter;
use std::fs;
use std::path::Path;

/// The input is names and contents, separated by NUL. `@0` is the digest of the first content, `#0` its length; a name
/// that begins with `>` is that of a link.
pub fn archive(bytes: &[u8]) {
    let tar = packed(bytes);
    let dir = tempfile::tempdir().expect("TMPDIR can be written");
    let path = |name: &str| dir.path().join(name);
    let (mut passed, mut changed) = (Vec::new(), Vec::new());
    let passed_as = filter(&*tar, &mut passed, &mut |_| Ok(None));
    let changed_as = filter(&*tar, &mut changed, &mut to_arm);
    fs::write(path("in.tar"), &tar).expect("TMPDIR has room");
    fs::write(path("changed.tar"), &changed).expect("TMPDIR has room");
    if changed_as.is_err() {
        assert!(open(&path("changed.tar")).is_none(), "an error, and a whole archive");
    }
    if let Ok(layout) = OciArchive::open(&path("in.tar"), None) {
        holds(&layout.into_archive());
    }
    let Some(store) = open(&path("in.tar")) else {
        assert!(passed_as.is_err(), "a pipe takes what no file may be");
        return;
    };
    holds(&store);
    if let Ok(passed_as) = &passed_as {
        assert!(passed_as.lists_moved || passed == tar, "nothing changes, and yet other bytes");
    }
    let Some((pointer, node)) = image(&store) else { return };
    let Ok(Relabeled::Changed(changes)) = relabel(&node, &arm(), "in.tar") else { return };
    let before = problems(&store, &pointer);

    // In place first: it is planned over what was read.
    let place = store.plan_in_place(node.digest(), &changes.for_archive(&node)).ok().and_then(Result::ok);
    if let Some(place) = place {
        fs::copy(path("in.tar"), path("place.tar")).expect("TMPDIR has room");
        open(&path("place.tar"))
            .expect("it was opened before")
            .apply_in_place(&place)
            .expect("it was planned");
        assert_eq!(fs::metadata(path("place.tar")).expect("there").len(), tar.len() as u64);
        follows(&path("place.tar"), changes.root.digest(), before);
    }
    if changed_as.is_ok() {
        follows(&path("changed.tar"), changes.root.digest(), before);
    }
    let tags: Vec<(String, Option<Digest>)> = names_of(&store, node.digest());
    if tags.is_empty() {
        return;
    }
    let plan = plan_new(changes.new_parts(), store.display_name(), tags).expect("a plan needs nothing");
    match apply(&plan, &store, MovedTag::Refuse, &Meter::default(), &|_| ()) {
        Ok(()) => follows(&path("in.tar"), changes.root.digest(), before),
        // The old file stays.
        Err(_) => assert!(fs::read(path("in.tar")).expect("there") == tar),
    }
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = bytes.split(|byte| *byte == 0).take(40).collect();
    let (mut tar, mut contents): (Vec<u8>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    for member in parts.chunks(2) {
        let [name, content] = [member[0], member.get(1).copied().unwrap_or_default()];
        let value = |contents: &[Vec<u8>], mark, number: usize| match mark {
            b'@' => Some(Digest::of(contents.get(number)?).hex().to_string()),
            b'#' => Some(contents.get(number)?.len().to_string()),
            _ => None,
        };
        let content = filled(content, |mark, number| value(&contents, mark, number));
        contents.push(content.clone());
        let name = filled(name, |mark, number| value(&contents, mark, number));
        let name = String::from_utf8_lossy(&name).into_owned();
        match name.strip_prefix('>').filter(|name| name.len() <= 100 && content.len() <= 100) {
            Some(link) => {
                tar.extend(file_headers(link, 0));
                change(&mut tar, 157, &content);
                change(&mut tar, 156, b"2");
            }
            None => {
                tar.extend(file_headers(&name, content.len() as u64));
                tar.extend(&content);
                tar.extend(padding(content.len() as u64));
            }
        }
    }
    tar.extend(END);
    tar
}

fn open(path: &Path) -> Option<DockerArchive> {
    DockerArchive::open(path, None)
        .inspect_err(|error| {
            assert!(matches!(error.kind, Exit::BadInput | Exit::Integrity), "{:?}: {error}", error.kind);
        })
        .ok()
}

/// Checks that every tag refers to a document with the right digest, or to an image of which the archive lacks a part.
fn holds(store: &DockerArchive) {
    for tag in store.tags().expect("they were read") {
        let document = match store.read_document(&Pointer::Tag(tag.clone())) {
            Ok(document) => document,
            Err(error) => {
                assert!(matches!(error.kind, Exit::BadInput | Exit::Integrity), "{:?}: {error}", error.kind);
                continue;
            }
        };
        assert_eq!(Digest::of(document.bytes()), *document.digest());
        let found = store.resolve(&Pointer::Tag(tag)).expect("it was read").expect("it was read");
        assert_eq!(found.digest, *document.digest());
    }
}

fn arm() -> RequestedPlatforms {
    RequestedPlatforms::Image("linux/arm/v7".parse().expect("a platform"))
}

fn image(store: &DockerArchive) -> Option<(Pointer, TreeNode)> {
    let pointer = store.only_image().ok()?;
    let node = read_tree(store, &pointer).ok()?;
    Some((pointer, node))
}

fn names_of(store: &DockerArchive, digest: &Digest) -> Vec<(String, Option<Digest>)> {
    let names = store.tags().expect("they were read").into_iter();
    names
        .filter(|tag| {
            let named = store.resolve(&Pointer::Tag(tag.clone())).expect("it was read");
            named.is_some_and(|named| named.digest == *digest)
        })
        .map(|tag| (tag, Some(digest.clone())))
        .collect()
}

fn problems(store: &DockerArchive, at: &Pointer) -> usize {
    check(store, at, CheckDepth::Layers).len()
}

/// Checks that the archive has the new image without further problems, and that a second run has nothing to do.
fn follows(path: &Path, root: &Digest, before: usize) {
    let store = open(path).expect("a changed archive is one");
    holds(&store);
    let (pointer, node) = image(&store).expect("one image became one image");
    assert_eq!(node.digest(), root);
    assert!(problems(&store, &pointer) <= before);
    assert!(matches!(relabel(&node, &arm(), "out.tar"), Ok(Relabeled::Unchanged)), "a second run has work");
}

/// As `config-patcher fix - --set-platform linux/arm/v7` decides.
fn to_arm(image: &TreeNode) -> Result<Option<Relabel>, Error> {
    Ok(match relabel(image, &arm(), "-")? {
        Relabeled::Unchanged => None,
        Relabeled::Changed(changes) => Some(changes.for_archive(image)),
    })
}
