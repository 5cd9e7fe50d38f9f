//! Referrers and cosign tags of an image that is fixed: reported, and copied with --carry-referrers.

use crate::samples::{Image, Index};
use crate::tools::{Ran, User};
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, media_type};
use image_store::open::Stores;
use image_store::referrers::{find_attached, tag_of};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, ImageStore, Pointer};
use image_store::subject::referrer_entry;
use multiarch_tests::fake_registry::{Act, FakeRegistry, Fault, Options, When};
use multiarch_tests::{need, world};
use registry_client::RegistryOptions;
use std::sync::Arc;

const REPOSITORY: &str = "team/app";
const SBOM: &str = "application/spdx+json";
const SIGNATURE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// A referrer as cosign and oras write it: an empty config, one layer, the subject last.
pub fn referrer(kind: &str, subject: &Document) -> Document {
    let empty = Descriptor::of("application/vnd.oci.empty.v1+json", b"{}");
    let layer = Descriptor::of(kind, b"about the image");
    let part = |blob: &Descriptor| serde_json::to_string(blob).unwrap();
    let text = format!(
        "{{\"schemaVersion\":2,\n \"mediaType\":\"{}\", \"artifactType\":\"{kind}\",\"config\":{},\"layers\":[{}],\"annotations\":{{\"n\":\"1.50\"}},\n \"subject\": {}}}",
        media_type::OCI_MANIFEST,
        part(&empty),
        part(&layer),
        part(&subject.descriptor())
    );
    Document::new(text.into_bytes(), None).unwrap()
}

/// The expected copy of a referrer: only digest and size of the subject change.
pub fn about(referrer: &Document, old: &Document, new: &Document) -> Document {
    let text = std::str::from_utf8(referrer.bytes()).unwrap();
    let part = |document: &Document| serde_json::to_string(&document.descriptor()).unwrap();
    assert!(text.contains(&part(old)));
    Document::new(text.replace(&part(old), &part(new)).into_bytes(), None).unwrap()
}

struct Rig {
    registry: Arc<FakeRegistry>,
    user: User,
    wrong: Image,
    right: Image,
    sbom: Document,
    /// The signature of the SBOM.
    signature: Document,
}

impl Rig {
    /// A registry with the referrers API, or one with the tag schema.
    fn new(by_store: bool) -> Self {
        let registry =
            Arc::new(FakeRegistry::start_with(Options { referrers: by_store, ..Options::default() }));
        let wrong = Image::new("linux/amd64", "arm's own");
        wrong.publish(&registry, REPOSITORY, "1");
        let sbom = referrer(SBOM, &wrong.document);
        let signature = referrer(SIGNATURE, &sbom);
        for (referrer, subject) in [(&sbom, &wrong.document), (&signature, &sbom)] {
            put_referrer(&registry, referrer, subject);
            if by_store {
                registry.delete_tag(REPOSITORY, &tag_of(subject.digest()));
            }
        }
        Self { registry, user: User::new(), right: wrong.relabeled("arm", "v7"), wrong, sbom, signature }
    }

    fn fix(&self, args: &[&str]) -> Ran {
        let image = format!("{}/{REPOSITORY}:1", self.registry.host());
        self.user.config_patcher(&[&["fix", &image, "--set-platform", "linux/arm/v7"], args].concat())
    }

    fn carried(&self) -> [Document; 2] {
        let sbom = about(&self.sbom, &self.wrong.document, &self.right.document);
        let signature = about(&self.signature, &self.sbom, &sbom);
        [sbom, signature]
    }
}

/// Stores a referrer and its blobs, and lists it under the tag of its subject.
pub fn put_referrer(registry: &FakeRegistry, referrer: &Document, subject: &Document) {
    for blob in [&b"{}"[..], b"about the image"] {
        registry.put_blob(REPOSITORY, blob);
    }
    let digest = referrer.digest().as_str();
    registry.put_manifest(REPOSITORY, digest, referrer.media_type(), referrer.bytes());
    put_list(registry, subject.digest(), &[referrer]);
}

fn put_list(registry: &FakeRegistry, subject: &Digest, referrers: &[&Document]) {
    let list = list_of(referrers);
    registry.put_manifest(REPOSITORY, &tag_of(subject), list.media_type(), list.bytes());
}

fn list_of(referrers: &[&Document]) -> Document {
    let entries: Vec<Descriptor> =
        referrers.iter().map(|referrer| referrer_entry(referrer).unwrap()).collect();
    let list =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
    Document::new(list.to_string().into_bytes(), None).unwrap()
}

