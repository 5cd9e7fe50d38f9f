//! What a shell starts: the commands of a text, as far as it tells without being carried out.

/// A program and its arguments as they are written; `ALL_WORDS` stands for those of the script.
pub type Command = Vec<Vec<u8>>;

const SHELLS: [&str; 7] = ["sh", "bash", "ash", "dash", "zsh", "ksh", "busybox-sh"];
/// `"$@"`: every word that the script was given.
const ALL_WORDS: [&[u8]; 3] = [b"$@", b"${@}", b"$*"];
/// What a text has in it that starts one program or another by the machine it runs on, or under an emulator.
const CHOOSERS: [&str; 14] = [
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
    "FEX",
    "rosetta",
];
/// Programs that start what they are given. Which of their words that is, is for whoever follows them.
const HANDERS: [&str; 18] = [
    "gosu",
    "su-exec",
    "tini",
    "dumb-init",
    "catatonit",
    "env",
    "nice",
    "ionice",
    "stdbuf",
    "timeout",
    "nohup",
    "setsid",
    "setpriv",
    "chpst",
    "sudo",
    "s6-setuidgid",
    "setuidgid",
    "command",
];
/// Longest command that is kept of a script.
const COMMAND_MAX: usize = 1024;

/// Words that a shell carries out itself and that start nothing.
const BUILTINS: [&str; 27] = [
    "export", "set", "unset", "echo", "printf", "test", "[", "[[", ":", "true", "false", "ulimit", "umask",
    "wait", "shift", "exit", "return", "read", "local", "declare", "readonly", "hash", "shopt", "alias",
    "kill", "pwd", "sleep",
];
/// Words behind which it is not told what starts, or whether.
const UNCLEAR: [&str; 23] = [
    "if", "then", "else", "elif", "fi", "while", "until", "for", "do", "done", "case", "esac", "function",
    "!", "{", "}", "time", ".", "source", "eval", "trap", "cd", "pushd",
];

/// Whether a program of this name takes a script of shell commands.
pub fn is_shell(name: &[u8]) -> bool {
    let base = name.rsplit(|b| *b == b'/').next().unwrap_or(name);
    SHELLS.iter().any(|shell| shell.as_bytes() == base)
}

/// The command with what the script was given in the place of `"$@"`.
pub fn substitute_arguments(command: &[Vec<u8>], words: &[Vec<u8>]) -> Command {
    let stands_for = |word: &Vec<u8>| match ALL_WORDS.contains(&word.as_slice()) {
        true => words.to_vec(),
        false => vec![word.clone()],
    };
    command.iter().flat_map(stands_for).collect()
}

/// What a script starts at its end: its last line, if that is one plain command and nothing above may keep the script from
/// coming to it. By the grammar the last line of a text is within no `if`, no loop and no function, for these end with a
/// line of their own.
pub fn last_command(text: &[u8]) -> Option<Command> {
    let text = std::str::from_utf8(text).ok().filter(|text| !chooses(text))?;
    let text = text.replace("\\\n", " ");
    let mut above: Vec<&str> = written(&text).collect();
    let line = above.pop()?;
    let goes_on = |before: &&str| ["&&", "||", "|"].iter().any(|sign| before.ends_with(sign));
    // An odd quote is the end of something that began above.
    let is_cut = ['"', '\''].iter().any(|quote| line.matches(*quote).count() % 2 == 1);
    if is_cut || line.len() > COMMAND_MAX || above.last().is_some_and(goes_on) {
        return None;
    }
    let (lines, true) = lines(line) else { return None };
    let [line] = lines.as_slice() else { return None };
    let command = command(&line.words)?;
    let name = std::str::from_utf8(command.first()?).ok()?;
    let is_sure = match name {
        // Whatever ended the script before, it is what it was given that it is there for.
        name if ALL_WORDS.contains(&name.as_bytes()) => runs_arguments(text.as_bytes()),
        name if name.starts_with('/') => !above.iter().any(|line| may_end(line)),
        name if name.contains('/') => !above.iter().any(|line| may_end(line) || line.contains("cd ")),
        // A function or an alias may have the name of a program.
        name => !text.contains("PATH=") && !above.iter().any(|line| may_end(line) || may_define(line, name)),
    };
    is_sure.then_some(command)
}

/// Does a script start the words that it is given: `exec "$@"`, `exec gosu app "$@"`?
pub fn runs_arguments(text: &[u8]) -> bool {
    // The cheapest question first: most scripts do not name what they are given.
    let names_words = |text: &&str| ["$@", "${@}", "$*"].iter().any(|all| text.contains(all));
    let text = std::str::from_utf8(text).ok().filter(names_words).filter(|text| !chooses(text));
    let Some(text) = text else { return false };
    let text = text.replace("\\\n", " ");
    // Few lines say such things: the others are not taken apart, since a hostile script has thirty thousand of them.
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
            Some(word) => HANDERS.contains(&word) && words[at..].iter().any(|word| is_all(word)),
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

/// The words of a line, roughly: quotes stay on.
fn tokens(line: &str) -> impl Iterator<Item = &str> {
    line.split(|sign: char| sign.is_whitespace() || ";&|()".contains(sign)).filter(|word| !word.is_empty())
}

/// May the script end here, as another program or well done, or not be a script from here on?
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
        // Whatever failed is none of our business.
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

/// A word, and whether it says literally what the shell makes of it.
#[derive(Default)]
struct Word {
    text: String,
    is_plain: bool,
}

/// When a line of a text is carried out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Anything,
    /// `&&`: where what stands before it has succeeded.
    Success,
    /// `||`: where it has failed.
    Failure,
}

