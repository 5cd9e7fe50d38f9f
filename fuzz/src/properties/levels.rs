//! CPU levels: what a Tag_RISCV_arch means, and the mark of an ELF file.

use image_evidence::cpu::{covers, levels as levels_of, rank, riscv_profile, variant};
use image_evidence::elf::Elf;

/// A further extension never lowers the profile, and the name of a level is bounded by the text that it is from.
pub fn levels(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Some(level) = riscv_profile(&text) else { return };
    let profile = level.split('+').next().unwrap_or_default();
    assert!(levels_of("riscv64").contains(&profile), "{level}");
    // A plus before each extension, which may be one letter.
    assert!(level.len() <= 2 * text.len() + "rva20u64+".len(), "{level}");
    assert!(covers("riscv64", &level, profile) && covers("riscv64", &level, &level), "{level}");
    for more in ["_zba1p0", "_v1p0", "_zbc"] {
        if let Some(higher) = riscv_profile(&format!("{text}{more}")) {
            assert!(rank("riscv64", &higher) >= rank("riscv64", &level), "{level} and then {higher}");
        }
    }
}

/// The variant of a file is the level that it records, if there is a variant for it.
pub fn check_mark(elf: &Elf) {
    let architecture = elf.platform.architecture.as_str();
    let Some(mark) = &elf.mark else {
        assert_eq!(elf.platform.variant, None);
        return;
    };
    assert!(!levels_of(architecture).is_empty() && !mark.proof.is_empty(), "{mark:?}");
    assert!(mark.level.len() <= 2048, "{mark:?}");
    assert_eq!(elf.platform.variant.as_deref(), variant(architecture, &mark.level), "{mark:?}");
}
