//! `config-patcher` as a person runs it, against each store: what it writes, what it leaves alone, what it asks.

use crate::samples::{Image, Index};
use crate::tools::{Ran, User, listing, run};
use image_store::check::{Depth, check};
use image_store::store::docker_archive::DockerArchive;
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use image_store::tree::read_tree;
use multiarch_tests::fake_registry::{Auth, Authorization, Bearer, FakeRegistry, Listener, Options, When};
use std::fs;
use std::sync::Arc;

const REPOSITORY: &str = "team/app";

/// A registry with an image that says amd64 and is arm's.
struct Rig {
    registry: Arc<FakeRegistry>,
    user: User,
    wrong: Image,
    right: Image,
}

impl Rig {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let registry = Arc::new(FakeRegistry::start_with(options));
        let wrong = Image::new("linux/amd64", "arm's own");
        wrong.publish(&registry, REPOSITORY, "arm32v7");
        Self { registry, user: User::new(), right: wrong.relabelled("arm", "v7"), wrong }
    }

    fn image(&self, tag: &str) -> String {
        format!("{}/{REPOSITORY}:{tag}", self.registry.host())
    }

    fn fix(&self, args: &[&str]) -> Ran {
        self.user
            .config_patcher(&[&["fix", &self.image("arm32v7"), "--platform", "linux/arm/v7"], args].concat())
    }

    fn named(&self, tag: &str) -> Option<String> {
        self.registry.tag(REPOSITORY, tag)
    }

    /// `METHOD what STATUS` of each request.
    fn asked(&self) -> Vec<String> {
        let word = |path: &str| -> String {
            let last = path.split('?').next().unwrap().rsplit('/').next().unwrap();
            match path {
                _ if path.contains("/blobs/uploads") => "upload".into(),
                _ if last == self.wrong.config_digest() => "old config".into(),
                _ if last == self.wrong.digest() => "old manifest".into(),
                _ if last == self.wrong.layer_digest() => "layer".into(),
                _ => last.into(),
            }
        };
        let log = self.registry.log();
        log.iter().map(|l| format!("{} {} {}", l.method, word(&l.path), l.status.unwrap_or(0))).collect()
    }

    fn nothing_was_written(&self) {
        let log = self.registry.log();
        assert!(log.iter().all(|l| matches!(l.method.as_str(), "GET" | "HEAD")), "{log:?}");
        assert_eq!(self.named("arm32v7").as_deref(), Some(self.wrong.digest()));
    }

    fn is_sound(&self) {
        assert_eq!(self.registry.violations(), [""; 0]);
        for tag in self.registry.tags(REPOSITORY) {
            self.registry.closure_complete(REPOSITORY, &self.named(&tag).unwrap()).unwrap();
        }
    }
}

#[test]
fn a_label_in_a_registry_is_put_right_and_every_other_byte_stays() {
    let rig = Rig::new();
    rig.fix(&[]).exits(0).prints(rig.right.digest()).says("label linux/amd64 -> linux/arm/v7");
    assert_eq!(rig.named("arm32v7").as_deref(), Some(rig.right.digest()));
    let config = rig.registry.blob(REPOSITORY, &rig.right.config_digest()).unwrap();
    assert_eq!(String::from_utf8(config).unwrap(), rig.right.config);
    let (_, manifest) = rig.registry.manifest(REPOSITORY, "arm32v7").unwrap();
    assert_eq!(manifest, rig.right.document.bytes());
    rig.is_sound();
}

/// Seven: what the image is (2), the config's way up (2), the tag looked at, moved, and read back (3). Two more, at the
/// same time as the others, look for what belongs to the old image.
#[test]
fn a_fix_in_a_registry_is_nine_requests_and_no_layer_moves() {
    let rig = Rig::new();
    rig.fix(&[]).exits(0);
    let mut asked = rig.asked();
    let (config, upload) = (place(&asked, "GET old config 200"), place(&asked, "POST upload 202"));
    assert_eq!(config.min(upload) + 1, config.max(upload), "at the same time: {asked:?}");
    for meanwhile in ["GET old manifest 404", "GET list 200", "GET old config 200", "POST upload 202"] {
        asked.remove(place(&asked, meanwhile));
    }
    let expected =
        ["GET arm32v7 200", "PUT upload 201", "HEAD arm32v7 200", "PUT arm32v7 201", "GET arm32v7 200"];
    assert_eq!(asked, expected);
    assert_eq!(rig.registry.open_uploads(), 0);
}

