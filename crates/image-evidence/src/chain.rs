//! What a container of an image would execute: from entrypoint and command, through scripts and wrappers, to
//! programs, their loaders and their libraries; and the shell.
//!
//! These files are strong evidence: an image whose own program is for another machine does not run. Whatever else
//! lies in the tree may be there to be carried around.

use super::elf::Elf;
use super::file::FileFacts;
use super::overlay::{OverlayTree, Resolved, ResolvedFile};
use super::shell;
use image_model::manifest::Config;

mod wrappers;

use wrappers::{Wrapped, starts};

/// Scripts and wrappers in a row. The kernel follows five interpreters; people stack two or three wrappers.
const STEPS_MAX: usize = 12;
/// Commands of one image, all shells and scripts together: each script may name two.
const COMMANDS_MAX: usize = 500;
/// What Docker and containerd set where an image has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One file that would be executed, or loaded by one that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainLink<'a> {
    pub role: ChainRole,
    /// The name under which it was asked for: `/bin/sh`, `libc.so.6`.
    pub asked: Vec<u8>,
    pub file: ResolvedFile<'a>,
    /// An emulator translates it: it need not be for the image's machine.
    pub emulated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainRole {
    /// The first word of the entrypoint.
    Entrypoint,
    /// The first word of the command, where there is no entrypoint.
    Command,
    /// Named by a `#!` line.
    Interpreter,
    /// Started by a wrapper such as tini, env or `sh -c`.
    Started,
    /// It translates programs of another machine; its own machine says nothing about the image.
    Emulator,
    /// s6-overlay's supervisor, which `/init` starts.
    Supervisor,
    Loader,
    Library,
    Shell,
}

impl ChainRole {
    pub fn text(self) -> &'static str {
        match self {
            Self::Entrypoint => "entrypoint",
            Self::Command => "command",
            Self::Interpreter => "interpreter",
            Self::Started => "started by it",
            Self::Emulator => "emulator",
            Self::Supervisor => "supervisor",
            Self::Loader => "loader",
            Self::Library => "library",
            Self::Shell => "shell",
        }
    }
}

/// How far it could be followed.
#[derive(Clone, Debug, Default)]
pub struct ExecutedChain<'a> {
    pub links: Vec<ChainLink<'a>>,
    /// Where it ended before a program was found, and what a program misses.
    pub gaps: Vec<String>,
    /// This layer must be read to know the program.
    pub unread: Option<usize>,
    /// These files must be read to know more: their layers, and where they lie.
    pub unread_files: Vec<(usize, Vec<u8>)>,
    /// The program itself was found: the last word of all wrappers is an ELF file, and none of them starts something
    /// that is not clear.
    pub is_reached: bool,
    /// A program needs a loader that is in no layer that was read.
    pub lacks_loader: bool,
}

/// Follows an image's own program first, then what belongs to it.
pub fn follow<'a>(tree: &OverlayTree<'a>, config: &Config) -> ExecutedChain<'a> {
    let mut walk = Walk { tree, config, chain: ExecutedChain::default(), commands: 0, emulated: false };
    walk.programs();
    if walk.chain.unread.is_none() && walk.chain.unread_files.is_empty() {
        walk.belongings();
    }
    walk.chain
}

struct Walk<'t, 'a> {
    tree: &'t OverlayTree<'a>,
    config: &'t Config,
    chain: ExecutedChain<'a>,
    commands: usize,
    /// What is followed now, an emulator translates.
    emulated: bool,
}

/// A script that a shell carries out, and what is known of what it starts.
struct Carried {
    path: Vec<u8>,
    words: Vec<Vec<u8>>,
    last_command: Option<shell::Command>,
    runs_arguments: bool,
}

