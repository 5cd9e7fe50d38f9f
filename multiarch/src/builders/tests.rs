//! Builders with programs that stand in for engines: what they are asked, and what becomes of what they give.

use super::buildx::Buildx;
use super::docker::Docker;
use super::podman::Podman;
use super::*;
use crate::spec::{BuildArgs, DockerfileRecipe, FilesRecipe, Secret, SecretSource};
use image_model::manifest::{CONFIG_MAX, ParsedDocument};
use image_store::store::read_blob;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A directory with a Dockerfile, and the job to build it.
fn job(dir: &Path, dockerfile: &str, platform: &str) -> BuildJob {
    fs::write(dir.join("Dockerfile"), dockerfile).unwrap();
    let args = [("TOKEN".to_string(), Some("hunter2".to_string()))];
    BuildJob {
        platform: platform.parse().unwrap(),
        recipe: Recipe::Dockerfile(DockerfileRecipe {
            build_args: BuildArgs(args.into()),
            ..DockerfileRecipe::new(dir.join("Dockerfile"), dir.to_path_buf())
        }),
        work_dir: dir.join("work"),
        epoch: None,
        records: Records::in_dir(dir),
    }
}

/// A shell script in an engine's place. `$OUT` of it is the file or directory to write.
fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("engine");
    fs::write(&path, format!("#!/bin/sh\nset -eu\n{text}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

const ID: &str = "sha256:d3e95b78229ccd29aa911526f04f26d1d7df5ea93d933c0383935946a6d511a4";

/// An engine whose `build` writes an ID and whose `save` writes the form of Docker 20.10: an image that declares amd64.
fn docker(dir: &Path, build: &str) -> Docker {
    // docker build ... ADD of one file on scratch; the config is as Docker wrote it, but for its length.
    fs::create_dir_all(dir.join("saved/a")).unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    layer.append_data(&mut header, "f", &b"hi\n"[..]).unwrap();
    let layer = layer.into_inner().unwrap();
    let diff_id = image_model::digest::Digest::of(&layer);
    let config = format!(
        r#"{{"architecture":"amd64","container_config":{{"Cmd":["x"]}},"os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let name = image_model::digest::Digest::of(config.as_bytes()).hex().to_string();
    fs::write(dir.join("saved/a/layer.tar"), layer).unwrap();
    fs::write(dir.join(format!("saved/{name}.json")), config).unwrap();
    let manifest = format!(r#"[{{"Config":"{name}.json","RepoTags":null,"Layers":["a/layer.tar"]}}]"#);
    fs::write(dir.join("saved/manifest.json"), manifest).unwrap();
    fs::write(dir.join("version"), "20.10.24").unwrap();
    let text = format!(
        r#"echo "$@" >> {dir}/asked; echo "TOKEN=${{TOKEN-none}}" >> {dir}/asked
case "$1" in
  build) {build}
    while [ "$1" != --iidfile ]; do shift; done; printf %s {ID} > "$2";;
  save) tar -C {dir}/saved -cf "$3" $(ls {dir}/saved);;
  version) cat {dir}/version;;
  image) for name; do :; done; grep -q "\"$name\"" {dir}/known;;
esac"#,
        dir = dir.display()
    );
    Docker::with(&script(dir, &text))
}

fn asked(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join("asked")).unwrap();
    text.replace(&*dir.to_string_lossy(), "DIR")
}

fn staging(dir: &Path) -> OciLayout {
    OciLayout::open_or_create(&dir.join("staging")).unwrap()
}

