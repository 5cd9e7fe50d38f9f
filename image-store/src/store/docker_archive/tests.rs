use super::*;
use crate::check::{Depth, check};
use crate::exit::Exit;
use crate::manifest::{Config, media_type};
use crate::store::read_blob;
use crate::tar_file::sample::{archive, file, folder, hard_link, pax, symlink};
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use tempfile::TempDir;

// What `docker save` of Docker 20.10 writes, with made-up ids.
const TOP: &str = "30a8";
const BOTTOM: &str = "1910";

fn config(architecture: &str, layers: &[&[u8]]) -> String {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    // Spaces, a big number and an escape, which no rewriting JSON library would keep.
    format!(
        r#"{{"created":"\u003c", "architecture":"{architecture}","big":12345678901234567890123,"os":"linux","StopTimeout":1.50,"rootfs":{{"type":"layers","diff_ids":{}}}}}"#,
        json!(diff_ids)
    )
}

fn hex(text: &str) -> String {
    Digest::of(text.as_bytes()).hex().to_string()
}

/// Layers `one`, `one` again as a link, and `two`; the config is named by its digest.
struct Classic {
    config: String,
    manifest_json: String,
    members: Vec<Vec<u8>>,
}

impl Classic {
    fn new(tags: &str) -> Self {
        let config = config("amd64", &[b"one", b"one", b"two"]);
        let manifest_json = format!(
            r#"[{{"Config":"{}.json","RepoTags":{tags},"Layers":["{BOTTOM}/layer.tar","563a/layer.tar","{TOP}/layer.tar"]}}]"#,
            hex(&config)
        ) + "\n";
        let members = vec![
            folder(&format!("{BOTTOM}/")),
            file(&format!("{BOTTOM}/VERSION"), b"1.0"),
            file(&format!("{BOTTOM}/json"), br#"{"id":"1910","os":"linux"}"#),
            file(&format!("{BOTTOM}/layer.tar"), b"one"),
            folder("563a/"),
            file("563a/json", br#"{"id":"563a","parent":"1910","os":"linux"}"#),
            symlink("563a/layer.tar", &format!("../{BOTTOM}/layer.tar")),
            folder(&format!("{TOP}/")),
            file(&format!("{TOP}/json"), br#"{"id":"30a8", "architecture":"amd64","os":"linux"}"#),
            file(&format!("{TOP}/layer.tar"), b"two"),
            file(&format!("{}.json", hex(&config)), config.as_bytes()),
            file("manifest.json", manifest_json.as_bytes()),
            file("repositories", br#"{"app":{"1":"30a8"}}"#),
        ];
        Self { config, manifest_json, members }
    }
}

/// The form of Docker 25 and later. `more` goes into the index entry.
fn layout(tag: &str, more: &str) -> Vec<Vec<u8>> {
    let config = config("amd64", &[b"one", b"two"]);
    let layer = |bytes: &[u8]| Descriptor::of(media_type::OCI_LAYER, bytes);
    let manifest = json!({"schemaVersion":2,"mediaType":media_type::OCI_MANIFEST,
        "config":Descriptor::of(media_type::OCI_CONFIG, config.as_bytes()),"layers":[layer(b"one"), layer(b"two")]})
    .to_string();
    let blob = |bytes: &[u8]| file(&format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes);
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[ {{"mediaType":"{}","digest":"sha256:{}","size":{},{more}"annotations":{{"io.containerd.image.name":"docker.io/library/{tag}","org.opencontainers.image.ref.name":"1","x":"\u003c"}}}} ]}}"#,
        media_type::OCI_INDEX,
        media_type::OCI_MANIFEST,
        hex(&manifest),
        manifest.len()
    );
    let list = format!(
        r#"[{{"Config":"blobs/sha256/{}","RepoTags":["{tag}"],"Layers":["blobs/sha256/{}","blobs/sha256/{}"],"LayerSources":{{}}}}]"#,
        hex(&config),
        hex("one"),
        hex("two")
    );
    vec![
        folder("blobs/"),
        folder("blobs/sha256/"),
        blob(config.as_bytes()),
        blob(b"one"),
        blob(b"two"),
        blob(br#"{"id":"an old json that no index names"}"#),
        blob(manifest.as_bytes()),
        file("index.json", index.as_bytes()),
        file("manifest.json", list.as_bytes()),
        file("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#),
    ]
}

struct OnDisk {
    dir: TempDir,
    path: PathBuf,
}

fn on_disk(bytes: &[u8]) -> OnDisk {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("app.tar");
    fs::write(&path, bytes).unwrap();
    OnDisk { dir, path }
}

impl OnDisk {
    fn open(&self) -> DockerArchive {
        DockerArchive::open(&self.path, None).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    /// Names of the archive's members, in order.
    fn names(&self) -> Vec<String> {
        let tar = crate::tar_file::TarFile::read(Arc::new(File::open(&self.path).unwrap())).unwrap();
        tar.members().iter().map(|m| crate::tar_file::show(tar.name(m))).collect()
    }

    fn member(&self, name: &str) -> String {
        let tar = crate::tar_file::TarFile::read(Arc::new(File::open(&self.path).unwrap())).unwrap();
        let member = &tar.members()[tar.find(name.as_bytes()).unwrap()];
        String::from_utf8(tar.read_small(member, 1 << 20).unwrap()).unwrap()
    }
}

fn refuse(bytes: &[u8], kind: Exit, why: &str) {
    let disk = on_disk(bytes);
    match DockerArchive::open(&disk.path, None) {
        Err(error) => {
            assert!(error.kind == kind && error.to_string().contains(why), "{:?} {error}", error.kind)
        }
        Ok(_) => panic!("it was read, though \"{why}\""),
    }
}

fn tag(text: &str) -> Pointer {
    Pointer::Tag(text.into())
}

/// Gives an image another label as a plan would: config and manifest change in the bytes that must.
fn relabelled(store: &DockerArchive, at: &Pointer, architecture: &str) -> Document {
    let document = store.read_document(at).unwrap();
    let Content::Manifest(manifest) = document.parse().unwrap() else { panic!("an index") };
    let old = read_blob(store, &manifest.config, 1 << 20).unwrap();
    let label = Config::parse(&old).unwrap().platform.architecture;
    let old = String::from_utf8(old).unwrap();
    let variant = if architecture == "arm" { ",\"variant\":\"v7\"" } else { "" };
    let new = old.replacen(&format!(":\"{label}\""), &format!(":\"{architecture}\"{variant}"), 1);
    let config = Descriptor::of(&manifest.config.media_type, new.as_bytes());
    store.write_blob(&config, &|| Ok(Box::new(new.as_bytes()))).unwrap();
    let text = String::from_utf8(document.bytes().to_vec()).unwrap();
    let text = text
        .replace(manifest.config.digest.as_str(), config.digest.as_str())
        .replace(&format!("\"size\":{}", manifest.config.size), &format!("\"size\":{}", config.size));
    Document::new(text.into_bytes(), None).unwrap()
}

fn label(store: &DockerArchive, at: &Pointer) -> String {
    let Content::Manifest(manifest) = store.read_document(at).unwrap().parse().unwrap() else {
        panic!("an index")
    };
    Config::parse(&read_blob(store, &manifest.config, 1 << 20).unwrap()).unwrap().platform.to_string()
}

fn whole(store: &DockerArchive, at: &str) {
    assert_eq!(check(store, &tag(at), Depth::Layers), []);
}

/// Where two files differ: bytes before, and bytes behind, that are the same.
fn unchanged_ends(old: &[u8], new: &[u8]) -> (usize, usize) {
    let before = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let behind = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    (before, behind)
}

#[test]
fn an_archive_of_the_old_form_is_read_without_extracting() {
    let classic = Classic::new(r#"["app:1","app:2"]"#);
    let disk = on_disk(&archive(&classic.members));
    let store = disk.open();
    assert_eq!(store.tags().unwrap(), ["app:1", "app:2"]);
    whole(&store, "app:1");
    let document = store.read_document(&tag("docker.io/library/app:2")).unwrap();
    assert_eq!(document.media_type(), media_type::DOCKER_MANIFEST);
    let Content::Manifest(manifest) = document.parse().unwrap() else { panic!() };
    assert_eq!(manifest.config, Descriptor::of(media_type::DOCKER_CONFIG, classic.config.as_bytes()));
    let layers: Vec<Descriptor> =
        [b"one", b"one", b"two"].iter().map(|l| Descriptor::of(media_type::DOCKER_LAYER, *l)).collect();
    assert_eq!(manifest.layers, layers);
    // The same image gives the same manifest, found by its digest and by the image's id too.
    assert_eq!(disk.open().read_document(&tag("app:1")).unwrap(), document);
    assert_eq!(store.read_document(&Pointer::from(document.digest())).unwrap(), document);
    assert_eq!(store.read_document(&Pointer::from(&manifest.config.digest)).unwrap(), document);
    assert_eq!(store.only_image().unwrap(), tag("app:1"));
    assert_eq!(store.resolve(&tag("other:1")).unwrap(), None);
    assert_eq!(store.read_document(&tag("other:1")).unwrap_err().kind, Exit::NotFound);
    assert_eq!(store.place(), format!("docker-archive:{}", disk.path.display()));
}

#[test]
fn an_image_is_chosen_by_its_name() {
    let disk = on_disk(&archive(&Classic::new(r#"["app:1"]"#).members));
    let named = DockerArchive::open(&disk.path, Some("app:1")).unwrap();
    assert_eq!(named.only_image().unwrap(), tag("app:1"));
    let error = DockerArchive::open(&disk.path, Some("app:2")).map(drop).unwrap_err();
    assert_eq!(error.kind, Exit::NotFound);
    assert!(error.to_string().contains("it has: app:1"), "{error}");
}

#[test]
fn an_archive_of_the_new_form_keeps_its_own_manifests() {
    let disk = on_disk(&archive(&layout("app:1", "")));
    let store = disk.open();
    assert_eq!(store.tags().unwrap(), ["app:1"]);
    let document = store.read_document(&tag("app:1")).unwrap();
    assert_eq!(document.media_type(), media_type::OCI_MANIFEST);
    assert_eq!(store.read_document(&tag("docker.io/library/app:1")).unwrap(), document);
    whole(&store, "app:1");
}

#[test]
fn a_layer_is_held_against_its_digest_while_it_is_read() {
    let mut members = Classic::new(r#"["app:1"]"#).members;
    members[9] = file(&format!("{TOP}/layer.tar"), b"TWO");
    let disk = on_disk(&archive(&members));
    let problems = check(&disk.open(), &tag("app:1"), Depth::Layers);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].to_string().contains("content has digest"), "{problems:?}");
}

#[test]
fn compressed_layers_are_told_by_their_first_bytes() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"one").unwrap();
    let gzip = gzip.finish().unwrap();
    let config = config("amd64", &[b"one"]);
    // As crane writes it.
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
    let Content::Manifest(manifest) = disk.open().read_document(&tag("app:1")).unwrap().parse().unwrap()
    else {
        panic!()
    };
    assert_eq!(manifest.layers, [Descriptor::of(media_type::DOCKER_LAYER_GZIP, &gzip)]);
    whole(&disk.open(), "app:1");
    refuse(&members(b"BZh91AY"), Exit::BadInput, "compressed with bzip2");
}

#[test]
fn a_new_label_changes_config_list_and_old_json_and_nothing_else() {
    let classic = Classic::new(r#"["app:1"]"#);
    let disk = on_disk(&archive(&classic.members));
    let before = disk.names();
    let store = disk.open();
    let document = relabelled(&store, &tag("app:1"), "arm");
    store.write_tag("app:1", &document).unwrap();
    // The store that wrote and one that is opened anew agree.
    for store in [store, disk.open()] {
        assert_eq!(store.read_document(&tag("app:1")).unwrap(), document);
        assert_eq!(label(&store, &tag("app:1")), "linux/arm/v7");
        whole(&store, "app:1");
    }
    let new_config = classic.config.replace("\"amd64\"", "\"arm\",\"variant\":\"v7\"");
    let rename = |name: &String| name.replace(&hex(&classic.config), &hex(&new_config));
    assert_eq!(disk.names(), before.iter().map(rename).collect::<Vec<_>>());
    assert_eq!(disk.member(&format!("{}.json", hex(&new_config))), new_config);
    assert_eq!(disk.member("manifest.json"), rename(&classic.manifest_json));
    assert_eq!(
        disk.member(&format!("{TOP}/json")),
        r#"{"id":"30a8", "architecture":"arm","variant":"v7","os":"linux"}"#
    );
    assert_eq!(disk.member("repositories"), r#"{"app":{"1":"30a8"}}"#);
    // Layers, folders and links: every byte as it was, headers included.
    let old = archive(&classic.members);
    let (before, behind) = unchanged_ends(&old, &disk.bytes());
    let layers_end: usize = classic.members[..8].iter().map(Vec::len).sum();
    assert!(before >= layers_end, "{before} of {layers_end}");
    assert!(behind >= 1024 + classic.members[12].len());
    // Owner and time of the members that changed stay.
    assert_eq!(
        disk.bytes().windows(8).filter(|w| w == b"0001750\0").count(),
        old.windows(8).filter(|w| w == b"0001750\0").count()
    );
}

#[test]
fn a_new_label_in_the_new_form_changes_index_and_list_and_two_blobs() {
    let disk = on_disk(&archive(&layout("app:1", r#""platform":{"architecture":"amd64", "os":"linux"},"#)));
    let before = disk.names();
    let index = disk.member("index.json");
    let store = disk.open();
    let old = store.read_document(&tag("app:1")).unwrap();
    let document = relabelled(&store, &tag("app:1"), "arm");
    store.write_tag("app:1", &document).unwrap();
    let store = disk.open();
    assert_eq!(store.read_document(&tag("app:1")).unwrap(), document);
    assert_eq!(store.tags().unwrap(), ["app:1"]);
    assert_eq!(label(&store, &tag("app:1")), "linux/arm/v7");
    whole(&store, "app:1");
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
fn the_same_again_writes_nothing() {
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
fn another_name_of_the_image_keeps_the_old_one() {
    let members = Classic::new(r#"["app:1","app:2"]"#).members;
    let disk = on_disk(&archive(&members));
    let store = disk.open();
    let old = store.read_document(&tag("app:2")).unwrap();
    let document = relabelled(&store, &tag("app:1"), "arm");
    store.write_tag("app:1", &document).unwrap();
    let store = disk.open();
    assert_eq!(store.read_document(&tag("app:2")).unwrap(), old);
    assert_eq!(store.read_document(&tag("app:1")).unwrap(), document);
    assert_eq!(
        (label(&store, &tag("app:1")).as_str(), label(&store, &tag("app:2")).as_str()),
        ("linux/arm/v7", "linux/amd64")
    );
    assert!(disk.member(&format!("{TOP}/json")).contains("amd64"), "it still stands for app:2");
    // Then the other name follows: the old config is gone, and both names are one image again.
    store.write_tag("app:2", &document).unwrap();
    let store = disk.open();
    assert_eq!(store.only_image().unwrap(), tag("app:1"));
    assert_eq!(store.tags().unwrap(), ["app:1", "app:2"]);
    whole(&store, "app:2");
    assert_eq!(disk.names().len(), members.len());
}

#[test]
fn images_without_a_name_can_be_relabelled() {
    let disk = on_disk(&archive(&Classic::new("null").members));
    let store = disk.open();
    assert_eq!((store.tags().unwrap().len(), store.only_image().unwrap()), (0, tag(UNNAMED)));
    let document = relabelled(&store, &tag(UNNAMED), "arm");
    store.write_tag(UNNAMED, &document).unwrap();
    assert_eq!(label(&disk.open(), &tag(UNNAMED)), "linux/arm/v7");
    assert_eq!(disk.member("manifest.json").matches("null").count(), 1);
}

#[test]
fn podmans_links_to_layers_are_followed_to_their_json() {
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
    let document = relabelled(&store, &tag("app:1"), "arm");
    store.write_tag("app:1", &document).unwrap();
    assert_eq!(disk.open().tags().unwrap(), ["docker.io/library/app:1"]);
    assert_eq!(disk.member("22a5/json"), r#"{"architecture":"arm","variant":"v7","id":"22a5"}"#);
    assert_eq!(disk.member("repositories"), r#"{"docker.io/library/app":{"1":"22a5"}}"#);
    whole(&disk.open(), "app:1");
}

#[test]
fn links_between_layers_must_stay_in_the_archive() {
    let with_link = |link: Vec<u8>| {
        let mut members = Classic::new(r#"["app:1"]"#).members;
        members[6] = link;
        archive(&members)
    };
    whole(&on_disk(&with_link(hard_link("563a/layer.tar", "1910/layer.tar"))).open(), "app:1");
    refuse(&with_link(symlink("563a/layer.tar", "layer.tar")), Exit::BadInput, "in a circle");
    refuse(
        &with_link(symlink("563a/layer.tar", "../../../etc/passwd")),
        Exit::BadInput,
        "leaves the archive",
    );
    refuse(&with_link(symlink("563a/layer.tar", "/etc/passwd")), Exit::BadInput, "leaves the archive");
    refuse(&with_link(symlink("563a/layer.tar", "../nothing")), Exit::BadInput, "not in the archive");
}

#[test]
fn lists_that_readers_read_differently_are_refused() {
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
    bad("[]", "names no image");
    bad("null", "no list");
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
    bad(&huge, "at most");
}

#[test]
fn configs_are_held_against_their_name_and_read_strictly() {
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
fn a_config_whose_name_says_no_digest_keeps_its_name() {
    let config = config("amd64", &[b"one"]);
    let list = r#"[{"Config":"config.json","RepoTags":["app:1"],"Layers":["l.tar"]}]"#;
    let disk = on_disk(&archive(&[
        file("config.json", config.as_bytes()),
        file("l.tar", b"one"),
        file("manifest.json", list.as_bytes()),
    ]));
    let store = disk.open();
    let document = relabelled(&store, &tag("app:1"), "arm");
    store.write_tag("app:1", &document).unwrap();
    assert_eq!(label(&disk.open(), &tag("app:1")), "linux/arm/v7");
    assert_eq!(disk.member("manifest.json"), list);
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
    refuse(&edited(8, &order, &swapped), Exit::BadInput, "do not agree which layers");
    refuse(&edited(8, &hex(&config), &one), Exit::BadInput, "not JSON");
    let digest = on_disk(&archive(&layout("app:1", ""))).open().read_document(&tag("app:1")).unwrap();
    refuse(&edited(7, digest.digest().hex(), &hex("nothing")), Exit::BadInput, "not in the archive");
    refuse(&edited(7, "\"size\":", "\"size\":1"), Exit::Integrity, "its descriptor says");
    refuse(
        &edited(7, media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST),
        Exit::Integrity,
        "announced as",
    );
}

#[test]
fn a_layer_that_is_not_the_configs_is_refused() {
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
fn a_cut_archive_is_refused_or_is_whole() {
    for members in [Classic::new(r#"["app:1"]"#).members, layout("app:1", "")] {
        let bytes = archive(&members);
        for cut in (0..bytes.len()).step_by(512).chain((511..bytes.len()).step_by(512)) {
            let disk = on_disk(&bytes[..cut]);
            if let Ok(store) = DockerArchive::open(&disk.path, None) {
                whole(&store, "app:1");
                assert!(cut + 1024 + members.last().unwrap().len() >= bytes.len(), "cut at {cut}");
            }
        }
    }
}

#[test]
fn archives_that_are_something_else_are_named_as_what_they_are() {
    refuse(b"", Exit::BadInput, "empty");
    refuse(b"\x1f\x8b\x08\0\0\0", Exit::BadInput, "compressed with gzip");
    refuse(b"text", Exit::BadInput, "cut off");
    refuse(&archive(&[file("x", b"")]), Exit::BadInput, "no manifest.json");
    let one = archive(&Classic::new(r#"["app:1"]"#).members);
    refuse(&[one.clone(), one].concat(), Exit::BadInput, "behind the end marker");
    let dir = TempDir::new().unwrap();
    let kind = |path: &Path| DockerArchive::open(path, None).map(drop).unwrap_err().kind;
    assert_eq!(kind(dir.path()), Exit::BadInput);
    assert_eq!(kind(&dir.path().join("nothing")), Exit::NotFound);
    nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(kind(&dir.path().join("pipe")), Exit::BadInput);
    assert_eq!(kind(Path::new("/dev/null")), Exit::BadInput);
}

#[test]
fn a_file_that_changed_meanwhile_is_left_alone() {
    let disk = on_disk(&archive(&Classic::new(r#"["app:1"]"#).members));
    let (first, second) = (disk.open(), disk.open());
    first.write_tag("app:1", &relabelled(&first, &tag("app:1"), "arm")).unwrap();
    let bytes = disk.bytes();
    let error = second.write_tag("app:1", &relabelled(&second, &tag("app:1"), "386")).unwrap_err();
    assert_eq!((error.kind, disk.bytes() == bytes), (Exit::Conflict, true), "{error}");
    assert_eq!(fs::read_dir(disk.dir.path()).unwrap().count(), 1, "nothing is left behind");
    fs::remove_file(&disk.path).unwrap();
    let error = first.write_tag("app:1", &relabelled(&first, &tag("app:1"), "386")).unwrap_err();
    assert_eq!((error.kind, disk.path.exists()), (Exit::Conflict, false));
}

#[test]
fn mode_stays_links_are_written_through_and_leftovers_go() {
    let disk = on_disk(&archive(&Classic::new(r#"["app:1"]"#).members));
    fs::set_permissions(&disk.path, fs::Permissions::from_mode(0o640)).unwrap();
    let link = disk.dir.path().join("link.tar");
    std::os::unix::fs::symlink("app.tar", &link).unwrap();
    fs::write(disk.dir.path().join(".app.tar.abc.archive-tmp"), b"half").unwrap();
    fs::write(disk.dir.path().join(".other.tar.abc.archive-tmp"), b"not ours").unwrap();
    let store = DockerArchive::open(&link, None).unwrap();
    store.write_tag("app:1", &relabelled(&store, &tag("app:1"), "arm")).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&disk.path).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(label(&disk.open(), &tag("app:1")), "linux/arm/v7");
    let mut names: Vec<String> = fs::read_dir(disk.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, [".other.tar.abc.archive-tmp", "app.tar", "link.tar"]);
}

#[test]
fn extension_headers_of_kept_members_survive() {
    let mut members = Classic::new(r#"["app:1"]"#).members;
    members[3] = [pax(b'x', &[("mtime", "1.25"), ("SCHILY.xattr.user.a", "b")]), members[3].clone()].concat();
    members.insert(0, pax(b'g', &[("comment", "kept")]));
    let disk = on_disk(&archive(&members));
    let store = disk.open();
    store.write_tag("app:1", &relabelled(&store, &tag("app:1"), "arm")).unwrap();
    let kept: usize = members[..8].iter().map(Vec::len).sum();
    assert_eq!(disk.bytes()[..kept], archive(&members)[..kept]);
    whole(&disk.open(), "app:1");
}

/// Writes an image of these layers; gives its manifest, in the form that an archive without manifests makes too.
fn add_image(store: &DockerArchive, tag: &str, layers: &[&[u8]]) -> Document {
    let config = config("arm64", layers);
    let layers: Vec<Descriptor> = layers
        .iter()
        .map(|bytes| {
            let blob = Descriptor::of(media_type::DOCKER_LAYER, bytes);
            store.write_blob(&blob, &|| Ok(Box::new(*bytes))).unwrap();
            blob
        })
        .collect();
    let blob = Descriptor::of(media_type::DOCKER_CONFIG, config.as_bytes());
    store.write_blob(&blob, &|| Ok(Box::new(config.as_bytes()))).unwrap();
    let document = snapshot::synthesize(&blob, &layers).unwrap();
    store.write_document(&document).unwrap();
    if tag != "-" {
        store.write_tag(tag, &document).unwrap();
    }
    document
}

#[test]
fn a_new_archive_is_a_layout_that_old_readers_read_too() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("new.tar");
    let store = DockerArchive::open_or_new(&path).unwrap();
    assert_eq!((store.tags().unwrap().len(), store.only_image().unwrap_err().kind), (0, Exit::NotFound));
    let first = add_image(&store, "app:1", &[b"one", b"two"]);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o600, 0o600);
    let second = add_image(&store, "docker.io/library/app:2", &[b"one", &[7; 300 << 10]]);
    let disk = OnDisk { dir, path };
    for store in [store, disk.open()] {
        assert_eq!(store.tags().unwrap(), ["app:1", "app:2"]);
        assert_eq!(store.read_document(&tag("app:1")).unwrap(), first);
        assert_eq!(store.read_document(&tag("app:2")).unwrap(), second);
        whole(&store, "app:1");
        whole(&store, "app:2");
    }
    // Two manifests, two configs, three layers, of which one is shared.
    let names = disk.names();
    assert_eq!((names.len(), names[0].as_str()), (1 + 2 + 2 + 3 + 2, "oci-layout"));
    let list: serde_json::Value = serde_json::from_str(&disk.member("manifest.json")).unwrap();
    assert_eq!(list[1]["RepoTags"], json!(["app:2"]));
    // The same content makes the same archive.
    let again = on_disk(b"");
    let store = DockerArchive::open_or_new(&again.path).unwrap();
    add_image(&store, "app:1", &[b"one", b"two"]);
    add_image(&store, "app:2", &[b"one", &[7; 300 << 10]]);
    assert_eq!(again.bytes(), disk.bytes());
}

#[test]
fn what_no_image_needs_any_more_goes_and_what_never_was_named_stays() {
    let disk = on_disk(&archive(&layout("app:1", "")));
    let store = disk.open();
    add_image(&store, "app:1", &[b"one", b"three"]);
    let names = disk.names();
    let has = |text: &str| names.contains(&format!("blobs/sha256/{}", hex(text)));
    assert_eq!((has("one"), has("two"), has("three")), (true, false, true));
    assert!(has(r#"{"id":"an old json that no index names"}"#));
    assert_eq!(names.len(), layout("app:1", "").len());
    whole(&disk.open(), "app:1");
}

#[test]
fn new_layers_in_the_old_form_take_the_old_ones_away() {
    let disk = on_disk(&archive(&Classic::new(r#"["app:1"]"#).members));
    let store = disk.open();
    let document = add_image(&store, "app:1", &[b"one", b"three"]);
    assert_eq!(disk.open().read_document(&tag("app:1")).unwrap(), document);
    whole(&disk.open(), "app:1");
    let names = disk.names();
    assert!(!names.iter().any(|name| name.starts_with(TOP)), "{names:?}");
    assert!(names.contains(&format!("{}/layer.tar", hex("three"))));
    assert_eq!(disk.member("repositories"), "{}");
    // Another image beside it.
    add_image(&store, "other:1", &[b"one"]);
    let store = disk.open();
    assert_eq!(store.tags().unwrap(), ["app:1", "other:1"]);
    whole(&store, "app:1");
    whole(&store, "other:1");
    assert_eq!(disk.member("repositories"), r#"{"other":{"1":"1910"}}"#);
}

#[test]
fn the_old_form_refuses_what_it_cannot_keep() {
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
    check(&Document::new(spaced, None).unwrap(), "keeps no manifests");
    let text = String::from_utf8(child.bytes().to_vec()).unwrap();
    check(&Document::new(text.replace(&hex("one"), &hex("two")).into_bytes(), None).unwrap(), "should be");
    check(&Document::new(text.replace(&hex("one"), &hex("x")).into_bytes(), None).unwrap(), "not there");
    assert_eq!(disk.bytes(), before);
}

#[test]
fn an_index_keeps_all_its_members_and_shows_one_of_them_to_old_readers() {
    let dir = TempDir::new().unwrap();
    let disk = OnDisk { path: dir.path().join("new.tar"), dir };
    let store = DockerArchive::open_or_new(&disk.path).unwrap();
    let children = [add_image(&store, "-", &[b"one"]), add_image(&store, "-", &[b"two"])];
    let entries: Vec<Descriptor> = children.iter().map(Document::descriptor).collect();
    let index = json!({"schemaVersion":2,"mediaType":media_type::OCI_INDEX,"manifests":entries}).to_string();
    let index = Document::new(index.into_bytes(), None).unwrap();
    store.write_tag("app:1", &index).unwrap();
    let store = disk.open();
    assert_eq!(store.read_document(&tag("app:1")).unwrap(), index);
    whole(&store, "app:1");
    assert!(disk.member("manifest.json").contains(&hex("one")));
    // The second member is relabelled; the first keeps its bytes and goes on standing for the index.
    let list = disk.member("manifest.json");
    let changed = relabelled(&store, &Pointer::from(children[1].digest()), "arm");
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
    whole(&disk.open(), "app:1");
}

#[test]
fn platforms_that_docker_did_not_save_may_go_on_missing() {
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
    let changed = relabelled(&store, &Pointer::from(image.digest()), "arm");
    store.write_document(&changed).unwrap();
    let text = index.replace(image.digest().as_str(), changed.digest().as_str()).replace(
        &format!("\"size\":{}", image.bytes().len()),
        &format!("\"size\":{}", changed.bytes().len()),
    );
    let wanted = Document::new(text.into_bytes(), None).unwrap();
    store.write_tag("app:1", &wanted).unwrap();
    assert_eq!(disk.open().read_document(&tag("app:1")).unwrap(), wanted);
    assert_eq!(label(&disk.open(), &Pointer::from(changed.digest())), "linux/arm/v7");
    assert_eq!(disk.names().len(), members.len());
    // What is missing now and was not before is refused.
    let other = Descriptor::of(media_type::OCI_MANIFEST, b"nowhere");
    let broken = json!({"schemaVersion":2,"manifests":[other]}).to_string();
    let error = store.write_tag("app:1", &Document::new(broken.into_bytes(), None).unwrap()).unwrap_err();
    assert!(error.to_string().contains("not there"), "{error}");
}

#[test]
fn attestations_are_carried_and_not_shown_to_old_readers() {
    let dir = TempDir::new().unwrap();
    let disk = OnDisk { path: dir.path().join("new.tar"), dir };
    let store = DockerArchive::open_or_new(&disk.path).unwrap();
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
fn what_is_written_and_never_tagged_leaves_the_archive_alone() {
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
fn a_blob_that_is_not_what_it_says_is_not_kept() {
    let disk = on_disk(&archive(&layout("app:1", "")));
    let store = disk.open();
    for blob in [Descriptor::of("", b"other"), Descriptor::of("", &[1; 1 << 20])] {
        let error = store.write_blob(&blob, &|| Ok(Box::new(&b"bytes"[..]))).unwrap_err();
        assert_eq!((error.kind, store.has_blob(&blob).unwrap()), (Exit::Integrity, false));
    }
}

#[test]
fn many_readers_read_one_archive_at_once() {
    let store = on_disk(&archive(&Classic::new(r#"["app:1"]"#).members)).open();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20).for_each(|_| whole(&store, "app:1")));
        }
    });
}

#[test]
fn a_reader_goes_on_while_the_archive_is_rewritten() {
    let disk = on_disk(&archive(&Classic::new(r#"["app:1"]"#).members));
    let (reader, writer) = (disk.open(), disk.open());
    let before = reader.read_document(&tag("app:1")).unwrap();
    writer.write_tag("app:1", &relabelled(&writer, &tag("app:1"), "arm")).unwrap();
    assert_eq!(reader.read_document(&tag("app:1")).unwrap(), before);
    whole(&reader, "app:1");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
    /// Whatever stands around the label in the config, the list and the old json: it stands there afterwards too,
    /// and so does every other member, byte for byte.
    #[test]
    fn bytes_outside_the_label_survive(
        space in "( |\\n|\\t){0,3}",
        number in "-?[1-9][0-9]{0,30}(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?",
        text in "[ -!#-\\[\\]-~é]{0,9}(\\\\u00[0-9a-f]{2})?",
        layers in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 1..1200), 1..4),
        in_new_form in proptest::prelude::any::<bool>(),
    ) {
        // First bytes that are no compression's.
        let layers: Vec<Vec<u8>> = layers.into_iter().map(|layer| [vec![0], layer].concat()).collect();
        let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let noise = format!("{space}\"n\":{space}{number},\"t\"{space}:\"{text}\"");
        let config = format!(
            "{{{noise},{space}\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{{\"diff_ids\":{}}}}}{space}", json!(diff_ids));
        let config_path = if in_new_form { format!("blobs/sha256/{}", hex(&config)) } else { format!("{}.json", hex(&config)) };
        let path = |layer: &[u8], i: usize| match in_new_form {
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
        if in_new_form {
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
        let wanted = relabelled(&store, &tag("app:1"), "arm");
        store.write_tag("app:1", &wanted).unwrap();

        let new_config = config.replace(":\"amd64\"", ":\"arm\",\"variant\":\"v7\"");
        let list = list.replace(&hex(&config), &hex(&new_config));
        proptest::prop_assert_eq!(disk.member("manifest.json"), list);
        proptest::prop_assert_eq!(disk.member(&config_path.replace(&hex(&config), &hex(&new_config))), new_config);
        if !in_new_form {
            let lead = &noise[..space.len()];
            let json = disk.member(&format!("{}/json", layers.len() - 1));
            proptest::prop_assert_eq!(json, format!("{{{noise},\"architecture\":\"arm\",{lead}\"variant\":\"v7\"}}").replace(
                &format!("{lead}\"variant\":"), &format!("{lead}\"variant\":{space}")));
        }
        whole(&disk.open(), "app:1");
        for member in &members[1..=seen.len()] {
            proptest::prop_assert!(disk.bytes().windows(member.len()).any(|w| w == member.as_slice()));
        }
        let again = disk.bytes();
        disk.open().write_tag("app:1", &wanted).unwrap();
        proptest::prop_assert_eq!(disk.bytes(), again);
    }
}
