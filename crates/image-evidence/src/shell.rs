//! A reader of shell scripts: the commands that a text starts, as far as they are known without running it.

use crate::known_wrappers::starts_arguments;

/// A program and its arguments as written. One of `ALL_WORDS` stands for the arguments of the script.
pub type ShellCommand = Vec<Vec<u8>>;

const SHELLS: [&str; 7] = ["sh", "bash", "ash", "dash", "zsh", "ksh", "busybox-sh"];
/// All arguments of the script.
const ALL_WORDS: [&[u8]; 3] = [b"$@", b"${@}", b"$*"];
/// Words in scripts that choose a program by the architecture of the host, or start an emulator.
const CHOOSERS: [&str; 15] = [
    "uname",
    "print-arch",
    "TARGETARCH",
    "TARGETPLATFORM",
    "BUILDARCH",
    "GOARCH",
    "HOSTTYPE",
    "MACHTYPE",
    "(arch)",
    "lscpu",
    "qemu",
    "box64",
    "box86",
    "FEX",
    "rosetta",
];
/// The longest command that is kept.
const COMMAND_MAX: usize = 1024;
/// The longest word of a command, as Linux has it (MAX_ARG_STRLEN).
const WORD_MAX: usize = 128 << 10;
/// Bytes of all words of a command. Linux allows 6 MiB at most.
const WORDS_MAX: usize = 1 << 20;

/// Commands that the shell executes itself and that start nothing.
const BUILTINS: [&str; 27] = [
    "export", "set", "unset", "echo", "printf", "test", "[", "[[", ":", "true", "false", "ulimit", "umask",
    "wait", "shift", "exit", "return", "read", "local", "declare", "readonly", "hash", "shopt", "alias",
    "kill", "pwd", "sleep",
];
/// Words after which it is unknown what starts, or whether it does.
const UNKNOWN: [&str; 22] = [
    "if", "then", "else", "elif", "fi", "while", "until", "for", "do", "done", "case", "esac", "function",
    "!", "{", "}", ".", "source", "eval", "trap", "cd", "pushd",
];

/// Returns whether a program of this name takes a script of shell commands.
pub fn is_shell(name: &[u8]) -> bool {
    let base = name.rsplit(|b| *b == b'/').next().unwrap_or(name);
    SHELLS.iter().any(|shell| shell.as_bytes() == base)
}

/// The command with `"$@"` replaced by the arguments of the script; empty if it would be longer than Linux accepts.
pub fn substitute_arguments(command: &[Vec<u8>], words: &[Vec<u8>]) -> ShellCommand {
    let stands_for = |word| match ALL_WORDS.iter().any(|all| word == all) {
        true => words,
        false => std::slice::from_ref(word),
    };
    let length: usize = command.iter().map(|word| command_size(stands_for(word))).sum();
    match length <= WORDS_MAX {
        true => command.iter().flat_map(stands_for).cloned().collect(),
        false => Vec::new(),
    }
}

/// Returns whether Linux accepts the words of a command.
pub fn is_short_enough(command: &[Vec<u8>]) -> bool {
    command_size(command) <= WORDS_MAX && command.iter().all(|word| word.len() < WORD_MAX)
}

/// The bytes that a process has for these words: each with its end and a pointer.
pub fn command_size(words: &[Vec<u8>]) -> usize {
    words.iter().map(|word| word.len() + 1 + size_of::<usize>()).sum()
}

/// The command that a script executes at its end: its last line, if that is one simple command and nothing before it may end
/// the script. The last line is never within `if`, a loop or a function, because these end with a line of their own.
pub fn last_command(text: &[u8]) -> Option<ShellCommand> {
    let text = std::str::from_utf8(text).ok().filter(|text| !chooses(text))?;
    let text = text.replace("\\\n", " ");
    let mut above: Vec<&str> = written(&text).collect();
    let line = above.pop()?;
    let goes_on = |before: &&str| ["&&", "||", "|"].iter().any(|sign| before.ends_with(sign));
    // With an odd number of quotes, it is the end of a text that began before.
    let is_cut = ['"', '\''].iter().any(|quote| line.matches(*quote).count() % 2 == 1);
    if is_cut || line.len() > COMMAND_MAX || above.last().is_some_and(goes_on) {
        return None;
    }
    let (lines, true) = lines(line) else { return None };
    let [line] = lines.as_slice() else { return None };
    let mut command = command(&line.words)?;
    if let Some(path) = only_path(&text, &above).filter(|_| !command.is_empty() && is_in_path(&command)) {
        command.insert(0, path);
    }
    let has_path = command.first()?.starts_with(b"PATH=");
    let is_path_known = text.matches("PATH=").count() == usize::from(has_path);
    let name = std::str::from_utf8(command.get(usize::from(has_path))?).ok()?;
    let is_sure = match name {
        // Even if something may end the script before, its purpose is to start its arguments.
        name if ALL_WORDS.contains(&name.as_bytes()) => runs_arguments(text.as_bytes()),
        name if name.starts_with('/') => !above.iter().any(|line| may_end(line)),
        name if name.contains('/') => !above.iter().any(|line| may_end(line) || line.contains("cd ")),
        // A function or an alias may have the same name as a program.
        name => is_path_known && !above.iter().any(|line| may_end(line) || may_define(line, name)),
    };
    is_sure.then_some(command)
}

