//! Files in /etc/binfmt.d: written, recognised, removed; and nobody else's touched.

use crate::world::{TABLE, User, World, world_with};

/// /etc/binfmt.d as a folder of this world alone.
fn persistent_world() -> Option<World> {
    let world = world_with(
        User::Caller,
        &format!("mount -t binfmt_misc b {TABLE}; mkdir -p /etc/binfmt.d; mount -t tmpfs t /etc/binfmt.d"),
    )?;
    assert_eq!(world.shell("ls -A /etc/binfmt.d").stdout, "");
    Some(world)
}

#[test]
fn what_is_persisted_registers_the_same_entry_after_a_reboot() {
    let Some(world) = persistent_world() else { return };
    let dry = world.tool(&["register", "mipsel", "--persist", "--replace", "--dry-run"]);
    assert!(dry.succeeds().stdout.contains("write    /etc/binfmt.d/qemu-mipsel.conf"), "{dry:?}");
    assert_eq!(world.shell("ls -A /etc/binfmt.d").stdout, "");

    world.tool(&["register", "mipsel", "--persist", "--replace"]).succeeds();
    let before = world.snapshot();
    assert_eq!(world.shell("ls -A /etc/binfmt.d").stdout, "qemu-mipsel.conf\n");
    // What systemd-binfmt does at boot: each line that is no comment goes to the kernel.
    world.shell(&format!("echo -1 > {TABLE}/qemu-mipsel; grep -v '^[#;]' /etc/binfmt.d/qemu-mipsel.conf | dd bs=4096 status=none of={TABLE}/register")).succeeds();
    assert_eq!(world.snapshot(), before);

    let again = world.tool(&["register", "mipsel", "--persist"]);
    assert_eq!(again.succeeds().stdout, "nothing to do\n");
    world.tool(&["unregister", "mipsel", "--persist"]).succeeds();
    assert_eq!(world.shell("ls -A /etc/binfmt.d").stdout, "");
    assert!(world.entries().is_empty());
}

#[test]
fn files_of_others_stay_without_replace_and_are_never_deleted() {
    let Some(world) = persistent_world() else { return };
    world.shell("echo ':qemu-s390x:M::x::/opt/q:' > /etc/binfmt.d/mine.conf").succeeds();
    world.tool(&["register", "s390x", "--persist"]).exits(8).says("/etc/binfmt.d/mine.conf");
    assert!(world.entries().is_empty());
    world.tool(&["unregister", "s390x", "--persist"]).succeeds();
    world.tool(&["unregister", "all", "--persist"]).succeeds();
    assert_eq!(world.shell("cat /etc/binfmt.d/*").stdout, ":qemu-s390x:M::x::/opt/q:\n");
}

#[test]
fn a_folder_that_cannot_be_written_leaves_the_table_alone() {
    let Some(world) = persistent_world() else { return };
    world.shell("mount -o remount,bind,ro /etc/binfmt.d").succeeds();
    world.tool(&["register", "s390x", "--persist", "--replace"]).exits(9).says("/etc/binfmt.d");
    assert!(world.entries().is_empty());
}

#[test]
fn what_update_binfmts_registers_is_left_to_it() {
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
        .tool(&["register", "s390x", "--persist", "--replace"])
        .exits(8)
        .says("update-binfmts --disable qemu-s390x");
    assert!(world.entries().is_empty());
    world.tool(&["register", "s390x"]).succeeds();
}
