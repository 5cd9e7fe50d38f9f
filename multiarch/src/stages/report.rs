//! Writes and prints the report of a release.

use crate::context::{ReleaseContext, Reporter, open_target};
use crate::report::{self, Report, summary};
use cli::{Format, print_json, print_line};
use error::{Error, Exit};
use image_store::store::Pointer;
use std::path::Path;
use tag_journal::Journal;

/// Writes the report of a release that succeeded.
///
/// # Errors
/// `Local` if a file cannot be written; the image is published.
pub fn save_report(context: &ReleaseContext<'_>, published: &Report) -> Result<(), Error> {
    let write = |file: &Path| published.write(&context.request.temp_files, file);
    // The copy that a rollback needs is written first.
    write(&context.paths.released())
        .and_then(|()| write(&context.request.report))
        .and_then(|()| Journal::of_user()?.finish(context.paths.id()))
        .map_err(|error| error.hint(published_as(context, published)))
}

/// The hint of errors after the last tag has moved.
fn published_as(context: &ReleaseContext<'_>, published: &Report) -> String {
    let image = context.target.store.display_name();
    let digest = published.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
    let tag = context.request.spec.tags.first().map(|tag| format!(":{tag}")).unwrap_or_default();
    let rollback = cli::suggest("multiarch", &["rollback", &format!("{image}{tag}")]);
    format!("the image was published as {image}{digest}; to roll it back, run: {rollback}")
}

/// Prints the table to stderr and the image, or its JSON report, to stdout. Appends the summary, if one is wanted.
///
/// # Errors
/// `Local` if the summary cannot be written; the image is published.
pub fn report(context: &ReleaseContext<'_>, published: &Report) -> Result<Exit, Error> {
    let output = context.reporter.output;
    if let Some(file) = &context.request.summary {
        let appended = summary::append(file, &summary::of_report(published));
        appended.map_err(|error| error.hint(published_as(context, published)))?;
    }
    output.info_lines(&published.table());
    output.info(&format!("report: {}", context.request.report.display()));
    match output.format {
        Format::Text => {
            let digest = published.digest.as_ref().map(ToString::to_string).unwrap_or_default();
            print_line(&format!("{}@{digest}", context.target.store.display_name()));
        }
        Format::Json => {
            let text = serde_json::to_string(published);
            print_json(&text.map_err(|e| Error::local("print the report", e.to_string()))?);
        }
    }
    Ok(Exit::Done)
}

/// Writes the report and the summary of a release that failed, and returns its error. An error that occurs here is only
/// printed: the first one is the result.
pub fn report_failure(context: &ReleaseContext<'_>, error: Error) -> Error {
    let ReleaseContext { request, paths, reporter: Reporter { output, state, .. }, .. } = context;
    let released = paths.released();
    let earlier = report::read(&released, &paths.image).map(|_| released);
    let resolve = |tag: &str| {
        let target = open_target(request, &context.quick_stores).ok()?;
        let found = target.store.resolve(&Pointer::Tag(tag.into())).ok()?;
        Some(found.map(|found| found.digest))
    };
    let failed = state.failure_report(&paths.image, &error, earlier, resolve, context.started.elapsed());
    match failed.write(&request.temp_files, &request.report) {
        Ok(()) => output.info(&format!("report: {}", request.report.display())),
        Err(error) => output.info(&format!("cannot {error}")),
    }
    if let Some(file) = &request.summary
        && let Err(error) = summary::append(file, &summary::of_report(&failed))
    {
        output.info(&format!("cannot {error}"));
    }
    error
}
