//! `cargo xtask release`: from a release.yaml to one published image of many platforms.
//!
//! Read, decide, show, write: the plan is made before anything is done, and shown; then every platform is built into
//! a staging layout, labelled, run, and only when all of them are right does anything leave for the target.

use build::{Build, job};
use builders::OpenImage;
use emulation::BinfmtSetup;
use image_store::cli::{Display, Format, Output, print_json, print_line};
use image_store::error::StoreError;
use image_store::exit::Exit;
use image_store::open::{Stores, Target};
use image_store::parallel;
use image_store::store::Pointer;
use image_store::store::registry::RegistryOptions;
use own::Own;
use plan::{Other, ReleasePlan};
use progress::Board;
use record::Records;
use report::{Report, Step};
use request::{Request, mean};
use spec::{LabelPolicy, Spec};
use std::sync::Arc;
use std::time::{Duration, Instant};
use trace::Trace;

pub use request::Args;

pub mod bases;
pub mod build;
pub mod builders;
mod carry;
pub mod emulation;
pub mod gate;
pub mod kept;
pub mod label;
pub mod own;
pub mod plan;
pub mod progress;
pub mod publish;
pub mod record;
pub mod report;
pub mod request;
pub mod room;
pub mod rootfs;
pub mod sandbox;
pub mod smoke;
pub mod spec;
pub mod summary;
pub mod trace;
pub mod unchanged;
pub mod unfinished;
pub mod unpack;
pub mod work_dir;

pub fn run(args: &Args, output: &Output) -> Result<Exit, StoreError> {
    let begun = Instant::now();
    let request = mean(args)?;
    work_dir::check(&request)?;
    let stores = Arc::new(Stores::new(args.registry.options().quiet(output.quiet)));
    let target = open_target(&request.spec, &stores)?;
    let own = Own::new(&request.work_dir, &request.file, &request.spec.image, &target.store.place());
    let quick = Arc::new(Stores::new(quick_options(args, output)));
    let voice = Voice { output, board: Board::default(), trace: Trace::default() };
    let road = Road { request, target, own, open: opener(stores), open_base: opener(quick.clone()), voice };
    let plan = road.show_plan();
    if args.dry_run {
        if let (plan, Format::Json) = (plan?, output.format) {
            print_json(&plan.to_json().to_string());
        }
        return Ok(Exit::Done);
    }
    let done = plan.and_then(|plan| {
        let board = road.voice.board.clone();
        let _display = Display::start_with(output, move || board.line());
        road.carry_out(&plan, begun)
    });
    match done {
        Ok(report) => road.tell(&report),
        Err(error) => Err(road.tell_failure(error, &quick, begun)),
    }
}

/// Where a release goes, by what, and who hears of it.
struct Road<'a> {
    request: Request,
    target: Target,
    own: Own,
    open: OpenImage,
    open_base: OpenImage,
    voice: Voice<'a>,
}

/// Who hears of the work while it is done.
pub struct Voice<'a> {
    output: &'a Output,
    board: Board,
    trace: Trace,
}

impl Road<'_> {
    fn show_plan(&self) -> Result<ReleasePlan, StoreError> {
        let Self { request, target, open, open_base, voice, .. } = self;
        voice.trace.wanted(plan::tags(&request.spec));
        let plan = decide(request, open, open_base, target)?;
        voice.output.say_lines(&plan.shown(voice.output.verbose));
        voice.trace.tags(&publish::tags_report(&plan, &image_store::plan::Plan::default()));
        voice.trace.at(Step::Bases);
        bases::refuse_wrong(request, &plan.bases)?;
        Ok(plan)
    }

    fn tell(&self, report: &Report) -> Result<Exit, StoreError> {
        let output = self.voice.output;
        if let Some(summary) = &self.request.summary {
            summary::append(summary, &summary::of_report(report))?;
        }
        output.say_lines(&report.table());
        output.say(&format!("report: {}", self.request.report.display()));
        match output.format {
            Format::Text => {
                let digest = report.digest.as_ref().map(ToString::to_string).unwrap_or_default();
                print_line(&format!("{}@{digest}", self.target.store.place()));
            }
            Format::Json => {
                let text = serde_json::to_string(report);
                print_json(&text.map_err(|e| StoreError::local("show the report", e.to_string()))?);
            }
        }
        Ok(Exit::Done)
    }

    /// Report and summary of a release that failed. It failed for a reason of its own: what goes wrong here is only said.
    fn tell_failure(&self, error: StoreError, quick: &Stores, begun: Instant) -> StoreError {
        let Self { request, own, voice: Voice { output, trace, .. }, .. } = self;
        let released = own.released();
        let earlier = report::read(&released, &own.image).map(|_| released);
        let named = |tag: &str| {
            let target = open_target(&request.spec, quick).ok()?;
            let found = target.store.resolve(&Pointer::Tag(tag.into())).ok()?;
            Some(found.map(|found| found.digest))
        };
        let report = trace.failed(&own.image, &error, earlier, named, begun.elapsed());
        let said = report.write(&request.report).map(|()| format!("report: {}", request.report.display()));
        output.say(&said.unwrap_or_else(|error| format!("cannot {error}")));
        if let Some(summary) = &request.summary
            && let Err(error) = summary::append(summary, &summary::of_report(&report))
        {
            output.say(&format!("cannot {error}"));
        }
        error
    }
}

fn opener(stores: Arc<Stores>) -> OpenImage {
    Arc::new(move |image| stores.source(image).map(|opened| (opened.store, opened.pointer)))
}

/// For what may be left out: where no network is, that must be found out soon.
fn quick_options(args: &Args, output: &Output) -> RegistryOptions {
    let mut options = args.registry.options().quiet(output.quiet);
    options.idle_timeout = options.idle_timeout.min(Duration::from_secs(5));
    options.backoff = options.backoff.min(Duration::from_millis(20));
    options
}

fn open_target(spec: &Spec, stores: &Stores) -> Result<Target, StoreError> {
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
) -> Result<ReleasePlan, StoreError> {
    // Engines are asked several questions each, and answer slowly.
    let builds = parallel::map(&request.spec.platforms, parallel::REQUESTS, |one| {
        build::refuse_missing_secrets(one)?;
        let (builder, why) = builders::choose(&one.builder, &one.recipe, open)?;
        let job = job(request, one);
        Ok::<_, StoreError>(Build {
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
        let others = kept::other_images(index, &request.spec);
        others.into_iter().map(|entry| Other::of(entry, &records)).collect::<Vec<_>>()
    });
    let unknown = || request.kept.iter().cloned().map(Other::unknown).collect();
    let (kept, going) = match request.keeps_others {
        true => (others.unwrap_or_else(unknown), Vec::new()),
        false => (Vec::new(), others.unwrap_or_default()),
    };
    Ok(ReleasePlan {
        place: target.store.place(),
        prepare: request.spec.prepare.clone(),
        kept,
        going,
        emulators: plan::plan_emulators(&builds, &BinfmtSetup::find()?)?,
        labels_are_fixed: request.spec.labels == LabelPolicy::Fix,
        smoke: request.spec.smoke.clone(),
        bases: bases::look(request, &builds, open_base)?,
        published,
        tags,
        builds,
    })
}
