//! Wrappers: programs that start another one, and the command among their arguments.

use crate::known_wrappers::{BEFORE_DASHES, WRAPPERS};
use crate::shell::{self, ShellCommand};

/// Programs that a wrapper starts, as far as its arguments show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrapped {
    /// It is not a wrapper, or has nothing to start.
    Nothing,
    /// It starts this command.
    Command(ShellCommand),
    /// It is an emulator that runs this command.
    Emulated(ShellCommand),
    /// It is a shell.
    Shell {
        /// The commands that it certainly starts.
        commands: Vec<ShellCommand>,
        /// Whether these are all.
        is_complete: bool,
        /// Whether the text of `-c` is one simple command.
        is_single: bool,
        /// The name of the script.
        script: Option<Vec<u8>>,
        /// The arguments of the script, which it may start (`exec "$@"`).
        arguments: Vec<Vec<u8>>,
        /// Whether the text of `-c` starts the arguments.
        runs_arguments: bool,
    },
    /// The started program is known only at run time. The text is the message.
    Unknown(String),
}

/// Programs that start others in ways that are not followed: in another root, by another user's shell, from a directory of
/// services.
const STARTERS: [&str; 9] =
    ["chroot", "unshare", "nsenter", "capsh", "runsv", "runsvdir", "s6-svscan", "supervisord", "bwrap"];

/// Wrappers that do nothing but execute the command in their arguments.
const ONLY_EXECUTE: [&str; 23] = [
    "tini",
    "docker-init",
    "catatonit",
    "dumb-init",
    "gosu",
    "su-exec",
    "s6-setuidgid",
    "setuidgid",
    "chpst",
    "setpriv",
    "env",
    "s6-env",
    "nice",
    "ionice",
    "nohup",
    "stdbuf",
    "taskset",
    "chrt",
    "numactl",
    "prlimit",
    "setarch",
    "linux32",
    "linux64",
];

/// Emulators beside QEMU that run their arguments. Source: the README files of box86, box64, FEX-Emu and blink, and Apple's
/// documentation of Rosetta.
const EMULATORS: [&str; 8] =
    ["box86", "box64", "box32", "FEX", "FEXInterpreter", "FEXLoader", "rosetta", "blink"];

/// Bytes of all commands of one shell, arguments included.
const COMMANDS_SIZE_MAX: usize = 4 << 20;

/// Programs that are several in one file and choose by the name.
const MULTI_CALL: [&str; 3] = ["busybox", "toybox", "coreutils"];

/// Returns the programs that `name`, the file at `path`, starts.
pub fn starts(name: &[u8], path: &[u8], arguments: &[Vec<u8>]) -> Wrapped {
    match wraps(name, arguments) {
        // As in /init -> /sbin/tini.
        Wrapped::Nothing if !MULTI_CALL.contains(&base(path)) => wraps(path, arguments),
        found => found,
    }
}

fn base(name: &[u8]) -> &str {
    std::str::from_utf8(name.rsplit(|b| *b == b'/').next().unwrap_or(name)).unwrap_or_default()
}

/// Returns whether the file at `path`, executed as `name`, does nothing but execute the command in its arguments.
pub fn only_executes(name: &[u8], path: &[u8]) -> bool {
    let is_known = |name: &[u8]| ONLY_EXECUTE.contains(&base(name)) || base(name).starts_with("tini-");
    is_known(name) || (is_known(path) && !MULTI_CALL.contains(&base(name)))
}

/// Returns whether a wrapper in this file may be a multi-call program that has the command `name` built in.
pub fn runs_applets(path: &[u8], name: &[u8]) -> bool {
    const NO_APPLETS: [&[u8]; 9] =
        [b"bash", b"python", b"node", b"perl", b"ruby", b"php", b"java", b"zsh", b"Rscript"];
    let is_applet = !name.ends_with(b"\r") && !NO_APPLETS.iter().any(|other| name.starts_with(other));
    matches!(base(path), "busybox" | "toybox") && is_applet
}

