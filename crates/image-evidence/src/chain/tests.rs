//! Executed chains of images with a few files.

use super::*;
use crate::elf::tests::Made;
use crate::layer::tests::{Tar, elf};
use crate::layer::{LayerFacts, NameHasher};
use crate::overlay::LookupBudget;

/// Returns a program for this machine with this loader.
fn dynamic(machine: u16, loader: &'static str) -> Vec<u8> {
    Made { interpreter: Some(loader), ..Made::new(true, false, machine, 0) }.file()
}

fn config(entrypoint: &[&str], cmd: &[&str]) -> Config {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_string()).collect();
    Config { entrypoint: words(entrypoint), cmd: words(cmd), working_dir: "/srv".into(), ..Config::default() }
}

#[track_caller]
fn check(layer: &LayerFacts, config: &Config, links: &[&str], gap: &str) {
    let tree = OverlayTree::new(vec![Some(layer)]);
    let chain = follow(&tree, config);
    let shown: Vec<String> = chain
        .links
        .iter()
        .map(|link| format!("{} {}", link.role.text(), display_path(&link.file.path)))
        .collect();
    assert_eq!(shown, links);
    match gap {
        "" => assert_eq!(chain.gaps, [""; 0]),
        gap => assert!(chain.gaps.iter().any(|found| found.contains(gap)), "{:?}", chain.gaps),
    }
}

#[test]
fn scripts_and_wrappers_lead_to_the_program() {
    let layer = Tar::default()
        .file("usr/bin/env", &elf(62))
        .file("usr/local/bin/python3.12", &elf(62))
        .symlink("usr/local/bin/python3", "python3.12")
        .file("sbin/tini", &elf(62))
        .file("bin/busybox", &elf(62))
        .symlink("bin/sh", "busybox")
        .file("srv/run.py", b"#!/usr/bin/env python3\nprint()")
        .file("entry.sh", b"#!/bin/sh -e\nexec \"$@\"")
        .file("serve.sh", b"#!/bin/bash\nset -e\nexec tini -- python3 -m serve\n")
        .symlink("bin/bash", "busybox")
        .file("again.sh", b"#!/bin/sh\n/again.sh \"$@\"\n")
        .file("twice", b"#!/entry.sh\n")
        .file("endless", b"#!/endless\n")
        .file("data", b"just text")
        .facts();
    let python = [
        "entrypoint /sbin/tini",
        "started program /srv/run.py",
        "interpreter /usr/bin/env",
        "started program /usr/local/bin/python3.12",
        "shell /bin/busybox",
    ];
    check(&layer, &config(&["tini", "--"], &["./run.py"]), &python, "");
    check(
        &layer,
        &config(&["/entry.sh"], &["python3"]),
        &["entrypoint /entry.sh", "interpreter /bin/busybox", "started program /usr/local/bin/python3.12"],
        "",
    );
    // An argument of a script that is not a program is ignored.
    check(
        &layer,
        &config(&["/entry.sh"], &["serve"]),
        &["entrypoint /entry.sh", "interpreter /bin/busybox"],
        "what /entry.sh starts is known only at run time",
    );
    check(
        &layer,
        &config(&["/bin/sh", "/entry.sh"], &["python3", "x.py"]),
        &["entrypoint /bin/busybox", "started program /usr/local/bin/python3.12"],
        "",
    );
    check(
        &layer,
        &config(&[], &["/bin/sh", "-c", "tini -v && exec python3 /x.py"]),
        &["command /bin/busybox", "started program /sbin/tini", "started program /usr/local/bin/python3.12"],
        "",
    );
    let served = [
        "entrypoint /serve.sh",
        "interpreter /bin/busybox",
        "started program /sbin/tini",
        "started program /usr/local/bin/python3.12",
        "shell /bin/busybox",
    ];
    check(&layer, &config(&["/serve.sh"], &["--debug"]), &served[..4], "");
    check(
        &layer,
        &config(&["/twice"], &[]),
        &["entrypoint /twice", "interpreter /entry.sh", "interpreter /bin/busybox"],
        "what /twice starts is known only at run time",
    );
    check(
        &layer,
        &config(&[], &["/bin/sh", "-c", "python3 /x.py"]),
        &["command /bin/busybox", "started program /usr/local/bin/python3.12"],
        "",
    );
    check(
        &layer,
        &config(&[], &["/bin/sh", "-c", "$X"]),
        &["command /bin/busybox"],
        "known only at run time",
    );
    check(&layer, &config(&["nothing"], &[]), &["shell /bin/busybox"], "\"nothing\" is not in PATH");
    check(&layer, &config(&["/nothing"], &[]), &["shell /bin/busybox"], "/nothing is not in the image");
    check(
        &layer,
        &config(&["/data"], &[]),
        &["entrypoint /data", "shell /bin/busybox"],
        "neither a program nor a script",
    );
    check(&layer, &config(&[], &[]), &["shell /bin/busybox"], "neither entrypoint nor command");
    let tree = OverlayTree::new(vec![Some(&layer)]);
    assert!(follow(&tree, &config(&["/endless"], &[])).gaps[0].contains("too many scripts"));
    let again = follow(&tree, &config(&["/again.sh"], &["/again.sh", "/again.sh"]));
    assert!(again.links.len() < 2 * COMMANDS_MAX, "{}", again.links.len());
    // Of a thousand starts of a shell, only a limited number is followed.
    let many = vec!["/again.sh /again.sh"; 1000].join(";");
    let many = follow(&tree, &config(&["sh", "-c"], &[&many]));
    assert!(!many.is_reached && many.links.len() < 5 * COMMANDS_MAX, "{}", many.links.len());
}

