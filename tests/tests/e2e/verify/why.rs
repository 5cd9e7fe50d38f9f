//! `config-patcher why`: what a container would execute, and where its start fails.

use super::made::{Layer, image, index, probe, put};
use crate::tools::{Ran, User};
use image_model::manifest::{Document, media_type};
use image_store::store::ImageStore;
use image_store::store::memory::MemoryStore;
use image_store::store::oci_layout::OciLayout;

fn why(user: &User, arguments: &[&str]) -> Ran {
    let ran = user.config_patcher(&[&["why"], arguments].concat());
    assert!(ran.stdout.lines().count() <= 10, "{ran}");
    ran
}

fn base() -> Layer {
    Layer::new().file("bin/busybox", &probe("linux/amd64")).symlink("bin/sh", "busybox")
}

#[test]
fn each_step_has_its_layer_and_platform() {
    let user = User::new();
    let script = Layer::new().file("entry.sh", b"#!/bin/sh -e\nexec \"$@\"\n");
    let words = ["/entry.sh", "/bin/busybox", "a b"];
    let name = image("linux/amd64", &words, vec![base().end(), script.end()]).layout(&user, "image");
    let wanted = format!(
        "{name} linux/amd64: starts, as far as can be seen\n  executes     /entry.sh /bin/busybox 'a b'\n  \
         command      /entry.sh in layer 1: script for /bin/sh -e\n  \
         interpreter  /bin/busybox (/bin/sh) in layer 0: linux/amd64\n  \
         started      /bin/busybox in layer 0: linux/amd64\n"
    );
    why(&user, &[&name]).exits(0).prints(wanted.trim_end());
    // The words after -- take the place of the command.
    let ran = why(&user, &[&name, "--", "/absent", "-x"]).exits(1);
    for line in [
        ": would not start",
        "  executes     /absent -x",
        "  because      /absent (command) is not in the image",
        "  to do        add /absent in a layer",
    ] {
        assert!(ran.stdout.contains(line), "{line}: {ran}");
    }
    let ran = why(&user, &[&name, "--", "sh", "-c", "$APP"]).exits(0);
    assert!(
        ran.stdout.contains("\n  ends where   what /bin/busybox starts is known only at run time\n"),
        "{ran}"
    );
}

#[test]
fn the_entrypoint_stays_and_the_command_is_replaced() {
    let user = User::new();
    let store = MemoryStore::new();
    let layer = store.add_blob(media_type::OCI_LAYER, &base().file("sbin/tini", &probe("linux/amd64")).end());
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","config":{{"Entrypoint":["tini","--"],"Cmd":["sh"]}},
           "rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        layer.digest
    );
    let config = store.add_blob(media_type::OCI_CONFIG, config.as_bytes());
    let text = serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer]});
    let document = Document::new(text.to_string().into_bytes(), None).unwrap();
    store.write_tag("x", &document).unwrap();
    let dir = user.path("image");
    put(store, &OciLayout::open_or_create(&dir).unwrap(), "v1");
    let name = format!("oci:{}:v1", dir.display());
    why(&user, &[&name]).exits(0);
    let found = why(&user, &[&name, "--format", "json", "--", "app"]).exits(1).json();
    assert_eq!(found["command"], serde_json::json!(["tini", "--", "app"]));
    assert_eq!((&found["starts"], &found["verdict"]), (&false.into(), &"would-not-start".into()));
    assert_eq!(found["startFailure"]["cause"], "not-in-path");
    assert_eq!(found["startFailure"]["neededBy"], serde_json::json!({"path": "/sbin/tini", "layer": 0}));
    assert_eq!(found["steps"][0]["path"], "/sbin/tini");
}

#[test]
fn of_an_index_it_is_the_image_for_this_host_or_the_selected_platform() {
    let user = User::new();
    let dir = user.path("index");
    put(index(), &OciLayout::open_or_create(&dir).unwrap(), "v1");
    let name = format!("oci:{}:v1", dir.display());
    let own = why(&user, &[&name]);
    let is_amd64 = std::env::consts::ARCH == "x86_64";
    assert_eq!(own.code, Some(if is_amd64 { 0 } else { 1 }), "{own}");
    let wrong = why(&user, &[&name, "--platform", "linux/arm64"]).exits(1);
    let first = wrong.stdout.lines().next().unwrap();
    assert_eq!(first, format!("{name} linux/arm64: mislabeled, index platform differs"));
    assert!(wrong.stdout.contains("  to do        to fix it, run: config-patcher fix "), "{wrong}");
    why(&user, &[&name, "--platform", "linux/s390x"])
        .exits(5)
        .assert_stderr_contains("it has no such platform");
}

#[test]
fn an_index_without_an_image_for_this_host_needs_a_platform() {
    let user = User::new();
    let store = MemoryStore::new();
    let entries: Vec<serde_json::Value> = ["s390x", "riscv64"]
        .iter()
        .map(|architecture| {
            let platform = format!("linux/{architecture}");
            let layer = Layer::new().file("app", &probe(&platform)).end();
            let document = image(&platform, &["/app"], vec![layer]).add_to(&store);
            let mut entry = serde_json::to_value(document.descriptor()).unwrap();
            entry["platform"] = serde_json::json!({"architecture": architecture, "os": "linux"});
            entry
        })
        .collect();
    let text =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
    store.write_tag("x", &Document::new(text.to_string().into_bytes(), None).unwrap()).unwrap();
    let dir = user.path("index");
    put(store, &OciLayout::open_or_create(&dir).unwrap(), "v1");
    let name = format!("oci:{}:v1", dir.display());
    let ran = why(&user, &[&name]).exits(3);
    assert!(
        ran.stderr.contains("it has images for linux/s390x, linux/riscv64, and none for this host; specify --platform linux/s390x"),
        "{ran}"
    );
    why(&user, &[&name, "--platform", "linux/s390x"]).exits(0);
    user.run("multiarch", &["why", &name, "--platform", "linux/riscv64"]).exits(0);
}
