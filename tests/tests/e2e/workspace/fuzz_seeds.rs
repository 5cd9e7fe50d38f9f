//! The seeds of the fuzz targets, and what fuzzing found once, replayed: each must hold what its target asks.

use std::path::Path;

#[allow(dead_code, reason = "the targets call the functions by name")]
#[path = "../../../../fuzz/src/properties.rs"]
mod properties;

#[test]
fn what_the_fuzz_targets_ask_holds_for_every_seed() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let folders = std::fs::read_dir(&seeds).unwrap().count();
    assert_eq!(
        folders,
        properties::TARGETS.len(),
        "each target has its folder of seeds, and no folder is left over"
    );
    for (target, property) in properties::TARGETS {
        let mut count = 0;
        for entry in std::fs::read_dir(seeds.join(target)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            // Which one it was, in the report of a panic.
            eprintln!("{}", path.display());
            property(&bytes);
            // And every cut of a small one: truncated input is what networks and disks make.
            for cut in (0..bytes.len()).step_by(bytes.len() / 64 + 1) {
                property(&bytes[..cut]);
            }
            count += 1;
        }
        assert!(count > 5, "{target} has {count} seeds");
    }
}
