//! References to layouts and archives without a tag, and by digest.

use super::*;

struct Local {
    user: User,
    amd64: Image,
    arm: Image,
    index: Index,
}

impl Local {
    fn new() -> Self {
        let (amd64, arm) = (Image::new("linux/amd64", "one"), Image::new("linux/arm/v7", "two"));
        let index = Index::of(&[("linux/amd64", &amd64), ("linux/arm/v7", &arm)]);
        Self { user: User::new(), amd64, arm, index }
    }

    fn layout(&self, name: &str, tags: &[&str]) -> OciLayout {
        let layout = OciLayout::open_or_create(&self.user.path(name)).unwrap();
        tags.iter().for_each(|tag| self.index.store(&layout, tag));
        layout
    }

    fn push(&self, args: &[&str]) -> Ran {
        self.user.manifest_push(args)
    }

    /// Returns the tags, each with its digest; the image without a tag is `-`.
    fn tags(&self, store: &dyn ImageSource) -> Vec<(String, String)> {
        let tags = store.tags().unwrap().into_iter().chain([String::new()]);
        tags.filter_map(|tag| {
            let found = store.resolve(&Pointer::Tag(tag.clone())).unwrap()?;
            Some((if tag.is_empty() { "-".into() } else { tag }, found.digest.to_string()))
        })
        .collect()
    }
}

#[test]
fn without_a_tag_the_only_tag_of_a_layout_moves() {
    let local = Local::new();
    let layout = local.layout("e", &["latest"]);
    let edited = local.push(&["edit", "oci:e", "--remove", "linux/amd64"]).exits(0).line().to_string();
    assert_eq!(local.tags(&layout), [("latest".to_string(), edited)]);
    local.layout("source", &["v1"]);
    for to in ["oci:e", "oci:new"] {
        local.push(&["copy", "oci:source:v1", to]).exits(0);
        local.push(&["copy", "oci:source:v1", to]).exits(0).assert_stderr_contains("nothing to do");
    }
    let digest = local.index.digest().to_string();
    assert_eq!(local.tags(&layout), [("latest".to_string(), digest.clone())]);
    assert_eq!(local.tags(&local.layout("new", &[])), [("-".to_string(), digest.clone())]);
    // The image without a tag is replaced, whatever other tags there are.
    let new = local.layout("new", &["v2"]);
    let args = ["push", "from-args", "--platforms", "linux/amd64", "--template", "oci:amd64", "--target"];
    local.amd64.store(&local.layout("amd64", &[]), "x");
    local.push(&[&args[..], &["oci:new"]].concat()).exits(1).assert_stderr_contains("would lose");
    let pushed = local.push(&[&args[..], &["oci:new", "--drop", "linux/arm/v7"]].concat()).exits(0);
    let pushed = pushed.stdout.split_whitespace().nth(1).unwrap().to_string();
    assert_eq!(local.tags(&new), [("v2".to_string(), digest), ("-".to_string(), pushed)]);
}

#[test]
fn without_a_tag_a_layout_with_several_tags_is_not_written() {
    let local = Local::new();
    let layout = local.layout("e", &["v1", "v2"]);
    local.layout("source", &["v1"]);
    let before = local.tags(&layout);
    local
        .push(&["copy", "oci:source", "oci:e"])
        .exits(3)
        .assert_stderr_contains("it has 2 tags; add a tag, an existing one (v1, v2) or a new one");
    local.push(&["edit", "oci:e", "--remove", "linux/amd64"]).exits(3);
    assert_eq!(local.tags(&layout), before);
    local.push(&["edit", "oci:e:v1", "--remove", "linux/amd64", "--tag", "v3"]).exits(0);
    assert_eq!(local.tags(&layout).len(), 3);
}

#[test]
fn without_a_tag_the_only_name_of_an_archive_moves() {
    let local = Local::new();
    local.layout("source", &["v1"]);
    for (archive, name) in [("oci-archive:a.tar", ":v1"), ("docker-archive:b.tar", ":app:1")] {
        local.push(&["copy", "oci:source", &format!("{archive}{name}")]).exits(0);
        let edited = local.push(&["edit", archive, "--remove", "linux/amd64"]).exits(0).line().to_string();
        let found = local.push(&["inspect", &format!("{archive}{name}"), "--format", "json"]).exits(0).json();
        assert_eq!(found["digest"], edited.as_str());
        // No second image was added: the reference without a name still refers to one.
        local.push(&["copy", "oci:source", archive]).exits(0);
        let found = local.push(&["inspect", archive, "--format", "json"]).exits(0).json();
        assert_eq!(found["digest"], local.index.digest());
    }
}

