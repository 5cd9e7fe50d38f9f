//! Sound images of many kinds: none of them is said to be one that would not start.

use super::corpus::{architectures, layer};
use super::made::Layer;
use super::would_not_start::dynamic;
use image_evidence::verdict::VerdictKind;
use image_evidence::verify::{VerifyDepth, VerifyOptions, VerifyTarget, verify_all};
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, media_type};
use image_model::platform::Platform;
use image_store::store::memory::MemoryStore;
use image_store::store::{ImageStore, Pointer};
use image_store::tree::{Image, TreeNode, read_tree};
use multiarch_tests::need;
use multiarch_tests::world::debian_packages;
use std::fs;
use std::path::Path;

/// What an image is based on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    /// glibc with a dynamic dash.
    Glibc,
    /// The loader of musl, and a static busybox.
    Musl,
    /// Nothing, as for static Go programs.
    Empty,
}

use Base::{Empty, Glibc, Musl};

/// Programs of one architecture.
struct Programs {
    platform: &'static str,
    /// Needs the loader of glibc.
    dash: Vec<u8>,
    /// Static.
    busybox: Vec<u8>,
    /// Static, made by Go.
    gosu: Vec<u8>,
}

/// An image: its base, its own layer, its command.
type Sound = (Base, Layer, Vec<&'static str>);

const EXEC_ARGUMENTS: &[u8] = b"#!/bin/sh\nset -e\nexec \"$@\"\n";
/// As in the official images of node and others.
const OPTIONS_FIRST: &[u8] =
    b"#!/bin/sh\nset -e\nif [ \"${1#-}\" != \"${1}\" ] || [ -z \"$(command -v \"${1}\")\" ]; then\n  \
                               set -- node \"$@\"\nfi\nexec \"$@\"\n";
const DECIDES: &[u8] =
    b"#!/bin/sh\nset -eu\nif [ -n \"${DEBUG:-}\" ]; then exec /absent/debugger; fi\nexec \"$APP\" \"$@\"\n";

/// Images of any base that has a shell.
fn with_shell(base: Base, programs: &Programs) -> Vec<Sound> {
    let app = || Layer::new().file("opt/app/bin/app", &programs.gosu);
    let entry = |text: &[u8]| app().file("entry.sh", text);
    vec![
        (base, Layer::new(), vec!["sh"]),
        (base, Layer::new(), vec!["/bin/sh", "-c", "echo hello && exec sleep 1"]),
        (base, app(), vec!["/opt/app/bin/app", "--serve"]),
        (base, app(), vec!["/bin/sh", "-c", "/opt/app/bin/app --port $PORT"]),
        (base, app(), vec!["sh", "-c", "exec /opt/app/bin/app"]),
        (base, app().symlink("usr/local/bin/app", "/opt/app/bin/app"), vec!["app"]),
        (base, entry(EXEC_ARGUMENTS), vec!["/entry.sh", "/opt/app/bin/app"]),
        (base, entry(EXEC_ARGUMENTS), vec!["/entry.sh", "serve"]),
        (base, entry(DECIDES), vec!["/entry.sh"]),
        (base, entry(b"#!/bin/sh\nexec /opt/app/bin/app \"$@\"\n"), vec!["/entry.sh", "-v"]),
        (base, entry(b"#! /bin/sh -eu\n. /etc/defaults\nexec ${APP:-/opt/app/bin/app}"), vec!["/entry.sh"]),
        // Windows line endings in what only the shell reads.
        (base, entry(b"#!/bin/sh\nexec /opt/app/bin/app\r\n"), vec!["/bin/sh", "/entry.sh"]),
        (base, app().file("sbin/tini", &programs.gosu), vec!["/sbin/tini", "--", "/opt/app/bin/app"]),
        (base, app().file("usr/bin/dumb-init", &programs.gosu), vec!["dumb-init", "/opt/app/bin/app"]),
        (base, app().file("sbin/su-exec", &programs.gosu), vec!["su-exec", "app", "sh", "-c", "exec $APP"]),
        (base, app().file("usr/sbin/gosu", &programs.gosu), vec!["gosu", "nobody", "/opt/app/bin/app"]),
        (
            base,
            app().file("usr/bin/dockerize", &programs.gosu),
            vec!["dockerize", "-template", "/etc/app.tmpl:/tmp/run.sh", "/tmp/run.sh"],
        ),
        // s6-overlay.
        (
            base,
            app()
                .file("init", b"#!/bin/sh -e\nexec /command/s6-svscan\n")
                .file("command/s6-svscan", &programs.gosu),
            vec!["/init"],
        ),
        // A script that the shell writes first.
        (base, app(), vec!["sh", "-c", "printf 'exec app' > /tmp/start; sh /tmp/start"]),
        (base, app(), vec!["sh", "-c", "test -x /local/hook && /local/hook; exec /opt/app/bin/app"]),
        (base, Layer::new().file("text", b"exec app\n"), vec!["sh", "/text"]),
        (base, Layer::new().file("text", b"exec app\n"), vec!["sh", "-c", "/text"]),
        (base, Layer::new().file("etc/data", b"data"), Vec::new()),
    ]
}

/// Images with interpreters, which need glibc.
fn interpreters(programs: &Programs, loader: &str) -> Vec<Sound> {
    let env = || Layer::new().file("usr/bin/env", &programs.dash);
    let python = || {
        env().file("usr/local/bin/python3.12", &programs.dash).symlink("usr/local/bin/python3", "python3.12")
    };
    let node = || {
        env()
            .file("usr/local/bin/node", &programs.dash)
            .file("usr/local/bin/docker-entrypoint.sh", OPTIONS_FIRST)
    };
    let java = || {
        Layer::new()
            .file("opt/java/openjdk/bin/java", &programs.dash)
            .symlink("usr/bin/java", "/etc/alternatives/java")
            .symlink("etc/alternatives/java", "/opt/java/openjdk/bin/java")
            .data("app.jar", b"PK\x03\x04")
    };
    let mut all = vec![
        (Glibc, Layer::new(), vec!["/bin/dash", "-c", "exec /bin/dash"]),
        (Glibc, python(), vec!["python3", "-m", "http.server"]),
        (Glibc, python().file("app/main.py", b"#!/usr/bin/env python3\nprint()\n"), vec!["/app/main.py"]),
        (Glibc, python().file("app/run", b"#!/usr/local/bin/python3 -u\nprint()\n"), vec!["/app/run"]),
        (Glibc, python().file("app/run", b"#!/usr/bin/env -S python3 -u\nprint()\n"), vec!["/app/run"]),
        (Glibc, python().data("app/main.py", b"print()"), vec!["python3", "/app/main.py"]),
        (
            Glibc,
            python()
                .file("opt/venv/bin/gunicorn", b"#!/opt/venv/bin/python\n")
                .symlink("opt/venv/bin/python", "/usr/local/bin/python3"),
            vec!["/opt/venv/bin/gunicorn", "app:app"],
        ),
        (Glibc, node(), vec!["docker-entrypoint.sh", "node"]),
        (Glibc, node(), vec!["docker-entrypoint.sh", "server.js"]),
        (
            Glibc,
            node()
                .file("usr/local/lib/npm-cli.js", b"#!/usr/bin/env node\n")
                .symlink("usr/local/bin/npm", "../lib/npm-cli.js"),
            vec!["npm", "start"],
        ),
        (Glibc, java(), vec!["java", "-jar", "/app.jar"]),
        (
            Glibc,
            java().file("usr/bin/catalina.sh", b"#!/bin/sh\nexec \"$JAVA\" -jar /app.jar\n"),
            vec!["catalina.sh", "run"],
        ),
        (Glibc, java(), vec!["sh", "-c", "java $JAVA_OPTS -jar /app.jar"]),
    ];
    // dash has its loader at this path; a loader may be executed itself.
    let loader: &'static str = String::leak(loader.to_string());
    all.push((Glibc, Layer::new(), vec![loader, "/bin/dash"]));
    all
}

/// Images with programs for a loader at an unusual path. Only for machines of 64 bits, little-endian.
fn other_loaders(programs: &Programs, glibc: &[u8], musl: &str) -> Vec<Sound> {
    let store = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-glibc-2.38/lib/ld.so";
    let nix = || {
        Layer::new()
            .file(&store[1..], glibc)
            .file("nix/store/abc-hello/bin/hello", &dynamic(programs.platform, store))
            .symlink("bin/hello", "/nix/store/abc-hello/bin/hello")
    };
    let of_musl = || Layer::new().file("usr/bin/app", &dynamic(programs.platform, musl));
    vec![
        (Empty, nix(), vec!["/nix/store/abc-hello/bin/hello"]),
        (Empty, nix(), vec!["/bin/hello"]),
        (Empty, nix(), vec!["hello"]),
        (
            Empty,
            nix().file("nix/store/abc-run/bin/run", b"#!/nix/store/abc-hello/bin/hello\n"),
            vec!["/nix/store/abc-run/bin/run"],
        ),
        (Musl, of_musl(), vec!["app"]),
        (Musl, of_musl(), vec!["/bin/sh", "-c", "exec /usr/bin/app"]),
        (
            Musl,
            of_musl().file("sbin/tini", &dynamic(programs.platform, musl)),
            vec!["/sbin/tini", "--", "app"],
        ),
    ]
}

/// The path of a loader and its content. Links of Debian's packages are absolute: the file is in a directory beside them.
fn loader(root: &Path, package: &str, prefix: &str) -> Option<(String, Vec<u8>)> {
    let names = |directory: &str| -> Vec<String> {
        let entries = fs::read_dir(root.join(package).join(directory)).into_iter().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        names
    };
    let all = ["lib", "lib64", "usr/lib", "usr/lib64"];
    let (directory, name) = all.iter().find_map(|directory| {
        let name = names(directory).into_iter().find(|name| name.starts_with(prefix) && name.contains(".so"));
        Some((directory.trim_start_matches("usr/"), name?))
    })?;
    let places = all.iter().flat_map(|directory| {
        let below = names(directory).into_iter().map(move |inner| format!("{directory}/{inner}"));
        below.chain([(*directory).to_string()])
    });
    let read = |place: String| {
        let file = root.join(package).join(place).join(&name);
        let is_inside = file.canonicalize().ok()?.starts_with(root.canonicalize().ok()?);
        if is_inside { fs::read(file).ok() } else { None }
    };
    Some((format!("/{directory}/{name}"), places.into_iter().find_map(read)?))
}

fn read(root: &Path, places: &[&str]) -> Vec<u8> {
    places.iter().find_map(|place| fs::read(root.join(place)).ok()).unwrap_or_else(|| panic!("{places:?}"))
}

/// Writes an image whose lowest layer is in the store already.
fn add(store: &MemoryStore, platform: &str, base: Option<&Descriptor>, own: &[u8], words: &[&str]) -> Image {
    let layers: Vec<Descriptor> =
        base.cloned().into_iter().chain([store.add_blob(media_type::OCI_LAYER, own)]).collect();
    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.digest).collect();
    let mut config = serde_json::to_value(platform.parse::<Platform>().unwrap()).unwrap();
    config["config"] = serde_json::json!({"Cmd": words});
    config["rootfs"] = serde_json::json!({"type": "layers", "diff_ids": diff_ids});
    let config = store.add_blob(media_type::OCI_CONFIG, config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config, "layers": layers,
    });
    let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
    store.write_tag("x", &document).unwrap();
    let TreeNode::Image(image) = read_tree(store, &Pointer::Tag("x".into())).unwrap() else { panic!() };
    image
}

