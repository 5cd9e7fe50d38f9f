//! The overlay of an image's layers: what a container finds under a path.
//!
//! Some layers may not have been read. Where one of them decides, the result is [`Resolved::Unread`].

use super::file::FileFacts;
use super::layer::{LayerEntry, LayerFacts, NameHasher, parent};
use image_model::platform::Platform;
use std::cell::Cell;
use std::rc::Rc;

/// As many links as Linux follows before it returns ELOOP.
const LINKS_MAX: usize = 40;
/// The longest path that Linux accepts.
pub(crate) const PATH_MAX: usize = 4096;

/// The number of look-ups for one image. A look-up is the search for one path, or for one directory above it, in one layer.
/// An image with 30,000 programs in 127 layers needs at most 35 million, a Debian image with one layer 2,000. So many take a
/// few seconds.
pub const LOOKUPS_MAX: u64 = 50_000_000;

/// The look-ups that are left for one image. Clones share the number.
#[derive(Clone, Debug)]
pub struct LookupBudget(Rc<Cell<u64>>);

impl LookupBudget {
    /// A budget of this many look-ups.
    pub fn new(lookups: u64) -> Self {
        Self(Rc::new(Cell::new(lookups)))
    }

    /// Takes look-ups from the budget. `false`: too few are left; then none are left for others.
    pub fn spend(&self, lookups: u64) -> bool {
        let left = self.0.get().checked_sub(lookups);
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }

    /// Returns whether no look-up is left.
    pub fn is_spent(&self) -> bool {
        self.0.get() == 0
    }
}

impl Default for LookupBudget {
    fn default() -> Self {
        Self::new(LOOKUPS_MAX)
    }
}

/// The layers of an image, lowest first; `None` for a layer that was not read.
#[derive(Clone)]
pub struct OverlayTree<'a> {
    /// The hasher of all layers; `None` if none was read.
    hasher: Option<&'a NameHasher>,
    layers: Vec<Option<&'a LayerFacts>>,
    budget: LookupBudget,
}

/// Target of a path, with links followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved<'a> {
    /// A regular file.
    File(ResolvedFile<'a>),
    /// A directory.
    Directory,
    /// A device or a FIFO.
    Other,
    /// Nothing, or too many links.
    Missing,
    /// The layer with this index must be read first.
    Unread(usize),
}

/// A file with its location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedFile<'a> {
    /// The absolute path of the file itself, without links.
    pub path: Vec<u8>,
    /// The index of its layer; 0 is the lowest.
    pub layer: usize,
    /// Facts about the file; `None` for data.
    pub facts: Option<&'a FileFacts>,
    /// Whether any execute bit is set.
    pub executable: bool,
}

/// Is called with each path that is looked for.
type PathObserver<'s> = &'s mut dyn FnMut(&[u8]);

/// Content of the overlay at one path, without following links.
enum OverlayEntry<'a> {
    Present(usize, LayerEntry<'a>),
    Missing,
    Unread(usize),
}

impl<'a> OverlayTree<'a> {
    /// The overlay of these layers, lowest first, with a budget of its own.
    ///
    /// # Panics
    /// If the layers were not read with the same hasher.
    pub fn new(layers: Vec<Option<&'a LayerFacts>>) -> Self {
        Self::with_budget(layers, LookupBudget::default())
    }

    /// The overlay of these layers, lowest first. Once the budget is spent, it finds nothing.
    ///
    /// # Panics
    /// If the layers were not read with the same hasher.
    pub fn with_budget(layers: Vec<Option<&'a LayerFacts>>, budget: LookupBudget) -> Self {
        let mut hashers = layers.iter().flatten().map(|layer| &layer.hasher);
        let hasher = hashers.next();
        let is_same = |other: &NameHasher| hasher.is_some_and(|first| first.key() == other.key());
        assert!(hashers.all(is_same), "the layers of an image need the same hasher");
        Self { hasher, layers, budget }
    }

    /// The look-ups that are left.
    pub fn budget(&self) -> &LookupBudget {
        &self.budget
    }

    fn hash(&self, path: &[u8]) -> u64 {
        // Without a layer there is nothing to look up.
        self.hasher.map_or(0, |hasher| hasher.hash(path))
    }

    /// The hashes of the directories above a path, the highest first, and that of the path.
    fn hash_all(&self, path: &[u8]) -> (Vec<u64>, u64) {
        let mut hashes = self.hasher.map_or_else(Vec::new, |hasher| hasher.hash_all(path));
        let whole = hashes.pop().unwrap_or(0);
        (hashes, whole)
    }

