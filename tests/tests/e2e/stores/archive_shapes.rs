//! Unusual archives: one image under several names, and paths in several spellings. After a fix all names of the archive
//! are correct, or the file is unchanged.

use crate::samples::Image;
use crate::tools::{Ran, User, shown};
use image_model::digest::Digest;
use image_store::archive::{DockerArchive, OciArchive};
use image_store::check::{CheckDepth, check};
use image_store::store::{ImageSource, Pointer};
use multiarch_tests::world;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

const IMAGE_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

const LINKED_LIST: &str = "a list that is a link";

enum Content {
    File(Vec<u8>),
    Link(&'static str),
}

type Member = (String, Content);

/// An archive and the reference that selects an image of it.
struct Shape {
    what: &'static str,
    members: Vec<Member>,
    reference: &'static str,
    /// Whether a fix must succeed. If false, it may also be refused, without a change of the file.
    must_succeed: bool,
}

fn mislabeled() -> Image {
    let image = Image::new("linux/amd64", "arm's own");
    // skopeo requires an integer there.
    image.with_config(image.config.replace("1.50", "15"))
}

fn file(name: &str, content: impl AsRef<[u8]>) -> Member {
    (name.into(), Content::File(content.as_ref().to_vec()))
}

/// Returns a tar archive with member names exactly as given.
fn tar(members: &[Member]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o644);
        let content = match content {
            Content::File(content) => content.as_slice(),
            Content::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_link_name(target).unwrap();
                &[]
            }
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    Digest::of(bytes.as_ref()).hex().to_string()
}

fn blob(bytes: impl AsRef<[u8]>) -> String {
    format!("blobs/sha256/{}", hex(bytes))
}

fn item(config: &str, tags: Value, layer: &str) -> Value {
    json!({"Config": config, "RepoTags": tags, "Layers": [layer]})
}

/// Returns an archive in the format before Docker 25: configs, the layer and `manifest.json`.
fn classic(configs: &[&str], layer: &str, items: &[Value]) -> Vec<Member> {
    let mut members: Vec<Member> = configs.iter().map(|name| file(name, mislabeled().config)).collect();
    members.push(file(layer, mislabeled().layer));
    members.push(file("manifest.json", json!(items).to_string()));
    members
}

/// Returns an OCI layout whose index has one entry for each element, with these annotations.
fn layout(entries: &[Value]) -> Vec<Member> {
    let image = mislabeled();
    let entry = |annotations: &Value| {
        let mut entry = json!(image.document.descriptor());
        if annotations.as_object().is_some_and(|keys| !keys.is_empty()) {
            entry["annotations"] = annotations.clone();
        }
        entry
    };
    let entries: Vec<Value> = entries.iter().map(entry).collect();
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries});
    vec![
        file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
        file("index.json", index.to_string()),
        file(&blob(&image.config), &image.config),
        file(&blob(&image.layer), &image.layer),
        file(&blob(image.document.bytes()), image.document.bytes()),
    ]
}

/// Returns an OCI layout with `manifest.json`, as Docker 25 and later save it.
fn saved(entries: &[Value], items: &[Value]) -> Vec<Member> {
    let mut members = layout(entries);
    members.push(file("manifest.json", json!(items).to_string()));
    members
}

fn named(name: &str) -> Value {
    let (_, tag) = name.split_once(':').unwrap();
    json!({IMAGE_NAME: format!("docker.io/library/{name}"), REF_NAME: tag})
}

