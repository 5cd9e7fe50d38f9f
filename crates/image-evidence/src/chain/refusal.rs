//! The points of the executed chain at which the kernel certainly refuses to start a container.

use super::wrappers::runs_applets;
use super::{ChainRole, DEFAULT_PATH, Walk, display_path};
use crate::elf::{Elf, ElfKind};
use crate::file::FileFacts;
use crate::layer::normalize;
use crate::overlay::{Resolved, ResolvedFile};
use crate::start::{FailureCause, NeedingFile, StartFailure};

/// Whether what is followed now is certainly executed, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// By the kernel, when the container starts, or for a `#!` line.
    Kernel,
    /// By a program that does nothing else. If the kernel does not know the format of a file, execvp(3) of glibc and shells
    /// take it for a shell script.
    Wrapper,
    /// It is not certain.
    Unknown,
}

/// The number of `#!` lines that the kernel follows. Source: exec_binprm in fs/exec.c.
const SCRIPTS_MAX: usize = 5;

/// Directories that container runtimes mount. Source: the OCI runtime-spec, "Default Filesystems"; Podman and Kubernetes
/// mount secrets.
const MOUNTS: [&str; 4] = ["/proc", "/sys", "/dev", "/run/secrets"];

/// Loaders of glibc and musl by architecture. Source: the ABI lists of both.
const LOADERS: [(&str, &[&str]); 9] = [
    ("amd64", &["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"]),
    ("386", &["/lib/ld-linux.so.2", "/lib/ld-musl-i386.so.1"]),
    (
        "arm",
        &[
            "/lib/ld-linux-armhf.so.3",
            "/lib/ld-linux.so.3",
            "/lib/ld-musl-armhf.so.1",
            "/lib/ld-musl-arm.so.1",
        ],
    ),
    ("arm64", &["/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-aarch64.so.1"]),
    ("riscv64", &["/lib/ld-linux-riscv64-lp64d.so.1", "/lib/ld-musl-riscv64.so.1"]),
    ("ppc64le", &["/lib64/ld64.so.2", "/lib/ld-musl-powerpc64le.so.1"]),
    ("s390x", &["/lib/ld64.so.1", "/lib/ld-musl-s390x.so.1"]),
    ("mips64le", &["/lib64/ld.so.1", "/lib/ld-musl-mips64el.so.1"]),
    ("loong64", &["/lib64/ld-linux-loongarch-lp64d.so.1", "/lib/ld-musl-loongarch64.so.1"]),
];

