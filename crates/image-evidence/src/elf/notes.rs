//! Property notes (`.note.gnu.property`): the x86-64 level that a file requires, and the hardening of arm64 code.

use super::NumberFormat;
use crate::cpu::MarkReader;

const NT_GNU_PROPERTY_TYPE_0: u32 = 5;
// Sources: the x86-64 psABI, "Program Property", and the AArch64 ELF supplement.
const X86_ISA_1_NEEDED: u32 = 0xc000_8002;
const AARCH64_FEATURE_1_AND: u32 = 0xc000_0000;

/// Adds the properties in a PT_NOTE or PT_GNU_PROPERTY segment.
pub fn read(mut content: &[u8], n: NumberFormat, marks: &mut MarkReader, details: &mut Vec<String>) {
    while let Some((name, kind, description, rest)) = next(content, n) {
        if name == b"GNU\0" && kind == NT_GNU_PROPERTY_TYPE_0 {
            properties(description, n, marks, details);
        }
        content = rest;
    }
}

type Note<'a> = (&'a [u8], u32, &'a [u8], &'a [u8]);

fn next(content: &[u8], n: NumberFormat) -> Option<Note<'_>> {
    let name_size = n.u32(content, 0)? as usize;
    let size = n.u32(content, 4)? as usize;
    let kind = n.u32(content, 8)?;
    let name = content.get(12..12_usize.checked_add(name_size)?)?;
    let at = 12_usize.checked_add(name_size.checked_next_multiple_of(4)?)?;
    let description = content.get(at..at.checked_add(size)?)?;
    let end = at.checked_add(size.checked_next_multiple_of(if n.is_64 { 8 } else { 4 })?)?;
    Some((name, kind, description, content.get(end..).unwrap_or_default()))
}

fn properties(mut content: &[u8], n: NumberFormat, marks: &mut MarkReader, details: &mut Vec<String>) {
    while let (Some(kind), Some(size)) = (n.u32(content, 0), n.u32(content, 4)) {
        let Some(value) = n.u32(content, 8).filter(|_| size >= 4) else { return };
        match kind {
            X86_ISA_1_NEEDED => {
                // Bits 0 to 3: baseline, v2, v3, v4. Compilers write the baseline whatever the code needs.
                let needed = 32 - (value & 0xf).leading_zeros();
                if needed > 1 {
                    let proof = format!("x86-64-v{needed} by its property note");
                    // The loader of glibc refuses it on a lower level.
                    marks.add(&format!("v{needed}"), &proof, true);
                    details.push(proof);
                }
            }
            AARCH64_FEATURE_1_AND => {
                for (bit, name) in [(1, "BTI"), (2, "PAC")] {
                    if value & bit != 0 {
                        details.push(name.into());
                    }
                }
            }
            _ => {}
        }
        let step = (size as usize).checked_next_multiple_of(if n.is_64 { 8 } else { 4 });
        let Some(rest) = step.and_then(|step| content.get(step.checked_add(8)?..)) else { return };
        content = rest;
    }
}
