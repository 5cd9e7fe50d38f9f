//! `cargo xtask release`: from a release.yaml to one published image of many platforms.
//!
//! Read, decide, show, write: the plan is made before anything is done, and shown; then every platform is built into
//! a staging layout, labelled, run, and only when all of them are right does anything leave for the target.

use build::{Member, build_one, job, refuse_mislabelled, run_prepare, smoke_all};
use builders::OpenImage;
use emulation::BinfmtSetup;
use image_store::check::{Depth, check};
use image_store::cli::{Display, Format, Output, print_json, print_line};
use image_store::error::StoreError;
use image_store::exit::Exit;
use image_store::open::{Stores, Target};
use image_store::parallel;
use image_store::plan::{Progress, apply};
use image_store::reference::Reference;
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use plan::{Build, ReleasePlan};
use progress::Board;
use publish::{Kept, Published, brief, combine, other_platforms, refuse_moved, tags_report};
use report::{EvidenceReport, PlatformReport, Report};
use request::{Request, mean};
use smoke::Smoke;
use spec::{LabelPolicy, Spec};
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use unfinished::Unfinished;

pub use request::Args;

pub mod bases;
pub mod build;
pub mod builders;
pub mod emulation;
pub mod gate;
pub mod label;
pub mod plan;
pub mod progress;
pub mod publish;
pub mod record;
pub mod report;
pub mod request;
pub mod rootfs;
pub mod smoke;
pub mod spec;
pub mod summary;
pub mod unchanged;
pub mod unfinished;
pub mod unpack;

pub fn run(args: &Args, output: &Output) -> Result<Exit, StoreError> {
    let begun = Instant::now();
    let request = mean(args)?;
    let stores = Arc::new(Stores::new(args.registry.options().quiet(output.quiet)));
    let open = opener(stores.clone());
    let binfmt = BinfmtSetup::find()?;
    let target = open_target(&request.spec, &stores)?;
    let open_base = open_base(args);
    let plan = decide(&request, &open, &open_base, &binfmt, &target)?;
    output.say_lines(&plan.to_string());
    bases::refuse_wrong(&request, &plan.bases)?;
    if args.dry_run {
        if output.format == Format::Json {
            print_json(&plan.to_json().to_string());
        }
        return Ok(Exit::Done);
    }
    let board = Board::default();
    let display = {
        let board = board.clone();
        Display::start_with(output, move || board.line())
    };
    let done = carry_out(&request, &plan, &open_base, &binfmt, &target, &Voice { output, board }, begun);
    drop(display);
    if let Some(summary) = &request.summary {
        let page = match &done {
            Ok(report) => summary::of_report(report),
            Err(error) => summary::of_error(&plan.place, error),
        };
        summary::append(summary, &page)?;
    }
    let report = done?;
    output.say_lines(&report.table());
    output.say(&format!("report: {}", request.report.display()));
    match output.format {
        Format::Text => print_line(&format!("{}@{}", target.store.place(), report.digest)),
        Format::Json => {
            let text = serde_json::to_string(&report);
            print_json(&text.map_err(|e| StoreError::local("show the report", e.to_string()))?);
        }
    }
    Ok(Exit::Done)
}

/// Who hears of the work while it is done.
struct Voice<'a> {
    output: &'a Output,
    board: Board,
}

fn opener(stores: Arc<Stores>) -> OpenImage {
    Arc::new(move |image| stores.source(image).map(|opened| (opened.store, opened.pointer)))
}

/// For a look at base images: where no network is, that must be found out soon.
fn open_base(args: &Args) -> OpenImage {
    let mut options = args.registry.options();
    options.idle_timeout = options.idle_timeout.min(Duration::from_secs(5));
    options.backoff = options.backoff.min(Duration::from_millis(20));
    opener(Arc::new(Stores::new(options)))
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
    binfmt: &BinfmtSetup,
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
    let tags = plan::plan_tags(&request.spec, &builds, &*target.store)?;
    let first = tags.iter().find(|(tag, _)| target.tags.first() == Some(tag));
    let named = first.and_then(|(_, named)| named.as_ref());
    let published = unchanged::published_index(named, target);
    let others = published.as_ref().map(|index| other_platforms(index, &request.spec));
    let (kept, going) = match request.keeps_others {
        true => (others.unwrap_or_else(|| request.kept.clone()), Vec::new()),
        false => (Vec::new(), others.unwrap_or_default()),
    };
    Ok(ReleasePlan {
        place: target.store.place(),
        prepare: request.spec.prepare.clone(),
        kept,
        going,
        emulators: plan::plan_emulators(&builds, binfmt)?,
        labels_are_fixed: request.spec.labels == LabelPolicy::Fix,
        smoke: request.spec.smoke.clone(),
        bases: bases::look(request, &builds, open_base)?,
        published,
        tags,
        builds,
    })
}