/// The `PATH=...` of a script that sets it once, outside of any condition, in a line above its last one.
fn only_path(text: &str, above: &[&str]) -> Option<Vec<u8>> {
    let at = above.iter().position(|line| line.contains("PATH="))?;
    let opens = |line: &&&str| line.ends_with('{') || tokens(line).any(|word| OPENERS.contains(&word));
    let is_conditional = above[..at].iter().any(|line| opens(&line));
    let (lines, true) = lines(above[at]) else { return None };
    let [line] = lines.as_slice() else { return None };
    set_path(&line.words).filter(|_| !is_conditional && text.matches("PATH=").count() == 1)
}

/// Returns whether a script starts its arguments, as in `exec "$@"` or `exec gosu app "$@"`.
pub fn runs_arguments(text: &[u8]) -> bool {
    // Check the cheapest condition first: most scripts do not use their arguments.
    let names_words = |text: &&str| ["$@", "${@}", "$*"].iter().any(|all| text.contains(all));
    let text = std::str::from_utf8(text).ok().filter(names_words).filter(|text| !chooses(text));
    let Some(text) = text else { return false };
    let text = text.replace("\\\n", " ");
    // Only the few lines with these words are split, because a hostile script may have thirty thousand lines.
    let is_replaced = |line: &str| {
        if !line.contains("shift") && !line.contains("set") {
            return false;
        }
        let words: Vec<&str> = tokens(line).collect();
        let sets = words.windows(2).any(|pair| pair == ["set", "--"]);
        words.contains(&"shift") || (sets && !words.iter().any(|word| is_all(word)))
    };
    let starts = |line: &str| {
        if !line.contains('$') {
            return false;
        }
        let words: Vec<&str> = tokens(line).collect();
        let is_started = |at: usize| match words.get(at).map(|word| word.rsplit('/').next().unwrap_or(word)) {
            Some(word) if is_all(word) => true,
            Some(word) => starts_arguments(word) && words[at..].iter().any(|word| is_all(word)),
            None => false,
        };
        is_started(0) || words.iter().enumerate().any(|(at, word)| *word == "exec" && is_started(at + 1))
    };
    !written(&text).any(is_replaced) && written(&text).any(starts)
}

fn is_all(word: &str) -> bool {
    ALL_WORDS.contains(&word.trim_matches('"').as_bytes())
}

fn chooses(text: &str) -> bool {
    CHOOSERS.iter().any(|word| text.contains(word))
}

fn written(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The words of a line, roughly: with their quotes.
fn tokens(line: &str) -> impl Iterator<Item = &str> {
    line.split(|sign: char| sign.is_whitespace() || ";&|()".contains(sign)).filter(|word| !word.is_empty())
}

/// Returns whether the script may end at this line, successfully or by `exec`, or whether a here-document begins.
fn may_end(line: &str) -> bool {
    if line.contains("<<") {
        return true;
    }
    if !line.contains("exec") && !line.contains("exit") {
        return false;
    }
    let words: Vec<&str> = tokens(line).collect();
    let ends = |at: usize, word: &str| match (word, words.get(at + 1)) {
        // exec >/log 2>&1
        ("exec", next) => {
            next.is_some_and(|next| !next.trim_start_matches(char::is_numeric).starts_with(['<', '>']))
        }
        // An exit after an error does not matter.
        ("exit", next) => !next.is_some_and(|next| next.parse().is_ok_and(|code: u8| code != 0)),
        _ => false,
    };
    words.iter().enumerate().any(|(at, word)| ends(at, word))
}

fn may_define(line: &str, name: &str) -> bool {
    let first = tokens(line).next();
    matches!(first, Some("." | "source" | "eval" | "alias" | "function"))
        || line.split_once(['(', ' ']).is_some_and(|(before, _)| before == name) && line.contains("()")
}

/// A word, and whether the shell takes it literally.
#[derive(Default)]
struct Word {
    text: String,
    is_plain: bool,
}

/// When a line is executed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Anything,
    /// `&&`: if the command before it succeeded.
    Success,
    /// `||`: if the command before it failed.
    Failure,
}

