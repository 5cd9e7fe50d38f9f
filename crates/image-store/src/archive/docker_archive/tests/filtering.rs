//! Filtering of generated streams. Streams of real programs are tested in `tests/`.

use super::*;
use crate::archive::stream::{FilterSummary, filter};
use crate::archive::tar::TarFile;
use crate::plan::{BlobContent, WantedImage};
use crate::tree::TreeNode;

fn relabeled(json: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8(json.to_vec()).unwrap();
    let new = text.replace(r#""architecture":"amd64""#, r#""architecture":"arm","variant":"v7""#);
    (new != text).then(|| new.into_bytes())
}

/// Declares arm/v7 in place of amd64.
pub(super) fn to_arm(image: &TreeNode) -> Result<Option<Relabel>, Error> {
    let TreeNode::Image(image) = image else { panic!("an index") };
    let old = image.manifest.config.clone();
    let Some(config) = relabeled(&image.config.as_ref().unwrap().bytes) else { return Ok(None) };
    let new = Descriptor::of(&old.media_type, &config);
    let text = String::from_utf8(image.document.bytes().to_vec()).unwrap();
    let text = text
        .replace(old.digest.as_str(), new.digest.as_str())
        .replace(&format!("\"size\":{}", old.size), &format!("\"size\":{}", new.size));
    let mut wanted = WantedImage::of_root(Document::new(text.into_bytes(), None).unwrap());
    wanted.add_blob(new.clone(), BlobContent::Bytes(config.into()));
    let documents = vec![(image.document.digest().clone(), wanted.root.digest().clone())];
    Ok(Some(Relabel { wanted, configs: vec![(old.digest, new.digest)], documents }))
}

fn filtered(input: &[u8]) -> (Vec<u8>, Result<FilterSummary, Error>) {
    let mut out = Vec::new();
    let result = filter(input, &mut out, &mut to_arm);
    (out, result)
}

/// Asserts that no reader accepts the stream as a complete archive.
fn assert_truncated(out: &[u8]) {
    assert!(out.is_empty() || out.len() % 512 == 256, "{} bytes", out.len());
}

fn names(bytes: &[u8]) -> Vec<String> {
    let disk = on_disk(bytes);
    disk.names()
}

#[test]
fn the_platform_is_fixed_and_the_order_of_members_is_kept() {
    for (members, new) in [(Classic::new(r#"["app:1"]"#).members, 1), (layout("app:1", ""), 2)] {
        let input = archive(&members);
        let (out, passed) = filtered(&input);
        assert!(!passed.unwrap().lists_moved);
        let disk = on_disk(&out);
        let store = disk.open();
        assert_eq!(declared_platform(&store, &store.only_image().unwrap()), "linux/arm/v7");
        assert_complete(&store, "app:1");
        let (before, after) = (names(&input), names(&out));
        assert_eq!(after.len(), before.len() + new);
        let kept: Vec<&String> = after.iter().filter(|name| before.contains(name)).collect();
        assert_eq!(kept, before.iter().collect::<Vec<_>>());
        // A second run changes nothing.
        assert_eq!(filtered(&out).0, out);
    }
}

#[test]
fn files_for_docker_before_1_10_are_unchanged() {
    let (out, _) = filtered(&archive(&Classic::new(r#"["app:1"]"#).members));
    let disk = on_disk(&out);
    assert_eq!(disk.member("30a8/json"), r#"{"id":"30a8", "architecture":"amd64","os":"linux"}"#);
    assert_eq!(disk.member("563a/json"), r#"{"id":"563a","parent":"1910","os":"linux"}"#);
    assert_eq!(disk.member("repositories"), r#"{"app":{"1":"30a8"}}"#);
}

#[test]
fn the_result_does_not_depend_on_the_order_of_members() {
    let members = layout("app:1", "");
    for turn in 0..members.len() {
        let turned: Vec<Vec<u8>> = [&members[turn..], &members[..turn]].concat();
        let disk = on_disk(&filtered(&archive(&turned)).0);
        let store = disk.open();
        assert_complete(&store, "app:1");
        assert_eq!(declared_platform(&store, &store.only_image().unwrap()), "linux/arm/v7");
    }
}

#[test]
fn a_list_before_a_large_layer_is_moved_behind_it() {
    let big = vec![7; 3 << 20];
    let config = config("amd64", &[&big]);
    let id = Digest::of(config.as_bytes()).hex().to_string();
    let list = format!(r#"[{{"Config":"{id}.json","RepoTags":["app:1"],"Layers":["l.tar"]}}]"#);
    let members = [
        file("manifest.json", list.as_bytes()),
        file("l.tar", &big),
        file(&format!("{id}.json"), config.as_bytes()),
    ];
    let (out, passed) = filtered(&archive(&members));
    assert!(passed.unwrap().lists_moved);
    assert_eq!(names(&out)[0], "l.tar");
    assert_complete(&on_disk(&out).open(), "app:1");
}

#[test]
fn the_output_for_a_truncated_stream_is_truncated() {
    let input = archive(&layout("app:1", ""));
    for length in (0..input.len() - 1024).step_by(256) {
        let (out, result) = filtered(&input[..length]);
        assert!(result.is_err(), "cut at {length}");
        assert_truncated(&out);
    }
    for (extra, why) in [(&b"x"[..], "after the end marker"), (&[0; 100][..], "cut off")] {
        let (out, result) = filtered(&[&input, extra].concat());
        assert!(result.unwrap_err().to_string().contains(why));
        assert_truncated(&out);
    }
}

#[test]
fn other_streams_are_refused_with_a_suggestion() {
    let check = |input: &[u8], why: &str| {
        let (out, result) = filtered(input);
        let error = result.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert_truncated(&out);
    };
    check(b"", "empty");
    check(&[&[0x1f, 0x8b, 8, 0][..], &[0; 600]].concat(), "zcat");
    check(&archive(&[file("hello", b"x")]), "no manifest.json");
    let mut two = layout("app:1", "");
    let other = config("arm64", &[b"one"]);
    let id = Digest::of(other.as_bytes()).hex().to_string();
    let old = Classic::new(r#"["app:1"]"#);
    let list = old.manifest_json.trim_end().trim_end_matches(']').to_string()
        + &format!(r#",{{"Config":"{id}.json","RepoTags":["b:1"],"Layers":["1910/layer.tar"]}}]"#);
    two =
        old.members.into_iter().filter(|m| !m.starts_with(b"manifest.json")).chain(two.drain(..0)).collect();
    two.push(file(&format!("{id}.json"), other.as_bytes()));
    two.push(file("manifest.json", list.as_bytes()));
    check(&archive(&two), "save one of them");
}

#[test]
fn every_write_but_the_last_ends_within_a_block() {
    struct Ends(Vec<u64>, u64);
    impl Write for Ends {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1 += bytes.len() as u64;
            self.0.push(self.1);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    /// A reader that returns varying amounts.
    struct Odd<'a>(&'a [u8]);
    impl Read for Odd<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let most = buffer.len().min(4097);
            self.0.read(&mut buffer[..most])
        }
    }
    let mut members = layout("app:1", "");
    members.insert(0, file("blobs/sha256/big", &vec![7; 3 << 20]));
    let input = archive(&members);
    let mut out = Ends(Vec::new(), 0);
    filter(Odd(&input), &mut out, &mut to_arm).unwrap();
    let Ends(ends, _) = out;
    assert!(ends.len() > 100 && ends[..ends.len() - 1].iter().all(|end| end % 512 == 256), "{ends:?}");
}

#[test]
fn the_digest_of_a_compressed_layer_is_computed_in_the_stream() {
    let layer = [&[0x1f, 0x8b, 8, 0][..], &[9; 5000]].concat();
    let config = config("amd64", &[b"plain"]);
    let id = Digest::of(config.as_bytes()).hex().to_string();
    let list = format!(r#"[{{"Config":"sha256:{id}","RepoTags":["app:1"],"Layers":["l.tar.gz"]}}]"#);
    let members = [
        file(&format!("sha256:{id}"), config.as_bytes()),
        file("l.tar.gz", &layer),
        file("manifest.json", list.as_bytes()),
    ];
    let mut found = None;
    let mut look = |image: &TreeNode| {
        let TreeNode::Image(image) = image else { panic!("an index") };
        found = Some(image.manifest.layers[0].digest.clone());
        Ok(None)
    };
    let (input, mut out) = (archive(&members), Vec::new());
    filter(&input[..], &mut out, &mut look).unwrap();
    assert_eq!((found, out), (Some(Digest::of(&layer)), input.clone()));
    let (out, _) = filtered(&input);
    let tar = TarFile::read(Arc::new(std::fs::File::open(&on_disk(&out).path).unwrap())).unwrap();
    assert!(
        tar.members()
            .iter()
            .any(|m| tar.name(m).starts_with(b"sha256:") && !tar.name(m).ends_with(id.as_bytes()))
    );
}

/// Another member has the name of the new config.
#[test]
fn an_invalid_result_is_truncated() {
    let classic = Classic::new(r#"["app:1"]"#);
    let new = relabeled(classic.config.as_bytes()).unwrap();
    let mut members = classic.members;
    members.insert(0, file(&format!("{}.json", Digest::of(&new).hex()), b"{}"));
    let input = archive(&members);
    let (out, result) = filtered(&input);
    let error = result.unwrap_err();
    assert!(error.kind == Exit::BadInput && error.to_string().contains("failed its check"), "{error}");
    assert_truncated(&out);
    // Such an archive is not overwritten in place either.
    let disk = on_disk(&input);
    let store = disk.open();
    let place = overwriting::plan(&store).unwrap();
    assert!(store.apply_in_place(&place).unwrap_err().to_string().contains("failed its check"));
    assert_eq!(disk.bytes(), input);
}