#[test]
fn the_path_of_the_image_is_used_and_files_without_execute_bits_are_skipped() {
    let mut header = tar::Header::new_gnu();
    header.set_path("bin/app").unwrap();
    header.set_size(4);
    header.set_mode(0o644);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(b"text");
    bytes.resize(1024, 0);
    bytes.extend(Tar::default().file("opt/bin/app", &elf(62)).end());
    let store = image_store::store::memory::MemoryStore::new();
    let blob = store.add_blob(image_model::manifest::media_type::OCI_LAYER, &bytes);
    let Ok(crate::layer::LayerOutcome::Read(layer)) =
        crate::layer::read(&store, &blob, None, &NameHasher::random())
    else {
        panic!()
    };
    let config = Config { env: vec!["PATH=/bin:/opt/bin".into()], ..config(&["app"], &[]) };
    check(&layer, &config, &["entrypoint /opt/bin/app"], "");
}

#[test]
fn loaders_are_part_of_the_chain_and_missing_ones_are_reported() {
    let loader = "/lib64/ld-linux-x86-64.so.2";
    let with =
        Tar::default().file("app", &dynamic(62, loader)).file("lib64/ld-linux-x86-64.so.2", &elf(62)).facts();
    check(&with, &config(&["/app"], &[]), &["entrypoint /app", "loader /lib64/ld-linux-x86-64.so.2"], "");
    let without = Tar::default().file("app", &dynamic(62, loader)).facts();
    check(
        &without,
        &config(&["/app"], &[]),
        &["entrypoint /app"],
        "needs the loader /lib64/ld-linux-x86-64.so.2",
    );
}

#[test]
fn the_programs_of_s6_overlay_are_found() {
    let layer = Tar::default()
        .file("init", b"#!/bin/sh -e\nexec /package/...")
        .file("bin/sh", &elf(183))
        .file("package/admin/s6/command/s6-svscan", &elf(62))
        .symlink("command/s6-svscan", "/package/admin/s6/command/s6-svscan")
        .facts();
    let links = ["entrypoint /init", "supervisor /package/admin/s6/command/s6-svscan", "interpreter /bin/sh"];
    check(&layer, &config(&["/init"], &[]), &links, "what /init starts is known only at run time");
}

#[test]
fn an_emulator_as_the_command_is_detected() {
    let layer = Tar::default().file("usr/bin/qemu-arm-static", &elf(62)).file("bin/sh", &elf(40)).facts();
    let config = config(&["/usr/bin/qemu-arm-static", "/bin/sh"], &[]);
    check(&layer, &config, &["emulator /usr/bin/qemu-arm-static", "started program /bin/sh"], "");
}