impl<'a> Walk<'_, 'a> {
    fn programs(&mut self) {
        let words = self.config.entrypoint.iter().chain(&self.config.cmd);
        let argv: Vec<Vec<u8>> = words.map(|word| word.clone().into_bytes()).collect();
        if argv.is_empty() {
            return self.gap("the image has neither entrypoint nor command".into());
        }
        let first =
            if self.config.entrypoint.is_empty() { ChainRole::Command } else { ChainRole::Entrypoint };
        self.chain.is_reached = self.program(argv, first, STEPS_MAX);
    }

    /// Follows one command to its program, and says whether all of it is known. `steps` bounds scripts and wrappers.
    fn program(&mut self, argv: Vec<Vec<u8>>, first: ChainRole, steps: usize) -> bool {
        let before = self.emulated;
        let is_known = self.steps(argv, first, steps);
        self.emulated = before;
        is_known
    }

    fn steps(&mut self, mut argv: Vec<Vec<u8>>, first: ChainRole, steps: usize) -> bool {
        let mut role = first;
        let mut carried: Option<Carried> = None;
        self.commands += 1;
        if self.commands > COMMANDS_MAX {
            if self.commands == COMMANDS_MAX + 1 {
                self.gap(format!("it starts more than {COMMANDS_MAX} commands"));
            }
            return false;
        }
        for left in (0..steps).rev() {
            let Some(asked) = argv.first().cloned() else { return false };
            if asked.contains(&b'$') {
                self.gap(format!("what {} stands for is not clear without running it", shown(&asked)));
                return false;
            }
            let Some(file) = self.command(&asked) else { return false };
            if self.must_be_read(&file) {
                return false;
            }
            let facts = file.facts;
            let path = file.path.clone();
            let known = starts(&asked, &path, &argv[1..]);
            let is_emulator = matches!(known, Wrapped::Emulated(_));
            let role_here = if is_emulator { ChainRole::Emulator } else { role };
            self.chain.links.push(ChainLink { role: role_here, asked, file, emulated: self.emulated });
            self.emulated |= is_emulator;
            if path == b"/init" && matches!(facts, Some(FileFacts::Script(_) | FileFacts::Elf(_))) {
                self.supervisor();
            }
            match facts {
                Some(FileFacts::Script(script)) => {
                    carried.get_or_insert_with(|| Carried {
                        path: path.clone(),
                        words: argv[1..].to_vec(),
                        last_command: script.last_command.clone(),
                        runs_arguments: script.runs_arguments,
                    });
                    // As the kernel starts it: the interpreter, its one argument, the script, its arguments.
                    let mut line = vec![script.interpreter.clone()];
                    line.extend(script.argument.clone());
                    line.push(path);
                    line.extend(argv.drain(1..));
                    argv = line;
                    role = ChainRole::Interpreter;
                }
                Some(FileFacts::Elf(_)) => match known {
                    Wrapped::Command(inner) | Wrapped::Emulated(inner) => {
                        argv = inner;
                        role = ChainRole::Started;
                    }
                    Wrapped::Nothing => {
                        // An interpreter that is no shell is the program, whatever its script does.
                        if let Some(script) = carried {
                            self.handed(script.words, left);
                        }
                        return self.chain.unread.is_none();
                    }
                    Wrapped::Shell { commands, is_clear, script, handed, runs_arguments } => {
                        let mut is_known = true;
                        for command in commands {
                            is_known &= self.program(command, ChainRole::Started, left);
                        }
                        if is_clear {
                            return is_known;
                        }
                        let of_text = Carried { path, words: handed, last_command: None, runs_arguments };
                        let script = carried.unwrap_or_else(|| self.script(script, of_text));
                        return self.carried(script, left) && is_known;
                    }
                    Wrapped::Unclear(why) => {
                        self.gap(why);
                        return false;
                    }
                },
                Some(FileFacts::Foreign(_) | FileFacts::Unread) => return false,
                None => {
                    self.gap(format!("{} is neither a program nor a script", shown(&path)));
                    return false;
                }
            }
        }
        self.gap("scripts and wrappers go on without end".into());
        false
    }

    /// The script that a shell is given by name, or else its text.
    fn script(&mut self, name: Option<Vec<u8>>, text: Carried) -> Carried {
        let Some(name) = name else { return text };
        let path = self.in_working_dir(&name);
        let mut script = Carried { path, last_command: None, runs_arguments: false, ..text };
        match self.tree.resolve(&script.path) {
            Resolved::File(file) if !self.must_be_read(&file) => {
                if let Some(FileFacts::Script(read)) = file.facts {
                    script.last_command = read.last_command.clone();
                    script.runs_arguments = read.runs_arguments;
                }
            }
            Resolved::Unread(layer) => self.chain.unread = Some(layer),
            _ => {}
        }
        script
    }

    /// What a script starts: by its last line, or what it is given.
    fn carried(&mut self, script: Carried, steps: usize) -> bool {
        let last = script.last_command.map(|last| shell::substitute_arguments(&last, &script.words));
        if last.is_some_and(|last| !last.is_empty() && self.program(last, ChainRole::Started, steps)) {
            return true;
        }
        if self.chain.unread.is_some() || !self.chain.unread_files.is_empty() {
            return false;
        }
        let is_known = script.runs_arguments && self.handed(script.words, steps);
        if !is_known {
            self.gap(format!("what {} starts is not clear without running it", shown(&script.path)));
        }
        is_known
    }

    /// The words behind a script, if the first of them is a program of the image: then that is what it is there for.
    fn handed(&mut self, words: Vec<Vec<u8>>, steps: usize) -> bool {
        let Some(name) = words.first().filter(|word| !word.starts_with(b"-")) else { return false };
        match self.look(name) {
            Resolved::File(file) if file.executable => {
                let is_known = self.chain.links.iter().any(|link| link.file.path == file.path);
                is_known || self.program(words, ChainRole::Started, steps)
            }
            Resolved::Unread(layer) => {
                self.chain.unread = Some(layer);
                false
            }
            _ => false,
        }
    }

    /// Finds a command as execvp does, or says that it is not there.
    fn command(&mut self, name: &[u8]) -> Option<ResolvedFile<'a>> {
        match self.look(name) {
            Resolved::File(file) => return Some(file),
            Resolved::Unread(layer) => self.chain.unread = Some(layer),
            _ if name.contains(&b'/') => {
                let path = self.in_working_dir(name);
                self.gap(format!("{} is not in the image", shown(&path)));
            }
            _ => self.gap(format!("\"{}\" is not in PATH", shown(name))),
        }
        None
    }

    fn in_working_dir(&self, name: &[u8]) -> Vec<u8> {
        match name.starts_with(b"/") {
            true => name.to_vec(),
            false => [b"/", self.config.working_dir.as_bytes(), b"/", name].concat(),
        }
    }

    fn look(&self, name: &[u8]) -> Resolved<'a> {
        if name.contains(&b'/') {
            return self.tree.resolve(&self.in_working_dir(name));
        }
        let set = self.config.env.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
        for directory in set.unwrap_or(DEFAULT_PATH).split(':') {
            let directory =
                if directory.starts_with('/') { directory } else { self.config.working_dir.as_str() };
            let path = [directory.as_bytes(), b"/", name].concat();
            match self.tree.resolve(&path) {
                Resolved::File(file) if file.executable => return Resolved::File(file),
                Resolved::Unread(layer) => return Resolved::Unread(layer),
                _ => {}
            }
        }
        Resolved::Missing
    }

    /// Only the place of the file is known: then it is one of those that must be read.
    fn must_be_read(&mut self, file: &ResolvedFile<'a>) -> bool {
        let is_unread = file.facts == Some(&FileFacts::Unread);
        if is_unread {
            self.chain.unread_files.push((file.layer, file.path[1..].to_vec()));
        }
        is_unread
    }

    fn gap(&mut self, why: String) {
        self.chain.gaps.push(why);
    }

    /// s6-overlay puts its own programs beside the image's: in version 2 into /bin or /usr/bin, in 3 into /command.
    fn supervisor(&mut self) {
        for path in [
            "/command/s6-svscan",
            "/bin/s6-svscan",
            "/usr/bin/s6-svscan",
            "/command/execlineb",
            "/bin/execlineb",
        ] {
            if let Resolved::File(file) = self.tree.resolve(path.as_bytes()) {
                self.add(ChainRole::Supervisor, path.as_bytes(), file);
            }
        }
    }

    /// Loaders and libraries of all programs so far, and the shell with its own.
    fn belongings(&mut self) {
        let mut done = 0;
        if let Resolved::File(shell) = self.tree.resolve(b"/bin/sh") {
            self.add(ChainRole::Shell, b"/bin/sh", shell);
        }
        while let Some(link) = self.chain.links.get(done) {
            done += 1;
            // An emulator brings its own; libraries of libraries are found by the same paths as these.
            let Some(FileFacts::Elf(elf)) = link.file.facts else { continue };
            if matches!(link.role, ChainRole::Emulator | ChainRole::Loader | ChainRole::Library) {
                continue;
            }
            let program = shown(&link.file.path);
            self.emulated = link.emulated;
            self.loader(elf, &program);
            for name in &elf.needed {
                self.library(elf, name);
            }
        }
    }

    fn loader(&mut self, elf: &Elf, program: &str) {
        let Some(path) = &elf.interpreter else { return };
        match self.tree.resolve(path) {
            Resolved::File(file) => self.add(ChainRole::Loader, path, file),
            Resolved::Unread(_) => self.chain.lacks_loader = true,
            _ => {
                self.chain.lacks_loader = true;
                self.gap(format!("{program} needs the loader {}, which is not in the image", shown(path)));
            }
        }
    }

    /// The loader takes the first library that is for its machine, so one that fits anywhere is the one that counts.
    fn library(&mut self, elf: &Elf, name: &[u8]) {
        let mut other = None;
        for directory in library_directories(&elf.platform.architecture) {
            let path = [directory.as_bytes(), b"/", name].concat();
            let Resolved::File(file) = self.tree.resolve(&path) else { continue };
            if self.must_be_read(&file) {
                return;
            }
            match file.facts {
                Some(FileFacts::Elf(found)) if found.platform.architecture == elf.platform.architecture => {
                    return self.add(ChainRole::Library, name, file);
                }
                Some(FileFacts::Elf(_)) => other = other.or(Some(file)),
                _ => {}
            }
        }
        if let Some(file) = other {
            self.add(ChainRole::Library, name, file);
        }
    }

    fn add(&mut self, role: ChainRole, asked: &[u8], file: ResolvedFile<'a>) {
        let is_known = self.chain.links.iter().any(|link| link.file.path == file.path);
        if !is_known && !self.must_be_read(&file) {
            self.chain.links.push(ChainLink { role, asked: asked.to_vec(), file, emulated: self.emulated });
        }
    }
}

/// Where the loaders of glibc and musl look by default. Triplets: Debian's multiarch.
fn library_directories(architecture: &str) -> Vec<String> {
    let triplets: &[&str] = match architecture {
        "amd64" => &["x86_64-linux-gnu", "x86_64-linux-musl"],
        "386" => &["i386-linux-gnu"],
        "arm" => &["arm-linux-gnueabihf", "arm-linux-gnueabi"],
        "arm64" => &["aarch64-linux-gnu"],
        "riscv64" => &["riscv64-linux-gnu"],
        "ppc64le" => &["powerpc64le-linux-gnu"],
        "s390x" => &["s390x-linux-gnu"],
        "mips64le" => &["mips64el-linux-gnuabi64"],
        "mipsle" => &["mipsel-linux-gnu"],
        "loong64" => &["loongarch64-linux-gnu"],
        _ => &[],
    };
    let mut directories: Vec<String> = triplets
        .iter()
        .flat_map(|triplet| [format!("/lib/{triplet}"), format!("/usr/lib/{triplet}")])
        .collect();
    directories.extend(["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"].map(str::to_string));
    directories
}

/// A path for a message; it is escaped where it is shown.
pub fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(512)]).into_owned()
}

#[cfg(test)]
mod tests;
