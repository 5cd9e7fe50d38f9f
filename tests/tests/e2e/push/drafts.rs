//! Commands of `docker manifest`: drafts are created, annotated and pushed.

use super::*;
use multiarch_tests::need;
use multiarch_tests::world::{Registry, Skip, program, require};

impl Rig {
    fn create(&self, args: &[&str]) -> Ran {
        self.user.manifest_push(&[&["create"], args].concat())
    }

    fn draft(&self) -> std::path::PathBuf {
        let state = self.user.work().parent().unwrap().join("home/.local/state/multiarch/drafts");
        state.join(format!("{}/{REPOSITORY}:latest.yaml", self.registry.host()))
    }
}

#[test]
fn a_draft_records_names_and_every_push_resolves_them() {
    let rig = Rig::new();
    let (list, amd64, arm) = (rig.name("latest"), rig.name("amd64"), rig.name("arm32v7"));
    rig.create(&[&list, &amd64]).exits(0).prints(&format!("Created manifest list {list}"));
    rig.create(&[&list, &arm]).exits(8).assert_stderr_contains("--amend");
    rig.create(&["--amend", &list, &arm]).exits(0);
    rig.assert_nothing_written();
    let text = std::fs::read_to_string(rig.draft()).unwrap();
    assert!(text.contains(&amd64) && !text.contains("sha256"), "{text}");

    rig.user.manifest_push(&["annotate", &list, &arm, "--variant", "v7"]).exits(0).prints_nothing();
    rig.user.manifest_push(&["annotate", &list, &rig.name("none"), "--arch", "arm"]).exits(5);
    rig.user
        .manifest_push(&["annotate", &list, &arm, "--arch", "armhf"])
        .exits(3)
        .assert_stderr_contains("is an alias");
    rig.user
        .manifest_push(&["annotate", &rig.name("none"), &arm, "--arch", "arm"])
        .exits(5)
        .assert_stderr_contains("create");
    let shown = rig
        .user
        .manifest_push(&["inspect", &list])
        .exits(0)
        .assert_stderr_contains("draft, as it would be published now");
    assert!(shown.stdout.contains(rig.images[2].digest()), "{shown}");
    rig.user.manifest_push(&["inspect", &list, &arm]).exits(0);
    rig.user.manifest_push(&["inspect", &list, &rig.name("arm64v8")]).exits(5);

    let first = rig.user.manifest_push(&["push", &list]).exits(0);
    assert_eq!(rig.digest_of_tag("latest").as_deref(), Some(first.line()));
    rig.assert_sound();
    // The image is rebuilt. docker would push the old manifest from its draft.
    let new = Image::new("linux/arm/v7", "built anew");
    new.publish(&rig.registry, REPOSITORY, "arm32v7");
    let second = rig.user.manifest_push(&["push", "--purge", &list]).exits(0);
    let (_, bytes) = rig.registry.manifest(REPOSITORY, "latest").unwrap();
    assert!(String::from_utf8(bytes).unwrap().contains(new.digest()));
    assert_ne!(first.line(), second.line());
    assert!(!rig.draft().exists());
    rig.user.manifest_push(&["push", &list]).exits(5).assert_stderr_contains("create");
    rig.assert_sound();
}

#[test]
fn missing_images_are_reported_when_a_draft_is_created() {
    let rig = Rig::new();
    let (list, amd64) = (rig.name("latest"), rig.name("amd64"));
    rig.create(&[&list, &amd64, &rig.name("one"), &rig.name("two")])
        .exits(5)
        .assert_stderr_contains(&rig.name("one"))
        .assert_stderr_contains(&rig.name("two"));
    assert!(!rig.draft().exists());
    let by_digest = format!("{}@{}", rig.name("latest"), rig.images[0].digest());
    rig.create(&[&by_digest, &amd64]).exits(3).assert_stderr_contains("use a tag");
    rig.create(&[&list, &amd64]).exits(0);
    rig.user.manifest_push(&["rm", &list, &rig.name("none")]).exits(5).assert_stderr_contains("no draft");
    assert!(!rig.draft().exists(), "the other drafts must be removed");
    rig.user.manifest_push(&["rm", &list]).exits(5);
}