struct Line {
    after: After,
    words: Vec<Word>,
}

const TESTS: [&str; 3] = ["[", "[[", "test"];
const OPENERS: [&str; 7] = ["if", "while", "until", "for", "case", "function", "{"];
const CLOSERS: [&str; 4] = ["fi", "done", "esac", "}"];

/// The simple commands that a text certainly executes, and whether these are all that it starts.
pub fn commands(text: &str) -> (Vec<ShellCommand>, bool) {
    let (lines, mut is_complete) = lines(text);
    let mut found = Vec::new();
    // After a change of the working directory or PATH, only an absolute path identifies a file.
    let mut is_moved = false;
    let (mut depth, mut on_condition, mut path) = (0_usize, false, None);
    for line in lines.iter().filter(|line| !line.words.is_empty()) {
        let first = line.words[0].text.as_str();
        depth += usize::from(OPENERS.contains(&first));
        let is_sure = depth == 0
            && match line.after {
                After::Anything => true,
                After::Success => !on_condition,
                After::Failure => false,
            };
        on_condition = !is_sure || TESTS.contains(&first);
        depth = depth.saturating_sub(usize::from(CLOSERS.contains(&first)));
        // A second PATH may contain the first one.
        if let Some(set) = set_path(&line.words).filter(|_| is_sure && path.is_none()) {
            path = Some(set);
            continue;
        }
        match command(&line.words) {
            Some(words) if words.is_empty() => {}
            Some(words) if is_sure && !is_moved && is_in_path(&words) => {
                found.push(path.iter().cloned().chain(words).collect());
            }
            Some(words) if is_sure && (!is_moved || words[0].starts_with(b"/")) => found.push(words),
            Some(_) | None => is_complete = false,
        }
        is_moved |= line.words.iter().any(|word| {
            word.text.starts_with("PATH=") || ["cd", "pushd", "popd"].contains(&word.text.as_str())
        });
        // What follows is not executed, or perhaps not.
        if first == "exit" || (first == "exec" && line.words.len() > 1) {
            return (found, is_complete && is_sure);
        }
    }
    (found, is_complete)
}

/// Returns whether a command is found in the PATH of the script.
fn is_in_path(words: &[Vec<u8>]) -> bool {
    !words[0].contains(&b'/') && !words[0].starts_with(b"PATH=")
}

/// The program of one simple command with its arguments; empty if it starts nothing. `None`: it is unknown what it starts.
/// A first word `PATH=...` is the PATH in which the program is found.
fn command(words: &[Word]) -> Option<ShellCommand> {
    let (mut rest, mut path) = (words, None);
    while let Some(word) = rest.first() {
        let is_assignment = is_assignment(&word.text);
        if word.text.starts_with("PATH=") {
            path = Some(word.text.clone().into_bytes());
        }
        rest = match word.text.as_str() {
            _ if is_assignment => &rest[1..],
            "exec" => without_exec_options(&rest[1..])?,
            "command" | "time" => match &rest[1..] {
                [option, rest @ ..] if option.text == "-p" => rest,
                [option, ..] if option.text.starts_with('-') => return None,
                rest => rest,
            },
            _ => break,
        };
    }
    let Some(program) = rest.first() else { return path.is_none().then(Vec::new) };
    let name = program.text.as_str();
    let is_known = program.is_plain || ALL_WORDS.contains(&name.as_bytes());
    if !is_known || name.starts_with('-') || UNKNOWN.contains(&name) {
        return None;
    }
    if BUILTINS.contains(&name) {
        let sets_path = rest.iter().any(|word| word.text.starts_with("PATH="));
        return (!sets_path).then(Vec::new);
    }
    let path = path.filter(|_| !name.contains('/'));
    Some(path.into_iter().chain(rest.iter().map(|word| word.text.clone().into_bytes())).collect())
}

