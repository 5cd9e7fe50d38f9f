//! `cargo xtask release`: from a release.yaml to one published image of many platforms.
//!
//! Read, decide, show, write: the plan is made before anything is done, and shown; then every platform is built into
//! a staging layout, labelled, run, and only when all of them are right does anything leave for the target.

use builders::{BuildJob, OpenImage};
use emulation::BinfmtSetup;
use image_store::check::{Depth, check};
use image_store::cli::{Format, Output, print_line};
use image_store::digest::Digest;
use image_store::error::StoreError;
use image_store::exit::Exit;
use image_store::manifest::{Descriptor, DocumentError};
use image_store::open::{Stores, Target};
use image_store::options::RegistryArgs;
use image_store::parallel;
use image_store::plan::{MovedTag, Plan, Progress, Wanted, apply};
use image_store::platform::Platform;
use image_store::reference::Reference;
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use image_store::tree::{Image, IndexNode, Node, read_tree};
use label::Labelled;
use manifest_push::index::{Kind, build_index};
use plan::{Build, ReleasePlan};
use report::{LabelReport, PlatformReport, Report, SmokeReport, TagReport};
use smoke::Smoke;
use spec::{LabelPolicy, Spec};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

pub mod builders;
pub mod emulation;
pub mod label;
pub mod plan;
pub mod report;
pub mod rootfs;
pub mod smoke;
pub mod spec;
pub mod unpack;

/// The spec that is meant when none is named: the example, which needs nothing but this workspace.
const EXAMPLE: &str = "examples/multi-arch-example/release.yaml";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The spec; without it the example, which needs nothing but this workspace
    spec: Option<PathBuf>,
    /// Build this platform alone and keep the others as they are published (repeat for several)
    #[arg(long, value_name = "PLATFORM")]
    only: Vec<Platform>,
    /// Publish to this repository, or oci:DIR, instead of the spec's image
    #[arg(long, value_name = "IMAGE")]
    to: Option<Reference>,
    /// Do not run the images before they are published
    #[arg(long)]
    no_smoke: bool,
    /// Show every step and change nothing anywhere
    #[arg(long)]
    dry_run: bool,
    /// Move a tag even if somebody else moved it meanwhile
    #[arg(long)]
    force: bool,
    /// Builds at once
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Where builds are staged; without it .multiarch beside the spec
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Where the JSON report goes; without it report.json in the work folder
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// What a person meant, with the spec read.
struct Request {
    spec: Spec,
    /// Platforms of the spec that are not built this time.
    kept: Vec<Platform>,
    work_dir: PathBuf,
    report: PathBuf,
    jobs: usize,
    moved: MovedTag,
    /// SOURCE_DATE_EPOCH (reproducible-builds.org): the time that images say they were made.
    epoch: Option<u64>,
}

pub fn run(args: &Args, output: &Output) -> Result<Exit, StoreError> {
    let begun = Instant::now();
    let request = mean(args)?;
    let stores = Arc::new(Stores::new(args.registry.options()));
    let open: OpenImage = {
        let stores = stores.clone();
        Arc::new(move |image| stores.source(image).map(|opened| (opened.store, opened.pointer)))
    };
    let binfmt = BinfmtSetup::find()?;
    let target = open_target(&request.spec, &stores)?;
    let plan = decide(&request, &open, &binfmt, &target)?;
    output.say_lines(&plan.to_string());
    if args.dry_run {
        return Ok(Exit::Done);
    }
    let report = carry_out(&request, &plan, &binfmt, &target, output, begun)?;
    report.write(&request.report)?;
    output.say_lines(&report.table());
    output.say(&format!("report: {}", request.report.display()));
    match output.format {
        Format::Text => print_line(&format!("{}@{}", report.image, report.digest)),
        Format::Json => {
            let text = serde_json::to_string(&report);
            print_line(&text.map_err(|e| StoreError::local("show the report", e.to_string()))?);
        }
    }
    Ok(Exit::Done)
}

