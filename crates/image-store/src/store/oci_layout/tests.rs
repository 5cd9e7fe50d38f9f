use super::*;
use error::Exit;
use image_model::manifest::media_type;

fn image(layout: &OciLayout, note: &str) -> Document {
    let config = layout.add_blob(media_type::OCI_CONFIG, &b"{}"[..]).unwrap();
    let config = serde_json::to_string(&config).unwrap();
    let text = format!(
        "{{\"schemaVersion\":2,\"config\":{config},\"layers\":[],\"annotations\":{{\"n\":\"{note}\"}}}}"
    );
    Document::new(text.into_bytes(), None).unwrap()
}

#[test]
fn retagging_keeps_every_other_entry_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let layout = OciLayout::open_or_create(dir.path()).unwrap();
    let (one, two) = (image(&layout, "1"), image(&layout, "2"));
    layout.write_tag("a", &one).unwrap();
    let path = dir.path().join("index.json");
    let odd =
        fs::read_to_string(&path).unwrap().replace("\"manifests\":[", "\"x\" : 1.50, \"manifests\" : [ ");
    fs::write(&path, odd).unwrap();
    layout.write_tag("b", &two).unwrap();
    layout.write_tag("a", &two).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"x\" : 1.50, \"manifests\" : [ {"), "{text}");
    assert_eq!(layout.tags().unwrap(), ["a", "b"]);
    assert_eq!(layout.read_document(&Pointer::Tag("a".into())).unwrap(), two);
}

#[test]
fn files_that_are_not_regular_are_refused_without_blocking() {
    let dir = tempfile::tempdir().unwrap();
    let layout = OciLayout::open_or_create(dir.path()).unwrap();
    layout.write_tag("a", &image(&layout, "1")).unwrap();
    let blob = Descriptor::of("x", b"content");
    let path = layout.blob_path(&blob.digest);
    let kind = |layout: &OciLayout| layout.open_blob(&blob).err().map(|e| e.kind);
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert_eq!(kind(&layout), Some(Exit::BadInput));
    assert!(!layout.has_blob(&blob).unwrap());
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(kind(&layout), Some(Exit::BadInput));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(kind(&layout), Some(Exit::BadInput));
}

#[test]
fn an_image_without_a_name_is_found_and_replaced_at_its_position() {
    let dir = tempfile::tempdir().unwrap();
    let layout = OciLayout::open_or_create(dir.path()).unwrap();
    let (one, two) = (image(&layout, "1"), image(&layout, "2"));
    layout.write_tag(UNNAMED, &one).unwrap();
    assert_eq!(layout.read_document(&layout.only_image().unwrap()).unwrap(), one);
    layout.write_tag(UNNAMED, &two).unwrap();
    let (_, index) = layout.read_index().unwrap();
    assert_eq!(index.manifests.len(), 1, "replaced, not added");
    assert!(index.manifests[0].annotations.is_empty());
    assert_eq!(layout.read_document(&layout.only_image().unwrap()).unwrap(), two);
    assert!(layout.tags().unwrap().is_empty());
}

#[test]
fn a_document_is_read_by_digest_without_any_tag() {
    let dir = tempfile::tempdir().unwrap();
    let layout = OciLayout::open_or_create(dir.path()).unwrap();
    let one = image(&layout, "1");
    layout.write_document(&one).unwrap();
    assert_eq!(layout.read_document(&Pointer::from(one.digest())).unwrap(), one);
    assert_eq!(layout.resolve(&Pointer::Tag("a".into())).unwrap(), None);
}

#[test]
fn a_directory_with_other_files_is_not_a_layout() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
    assert_eq!(OciLayout::open_or_create(dir.path()).err().map(|e| e.kind), Some(Exit::BadInput));
    assert_eq!(OciLayout::open(dir.path()).err().map(|e| e.kind), Some(Exit::BadInput));
    let missing = OciLayout::open(&dir.path().join("nowhere")).err().map(|e| e.kind);
    assert_eq!(missing, Some(Exit::NotFound));
}

