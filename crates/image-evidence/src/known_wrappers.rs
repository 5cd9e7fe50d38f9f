//! Programs that start another one, with their options.

/// A wrapper: its names, the options that take a separate value, and the number of words before the command.
pub struct Wrapper {
    pub names: &'static [&'static str],
    pub valued: &'static [&'static str],
    pub words: usize,
}

const fn wrapper(names: &'static [&'static str], valued: &'static [&'static str], words: usize) -> Wrapper {
    Wrapper { names, valued, words }
}

/// Source: each program's own help.
pub const WRAPPERS: [Wrapper; 30] = [
    wrapper(&["tini", "tini-static", "docker-init"], &["-p", "-e"], 0),
    wrapper(&["catatonit"], &[], 0),
    wrapper(&["dumb-init"], &["-r", "--rewrite"], 0),
    wrapper(&["gosu", "su-exec", "s6-setuidgid", "setuser", "setuidgid"], &[], 1),
    wrapper(&["nice"], &["-n", "--adjustment"], 0),
    wrapper(&["ionice"], &["-c", "-n", "--class", "--classdata"], 0),
    wrapper(&["stdbuf"], &["-i", "-o", "-e", "--input", "--output", "--error"], 0),
    wrapper(&["timeout"], &["-s", "-k", "--signal", "--kill-after"], 1),
    wrapper(&["nohup", "setsid", "catchsegv", "with-contenv"], &[], 0),
    wrapper(
        &["chpst"],
        &["-u", "-U", "-b", "-e", "-/", "-n", "-l", "-L", "-m", "-d", "-o", "-p", "-f", "-c", "-r", "-t"],
        0,
    ),
    wrapper(
        &["setpriv"],
        &["--reuid", "--regid", "--groups", "--inh-caps", "--bounding-set", "--ambient-caps"],
        0,
    ),
    wrapper(&["sudo"], &["-u", "-g", "--user", "--group"], 0),
    wrapper(&["taskset"], &[], 1),
    wrapper(&["chrt"], &["-T", "-P", "-D", "--sched-runtime", "--sched-period", "--sched-deadline"], 1),
    wrapper(
        &["numactl"],
        &[
            "-i",
            "-m",
            "-N",
            "-C",
            "-p",
            "--interleave",
            "--membind",
            "--cpunodebind",
            "--physcpubind",
            "--preferred",
        ],
        0,
    ),
    wrapper(&["prlimit"], &["-o", "--output"], 0),
    wrapper(&["linux32", "linux64", "i386", "x86_64", "uname26"], &[], 0),
    wrapper(
        &["xvfb-run"],
        &[
            "-e",
            "-f",
            "-n",
            "-p",
            "-s",
            "-w",
            "--error-file",
            "--auth-file",
            "--server-num",
            "--xauth-protocol",
            "--server-args",
            "--wait",
        ],
        0,
    ),
    wrapper(&["envdir", "s6-envdir", "setlock", "s6-setlock"], &["-c", "-t"], 1),
    wrapper(&["flock"], &["-w", "-E", "--timeout", "--wait", "--conflict-exit-code"], 1),
    wrapper(
        &["softlimit", "s6-softlimit"],
        &["-m", "-d", "-s", "-l", "-a", "-o", "-p", "-f", "-c", "-r", "-t"],
        0,
    ),
    wrapper(&["s6-applyuidgid"], &["-u", "-g", "-G"], 0),
    wrapper(&["s6-setsid", "s6-fghack", "s6-background"], &[], 0),
    wrapper(
        &["dockerize"],
        &[
            "-wait",
            "-timeout",
            "-template",
            "-stdout",
            "-stderr",
            "-wait-http-header",
            "-wait-retry-interval",
            "-delims",
            "-env",
            "-env-section",
            "-poll",
        ],
        0,
    ),
    wrapper(&["ddtrace-run", "vault-env", "fixuid", "jemalloc.sh", "eatmydata", "unbuffer"], &[], 0),
    wrapper(&["newrelic-admin", "faketime"], &[], 1),
    wrapper(&["time"], &["-f", "-o", "--format", "--output"], 0),
    wrapper(
        &["pid1"],
        &["-e", "-u", "-g", "-w", "-t", "--env", "--user", "--group", "--workdir", "--timeout"],
        0,
    ),
    wrapper(&["dbus-run-session"], &["--config-file", "--dbus-daemon"], 0),
    wrapper(&["proxychains4", "proxychains", "torsocks"], &["-f"], 0),
];

/// Wrappers whose own arguments end with `--`, whatever is before it.
pub const BEFORE_DASHES: [&str; 14] = [
    "wait-for-it.sh",
    "wait-for-it",
    "wait-for",
    "wait-for.sh",
    "doppler",
    "aws-vault",
    "chamber",
    "infisical",
    "dotenvx",
    "op",
    "teller",
    "cpulimit",
    "watchexec",
    "my_init",
];

/// Returns whether a program of this name starts its arguments.
pub fn starts_arguments(name: &str) -> bool {
    matches!(name, "env" | "s6-env" | "setarch" | "runuser" | "command")
        || BEFORE_DASHES.contains(&name)
        || WRAPPERS.iter().any(|wrapper| wrapper.names.contains(&name))
}
