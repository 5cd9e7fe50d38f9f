//! Tar headers of new members. The same name and size always give the same bytes.

use super::BLOCK;

/// Mode of a new member.
const MODE: &[u8; 8] = b"0000644\0";
/// The largest size that fits eleven octal digits.
const OCTAL_MAX: u64 = (1 << 33) - 1;

/// Returns all headers of a new file: mode 0644, owner 0, time 0. Content and padding follow.
pub fn file_headers(name: &str, size: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut block = [0_u8; 512];
    if name.len() <= 100 {
        block[..name.len()].copy_from_slice(name.as_bytes());
    } else {
        out = pax_path(name);
        // The name for readers without PAX.
        block[..100].copy_from_slice(&name.as_bytes()[..100]);
    }
    block[100..108].copy_from_slice(MODE);
    for owner in [108..116, 116..124] {
        block[owner].copy_from_slice(b"0000000\0");
    }
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    set_size(&mut block, size);
    set_checksum(&mut block);
    out.extend_from_slice(&block);
    out
}

/// Returns the header of a member that replaces another: owner, mode and time stay, name and size are new. `None` if that
/// needs more than one header.
pub fn header_like(old: &[u8; 512], name: &str, size: u64) -> Option<Vec<u8>> {
    if name.len() > 100 || size > OCTAL_MAX {
        return None;
    }
    let mut block = *old;
    block[..100].fill(0);
    block[..name.len()].copy_from_slice(name.as_bytes());
    if &block[257..265] == b"ustar\x0000" {
        block[345..500].fill(0);
    }
    set_size(&mut block, size);
    set_checksum(&mut block);
    Some(block.to_vec())
}

/// Returns the header of a member with another size. `None` if that needs more than one header.
pub fn header_resized(old: &[u8; 512], size: u64) -> Option<Vec<u8>> {
    if size > OCTAL_MAX {
        return None;
    }
    let mut block = *old;
    set_size(&mut block, size);
    set_checksum(&mut block);
    Some(block.to_vec())
}

/// Returns the zeros that fill the last block of `size` bytes of content.
pub fn padding(size: u64) -> &'static [u8] {
    static ZEROS: [u8; 512] = [0; 512];
    &ZEROS[..((BLOCK - size % BLOCK) % BLOCK) as usize]
}

/// The two blocks of zeros that end an archive.
pub const END: [u8; 1024] = [0; 1024];

fn pax_path(name: &str) -> Vec<u8> {
    let rest = format!(" path={name}\n");
    // The length counts its own digits.
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    let record = format!("{length}{rest}");
    let mut out = file_headers("PaxHeaders.0/member", record.len() as u64);
    out[156] = b'x';
    let mut block = [0; 512];
    block.copy_from_slice(&out[..512]);
    set_checksum(&mut block);
    out = block.to_vec();
    out.extend_from_slice(record.as_bytes());
    out.extend_from_slice(padding(record.len() as u64));
    out
}

fn set_size(block: &mut [u8; 512], size: u64) {
    if size <= OCTAL_MAX {
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        return;
    }
    // GNU's base-256 form, which Go and libarchive read in any format.
    block[124..136].fill(0);
    block[124] = 0x80;
    block[128..136].copy_from_slice(&size.to_be_bytes());
}

fn set_checksum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
