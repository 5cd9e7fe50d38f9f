//! Reading of archives, and archives that are refused.

use super::*;

#[test]
fn a_classic_archive_is_read_without_extraction() {
    let classic = Classic::new(r#"["app:1","app:2"]"#);
    let disk = on_disk(&archive(&classic.members));
    let store = disk.open();
    assert_eq!(store.tags().unwrap(), ["app:1", "app:2"]);
    assert_complete(&store, "app:1");
    let document = store.read_document(&tag("docker.io/library/app:2")).unwrap();
    assert_eq!(document.media_type(), media_type::DOCKER_MANIFEST);
    let ParsedDocument::Manifest(manifest) = document.parse().unwrap() else { panic!() };
    assert_eq!(manifest.config, Descriptor::of(media_type::DOCKER_CONFIG, classic.config.as_bytes()));
    let layers: Vec<Descriptor> =
        [b"one", b"one", b"two"].iter().map(|l| Descriptor::of(media_type::DOCKER_LAYER, *l)).collect();
    assert_eq!(manifest.layers, layers);
    // The derived manifest is deterministic, and found by its digest and by the image ID.
    assert_eq!(disk.open().read_document(&tag("app:1")).unwrap(), document);
    assert_eq!(store.read_document(&Pointer::from(document.digest())).unwrap(), document);
    assert_eq!(store.read_document(&Pointer::from(&manifest.config.digest)).unwrap(), document);
    assert_eq!(store.only_image().unwrap(), tag("app:1"));
    assert_eq!(store.resolve(&tag("other:1")).unwrap(), None);
    assert_eq!(store.read_document(&tag("other:1")).unwrap_err().kind, Exit::NotFound);
    assert_eq!(store.display_name(), format!("docker-archive:{}", disk.path.display()));
}

#[test]
fn an_image_is_selected_by_its_name() {
    let disk = on_disk(&archive(&Classic::new(r#"["app:1"]"#).members));
    let named = DockerArchive::open(&disk.path, Some("app:1")).unwrap();
    assert_eq!(named.only_image().unwrap(), tag("app:1"));
    let error = DockerArchive::open(&disk.path, Some("app:2")).map(drop).unwrap_err();
    assert_eq!(error.kind, Exit::NotFound);
    assert!(error.to_string().contains("it has: app:1"), "{error}");
}

#[test]
fn an_archive_with_a_layout_has_its_own_manifests() {
    let disk = on_disk(&archive(&layout("app:1", "")));
    let store = disk.open();
    assert_eq!(store.tags().unwrap(), ["app:1"]);
    let document = store.read_document(&tag("app:1")).unwrap();
    assert_eq!(document.media_type(), media_type::OCI_MANIFEST);
    assert_eq!(store.read_document(&tag("docker.io/library/app:1")).unwrap(), document);
    assert_complete(&store, "app:1");
}

#[test]
fn the_digest_of_a_layer_is_verified_while_it_is_read() {
    let mut members = Classic::new(r#"["app:1"]"#).members;
    members[9] = file(&format!("{TOP}/layer.tar"), b"TWO");
    let disk = on_disk(&archive(&members));
    let problems = check(&disk.open(), &tag("app:1"), CheckDepth::Layers);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].to_string().contains("content has digest"), "{problems:?}");
}

#[test]
fn compressed_layers_are_detected_by_their_first_bytes() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"one").unwrap();
    let gzip = gzip.finish().unwrap();
    let config = config("amd64", &[b"one"]);
    // The format of crane.
    let list =
        format!(r#"[{{"Config":"sha256:{}","RepoTags":["app:1"],"Layers":["a.tar.gz"]}}]"#, hex(&config));
    let members = |layer: &[u8]| {
        archive(&[
            file(&format!("sha256:{}", hex(&config)), config.as_bytes()),
            file("a.tar.gz", layer),
            file("manifest.json", list.as_bytes()),
        ])
    };
    let disk = on_disk(&members(&gzip));
    let ParsedDocument::Manifest(manifest) =
        disk.open().read_document(&tag("app:1")).unwrap().parse().unwrap()
    else {
        panic!()
    };
    assert_eq!(manifest.layers, [Descriptor::of(media_type::DOCKER_LAYER_GZIP, &gzip)]);
    assert_complete(&disk.open(), "app:1");
    refuse(&members(b"BZh91AY"), Exit::BadInput, "compressed with bzip2");
}

#[test]
fn links_between_layers_must_stay_in_the_archive() {
    let with_link = |link: Vec<u8>| {
        let mut members = Classic::new(r#"["app:1"]"#).members;
        members[6] = link;
        archive(&members)
    };
    assert_complete(&on_disk(&with_link(hard_link("563a/layer.tar", "1910/layer.tar"))).open(), "app:1");
    refuse(&with_link(symlink("563a/layer.tar", "layer.tar")), Exit::BadInput, "a circular link");
    refuse(
        &with_link(symlink("563a/layer.tar", "../../../etc/passwd")),
        Exit::BadInput,
        "leaves the archive",
    );
    refuse(&with_link(symlink("563a/layer.tar", "/etc/passwd")), Exit::BadInput, "leaves the archive");
    refuse(&with_link(symlink("563a/layer.tar", "../nothing")), Exit::BadInput, "not in the archive");
}

#[test]
fn ambiguous_lists_are_refused() {
    let with = |list: &str| {
        let mut members = Classic::new(r#"["app:1"]"#).members;
        members[11] = file("manifest.json", list.as_bytes());
        archive(&members)
    };
    let classic = Classic::new(r#"["app:1"]"#);
    let list = &classic.manifest_json;
    let name = format!("{}.json", hex(&classic.config));
    assert!(DockerArchive::open(&on_disk(&with(list)).path, None).is_ok());
    let bad = |list: &str, why: &str| refuse(&with(list), Exit::BadInput, why);
    bad("[]", "lists no image");
    bad("null", "not a list");
    bad(&format!("\u{feff}{list}"), "not JSON");
    bad(&format!("{list}{list}"), "not JSON");
    bad(&list.replace(&name, "../../etc/passwd"), "leaves the archive");
    bad(&list.replace(&name, "/etc/passwd"), "absolute");
    bad(&list.replace(&name, "nothing.json"), "not in the archive");
    bad(&list.replace("563a/layer.tar", "../layer.tar"), "leaves the archive");
    bad(&list.replace(",\"563a/layer.tar\"", ""), "lists 2 layers");
    bad(
        &list.replace("\"563a/layer.tar\"", "\"563a/layer.tar\",\"563a/layer.tar\""),
        "the config has 3 diff_ids",
    );
    let twice = list.trim_end().trim_start_matches('[').trim_end_matches(']').to_string();
    bad(&format!("[{twice},{}]", twice.replace("\"Layers\"", "\"layers\"")), "differs from");
    bad(&"[".repeat(200_000), "not JSON");
    let mut members = classic.members.clone();
    members.remove(11);
    refuse(&archive(&members), Exit::BadInput, "no manifest.json");
    let huge = format!("[{}]", " ".repeat(4 << 20));
    bad(&huge, "the limit is");
}

#[test]
fn configs_must_match_their_names_and_be_valid() {
    let with = |text: &str| {
        let classic = Classic::new(r#"["app:1"]"#);
        let mut members = classic.members;
        members[10] = file("config.json", text.as_bytes());
        let list = classic.manifest_json.replace(&format!("{}.json", hex(&classic.config)), "config.json");
        members[11] = file("manifest.json", list.as_bytes());
        archive(&members)
    };
    let text = Classic::new("[]").config;
    assert!(DockerArchive::open(&on_disk(&with(&text)).path, None).is_ok());
    refuse(&with(&text.replace("\"os\"", "\"OS\"")), Exit::BadInput, "differs from");
    refuse(&with(&text.replace("\"os\":", "\"os\":\"x\",\"os\":")), Exit::BadInput, "more than once");
    refuse(&with(&text.replace("\"rootfs\"", "\"no\"")), Exit::BadInput, "the config has 0 diff_ids");
    refuse(
        &with(&text.replace(&hex("two"), &hex("three")).replace("sha256:", "sha1:")),
        Exit::BadInput,
        "digest",
    );
    let mut members = Classic::new(r#"["app:1"]"#).members;
    let other = text.replace("amd64", "arm64");
    members[10] = file(&format!("{}.json", hex(&text)), other.as_bytes());
    refuse(&archive(&members), Exit::Integrity, "its content is");
}

#[test]
fn index_and_list_must_agree() {
    let edited = |member: usize, from: &str, to: &str| {
        let mut members = layout("app:1", "");
        let name = ["index.json", "manifest.json"][member - 7];
        let disk = on_disk(&archive(&members));
        members[member] = file(name, disk.member(name).replace(from, to).as_bytes());
        archive(&members)
    };
    let config = config("amd64", &[b"one", b"two"]);
    let (one, two) = (hex("one"), hex("two"));
    assert!(DockerArchive::open(&on_disk(&edited(8, "x", "x")).path, None).is_ok());
    let swapped = format!("\"blobs/sha256/{two}\",\"blobs/sha256/{one}\"");
    let order = format!("\"blobs/sha256/{one}\",\"blobs/sha256/{two}\"");
    refuse(&edited(8, &order, &swapped), Exit::BadInput, "have different layers");
    refuse(&edited(8, &hex(&config), &one), Exit::BadInput, "not JSON");
    let digest = on_disk(&archive(&layout("app:1", ""))).open().read_document(&tag("app:1")).unwrap();
    refuse(&edited(7, digest.digest().hex(), &hex("nothing")), Exit::BadInput, "not in the archive");
    refuse(&edited(7, "\"size\":", "\"size\":1"), Exit::Integrity, "its descriptor declares");
    refuse(
        &edited(7, media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST),
        Exit::Integrity,
        "its descriptor or header says",
    );
}

#[test]
fn a_layer_that_differs_from_the_config_is_refused() {
    let (right, wrong) = (config("amd64", &[b"one", b"two"]), config("amd64", &[b"one", b"six"]));
    let image = on_disk(&archive(&layout("app:1", ""))).open().read_document(&tag("app:1")).unwrap();
    let text = String::from_utf8(image.bytes().to_vec()).unwrap().replace(&hex(&right), &hex(&wrong));
    let mut members = layout("app:1", "");
    let disk = on_disk(&archive(&members));
    let index = disk.member("index.json").replace(image.digest().hex(), &hex(&text));
    members[2] = file(&format!("blobs/sha256/{}", hex(&wrong)), wrong.as_bytes());
    members[6] = file(&format!("blobs/sha256/{}", hex(&text)), text.as_bytes());
    members[7] = file("index.json", index.as_bytes());
    members[8] =
        file("manifest.json", disk.member("manifest.json").replace(&hex(&right), &hex(&wrong)).as_bytes());
    refuse(&archive(&members), Exit::Integrity, "should be");
}

#[test]
fn a_truncated_archive_is_refused_or_complete() {
    for members in [Classic::new(r#"["app:1"]"#).members, layout("app:1", "")] {
        let bytes = archive(&members);
        for cut in (0..bytes.len()).step_by(512).chain((511..bytes.len()).step_by(512)) {
            let disk = on_disk(&bytes[..cut]);
            if let Ok(store) = DockerArchive::open(&disk.path, None) {
                assert_complete(&store, "app:1");
                assert!(cut + 1024 + members.last().unwrap().len() >= bytes.len(), "cut at {cut}");
            }
        }
    }
}

#[test]
fn other_file_formats_are_identified_in_the_error() {
    refuse(b"", Exit::BadInput, "empty");
    refuse(b"\x1f\x8b\x08\0\0\0", Exit::BadInput, "compressed with gzip");
    refuse(b"text", Exit::BadInput, "cut off");
    refuse(&archive(&[file("x", b"")]), Exit::BadInput, "no manifest.json");
    let one = archive(&Classic::new(r#"["app:1"]"#).members);
    refuse(&[one.clone(), one].concat(), Exit::BadInput, "after the end marker");
    let dir = TempDir::new().unwrap();
    let kind = |path: &Path| DockerArchive::open(path, None).map(drop).unwrap_err().kind;
    assert_eq!(kind(dir.path()), Exit::BadInput);
    assert_eq!(kind(&dir.path().join("nothing")), Exit::NotFound);
    nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(kind(&dir.path().join("pipe")), Exit::BadInput);
    assert_eq!(kind(Path::new("/dev/null")), Exit::BadInput);
}

#[test]
fn concurrent_readers_read_one_archive() {
    let store = on_disk(&archive(&Classic::new(r#"["app:1"]"#).members)).open();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20).for_each(|_| assert_complete(&store, "app:1")));
        }
    });
}

#[test]
fn a_reader_continues_while_the_archive_is_rewritten() {
    let disk = on_disk(&archive(&Classic::new(r#"["app:1"]"#).members));
    let (reader, writer) = (disk.open(), disk.open());
    let before = reader.read_document(&tag("app:1")).unwrap();
    writer.write_tag("app:1", &relabeled(&writer, &tag("app:1"), "arm")).unwrap();
    assert_eq!(reader.read_document(&tag("app:1")).unwrap(), before);
    assert_complete(&reader, "app:1");
}