struct Line {
    after: After,
    words: Vec<Word>,
}

const TESTS: [&str; 3] = ["[", "[[", "test"];
const OPENERS: [&str; 7] = ["if", "while", "until", "for", "case", "function", "{"];
const CLOSERS: [&str; 4] = ["fi", "done", "esac", "}"];

/// The simple commands of a text that are surely carried out, and whether these are all that it starts.
pub fn commands(text: &str) -> (Vec<Command>, bool) {
    let (lines, mut is_clear) = lines(text);
    let mut found = Vec::new();
    // Behind another working directory or PATH, only a whole path says which file it is.
    let mut is_moved = false;
    let (mut depth, mut on_condition) = (0_usize, false);
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
        match command(&line.words) {
            Some(words) if words.is_empty() => {}
            Some(words) if is_sure && (!is_moved || words[0].starts_with(b"/")) => found.push(words),
            Some(_) | None => is_clear = false,
        }
        is_moved |= line.words.iter().any(|word| {
            word.text.starts_with("PATH=") || ["cd", "pushd", "popd"].contains(&word.text.as_str())
        });
        // What follows is not carried out, or perhaps not.
        if first == "exit" || (first == "exec" && line.words.len() > 1) {
            return (found, is_clear && is_sure);
        }
    }
    (found, is_clear)
}

/// The words of one simple command without what stands before the program. Nothing if it is not clear what it starts.
fn command(words: &[Word]) -> Option<Command> {
    let mut rest = words;
    while let Some(word) = rest.first() {
        let is_assignment = is_assignment(&word.text);
        // Behind another PATH, or behind options of exec, the program may be another file.
        if is_assignment && word.text.starts_with("PATH=") {
            return None;
        }
        if !is_assignment && word.text != "exec" && word.text != "command" {
            break;
        }
        rest = &rest[1..];
    }
    let Some(program) = rest.first() else { return Some(Vec::new()) };
    let name = program.text.as_str();
    let is_told = program.is_plain || ALL_WORDS.contains(&name.as_bytes());
    if !is_told || name.starts_with('-') || UNCLEAR.contains(&name) {
        return None;
    }
    if BUILTINS.contains(&name) {
        let sets_path = rest.iter().any(|word| word.text.starts_with("PATH="));
        return (!sets_path).then(Vec::new);
    }
    Some(rest.iter().map(|word| word.text.clone().into_bytes()).collect())
}

/// POSIX shell, "Token Recognition", as far as it needs no expansion. False: the text goes on, and is not understood.
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
                    // A condition goes on over the end of its line.
                    ('\n', _) => match lines.last() {
                        Some(line) if line.words.is_empty() => line.after,
                        _ => After::Anything,
                    },
                    _ => After::Anything,
                };
                lines.push(Line { after, words: Vec::new() });
            }
            '<' | '>' => {
                // The number before it belongs to it, as in 2>&1.
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
    fn every_program_of_a_text_is_found_or_it_is_said_that_it_is_not_clear() {
        let check = |text: &str, expected: &str| {
            let (found, is_clear) = commands(text);
            let lines: Vec<String> =
                found.iter().map(|line| String::from_utf8(line.join(&b' ')).unwrap()).collect();
            let shown = format!("{}{}", lines.join(" / "), if is_clear { "" } else { " ?" });
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
        check("PATH=/opt app", "?");
        check("export PATH=/opt; app", "?");
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
        check("exec -a x app", "?");
        check("", "");
    }

    #[test]
    fn the_last_line_of_a_script_tells_what_it_is_for() {
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
        // Nothing that stands within something else, or is not sure to be carried out.
        check("cd /srv\n./run", "");
        check("export PATH=/opt\nrun", "");
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
        // The script may have ended above, or this is no line of it.
        check("[ \"$A\" = arm ] && exec /arm\nexec /amd", "");
        check("/arm && exit 0\n/amd", "");
        check("exec /app\n/tool", "");
        check("cat <<E\n/app", "");
        check("app() { exec /arm; }\napp", "");
        check("alias app=/arm\napp", "");
        check(". /lib.sh\napp", "");
        check(". /lib.sh\n/app", "/app");
        check("shift\nexec \"$@\"", "");
        // A machine for each: the last one need not be this image's.
        check("[ $(uname -m) = aarch64 ] && exec /arm\nexec /amd", "");
        check(&format!("/app {}", "x".repeat(2000)), "");
        assert_eq!(last_command(b"#!/bin/sh\n/app \xff"), None);
    }

    #[test]
    fn what_a_script_is_given_is_what_it_starts_only_if_it_says_so() {
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