/// The digests in the index under the subject's tag; without one, of every manifest with this subject, like the API.
pub fn listed(registry: &FakeRegistry, subject: &Document) -> Vec<String> {
    let value = |bytes: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
    if let Some((_, bytes)) = registry.manifest(REPOSITORY, &tag_of(subject.digest())) {
        let list = value(bytes);
        return list["manifests"].as_array().unwrap().iter().map(|entry| text(&entry["digest"])).collect();
    }
    let belongs = |digest: &String| {
        let (_, bytes) = registry.manifest(REPOSITORY, digest).unwrap();
        value(bytes)["subject"]["digest"].as_str() == Some(subject.digest().as_str())
    };
    registry.manifests(REPOSITORY).into_iter().filter(belongs).collect()
}

#[test]
fn referrers_of_the_old_image_are_reported_and_kept() {
    for by_store in [true, false] {
        let rig = Rig::new(by_store);
        let old = rig.wrong.digest().replace(':', "-");
        for end in ["sig", "att", "sbom", "other"] {
            rig.registry.set_tag(REPOSITORY, &format!("{old}.{end}"), rig.sbom.digest().as_str());
        }
        let ran = rig
            .fix(&["--check"])
            .exits(1)
            .assert_stderr_contains(rig.sbom.digest().as_str())
            .assert_stderr_contains(SBOM);
        assert!(
            !ran.stderr.contains(rig.signature.digest().as_str()),
            "the signature is not a referrer of the image: {ran}"
        );
        let json = rig.fix(&["--dry-run", "--format", "json"]).exits(0).json();
        let done = rig.fix(&["--format", "json"]).exits(0).assert_stderr_contains("--carry-referrers");
        for json in [json, done.json()] {
            let expected = serde_json::json!([{
                "subject": rig.wrong.digest(), "was": rig.sbom.digest(), "now": null, "artifactType": SBOM,
            }]);
            assert_eq!(json["referrers"], expected);
            let tags: Vec<_> = json["signatureTags"].as_array().unwrap().iter().map(|t| &t["tag"]).collect();
            assert_eq!(tags, [&format!("{old}.sig"), &format!("{old}.att"), &format!("{old}.sbom")]);
        }
        assert!(done.stderr.contains(&format!("tag {old}.sig belongs to {}", rig.wrong.digest())), "{done}");
        assert_eq!(listed(&rig.registry, &rig.right.document), [""; 0]);
        assert_eq!(rig.registry.violations(), [""; 0]);
    }
}

#[test]
fn referrers_are_copied_recursively_with_two_values_changed() {
    for by_store in [true, false] {
        let rig = Rig::new(by_store);
        let [sbom, signature] = rig.carried();
        let promised = rig.fix(&["--carry-referrers", "--dry-run"]).exits(0);
        for digest in [sbom.digest(), signature.digest()] {
            assert!(promised.stderr.contains(&format!("referrer  {digest}")), "{promised}");
        }
        assert_eq!(promised.stderr.contains(&format!(":{}", tag_of(rig.right.document.digest()))), !by_store);
        let wrote =
            |registry: &FakeRegistry| registry.log().iter().any(|l| !matches!(&*l.method, "GET" | "HEAD"));
        assert!(!wrote(&rig.registry));
        rig.registry.take_log();

        let ran = rig.fix(&["--carry-referrers"]).exits(0).prints(rig.right.digest());
        assert!(ran.stderr.contains("still names the old image"), "{ran}");
        for document in [&sbom, &signature] {
            let (_, bytes) = rig.registry.manifest(REPOSITORY, document.digest().as_str()).unwrap();
            assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(document.bytes()));
        }
        let has_list = rig.registry.tag(REPOSITORY, &tag_of(rig.right.document.digest())).is_some();
        assert_eq!(has_list, !by_store, "the tag is for registries without the API");
        assert_eq!(listed(&rig.registry, &rig.right.document), [sbom.digest().as_str()]);
        assert_eq!(listed(&rig.registry, &sbom), [signature.digest().as_str()]);
        assert_eq!(
            listed(&rig.registry, &rig.wrong.document),
            [rig.sbom.digest().as_str()],
            "the old image keeps its referrers"
        );
        // The tag moves last, so that the new image is never without its referrers.
        let puts: Vec<String> =
            rig.registry.log().iter().filter(|l| l.method == "PUT").map(|l| l.path.clone()).collect();
        assert!(puts.last().unwrap().ends_with("/manifests/1"), "{puts:?}");
        assert_eq!(rig.registry.violations(), [""; 0]);
        rig.fix(&["--carry-referrers"]).exits(0).assert_stderr_contains("all platforms are correct");
    }
}