/// Returns the programs that a program with this name and these arguments starts.
fn wraps(name: &[u8], arguments: &[Vec<u8>]) -> Wrapped {
    let base = base(name);
    // Its release files are named like tini-static-amd64.
    let known = if base.starts_with("tini-") { "tini" } else { base };
    if let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.names.contains(&known)) {
        return command(words(arguments, wrapper.valued).get(wrapper.words..).unwrap_or_default());
    }
    if BEFORE_DASHES.contains(&base) {
        return command(after_dashes(arguments));
    }
    if matches!(base, "su" | "runuser") && !arguments.is_empty() {
        return user_shell(base, arguments);
    }
    if base == "setarch" {
        let named = arguments.first().is_some_and(|word| !word.starts_with(b"-"));
        return command(words(&arguments[usize::from(named)..], &[]));
    }
    if STARTERS.contains(&base) && !arguments.is_empty() {
        return Wrapped::Unknown(format!("what {base} starts is known only at run time"));
    }
    // A loader that is executed itself, ld.so(8).
    if ["ld-linux", "ld-musl-", "ld.so", "ld64.so"].iter().any(|loader| base.starts_with(loader)) {
        let valued =
            ["--library-path", "--preload", "--argv0", "--inhibit-rpath", "--audit", "--glibc-hwcaps-mask"];
        return command(words(arguments, &valued));
    }
    if matches!(base, "env" | "s6-env") {
        return env(arguments);
    }
    if base == "busybox" {
        return match arguments.split_first() {
            Some((applet, rest)) => wraps(applet, rest),
            None => Wrapped::Nothing,
        };
    }
    if shell::is_shell(name) {
        return shell(arguments);
    }
    match emulator_options(base) {
        Some(valued) => Wrapped::Emulated(words(arguments, valued).to_vec()),
        None => Wrapped::Nothing,
    }
}

/// The options with a value of an emulator that runs its arguments; `None` if it is no such emulator.
fn emulator_options(base: &str) -> Option<&'static [&'static str]> {
    let is_qemu = base.starts_with("qemu-") && !base.starts_with("qemu-system");
    match EMULATORS.contains(&base) {
        true => Some(&[]),
        false if is_qemu => {
            Some(&["-L", "-0", "-cpu", "-E", "-U", "-B", "-R", "-s", "-g", "-r", "-d", "-D", "-p", "-execve"])
        }
        false => None,
    }
}

/// The words after the first `--`; empty if there is none.
pub fn after_dashes(arguments: &[Vec<u8>]) -> &[Vec<u8>] {
    let at = arguments.iter().position(|word| word == b"--");
    at.and_then(|at| arguments.get(at + 1..)).unwrap_or_default()
}

/// `su [USER] -c TEXT`, which a shell executes, or `runuser -u USER COMMAND`.
fn user_shell(base: &str, arguments: &[Vec<u8>]) -> Wrapped {
    let text = arguments.iter().position(|word| word == b"-c" || word == b"--command");
    let names_user = arguments.iter().any(|word| word == b"-u" || word.starts_with(b"--user"));
    match text.and_then(|at| arguments.get(at + 1)) {
        _ if base == "runuser" && names_user => {
            let valued = ["-u", "-g", "-G", "-w", "--user", "--group", "--supp-group"];
            command(words(arguments, &valued))
        }
        Some(text) => shell(&[b"-c".to_vec(), text.clone()]),
        None => Wrapped::Unknown(format!("what {base} starts is known only at run time")),
    }
}

fn command(words: &[Vec<u8>]) -> Wrapped {
    if words.is_empty() { Wrapped::Nothing } else { Wrapped::Command(words.to_vec()) }
}

/// `sh -c TEXT [NAME ARGUMENT...]`, or `sh FILE ARGUMENT...`, which runs FILE in the shell itself.
fn shell(arguments: &[Vec<u8>]) -> Wrapped {
    let mut at = 0;
    while let Some(word) = arguments.get(at) {
        at += 1;
        if word == b"-o" || word == b"+o" {
            at += 1;
            continue;
        }
        let is_option = word.starts_with(b"-") && !word.starts_with(b"--") && word.len() > 1;
        // As in -lc or -ec.
        if is_option && word.contains(&b'c') {
            let Some(text) = arguments.get(at) else { return Wrapped::Nothing };
            let handed = arguments.get(at + 2..).unwrap_or_default().to_vec();
            let (written, is_complete) =
                std::str::from_utf8(text).map_or((Vec::new(), false), shell::commands);
            let mut size = 0;
            let mut commands: Vec<ShellCommand> = written
                .iter()
                .map(|command| shell::substitute_arguments(command, &handed))
                .take_while(|command| {
                    size += shell::command_size(command);
                    size <= COMMANDS_SIZE_MAX
                })
                .collect();
            commands.retain(|command| !command.is_empty());
            let is_complete = is_complete && commands.len() == written.len();
            let runs_arguments = shell::runs_arguments(text);
            let is_single = is_single(text) && commands.len() == 1;
            let script = None;
            return Wrapped::Shell {
                commands,
                is_complete,
                is_single,
                script,
                arguments: handed,
                runs_arguments,
            };
        }
        if !is_option && !word.starts_with(b"--") && !word.starts_with(b"+") {
            let handed = arguments[at..].to_vec();
            return Wrapped::Shell {
                commands: Vec::new(),
                is_complete: false,
                is_single: false,
                script: Some(word.clone()),
                arguments: handed,
                runs_arguments: false,
            };
        }
    }
    Wrapped::Nothing
}

