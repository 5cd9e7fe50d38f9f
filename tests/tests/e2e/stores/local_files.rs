//! File metadata of replaced archives and layouts, links, and paths that are not regular files.

use crate::samples::Image;
use crate::tools::{Ran, User, listing, program};
use image_model::digest::Digest;
use image_model::manifest::{Descriptor, Document, media_type};
use image_store::archive::DockerArchive;
use image_store::check::{CheckDepth, check};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, ImageStore, Pointer};
use image_store::tree::read_tree;
use multiarch_tests::world::Skip;
use multiarch_tests::{need, world};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

pub const FIX: [&str; 4] = ["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7"];

pub fn mislabeled() -> Image {
    Image::new("linux/amd64", "arm's own")
}

fn assert_complete(path: &Path) {
    let store = DockerArchive::open(path, None).unwrap();
    assert_eq!(check(&store, &Pointer::Tag("app:1".into()), CheckDepth::Layers), []);
}

fn xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = [0; 256];
    let length = getxattr(path, name, &mut value[..]).unwrap_or_else(|error| panic!("{name}: {error}"));
    value[..length].to_vec()
}

/// `user::rw-`, `user:4711:r--`, `group::r--`, `mask::r--`, `other::---`, as the kernel keeps it (acl(5),
/// linux/posix_acl_xattr.h): version 2, then tag, permissions and id of each.
const ACL: [(u16, u16, u32); 5] =
    [(1, 6, u32::MAX), (2, 4, 4711), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)];

fn acl() -> Vec<u8> {
    let entry = |(tag, may, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &may.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [&2_u32.to_le_bytes()[..], &ACL.map(entry).concat()].concat()
}

/// Sets a mode, an extended attribute, an ACL and, as root, an owner that a new file would not have.
fn set_metadata(path: &Path) -> Result<(), Skip> {
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(4711), Some(4712)).unwrap();
    }
    fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap();
    for (name, value) in [("user.origin", &b"here"[..]), ("system.posix_acl_access", &acl())] {
        match setxattr(path, name, value, XattrFlags::empty()) {
            Err(Errno::NOTSUP) => return Err(Skip::because(format!("{} takes no {name}", path.display()))),
            other => other.unwrap(),
        }
    }
    Ok(())
}

fn metadata_of(path: &Path) -> (u32, u32, u32, Vec<u8>, Vec<u8>) {
    let meta = fs::metadata(path).unwrap();
    let acl = xattr(path, "system.posix_acl_access");
    (meta.mode(), meta.uid(), meta.gid(), xattr(path, "user.origin"), acl)
}

#[test]
fn a_replaced_file_keeps_owner_mode_times_attributes_and_acl() {
    for in_place in [false, true] {
        let user = User::new();
        let path = user.write("app.tar", mislabeled().classic_archive("app:1"));
        need!(set_metadata(&path));
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let times = FileTimes::new().set_accessed(long_ago).set_modified(long_ago);
        File::options().append(true).open(&path).unwrap().set_times(times).unwrap();
        let (before, inode) = (metadata_of(&path), fs::metadata(&path).unwrap().ino());
        let args: &[&str] = if in_place { &["--in-place"] } else { &[] };
        user.config_patcher(&[&FIX[..], args].concat()).exits(0);
        let after = fs::metadata(&path).unwrap();
        assert_eq!(after.ino() == inode, in_place);
        assert_eq!((metadata_of(&path), after.modified().unwrap()), (before, long_ago));
        assert_complete(&path);
    }
}

#[test]
fn the_index_of_a_layout_keeps_its_metadata_and_new_files_have_the_umask() {
    let user = User::new();
    mislabeled().store(&OciLayout::open_or_create(&user.path("in")).unwrap(), "1");
    need!(set_metadata(&user.path("in/index.json")));
    let before = metadata_of(&user.path("in/index.json"));
    let mut command = Command::new("sh");
    let plain = user.command("config-patcher", &[]);
    command.arg("-c").arg(format!(
        "umask 027 && '{}' fix oci:in:1 --set-platform linux/arm/v7 && '{0}' fix oci:in:1 --set-platform linux/arm64 --output docker-archive:new.tar:app:1",
        program("config-patcher").display()
    ));
    command.current_dir(user.work()).envs(plain.get_envs().filter_map(|(key, value)| Some((key, value?))));
    Ran::of("fix with umask 027".into(), command.output().unwrap()).exits(0);
    assert_eq!(metadata_of(&user.path("in/index.json")), before);
    let config = mislabeled().relabeled("arm", "v7").config_digest().replace(':', "/");
    for new in [format!("in/blobs/{config}"), "new.tar".into()] {
        assert_eq!(fs::metadata(user.path(&new)).unwrap().mode() & 0o777, 0o640, "{new}");
    }
}

