//! The HTML report of a run: `_legenda/report.html`, a self-contained file.
//!
//! Its data are in `_legenda/report.json` and `gallery.json`, so that the page can be rebuilt and compared
//! with that of another run.

mod charts;
mod gallery;
mod neighbours;
mod page;
mod report;
mod sample;
mod steps;

pub(crate) use self::{gallery::Gallery, report::write, sample::Histogram};
pub use self::{
    page::{PageError, page},
    report::{PALETTE, StoredReport, read_gallery, read_page},
};
