//! The executed chain of Windows images: `C:\` paths, `cmd /c`, PowerShell, PATH and PATHEXT.
//!
//! Layers of Windows images have the files of drive C: below `Files/`, and the registry in `Hives/`. Names are compared without
//! regard to case; [`crate::layer::NameHasher`] does that. The lowest layers are often stored outside the registry, so that
//! cmd.exe is missing: what it starts is followed nevertheless.

use super::{ChainLink, ChainRole, ExecutedChain, display_path};
use crate::file::FileFacts;
use crate::overlay::{OverlayTree, Resolved, ResolvedFile};
use crate::start::{FailureCause, StartFailure};
use image_model::manifest::Config;
use image_model::platform::Platform;

/// The number of shells that start each other.
const STEPS_MAX: usize = 8;
/// The number of commands of one image.
const COMMANDS_MAX: usize = 100;
/// The longest command line of CreateProcess, in characters.
const LINE_MAX: usize = 32_767;
/// Directories that are searched before those of PATH. Source: CreateProcessW, lpApplicationName.
const SYSTEM_PATH: [&str; 2] = [r"C:\Windows\System32", r"C:\Windows"];
/// PATHEXT of Windows, as far as programs and scripts of cmd are concerned.
const EXTENSIONS: [&str; 4] = [".com", ".exe", ".bat", ".cmd"];
/// Commands that cmd executes itself, and that start no program.
const BUILT_IN: [&str; 20] = [
    "cd", "chdir", "cls", "copy", "date", "del", "dir", "echo", "erase", "exit", "md", "mkdir", "move",
    "path", "rem", "ren", "set", "time", "type", "ver",
];

/// Returns whether these are the layers of a Windows image, of one that declares another operating system as well.
pub fn has_windows_layers(tree: &OverlayTree<'_>, declared: &Platform) -> bool {
    let is_directory = |path: &[u8]| tree.resolve(path) == Resolved::Directory;
    match declared.os.eq_ignore_ascii_case("windows") {
        // A layer that was not read may have it.
        true => tree.resolve(b"/Files") != Resolved::Missing,
        false => is_directory(b"/Files") && is_directory(b"/Hives"),
    }
}

/// Follows the executed chain of a Windows image. Libraries are not followed.
pub fn follow<'a>(tree: &OverlayTree<'a>, config: &Config) -> ExecutedChain<'a> {
    let mut walk = Walk { tree, config, chain: ExecutedChain::default(), commands: 0 };
    let mut words: Vec<String> = config.entrypoint.iter().chain(&config.cmd).cloned().collect();
    let Some(first) = words.first() else {
        walk.chain.gaps.push("the image has neither entrypoint nor command".into());
        return walk.chain;
    };
    // The shell form of a Dockerfile is one word, a whole command line.
    if first.contains([' ', '\t']) && walk.find(first).is_none() && walk.chain.unread.is_none() {
        let rest = words.split_off(1);
        words = [split(&words[0]), rest].concat();
    }
    let role = if config.entrypoint.is_empty() { ChainRole::Command } else { ChainRole::Entrypoint };
    walk.chain.is_reached = walk.program(&words, role, STEPS_MAX);
    walk.chain.failure = failure(&walk.chain);
    walk.chain
}

/// The program at the end of the chain, if it is for an operating system other than Windows.
fn failure(chain: &ExecutedChain<'_>) -> Option<StartFailure> {
    let link = chain.links.last()?;
    let Some(FileFacts::Elf(elf)) = link.file.facts else { return None };
    Some(StartFailure {
        file: display_path(&link.file.path),
        role: link.role.text(),
        layer: Some(link.file.layer),
        needed_by: None,
        cause: FailureCause::OtherSystem {
            platform: Platform::new("linux", &elf.platform.architecture, None),
        },
    })
}

struct Walk<'t, 'a> {
    tree: &'t OverlayTree<'a>,
    config: &'t Config,
    chain: ExecutedChain<'a>,
    commands: usize,
}

