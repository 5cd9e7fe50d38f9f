//! Relabeling of images in archives: changed and unchanged bytes.

use super::*;

#[test]
fn a_relabel_changes_config_and_list_and_nothing_else() {
    let classic = Classic::new(r#"["app:1"]"#);
    let disk = on_disk(&archive(&classic.members));
    let before = disk.names();
    let store = disk.open();
    let document = relabeled(&store, &tag("app:1"), "arm");
    store.write_tag("app:1", &document).unwrap();
    // The same store and a new one return the same.
    for store in [store, disk.open()] {
        assert_eq!(store.read_document(&tag("app:1")).unwrap(), document);
        assert_eq!(declared_platform(&store, &tag("app:1")), "linux/arm/v7");
        assert_complete(&store, "app:1");
    }
    let new_config = classic.config.replace("\"amd64\"", "\"arm\",\"variant\":\"v7\"");
    let rename = |name: &String| name.replace(&hex(&classic.config), &hex(&new_config));
    assert_eq!(disk.names(), before.iter().map(rename).collect::<Vec<_>>());
    assert_eq!(disk.member(&format!("{}.json", hex(&new_config))), new_config);
    assert_eq!(disk.member("manifest.json"), rename(&classic.manifest_json));
    assert_eq!(disk.member(&format!("{TOP}/json")), r#"{"id":"30a8", "architecture":"amd64","os":"linux"}"#);
    assert_eq!(disk.member("repositories"), r#"{"app":{"1":"30a8"}}"#);
    // Layers, directories and links are unchanged, including headers.
    let old = archive(&classic.members);
    let (before, behind) = unchanged_ends(&old, &disk.bytes());
    let layers_end: usize = classic.members[..8].iter().map(Vec::len).sum();
    assert!(before >= layers_end, "{before} of {layers_end}");
    assert!(behind >= 1024 + classic.members[12].len());
    // Changed members keep owner and time.
    assert_eq!(
        disk.bytes().windows(8).filter(|w| w == b"0001750\0").count(),
        old.windows(8).filter(|w| w == b"0001750\0").count()
    );
}

#[test]
fn a_relabel_of_a_layout_changes_index_and_list_and_two_blobs() {
    let disk = on_disk(&archive(&layout("app:1", r#""platform":{"architecture":"amd64", "os":"linux"},"#)));
    let before = disk.names();
    let index = disk.member("index.json");
    let store = disk.open();
    let old = store.read_document(&tag("app:1")).unwrap();
    let document = relabeled(&store, &tag("app:1"), "arm");
    store.write_tag("app:1", &document).unwrap();
    let store = disk.open();
    assert_eq!(store.read_document(&tag("app:1")).unwrap(), document);
    assert_eq!(store.tags().unwrap(), ["app:1"]);
    assert_eq!(declared_platform(&store, &tag("app:1")), "linux/arm/v7");
    assert_complete(&store, "app:1");
    let after = disk.names();
    assert_eq!(after.len(), before.len());
    assert_eq!(before.iter().filter(|name| !after.contains(name)).count(), 2, "config and manifest go");
    let expected = index
        .replace(old.digest().hex(), document.digest().hex())
        .replace(&format!("\"size\":{}", old.bytes().len()), &format!("\"size\":{}", document.bytes().len()))
        .replace(
            r#""architecture":"amd64", "os":"linux""#,
            r#""architecture":"arm", "os":"linux","variant":"v7""#,
        );
    assert_eq!(disk.member("index.json"), expected);
    assert!(disk.member("manifest.json").contains(r#""RepoTags":["app:1"]"#));
    assert!(disk.member("manifest.json").ends_with(r#""LayerSources":{}}]"#));
}

#[test]
fn writing_the_same_image_again_does_not_change_the_file() {
    for bytes in [archive(&Classic::new(r#"["app:1"]"#).members), archive(&layout("app:1", ""))] {
        let disk = on_disk(&bytes);
        let before = fs::metadata(&disk.path).unwrap();
        let store = disk.open();
        let document = store.read_document(&tag("app:1")).unwrap();
        store.write_tag("app:1", &document).unwrap();
        let after = fs::metadata(&disk.path).unwrap();
        assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
    }
}

#[test]
fn other_names_keep_the_old_image() {
    let members = Classic::new(r#"["app:1","app:2"]"#).members;
    let disk = on_disk(&archive(&members));
    let store = disk.open();
    let old = store.read_document(&tag("app:2")).unwrap();
    let document = relabeled(&store, &tag("app:1"), "arm");
    store.write_tag("app:1", &document).unwrap();
    let store = disk.open();
    assert_eq!(store.read_document(&tag("app:2")).unwrap(), old);
    assert_eq!(store.read_document(&tag("app:1")).unwrap(), document);
    assert_eq!(
        (
            declared_platform(&store, &tag("app:1")).as_str(),
            declared_platform(&store, &tag("app:2")).as_str()
        ),
        ("linux/arm/v7", "linux/amd64")
    );
    // After the other name is moved as well, the old config is removed and both names are one image.
    store.write_tag("app:2", &document).unwrap();
    let store = disk.open();
    assert_eq!(store.only_image().unwrap(), tag("app:1"));
    assert_eq!(store.tags().unwrap(), ["app:1", "app:2"]);
    assert_complete(&store, "app:2");
    assert_eq!(disk.names().len(), members.len());
}

#[test]
fn images_without_a_name_are_relabeled() {
    let disk = on_disk(&archive(&Classic::new("null").members));
    let store = disk.open();
    assert_eq!((store.tags().unwrap().len(), store.only_image().unwrap()), (0, tag(UNNAMED)));
    let document = relabeled(&store, &tag(UNNAMED), "arm");
    store.write_tag(UNNAMED, &document).unwrap();
    assert_eq!(declared_platform(&disk.open(), &tag(UNNAMED)), "linux/arm/v7");
    assert_eq!(disk.member("manifest.json").matches("null").count(), 1);
}

#[test]
fn links_to_layers_of_podman_are_kept() {
    let config = config("amd64", &[b"one"]);
    let list = format!(
        r#"[{{"Config":"{}.json","RepoTags":["docker.io/library/app:1"],"Layers":["{}.tar"]}}]"#,
        hex(&config),
        hex("one")
    );
    let disk = on_disk(&archive(&[
        file(&format!("{}.tar", hex("one")), b"one"),
        file(&format!("{}.json", hex(&config)), config.as_bytes()),
        symlink("22a5/layer.tar", &format!("../{}.tar", hex("one"))),
        file("22a5/json", br#"{"architecture":"amd64","id":"22a5"}"#),
        file("manifest.json", list.as_bytes()),
        file("repositories", br#"{"docker.io/library/app":{"1":"22a5"}}"#),
    ]));
    let store = disk.open();
    let document = relabeled(&store, &tag("app:1"), "arm");
    store.write_tag("app:1", &document).unwrap();
    assert_eq!(disk.open().tags().unwrap(), ["docker.io/library/app:1"]);
    assert_eq!(disk.member("22a5/json"), r#"{"architecture":"amd64","id":"22a5"}"#);
    assert_eq!(disk.member("repositories"), r#"{"docker.io/library/app":{"1":"22a5"}}"#);
    assert_complete(&disk.open(), "app:1");
}

#[test]
fn a_config_without_a_digest_in_its_name_keeps_the_name() {
    let config = config("amd64", &[b"one"]);
    let list = r#"[{"Config":"config.json","RepoTags":["app:1"],"Layers":["l.tar"]}]"#;
    let disk = on_disk(&archive(&[
        file("config.json", config.as_bytes()),
        file("l.tar", b"one"),
        file("manifest.json", list.as_bytes()),
    ]));
    let store = disk.open();
    let document = relabeled(&store, &tag("app:1"), "arm");
    store.write_tag("app:1", &document).unwrap();
    assert_eq!(declared_platform(&disk.open(), &tag("app:1")), "linux/arm/v7");
    assert_eq!(disk.member("manifest.json"), list);
}

#[test]
fn extension_headers_of_kept_members_are_kept() {
    let mut members = Classic::new(r#"["app:1"]"#).members;
    members[3] = [pax(b'x', &[("mtime", "1.25"), ("SCHILY.xattr.user.a", "b")]), members[3].clone()].concat();
    members.insert(0, pax(b'g', &[("comment", "kept")]));
    let disk = on_disk(&archive(&members));
    let store = disk.open();
    store.write_tag("app:1", &relabeled(&store, &tag("app:1"), "arm")).unwrap();
    let kept: usize = members[..8].iter().map(Vec::len).sum();
    assert_eq!(disk.bytes()[..kept], archive(&members)[..kept]);
    assert_complete(&disk.open(), "app:1");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
    /// All bytes around the platform in config, list and legacy json are preserved, and so is every other member.
    #[test]
    fn bytes_around_the_platform_are_preserved(
        space in "( |\\n|\\t){0,3}",
        number in "-?[1-9][0-9]{0,30}(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?",
        text in "[ -!#-\\[\\]-~é]{0,9}(\\\\u00[0-9a-f]{2})?",
        layers in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 1..1200), 1..4),
        is_layout in proptest::prelude::any::<bool>(),
    ) {
        // The first byte is not that of a compressed layer.
        let layers: Vec<Vec<u8>> = layers.into_iter().map(|layer| [vec![0], layer].concat()).collect();
        let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let noise = format!("{space}\"n\":{space}{number},\"t\"{space}:\"{text}\"");
        let config = format!(
            "{{{noise},{space}\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{{\"diff_ids\":{}}}}}{space}", json!(diff_ids));
        let config_path = if is_layout { format!("blobs/sha256/{}", hex(&config)) } else { format!("{}.json", hex(&config)) };
        let path = |layer: &[u8], i: usize| match is_layout {
            true => format!("blobs/sha256/{}", Digest::of(layer).hex()),
            false => format!("{i}/layer.tar"),
        };
        let paths: Vec<String> = layers.iter().enumerate().map(|(i, layer)| path(layer, i)).collect();
        let list = format!("{space}[{{{noise},\"Config\":{space}\"{config_path}\",\"RepoTags\":[{space}\"app:1\"],\"Layers\":{}}}]{space}", json!(paths));
        let mut members = vec![file(&config_path, config.as_bytes())];
        let mut seen = std::collections::BTreeSet::new();
        for (path, layer) in paths.iter().zip(&layers) {
            if seen.insert(path) {
                members.push(file(path, layer));
            }
        }
        if is_layout {
            let described: Vec<Descriptor> = layers.iter().map(|layer| Descriptor::of(media_type::OCI_LAYER, layer)).collect();
            let manifest = format!("{{{noise},\"mediaType\":\"{}\",\"config\":{},\"layers\":{}}}", media_type::OCI_MANIFEST,
                json!(Descriptor::of(media_type::OCI_CONFIG, config.as_bytes())), json!(described));
            let mut entry = Descriptor::of(media_type::OCI_MANIFEST, manifest.as_bytes());
            entry.annotations.insert("io.containerd.image.name".into(), "docker.io/library/app:1".into());
            members.push(file(&format!("blobs/sha256/{}", hex(&manifest)), manifest.as_bytes()));
            members.push(file("index.json", format!("{{{noise},\"manifests\":[{space}{}]}}", json!(entry)).as_bytes()));
            members.push(file("oci-layout", b"{}"));
        } else {
            let top = layers.len() - 1;
            members.push(file(&format!("{top}/json"), format!("{{{noise},\"architecture\":\"amd64\"}}").as_bytes()));
        }
        members.push(file("manifest.json", list.as_bytes()));
        let disk = on_disk(&archive(&members));
        let store = disk.open();
        let wanted = relabeled(&store, &tag("app:1"), "arm");
        store.write_tag("app:1", &wanted).unwrap();

        let new_config = config.replace(":\"amd64\"", ":\"arm\",\"variant\":\"v7\"");
        let list = list.replace(&hex(&config), &hex(&new_config));
        proptest::prop_assert_eq!(disk.member("manifest.json"), list);
        proptest::prop_assert_eq!(disk.member(&config_path.replace(&hex(&config), &hex(&new_config))), new_config);
        if !is_layout {
            let json = disk.member(&format!("{}/json", layers.len() - 1));
            proptest::prop_assert_eq!(json, format!("{{{noise},\"architecture\":\"amd64\"}}"));
        }
        assert_complete(&disk.open(), "app:1");
        for member in &members[1..=seen.len()] {
            proptest::prop_assert!(disk.bytes().windows(member.len()).any(|w| w == member.as_slice()));
        }
        let again = disk.bytes();
        disk.open().write_tag("app:1", &wanted).unwrap();
        proptest::prop_assert_eq!(disk.bytes(), again);
    }
}
