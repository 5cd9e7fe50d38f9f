//! Images made twice, on bases right and wrong.

use super::*;
use crate::spec::RunConfig;
use flate2::bufread::MultiGzDecoder;
use image_store::check;
use std::fs;
use std::io::{BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// The digest of [`tiny`] on `linux/arm64`. It is the same on every machine; if a change here is meant, every image
/// ever made with this builder gets a new digest.
const TINY: &str = "sha256:6fc64a5246fd937d0cb1ab20365185147e90fbc6b273f71aef09b6805eb83c85";

fn words(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|word| (*word).to_string()).collect())
}

/// Two files and a link below a directory, written in this order and with these modes.
fn tiny(dir: &Path, names: &[&str], mode: u32) -> FilesRecipe {
    for name in names {
        let path = dir.join("root").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match *name {
            "link" => std::os::unix::fs::symlink("bin/app", &path).unwrap(),
            name => {
                fs::write(&path, format!("content of {name}")).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
    let run = RunConfig {
        cmd: words(&["/bin/app"]),
        env: [("A".into(), "b".into())].into(),
        ..RunConfig::default()
    };
    FilesRecipe { from: None, copy: vec![(dir.join("root"), "/".into())], run }
}

fn build(
    recipe: &FilesRecipe,
    platform: &str,
    base: Option<Base<'_>>,
    out: &OciLayout,
) -> Result<Document, Error> {
    let platform: Platform = platform.parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let records = Records::in_dir(dir.path());
    build_image(&RootfsJob { platform: &platform, recipe, epoch: 0, records: &records }, base, out)
}

fn layout(dir: &Path) -> OciLayout {
    OciLayout::open_or_create(&dir.join("out")).unwrap()
}

fn config(out: &OciLayout, document: &Document) -> String {
    let ParsedDocument::Manifest(image) = document.parse().unwrap() else { panic!("an index") };
    String::from_utf8(read_blob(out, &image.config, CONFIG_MAX).unwrap()).unwrap()
}

fn layers(document: &Document) -> Vec<Descriptor> {
    match document.parse().unwrap() {
        ParsedDocument::Manifest(image) => image.layers,
        ParsedDocument::Index(_) => panic!("an index"),
    }
}

#[test]
fn the_same_files_have_the_same_digest_for_any_owner_and_time() {
    let digest = |names: &[&str], mode: u32| {
        let dir = tempfile::tempdir().unwrap();
        let recipe = tiny(dir.path(), names, mode);
        let out = layout(dir.path());
        let document = build(&recipe, "linux/arm64", None, &out).unwrap();
        assert_eq!(check_tagged(&out, &document), []);
        document.digest().to_string()
    };
    assert_eq!(digest(&["bin/app", "etc/conf", "link"], 0o755), TINY);
    // Other order, other times, another umask and other directories.
    assert_eq!(digest(&["link", "etc/conf", "bin/app"], 0o700), TINY);
    assert_ne!(digest(&["link", "etc/conf", "bin/app"], 0o600), TINY);
}

#[test]
fn an_image_has_the_values_of_the_spec() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = tiny(dir.path(), &["bin/app"], 0o755);
    let out = layout(dir.path());
    let document = build(&recipe, "linux/arm/v7", None, &out).unwrap();
    let layer = layers(&document).remove(0);
    let mut tar = Vec::new();
    MultiGzDecoder::new(BufReader::new(out.open_blob(&layer).unwrap())).read_to_end(&mut tar).unwrap();
    let diff_id = Digest::of(&tar);
    assert_eq!(
        config(&out, &document),
        format!(
            concat!(
                r#"{{"created":"1970-01-01T00:00:00Z","architecture":"arm","os":"linux","variant":"v7","#,
                r#""config":{{"Cmd":["/bin/app"],"Env":["A=b"]}},"#,
                r#""rootfs":{{"type":"layers","diff_ids":["{}"]}},"#,
                r#""history":[{{"created":"1970-01-01T00:00:00Z","created_by":"cargo xtask release: builder rootfs"}}]}}"#
            ),
            diff_id
        )
    );
}

#[test]
fn platforms_with_the_same_files_share_a_layer() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = tiny(dir.path(), &["bin/app"], 0o755);
    let out = layout(dir.path());
    let arm = build(&recipe, "linux/arm64", None, &out).unwrap();
    let intel = build(&recipe, "linux/amd64", None, &out).unwrap();
    assert_eq!(layers(&arm), layers(&intel));
    assert_ne!(arm.digest(), intel.digest());
}

/// A base image for each platform in one index: a directory `lib` that is a link, and a config with things of its own.
fn base_index(dir: &Path, platforms: &[(&str, &str)]) -> (OciLayout, Document) {
    let store = OciLayout::open_or_create(&dir.join("base")).unwrap();
    let root = dir.join("base-root");
    fs::create_dir_all(root.join("usr/lib")).unwrap();
    let _ = std::os::unix::fs::symlink("usr/lib", root.join("lib"));
    let run =
        RunConfig { entrypoint: words(&["/base"]), user: Some("nobody".into()), ..RunConfig::default() };
    let recipe = FilesRecipe { from: None, copy: vec![(root, "/".into())], run };
    let members: Vec<String> = platforms
        .iter()
        .map(|(entry, said)| {
            let mut member = build(&recipe, said, None, &store).unwrap().descriptor();
            member.platform = Some(entry.parse().unwrap());
            serde_json::to_string(&member).unwrap()
        })
        .collect();
    let index = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{}\",\"manifests\":[{}]}}",
        media_type::OCI_INDEX,
        members.join(",")
    );
    let document = Document::new(index.into_bytes(), None).unwrap();
    // A layout is read only when it has a tag.
    store.write_tag("base", &document).unwrap();
    (store, document)
}

