//! Tars of images: the table of a file and the stream through a pipe have the same members.

use super::Trickle;
use image_store::archive::tar::stream::{StreamItem, TarStream};
use image_store::archive::tar::{MemberKind, TarError, TarFile};
use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;

/// One member: kind, name, offset and size.
type Seen = (MemberKind, Vec<u8>, u64, u64);

pub fn tar(bytes: &[u8]) {
    let file = TarFile::read(Arc::new(file_of(bytes)));
    let read_max = 1 + usize::from(bytes.first().copied().unwrap_or(0)) * 7;
    let stream = members_of_stream(Trickle { bytes, read_max });
    if let Err(TarError::Io(error)) = &file {
        panic!("nothing is wrong with the disk: {error}");
    }
    let Ok(file) = file else { return };
    let seen: Vec<Seen> = file
        .members()
        .iter()
        .map(|member| (member.kind, file.name(member).to_vec(), member.data_at, member.size))
        .collect();
    match stream {
        Ok(streamed) => assert_eq!(streamed, seen),
        // A pipe whose writer was killed looks like a file without an end marker.
        Err(error) => assert!(file.members_end() == file.length(), "the stream says: {error}"),
    }
    let mut end = 0;
    for (number, member) in file.members().iter().enumerate() {
        assert!(member.start == end && member.header_at >= end && member.data_at == member.header_at + 512);
        assert!(member.data_at + member.size <= member.end && member.end <= file.length());
        end = member.end;
        let mut count = 0;
        let mut content = file.content(member);
        let mut buffer = [0; 4096];
        while let Ok(1..) = content.read(&mut buffer).inspect(|read| count += read) {}
        assert_eq!(count as u64, member.size);
        if member.kind == MemberKind::Global {
            continue;
        }
        let name = file.name(member);
        assert!(!name.starts_with(b"/") && !name.split(|b| *b == b'/').any(|part| part == b".."), "{name:?}");
        let found = file.find(name).expect("a member is found by its name");
        assert!(found == number || member.kind == MemberKind::Directory);
        if let Ok(way) = file.resolve(name) {
            let last = &file.members()[*way.last().expect("a way has an end")];
            assert!(last.kind == MemberKind::File && way.len() <= 41);
        }
    }
    assert_eq!(end, file.members_end());
}

fn members_of_stream(input: impl Read) -> Result<Vec<Seen>, TarError> {
    let mut stream = TarStream::new(input);
    let mut seen = Vec::new();
    loop {
        match stream.next_member()? {
            StreamItem::End(_) => return Ok(seen),
            StreamItem::Member(member) => {
                let mut left = member.padded();
                let mut buffer = [0; 4096];
                while left > 0 {
                    let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    left -= stream.read_some(&mut buffer[..most])? as u64;
                }
                seen.push((member.kind, member.name, member.data_at, member.size));
            }
        }
    }
}

/// An unnamed file with these bytes.
pub fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("TMPDIR can be written");
    file.write_all(bytes).expect("TMPDIR has room");
    file
}
