//! CPU levels: what the executed chain needs, by real compilers and real packages, and the option `--cpu`.

use super::corpus::layer;
use super::made::{Layer, image, probe, verify};
use super::wrong_build::{add_index, inspected, layout, run_advice};
use crate::tools::User;
use image_store::store::memory::MemoryStore;
use multiarch::example_binaries;
use multiarch_tests::need;
use multiarch_tests::world::{FOREIGN, code_behind_a_check, debian_packages, require};
use serde_json::{Value, json};
use std::process::Command;

/// A program of gcc that needs this level by its property note.
fn compiled(user: &User, level: &str) -> Vec<u8> {
    user.write("main.c", "int main(void) { return 0; }\n");
    let out = user.path(&format!("main-{level}"));
    let mut gcc = Command::new("gcc");
    gcc.args([&format!("-march=x86-64-{level}"), &format!("-Wl,-z,x86-64-{level}"), "-static", "-o"]);
    let done = gcc.arg(&out).arg(user.path("main.c")).status().expect("gcc");
    assert!(done.success());
    std::fs::read(out).unwrap()
}

fn found(user: &User, name: &str, options: &[&str]) -> Value {
    verify(user, &[&[name, "--format", "json"], options].concat()).json()["images"][0].clone()
}

#[test]
fn code_behind_a_check_of_the_cpu_is_a_note() {
    let user = User::new();
    let root = need!(code_behind_a_check());
    let packages = ["gpgv", "libc6", "libgcrypt20", "python3.11-minimal"];
    // gpgv loads libgcrypt, python does not.
    for (command, loads) in [("/usr/bin/python3.11", false), ("/usr/bin/gpgv", true)] {
        let name = command.rsplit('/').next().unwrap();
        let made = image("linux/arm/v7", &[command], vec![layer(&root, &packages)]).layout(&user, name);
        let text = verify(&user, &[&made, "--strict"]).exits(0).stdout;
        assert!(text.starts_with("DECLARED      INDEX  BINARIES      NEEDS  VERDICT\n"), "{text}");
        assert!(text.contains("linux/arm/v7  -      linux/arm/v7  v7     consistent\n"), "{text}");
        let library = "/usr/lib/arm-linux-gnueabihf/libgcrypt.so.20.";
        assert!(text.contains(&format!("  note: {library}")), "{text}");
        assert!(text.contains(" may need linux/arm/v8: Tag_CPU_arch v8 or later\n"), "{text}");
        let image = found(&user, &made, &["--strict"]);
        let loaded = image["executedChain"].to_string().contains("libgcrypt");
        assert_eq!((image["verdict"].as_str(), loaded), (Some("consistent"), loads));
        let needs = &image["needs"];
        assert_eq!((&needs["level"], &needs["file"]), (&json!("v7"), &json!(command)));
        assert_eq!((&needs["higher"][0]["level"], &needs["higher"][0]["count"]), (&json!("v8"), &json!(1)));
        verify(&user, &[&made, "--cpu", "linux/arm/v7"]).exits(0);
        let above = verify(&user, &[&made, "--cpu", "arm/v6"]).exits(1).stdout;
        let line = format!(
            "needs linux/arm/v7: {command} (command, layer 0) records Tag_CPU_arch v7; --cpu allows linux/arm/v6\n"
        );
        assert!(above.contains(&line), "{above}");
    }
}

#[test]
fn programs_of_debian_record_the_level_of_their_compiler() {
    let user = User::new();
    let levels = [
        ("amd64", None, Some("v1")),
        ("arm64", None, None),
        ("armhf", Some("v7"), Some("v6")),
        ("armel", Some("v5"), Some("v5")),
        ("riscv64", Some("rva20u64"), Some("rva20u64")),
        ("ppc64el", None, Some("power8")),
        ("mips64el", Some("mips64r2"), Some("mips3")),
        ("s390x", None, None),
    ];
    for (debian, of_c, of_go) in levels {
        let root = need!(debian_packages(debian));
        let platform =
            FOREIGN.iter().find(|row| row.debian == debian).map_or("linux/amd64", |row| row.platform);
        for (package, path, level) in [("dash", "/bin/dash", of_c), ("gosu", "/usr/sbin/gosu", of_go)] {
            let path = if root.join(package).join(&path[1..]).exists() { path } else { "/usr/bin/dash" };
            let (words, name) = ([path], format!("{debian}-{package}"));
            let made = image(platform, &words, vec![layer(&root, &[package])]).layout(&user, &name);
            let image = found(&user, &made, &[]);
            assert_eq!(image["needs"]["level"].as_str(), level, "{debian} {package} {image}");
        }
    }
}