    /// Resolves an absolute path. Absolute links and `..` stay within the image.
    pub fn resolve(&self, path: &[u8]) -> Resolved<'a> {
        self.resolve_from(path, &mut 0, None)
    }

    /// As [`Self::resolve`]. Calls `seen` for each step with the path that is looked for then, without a leading slash.
    pub fn resolve_with(&self, path: &[u8], seen: PathObserver<'_>) -> Resolved<'a> {
        self.resolve_from(path, &mut 0, Some(seen))
    }

    /// The entry with this normalized path; links are not followed. `None`: there is none, or a layer that was not read
    /// decides.
    pub fn entry(&self, path: &[u8]) -> Option<LayerEntry<'a>> {
        match self.lookup(path, self.layers.len()) {
            OverlayEntry::Present(_, entry) => Some(entry),
            OverlayEntry::Missing | OverlayEntry::Unread(_) => None,
        }
    }

    fn resolve_from(
        &self,
        path: &[u8],
        links: &mut usize,
        mut seen: Option<PathObserver<'_>>,
    ) -> Resolved<'a> {
        if path.len() > PATH_MAX || !self.budget.spend(1) {
            return Resolved::Missing;
        }
        // The parts that are still to be followed, the next one last.
        let mut rest: Vec<Vec<u8>> = parts(path);
        let mut at: Vec<u8> = Vec::new();
        while let Some(part) = rest.pop() {
            if part == b".." {
                at.truncate(parent(&at).len());
                continue;
            }
            let here = join(&at, &part);
            if let Some(seen) = &mut seen {
                seen(&rest.iter().rev().fold(here.clone(), |path, part| join(&path, part)));
            }
            let (layer, node) = match self.lookup(&here, self.layers.len()) {
                OverlayEntry::Present(layer, node) => (layer, node),
                OverlayEntry::Missing => return Resolved::Missing,
                OverlayEntry::Unread(layer) => {
                    return self.literal(&here, &rest).unwrap_or(Resolved::Unread(layer));
                }
            };
            match node {
                LayerEntry::Directory | LayerEntry::Implied => at = here,
                LayerEntry::File { .. } | LayerEntry::HardLink(_) | LayerEntry::Other if !rest.is_empty() => {
                    return Resolved::Missing;
                }
                LayerEntry::File { facts, executable } => {
                    return Resolved::File(ResolvedFile {
                        path: join(b"/", &here),
                        layer,
                        facts,
                        executable,
                    });
                }
                LayerEntry::Other => return Resolved::Other,
                LayerEntry::HardLink(target) => {
                    *links += 1;
                    if *links > LINKS_MAX {
                        return Resolved::Missing;
                    }
                    return self.hard_link(target, layer, &here, links);
                }
                LayerEntry::Symlink(target) => {
                    *links += 1;
                    if *links > LINKS_MAX {
                        return Resolved::Missing;
                    }
                    if let Some(found) = self.through_links(&here, layer, &rest) {
                        return found;
                    }
                    if target.starts_with(b"/") {
                        at.clear();
                    }
                    rest.extend(parts(target));
                }
            }
            // Links can make the path longer; the kernel has the same limit.
            if at.len() + rest.iter().map(|part| part.len() + 1).sum::<usize>() > PATH_MAX {
                return Resolved::Missing;
            }
        }
        Resolved::Directory
    }

    /// A hard link refers to what its target was when the layer was unpacked, in this layer or below.
    fn hard_link(&self, target: &[u8], layer: usize, here: &[u8], links: &mut usize) -> Resolved<'a> {
        match self.lookup(target, layer + 1) {
            OverlayEntry::Present(_, LayerEntry::HardLink(further))
                if *links < LINKS_MAX && further != target =>
            {
                *links += 1;
                self.hard_link(further, layer, here, links)
            }
            OverlayEntry::Present(_, LayerEntry::File { facts, executable }) => {
                Resolved::File(ResolvedFile { path: join(b"/", here), layer, facts, executable })
            }
            OverlayEntry::Present(_, LayerEntry::Symlink(_)) => {
                // The layers are copied.
                self.budget.spend(layer as u64 / 16);
                let below = Self { layers: self.layers[..=layer].to_vec(), ..self.clone() };
                below.resolve_from(target, links, None)
            }
            OverlayEntry::Present(..) | OverlayEntry::Missing => Resolved::Missing,
            OverlayEntry::Unread(layer) => Resolved::Unread(layer),
        }
    }

    /// A layer with `bin/app` but without an entry for `bin` means the directory that the link `bin` of a lower layer leads
    /// to; engines unpack it there. Such files, of the layer of the link or above, take precedence.
    fn through_links(&self, link: &[u8], link_layer: usize, rest: &[Vec<u8>]) -> Option<Resolved<'a>> {
        let whole = whole_path(link, rest)?;
        let name = self.hash(&whole);
        if !self.budget.spend(weight(&whole)) {
            return None;
        }
        for (layer, facts) in self.layers.iter().enumerate().skip(link_layer).rev() {
            if !self.budget.spend(1) {
                return None;
            }
            if let Some(LayerEntry::File { facts, executable }) = facts.as_ref()?.entry_of(name) {
                return Some(Resolved::File(ResolvedFile {
                    path: join(b"/", &whole),
                    layer,
                    facts,
                    executable,
                }));
            }
        }
        None
    }

    /// A file that a layer has under exactly this path. Lower layers that were not read decide only whether a directory on
    /// the way is a link; in both cases the file is in it.
    fn literal(&self, directory: &[u8], rest: &[Vec<u8>]) -> Option<Resolved<'a>> {
        let whole = whole_path(directory, rest)?;
        let (ancestors, name) = self.hash_all(&whole);
        for (number, layer) in self.layers.iter().enumerate().rev() {
            let layer = (*layer).filter(|_| self.budget.spend(1 + ancestors.len() as u64))?;
            match layer.entry_of(name) {
                Some(LayerEntry::File { facts, executable }) => {
                    return Some(Resolved::File(ResolvedFile {
                        path: join(b"/", &whole),
                        layer: number,
                        facts,
                        executable,
                    }));
                }
                Some(_) => return None,
                None => {}
            }
            let hides_below = layer.is_whiteout(name)
                || layer.is_opaque(self.hash(b""))
                || ancestors.iter().any(|ancestor| layer.hides(*ancestor));
            if hides_below {
                return None;
            }
        }
        None
    }

    /// Returns the entry at a normalized path in the layers below `top`.
    fn lookup(&self, name: &[u8], top: usize) -> OverlayEntry<'a> {
        if !self.budget.spend(weight(name)) {
            return OverlayEntry::Missing;
        }
        let (ancestors, whole) = self.hash_all(name);
        let root = self.hash(b"");
        let mut implied = None;
        for (number, layer) in self.layers[..top.min(self.layers.len())].iter().enumerate().rev() {
            let Some(layer) = layer else { return OverlayEntry::Unread(number) };
            if !self.budget.spend(1 + ancestors.len() as u64) {
                return OverlayEntry::Missing;
            }
            match layer.entry_of(whole) {
                Some(LayerEntry::Implied) => implied = implied.or(Some(number)),
                Some(node) => return OverlayEntry::Present(number, node),
                None => {}
            }
            let hides_below = layer.is_whiteout(whole)
                || layer.is_opaque(root)
                || ancestors.iter().any(|ancestor| layer.hides(*ancestor));
            if hides_below {
                break;
            }
        }
        match implied {
            Some(number) => OverlayEntry::Present(number, LayerEntry::Implied),
            None => OverlayEntry::Missing,
        }
    }

    /// All programs that a container can see, as path, layer index and facts. Only layers that were read are considered, and
    /// programs only as long as the budget lasts.
    pub fn programs(&self) -> impl Iterator<Item = (&'a [u8], usize, &'a FileFacts)> {
        self.layers.iter().enumerate().filter_map(|(number, layer)| Some((number, (*layer)?))).flat_map(
            move |(number, layer)| {
                layer
                    .programs()
                    .take_while(|_| !self.budget.is_spent())
                    .filter(move |(path, _)| self.is_visible(path, number))
                    .map(move |(path, facts)| (path, number, facts))
            },
        )
    }

    /// Archives with native programs that a container can see, as path, layer index and platforms.
    pub fn archives(&self) -> impl Iterator<Item = (&'a [u8], usize, &'a [Platform])> {
        let layers = self.layers.iter().enumerate().filter_map(|(number, layer)| Some((number, (*layer)?)));
        let all =
            layers.flat_map(|(number, layer)| layer.archives.iter().map(move |archive| (number, archive)));
        all.filter(|(number, archive)| self.is_visible(&archive.path, *number))
            .map(|(number, archive)| (archive.path.as_slice(), number, archive.platforms.as_slice()))
    }

    /// The number of archives that were not read to their end.
    pub fn archives_unread(&self) -> u64 {
        self.layers.iter().flatten().map(|layer| layer.archives_unread).sum()
    }

    /// Returns whether the file of this layer is executable.
    pub fn is_executable(&self, path: &[u8], layer: usize) -> bool {
        let facts = self.layers.get(layer).copied().flatten();
        facts
            .is_some_and(|facts| matches!(facts.entry(path), Some(LayerEntry::File { executable: true, .. })))
    }

    /// Returns whether no higher layer removes or replaces the file of this layer.
    fn is_visible(&self, path: &[u8], layer: usize) -> bool {
        if !self.budget.spend(1 + weight(path)) {
            return false;
        }
        let (ancestors, whole) = self.hash_all(path);
        // Of two entries with the same path, the later one counts.
        if !self.layers[layer].is_some_and(|own| matches!(own.entry_of(whole), Some(LayerEntry::File { .. })))
        {
            return false;
        }
        let root = self.hash(b"");
        self.layers[layer + 1..].iter().flatten().all(|upper| {
            self.budget.spend(1 + ancestors.len() as u64)
                && upper.entry_of(whole).is_none()
                && !upper.is_whiteout(whole)
                && !upper.is_opaque(root)
                && !ancestors.iter().any(|ancestor| upper.hides(*ancestor))
        })
    }

    /// The number of programs in all layers whose paths were not kept.
    pub fn unlisted(&self) -> u64 {
        self.layers.iter().flatten().map(|layer| layer.unlisted).sum()
    }

    /// Returns whether all layers were read.
    pub fn is_whole(&self) -> bool {
        self.layers.iter().all(Option::is_some)
    }
}

