//! What is registered, and whether it works: the table as it is, each entry tried.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use crate::emulators::{MACHINES, Machine, Target};
use crate::escape::escaped;
use crate::facts;
use crate::kernel::{KernelError, ReadTable, Table};
use crate::owner::{Owner, owner};
use crate::probe::{Outcome, Prober, Ran};
use crate::rule::{Entry, first_match};

#[derive(Debug, Serialize)]
pub struct Status {
    pub mounted: bool,
    pub enabled: bool,
    /// Another table than that of process 1; `null` where that cannot be told.
    pub private: Option<bool>,
    pub entries: Vec<EntryStatus>,
    /// Platforms that neither the CPU nor an entry runs.
    pub missing: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
pub struct EntryStatus {
    pub name: String,
    pub enabled: bool,
    pub interpreter: String,
    pub flags: String,
    /// The first machine whose programs it catches.
    pub machine: Option<&'static str>,
    /// Platforms that it was seen to run.
    pub platforms: Vec<&'static str>,
    pub owner: Owner,
    /// Of the file that the kernel really runs.
    pub version: Option<String>,
    /// `null`: an entry for something else than programs of a known machine.
    pub runs: Option<bool>,
    /// Why it does not run, or what is to be said about one that does.
    pub reason: Option<String>,
}

pub fn status(at: &Path, prober: &Prober) -> Result<Status, KernelError> {
    let table = match Table::open(at) {
        Err(KernelError::NotMounted(_)) => None,
        found => Some(found?),
    };
    let (entries, enabled, private) = match &table {
        Some(table) => (table.entries()?, table.is_enabled()?, facts::is_private(table.device()?)),
        None => (vec![], false, None),
    };
    let outcomes: HashMap<&str, Outcome> =
        Target::all().map(|target| (target.label, prober.run_with_version(target))).collect();
    // Built once: there may be thousands of entries.
    let programs: Vec<(&Machine, Vec<u8>)> =
        MACHINES.iter().map(|machine| (machine, machine.probe())).collect();
    let world = World { entries: &entries, enabled, outcomes: &outcomes, programs: &programs };
    let of_entries = entries.iter().map(|entry| world.entry_status(entry)).collect();
    let runs = |label: &&str| outcomes.get(label).is_some_and(|outcome| outcome.verdict.is_ok());
    let missing = Target::platforms().map(|target| target.label).filter(|label| !runs(label)).collect();
    Ok(Status { mounted: table.is_some(), enabled, private, entries: of_entries, missing })
}

/// All that was read, against which one entry is judged.
struct World<'a> {
    entries: &'a [Entry],
    enabled: bool,
    outcomes: &'a HashMap<&'static str, Outcome>,
    programs: &'a [(&'static Machine, Vec<u8>)],
}

impl World<'_> {
    fn entry_status(&self, entry: &Entry) -> EntryStatus {
        let rule = &entry.rule;
        let found = self.programs.iter().find(|(_, program)| entry.matches(program));
        let mut status = EntryStatus {
            name: escaped(&rule.name),
            enabled: entry.enabled,
            interpreter: escaped(&rule.interpreter),
            flags: rule.flags.to_string(),
            machine: found.map(|(machine, _)| machine.name),
            platforms: vec![],
            owner: owner(rule),
            version: None,
            runs: None,
            reason: None,
        };
        let Some((machine, program)) = found else { return status };
        let verdict = self.verdict(entry, machine, program);
        status.runs = Some(verdict.runs);
        status.reason = verdict.reason;
        status.version = verdict.version;
        if verdict.runs {
            let runs =
                |platform: &&str| self.outcomes.get(platform).is_some_and(|outcome| outcome.verdict.is_ok());
            status.platforms = machine.platforms().filter(runs).collect();
        }
        status
    }

    fn verdict(&self, entry: &Entry, machine: &Machine, program: &[u8]) -> Verdict {
        let fails = |reason: String| Verdict { runs: false, reason: Some(reason), version: None };
        if !entry.enabled {
            return fails("the entry is disabled: binfmt-setup register enables it".to_owned());
        }
        if !self.enabled {
            return fails("binfmt_misc as a whole is switched off: echo 1 > its file status".to_owned());
        }
        // The kernel takes the first entry that matches, and the list is in its order.
        let first = first_match(self.entries, program);
        if let Some(first) = first.filter(|first| first.rule.name != entry.rule.name) {
            return fails(format!("shadowed by {}, which was registered later", escaped(&first.rule.name)));
        }
        // One of the machine's programs that ran, or else the first and its fault.
        let labels = machine.platforms().chain(machine.serves.is_empty().then_some(machine.name));
        let outcomes: Vec<&Outcome> = labels.filter_map(|label| self.outcomes.get(label)).collect();
        let Some(outcome) = outcomes.iter().find(|outcome| outcome.verdict.is_ok()).or(outcomes.first())
        else {
            return fails("there is no program to try it with".to_owned());
        };
        match &outcome.verdict {
        Ok(Ran::Emulated(emulator)) => {
            Verdict { runs: true, reason: remark(entry, emulator), version: emulator.version.clone() }
        }
        Ok(Ran::Native) => fails("the CPU runs these programs itself, and this table is not asked".to_owned()),
        Err(crate::probe::Failed::NoEntry) => fails(
            "the kernel does not use this table for this process: its user namespace once had a table of its own; \
             start in a fresh one"
                .to_owned(),
        ),
        Err(reason) => fails(reason.to_string()),
    }
    }
}

