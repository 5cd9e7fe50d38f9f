//! End-to-end tests of manifest-push: specs, drafts, edits, copies and rollbacks.

use crate::samples::{Image, Index};
use crate::tools::{Ran, User, listing, run};
use image_model::digest::Digest;
use image_store::archive::DockerArchive;
use image_store::check::{CheckDepth, check};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use multiarch_tests::fake_registry::{Auth, Bearer, FakeRegistry, Options, When};
use std::path::Path;
use std::sync::Arc;

mod args;
mod budgets;
mod copies;
mod drafts;
mod drops;
mod edits;
mod local_names;
mod messages;
mod publishers;
mod rollback;
mod undone_fix;

const REPOSITORY: &str = "ckulka/multi-arch-example";
/// Tags and platforms of the images in the sample spec.
const MEMBERS: [(&str, &str); 4] = [
    ("amd64", "linux/amd64"),
    ("arm32v5", "linux/arm/v5"),
    ("arm32v7", "linux/arm/v7"),
    ("arm64v8", "linux/arm64/v8"),
];

/// A registry with the four images of the sample spec, and a user with this spec.
pub struct Rig {
    registry: Arc<FakeRegistry>,
    user: User,
    images: Vec<Image>,
    spec: String,
}

impl Rig {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let registry = Arc::new(FakeRegistry::start_with(options));
        let mut images = Vec::new();
        for (tag, platform) in MEMBERS {
            let image = Image::new(platform, tag);
            image.publish(&registry, REPOSITORY, tag);
            images.push(image);
        }
        let example =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/multi-arch-example");
        let spec = std::fs::read_to_string(example.join("multi-arch-manifest.yaml")).unwrap();
        // Only the host of the sample spec is changed.
        let spec = spec.replace("image: ckulka/", &format!("image: {}/ckulka/", registry.host()));
        let user = User::new();
        user.write("spec.yaml", &spec);
        Self { registry, user, images, spec }
    }

    fn push(&self, args: &[&str]) -> Ran {
        self.user.manifest_push(&[&["push", "from-spec", "spec.yaml"], args].concat())
    }

    fn digest_of_tag(&self, tag: &str) -> Option<String> {
        self.registry.tag(REPOSITORY, tag)
    }

    fn name(&self, tag: &str) -> String {
        format!("{}/{REPOSITORY}:{tag}", self.registry.host())
    }

    /// Returns the number of the line of the spec that contains this text, from 1.
    fn line(&self, text: &str) -> usize {
        self.spec.lines().position(|line| line.contains(text)).unwrap() + 1
    }

    fn edit(&mut self, from: &str, to: &str) {
        assert!(self.spec.contains(from), "{from} is not in the spec");
        self.spec = self.spec.replacen(from, to, 1);
        self.user.write("spec.yaml", &self.spec);
    }

    fn assert_nothing_written(&self) {
        let log = self.registry.log();
        assert!(log.iter().all(|l| matches!(l.method.as_str(), "GET" | "HEAD")), "{log:?}");
        assert_eq!(self.digest_of_tag("latest"), None);
    }

    fn assert_sound(&self) {
        assert_eq!(self.registry.violations(), [""; 0]);
        self.registry.closure_complete(REPOSITORY, &self.digest_of_tag("latest").unwrap()).unwrap();
        assert_eq!(self.registry.open_uploads(), 0);
    }
}

/// Returns the manifest list that manifest-tool pushes for the sample spec.
fn expected_list(images: &[Image]) -> String {
    let entry = |(image, (_, platform)): (&Image, &(&str, &str))| {
        let mut words = platform.split('/').skip(1);
        let architecture = words.next().unwrap();
        let variant =
            words.next().map_or(String::new(), |variant| format!(",\n        \"variant\": \"{variant}\""));
        format!(
            "    {{\n      \"mediaType\": \"application/vnd.docker.distribution.manifest.v2+json\",\n      \"size\": {},\n      \"digest\": \"{}\",\n      \"platform\": {{\n        \"architecture\": \"{architecture}\",\n        \"os\": \"linux\"{variant}\n      }}\n    }}",
            image.document.bytes().len(),
            image.digest(),
        )
    };
    let entries: Vec<String> = images.iter().zip(&MEMBERS).map(entry).collect();
    format!(
        "{{\n  \"schemaVersion\": 2,\n  \"mediaType\": \"application/vnd.docker.distribution.manifest.list.v2+json\",\n  \"manifests\": [\n{}\n  ]\n}}",
        entries.join(",\n")
    )
}

