//! Tar archives for tests, including invalid ones.

use super::write::{END, padding};
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

/// Returns a header block with a correct checksum.
pub fn header(name: &str, kind: u8, size: u64, link: &str) -> [u8; 512] {
    let mut block = [0_u8; 512];
    let short = &name.as_bytes()[..name.len().min(100)];
    block[..short.len()].copy_from_slice(short);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0001750\0");
    block[116..124].copy_from_slice(b"0001750\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"15301147026\0");
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    set_checksum(&mut block);
    block
}

/// Sets the checksum.
pub fn set_checksum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Returns a member of any type, with content and padding.
pub fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let head = header(name, kind, content.len() as u64, "");
    [&head[..], content, padding(content.len() as u64)].concat()
}

pub fn file(name: &str, content: &[u8]) -> Vec<u8> {
    member(name, b'0', content)
}

pub fn directory(name: &str) -> Vec<u8> {
    header(name, b'5', 0, "").to_vec()
}

pub fn symlink(name: &str, target: &str) -> Vec<u8> {
    header(name, b'2', 0, target).to_vec()
}

pub fn hard_link(name: &str, target: &str) -> Vec<u8> {
    header(name, b'1', 0, target).to_vec()
}

/// Returns a PAX header with these records.
pub fn pax(kind: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let mut content = String::new();
    for (key, value) in records {
        let rest = format!(" {key}={value}\n");
        let length = (1..).map(|digits| rest.len() + digits).find(|n| n.to_string().len() + rest.len() == *n);
        content.push_str(&format!("{}{rest}", length.unwrap()));
    }
    member("PaxHeaders.0/x", kind, content.as_bytes())
}

/// Returns the concatenated members and an end marker.
pub fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), END.to_vec()].concat()
}

pub fn on_disk(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(file)
}