#[test]
fn a_concurrent_list_is_extended() {
    let rig = Rig::new(false);
    let [sbom, _] = rig.carried();
    let theirs = referrer("application/theirs", &rig.right.document);
    rig.registry.put_manifest(REPOSITORY, theirs.digest().as_str(), theirs.media_type(), theirs.bytes());
    // The list changes between the lookup and the write: it must be read again before it is written.
    let registry = Arc::downgrade(&rig.registry);
    let (list, tag, at) =
        (list_of(&[&theirs]), tag_of(rig.right.document.digest()), format!("/manifests/{}", sbom.digest()));
    rig.registry.on_request(move |request, when| {
        if request.method == "PUT" && request.path.ends_with(&at) && when == When::After {
            registry.upgrade().unwrap().put_manifest(REPOSITORY, &tag, list.media_type(), list.bytes());
        }
    });
    rig.fix(&["--carry-referrers"]).exits(0);
    assert_eq!(
        listed(&rig.registry, &rig.right.document),
        [theirs.digest().as_str(), sbom.digest().as_str()]
    );
}

#[test]
fn referrers_of_a_fixed_member_and_its_index_are_copied_and_those_of_other_members_are_kept() {
    let rig = Rig::new(true);
    let amd64 = Image::new("linux/amd64", "amd64's own");
    let index = Index::of(&[("linux/amd64", &amd64), ("linux/arm/v7", &rig.wrong)]);
    index.publish(&rig.registry, REPOSITORY, "both");
    let of_amd64 = referrer(SBOM, &amd64.document);
    let of_index = referrer(SIGNATURE, &index.document);
    for document in [&of_amd64, &of_index] {
        rig.registry.put_manifest(
            REPOSITORY,
            document.digest().as_str(),
            document.media_type(),
            document.bytes(),
        );
    }
    let image = format!("{}/{REPOSITORY}:both", rig.registry.host());
    let args = ["fix", &image, "--from-index", "--carry-referrers", "--format", "json"];
    let json = rig.user.config_patcher(&args).exits(0).json();
    let (_, bytes) = rig.registry.manifest(REPOSITORY, "both").unwrap();
    let now = Document::new(bytes, None).unwrap();
    assert_eq!(listed(&rig.registry, &now), [about(&of_index, &index.document, &now).digest().as_str()]);
    assert_eq!(listed(&rig.registry, &rig.right.document), [rig.carried()[0].digest().as_str()]);
    assert_eq!(listed(&rig.registry, &amd64.document), [of_amd64.digest().as_str()]);
    assert_eq!(json["referrers"].as_array().unwrap().len(), 3);
}

#[test]
fn a_layout_lists_referrers_by_entries_and_by_tags() {
    let user = User::new();
    let layout = OciLayout::open_or_create(&user.path("images")).unwrap();
    let wrong = Image::new("linux/amd64", "arm's own");
    let right = wrong.relabeled("arm", "v7");
    wrong.store(&layout, "1");
    for bytes in [&b"{}"[..], b"about the image"] {
        layout.add_blob("", bytes).unwrap();
    }
    // oras writes an entry in index.json, regctl lists it under a tag.
    let (sbom, signature) = (referrer(SBOM, &wrong.document), referrer(SIGNATURE, &wrong.document));
    layout.write_tag("sbom", &sbom).unwrap();
    layout.write_document(&signature).unwrap();
    layout.write_tag(&tag_of(wrong.document.digest()), &list_of(&[&signature])).unwrap();
    let fix = |args: &[&str]| {
        user.config_patcher(&[&["fix", "oci:images:1", "--set-platform", "linux/arm/v7"], args].concat())
    };
    fix(&["--dry-run"])
        .exits(0)
        .assert_stderr_contains(sbom.digest().as_str())
        .assert_stderr_contains(signature.digest().as_str());
    fix(&["--carry-referrers"]).exits(0);
    let found = find_attached(&layout, &[right.document.digest().clone()]).unwrap().remove(0).referrers;
    let found: Vec<&str> = found.iter().map(|entry| entry.digest.as_str()).collect();
    let expected = [&sbom, &signature].map(|document| about(document, &wrong.document, &right.document));
    assert_eq!(found, expected.each_ref().map(|document| document.digest().as_str()));
    assert!(layout.resolve(&Pointer::Tag("sbom".into())).unwrap().unwrap().digest == *sbom.digest());
    user.write("app.tar", wrong.classic_archive("app:1"));
    let args = ["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7", "--carry-referrers"];
    user.config_patcher(&args).exits(2).assert_stderr_contains("OCI layout");
}

