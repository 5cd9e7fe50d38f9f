//! Plan of a tag in an archive: members to drop, to replace and to add, and the bytes of the new archive that follow.

use super::pending::{NewContent, Pending};
use super::snapshot::Snapshot;
use super::tar::write;
use error::Error;
use image_model::manifest::Document;
use std::collections::BTreeMap;
use std::ops::Range;

mod classic;
mod layout;

/// Returns the changes after which `tag` refers to `document`.
pub fn plan_tag(
    archive: &Snapshot,
    pending: &Pending,
    tag: &str,
    document: &Document,
) -> Result<TarEdit, Error> {
    match archive.index {
        Some(_) => layout::plan_tag(archive, pending, tag, document),
        None => classic::plan_tag(archive, pending, tag, document),
    }
}

#[derive(Clone)]
pub enum MemberChange {
    Drop,
    Replace { name: String, bytes: NewContent },
}

/// Changes of an archive. Members are indices into the table of members.
#[derive(Clone, Default)]
pub struct TarEdit {
    pub changes: BTreeMap<usize, MemberChange>,
    /// New members, written before the member `before`, or after all others.
    pub added: Vec<(String, NewContent)>,
    pub before: Option<usize>,
}

/// A part of the new archive.
pub enum Piece {
    /// Bytes of the old archive, headers and padding included.
    Kept(Range<u64>),
    /// Headers, then content and padding.
    New {
        headers: Vec<u8>,
        bytes: NewContent,
    },
    End,
}

impl Piece {
    /// Returns the number of bytes in the new archive.
    pub fn length(&self) -> u64 {
        match self {
            Self::Kept(range) => range.end - range.start,
            Self::New { headers, bytes } => {
                headers.len() as u64 + bytes.size() + write::padding(bytes.size()).len() as u64
            }
            Self::End => write::END.len() as u64,
        }
    }
}

impl TarEdit {
    pub fn is_nothing(&self) -> bool {
        self.changes.is_empty() && self.added.is_empty()
    }

    /// Replaces the content of the member `name`, or adds it.
    pub fn set(&mut self, snapshot: &Snapshot, name: &str, bytes: &[u8]) {
        match snapshot.tar.find(name.as_bytes()) {
            Some(member) => {
                let change = MemberChange::Replace { name: name.into(), bytes: NewContent::from(bytes) };
                self.changes.insert(member, change);
            }
            None => self.added.push((name.into(), NewContent::from(bytes))),
        }
    }

    /// Returns the parts of the new archive in order. Adjacent kept members are one part.
    pub fn pieces(&self, snapshot: &Snapshot) -> Vec<Piece> {
        let tar = &snapshot.tar;
        let mut pieces = Vec::new();
        let mut kept = 0..0;
        let added = || self.added.iter().map(|(name, bytes)| new_member(name, bytes));
        for (i, member) in tar.members().iter().enumerate() {
            if self.before == Some(i) && !self.added.is_empty() {
                flush(&mut pieces, &mut kept, member.start);
                pieces.extend(added());
            }
            let Some(change) = self.changes.get(&i) else {
                kept.end = member.end;
                continue;
            };
            flush(&mut pieces, &mut kept, member.end);
            if let MemberChange::Replace { name, bytes } = change {
                // A member with extension headers gets a plain header instead of all of them.
                let like = tar.header_for(member, name, bytes.size()).ok().flatten();
                let headers = like.unwrap_or_else(|| write::file_headers(name, bytes.size()));
                pieces.push(Piece::New { headers, bytes: bytes.clone() });
            }
        }
        if self.before.is_none() && !self.added.is_empty() {
            flush(&mut pieces, &mut kept, tar.members_end());
            pieces.extend(added());
        }
        match tar.length() > tar.members_end() {
            true => {
                kept.end = tar.length();
                flush(&mut pieces, &mut kept, tar.length());
            }
            false => {
                flush(&mut pieces, &mut kept, tar.length());
                pieces.push(Piece::End);
            }
        }
        pieces
    }
}

/// Ends a run of kept bytes; the next one begins at `next`.
fn flush(pieces: &mut Vec<Piece>, kept: &mut Range<u64>, next: u64) {
    if kept.start < kept.end {
        pieces.push(Piece::Kept(kept.clone()));
    }
    *kept = next..next;
}

fn new_member(name: &str, bytes: &NewContent) -> Piece {
    Piece::New { headers: write::file_headers(name, bytes.size()), bytes: bytes.clone() }
}