fn place(asked: &[String], request: &str) -> usize {
    asked.iter().position(|one| one == request).unwrap_or_else(|| panic!("no {request}: {asked:?}"))
}

#[test]
fn a_second_fix_has_nothing_to_do_and_lets_go_of_its_upload() {
    let rig = Rig::new();
    rig.fix(&[]).exits(0);
    rig.registry.take_log();
    rig.fix(&[]).exits(0).prints(rig.right.digest()).says("every label is right");
    let mut methods: Vec<String> = rig.registry.log().into_iter().map(|l| l.method).collect();
    methods.sort();
    assert_eq!(methods, ["DELETE", "GET", "GET", "POST"]);
    assert_eq!(rig.registry.open_uploads(), 0);
    for only_look in ["--check", "--dry-run"] {
        rig.registry.take_log();
        rig.fix(&[only_look]).exits(0);
        assert_eq!(rig.registry.log().iter().map(|l| l.method.as_str()).collect::<Vec<_>>(), ["GET", "GET"]);
    }
}

#[test]
fn check_tells_by_its_exit_code_and_writes_nothing() {
    let rig = Rig::new();
    let ran = rig.fix(&["--check"]).exits(1);
    assert_eq!(ran.stdout, "");
    let json = rig.fix(&["--check", "--format", "json"]).exits(1).json();
    assert_eq!((&json["changed"], &json["written"]), (&true.into(), &false.into()));
    assert_eq!(json["images"][0]["wanted"]["variant"], "v7");
    rig.nothing_was_written();
    rig.fix(&[]).exits(0);
    rig.registry.take_log();
    rig.fix(&["--check"]).exits(0);
    assert!(rig.registry.log().iter().all(|l| l.method == "GET"));
}

#[test]
fn a_dry_run_shows_each_write_and_makes_none() {
    let rig = Rig::new();
    let ran = rig.fix(&["--dry-run"]).exits(0).prints(rig.right.digest());
    let said = format!("{}:arm32v7  was {}", rig.image("").trim_end_matches(':'), rig.wrong.digest());
    assert!(ran.stderr.contains(&said) && ran.stderr.contains(&rig.right.config_digest()), "{ran}");
    rig.nothing_was_written();
    let json = rig.fix(&["--dry-run", "--format", "json"]).exits(0).json();
    assert_eq!((&json["changed"], &json["written"]), (&true.into(), &false.into()));
    rig.nothing_was_written();
}

#[test]
fn json_tells_what_was_and_what_is() {
    let rig = Rig::new();
    let json = rig.fix(&["--format", "json"]).exits(0).json();
    let expected = serde_json::json!({
        "changed": true, "written": true, "was": rig.wrong.digest(), "now": rig.right.digest(),
        "images": [{
            "entry": null,
            "label": {"architecture": "amd64", "os": "linux"},
            "wanted": {"architecture": "arm", "os": "linux", "variant": "v7"},
            "config": {"was": rig.wrong.config_digest(), "now": rig.right.config_digest()},
            "manifest": {"was": rig.wrong.digest(), "now": rig.right.digest()},
        }],
        "referrers": [], "signatureTags": [], "notes": [],
        "writes": {
            "blobs": [{"digest": rig.right.config_digest(), "size": rig.right.config.len()}],
            "manifests": [],
            "tags": [{
                "image": format!("{}/{REPOSITORY}", rig.registry.host()), "tag": "arm32v7",
                "was": rig.wrong.digest(), "now": rig.right.digest(),
            }],
            "bytes": rig.right.config.len() + rig.right.document.bytes().len(),
        },
    });
    assert_eq!(json, expected);
    let again = rig.fix(&["--format", "json"]).exits(0).json();
    assert_eq!((&again["changed"], &again["written"]), (&false.into(), &false.into()));
    assert_eq!((&again["was"], &again["now"]), (&rig.right.digest().into(), &rig.right.digest().into()));
    let json =
        rig.user.config_patcher(&["inspect", &rig.image("arm32v7"), "--format", "json"]).exits(0).json();
    assert_eq!(json["images"][0]["label"]["architecture"], "arm");
    assert_eq!(json["images"][0]["layers"][0]["digest"], rig.wrong.layer_digest());
    let json = rig.user.config_patcher(&["inspect", &rig.image("no"), "--format", "json"]).exits(5).json();
    assert_eq!(json["error"]["exit"], 5);
}