#[test]
fn docker_builds_and_saves_and_the_image_is_imported_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let docker = docker(dir.path(), "");
    let job = job(dir.path(), "FROM scratch\nADD f /\n", "linux/arm/v7");
    let out = staging(dir.path());
    let document = docker.build(&job, &out, &dir.path().join("log")).unwrap();
    let ParsedDocument::Manifest(image) = document.parse().unwrap() else { panic!("{document:?}") };
    let config = String::from_utf8(read_blob(&out, &image.config, CONFIG_MAX).unwrap()).unwrap();
    assert!(
        config.starts_with(r#"{"architecture":"amd64","container_config":{"Cmd":["x"]},"os""#),
        "{config}"
    );
    assert_eq!(image.layers[0].media_type, image_model::manifest::media_type::DOCKER_LAYER_GZIP);
    let built = asked(dir.path()).replace("version --format {{.Client.Version}}\nTOKEN=none\n", "");
    assert_eq!(
        built,
        format!(
            "build --platform linux/arm/v7 --iidfile DIR/work/image-id --build-arg TOKEN --file DIR/Dockerfile DIR\n\
             TOKEN=hunter2\nsave --output DIR/work/image.tar {ID}\nTOKEN=none\n"
        )
    );
    // No large file is left, and the plan has the result.
    assert!(!dir.path().join("work/image.tar").exists());
    let described = docker.describe(&job).join("\n").replace(&*dir.path().to_string_lossy(), "DIR");
    let wanted = built.replace("TOKEN=hunter2\n", "").replace("TOKEN=none\n", "").replace(ID, "IMAGE-ID");
    assert_eq!(described.replace("docker ", "") + "\n", wanted);
    let again = docker.build(&job, &out, &dir.path().join("log")).unwrap();
    assert_eq!(again.digest(), document.digest());
}

/// Docker 28 with containerd's image store: `--iidfile` gets the config's digest, and there is no such image.
#[test]
fn an_engine_with_containerds_store_is_queried_by_manifest() {
    const MANIFEST: &str = "sha256:4423628950e46a2f9b4b8f69fc3c68b03d32ae1d1127b2c0a3cec11c63e6116c";
    let dir = tempfile::tempdir().unwrap();
    let metadata = format!(
        r#"printf '{{"containerimage.config.digest":"{ID}","containerimage.digest":"{MANIFEST}"}}' > {}/work/metadata.json"#,
        dir.path().display()
    );
    let docker = docker(dir.path(), &metadata);
    fs::write(dir.path().join("version"), "28.5.2").unwrap();
    let job = job(dir.path(), "FROM scratch\nADD f /\n", "linux/arm/v7");
    let build = |known: &str| {
        fs::write(dir.path().join("known"), format!("\"{known}\"")).unwrap();
        let _ = fs::remove_file(dir.path().join("asked"));
        docker.build(&job, &staging(dir.path()), &dir.path().join("log")).unwrap();
        let asked = asked(dir.path());
        assert!(
            asked.contains("--iidfile DIR/work/image-id --metadata-file DIR/work/metadata.json"),
            "{asked}"
        );
        asked.lines().find(|line| line.starts_with("save ")).unwrap().to_string()
    };
    assert_eq!(build(MANIFEST), format!("save --output DIR/work/image.tar {MANIFEST}"));
    assert_eq!(build(ID), format!("save --output DIR/work/image.tar {ID}"));
    // Neither: the error of docker about the ID is the most helpful.
    assert_eq!(build("else"), format!("save --output DIR/work/image.tar {ID}"));
}

