//! An index as BuildKit pushes it, with provenance and an SBOM for each of three platforms, two of them mislabeled.
//!
//! The bytes are laid out as BuildKit 0.12 and later write them (two spaces, keys in the order of Go's structs), both
//! with attestation manifests of the old kind and with those that name a subject (`oci-artifact=true`, 0.24).

use crate::tools::User;
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, ParsedDocument, media_type};
use image_store::archive::DockerArchive;
use image_store::check::{CheckDepth, check};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, ImageStore, Pointer};
use multiarch_tests::fake_registry::{FakeRegistry, Options};
use multiarch_tests::{need, world};
use std::process::Command;

const PLATFORMS: [(&str, &str); 3] = [("amd64", ""), ("arm", "v7"), ("arm64", "")];
const IN_TOTO: &str = "application/vnd.in-toto+json";

/// Blobs, and documents in the order in which they can be written, the index last.
struct Pushed {
    blobs: Vec<(&'static str, Vec<u8>)>,
    documents: Vec<Document>,
}

fn blob_text(blob: &Descriptor, more: &str) -> String {
    let Descriptor { media_type, digest, size, .. } = blob;
    format!(
        "{{\n      \"mediaType\": \"{media_type}\",\n      \"digest\": \"{digest}\",\n      \"size\": {size}{more}\n    }}"
    )
}

fn manifest(head: &str, config: &str, layers: &[String], tail: &str) -> Document {
    let text = format!(
        "{{\n  \"schemaVersion\": 2,\n  \"mediaType\": \"{}\",\n{head}  \"config\": {},\n  \"layers\": [\n    {}\n  ]{tail}\n}}",
        media_type::OCI_MANIFEST,
        config.replace("\n  ", "\n"),
        layers.join(",\n    ")
    );
    Document::new(text.into_bytes(), None).unwrap()
}

impl Pushed {
    fn new(as_artifacts: bool) -> Self {
        let mut pushed = Self { blobs: Vec::new(), documents: Vec::new() };
        let (mut images, mut attestations) = (Vec::new(), Vec::new());
        for (architecture, variant) in PLATFORMS {
            let image = pushed.image(architecture);
            let attestation = pushed.attestation(architecture, &image, as_artifacts);
            let variant = if variant.is_empty() {
                String::new()
            } else {
                format!(",\n        \"variant\": \"{variant}\"")
            };
            images.push(entry(&image, "", architecture, "linux", &variant));
            let annotations = format!(
                "\n      \"annotations\": {{\n        \"vnd.docker.reference.digest\": \"{}\",\n        \"vnd.docker.reference.type\": \"attestation-manifest\"\n      }},",
                image.digest()
            );
            attestations.push(entry(&attestation, &annotations, "unknown", "unknown", ""));
        }
        let text = format!(
            "{{\n  \"schemaVersion\": 2,\n  \"mediaType\": \"{}\",\n  \"manifests\": [\n    {}\n  ]\n}}",
            media_type::OCI_INDEX,
            [images, attestations].concat().join(",\n    ")
        );
        pushed.documents.push(Document::new(text.into_bytes(), None).unwrap());
        pushed
    }

    fn blob(&mut self, media_type: &'static str, bytes: Vec<u8>) -> Descriptor {
        let blob = Descriptor::of(media_type, &bytes);
        self.blobs.push((media_type, bytes));
        blob
    }

    /// Declares amd64, as the image in `FROM` of the build does.
    fn image(&mut self, of: &str) -> Document {
        let layer = self.blob(media_type::OCI_LAYER, crate::samples::layer(of));
        let config = format!(
            r#"{{"architecture":"amd64","config":{{"Env":["PATH=/bin"],"Cmd":["/app"]}},"created":"2024-05-01T10:00:00.123456789Z","history":[{{"created_by":"COPY app / \u0026\u0026 true # buildkit","comment":"buildkit.dockerfile.v0"}}],"moby.buildkit.buildinfo.v1":"e30=","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            layer.digest
        );
        let config = self.blob(media_type::OCI_CONFIG, config.into_bytes());
        let document = manifest("", &blob_text(&config, ""), &[blob_text(&layer, "")], "");
        self.documents.push(document.clone());
        document
    }

