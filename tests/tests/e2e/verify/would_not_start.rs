//! Images that the kernel refuses to start: the verdict, its reason and the advice, in every report.

use super::made::{Layer, image, probe, verify};
use crate::tools::User;
use image_model::digest::Digest;
use image_model::manifest::{Document, media_type};
use image_store::store::memory::MemoryStore;
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageStore, Pointer};
use serde_json::Value;

const AMD64: &str = "linux/amd64";

/// Returns a program of the emulator table with a PT_INTERP: its only segment becomes that of the loader's path, and the next one
/// that of the code.
pub fn dynamic(platform: &str, loader: &str) -> Vec<u8> {
    let mut file = probe(platform);
    assert_eq!(file[4], 2, "a 64-bit program");
    let path_at = file.len() as u64;
    file.extend(loader.as_bytes());
    file.push(0);
    let (at, size) = (file.len() as u64, loader.len() as u64 + 1);
    let load = file[64..120].to_vec();
    let mut header = vec![0; 56];
    header[0] = 3;
    header[4] = 4;
    header[8..16].copy_from_slice(&path_at.to_le_bytes());
    header[32..40].copy_from_slice(&size.to_le_bytes());
    header[40..48].copy_from_slice(&size.to_le_bytes());
    file.extend(header);
    file.extend(load);
    file[32..40].copy_from_slice(&at.to_le_bytes());
    file[56] = 2;
    file
}

#[track_caller]
fn check(layer: Layer, command: &[&str], verdict: &str, reason: &str, advice: &str) {
    let user = User::new();
    let name = image(AMD64, command, vec![layer.end()]).layout(&user, "image");
    let ran = verify(&user, &[&name, "--format", "json"]);
    let found = ran.json()["images"][0].clone();
    assert_eq!(found["verdict"], verdict, "{ran}");
    if reason.is_empty() {
        assert_eq!(found["startFailure"], Value::Null, "{ran}");
        return;
    }
    let reasons = found["reasons"].to_string();
    assert!(reasons.contains(reason), "{reasons}");
    if verdict == "would-not-start" {
        assert_eq!((ran.code, found["fix"].clone()), (Some(1), Value::Null));
        let rebuild = found["rebuild"].as_str().unwrap();
        assert!(rebuild.contains(advice), "{rebuild}");
        let text = verify(&user, &[&name]).exits(1).stdout;
        assert!(text.contains(&format!("{name}: would not start\n")), "{text}");
        let before = std::fs::read(user.path("image/index.json")).unwrap();
        user.config_patcher(&["fix", &name, "--from-binaries"]).exits(1);
        assert_eq!(std::fs::read(user.path("image/index.json")).unwrap(), before);
    }
}

fn base() -> Layer {
    Layer::new().file("bin/sh", &probe(AMD64)).file("lib64/ld-linux-x86-64.so.2", &probe(AMD64))
}

#[test]
fn each_kind_is_found_with_its_reason() {
    let crlf = base().file("entry.sh", b"#!/bin/sh\r\nexec /app\r\n");
    check(
        crlf,
        &["/entry.sh"],
        "would-not-start",
        "/entry.sh (layer 0) needs the interpreter /bin/sh\\\\r, which is not in the image",
        "convert /entry.sh in layer 0 to Unix line endings (LF)",
    );
    check(
        base().file("app", &dynamic(AMD64, "/lib/ld-musl-x86_64.so.1")),
        &["/app"],
        "would-not-start",
        "/app (layer 0) needs the loader /lib/ld-musl-x86_64.so.1, which is not in the image; the image has glibc's, /lib64/ld-linux-x86-64.so.2",
        "build /app in layer 0 for glibc or static, or add /lib/ld-musl-x86_64.so.1 in layer 0 or below, in the base image",
    );
    check(
        base().file("app", &dynamic(AMD64, "/lib64/ld-linux-x86-64.so.2")),
        &["/app"],
        "consistent",
        "",
        "",
    );
    check(
        base().file("run", b"exec /app\n"),
        &["/run"],
        "would-not-start",
        "/run (command, layer 0) cannot be executed: it is text without a #! line",
        "add a first line such as #!/bin/sh to /run in layer 0",
    );
    check(base(), &["/app"], "would-not-start", "/app (command) is not in the image", "add /app in a layer");
    check(
        base().data("app", &probe(AMD64)),
        &["/app"],
        "would-not-start",
        "/app (command, layer 0) has no execute permission",
        "set the execute permission of /app in layer 0",
    );
    check(
        base(),
        &["python3", "x.py"],
        "would-not-start",
        "python3 (command) is in no directory of PATH",
        "python3",
    );
    check(base(), &[""], "would-not-start", "the command is an empty word", "set ENTRYPOINT or CMD");
    check(
        base(),
        &["/sh -c x"],
        "would-not-start",
        "/sh -c x (command) is not in the image",
        "as separate words",
    );
}

