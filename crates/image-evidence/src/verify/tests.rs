//! Verification of images in memory, and the number of layers that are read.

use super::*;
use crate::layer::tests::{Tar, elf};
use error::Exit;
use image_model::manifest::Document;
use image_model::manifest::media_type::{OCI_CONFIG, OCI_LAYER};
use image_store::store::memory::MemoryStore;
use image_store::store::{ImageStore, Pointer};
use image_store::tree::{TreeNode, read_tree};
use std::sync::Mutex;

fn image(store: &MemoryStore, declared: &str, entrypoint: &str, layers: &[Vec<u8>]) -> Image {
    let blobs: Vec<Descriptor> = layers.iter().map(|layer| store.add_blob(OCI_LAYER, layer)).collect();
    let diff_ids: Vec<&Digest> = blobs.iter().map(|blob| &blob.digest).collect();
    let mut config = serde_json::to_value(declared.parse::<Platform>().unwrap()).unwrap();
    config["rootfs"] = serde_json::json!({"type": "layers", "diff_ids": diff_ids});
    config["config"] = serde_json::json!({"Entrypoint": [entrypoint]});
    let config = store.add_blob(OCI_CONFIG, config.to_string().as_bytes());
    let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": blobs});
    let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
    store.write_document(&document).unwrap();
    match read_tree(store, &Pointer::from(document.digest())).unwrap() {
        TreeNode::Image(image) => image,
        TreeNode::Index(_) | TreeNode::Unread(_) => panic!(),
    }
}

fn base(machine: u16) -> Vec<u8> {
    Tar::default().file("bin/busybox", &elf(machine)).symlink("bin/sh", "busybox").end()
}

#[test]
fn verify_image_reads_all_layers() {
    let store = MemoryStore::new();
    let app = Tar::default().file("app", &elf(183)).end();
    let image = image(&store, "linux/amd64", "/app", &[base(183), app]);
    let check = |wanted: &str, kind: VerdictKind| {
        let finding = verify_image(&store, &image, &wanted.parse().unwrap()).unwrap();
        assert_eq!(finding.verdict.kind, kind, "{wanted}");
        assert_eq!((finding.layers, finding.layers_read), (2, 2));
    };
    check("linux/arm64", VerdictKind::Consistent);
    check("linux/amd64", VerdictKind::Mislabeled);
}

#[test]
fn a_quick_verification_reads_layers_from_the_top_until_it_has_the_chain() {
    let store = MemoryStore::new();
    let layers =
        [base(62), Tar::default().file("opt/app", &elf(62)).end(), Tar::default().file("etc/x", b"y").end()];
    let right = image(&store, "linux/amd64", "/opt/app", &layers);
    let in_base = image(&store, "linux/amd64", "sh", &layers);
    let wrong = image(&store, "linux/arm64", "/opt/app", &layers);
    let read = |image: &Image, depth: VerifyDepth| {
        let seen = Mutex::new(0);
        let wanted = &image.config.as_ref().unwrap().parsed.platform;
        let subject = VerifyTarget { source: &store, image, platform: wanted };
        let on_layer = |_: &Descriptor| *seen.lock().unwrap() += 1;
        let options = VerifyOptions { on_layer: &on_layer, ..VerifyOptions::new(depth) };
        let mut findings = verify_all(&[subject], &options);
        let finding = findings.pop().unwrap().unwrap();
        let seen = *seen.lock().unwrap();
        assert_eq!(seen, finding.layers_read);
        (seen, finding.verdict.kind)
    };
    assert_eq!(read(&right, VerifyDepth::Quick), (2, VerdictKind::Consistent));
    assert_eq!(read(&right, VerifyDepth::Full), (3, VerdictKind::Consistent));
    assert_eq!(read(&in_base, VerifyDepth::Quick), (3, VerdictKind::Consistent));
    // A mismatch is reported after all layers were read.
    assert_eq!(read(&wrong, VerifyDepth::Quick), (3, VerdictKind::Mislabeled));
}

#[test]
fn a_shared_layer_is_read_once() {
    let store = MemoryStore::new();
    let images: Vec<Image> = (0..40)
        .map(|i| {
            let own = Tar::default().file("app", &elf(62)).file("n", format!("{i}").as_bytes()).end();
            image(&store, "linux/amd64", "/app", &[base(62), own])
        })
        .collect();
    let wanted: Platform = "linux/amd64".parse().unwrap();
    let subjects: Vec<VerifyTarget<'_>> =
        images.iter().map(|image| VerifyTarget { source: &store, image, platform: &wanted }).collect();
    let seen = Mutex::new(Vec::new());
    let on_layer = |layer: &Descriptor| seen.lock().unwrap().push(layer.digest.clone());
    let findings = verify_all(
        &subjects,
        &VerifyOptions { on_layer: &on_layer, ..VerifyOptions::new(VerifyDepth::Full) },
    );
    assert!(findings.iter().all(|finding| finding.as_ref().unwrap().verdict.kind == VerdictKind::Consistent));
    assert_eq!(seen.lock().unwrap().len(), 41);
}

