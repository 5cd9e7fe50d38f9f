//! Programs that do nothing but start another one: which word of their arguments that is.

use crate::shell::{self, Command};

/// What a program starts, as far as its arguments tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrapped {
    /// It is no wrapper, or it has nothing to start.
    Nothing,
    Command(Command),
    /// Started by a program that translates it.
    Emulated(Command),
    /// A shell: the commands that it starts, whether these are all, the script that it is given, and the words for
    /// that, which it may start (`exec "$@"`).
    Shell {
        commands: Vec<Command>,
        is_clear: bool,
        script: Option<Vec<u8>>,
        handed: Vec<Vec<u8>>,
        /// What is known of the text of `-c`: it starts those words.
        runs_arguments: bool,
    },
    /// It starts something that only a run would tell.
    Unclear(String),
}

/// One wrapper: options that take a value as a word of their own, and how many words stand before the command.
struct Wrapper {
    names: &'static [&'static str],
    valued: &'static [&'static str],
    words: usize,
}

const fn wrapper(names: &'static [&'static str], valued: &'static [&'static str], words: usize) -> Wrapper {
    Wrapper { names, valued, words }
}

/// Source: each program's own help.
const WRAPPERS: [Wrapper; 12] = [
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
];

/// They start something, by rules of their own: another root, another user's shell, a folder of services.
const STARTERS: [&str; 14] = [
    "chroot",
    "taskset",
    "runuser",
    "su",
    "unshare",
    "nsenter",
    "numactl",
    "capsh",
    "runsv",
    "runsvdir",
    "s6-svscan",
    "supervisord",
    "bwrap",
    "prlimit",
];

/// Several programs in one file, by the name under which it is started.
const MULTI_CALL: [&str; 3] = ["busybox", "toybox", "coreutils"];

/// What a program asked for as `name` starts, which is the file at `path`.
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

/// What `name` with these arguments starts.
fn wraps(name: &[u8], arguments: &[Vec<u8>]) -> Wrapped {
    let base = base(name);
    // tini-static-amd64 and the like are how its releases are called.
    let known = if base.starts_with("tini-") { "tini" } else { base };
    if let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.names.contains(&known)) {
        return command(words(arguments, wrapper.valued).get(wrapper.words..).unwrap_or_default());
    }
    if STARTERS.contains(&base) && !arguments.is_empty() {
        return Wrapped::Unclear(format!("what {base} starts is not clear without running it"));
    }
    // A loader that is started by its name, ld.so(8).
    if ["ld-linux", "ld-musl-", "ld.so", "ld64.so"].iter().any(|loader| base.starts_with(loader)) {
        let valued =
            ["--library-path", "--preload", "--argv0", "--inhibit-rpath", "--audit", "--glibc-hwcaps-mask"];
        return command(words(arguments, &valued));
    }
    if base == "env" {
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
    if base.starts_with("qemu-") && !base.starts_with("qemu-system") {
        let valued =
            ["-L", "-0", "-cpu", "-E", "-U", "-B", "-R", "-s", "-g", "-r", "-d", "-D", "-p", "-execve"];
        return match command(words(arguments, &valued)) {
            Wrapped::Command(inner) => Wrapped::Emulated(inner),
            other => other,
        };
    }
    Wrapped::Nothing
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
            let (written, is_clear) = std::str::from_utf8(text).map_or((Vec::new(), false), shell::commands);
            let mut commands: Vec<Command> =
                written.iter().map(|command| shell::substitute_arguments(command, &handed)).collect();
            commands.retain(|command| !command.is_empty());
            let is_clear = is_clear && commands.len() == written.len();
            let runs_arguments = shell::runs_arguments(text);
            return Wrapped::Shell { commands, is_clear, script: None, handed, runs_arguments };
        }
        if !is_option && !word.starts_with(b"--") && !word.starts_with(b"+") {
            let handed = arguments[at..].to_vec();
            return Wrapped::Shell {
                commands: Vec::new(),
                is_clear: false,
                script: Some(word.clone()),
                handed,
                runs_arguments: false,
            };
        }
    }
    Wrapped::Nothing
}

/// The words behind the options.
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

/// `env [OPTION] [NAME=VALUE]... COMMAND`; `-S` splits one word, for `#!` lines.
fn env(arguments: &[Vec<u8>]) -> Wrapped {
    let unclear = || Wrapped::Unclear("what env starts is not clear without running it".into());
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
    // Then names are looked for elsewhere.
    let moves = options.iter().any(|word| word.starts_with(b"-C") || word.starts_with(b"--chdir"));
    let is_named_whole = words.get(assignments).is_some_and(|word| word.starts_with(b"/"));
    if (moves || words[..assignments].iter().any(|word| word.starts_with(b"PATH="))) && !is_named_whole {
        return unclear();
    }
    command(&words[assignments..])
}

/// Where `-S TEXT`, `-STEXT` or `-iSTEXT` stands among the options, of how many words, and the text.
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
    fn the_word_that_is_started_is_found() {
        // `~` stands for a blank within a word.
        let check = |line: &str, found: &str| {
            let words: Vec<Vec<u8>> =
                line.split(' ').map(|word| word.replace('~', " ").into_bytes()).collect();
            let shown = match starts(&words[0], b"/bin/x", &words[1..]) {
                Wrapped::Nothing => String::new(),
                Wrapped::Unclear(_) => "?".into(),
                Wrapped::Shell { commands, is_clear, handed, .. } => {
                    let line = commands.first().map_or(Vec::new(), |line| line.join(&b' '));
                    let handed = if handed.is_empty() {
                        String::new()
                    } else {
                        format!(" handed {}", String::from_utf8(handed.join(&b' ')).unwrap())
                    };
                    format!("{}{}{handed}", String::from_utf8(line).unwrap(), if is_clear { "" } else { "?" })
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
        check("/app tini x", "");
        check("/app", "");
        let words = [b"--".to_vec(), b"/app".to_vec()];
        assert_eq!(starts(b"/init", b"/sbin/tini", &words), Wrapped::Command(vec![b"/app".to_vec()]));
        assert_eq!(starts(b"/bin/httpd", b"/bin/busybox", &words), Wrapped::Nothing);
    }
}