/// No metadata makes such a program run.
#[test]
fn a_program_for_another_system_would_not_start() {
    check(
        base().file("app", b"\xcf\xfa\xed\xfe\x0c\0\0\x01"),
        &["/app"],
        "would-not-start",
        "/app (command, layer 0) is a program for darwin/arm64, which no Linux kernel runs",
        "no Linux kernel runs its program, which is for darwin/arm64",
    );
    check(
        Layer::new().file("app.exe", &super::made::exe()),
        &["/app.exe"],
        "would-not-start",
        "/app.exe (command, layer 0) is a program for windows/amd64, which no Linux kernel runs",
        "rebuild linux/amd64",
    );
}

#[test]
fn a_program_for_another_platform_comes_first() {
    let app = || Layer::new().file("app", &dynamic("linux/arm64", "/lib/ld-musl-aarch64.so.1"));
    let reason = "/app (layer 0) needs the loader /lib/ld-musl-aarch64.so.1";
    check(app(), &["/app"], "mislabeled", reason, "");
    check(app().file("bin/sh", &probe(AMD64)), &["/app"], "mixed", reason, "");
}

#[test]
fn what_is_decided_when_it_runs_is_not_judged() {
    check(base().file("run", b"#!/bin/sh\nexec \"$APP\"\n"), &["/run"], "consistent", "", "");
    check(base().file("run", b"#!/bin/sh\nexec /absent\n"), &["/run"], "consistent", "", "");
    check(base(), &["/bin/sh", "-c", "test -x /absent && /absent"], "consistent", "", "");
    check(base(), &["/proc/1/exe"], "consistent", "", "");
    check(Layer::new().file("etc/data", b"x"), &[], "undetermined", "", "");
}

#[test]
fn a_file_below_a_volume_is_not_judged() {
    let user = User::new();
    for (volumes, verdict) in
        [(r#"{"/data":{}}"#, "consistent"), ("null", "would-not-start"), ("{}", "would-not-start")]
    {
        let store = MemoryStore::new();
        let layer = store.add_blob(media_type::OCI_LAYER, &base().end());
        let digest: &Digest = &layer.digest;
        let config = format!(
            r#"{{"os":"linux","architecture":"amd64","config":{{"Cmd":["/data/app"],"Volumes":{volumes}}},
               "rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#
        );
        let config = store.add_blob(media_type::OCI_CONFIG, config.as_bytes());
        let text = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": [layer],
        });
        let document = Document::new(text.to_string().into_bytes(), None).unwrap();
        store.write_document(&document).unwrap();
        store.write_tag("x", &document).unwrap();
        let dir = user.path(&format!("volume{}", volumes.len()));
        super::made::put(store, &OciLayout::open_or_create(&dir).unwrap(), "v1");
        let name = format!("oci:{}:v1", dir.display());
        let found = verify(&user, &[&name, "--format", "json"]).json();
        assert_eq!(found["images"][0]["verdict"], verdict, "{volumes}");
        let tag = Pointer::Tag("v1".into());
        assert!(image_store::tree::read_tree(&OciLayout::open(&dir).unwrap(), &tag).is_ok());
    }
}

#[test]
fn every_report_has_the_verdict() {
    let user = User::new();
    let name = image(AMD64, &["/app"], vec![base().end()]).layout(&user, "image");
    let reports = ["--sarif", "out.sarif", "--junit", "out.xml", "--html", "out.html"];
    verify(&user, &[&[name.as_str()], &reports[..]].concat()).exits(1);
    let read = |file: &str| std::fs::read_to_string(user.path(file)).unwrap();
    let sarif: Value = serde_json::from_str(&read("out.sarif")).unwrap();
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(
        (result["ruleId"].as_str(), result["level"].as_str()),
        (Some("would-not-start"), Some("error"))
    );
    let text = result["message"]["text"].as_str().unwrap();
    assert!(text.ends_with("would not start: /app (command) is not in the image. add /app in a layer, for example with COPY, or correct ENTRYPOINT or CMD"), "{text}");
    let junit = read("out.xml");
    assert!(
        junit.contains("type=\"would not start\"") && junit.contains("/app (command) is not in the image"),
        "{junit}"
    );
    let page = read("out.html");
    assert!(page.contains("would not start") && page.contains("/app (command) is not in the image"));
    let schema = verify(&user, &["--schema"]).exits(0).stdout;
    assert!(schema.contains("\"would-not-start\"") && schema.contains("\"startFailure\""));
}