#[test]
fn an_unreadable_image_does_not_stop_the_others() {
    let store = MemoryStore::new();
    let bad = image(&store, "linux/amd64", "/app", &[b"not a tar, but 512 bytes long or not".to_vec()]);
    let good = image(&store, "linux/amd64", "/bin/sh", &[base(62)]);
    let wanted: Platform = "linux/amd64".parse().unwrap();
    let subjects = [&bad, &good, &bad].map(|image| VerifyTarget { source: &store, image, platform: &wanted });
    let findings = verify_all(&subjects, &VerifyOptions::new(VerifyDepth::Full));
    let kinds: Vec<Option<Exit>> = findings.iter().map(|f| f.as_ref().err().map(|e| e.kind)).collect();
    assert_eq!(kinds, [Some(Exit::BadInput), None, Some(Exit::BadInput)]);
}

#[test]
fn an_unused_emulator_is_a_note() {
    let store = MemoryStore::new();
    let emulator = Tar::default().file("usr/bin/qemu-arm-static", &elf(62)).end();
    let image = image(&store, "linux/arm", "/bin/sh", &[emulator, base(40)]);
    let finding = verify_image(&store, &image, &"linux/arm/v7".parse().unwrap()).unwrap();
    assert_eq!(finding.verdict.kind, VerdictKind::ForeignPayload);
    assert!(
        finding.verdict.reasons[0].contains("/usr/bin/qemu-arm-static is for linux/amd64"),
        "{:?}",
        finding.verdict
    );
}

/// A common entrypoint script, which executes its arguments.
#[test]
fn a_quick_verification_follows_an_entrypoint_script() {
    let store = MemoryStore::new();
    let script = Tar::default().file("entry.sh", b"#!/bin/sh\nexec \"$@\"\n").end();
    let app = |machine: u16| Tar::default().file("opt/app", &elf(machine)).end();
    let check = |words: &[&str], layers: &[Vec<u8>], kind: VerdictKind| {
        let mut image = image(&store, "linux/amd64", "", layers);
        let config = &mut image.config.as_mut().unwrap().parsed;
        config.entrypoint = words.iter().map(|word| (*word).to_string()).collect();
        let subject =
            VerifyTarget { source: &store, image: &image, platform: &"linux/amd64".parse().unwrap() };
        let finding = verify_all(&[subject], &VerifyOptions::new(VerifyDepth::Quick)).pop().unwrap().unwrap();
        assert_eq!(finding.verdict.kind, kind, "{words:?}");
        (finding.layers_read, finding.gaps.len())
    };
    let right = [base(62), app(62), script.clone()];
    let wrong = [app(183), base(62), script];
    assert_eq!(check(&["/entry.sh", "/opt/app"], &right, VerdictKind::Consistent), (3, 0));
    check(&["/entry.sh", "/opt/app"], &wrong, VerdictKind::Mixed);
    check(&["/bin/sh", "/entry.sh", "/opt/app"], &wrong, VerdictKind::Mixed);
    check(&["/bin/sh", "-c", "/bin/busybox true && exec /opt/app"], &wrong, VerdictKind::Mixed);
    check(&["/bin/sh", "-c", "exec \"$@\"", "sh", "/opt/app"], &wrong, VerdictKind::Mixed);
    // A command that is known at run time only: all layers are read, and the result has a gap.
    assert_eq!(check(&["/entry.sh", "serve"], &wrong, VerdictKind::ForeignPayload), (3, 2));
}

/// A correct program on a base image for another platform cannot start, because its loader is for another machine.
#[test]
fn a_quick_verification_reads_the_layer_of_the_loader() {
    let store = MemoryStore::new();
    let loader = "/lib64/ld-linux-x86-64.so.2";
    let base =
        |machine: u16| Tar::default().file(&loader[1..], &elf(machine)).file("bin/sh", &elf(machine)).end();
    let other = |name: &str| Tar::default().file(name, b"data").end();
    let app = Tar::default().file("app", &dynamic(62, loader)).end();
    let check = |layers: &[Vec<u8>], kind: VerdictKind, layers_read: usize| {
        let image = image(&store, "linux/amd64", "/app", layers);
        let subject =
            VerifyTarget { source: &store, image: &image, platform: &"linux/amd64".parse().unwrap() };
        let finding = verify_all(&[subject], &VerifyOptions::new(VerifyDepth::Quick)).pop().unwrap().unwrap();
        assert_eq!((finding.verdict.kind, finding.layers_read), (kind, layers_read), "{:?}", finding.verdict);
        finding.chain.iter().map(|shown| shown.path.clone()).collect::<Vec<_>>()
    };
    let right = [base(62), other("a"), other("b"), app.clone(), other("c")];
    assert_eq!(check(&right, VerdictKind::Consistent, 3), ["/app", "/bin/sh", loader]);
    let wrong = [base(183), other("a"), other("b"), app.clone(), other("c")];
    assert_eq!(check(&wrong, VerdictKind::Mixed, 5), ["/app", "/bin/sh", loader]);
    // The loader is not in the lowest layer: the next ones are read upwards.
    let above = [other("a"), base(62), other("b"), other("c"), app.clone()];
    assert_eq!(check(&above, VerdictKind::Consistent, 3), ["/app", "/bin/sh", loader]);
    // Only after all layers were read, the loader is known to be absent.
    assert_eq!(check(&[other("a"), other("b"), app, other("c")], VerdictKind::WouldNotStart, 4), ["/app"]);
}

