//! A model of a disk with a write cache: synced data is on the disk, and any part of the rest may be.
//!
//! POSIX guarantees no more than that; ext4, xfs and btrfs guarantee more. An fsync of a file does not sync its name, changes
//! of names in one directory may reach the disk in any order, and a file may have its new length without the content.

use super::trace::Call;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Directories, and files with number and content, by path. The number identifies a file under all its names.
pub type State = BTreeMap<PathBuf, Option<(usize, Vec<u8>)>>;

#[derive(Clone)]
pub struct Disk {
    /// Names as programs see them; `synced` has those on the disk.
    seen: BTreeMap<PathBuf, Node>,
    synced: BTreeMap<PathBuf, Node>,
    /// Unsynced changes of names.
    names: Vec<Change>,
    files: Vec<File>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

#[derive(Clone)]
enum Change {
    Name(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

#[derive(Clone, Default)]
struct File {
    synced: Vec<u8>,
    /// Unsynced writes.
    writes: Vec<(u64, Vec<u8>)>,
}

/// Unsynced writes of a file that are on the disk after the power cut.
#[derive(Clone, Copy)]
enum Written {
    Nothing,
    All,
    /// The new length, with zeros as content.
    Length,
    Without(usize),
    Only(usize),
    /// All writes before this one, and its first half.
    Torn(usize),
}

impl Disk {
    /// Returns a disk with this state, all of it synced.
    pub fn new(state: &State) -> Self {
        let mut files = vec![File::default(); state.values().flatten().count()];
        let mut node = |file: &Option<(usize, Vec<u8>)>| match file {
            None => Node::Directory,
            Some((number, content)) => {
                files[*number].synced = content.clone();
                Node::File(*number)
            }
        };
        let synced: BTreeMap<PathBuf, Node> =
            state.iter().map(|(path, file)| (path.clone(), node(file))).collect();
        Self { seen: synced.clone(), synced, names: Vec::new(), files }
    }

    pub fn apply(&mut self, call: &Call) {
        match call {
            Call::Create(path) if self.seen.contains_key(path) => {}
            Call::Create(path) => {
                self.files.push(File::default());
                self.change(Change::Name(path.clone(), Node::File(self.files.len() - 1)));
            }
            Call::Mkdir(path) => self.change(Change::Name(path.clone(), Node::Directory)),
            Call::Unlink(path) => self.change(Change::Remove(path.clone())),
            Call::Rename(from, to) => {
                assert_eq!(from.parent(), to.parent(), "a rename across directories");
                self.change(Change::Rename(from.clone(), to.clone(), self.node(from)));
            }
            Call::Write { path, at, bytes } => {
                let file = self.file(path);
                self.files[file].writes.push((*at, bytes.clone()));
            }
            Call::Append { path, bytes } => {
                let file = self.file(path);
                let at = self.files[file].content(Written::All).len() as u64;
                self.files[file].writes.push((at, bytes.clone()));
            }
            Call::Copy { from, to, length } => {
                let content = self.files[self.file(&from.0)].content(Written::All);
                let bytes = content[from.1 as usize..(from.1 + length) as usize].to_vec();
                let file = self.file(&to.0);
                self.files[file].writes.push((to.1, bytes));
            }
            Call::Sync(path) => match self.node(path) {
                Node::File(file) => {
                    let content = self.files[file].content(Written::All);
                    self.files[file] = File { synced: content, writes: Vec::new() };
                }
                Node::Directory => {
                    let (here, rest) =
                        self.names.drain(..).partition(|change| change.path().parent() == Some(path));
                    self.names = rest;
                    let here: Vec<Change> = here;
                    here.iter().for_each(|change| change.apply(&mut self.synced));
                }
            },
        }
    }

    /// Returns the states that the disk may have after a power cut now. At most one change of a kind is early or late in each.
    pub fn states(&self) -> BTreeSet<State> {
        let mut states = BTreeSet::new();
        let unsynced = (0..self.files.len()).filter(|file| !self.files[*file].writes.is_empty());
        let unsynced: Vec<usize> = unsynced.collect();
        for names in self.names_on_disk() {
            for base in [Written::Nothing, Written::All, Written::Length] {
                let written = BTreeMap::from_iter(unsynced.iter().map(|file| (*file, base)));
                states.insert(self.state(&names, &written));
                for file in &unsynced {
                    for one in self.files[*file].possible_writes() {
                        let mut written = written.clone();
                        written.insert(*file, one);
                        states.insert(self.state(&names, &written));
                    }
                }
            }
        }
        states
    }

    fn names_on_disk(&self) -> Vec<BTreeMap<PathBuf, Node>> {
        let count = self.names.len();
        let all: Vec<usize> = (0..count).collect();
        let mut choices: BTreeSet<Vec<usize>> = BTreeSet::from([Vec::new(), all.clone()]);
        for one in 0..count {
            choices.insert(vec![one]);
            choices.insert(all[..one].to_vec());
            choices.insert(all.iter().copied().filter(|other| *other != one).collect());
        }
        let made = |choice: &Vec<usize>| {
            let mut names = self.synced.clone();
            choice.iter().for_each(|change| self.names[*change].apply(&mut names));
            names
        };
        choices.iter().map(made).collect()
    }

    fn state(&self, names: &BTreeMap<PathBuf, Node>, written: &BTreeMap<usize, Written>) -> State {
        let mut state = State::new();
        // Directories precede their content.
        for (path, node) in names {
            let has_parent = path.parent().is_some_and(|parent| names.get(parent) == Some(&Node::Directory));
            let is_root = names.keys().next() == Some(path);
            let is_reachable =
                is_root || has_parent && state.contains_key(path.parent().unwrap_or(Path::new("")));
            if is_reachable {
                let content = match node {
                    Node::Directory => None,
                    Node::File(file) => {
                        let written = written.get(file).copied().unwrap_or(Written::Nothing);
                        Some((*file, self.files[*file].content(written)))
                    }
                };
                state.insert(path.clone(), content);
            }
        }
        state
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.names.push(change);
    }

    fn node(&self, path: &Path) -> Node {
        *self.seen.get(path).unwrap_or_else(|| panic!("{} does not exist", path.display()))
    }

    fn file(&self, path: &Path) -> usize {
        match self.node(path) {
            Node::File(file) => file,
            Node::Directory => panic!("{} is not a file", path.display()),
        }
    }
}

impl Change {
    fn path(&self) -> &Path {
        match self {
            Self::Name(path, _) | Self::Remove(path) | Self::Rename(path, ..) => path,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Name(path, node) => drop(names.insert(path.clone(), *node)),
            Self::Remove(path) => drop(names.remove(path)),
            Self::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

impl File {
    fn possible_writes(&self) -> Vec<Written> {
        let each = (0..self.writes.len())
            .flat_map(|write| [Written::Without(write), Written::Only(write), Written::Torn(write)]);
        [Written::Nothing, Written::All, Written::Length].into_iter().chain(each).collect()
    }

    fn content(&self, written: Written) -> Vec<u8> {
        let mut content = self.synced.clone();
        for (number, (at, bytes)) in self.writes.iter().enumerate() {
            let count = match written {
                Written::Nothing => 0,
                Written::All => bytes.len(),
                Written::Length => {
                    content.resize(content.len().max(*at as usize + bytes.len()), 0);
                    0
                }
                Written::Without(other) => {
                    if number == other {
                        0
                    } else {
                        bytes.len()
                    }
                }
                Written::Only(other) => {
                    if number == other {
                        bytes.len()
                    } else {
                        0
                    }
                }
                Written::Torn(other) if number == other => bytes.len() / 2,
                Written::Torn(other) => {
                    if number < other {
                        bytes.len()
                    } else {
                        0
                    }
                }
            };
            if count > 0 {
                let end = *at as usize + count;
                content.resize(content.len().max(end), 0);
                content[*at as usize..end].copy_from_slice(&bytes[..count]);
            }
        }
        content
    }
}