fn spelling_shapes() -> Vec<Shape> {
    let one = |what, config: &str, member: &str, layer: &str, layer_member: &str| {
        let mut members = classic(&[member], layer_member, &[item(config, json!(["app:t"]), layer)]);
        members.rotate_left(1);
        Shape { what, members, reference: "docker-archive:d.tar", must_succeed: true }
    };
    let digest = format!("{}.json", hex(mislabeled().config));
    let mut legacy =
        classic(&[&digest], "ID/layer.tar", &[item(&digest, json!(["app:t"]), "./ID/layer.tar")]);
    legacy.push(file("ID/json", r#"{"id":"ID","architecture":"amd64","os":"linux"}"#));
    legacy.push(file("./repositories", r#"{"app":{"t":"ID"}}"#));
    let mut linked =
        classic(&["data.json"], "l.tar", &[item(&format!("./{digest}"), json!(["app:t"]), "l.tar")]);
    linked.insert(0, (digest.clone(), Content::Link("./data.json")));
    let mut linked_list = classic(&["c.json"], "l.tar", &[item("c.json", json!(["app:t"]), "l.tar")]);
    linked_list[2].0 = "list.json".into();
    linked_list.push(("manifest.json".into(), Content::Link("list.json")));
    let mut dotted = classic(&["./c.json"], "./l.tar", &[item("c.json", json!(["app:t"]), "l.tar")]);
    dotted[2].0 = "./manifest.json".into();
    let mut taken = classic(&[&digest], "l.tar", &[item(&digest, json!(["app:t"]), "l.tar")]);
    taken.insert(0, file(&format!("{}.json", hex(mislabeled().relabeled("arm", "v7").config)), "{}"));
    let [config, layer] =
        [mislabeled().config.into_bytes(), mislabeled().layer].map(|bytes| format!("./{}", blob(bytes)));
    let docker = |what, members, must_succeed| Shape {
        what,
        members,
        reference: "docker-archive:d.tar",
        must_succeed,
    };
    vec![
        one("a config as ./c.json", "./c.json", "c.json", "l.tar", "l.tar"),
        one("config and member as ./c.json", "./c.json", "./c.json", "l.tar", "l.tar"),
        one("a config as a//c.json", "a//c.json", "a/c.json", "l.tar", "l.tar"),
        one("a config as a/./c.json", "a/./c.json", "a/c.json", "./l.tar", "l.tar"),
        one("a member as a//c.json", "a/c.json", "a//c.json", "l.tar", ".//l.tar"),
        one("a digest as ./HEX.json", &format!("./{digest}"), &digest, "./x//layer.tar", "x/layer.tar"),
        one("a member as ./HEX.json", &digest, &format!("./{digest}"), "x/layer.tar", "./x/layer.tar"),
        docker("all members with ./", dotted, true),
        docker("files of Docker before 1.10", legacy, true),
        docker("a config that is a link", linked, true),
        docker(LINKED_LIST, linked_list, true),
        docker(
            "blobs of a layout with ./",
            saved(&[named("app:t")], &[item(&config, json!(["app:t"]), &layer)]),
            true,
        ),
        docker("the name of the new config is taken", taken, false),
    ]
}

fn naming_shapes() -> Vec<Shape> {
    let (a, b) = (named("a:1"), named("b:1"));
    let (config, layer) = (blob(mislabeled().config), blob(mislabeled().layer));
    let list = |tags: Value| item(&config, tags, &layer);
    let oci = |what, entries: &[Value], reference| Shape {
        what,
        members: layout(entries),
        reference,
        must_succeed: true,
    };
    let docker = |what, entries: &[Value], items: &[Value], reference| Shape {
        what,
        members: saved(entries, items),
        reference,
        must_succeed: true,
    };
    let old = |what, configs: &[&str], items: &[Value]| Shape {
        what,
        members: classic(configs, "l.tar", items),
        reference: "docker-archive:d.tar",
        must_succeed: true,
    };
    let both = [a.clone(), b.clone()];
    let (all, of_a) = ("docker-archive:d.tar", "docker-archive:d.tar:a:1");
    let c = |name: &str, tags: Value| item(name, tags, "l.tar");
    vec![
        oci("two image names, one tag", &both, "oci-archive:d.tar:1"),
        oci("the same without a tag", &both, "oci-archive:d.tar"),
        oci("the same entry twice", &[a.clone(), a.clone()], "oci-archive:d.tar:1"),
        oci("two tags", &[json!({REF_NAME: "1"}), json!({REF_NAME: "2"})], "oci-archive:d.tar"),
        oci("twice without a name", &[json!({}), json!({})], "oci-archive:d.tar"),
        oci("with a name and without", &[json!({}), a.clone()], "oci-archive:d.tar"),
        docker("a list with more names", std::slice::from_ref(&a), &[list(json!(["a:1", "b:1"]))], of_a),
        docker("the same for all names", std::slice::from_ref(&a), &[list(json!(["a:1", "b:1"]))], all),
        docker(
            "two items for one entry",
            std::slice::from_ref(&a),
            &[list(json!(["a:1"])), list(json!(["b:1"]))],
            of_a,
        ),
        docker(
            "the same for all names",
            std::slice::from_ref(&a),
            &[list(json!(["b:1"])), list(json!(["a:1"]))],
            all,
        ),
        docker("two entries for one item", &both, &[list(json!(["a:1", "b:1"]))], all),
        docker("an item without a name", std::slice::from_ref(&a), &[list(Value::Null)], all),
        docker("the same, requested by name", std::slice::from_ref(&a), &[list(Value::Null)], of_a),
        docker("an item without a name, two entries", &both, &[list(Value::Null)], all),
        docker(
            "items with a name and without",
            std::slice::from_ref(&a),
            &[list(Value::Null), list(json!(["a:1"]))],
            all,
        ),
        docker("the same item twice", &both, &[list(json!(["a:1"])), list(json!(["a:1"]))], all),
        docker("the same entry twice", &[a.clone(), a.clone()], &[list(json!(["a:1"]))], of_a),
        docker("entries with tags only", &[json!({REF_NAME: "1"}), json!({REF_NAME: "1"})], &[], all),
        docker(
            "a tag only, and names in the list",
            &[json!({REF_NAME: "1"})],
            &[list(json!(["a:1", "b:1"]))],
            all,
        ),
        docker("no names at all", &[json!({}), json!({})], &[list(Value::Null)], all),
        Shape {
            must_succeed: false,
            ..docker("as an OCI archive", &[a], &[list(json!(["a:1"]))], "oci-archive:d.tar:1")
        },
        old("two names of one item", &["c.json"], &[c("c.json", json!(["a:1", "b:1"]))]),
        old(
            "two items of one config",
            &["c.json"],
            &[c("c.json", json!(["a:1"])), c("./c.json", json!(["b:1"]))],
        ),
        old(
            "two configs of one content",
            &["c.json", "d.json"],
            &[c("c.json", json!(["a:1"])), c("d.json", json!(["b:1"]))],
        ),
        old("the same item twice", &["c.json"], &[c("c.json", json!(["a:1"])), c("c.json", json!(["a:1"]))]),
        old(
            "the same item with a name and without",
            &["c.json"],
            &[c("c.json", Value::Null), c("c.json", json!(["a:1"]))],
        ),
        old(
            "the same item twice without a name",
            &["c.json"],
            &[c("c.json", Value::Null), c("c.json", Value::Null)],
        ),
    ]
}

/// Returns the manifest of the only image, after a check of the image under each of its names.
fn only_image(path: &Path, reference: &str) -> String {
    let archive = match reference.starts_with("oci") {
        true => OciArchive::open(path, None).unwrap().into_archive(),
        false => DockerArchive::open(path, None).unwrap(),
    };
    let only = archive.only_image().unwrap();
    let tags = archive.tags().unwrap().into_iter().map(Pointer::Tag);
    for tag in tags.chain([only.clone()]) {
        assert_eq!(check(&archive, &tag, CheckDepth::Layers), [], "{tag}");
    }
    let document = archive.read_document(&only).unwrap();
    String::from_utf8(document.bytes().to_vec()).unwrap()
}

/// Returns the digest of the config that a fix must write.
fn fixed_config_digest() -> String {
    Digest::of(mislabeled().relabeled("arm", "v7").config.as_bytes()).to_string()
}

/// Fixes the archive twice. It must be correct after the first fix and unchanged by the second.
fn check_fix(shape: &Shape, options: &[&str]) {
    let user = User::new();
    let input = tar(&shape.members);
    let path = user.write("d.tar", &input);
    let fix = [&["fix", shape.reference, "--set-platform", "linux/arm/v7"], options].concat();
    let ran = user.config_patcher(&fix);
    let what = format!("{}, {options:?}: {ran}", shape.what);
    if ran.code != Some(0) {
        assert!(!shape.must_succeed && ran.code == Some(3), "{what}");
        assert!(fs::read(&path).unwrap() == input, "the file changed: {what}");
        assert_eq!(fs::read_dir(user.work()).unwrap().count(), 1, "{what}");
        return;
    }
    assert!(only_image(&path, shape.reference).contains(&fixed_config_digest()), "{what}");
    let kind = shape.reference.split(':').next().unwrap();
    // It is read; its program is a text file.
    let verified = user.config_patcher(&["verify", &format!("{kind}:d.tar")]).exits(1);
    assert!(verified.stdout.contains("would not start"), "{verified}");
    let written = fs::read(&path).unwrap();
    user.config_patcher(&fix).exits(0).assert_stderr_contains("all platforms are correct");
    assert!(fs::read(&path).unwrap() == written, "the second fix wrote: {what}");
    if let (Some(skopeo), "docker-archive") = (world::program("skopeo"), kind) {
        let done = Command::new(skopeo)
            .args(["inspect", "--config", "docker-archive:d.tar"])
            .current_dir(user.work())
            .output()
            .unwrap();
        // skopeo requires a name if the list has several items.
        let text =
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(text.contains("\"arm\"") || text.contains("expected 1 item"), "{what}: {text}");
    }
}

/// Fixes the archive through a pipe. If that is refused, the output must be empty or truncated.
fn check_filter(shape: &Shape) {
    let user = User::new();
    user.write("d.tar", tar(&shape.members));
    let mut command = user.command("config-patcher", &["fix", "-", "--set-platform", "linux/arm/v7"]);
    let out = user.path("out.tar");
    command.stdin(File::open(user.path("d.tar")).unwrap()).stdout(File::create(&out).unwrap());
    let ran = Ran::of(shown(&command), command.output().unwrap());
    let what = format!("{}, filtered: {ran}", shape.what);
    if ran.code == Some(0) {
        assert!(only_image(&out, "docker-archive").contains(&fixed_config_digest()), "{what}");
        return;
    }
    // A stream cannot replace a link with a file.
    let may_be_refused = !shape.must_succeed || shape.what == LINKED_LIST;
    assert!(may_be_refused && ran.code == Some(3), "{what}");
    let length = fs::metadata(&out).unwrap().len();
    assert!(length == 0 || length % 512 == 256, "{what}");
}

#[test]
fn an_archive_with_unusual_spellings_of_paths_is_fixed_or_unchanged() {
    for shape in spelling_shapes() {
        check_fix(&shape, &[]);
        check_fix(&shape, &["--in-place"]);
        check_filter(&shape);
    }
}

#[test]
fn an_archive_with_several_names_of_one_image_is_fixed_or_unchanged() {
    for shape in naming_shapes() {
        check_fix(&shape, &[]);
        check_fix(&shape, &["--in-place"]);
        if shape.reference.starts_with("docker") {
            check_filter(&shape);
        }
    }
}
