//! What a shell starts: the commands of `sh -c TEXT`, as far as the text tells without being carried out.

use super::wrappers::Wraps;

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

/// `sh -c TEXT [NAME ARGUMENT...]`, or `sh FILE ARGUMENT...`, which runs FILE in the shell itself.
pub fn shell(arguments: &[Vec<u8>]) -> Wraps {
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
            let Some(text) = arguments.get(at) else { return Wraps::Nothing };
            let (commands, is_clear) = std::str::from_utf8(text).map_or((Vec::new(), false), commands);
            let handed = arguments.get(at + 2..).unwrap_or_default().to_vec();
            return Wraps::Shell { commands, is_clear, handed };
        }
        if !is_option && !word.starts_with(b"--") && !word.starts_with(b"+") {
            let handed = arguments[at..].to_vec();
            return Wraps::Shell { commands: Vec::new(), is_clear: false, handed };
        }
    }
    Wraps::Nothing
}

/// A word, and whether it says literally what the shell makes of it.
#[derive(Default)]
struct Word {
    text: String,
    is_plain: bool,
}

/// The simple commands of a text, and whether these are all that it starts.
fn commands(text: &str) -> (Vec<Vec<Vec<u8>>>, bool) {
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
fn command(words: &[Word]) -> Option<Vec<Vec<u8>>> {
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
    if !program.is_plain || name.starts_with('-') || UNCLEAR.contains(&name) {
        return None;
    }
    if BUILTINS.contains(&name) {
        let sets_path = rest.iter().any(|word| word.text.starts_with("PATH="));
        return (!sets_path).then(Vec::new);
    }
    Some(rest.iter().take_while(|word| word.is_plain).map(|word| word.text.clone().into_bytes()).collect())
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
        check("A=b java -jar $JAR", "java -jar");
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
        check("exec \"$@\"", "?");
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
}