#[test]
fn other_tags_can_be_moved_and_the_old_one_left() {
    let rig = Rig::new();
    rig.fix(&["--tag", "fixed", "--tag", "v7"]).exits(0).prints(rig.right.digest());
    assert_eq!(rig.named("arm32v7").as_deref(), Some(rig.wrong.digest()));
    for tag in ["fixed", "v7"] {
        assert_eq!(rig.named(tag).as_deref(), Some(rig.right.digest()));
    }
    rig.is_sound();
}

#[test]
fn an_image_named_by_digest_is_fixed_without_a_tag() {
    let rig = Rig::new();
    let image = format!("{}/{REPOSITORY}@{}", rig.registry.host(), rig.wrong.digest());
    let ran = rig.user.config_patcher(&["fix", &image, "--platform", "linux/arm/v7"]).exits(0);
    assert_eq!(ran.line(), rig.right.digest());
    assert!(rig.registry.manifest(REPOSITORY, rig.right.digest()).is_some());
    assert_eq!(rig.registry.tags(REPOSITORY), ["arm32v7"]);
    assert_eq!(rig.named("arm32v7").as_deref(), Some(rig.wrong.digest()));
}

#[test]
fn what_is_wrong_with_the_question_has_its_own_exit_code() {
    let rig = Rig::new();
    let index = Index::of(&[("linux/amd64", &rig.wrong), ("linux/arm/v7", &rig.right)]);
    index.publish(&rig.registry, REPOSITORY, "latest");
    let fix = |image: &str, args: &[&str]| rig.user.config_patcher(&[&["fix", image], args].concat());
    let platform = ["--platform", "linux/arm/v7"];
    fix(&rig.image("no"), &platform).exits(5);
    fix(&format!("{}/team/none:1", rig.registry.host()), &platform).exits(5);
    fix("Not/Valid", &platform).exits(2);
    fix(&rig.image("arm32v7"), &["--platform", "arm"]).exits(2);
    fix(&rig.image("arm32v7"), &[]).exits(2);
    fix(&rig.image("arm32v7"), &["--from-index"]).exits(3).says("--platform");
    fix(&rig.image("latest"), &platform).exits(3).says("an index of 2 platforms");
    let member = ["--member", "linux/s390x", "--platform", "linux/arm/v7"];
    fix(&rig.image("latest"), &member).exits(5).says("it has linux/amd64, linux/arm/v7");
    fix("oci:none:1", &platform).exits(5);
    fix("docker-archive:none.tar", &platform).exits(5);
    fix("oci-archive:none.tar", &platform).exits(5);
    let mut without_docker =
        rig.user.command("config-patcher", &["fix", "docker-daemon:none", "--platform", "linux/arm/v7"]);
    without_docker.env("MULTIARCH_DOCKER", "/no/such/docker");
    run(without_docker).exits(5).says("is not installed");
    fix("127.0.0.1:1/a/b:1", &platform).exits(6);
    rig.user.config_patcher(&["fix"]).exits(2);
    rig.nothing_was_written();
}

