//! The executed chain: the files that a container start executes, from entrypoint and command through scripts and wrappers
//! to programs, their loaders and their libraries, and the shell.
//!
//! These files decide the verdict, because an image does not run if its program was built for another platform. Any other
//! file may be there only as data.

use super::elf::Elf;
use super::file::FileFacts;
use super::overlay::{OverlayTree, PATH_MAX, Resolved, ResolvedFile};
use super::shell;
use super::start::StartFailure;
use image_model::manifest::Config;
use image_model::platform::Platform;
use serde::Serialize;

mod refusal;
pub mod windows;
mod wrappers;

use refusal::Certainty;
use wrappers::{Wrapped, after_dashes, only_executes, starts};

/// The number of scripts and wrappers that start each other. The kernel follows five interpreters; images have two or three
/// wrappers.
const STEPS_MAX: usize = 12;
/// The number of commands of one image, in all shells and scripts together. Each script may have two.
const COMMANDS_MAX: usize = 500;
/// The PATH that Docker and containerd set if the image has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One file that is executed, or loaded by one that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainLink<'a> {
    /// Why it is in the chain.
    pub role: ChainRole,
    /// The name by which it was found, such as `/bin/sh` or `libc.so.6`.
    pub name: Vec<u8>,
    /// The file.
    pub file: ResolvedFile<'a>,
    /// Whether an emulator runs it, so that it may be for another platform than the image.
    pub emulated: bool,
    /// Whether the start of a container certainly executes it.
    pub is_certain: bool,
}

/// Why a file is in the executed chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainRole {
    /// The first word of the entrypoint.
    Entrypoint,
    /// The first word of the command, if there is no entrypoint.
    Command,
    /// Named by a `#!` line.
    Interpreter,
    /// Started by a wrapper such as tini, env or `sh -c`.
    Started,
    /// An emulator for another architecture. Its own platform says nothing about the image.
    Emulator,
    /// The supervisor of s6-overlay, which `/init` starts.
    Supervisor,
    /// The dynamic loader of a program.
    Loader,
    /// A library of a program.
    Library,
    /// `/bin/sh`.
    Shell,
}

impl ChainRole {
    /// The role in words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Entrypoint => "entrypoint",
            Self::Command => "command",
            Self::Interpreter => "interpreter",
            Self::Started => "started program",
            Self::Emulator => "emulator",
            Self::Supervisor => "supervisor",
            Self::Loader => "loader",
            Self::Library => "library",
            Self::Shell => "shell",
        }
    }
}

/// The executed chain of an image, as far as it could be followed.
#[derive(Clone, Debug, Default)]
pub struct ExecutedChain<'a> {
    /// The files in the order in which they were found.
    pub links: Vec<ChainLink<'a>>,
    /// Points at which the chain could not be followed, and missing loaders.
    pub gaps: Vec<String>,
    /// The index of a layer that must be read to find the program.
    pub unread: Option<usize>,
    /// Files that must be read to continue, as layer index and path.
    pub unread_files: Vec<(usize, Vec<u8>)>,
    /// Whether the program itself was found: all wrappers lead to ELF files, and none of them starts something that is known
    /// only at run time.
    pub is_reached: bool,
    /// Whether a program needs a loader that is not in the layers that were read.
    pub lacks_loader: bool,
    /// Where the kernel certainly refuses to continue, if the layers that were not read have nothing more.
    pub failure: Option<StartFailure>,
}

/// One file that a container start executes, without the libraries that it loads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainStep {
    /// Its role, such as `entrypoint` or `interpreter`.
    pub role: &'static str,
    /// The name by which it was found.
    pub name: String,
    /// The absolute path of the file itself, without links.
    pub path: String,
    /// The index of its layer; 0 is the lowest.
    pub layer: usize,
    /// The platform of a program.
    pub platform: Option<Platform>,
    /// The first line of a script, without `#!`.
    pub interpreter: Option<String>,
}

