//! What a person names by mistake is told before any request and any work.

use crate::samples::Image;
use crate::tools::User;
use image_store::store::oci_layout::OciLayout;

#[test]
fn what_cannot_be_meant_is_refused_with_what_was_meant() {
    let user = User::new();
    Image::new("linux/arm/v7", "one").store(&OciLayout::open_or_create(&user.path("lay")).unwrap(), "1");
    user.write("app.tar", "login\nsystem\n".repeat(100));
    user.write("busybox", "a file that has the name of an image");
    let check = |line: &str, exit: u8, says: &str| {
        let ran = user.config_patcher(&line.split(' ').collect::<Vec<_>>()).exits(exit);
        assert!(ran.stderr.contains(says), "{line}: {ran}");
        assert!(!ran.stderr.contains("/.tmp"), "{line}: {ran}");
    };
    check("verify app.tar", 3, "app.tar is a file here: docker-archive:app.tar");
    check("fix lay --set-platform linux/arm64", 3, "lay is a directory here: oci:lay");
    check("verify docker-archive:app.tar", 3, "it is not a tar archive");
    check("fix oci:lay:1 --set-platform armv7", 2, "did you mean linux/arm/v7?");
    check("fix oci:lay:1 --set-platform linux/arm64 --tag a,b", 2, "\"a,b\" is not a tag");
    check("verify oci:lay:1 --html .", 3, "write \".\": it is a directory");
    check("verify oci:lay:1 --sarif nowhere/a", 5, "write \"nowhere/a\"");
}

#[test]
fn one_image_of_all_tags_is_shown_with_its_name() {
    let user = User::new();
    Image::new("linux/arm/v7", "one").store(&OciLayout::open_or_create(&user.path("lay")).unwrap(), "1");
    let ran = user.run("config-patcher", &["verify", "--all-tags", "oci:lay"]);
    assert!(ran.stdout.starts_with("IMAGE") && ran.stdout.contains("oci:lay:1"), "{ran}");
}
