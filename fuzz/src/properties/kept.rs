//! Facts of layers as they are kept: damaged ones are nothing, and what is read is written the same again.

use super::{names, read};
use image_evidence::chain;
use image_evidence::layer::encoding as keeping;
use image_evidence::layer::{LayerFacts, LayerOutcome, NameKey};
use image_evidence::overlay::OverlayTree;
use image_model::digest::Digest;
use image_model::manifest::Config;

const NAME: &str = "a layer";

/// The bytes as a layer, as a file of facts, and as such a file behind a right beginning and with a right checksum.
pub fn kept(bytes: &[u8]) {
    let key = NameKey::new([7; 32]);
    if let Ok(layer @ LayerOutcome::Read(facts)) = &read(bytes) {
        let file = keeping::encode(facts, NAME, &key, usize::MAX).expect("it is not too large");
        let again = keeping::decode(&file, NAME, &key).expect("what was kept is known again");
        assert_eq!(names(&LayerOutcome::Read(Box::new(again))), names(layer));
        same_again(&file, &key);
    }
    assert!(keeping::decode(bytes, NAME, &key).is_none(), "nobody can make the checksum");

    let empty = keeping::encode(&LayerFacts::default(), NAME, &key, usize::MAX).expect("it is small");
    // Three numbers, no text, a list of no facts, no links, programs and records; then the checksum.
    let head = &empty[..empty.len() - 64 - (3 * 8 + 8 + (8 + 2) + 3 * 8)];
    let content = [head, bytes].concat();
    let sum = Digest::of(&[key.bytes(), content.as_slice(), key.bytes()].concat());
    let file = [&content, sum.hex().as_bytes()].concat();
    let Some(facts) = keeping::decode(&file, NAME, &key) else { return };
    same_again(&keeping::encode(&facts, NAME, &key, usize::MAX).expect("it was as large"), &key);
    let tree = OverlayTree::new(vec![Some(&facts), None, Some(&facts)]);
    tree.programs().for_each(drop);
    let config =
        Config { entrypoint: vec!["/bin/sh".into(), "-c".into(), "app".into()], ..Config::default() };
    chain::follow(&tree, &config);
}

fn same_again(file: &[u8], key: &NameKey) {
    let facts = keeping::decode(file, NAME, key).expect("what was written is read");
    assert!(
        keeping::encode(&facts, NAME, key, usize::MAX).as_deref() == Some(file),
        "otherwise than it came"
    );
}