impl<'a> Walk<'_, 'a> {
    /// Records that no file has this name.
    pub(super) fn refuse_absent(&mut self, name: &[u8], role: ChainRole, found: &Resolved<'a>) {
        if self.certainty == Certainty::Unknown {
            return;
        }
        let is_path = name.contains(&b'/') || role == ChainRole::Interpreter;
        if !is_path {
            return self.refuse_name(name, role);
        }
        let path = self.in_working_dir(name);
        if self.is_mounted(&path) {
            return;
        }
        let path = [b"/", normalize(&path).as_slice()].concat();
        let cause = match found {
            Resolved::Directory | Resolved::Other => FailureCause::NotRegular,
            _ if name.ends_with(b"\r") && role == ChainRole::Interpreter => FailureCause::CarriageReturn,
            _ => FailureCause::Absent,
        };
        let by = self.needing(self.chain.links.len());
        let file = if role == ChainRole::Interpreter { name } else { &path };
        self.fail(self.chain.links.len(), file, role, None, by, cause);
    }

    /// Records that no directory of PATH has an executable file of this name.
    fn refuse_name(&mut self, name: &[u8], role: ChainRole) {
        let by = self.needing(self.chain.links.len());
        let at = self.chain.links.len();
        if name.is_empty() {
            return match self.certainty {
                Certainty::Kernel => self.fail(at, name, role, None, by, FailureCause::EmptyName),
                Certainty::Wrapper | Certainty::Unknown => {}
            };
        }
        let is_by_wrapper = self.certainty == Certainty::Wrapper;
        let starter = self.chain.links.last().map(|link| link.file.path.as_slice());
        if is_by_wrapper && starter.is_some_and(|starter| runs_applets(starter, name)) {
            return;
        }
        let mut directories: Vec<String> = self.search_path().split(':').map(str::to_string).collect();
        if is_by_wrapper {
            // execvp(3) looks there if a wrapper removes PATH.
            directories.extend(DEFAULT_PATH.split(':').map(str::to_string));
        }
        let mut unexecutable = None;
        for directory in directories {
            let path = [directory.as_bytes(), b"/", name].concat();
            if !directory.starts_with('/') || self.is_mounted(&path) {
                return;
            }
            match self.tree.resolve(&path) {
                Resolved::File(file) if file.executable => return,
                Resolved::File(file) => unexecutable = unexecutable.or(Some(file)),
                Resolved::Unread(_) => return,
                Resolved::Directory | Resolved::Other | Resolved::Missing => {}
            }
        }
        match unexecutable {
            Some(file) => {
                self.fail(at, &file.path, role, Some(file.layer), by, FailureCause::NotExecutable);
            }
            None => self.fail(at, name, role, None, by, FailureCause::NotInPath),
        }
    }

    /// Records that the kernel refuses the last link of the chain.
    pub(super) fn refuse_last(&mut self, scripts: usize) {
        let Some(at) = self.chain.links.len().checked_sub(1) else { return };
        let link = &self.chain.links[at];
        let is_kernel = self.certainty == Certainty::Kernel;
        let cause = match link.file.facts {
            _ if self.certainty == Certainty::Unknown => return,
            _ if !link.file.executable => FailureCause::NotExecutable,
            Some(FileFacts::Foreign(platform)) => FailureCause::OtherSystem { platform: platform.clone() },
            Some(FileFacts::Data(content)) if is_kernel => FailureCause::NoFormat { content: *content },
            Some(FileFacts::Elf(elf)) if is_kernel && elf.kind == ElfKind::Other => FailureCause::NotProgram,
            Some(FileFacts::Script(_)) if is_kernel && scripts > SCRIPTS_MAX => {
                FailureCause::TooManyInterpreters
            }
            _ => return,
        };
        let (path, role, layer) = (link.file.path.clone(), link.role, link.file.layer);
        if !self.is_mounted(&path) {
            let by = self.needing(at);
            self.fail(at, &path, role, Some(layer), by, cause);
        }
    }

    /// Records that the kernel refuses the loader of this link.
    pub(super) fn refuse_loader(&mut self, at: usize, elf: &Elf, path: &[u8], found: &Resolved<'a>) {
        if !self.chain.links[at].is_certain || self.is_mounted(path) {
            return;
        }
        let layer = |file: &ResolvedFile<'_>| Some(file.layer);
        let (layer, cause) = match found {
            Resolved::Unread(_) => return,
            Resolved::Missing => (None, FailureCause::LoaderAbsent { present: self.loaders(elf) }),
            Resolved::Directory | Resolved::Other => (None, FailureCause::NotRegular),
            Resolved::File(file) if !file.executable => (layer(file), FailureCause::NotExecutable),
            Resolved::File(file) => match file.facts {
                Some(
                    FileFacts::Data(_)
                    | FileFacts::Script(_)
                    | FileFacts::Foreign(_)
                    | FileFacts::WebAssembly(_),
                ) => (layer(file), FailureCause::LoaderInvalid),
                Some(FileFacts::Elf(_) | FileFacts::Unread) | None => return,
            },
        };
        let program = &self.chain.links[at].file;
        let by = NeedingFile { path: display_path(&program.path), layer: program.layer };
        self.fail(at, path, ChainRole::Loader, layer, Some(by), cause);
    }

    /// The loaders for the architecture of a program that the image has.
    fn loaders(&self, elf: &Elf) -> Vec<String> {
        let known = LOADERS.iter().find(|(architecture, _)| *architecture == elf.platform.architecture);
        let known = known.map_or(&[][..], |(_, paths)| paths).iter();
        known
            .filter(|path| matches!(self.tree.resolve(path.as_bytes()), Resolved::File(_)))
            .map(ToString::to_string)
            .collect()
    }

    /// The link before this position, which needs or starts what is there.
    fn needing(&self, at: usize) -> Option<NeedingFile> {
        let file = &self.chain.links.get(at.checked_sub(1)?)?.file;
        Some(NeedingFile { path: display_path(&file.path), layer: file.layer })
    }

    fn fail(
        &mut self,
        at: usize,
        file: &[u8],
        role: ChainRole,
        layer: Option<usize>,
        needed_by: Option<NeedingFile>,
        cause: FailureCause,
    ) {
        // The first link that fails ends the start.
        if self.failed_at.is_some_and(|failed| failed <= at) {
            return;
        }
        self.failed_at = Some(at);
        let file = display_path(file);
        self.chain.failure = Some(StartFailure { file, role: role.text(), layer, needed_by, cause });
    }

    /// Returns whether something else may be mounted at this path, or on the way to it, when the container starts.
    fn is_mounted(&self, path: &[u8]) -> bool {
        let volumes = self.config.volumes.iter().map(String::as_str);
        let mounts: Vec<Vec<u8>> = volumes.chain(MOUNTS).map(|mount| normalize(mount.as_bytes())).collect();
        let is_below = |path: &[u8]| {
            mounts.iter().any(|mount| {
                let rest = path.strip_prefix(mount.as_slice());
                mount.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            })
        };
        let mut is_mounted = is_below(&normalize(path));
        self.tree.resolve_with(path, &mut |on_the_way| is_mounted |= is_below(on_the_way));
        is_mounted
    }
}

#[cfg(test)]
mod tests;
