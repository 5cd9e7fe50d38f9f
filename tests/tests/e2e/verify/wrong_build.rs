//! Images that a new declared platform does not fix: verify does not suggest it, and fix refuses it.

use super::made::{Layer, exe, image, probe, put, verify};
use crate::tools::{Ran, User};
use image_model::manifest::{Descriptor, Document, media_type};
use image_model::platform::Platform;
use image_store::archive::{DockerArchive, OciArchive};
use image_store::store::memory::MemoryStore;
use image_store::store::oci_layout::OciLayout;
use image_store::store::registry::RegistryStore;
use image_store::store::{ImageStore, Pointer};
use image_store::tree::{TreeNode, read_tree};
use multiarch_tests::fake_registry::FakeRegistry;
use registry_client::{Client, RegistryOptions};

/// Returns an index with one image for each `INDEX DECLARED BINARIES`.
fn index(members: &[&str]) -> MemoryStore {
    let store = MemoryStore::new();
    let entries: Vec<Descriptor> = members
        .iter()
        .enumerate()
        .map(|(number, member)| {
            let words: Vec<&str> = member.split(' ').collect();
            let file = if words[2].starts_with("windows") { exe() } else { probe(words[2]) };
            let layer = Layer::new().file("app", &file).file("number", number.to_string().as_bytes()).end();
            let mut entry = image(words[1], &["/app"], vec![layer]).add_to(&store).descriptor();
            entry.platform = Some(words[0].parse().unwrap());
            entry
        })
        .collect();
    add_index(&store, &entries);
    store
}

pub fn add_index(store: &MemoryStore, entries: &[Descriptor]) -> Document {
    let text =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
    let document = Document::new(text.to_string().into_bytes(), None).unwrap();
    store.write_tag("x", &document).unwrap();
    document
}

pub fn layout(user: &User, store: MemoryStore, name: &str) -> String {
    put(store, &OciLayout::open_or_create(&user.path(name)).unwrap(), "v1");
    format!("oci:{}:v1", user.path(name).display())
}

/// Returns digest, index platform and declared platform of each image.
pub fn inspected(user: &User, name: &str) -> Vec<(String, String, String)> {
    let found = user.config_patcher(&["inspect", name, "--format", "json"]).exits(0).json();
    let platform = |value: &serde_json::Value| {
        serde_json::from_value::<Option<Platform>>(value.clone()).unwrap().unwrap_or_default().to_string()
    };
    let images = found["images"].as_array().unwrap().iter();
    images
        .map(|one| {
            (
                one["manifest"].as_str().unwrap().into(),
                platform(&one["indexPlatform"]),
                platform(&one["declaredPlatform"]),
            )
        })
        .collect()
}

/// Runs a command from a message.
#[track_caller]
pub fn run_advice(user: &User, advice: &str) -> Ran {
    let (program, rest) = advice.split_once(' ').unwrap();
    user.run(program, &rest.split(' ').collect::<Vec<_>>())
}

/// Returns the advice of verify for the only wrong image: the command that fixes it, or the text about a rebuild.
#[track_caller]
fn advice(user: &User, name: &str) -> (Option<String>, Option<String>) {
    let found = verify(user, &[name, "--format", "json"]).exits(1).json();
    let images = found["images"].as_array().unwrap().clone();
    let wrong: Vec<_> = images
        .iter()
        .filter(|one| {
            ["mislabeled", "wrong-build", "would-not-start"].iter().any(|kind| one["verdict"] == *kind)
        })
        .collect();
    assert_eq!(wrong.len(), 1, "{found}");
    let text = |key: &str| wrong[0][key].as_str().map(str::to_string);
    // A relabel is advised for wrong metadata only.
    assert_eq!(
        text("fix").is_some(),
        wrong[0]["verdict"] == "mislabeled" && text("rebuild").is_none(),
        "{found}"
    );
    (text("fix"), text("rebuild"))
}

const AMD64: &str = "linux/amd64 linux/amd64 linux/amd64";
const WRONG: &str = "linux/arm64 linux/arm64 linux/amd64";

