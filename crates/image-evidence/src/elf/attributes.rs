//! Build attributes: the sections `.ARM.attributes` and `.riscv.attributes`, which the linker wrote.
//!
//! They follow the last loaded segment and survive `strip`. They are found by their format, not through the section table,
//! which may be far away, after megabytes of debug data.

use super::{NumberFormat, uleb128};
use crate::cpu::{MarkReader, riscv_profile};

const EM_ARM: u16 = 40;
const EM_RISCV: u16 = 243;

/// Adds the attributes in the part of the file that follows the last loaded segment.
pub fn read(tail: &[u8], machine: u16, n: NumberFormat, marks: &mut MarkReader, details: &mut Vec<String>) {
    match machine {
        EM_ARM => {
            if let Some(pairs) = find(tail, b"aeabi\0", n) {
                arm(pairs, marks, details);
            }
        }
        EM_RISCV => {
            if let Some(pairs) = find(tail, b"riscv\0", n) {
                riscv(pairs, marks, details);
            }
        }
        _ => {}
    }
}

/// The tag-value pairs for the whole file. Source: addenda32, "Encoding of build attributes": a format letter,
/// then a vendor's part with its length and name, in it parts with a tag and a length; lengths count themselves.
fn find<'a>(tail: &'a [u8], vendor: &[u8], n: NumberFormat) -> Option<&'a [u8]> {
    const TAG_FILE: u8 = 1;
    let name_at = tail.windows(vendor.len()).enumerate().position(|(i, window)| {
        // The letter and the length before it distinguish it from the same word in a text.
        window == vendor
            && i >= 5
            && tail[i - 5] == b'A'
            && n.u32(tail, i as u64 - 4).is_some_and(|length| length >= 4)
    })?;
    let length = n.u32(tail, name_at as u64 - 4)? as usize;
    let start = name_at.checked_add(vendor.len())?;
    let end = (name_at - 4).checked_add(length)?.min(tail.len());
    let mut part = tail.get(start..end)?;
    loop {
        let tag = *part.first()?;
        let size = n.u32(part, 1)? as usize;
        let content = part.get(5..size)?;
        if tag == TAG_FILE {
            return Some(content);
        }
        part = &part[size..];
    }
}

/// Tags of addenda32 whose values are texts; of the others above 32 the odd ones are.
fn is_text(tag: u64) -> bool {
    matches!(tag, 4 | 5 | 67) || (tag > 32 && tag % 2 == 1)
}

fn arm(mut pairs: &[u8], marks: &mut MarkReader, details: &mut Vec<String>) {
    while let Some(tag) = uleb128(&mut pairs) {
        // Tag_compatibility: a number, then a text.
        if tag == 32 {
            if uleb128(&mut pairs).is_none() || text(&mut pairs).is_none() {
                return;
            }
            continue;
        }
        if is_text(tag) {
            if text(&mut pairs).is_none() {
                return;
            }
            continue;
        }
        let Some(value) = uleb128(&mut pairs) else { return };
        match tag {
            6 => {
                // Tag_CPU_arch. Measured with an assembler: v4 1, v4T 2, v5T 3, v5TE 4, v6 6, v7 10, v8 14.
                let (needed, name) = match value {
                    1..=5 => ("v5", ["v4", "v4T", "v5T", "v5TE", "v5TEJ"][value as usize - 1]),
                    6 => ("v6", "v6"),
                    7 => ("v6", "v6KZ"),
                    8 => ("v6", "v6T2"),
                    9 => ("v6", "v6K"),
                    10 => ("v7", "v7"),
                    14 | 15 | 22 => ("v8", "v8 or later"),
                    _ => continue,
                };
                let proof = format!("Tag_CPU_arch {name}");
                marks.add(needed, &proof, false);
                details.push(proof);
            }
            // Tag_ABI_VFP_args: numbers are passed in VFP registers.
            28 if value == 1 => details.push("hard float".into()),
            _ => {}
        }
    }
}

/// Source: the RISC-V psABI, "Attributes": even tags are numbers, odd ones texts; 5 is Tag_RISCV_arch.
fn riscv(mut pairs: &[u8], marks: &mut MarkReader, details: &mut Vec<String>) {
    while let Some(tag) = uleb128(&mut pairs) {
        if tag % 2 == 0 {
            if uleb128(&mut pairs).is_none() {
                return;
            }
            continue;
        }
        let Some(value) = text(&mut pairs) else { return };
        if tag == 5 {
            if let Some(profile) = std::str::from_utf8(value).ok().and_then(riscv_profile) {
                marks.add(&profile, "Tag_RISCV_arch", false);
            }
            details.push(String::from_utf8_lossy(&value[..value.len().min(200)]).into_owned());
        }
    }
}

fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|b| *b == 0)?;
    let (text, rest) = bytes.split_at(end);
    *bytes = &rest[1..];
    Some(text)
}
