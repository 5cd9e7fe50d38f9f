//! What a shell starts: the commands of a text, as far as it tells without being carried out.

/// A program and its arguments as they are written; `ALL_WORDS` stands for those of the script.
pub type Command = Vec<Vec<u8>>;

const SHELLS: [&str; 7] = ["sh", "bash", "ash", "dash", "zsh", "ksh", "busybox-sh"];
/// `"$@"`: every word that the script was given.
const ALL_WORDS: [&[u8]; 3] = [b"$@", b"${@}", b"$*"];
/// What a text has in it that starts one program or another by the machine it runs on.
const CHOOSERS: [&str; 6] = ["uname", "print-architecture", "TARGETARCH", "HOSTTYPE", "MACHTYPE", "(arch)"];
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
pub fn with_words(command: &[Vec<u8>], words: &[Vec<u8>]) -> Command {
    let stands_for = |word: &Vec<u8>| match ALL_WORDS.contains(&word.as_slice()) {
        true => words.to_vec(),
        false => vec![word.clone()],
    };
    command.iter().flat_map(stands_for).collect()
}

/// What a script starts at its end, whatever it did before: its last line, if that is one plain command. By the grammar
/// the last line of a text is within no `if`, no loop and no function, for these end with a line of their own.
pub fn last_command(text: &[u8]) -> Option<Command> {
    let text = std::str::from_utf8(text).ok()?;
    if CHOOSERS.iter().any(|word| text.contains(word)) {
        return None;
    }
    let text = text.replace("\\\n", " ");
    let mut written = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = written.next_back()?;
    let goes_on = |before: &str| ["&&", "||", "|"].iter().any(|sign| before.ends_with(sign));
    // An odd quote is the end of something that began above.
    let is_cut = ['"', '\''].iter().any(|quote| line.matches(*quote).count() % 2 == 1);
    if is_cut || line.len() > COMMAND_MAX || written.next_back().is_some_and(goes_on) {
        return None;
    }
    let (lines, true) = lines(line) else { return None };
    let [words] = lines.as_slice() else { return None };
    let command = command(words)?;
    let name = command.first()?;
    let is_moved = match name.contains(&b'/') {
        true => !name.starts_with(b"/") && text.contains("cd "),
        false => text.contains("PATH="),
    };
    (!is_moved).then_some(command)
}

/// A word, and whether it says literally what the shell makes of it.
#[derive(Default)]
struct Word {
    text: String,
    is_plain: bool,
}

/// The simple commands of a text, and whether these are all that it starts.
pub fn commands(text: &str) -> (Vec<Command>, bool) {
    let (lines, mut is_clear) = lines(text);
    let mut found = Vec::new();
    for line in lines {
        match command(&line) {
            Some(words) if words.is_empty() => {}
            Some(words) => found.push(words),
            None => is_clear = false,
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
fn lines(text: &str) -> (Vec<Vec<Word>>, bool) {
    let mut lines = vec![Vec::new()];
    let mut word: Option<Word> = None;
    let mut signs = text.chars().peekable();
    let fresh = || Word { text: String::new(), is_plain: true };
    let end = |word: &mut Option<Word>, lines: &mut Vec<Vec<Word>>| {
        if let (Some(word), Some(line)) = (word.take(), lines.last_mut()) {
            line.push(word);
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
                lines.push(Vec::new());
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
        check("cd /x && ./app", "./app ?");
        check("$APP", "?");
        check("exec \"$@\"", "$@");
        check("exec gosu me \"$@\"", "gosu me $@");
        check("PATH=/opt app", "?");
        check("export PATH=/opt; app", "app ?");
        check("if true; then app; fi", "?");
        check("setup; (app)", "setup ?");
        check("setup; $(app)", "setup ?");
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
        check("x=$(id -u)\nexec gosu \"$x\" \\\n  server \"$@\" 2>&1", "gosu $x server $@");
        check("cd /srv\n/srv/run", "/srv/run");
        check("exec ./run", "./run");
        check("cat <<E\n/a\nE\n/app", "/app");
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
        // A machine for each: the last one need not be this image's.
        check("[ $(uname -m) = aarch64 ] && exec /arm\nexec /amd", "");
        check(&format!("/app {}", "x".repeat(2000)), "");
        assert_eq!(last_command(b"#!/bin/sh\n/app \xff"), None);
    }
}