#[test]
fn an_image_with_the_binaries_of_another_member_must_be_rebuilt_in_every_store() {
    let user = User::new();
    let registry = FakeRegistry::start();
    let client = Client::new(RegistryOptions::default()).unwrap();
    let remote = RegistryStore::writing(&client, &registry.host(), "app").unwrap();
    put(index(&[AMD64, WRONG]), &remote, "v1");
    let path = |name: &str| user.path(name);
    put(index(&[AMD64, WRONG]), &OciLayout::open_or_create(&path("layout")).unwrap(), "v1");
    put(index(&[AMD64, WRONG]), &OciArchive::open_or_create(&path("oci.tar")).unwrap(), "v1");
    put(index(&[AMD64, WRONG]), &DockerArchive::open_or_create(&path("docker.tar")).unwrap(), "app:v1");
    for name in [
        format!("{}/app:v1", registry.host()),
        // A reference without a tag: the advice adds it.
        format!("oci:{}", path("layout").display()),
        format!("oci-archive:{}", path("oci.tar").display()),
        format!("docker-archive:{}", path("docker.tar").display()),
    ] {
        let before = inspected(&user, &name);
        let (fix, rebuild) = advice(&user, &name);
        assert_eq!(fix, None, "{name}");
        let rebuild = rebuild.unwrap();
        let why = "the image for linux/arm64 has binaries for linux/amd64, and a relabel would leave two images \
                   for linux/amd64 and none for linux/arm64; rebuild linux/arm64; until then, run: ";
        let (_, command) = rebuild.split_once(why).unwrap_or_else(|| panic!("{rebuild}"));
        for mode in [&["--check"][..], &["--dry-run"], &["--force"], &[]] {
            let ran = user.config_patcher(&[&["fix", &name, "--from-binaries"], mode].concat()).exits(1);
            let ran = ran
                .prints_nothing()
                .assert_stderr_contains(&rebuild)
                .assert_stderr_contains("(linux/arm64) of")
                .assert_stderr_contains(&before[1].0);
            assert!(ran.stderr.contains("/app (command, layer 0) is for linux/amd64"), "{ran}");
        }
        assert_eq!(inspected(&user, &name), before, "{name}");
        run_advice(&user, command).exits(0);
        verify(&user, &[&name]).exits(0);
        let left: Vec<String> = inspected(&user, &name).into_iter().map(|(_, entry, _)| entry).collect();
        assert_eq!(left, ["linux/amd64"], "{name}");
    }
    assert_eq!(registry.violations(), [""; 0]);
}

/// The commonest accidents: a base image that is pinned to one platform's digest, and a build that made the same image twice.
#[test]
fn a_wrong_build_names_its_cause_where_the_manifests_show_it() {
    let user = User::new();
    let base = || Layer::new().file("bin/sh", &probe("linux/amd64")).end();
    let own = |text: &str| Layer::new().file("own", text.as_bytes()).end();
    let add = |store: &MemoryStore, declared: &str, layers: Vec<Vec<u8>>| {
        let mut entry = image(declared, &["/bin/sh"], layers).add_to(store).descriptor();
        entry.platform = Some(declared.parse().unwrap());
        entry
    };
    for (name, layers, cause) in [
        (
            "base",
            vec![base(), own("arm64")],
            "it has the same base as linux/amd64: its first layer is that image's; the base image was probably pinned to one platform",
        ),
        ("same", vec![base(), own("amd64")], "it has the same layers as linux/amd64"),
    ] {
        let store = MemoryStore::new();
        let entries =
            [add(&store, "linux/amd64", vec![base(), own("amd64")]), add(&store, "linux/arm64", layers)];
        add_index(&store, &entries);
        let name = layout(&user, store, name);
        let found = verify(&user, &[&name, "--format", "json"]).exits(1).json();
        assert_eq!(found["images"][0]["verdict"], "consistent", "{found}");
        assert_eq!(found["images"][1]["verdict"], "wrong-build", "{found}");
        let reasons = found["images"][1]["reasons"].to_string();
        assert!(reasons.contains(cause), "{reasons}");
        let reports = ["--html", "r.html", "--sarif", "r.sarif", "--junit", "r.xml"];
        let text = verify(&user, &[&[name.as_str()], &reports[..]].concat()).exits(1).stdout;
        assert!(text.contains("linux/arm64: wrong build") && text.contains(cause), "{text}");
        let read = |file: &str| std::fs::read_to_string(user.path(file)).unwrap();
        assert!(read("r.sarif").contains("\"ruleId\":\"wrong-build\""));
        assert!(read("r.html").contains("wrong build") && read("r.xml").contains("wrong build"));
    }
}

