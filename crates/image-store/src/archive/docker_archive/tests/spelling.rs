//! Paths with several spellings in one archive: `./a//b` is `a/b`.

use super::*;

/// Returns an archive with one image whose list has these spellings of paths.
fn classic(config_path: &str, layer_path: &str, tags: &str) -> Vec<u8> {
    let config = config("amd64", &[b"one"]);
    let plain = |path: &str| path.replace("./", "").replace("//", "/");
    let list = format!(r#"[{{"Config":"{config_path}","RepoTags":{tags},"Layers":["{layer_path}"]}}]"#);
    archive(&[
        file(&plain(config_path), config.as_bytes()),
        file(&plain(layer_path), b"one"),
        file("manifest.json", list.as_bytes()),
    ])
}

/// Relabels all images and checks that a new store reads them.
fn fixed(input: &[u8]) -> OnDisk {
    let disk = on_disk(input);
    let store = disk.open();
    for name in store.tags().unwrap() {
        let document = relabeled(&store, &tag(&name), "arm");
        store.write_tag(&name, &document).unwrap();
    }
    for name in disk.open().tags().unwrap() {
        assert_eq!(declared_platform(&disk.open(), &tag(&name)), "linux/arm/v7");
        assert_complete(&disk.open(), &name);
    }
    disk
}

#[test]
fn a_config_replaces_the_old_one_with_any_spelling_of_its_path() {
    for path in ["c.json", "./c.json", "a//c.json", "a/./c.json"] {
        let input = classic(path, "l.tar", r#"["app:1"]"#);
        let before = on_disk(&input).names();
        let disk = fixed(&input);
        assert_eq!(disk.names(), before, "{path}");
        assert!(disk.member("manifest.json").contains(&format!(r#""Config":"{path}""#)), "{path}");
    }
    let hex = hex(&config("amd64", &[b"one"]));
    let disk = fixed(&classic(&format!("./{hex}.json"), "./l//layer.tar", r#"["app:1"]"#));
    assert_eq!(disk.names().len(), 3);
}

#[test]
fn a_member_keeps_the_spelling_of_its_header() {
    let config = config("amd64", &[b"one"]);
    let list = r#"[{"Config":"c.json","RepoTags":["app:1"],"Layers":["l.tar"]}]"#;
    let disk = fixed(&archive(&[
        file("./c.json", config.as_bytes()),
        file("./l.tar", b"one"),
        file("./manifest.json", list.as_bytes()),
    ]));
    let bytes = disk.bytes();
    let headers = |name: &[u8]| {
        bytes.windows(name.len() + 1).filter(|w| w[..name.len()] == *name && w[name.len()] == 0).count()
    };
    assert_eq!((headers(b"./c.json"), headers(b"./manifest.json")), (1, 1));
}

#[test]
fn a_config_of_another_image_with_another_spelling_is_kept() {
    let config = config("amd64", &[b"one"]);
    let list = r#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]},{"Config":"./c.json","RepoTags":["b:1"],"Layers":["./l.tar"]}]"#;
    let disk = on_disk(&archive(&[
        file("c.json", config.as_bytes()),
        file("l.tar", b"one"),
        file("manifest.json", list.as_bytes()),
    ]));
    let store = disk.open();
    store.write_tag("a:1", &relabeled(&store, &tag("a:1"), "arm")).unwrap();
    let declared = |name: &str| declared_platform(&disk.open(), &tag(name));
    assert_eq!((declared("a:1").as_str(), declared("b:1").as_str()), ("linux/arm/v7", "linux/amd64"));
    assert_complete(&disk.open(), "b:1");
}

#[test]
fn one_file_must_have_one_digest_under_all_spellings() {
    let (one, two) = (config("amd64", &[b"one"]), config("amd64", &[b"two"]));
    let list = r#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]},{"Config":"d.json","RepoTags":["b:1"],"Layers":["./l.tar"]}]"#;
    let bytes = archive(&[
        file("c.json", one.as_bytes()),
        file("d.json", two.as_bytes()),
        file("l.tar", b"one"),
        file("manifest.json", list.as_bytes()),
    ]);
    refuse(&bytes, Exit::Integrity, "in one image and");
}

#[test]
fn a_list_may_have_other_spellings_of_the_blobs_of_a_layout() {
    let mut members = layout("app:1", "");
    let spelled = [hex("one"), hex("two")].map(|hex| format!("./blobs//sha256/{hex}"));
    let list = String::from_utf8(members[8][512..].to_vec()).unwrap();
    let list = list.trim_end_matches('\0').replace("\"blobs/sha256/", "\"./blobs//sha256/");
    members[8] = file("manifest.json", list.as_bytes());
    let disk = fixed(&archive(&members));
    for path in spelled {
        assert!(disk.member("manifest.json").contains(&path), "{path}");
    }
}

/// Two images share a layer; one of them is changed to another layer.
#[test]
fn a_layer_with_another_spelling_in_the_list_is_not_removed() {
    let mut members = layout("app:1", "");
    let list = String::from_utf8(members[8][512..].to_vec()).unwrap();
    let list = list.trim_end_matches('\0').replace("\"blobs/sha256/", "\"./blobs/sha256/");
    let second = list.trim_start_matches('[').replace("app:1", "app:2");
    let list = format!("{},{second}", list.trim_end_matches(']'));
    members[8] = file("manifest.json", list.as_bytes());
    let disk = on_disk(&archive(&members));
    let store = disk.open();
    let old = store.read_document(&tag("app:2")).unwrap();
    add_image(&store, "app:3", &[b"three"]);
    assert_eq!(disk.open().read_document(&tag("app:2")).unwrap(), old);
    assert_complete(&disk.open(), "app:1");
}

/// A member with the content of the new layer is used, although no list has it.
#[test]
fn a_present_layer_is_used() {
    let config = config("amd64", &[b"one"]);
    let list = r#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]}]"#;
    let disk = on_disk(&archive(&[
        file("c.json", config.as_bytes()),
        file("l.tar", b"one"),
        file(&format!("./{}/layer.tar", hex("two")), b"two"),
        file("manifest.json", list.as_bytes()),
    ]));
    add_image(&disk.open(), "b:1", &[b"two"]);
    assert_complete(&disk.open(), "b:1");
    assert_eq!(disk.names().iter().filter(|name| name.ends_with("/layer.tar")).count(), 1);
}
