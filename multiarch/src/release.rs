//! `cargo xtask release`: from a release.yaml to one published image of many platforms.
//!
//! Read, decide, show, write: the plan is made before anything is done, and shown; then every platform is built into
//! a staging layout, labelled, run, and only when all of them are right does anything leave for the target.

use crate::builders::{self, OpenImage};
use crate::context::{ReleaseContext, Reporter};
use crate::emulation::BinfmtSetup;
use crate::progress::Board;
use crate::request::{Request, mean};
use crate::run_state::Trace;
use crate::spec::{LabelPolicy, Spec};
use crate::stages::build::{self, Build, job};
use crate::stages::plan::{self, Other, ReleasePlan};
use crate::stages::report::{self, Report, Step};
use crate::stages::{publish, retained, unchanged, verify_bases};
use crate::summary;
use crate::work_dir;
use crate::work_dir::paths::Own;
use crate::work_dir::records::Records;
use cli::{Format, Output, ProgressDisplay, print_json, print_line};
use error::Error;
use error::Exit;
use image_store::open::{Stores, Target};
use image_store::options::RegistryArgs;
use image_store::parallel;
use image_store::store::Pointer;
use registry_client::{RegistryOptions, Reporting, meter};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::request::Args;

/// What the program that runs the release brings along.
#[derive(Debug, Default)]
pub struct Host {
    /// The spec to read where none is named and the current directory has none.
    pub default_spec: Option<PathBuf>,
    /// The program binfmt-setup, if it is known.
    pub binfmt_setup: Option<PathBuf>,
}

pub fn run(args: &Args, registry: &RegistryArgs, host: &Host, output: &Output) -> Result<Exit, Error> {
    let begun = Instant::now();
    let request = mean(args, host)?;
    work_dir::check(&request)?;
    let reporting = Reporting::new(output.warning_printer(), |line| cli::eprint_line(line.to_string()));
    let stores = Arc::new(Stores::new(registry.options(reporting.clone())));
    let target = open_target(&request.spec, &stores)?;
    let own = Own::new(&request.work_dir, &request.file, &request.spec.image, &target.store.display_name());
    let quick = Arc::new(Stores::new(quick_options(registry, &reporting)));
    let reporter = Reporter { output, board: Board::default(), trace: Trace::default() };
    let context = ReleaseContext {
        request,
        target,
        own,
        binfmt: BinfmtSetup::find(host.binfmt_setup.as_deref()),
        open: opener(stores),
        open_base: opener(quick.clone()),
        reporter,
    };
    let plan = context.show_plan();
    if args.dry_run {
        if let (plan, Format::Json) = (plan?, output.format) {
            print_json(&plan.to_json().to_string());
        }
        return Ok(Exit::Done);
    }
    let done = plan.and_then(|plan| {
        let board = context.reporter.board.clone();
        let meter = Arc::clone(&reporting.meter);
        let _display = ProgressDisplay::start(output, move |since, bar| match board.line() {
            line if line.is_empty() => meter::line(&meter.counts(), since, bar),
            line => line,
        });
        context.execute(&plan, begun)
    });
    match done {
        Ok(report) => context.tell(&report),
        Err(error) => Err(context.tell_failure(error, &quick, begun)),
    }
}

