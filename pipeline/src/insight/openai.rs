//! Batch files of the OpenAI API: turns requests into jobs, and answers into responses.
//!
//! Requests with the same endpoint, the same parameters except for the seed, and the same presence of images
//! form a group. A group has a table with one row per input, and is a job over it. The results of all jobs
//! are assembled by line.

mod response;
mod table;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    ops::Range,
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::Int64Type,
};
use legenda_schemas::{cause::Cause, job::SourceFormat, sha256_hex};
use serde_json::Value;

pub use self::response::error_line;
pub(crate) use crate::input::source::batch::EmbeddingFormat;
pub use crate::input::source::batch::{Endpoint, Refusal};
use crate::{
    input::source::{
        Listed, SourceError, SourceTable,
        batch::Request,
        reader::{FileReader, ReadError},
    },
    output::ledger::LedgerError,
};

/// An error of answering a batch file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The file cannot be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The lines cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The output of a job cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A part of an output cannot be read.
    #[error("failed to read `{path}`")]
    Part {
        /// The part.
        path: String,
        /// The reader's error.
        source: Cause,
    },
    /// The table of a group cannot be written.
    #[error("failed to write the table of requests `{path}`")]
    Table {
        /// The table.
        path: String,
        /// The error of the system or the writer.
        source: io::Error,
    },
}

/// The requests of a batch file.
#[derive(Debug)]
pub struct Requests {
    /// The valid requests by group.
    pub groups: Vec<Group>,
    /// The invalid requests by line.
    pub refused: BTreeMap<i64, Refused>,
    /// The models named in requests, with the number of requests.
    pub models: BTreeMap<String, usize>,
    /// The number of requests whose id repeats an earlier one.
    pub n_repeated_names: usize,
    table: SourceTable,
}

/// Requests with the same endpoint and parameters.
#[derive(Debug)]
pub struct Group {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The `generation` keys that are set, as JSON.
    pub parameters: String,
    /// Whether the requests contain images.
    pub has_images: bool,
    /// The requests by line.
    pub lines: BTreeMap<i64, Line>,
    /// The row group and row of each request in the file.
    rows: Vec<(usize, usize)>,
}

/// A request of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The client's id.
    pub custom_id: Value,
    /// The number of inputs.
    n_inputs: usize,
    format: EmbeddingFormat,
    dimensions: Option<u64>,
}

/// An invalid request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The client's id, if any.
    pub custom_id: Option<Value>,
    /// The error.
    pub refusal: Refusal,
}

/// The key of a group: endpoint, parameters, whether there are images.
type GroupKey = (Endpoint, String, bool);

/// The columns of a batch file with its raw lines.
const COLUMNS: [&str; 2] = ["line", "request"];
/// The lines read at a time.
const BATCH_LINES: usize = 256;

impl Requests {
    /// Reads the batch file at `path`, absolute or a URL.
    ///
    /// # Errors
    ///
    /// [`BatchError`]; damaged lines are among the refused requests.
    pub fn read(path: &str) -> Result<Self, BatchError> {
        let listed = Listed::new(path.to_owned(), Some(SourceFormat::OpenaiBatch));
        let mut this = Self {
            groups: Vec::new(),
            refused: BTreeMap::new(),
            models: BTreeMap::new(),
            n_repeated_names: 0,
            table: SourceTable::open(&[listed], u64::MAX)?,
        };
        let mut by_key: HashMap<GroupKey, usize> = HashMap::new();
        let mut names: HashSet<String> = HashSet::new();
        for (row_group, n_rows) in this.row_groups() {
            let mut row = 0;
            for lines in this.lines(row_group, std::iter::once(0..n_rows).collect())? {
                for (line, request) in lines? {
                    let at = (row_group, row);
                    row += 1;
                    match request {
                        Ok(request) => this.add(line, at, &request, &mut by_key, &mut names),
                        Err(refused) => drop(this.refused.insert(line, refused)),
                    }
                }
            }
        }
        Ok(this)
    }