/// A layer that cannot be read may have the file that is absent in the others, but does not change a file above it.
#[test]
fn a_start_fails_for_certain_only_if_no_unread_layer_decides() {
    let store = MemoryStore::new();
    let check = |layers: &[Vec<u8>], kind: VerdictKind| {
        let mut image = image(&store, "linux/amd64", "/app", layers);
        for descriptor in &mut image.manifest.layers {
            if descriptor.size == 0 {
                descriptor.media_type = "application/vnd.example.squashfs".into();
            }
        }
        let finding = verify_image(&store, &image, &"linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(finding.verdict.kind, kind, "{:?}", finding.verdict);
    };
    let app = |content: &[u8]| Tar::default().file("app", content).end();
    let (text, crlf) = (app(b"echo hello\n"), app(b"#!/bin/sh\r\n"));
    check(&[base(62)], VerdictKind::WouldNotStart);
    check(&[base(62), Vec::new()], VerdictKind::Undetermined);
    check(&[base(62), crlf.clone()], VerdictKind::WouldNotStart);
    check(&[Vec::new(), base(62), crlf], VerdictKind::Undetermined);
    check(&[base(62), Vec::new(), text.clone()], VerdictKind::WouldNotStart);
    check(&[base(62), text, Vec::new()], VerdictKind::Undetermined);
}

#[test]
fn the_last_line_of_a_script_is_followed() {
    let store = MemoryStore::new();
    let script =
        |text: &str| Tar::default().file("entry.sh", format!("#!/bin/sh\n{text}\n").as_bytes()).end();
    let app = |machine: u16| Tar::default().file("opt/app", &elf(machine)).end();
    let check = |words: &[&str], text: &str, machine: u16, kind: VerdictKind| {
        let mut image = image(
            &store,
            "linux/amd64",
            "",
            &[app(62), base(62), script("exit"), app(machine), script(text)],
        );
        let config = &mut image.config.as_mut().unwrap().parsed;
        config.entrypoint = words.iter().map(|word| (*word).to_string()).collect();
        let subject =
            VerifyTarget { source: &store, image: &image, platform: &"linux/amd64".parse().unwrap() };
        let finding = verify_all(&[subject], &VerifyOptions::new(VerifyDepth::Quick)).pop().unwrap().unwrap();
        assert_eq!(finding.verdict.kind, kind, "{words:?} {text}");
    };
    check(&["/entry.sh"], "exec /opt/app --serve", 62, VerdictKind::Consistent);
    check(&["/entry.sh"], "exec /opt/app --serve", 183, VerdictKind::Mixed);
    check(&["sh", "/entry.sh"], "exec /opt/app", 183, VerdictKind::Mixed);
    check(&["/entry.sh", "/opt/app"], "exec nice -n 5 \"$@\"", 183, VerdictKind::Mixed);
    // An argument that a script only reads is not a program.
    check(&["/entry.sh", "/opt/app"], "cp \"$@\" /srv", 183, VerdictKind::ForeignPayload);
    // The script may not reach that line, so this is a note.
    check(&["/entry.sh"], "if test -e /x; then\n/opt/app\nfi", 183, VerdictKind::ForeignPayload);
}

/// An emulator for the machine of the image runs programs of another machine. One for the machine of the host lets the host
/// run the image.
#[test]
fn arguments_of_an_emulator_are_programs_of_the_emulated_machine() {
    let store = MemoryStore::new();
    let check = |emulator: u16, app: u16, label: &str, kind: VerdictKind| {
        let tar = Tar::default().file("usr/bin/qemu-x-static", &elf(emulator)).file("app", &elf(app)).end();
        let mut image = image(&store, label, "", &[base(if label == "linux/arm64" { 183 } else { 40 }), tar]);
        let config = &mut image.config.as_mut().unwrap().parsed;
        config.entrypoint = ["/usr/bin/qemu-x-static", "-L", "/x", "/app"].map(String::from).to_vec();
        let finding = verify_image(&store, &image, &label.parse().unwrap()).unwrap();
        assert_eq!(finding.verdict.kind, kind, "{label} {:?}", finding.verdict);
    };
    check(183, 62, "linux/arm64", VerdictKind::ForeignPayload);
    check(62, 40, "linux/arm/v7", VerdictKind::ForeignPayload);
    check(62, 62, "linux/arm64", VerdictKind::Mixed);
}

/// box86 is a program for 32-bit arm that runs 386 programs, in arm64 images as well.
#[test]
fn box86_in_an_arm64_image_is_an_emulator() {
    let store = MemoryStore::new();
    let check = |emulator: &str, machine: u16, label: &str, kind: VerdictKind| {
        let path = format!("usr/bin/{emulator}");
        let tar = Tar::default().file(&path, &elf(machine)).file("app", &elf(3)).end();
        let mut image = image(&store, label, "", &[base(if label == "linux/arm64" { 183 } else { 62 }), tar]);
        image.config.as_mut().unwrap().parsed.entrypoint = vec![emulator.into(), "/app".into()];
        let finding = verify_image(&store, &image, &label.parse().unwrap()).unwrap();
        assert_eq!(finding.verdict.kind, kind, "{emulator} {label} {:?}", finding.verdict);
    };
    check("box86", 40, "linux/arm64", VerdictKind::ForeignPayload);
    check("box64", 183, "linux/arm64", VerdictKind::ForeignPayload);
    check("FEXInterpreter", 183, "linux/arm64", VerdictKind::ForeignPayload);
    check("server", 40, "linux/arm64", VerdictKind::Mixed);
    check("box86", 183, "linux/amd64", VerdictKind::ForeignPayload);
}

/// The kernel does not start it, and the shell runs it as a script on every machine.
#[test]
fn a_portable_executable_is_for_no_single_machine() {
    let store = MemoryStore::new();
    let file = [&b"MZqFpD='\n"[..], &[0; 0x31], b"\x40\0\0\0PE\0\0\x64\x86"].concat();
    for (machine, label) in [(62, "linux/amd64"), (183, "linux/arm64")] {
        let mut image = image(&store, label, "", &[base(machine), Tar::default().file("app", &file).end()]);
        for entrypoint in [&["/bin/sh", "-c", "/app -h"][..], &["/bin/sh", "/app"], &["/app"]] {
            let words = entrypoint.iter().map(ToString::to_string).collect();
            image.config.as_mut().unwrap().parsed.entrypoint = words;
            let finding = verify_image(&store, &image, &label.parse().unwrap()).unwrap();
            assert_eq!(finding.verdict.kind, VerdictKind::Consistent, "{:?}", finding.verdict);
        }
    }
}

fn dynamic(machine: u16, interpreter: &'static str) -> Vec<u8> {
    use crate::elf::tests::Made;
    Made { interpreter: Some(interpreter), ..Made::new(true, false, machine, 0) }.file()
}

#[test]
fn an_image_that_needs_too_many_lookups_is_undetermined() {
    let store = MemoryStore::new();
    let mut layers: Vec<Vec<u8>> =
        (0..60).map(|i| Tar::default().file(&format!("srv/{i}"), b"x").end()).collect();
    layers.insert(0, base(62));
    let mut image = image(&store, "linux/arm64", "/bin/sh", &layers);
    let config = &mut image.config.as_mut().unwrap().parsed;
    config.env = vec![format!("PATH={}", "/d:".repeat(400_000))];
    config.entrypoint = vec!["/bin/sh".into(), "-c".into(), (0..500).map(|i| format!("x{i};")).collect()];
    let verdict = verify_image(&store, &image, &"linux/arm64".parse().unwrap()).unwrap().verdict;
    assert_eq!(verdict.kind, VerdictKind::Undetermined);
    assert_eq!(verdict.reasons, ["the image needs more than 50000000 look-ups"]);
    assert_eq!((verdict.binaries, verdict.files.len()), (None, 0));
}

#[test]
fn an_image_with_more_than_1000_layers_is_refused() {
    let store = MemoryStore::new();
    let check = |count: usize| {
        let image = image(&store, "linux/amd64", "/bin/sh", &vec![base(62); count]);
        verify_image(&store, &image, &"linux/amd64".parse().unwrap())
    };
    assert_eq!(check(1000).unwrap().verdict.kind, VerdictKind::Consistent);
    let error = check(1001).unwrap_err();
    assert_eq!(error.kind, Exit::BadInput);
    assert!(error.to_string().contains("it has 1001 layers; an image has at most 1000"), "{error}");
}
