//! Encoded facts of layers: damaged files are rejected, and decoded facts are encoded to the same bytes.

use super::{hasher, names, read};
use image_evidence::chain;
use image_evidence::layer::encoding::{decode, encode};
use image_evidence::layer::{LayerFacts, LayerOutcome, NameHasher};
use image_evidence::overlay::OverlayTree;
use image_model::digest::Digest;
use image_model::manifest::Config;

const NAME: &str = "a layer";

/// Takes the bytes as a layer, as a file of facts, and as the content of such a file with valid header and checksum.
pub fn encoding(bytes: &[u8]) {
    let hasher = hasher();
    if let Ok(layer @ LayerOutcome::Read(facts)) = &read(bytes) {
        let file = encode(facts, NAME, usize::MAX).expect("it is not too large");
        let again = decode(&file, NAME, &hasher).expect("encoded facts are decoded");
        assert_eq!(names(&LayerOutcome::Read(Box::new(again))), names(layer));
        same_again(&file, &hasher);
    }
    assert!(decode(bytes, NAME, &hasher).is_none(), "the checksum cannot be guessed");

    let empty = encode(&LayerFacts::empty(&hasher), NAME, usize::MAX).expect("it is small");
    // Three numbers, an empty text, and empty lists of facts, links, programs and records; then the checksum.
    let head = &empty[..empty.len() - 64 - (3 * 8 + 8 + (8 + 2) + 3 * 8)];
    let content = [head, bytes].concat();
    let sum = Digest::of(&[hasher.key(), content.as_slice(), hasher.key()].concat());
    let file = [&content, sum.hex().as_bytes()].concat();
    let Some(facts) = decode(&file, NAME, &hasher) else { return };
    same_again(&encode(&facts, NAME, usize::MAX).expect("it was as large"), &hasher);
    let tree = OverlayTree::new(vec![Some(&facts), None, Some(&facts)]);
    tree.programs().for_each(drop);
    let config =
        Config { entrypoint: vec!["/bin/sh".into(), "-c".into(), "app".into()], ..Config::default() };
    chain::follow(&tree, &config);
}

fn same_again(file: &[u8], hasher: &NameHasher) {
    let facts = decode(file, NAME, hasher).expect("encoded facts are decoded");
    assert!(encode(&facts, NAME, usize::MAX).as_deref() == Some(file), "encoded differently");
}
