//! The members of an index and of the indexes within it: where they stand, and what each is to say.

use image_store::digest::Digest;
use image_store::manifest::Descriptor;
use image_store::patch::Ask;
use image_store::platform::Platform;
use image_store::tree::{IndexNode, Node};
use std::collections::BTreeMap;

/// How a member of an index is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    Digest(Digest),
    Platform(Platform),
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Platform(platform) => platform.fmt(f),
        }
    }
}

/// What the members of one index must say. Those that are not in it are left alone.
pub type Asked = BTreeMap<usize, Wish>;

pub enum Wish {
    Says(Platform, Ask),
    /// The member is an index; its members must say this.
    Within(Asked),
}

/// A member at any depth.
pub struct Place<'a> {
    /// Its place in the root, then in the index that stands there, and so on.
    pub way: Vec<usize>,
    pub entry: &'a Descriptor,
    pub is_image: bool,
}

/// The members that can run, and the indexes, of one index.
pub fn runnable_members(index: &IndexNode) -> Vec<usize> {
    let is_runnable = |(i, member): (usize, &Node)| match member {
        Node::Image(image) if image.is_runnable() && index.index.manifests[i].attests().is_none() => Some(i),
        Node::Image(_) => None,
        Node::Index(_) => Some(i),
    };
    index.members.iter().enumerate().filter_map(is_runnable).collect()
}

/// The same of all indexes of the tree, depth first.
pub fn places(index: &IndexNode) -> Vec<Place<'_>> {
    let mut out = Vec::new();
    add_places(index, &[], &mut out);
    out
}

fn add_places<'a>(index: &'a IndexNode, above: &[usize], out: &mut Vec<Place<'a>>) {
    for i in runnable_members(index) {
        let way = [above, &[i]].concat();
        let member = &index.members[i];
        let is_image = matches!(member, Node::Image(_));
        out.push(Place { way: way.clone(), entry: &index.index.manifests[i], is_image });
        if let Node::Index(inner) = member {
            add_places(inner, &way, out);
        }
    }
}

/// The images that the name fits; where it fits none, the indexes.
pub fn named<'a>(all: &'a [Place<'a>], member: &Member) -> Vec<&'a Place<'a>> {
    let fits = |place: &&Place<'_>| match member {
        Member::Digest(digest) => place.entry.digest == *digest,
        Member::Platform(platform) => place.entry.platform.as_ref().is_some_and(|said| said.fits(platform)),
    };
    let (images, indexes): (Vec<_>, Vec<_>) = all.iter().filter(fits).partition(|place| place.is_image);
    if images.is_empty() { indexes } else { images }
}

/// The member at the end of this way must say the platform.
pub fn ask(asked: &mut Asked, way: &[usize], platform: &Platform) {
    match way {
        [] => {}
        [at] => drop(asked.insert(*at, Wish::Says(platform.clone(), Ask::Explicit))),
        [at, below @ ..] => {
            if let Wish::Within(inner) = asked.entry(*at).or_insert_with(|| Wish::Within(Asked::new())) {
                ask(inner, below, platform);
            }
        }
    }
}

/// What somebody asked the member at the end of this way to say.
pub fn asked_of<'a>(asked: &'a Asked, way: &[usize]) -> Option<&'a Platform> {
    let (at, below) = way.split_first()?;
    match asked.get(at)? {
        Wish::Says(platform, Ask::Explicit) if below.is_empty() => Some(platform),
        Wish::Says(..) => None,
        Wish::Within(inner) => asked_of(inner, below),
    }
}
