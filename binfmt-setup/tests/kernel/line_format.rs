//! Comparison of the line format with the kernel: it accepts and prints every line of this program, and refuses what this
//! program refuses.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use binfmt_setup::rule::{Entry, Flags, Kind, LINE_MAX, Pattern, Rule};

use crate::world::{TABLE, User, World, world};

/// A pseudorandom generator (xorshift64) with a fixed seed, so that a failure can be reproduced.
struct Generator(u64);

impl Generator {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }

    fn text(&mut self, length: usize) -> Vec<u8> {
        // Characters of names and paths, with all candidates for separators.
        const LETTERS: &[u8] = b"abcXYZ0189-_. :|;,!@#%^~=+?&*$\\\xc3\xbc";
        (0..length).map(|_| LETTERS[self.below(LETTERS.len())]).collect()
    }

    fn rule(&mut self) -> Rule {
        let length = 1 + self.below(64);
        let name = 1 + self.below(12);
        let path = self.below(25);
        let mut mask = self.bytes(length);
        mask[0] |= 1;
        Rule {
            name: OsString::from_vec(self.text(name)),
            kind: Kind::Magic(Pattern { offset: self.below(180), magic: self.bytes(length), mask }),
            interpreter: OsString::from_vec([b"/".to_vec(), self.text(path)].concat()).into(),
            // Without F: the file need not exist.
            flags: Flags {
                preserve_argv0: self.below(2) == 0,
                open_binary: self.below(2) == 0,
                ..Flags::default()
            },
        }
    }
}

/// Writes the lines one by one, and returns which of them were accepted.
fn accepted(world: &World, lines: &[Vec<u8>]) -> Vec<bool> {
    world.assert_private_table();
    let directory = world.writable_dir().join("lines");
    std::fs::create_dir_all(&directory).unwrap();
    for (i, line) in lines.iter().enumerate() {
        std::fs::write(directory.join(i.to_string()), line).unwrap();
    }
    let script = format!(
        "i=0; while [ $i -lt {} ]; do \
         if dd bs=4096 status=none if={}/$i of={TABLE}/register 2>/dev/null; then echo yes; else echo no; fi; \
         i=$((i+1)); done",
        lines.len(),
        directory.display()
    );
    world.shell(&script).succeeds().stdout.lines().map(|line| line == "yes").collect()
}

#[test]
fn every_line_is_accepted_and_read_back_equal() {
    let Some(world) = world(User::Caller) else { return };
    let mut generator = Generator(0x5eed);
    let mut rules: Vec<Rule> = (0..150).map(|_| generator.rule()).collect();
    rules.iter_mut().enumerate().for_each(|(i, rule)| rule.name.push(i.to_string()));
    let lines: Vec<(Rule, Vec<u8>)> =
        rules.into_iter().filter_map(|rule| rule.line().ok().map(|line| (rule, line))).collect();
    assert!(lines.len() > 80, "{}", lines.len());
    let is_accepted = accepted(&world, &lines.iter().map(|(_, line)| line.clone()).collect::<Vec<_>>());
    for ((rule, line), is_accepted) in lines.iter().zip(is_accepted) {
        assert!(is_accepted, "{}", String::from_utf8_lossy(line));
        let text = std::fs::read(world.table().join(&rule.name)).unwrap();
        let entry = Entry::parse(&rule.name, &text).unwrap();
        assert_eq!(&entry.rule, rule, "{}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn the_limits_are_those_of_the_kernel() {
    let Some(world) = world(User::Caller) else { return };
    let pattern = |offset, length| Pattern { offset, magic: vec![7; length], mask: vec![0xff; length] };
    let rule = |name: &str, kind, path: &str| Rule {
        name: name.into(),
        kind,
        interpreter: path.into(),
        flags: Flags::default(),
    };
    let base = rule("l", Kind::Magic(pattern(0, 4)), "/").line().unwrap().len();
    let path = |length: usize| format!("/{}", "p".repeat(length - base));
    // Each is accepted by `line()` and by the kernel, or by none of them; the kernel gets the same fields in any case.
    for (rule, other_line, fits) in [
        (rule("l", Kind::Magic(pattern(0, 4)), &path(LINE_MAX)), None, true),
        (rule("m", Kind::Magic(pattern(0, 4)), &path(LINE_MAX + 1)), Some((":m:M:0:", 4)), false),
        (rule("a", Kind::Magic(pattern(0, 256)), "/q"), None, true),
        (rule("b", Kind::Magic(pattern(0, 257)), "/q"), Some((":b:M:0:", 257)), false),
        (rule("c", Kind::Magic(pattern(252, 4)), "/q"), None, true),
        (rule("d", Kind::Magic(pattern(253, 4)), "/q"), Some((":d:M:253:", 4)), false),
        (rule(&"n".repeat(255), Kind::Magic(pattern(0, 4)), "/q"), None, true),
        (rule(&"n".repeat(256), Kind::Magic(pattern(0, 4)), "/q"), Some(("", 4)), false),
        (rule("..", Kind::Magic(pattern(0, 4)), "/q"), Some((":..:M:0:", 4)), false),
        (rule("status", Kind::Magic(pattern(0, 4)), "/q"), Some((":status:M:0:", 4)), false),
        (rule("e", Kind::Extension("jar".into()), "/q"), None, true),
        (rule("f", Kind::Extension("a/b".into()), "/q"), None, false),
    ] {
        assert_eq!(rule.line().is_ok(), fits, "{rule:?}");
        let line = match (rule.line(), other_line) {
            (Ok(line), _) => line,
            (Err(_), Some((head, length))) => {
                let head =
                    if head.is_empty() { format!(":{}:M:0:", "n".repeat(256)) } else { head.to_owned() };
                format!("{head}{}::{}:", "\\x07".repeat(length), rule.interpreter.display()).into_bytes()
            }
            (Err(_), None) => format!(":{}:E::a/b::/q:", rule.name.display()).into_bytes(),
        };
        assert_eq!(accepted(&world, &[line]), [fits], "{rule:?}");
    }
}