fn mean(args: &Args) -> Result<Request, StoreError> {
    let file = args.spec.clone().unwrap_or_else(example);
    let mut spec = Spec::load(&file)?;
    if let Some(to) = &args.to {
        spec.image = to.clone();
    }
    if args.no_smoke {
        spec.smoke.clear();
    }
    let mut kept = Vec::new();
    if !args.only.is_empty() {
        let doing = || format!("release \"{}\"", file.display());
        for asked in &args.only {
            if !spec.platforms.iter().any(|one| one.platform.fits(asked)) {
                let said: Vec<String> = spec.platforms.iter().map(|one| one.platform.to_string()).collect();
                return Err(StoreError::bad_input(doing(), format!("the spec has no platform {asked}"))
                    .hint(format!("it has {}", said.join(", "))));
            }
        }
        let is_asked = |platform: &Platform| args.only.iter().any(|asked| asked.fits(platform));
        kept = spec.platforms.iter().map(|one| one.platform.clone()).filter(|p| !is_asked(p)).collect();
        spec.platforms.retain(|one| is_asked(&one.platform));
    }
    let work_dir = args.work_dir.clone().unwrap_or_else(|| spec.dir.join(".multiarch"));
    let report = args.report.clone().unwrap_or_else(|| work_dir.join("report.json"));
    let moved = if args.force { MovedTag::Overwrite } else { MovedTag::Refuse };
    let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => Some(text.parse().map_err(|_| {
            StoreError::bad_input(
                "read SOURCE_DATE_EPOCH",
                format!("\"{text}\" is no number of seconds since 1970"),
            )
        })?),
        Err(_) => None,
    };
    Ok(Request { spec, kept, work_dir, report, jobs: usize::from(args.jobs), moved, epoch })
}

/// The example's spec, wherever in the workspace cargo was called.
fn example() -> PathBuf {
    if Path::new(EXAMPLE).is_file() {
        return EXAMPLE.into();
    }
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).join(EXAMPLE)
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
    binfmt: &BinfmtSetup,
    target: &Target,
) -> Result<ReleasePlan, StoreError> {
    let builds = request
        .spec
        .platforms
        .iter()
        .map(|one| {
            let (builder, why) = builders::choose(one.builder, &one.recipe, open)?;
            let job = job(request, one);
            Ok(Build {
                commands: builder.describe(&job),
                needs_emulator: builder.needs_emulator(&job),
                spec: one.clone(),
                builder,
                why,
            })
        })
        .collect::<Result<Vec<Build>, StoreError>>()?;
    Ok(ReleasePlan {
        place: target.store.place(),
        prepare: request.spec.prepare.clone(),
        kept: request.kept.clone(),
        emulators: plan::plan_emulators(&builds, binfmt)?,
        labels_are_fixed: request.spec.labels == LabelPolicy::Fix,
        smoke: request.spec.smoke.clone(),
        tags: plan::plan_tags(&request.spec, &builds, &*target.store)?,
        builds,
    })
}

/// Everything that a builder needs to know about one image.
fn job(request: &Request, one: &spec::PlatformSpec) -> BuildJob {
    BuildJob {
        platform: one.platform.clone(),
        recipe: one.recipe.clone(),
        work_dir: request.work_dir.join("build").join(file_name(&one.platform)),
        epoch: request.epoch,
    }
}

