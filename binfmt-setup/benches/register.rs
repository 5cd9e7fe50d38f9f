//! Measures the registration of all emulators of Debian in an empty table: binfmt-setup with and without probes, a shell
//! loop over the same lines, and update-binfmts. Each round uses a new namespace.
//!
//! `cargo bench -p binfmt-setup`; update-binfmts is taken from PATH, or from the variable UPDATE_BINFMTS.

use std::process::{Command, Stdio};
use std::time::Duration;

const ROUNDS: usize = 15;
const TABLE: &str = "/proc/sys/fs/binfmt_misc";

fn main() {
    let tool = env!("CARGO_BIN_EXE_binfmt-setup");
    let update_binfmts = std::env::var("UPDATE_BINFMTS").unwrap_or_else(|_| "update-binfmts".to_owned());
    let commands = [
        ("register all", format!("{tool} register all")),
        ("register all --no-probe", format!("{tool} register all --no-probe")),
        (
            "shell loop",
            format!("for conf in /usr/lib/binfmt.d/qemu-*.conf; do cat $conf > {TABLE}/register; done"),
        ),
        ("update-binfmts --enable", format!("{update_binfmts} --enable")),
    ];
    let mut first = None;
    for (name, command) in commands {
        let mut times: Vec<Duration> = (0..ROUNDS).filter_map(|_| round(&command, &update_binfmts)).collect();
        times.sort();
        let Some((median, entries)) = times.get(times.len() / 2).map(|median| (*median, times.len())) else {
            println!("{name:26} skipped: it cannot run on this host");
            continue;
        };
        let ratio = median.as_secs_f64() / first.get_or_insert(median).as_secs_f64();
        println!("{name:26} {:8.1} ms  {ratio:5.2} x  (median of {entries})", median.as_secs_f64() * 1000.0);
    }
}

/// Returns the time of `command` in a new namespace where Debian's formats are imported, or `None` if it registers nothing.
fn round(command: &str, update_binfmts: &str) -> Option<Duration> {
    let script = format!(
        "mount -t binfmt_misc b {TABLE}; mount -t tmpfs t /var/lib; mkdir -p /var/lib/binfmts; \
         for format in /usr/share/binfmts/qemu-*; do {update_binfmts} --import $(basename $format) --admindir /var/lib/binfmts; done; \
         for entry in {TABLE}/qemu-*; do echo -1 > $entry; done; \
         exec 3>&1; begin=$(date +%s%N); {{ {command}; }} >&2; end=$(date +%s%N); \
         ls {TABLE} | grep -c qemu- >&3; echo $((end - begin)) >&3"
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--propagation", "private", "sh", "-c", &script])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (entries, nanoseconds) = text.trim().rsplit_once('\n')?;
    let entries: u32 = entries.lines().last()?.parse().ok()?;
    (entries >= 20).then(|| nanoseconds.parse().ok().map(Duration::from_nanos))?
}
