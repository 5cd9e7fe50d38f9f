//! Mistyped references and options, which are reported before any request.

use crate::samples::Image;
use crate::tools::User;
use image_store::store::oci_layout::OciLayout;

#[test]
fn mistyped_references_and_options_are_refused_with_a_suggestion() {
    let user = User::new();
    Image::new("linux/arm/v7", "one").store(&OciLayout::open_or_create(&user.path("lay")).unwrap(), "1");
    user.write("app.tar", "login\nsystem\n".repeat(100));
    user.write("busybox", "a file that has the name of an image");
    let check = |line: &str, exit: u8, message: &str| {
        let ran = user.config_patcher(&line.split(' ').collect::<Vec<_>>()).exits(exit);
        assert!(ran.stderr.contains(message), "{line}: {ran}");
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
fn all_tags_prints_image_names_even_for_one_image() {
    let user = User::new();
    Image::new("linux/arm/v7", "one").store(&OciLayout::open_or_create(&user.path("lay")).unwrap(), "1");
    let ran = user.run("config-patcher", &["verify", "--all-tags", "oci:lay"]);
    assert!(ran.stdout.starts_with("IMAGE") && ran.stdout.contains("oci:lay:1"), "{ran}");
}
