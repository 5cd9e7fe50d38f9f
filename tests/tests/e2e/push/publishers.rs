//! Concurrent publishers, and registries and images that must not be trusted.

use super::*;
use multiarch_tests::world::Proc;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

#[test]
fn each_of_twenty_publishers_of_one_tag_succeeds_or_reports_a_conflict() {
    const PUBLISHERS: usize = 20;
    let rig = Rig::new();
    let mut published = BTreeSet::new();
    for i in 0..PUBLISHERS {
        let own = Image::new("linux/s390x", &format!("publisher {i}"));
        own.publish(&rig.registry, REPOSITORY, &format!("own{i}"));
        let spec = format!("{}\n  - image: {}\n", rig.spec.trim_end(), rig.name(&format!("own{i}")));
        rig.user.write(&format!("spec{i}.yaml"), spec);
        let dry = rig.user.manifest_push(&["push", "from-spec", "--dry-run", &format!("spec{i}.yaml")]);
        published.insert(dry.exits(0).line().split(' ').nth(1).unwrap().to_string());
    }
    assert_eq!(published.len(), PUBLISHERS);
    let start =
        |i| Proc::spawn(rig.user.command("manifest-push", &["push", "from-spec", &format!("spec{i}.yaml")]));
    let mut processes: Vec<Proc> = (0..PUBLISHERS).map(start).collect();
    let mut ended = BTreeSet::new();
    for process in &mut processes {
        let status = process.wait(Duration::from_secs(120)).expect("an end");
        let code = status.code().unwrap();
        assert!(matches!(code, 0 | 8), "{status}: {}", process.stderr());
        ended.insert(code);
    }
    assert!(ended.contains(&0), "no publisher succeeded");
    let current = rig.digest_of_tag("latest").unwrap();
    assert!(published.contains(&current), "{current}");
    rig.assert_sound();
    // All publishers appended complete lines to one journal.
    let noted: BTreeSet<String> =
        rig.entries().iter().map(|entry| entry["new"].as_str().unwrap().to_string()).collect();
    assert!(noted.contains(&current) && noted.is_subset(&published), "{noted:?}");
}

/// Shared layers are uploaded once, over at most eight connections.
#[test]
fn shared_layers_are_uploaded_once_over_few_connections() {
    const PLATFORMS: usize = 25;
    const LAYERS: usize = 20;
    const SHARED: usize = 16;
    let (registry, user) = (FakeRegistry::start(), User::new());
    let layout = OciLayout::open_or_create(&user.path("in")).unwrap();
    use image_model::manifest::{Descriptor, Document, media_type};
    use image_store::store::ImageStore;
    let put = |media_type: &str, bytes: &[u8]| {
        let blob = Descriptor::of(media_type, bytes);
        layout.write_blob(&blob, &|| Ok(Box::new(bytes))).unwrap();
        blob
    };
    let mut entries = Vec::new();
    for i in 0..PLATFORMS {
        let text = |j: usize| if j < SHARED { format!("shared {j}") } else { format!("{i}'s own {j}") };
        let layers: Vec<Descriptor> =
            (0..LAYERS).map(|j| put(media_type::OCI_LAYER, text(j).as_bytes())).collect();
        let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.digest).collect();
        let config = serde_json::json!({
            "architecture": format!("a{i}"), "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = put(media_type::OCI_CONFIG, config.to_string().as_bytes());
        let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers});
        let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
        layout.write_document(&document).unwrap();
        entries.push(document.descriptor());
    }
    let index = serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string();
    layout.write_tag("1", &Document::new(index.into_bytes(), None).unwrap()).unwrap();
    let to = format!("{}/team/app:1", registry.host());
    let ran = user.manifest_push(&["copy", "oci:in:1", &to]).exits(0);
    registry.closure_complete("team/app", ran.line()).unwrap();
    let uploads = registry.count("PUT", |path| path.contains("/uploads/"));
    assert_eq!(uploads, SHARED + PLATFORMS * (LAYERS - SHARED + 1));
    // At most eight are used; a closed one may still be counted when the next is open.
    assert!(registry.peak_connections() <= 10, "{} connections", registry.peak_connections());
    assert_eq!(registry.violations(), [""; 0]);
    registry.take_log();
    user.manifest_push(&["copy", "oci:in:1", &to]).exits(0).assert_stderr_contains("nothing to do in");
    assert!(registry.log().len() < 4, "only the tag must be read");
}

