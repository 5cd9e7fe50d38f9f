//! Somebody else moves the tag meanwhile.

use super::{REPOSITORY, Rig};
use crate::samples::Image;
use multiarch_tests::fake_registry::When;
use std::sync::Arc;

#[test]
fn a_tag_that_moves_between_read_and_write_is_left_alone() {
    for forced in [false, true] {
        let rig = Rig::new();
        let other = Image::new("linux/s390x", "somebody else's");
        other.publish(&rig.registry, REPOSITORY, "other");
        let (registry, theirs) = (Arc::downgrade(&rig.registry), other.digest().to_string());
        rig.registry.on_request(move |request, when| {
            // While the config is on its way up.
            if request.method == "PUT" && request.is_upload() && when == When::After {
                registry.upgrade().unwrap().set_tag(REPOSITORY, "arm32v7", &theirs);
            }
        });
        if forced {
            rig.fix(&["--force"]).exits(0).prints(rig.right.digest());
            assert_eq!(rig.named("arm32v7").as_deref(), Some(rig.right.digest()));
        } else {
            let ran = rig.fix(&[]).exits(8).says(other.digest());
            assert_eq!(ran.stdout, "");
            assert_eq!(rig.named("arm32v7").as_deref(), Some(other.digest()));
        }
        rig.is_sound();
    }
}

#[test]
fn a_tag_that_moves_right_after_the_write_is_told() {
    let rig = Rig::new();
    let other = Image::new("linux/s390x", "somebody else's");
    other.publish(&rig.registry, REPOSITORY, "other");
    let (registry, theirs) = (Arc::downgrade(&rig.registry), other.digest().to_string());
    rig.registry.on_request(move |request, when| {
        if request.method == "PUT" && request.path.ends_with("/manifests/arm32v7") && when == When::After {
            registry.upgrade().unwrap().set_tag(REPOSITORY, "arm32v7", &theirs);
        }
    });
    rig.fix(&[]).exits(8).says("somebody else moved it");
}
