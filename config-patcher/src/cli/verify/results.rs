//! The whole result of `verify`, as all reports show it.

use super::image_report::ImageReport;
use super::row::{RequestedImage, Row};
use std::fmt;

/// The result, as all reports show it.
pub struct Results<'a> {
    pub requested: &'a [RequestedImage],
    pub rows: &'a [Row<'a>],
    /// One for each requested image that could be read, in their order.
    pub reports: &'a [ImageReport<'a>],
    pub strict: bool,
    /// Rows that need no attention are not shown.
    pub only_problems: bool,
}

impl<'a> Results<'a> {
    /// The rows that are shown.
    pub fn shown_rows(&self) -> impl Iterator<Item = &'a Row<'a>> {
        let (strict, only_problems) = (self.strict, self.only_problems);
        self.rows.iter().filter(move |row| !only_problems || row.needs_attention(strict))
    }

    /// The manifests' answers about a requested image.
    pub fn report(&self, requested: &RequestedImage) -> Option<&'a ImageReport<'a>> {
        self.reports.iter().find(|report| std::ptr::eq(report.requested, requested))
    }

    /// Returns whether the exit code is 1, if everything could be read.
    pub fn is_wrong(&self) -> bool {
        self.rows.iter().any(|row| row.is_wrong(self.strict))
            || self.reports.iter().any(ImageReport::is_wrong)
    }

    pub fn summary(&self) -> Summary {
        let unread = self.requested.iter().filter(|requested| requested.node.is_err()).count();
        Summary {
            images: self.rows.len() + unread,
            need_attention: self.rows.iter().filter(|row| row.needs_attention(self.strict)).count() + unread,
            incompatible: self.reports.iter().filter(|report| report.is_incompatible()).count(),
            lack_platforms: self.reports.iter().filter(|report| report.lacks_platforms()).count(),
        }
    }
}

/// Counts of images that need attention. A member of an index is an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub images: usize,
    pub need_attention: usize,
    /// Requested images with a compatibility problem.
    pub incompatible: usize,
    /// Requested images that lack a required platform.
    pub lack_platforms: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, need_attention, incompatible, lack_platforms } = *self;
        let verb = if need_attention == 1 { "needs" } else { "need" };
        write!(f, "{need_attention} of {images} images {verb} attention")?;
        if incompatible > 0 {
            write!(f, "; compatibility problems: {incompatible}")?;
        }
        if lack_platforms > 0 {
            write!(f, "; without a required platform: {lack_platforms}")?;
        }
        Ok(())
    }
}
