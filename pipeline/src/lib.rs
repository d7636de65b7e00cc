//! The data path of a run: a table of records in, a table of answers out.
//!
//! Groups, from bottom to top; each uses only those before it (`tests/tests/tidy/`):
//!
//! - `base`: folders on a disk or in an object store, whose files appear whole (`store`), queues bounded in bytes
//!   (`budget`), third-party code whose panics and endless loops cost a row, not the run (`guard`).
//! - `input`: tables (`source`), images and audio under limits (`media`), SQL over rows (`query`), prompts over
//!   columns (`template`).
//! - `output`: the record of what is committed (`ledger`), tables as bytes (`sink`), answers next to media
//!   files (`sidecar`).
//! - `run`: a job checked before a row is read (`plan`), the stages and what wires them (`run/run.rs`: read it
//!   first), early ends (`stop`), answers that need no computation (`reuse`), rejects that are tried again
//!   (`retry`), counters (`metrics`, `timeline`), the page about a run (`report`).
//! - `insight`: what is in a table (`inspect`), how long a run takes (`estimate`), whether an output is
//!   complete (`verify`), how good answers are (`eval`), and batch files of the OpenAI API as jobs (`openai`).
//!
//! The modules are private; what other crates use is exported below. Nothing here knows the command line or
//! prints; the environment is read only for object stores.

mod base;
mod input;
mod insight;
mod output;
mod run;

/// Crashes on request of tests.
pub mod crash {
    pub use crate::base::crash::at_step;
}

/// Estimates of a run from a sample of its rows.
pub mod estimate {
    pub use crate::{
        insight::estimate::{CONFIDENCE, SamplePlan},
        run::prediction::{Prediction, SettledRows},
    };
}

/// Metrics of answers against references.
pub mod eval {
    pub use crate::insight::eval::{
        Comparison, EvalError, Key, Metric, Pair, Score, compare, rows, scores,
    };
}

/// The rows of an output as one file, or as lines of text.
pub mod export {
    pub use crate::insight::export::{
        AnswerLine, ExportError, ExportOptions, Exported, LineLabel, LineOrder, answer_lines,
        export,
    };
}

/// Shortened texts for messages.
pub mod excerpt {
    pub use crate::base::excerpt::shortened;
}

/// The prompt of the first row.
pub mod first_row {
    pub use crate::insight::first_row::FirstRowError;
}

/// Third-party code whose panics and endless loops cost a row, not the run.
pub mod guard {
    pub use crate::base::guard::{GuardError, guarded, guarded_within, quiet_panics};
}

/// The contents of a table, and a job proposed for it.
pub mod inspect {
    pub use crate::insight::inspect::{
        ColumnFacts, Holds, InspectError, Inspection, Proposal, Spread, inspect,
    };
}

/// The record of what is committed.
pub mod ledger {
    pub use crate::output::ledger::{LedgerError, OutputFiles, Stale};
}

/// Images and audio, decoded under limits.
pub mod media {
    pub use crate::input::media::{Decoded, MediaError};
    /// Audio.
    pub mod audio {
        pub use crate::input::media::audio::decode_audio;
    }
    /// Damaged images.
    pub mod damaged {
        pub use crate::input::media::damaged::decode_image;
    }
    /// Images.
    pub mod image {
        pub use crate::input::media::image::PendingImage;
    }
    /// Media files that cells refer to.
    pub mod locate {
        pub use crate::input::media::locate::MediaRoots;
    }
}

/// SQL over the rows of a table.
pub mod query {
    pub use crate::input::query::QueryError;
}

/// Measurements of the process.
pub mod metrics {
    pub use crate::run::metrics::resident_memory;
}

/// Batch files of the OpenAI API as jobs.
pub mod openai {
    pub use crate::insight::openai::{BatchError, Endpoint, Group, Refusal, Requests, error_line};
}

/// A sample of the answers.
pub mod preview {
    pub use crate::insight::preview::{Preview, answers};
}

/// The HTML page about a run.
pub mod report {
    pub use crate::run::report::{PALETTE, PageError, StoredReport, page, read_gallery, read_page};
}

/// Rejects that are tried again.
pub mod retry {
    pub use crate::run::retry::{RetryChoice, RetryError};
}

/// Tables of every format.
pub mod source {
    pub use crate::input::source::{
        BytesRead, Listed, Skipped, SourceError, SourceFailed, TableFile,
    };
    /// Cells.
    pub mod cell {
        pub use crate::input::source::cell::{media_cells, template_value, text_cell};
    }
    /// Columns.
    pub mod column {
        pub use crate::input::source::column::holds_media;
    }
    /// Rows of one file.
    pub mod reader {
        pub use crate::input::source::reader::FileReader;
    }
}

/// Folders on a disk or in an object store.
pub mod store {
    pub use crate::base::store::{
        BESIDE, Folder, LeaseTerms, StoreFault, WriteError, fault_of, is_url, public_location,
    };
}

/// Prompts over columns.
pub mod template {
    pub use crate::input::template::{Template, TemplateError};
}

/// The proof that an output is complete.
pub mod verify {
    pub use crate::insight::verify::{Problem, verify};
}

pub use run::{
    metrics::{Ending, Progress, RunReport},
    plan::{PlanError, PlanScope, RunPlan},
    run::{RunError, RunOptions, run},
    stage::collect::CollectError,
    stop::Stop,
};
