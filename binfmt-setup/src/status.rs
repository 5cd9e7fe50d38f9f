//! The registered handlers and whether they work.

use std::collections::HashMap;
use std::path::Path;

use cli::table;
use error::Error;
use serde::Serialize;

use crate::emulators::{MACHINES, Machine, Target};
use crate::entry_owner::{EntryOwner, entry_owner};
use crate::host;
use crate::kernel::{ReadTable, Table};
use crate::probe::{Execution, ProbeOutcome, Prober};
use crate::rule::{Entry, first_match};

/// The table of handlers. Field names are keys of the JSON output.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Whether binfmt_misc is mounted.
    pub mounted: bool,
    /// Whether binfmt_misc is enabled as a whole.
    pub enabled: bool,
    /// Whether it differs from the table of process 1; `null` if that is unknown.
    pub private: Option<bool>,
    /// In the order in which the kernel compares them.
    pub entries: Vec<EntryStatus>,
    /// Platforms that do not run.
    pub missing: Vec<&'static str>,
}

/// One handler. Field names are keys of the JSON output.
#[derive(Debug, Serialize)]
pub struct EntryStatus {
    /// The name of the entry.
    pub name: String,
    /// Whether the entry is enabled.
    pub enabled: bool,
    /// The path of the emulator.
    pub interpreter: String,
    /// Letters of POCF.
    pub flags: String,
    /// The first machine whose programs it matches.
    pub machine: Option<&'static str>,
    /// Platforms whose programs it ran.
    pub platforms: Vec<&'static str>,
    /// The program that registered it.
    pub owner: EntryOwner,
    /// Version of the emulator that the kernel executes.
    pub version: Option<String>,
    /// `null` if it is not for programs of a known machine.
    pub runs: Option<bool>,
    /// Why it does not run, or a limitation of one that does.
    pub reason: Option<String>,
}

/// Reads the table at `at` and probes every machine.
///
/// # Errors
/// `NotPermitted` or `Local` if the table cannot be read.
pub fn status(at: &Path, prober: &Prober) -> Result<Status, Error> {
    let table = Table::open(at)?;
    let (entries, enabled, private) = match &table {
        Some(table) => (table.entries()?, table.is_enabled()?, host::is_private_table(table.device()?)),
        None => (vec![], false, None),
    };
    let outcomes: HashMap<&str, ProbeOutcome> =
        Target::all().map(|target| (target.name, prober.run_with_version(target))).collect();
    // Created once: there may be thousands of entries.
    let programs: Vec<(&Machine, Vec<u8>)> =
        MACHINES.iter().map(|machine| (machine, machine.probe())).collect();
    let inputs = StatusInputs { entries: &entries, enabled, outcomes: &outcomes, programs: &programs };
    let of_entries = entries.iter().map(|entry| inputs.entry_status(entry)).collect();
    let runs = |name: &&str| outcomes.get(name).is_some_and(|outcome| outcome.result.is_ok());
    let missing = Target::platforms().map(|target| target.name).filter(|name| !runs(name)).collect();
    Ok(Status { mounted: table.is_some(), enabled, private, entries: of_entries, missing })
}

/// Everything from which the status of an entry follows.
struct StatusInputs<'a> {
    entries: &'a [Entry],
    enabled: bool,
    outcomes: &'a HashMap<&'static str, ProbeOutcome>,
    programs: &'a [(&'static Machine, Vec<u8>)],
}

