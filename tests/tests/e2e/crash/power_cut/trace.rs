//! Parser of strace output: the system calls with which a program changed files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// System calls that change files or file offsets. One that [`Call`] does not represent is an error.
pub const CALLS: &str = "open,openat,openat2,creat,write,writev,pwrite64,pwritev,pwritev2,copy_file_range,sendfile,splice,\
    fallocate,ftruncate,truncate,lseek,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,\
    mkdirat,rmdir,fsync,fdatasync";

/// A successful call. Paths are absolute.
#[derive(Debug)]
pub enum Call {
    /// The file exists from now on.
    Create(PathBuf),
    Write {
        path: PathBuf,
        at: u64,
        bytes: Vec<u8>,
    },
    /// A write with `O_APPEND`.
    Append {
        path: PathBuf,
        bytes: Vec<u8>,
    },
    /// `copy_file_range`.
    Copy {
        from: (PathBuf, u64),
        to: (PathBuf, u64),
        length: u64,
    },
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
    Mkdir(PathBuf),
    Sync(PathBuf),
}

/// Parses the output of `strace -f -qq -y -xx` for a program that ran in `work`.
pub fn calls(trace: &str, work: &Path) -> Vec<Call> {
    let mut reader = Reader { work, at: BTreeMap::new(), appending: BTreeSet::new(), calls: Vec::new() };
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    for line in trace.lines() {
        let (id, line) = line.split_once(' ').unwrap();
        let line = line.trim_start();
        if line.starts_with("+++") || line.starts_with("---") {
            continue;
        }
        if let Some(start) = line.strip_suffix("<unfinished ...>") {
            begun.insert(id, start.trim_end());
            continue;
        }
        let resumed = line.strip_prefix("<... ").map(|rest| rest.split_once(" resumed>").unwrap().1);
        let line = resumed.map_or(line.to_string(), |rest| format!("{}{rest}", begun.remove(id).unwrap()));
        reader.call(&line);
    }
    reader.calls
}

struct Reader<'a> {
    work: &'a Path,
    /// File offset of each descriptor.
    at: BTreeMap<u32, u64>,
    /// Descriptors that were opened with `O_APPEND`.
    appending: BTreeSet<u32>,
    calls: Vec<Call>,
}

impl Reader<'_> {
    fn call(&mut self, line: &str) {
        let (call, result) = line.rsplit_once(" = ").unwrap_or_else(|| panic!("{line}"));
        let (name, arguments) = call.trim_end().split_once('(').unwrap_or_else(|| panic!("{line}"));
        // Strings are hexadecimal, so they contain no comma.
        let arguments: Vec<&str> = arguments.trim_end_matches(')').split(", ").collect();
        let result = result.split(' ').next().unwrap();
        if result.starts_with('-') {
            return;
        }
        let number = || result.parse::<u64>().unwrap_or_else(|_| panic!("{line}"));
        let fd = |at: usize| self.fd(arguments[at]);
        let known = match name {
            "openat" | "open" => return self.open(arguments[usize::from(name == "openat") + 1], result),
            "lseek" => {
                self.at.insert(fd(0).0, number());
                return;
            }
            "write" | "pwrite64" => {
                let (fd, path) = fd(0);
                let mut bytes = text(arguments[1]);
                bytes.truncate(number() as usize);
                assert_eq!(bytes.len() as u64, number(), "strace truncated the data of {name}");
                match name {
                    "write" if self.appending.contains(&fd) => Call::Append { path, bytes },
                    "write" => Call::Write { path, at: self.advance(fd, number()), bytes },
                    _ => Call::Write { path, at: arguments[3].parse().unwrap(), bytes },
                }
            }
            "copy_file_range" => {
                assert_eq!((arguments[1], arguments[3]), ("NULL", "NULL"), "{line}");
                let ((from, from_path), (to, to_path)) = (fd(0), fd(2));
                let (from, to) = (self.advance(from, number()), self.advance(to, number()));
                Call::Copy { from: (from_path, from), to: (to_path, to), length: number() }
            }
            "rename" => Call::Rename(self.path(arguments[0]), self.path(arguments[1])),
            "renameat" | "renameat2" => {
                Call::Rename(self.path_in(&arguments[..2]), self.path_in(&arguments[2..4]))
            }
            "unlink" => Call::Unlink(self.path(arguments[0])),
            "unlinkat" => Call::Unlink(self.path_in(&arguments[..2])),
            "mkdir" => Call::Mkdir(self.path(arguments[0])),
            "mkdirat" => Call::Mkdir(self.path_in(&arguments[..2])),
            "fsync" | "fdatasync" => Call::Sync(fd(0).1),
            _ => panic!("the model of the disk does not have this call: {line}"),
        };
        self.calls.push(known);
    }

    fn open(&mut self, flags: &str, result: &str) {
        let (fd, path) = self.fd(result);
        self.at.insert(fd, 0);
        assert!(!flags.contains("O_TRUNC") || is_log(&path), "{flags} of {path:?}");
        match flags.contains("O_APPEND") {
            true => self.appending.insert(fd),
            false => self.appending.remove(&fd),
        };
        if flags.split('|').any(|flag| flag == "O_CREAT") {
            self.calls.push(Call::Create(path));
        }
    }

    fn advance(&mut self, fd: u32, by: u64) -> u64 {
        let at = self.at.entry(fd).or_default();
        *at += by;
        *at - by
    }

    /// Parses `5<PATH>`, or `5<PATH>(deleted)` for a file without a name.
    fn fd(&self, argument: &str) -> (u32, PathBuf) {
        let (number, path) = argument.split_once('<').unwrap();
        let (path, deleted) = path.rsplit_once('>').unwrap_or((path, ""));
        let path = [text(path), deleted.as_bytes().to_vec()].concat();
        (number.parse().unwrap(), PathBuf::from(OsString::from_vec(path)))
    }

    /// Parses a descriptor of a directory and a path relative to it.
    fn path_in(&self, arguments: &[&str]) -> PathBuf {
        match arguments[0].starts_with("AT_FDCWD") {
            true => self.path(arguments[1]),
            false => self.fd(arguments[0]).1.join(OsString::from_vec(text(arguments[1]))),
        }
    }

    fn path(&self, argument: &str) -> PathBuf {
        self.work.join(OsString::from_vec(text(argument)))
    }
}

/// Returns whether this is the log of a build, which nothing depends on.
pub fn is_log(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

/// Decodes `"\x61\x62"`, or the same without quotes.
fn text(hexadecimal: &str) -> Vec<u8> {
    let digits = hexadecimal.trim_matches('"').split("\\x").skip(1);
    let byte = |digits: &str| u8::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("{hexadecimal}"));
    digits.map(byte).collect()
}