/// More tags than fit in a page, and a registry that refuses to list tags: each tag is looked up.
#[test]
fn without_a_list_of_tags_each_is_looked_up() {
    for refused in [false, true] {
        let options = Options { tag_page: 1, ..Options::default() };
        let registry = Arc::new(FakeRegistry::start_with(options));
        let (wrong, user) = (Image::new("linux/amd64", "arm's own"), User::new());
        wrong.publish(&registry, REPOSITORY, "1");
        let sbom = referrer(SBOM, &wrong.document);
        put_referrer(&registry, &sbom, &wrong.document);
        let tag = format!("{}.att", wrong.digest().replace(':', "-"));
        registry.set_tag(REPOSITORY, &tag, sbom.digest().as_str());
        if refused {
            registry.fault(Fault::when(|request| request.path.contains("/tags/list"), Act::status(403)));
        }
        let image = format!("{}/{REPOSITORY}:1", registry.host());
        let args = ["fix", &image, "--set-platform", "linux/arm/v7", "--carry-referrers", "--format", "json"];
        let json = user.config_patcher(&args).exits(0).json();
        assert_eq!(json["signatureTags"][0]["tag"], tag);
        assert_eq!(json["referrers"][0]["was"], sbom.digest().as_str());
        // One page for the image and one for its SBOM.
        assert_eq!(registry.count("GET", |path| path.contains("/tags/list")), 2);
        assert_eq!(registry.count("HEAD", |path| path.ends_with(".sig")), 2);
    }
}

#[test]
fn a_fix_succeeds_with_a_warning_if_referrers_cannot_be_listed() {
    let rig = Rig::new(true);
    let refused = || Fault::when(|request| request.path.contains("/referrers/"), Act::status(403));
    rig.registry.fault(refused());
    let ran = rig.fix(&[]).exits(0).prints(rig.right.digest());
    assert!(ran.stderr.contains("referrers of the old image are unknown"), "{ran}");
    let rig = Rig::new(true);
    rig.registry.fault(refused());
    rig.fix(&["--carry-referrers"]).exits(4);
    assert_eq!(rig.registry.tag(REPOSITORY, "1").as_deref(), Some(rig.wrong.digest()));
}

/// Debian's docker-registry has no referrers API; skopeo reads the lists back.
#[test]
fn a_real_registry_without_the_api_gets_lists_under_tags() {
    need!(world::require(&["skopeo"]));
    let registry = need!(world::Registry::start());
    let user = User::new();
    let wrong = Image::new("linux/amd64", "arm's own");
    let right = wrong.relabeled("arm", "v7");
    let (sbom, name) = (referrer(SBOM, &wrong.document), format!("{}/{REPOSITORY}:1", registry.host()));
    let stores = Stores::new(RegistryOptions::default(), Default::default());
    let target = stores.target(&name.parse().unwrap()).unwrap().store;
    wrong.store(&*target, "1");
    for bytes in [&b"{}"[..], b"about the image"] {
        target.write_blob(&Descriptor::of("", bytes), &|| Ok(Box::new(bytes))).unwrap();
    }
    target.write_document(&sbom).unwrap();
    target.write_tag(&tag_of(wrong.document.digest()), &list_of(&[&sbom])).unwrap();
    let args = ["fix", &name, "--set-platform", "linux/arm/v7", "--carry-referrers"];
    user.config_patcher(&args).exits(0).prints(right.digest());
    let raw = |reference: &str| {
        let mut skopeo = std::process::Command::new(world::program("skopeo").unwrap());
        let image = format!("docker://{}/{REPOSITORY}{reference}", registry.host());
        let done = skopeo.args(["inspect", "--tls-verify=false", "--raw", &image]).output().unwrap();
        assert!(done.status.success(), "{image}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    let carried = about(&sbom, &wrong.document, &right.document);
    assert_eq!(raw(&format!("@{}", carried.digest())), carried.bytes());
    let list: serde_json::Value =
        serde_json::from_slice(&raw(&format!(":{}", tag_of(right.document.digest())))).unwrap();
    let entry = serde_json::to_value(referrer_entry(&carried).unwrap()).unwrap();
    assert_eq!(list["manifests"], serde_json::json!([entry]));
    assert_eq!(entry["artifactType"], SBOM);
}