#[test]
fn an_image_from_scratch_is_built_without_platform_if_docker_does_not_support_it() {
    // Docker 20.10's classic builder, and Docker 28's over containerd's image store.
    for said in [
        "does not match the specified platform: wanted linux/arm/v7",
        "does not provide the specified platform",
    ] {
        let refuse =
            format!(r#"case "$*" in *--platform*) echo "image was found but {said}" >&2; exit 1;; esac"#);
        let check = |dockerfile: &str| {
            let dir = tempfile::tempdir().unwrap();
            let docker = docker(dir.path(), &refuse);
            let job = job(dir.path(), dockerfile, "linux/arm/v7");
            let built = docker.build(&job, &staging(dir.path()), &dir.path().join("log"));
            (built, asked(dir.path()).matches("build").count())
        };
        let (built, times) = check("FROM scratch\nADD f /\n");
        assert!(built.is_ok(), "{built:?}");
        // Twice the word, of which "--build-arg" has one too.
        assert_eq!(times, 4);
        let (built, times) = check("FROM debian\nADD f /\n");
        assert!(built.unwrap_err().to_string().contains("set DOCKER_BUILDKIT=1"));
        assert_eq!(times, 2);
    }
}

#[test]
fn a_failed_build_is_reported_without_the_values_of_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let docker = docker(dir.path(), "echo Step 1/2: fetching with $TOKEN; exit 3");
    let job = job(dir.path(), "FROM scratch\n", "linux/arm64");
    let error = docker.build(&job, &staging(dir.path()), &dir.path().join("log")).unwrap_err();
    assert_eq!(error.problems, ["docker: Step 1/2: fetching with [build argument]"]);
    let text = format!("{error} {error:?}");
    assert!(text.contains("it ended with exit status: 3") && !text.contains("hunter2"), "{text}");
    assert_eq!(asked(dir.path()).matches("save").count(), 0);
}

#[test]
fn podman_pushes_to_a_layout_that_is_imported_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    // What the engine "pushes": an image with annotations of its own.
    let engine = OciLayout::open_or_create(&dir.path().join("engine-image")).unwrap();
    let config = engine.add_blob(image_model::manifest::media_type::OCI_CONFIG, &b"{}"[..]).unwrap();
    let config = serde_json::to_string(&config).unwrap();
    let manifest =
        format!(r#"{{ "schemaVersion":2,"config":{config},"layers":[],"annotations":{{"b":"1","a":"2"}} }}"#);
    let made = Document::new(manifest.into_bytes(), None).unwrap();
    image_store::store::ImageStore::write_tag(&engine, "x", &made).unwrap();
    let text = format!(
        r#"echo "$@" >> {dir}/asked
case "$1" in
  build) while [ "$1" != --iidfile ]; do shift; done; printf %s {ID} > "$2";;
  push) to=${{4#oci:}}; cp -r {dir}/engine-image "${{to%:image}}";;
esac"#,
        dir = dir.path().display()
    );
    let podman = Podman::with(&script(dir.path(), &text));
    let mut job = job(dir.path(), "FROM scratch\n", "linux/riscv64");
    job.epoch = Some(7);
    let out = staging(dir.path());
    let document = podman.build(&job, &out, &dir.path().join("log")).unwrap();
    assert_eq!(document, made);
    assert_eq!(
        asked(dir.path()),
        format!(
            "build --platform linux/riscv64 --iidfile DIR/work/image-id --timestamp 7 --build-arg TOKEN \
             --file DIR/Dockerfile DIR\npush --quiet {ID} oci:DIR/work/image:image\n"
        )
    );
    assert!(!dir.path().join("work/image").exists());
}

/// A buildx whose builder has this driver; it writes the archive that `--output` asks for.
fn buildx(dir: &Path, driver: &str) -> Buildx {
    let engine = OciLayout::open_or_create(&dir.join("engine-image")).unwrap();
    let config = engine.add_blob(image_model::manifest::media_type::OCI_CONFIG, &b"{}"[..]).unwrap();
    let config = serde_json::to_string(&config).unwrap();
    let manifest = format!(r#"{{ "schemaVersion":2,"config":{config},"layers":[] }}"#);
    let made = Document::new(manifest.into_bytes(), None).unwrap();
    image_store::store::ImageStore::write_tag(&engine, "x", &made).unwrap();
    let text = format!(
        r#"echo "$@" >> {dir}/asked
case "$*" in
  *"buildx inspect"*) printf 'Name: farm\nDriver: {driver}\n\nNodes:\nName: farm0\nEndpoint: far\n';;
  *"buildx build"*) for word; do case "$word" in type=oci,dest=*) tar -C {dir}/engine-image -cf "${{word#*dest=}}" .;; esac; done;;