/// Follows with this many look-ups. Returns whether they were spent.
fn is_spent(lookups: u64, layers: &[&LayerFacts], config: &Config) -> bool {
    let layers = layers.iter().copied().map(Some).collect();
    let tree = OverlayTree::with_budget(layers, LookupBudget::new(lookups));
    follow(&tree, config);
    tree.budget().is_spent()
}

/// Each of these would take minutes, or gigabytes, without a budget.
#[test]
fn what_makes_a_chain_long_is_counted_as_lookups() {
    let deep = format!("{}app", "d/".repeat(1500));
    let mut tar = Tar::default()
        .file("bin/sh", &elf(62))
        .file("bin/env", &elf(62))
        .file("again.sh", b"#!/bin/sh\nexec /again.sh \"$@\" \"$@\" \"$@\"\n")
        .member(b'L', "x", "", &[deep.as_bytes(), b"\0"].concat())
        .file("short", &elf(62));
    for i in 0..39 {
        tar = tar.symlink(&format!("l{i}"), &format!("l{}", i + 1));
    }
    let layer = tar.symlink("l39", "d").facts();
    let layers = vec![&layer; 61];
    let sh = |text: &str, words: &[&str]| config(&[&["/bin/sh", "-c", text, "x"], words].concat(), &[]);
    let with = |variable: String, config: Config| Config { env: vec![variable], ..config };
    let many = |text: &str| (0..400).map(|i| format!("{text}{i};")).collect::<String>();
    let nested = (0..400).map(|_| "/bin/sh -c '\"$@\";\"$@\"' x \"$@\";").collect::<String>();
    let words = vec!["w"; 50_000];
    let wrappers = vec!["/bin/env"; 50_000];
    let cases = [
        (
            true,
            "PATH of many directories",
            with(format!("PATH={}", "/d:".repeat(400_000)), sh(&many("x"), &[])),
        ),
        (
            true,
            "PATH of long directories",
            with(format!("PATH={}", format!("/{}:", "d/".repeat(1500)).repeat(1000)), sh(&many("x"), &[])),
        ),
        (true, "PATH of links", with(format!("PATH={}", "/l0/d/d/d:".repeat(10_000)), sh(&many("x"), &[]))),
        (true, "deep paths", sh(&format!("/{deep}/../app;").repeat(40), &[])),
        (true, "all arguments in each command", sh(&"/bin/env \"$@\";".repeat(400), &words)),
        (false, "shells in shells", sh(&nested, &["/bin/sh", "-c", "\"$@\";\"$@\"", "x", "/bin/env", "y"])),
        (false, "a script that starts itself", config(&["/again.sh"], &words)),
        (true, "wrappers", config(&wrappers, &[])),
        (
            true,
            "a long working directory",
            Config { working_dir: "d/".repeat(1 << 20), ..sh(&many("./x"), &[]) },
        ),
    ];
    for (spends, what, config) in cases {
        let begun = std::time::Instant::now();
        assert_eq!(is_spent(200_000, &layers, &config), spends, "{what}");
        assert!(begun.elapsed().as_secs() < 10, "{what}: {:?}", begun.elapsed());
    }
    assert!(!is_spent(1_000, &[&layer], &config(&["/bin/env", "/bin/sh"], &[])));
}

/// Linux has these limits: 128 KiB for a word, 4096 bytes for a path.
#[test]
fn what_linux_refuses_is_not_followed() {
    let layer = Tar::default().file("bin/sh", &elf(62)).file("bin/env", &elf(62)).facts();
    let long = "x".repeat(128 << 10);
    check(
        &layer,
        &config(&["/bin/sh", "-c", &long], &[]),
        &["shell /bin/sh"],
        "a command is longer than Linux accepts",
    );
    let words = vec!["w"; 120_000];
    check(
        &layer,
        &config(&["/bin/env"], &words),
        &["shell /bin/sh"],
        "a command is longer than Linux accepts",
    );
    let times = "/bin/env \"$@\" \"$@\" \"$@\"";
    check(
        &layer,
        &config(&["/bin/sh", "-c", times, "x"], &words[..50_000]),
        &["entrypoint /bin/sh"],
        "what /bin/sh starts is known only at run time",
    );
    let path = format!("/{}bin/sh", "./".repeat(2100));
    check(&layer, &config(&[&path], &[]), &["shell /bin/sh"], "is not in the image");
}

