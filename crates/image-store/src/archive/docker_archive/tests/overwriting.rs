//! Members overwritten in place, and the redo log for interrupted writes.

use super::filtering::to_arm;
use super::*;
use crate::tree::read_tree;
use std::time::{Duration, SystemTime};

pub(super) fn plan(store: &DockerArchive) -> Result<InPlacePlan, String> {
    let image = read_tree(store, &store.only_image().unwrap()).unwrap();
    let rewrite = to_arm(&image).unwrap().unwrap();
    store.plan_in_place(image.digest(), &rewrite).unwrap()
}

/// Returns archives in both formats, each with its number of changed members.
fn archives() -> [(Vec<u8>, usize); 2] {
    // Changed members: config and list, or config, manifest, index and list.
    [(archive(&Classic::new(r#"["app:1","app:2"]"#).members), 2), (archive(&layout("app:1", "")), 4)]
}

#[test]
fn only_changed_members_are_written_and_all_names_move() {
    for (input, members) in archives() {
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
                assert_complete(&store, &name);
                assert_eq!(declared_platform(&store, &tag(&name)), "linux/arm/v7");
            }
        }
        let after = fs::metadata(&disk.path).unwrap();
        assert_eq!((before.ino(), before.len(), before.mtime()), (after.ino(), after.len(), after.mtime()));
        assert_eq!(fs::read_dir(disk.dir.path()).unwrap().count(), 1);
        let changed = disk.bytes().iter().zip(&input).filter(|(a, b)| a != b).count();
        assert!(changed as u64 <= place.bytes());
    }
    let disk = on_disk(&archives()[0].0);
    let store = disk.open();
    store.apply_in_place(&plan(&store).unwrap()).unwrap();
    assert_eq!(disk.member("30a8/json"), r#"{"id":"30a8", "architecture":"amd64","os":"linux"}"#);
}

/// The result equals that of a rewrite, except for the order of members.
#[test]
fn an_overwritten_and_a_rewritten_archive_have_the_same_digest() {
    for (input, _) in archives() {
        let (one, two) = (on_disk(&input), on_disk(&input));
        let store = one.open();
        store.apply_in_place(&plan(&store).unwrap()).unwrap();
        let other = two.open();
        let document = relabeled(&other, &tag("app:1"), "arm");
        other.write_tag("app:1", &document).unwrap();
        assert_eq!(one.open().read_document(&tag("app:1")).unwrap(), document);
    }
}

#[test]
fn changes_that_do_not_fit_are_refused_with_the_reason() {
    let refused = |input: Vec<u8>, name: Option<&str>, why: &str| {
        let disk = on_disk(&input);
        let store = DockerArchive::open(&disk.path, name).unwrap();
        let message = plan(&store).unwrap_err();
        assert!(message.contains(why), "{message}");
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

/// A writer is killed after its redo log was written, or during the writes to the archive.
#[test]
fn opening_an_archive_completes_an_interrupted_write() {
    for (input, members) in archives() {
        for done in 0..=members {
            let disk = on_disk(&input);
            let store = disk.open();
            let place = plan(&store).unwrap();
            let file = File::options().write(true).read(true).open(&disk.path).unwrap();
            let path = redo_log::path_of(&disk.path);
            let old = redo_log::there(&file, &place.writes).unwrap();
            redo_log::begin(&TempFiles::default(), &disk.path, &path, &file, &old, &place.writes).unwrap();
            for (at, bytes) in &place.writes[..done] {
                std::os::unix::fs::FileExt::write_all_at(&file, bytes, *at).unwrap();
            }
            let again = disk.open();
            assert_eq!(declared_platform(&again, &tag("app:1")), "linux/arm/v7");
            assert_complete(&again, "app:1");
            assert!(!path.exists());
            drop(disk.open());
        }
    }
}

#[test]
fn a_redo_log_of_another_file_is_ignored_and_a_damaged_one_is_refused() {
    let (input, _) = archives()[0].clone();
    let disk = on_disk(&input);
    let place = plan(&disk.open()).unwrap();
    let file = File::options().write(true).read(true).open(&disk.path).unwrap();
    let path = redo_log::path_of(&disk.path);
    let old = redo_log::there(&file, &place.writes).unwrap();
    redo_log::begin(&TempFiles::default(), &disk.path, &path, &file, &old, &place.writes).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"at\":", "\"at\": ")).unwrap();
    let error = DockerArchive::open(&disk.path, None).err().unwrap();
    assert!(error.kind == Exit::Integrity && error.to_string().contains("damaged"), "{error}");
    // Another archive with the same inode.
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
    assert_eq!(declared_platform(&disk.open(), &tag("app:1")), "linux/amd64");
    assert_eq!((disk.bytes(), path.exists()), (input, false));
}

#[test]
fn an_archive_that_changed_concurrently_is_not_overwritten() {
    let disk = on_disk(&archives()[0].0);
    let store = disk.open();
    let place = plan(&store).unwrap();
    // Same size and same time of modification.
    let modified = fs::metadata(&disk.path).unwrap().modified().unwrap();
    let mut bytes = disk.bytes();
    bytes[600] ^= 1;
    fs::write(&disk.path, &bytes).unwrap();
    File::options().write(true).open(&disk.path).unwrap().set_modified(modified).unwrap();
    assert_eq!(store.apply_in_place(&place).unwrap_err().kind, Exit::Conflict);
    assert_eq!(disk.bytes(), bytes);
}

/// Plans with an invalid result, or with a result in which a name has another image.
#[test]
fn nothing_is_overwritten_if_the_result_would_be_invalid() {
    for (input, _) in archives() {
        let disk = on_disk(&input);
        let store = disk.open();
        let document = store.read_document(&tag("app:1")).unwrap();
        let right = plan(&store).unwrap();
        let check = |place: &InPlacePlan, why: &str| {
            let error = store.apply_in_place(place).unwrap_err();
            let message = error.to_string();
            assert!(error.kind == Exit::BadInput && message.contains(why), "{message}");
            assert!(message.contains("no changes were made"), "{message}");
            assert_eq!(disk.bytes(), input);
            assert_eq!(fs::read_dir(disk.dir.path()).unwrap().count(), 1);
            assert_eq!(store.read_document(&tag("app:1")).unwrap(), document);
        };
        // Missing writes, a wrong expected image, and a damaged header.
        let less = InPlacePlan { writes: right.writes[..1].to_vec(), root: right.root.clone() };
        check(&less, "");
        check(&InPlacePlan { writes: Vec::new(), root: right.root.clone() }, "would be sha256:");
        let mut broken = InPlacePlan { writes: right.writes.clone(), root: right.root.clone() };
        broken.writes[0].1[124] = b'x';
        check(&broken, "at byte");
        store.apply_in_place(&right).unwrap();
        assert_eq!(declared_platform(&store, &tag("app:1")), "linux/arm/v7");
        // The store reads what was written, and can write again.
        store.write_tag("app:1", &document).unwrap_err();
        store.write_tag("app:1", &relabeled(&store, &tag("app:1"), "amd64")).unwrap();
    }
}

#[test]
fn a_docker_save_archive_is_not_overwritten_as_an_oci_archive() {
    let disk = on_disk(&archive(&layout("app:1", "")));
    let store = DockerArchive::open_as(&disk.path, None, Naming::Layout).unwrap();
    let message = plan(&store).unwrap_err();
    assert!(message.contains("manifest.json would not be updated"), "{message}");
}