#[test]
fn a_level_above_the_limit_fails_with_the_file() {
    let user = User::new();
    need!(require(&["gcc"]));
    let (v3, plain) = (compiled(&user, "v3"), probe("linux/amd64"));
    let made = image("linux/amd64", &["/app"], vec![Layer::new().file("app", &v3).end()]).layout(&user, "v3");
    let text = verify(&user, &[&made]).exits(0).stdout;
    assert!(text.contains("linux/amd64  -      linux/amd64/v3  v3     consistent\n"), "{text}");
    for limit in ["linux/amd64/v3", "amd64/v4", "linux/arm/v5"] {
        verify(&user, &[&made, "--cpu", limit]).exits(0);
    }
    let reports = ["sarif", "junit", "html"].map(|name| user.path(name).display().to_string());
    let options = ["--cpu", "linux/arm/v5", "--cpu", "linux/amd64/v2"];
    let written = [
        &[made.as_str()],
        &options[..],
        &["--sarif", &reports[0], "--junit", &reports[1], "--html", &reports[2]],
    ]
    .concat();
    let text = verify(&user, &written).exits(1).stdout;
    let why = "needs linux/amd64/v3: /app (command, layer 0) records x86-64-v3 by its property note; --cpu allows linux/amd64/v2";
    assert!(
        text.contains("consistent, needs more than v2\n") && text.contains(&format!("  {why}\n")),
        "{text}"
    );
    let needs = found(&user, &made, &options)["needs"].clone();
    assert_eq!(needs["limit"], json!({"os": "linux", "architecture": "amd64", "variant": "v2"}));
    let above = json!([{"level": "v3", "file": "/app", "proof": "x86-64-v3 by its property note"}]);
    assert_eq!(needs["aboveLimit"], above);
    let sarif: Value = serde_json::from_slice(&std::fs::read(&reports[0]).unwrap()).unwrap();
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!((&result["ruleId"], &result["level"]), (&json!("needs-more"), &json!("error")));
    assert_eq!(result["locations"][0]["logicalLocations"][0]["name"], "/app");
    let junit = std::fs::read_to_string(&reports[1]).unwrap();
    assert!(junit.contains("failures=\"1\"") && junit.contains(why), "{junit}");
    let page = std::fs::read_to_string(&reports[2]).unwrap();
    assert!(page.contains("class=\"cell needs-more\"") && page.contains(why), "{page}");

    // Beside the executed chain it is a note; the loader chooses among files in glibc-hwcaps by the CPU.
    let layers = vec![Layer::new().file("app", &plain).file("opt/fast", &v3).end()];
    let beside = image("linux/amd64", &["/app"], layers).layout(&user, "beside");
    let text = verify(&user, &[&beside, "--cpu", "linux/amd64/v1", "--strict"]).exits(0).stdout;
    assert!(
        text.contains("note: /opt/fast may need linux/amd64/v3: x86-64-v3 by its property note\n"),
        "{text}"
    );
    assert!(!text.contains("NEEDS"), "{text}");
    let layers =
        vec![Layer::new().file("app", &plain).file("usr/lib/glibc-hwcaps/x86-64-v3/libx.so", &v3).end()];
    let chosen = image("linux/amd64", &["/app"], layers).layout(&user, "chosen");
    assert!(!verify(&user, &[&chosen]).exits(0).stdout.contains("note:"));
}

#[test]
fn an_unknown_level_is_a_usage_error_with_the_valid_ones() {
    let user = User::new();
    let check = |options: &[&str], why: &str| {
        verify(&user, &[&["oci:none:1"], options].concat()).exits(2).assert_stderr_contains(why);
    };
    check(&["--cpu", "linux/amd64/v5"], "write a level of amd64: v1, v2, v3, v4");
    check(&["--cpu", "linux/amd64"], "write a level of amd64: v1, v2, v3, v4");
    check(&["--cpu", "linux/s390x/z13"], "s390x has no CPU levels; these have: amd64, arm, arm64, riscv64,");
    check(&["--cpu", "amd64/v2", "--cpu", "linux/amd64/v3"], "are for one architecture");
}

/// Returns a layout with an index of `INDEX DECLARED` and the program of each member.
fn index(user: &User, name: &str, members: &[(&str, &[u8])]) -> String {
    let store = MemoryStore::new();
    let entries: Vec<_> = members
        .iter()
        .map(|(platforms, program)| {
            let (index, declared) = platforms.split_once(' ').unwrap();
            let layer = Layer::new().file("app", program).end();
            let mut entry = image(declared, &["/app"], vec![layer]).add_to(&store).descriptor();
            entry.platform = Some(index.parse().unwrap());
            entry
        })
        .collect();
    add_index(&store, &entries);
    layout(user, store, name)
}