#[test]
fn a_printed_digest_is_read_from_layouts_and_archives() {
    let local = Local::new();
    local.layout("e", &["v1", "v2"]);
    local.push(&["copy", "oci:e:v1", "oci-archive:e.tar:v1"]).exits(0);
    for (i, store) in ["oci:e", "oci-archive:e.tar", "oci:e:v1"].iter().enumerate() {
        for (j, digest) in [local.index.digest(), local.arm.digest()].into_iter().enumerate() {
            let name = format!("{store}@{digest}");
            let found = local.push(&["inspect", &name, "--format", "json"]).exits(0).json();
            assert_eq!(found["digest"], digest, "{name}");
            // It is read; its program is a text file.
            let verified = local.user.config_patcher(&["verify", &name]).exits(1);
            assert!(verified.stdout.contains("would not start"), "{verified}");
            local.push(&["copy", &name, &format!("oci:copy{i}{j}")]).exits(0);
        }
        local.push(&["copy", "oci:e:v1", &format!("{store}@{}", local.arm.digest())]).exits(3);
        let absent = format!("{store}@sha256:{}", "0".repeat(64));
        local.user.config_patcher(&["verify", &absent]).exits(5);
    }
}

#[test]
fn a_fix_by_digest_moves_the_tag_of_the_digest_or_says_where_it_belongs() {
    let local = Local::new();
    let layout = local.layout("e", &["v1"]);
    local.arm.store(&layout, "arm");
    let fix = |name: &str| local.user.config_patcher(&["fix", name, "--set-platform", "linux/arm/v6"]);
    let member = format!("oci:e@{}", local.amd64.digest());
    fix(&member).exits(3).assert_stderr_contains(
        "it is a member of oci:e:v1; use oci:e:v1; with --set-platform, add --platform sha256:",
    );
    let fixed = fix(&format!("oci:e@{}", local.arm.digest())).exits(0).line().to_string();
    let expected = [("arm".to_string(), fixed), ("v1".to_string(), local.index.digest().to_string())];
    assert_eq!(local.tags(&layout), expected);
    local.index.store(&layout, "v2");
    let args = ["fix", &format!("oci:e@{}", local.index.digest()), "--from-index", "--check"];
    local.user.config_patcher(&args).exits(0);
    local.user.config_patcher(&args[..3]).exits(3).assert_stderr_contains("add one of the tags: v1, v2");
}

#[test]
fn a_fix_is_rolled_back() {
    let rig = Rig::new();
    let local = Local::new();
    local.layout("e", &["v1"]);
    let remote = rig.name("arm32v7");
    let old = rig.digest_of_tag("arm32v7").unwrap();
    rig.user.config_patcher(&["fix", &remote, "--set-platform", "linux/arm/v6"]).exits(0);
    assert_ne!(rig.digest_of_tag("arm32v7").unwrap(), old);
    rig.user.manifest_push(&["rollback", &remote]).exits(0).prints(&format!("{remote}@{old}"));
    assert_eq!(rig.digest_of_tag("arm32v7").unwrap(), old);
    let fix = ["fix", "oci:e:v1", "--set-platform", "linux/arm/v6", "--platform", "linux/arm/v7"];
    local.user.config_patcher(&fix).exits(0);
    let printed = local.push(&["rollback", "oci:e:v1"]).exits(0).line().to_string();
    assert!(printed.ends_with(&format!(":v1@{}", local.index.digest())), "{printed}");
    // The printed reference is one.
    local.push(&["inspect", &printed]).exits(0);
}

#[test]
fn a_draft_of_a_local_image_is_refused_with_the_command_to_use() {
    let local = Local::new();
    for args in [&["create", "oci:m:1", "app:1"][..], &["push", "oci:m:1"], &["rm", "oci:m:1"]] {
        local.push(args).exits(2).assert_stderr_contains(
            "drafts are for registries only; for other images, use: manifest-push push from-spec",
        );
    }
}