    fn attestation(&mut self, of: &str, image: &Document, as_artifact: bool) -> Document {
        let statement = |kind: &str| {
            format!(
                r#"{{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"{kind}","subject":[{{"name":"pkg:docker/app@1?platform=linux%2F{of}","digest":{{"sha256":"{}"}}}}],"predicate":{{"n":1.50}}}}"#,
                image.digest().hex()
            )
        };
        let mut layers = Vec::new();
        for kind in ["https://spdx.dev/Document", "https://slsa.dev/provenance/v0.2"] {
            let blob = self.blob(IN_TOTO, statement(kind).into_bytes());
            let annotations = format!(
                ",\n      \"annotations\": {{\n        \"in-toto.io/predicate-type\": \"{kind}\"\n      }}"
            );
            layers.push((blob, annotations));
        }
        let texts: Vec<String> = layers.iter().map(|(blob, more)| blob_text(blob, more)).collect();
        let document = if as_artifact {
            let empty = self.blob("application/vnd.oci.empty.v1+json", b"{}".to_vec());
            let subject = blob_text(&image.descriptor(), "").replace("\n  ", "\n");
            manifest(
                "  \"artifactType\": \"application/vnd.docker.attestation.manifest.v1+json\",\n",
                &blob_text(&empty, ",\n      \"data\": \"e30=\""),
                &texts,
                &format!(",\n  \"subject\": {subject}"),
            )
        } else {
            let ids: Vec<String> = layers.iter().map(|(blob, _)| format!("\"{}\"", blob.digest)).collect();
            let config = format!(
                r#"{{"architecture":"unknown","os":"unknown","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
                ids.join(",")
            );
            let config = self.blob(media_type::OCI_CONFIG, config.into_bytes());
            manifest("", &blob_text(&config, ""), &texts, "")
        };
        self.documents.push(document.clone());
        document
    }

    fn index(&self) -> &Document {
        self.documents.last().unwrap()
    }

    fn store(&self, store: &dyn ImageStore, tag: &str) {
        for (kind, bytes) in &self.blobs {
            let blob = Descriptor::of(kind, bytes);
            store.write_blob(&blob, &|| Ok(Box::new(bytes.as_slice()))).unwrap();
        }
        for document in &self.documents {
            store.write_document(document).unwrap();
        }
        store.write_tag(tag, self.index()).unwrap();
    }

