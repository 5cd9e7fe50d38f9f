//! Sample images, byte for byte as builders write them, for any store.

use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, media_type};
use image_store::plan::{MovedTag, WantedImage, apply, plan};
use image_store::store::memory::MemoryStore;
use image_store::store::{ImageSource, ImageStore, Pointer};
use image_store::tree::read_tree;
use multiarch_tests::fake_registry::FakeRegistry;
use registry_client::meter::Meter;
use std::sync::Arc;

/// One image in Docker's media types, with config keys that are in no specification.
#[derive(Clone)]
pub struct Image {
    pub layer: Vec<u8>,
    pub config: String,
    pub document: Document,
}

impl Image {
    /// `declared` as `OS/ARCHITECTURE[/VARIANT]`; `text` is the content of the layer.
    pub fn new(declared: &str, text: &str) -> Self {
        let layer = layer(text);
        let mut words = declared.split('/');
        let (os, architecture) = (words.next().unwrap(), words.next().unwrap());
        let variant = words.next().map_or(String::new(), |variant| format!(r#","variant":"{variant}""#));
        // In the format of Docker, with details that serialization would change: order, escapes, the number 1.50.
        let config = format!(
            r#"{{"architecture":"{architecture}","config":{{"Cmd":["/app"],"StopTimeout":1.50}},"container_config":{{"Hostname":"\u003cbuild\u003e"}},"docker_version":"20.10.24", "moby.buildkit.cache.v0":123456789012345678901234567890,"os":"{os}","rootfs":{{"type":"layers","diff_ids":["{}"]}}{variant}}}"#,
            Digest::of(&layer)
        );
        Self::of(layer, config)
    }

    fn of(layer: Vec<u8>, config: String) -> Self {
        let config_blob = Descriptor::of(media_type::DOCKER_CONFIG, config.as_bytes());
        let layer_blob = Descriptor::of(media_type::DOCKER_LAYER, &layer);
        let document = manifest(media_type::DOCKER_MANIFEST, &config_blob, &layer_blob);
        Self { layer, config, document }
    }

    /// Returns the same image with another config.
    pub fn with_config(&self, config: String) -> Self {
        Self::of(self.layer.clone(), config)
    }

    /// Returns the image that declares this platform instead of amd64, with the key order of Docker.
    pub fn relabeled(&self, architecture: &str, variant: &str) -> Self {
        let config = self.config.strip_prefix(r#"{"architecture":"amd64","#).unwrap();
        let config = config.strip_suffix('}').unwrap();
        self.with_config(format!(r#"{{"architecture":"{architecture}",{config},"variant":"{variant}"}}"#))
    }

    pub fn digest(&self) -> &str {
        self.document.digest().as_str()
    }

    pub fn layer_digest(&self) -> String {
        Digest::of(&self.layer).to_string()
    }

    pub fn config_digest(&self) -> String {
        Digest::of(self.config.as_bytes()).to_string()
    }

    /// Stores the image in a registry, with a tag.
    pub fn publish(&self, registry: &FakeRegistry, repository: &str, tag: &str) {
        registry.put_blob(repository, &self.layer);
        registry.put_blob(repository, self.config.as_bytes());
        registry.put_manifest(repository, tag, self.document.media_type(), self.document.bytes());
    }

    fn add_to(&self, store: &MemoryStore) {
        store.add_blob(media_type::DOCKER_LAYER, &self.layer);
        store.add_blob(media_type::DOCKER_CONFIG, self.config.as_bytes());
        store.write_document(&self.document).unwrap();
    }
}

/// Returns a manifest with Docker's indentation of three spaces.
fn manifest(kind: &str, config: &Descriptor, layer: &Descriptor) -> Document {
    let part = |blob: &Descriptor| {
        let Descriptor { media_type, digest, size, .. } = blob;
        format!(
            "{{\n      \"mediaType\": \"{media_type}\",\n      \"size\": {size},\n      \"digest\": \"{digest}\"\n   }}"
        )
    };
    let text = format!(
        "{{\n   \"schemaVersion\": 2,\n   \"mediaType\": \"{kind}\",\n   \"config\": {},\n   \"layers\": [{}]\n}}",
        part(config),
        part(layer)
    );
    Document::new(text.into_bytes(), None).unwrap()
}

/// Returns a layer with one file.
pub fn layer(text: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append_data(&mut header, "app", text.as_bytes()).unwrap();
    builder.into_inner().unwrap()
}

/// An index with its members.
#[derive(Clone)]
pub struct Index {
    pub members: Vec<Image>,
    pub document: Document,
}

impl Index {
    /// Returns an index of these members with their index platforms.
    pub fn of(members: &[(&str, &Image)]) -> Self {
        Self::attested(members, None)
    }

    /// Returns an index with an attestation for the member at this position, in the format of BuildKit.
    pub fn attested(members: &[(&str, &Image)], attested: Option<usize>) -> Self {
        let mut entries: Vec<String> =
            members.iter().map(|(platform, image)| entry(platform, &image.document, "")).collect();
        let mut images: Vec<Image> = members.iter().map(|(_, image)| (*image).clone()).collect();
        if let Some(at) = attested {
            let attestation = Image::new("unknown/unknown", "an in-toto statement");
            let annotations = format!(
                r#","annotations":{{"vnd.docker.reference.digest":"{}","vnd.docker.reference.type":"attestation-manifest"}}"#,
                members[at].1.digest()
            );
            entries.push(entry("unknown/unknown", &attestation.document, &annotations));
            images.push(attestation);
        }
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#,
            media_type::OCI_INDEX,
            entries.join(",\n ")
        );
        Self { members: images, document: Document::new(text.into_bytes(), None).unwrap() }
    }

    /// Returns an index of these images, followed by this index as a nested one.
    pub fn within(&self, beside: &[(&str, &Image)]) -> Document {
        let mut entries: Vec<serde_json::Value> = beside
            .iter()
            .map(|(platform, image)| serde_json::from_str(&entry(platform, &image.document, "")).unwrap())
            .collect();
        entries.push(serde_json::to_value(self.document.descriptor()).unwrap());
        let text = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries,
        });
        Document::new(text.to_string().into_bytes(), None).unwrap()
    }

    pub fn digest(&self) -> &str {
        self.document.digest().as_str()
    }

    pub fn publish(&self, registry: &FakeRegistry, repository: &str, tag: &str) {
        for member in &self.members {
            member.publish(registry, repository, member.digest());
        }
        registry.put_manifest(repository, tag, self.document.media_type(), self.document.bytes());
    }

    /// Stores the index in memory with the tag `x`.
    fn in_memory(&self) -> MemoryStore {
        let store = MemoryStore::new();
        for member in &self.members {
            member.add_to(&store);
        }
        store.write_tag("x", &self.document).unwrap();
        store
    }

    /// Writes it to a store with a tag.
    pub fn store(&self, target: &dyn ImageStore, tag: &str) {
        put(self.in_memory(), target, tag);
    }
}

fn entry(platform: &str, document: &Document, more: &str) -> String {
    let mut words = platform.split('/');
    let (os, architecture) = (words.next().unwrap(), words.next().unwrap());
    let variant = words.next().map_or(String::new(), |variant| format!(r#","variant":"{variant}""#));
    format!(
        r#"{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"architecture":"{architecture}","os":"{os}"{variant}}}{more}}}"#,
        document.media_type(),
        document.digest(),
        document.bytes().len()
    )
}

impl Image {
    /// Writes it to a store with a tag.
    pub fn store(&self, target: &dyn ImageStore, tag: &str) {
        let store = MemoryStore::new();
        self.add_to(&store);
        store.write_tag("x", &self.document).unwrap();
        put(store, target, tag);
    }

    /// The output of `docker save` of Docker 20.10: no manifest, layers as plain tars.
    pub fn classic_archive(&self, name: &str) -> Vec<u8> {
        let id = self.config_digest()["sha256:".len()..].to_string();
        let list = format!(r#"[{{"Config":"{id}.json","RepoTags":["{name}"],"Layers":["abc/layer.tar"]}}]"#);
        let members: [(&str, &[u8]); 3] = [
            ("abc/layer.tar", &self.layer),
            (&format!("{id}.json"), self.config.as_bytes()),
            ("manifest.json", list.as_bytes()),
        ];
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, path, content).unwrap();
        }
        builder.into_inner().unwrap()
    }
}

fn put(source: MemoryStore, target: &dyn ImageStore, tag: &str) {
    let node = read_tree(&source, &Pointer::Tag("x".into())).unwrap();
    let source: Arc<dyn ImageSource> = Arc::new(source);
    let steps = plan(WantedImage::copy_of(&node, &source).unwrap(), target, &[tag.to_string()]).unwrap();
    apply(&steps, target, MovedTag::Refuse, &Meter::default(), &|_| {}).unwrap();
}