#[test]
fn every_output_format_advises_a_rebuild_instead_of_a_fix() {
    let user = User::new();
    let name = layout(&user, index(&[AMD64, WRONG]), "layout");
    let reports = ["--html", "r.html", "--sarif", "r.sarif", "--junit", "r.xml"];
    let text = verify(&user, &[&[name.as_str()], &reports[..]].concat()).exits(1).stdout;
    let all = verify(&user, &["--all-tags", name.strip_suffix(":v1").unwrap()]).exits(1).stdout;
    let read = |file: &str| std::fs::read_to_string(user.path(file)).unwrap();
    let command = format!("manifest-push edit {name} --remove linux/arm64");
    for output in [text, all, read("r.sarif"), read("r.xml")] {
        assert!(!output.contains("config-patcher fix "), "{output}");
        let out = format!("rebuild linux/arm64; until then, run: {command}");
        assert!(output.contains(&out), "{output}");
    }
    let page = read("r.html");
    assert!(!page.contains("config-patcher fix "), "{page}");
    assert!(
        page.contains("rebuild linux/arm64</p>") && page.contains(&format!("<code>{command}</code>")),
        "{page}"
    );
}

#[test]
fn a_relabel_that_results_in_a_valid_index_is_advised_and_written() {
    let user = User::new();
    let check = |number: usize, members: &[&str], wanted: &[&str]| {
        let layouts: Vec<String> = ["advice", "binaries"]
            .iter()
            .map(|kind| layout(&user, index(members), &format!("{kind}{number}")))
            .collect();
        let found = verify(&user, &[&layouts[0], "--format", "json"]).exits(1).json();
        let fix = found["images"].as_array().unwrap().iter().find_map(|one| one["fix"].as_str()).unwrap();
        run_advice(&user, fix).exits(0);
        user.config_patcher(&["fix", &layouts[1], "--from-binaries"]).exits(0);
        for name in layouts {
            verify(&user, &[&name]).exits(0);
            let entries: Vec<String> =
                inspected(&user, &name).into_iter().map(|(_, entry, _)| entry).collect();
            assert_eq!(entries, wanted, "{name}");
        }
    };
    // moby#36552
    let moby = ["linux/amd64 linux/amd64 linux/amd64", "linux/amd64 linux/amd64 linux/s390x"];
    check(0, &moby, &["linux/amd64", "linux/s390x"]);
    // Two exchanged platforms: single fixes would have a duplicate in between.
    let exchanged = ["linux/amd64 linux/amd64 linux/arm64", "linux/arm64 linux/arm64 linux/amd64"];
    check(1, &exchanged, &["linux/arm64", "linux/amd64"]);
    // The index has the version of an arm image whose binaries do not have one.
    check(2, &[AMD64, "linux/arm/v7 linux/amd64 linux/arm/v7"], &["linux/amd64", "linux/arm/v7"]);
}

#[test]
fn members_of_a_nested_index_are_considered_and_not_edited() {
    let user = User::new();
    let store = index(&[WRONG, "linux/s390x linux/s390x linux/s390x"]);
    let TreeNode::Index(inner) = read_tree(&store, &Pointer::Tag("x".into())).unwrap() else { panic!() };
    let layer = Layer::new().file("app", &probe("linux/amd64")).end();
    let mut right = image("linux/amd64", &["/app"], vec![layer]).add_to(&store).descriptor();
    right.platform = Some("linux/amd64".parse().unwrap());
    add_index(&store, &[right, inner.document.descriptor()]);
    let name = layout(&user, store, "nested");
    let (fix, rebuild) = advice(&user, &name);
    assert_eq!(fix, None);
    assert!(rebuild.unwrap().ends_with("and none for linux/arm64; rebuild linux/arm64"));
    user.config_patcher(&["fix", &name, "--from-binaries"])
        .exits(1)
        .assert_stderr_contains("none for linux/arm64");
}