/// Returns whether a shell executes nothing before or after the command of this text. Redirections may be in it.
fn is_single(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text).replace(">&", ">").replace("&>", ">");
    !text.contains([';', '&', '|', '(', '`', '\n'])
}

/// The words after the options.
fn words<'a>(arguments: &'a [Vec<u8>], valued: &[&str]) -> &'a [Vec<u8>] {
    let mut at = 0;
    while let Some(word) = arguments.get(at) {
        if word == b"--" {
            at += 1;
            break;
        }
        if !word.starts_with(b"-") || word == b"-" {
            break;
        }
        at += if valued.iter().any(|option| option.as_bytes() == word) { 2 } else { 1 };
    }
    arguments.get(at..).unwrap_or_default()
}

/// `env [OPTION] [NAME=VALUE]... COMMAND`. `-S` splits one word, for `#!` lines.
fn env(arguments: &[Vec<u8>]) -> Wrapped {
    let unclear = || Wrapped::Unknown("what env starts is known only at run time".into());
    let mut arguments = arguments.to_vec();
    if let Some((at, taken, text)) = split_string(&arguments) {
        if text.iter().any(|b| matches!(b, b'"' | b'\'' | b'\\' | b'$')) {
            return unclear();
        }
        let words =
            text.split(|b| b.is_ascii_whitespace()).filter(|word| !word.is_empty()).map(<[u8]>::to_vec);
        arguments.splice(at..at + taken, words.collect::<Vec<_>>());
    }
    let words = words(&arguments, &["-u", "--unset", "-C", "--chdir"]);
    let options = &arguments[..arguments.len() - words.len()];
    let assignments = words.iter().take_while(|word| word.contains(&b'=')).count();
    // Then names are searched in other directories.
    let moves = options.iter().any(|word| word.starts_with(b"-C") || word.starts_with(b"--chdir"));
    let is_named_whole = words.get(assignments).is_some_and(|word| word.starts_with(b"/"));
    if (moves || words[..assignments].iter().any(|word| word.starts_with(b"PATH="))) && !is_named_whole {
        return unclear();
    }
    command(&words[assignments..])
}