/// The look-ups that hashing a path counts as.
fn weight(path: &[u8]) -> u64 {
    path.len() as u64 / 64
}

/// A directory with the parts below it, the next one last. `None` for no parts, and if one of them is `..`.
fn whole_path(directory: &[u8], rest: &[Vec<u8>]) -> Option<Vec<u8>> {
    if rest.is_empty() || rest.iter().any(|part| part == b"..") {
        return None;
    }
    let mut whole = directory.to_vec();
    for part in rest.iter().rev() {
        whole.push(b'/');
        whole.extend_from_slice(part);
    }
    Some(whole)
}

/// The parts of a path in reverse order.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.rsplit(|b| *b == b'/');
    parts.filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec).collect()
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        b"/" => [b"/", name].concat(),
        directory => [directory, b"/", name].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tests::{Tar, elf};

    fn show(layers: &[LayerFacts], path: &str) -> String {
        show_of(&layers.iter().map(Some).collect::<Vec<_>>(), path)
    }

    fn show_of(layers: &[Option<&LayerFacts>], path: &str) -> String {
        match OverlayTree::new(layers.to_vec()).resolve(path.as_bytes()) {
            Resolved::File(file) => {
                let what = match file.facts {
                    Some(FileFacts::Elf(elf)) => elf.platform.architecture.as_str(),
                    Some(FileFacts::Data(_)) | None => "data",
                    Some(_) => "other",
                };
                format!("{} in {}: {what}", String::from_utf8_lossy(&file.path), file.layer)
            }
            other => format!("{other:?}"),
        }
    }

    /// As many as Linux follows.
    #[test]
    fn forty_links_are_followed_and_no_more() {
        let mut tar = Tar::default().file("l41", b"x").hard_link("h41", "l41");
        for i in 0..41 {
            let next = format!("l{}", i + 1);
            tar = tar.symlink(&format!("l{i}"), &next).hard_link(&format!("h{i}"), &format!("h{}", i + 1));
        }
        let layers = [tar.facts()];
        assert_eq!(show(&layers, "/l1"), "/l41 in 0: data");
        assert_eq!(show(&layers, "/l0"), "Missing");
        assert_eq!(show(&layers, "/h2"), "/h2 in 0: data");
        assert_eq!(show(&layers, "/h0"), "Missing");
    }

    #[test]
    fn links_are_followed_within_the_image() {
        let layers = [Tar::default()
            .directory("usr")
            .directory("usr/bin")
            .symlink("bin", "usr/bin")
            .symlink("lib", "/usr/lib/")
            .file("usr/bin/busybox", &elf(40))
            .symlink("usr/bin/sh", "/bin/busybox")
            .hard_link("usr/bin/ash", "usr/bin/busybox")
            .hard_link("usr/bin/dash", "usr/bin/sh")
            .symlink("usr/bin/up", "../../../../usr/bin/./busybox")
            .symlink("usr/bin/away", "/nowhere")
            .symlink("circle", "circle")
            .symlink("a", "b/x")
            .symlink("b", "a/y")
            .file("usr/lib/data", b"x")
            .facts()];
        let check = |path: &str, found: &str| assert_eq!(show(&layers, path), found, "{path}");
        check("/bin/sh", "/usr/bin/busybox in 0: arm");
        check("//bin/../bin/./ash", "/usr/bin/ash in 0: arm");
        check("/bin/dash", "/usr/bin/busybox in 0: arm");
        check("/bin/up", "/usr/bin/busybox in 0: arm");
        check("/lib/data", "/usr/lib/data in 0: data");
        check("/bin/away", "Missing");
        check("/circle", "Missing");
        check("/a/z", "Missing");
        check("/bin/sh/x", "Missing");
        check("/bin", "Directory");
        check("/", "Directory");
        check("/../../bin", "Directory");
    }

    #[test]
    fn upper_layers_hide_lower_ones() {
        let below = || {
            Tar::default().file("bin/a", &elf(62)).file("bin/b", &elf(62)).file("opt/x/c", &elf(62)).facts()
        };
        let check = |upper: Tar, path: &str, found: &str| {
            let layers = [below(), upper.facts()];
            assert_eq!(show(&layers, path), found, "{path}");
            let visible = OverlayTree::new(layers.iter().map(Some).collect());
            let is_seen = visible.programs().any(|(name, ..)| [b"/", name].concat() == path.as_bytes());
            assert_eq!(is_seen, found.contains(" in "), "{path} among all programs");
        };
        check(Tar::default(), "/bin/a", "/bin/a in 0: amd64");
        check(Tar::default().file("bin/a", &elf(183)), "/bin/a", "/bin/a in 1: arm64");
        check(Tar::default().file("bin/.wh.a", b""), "/bin/a", "Missing");
        check(Tar::default().file("bin/.wh.a", b""), "/bin/b", "/bin/b in 0: amd64");
        check(Tar::default().file(".wh.bin", b""), "/bin/b", "Missing");
        check(Tar::default().file("bin/.wh..wh..opq", b""), "/bin/a", "Missing");
        check(Tar::default().file(".wh..wh..opq", b""), "/opt/x/c", "Missing");
        check(Tar::default().file("opt", b"now a file"), "/opt/x/c", "Missing");
        check(
            Tar::default().file("bin/.wh..wh..opq", b"").file("bin/a", &elf(3)),
            "/bin/a",
            "/bin/a in 1: 386",
        );
        check(Tar::default().file("opt/.wh.y", b""), "/opt/x/c", "/opt/x/c in 0: amd64");
        check(Tar::default().directory("opt").directory("opt/x"), "/opt/x/c", "/opt/x/c in 0: amd64");
        // A whiteout applies to lower layers, not to its own.
        check(Tar::default().file("bin/.wh.a", b"").file("bin/a", &elf(22)), "/bin/a", "/bin/a in 1: s390x");
    }

    #[test]
    fn a_file_below_a_link_of_a_lower_layer_is_in_the_target_of_the_link() {
        let base = || Tar::default().directory("usr").directory("usr/bin").symlink("bin", "usr/bin").facts();
        let implied = [base(), Tar::default().file("bin/app", &elf(183)).facts()];
        assert_eq!(show(&implied, "/bin/app"), "/bin/app in 1: arm64");
        let replaced = [base(), Tar::default().directory("bin").file("bin/app", &elf(183)).facts()];
        assert_eq!(show(&replaced, "/bin/app"), "/bin/app in 1: arm64");
        assert_eq!(show(&replaced, "/bin"), "Directory");
    }

    #[test]
    fn an_unread_layer_is_required_only_if_it_can_change_the_result() {
        let top = Tar::default().file("app", &elf(183)).file(".wh.old", b"").symlink("sh", "bin/sh").facts();
        let layers = [None, Some(&top)];
        assert_eq!(show_of(&layers, "/app"), "/app in 1: arm64");
        assert_eq!(show_of(&layers, "/old"), "Missing");
        assert_eq!(show_of(&layers, "/sh"), "Unread(0)");
        let top = Tar::default().file("opt/app", &elf(183)).file("gone/.wh.x", b"").facts();
        let layers = [None, Some(&top)];
        assert_eq!(show_of(&layers, "/opt/app"), "/opt/app in 1: arm64");
        assert_eq!(show_of(&layers, "/opt/other"), "Unread(0)");
        assert_eq!(show_of(&layers, "/opt"), "Unread(0)");
        assert_eq!(show_of(&[None, None], "/app"), "Unread(1)");
    }
}