    fn publish(&self, registry: &FakeRegistry, repository: &str, tag: &str) {
        for (_, bytes) in &self.blobs {
            registry.put_blob(repository, bytes);
        }
        for document in &self.documents {
            let digest = document.digest().as_str();
            registry.put_manifest(repository, digest, document.media_type(), document.bytes());
        }
        registry.set_tag(repository, tag, self.index().digest().as_str());
    }
}

fn entry(document: &Document, annotations: &str, architecture: &str, os: &str, variant: &str) -> String {
    let Descriptor { media_type, digest, size, .. } = document.descriptor();
    format!(
        "{{\n      \"mediaType\": \"{media_type}\",\n      \"digest\": \"{digest}\",\n      \"size\": {size},{annotations}\n      \"platform\": {{\n        \"architecture\": \"{architecture}\",\n        \"os\": \"{os}\"{variant}\n      }}\n    }}"
    )
}

fn entries(index: &Document) -> Vec<Descriptor> {
    match index.parse().unwrap() {
        ParsedDocument::Index(index) => index.manifests,
        ParsedDocument::Manifest(_) => panic!("an image took the index's place"),
    }
}

/// The texts of the index's entries, byte for byte.
fn texts(index: &Document) -> Vec<String> {
    let text = String::from_utf8(index.bytes().to_vec()).unwrap();
    let list = text.split_once("\"manifests\": [\n    ").unwrap().1;
    list.strip_suffix("\n  ]\n}")
        .unwrap()
        .split(",\n    {\n      \"mediaType\"")
        .map(str::to_string)
        .collect()
}

/// Exactly two images changed, their attestations refer to the new ones, and amd64 and its attestation are unchanged.
fn assert_fixed(before: &Pushed, store: &dyn ImageSource, tag: &str, as_artifacts: bool) {
    let now = store.read_document(&Pointer::Tag(tag.into())).unwrap();
    let (old, new) = (entries(before.index()), entries(&now));
    let changed: Vec<usize> = (0..6).filter(|i| old[*i].digest != new[*i].digest).collect();
    // An attestation manifest with a subject changes when its subject changes.
    let expected: &[usize] = if as_artifacts { &[1, 2, 4, 5] } else { &[1, 2] };
    assert_eq!(changed, expected);
    for i in [0, 3] {
        assert_eq!(texts(before.index())[i], texts(&now)[i], "amd64 and its attestation stay byte for byte");
    }
    for i in 0..3 {
        assert_eq!(new[i + 3].attested_digest(), Some(new[i].digest.as_str()), "each refers to a member");
        assert_eq!(new[i].platform, old[i].platform);
        let attestation = store.read_document(&Pointer::from(&new[i + 3].digest)).unwrap();
        let ParsedDocument::Manifest(parsed) = attestation.parse().unwrap() else { panic!("an index") };
        assert_eq!(parsed.subject.is_some(), as_artifacts);
        if let Some(subject) = parsed.subject {
            assert_eq!((subject.digest, subject.size), (new[i].digest.clone(), new[i].size));
        }
        // Signed statements are not changed.
        let was = String::from_utf8(before.documents[2 * i + 1].bytes().to_vec()).unwrap();
        let subject_at = was.find("\"subject\"").unwrap_or(was.len());
        assert!(attestation.bytes()[..subject_at] == was.as_bytes()[..subject_at]);
    }
    let problems = check(store, &Pointer::Tag(tag.into()), CheckDepth::Layers);
    assert_eq!(problems, []);
}

#[test]
fn two_of_three_images_are_fixed_and_every_attestation_refers_to_its_image() {
    for as_artifacts in [false, true] {
        let pushed = Pushed::new(as_artifacts);
        let user = User::new();
        let layout = OciLayout::open_or_create(&user.path("images")).unwrap();
        pushed.store(&layout, "1");
        pushed.store(&DockerArchive::open_or_create(&user.path("app.tar")).unwrap(), "app:1");
        let registry = FakeRegistry::start_with(Options { referrers: true, ..Options::default() });
        pushed.publish(&registry, "team/app", "1");
        let remote = format!("{}/team/app:1", registry.host());
        let mut digests = Vec::new();
        for image in ["oci:images:1", "docker-archive:app.tar", &remote] {
            let fix = |args: &[&str]| user.config_patcher(&[&["fix", image, "--from-index"], args].concat());
            fix(&["--check"]).exits(1);
            let ran = fix(&[])
                .exits(0)
                .assert_stderr_contains("linux/arm/v7: declared platform linux/amd64 -> linux/arm/v7");
            assert_eq!(ran.stderr.matches("note: attestation").count(), 2, "{ran}");
            assert!(
                !ran.stderr.contains("note: referrer"),
                "attestations of the index are no strangers: {ran}"
            );
            digests.push(ran.line().to_string());
            let json = fix(&["--format", "json"]).exits(0).json();
            assert_eq!(json["changed"], false);
        }
        assert_fixed(&pushed, &layout, "1", as_artifacts);
        assert_fixed(
            &pushed,
            &DockerArchive::open(&user.path("app.tar"), None).unwrap(),
            "app:1",
            as_artifacts,
        );
        registry.closure_complete("team/app", &digests[2]).unwrap();
        assert_eq!(registry.tag("team/app", "1").as_ref(), Some(&digests[2]));
        let (_, bytes) = registry.manifest("team/app", "1").unwrap();
        assert_eq!(Digest::of(&bytes), *layout.read_document(&Pointer::Tag("1".into())).unwrap().digest());
        assert_eq!(registry.violations(), [""; 0]);
    }
}

#[test]
fn skopeo_reads_each_platform_of_a_fixed_index() {
    need!(world::require(&["skopeo"]));
    let pushed = Pushed::new(false);
    let user = User::new();
    let layout = OciLayout::open_or_create(&user.path("images")).unwrap();
    pushed.store(&layout, "1");
    user.config_patcher(&["fix", "oci:images:1", "--from-index"]).exits(0);
    for (architecture, variant) in PLATFORMS {
        let mut skopeo = Command::new(world::program("skopeo").unwrap());
        skopeo.args(["--override-arch", architecture, "--override-variant", variant, "inspect", "--config"]);
        let seen = skopeo.arg(format!("oci:{}:1", user.path("images").display())).output().unwrap();
        assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
        let config: serde_json::Value = serde_json::from_slice(&seen.stdout).unwrap();
        assert_eq!(config["architecture"], architecture);
        assert_eq!(config["variant"].as_str().unwrap_or_default(), variant);
    }
}
