//! Encoded facts of layers: damaged files are rejected, and decoded facts are encoded to the same bytes.

use super::{names, read};
use image_evidence::chain;
use image_evidence::layer::encoding::{decode, encode};
use image_evidence::layer::{LayerFacts, LayerOutcome, NameKey};
use image_evidence::overlay::OverlayTree;
use image_model::digest::Digest;
use image_model::manifest::Config;

const NAME: &str = "a layer";

/// Takes the bytes as a layer, as a file of facts, and as the content of such a file with valid header and checksum.
pub fn encoding(bytes: &[u8]) {
    let key = NameKey::new([7; 32]);
    if let Ok(layer @ LayerOutcome::Read(facts)) = &read(bytes) {
        let file = encode(facts, NAME, &key, usize::MAX).expect("it is not too large");
        let again = decode(&file, NAME, &key).expect("encoded facts are decoded");
        assert_eq!(names(&LayerOutcome::Read(Box::new(again))), names(layer));
        same_again(&file, &key);
    }
    assert!(decode(bytes, NAME, &key).is_none(), "the checksum cannot be guessed");

    let empty = encode(&LayerFacts::default(), NAME, &key, usize::MAX).expect("it is small");
    // Three numbers, an empty text, and empty lists of facts, links, programs and records; then the checksum.
    let head = &empty[..empty.len() - 64 - (3 * 8 + 8 + (8 + 2) + 3 * 8)];
    let content = [head, bytes].concat();
    let sum = Digest::of(&[key.bytes(), content.as_slice(), key.bytes()].concat());
    let file = [&content, sum.hex().as_bytes()].concat();
    let Some(facts) = decode(&file, NAME, &key) else { return };
    same_again(&encode(&facts, NAME, &key, usize::MAX).expect("it was as large"), &key);
    let tree = OverlayTree::new(vec![Some(&facts), None, Some(&facts)]);
    tree.programs().for_each(drop);
    let config =
        Config { entrypoint: vec!["/bin/sh".into(), "-c".into(), "app".into()], ..Config::default() };
    chain::follow(&tree, &config);
}

fn same_again(file: &[u8], key: &NameKey) {
    let facts = decode(file, NAME, key).expect("encoded facts are decoded");
    assert!(encode(&facts, NAME, key, usize::MAX).as_deref() == Some(file), "encoded differently");
}
