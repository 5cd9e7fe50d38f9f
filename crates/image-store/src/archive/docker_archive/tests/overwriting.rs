//! Members overwritten where they stand, and the journal that makes it safe.

use super::filtering::to_arm;
use super::*;
use crate::tree::read_tree;
use std::time::{Duration, SystemTime};

pub(super) fn plan(store: &DockerArchive) -> Result<InPlacePlan, String> {
    let image = read_tree(store, &store.only_image().unwrap()).unwrap();
    let rewrite = to_arm(&image).unwrap().unwrap();
    store.plan_in_place(image.digest(), &rewrite).unwrap()
}

/// The same archive with configs that have this many bytes to spare in their last block.
fn forms() -> [(Vec<u8>, usize); 2] {
    // Config and list; config, manifest, index and list.
    [(archive(&Classic::new(r#"["app:1","app:2"]"#).members), 2), (archive(&layout("app:1", "")), 4)]
}

#[test]
fn only_what_changes_is_written_and_all_names_follow() {
    for (input, members) in forms() {
        let disk = on_disk(&input);
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::options().write(true).open(&disk.path).unwrap().set_modified(long_ago).unwrap();
        let before = fs::metadata(&disk.path).unwrap();
        let store = disk.open();
        let place = plan(&store).unwrap();
        assert_eq!(place.members(), members);
        store.apply_in_place(&place).unwrap();
        for store in [store, disk.open()] {
            for name in store.tags().unwrap() {
                whole(&store, &name);
                assert_eq!(label(&store, &tag(&name)), "linux/arm/v7");
            }
        }
        let after = fs::metadata(&disk.path).unwrap();
        assert_eq!((before.ino(), before.len(), before.mtime()), (after.ino(), after.len(), after.mtime()));
        assert_eq!(fs::read_dir(disk.dir.path()).unwrap().count(), 1);
        let changed = disk.bytes().iter().zip(&input).filter(|(a, b)| a != b).count();
        assert!(changed as u64 <= place.bytes());
    }
    let disk = on_disk(&forms()[0].0);
    let store = disk.open();
    store.apply_in_place(&plan(&store).unwrap()).unwrap();
    assert_eq!(disk.member("30a8/json"), r#"{"id":"30a8", "architecture":"amd64","os":"linux"}"#);
}

/// It is what the other way of doing it makes, but for the order of the members.
#[test]
fn the_image_has_the_digest_that_it_has_in_a_rewritten_archive() {
    for (input, _) in forms() {
        let (one, two) = (on_disk(&input), on_disk(&input));
        let store = one.open();
        store.apply_in_place(&plan(&store).unwrap()).unwrap();
        let other = two.open();
        let document = relabelled(&other, &tag("app:1"), "arm");
        other.write_tag("app:1", &document).unwrap();
        assert_eq!(one.open().read_document(&tag("app:1")).unwrap(), document);
    }
}

#[test]
fn what_does_not_fit_is_not_done_and_says_why() {
    let refused = |input: Vec<u8>, name: Option<&str>, why: &str| {
        let disk = on_disk(&input);
        let store = DockerArchive::open(&disk.path, name).unwrap();
        let said = plan(&store).unwrap_err();
        assert!(said.contains(why), "{said}");
        assert_eq!(disk.bytes(), input);
    };
    refused(archive(&Classic::new(r#"["app:1","app:2"]"#).members), Some("app:1"), "other names");
    let mut two = Classic::new(r#"["app:1"]"#);
    let other = config("arm64", &[b"one"]);
    let list = two.manifest_json.trim_end().trim_end_matches(']').to_string()
        + &format!(r#",{{"Config":"{}.json","RepoTags":["b:1"],"Layers":["1910/layer.tar"]}}]"#, hex(&other));
    two.members[11] = file("manifest.json", list.as_bytes());
    two.members.push(file(&format!("{}.json", hex(&other)), other.as_bytes()));
    refused(archive(&two.members), Some("app:1"), "other images");
    let mut full = Classic::new(r#"["app:1"]"#);
    let config = full
        .config
        .replace("\"created\"", &format!("\"x\":\"{}\",\"created\"", "x".repeat(505 - full.config.len())));
    assert!(config.len() <= 512 && config.len() > 500);
    full.members[10] = file(&format!("{}.json", hex(&config)), config.as_bytes());
    full.members[11] =
        file("manifest.json", full.manifest_json.replace(&hex(&full.config), &hex(&config)).as_bytes());
    refused(archive(&full.members), None, "its blocks have 512");
    let mut extended = Classic::new(r#"["app:1"]"#);
    extended.members[11] = [pax(b'x', &[("mtime", "1.25")]), extended.members[11].clone()].concat();
    refused(archive(&extended.members), None, "more than one header");
}

/// What a writer leaves that was killed between its journal and the archive, and within the archive.
#[test]
fn who_opens_an_archive_finishes_what_was_begun() {
    for (input, members) in forms() {
        for done in 0..=members {
            let disk = on_disk(&input);
            let store = disk.open();
            let place = plan(&store).unwrap();
            let file = File::options().write(true).read(true).open(&disk.path).unwrap();
            let path = journal::journal_of(&disk.path);
            let old = journal::there(&file, &place.writes).unwrap();
            journal::begin(&disk.path, &path, &file, &old, &place.writes).unwrap();
            for (at, bytes) in &place.writes[..done] {
                std::os::unix::fs::FileExt::write_all_at(&file, bytes, *at).unwrap();
            }
            let again = disk.open();
            assert_eq!(label(&again, &tag("app:1")), "linux/arm/v7");
            whole(&again, "app:1");
            assert!(!path.exists());
            drop(disk.open());
        }
    }
}

#[test]
fn a_journal_of_another_file_is_not_carried_out_and_a_damaged_one_is_refused() {
    let (input, _) = forms()[0].clone();
    let disk = on_disk(&input);
    let place = plan(&disk.open()).unwrap();
    let file = File::options().write(true).read(true).open(&disk.path).unwrap();
    let path = journal::journal_of(&disk.path);
    let old = journal::there(&file, &place.writes).unwrap();
    journal::begin(&disk.path, &path, &file, &old, &place.writes).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"at\":", "\"at\": ")).unwrap();
    let error = DockerArchive::open(&disk.path, None).err().unwrap();
    assert!(error.kind == Exit::Integrity && error.to_string().contains("damaged"), "{error}");
    // Another archive in the very same inode.
    fs::write(&path, &text).unwrap();
    let mut another = input.clone();
    another[place.writes[0].0 as usize + 300] ^= 1;
    fs::write(&disk.path, &another).unwrap();
    drop(DockerArchive::open(&disk.path, None));
    assert_eq!((disk.bytes(), path.exists()), (another, false));
    fs::write(&path, text).unwrap();
    let other = disk.dir.path().join("other");
    fs::write(&other, &input).unwrap();
    fs::rename(&other, &disk.path).unwrap();
    assert_eq!(label(&disk.open(), &tag("app:1")), "linux/amd64");
    assert_eq!((disk.bytes(), path.exists()), (input, false));
}

#[test]
fn an_archive_that_changed_meanwhile_is_not_overwritten() {
    let disk = on_disk(&forms()[0].0);
    let store = disk.open();
    let place = plan(&store).unwrap();
    // The same size and, if somebody wants it so, the same time.
    let modified = fs::metadata(&disk.path).unwrap().modified().unwrap();
    let mut bytes = disk.bytes();
    bytes[600] ^= 1;
    fs::write(&disk.path, &bytes).unwrap();
    File::options().write(true).open(&disk.path).unwrap().set_modified(modified).unwrap();
    assert_eq!(store.apply_in_place(&place).unwrap_err().kind, Exit::Conflict);
    assert_eq!(disk.bytes(), bytes);
}

/// A plan whose result a reader would refuse, or in which a name would stand for another image.
#[test]
fn nothing_is_overwritten_if_the_result_would_be_wrong() {
    for (input, _) in forms() {
        let disk = on_disk(&input);
        let store = disk.open();
        let document = store.read_document(&tag("app:1")).unwrap();
        let right = plan(&store).unwrap();
        let check = |place: &InPlacePlan, why: &str| {
            let error = store.apply_in_place(place).unwrap_err();
            let said = error.to_string();
            assert!(error.kind == Exit::BadInput && said.contains(why), "{said}");
            assert!(said.contains("no changes were made"), "{said}");
            assert_eq!(disk.bytes(), input);
            assert_eq!(fs::read_dir(disk.dir.path()).unwrap().count(), 1);
            assert_eq!(store.read_document(&tag("app:1")).unwrap(), document);
        };
        // Less is written than must be, the wrong image is expected, a header is broken.
        let less = InPlacePlan { writes: right.writes[..1].to_vec(), root: right.root.clone() };
        check(&less, "");
        check(&InPlacePlan { writes: Vec::new(), root: right.root.clone() }, "would be sha256:");
        let mut broken = InPlacePlan { writes: right.writes.clone(), root: right.root.clone() };
        broken.writes[0].1[124] = b'x';
        check(&broken, "at byte");
        store.apply_in_place(&right).unwrap();
        assert_eq!(label(&store, &tag("app:1")), "linux/arm/v7");
        // What was written is what the store reads, and it can go on writing.
        store.write_tag("app:1", &document).unwrap_err();
        store.write_tag("app:1", &relabelled(&store, &tag("app:1"), "amd64")).unwrap();
    }
}

#[test]
fn a_docker_save_archive_is_not_overwritten_as_an_oci_archive() {
    let disk = on_disk(&archive(&layout("app:1", "")));
    let store = DockerArchive::open_as(&disk.path, None, Naming::Layout).unwrap();
    let said = plan(&store).unwrap_err();
    assert!(said.contains("manifest.json would not be updated"), "{said}");
}
