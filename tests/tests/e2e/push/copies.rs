//! Images and indexes copied between all stores.

use super::*;

/// A layout, archives and two registries.
struct Places {
    near: FakeRegistry,
    far: FakeRegistry,
    user: User,
}

impl Places {
    fn new() -> Self {
        Self { near: FakeRegistry::start(), far: FakeRegistry::start(), user: User::new() }
    }

    fn copy(&self, from: &str, to: &str) -> Ran {
        self.user.manifest_push(&["copy", from, to])
    }

    fn digest_at(&self, place: &str) -> String {
        let json = self.user.manifest_push(&["inspect", "--format", "json", place]).exits(0).json();
        json["digest"].as_str().unwrap().to_string()
    }
}

#[test]
fn an_image_is_copied_between_all_stores_with_its_digest() {
    let places = Places::new();
    let image = Image::new("linux/arm/v7", "an image");
    image.publish(&places.near, "team/app", "1");
    image.store(&OciLayout::open_or_create(&places.user.path("in")).unwrap(), "1");
    image.store(&DockerArchive::open_or_create(&places.user.path("in.tar")).unwrap(), "app:1");
    let sources = [
        format!("{}/team/app:1", places.near.host()),
        format!("{}/team/app@{}", places.near.host(), image.digest()),
        "oci:in:1".to_string(),
        "oci:in".to_string(),
        "docker-archive:in.tar:app:1".to_string(),
        "docker-archive:in.tar".to_string(),
    ];
    for (i, from) in sources.iter().enumerate() {
        let targets = [
            format!("{}/to/{i}:1", places.near.host()),
            format!("{}/to/{i}", places.far.host()),
            format!("oci:out{i}:1"),
            format!("oci:bare{i}"),
            format!("docker-archive:out{i}.tar:team/app:1"),
        ];
        for to in &targets {
            places.copy(from, to).exits(0).prints(image.digest());
            assert_eq!(places.digest_at(to), image.digest(), "{from} to {to}");
            places.copy(from, to).exits(0).prints(image.digest()).assert_stderr_contains("nothing to do in");
        }
        let archive = DockerArchive::open(&places.user.path(&format!("out{i}.tar")), None).unwrap();
        assert_eq!(check(&archive, &Pointer::Tag("team/app:1".into()), CheckDepth::Layers), []);
        assert_eq!(archive.tags().unwrap(), ["team/app:1"]);
    }
    for registry in [&places.near, &places.far] {
        assert_eq!((registry.violations(), registry.open_uploads()), (vec![], 0));
    }
}

#[test]
fn an_index_is_copied_to_every_store_that_supports_indexes() {
    let places = Places::new();
    let (one, two) = (Image::new("linux/amd64", "one"), Image::new("linux/arm/v7", "two"));
    let index = Index::attested(&[("linux/amd64", &one), ("linux/arm/v7", &two)], Some(1));
    index.publish(&places.near, "team/app", "1");
    index.store(&OciLayout::open_or_create(&places.user.path("in")).unwrap(), "1");
    for (i, from) in [format!("{}/team/app:1", places.near.host()), "oci:in:1".into()].iter().enumerate() {
        let targets = [
            format!("{}/to/{i}:1", places.near.host()),
            format!("{}/to/{i}:1", places.far.host()),
            format!("oci:out{i}:1"),
            format!("docker-archive:out{i}.tar:team/app:1"),
        ];
        for to in &targets {
            places.copy(from, to).exits(0).prints(index.digest());
            assert_eq!(places.digest_at(to), index.digest(), "{from} to {to}");
            places.copy(from, to).exits(0).assert_stderr_contains("nothing to do in");
        }
        places.far.closure_complete(&format!("to/{i}"), index.digest()).unwrap();
        let layout = OciLayout::open(&places.user.path(&format!("out{i}"))).unwrap();
        assert_eq!(check(&layout, &Pointer::Tag("1".into()), CheckDepth::Layers), []);
    }
    for registry in [&places.near, &places.far] {
        assert_eq!((registry.violations(), registry.open_uploads()), (vec![], 0));
    }
}

/// The manifest that is derived for an archive without one is deterministic.
#[test]
fn an_image_of_a_classic_archive_is_copied_to_all_stores() {
    let places = Places::new();
    let image = Image::new("linux/arm/v7", "saved by Docker 20.10");
    places.user.write("in.tar", image.classic_archive("app:1"));
    let from = "docker-archive:in.tar";
    let digest = places.digest_at(from);
    for to in
        [format!("{}/to/x:1", places.far.host()), "oci:out:1".into(), "docker-archive:out.tar:app:1".into()]
    {
        places.copy(from, &to).exits(0).prints(&digest);
        assert_eq!(places.digest_at(&to), digest);
        places.copy(from, &to).exits(0).assert_stderr_contains("nothing to do in");
    }
    places.far.closure_complete("to/x", &digest).unwrap();
}