fn platforms(user: &User, name: &str) -> Vec<String> {
    let members = inspected(user, name).into_iter();
    members.map(|(_, index, declared)| format!("{index} {declared}")).collect()
}

#[test]
fn fix_declares_the_variant_where_it_is_proven() {
    let user = User::new();
    need!(require(&["gcc"]));
    let (v3, plain) = (compiled(&user, "v3"), probe("linux/amd64"));
    let [v6, v7] = ["linux/arm/v6", "linux/arm/v7"]
        .map(|platform| example_binaries::program(&platform.parse().unwrap()).unwrap());
    let fix = |name: &str, options: &[&str]| {
        user.config_patcher(&[&["fix", name, "--variant-from-binaries"], options].concat())
    };

    let single =
        image("linux/amd64", &["/app"], vec![Layer::new().file("app", &v3).end()]).layout(&user, "single");
    let before = inspected(&user, &single);
    fix(&single, &["--check"]).exits(1);
    let plan = fix(&single, &["--dry-run"]).exits(0);
    assert!(plan.stderr.contains("declared platform linux/amd64 -> linux/amd64/v3"), "{plan}");
    assert_eq!(inspected(&user, &single), before);
    fix(&single, &[]).exits(0).prints(plan.line());
    assert_eq!(inspected(&user, &single)[0].2, "linux/amd64/v3");
    // Nothing is left to do.
    fix(&single, &["--check"]).exits(0);
    fix(&single, &[]).exits(0).prints(plan.line());

    let members: [(&str, &[u8]); 4] = [
        ("linux/amd64 linux/amd64", &plain),
        ("linux/amd64 linux/amd64", &v3),
        ("linux/arm linux/arm", &v6),
        ("linux/arm/v7 linux/arm", &v7),
    ];
    let name = index(&user, "index", &members);
    let found = fix(&name, &["--check", "--format", "json"]).exits(1).json();
    assert_eq!(found["notes"], json!(["linux/amd64: no mark; its variant is not changed"]));
    let ran = fix(&name, &[]).exits(0);
    assert!(ran.stderr.contains("note: linux/amd64: no mark; its variant is not changed\n"), "{ran}");
    let after = [
        "linux/amd64 linux/amd64",
        "linux/amd64/v3 linux/amd64/v3",
        "linux/arm/v6 linux/arm/v6",
        "linux/arm/v7 linux/arm/v7",
    ];
    assert_eq!(platforms(&user, &name), after);
    verify(&user, &[&name, "--strict"]).exits(0);
    fix(&name, &["--check"]).exits(0);

    let marked = image("linux/arm64", &["/app"], vec![Layer::new().file("app", &probe("linux/arm64")).end()]);
    let ran = fix(&marked.layout(&user, "unmarked"), &[]).exits(0);
    assert!(ran.stderr.contains("note: linux/arm64: no mark"), "{ran}");
}

#[test]
fn a_variant_never_takes_the_place_of_a_platform_of_the_index() {
    let user = User::new();
    need!(require(&["gcc"]));
    let (v3, arm64) = (compiled(&user, "v3"), probe("linux/arm64"));
    let refused = |name: &str, why: &str| {
        let before = inspected(&user, name);
        let mut ran = None;
        for options in [&["--check"][..], &["--force"], &[]] {
            let now = user.config_patcher(&[&["fix", name, "--variant-from-binaries"], options].concat());
            ran = Some(now.exits(1).prints_nothing().assert_stderr_contains(why));
        }
        assert_eq!(inspected(&user, name), before);
        ran.unwrap().stderr
    };
    let members: [(&str, &[u8]); 2] = [("linux/amd64 linux/amd64", &v3), ("linux/arm64 linux/arm64", &arm64)];
    let name = index(&user, "lost", &members);
    let why = "a relabel would leave no image for linux/amd64; add an image for linux/amd64 first; or, to have none, run: ";
    let text = refused(&name, why);
    // The command works as printed.
    let (_, command) = text.split_once(", run: ").unwrap();
    run_advice(&user, command.lines().next().unwrap()).exits(0);
    assert_eq!(platforms(&user, &name), ["linux/amd64/v3 linux/amd64/v3", "linux/arm64 linux/arm64"]);

    let members: [(&str, &[u8]); 2] =
        [("linux/amd64/v3 linux/amd64/v3", &v3), ("linux/amd64 linux/amd64", &v3)];
    refused(&index(&user, "twice", &members), "remove or rebuild one of the two images for linux/amd64/v3");
    let members: [(&str, &[u8]); 2] = [("linux/s390x linux/s390x", &arm64), ("linux/amd64 linux/amd64", &v3)];
    refused(&index(&user, "other", &members), "its binaries are for linux/arm64; use --from-binaries first");
}
