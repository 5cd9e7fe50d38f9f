//! Fixes of local images, for tests with failing disks: preparation, arguments, and the resulting digest.

use crate::registry::referrers::referrer;
use crate::samples::{Image, Index};
use crate::tools::User;
use image_store::archive::{DockerArchive, OciArchive};
use image_store::check::{CheckDepth, check};
use image_store::referrers::find_attached;
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, ImageStore, Pointer};

pub struct Job {
    pub prepare: fn(&User),
    pub args: &'static [&'static str],
    /// The digest of the image, after it was checked.
    pub digest: fn(&User) -> String,
}

pub fn mislabeled() -> Image {
    Image::new("linux/amd64", "arm's own")
}

fn index() -> Index {
    Index::of(&[("linux/amd64", &Image::new("linux/amd64", "amd64's own")), ("linux/arm/v7", &mislabeled())])
}

pub fn checked_digest(store: &dyn ImageSource, tag: &str) -> String {
    let tag = Pointer::Tag(tag.into());
    let problems: Vec<_> = check(store, &tag, CheckDepth::Layers)
        .into_iter()
        // The mismatch that the job fixes.
        .filter(|problem| !problem.what.contains("the config declares linux/amd64"))
        .collect();
    assert_eq!(problems, []);
    store.resolve(&tag).unwrap().unwrap().digest.to_string()
}

fn docker_archive(user: &User) -> String {
    checked_digest(&DockerArchive::open(&user.path("app.tar"), None).unwrap(), "app:1")
}

const ARM: [&str; 4] = ["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7"];

pub const TAR: Job = Job {
    prepare: |user| drop(user.write("app.tar", mislabeled().classic_archive("app:1"))),
    args: &ARM,
    digest: docker_archive,
};

pub const TAR_IN_PLACE: Job =
    Job { args: &["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7", "--in-place"], ..TAR };

pub const NEW_FORM_IN_PLACE: Job = Job {
    prepare: |user| index().store(&DockerArchive::open_or_create(&user.path("app.tar")).unwrap(), "app:1"),
    args: &["fix", "docker-archive:app.tar", "--from-index", "--in-place"],
    digest: docker_archive,
};

pub const OCI_ARCHIVE: Job = Job {
    prepare: |user| index().store(&OciArchive::open_or_create(&user.path("app.tar")).unwrap(), "1"),
    args: &["fix", "oci-archive:app.tar:1", "--from-index"],
    digest: |user| checked_digest(&OciArchive::open(&user.path("app.tar"), None).unwrap(), "1"),
};

pub const LAYOUT: Job = Job {
    prepare: |user| index().store(&OciLayout::open_or_create(&user.path("in")).unwrap(), "1"),
    args: &["fix", "oci:in:1", "--from-index"],
    digest: |user| checked_digest(&OciLayout::open(&user.path("in")).unwrap(), "1"),
};

/// With an SBOM, which the new image must have as soon as the tag points to it.
pub const CARRIED: Job = Job {
    prepare: |user| {
        let layout = OciLayout::open_or_create(&user.path("in")).unwrap();
        mislabeled().store(&layout, "1");
        for blob in [&b"{}"[..], b"about the image"] {
            layout.add_blob("", blob).unwrap();
        }
        let sbom = referrer("application/spdx+json", &mislabeled().document);
        layout.write_tag("sbom", &sbom).unwrap();
    },
    args: &["fix", "oci:in:1", "--set-platform", "linux/arm/v7", "--carry-referrers"],
    digest: |user| {
        let layout = OciLayout::open(&user.path("in")).unwrap();
        let digest = checked_digest(&layout, "1");
        let belongings = find_attached(&layout, &[digest.parse().unwrap()]).unwrap().remove(0);
        let entries: Vec<String> =
            belongings.referrers.iter().map(|entry| entry.digest.to_string()).collect();
        let [sbom] = &entries[..] else { panic!("{digest} has {entries:?}") };
        layout.read_document(&Pointer::Digest(sbom.parse().unwrap())).unwrap();
        digest
    },
};

/// The digest of a target that does not exist yet.
pub const NOTHING: &str = "nothing";

pub const NEW_LAYOUT: Job = Job {
    prepare: |user| index().store(&OciLayout::open_or_create(&user.path("in")).unwrap(), "1"),
    args: &["fix", "oci:in:1", "--from-index", "--output", "oci:new/out:1"],
    digest: |user| match user.path("new/out/oci-layout").exists() {
        true => digest_or_nothing(&OciLayout::open(&user.path("new/out")).unwrap(), "1"),
        false => NOTHING.into(),
    },
};

pub const NEW_TAR: Job = Job {
    args: &["fix", "oci:in:1", "--from-index", "--output", "docker-archive:new.tar:app:1"],
    digest: |user| match user.path("new.tar").exists() {
        true => digest_or_nothing(&DockerArchive::open(&user.path("new.tar"), None).unwrap(), "app:1"),
        false => NOTHING.into(),
    },
    ..NEW_LAYOUT
};

fn digest_or_nothing(store: &dyn ImageSource, tag: &str) -> String {
    match store.resolve(&Pointer::Tag(tag.into())).unwrap() {
        Some(_) => checked_digest(store, tag),
        None => NOTHING.into(),
    }
}
