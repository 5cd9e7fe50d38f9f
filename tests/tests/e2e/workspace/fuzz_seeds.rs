//! Replay of the seeds of the fuzz targets, including former findings.

use std::path::Path;

#[allow(dead_code, reason = "the targets call the functions by name")]
#[path = "../../../../fuzz/src/properties.rs"]
mod properties;

#[test]
fn properties_of_the_fuzz_targets_are_true_for_every_seed() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let directories = std::fs::read_dir(&seeds).unwrap().count();
    assert_eq!(
        directories,
        properties::TARGETS.len(),
        "each target must have a directory of seeds, without others"
    );
    for (target, property) in properties::TARGETS {
        let mut count = 0;
        for entry in std::fs::read_dir(seeds.join(target)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            // Printed if the property panics.
            eprintln!("{}", path.display());
            property(&bytes);
            // Truncated at many lengths, as networks and disks may deliver it.
            for cut in (0..bytes.len()).step_by(bytes.len() / 64 + 1) {
                property(&bytes[..cut]);
            }
            count += 1;
        }
        assert!(count > 5, "{target} has {count} seeds");
    }
}
