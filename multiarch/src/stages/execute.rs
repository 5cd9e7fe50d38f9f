//! The plan carried out: built, proven, published, read back.

use crate::context::ReleaseContext;
use crate::context::Reporter;
use crate::emulation::BinfmtSetup;
use crate::request::Request;
use crate::stages::build::{Member, build_one, refuse_mislabeled, run_prepare, smoke_all};
use crate::stages::plan::ReleasePlan;
use crate::stages::publish::{brief, combine, refuse_moved, tags_report};
use crate::stages::report;
use crate::stages::report::Step;
use crate::stages::report::{EvidenceReport, PlatformReport, Report};
use crate::stages::retained::{Published, hold_kept};
use crate::stages::smoke::{Smoke, remove_tree};
use crate::stages::unchanged;
use crate::stages::verify;
use crate::stages::verify_bases;
use crate::work_dir;
use crate::work_dir::prune;
use crate::work_dir::unfinished::Unfinished;
use error::Error;
use image_store::check::{CheckDepth, check};
use image_store::open::Target;
use image_store::parallel;
use image_store::plan::{Progress, apply};
use image_store::store::oci_layout::OciLayout;
use image_store::store::{ImageSource, Pointer};
use std::fs::{self, File};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

impl ReleaseContext<'_> {
    /// Does what the plan says. Nothing leaves for the target before every image is built, labelled and run.
    pub fn execute(&self, plan: &ReleasePlan, begun: Instant) -> Result<Report, Error> {
        let began = SystemTime::now();
        let work_dir = &self.request.work_dir;
        let _lock = lock(&self.request)?;
        // A run that was killed may have left the tree of an image.
        remove_tree(&work_dir.join("smoke"))
            .map_err(|e| Error::from_io("remove what a smoke test left", e))?;
        let done = self.execute_locked(plan, begun);
        prune::in_folder(work_dir, began);
        if self.request.is_beside_others {
            prune::among_folders(work_dir);
        }
        done
    }

    fn execute_locked(&self, plan: &ReleasePlan, begun: Instant) -> Result<Report, Error> {
        let Self { request, own, open_base, binfmt, reporter, .. } = self;
        let Reporter { output, trace, .. } = reporter;
        trace.at(Step::Prepare);
        for command in &plan.prepare {
            output.info(&format!("prepare: {}", command.join(" ")));
            run_prepare(command, &request.spec.dir)?;
        }
        if !plan.prepare.is_empty() {
            // Dockerfiles may have been made only now.
            trace.at(Step::Bases);
            verify_bases::refuse_wrong(request, &verify_bases::look(request, &plan.builds, open_base)?)?;
        }
        if let Some(binfmt) = binfmt.as_ref().filter(|_| !plan.emulators.missing.is_empty()) {
            trace.at(Step::Emulators);
            output.info(&format!("emulators: {}", plan.emulators.command.join(" ")));
            binfmt.register(&plan.emulators.missing)?;
        }
        let staging = Arc::new(OciLayout::open_or_create(&request.work_dir.join("staging"))?);
        let proven = prove(request, plan, binfmt.as_ref(), &staging, reporter)?;
        let mut report = self.publish_all(plan, proven, staging)?;
        report.seconds = begun.elapsed().as_secs_f64();
        // What a rollback needs first: should the rest fail, it is there.
        report.write(&own.released())?;
        report.write(&request.report)?;
        Unfinished::forget(own)?;
        Ok(report)
    }
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
    binfmt: Option<&BinfmtSetup>,
    staging: &Arc<OciLayout>,
    reporter: &Reporter<'_>,
) -> Result<Proven, Error> {
    let Reporter { output, board, trace } = reporter;
    trace.at(Step::Build);
    board.next("build", plan.builds.len());
    let members = parallel::map(&plan.builds, request.jobs, |build| {
        let _running = board.begin(&build.spec.platform);
        let member = build_one(request, build, staging)?;
        trace.built(member.report(None, None));
        output.info(&format!("built {} with {}", build.spec.platform, build.builder.name()));
        Ok::<_, Error>(member)
    })?;
    prune::use_staged(staging, &members);
    trace.at(Step::Label);
    refuse_mislabeled(request, &members)?;
    trace.at(Step::Binaries);
    let evidence = verify::hold(request, &members, staging, output, trace)?;
    trace.at(Step::Smoke);
    let smoked = smoke_all(request, &members, staging, binfmt, reporter)?;
    Ok(Proven { members, evidence, smoked })
}

