//! Memory limits: every tool handles a layer of 1 GiB in 64 MiB of memory.
//!
//! `MULTIARCH_TEST_LAYER_MIB` sets the size of the layer.

use crate::samples::{Image, layer};
use crate::tools::{Ran, User, program, shown};
use image_model::digest::{Digest, Hasher};
use image_model::manifest::{Descriptor, Document, media_type};
use image_store::store::ImageStore;
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::fake_registry::FakeRegistry;
use multiarch_tests::world::run_with_rusage;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const LIMIT_KIB: u64 = 64 << 10;

fn layer_size() -> u64 {
    let mib = std::env::var("MULTIARCH_TEST_LAYER_MIB").ok().and_then(|text| text.parse().ok());
    mib.unwrap_or(1024) << 20
}

/// Asserts that a command succeeds and that its peak memory is within the limit.
#[track_caller]
fn run_within_limit(command: Command) -> Ran {
    let line = shown(&command);
    let begun = Instant::now();
    let (output, peak) = run_with_rusage(command);
    let ran = Ran::of(line, output).exits(0);
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!(
        "peak {:.1} MiB, {seconds:.1} s, layer {} MiB: {}",
        peak as f64 / 1024.0,
        layer_size() >> 20,
        ran.line()
    );
    assert!(peak > 0, "the memory of {ran} was not measured");
    assert!(peak <= LIMIT_KIB, "{peak} KiB\n{ran}");
    ran
}

/// Writes an image with one large layer to a layout, with the tag `big`. The layer is a sparse file of zeros.
fn large_layout(dir: &Path) -> Digest {
    let layout = OciLayout::open_or_create(dir).unwrap();
    let mut hasher = Hasher::sha256();
    let zeros = vec![0; 1 << 20];
    for _ in 0..layer_size() >> 20 {
        hasher.update(&zeros);
    }
    let large = Descriptor::new(media_type::OCI_LAYER, hasher.finish(), layer_size());
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        large.digest
    );
    let config_blob = Descriptor::of(media_type::OCI_CONFIG, config.as_bytes());
    layout.write_blob(&config_blob, &|| Ok(Box::new(config.as_bytes()))).unwrap();
    let file = File::create(dir.join("blobs/sha256").join(large.digest.hex())).unwrap();
    file.set_len(layer_size()).unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "config": config_blob, "layers": [large],
    });
    let document = Document::new(manifest.to_string().into_bytes(), None).unwrap();
    layout.write_tag("big", &document).unwrap();
    document.digest().clone()
}

#[test]
fn a_layer_of_a_gigabyte_is_copied_to_and_from_a_registry_in_64_mib() {
    let registry = FakeRegistry::start();
    let user = User::new();
    let digest = large_layout(&user.path("in"));
    let image = format!("{}/team/app:big", registry.host());
    run_within_limit(user.command("manifest-push", &["copy", "oci:in:big", &image])).prints(digest.as_str());
    registry.closure_complete("team/app", digest.as_str()).unwrap();
    run_within_limit(user.command("manifest-push", &["copy", &image, "oci:out:big"])).prints(digest.as_str());
    assert_eq!(registry.violations(), [""; 0]);
}

#[test]
fn a_fix_in_a_layout_does_not_read_a_layer_of_a_gigabyte() {
    let user = User::new();
    large_layout(&user.path("in"));
    let begun = Instant::now();
    run_within_limit(
        user.command("config-patcher", &["fix", "oci:in:big", "--set-platform", "linux/arm/v7"]),
    );
    assert!(begun.elapsed().as_secs() < 5, "the unchanged layer was read: {:?}", begun.elapsed());
}

#[test]
fn an_archive_with_a_layer_of_a_gigabyte_is_fixed_in_64_mib() {
    let user = User::new();
    large_archive(&user.path("app.tar"));
    run_within_limit(
        user.command("config-patcher", &["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7"]),
    );
    let json =
        user.config_patcher(&["inspect", "docker-archive:app.tar", "--format", "json"]).exits(0).json();
    assert_eq!(json["images"][0]["declaredPlatform"]["variant"], "v7");
}