#[test]
fn ten_writers_leave_ten_tags() {
    let dir = tempfile::tempdir().unwrap();
    let layout = OciLayout::open_or_create(dir.path()).unwrap();
    let documents: Vec<Document> = (0..10).map(|i| image(&layout, &i.to_string())).collect();
    std::thread::scope(|scope| {
        for (i, document) in documents.iter().enumerate() {
            let layout = &layout;
            scope.spawn(move || layout.write_tag(&format!("t{i}"), document).unwrap());
        }
    });
    assert_eq!(layout.tags().unwrap().len(), 10);
    let left = fs::read_dir(dir.path().join("blobs/sha256")).unwrap();
    assert!(left.filter_map(Result::ok).all(|e| !e.file_name().to_string_lossy().ends_with(".tmp")));
}

#[test]
fn a_tag_that_moved_after_it_was_read_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let layout = OciLayout::open_or_create(dir.path()).unwrap();
    let [seen, mine, other] = ["seen", "mine", "other"].map(|note| image(&layout, note));
    let named = || layout.read_document(&Pointer::Tag("a".into())).unwrap();
    let rows = [
        ("it names what was seen", Some(&seen), Some(&seen), true),
        ("it is new, as was seen", None, None, true),
        ("it names what it shall already", Some(&mine), Some(&seen), true),
        ("somebody moved it", Some(&other), Some(&seen), false),
        ("somebody made it", Some(&other), None, false),
        ("somebody took it away", None, Some(&seen), false),
    ];
    for (what, now, was, moves) in rows {
        fs::write(dir.path().join("index.json"), EMPTY_INDEX).unwrap();
        fs::write(dir.path().join("oci-layout"), LAYOUT).unwrap();
        now.iter().for_each(|now| layout.write_tag("a", now).unwrap());
        let outcome = layout.move_tag("a", was.map(Document::digest), &mine).unwrap();
        if moves {
            assert_eq!((outcome, named()), (TagMove::Done, mine.clone()), "{what}");
        } else {
            assert_eq!(outcome, TagMove::Conflict(now.map(|now| now.digest().clone())), "{what}");
            let left = layout.resolve(&Pointer::Tag("a".into())).unwrap().map(|left| left.digest);
            assert_eq!(left.as_ref(), now.map(Document::digest), "{what}");
        }
    }
}

#[test]
fn an_index_above_the_size_limit_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let layout = OciLayout::open_or_create(dir.path()).unwrap();
    let (one, two) = (image(&layout, "1"), image(&layout, "2"));
    layout.write_tag("a", &one).unwrap();
    let path = dir.path().join("index.json");
    let index = fs::read_to_string(&path).unwrap();
    let (start, end) = (index.find('[').unwrap() + 1, index.rfind(']').unwrap());
    let refused = |index: String, why: &str| {
        fs::write(&path, &index).unwrap();
        let error = layout.write_tag("a", &two).unwrap_err();
        assert!(error.kind == Exit::BadInput && error.to_string().contains(why), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), index);
    };
    let entry = &index[start..end];
    // Two entries of one image, which both follow; and of two images.
    let twice = format!("{}{entry},{entry}{}", &index[..start], &index[end..]);
    fs::write(&path, &twice).unwrap();
    layout.write_tag("a", &two).unwrap();
    let both = fs::read_to_string(&path).unwrap();
    assert_eq!(both, twice.replace(one.digest().as_str(), two.digest().as_str()));
    let other = entry.replace(one.digest().as_str(), &format!("sha256:{}", "0".repeat(64)));
    refused(format!("{}{entry},{other}{}", &index[..start], &index[end..]), "different images have this tag");
    // The size limit of readers.
    let space = " ".repeat(DOCUMENT_MAX as usize - index.len());
    let full = format!("{}{entry}{space}{}", &index[..start], &index[end..]);
    fs::write(&path, &full).unwrap();
    let error = layout.write_tag("b", &two).unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), full);
}
