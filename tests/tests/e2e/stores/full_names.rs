//! Images of layouts that have one tag, or several names, as `docker save a:1 b:1`, containerd and BuildKit write them.

use crate::samples::{Image, Index};
use crate::tools::User;
use image_store::store::oci_layout::OciLayout;
use std::fs;
use std::path::Path;

/// A layout of two images. `entries` are tag, full name and number of the image.
fn layout(user: &User, entries: &[(&str, &str, usize)]) -> [Image; 2] {
    let images = [Image::new("linux/amd64", "one"), Image::new("linux/amd64", "two")];
    let store = OciLayout::open_or_create(&user.path("d")).unwrap();
    Index::of(&[("linux/amd64", &images[0]), ("linux/arm/v7", &images[1])]).store(&store, "x");
    let entries: Vec<serde_json::Value> = entries
        .iter()
        .map(|(tag, full, number)| {
            let mut entry = serde_json::to_value(images[*number].document.descriptor()).unwrap();
            entry["annotations"] = serde_json::json!({});
            for (key, value) in
                [("org.opencontainers.image.ref.name", tag), ("io.containerd.image.name", full)]
            {
                if !value.is_empty() {
                    entry["annotations"][key] = (*value).into();
                }
            }
            entry
        })
        .collect();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string();
    fs::write(user.path("d/index.json"), index).unwrap();
    let mut tar = std::process::Command::new("tar");
    tar.args(["-C", "d", "-cf", "d.tar", "."]).current_dir(user.work());
    assert!(tar.status().unwrap().success());
    images
}

/// Tag, full name and digest of each entry of `index.json`.
fn entries(user: &User, store: &str) -> Vec<(String, String, String)> {
    let text = match Path::new(store).extension() {
        Some(_) => {
            let mut tar = std::process::Command::new("tar");
            let read = tar.args(["-xOf", store, "--wildcards", "*index.json"]).current_dir(user.work());
            String::from_utf8(read.output().unwrap().stdout).unwrap()
        }
        None => fs::read_to_string(user.path("d/index.json")).unwrap(),
    };
    let index: serde_json::Value = serde_json::from_str(&text).unwrap();
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_string();
    let row = |entry: &serde_json::Value| {
        let annotations = &entry["annotations"];
        let tag = word(&annotations["org.opencontainers.image.ref.name"]);
        (tag, word(&annotations["io.containerd.image.name"]), word(&entry["digest"]))
    };
    index["manifests"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn one_tag_of_two_images_is_told_apart_by_full_names_and_digests() {
    for store in ["oci:d", "oci-archive:d.tar"] {
        let user = User::new();
        let images = layout(&user, &[("1", "q.io/a:1", 0), ("1", "q.io/b:1", 1)]);
        let inspect = |name: &str| user.manifest_push(&["inspect", "--format", "json", name]);
        for (name, image) in [("q.io/a:1", 0), ("q.io/b:1", 1)] {
            let found = inspect(&format!("{store}:{name}")).exits(0).json();
            assert_eq!(found["digest"], images[image].digest(), "{store}:{name}");
            let by_digest = format!("{store}@{}", images[image].digest());
            assert_eq!(inspect(&by_digest).exits(0).json()["digest"], images[image].digest());
        }
        let all = user.config_patcher(&["verify", "--all-tags", store, "--format", "json"]).json();
        let names: Vec<&str> =
            all["images"].as_array().unwrap().iter().map(|image| image["image"].as_str().unwrap()).collect();
        assert_eq!(names, [format!("{store}:q.io/a:1"), format!("{store}:q.io/b:1")]);
        // A fix keeps both names of the entry, and the other image.
        user.config_patcher(&["fix", &format!("{store}:q.io/b:1"), "--set-platform", "linux/arm/v7"])
            .exits(0);
        let after = entries(&user, store.split_once(':').unwrap().1);
        assert_eq!(after[0], ("1".into(), "q.io/a:1".into(), images[0].digest().into()), "{store}");
        assert_eq!((after[1].0.as_str(), after[1].1.as_str(), after.len()), ("1", "q.io/b:1", 2), "{store}");
        assert_ne!(after[1].2, images[1].digest());
    }
}

#[test]
fn names_of_one_image_are_one_image() {
    for store in ["oci:d", "oci-archive:d.tar"] {
        let user = User::new();
        let images = layout(&user, &[("1", "q.io/a:1", 0), ("1", "q.io/b:1", 0)]);
        for name in [store.to_string(), format!("{store}:1"), format!("{store}:q.io/b:1")] {
            let found = user.manifest_push(&["inspect", "--format", "json", &name]).exits(0).json();
            assert_eq!(found["digest"], images[0].digest(), "{name}");
        }
        // Both names follow.
        user.config_patcher(&["fix", &format!("{store}:1"), "--set-platform", "linux/arm/v7"]).exits(0);
        let after = entries(&user, store.split_once(':').unwrap().1);
        assert_eq!((after.len(), &after[0].2), (2, &after[1].2), "{store}: {after:?}");
        assert_ne!(after[0].2, images[0].digest());
        assert_eq!([&after[0].1, &after[1].1], ["q.io/a:1", "q.io/b:1"]);
    }
}

#[test]
fn a_tag_of_two_images_without_other_names_is_an_error_that_names_digests() {
    for store in ["oci:d", "oci-archive:d.tar"] {
        let user = User::new();
        let images = layout(&user, &[("1", "", 0), ("1", "", 1)]);
        let refused = user.manifest_push(&["inspect", &format!("{store}:1")]);
        assert!(matches!(refused.code, Some(3 | 5)), "{refused}");
        for image in &images {
            user.manifest_push(&["inspect", &format!("{store}@{}", image.digest())]).exits(0);
        }
        let all = user.config_patcher(&["verify", "--all-tags", store, "--format", "json"]).json();
        assert_eq!(all["images"].as_array().unwrap().len(), 2, "{all}");
    }
}
