//! Programs that do nothing but start another one: which word of their arguments that is.

/// What a program starts, as far as its arguments tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wraps {
    /// It is no wrapper, or it has nothing to start.
    Nothing,
    Command(Vec<Vec<u8>>),
    /// Started by a program that translates it.
    Emulated(Vec<Vec<u8>>),
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

const SHELLS: [&str; 7] = ["sh", "bash", "ash", "dash", "zsh", "ksh", "busybox-sh"];

/// Words that a shell carries out itself, or that only make sense to it.
const BUILTINS: [&str; 22] = [
    "cd", "export", "set", "unset", "echo", "printf", "test", "[", ":", ".", "source", "if", "while", "for",
    "case", "until", "trap", "ulimit", "umask", "wait", "eval", "true",
];

/// What `name` with these arguments starts.
pub fn wraps(name: &[u8], arguments: &[Vec<u8>]) -> Wraps {
    let base = name.rsplit(|b| *b == b'/').next().unwrap_or(name);
    let Ok(base) = std::str::from_utf8(base) else { return Wraps::Nothing };
    if let Some(wrapper) = WRAPPERS.iter().find(|wrapper| wrapper.names.contains(&base)) {
        return command(words(arguments, wrapper.valued).get(wrapper.words..).unwrap_or_default());
    }
    if base == "env" {
        return env(arguments);
    }
    if base == "busybox" {
        return match arguments.split_first() {
            Some((applet, rest)) => wraps(applet, rest),
            None => Wraps::Nothing,
        };
    }
    if SHELLS.contains(&base) {
        return shell(arguments);
    }
    if base.starts_with("qemu-") && !base.starts_with("qemu-system") {
        let valued =
            ["-L", "-0", "-cpu", "-E", "-U", "-B", "-R", "-s", "-g", "-r", "-d", "-D", "-p", "-execve"];
        return match command(words(arguments, &valued)) {
            Wraps::Command(inner) => Wraps::Emulated(inner),
            other => other,
        };
    }
    Wraps::Nothing
}

fn command(words: &[Vec<u8>]) -> Wraps {
    if words.is_empty() { Wraps::Nothing } else { Wraps::Command(words.to_vec()) }
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
fn env(arguments: &[Vec<u8>]) -> Wraps {
    let mut arguments = arguments.to_vec();
    let split = match arguments.first().map(Vec::as_slice) {
        Some(b"-S" | b"--split-string") if arguments.len() > 1 => Some((2, arguments[1].clone())),
        Some(first) => {
            let inner = first.strip_prefix(b"-S").or_else(|| first.strip_prefix(b"--split-string="));
            inner.or_else(|| first.strip_prefix(b"-vS")).map(|inner| (1, inner.to_vec()))
        }
        None => None,
    };
    if let Some((taken, text)) = split {
        let words =
            text.split(|b| b.is_ascii_whitespace()).filter(|word| !word.is_empty()).map(<[u8]>::to_vec);
        arguments.splice(..taken, words.collect::<Vec<_>>());
    }
    let words = words(&arguments, &["-u", "--unset", "-C", "--chdir"]);
    let assignments = words.iter().take_while(|word| word.contains(&b'=')).count();
    command(&words[assignments..])
}

/// `sh -c TEXT`: the first word of a text that needs no shell to be understood. `sh FILE` runs in the shell itself.
fn shell(arguments: &[Vec<u8>]) -> Wraps {
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        if word == b"-o" || word == b"+o" {
            rest.next();
            continue;
        }
        let is_option = word.starts_with(b"-") && !word.starts_with(b"--");
        // As in -lc or -ec.
        if is_option && word.contains(&b'c') {
            return rest.next().map_or(Wraps::Nothing, |text| first_word(text));
        }
        if !is_option && !word.starts_with(b"--") {
            return Wraps::Nothing;
        }
    }
    Wraps::Nothing
}

fn first_word(text: &[u8]) -> Wraps {
    let unclear = || Wraps::Unclear("what its shell command starts is not clear without running it".into());
    let Ok(text) = std::str::from_utf8(text) else { return unclear() };
    let mut words = text.split_ascii_whitespace().peekable();
    loop {
        let Some(word) = words.next() else { return Wraps::Nothing };
        if word.contains(['$', '`', '"', '\'', '\\', '(', ')', '{', '}', '*', '?', '~', '#', '!', '<', '>']) {
            return unclear();
        }
        if word == "exec" || is_assignment(word) {
            continue;
        }
        let ends = word.ends_with([';', '&', '|']);
        let word = word.trim_end_matches([';', '&', '|']);
        if BUILTINS.contains(&word) || word.is_empty() || word.contains([';', '&', '|']) {
            return unclear();
        }
        let simple = |word: &&str| {
            !word.contains(['$', '`', '"', '\'', '\\', ';', '&', '|', '<', '>', '(', ')', '*', '?'])
        };
        let mut line = vec![word.as_bytes().to_vec()];
        if !ends {
            line.extend(words.take_while(simple).map(|word| word.as_bytes().to_vec()));
        }
        return Wraps::Command(line);
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
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
            let shown = match wraps(&words[0], &words[1..]) {
                Wraps::Nothing => String::new(),
                Wraps::Unclear(_) => "?".into(),
                Wraps::Command(inner) => String::from_utf8(inner.join(&b' ')).unwrap(),
                Wraps::Emulated(inner) => {
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
        check("/bin/sh -ec A=b~java~-jar~$JAR", "java -jar");
        check("bash -o pipefail -c app~|~tee~x", "app");
        check("/bin/sh -c $APP", "?");
        check("/bin/sh -c cd~/x~&&~./app", "?");
        check("/bin/sh -c echo~hi", "?");
        check("/bin/sh /entry.sh app", "");
        check("/bin/sh", "");
        check("busybox sh -c /app", "/app");
        check("/bin/busybox httpd -f", "");
        check("/usr/bin/qemu-arm-static -cpu x /bin/sh -c y", "emulated /bin/sh -c y");
        check("/usr/bin/qemu-arm-static -execve -0 sh /bin/sh", "emulated sh /bin/sh");
        check("/app tini x", "");
        check("/app", "");
    }
}