/// The position of `-S TEXT`, `-STEXT` or `-iSTEXT` among the options, its number of words, and the text.
fn split_string(arguments: &[Vec<u8>]) -> Option<(usize, usize, Vec<u8>)> {
    for (at, word) in arguments.iter().enumerate() {
        if let Some(text) = word.strip_prefix(b"--split-string=") {
            return Some((at, 1, text.to_vec()));
        }
        let is_short = word.starts_with(b"-") && !word.starts_with(b"--");
        let split = if is_short { word.iter().position(|b| *b == b'S') } else { None };
        match split {
            Some(end) if end + 1 < word.len() => return Some((at, 1, word[end + 1..].to_vec())),
            Some(_) => return Some((at, 2, arguments.get(at + 1)?.clone())),
            None if word == b"--split-string" => return Some((at, 2, arguments.get(at + 1)?.clone())),
            None if !word.starts_with(b"-") || word == b"--" => return None,
            None => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_that_a_wrapper_starts_is_found() {
        // `~` is a space within an argument.
        let check = |line: &str, found: &str| {
            let words: Vec<Vec<u8>> =
                line.split(' ').map(|word| word.replace('~', " ").into_bytes()).collect();
            let shown = match starts(&words[0], b"/bin/x", &words[1..]) {
                Wrapped::Nothing => String::new(),
                Wrapped::Unknown(_) => "?".into(),
                Wrapped::Shell { commands, is_complete, arguments: handed, .. } => {
                    let line = commands.first().map_or(Vec::new(), |line| line.join(&b' '));
                    let handed = if handed.is_empty() {
                        String::new()
                    } else {
                        format!(" handed {}", String::from_utf8(handed.join(&b' ')).unwrap())
                    };
                    format!(
                        "{}{}{handed}",
                        String::from_utf8(line).unwrap(),
                        if is_complete { "" } else { "?" }
                    )
                }
                Wrapped::Command(inner) => String::from_utf8(inner.join(&b' ')).unwrap(),
                Wrapped::Emulated(inner) => {
                    format!("emulated {}", String::from_utf8(inner.join(&b' ')).unwrap())
                }
            };
            assert_eq!(shown, found, "{line}");
        };
        check("/sbin/tini -- /app -x", "/app -x");
        check("tini -g -p SIGTERM app", "app");
        check("/usr/bin/dumb-init --rewrite 15:3 -- sh -c x", "sh -c x");
        check("gosu nobody:nogroup app -v", "app -v");
        check("su-exec 1000", "");
        check("timeout -k 5 10 app", "app");
        check("nice -n 5 app", "app");
        check("/usr/bin/env python3 /x.py", "python3 /x.py");
        check("env -u HOME A=b C=d app", "app");
        check("env -S python3~-u /x.py", "python3 -u /x.py");
        check("env -Spython3~-u /x.py", "python3 -u /x.py");
        check("/bin/sh -c /app~--flag", "/app --flag");
        check("/bin/sh -c exec~/app", "/app");
        check("/bin/sh -ec A=b~java~-jar~$JAR", "java -jar $JAR");
        check("bash -o pipefail -c app~|~tee~x", "app");
        check("/bin/sh -c $APP", "?");
        check("/bin/sh -c exec~\"$@\" x /app", "/app handed /app");
        check("/bin/sh -c exec~nice~\"$@\" x /app -v", "nice /app -v handed /app -v");
        check("/bin/sh -c exec~\"$@\"", "?");
        check("/bin/sh /entry.sh app", "? handed app");
        check("/bin/sh +e -c /app", "/app");
        check("/lib64/ld-linux-x86-64.so.2 --library-path /x /app", "/app");
        check("tini-static-amd64 -- /app", "/app");
        check("chroot /x /app", "?");
        check("env -C /opt ./app", "?");
        check("env -C /opt /app", "/app");
        check("env PATH=/opt app", "?");
        check("env -iS app~x", "app x");
        check("env -i -S app~x", "app x");
        check("env -S \"/opt/app\"~x", "?");
        check("/bin/sh", "");
        check("busybox sh -c /app", "/app");
        check("/bin/busybox httpd -f", "");
        check("/usr/bin/qemu-arm-static -cpu x /bin/sh -c y", "emulated /bin/sh -c y");
        check("/usr/bin/qemu-arm-static -execve -0 sh /bin/sh", "emulated sh /bin/sh");
        check("runuser -u app -- /app", "/app");
        check("runuser app -c /app~-x", "/app -x");
        check("su - app -s /bin/sh -c exec~/app", "/app");
        check("su - app", "?");
        check("taskset -c 0,1 /app", "/app");
        check("chrt -i 0 /app", "/app");
        check("numactl --interleave=all -m 0 /app", "/app");
        check("prlimit --nofile=1024 /app", "/app");
        check("setarch x86_64 -R /app", "/app");
        check("setarch -R /app", "/app");
        check("linux32 /app", "/app");
        check("xvfb-run -a -s -screen~0 /app", "/app");
        check("envdir /env /app", "/app");
        check("flock -n /lock /app", "/app");
        check("dockerize -wait tcp://db:1 -timeout 5s /app", "/app");
        check("wait-for-it.sh db:1 -t 3 -- /app", "/app");
        check("wait-for-it.sh db:1", "");
        check("doppler run -- /app", "/app");
        check("ddtrace-run /app", "/app");
        check("time -f %e /app", "/app");
        check("s6-env A=b /app", "/app");
        check("pid1 /app", "/app");
        check("box86 /srv/app -x", "emulated /srv/app -x");
        check("/usr/bin/FEXInterpreter /srv/app", "emulated /srv/app");
        check("/app tini x", "");
        check("/app", "");
        let words = [b"--".to_vec(), b"/app".to_vec()];
        assert_eq!(starts(b"/init", b"/sbin/tini", &words), Wrapped::Command(vec![b"/app".to_vec()]));
        assert_eq!(starts(b"/bin/httpd", b"/bin/busybox", &words), Wrapped::Nothing);
    }
}
