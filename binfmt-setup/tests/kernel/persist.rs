//! Files in /etc/binfmt.d.

use crate::world::{TABLE, User, World, world_of_all_users, world_with};

/// A namespace with a private /etc/binfmt.d.
fn persistent_world() -> Option<World> {
    let world = world_with(
        User::Caller,
        &format!("mount -t binfmt_misc b {TABLE}; mkdir -p /etc/binfmt.d; mount -t tmpfs t /etc/binfmt.d"),
    )?;
    assert_eq!(world.shell("ls -A /etc/binfmt.d").stdout, "");
    Some(world)
}

#[test]
fn a_persisted_file_registers_the_same_entry_after_a_reboot() {
    let Some(world) = persistent_world() else { return };
    let dry = world.run(&["register", "mipsel", "--persist", "--replace", "--dry-run"]);
    assert!(dry.succeeds().stdout.contains("write    /etc/binfmt.d/qemu-mipsel.conf"), "{dry:?}");
    assert_eq!(world.shell("ls -A /etc/binfmt.d").stdout, "");

    world.run(&["register", "mipsel", "--persist", "--replace"]).succeeds();
    let before = world.snapshot();
    assert_eq!(world.shell("ls -A /etc/binfmt.d").stdout, "qemu-mipsel.conf\n");
    // As systemd-binfmt does at boot: every line that is not a comment is written to the kernel.
    world.shell(&format!("echo -1 > {TABLE}/qemu-mipsel; grep -v '^[#;]' /etc/binfmt.d/qemu-mipsel.conf | dd bs=4096 status=none of={TABLE}/register")).succeeds();
    assert_eq!(world.snapshot(), before);

    let again = world.run(&["register", "mipsel", "--persist"]);
    assert_eq!(again.succeeds().stdout, "nothing to do\n");
    world.run(&["unregister", "mipsel", "--persist"]).succeeds();
    assert_eq!(world.shell("ls -A /etc/binfmt.d").stdout, "");
    assert!(world.entries().is_empty());
}

#[test]
fn files_that_another_user_can_change_are_refused() {
    let Some(world) = world_of_all_users("mkdir -p /etc/binfmt.d; mount -t tmpfs t /etc/binfmt.d") else {
        return;
    };
    let persist = || world.run(&["register", "mipsel", "--persist", "--replace"]);
    for (break_it, repair, why) in [
        ("chown 1234 /etc/binfmt.d", "chown 0 /etc/binfmt.d", "/etc/binfmt.d belongs to user 1234"),
        ("chmod 777 /etc/binfmt.d", "chmod 755 /etc/binfmt.d", "/etc/binfmt.d can be written by other users"),
    ] {
        world.shell(break_it).succeeds();
        persist().exits(4).reports(why);
        assert_eq!((world.entries().len(), world.shell("ls -A /etc/binfmt.d").stdout), (0, String::new()));
        world.shell(repair).succeeds();
    }
    persist().succeeds();
    let file = "/etc/binfmt.d/qemu-mipsel.conf";
    world.shell(&format!("chown 1234 {file}")).succeeds();
    persist().exits(4).reports(&format!("{file} belongs to user 1234"));
    world.shell(&format!("chown 0 {file}; rm {file}; ln -s /writable-by-nobody {file}")).succeeds();
    // A link is replaced, not followed.
    persist().succeeds();
    assert_eq!(
        world.shell(&format!("test -h {file} || echo file; ls /writable-by-nobody || true")).stdout,
        "file\n"
    );
}

#[test]
fn files_of_other_programs_are_kept_without_replace_and_never_deleted() {
    let Some(world) = persistent_world() else { return };
    world.shell("echo ':qemu-s390x:M::x::/opt/q:' > /etc/binfmt.d/mine.conf").succeeds();
    world.run(&["register", "s390x", "--persist"]).exits(8).reports("/etc/binfmt.d/mine.conf");
    assert!(world.entries().is_empty());
    world.run(&["unregister", "s390x", "--persist"]).succeeds();
    world.run(&["unregister", "all", "--persist"]).succeeds();
    assert_eq!(world.shell("cat /etc/binfmt.d/*").stdout, ":qemu-s390x:M::x::/opt/q:\n");
}

#[test]
fn a_directory_that_cannot_be_written_leaves_the_table_unchanged() {
    let Some(world) = persistent_world() else { return };
    world.shell("mount -o remount,bind,ro /etc/binfmt.d").succeeds();
    world.run(&["register", "s390x", "--persist", "--replace"]).exits(9).reports("/etc/binfmt.d");
    assert!(world.entries().is_empty());
}

#[test]
fn entries_of_update_binfmts_are_not_persisted() {
    let Some(world) = world_with(
        User::Caller,
        &format!(
            "mount -t binfmt_misc b {TABLE}; mkdir -p /etc/binfmt.d; mount -t tmpfs t /etc/binfmt.d; \
             mount -t tmpfs t /var/lib; mkdir /var/lib/binfmts; echo qemu > /var/lib/binfmts/qemu-s390x"
        ),
    ) else {
        return;
    };
    world
        .run(&["register", "s390x", "--persist", "--replace"])
        .exits(8)
        .reports("update-binfmts --disable qemu-s390x");
    assert!(world.entries().is_empty());
    world.run(&["register", "s390x"]).succeeds();
}