#[test]
fn a_program_for_another_system_is_not_relabeled() {
    let user = User::new();
    let check = |number: usize, members: &[&str], why: &str| {
        let name = layout(&user, index(members), &format!("system{number}"));
        let before = inspected(&user, &name);
        let (fix, rebuild) = advice(&user, &name);
        assert_eq!((fix, rebuild.unwrap().split_once(';').unwrap().0), (None, why));
        user.config_patcher(&["fix", &name, "--from-binaries"])
            .exits(1)
            .assert_stderr_contains(why)
            .prints_nothing();
        assert_eq!(inspected(&user, &name), before);
    };
    let why = "no Linux kernel runs its program, which is for windows/amd64";
    check(0, &["linux/amd64 linux/amd64 windows/amd64"], why);
    check(1, &["linux/arm64 linux/arm64 linux/arm64", "linux/amd64 linux/amd64 windows/amd64"], why);
    let why = "no Windows kernel runs its program, which is for linux/amd64";
    check(2, &["windows/amd64 windows/amd64 linux/amd64"], why);
}

#[test]
fn a_selected_member_gets_the_platform_of_another_member_only_with_force() {
    let user = User::new();
    let name = layout(&user, index(&[AMD64, WRONG]), "named");
    let before = inspected(&user, &name);
    let ask = ["fix", &name, "--platform", "linux/arm64", "--set-platform", "linux/amd64"];
    let edit = format!("manifest-push edit {name} --remove linux/arm64");
    for mode in [&[][..], &["--dry-run"], &["--check"]] {
        user.config_patcher(&[&ask[..], mode].concat())
            .exits(1)
            .assert_stderr_contains(
                "a relabel would leave two images for linux/amd64 and none for linux/arm64",
            )
            .assert_stderr_contains(&before[0].0)
            .assert_stderr_contains(&edit)
            .prints_nothing();
    }
    assert_eq!(inspected(&user, &name), before);
    user.config_patcher(&[&ask[..], &["--force"]].concat())
        .exits(0)
        .assert_stderr_contains("another image for linux/amd64");
    let entries: Vec<String> = inspected(&user, &name).into_iter().map(|(_, entry, _)| entry).collect();
    assert_eq!(entries, ["linux/amd64", "linux/amd64"]);
}

#[test]
fn one_platform_is_verified_and_the_advice_considers_the_others() {
    let user = User::new();
    let name = layout(&user, index(&[AMD64, WRONG]), "selected");
    let select = |platform: &str| verify(&user, &[&name, "--platform", platform, "--format", "json"]);
    let images = select("linux/amd64").exits(0).json()["images"].clone();
    assert_eq!((images.as_array().unwrap().len(), &images[0]["verdict"]), (1, &"consistent".into()));
    let images = select("linux/arm64/v8").exits(1).json()["images"].clone();
    assert_eq!((images.as_array().unwrap().len(), &images[0]["fix"]), (1, &serde_json::Value::Null));
    assert!(images[0]["rebuild"].as_str().unwrap().contains("two images for linux/amd64"), "{images}");
    select("linux/s390x").exits(5).assert_stderr_contains("it has linux/amd64, linux/arm64");
    let repository = name.strip_suffix(":v1").unwrap();
    verify(&user, &["--all-tags", repository, "--platform", "linux/amd64"]).exits(0);
    let inspect =
        |platform: &str| user.config_patcher(&["inspect", &name, "--platform", platform, "--format", "json"]);
    let images = inspect("linux/arm64").exits(0).json()["images"].clone();
    assert_eq!(
        (images.as_array().unwrap().len(), &images[0]["indexPlatform"]["architecture"]),
        (1, &"arm64".into())
    );
    inspect("linux/s390x").exits(5).assert_stderr_contains("it has linux/amd64, linux/arm64");
}

#[test]
fn a_wrong_index_platform_is_corrected_by_the_printed_command() {
    let user = User::new();
    let name = layout(&user, index(&[AMD64, "linux/s390x linux/s390x linux/arm64"]), "layout");
    let rebuild = advice(&user, &name).1.unwrap();
    let (_, command) = rebuild
        .split_once("; or, if it was meant to be linux/arm64, run: ")
        .unwrap_or_else(|| panic!("{rebuild}"));
    user.config_patcher(&["fix", &name, "--from-binaries"]).exits(1).assert_stderr_contains(command);
    run_advice(&user, command).exits(0);
    verify(&user, &[&name]).exits(0);
    let now: Vec<String> = inspected(&user, &name).into_iter().map(|(_, entry, _)| entry).collect();
    assert_eq!(now, ["linux/amd64", "linux/arm64"]);
}