/// Returns the images whose verdict is neither consistent nor undetermined, and the number of undetermined ones.
fn judge(platform: &str, bases: &[(Base, Vec<u8>)], sound: Vec<Sound>) -> (Vec<String>, usize) {
    let store = MemoryStore::new();
    let bases: Vec<(Base, Descriptor)> =
        bases.iter().map(|(kind, layer)| (*kind, store.add_blob(media_type::OCI_LAYER, layer))).collect();
    let names: Vec<String> =
        sound.iter().map(|(base, _, words)| format!("{platform} {base:?} {words:?}")).collect();
    let images: Vec<Image> = sound
        .into_iter()
        .map(|(base, own, words)| {
            let base = bases.iter().find(|(kind, _)| *kind == base).map(|(_, layer)| layer);
            add(&store, platform, base, &own.end(), &words)
        })
        .collect();
    let declared: Platform = platform.parse().unwrap();
    let targets: Vec<VerifyTarget<'_>> =
        images.iter().map(|image| VerifyTarget { source: &store, image, platform: &declared }).collect();
    let found = verify_all(&targets, &VerifyOptions::new(VerifyDepth::Full));
    let verdicts: Vec<_> = found.into_iter().map(|finding| finding.unwrap().verdict).collect();
    let undetermined = verdicts.iter().filter(|verdict| verdict.kind == VerdictKind::Undetermined).count();
    let is_fine = |kind: VerdictKind| matches!(kind, VerdictKind::Consistent | VerdictKind::Undetermined);
    let wrong = names.into_iter().zip(verdicts).filter(|(_, verdict)| !is_fine(verdict.kind));
    let wrong = wrong.map(|(name, verdict)| format!("{name}: {:?} {:?}", verdict.kind, verdict.reasons));
    (wrong.collect(), undetermined)
}