#[test]
fn from_spec_pushes_the_same_list_as_manifest_tool() {
    let rig = Rig::new();
    let expected = expected_list(&rig.images);
    let ran = rig.push(&[]).exits(0).prints(&format!(
        "Digest: {} {}",
        Digest::of(expected.as_bytes()),
        expected.len()
    ));
    let (media_type, bytes) = rig.registry.manifest(REPOSITORY, "latest").unwrap();
    assert_eq!(media_type, "application/vnd.docker.distribution.manifest.list.v2+json");
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    rig.assert_sound();
    // The only PUT is that of the tag, since the images are present.
    let written: Vec<_> =
        rig.registry.log().into_iter().filter(|l| !matches!(l.method.as_str(), "GET" | "HEAD")).collect();
    assert_eq!(written.len(), 1, "{written:?}");
    assert!(written[0].path.ends_with("/manifests/latest"));

    rig.registry.take_log();
    let again = rig.push(&[]).exits(0).assert_stderr_contains("nothing to do in");
    assert_eq!(again.line(), ran.line());
    assert!(rig.registry.log().iter().all(|l| matches!(l.method.as_str(), "GET" | "HEAD")));
}

#[test]
fn a_dry_run_prints_the_digest_and_writes_nothing() {
    let rig = Rig::new();
    let dry = rig.push(&["--dry-run"]).exits(0);
    rig.assert_nothing_written();
    let json = rig.push(&["--dry-run", "--format", "json"]).exits(0).json();
    assert_eq!((&json["changed"], &json["written"]), (&true.into(), &false.into()));
    rig.assert_nothing_written();
    assert_eq!(rig.push(&[]).exits(0).line(), dry.line());
    let json = rig.push(&["--format", "json"]).exits(0).json();
    assert_eq!(
        (&json["changed"], &json["written"], &json["bytes"]),
        (&false.into(), &false.into(), &0.into())
    );
    assert_eq!(Some(json["digest"].as_str().unwrap()), rig.digest_of_tag("latest").as_deref());
}