fn base<'a>(store: &'a OciLayout, document: &Document) -> Option<Base<'a>> {
    Some(Base { source: store, at: Pointer::from(document.digest()), name: "example.com/base".into() })
}

#[test]
fn a_base_is_selected_by_platform_and_its_layers_config_and_links_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    // The config of arm/v5 has no variant, as in many images.
    let platforms =
        [("linux/amd64", "linux/amd64"), ("linux/arm64", "linux/arm64"), ("linux/arm/v5", "linux/arm")];
    let (store, index) = base_index(dir.path(), &platforms);
    fs::write(dir.path().join("app"), "app").unwrap();
    let run = RunConfig { cmd: words(&["/lib/app"]), ..RunConfig::default() };
    let recipe = FilesRecipe { from: None, copy: vec![(dir.path().join("app"), "/lib/app".into())], run };
    let out = layout(dir.path());
    for platform in ["linux/arm64", "linux/arm/v5"] {
        let document = build(&recipe, platform, base(&store, &index), &out).unwrap();
        assert_eq!(check_tagged(&out, &document), []);
        let config: serde_json::Value = serde_json::from_str(&config(&out, &document)).unwrap();
        assert_eq!(config["config"]["Entrypoint"][0], "/base");
        assert_eq!(
            (&config["config"]["User"], &config["config"]["Cmd"][0]),
            (&"nobody".into(), &"/lib/app".into())
        );
        assert_eq!(config["history"].as_array().unwrap().len(), 2);
        assert_eq!(config["variant"].as_str(), platform.strip_prefix("linux/arm/"));
        let layers = layers(&document);
        assert_eq!(layers.len(), 2);
        let top = MultiGzDecoder::new(BufReader::new(out.open_blob(&layers[1]).unwrap()));
        let mut archive = tar::Archive::new(top);
        let names: Vec<String> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        // Not a directory "lib/" that would hide the link, and no "usr/" that would change the base's.
        assert_eq!(names, ["usr/lib/app"]);
    }
    // Nothing to copy: the base's layers alone.
    let recipe = FilesRecipe { copy: Vec::new(), ..recipe };
    let document = build(&recipe, "linux/arm64", base(&store, &index), &out).unwrap();
    assert_eq!((layers(&document).len(), check_tagged(&out, &document)), (1, Vec::new()));
}