#[test]
fn symbolic_links_are_followed_and_hard_links_keep_the_old_content() {
    let user = User::new();
    let text = mislabeled().classic_archive("app:1");
    let path = user.write("app.tar", &text);
    fs::hard_link(&path, user.path("other.tar")).unwrap();
    symlink("app.tar", user.path("link.tar")).unwrap();
    user.config_patcher(&["fix", "docker-archive:link.tar", "--set-platform", "linux/arm/v7"]).exits(0);
    assert!(fs::symlink_metadata(user.path("link.tar")).unwrap().is_symlink());
    assert!(fs::read(user.path("other.tar")).unwrap() == text);
    assert_complete(&path);
    // One inode is read under one name and replaced under the other.
    fs::hard_link(&path, user.path("twin.tar")).unwrap();
    let fixed = fs::read(&path).unwrap();
    let args = [
        "fix",
        "docker-archive:app.tar",
        "--set-platform",
        "linux/arm64",
        "--output",
        "docker-archive:twin.tar:app:1",
    ];
    user.config_patcher(&args).exits(0);
    assert!(fs::read(&path).unwrap() == fixed);
    assert_complete(&user.path("twin.tar"));
    symlink("not-there-yet.tar", user.path("dangling.tar")).unwrap();
    let args = [&FIX[..], &["--output", "docker-archive:dangling.tar:app:1"]].concat();
    user.config_patcher(&args).exits(0);
    assert_complete(&user.path("not-there-yet.tar"));
}

/// No open of them blocks, and none is written to or replaced.
#[test]
fn pipes_directories_and_devices_are_refused_as_images() {
    let user = User::new();
    user.write("app.tar", mislabeled().classic_archive("app:1"));
    nix::unistd::mkfifo(&user.path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    user.write("directory/file", "");
    let before = listing(&user.work());
    for scheme in ["docker-archive", "oci-archive", "oci"] {
        for place in ["pipe", "directory", "/dev/null", "/dev/zero"] {
            let image = format!("{scheme}:{place}");
            user.config_patcher(&["fix", &image, "--set-platform", "linux/arm/v7"]).exits(3);
            let to = format!("{scheme}:{place}:app:1");
            user.config_patcher(&[&FIX[..], &["--output", &to]].concat()).exits(3);
        }
    }
    assert!(listing(&user.work()) == before);
}

#[test]
fn a_fix_completes_if_its_output_is_closed() {
    let user = User::new();
    let path = user.write("app.tar", mislabeled().classic_archive("app:1"));
    let mut command = user.command("config-patcher", &FIX);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    assert_eq!(command.status().unwrap().code(), Some(0));
    assert_complete(&path);
}

/// A concurrent reader sees the complete old image or the complete new one.
#[test]
fn concurrent_readers_always_find_a_complete_image() {
    let user = User::new();
    let path = user.write("app.tar", mislabeled().classic_archive("app:1"));
    mislabeled().store(&OciLayout::open_or_create(&user.path("in")).unwrap(), "1");
    let is_done = AtomicBool::new(false);
    let declared = |source: &dyn ImageSource, tag: &str| {
        let tag = Pointer::Tag(tag.into());
        assert_eq!(check(source, &tag, CheckDepth::Layers), []);
        read_tree(source, &tag).unwrap().images()[0].1.config.as_ref().unwrap().parsed.platform.to_string()
    };
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..20 {
                let platform = ["linux/arm/v7", "linux/arm64"][i % 2];
                for image in ["docker-archive:app.tar", "oci:in:1"] {
                    user.config_patcher(&["fix", image, "--set-platform", platform]).exits(0);
                }
            }
            is_done.store(true, Ordering::SeqCst);
        });
        while !is_done.load(Ordering::SeqCst) {
            *seen.entry(declared(&DockerArchive::open(&path, None).unwrap(), "app:1")).or_default() += 1;
            *seen.entry(declared(&OciLayout::open(&user.path("in")).unwrap(), "1")).or_default() += 1;
        }
    });
    eprintln!("read {seen:?}");
    assert!(seen.values().sum::<usize>() > 40 && seen.len() >= 2, "{seen:?}");
}

/// Docker creates at most 127 layers; other builders have no limit.
#[test]
fn an_image_of_five_hundred_layers_is_fixed_in_little_memory() {
    let user = User::new();
    let layout = OciLayout::open_or_create(&user.path("in")).unwrap();
    let layers: Vec<Descriptor> = (0..500)
        .map(|i| {
            layout.add_blob(media_type::DOCKER_LAYER, &*crate::samples::layer(&format!("layer {i}"))).unwrap()
        })
        .collect();
    let ids: Vec<&Digest> = layers.iter().map(|layer| &layer.digest).collect();
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}});
    let config = layout.add_blob(media_type::DOCKER_CONFIG, config.to_string().as_bytes()).unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::DOCKER_MANIFEST, "config": config, "layers": layers,
    });
    layout.write_tag("1", &Document::new(manifest.to_string().into_bytes(), None).unwrap()).unwrap();
    user.manifest_push(&["copy", "oci:in:1", "docker-archive:app.tar:app:1"]).exits(0);
    let jobs: [(&str, &str, &[&str]); 3] = [
        ("oci:in:1", "linux/arm/v7", &[]),
        ("docker-archive:app.tar", "linux/arm/v7", &[]),
        ("docker-archive:app.tar", "linux/arm64", &["--in-place"]),
    ];
    for (image, platform, more) in jobs {
        let command =
            user.command("config-patcher", &[&["fix", image, "--set-platform", platform], more].concat());
        let (done, peak) = world::run_with_rusage(command);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert!(peak < 32 << 10, "{peak} KiB");
    }
    assert_complete(&user.path("app.tar"));
    assert_eq!(check(&layout, &Pointer::Tag("1".into()), CheckDepth::Layers), []);
}