#[test]
fn a_declared_platform_that_contradicts_an_annotation_is_fixed_with_relabel() {
    let rig = Rig::new();
    let (list, amd64, wrong) = (rig.name("latest"), rig.name("amd64"), rig.name("wrong"));
    Image::new("linux/amd64", "arm's own").publish(&rig.registry, REPOSITORY, "wrong");
    rig.create(&[&list, &amd64, &wrong]).exits(0);
    rig.user
        .manifest_push(&["annotate", "--os", "linux", "--arch", "arm", "--variant", "v7", &list, &wrong])
        .exits(0);
    let ran = rig.user.manifest_push(&["push", &list]).exits(3);
    ran.assert_stderr_contains("--relabel")
        .assert_stderr_contains(&format!("cannot publish the draft of \"{list}\""));
    let shown = rig.user.manifest_push(&["inspect", &list]).exits(0).stdout;
    assert!(shown.contains("config declares linux/amd64; fix: push --relabel"), "{shown}");
    rig.assert_nothing_written();
    rig.user
        .manifest_push(&["push", "--relabel", &list])
        .exits(0)
        .assert_stderr_contains("platform set to linux/arm/v7");
    rig.assert_sound();
    let by_digest = format!("{list}@sha256:{}", "a".repeat(64));
    rig.user.manifest_push(&["rm", &by_digest]).exits(3).assert_stderr_contains("a draft has no digest");
    let shown = rig.user.manifest_push(&["rm", &list]).exits(0);
    shown.prints_nothing();
    let json = rig.user.manifest_push(&["inspect", "--format", "json", &list]).exits(0).json();
    assert_eq!(json["members"][1]["declaredPlatform"]["variant"], "v7");
    assert_eq!(json["members"][1]["platform"]["architecture"], "arm");
}

/// BuildKit pushes an index of the image and its attestation, which docker refuses.
#[test]
fn an_index_of_one_image_and_its_attestation_is_accepted_in_a_draft() {
    let rig = Rig::new();
    let built = Image::new("linux/riscv64", "by BuildKit");
    let index = Index::attested(&[("linux/riscv64", &built)], Some(0));
    index.publish(&rig.registry, REPOSITORY, "riscv64");
    let list = rig.name("latest");
    rig.create(&[&list, &rig.name("amd64"), &rig.name("riscv64")]).exits(0);
    rig.user.manifest_push(&["push", &list]).exits(0);
    rig.assert_sound();
    let json = rig.user.manifest_push(&["inspect", "--format", "json", &rig.name("latest")]).exits(0).json();
    let members = json["members"].as_array().unwrap();
    assert_eq!(members.len(), 3, "{json}");
    assert_eq!(members[2]["attests"], built.digest());

    // The image is mislabeled: it gets another digest, and the attestation is updated to that one.
    rig.user.manifest_push(&["annotate", "--arch", "ppc64le", &list, &rig.name("riscv64")]).exits(0);
    rig.user
        .manifest_push(&["push", "--relabel", &list])
        .exits(1)
        .assert_stderr_contains("would lose linux/riscv64");
    rig.user
        .manifest_push(&["push", "--relabel", "--drop", "linux/riscv64", &list])
        .exits(0)
        .assert_stderr_contains("platform set to linux/ppc64le")
        .assert_stderr_contains("its signed statement still refers to the old image");
    rig.assert_sound();
    rig.user.manifest_push(&["rm", &list]).exits(0);
    let json = rig.user.manifest_push(&["inspect", "--format", "json", &list]).exits(0).json();
    let members = json["members"].as_array().unwrap();
    assert_eq!(members[1]["declaredPlatform"]["architecture"], "ppc64le");
    assert_eq!(members[2]["attests"], members[1]["digest"]);
    assert_ne!(members[1]["digest"], built.digest());
}

/// Compared with docker and a real registry. These commands of the docker CLI need no engine.
#[test]
fn docker_manifest_pushes_the_same_bytes_and_prints_the_same_lines() {
    need!(against_docker());
}

/// Returns an image whose manifest has the format of docker: docker serializes images of other repositories again, which
/// changes the bytes if another tool wrote them.
fn in_format_of_docker(platform: &str, text: &str) -> Image {
    let image = Image::new(platform, text);
    let text = format!(
        r#"{{
   "schemaVersion": 2,
   "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
   "config": {{
      "mediaType": "application/vnd.docker.container.image.v1+json",
      "size": {},
      "digest": "{}"
   }},
   "layers": [
      {{
         "mediaType": "application/vnd.docker.image.rootfs.diff.tar",
         "size": {},
         "digest": "{}"
      }}
   ]
}}"#,
        image.config.len(),
        image.config_digest(),
        image.layer.len(),
        image.layer_digest()
    );
    Image { document: image_model::manifest::Document::new(text.into_bytes(), None).unwrap(), ..image }
}