impl<'a> Walk<'_, 'a> {
    /// Follows one command. Returns whether everything that it starts is known.
    fn program(&mut self, words: &[String], role: ChainRole, steps: usize) -> bool {
        let Some(name) = words.first() else { return false };
        self.commands += 1;
        if steps == 0
            || self.commands > COMMANDS_MAX
            || words.iter().map(String::len).sum::<usize>() > LINE_MAX
        {
            return self.gap("too many shells and commands start each other");
        }
        if name.contains(['%', '$']) {
            return self.gap(format!("what {name} stands for is known only at run time"));
        }
        let file = self.find(name);
        if self.chain.unread.is_some() {
            return false;
        }
        let base = base_name(name);
        let is_shell = matches!(base.as_str(), "cmd" | "powershell" | "pwsh");
        let Some(file) = file else {
            self.gap(format!("{name} is not in the layers that were read"));
            return is_shell && self.shell(&base, &words[1..], steps, false);
        };
        let (facts, path, layer) = (file.facts, file.path.clone(), file.layer);
        if facts == Some(&FileFacts::Unread) {
            self.chain.unread_files.push((layer, path[1..].to_vec()));
            return false;
        }
        self.chain.links.push(ChainLink {
            role,
            name: name.clone().into_bytes(),
            file,
            emulated: false,
            is_certain: false,
        });
        let lower = path.to_ascii_lowercase();
        match facts {
            Some(FileFacts::Foreign(_)) if is_shell => self.shell(&base, &words[1..], steps, true),
            Some(FileFacts::Foreign(_) | FileFacts::Elf(_)) => true,
            _ if lower.ends_with(b".cmd") || lower.ends_with(b".bat") => {
                self.gap(format!("what {} starts is known only at run time", display_path(&path)))
            }
            _ => self.gap(format!("{} is neither a program nor a script", display_path(&path))),
        }
    }

    /// Follows what a shell starts. `is_there`: the shell itself was found.
    fn shell(&mut self, base: &str, words: &[String], steps: usize, is_there: bool) -> bool {
        let is_cmd = base == "cmd";
        let starts = |word: &String| {
            let word = word.to_ascii_lowercase();
            if is_cmd {
                matches!(word.as_str(), "/c" | "/k")
            } else {
                matches!(word.as_str(), "-command" | "-c" | "/c")
            }
        };
        let Some(at) = words.iter().position(starts) else {
            // A shell for a user, or one with a script, which it interprets.
            return is_there;
        };
        let text = words[at + 1..].join(" ");
        // `cmd /S /C "TEXT"` removes the first and the last quotation mark.
        let quoted = text.trim().strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        let text = quoted.filter(|text| is_cmd || !text.contains('"')).unwrap_or(text.trim());
        let text = if is_cmd { text } else { text.strip_prefix("& ").unwrap_or(text) };
        let (separator, unknown): (&[char], &[char]) = if is_cmd {
            (&['&'], &['%', '|', '<', '>', '(', ')', '^', '!'])
        } else {
            (&[';'], &['|', '$', '(', '{', '&', '<', '>'])
        };
        if text.contains(unknown) {
            return self.gap(format!("what {base} starts is known only at run time"));
        }
        let commands: Vec<Vec<String>> =
            text.split(separator).map(split).filter(|command| !command.is_empty()).collect();
        let mut is_known = !commands.is_empty();
        for command in commands {
            let first = command[0].to_ascii_lowercase();
            if is_cmd && BUILT_IN.contains(&first.as_str()) {
                is_known &= is_there;
            } else if !is_cmd && first.contains('-') && self.find(&command[0]).is_none() {
                is_known =
                    self.gap(format!("what the cmdlet {} starts is known only at run time", command[0]));
            } else {
                is_known &= self.program(&command, ChainRole::Started, steps - 1);
            }
        }
        is_known
    }

    /// Finds a program as CreateProcess and cmd do.
    fn find(&mut self, name: &str) -> Option<ResolvedFile<'a>> {
        if name.contains(['\\', '/', ':']) {
            let path = self.absolute(name)?;
            return self.with_extensions(&path);
        }
        let path = self.config.env.iter().rev().find_map(|variable| {
            let (key, value) = variable.split_once('=')?;
            key.eq_ignore_ascii_case("path").then_some(value)
        });
        let directories = std::iter::once(self.config.working_dir.as_str())
            .chain(SYSTEM_PATH)
            .chain(path.unwrap_or_default().split(';').filter(|directory| !directory.is_empty()));
        for directory in directories {
            let Some(directory) = self.absolute(directory) else { continue };
            let found = self.with_extensions(&format!("{directory}/{name}"));
            if found.is_some() || self.chain.unread.is_some() || self.tree.budget().is_spent() {
                return found;
            }
        }
        None
    }

    /// The path in the layers, without a link followed. `None`: it is on another drive, or a network share.
    fn absolute(&self, name: &str) -> Option<String> {
        let slashes = |text: &str| text.replace('\\', "/");
        let on_drive = |text: &str| -> Option<String> {
            let text = slashes(text);
            match text.split_once(':') {
                Some((drive, rest)) => drive.eq_ignore_ascii_case("c").then(|| rest.to_string()),
                None => Some(text),
            }
        };
        let path = on_drive(name)?;
        if path.starts_with("//") {
            return None;
        }
        match path.starts_with('/') {
            true => Some(format!("/Files{path}")),
            false => Some(format!("/Files/{}/{path}", on_drive(&self.config.working_dir)?)),
        }
    }

    fn with_extensions(&mut self, path: &str) -> Option<ResolvedFile<'a>> {
        let has_extension = path.rsplit('/').next().is_some_and(|name| name.contains('.'));
        let (first, last) = if has_extension { (Some(""), None) } else { (None, Some("")) };
        for extension in first.into_iter().chain(EXTENSIONS).chain(last) {
            match self.tree.resolve(format!("{path}{extension}").as_bytes()) {
                Resolved::File(file) => return Some(file),
                Resolved::Unread(layer) => {
                    self.chain.unread = Some(layer);
                    return None;
                }
                _ => {}
            }
        }
        None
    }

    /// Adds a gap. The result is that of a command whose end is unknown.
    fn gap(&mut self, why: impl Into<String>) -> bool {
        self.chain.gaps.push(why.into());
        false
    }
}