impl ExecutedChain<'_> {
    /// The files that are executed, in their order. Loaders are the last.
    pub fn steps(&self) -> Vec<ChainStep> {
        let is_step = |link: &&ChainLink<'_>| {
            !matches!(link.role, ChainRole::Library | ChainRole::Shell | ChainRole::Supervisor)
        };
        let step = |link: &ChainLink<'_>| {
            let (platform, interpreter) = match link.file.facts {
                Some(FileFacts::Elf(elf)) => (Some(elf.platform.clone()), None),
                Some(FileFacts::Foreign(platform) | FileFacts::WebAssembly(platform)) => {
                    (Some(platform.clone()), None)
                }
                Some(FileFacts::Script(script)) => {
                    let argument = script.argument.iter().map(Vec::as_slice);
                    let line: Vec<&[u8]> =
                        [script.interpreter.as_slice()].into_iter().chain(argument).collect();
                    (None, Some(display_path(&line.join(&b' '))))
                }
                Some(FileFacts::Unread | FileFacts::Data(_)) | None => (None, None),
            };
            ChainStep {
                role: link.role.text(),
                name: display_path(&link.name),
                path: display_path(&link.file.path),
                layer: link.file.layer,
                platform,
                interpreter,
            }
        };
        self.links.iter().filter(is_step).map(step).collect()
    }
}

/// Follows the executed chain: first the program of the image, then the loaders and libraries.
pub fn follow<'a>(tree: &OverlayTree<'a>, config: &Config) -> ExecutedChain<'a> {
    let mut walk = Walk {
        tree,
        config,
        chain: ExecutedChain::default(),
        commands: 0,
        emulated: false,
        path: None,
        certainty: Certainty::Kernel,
        failed_at: None,
    };
    walk.programs();
    if walk.chain.unread.is_none() && walk.chain.unread_files.is_empty() {
        walk.loaders_and_libraries();
    }
    walk.chain
}

struct Walk<'t, 'a> {
    tree: &'t OverlayTree<'a>,
    config: &'t Config,
    chain: ExecutedChain<'a>,
    commands: usize,
    /// Whether an emulator runs what is followed now.
    emulated: bool,
    /// The PATH that a script has set, in place of that of the image.
    path: Option<String>,
    /// Whether what is followed now is certainly executed.
    certainty: Certainty,
    /// The position in the chain at which the start fails.
    failed_at: Option<usize>,
}

/// A script that a shell executes, and what is known about what it starts.
struct ShellScript {
    path: Vec<u8>,
    words: Vec<Vec<u8>>,
    last_command: Option<shell::ShellCommand>,
    runs_arguments: bool,
}