#[test]
fn every_member_of_an_index_follows_its_entry_and_attestations_follow_their_image() {
    let rig = Rig::new();
    let amd64 = Image::new("linux/amd64", "amd64's own");
    let index = Index::attested(&[("linux/amd64", &amd64), ("linux/arm/v7", &rig.wrong)], Some(1));
    index.publish(&rig.registry, REPOSITORY, "latest");
    let image = rig.image("latest");
    let ran = rig.user.config_patcher(&["fix", &image, "--from-index"]).exits(0);
    assert!(ran.stderr.contains("note: attestation"), "{ran}");
    // Digest and size of one entry, one annotation; nothing else.
    let old = std::str::from_utf8(index.document.bytes()).unwrap();
    let size = |image: &Image| {
        format!(r#""size":{},"platform":{{"architecture":"arm""#, image.document.bytes().len())
    };
    let expected =
        old.replace(rig.wrong.digest(), rig.right.digest()).replace(&size(&rig.wrong), &size(&rig.right));
    let (_, now) = rig.registry.manifest(REPOSITORY, "latest").unwrap();
    assert_eq!(String::from_utf8(now).unwrap(), expected);
    assert_eq!(Some(ran.line()), rig.named("latest").as_deref());
    assert_eq!(rig.registry.count("PUT", |path| path.contains("/manifests/")), 2);
    rig.is_sound();
    let again =
        rig.user.config_patcher(&["fix", &image, "--from-index"]).exits(0).says("every label is right");
    assert_eq!(again.line(), ran.line());
}

#[test]
fn one_member_is_named_by_platform_or_digest_and_its_entry_follows() {
    let rig = Rig::new();
    let index = Index::of(&[("linux/amd64", &rig.wrong), ("linux/arm64", &Image::new("linux/arm64", "x"))]);
    for (tag, member) in [("a", "linux/amd64"), ("b", rig.wrong.digest())] {
        index.publish(&rig.registry, REPOSITORY, tag);
        let args = ["fix", &rig.image(tag), "--member", member, "--platform", "linux/arm/v7"];
        rig.user.config_patcher(&args).exits(0);
        let (_, now) = rig.registry.manifest(REPOSITORY, tag).unwrap();
        let now: serde_json::Value = serde_json::from_slice(&now).unwrap();
        let platform = serde_json::json!({"architecture": "arm", "variant": "v7", "os": "linux"});
        assert_eq!(now["manifests"][0]["platform"], platform);
        assert_eq!(now["manifests"][0]["digest"], rig.right.digest());
        assert_eq!(now["manifests"][1]["platform"]["architecture"], "arm64");
    }
    rig.is_sound();
}

#[test]
fn a_tag_that_moves_between_read_and_write_is_left_alone() {
    for forced in [false, true] {
        let rig = Rig::new();
        let other = Image::new("linux/s390x", "somebody else's");
        other.publish(&rig.registry, REPOSITORY, "other");
        let (registry, theirs) = (Arc::downgrade(&rig.registry), other.digest().to_string());
        rig.registry.on_request(move |request, when| {
            // While the config is on its way up.
            if request.method == "PUT" && request.is_upload() && when == When::After {
                registry.upgrade().unwrap().set_tag(REPOSITORY, "arm32v7", &theirs);
            }
        });
        if forced {
            rig.fix(&["--force"]).exits(0).prints(rig.right.digest());
            assert_eq!(rig.named("arm32v7").as_deref(), Some(rig.right.digest()));
        } else {
            let ran = rig.fix(&[]).exits(8).says(other.digest());
            assert_eq!(ran.stdout, "");
            assert_eq!(rig.named("arm32v7").as_deref(), Some(other.digest()));
        }
        rig.is_sound();
    }
}

#[test]
fn a_tag_that_moves_right_after_the_write_is_told() {
    let rig = Rig::new();
    let other = Image::new("linux/s390x", "somebody else's");
    other.publish(&rig.registry, REPOSITORY, "other");
    let (registry, theirs) = (Arc::downgrade(&rig.registry), other.digest().to_string());
    rig.registry.on_request(move |request, when| {
        if request.method == "PUT" && request.path.ends_with("/manifests/arm32v7") && when == When::After {
            registry.upgrade().unwrap().set_tag(REPOSITORY, "arm32v7", &theirs);
        }
    });
    rig.fix(&[]).exits(8).says("somebody else moved it");
}

const CANARY: &str = "c4nary-pa55word";

/// No program prints it, whatever happens to the request.
fn canary_is_silent(ran: &Ran) {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("ann:{CANARY}"));
    for secret in [CANARY, &encoded, "fake."] {
        assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret), "{ran}");
    }
}