/// The `PATH=...` of a line that only sets or exports it.
fn set_path(words: &[Word]) -> Option<Vec<u8>> {
    match words {
        [export, word] if export.text == "export" && word.text.starts_with("PATH=") => Some(word),
        [word] if word.text.starts_with("PATH=") => Some(word),
        _ => None,
    }
    .map(|word| word.text.clone().into_bytes())
}

/// The words after `exec` and its options `-a NAME`, `-c` and `-l`. `None`: it has other options.
fn without_exec_options(mut words: &[Word]) -> Option<&[Word]> {
    while let [first, rest @ ..] = words {
        let Some(letters) = first.text.strip_prefix('-') else { break };
        if letters == "-" {
            return Some(rest);
        }
        let flags = letters.trim_start_matches(['c', 'l']);
        words = match flags.strip_prefix('a') {
            Some("") => rest.get(1..)?,
            Some(_) => rest,
            None if flags.is_empty() && !letters.is_empty() => rest,
            None => return None,
        };
    }
    Some(words)
}

/// The words that a script puts before its arguments if the first of them is an option, as official images do:
/// `if [ "${1#-}" != "$1" ]; then set -- redis-server "$@"; fi`.
pub fn option_arguments(text: &[u8]) -> Option<ShellCommand> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.contains("set --") && !chooses(text))?;
    let text = text.replace("\\\n", " ");
    let all: Vec<&str> = written(&text).collect();
    let tests_option = |line: &str| ["#-}", ":0:1}", "-*"].iter().any(|test| line.contains(test));
    all.iter().enumerate().find_map(|(at, line)| {
        let start = line.find("set -- ")?;
        if !all[at.saturating_sub(2)..=at].iter().any(|before| tests_option(before)) {
            return None;
        }
        let (lines, true) = lines(&line[start..]) else { return None };
        let [_, _, before @ .., last] = lines.first()?.words.as_slice() else { return None };
        let is_literal = !before.is_empty() && before.iter().all(|word| word.is_plain);
        let is_kept = is_literal && ALL_WORDS.contains(&last.text.as_bytes());
        is_kept.then(|| before.iter().map(|word| word.text.clone().into_bytes()).collect())
    })
}

/// The arguments of a script after it has put `before` in front of an option.
pub fn set_arguments(before: Option<&[Vec<u8>]>, arguments: &[Vec<u8>]) -> Vec<Vec<u8>> {
    match before {
        Some(before) if arguments.first().is_some_and(|word| word.starts_with(b"-")) => {
            [before, arguments].concat()
        }
        _ => arguments.to_vec(),
    }
}