#[test]
fn more_than_500_commands_are_not_followed() {
    let layer = Tar::default().file("bin/sh", &elf(62)).file("bin/x", &elf(62)).facts();
    let commands = |count: usize| config(&["/bin/sh", "-c", &"/bin/x;".repeat(count)], &[]);
    check(
        &layer,
        &commands(499),
        &[&["entrypoint /bin/sh"][..], &["started program /bin/x"; 499]].concat(),
        "",
    );
    let tree = OverlayTree::new(vec![Some(&layer)]);
    assert_eq!(follow(&tree, &commands(501)).gaps, ["it starts more than 500 commands"]);
}

#[test]
fn scripts_are_read_up_to_64_kib() {
    let script = |size: usize| {
        let mut text = b"#!/bin/sh\n".to_vec();
        text.resize(size - 10, b'#');
        text.extend(b"\nexec /app");
        let layer = Tar::default().file("run", &text).file("bin/sh", &elf(62)).file("app", &elf(62)).facts();
        let tree = OverlayTree::new(vec![Some(&layer)]);
        follow(&tree, &config(&["/run"], &[])).is_reached
    };
    assert!(script((64 << 10) - 1));
    assert!(!script(64 << 10));
}

#[test]
fn wrappers_that_are_scripts_and_unknown_ones_lead_to_the_program() {
    let layer = Tar::default()
        .file("bin/sh", &elf(62))
        .file("bin/wrap", &elf(62))
        .file("bin/xvfb-run", b"#!/bin/sh\nexit $RETVAL\n")
        .file("bin/redis", &elf(62))
        .file("app", &elf(62))
        .file(
            "entry.sh",
            b"#!/bin/sh\nif [ \"${1#-}\" != \"$1\" ]; then\n set -- redis \"$@\"\nfi\nexec \"$@\"\n",
        )
        .facts();
    let unknown = ["entrypoint /bin/wrap", "started program /app", "shell /bin/sh"];
    check(&layer, &config(&["wrap", "run", "--"], &["/app"]), &unknown, "");
    check(
        &layer,
        &config(&["wrap", "run", "--"], &["/data"]),
        &["entrypoint /bin/wrap", "shell /bin/sh"],
        "",
    );
    let script = ["entrypoint /bin/xvfb-run", "interpreter /bin/sh", "started program /app"];
    check(&layer, &config(&["xvfb-run", "-a", "/app"], &[]), &script, "");
    let redis = ["entrypoint /entry.sh", "interpreter /bin/sh", "started program /bin/redis"];
    check(&layer, &config(&["/entry.sh"], &["--appendonly", "yes"]), &redis, "");
    check(&layer, &config(&["/entry.sh"], &["redis"]), &redis, "");
    let by_shell = ["entrypoint /bin/sh", "started program /bin/redis"];
    check(&layer, &config(&["/bin/sh", "/entry.sh"], &["--appendonly"]), &by_shell, "");
}

#[test]
fn the_path_that_a_script_sets_is_used() {
    let layer = Tar::default()
        .file("bin/sh", &elf(62))
        .file("srv/bin/server", &elf(62))
        .file("a", b"#!/bin/sh\nexport PATH=$PATH:/srv/bin\nexec server\n")
        .file("b", b"#!/bin/sh\nPATH=\"/srv/bin:$PATH\" exec server \"$@\"\n")
        .file("c", b"#!/bin/sh\nexport PATH=$HOME/bin:$PATH\nexec server\n")
        .facts();
    for script in ["/a", "/b"] {
        let links =
            [&format!("entrypoint {script}"), "interpreter /bin/sh", "started program /srv/bin/server"];
        check(&layer, &config(&[script], &["-v"]), &links, "");
    }
    let links = ["entrypoint /c", "interpreter /bin/sh"];
    check(&layer, &config(&["/c"], &[]), &links, "the PATH of a script is known only at run time");
    let text = "export PATH=/srv/bin:$PATH && server";
    let links = ["entrypoint /bin/sh", "started program /srv/bin/server"];
    check(&layer, &config(&["/bin/sh", "-c"], &[text]), &links, "");
}
