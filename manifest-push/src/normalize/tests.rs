use super::*;
use image_model::manifest::Descriptor;
use image_store::store::memory::MemoryStore;
use image_store::store::{ImageStore, Pointer};
use image_store::tree::read_sparse_tree;
use serde_json::json;

fn document(store: &MemoryStore, text: &str) -> Descriptor {
    let document = Document::new(text.as_bytes().to_vec(), None).unwrap();
    store.write_document(&document).unwrap();
    document.descriptor()
}

fn image(store: &MemoryStore, architecture: &str) -> Descriptor {
    let config = json!({"architecture": architecture, "os": "linux"}).to_string();
    let config = store.add_blob(media_type::OCI_CONFIG, config.as_bytes());
    document(store, &json!({"schemaVersion": 2, "config": config, "layers": []}).to_string())
}

fn entry(of: &Descriptor, more: &str) -> String {
    let kind =
        if media_type::is_index(&of.media_type) { media_type::OCI_INDEX } else { media_type::OCI_MANIFEST };
    format!(
        "{{\"x\" : 1e3,\"mediaType\":\"{kind}\",\"digest\":\"{}\",\"size\":{}{more}}}",
        of.digest, of.size
    )
}

fn node(store: &MemoryStore, at: &Descriptor) -> IndexNode {
    match read_sparse_tree(store, &Pointer::from(&at.digest)).unwrap() {
        TreeNode::Index(node) => node,
        other => panic!("{other:?}"),
    }
}

fn text(node: Option<IndexNode>) -> String {
    String::from_utf8(node.unwrap().document.bytes().to_vec()).unwrap()
}

#[test]
fn nested_entries_take_the_place_of_their_index_and_keep_every_byte() {
    let store = MemoryStore::new();
    let [a, b, c] = ["amd64", "arm64", "s390x"].map(|architecture| image(&store, architecture));
    let platform = ",\"platform\": {\"os\":\"linux\",\"architecture\":\"arm64\"}";
    let lowest = document(&store, &format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", entry(&c, "")));
    let inner = [entry(&b, platform), entry(&a, ""), entry(&lowest, "")].join(" ,");
    let inner = document(&store, &format!("{{\"schemaVersion\":2,\"manifests\":[{inner}]}}"));
    let list = [entry(&a, ""), entry(&inner, ",\"platform\":null")].join(",\n  ");
    let root = format!("{{\"n\":1e3, \"schemaVersion\":2,\"manifests\": [ {list} ] }}");
    let flat = flattened(&node(&store, &document(&store, &root))).unwrap();
    let wanted = [entry(&a, ""), entry(&b, platform), entry(&c, "")].join(",\n  ");
    let members: Vec<_> =
        flat.as_ref().unwrap().members.iter().map(|member| member.digest().clone()).collect();
    assert_eq!(text(flat), format!("{{\"n\":1e3, \"schemaVersion\":2,\"manifests\": [ {wanted} ] }}"));
    assert_eq!(members, [a.digest.clone(), b.digest, c.digest]);
    let flat = document(&store, &format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", entry(&a, "")));
    assert!(flattened(&node(&store, &flat)).unwrap().is_none());
    // The entries of an absent index are unknown.
    let mut unread = node(&store, &document(&store, &root));
    let error = image_store::store::ImageSource::read_document(
        &store,
        &Pointer::Digest(image_model::digest::Digest::of(b"absent")),
    );
    let digest = inner.digest;
    let error = error.unwrap_err();
    unread.members[1] = TreeNode::Unread(image_store::tree::UnreadNode { digest, document: None, error });
    assert!(flattened(&unread).unwrap_err().to_string().contains("could not be read"));
}

#[test]
fn aliases_and_absent_platforms_become_names() {
    let store = MemoryStore::new();
    let [a, b] = ["amd64", "arm64"].map(|architecture| image(&store, architecture));
    let with = |one: &str, other: &str| {
        let list = [entry(&a, one), entry(&b, other)].join(", ");
        format!("{{\"schemaVersion\":2,\"manifests\":[{list}]}}")
    };
    let check = |one: &str, other: &str, now_one: &str, now_other: &str| {
        let root = document(&store, &with(one, other));
        assert_eq!(text(normalized(&node(&store, &root)).unwrap()), with(now_one, now_other));
    };
    let amd64 = ",\"platform\":{\"architecture\":\"amd64\",\"os\":\"linux\"}";
    let arm64 = ", \"platform\" : {\"os\":\"linux\",\"architecture\" : \"arm64\", \"variant\":\"v8\"}";
    let aliases = ", \"platform\" : {\"os\":\"Linux\",\"architecture\" : \"aarch64\", \"variant\":\"armv8\"}";
    // A new key is spaced as the others.
    check("", aliases, &amd64.replace("\":{", "\" : {"), arm64);
    check(",\"platform\":null", arm64, amd64, arm64);
    check(amd64, aliases, amd64, arm64);
    let right = document(&store, &with(amd64, arm64));
    assert!(normalized(&node(&store, &right)).unwrap().is_none());
}