/// Does what the plan says. Nothing leaves for the target before every image is built, labelled and run.
fn carry_out(
    request: &Request,
    plan: &ReleasePlan,
    binfmt: &BinfmtSetup,
    target: &Target,
    output: &Output,
    begun: Instant,
) -> Result<Report, StoreError> {
    let _lock = lock(&request.work_dir)?;
    for command in &plan.prepare {
        output.say(&format!("prepare: {}", command.join(" ")));
        run_prepare(command, &request.spec.dir)?;
    }
    if !plan.emulators.missing.is_empty() {
        output.say(&format!("emulators: {}", plan.emulators.command.join(" ")));
        binfmt.register(&plan.emulators.missing)?;
    }
    let staging = Arc::new(OciLayout::open_or_new(&request.work_dir.join("staging"))?);
    let members = parallel::map(&plan.builds, request.jobs, |build| {
        let member = build_one(request, build, &staging)?;
        output.say(&format!("built {} with {}", build.spec.platform, build.builder.name()));
        Ok::<_, StoreError>(member)
    })?;
    let smoked = smoke_all(request, &members, &staging, binfmt, output)?;
    let source: Arc<dyn ImageSource> = staging;
    let published = Published::read(request, target)?;
    let wanted = combine(request, &members, &published, &source, target)?;
    let root = wanted.root.clone();
    let steps = image_store::plan::plan(wanted, &*target.store, &target.tags)?;
    refuse_moved(&steps, plan, request.moved)?;
    output.say_lines(&steps.to_string());
    apply(&steps, &*target.store, request.moved, &|progress| output.detail(&describe(&progress)))?;
    for tag in &target.tags {
        let problems = check(&*target.store, &Pointer::Tag(tag.clone()), Depth::Documents);
        if !problems.is_empty() {
            let doing = format!("find \"{}:{tag}\" whole after it was published", target.store.place());
            let lines = problems.iter().map(ToString::to_string).collect();
            return Err(StoreError::integrity(doing, "it is not").problems(lines));
        }
    }
    let mut platforms: Vec<PlatformReport> =
        members.iter().zip(smoked).map(|(member, smoke)| member.report(smoke)).collect();
    platforms.extend(published.kept.iter().map(|kept| kept.report()));
    Ok(Report {
        report: 1,
        image: target.store.place(),
        digest: root.digest().clone(),
        media_type: root.media_type().to_string(),
        changed: !steps.is_nothing(),
        platforms,
        tags: tags_report(plan, &steps),
        seconds: begun.elapsed().as_secs_f64(),
    })
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

fn run_prepare(command: &[String], dir: &Path) -> Result<(), StoreError> {
    let Some((program, args)) = command.split_first() else { return Ok(()) };
    let doing = || format!("prepare with \"{}\"", command.join(" "));
    // stdout is for the result alone, so the command's goes where people look.
    let status = Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .map_err(|e| StoreError::from_io(doing(), e))?;
    match status.success() {
        true => Ok(()),
        false => Err(StoreError::new(Exit::Found, doing(), format!("it ended with {status}"))),
    }
}

/// An image of the release: built now, its label right.
struct Member {
    platform: Platform,
    builder: &'static str,
    tag: Option<String>,
    labelled: Labelled,
    seconds: f64,
}

fn build_one(request: &Request, build: &Build, staging: &OciLayout) -> Result<Member, StoreError> {
    let begun = Instant::now();
    let platform = &build.spec.platform;
    let log = request.work_dir.join("logs").join(format!("{}.log", file_name(platform)));
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).map_err(|e| StoreError::from_io("make the folder for build logs", e))?;
    }
    let built = build.builder.build(&job(request, &build.spec), staging, &log)?;
    let labelled = label::settle(built, platform, request.spec.labels, staging)?;
    Ok(Member {
        platform: platform.clone(),
        builder: build.builder.name(),
        tag: build.spec.tag.clone(),
        labelled,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// `linux-arm-v7`.
pub fn file_name(platform: &Platform) -> String {
    platform.to_string().replace(['/', ':'], "-")
}

impl Member {
    fn report(&self, smoke: SmokeReport) -> PlatformReport {
        let image = &self.labelled.image;
        PlatformReport {
            platform: self.platform.clone(),
            builder: self.builder.to_string(),
            manifest: image.document.digest().clone(),
            config: image.manifest.config.digest.clone(),
            layer_bytes: image.manifest.layers.iter().map(|layer| layer.size).sum(),
            label: LabelReport { built: self.labelled.built.clone(), published: label_of(image) },
            smoke,
            seconds: self.seconds,
        }
    }
}

fn label_of(image: &Image) -> Platform {
    image.config.as_ref().map(|config| config.parsed.platform.clone()).unwrap_or_default()
}

/// Runs each image. One that fails stops the release; one that this host cannot run is said plainly.
fn smoke_all(
    request: &Request,
    members: &[Member],
    staging: &OciLayout,
    binfmt: &BinfmtSetup,
    output: &Output,
) -> Result<Vec<SmokeReport>, StoreError> {
    let command = &request.spec.smoke;
    if command.is_empty() {
        return Ok(members.iter().map(|_| SmokeReport::NotAsked).collect());
    }
    let smoked = parallel::map(members, request.jobs, |member| {
        let dir = request.work_dir.join("smoke").join(file_name(&member.platform));
        let image = &member.labelled.image;
        let result = smoke::smoke(staging, image, &member.platform, command, binfmt, &dir)?;
        output.say(&match &result {
            Smoke::Passed { milliseconds, output } => {
                let said = output.lines().next().unwrap_or_default();
                format!("smoke {}: passed in {milliseconds} ms: {said}", member.platform)
            }
            Smoke::Failed { why, .. } => format!("smoke {}: FAILED: {why}", member.platform),
            Smoke::NotRun { why } => format!("smoke {}: not run on this host: {why}", member.platform),
        });
        Ok::<_, StoreError>(result)
    })?;
    let failed: Vec<String> = members
        .iter()
        .zip(&smoked)
        .filter_map(|(member, smoke)| match smoke {
            Smoke::Failed { why, output } => Some(format!("{}: {why}: {output}", member.platform)),
            Smoke::Passed { .. } | Smoke::NotRun { .. } => None,
        })
        .collect();
    if !failed.is_empty() {
        let doing = format!("release {}", request.spec.image);
        let why = format!("\"{}\" failed in {} of {} images", command.join(" "), failed.len(), members.len());
        return Err(StoreError::new(Exit::Found, doing, why).hint("nothing was published").problems(failed));
    }
    Ok(smoked.into_iter().map(SmokeReport::from).collect())
}

/// What `--only` keeps of the published index.
struct Published {
    kept: Vec<Kept>,
    source: Option<Arc<dyn ImageSource>>,
}

struct Kept {
    entry: Descriptor,
    node: Node,
}

impl Published {
    fn read(request: &Request, target: &Target) -> Result<Self, StoreError> {
        if request.kept.is_empty() {
            return Ok(Self { kept: Vec::new(), source: None });
        }
        let tag = target.tags.first().cloned().unwrap_or_default();
        let doing = format!("keep the other platforms of \"{}:{tag}\"", target.store.place());
        let source: Arc<dyn ImageSource> = target.store.clone();
        let node = match source.resolve(&Pointer::Tag(tag.clone()))? {
            Some(_) => read_tree(&*source, &Pointer::Tag(tag))?,
            None => {
                return Err(
                    StoreError::not_found(doing, "nothing is published there yet").hint("run without --only")
                );
            }
        };
        let Node::Index(IndexNode { index, members, .. }) = node else {
            return Err(
                StoreError::bad_input(doing, "it is one image, not an index").hint("run without --only")
            );
        };
        let mut kept = Vec::new();
        for (entry, node) in index.manifests.into_iter().zip(members) {
            let said = entry.platform.clone().unwrap_or_default();
            if request.kept.iter().any(|platform| platform.fits(&said)) {
                kept.push(Kept { entry, node });
            }
        }
        for platform in &request.kept {
            if !kept.iter().any(|one| one.entry.platform.as_ref().is_some_and(|said| said.fits(platform))) {
                let why = format!("it has no {platform}");
                return Err(StoreError::not_found(doing, why).hint("run without --only"));
            }
        }
        Ok(Self { kept, source: Some(source) })
    }
}

impl Kept {
    fn report(&self) -> PlatformReport {
        let platform = self.entry.platform.clone().unwrap_or_default();
        let image = self.node.images().into_iter().map(|(_, image)| image).next();
        let label = image.map(label_of).unwrap_or_default();
        PlatformReport {
            platform,
            builder: String::new(),
            manifest: self.entry.digest.clone(),
            config: image.map_or(self.entry.digest.clone(), |image| image.manifest.config.digest.clone()),
            layer_bytes: image.map_or(0, |image| image.manifest.layers.iter().map(|layer| layer.size).sum()),
            label: LabelReport { built: label.clone(), published: label },
            smoke: SmokeReport::NotAsked,
            seconds: 0.0,
        }
    }
}

/// The index over all members, in the order of their platforms, with everything it needs.
fn combine(
    request: &Request,
    members: &[Member],
    published: &Published,
    staging: &Arc<dyn ImageSource>,
    target: &Target,
) -> Result<Wanted, StoreError> {
    let mut entries: Vec<Descriptor> = members
        .iter()
        .map(|member| {
            let mut entry = member.labelled.image.document.descriptor();
            entry.platform = Some(member.platform.clone());
            entry
        })
        .collect();
    entries.extend(published.kept.iter().map(|kept| kept.entry.clone()));
    // The same order whatever was built this time: the digest must not depend on it.
    entries.sort_by_key(|entry| entry.platform.as_ref().map(ToString::to_string));
    let annotations = &request.spec.annotations;
    // Docker's list has no annotations; an OCI index holds Docker's manifests just as well.
    let kind = if annotations.is_empty() { Kind::of(&entries) } else { Kind::Oci };
    let failed = |e: DocumentError| {
        StoreError::bad_input(format!("make the index of {}", request.spec.image), e.to_string())
    };
    let mut wanted = Wanted::of_root(build_index(kind, &entries, annotations).map_err(failed)?);
    for member in members {
        wanted.add(&Node::Image(member.labelled.image.clone()), staging, false);
        if let Some(tag) = &member.tag {
            wanted.member_tags.push((tag.clone(), member.labelled.image.document.clone()));
        }
    }
    let target_source: Arc<dyn ImageSource> = target.store.clone();
    for kept in &published.kept {
        wanted.add(&kept.node, published.source.as_ref().unwrap_or(&target_source), false);
    }
    Ok(wanted)
}

/// The tags were looked at when the plan was made. Builds take long; somebody may have released meanwhile.
fn refuse_moved(steps: &Plan, plan: &ReleasePlan, moved: MovedTag) -> Result<(), StoreError> {
    let shown = |digest: &Option<Digest>| digest.as_ref().map_or("nothing".into(), Digest::to_string);
    for step in &steps.tags {
        let planned = plan.tags.iter().find(|(tag, _)| *tag == step.tag).and_then(|(_, was)| was.clone());
        if planned != step.was && moved == MovedTag::Refuse {
            let doing = format!("move tag \"{}\" of \"{}\"", step.tag, steps.place);
            let why = format!(
                "it named {} when the release began and names {} now",
                shown(&planned),
                shown(&step.was)
            );
            return Err(StoreError::conflict(doing, why).hint("run again, or use --force"));
        }
    }
    Ok(())
}

fn tags_report(plan: &ReleasePlan, steps: &Plan) -> Vec<TagReport> {
    let moved: Vec<TagReport> = steps.tags.iter().map(TagReport::from).collect();
    let stayed = plan.tags.iter().filter(|(tag, _)| !moved.iter().any(|step| step.tag == *tag));
    let stayed = stayed.filter_map(|(tag, was)| {
        let was = was.clone()?;
        Some(TagReport { tag: tag.clone(), was: Some(was.clone()), now: was })
    });
    moved.iter().cloned().chain(stayed).collect()
}

fn describe(progress: &Progress<'_>) -> String {
    match progress {
        Progress::Blob(blob) => format!("blob {} is there", blob.digest),
        Progress::Document(document) => format!("manifest {} is there", document.digest()),
        Progress::Tag(tag, document) => format!("tag {tag} names {}", document.digest()),
    }
}