fn without_raw(one: &mut serde_json::Value) {
    assert!(one.as_object_mut().unwrap().remove("Raw").is_some());
}

fn against_docker() -> Result<(), Skip> {
    require(&["docker"])?;
    let registry = Registry::start()?;
    let user = User::new();
    let stores =
        image_store::open::Stores::new(registry_client::RegistryOptions::default(), Default::default());
    let put = |image: &Image, name: &str| {
        let target = stores.target(&name.parse().unwrap()).unwrap();
        image.store(&*target.store, &target.tags[0]);
    };
    let name = |rest: &str| format!("{}/{rest}", registry.host());
    for (tag, platform) in MEMBERS {
        put(&Image::new(platform, tag), &name(&format!("team/app:{tag}")));
        put(&in_format_of_docker(platform, tag), &name(&format!("team/app-{tag}:1")));
    }
    put(&Image::new("linux/arm", "no variant"), &name("team/app:plain"));
    let docker = |args: &[&str]| {
        let mut command = std::process::Command::new(program("docker").expect("required above"));
        command.arg("manifest").args(args).env("DOCKER_CLI_EXPERIMENTAL", "enabled");
        command.env("DOCKER_CONFIG", user.path("docker-config")).env("DOCKER_HOST", "unix:///nowhere");
        run(command).exits(0)
    };
    let bytes = |name: &str| user.manifest_push(&["inspect", "--bytes", name]).exits(0).stdout;

    let same: Vec<String> =
        ["arm64v8", "amd64", "plain", "arm32v5"].map(|tag| name(&format!("team/app:{tag}"))).into();
    let other: Vec<String> = ["arm32v7", "amd64"].map(|tag| name(&format!("team/app-{tag}:1"))).into();
    for (list, images, annotated) in [
        (
            name("team/app:latest"),
            &same,
            Some((&same[2], ["--os", "linux", "--arch", "arm", "--variant", "v7"])),
        ),
        (name("team/all:1"), &other, None),
    ] {
        let create: Vec<&str> = [&list].into_iter().chain(images).map(String::as_str).collect();
        let ours = user.manifest_push(&[&["create", "--insecure"], &create[..]].concat()).exits(0);
        let theirs = docker(&[&["create", "--insecure"], &create[..]].concat());
        assert_eq!(ours.stdout, theirs.stdout);
        if let Some((image, words)) = annotated {
            let words = [&["annotate", &list, image], &words[..]].concat();
            let ours = user.manifest_push(&words).exits(0);
            assert_eq!(ours.stdout, docker(&words).stdout);
        }
        // After the push of docker, manifest-push has nothing to do, because the bytes are the same.
        let theirs = docker(&["push", "--insecure", &list]);
        let list_of_docker = bytes(&list);
        let ours = user
            .manifest_push(&["push", "--insecure", &list])
            .exits(0)
            .assert_stderr_contains("nothing to do in");
        assert_eq!(ours.stdout, theirs.stdout);
        user.manifest_push(&["push", "--insecure", "--type", "oci", &list]).exits(0);
        let ours = user.manifest_push(&["push", "-p", "--insecure", &list]).exits(0);
        assert_eq!((ours.stdout, bytes(&list)), (theirs.stdout, list_of_docker));
        docker(&["rm", &list]);
        // The output of -v of both programs, as jq parses it.
        let json = |ran: Ran| serde_json::from_str::<serde_json::Value>(&ran.stdout).unwrap();
        for name in [&list, &images[0]] {
            let theirs = json(docker(&["inspect", "-v", "--insecure", name]));
            let mut ours = json(user.manifest_push(&["inspect", "-v", "--insecure", name]).exits(0));
            let is_old = |one: &serde_json::Value| one.get("Raw").is_none();
            match (&mut ours, theirs.get(0).unwrap_or(&theirs)) {
                // docker 20.10 does not print this key.
                (serde_json::Value::Array(ours), theirs) if is_old(theirs) => {
                    ours.iter_mut().for_each(without_raw)
                }
                (ours, theirs) if is_old(theirs) => without_raw(ours),
                _ => {}
            }
            assert_eq!(ours, theirs, "{name}");
        }
    }
    Ok(())
}