struct Verdict {
    runs: bool,
    reason: Option<String>,
    version: Option<String>,
}

/// What is to be said about an entry though it runs.
fn remark(entry: &Entry, emulator: &crate::probe::Emulator) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let rule = &entry.rule;
    let on_disk = std::fs::metadata(&rule.interpreter).map(|found| (found.dev(), found.ino()));
    let held = (emulator.device, emulator.inode);
    if rule.flags.fix_binary && on_disk.as_ref().is_ok_and(|on_disk| *on_disk != held) {
        return Some(
            "stale: the file was replaced and the kernel holds the old one: register it again".to_owned(),
        );
    }
    if rule.flags.fix_binary && on_disk.is_err() {
        return Some(
            "the kernel holds a file that is not on this disk (any more), perhaps of a container".to_owned(),
        );
    }
    if !rule.flags.fix_binary {
        return Some("no flag F: not in containers and chroots without a copy of the emulator".to_owned());
    }
    if rule.flags.credentials {
        return Some(
            "flag C: set-uid programs run as root under an emulator that its caller can steer".to_owned(),
        );
    }
    (!emulator.kept_argv0).then(|| "argv[0] is replaced by the path (no flag P)".to_owned())
}

impl Status {
    pub fn to_text(&self, color: bool) -> String {
        let mut text = match (self.mounted, self.enabled, self.private) {
            (false, ..) => "binfmt_misc is not mounted\n".to_owned(),
            (true, false, _) => "binfmt_misc is switched off as a whole: no entry works\n".to_owned(),
            (true, true, Some(true)) => "private table of this user namespace\n".to_owned(),
            (true, true, _) => String::new(),
        };
        if !self.entries.is_empty() {
            let mut rows = vec![
                ["ENTRY", "RUNS", "FLAGS", "EMULATOR", "VERSION", "PLATFORMS", "BY", ""].map(String::from),
            ];
            rows.extend(self.entries.iter().map(EntryStatus::row));
            text += &crate::text::columns(&rows, color);
        }
        if !self.missing.is_empty() {
            text += &format!("do not run here: {}\n", self.missing.join(" "));
        }
        text
    }
}

impl EntryStatus {
    fn row(&self) -> [String; 8] {
        let runs = match self.runs {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        // "qemu-arm version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)": the number is what a row has room for.
        let version = self.version.as_deref().and_then(|line| line.split(' ').nth(2)).unwrap_or("-");
        let platforms = match self.platforms.join(",") {
            none if none.is_empty() => self.machine.unwrap_or("-").to_owned(),
            platforms => platforms,
        };
        let reason = self.reason.clone().unwrap_or_default();
        [
            self.name.clone(),
            runs.to_owned(),
            if self.flags.is_empty() { "-".to_owned() } else { self.flags.clone() },
            self.interpreter.clone(),
            escaped(version),
            platforms,
            self.owner.to_string(),
            reason,
        ]
    }
}
