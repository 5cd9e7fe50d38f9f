//! Images with several names, one of which is moved.

use super::*;

/// Returns an archive with a layout whose index and list are changed.
fn layout_with(index: impl Fn(&str) -> String, list: impl Fn(&str) -> String) -> OnDisk {
    let mut members = layout("a:1", "");
    let content =
        |member: &[u8]| String::from_utf8(member[512..].to_vec()).unwrap().trim_end_matches('\0').to_string();
    members[7] = file("index.json", index(&content(&members[7])).as_bytes());
    members[8] = file("manifest.json", list(&content(&members[8])).as_bytes());
    on_disk(&archive(&members))
}

/// Returns the index with a second entry, a changed copy of the first.
fn with_second_entry(index: &str, from: &str, to: &str) -> String {
    let (start, end) = (index.find("[ ").unwrap() + 2, index.rfind(" ]").unwrap());
    let entry = &index[start..end];
    format!("{}{entry},{}{}", &index[..start], entry.replace(from, to), &index[end..])
}

fn unchanged(text: &str) -> String {
    text.to_string()
}

fn declared_platforms(disk: &OnDisk) -> Vec<String> {
    let store = disk.open();
    let declared_platform = |name: String| {
        assert_complete(&store, &name);
        format!("{name} {}", declared_platform(&store, &tag(&name)))
    };
    store.tags().unwrap().into_iter().map(declared_platform).collect()
}

#[test]
fn all_entries_with_one_name_are_moved() {
    let disk = layout_with(|index| with_second_entry(index, "\"x\"", "\"y\""), unchanged);
    let store = disk.open();
    store.write_tag("a:1", &relabeled(&store, &tag("a:1"), "arm")).unwrap();
    assert_eq!(declared_platforms(&disk), ["a:1 linux/arm/v7"]);
    assert!(disk.member("index.json").contains("\"x\"") && disk.member("index.json").contains("\"y\""));
    // In an OCI layout, the tag is the name of an entry, whatever its Docker name is.
    let mut members = layout("a:1", "");
    let index = String::from_utf8(members[7][512..].to_vec()).unwrap();
    let index = with_second_entry(index.trim_end_matches('\0'), "a:1", "b:1");
    members[7] = file("index.json", index.as_bytes());
    members.remove(8);
    let disk = on_disk(&archive(&members));
    let store = DockerArchive::open_as(&disk.path, Some("1"), Naming::Layout).unwrap();
    let document = relabeled(&store, &tag("1"), "arm");
    store.write_tag("1", &document).unwrap();
    let again = DockerArchive::open_as(&disk.path, None, Naming::Layout).unwrap();
    assert_eq!(again.read_document(&again.only_image().unwrap()).unwrap(), document);
}

#[test]
fn a_name_in_the_list_only_keeps_its_image() {
    let both = |list: &str| list.replace("[\"a:1\"]", "[\"a:1\",\"b:1\"]");
    let apart = |list: &str| {
        let item = list.strip_prefix('[').unwrap().strip_suffix(']').unwrap();
        format!("[{item},{}]", item.replace("a:1", "b:1"))
    };
    for list in [&both as &dyn Fn(&str) -> String, &apart] {
        for (moves, expected) in [
            ("a:1", ["a:1 linux/arm/v7", "b:1 linux/amd64"]),
            ("b:1", ["a:1 linux/amd64", "b:1 linux/arm/v7"]),
        ] {
            let disk = layout_with(unchanged, list);
            let store = disk.open();
            assert_eq!(store.tags_of_same_entry(moves).unwrap().len(), 1);
            let document = relabeled(&store, &tag(moves), "arm");
            store.write_tag(moves, &document).unwrap();
            assert_eq!(declared_platforms(&disk), expected);
            for name in ["a:1", "b:1"] {
                store.write_tag(name, &document).unwrap();
            }
            assert_eq!(declared_platforms(&disk), ["a:1 linux/arm/v7", "b:1 linux/arm/v7"]);
        }
    }
}

#[test]
fn an_item_without_a_name_is_moved_with_its_entry() {
    let unnamed = |list: &str| list.replace("[\"a:1\"]", "null");
    let disk = layout_with(unchanged, unnamed);
    let list = disk.member("manifest.json");
    let store = disk.open();
    store.write_tag("a:1", &relabeled(&store, &tag("a:1"), "arm")).unwrap();
    assert_eq!(declared_platforms(&disk), ["a:1 linux/arm/v7"]);
    assert_eq!(disk.member("manifest.json").len(), list.len());
    assert!(disk.member("manifest.json").contains("null"));
    // If another entry has the old image, the item is not moved.
    let disk = layout_with(|index| with_second_entry(index, "a:1", "b:1"), unnamed);
    let store = disk.open();
    store.write_tag("a:1", &relabeled(&store, &tag("a:1"), "arm")).unwrap();
    assert_eq!(declared_platforms(&disk), ["a:1 linux/arm/v7", "b:1 linux/amd64"]);
    let document = store.read_document(&tag("a:1")).unwrap();
    store.write_tag("b:1", &document).unwrap();
    assert_eq!(declared_platforms(&disk), ["a:1 linux/arm/v7", "b:1 linux/arm/v7"]);
}

#[test]
fn several_entries_without_a_name_are_one_image() {
    let nameless = |index: &str| {
        let at = index.find(",\"annotations\"").unwrap();
        let index = format!("{}}} ]}}", &index[..at]);
        with_second_entry(&index, "", "")
    };
    let disk = layout_with(nameless, |list| list.replace("[\"a:1\"]", "null"));
    let store = disk.open();
    let pointer = store.only_image().unwrap();
    let document = relabeled(&store, &pointer, "arm");
    store.write_tag(UNNAMED, &document).unwrap();
    let store = disk.open();
    assert_eq!(store.read_document(&store.only_image().unwrap()).unwrap(), document);
}

#[test]
fn duplicate_items_are_one_image() {
    for tags in [r#"["app:1"]"#, r#"["app:1","b:1"]"#, "null"] {
        let Classic { manifest_json, mut members, .. } = Classic::new(tags);
        let item = manifest_json.trim().strip_prefix('[').unwrap().strip_suffix(']').unwrap();
        members[11] = file("manifest.json", format!("[{item},\n{item}]").as_bytes());
        let disk = on_disk(&archive(&members));
        let store = disk.open();
        let Pointer::Tag(name) = store.only_image().unwrap() else { panic!("no tag") };
        let document = relabeled(&store, &tag(&name), "arm");
        store.write_tag(&name, &document).unwrap();
        assert_eq!(disk.open().read_document(&tag(&name)).unwrap(), document, "{tags}");
    }
}

/// Two items of the list have different members with the same config.
#[test]
fn two_members_with_one_config_are_both_overwritten() {
    let text = config("amd64", &[b"one"]);
    let list = r#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]},{"Config":"d.json","RepoTags":["b:1"],"Layers":["l.tar"]}]"#;
    let disk = on_disk(&archive(&[
        file("c.json", text.as_bytes()),
        file("d.json", text.as_bytes()),
        file("l.tar", b"one"),
        file("manifest.json", (list.to_string() + &" ".repeat(100)).as_bytes()),
    ]));
    let store = disk.open();
    store.apply_in_place(&overwriting::plan(&store).unwrap()).unwrap();
    assert_eq!(declared_platforms(&disk), ["a:1 linux/arm/v7", "b:1 linux/arm/v7"]);
}
