//! CPU levels: what the executed chain needs, by real compilers and real packages, and the option `--cpu`.

use super::corpus::layer;
use super::made::{Layer, image, verify};
use crate::tools::User;
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
    let (v3, plain) = (compiled(&user, "v3"), super::made::probe("linux/amd64"));
    let made = image("linux/amd64", &["/app"], vec![Layer::new().file("app", &v3).end()]).layout(&user, "v3");
    let text = verify(&user, &[&made]).exits(0).stdout;
    assert!(text.contains("linux/amd64  -      linux/amd64/v3  v3     consistent\n"), "{text}");
    for limit in ["linux/amd64/v3", "amd64/v4", "linux/arm/v5"] {
        verify(&user, &[&made, "--cpu", limit]).exits(0);
    }
    let reports = ["sarif", "junit"].map(|name| user.path(name).display().to_string());
    let options = ["--cpu", "linux/arm/v5", "--cpu", "linux/amd64/v2"];
    let written =
        [&[made.as_str()], &options[..], &["--sarif", &reports[0], "--junit", &reports[1]]].concat();
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