impl ReleaseContext<'_> {
    fn publish_all(
        &self,
        plan: &ReleasePlan,
        Proven { members, evidence, smoked }: Proven,
        staging: Arc<OciLayout>,
    ) -> Result<Report, Error> {
        let Self { request, target, own, reporter: Reporter { output, trace, .. }, .. } = self;
        trace.at(Step::Kept);
        let members = unchanged::keep_published(members, plan.published.as_ref(), target, output);
        let source: Arc<dyn ImageSource> = staging;
        let mut published = Published::read(request, target)?;
        hold_kept(request, &mut published, target, output)?;
        let wanted = combine(request, &members, &published, &source, target)?;
        let root = wanted.root.clone();
        let steps = image_store::plan::plan(wanted, &*target.store, &target.tags)?;
        refuse_moved(&steps, plan, request.moved)?;
        output.info_lines(&match output.verbose {
            true => steps.to_string(),
            false => brief(&steps, &members),
        });
        let tags = Unfinished::read(own).amend(tags_report(plan, &steps));
        let tags = match steps.tags.is_empty() {
            true => report::as_before(own, &request.report, tags),
            false => tags,
        };
        Unfinished::new(own, &tags).keep(own)?;
        trace.tags(&tags);
        trace.at(Step::Publish);
        apply(&steps, &*target.store, request.moved, &target.meter, &|progress| {
            trace.happened(&progress);
            output.verbose_info(&describe(&progress));
        })?;
        trace.at(Step::ReadBack);
        read_back(target)?;
        let rows = members.iter().zip(evidence).zip(smoked);
        let mut platforms: Vec<PlatformReport> =
            rows.map(|((member, evidence), smoke)| member.report(Some(evidence), smoke)).collect();
        let runs = !request.spec.smoke.is_empty();
        platforms.extend(published.kept.iter().filter(|kept| kept.is_image()).map(|kept| kept.report(runs)));
        Ok(Report {
            report: 1,
            image: own.image.clone(),
            digest: Some(root.digest().clone()),
            media_type: Some(root.media_type().to_string()),
            changed: !steps.is_nothing(),
            platforms,
            tags,
            seconds: 0.0,
            failed: None,
        })
    }
}

fn read_back(target: &Target) -> Result<(), Error> {
    for tag in &target.tags {
        let problems = check(&*target.store, &Pointer::Tag(tag.clone()), CheckDepth::Documents);
        if !problems.is_empty() {
            let doing =
                format!("find \"{}:{tag}\" whole after it was published", target.store.display_name());
            let lines = problems.iter().map(ToString::to_string).collect();
            return Err(Error::integrity(doing, "it is not").problems(lines));
        }
    }
    Ok(())
}

/// One release at a time in a work folder: two would stage over each other.
fn lock(request: &Request) -> Result<File, Error> {
    let work_dir = &request.work_dir;
    let doing = || format!("use the work directory \"{}\"", work_dir.display());
    work_dir::make(request)?;
    let file = work_dir::open_lock(work_dir)?;
    match file.try_lock() {
        Ok(()) => {
            // When the folder was used last.
            drop(file.set_modified(SystemTime::now()));
            Ok(file)
        }
        Err(fs::TryLockError::WouldBlock) => Err(Error::conflict(doing(), "another release is using it")
            .hint("wait for it, or name another directory with --work-dir")),
        Err(fs::TryLockError::Error(error)) => Err(Error::from_io(doing(), error)),
    }
}

fn describe(progress: &Progress<'_>) -> String {
    match progress {
        Progress::Blob(blob) => format!("blob {} is there", blob.digest),
        Progress::Document(document) => format!("manifest {} is there", document.digest()),
        Progress::Tag(tag, document) => format!("tag {tag} names {}", document.digest()),
    }
}