#[test]
fn a_copy_within_a_registry_mounts_blobs_and_a_dry_run_writes_nothing() {
    let places = Places::new();
    let image = Image::new("linux/arm/v7", "an image");
    image.publish(&places.near, "team/app", "1");
    let (from, to) =
        (format!("{}/team/app:1", places.near.host()), format!("{}/team/other:1", places.near.host()));
    let dry = places.user.manifest_push(&["copy", "--dry-run", &from, &to]).exits(0).prints(image.digest());
    assert!(dry.stderr.contains("mount or copy from"), "{dry}");
    assert!(places.near.log().iter().all(|l| matches!(l.method.as_str(), "GET" | "HEAD")));
    let before = listing(&places.user.work());
    for to in ["oci:out:1", "docker-archive:out.tar:app:1"] {
        places.user.manifest_push(&["copy", "--dry-run", &from, to]).exits(0).prints(image.digest());
    }
    assert!(listing(&places.user.work()) == before);
    places.near.take_log();
    places.copy(&from, &to).exits(0);
    let log = places.near.log();
    let mounts = log.iter().filter(|l| l.path.contains("mount=") && l.status == Some(201)).count();
    assert_eq!(mounts, 2, "{log:?}");
    assert!(log.iter().all(|l| !l.path.contains("/blobs/") || l.request_bytes == 0), "{log:?}");
    assert!(!log.iter().any(|l| l.method == "GET" && l.path.contains(&image.layer_digest())), "{log:?}");
}

#[test]
fn every_kind_of_failed_copy_has_its_exit_code() {
    let places = Places::new();
    let image = Image::new("linux/arm/v7", "an image");
    image.publish(&places.near, "team/app", "1");
    let from = format!("{}/team/app:1", places.near.host());
    let copy = |from: &str, to: &str| places.copy(from, to);
    copy("oci:none:1", "oci:out:1").exits(5);
    copy(&format!("{}/team/app:none", places.near.host()), "oci:out:1").exits(5);
    copy(&from, &format!("{}/x@{}", places.far.host(), image.digest())).exits(3);
    copy(&from, "127.0.0.1:1/a:1").exits(6);
    let mut without_docker = places.user.command("manifest-push", &["copy", &from, "docker-daemon:app:1"]);
    without_docker.env("MULTIARCH_DOCKER", "/no/such/docker");
    run(without_docker).exits(5).assert_stderr_contains("is not installed");
    places.user.write("full/file", "something else");
    copy(&from, "oci:full:1").exits(3);
    // An image with a damaged layer is never tagged.
    places.near.corrupt_blob(&image.layer_digest(), &vec![0; image.layer.len()]);
    copy(&from, "oci:out:1").exits(7);
    copy(&from, &format!("{}/to/x:1", places.far.host())).exits(7);
    copy(&from, "docker-archive:out.tar:app:1").exits(7);
    assert_eq!(places.far.tags("to/x"), [""; 0]);
    assert!(!places.user.path("out.tar").exists());
    places
        .user
        .manifest_push(&["inspect", "oci:out:1"])
        .exits(3)
        .assert_stderr_contains("it is no OCI layout");
}

#[test]
fn an_image_replaces_an_index_only_with_force() {
    let places = Places::new();
    let image = Image::new("linux/arm/v7", "an image");
    image.publish(&places.near, "team/app", "arm");
    let index = Index::of(&[("linux/arm/v7", &image)]);
    index.publish(&places.near, "team/app", "latest");
    index.store(&OciLayout::open_or_create(&places.user.path("out")).unwrap(), "latest");
    let from = format!("{}/team/app:arm", places.near.host());
    for to in [format!("{}/team/app:latest", places.near.host()), "oci:out:latest".into()] {
        places.copy(&from, &to).exits(3).assert_stderr_contains("manifest-push edit");
        assert_eq!(places.digest_at(&to), index.digest());
        places.user.manifest_push(&["copy", "--force", &from, &to]).exits(0);
        assert_eq!(places.digest_at(&to), image.digest());
    }
}

/// Members of another registry: their blobs are streamed, each once.
#[test]
fn blobs_of_another_registry_are_streamed() {
    let places = Places::new();
    let (near, far) = (Image::new("linux/amd64", "near"), Image::new("linux/arm/v7", "far"));
    near.publish(&places.near, "team/app", "amd64");
    far.publish(&places.far, "their/app", "arm");
    let (here, there) = (places.near.host(), places.far.host());
    let spec = format!(
        "image: {here}/team/app:latest\nmanifests:\n- image: {here}/team/app:amd64\n- image: {there}/their/app:arm\n"
    );
    places.user.write("spec.yaml", spec);
    let ran = places.user.manifest_push(&["push", "from-spec", "spec.yaml"]).exits(0);
    let digest = ran.line().split(' ').nth(1).unwrap();
    places.near.closure_complete("team/app", digest).unwrap();
    assert_eq!(places.near.count("PUT", |path| path.contains("/uploads/")), 2);
    assert_eq!(places.far.count("GET", |path| path.contains(&far.layer_digest())), 1);
    assert!(places.far.log().iter().all(|l| matches!(l.method.as_str(), "GET" | "HEAD")));
    assert_eq!((places.near.violations(), places.near.open_uploads()), (vec![], 0));
}