impl StatusInputs<'_> {
    fn entry_status(&self, entry: &Entry) -> EntryStatus {
        let rule = &entry.rule;
        let found = self.programs.iter().find(|(_, program)| entry.matches(program));
        let mut status = EntryStatus {
            name: rule.name.display().to_string(),
            enabled: entry.enabled,
            interpreter: rule.interpreter.display().to_string(),
            flags: rule.flags.to_string(),
            machine: found.map(|(machine, _)| machine.name),
            platforms: vec![],
            owner: entry_owner(rule),
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
                |platform: &&str| self.outcomes.get(platform).is_some_and(|outcome| outcome.result.is_ok());
            status.platforms = machine.platforms().filter(runs).collect();
        }
        status
    }

    fn verdict(&self, entry: &Entry, machine: &Machine, program: &[u8]) -> Verdict {
        let fails = |reason: String| Verdict { runs: false, reason: Some(reason), version: None };
        if !entry.enabled {
            return fails(format!(
                "the handler is disabled; enable it with: binfmt-setup register {}",
                machine.name
            ));
        }
        if !self.enabled {
            return fails(
                "binfmt_misc is disabled; run: echo 1 > /proc/sys/fs/binfmt_misc/status".to_owned(),
            );
        }
        // The kernel uses the first entry that matches, and the list is in its order.
        let first = first_match(self.entries, program);
        if let Some(first) = first.filter(|first| first.rule.name != entry.rule.name) {
            return fails(format!("shadowed by {}, which was registered later", first.rule.name.display()));
        }
        // A program of the machine that ran, or else the first one and its failure.
        let names = machine.platforms().chain(machine.platform_programs.is_empty().then_some(machine.name));
        let outcomes: Vec<&ProbeOutcome> = names.filter_map(|name| self.outcomes.get(name)).collect();
        let Some(outcome) = outcomes.iter().find(|outcome| outcome.result.is_ok()).or(outcomes.first())
        else {
            return fails("there is no program to probe it with".to_owned());
        };
        match &outcome.result {
        Ok(Execution::Emulated(emulator)) => {
            Verdict { runs: true, reason: note(entry, emulator), version: emulator.version.clone() }
        }
        Ok(Execution::Native) => fails("the CPU runs these programs, so the handler is not used".to_owned()),
        Err(crate::probe::ProbeFailure::NoHandler) => fails(
            "the kernel does not use this table for this process, because its user namespace had another one before; \
             use a new user namespace"
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

/// A limitation of an entry that runs.
fn note(entry: &Entry, emulator: &crate::probe::Emulator) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let rule = &entry.rule;
    let on_disk = std::fs::metadata(&rule.interpreter).map(|found| (found.dev(), found.ino()));
    let open_file = (emulator.device, emulator.inode);
    if rule.flags.fix_binary && on_disk.as_ref().is_ok_and(|on_disk| *on_disk != open_file) {
        return Some(
            "stale: the file was replaced, and the kernel uses the old one; register it again".to_owned(),
        );
    }
    if rule.flags.fix_binary && on_disk.is_err() {
        return Some("the emulator is not on this disk: it was deleted, or is in a container".to_owned());
    }
    if !rule.flags.fix_binary {
        return Some("no flag F: containers and chroots require a copy of the emulator".to_owned());
    }
    if rule.flags.credentials {
        return Some(
            "flag C: set-uid programs run as root, and every user who starts one controls the emulator"
                .to_owned(),
        );
    }
    (!emulator.kept_argv0).then(|| "argv[0] is replaced by the path (no flag P)".to_owned())
}

impl Status {
    /// The table of handlers for people.
    pub fn to_text(&self) -> String {
        let mut text = match (self.mounted, self.enabled, self.private) {
            (false, ..) => "binfmt_misc is not mounted\n".to_owned(),
            (true, false, _) => "binfmt_misc is disabled: no handler works\n".to_owned(),
            (true, true, Some(true)) => "private handlers of this user namespace\n".to_owned(),
            (true, true, _) => String::new(),
        };
        if !self.entries.is_empty() {
            let rows: Vec<_> = self.entries.iter().map(EntryStatus::row).collect();
            text += &table(&HEADING, &rows);
        }
        if !self.missing.is_empty() {
            text += &format!("platforms that do not run: {}\n", self.missing.join(" "));
        }
        text
    }
}

const HEADING: [&str; 8] = ["HANDLER", "RUNS", "FLAGS", "EMULATOR", "VERSION", "PLATFORMS", "OWNER", ""];

impl EntryStatus {
    fn row(&self) -> Vec<String> {
        let runs = match self.runs {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        // "qemu-arm version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)": a row has room for the number only.
        let version = self.version.as_deref().and_then(|line| line.split(' ').nth(2)).unwrap_or("-");
        let platforms = match self.platforms.join(",") {
            none if none.is_empty() => self.machine.unwrap_or("-").to_owned(),
            platforms => platforms,
        };
        vec![
            self.name.clone(),
            runs.to_owned(),
            if self.flags.is_empty() { "-".to_owned() } else { self.flags.clone() },
            self.interpreter.clone(),
            version.to_owned(),
            platforms,
            self.owner.to_string(),
            self.reason.clone().unwrap_or_default(),
        ]
    }
}