/// Writes the output of `docker save` for an image whose layer is one large file.
fn large_archive(path: &Path) {
    let mut header = tar::Header::new_gnu();
    // The file and the two blocks of zeros that end a tar (pax(1)); its own header takes one more.
    let content = layer_size();
    header.set_path("large").unwrap();
    header.set_size(content);
    header.set_mode(0o644);
    header.set_cksum();
    let mut hasher = Hasher::sha256();
    hasher.update(header.as_bytes());
    let zeros = vec![0; 1 << 20];
    for _ in 0..content >> 20 {
        hasher.update(&zeros);
    }
    hasher.update(&zeros[..1024]);
    let small = Image::new("linux/amd64", "x");
    let diff_id = hasher.finish();
    let config = small.config.replace(Digest::of(&layer("x")).as_str(), diff_id.as_str());
    let id = Digest::of(config.as_bytes());
    let list =
        format!(r#"[{{"Config":"{}.json","RepoTags":["app:1"],"Layers":["abc/layer.tar"]}}]"#, id.hex());

    let mut file = File::create(path).unwrap();
    let mut outer = tar::Header::new_gnu();
    outer.set_path("abc/layer.tar").unwrap();
    outer.set_size(512 + content + 1024);
    outer.set_mode(0o644);
    outer.set_cksum();
    file.write_all(outer.as_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.seek(SeekFrom::Current(i64::try_from(content + 1024).unwrap())).unwrap();
    let mut rest = tar::Builder::new(file);
    for (name, text) in [(format!("{}.json", id.hex()), config), ("manifest.json".to_string(), list)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        rest.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    rest.finish().unwrap();
}

/// Writes an archive with the members of an image and, after them, empty ones up to this number, with names as long as
/// those of blobs.
fn crowded_archive(path: &Path, members: usize) {
    let image = Image::new("linux/amd64", "x").classic_archive("app:1");
    let mut file = std::io::BufWriter::new(File::create(path).unwrap());
    let (mut count, mut end) = (0, 0);
    let mut archive = tar::Archive::new(&*image);
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        end = (entry.raw_file_position() + entry.size()).next_multiple_of(512) as usize;
        count += 1;
    }
    file.write_all(&image[..end]).unwrap();
    let mut header = tar::Header::new_ustar();
    for number in count..members {
        header.set_path(format!("blobs/sha256/{number:064}")).unwrap();
        header.set_size(0);
        header.set_mode(0o644);
        header.set_cksum();
        file.write_all(header.as_bytes()).unwrap();
    }
    file.write_all(&[0; 1024]).unwrap();
    file.flush().unwrap();
}

#[test]
fn the_largest_number_of_members_is_fixed_in_64_mib_and_one_more_is_refused() {
    let user = User::new();
    crowded_archive(&user.path("app.tar"), 160_000);
    let fix = ["fix", "docker-archive:app.tar", "--set-platform", "linux/arm/v7"];
    run_within_limit(user.command("config-patcher", &fix));
    // The filter adds the new config. One more member would exceed the limit of the readers.
    crowded_archive(&user.path("app.tar"), 159_999);
    // exec, so that the memory of the filter is measured and not that of the shell.
    let mut filter = Command::new("sh");
    filter.current_dir(user.work());
    let tool = program("config-patcher");
    filter
        .arg("-c")
        .arg(format!("exec '{}' fix - --set-platform linux/arm64 < app.tar > out.tar", tool.display()));
    let (output, peak) = run_with_rusage(filter);
    eprintln!("filter: peak {:.1} MiB", peak as f64 / 1024.0);
    assert!(output.status.success() && peak <= LIMIT_KIB, "{peak} KiB");
    crowded_archive(&user.path("app.tar"), 160_001);
    user.config_patcher(&fix)
        .exits(3)
        .assert_stderr_contains("more than 160000 members")
        .assert_stderr_contains("file system, not an image");
}