/// Does what the plan says. Nothing leaves for the target before every image is built, labelled and run.
fn carry_out(
    request: &Request,
    plan: &ReleasePlan,
    open_base: &OpenImage,
    binfmt: &BinfmtSetup,
    target: &Target,
    voice: &Voice<'_>,
    begun: Instant,
) -> Result<Report, StoreError> {
    let output = voice.output;
    let _lock = lock(&request.work_dir)?;
    for command in &plan.prepare {
        output.say(&format!("prepare: {}", command.join(" ")));
        run_prepare(command, &request.spec.dir)?;
    }
    if !plan.prepare.is_empty() {
        // Dockerfiles may have been made only now.
        bases::refuse_wrong(request, &bases::look(request, &plan.builds, open_base)?)?;
    }
    if !plan.emulators.missing.is_empty() {
        output.say(&format!("emulators: {}", plan.emulators.command.join(" ")));
        binfmt.register(&plan.emulators.missing)?;
    }
    let staging = Arc::new(OciLayout::open_or_new(&request.work_dir.join("staging"))?);
    let proven = prove(request, plan, binfmt, &staging, voice)?;
    let mut report = publish_all(request, plan, proven, staging, target, output)?;
    report.seconds = begun.elapsed().as_secs_f64();
    report.write(&request.report)?;
    Unfinished::forget(&request.work_dir)?;
    Ok(report)
}

/// The images, and what was shown of each.
struct Proven {
    members: Vec<Member>,
    evidence: Vec<EvidenceReport>,
    smoked: Vec<Option<Smoke>>,
}

fn prove(
    request: &Request,
    plan: &ReleasePlan,
    binfmt: &BinfmtSetup,
    staging: &Arc<OciLayout>,
    Voice { output, board }: &Voice<'_>,
) -> Result<Proven, StoreError> {
    board.next("build", plan.builds.len());
    let members = parallel::map(&plan.builds, request.jobs, |build| {
        let _running = board.begin(&build.spec.platform);
        let member = build_one(request, build, staging)?;
        output.say(&format!("built {} with {}", build.spec.platform, build.builder.name()));
        Ok::<_, StoreError>(member)
    })?;
    refuse_mislabelled(request, &members)?;
    let evidence = gate::hold(request, &members, staging, output)?;
    let smoked = smoke_all(request, &members, staging, binfmt, output, board)?;
    Ok(Proven { members, evidence, smoked })
}

fn publish_all(
    request: &Request,
    plan: &ReleasePlan,
    Proven { members, evidence, smoked }: Proven,
    staging: Arc<OciLayout>,
    target: &Target,
    output: &Output,
) -> Result<Report, StoreError> {
    let members = unchanged::keep_published(members, plan.published.as_ref(), target, output);
    let source: Arc<dyn ImageSource> = staging;
    let published = Published::read(request, target)?;
    let wanted = combine(request, &members, &published, &source, target)?;
    let root = wanted.root.clone();
    let steps = image_store::plan::plan(wanted, &*target.store, &target.tags)?;
    refuse_moved(&steps, plan, request.moved)?;
    output.say_lines(&match output.verbose {
        true => steps.to_string(),
        false => brief(&steps, &members),
    });
    let image = place_from_anywhere(&request.spec.image, &target.store.place());
    let tags = Unfinished::read(&request.work_dir, &image).amend(tags_report(plan, &steps));
    let tags = match steps.tags.is_empty() {
        true => report::as_before(&request.report, &image, tags),
        false => tags,
    };
    Unfinished::new(&image, &tags).keep(&request.work_dir)?;
    apply(&steps, &*target.store, request.moved, &|progress| output.detail(&describe(&progress)))?;
    for tag in &target.tags {
        let problems = check(&*target.store, &Pointer::Tag(tag.clone()), Depth::Documents);
        if !problems.is_empty() {
            let doing = format!("find \"{}:{tag}\" whole after it was published", target.store.place());
            let lines = problems.iter().map(ToString::to_string).collect();
            return Err(StoreError::integrity(doing, "it is not").problems(lines));
        }
    }
    let rows = members.iter().zip(evidence).zip(smoked);
    let mut platforms: Vec<PlatformReport> =
        rows.map(|((member, evidence), smoke)| member.report(evidence, smoke)).collect();
    platforms.extend(published.kept.iter().filter(|kept| kept.is_image()).map(Kept::report));
    Ok(Report {
        report: 1,
        image,
        digest: root.digest().clone(),
        media_type: root.media_type().to_string(),
        changed: !steps.is_nothing(),
        platforms,
        tags,
        seconds: 0.0,
    })
}

/// A registry's name, or a layout's with its folder from the root.
fn place_from_anywhere(image: &Reference, place: &str) -> String {
    match image {
        Reference::OciLayout { dir, .. } => {
            let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.clone());
            Reference::OciLayout { dir, tag: None }.to_string()
        }
        _ => place.to_string(),
    }
}

/// One release at a time in a work folder: two would stage over each other.
fn lock(work_dir: &Path) -> Result<File, StoreError> {
    let doing = || format!("use the work folder \"{}\"", work_dir.display());
    fs::create_dir_all(work_dir).map_err(|e| StoreError::from_io(doing(), e))?;
    let file = File::create(work_dir.join("lock")).map_err(|e| StoreError::from_io(doing(), e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            Err(StoreError::conflict(doing(), "another release is using it")
                .hint("wait for it, or name another folder with --work-dir"))
        }
        Err(fs::TryLockError::Error(error)) => Err(StoreError::from_io(doing(), error)),
    }
}

fn describe(progress: &Progress<'_>) -> String {
    match progress {
        Progress::Blob(blob) => format!("blob {} is there", blob.digest),
        Progress::Document(document) => format!("manifest {} is there", document.digest()),
        Progress::Tag(tag, document) => format!("tag {tag} names {}", document.digest()),
    }
}