esac"#,
        dir = dir.display()
    );
    Buildx::with(&script(dir, &text), "farm")
}

#[test]
fn buildx_writes_an_archive_that_is_imported_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let buildx = buildx(dir.path(), "docker-container");
    assert_eq!((buildx.name().as_str(), buildx.available()), ("buildx:farm", Ok(())));
    let job = job(dir.path(), "FROM scratch\n", "linux/arm/v7");
    let out = staging(dir.path());
    let document = buildx.build(&job, &out, &dir.path().join("log")).unwrap();
    assert!(document.bytes().starts_with(br#"{ "schemaVersion":2,"config""#), "{document:?}");
    let build = "buildx build --builder farm --output type=oci,dest=DIR/work/image.tar \
                 --platform linux/arm/v7 --progress plain --build-arg TOKEN --file DIR/Dockerfile DIR\n";
    assert!(asked(dir.path()).ends_with(&format!("buildx inspect farm\n{build}")), "{}", asked(dir.path()));
    let described = buildx.describe(&job).join("\n").replace(&*dir.path().to_string_lossy(), "DIR");
    assert_eq!(described, format!("docker {}", build.trim_end()));
    assert!(!dir.path().join("work/image.tar").exists());
    assert!(!buildx.needs_emulator(&job));
}

#[test]
fn images_of_the_docker_driver_are_saved_from_the_engine_of_its_context() {
    let dir = tempfile::tempdir().unwrap();
    let buildx = buildx(dir.path(), "docker");
    let job = job(dir.path(), "FROM scratch\n", "linux/arm/v7");
    let described = buildx.describe(&job).join("\n").replace(&*dir.path().to_string_lossy(), "DIR");
    assert_eq!(
        described,
        "docker --context far buildx build --load --iidfile DIR/work/image-id --metadata-file DIR/work/metadata.json \
         --platform linux/arm/v7 --progress plain --build-arg TOKEN --file DIR/Dockerfile DIR\n\
         docker --context far save --output DIR/work/image.tar IMAGE-ID"
    );
}

#[test]
fn only_a_run_of_a_foreign_platform_needs_an_emulator() {
    let dir = tempfile::tempdir().unwrap();
    let docker = docker(dir.path(), "");
    let (native, foreign) = match std::env::consts::ARCH {
        "s390x" => ("linux/s390x", "linux/amd64"),
        _ => (if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" }, "linux/s390x"),
    };
    let check = |dockerfile: &str, platform: &str, needed: bool| {
        assert_eq!(
            docker.needs_emulator(&job(dir.path(), dockerfile, platform)),
            needed,
            "{dockerfile} {platform}"
        );
    };
    check("FROM a\nRUN x", foreign, true);
    check("FROM a\nRUN x", native, false);
    check("FROM a\nCOPY x /", foreign, false);
}

struct Engine(&'static str, Result<(), &'static str>);

impl Builder for Engine {
    fn name(&self) -> String {
        self.0.into()
    }
    fn unsupported(&self, recipe: &DockerfileRecipe) -> Option<String> {
        (self.0 == "docker" && !recipe.secrets.is_empty()).then(|| "no secrets".into())
    }
    fn available(&self) -> Result<(), String> {
        self.1.map_err(str::to_string)
    }
    fn needs_emulator(&self, _: &BuildJob) -> bool {
        false
    }
    fn registry_name(&self, _: &str) -> Option<RegistryRef> {
        None
    }
    fn describe(&self, _: &BuildJob) -> Vec<String> {
        Vec::new()
    }
    fn build(&self, _: &BuildJob, _: &OciLayout, _: &Path) -> Result<Document, Error> {
        Err(Error::local("build", "nobody does"))
    }
}

#[test]
fn the_first_working_engine_is_selected_with_a_reason() {
    let with_secret = |secrets| DockerfileRecipe { secrets, ..DockerfileRecipe::new("D".into(), ".".into()) };
    let choose_for = |secrets, engines: Vec<Engine>| {
        first_for(
            &with_secret(secrets),
            engines.into_iter().map(|engine| Box::new(engine) as Box<dyn Builder>),
        )
        .map(|(builder, why)| format!("{}: {why}", builder.name()))
    };
    let choose = |engines| choose_for(Vec::new(), engines);
    let secret = Secret { id: "a".into(), source: SecretSource::Variable("A".into()) };
    let said = choose_for(vec![secret], vec![Engine("docker", Ok(())), Engine("podman", Ok(()))]).unwrap();
    assert_eq!(said, "podman: docker: no secrets");
    let said = choose(vec![Engine("docker", Ok(())), Engine("podman", Ok(()))]).unwrap();
    assert_eq!(said, "docker: it works, and is tried first");
    let said = choose(vec![Engine("docker", Err("no daemon")), Engine("podman", Ok(()))]).unwrap();
    assert_eq!(said, "podman: docker: no daemon");
    let error =
        choose(vec![Engine("docker", Err("no daemon")), Engine("podman", Err("not installed"))]).unwrap_err();
    assert_eq!(error.problems, ["docker: no daemon", "podman: not installed"]);
}

#[test]
fn the_embedded_builder_copies_files_onto_a_base_image() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("app"), "app").unwrap();
    let base_dir = dir.path().join("base");
    let open: OpenImage = Arc::new(move |reference| {
        assert_eq!(reference.to_string(), "docker.io/library/base:1");
        let layout = OciLayout::open(&base_dir)?;
        let at = layout.only_image()?;
        Ok((Arc::new(layout), at))
    });
    let recipe = |from: Option<&str>| FilesRecipe {
        from: from.map(|from| from.parse().unwrap()),
        copy: vec![(dir.path().join("app"), "/app".into())],
        ..FilesRecipe::default()
    };
    let job = |from| BuildJob {
        platform: "linux/arm64".parse().unwrap(),
        recipe: Recipe::Files(recipe(from)),
        work_dir: dir.path().join("work"),
        epoch: None,
        records: Records::in_dir(&dir.path().join("records")),
    };
    let log = dir.path().join("log");
    let base = OciLayout::open_or_create(&dir.path().join("base")).unwrap();
    let (builder, why) = choose(&BuilderChoice::Auto, &job(None).recipe, &open).unwrap();
    assert_eq!((builder.name().as_str(), why.as_str()), ("rootfs", "files, no Dockerfile"));
    let made = builder.build(&job(None), &base, &log).unwrap();
    image_store::store::ImageStore::write_tag(&base, "1", &made).unwrap();
    let on_base = builder.build(&job(Some("base:1")), &staging(dir.path()), &log).unwrap();
    let ParsedDocument::Manifest(image) = on_base.parse().unwrap() else { panic!("{on_base:?}") };
    assert_eq!(image.layers.len(), 2);
    assert_eq!(builder.describe(&job(Some("base:1")))[0], "from docker.io/library/base:1");
    assert!(fs::read_to_string(&log).unwrap().ends_with(&format!("made linux/arm64 {}\n", on_base.digest())));
}

#[test]
fn a_missing_plugin_and_a_missing_builder_have_different_errors() {
    let dir = tempfile::tempdir().unwrap();
    let check = |text: &str, why: &str| {
        let buildx = Buildx::with(&script(dir.path(), text), "farm");
        assert_eq!(buildx.available(), Err(why.to_string()));
    };
    let help = "Run 'docker --help' for more information";
    check(
        &format!("case $1 in --version) echo Docker version 20;; *) echo \"{help}\" >&2; exit 125;; esac"),
        "docker has no buildx plugin",
    );
    check("case $2 in inspect) echo no builder farm >&2; exit 1;; esac", "no builder farm");
}