    fn row_groups(&self) -> Vec<(usize, usize)> {
        let file = &self.table.files[0];
        file.row_groups.iter().map(|group| group.n_rows).enumerate().collect()
    }

    /// Reads lines of a row group in batches: each line number with its request, or with the problem of a
    /// line that was discarded.
    fn lines(
        &self,
        row_group: usize,
        rows: Vec<Range<usize>>,
    ) -> Result<impl Iterator<Item = Result<Vec<NumberedLine>, BatchError>> + use<>, BatchError>
    {
        let reader = FileReader::open(&self.table.files[0], &self.table.bytes_read)?;
        let columns = COLUMNS.map(str::to_owned);
        let batches = reader.read(row_group, &rows, Some(&columns), BATCH_LINES)?;
        Ok(batches.map(|read| {
            let read = read?;
            let damaged: HashMap<usize, String> =
                read.damaged.into_iter().map(|one| (one.row, one.problem)).collect();
            let rows = &read.rows;
            Ok((0..rows.num_rows())
                .map(|row| {
                    let line = line_at(rows, row).unwrap_or_default();
                    let request = match (damaged.get(&row), bytes_at(rows, row)) {
                        (None, Some(bytes)) => Ok(Request::read(bytes)),
                        (problem, _) => {
                            let problem = problem.map_or("the line is unreadable", String::as_str);
                            let refusal = Refusal::new("invalid_line", None, problem);
                            Err(Refused { custom_id: None, refusal })
                        }
                    };
                    (line, request)
                })
                .collect())
        }))
    }

    fn add(
        &mut self,
        line: i64,
        at: (usize, usize),
        request: &Request,
        by_key: &mut HashMap<GroupKey, usize>,
        names: &mut HashSet<String>,
    ) {
        let Request { custom_id, request, .. } = request;
        if let Some(name) = custom_id
            && !names.insert(name.to_string())
        {
            self.n_repeated_names += 1;
        }
        let (parameters, inputs) = match request {
            Ok(request) => request,
            Err(refusal) => {
                let (custom_id, refusal) = (custom_id.clone(), refusal.clone());
                self.refused.insert(line, Refused { custom_id, refusal });
                return;
            }
        };
        if let Some(model) = &parameters.model {
            *self.models.entry(model.clone()).or_default() += 1;
        }
        let has_images = inputs.iter().any(|input| !input.images.is_empty());
        let set = Value::Object(parameters.set.clone()).to_string();
        let key = (parameters.endpoint, set, has_images);
        let idx = *by_key.entry(key).or_insert_with_key(|(endpoint, parameters, has_images)| {
            self.groups.push(Group {
                endpoint: *endpoint,
                parameters: parameters.clone(),
                has_images: *has_images,
                lines: BTreeMap::new(),
                rows: Vec::new(),
            });
            self.groups.len() - 1
        });
        let group = &mut self.groups[idx];
        group.rows.push(at);
        let (format, dimensions) = (parameters.format, parameters.dimensions);
        let custom_id = custom_id.clone().unwrap_or_default();
        group.lines.insert(line, Line { custom_id, n_inputs: inputs.len(), format, dimensions });
    }
}

/// A line number with its request or its refusal.
type NumberedLine = (i64, Result<Request, Refused>);

impl Group {
    /// Returns the folder name of the group's job.
    #[must_use]
    pub fn name(&self) -> String {
        let images = if self.has_images { "images" } else { "" };
        let parts = [self.endpoint.url(), &self.parameters, images];
        sha256_hex(parts.map(str::as_bytes))[..16].to_owned()
    }
}

fn line_at(rows: &RecordBatch, row: usize) -> Option<i64> {
    let lines = rows.column_by_name("line")?.as_primitive_opt::<Int64Type>()?;
    lines.is_valid(row).then(|| lines.value(row))
}

fn bytes_at(rows: &RecordBatch, row: usize) -> Option<&[u8]> {
    let lines = rows.column_by_name("request")?.as_binary_opt::<i32>()?;
    lines.is_valid(row).then(|| lines.value(row))
}