/// The lines of a text by POSIX shell, "Token Recognition", without expansions. `false`: the rest of the text was not
/// understood.
fn lines(text: &str) -> (Vec<Line>, bool) {
    let mut lines = vec![Line { after: After::Anything, words: Vec::new() }];
    let mut word: Option<Word> = None;
    let mut signs = text.chars().peekable();
    let fresh = || Word { text: String::new(), is_plain: true };
    let end = |word: &mut Option<Word>, lines: &mut Vec<Line>| {
        if let (Some(word), Some(line)) = (word.take(), lines.last_mut()) {
            line.words.push(word);
        }
    };
    while let Some(sign) = signs.next() {
        match sign {
            '\'' => {
                let word = word.get_or_insert_with(fresh);
                word.text.extend(signs.by_ref().take_while(|inner| *inner != '\''));
            }
            '"' => {
                let word = word.get_or_insert_with(fresh);
                while let Some(inner) = signs.next().filter(|inner| *inner != '"') {
                    word.is_plain &= inner != '$' && inner != '`';
                    let literal = if inner == '\\' { signs.next().unwrap_or(inner) } else { inner };
                    word.text.push(literal);
                }
            }
            '\\' => match signs.next() {
                Some('\n') | None => {}
                Some(literal) => word.get_or_insert_with(fresh).text.push(literal),
            },
            '(' | ')' | '`' => return (lines, false),
            '$' if signs.peek() == Some(&'(') => return (lines, false),
            '#' if word.is_none() => {
                while signs.peek().is_some_and(|inner| *inner != '\n') {
                    signs.next();
                }
            }
            '\n' | ';' | '&' | '|' => {
                end(&mut word, &mut lines);
                let is_doubled = matches!(sign, '&' | '|') && signs.next_if_eq(&sign).is_some();
                let after = match (sign, is_doubled) {
                    ('&', true) => After::Success,
                    ('|', true) => After::Failure,
                    // A condition continues in the next line.
                    ('\n', _) => match lines.last() {
                        Some(line) if line.words.is_empty() => line.after,
                        _ => After::Anything,
                    },
                    _ => After::Anything,
                };
                lines.push(Line { after, words: Vec::new() });
            }
            '<' | '>' => {
                // A number before it is part of it, as in 2>&1.
                word = word.filter(|word| !word.text.chars().all(|digit| digit.is_ascii_digit()));
                end(&mut word, &mut lines);
                if (sign == '<' && signs.peek() == Some(&'<')) || signs.peek() == Some(&'(') {
                    return (lines, false);
                }
                while signs.peek().is_some_and(|inner| matches!(inner, '>' | '&' | '|' | ' ')) {
                    signs.next();
                }
                while signs.peek().is_some_and(|inner| !inner.is_whitespace() && !";&|".contains(*inner)) {
                    signs.next();
                }
            }
            blank if blank.is_whitespace() => end(&mut word, &mut lines),
            other => {
                let word = word.get_or_insert_with(fresh);
                let is_pattern =
                    matches!(other, '$' | '*' | '?' | '~') || (other == '[' && !word.text.is_empty());
                word.is_plain &= !is_pattern;
                word.text.push(other);
            }
        }
    }
    end(&mut word, &mut lines);
    (lines, true)
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
    fn every_program_of_a_text_is_found_or_the_text_is_unclear() {
        let check = |text: &str, expected: &str| {
            let (found, is_complete) = commands(text);
            let lines: Vec<String> =
                found.iter().map(|line| String::from_utf8(line.join(&b' ')).unwrap()).collect();
            let shown = format!("{}{}", lines.join(" / "), if is_complete { "" } else { " ?" });
            assert_eq!(shown.trim(), expected, "{text}");
        };
        check("/app --flag", "/app --flag");
        check("exec /app", "/app");
        check("A=b java -jar $JAR", "java -jar $JAR");
        check("A=1;/opt/app", "/opt/app");
        check("/bin/setup && exec /opt/app", "/bin/setup / /opt/app");
        check("/bin/setup\n/opt/app", "/bin/setup / /opt/app");
        check("app | tee x", "app / tee x");
        check("app >/dev/null 2>&1 & other", "app / other");
        check("set -e; \"/opt/app\" 'a b'", "/opt/app a b");
        check("echo hi # app", "");
        check("echo hi", "");
        check("cd /x && ./app", "?");
        check("$APP", "?");
        check("exec \"$@\"", "$@");
        check("exec gosu me \"$@\"", "gosu me $@");
        check("PATH=/opt app", "PATH=/opt app");
        check("PATH=/opt /bin/app", "/bin/app");
        check("export PATH=/opt; app", "PATH=/opt app");
        check("[ x ] && PATH=/opt; app", "?");
        check("cd /opt && ./app && /bin/x", "/bin/x ?");
        check("if true; then app; fi", "?");
        check("setup; (app)", "setup ?");
        check("setup; $(app)", "setup ?");
        check("if [ x ]; then\n /a\nelse\n /b\nfi; /c", "/c ?");
        check("[ x ] && exec /a; exec /b", "?");
        check("[ x ] && [ y ] && /a; /b", "/b ?");
        check("/a || /b", "/a ?");
        check("/a &&\n/b", "/a / /b");
        check("/a ||\n/b", "/a ?");
        check("exec /a; /b", "/a");
        check("/a; exit 0; /b", "/a");
        check("exec 2>&1; /a", "/a");
        check("/opt/*/app", "?");
        check("cat <<x\napp\nx", "cat ?");
        check("exec -a x app", "app");
        check("exec -a \"$0\" /app \"$@\"", "/app $@");
        check("exec -cl -- /app", "/app");
        check("exec -aname /app", "/app");
        check("exec -x /app", "?");
        check("time -p /app", "/app");
        check("command -v app", "?");
        check("", "");
    }

    #[test]
    fn the_command_of_the_last_line_is_found() {
        let check = |text: &str, expected: &str| {
            let found = last_command(format!("#!/bin/sh\n{text}").as_bytes());
            let shown = found.map_or(String::new(), |words| String::from_utf8(words.join(&b' ')).unwrap());
            assert_eq!(shown, expected, "{text}");
        };
        check("set -e\nexec /app/server --port $PORT\n", "/app/server --port $PORT");
        check("if [ x ]; then\n  exec /a\nfi\nexec \"$@\"\n\n# the end\n", "$@");
        check("if [ x ]; then\n  exit 1\nfi\nexec >/log 2>&1\n/app", "/app");
        check("x=$(id -u)\nexec gosu \"$x\" \\\n  server \"$@\" 2>&1", "gosu $x server $@");
        check("cd /srv\n/srv/run", "/srv/run");
        check("exec ./run", "./run");
        // Not a line within another command, or one that is not certain to run.
        check("cd /srv\n./run", "");
        check("export PATH=/opt\nrun", "PATH=/opt run");
        check("PATH=/opt:$PATH exec run", "PATH=/opt:$PATH run");
        check("if x; then\nexport PATH=/opt\nfi\nrun", "");
        check("PATH=/a\nPATH=/b\nrun", "");
        check("if true; then\n  /app\nfi", "");
        check("main() {\n  /app\n}", "");
        check("while :; do\n /app\ndone", "");
        check("true &&\n/app", "");
        check("true && /app", "");
        check("/a || /b", "");
        check("/a; /b", "");
        check("/app & wait", "");
        check("echo \"\n/app\"", "");
        check("$APP", "");
        check("exit 0", "");
        check("", "");
        // The script may have exited before, or the line is not part of it.
        check("[ \"$A\" = arm ] && exec /arm\nexec /amd", "");
        check("/arm && exit 0\n/amd", "");
        check("exec /app\n/tool", "");
        check("cat <<E\n/app", "");
        check("app() { exec /arm; }\napp", "");
        check("alias app=/arm\napp", "");
        check(". /lib.sh\napp", "");
        check(". /lib.sh\n/app", "/app");
        check("shift\nexec \"$@\"", "");
        // Programs for several machines: the last one need not be that of this image.
        check("[ $(uname -m) = aarch64 ] && exec /arm\nexec /amd", "");
        check(&format!("/app {}", "x".repeat(2000)), "");
        assert_eq!(last_command(b"#!/bin/sh\n/app \xff"), None);
    }

    #[test]
    fn the_words_before_an_option_are_found() {
        let check = |text: &str, expected: Option<&str>| {
            let found = option_arguments(text.as_bytes());
            let shown = found.map(|words| String::from_utf8(words.join(&b' ')).unwrap());
            assert_eq!(shown.as_deref(), expected, "{text}");
        };
        check("if [ \"${1#-}\" != \"$1\" ]; then\n\tset -- redis-server \"$@\"\nfi", Some("redis-server"));
        check("if [ \"${1:0:1}\" = '-' ]; then set -- postgres -x \"$@\"; fi", Some("postgres -x"));
        check("case \"$1\" in\n-*) set -- app \"$@\" ;;\nesac", Some("app"));
        check("if [ -z \"$1\" ]; then\n set -- app \"$@\"\nfi", None);
        check("[ \"${1#-}\" ] && set -- $APP \"$@\"", None);
        check("[ \"${1#-}\" ] && set -- app", None);
        let words = |text: &str| text.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!(set_arguments(Some(&words("app")), &words("-v x")), words("app -v x"));
        assert_eq!(set_arguments(Some(&words("app")), &words("x")), words("x"));
    }

    #[test]
    fn a_script_runs_its_arguments_only_with_exec_or_a_wrapper() {
        let check =
            |text: &str, expected: bool| assert_eq!(runs_arguments(text.as_bytes()), expected, "{text}");
        check("set -e\nif x; then\n set -- redis \"$@\"\nfi\nexec \"$@\"", true);
        check("if x; then exec gosu redis \"$0\" \"$@\"; fi\nexec \"$@\"", true);
        check("exec /usr/bin/tini -- \"$@\"", true);
        check("\"$@\"", true);
        check("exec \\\n  su-exec app \"${@}\"", true);
        check("cp -r \"$@\" /srv\nexec httpd", false);
        check("exec httpd \"$@\"", false);
        check("shift\nexec \"$@\"", false);
        check("set -- /other\nexec \"$@\"", false);
        check("[ $(uname -m) = aarch64 ] && set -- box64 \"$@\"\nexec \"$@\"", false);
        check("exec /app", false);
        assert!(!runs_arguments(b"exec \"$@\" \xff"));
    }
}
