//! A change whose result a reader would refuse: the archive stays as it is.

use super::*;
use crate::archive::edit::TarEdit;
use crate::archive::pending::NewContent;

/// Carries out an edit that no plan makes, as `write_tag` would.
fn edited(store: &DockerArchive, edit: &TarEdit, expected: &ExpectedNames) -> Result<(), Error> {
    let place = store.display_name();
    let written = write::write(&store.temp_files, &store.path, &store.archive(), edit, &place)?;
    store.exchange(&place, |_| written.replace(&store.path, &place, store.naming, expected))
}

#[test]
fn a_result_that_cannot_be_read_does_not_replace_the_archive() {
    for input in [archive(&Classic::new(r#"["app:1"]"#).members), archive(&layout("app:1", ""))] {
        let disk = on_disk(&input);
        let store = disk.open();
        let document = store.read_document(&tag("app:1")).unwrap();
        let right = ExpectedNames::after_tag(&store.archive(), "app:1", document.digest());
        let twice = TarEdit {
            added: vec![("./manifest.json".into(), NewContent::from(&b"[]"[..]))],
            ..TarEdit::default()
        };
        let error = edited(&store, &twice, &right).unwrap_err();
        assert_eq!(error.kind, Exit::BadInput);
        let message = error.to_string();
        assert!(
            message.contains("is a member twice") && message.contains("no changes were made"),
            "{message}"
        );
        let mut empty = TarEdit::default();
        empty.set(&store.archive(), "manifest.json", b"[]");
        empty.set(
            &store.archive(),
            "index.json",
            br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
        );
        assert!(edited(&store, &empty, &right).is_err());
        assert_eq!(disk.bytes(), input);
        assert_eq!(fs::read_dir(disk.dir.path()).unwrap().count(), 1);
        // The store still has the table of the archive and can write.
        assert_eq!(store.read_document(&tag("app:1")).unwrap(), document);
        store.write_tag("app:1", &relabeled(&store, &tag("app:1"), "arm")).unwrap();
        assert_eq!(declared_platform(&disk.open(), &tag("app:1")), "linux/arm/v7");
    }
}

#[test]
fn a_result_in_which_a_name_has_another_image_does_not_replace_the_archive() {
    let input = archive(&Classic::new(r#"["app:1","app:2"]"#).members);
    let disk = on_disk(&input);
    let store = disk.open();
    let harmless =
        TarEdit { added: vec![("note".into(), NewContent::from(&b"x"[..]))], ..TarEdit::default() };
    let refused = |tag: &str, why: &str| {
        let expected = ExpectedNames::after_tag(&store.archive(), tag, &Digest::of(b"another"));
        let message = edited(&store, &harmless, &expected).unwrap_err().to_string();
        assert!(message.contains(why), "{message}");
        assert_eq!(disk.bytes(), input);
    };
    refused("app:2", "app:2 would be sha256:");
    refused("app:3", "app:3 would not be found");
    refused(UNNAMED, "the image without a name would not be found");
    let document = store.read_document(&tag("app:1")).unwrap();
    let right = ExpectedNames::after_tag(&store.archive(), "app:2", document.digest());
    edited(&store, &harmless, &right).unwrap();
    assert!(disk.names().contains(&"note".to_string()));
}