#[test]
fn no_sound_image_would_not_start() {
    let (mut wrong, mut count, mut undetermined) = (Vec::new(), 0, 0);
    for (debian, platform) in architectures() {
        let root = need!(debian_packages(debian));
        let programs = Programs {
            platform,
            dash: read(&root, &["dash/bin/dash", "dash/usr/bin/dash"]),
            busybox: read(&root, &["busybox-static/bin/busybox", "busybox-static/usr/bin/busybox"]),
            gosu: read(&root, &["gosu/usr/sbin/gosu"]),
        };
        let musl = loader(&root, "musl", "ld-musl-").unwrap();
        let glibc = loader(&root, "libc6", "ld").unwrap();
        let shell = Layer::new()
            .file(&musl.0[1..], &musl.1)
            .file("bin/busybox", &programs.busybox)
            .symlink("bin/sh", "busybox");
        let bases = [(Glibc, layer(&root, &["dash", "libc6"])), (Musl, shell.end())];
        let mut sound = with_shell(Musl, &programs);
        sound.extend(with_shell(Glibc, &programs));
        sound.extend(interpreters(&programs, &glibc.0));
        // Go in an image of one file.
        sound.push((Empty, Layer::new().file("app", &programs.gosu), vec!["/app"]));
        if programs.gosu[4] == 2 && programs.gosu[5] == 1 {
            sound.extend(other_loaders(&programs, &glibc.1, &musl.0));
        }
        count += sound.len();
        let (more, unknown) = judge(platform, &bases, sound);
        wrong.extend(more);
        undetermined += unknown;
    }
    assert_eq!(wrong, [""; 0]);
    // Only those without a command, and those of which nothing but a script is known.
    assert!(count >= 150 && undetermined * 10 < count, "{undetermined} of {count}");
}