/// The name of a program in lower case, without directory and `.exe`.
fn base_name(name: &str) -> String {
    let base = name.rsplit(['\\', '/', ':']).next().unwrap_or(name).to_ascii_lowercase();
    base.strip_suffix(".exe").unwrap_or(&base).to_string()
}

/// The words of a command line, without quotation marks.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut is_quoted, mut is_word) = (String::new(), false, false);
    for letter in line.chars() {
        match letter {
            '"' => (is_quoted, is_word) = (!is_quoted, true),
            ' ' | '\t' if !is_quoted => {
                if is_word {
                    words.push(std::mem::take(&mut word));
                }
                is_word = false;
            }
            letter => {
                word.push(letter);
                is_word = true;
            }
        }
    }
    if is_word {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::tests::{Tar, elf};

    const AMD64: u16 = 0x8664;

    fn exe(machine: u16) -> Vec<u8> {
        let mut file = vec![0; 0x100];
        file[..2].copy_from_slice(b"MZ");
        file[0x3c] = 0x40;
        file[0x40..0x44].copy_from_slice(b"PE\0\0");
        file[0x44..0x46].copy_from_slice(&machine.to_le_bytes());
        file
    }

    fn base() -> Tar {
        Tar::default()
            .directory("Files")
            .directory("Hives")
            .file("Files/Windows/System32/cmd.exe", &exe(AMD64))
    }

    fn app() -> Tar {
        Tar::default()
            .file("Files/App/Server.EXE", &exe(AMD64))
            .file("Files/app/run.cmd", b"server.exe")
            .file("Files/tools/tool.exe", &exe(0xaa64))
            .file("Files/app/elf", &elf(62))
    }

    /// Follows a command of the shape `ENTRYPOINT-AND-CMD...`; returns the files below `/Files/` and whether the end is known.
    #[track_caller]
    fn check(words: &[&str], env: &[&str], files: &[&str], is_reached: bool) {
        let (base, app) = (base().facts(), app().facts());
        let config = Config {
            entrypoint: words.iter().map(|word| (*word).to_string()).collect(),
            env: env.iter().map(|variable| (*variable).to_string()).collect(),
            working_dir: r"C:\app".into(),
            ..Config::default()
        };
        let chain = follow(&OverlayTree::new(vec![Some(&base), Some(&app)]), &config);
        let found: Vec<String> =
            chain.links.iter().map(|link| display_path(&link.file.path)[7..].to_string()).collect();
        assert_eq!(
            (found.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), chain.is_reached),
            (files, is_reached),
            "{words:?} {:?}",
            chain.gaps
        );
    }

    #[test]
    fn programs_are_found_by_drive_directory_path_and_extension() {
        check(&[r"C:\app\server.exe", "--port", "80"], &[], &["app/server.exe"], true);
        check(&[r"c:/APP/Server"], &[], &["APP/Server.exe"], true);
        check(&[r"\app\server.exe"], &[], &["app/server.exe"], true);
        check(&["server.exe"], &[], &["app/server.exe"], true);
        check(&[r".\server.exe"], &[], &["app/server.exe"], true);
        check(&["tool"], &["path=C:\\x;C:\\tools"], &["tools/tool.exe"], true);
        check(&["tool"], &[], &[], false);
        check(&[r"D:\server.exe"], &[], &[], false);
        check(&[r"\\share\server.exe"], &[], &[], false);
        check(&["run"], &[], &["app/run.cmd"], false);
        check(&["%APP%"], &[], &[], false);
        check(&[r"C:\app\elf"], &[], &["app/elf"], true);
    }

    #[test]
    fn shells_lead_to_what_they_start() {
        let cmd = "Windows/System32/cmd.exe";
        check(&["cmd", "/S", "/C", "server.exe --port 80"], &[], &[cmd, "app/server.exe"], true);
        check(&["cmd /S /C \"server.exe --port 80\""], &[], &[cmd, "app/server.exe"], true);
        check(&["cmd.exe", "/c", "cd \\app && server"], &[], &[cmd, "app/server.exe"], true);
        check(&["cmd", "/c", "echo", "%PATH%"], &[], &[cmd], false);
        check(&["cmd"], &[], &[cmd], true);
        check(&["powershell", "-NoProfile", "-Command", "server.exe --x"], &[], &["app/server.exe"], true);
        check(&["powershell", "-Command", "Start-Service w3svc"], &[], &[], false);
        check(&["powershell", "-File", "x.ps1"], &[], &[], false);
        check(
            &["cmd /c cmd /c cmd /c cmd /c cmd /c cmd /c cmd /c cmd /c cmd /c server"],
            &[],
            &[cmd; 8],
            false,
        );
    }

    #[test]
    fn command_lines_are_split_at_blanks_outside_of_quotation_marks() {
        assert_eq!(
            split(r#"  "C:\Program Files\a.exe" --x="a b"  c "" "#),
            [r"C:\Program Files\a.exe", "--x=a b", "c", ""]
        );
    }

    #[test]
    fn layers_are_those_of_windows_by_their_directories() {
        let (windows, linux) = (base().facts(), Tar::default().directory("Files").facts());
        let check = |layer, declared: &str, expected| {
            let tree = OverlayTree::new(vec![layer]);
            assert_eq!(has_windows_layers(&tree, &declared.parse().unwrap()), expected, "{declared}");
        };
        for declared in ["windows/amd64", "linux/amd64"] {
            check(Some(&windows), declared, true);
        }
        check(Some(&linux), "linux/amd64", false);
        check(Some(&linux), "windows/amd64", true);
    }
}
