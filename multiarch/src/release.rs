//! The release pipeline: from a release.yaml to one published multi-platform image.
//!
//! The plan is made and printed before anything is changed. Nothing is written to the target before every image is
//! built, verified and tested.

use crate::context::ReleaseContext;
use crate::report::Report;
use crate::stages::build::build;
use crate::stages::fix_platform::fix_platform;
use crate::stages::load::load;
use crate::stages::plan::{ReleasePlan, plan, show};
use crate::stages::prepare::prepare;
use crate::stages::publish::publish;
use crate::stages::register_emulators::register_emulators;
use crate::stages::report::{report, report_failure, save_report};
use crate::stages::smoke::{remove_tree, smoke};
use crate::stages::verify::{VerifiedMembers, verify};
use crate::stages::verify_bases::{refuse_wrong_bases, verify_bases};
use crate::work_dir::{lock, prune, remove_temporary};
use cli::{Format, Output, ProgressDisplay, print_json};
use error::{Error, Exit};
use image_store::options::RegistryArgs;
use image_store::store::oci_layout::OciLayout;
use registry_client::meter;
use std::sync::Arc;
use std::time::SystemTime;
use tag_journal::Journal;

pub use crate::request::{Args, Host};

/// Carries out a release, or prints its plan if `--dry-run` is given.
///
/// # Errors
/// Of whatever kind the stage that failed has. With `--dry-run` aside, a report of the failure is written.
pub fn run(args: &Args, registry: &RegistryArgs, host: &Host, output: &Output) -> Result<Exit, Error> {
    let mut context = load(args, registry, host, output)?;
    let plan = plan_and_show(&context);
    if args.dry_run {
        if let (plan, Format::Json) = (plan?, output.format) {
            print_json(&plan.to_json().to_string());
        }
        context.reporter.output.end_dry_run();
        return Ok(Exit::Done);
    }
    let ended = match plan.and_then(|plan| execute(&context, &plan)) {
        Ok(published) => report(&context, &published),
        Err(error) => Err(report_failure(&context, error)),
    };
    if let Some(dir) = context.request.temporary.take() {
        remove_temporary(dir, &context.request.report);
    }
    ended
}

fn plan_and_show(context: &ReleaseContext<'_>) -> Result<ReleasePlan, Error> {
    let plan = plan(context)?;
    show(context, &plan);
    plan.refuse_drops(&context.request)?;
    refuse_wrong_bases(context, &plan.bases)?;
    Ok(plan)
}

/// Carries out the plan, as the only release in its work directory.
fn execute(context: &ReleaseContext<'_>, plan: &ReleasePlan) -> Result<Report, Error> {
    let began = SystemTime::now();
    let _display = display_progress(context);
    let work_dir = &context.request.work_dir;
    let _lock = lock::acquire(&context.request)?;
    // Before the builds: without a journal, nothing could be rolled back.
    Journal::of_user()?.check()?;
    // A run that was killed may have left an unpacked image.
    remove_tree(&work_dir.join("smoke")).map_err(|e| Error::from_io("remove what a smoke test left", e))?;
    let done = run_stages(context, plan);
    prune::prune(work_dir, began);
    if context.request.is_beside_others {
        prune::prune_siblings(work_dir);
    }
    done
}

fn run_stages(context: &ReleaseContext<'_>, plan: &ReleasePlan) -> Result<Report, Error> {
    prepare(context, &plan.prepare)?;
    verify_bases(context, &plan.builds)?;
    register_emulators(context, &plan.emulators)?;
    let staging = OciLayout::open_or_create(&context.request.work_dir.join("staging"))?;
    let staging = Arc::new(staging.with_temp_files(&context.request.temp_files));
    let members = build(context, &plan.builds, &staging)?;
    let members = fix_platform(context, members, &staging)?;
    prune::mark_used(&staging, members.iter().map(|member| &member.image));
    let evidence = verify(context, &members, &staging)?;
    let smoke = smoke(context, &members, &staging)?;
    let published = publish(context, plan, VerifiedMembers { members, evidence, smoke }, staging)?;
    save_report(context, &published)?;
    Ok(published)
}

fn display_progress(context: &ReleaseContext<'_>) -> ProgressDisplay {
    let board = context.reporter.board.clone();
    let counters = Arc::clone(&context.target.meter);
    ProgressDisplay::start(context.reporter.output, move |since, bar| match board.line() {
        line if line.is_empty() => meter::line(&counters.counts(), since, bar),
        line => line,
    })
}