impl ReleaseContext<'_> {
    fn show_plan(&self) -> Result<ReleasePlan, Error> {
        let Self { request, target, open, open_base, binfmt, reporter, .. } = self;
        reporter.trace.wanted(plan::tags(&request.spec));
        let plan = decide(request, open, open_base, target, binfmt.as_ref())?;
        reporter.output.info_lines(&plan.shown(reporter.output.verbose));
        reporter.trace.tags(&publish::tags_report(&plan, &image_store::plan::Plan::default()));
        reporter.trace.at(Step::Bases);
        verify_bases::refuse_wrong(request, &plan.bases)?;
        Ok(plan)
    }

    fn tell(&self, report: &Report) -> Result<Exit, Error> {
        let output = self.reporter.output;
        if let Some(summary) = &self.request.summary {
            summary::append(summary, &summary::of_report(report))?;
        }
        output.info_lines(&report.table());
        output.info(&format!("report: {}", self.request.report.display()));
        match output.format {
            Format::Text => {
                let digest = report.digest.as_ref().map(ToString::to_string).unwrap_or_default();
                print_line(&format!("{}@{digest}", self.target.store.display_name()));
            }
            Format::Json => {
                let text = serde_json::to_string(report);
                print_json(&text.map_err(|e| Error::local("show the report", e.to_string()))?);
            }
        }
        Ok(Exit::Done)
    }

    /// Report and summary of a release that failed. It failed for a reason of its own: what goes wrong here is only said.
    fn tell_failure(&self, error: Error, quick: &Stores, begun: Instant) -> Error {
        let Self { request, own, reporter: Reporter { output, trace, .. }, .. } = self;
        let released = own.released();
        let earlier = report::read(&released, &own.image).map(|_| released);
        let named = |tag: &str| {
            let target = open_target(&request.spec, quick).ok()?;
            let found = target.store.resolve(&Pointer::Tag(tag.into())).ok()?;
            Some(found.map(|found| found.digest))
        };
        let report = trace.failed(&own.image, &error, earlier, named, begun.elapsed());
        let said = report.write(&request.report).map(|()| format!("report: {}", request.report.display()));
        output.info(&said.unwrap_or_else(|error| format!("cannot {error}")));
        if let Some(summary) = &request.summary
            && let Err(error) = summary::append(summary, &summary::of_report(&report))
        {
            output.info(&format!("cannot {error}"));
        }
        error
    }
}

fn opener(stores: Arc<Stores>) -> OpenImage {
    Arc::new(move |image| stores.source(image).map(|opened| (opened.store, opened.pointer)))
}

/// For what may be left out: where no network is, that must be found out soon.
fn quick_options(registry: &RegistryArgs, reporting: &Reporting) -> RegistryOptions {
    let mut options = registry.options(reporting.clone());
    options.idle_timeout = options.idle_timeout.min(Duration::from_secs(5));
    options.backoff = options.backoff.min(Duration::from_millis(20));
    options
}

fn open_target(spec: &Spec, stores: &Stores) -> Result<Target, Error> {
    let mut target = stores.target(&spec.image)?;
    target.tags.clone_from(&spec.tags);
    Ok(target)
}

/// Reads the world and decides. Nothing is written.
fn decide(
    request: &Request,
    open: &OpenImage,
    open_base: &OpenImage,
    target: &Target,
    binfmt: Option<&BinfmtSetup>,
) -> Result<ReleasePlan, Error> {
    // Engines are asked several questions each, and answer slowly.
    let builds = parallel::map(&request.spec.platforms, parallel::REQUESTS, |one| {
        build::refuse_missing_secrets(one)?;
        let (builder, why) = builders::choose(&one.builder, &one.recipe, open)?;
        let job = job(request, one);
        Ok::<_, Error>(Build {
            commands: builder.describe(&job),
            needs_emulator: builder.needs_emulator(&job),
            spec: one.clone(),
            builder,
            why,
        })
    })?;
    let tags = plan::plan_tags(&request.spec, &*target.store)?;
    let first = tags.iter().find(|(tag, _)| target.tags.first() == Some(tag));
    let named = first.and_then(|(_, named)| named.as_ref());
    let published = unchanged::published_index(named, target);
    let records = Records::new(&request.work_dir);
    let others = published.as_ref().map(|index| {
        let others = retained::other_images(index, &request.spec);
        others.into_iter().map(|entry| Other::of(entry, &records)).collect::<Vec<_>>()
    });
    let unknown = || request.kept.iter().cloned().map(Other::unknown).collect();
    let (kept, going) = match request.keeps_others {
        true => (others.unwrap_or_else(unknown), Vec::new()),
        false => (Vec::new(), others.unwrap_or_default()),
    };
    Ok(ReleasePlan {
        place: target.store.display_name(),
        prepare: request.spec.prepare.clone(),
        kept,
        going,
        emulators: plan::plan_emulators(&builds, binfmt)?,
        labels_are_fixed: request.spec.labels == LabelPolicy::Fix,
        smoke: request.spec.smoke.clone(),
        bases: verify_bases::look(request, &builds, open_base)?,
        published,
        tags,
        builds,
    })
}