/// A web server that returns a page with status 200 for every request.
#[test]
fn a_server_that_is_not_a_registry_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            if head.starts_with(b"QUIT") {
                return;
            }
            let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\nConnection: close\r\n\r\n";
            let body = if head.starts_with(b"HEAD") { "" } else { "<html></html>" };
            drop(stream.write_all(format!("{page}{body}").as_bytes()));
        }
    });
    let user = User::new();
    Image::new("linux/amd64", "x").store(&OciLayout::open_or_create(&user.path("in")).unwrap(), "1");
    let to = format!("{host}/team/app:1");
    let ran = user.manifest_push(&["copy", "oci:in:1", &to]);
    assert!(matches!(ran.code, Some(3 | 7)) && ran.stdout.is_empty(), "{ran}");
    std::net::TcpStream::connect(&host).unwrap().write_all(b"QUIT / HTTP/1.1\r\n\r\n").unwrap();
    server.join().unwrap();
}

#[test]
fn invalid_members_are_refused_by_name() {
    let mut rig = Rig::new();
    let schema1 = br#"{"schemaVersion":1,"name":"a","tag":"b","architecture":"amd64","fsLayers":[]}"#;
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    rig.registry.put_manifest(REPOSITORY, "old", signed, schema1);
    let artifact = Image::new("unknown/unknown", "an attestation alone");
    artifact.publish(&rig.registry, REPOSITORY, "attestation");
    rig.edit(":arm32v5", ":old");
    rig.edit(":arm32v7", ":attestation");
    rig.push(&[])
        .exits(3)
        .assert_stderr_contains(&format!("spec.yaml:{}: ", rig.line(":old")))
        .assert_stderr_contains("schema 1");
    rig.assert_nothing_written();
    rig.edit(":old", ":arm32v5");
    rig.push(&[]).exits(3).assert_stderr_contains(&format!("spec.yaml:{}: ", rig.line(":attestation")));
    rig.assert_nothing_written();
}

/// An image may be listed for two platforms; clients select Windows images by os.version.
#[test]
fn one_image_for_two_platforms_and_windows_versions_are_published() {
    let rig = Rig::new();
    let config = r#"{"architecture":"amd64","os":"windows","os.version":"10.0.17763.2565","os.features":["win32k"],"rootfs":{"type":"layers","diff_ids":["DIFF"]}}"#;
    let plain = Image::new("windows/amd64", "windows");
    let windows = plain.with_config(config.replace("DIFF", &plain.layer_digest()));
    windows.publish(&rig.registry, REPOSITORY, "win");
    let entry =
        |tag: &str, platform: &str| format!("- image: {}\n  platform: {{{platform}}}\n", rig.name(tag));
    let spec = format!(
        "image: {}\nmanifests:\n{}{}{}",
        rig.name("latest"),
        entry("win", "os: windows, architecture: amd64"),
        entry("arm32v5", "os: linux, architecture: arm, variant: v5"),
        entry("arm32v5", "os: linux, architecture: arm, variant: v6"),
    );
    rig.user.write("spec.yaml", spec);
    rig.push(&[])
        .exits(3)
        .assert_stderr_contains("declares linux/arm/v5 but would be published as linux/arm/v6");
    rig.push(&["--force"]).exits(0);
    let json = rig.user.manifest_push(&["inspect", "--bytes", &rig.name("latest")]).exits(0);
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let entries = json["manifests"].as_array().unwrap();
    assert_eq!(entries[0]["platform"]["os.version"], "10.0.17763.2565");
    assert_eq!(entries[0]["platform"]["os.features"][0], "win32k");
    assert_eq!(entries[1]["digest"], entries[2]["digest"]);
    assert_eq!(
        (&entries[1]["platform"]["variant"], &entries[2]["platform"]["variant"]),
        (&"v5".into(), &"v6".into())
    );
    rig.assert_sound();
}