#[test]
fn an_oci_index_with_annotations_and_more_tags() {
    let mut rig = Rig::new();
    rig.edit("manifests:", "tags: [\"1.10\", latest, stable]\nannotations: { org.opencontainers.image.title: \"<app>\" }\nmanifests:");
    let arm = format!("{}\n", rig.name("arm32v7"));
    rig.edit(&arm, &format!("{arm}    annotations: {{ note: \"of one member\" }}\n"));
    rig.push(&[]).exits(3).assert_stderr_contains("--type oci");
    rig.assert_nothing_written();
    let args = ["push", "--type", "oci", "from-spec", "spec.yaml"];
    let json =
        rig.user.manifest_push(&[&args[..], &["--dry-run", "--format", "json"]].concat()).exits(0).json();
    let tags: Vec<&str> =
        json["tags"].as_array().unwrap().iter().map(|tag| tag["tag"].as_str().unwrap()).collect();
    assert_eq!(tags, ["latest", "1.10", "stable"], "latest occurs twice and is moved once");
    let ran = rig.user.manifest_push(&args).exits(0);
    let digest = ran.line().split(' ').nth(1).unwrap();
    for tag in ["latest", "1.10", "stable"] {
        assert_eq!(rig.digest_of_tag(tag).as_deref(), Some(digest));
    }
    let (media_type, bytes) = rig.registry.manifest(REPOSITORY, "stable").unwrap();
    assert_eq!(media_type, "application/vnd.oci.image.index.v1+json");
    let list: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(list["manifests"][2]["annotations"]["note"], "of one member");
    assert!(String::from_utf8(bytes).unwrap().contains(r#""\u003capp\u003e""#), "as Go's encoder writes it");
    rig.assert_sound();
}

#[test]
fn every_problem_of_a_spec_is_reported_with_its_line_and_nothing_is_written() {
    let mut rig = Rig::new();
    rig.edit("      variant: v5", "      varient: v5");
    rig.edit("      variant: v7\n", "");
    rig.edit(":arm64v8", ":missing");
    let ran = rig.push(&[]).exits(3);
    assert_eq!(ran.stdout, "");
    // Without their variants both are linux/arm.
    let problems = [
        format!("spec.yaml:{}: unknown key \"varient\"", rig.line("varient")),
        format!("spec.yaml:{}: duplicate platform linux/arm", rig.line(":arm32v7")),
        format!("spec.yaml:{}: cannot read \"{}\"", rig.line(":missing"), rig.name("missing")),
    ];
    for problem in &problems {
        assert!(ran.stderr.contains(problem), "{problem}: {ran}");
    }
    assert!(
        ran.stderr.contains("did you mean \"variant\"?") && ran.stderr.contains("nothing was written"),
        "{ran}"
    );
    rig.assert_nothing_written();
    let json = rig.push(&["--format", "json"]).exits(3).json();
    assert_eq!(json["error"]["problems"].as_array().unwrap().len(), 3, "{json}");
}

#[test]
fn a_missing_image_is_an_error_or_skipped_on_request() {
    let mut rig = Rig::new();
    rig.edit(":arm32v5", ":missing");
    let ran = rig.push(&[]).exits(5);
    assert!(ran.stderr.contains(&format!("spec.yaml:{}: ", rig.line(":missing"))), "{ran}");
    rig.assert_nothing_written();
    rig.push(&["--ignore-missing"])
        .exits(0)
        .assert_stderr_contains(&format!("skipped: spec.yaml:{}: ", rig.line(":missing")));
    let (_, bytes) = rig.registry.manifest(REPOSITORY, "latest").unwrap();
    let list: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(list["manifests"].as_array().unwrap().len(), 3);
    rig.assert_sound();
}

#[test]
fn only_missing_images_are_skipped_not_unreachable_ones() {
    let mut rig = Rig::new();
    let name = rig.name("arm32v5");
    rig.edit(&name, "127.0.0.1:1/team/app:x");
    rig.push(&["--ignore-missing"]).exits(6);
    rig.assert_nothing_written();
    let rig = Rig::with(Options {
        auth: Auth::Bearer(Bearer { anonymous_pull: false, ..Bearer::new("a", "b") }),
        ..Options::default()
    });
    rig.push(&["--ignore-missing"]).exits(4);
    rig.assert_nothing_written();
    let mut rig = Rig::new();
    for (tag, _) in MEMBERS {
        rig.edit(&format!(":{tag}"), ":missing");
    }
    rig.push(&["--ignore-missing"]).exits(3).assert_stderr_contains("no image is left");
    rig.assert_nothing_written();
}

#[test]
fn an_image_that_declares_another_platform_is_refused_with_the_command_that_fixes_it() {
    let rig = Rig::new();
    let wrong = Image::new("linux/amd64", "arm's own");
    wrong.publish(&rig.registry, REPOSITORY, "arm32v7");
    let ran = rig.push(&[]).exits(3);
    let line = rig.line(":arm32v7");
    let command = format!("config-patcher fix {} --set-platform linux/arm/v7", rig.name("arm32v7"));
    assert!(ran.stderr.contains(&format!("spec.yaml:{line}: ")) && ran.stderr.contains(&command), "{ran}");
    rig.assert_nothing_written();
    // Together with missing images, so that one run reports all problems.
    let both = rig.spec.replacen(":arm32v5", ":missing", 1);
    rig.user.write("both.yaml", both);
    rig.user
        .manifest_push(&["push", "from-spec", "both.yaml"])
        .exits(3)
        .assert_stderr_contains(&command)
        .assert_stderr_contains(&rig.name("missing"))
        .assert_stderr_contains("2 errors");
    rig.assert_nothing_written();
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    rig.user.config_patcher(&words).exits(0);
    rig.push(&[]).exits(0);
    rig.assert_sound();
}

#[test]
fn an_index_does_not_replace_a_single_image() {
    let rig = Rig::new();
    let image = Image::new("linux/amd64", "somebody's own");
    image.publish(&rig.registry, REPOSITORY, "latest");
    rig.push(&[])
        .exits(3)
        .assert_stderr_contains("the tag refers to a single image")
        .assert_stderr_contains("--force");
    assert_eq!(rig.digest_of_tag("latest").as_deref(), Some(image.digest()));
    rig.push(&["--force"])
        .exits(0)
        .assert_stderr_contains("warning:")
        .assert_stderr_contains("refers to a single image");
    assert_ne!(rig.digest_of_tag("latest").as_deref(), Some(image.digest()));
    rig.assert_sound();
}

#[test]
fn a_tag_that_another_client_moved_is_not_overwritten() {
    let rig = Rig::new();
    let theirs = Index::of(&[("linux/amd64", &rig.images[0])]);
    theirs.publish(&rig.registry, REPOSITORY, "theirs");
    let (registry, digest) = (Arc::downgrade(&rig.registry), theirs.digest().to_string());
    let seen = std::sync::atomic::AtomicUsize::new(0);
    rig.registry.on_request(move |request, when| {
        // The plan reads the tag first; it is resolved again together with the configs.
        let is_look = request.method == "GET" && request.path.ends_with("/latest") && when == When::After;
        if is_look && seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            registry.upgrade().unwrap().set_tag(REPOSITORY, "latest", &digest);
        }
    });
    rig.push(&[]).exits(8).assert_stderr_contains(theirs.digest());
    assert_eq!(rig.digest_of_tag("latest").as_deref(), Some(theirs.digest()));
    rig.push(&[]).exits(0);
    rig.assert_sound();
}

/// Members from other repositories of the registry are mounted: no byte of a layer is sent.
#[test]
fn members_of_other_repositories_are_mounted() {
    let mut rig = Rig::new();
    let index = format!("image: {}", rig.name("latest"));
    rig.edit(&index, &format!("image: {}/team/all:latest", rig.registry.host()));
    let ran = rig.push(&[]).exits(0);
    let digest = ran.line().split(' ').nth(1).unwrap();
    rig.registry.closure_complete("team/all", digest).unwrap();
    let log = rig.registry.log();
    let blobs: Vec<_> = log.iter().filter(|l| l.path.contains("/blobs/") && l.method != "HEAD").collect();
    assert_eq!(
        blobs.iter().filter(|l| l.path.contains("mount=") && l.status == Some(201)).count(),
        8,
        "{blobs:?}"
    );
    assert_eq!(
        blobs.iter().filter(|l| l.path.contains("/team/all/") && l.request_bytes > 0).count(),
        0,
        "{blobs:?}"
    );
    assert_eq!(rig.registry.violations(), [""; 0]);
    let put: Vec<&str> =
        log.iter().filter(|l| l.method == "PUT").map(|l| l.path.rsplit('/').next().unwrap()).collect();
    assert_eq!((put.len(), put.last()), (5, Some(&"latest")), "members first, by digest: {put:?}");
}

#[test]
fn blobs_are_copied_if_the_registry_does_not_mount() {
    let mut rig = Rig::with(Options { mounts: false, ..Options::default() });
    let index = format!("image: {}", rig.name("latest"));
    rig.edit(&index, &format!("image: {}/team/all:latest", rig.registry.host()));
    let ran = rig.push(&[]).exits(0);
    rig.registry.closure_complete("team/all", ran.line().split(' ').nth(1).unwrap()).unwrap();
    assert_eq!((rig.registry.violations(), rig.registry.open_uploads()), (vec![], 0));
}

#[test]
fn inspect_shows_members_and_stored_bytes() {
    let rig = Rig::new();
    rig.push(&[]).exits(0);
    let bytes = rig.user.manifest_push(&["inspect", "--bytes", &rig.name("latest")]).exits(0);
    assert_eq!(bytes.stdout, expected_list(&rig.images));
    let text = rig.user.manifest_push(&["inspect", &rig.name("latest")]).exits(0).stdout;
    for (image, (_, platform)) in rig.images.iter().zip(MEMBERS) {
        assert!(
            text.lines().any(|line| line.starts_with(platform) && line.contains(image.digest())),
            "{text}"
        );
    }
    let json = rig.user.manifest_push(&["inspect", "--format", "json", &rig.name("latest")]).exits(0).json();
    assert_eq!(json["members"].as_array().unwrap().len(), 4);
    assert_eq!(json["size"], expected_list(&rig.images).len());
    rig.user.manifest_push(&["inspect", &rig.name("none")]).exits(5);
    rig.user.manifest_push(&["push", "from-spec", "none.yaml"]).exits(5);
    rig.user.manifest_push(&["push", "from-args"]).exits(2);
}