#[test]
fn credentials_of_docker_login_are_used_and_never_shown() {
    let basic = Auth::Basic { user: "ann".into(), password: CANARY.into() };
    let bearer = Auth::Bearer(Bearer { private: vec![REPOSITORY.into()], ..Bearer::new("ann", CANARY) });
    for (auth, kind) in [(basic, Authorization::Basic), (bearer, Authorization::Bearer)] {
        let rig = Rig::with(Options { auth, ..Options::default() });
        let ran = rig.fix(&["-v"]).exits(4);
        canary_is_silent(&ran);
        rig.user.log_in(&rig.registry.host(), "ann", "not-this-one");
        canary_is_silent(&rig.fix(&["-v"]).exits(4));
        rig.nothing_was_written();
        rig.user.log_in(&rig.registry.host(), "ann", CANARY);
        rig.registry.take_log();
        let ran = rig.fix(&["-v"]).exits(0).prints(rig.right.digest());
        canary_is_silent(&ran);
        let log = rig.registry.log();
        let done = log.iter().filter(|l| l.listener == Listener::Registry && l.status != Some(401));
        assert!(done.clone().count() == 9 && done.into_iter().all(|l| l.authorization == kind), "{log:?}");
        // One question that is refused, and with Bearer one for a token.
        assert_eq!(log.len(), if kind == Authorization::Basic { 10 } else { 11 }, "{log:?}");
        rig.is_sound();
        let config = rig.user.work().join("../home/.docker/config.json");
        fs::write(config, format!(r#"{{"auths":{{"{}":{{"auth":"{CANARY}"#, rig.registry.host())).unwrap();
        let ran = rig.fix(&["--dry-run", "-v"]);
        canary_is_silent(&ran);
    }
}

// --- layouts and archives

fn tag(name: &str) -> Pointer {
    Pointer::Tag(name.into())
}

fn label_of(store: &dyn ImageSource, name: &str) -> String {
    let node = read_tree(store, &tag(name)).unwrap();
    node.images()[0].1.config.as_ref().unwrap().parsed.platform.to_string()
}

#[test]
fn a_layout_is_fixed_in_place_and_a_dry_run_leaves_it_byte_for_byte() {
    let user = User::new();
    let wrong = Image::new("linux/amd64", "arm's own");
    let right = wrong.relabelled("arm", "v7");
    let layout = OciLayout::open_or_new(&user.path("images")).unwrap();
    wrong.store(&layout, "a");
    Image::new("linux/amd64", "another").store(&layout, "b");
    let before = listing(&user.work());
    let fix = |args: &[&str]| {
        user.config_patcher(&[&["fix", "oci:images:a", "--platform", "linux/arm/v7"], args].concat())
    };
    fix(&["--dry-run"]).exits(0).prints(right.digest());
    fix(&["--check"]).exits(1);
    assert!(listing(&user.work()) == before);
    user.config_patcher(&["fix", "oci:images", "--platform", "linux/arm/v7"]).exits(3).says("a, b");
    fix(&[]).exits(0).prints(right.digest());
    assert_eq!(
        (label_of(&layout, "a"), label_of(&layout, "b")),
        ("linux/arm/v7".into(), "linux/amd64".into())
    );
    for name in ["a", "b"] {
        assert_eq!(check(&layout, &tag(name), Depth::Layers), []);
    }
    let before = listing(&user.work());
    fix(&[]).exits(0).prints(right.digest()).says("every label is right");
    assert!(listing(&user.work()) == before, "a second run touches nothing");
}

#[test]
fn a_docker_save_archive_is_fixed_in_place() {
    let user = User::new();
    let wrong = Image::new("linux/amd64", "arm's own");
    let archive = user.write("app.tar", wrong.classic_archive("team/app:1"));
    let fix = |args: &[&str]| {
        user.config_patcher(
            &[&["fix", "docker-archive:app.tar", "--platform", "linux/arm/v7"], args].concat(),
        )
    };
    let before = listing(&user.work());
    let promised = fix(&["--dry-run"]).exits(0);
    fix(&["--check"]).exits(1);
    assert!(listing(&user.work()) == before, "a dry run leaves it byte for byte");
    let done = fix(&[]).exits(0);
    assert_eq!(done.line(), promised.line());
    let store = DockerArchive::open(&archive, Some("team/app:1")).unwrap();
    assert_eq!(label_of(&store, "team/app:1"), "linux/arm/v7");
    assert_eq!(check(&store, &tag("team/app:1"), Depth::Layers), []);
    let text = fs::read(&archive).unwrap();
    let config = wrong.relabelled("arm", "v7").config;
    assert!(
        text.windows(config.len()).any(|window| window == config.as_bytes()),
        "the config, byte for byte"
    );
    let before = listing(&user.work());
    let again = fix(&[]).exits(0).says("every label is right");
    assert_eq!(again.line(), done.line());
    fix(&["--check"]).exits(0);
    assert!(listing(&user.work()) == before);
    let named = ["fix", "docker-archive:app.tar:team/none:1", "--platform", "linux/arm/v7"];
    user.config_patcher(&named).exits(5).says("team/app:1");
}

#[test]
fn the_result_goes_to_another_store_and_the_source_is_only_read() {
    let rig = Rig::new();
    let (source, target) = (rig.image("arm32v7"), format!("{}/team/fixed:1", rig.registry.host()));
    // Its manifest goes along as it is, so the digest is the same wherever a store keeps manifests.
    for to in ["oci:out:1", "docker-archive:out.tar:team/fixed:1", &target] {
        let ran = rig.fix(&["--output", to]).exits(0).prints(rig.right.digest());
        assert!(ran.stderr.contains("label linux/amd64 -> linux/arm/v7"), "{ran}");
        rig.fix(&["--output", to]).exits(0).prints(rig.right.digest()).says("nothing to do in");
        let json = rig.user.config_patcher(&["inspect", to, "--format", "json"]).exits(0).json();
        assert_eq!(
            (&json["digest"], &json["images"][0]["label"]["variant"]),
            (&rig.right.digest().into(), &"v7".into())
        );
        assert_eq!(rig.named("arm32v7").as_deref(), Some(rig.wrong.digest()));
    }
    let layout = OciLayout::open(&rig.user.path("out")).unwrap();
    assert_eq!(check(&layout, &tag("1"), Depth::Layers), []);
    rig.registry.closure_complete("team/fixed", rig.right.digest()).unwrap();
    assert!(
        !rig.registry.has_blob("team/fixed", &rig.wrong.config_digest()),
        "the wrong config stays behind"
    );
    assert_eq!(rig.registry.count("PUT", |path| path.starts_with("/v2/team/app/")), 0);
    // Within one registry layers are mounted, not sent.
    let sent: u64 =
        rig.registry.log().iter().filter(|l| l.path.contains("/blobs/")).map(|l| l.request_bytes).sum();
    assert_eq!(sent, rig.right.config.len() as u64);

    // A classic archive's image, whose manifest is made by us, into a registry and back.
    rig.user.write("app.tar", rig.wrong.classic_archive("team/app:1"));
    let to = format!("{}/team/saved:1", rig.registry.host());
    let args = ["fix", "docker-archive:app.tar", "--platform", "linux/arm/v7", "--output", &to];
    let ran = rig.user.config_patcher(&args).exits(0);
    assert_eq!(rig.registry.tag("team/saved", "1").as_deref(), Some(ran.line()));
    rig.registry.closure_complete("team/saved", ran.line()).unwrap();
    let args = ["fix", &source, "--platform", "linux/arm/v7", "--output", &to, "--tag", "x"];
    rig.user.config_patcher(&args).exits(2);
    rig.is_sound();
}

/// A right label keeps its digest: asked to go elsewhere, the very same image goes.
#[test]
fn a_right_image_is_copied_as_it_is() {
    let rig = Rig::new();
    let args = ["fix", &rig.image("arm32v7"), "--platform", "linux/amd64", "--output", "oci:out:1"];
    rig.user.config_patcher(&args).exits(0).prints(rig.wrong.digest());
    let layout = OciLayout::open(&rig.user.path("out")).unwrap();
    assert_eq!(layout.read_document(&tag("1")).unwrap(), rig.wrong.document);
}

#[test]
fn inspect_shows_label_and_entry_side_by_side_and_escapes_what_is_foreign() {
    let rig = Rig::new();
    let index = Index::attested(&[("linux/arm/v7", &rig.wrong)], Some(0));
    index.publish(&rig.registry, REPOSITORY, "latest");
    let ran = rig.user.config_patcher(&["inspect", &rig.image("latest")]).exits(0);
    assert!(
        ran.stdout.contains("the label differs from the index") && ran.stdout.contains("attests"),
        "{ran}"
    );
    let evil = rig.wrong.with_config(rig.wrong.config.replace("\"os\":\"linux\"", r#""os":"\u001b[31mred""#));
    evil.publish(&rig.registry, REPOSITORY, "evil");
    let ran = rig.user.config_patcher(&["inspect", &rig.image("evil")]);
    assert!(!ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'), "{ran}");
    let ran =
        rig.user.config_patcher(&["fix", &rig.image("evil"), "--platform", "linux/arm/v7", "--dry-run"]);
    assert!(!ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'), "{ran}");
}