#[test]
fn a_base_for_another_platform_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let platforms = [("linux/amd64", "linux/amd64"), ("linux/s390x", "linux/amd64")];
    let (store, index) = base_index(dir.path(), &platforms);
    let recipe = FilesRecipe::default();
    let out = layout(dir.path());
    let said = |platform: &str| {
        let error = build(&recipe, platform, base(&store, &index), &out).unwrap_err();
        (error.kind, error.to_string())
    };
    let (kind, text) = said("linux/arm64");
    assert_eq!(kind, Exit::NotFound);
    let wanted = "use base image \"example.com/base\" for linux/arm64: it has only linux/amd64, linux/s390x";
    assert_eq!(text, wanted);
    let (kind, text) = said("linux/s390x");
    assert_eq!(kind, Exit::CheckFailed);
    assert!(text.contains("for linux/s390x: its config declares linux/amd64; name a base"), "{text}");
}

#[test]
fn python_and_gnu_tar_read_the_layer() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(110), "f".repeat(110));
    let recipe = tiny(dir.path(), &["bin/app", "link", &long], 0o755);
    let out = layout(dir.path());
    let document = build(&recipe, "linux/arm64", None, &out).unwrap();
    let file = dir.path().join("layer.tar.gz");
    fs::write(&file, read_blob(&out, &layers(&document)[0], 1 << 20).unwrap()).unwrap();
    let run =
        |program: &str, arguments: &[&str]| match Command::new(program).args(arguments).arg(&file).output() {
            Ok(output) => Some((String::from_utf8(output.stdout).unwrap(), output.status.success())),
            Err(error) => {
                assert!(
                    std::env::var_os("MULTIARCH_REQUIRE_WORLD").is_none_or(|v| v != "1"),
                    "{program}: {error}"
                );
                eprintln!("skipped: {program}: {error}");
                None
            }
        };
    let (directory, _) = long.split_once('/').unwrap();
    let names = format!("bin/\nbin/app\n{directory}/\n{long}\nlink\n");
    if let Some(said) = run("tar", &["-tzf"]) {
        assert_eq!(said, (names.clone(), true));
    }
    let script = "import sys,tarfile\nfor m in tarfile.open(sys.argv[1]):\n  assert (m.uid,m.gid,m.mtime)==(0,0,0)\n  print(m.name+('/' if m.isdir() else ''))";
    if let Some(said) = run("python3", &["-c", script]) {
        assert_eq!(said, (names, true));
    }
}

fn check_tagged(out: &OciLayout, document: &Document) -> Vec<check::ImageProblem> {
    out.write_tag("t", document).unwrap();
    check::check(out, &Pointer::Tag("t".into()), check::CheckDepth::Layers)
}

#[test]
fn only_changed_or_missing_layers_are_compressed_again() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::in_dir(&dir.path().join("work"));
    let recipe = tiny(dir.path(), &["bin/app"], 0o755);
    let platform = "linux/arm64".parse().unwrap();
    let layer = |out: &OciLayout| {
        let job = RootfsJob { platform: &platform, recipe: &recipe, epoch: 0, records: &records };
        let ParsedDocument::Manifest(image) = build_image(&job, None, out).unwrap().parse().unwrap() else {
            panic!("it is an image")
        };
        image.layers[0].digest.clone()
    };
    let out = OciLayout::open_or_create(&dir.path().join("out")).unwrap();
    let first = layer(&out);
    // A mark that only the record can bring back.
    let marked = out.add_blob(media_type::OCI_LAYER_GZIP, &b"as the record says"[..]).unwrap();
    records.overwrite_all(&marked);
    assert_eq!(layer(&out), marked.digest);
    let elsewhere = OciLayout::open_or_create(&dir.path().join("elsewhere")).unwrap();
    assert_eq!(layer(&elsewhere), first, "another layout does not have it");
    fs::write(dir.path().join("root/bin/app"), "changed").unwrap();
    assert!(![first, marked.digest].contains(&layer(&out)));
}
