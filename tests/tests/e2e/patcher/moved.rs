//! Another client moves the tag during a fix.

use super::{REPOSITORY, Rig};
use crate::samples::{Image, Index};
use crate::tools::User;
use image_store::check::{CheckDepth, check};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use multiarch_tests::fake_registry::When;
use std::sync::Arc;

#[test]
fn a_tag_that_moves_between_read_and_write_is_not_overwritten() {
    for forced in [false, true] {
        let rig = Rig::new();
        let other = Image::new("linux/s390x", "somebody else's");
        other.publish(&rig.registry, REPOSITORY, "other");
        let (registry, theirs) = (Arc::downgrade(&rig.registry), other.digest().to_string());
        rig.registry.on_request(move |request, when| {
            // During the upload of the config.
            if request.method == "PUT" && request.is_upload() && when == When::After {
                registry.upgrade().unwrap().set_tag(REPOSITORY, "arm32v7", &theirs);
            }
        });
        if forced {
            rig.fix(&["--force"]).exits(0).prints(rig.right.digest());
            assert_eq!(rig.digest_of_tag("arm32v7").as_deref(), Some(rig.right.digest()));
        } else {
            let ran = rig.fix(&[]).exits(8).assert_stderr_contains(other.digest());
            assert_eq!(ran.stdout, "");
            assert_eq!(rig.digest_of_tag("arm32v7").as_deref(), Some(other.digest()));
        }
        rig.assert_sound();
    }
}

#[test]
fn a_tag_that_moves_right_after_the_write_is_reported() {
    let rig = Rig::new();
    let other = Image::new("linux/s390x", "somebody else's");
    other.publish(&rig.registry, REPOSITORY, "other");
    let (registry, theirs) = (Arc::downgrade(&rig.registry), other.digest().to_string());
    rig.registry.on_request(move |request, when| {
        if request.method == "PUT" && request.path.ends_with("/manifests/arm32v7") && when == When::After {
            registry.upgrade().unwrap().set_tag(REPOSITORY, "arm32v7", &theirs);
        }
    });
    rig.fix(&[]).exits(8).assert_stderr_contains("another client moved it");
}

/// The layout is locked between the check of the tag and the write.
#[test]
fn of_two_fixes_of_one_tag_of_a_layout_none_is_lost_silently() {
    let platforms = ["linux/arm/v7", "linux/arm64"];
    let members = platforms.map(|platform| (platform, Image::new("linux/amd64", platform)));
    let index = Index::of(&members.each_ref().map(|(platform, image)| (*platform, image)));
    for round in 0..8 {
        let user = User::new();
        let layout = OciLayout::open_or_create(&user.path("in")).unwrap();
        index.store(&layout, "1");
        let ran = std::thread::scope(|scope| {
            let fix = |platform| {
                let args = ["fix", "oci:in:1", "--platform", platform, "--set-platform", platform];
                scope.spawn({
                    let user = &user;
                    move || user.config_patcher(&args)
                })
            };
            platforms.map(fix).map(|ran| ran.join().unwrap())
        });
        let tag = Pointer::Tag("1".into());
        assert_eq!(layout.tags().unwrap(), ["1"]);
        let left: String =
            check(&layout, &tag, CheckDepth::Layers).into_iter().map(|problem| problem.what + "\n").collect();
        assert!(ran.iter().any(|ran| ran.code == Some(0)), "round {round}: {} {}", ran[0], ran[1]);
        for (platform, ran) in platforms.iter().zip(&ran) {
            let is_lost = left.contains(&format!("{platform}, the config declares linux/amd64"));
            match ran.code {
                Some(0) => assert!(!is_lost, "round {round}: {ran}{left}"),
                code => assert_eq!(code, Some(8), "round {round}: {ran}"),
            }
        }
    }
}
