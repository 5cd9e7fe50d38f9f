//! `config-patcher fix -`: fixes a `docker save` stream between stdin and stdout.

use super::fix::report::{FixReport, print_changes};
use super::fix::source::PlatformSource;
use super::fix::{FixArgs, refuse_duplicates};
use crate::TOOL;
use crate::plan::{Relabeled, RequestedPlatforms, relabel};
use crate::referrers::AttachedArtifacts;
use cli::{Format, Output, print_json, suggest};
use error::Error;
use error::Exit;
use image_model::reference::Reference;
use image_store::archive::Relabel;
use image_store::archive::stream::{filter, widen_pipe};
use image_store::tree::TreeNode;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

pub fn run(args: &FixArgs, output: &Output) -> Result<Exit, Error> {
    let is_written = !args.check && !args.dry_run;
    let refuse = |why: &str, hint: &str| {
        Err(Error::new(Exit::Usage, "fix the stream on standard input", why).hint(hint))
    };
    if args.output.is_some() || !args.tag.is_empty() {
        return refuse("the result goes to stdout, and names are preserved", "omit --output and --tag");
    }
    if args.in_place || args.force {
        return refuse(
            "a stream is not edited in place and has no tags to move",
            "omit --in-place and --force",
        );
    }
    if args.carry_referrers {
        return refuse("the stream contains no referrers", "omit --carry-referrers");
    }
    let PlatformSource::Requested(requested) = args.platform_source(output)? else {
        return refuse("its layers are not read", "use --set-platform, or save the image to a file");
    };
    if is_written && output.format == Format::Json {
        return refuse("stdout is for the archive", "use JSON with --check or --dry-run");
    }
    if std::io::stdin().is_terminal() {
        return refuse(
            "standard input is a terminal",
            &format!("use a pipe: docker save NAME | {} ...", suggest(TOOL, &["fix", "-"])),
        );
    }
    if is_written && std::io::stdout().is_terminal() {
        return refuse("standard output is a terminal", "use a pipe: ... | docker load");
    }
    let mut fixer = StreamFixer { requested, output, result: None, changed: false };
    let input = std::io::stdin();
    let out: Box<dyn Write> = match is_written {
        // Standard output of std is line-buffered, which a tar does not need.
        true => Box::new(std::fs::File::from(
            std::io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .map_err(|e| Error::from_io("open standard output", e))?,
        )),
        false => Box::new(std::io::sink()),
    };
    widen_pipe(&input);
    widen_pipe(std::io::stdout());
    let input = input.as_fd().try_clone_to_owned().map_err(|e| Error::from_io("open standard input", e))?;
    let passed = filter(std::fs::File::from(input), out, &mut |image| fixer.decide(image))?;
    let changed = fixer.changed;
    if passed.lists_moved && is_written {
        output.info("note: manifest.json and index.json were moved to the end of the archive");
    }
    let StreamResult { digest, mut json } = fixer.result.unwrap_or_default();
    if !is_written && output.format == Format::Json {
        json["changed"] = changed.into();
        print_json(&json.to_string());
    } else {
        output.info(&digest);
    }
    if args.dry_run {
        output.end_dry_run();
    }
    Ok(if args.check && changed { Exit::CheckFailed } else { Exit::Done })
}

/// Fixes the image of a stream when the filter has read its config and manifest.
struct StreamFixer<'a> {
    requested: RequestedPlatforms,
    output: &'a Output,
    result: Option<StreamResult>,
    changed: bool,
}

#[derive(Default)]
struct StreamResult {
    /// The digest of the fixed image or index.
    digest: String,
    /// The JSON form of `fix`.
    json: serde_json::Value,
}

impl StreamFixer<'_> {
    fn decide(&mut self, image: &TreeNode) -> Result<Option<Relabel>, Error> {
        let relabeled = relabel(image, &self.requested, "-")?;
        let way_out = "or save it to a file, where --force does it anyway";
        refuse_duplicates(&Reference::Stdin, None, &relabeled, image, way_out)?;
        print_changes(&relabeled, image, &[], self.output);
        let json = FixReport { relabeled: &relabeled, kept: &[], node: image, output: self.output }.json(
            &AttachedArtifacts::default(),
            None,
            false,
        );
        let Relabeled::Changed(changes) = relabeled else {
            self.result = Some(StreamResult { digest: image.digest().to_string(), json });
            return Ok(None);
        };
        self.result = Some(StreamResult { digest: changes.root.digest().to_string(), json });
        self.changed = true;
        Ok(Some(changes.for_archive(image)))
    }
}
