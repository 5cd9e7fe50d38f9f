//! `binfmt-setup register`: handlers for the whole host, all of them or none.

use std::path::Path;
use std::time::Duration;

use cli::{Format, Output};
use error::{Error, Exit};

use super::report::Report;
use crate::apply::apply;
use crate::emulators::{MACHINES, Machine, Target};
use crate::host;
use crate::kernel::{LockedTable, ReadTable, Table, mount_table};
use crate::persist::{self, Files};
use crate::plan::{ExistingHandler, HandlerRequest, Plan, plan_register};
use crate::probe::{Execution, ProbeFailure, ProbeOutcome, Prober};
use crate::request::{Host, Request, Resolved};
use crate::rule::{Entry, first_match};

/// Another process may register and probe all machines meanwhile.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Options of `register`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RegisterOptions {
    /// Replace handlers of other programs or with another emulator.
    pub replace: bool,
    /// Write files to `/etc/binfmt.d`.
    pub persist: bool,
    /// Verify that the handlers work.
    pub probe: bool,
    /// Print the plan only.
    pub dry_run: bool,
}

/// Registers the requested handlers in the table at `at`, which is mounted if necessary.
///
/// # Errors
/// As [`Request::resolve`]; `NotPermitted` without write permission, `Conflict` for an existing handler, `Local` if the
/// kernel refuses a handler or one does not work. The previous state is restored.
pub fn register(
    at: &Path,
    request: &Request,
    options: RegisterOptions,
    output: &Output,
) -> Result<Exit, Error> {
    let prober = Prober::new()?;
    let table = Table::open(at)?;
    let is_mounted = table.is_some();
    if options.dry_run || !is_mounted {
        let entries = table.map_or(Ok(vec![]), |table| table.entries())?;
        let PlannedRegistration { plan, resolved, .. } =
            plan_registration(request, entries, options, &prober)?;
        // A platform that the CPU runs is no reason to mount anything.
        let is_native = !options.dry_run && resolved.handlers.is_empty();
        if options.dry_run || is_native {
            if !is_mounted && !is_native {
                output.info(&format!("binfmt_misc would be mounted at {}", at.display()));
            }
            let files = files_for(&resolved, options)?;
            if is_native {
                check_levels(request, &prober)?;
            }
            Report { plan: &plan, files: &files, resolved: &resolved, is_applied: is_native }
                .print(output)?;
            return Ok(Exit::Done);
        }
    }
    let table = open_for_writing(at, output)?;
    write(at, table, request, options, &prober, output)
}

/// Plans, applies the plan and prints it.
fn write(
    at: &Path,
    mut table: LockedTable,
    request: &Request,
    options: RegisterOptions,
    prober: &Prober,
    output: &Output,
) -> Result<Exit, Error> {
    let entries = table.entries()?;
    let PlannedRegistration { plan, resolved, broken } =
        plan_registration(request, entries, options, prober)?;
    if options.probe && !table.is_enabled()? && !plan.steps().is_empty() {
        let hint = format!("run: echo 1 > {}/status", at.display());
        return Err(
            Error::local("register handlers", "binfmt_misc is disabled: no handler would work").hint(hint)
        );
    }
    plan.steps().iter().for_each(|step| output.verbose_info(&step.to_string()));
    let files = files_for(&resolved, options)?;
    let staged = persist::stage(files.clone())?;
    apply(&plan, &mut table, &mut |new| if options.probe { verify_handlers(new, prober) } else { Ok(()) })?;
    staged.commit()?;
    files.to_string().lines().for_each(|line| output.verbose_info(line));
    if options.persist && !persist::is_read_at_boot() {
        output.warning_printer()(
            "no program of this host reads /etc/binfmt.d at boot: install systemd or OpenRC's binfmt",
        );
    }
    // Unchanged handlers must work as well, otherwise a requested platform does not run.
    let works = match broken {
        Some(error) => Err(error),
        None if options.probe => check_levels(request, prober),
        None => Ok(()),
    };
    // With JSON, an error is the only object on stdout.
    if works.is_ok() || output.format != Format::Json {
        Report { plan: &plan, files: &files, resolved: &resolved, is_applied: true }.print(output)?;
    }
    works.map(|()| Exit::Done)
}

/// Probes requested platforms that are a level of their machine: the CPU model of an emulator may be an older one.
fn check_levels(request: &Request, prober: &Prober) -> Result<(), Error> {
    let is_level = |target: &&Target| !std::ptr::eq(target.program, target.machine.program);
    for target in request.targets.iter().filter(is_level) {
        prober
            .run(*target)
            .result
            .map_err(|reason| platform_does_not_run(target.name, reason.to_string()))?;
    }
    Ok(())
}

/// The error for a platform or machine whose programs do not run.
pub(super) fn platform_does_not_run(name: &str, reason: String) -> Error {
    Error::local(format!("run programs of {name}"), reason)
}

/// Files for all requested handlers, including those that are registered already.
fn files_for(resolved: &Resolved, options: RegisterOptions) -> Result<Files, Error> {
    if !options.persist {
        return Ok(Files::default());
    }
    let on_disk = |handler: &HandlerRequest| (handler.clone(), persist::read(&handler.machine.entry_name()));
    let handlers: Vec<_> = resolved.handlers.iter().map(on_disk).collect();
    persist::plan(&handlers, options.replace)
}