impl<'a> Walk<'_, 'a> {
    fn programs(&mut self) {
        // Engines take an entrypoint of one empty word for none.
        let entrypoint = if self.config.entrypoint == [""] { &[] } else { self.config.entrypoint.as_slice() };
        let words = entrypoint.iter().chain(&self.config.cmd);
        let argv: Vec<Vec<u8>> = words.map(|word| word.clone().into_bytes()).collect();
        if argv.is_empty() {
            return self.gap("the image has neither entrypoint nor command".into());
        }
        let first = if entrypoint.is_empty() { ChainRole::Command } else { ChainRole::Entrypoint };
        self.chain.is_reached = self.program(argv, first, STEPS_MAX);
    }

    /// Follows one command to its program. Returns whether everything that it starts is known. `steps` limits the number of
    /// scripts and wrappers.
    fn program(&mut self, argv: Vec<Vec<u8>>, first: ChainRole, steps: usize) -> bool {
        let before = (self.emulated, self.path.clone(), self.certainty);
        let is_known = self.enter_path(argv).is_some_and(|argv| self.steps(argv, first, steps));
        (self.emulated, self.path, self.certainty) = before;
        is_known
    }

    /// As [`Self::program`], for a command that may not be executed, or after which something else may be.
    fn uncertain(&mut self, argv: Vec<Vec<u8>>, steps: usize) -> bool {
        let before = std::mem::replace(&mut self.certainty, Certainty::Unknown);
        let is_known = self.program(argv, ChainRole::Started, steps);
        self.certainty = before;
        is_known
    }

    /// Takes the PATH before a command of a script, with the PATH until then in it. `None`: it is known only at run time.
    fn enter_path(&mut self, mut argv: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
        let Some(set) = argv.first().and_then(|word| word.strip_prefix(b"PATH=")) else { return Some(argv) };
        let before = self.search_path().to_string();
        let set = String::from_utf8_lossy(set);
        let is_before = |part: &str| part == "$PATH" || part == "${PATH}";
        if set.split(':').any(|part| part.contains(['$', '`', '~']) && !is_before(part)) {
            self.gap("the PATH of a script is known only at run time".into());
            return None;
        }
        let parts: Vec<&str> =
            set.split(':').map(|part| if is_before(part) { before.as_str() } else { part }).collect();
        // Linux accepts no longer variable.
        if parts.iter().map(|part| part.len() + 1).sum::<usize>() > 128 << 10 {
            return None;
        }
        self.path = Some(parts.join(":"));
        argv.remove(0);
        Some(argv)
    }

    fn search_path(&self) -> &str {
        let of_image = || self.config.env.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
        self.path.as_deref().or_else(of_image).unwrap_or(DEFAULT_PATH)
    }

    fn steps(&mut self, mut argv: Vec<Vec<u8>>, first: ChainRole, steps: usize) -> bool {
        let mut role = first;
        let mut script_run: Option<ShellScript> = None;
        let mut scripts = 0;
        self.commands += 1;
        if self.commands > COMMANDS_MAX {
            if self.commands == COMMANDS_MAX + 1 {
                self.gap(format!("it starts more than {COMMANDS_MAX} commands"));
            }
            return false;
        }
        for left in (0..steps).rev() {
            if !shell::is_short_enough(&argv) {
                self.gap("a command is longer than Linux accepts".into());
                return false;
            }
            // Words are copied, and texts among them read, in the time of about as many look-ups.
            let size = shell::command_size(&argv) + self.config.working_dir.len();
            self.tree.budget().spend(size as u64 / 16);
            let Some(name) = argv.first().cloned() else { return false };
            // Without a shell, it is a part of the name.
            if name.contains(&b'$') && self.certainty == Certainty::Unknown {
                self.gap(format!("what {} stands for is known only at run time", display_path(&name)));
                return false;
            }
            let Some(file) = self.command(&name, role) else { return false };
            if self.must_be_read(&file) {
                return false;
            }
            let facts = file.facts;
            let path = file.path.clone();
            let known = starts(&name, &path, &argv[1..]);
            let is_emulator = matches!(known, Wrapped::Emulated(_));
            let role_here = if is_emulator { ChainRole::Emulator } else { role };
            let only_executes = only_executes(&name, &path);
            let is_certain = self.certainty != Certainty::Unknown;
            scripts += usize::from(matches!(facts, Some(FileFacts::Script(_))));
            self.chain.links.push(ChainLink {
                role: role_here,
                name,
                file,
                emulated: self.emulated,
                is_certain,
            });
            self.refuse_last(scripts);
            self.emulated |= is_emulator;
            if path == b"/init" && matches!(facts, Some(FileFacts::Script(_) | FileFacts::Elf(_))) {
                self.supervisor();
            }
            match facts {
                Some(FileFacts::Script(script)) => {
                    // A script may be a wrapper by its name, as xvfb-run and wait-for-it.sh are.
                    let wrapped = match known {
                        Wrapped::Command(inner) => Some(inner),
                        _ => None,
                    };
                    script_run.get_or_insert_with(|| ShellScript {
                        path: path.clone(),
                        last_command: script.last_command.clone().filter(|_| wrapped.is_none()),
                        runs_arguments: script.runs_arguments || wrapped.is_some(),
                        words: wrapped.unwrap_or_else(|| {
                            shell::set_arguments(script.option_arguments.as_deref(), &argv[1..])
                        }),
                    });
                    // As the kernel does: the interpreter, its one argument, the script, the arguments of the script.
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
                        scripts = 0;
                        let is_certain = is_certain && only_executes && !is_emulator;
                        self.certainty = if is_certain { Certainty::Wrapper } else { Certainty::Unknown };
                    }
                    Wrapped::Nothing => {
                        // An interpreter other than a shell is the program, whatever its script does.
                        // An unknown wrapper usually has `--` before the program that it starts.
                        let words = script_run
                            .map_or_else(|| after_dashes(&argv[1..]).to_vec(), |script| script.words);
                        self.arguments(words, left);
                        return self.chain.unread.is_none();
                    }
                    Wrapped::Shell {
                        commands,
                        is_complete,
                        is_single,
                        script,
                        arguments,
                        runs_arguments,
                    } => {
                        let mut is_known = true;
                        // A name may be that of a function or a builtin.
                        let is_path = |command: &Vec<Vec<u8>>| command[0].starts_with(b"/");
                        let is_single = is_single && is_complete && commands.iter().all(is_path);
                        let is_certain = is_certain && is_single && script_run.is_none();
                        self.certainty = if is_certain { Certainty::Wrapper } else { Certainty::Unknown };
                        for command in commands {
                            is_known &= self.program(command, ChainRole::Started, left);
                        }
                        if is_complete {
                            return is_known;
                        }
                        let of_text =
                            ShellScript { path, words: arguments, last_command: None, runs_arguments };
                        let script = script_run.unwrap_or_else(|| self.script(script, of_text));
                        return self.shell_script(script, left) && is_known;
                    }
                    Wrapped::Unknown(why) => {
                        self.gap(why);
                        return false;
                    }
                },
                Some(FileFacts::WebAssembly(_)) => return true,
                Some(FileFacts::Foreign(_) | FileFacts::Unread) => return false,
                Some(FileFacts::Data(_)) | None => {
                    self.gap(format!("{} is neither a program nor a script", display_path(&path)));
                    return false;
                }
            }
        }
        self.gap("too many scripts and wrappers start each other".into());
        false
    }

    /// The script whose name is an argument of the shell, or else the text of `-c`.
    fn script(&mut self, name: Option<Vec<u8>>, text: ShellScript) -> ShellScript {
        let Some(name) = name else { return text };
        let path = self.in_working_dir(&name);
        let mut script = ShellScript { path, last_command: None, runs_arguments: false, ..text };
        match self.tree.resolve(&script.path) {
            Resolved::File(file) if !self.must_be_read(&file) => {
                if let Some(FileFacts::Script(read)) = file.facts {
                    script.words = shell::set_arguments(read.option_arguments.as_deref(), &script.words);
                    script.last_command = read.last_command.clone();
                    script.runs_arguments = read.runs_arguments;
                }
            }
            Resolved::Unread(layer) => self.chain.unread = Some(layer),
            _ => {}
        }
        script
    }

    /// Follows what a script starts: its last line, or its arguments. Returns whether that is known.
    fn shell_script(&mut self, script: ShellScript, steps: usize) -> bool {
        let last = script.last_command.map(|last| shell::substitute_arguments(&last, &script.words));
        if last.is_some_and(|last| !last.is_empty() && self.uncertain(last, steps)) {
            return true;
        }
        if self.chain.unread.is_some() || !self.chain.unread_files.is_empty() {
            return false;
        }
        let is_known = script.runs_arguments && self.arguments(script.words, steps);
        if !is_known {
            self.gap(format!("what {} starts is known only at run time", display_path(&script.path)));
        }
        is_known
    }

    /// Follows the arguments of a script if the first of them is a program of the image, which the script is then assumed to
    /// start.
    fn arguments(&mut self, words: Vec<Vec<u8>>, steps: usize) -> bool {
        let Some(name) = words.first().filter(|word| !word.starts_with(b"-")) else { return false };
        match self.resolve_file(name) {
            Resolved::File(file) if file.executable => {
                let is_known = self.chain.links.iter().any(|link| link.file.path == file.path);
                is_known || self.uncertain(words, steps)
            }
            Resolved::Unread(layer) => {
                self.chain.unread = Some(layer);
                false
            }
            _ => false,
        }
    }

    /// Finds a command as execvp(3) does, or an interpreter as the kernel does, or adds a gap.
    fn command(&mut self, name: &[u8], role: ChainRole) -> Option<ResolvedFile<'a>> {
        let found = match role {
            ChainRole::Interpreter => self.tree.resolve(&self.in_working_dir(name)),
            _ => self.resolve_file(name),
        };
        match found {
            Resolved::File(file) => return Some(file),
            Resolved::Unread(layer) => self.chain.unread = Some(layer),
            _ if self.tree.budget().is_spent() => {}
            found => {
                self.refuse_absent(name, role, &found);
                self.gap(match name.contains(&b'/') || role == ChainRole::Interpreter {
                    true => format!("{} is not in the image", display_path(&self.in_working_dir(name))),
                    false => format!("\"{}\" is not in PATH", display_path(name)),
                });
            }
        }
        None
    }

    fn in_working_dir(&self, name: &[u8]) -> Vec<u8> {
        match name.starts_with(b"/") {
            true => name.to_vec(),
            false => [b"/", self.config.working_dir.as_bytes(), b"/", name].concat(),
        }
    }

    fn resolve_file(&self, name: &[u8]) -> Resolved<'a> {
        if name.contains(&b'/') {
            return self.tree.resolve(&self.in_working_dir(name));
        }
        for directory in self.search_path().split(':') {
            let directory =
                if directory.starts_with('/') { directory } else { self.config.working_dir.as_str() };
            if self.tree.budget().is_spent() {
                break;
            }
            if directory.len() + name.len() > PATH_MAX {
                self.tree.budget().spend(1);
                continue;
            }
            let path = [directory.as_bytes(), b"/", name].concat();
            match self.tree.resolve(&path) {
                Resolved::File(file) if file.executable => return Resolved::File(file),
                Resolved::Unread(layer) => return Resolved::Unread(layer),
                _ => {}
            }
        }
        Resolved::Missing
    }

    /// Returns whether only the location of the file is known. Then it is added to the files that must be read.
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

    /// Adds the programs of s6-overlay: version 2 has them in /bin or /usr/bin, version 3 in /command.
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

    /// Adds the shell, and the loaders and libraries of all programs.
    fn loaders_and_libraries(&mut self) {
        let mut done = 0;
        if let Resolved::File(shell) = self.tree.resolve(b"/bin/sh") {
            self.add(ChainRole::Shell, b"/bin/sh", shell);
        }
        while let Some(link) = self.chain.links.get(done) {
            done += 1;
            // An emulator is usually static; libraries of libraries are in the same directories as these.
            let Some(FileFacts::Elf(elf)) = link.file.facts else { continue };
            let at = done - 1;
            if matches!(link.role, ChainRole::Emulator | ChainRole::Loader | ChainRole::Library) {
                continue;
            }
            let program = display_path(&link.file.path);
            self.emulated = link.emulated;
            // Every file that is found is compared with those before.
            self.tree.budget().spend(self.chain.links.len() as u64 / 16);
            self.loader(at, elf, &program);
            for name in &elf.needed {
                self.library(elf, name);
            }
        }
    }

    fn loader(&mut self, at: usize, elf: &Elf, program: &str) {
        let Some(path) = &elf.interpreter else { return };
        let found = self.tree.resolve(path);
        if !self.tree.budget().is_spent() {
            self.refuse_loader(at, elf, path, &found);
        }
        match found {
            Resolved::File(file) => self.add(ChainRole::Loader, path, file),
            Resolved::Unread(_) => self.chain.lacks_loader = true,
            _ => {
                self.chain.lacks_loader = true;
                self.gap(format!(
                    "{program} needs the loader {}, which is not in the image",
                    display_path(path)
                ));
            }
        }
    }

    /// Adds a library. The loader skips libraries for other architectures, so a matching one in any directory counts.
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

    fn add(&mut self, role: ChainRole, name: &[u8], file: ResolvedFile<'a>) {
        let is_known = self.chain.links.iter().any(|link| link.file.path == file.path);
        if !is_known && !self.must_be_read(&file) {
            let (name, emulated) = (name.to_vec(), self.emulated);
            self.chain.links.push(ChainLink { role, name, file, emulated, is_certain: false });
        }
    }
}

/// The default directories of the loaders of glibc and musl. Triplets: Debian's multiarch.
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

/// A path as text, for messages. It is not escaped.
pub fn display_path(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(512)]).into_owned()
}

#[cfg(test)]
mod tests;
