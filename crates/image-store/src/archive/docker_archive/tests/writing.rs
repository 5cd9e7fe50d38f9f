//! New images, indexes and names; concurrent writers; removed and kept members.

use super::*;

#[test]
fn an_archive_that_changed_concurrently_is_not_replaced() {
    let disk = on_disk(&archive(&Classic::new(r#"["app:1"]"#).members));
    let (first, second) = (disk.open(), disk.open());
    first.write_tag("app:1", &relabeled(&first, &tag("app:1"), "arm")).unwrap();
    let bytes = disk.bytes();
    let error = second.write_tag("app:1", &relabeled(&second, &tag("app:1"), "386")).unwrap_err();
    assert_eq!((error.kind, disk.bytes() == bytes), (Exit::Conflict, true), "{error}");
    assert_eq!(fs::read_dir(disk.dir.path()).unwrap().count(), 1, "a temporary file was left");
    fs::remove_file(&disk.path).unwrap();
    let error = first.write_tag("app:1", &relabeled(&first, &tag("app:1"), "386")).unwrap_err();
    assert_eq!((error.kind, disk.path.exists()), (Exit::Conflict, false));
}

#[test]
fn the_mode_is_kept_links_are_followed_and_leftovers_are_removed() {
    let disk = on_disk(&archive(&Classic::new(r#"["app:1"]"#).members));
    fs::set_permissions(&disk.path, fs::Permissions::from_mode(0o640)).unwrap();
    let link = disk.dir.path().join("link.tar");
    std::os::unix::fs::symlink("app.tar", &link).unwrap();
    fs::write(disk.dir.path().join(".app.tar.abc.archive-tmp"), b"half").unwrap();
    fs::write(disk.dir.path().join(".other.tar.abc.archive-tmp"), b"not ours").unwrap();
    let store = DockerArchive::open(&link, None).unwrap();
    store.write_tag("app:1", &relabeled(&store, &tag("app:1"), "arm")).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&disk.path).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(declared_platform(&disk.open(), &tag("app:1")), "linux/arm/v7");
    let mut names: Vec<String> = fs::read_dir(disk.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, [".other.tar.abc.archive-tmp", "app.tar", "link.tar"]);
}

#[test]
fn a_new_archive_is_a_layout_with_manifest_json() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("new.tar");
    let store = DockerArchive::open_or_create(&path).unwrap();
    assert_eq!((store.tags().unwrap().len(), store.only_image().unwrap_err().kind), (0, Exit::NotFound));
    let first = add_image(&store, "app:1", &[b"one", b"two"]);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o600, 0o600);
    let second = add_image(&store, "docker.io/library/app:2", &[b"one", &[7; 300 << 10]]);
    let disk = OnDisk { dir, path };
    for store in [store, disk.open()] {
        assert_eq!(store.tags().unwrap(), ["app:1", "app:2"]);
        assert_eq!(store.read_document(&tag("app:1")).unwrap(), first);
        assert_eq!(store.read_document(&tag("app:2")).unwrap(), second);
        assert_complete(&store, "app:1");
        assert_complete(&store, "app:2");
    }
    // Two manifests, two configs, three layers; one layer is shared.
    let names = disk.names();
    assert_eq!((names.len(), names[0].as_str()), (1 + 2 + 2 + 3 + 2, "oci-layout"));
    let list: serde_json::Value = serde_json::from_str(&disk.member("manifest.json")).unwrap();
    assert_eq!(list[1]["RepoTags"], json!(["app:2"]));
    // The same content results in the same bytes.
    let again = on_disk(b"");
    let store = DockerArchive::open_or_create(&again.path).unwrap();
    add_image(&store, "app:1", &[b"one", b"two"]);
    add_image(&store, "app:2", &[b"one", &[7; 300 << 10]]);
    assert_eq!(again.bytes(), disk.bytes());
}

#[test]
fn unreferenced_members_are_removed_and_unknown_members_are_kept() {
    let disk = on_disk(&archive(&layout("app:1", "")));
    let store = disk.open();
    add_image(&store, "app:1", &[b"one", b"three"]);
    let names = disk.names();
    let has = |text: &str| names.contains(&format!("blobs/sha256/{}", hex(text)));
    assert_eq!((has("one"), has("two"), has("three")), (true, false, true));
    assert!(has(r#"{"id":"a legacy json without reference"}"#));
    assert_eq!(names.len(), layout("app:1", "").len());
    assert_complete(&disk.open(), "app:1");
}

#[test]
fn new_layers_in_a_classic_archive_replace_the_old_ones() {
    let disk = on_disk(&archive(&Classic::new(r#"["app:1"]"#).members));
    let store = disk.open();
    let document = add_image(&store, "app:1", &[b"one", b"three"]);
    assert_eq!(disk.open().read_document(&tag("app:1")).unwrap(), document);
    assert_complete(&disk.open(), "app:1");
    let names = disk.names();
    assert!(!names.iter().any(|name| name.starts_with(TOP)), "{names:?}");
    assert!(names.contains(&format!("{}/layer.tar", hex("three"))));
    assert_eq!(
        disk.member("repositories"),
        r#"{"app":{"1":"30a8"}}"#,
        "no engine since Docker 1.10 reads it"
    );
    // A second image.
    add_image(&store, "other:1", &[b"one"]);
    let store = disk.open();
    assert_eq!(store.tags().unwrap(), ["app:1", "other:1"]);
    assert_complete(&store, "app:1");
    assert_complete(&store, "other:1");
}

#[test]
fn a_classic_archive_refuses_what_it_cannot_store() {
    let disk = on_disk(&archive(&Classic::new(r#"["app:1"]"#).members));
    let before = disk.bytes();
    let store = disk.open();
    let child = add_image(&store, "-", &[b"one"]);
    let index = json!({"schemaVersion":2,"manifests":[child.descriptor()]}).to_string();
    let index = Document::new(index.into_bytes(), None).unwrap();
    let check = |document: &Document, why: &str| {
        let error = store.write_tag("app:1", document).unwrap_err();
        assert!(error.kind == Exit::BadInput && error.to_string().contains(why), "{error}");
    };
    check(&index, "holds single images");
    assert_eq!(store.write_document(&index).unwrap_err().kind, Exit::BadInput);
    let spaced = [child.bytes(), b"\n"].concat();
    check(&Document::new(spaced, None).unwrap(), "has no manifests");
    let text = String::from_utf8(child.bytes().to_vec()).unwrap();
    check(&Document::new(text.replace(&hex("one"), &hex("two")).into_bytes(), None).unwrap(), "should be");
    check(
        &Document::new(text.replace(&hex("one"), &hex("x")).into_bytes(), None).unwrap(),
        "which is absent",
    );
    assert_eq!(disk.bytes(), before);
}

#[test]
fn an_index_is_stored_completely_and_one_member_is_listed_in_manifest_json() {
    let dir = TempDir::new().unwrap();
    let disk = OnDisk { path: dir.path().join("new.tar"), dir };
    let store = DockerArchive::open_or_create(&disk.path).unwrap();
    let children = [add_image(&store, "-", &[b"one"]), add_image(&store, "-", &[b"two"])];
    let entries: Vec<Descriptor> = children.iter().map(Document::descriptor).collect();
    let index = json!({"schemaVersion":2,"mediaType":media_type::OCI_INDEX,"manifests":entries}).to_string();
    let index = Document::new(index.into_bytes(), None).unwrap();
    store.write_tag("app:1", &index).unwrap();
    let store = disk.open();
    assert_eq!(store.read_document(&tag("app:1")).unwrap(), index);
    assert_complete(&store, "app:1");
    assert!(disk.member("manifest.json").contains(&hex("one")));
    // The second member is relabeled; the first is unchanged and still the one in manifest.json.
    let list = disk.member("manifest.json");
    let changed = relabeled(&store, &Pointer::from(children[1].digest()), "arm");
    store.write_document(&changed).unwrap();
    let text = String::from_utf8(index.bytes().to_vec()).unwrap();
    let text = text.replace(children[1].digest().as_str(), changed.digest().as_str()).replace(
        &format!("\"size\":{}}}]", children[1].bytes().len()),
        &format!("\"size\":{}}}]", changed.bytes().len()),
    );
    let wanted = Document::new(text.into_bytes(), None).unwrap();
    store.write_tag("app:1", &wanted).unwrap();
    assert_eq!(disk.open().read_document(&tag("app:1")).unwrap(), wanted);
    assert_eq!(disk.member("manifest.json"), list);
    let names = disk.names();
    assert!(!names.iter().any(|name| name.ends_with(children[1].digest().hex())), "{names:?}");
    assert_complete(&disk.open(), "app:1");
}

#[test]
fn members_that_docker_did_not_save_may_stay_absent() {
    let mut members = layout("app:1", "");
    let image = on_disk(&archive(&members)).open().read_document(&tag("app:1")).unwrap();
    let missing = Descriptor::of(media_type::OCI_MANIFEST, b"elsewhere");
    let index = json!({"schemaVersion":2,"mediaType":media_type::OCI_INDEX,"manifests":[missing, image.descriptor()]}).to_string();
    let old_index = on_disk(&archive(&members)).member("index.json");
    let top = old_index
        .replace(media_type::OCI_MANIFEST, media_type::OCI_INDEX)
        .replace(image.digest().hex(), &hex(&index))
        .replace(&format!("\"size\":{}", image.bytes().len()), &format!("\"size\":{}", index.len()));
    members[7] = file("index.json", top.as_bytes());
    members.insert(2, file(&format!("blobs/sha256/{}", hex(&index)), index.as_bytes()));
    let disk = on_disk(&archive(&members));
    let store = disk.open();
    assert_eq!(store.read_document(&Pointer::from(&missing.digest)).unwrap_err().kind, Exit::NotFound);
    let changed = relabeled(&store, &Pointer::from(image.digest()), "arm");
    store.write_document(&changed).unwrap();
    let text = index.replace(image.digest().as_str(), changed.digest().as_str()).replace(
        &format!("\"size\":{}", image.bytes().len()),
        &format!("\"size\":{}", changed.bytes().len()),
    );
    let wanted = Document::new(text.into_bytes(), None).unwrap();
    store.write_tag("app:1", &wanted).unwrap();
    assert_eq!(disk.open().read_document(&tag("app:1")).unwrap(), wanted);
    assert_eq!(declared_platform(&disk.open(), &Pointer::from(changed.digest())), "linux/arm/v7");
    assert_eq!(disk.names().len(), members.len());
    // A blob that was present must not be absent now.
    let other = Descriptor::of(media_type::OCI_MANIFEST, b"nowhere");
    let broken = json!({"schemaVersion":2,"manifests":[other]}).to_string();
    let error = store.write_tag("app:1", &Document::new(broken.into_bytes(), None).unwrap()).unwrap_err();
    assert!(error.to_string().contains("which is absent"), "{error}");
}

#[test]
fn attestations_are_stored_and_not_listed_in_manifest_json() {
    let dir = TempDir::new().unwrap();
    let disk = OnDisk { path: dir.path().join("new.tar"), dir };
    let store = DockerArchive::open_or_create(&disk.path).unwrap();
    let image = add_image(&store, "-", &[b"one"]);
    let statement = Descriptor::of("application/vnd.in-toto+json", b"{}");
    let config = Descriptor::of(media_type::OCI_CONFIG, b"{\"architecture\":\"unknown\"}");
    store.write_blob(&statement, &|| Ok(Box::new(&b"{}"[..]))).unwrap();
    store.write_blob(&config, &|| Ok(Box::new(&b"{\"architecture\":\"unknown\"}"[..]))).unwrap();
    let attestation = json!({"schemaVersion":2,"config":config,"layers":[statement]}).to_string();
    let attestation = Document::new(attestation.into_bytes(), Some(media_type::OCI_MANIFEST)).unwrap();
    store.write_document(&attestation).unwrap();
    let index =
        json!({"schemaVersion":2,"manifests":[attestation.descriptor(), image.descriptor()]}).to_string();
    store.write_tag("app:1", &Document::new(index.into_bytes(), None).unwrap()).unwrap();
    let list: serde_json::Value = serde_json::from_str(&disk.member("manifest.json")).unwrap();
    assert_eq!((list.as_array().unwrap().len(), list[0]["Layers"].as_array().unwrap().len()), (1, 1));
    assert_eq!(disk.open().read_document(&Pointer::from(attestation.digest())).unwrap(), attestation);
}

#[test]
fn untagged_writes_do_not_change_the_archive() {
    let disk = on_disk(&archive(&layout("app:1", "")));
    let before = (disk.bytes(), fs::metadata(&disk.path).unwrap().ino());
    let store = disk.open();
    let document = add_image(&store, "-", &[b"new"]);
    assert_eq!(store.read_document(&Pointer::from(document.digest())).unwrap(), document);
    assert!(store.has_blob(&Descriptor::of("", b"new")).unwrap());
    drop(store);
    assert_eq!((disk.bytes(), fs::metadata(&disk.path).unwrap().ino()), before);
    assert_eq!(fs::read_dir(disk.dir.path()).unwrap().count(), 1);
}

#[test]
fn a_blob_with_the_wrong_digest_is_not_stored() {
    let disk = on_disk(&archive(&layout("app:1", "")));
    let store = disk.open();
    for blob in [Descriptor::of("", b"other"), Descriptor::of("", &[1; 1 << 20])] {
        let error = store.write_blob(&blob, &|| Ok(Box::new(&b"bytes"[..]))).unwrap_err();
        assert_eq!((error.kind, store.has_blob(&blob).unwrap()), (Exit::Integrity, false));
    }
}

#[test]
fn ten_concurrent_writers_lose_no_image() {
    let dir = TempDir::new().unwrap();
    let disk = OnDisk { path: dir.path().join("shared.tar"), dir };
    let write = |i: usize| {
        let name = format!("app:{i}");
        loop {
            let store = DockerArchive::open_or_create(&disk.path).unwrap();
            let document = add_image(&store, "-", &[b"one", name.as_bytes()]);
            match store.write_tag(&name, &document) {
                Ok(()) => return,
                Err(error) => assert_eq!(error.kind, Exit::Conflict, "{error}"),
            }
        }
    };
    std::thread::scope(|scope| {
        for i in 0..10 {
            let write = &write;
            scope.spawn(move || write(i));
        }
    });
    let store = disk.open();
    assert_eq!(store.tags().unwrap().len(), 10);
    (0..10).for_each(|i| assert_complete(&store, &format!("app:{i}")));
    assert_eq!(fs::read_dir(disk.dir.path()).unwrap().count(), 1);
}