/// Opens and locks the table, and mounts it if necessary. Never opens the host's table in a user namespace.
pub(super) fn open_for_writing(at: &Path, output: &Output) -> Result<LockedTable, Error> {
    let table = match Table::open(at)? {
        Some(table) => table,
        None => {
            let table = mount_table(at)?;
            output.info(&format!(
                "mounted binfmt_misc at {}: in a container, its handlers end with the container",
                at.display()
            ));
            table
        }
    };
    // Root of a user namespace that is root outside as well is allowed to write the host's table.
    if !host::in_initial_user_namespace() && host::is_private_table(table.device()?) == Some(false) {
        let why = "it belongs to the host, and this process is in another user namespace";
        let hint = "use \"binfmt-setup run\", or mount a binfmt_misc of this namespace there";
        return Err(Error::not_permitted(format!("write {}", at.display()), why).hint(hint));
    }
    table.lock(LOCK_TIMEOUT)
}

/// The writes for a request, and what was found on the way.
pub(super) struct PlannedRegistration {
    pub plan: Plan,
    pub resolved: Resolved,
    /// Why a handler that is registered as requested does not work.
    pub broken: Option<Error>,
}

/// Plans the registration of `request` in a table with these entries.
pub(super) fn plan_registration(
    request: &Request,
    entries: Vec<Entry>,
    options: RegisterOptions,
    prober: &Prober,
) -> Result<PlannedRegistration, Error> {
    let outcomes = probe_machines(request, &entries, options, prober);
    let native = outcomes.iter().filter(|(_, outcome)| matches!(outcome.result, Ok(Execution::Native)));
    let host = Host {
        ident: host::own_ident(),
        kernel: host::kernel_version(),
        native: native.map(|(machine, _)| *machine).collect(),
    };
    let resolved = request.resolve(&host)?;
    let existing: Vec<_> = entries.iter().map(|entry| existing_handler(entry, &entries, &outcomes)).collect();
    let plan = plan_register(&resolved.handlers, &existing, options.replace)?;
    let mut unchanged = resolved.handlers.iter().filter(|handler| !plan.writes(&handler.rule.name));
    let broken = unchanged.find_map(|handler| failure_of(handler, &entries, &outcomes));
    Ok(PlannedRegistration { plan, resolved, broken })
}

/// Why a registered handler does not work, if it was probed.
fn failure_of(
    handler: &HandlerRequest,
    entries: &[Entry],
    outcomes: &[(&'static Machine, ProbeOutcome)],
) -> Option<Error> {
    let (machine, outcome) = outcomes.iter().find(|(machine, _)| std::ptr::eq(*machine, handler.machine))?;
    let reason = match &outcome.result {
        Err(ProbeFailure::EmulatorNotFound) if !handler.rule.flags.fix_binary => return None,
        Err(reason) => reason,
        Ok(_) => return None,
    };
    let first = first_match(entries, &machine.probe()).filter(|first| first.rule.name != handler.rule.name);
    Some(platform_does_not_run(
        machine.name,
        match first {
            Some(first) => {
                format!("{} takes precedence over its handler: {reason}", first.rule.name.display())
            }
            None => reason.to_string(),
        },
    ))
}

/// Probes the requested machines before anything is registered: the CPU or an existing handler may run them.
fn probe_machines(
    request: &Request,
    entries: &[Entry],
    options: RegisterOptions,
    prober: &Prober,
) -> Vec<(&'static Machine, ProbeOutcome)> {
    let is_probed = |machine: &&Machine| {
        // Without probes, no emulator may be started: only machines without a handler are probed.
        let may_probe = options.probe || first_match(entries, &machine.probe()).is_none();
        request.includes(machine) && may_probe
    };
    let machines = MACHINES.iter().filter(is_probed);
    machines.map(|machine| (machine, prober.run(Target::of_machine(machine)))).collect()
}

fn existing_handler(
    entry: &Entry,
    all: &[Entry],
    outcomes: &[(&'static Machine, ProbeOutcome)],
) -> ExistingHandler {
    let open_file = outcomes.iter().find_map(|(machine, outcome)| {
        let first = first_match(all, &machine.probe())?;
        match &outcome.result {
            Ok(Execution::Emulated(emulator)) if first.rule.name == entry.rule.name => {
                Some((emulator.device, emulator.inode))
            }
            _ => None,
        }
    });
    let open_file = open_file.filter(|_| entry.rule.flags.fix_binary);
    ExistingHandler { entry: entry.clone(), real_path: entry.rule.interpreter.canonicalize().ok(), open_file }
}

/// Probes every new handler, and the CPU's own machine, which no handler may match.
pub(super) fn verify_handlers(new: &[&HandlerRequest], prober: &Prober) -> Result<(), Error> {
    let does_not_work = |handler: &HandlerRequest, reason: String| {
        let doing = format!("register {}", handler.rule.name.display());
        Err(Error::local(doing, format!("it does not work: {reason}")))
    };
    for handler in new {
        match prober.run(Target::of_machine(handler.machine)).result {
            Ok(Execution::Emulated(emulator))
                if (emulator.device, emulator.inode) == (handler.device, handler.inode) => {}
            Ok(Execution::Emulated(emulator)) => {
                let why = format!("its programs are executed by {}", emulator.path.display());
                return does_not_work(handler, why);
            }
            Ok(Execution::Native) => return does_not_work(handler, "the CPU runs its programs".to_owned()),
            Err(ProbeFailure::EmulatorNotFound) if !handler.rule.flags.fix_binary => {
                // Without flag F it cannot be found in the empty directory of the probe.
            }
            Err(reason) => return does_not_work(handler, reason.to_string()),
        }
    }
    let own = host::own_ident().and_then(|own| MACHINES.iter().find(|machine| machine.ident == own));
    match (own.map(|own| prober.run(Target::of_machine(own)).result), new.first()) {
        (
            Some(Ok(Execution::Emulated(_)) | Err(ProbeFailure::Loop | ProbeFailure::NoHandler)),
            Some(handler),
        ) => does_not_work(handler, "programs of this CPU do not start anymore".to_owned()),
        _ => Ok(()),
    }
}
