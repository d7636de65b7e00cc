//! Batch files of OpenAI's API: the requests of one, as jobs over it, and their responses.
//!
//! Requests that are answered alike (endpoint, parameters, with pictures or without) are a group, and
//! a group is a job. What the jobs have written is put together line by line.

use std::{
    collections::{BTreeMap, HashMap},
    time::{SystemTime, UNIX_EPOCH},
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{Float32Type, Int64Type, UInt32Type},
};
use legenda_schemas::{job::SourceFormat, ledger::CommittedFile, sha256_hex};
use serde_json::{Value, json};

use crate::{
    ledger::{LedgerError, OutputFiles},
    source::{
        Listed, SourceError, SourceTable,
        reader::{FileReader, ReadError},
    },
};

/// Why a batch file cannot be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The file.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Its lines.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What a job has written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A part of it.
    #[error("cannot read `{path}`: {problem}; `legenda verify` tells what is wrong")]
    Part {
        /// The part.
        path: String,
        /// What the reader says.
        problem: String,
    },
}

/// The requests of a batch file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Those that can be asked, in groups that are asked alike.
    pub groups: Vec<Group>,
    /// Those that cannot.
    pub refused: Vec<Refused>,
}

/// Requests that are asked alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The endpoint.
    pub url: String,
    /// The keys of `generation` that they set, as JSON.
    pub parameters: String,
    /// Whether they show pictures.
    pub has_images: bool,
    /// Their lines and names.
    pub lines: Vec<(i64, String)>,
}

/// A request that cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its line, counted from 1.
    pub line: i64,
    /// Its name, where it has one.
    pub custom_id: Option<String>,
    /// What is wrong with it.
    pub problem: String,
}

const COLUMNS: [&str; 5] = ["custom_id", "url", "parameters", "line", "has_images"];

impl Requests {
    /// Reads the batch file at `path`, absolute or a URL.
    ///
    /// # Errors
    ///
    /// [`BatchError`]; a damaged line is among the refused.
    pub fn read(path: &str) -> Result<Self, BatchError> {
        let listed = Listed::new(path.to_owned(), Some(SourceFormat::OpenaiBatch));
        let table = SourceTable::open(&[listed], u64::MAX)?;
        let mut this = Self::default();
        let mut by_key: HashMap<(String, String, bool), usize> = HashMap::new();
        for file in &table.files {
            let reader = FileReader::open(file, &table.bytes_read)?;
            for (row_group, size) in file.row_groups.iter().enumerate() {
                let all = 0..size.n_rows;
                let columns = COLUMNS.map(str::to_owned);
                for read in reader.read(row_group, &[all], Some(&columns), 256)? {
                    let read = read?;
                    let damaged: HashMap<usize, String> =
                        read.damaged.into_iter().map(|one| (one.row, one.problem)).collect();
                    this.add(&read.rows, &damaged, &mut by_key);
                }
            }
        }
        Ok(this)
    }

    fn add(
        &mut self,
        rows: &RecordBatch,
        damaged: &HashMap<usize, String>,
        by_key: &mut HashMap<(String, String, bool), usize>,
    ) {
        for row in 0..rows.num_rows() {
            let text = |name| text_at(rows, name, row);
            let line = rows.column_by_name("line");
            let line = line.map_or(0, |line| line.as_primitive::<Int64Type>().value(row));
            if let Some(problem) = damaged.get(&row) {
                let (custom_id, problem) = (text("custom_id"), problem.clone());
                self.refused.push(Refused { line, custom_id, problem });
                continue;
            }
            let images = rows.column_by_name("has_images");
            let has_images = images.is_some_and(|images| images.as_boolean().value(row));
            let url = text("url").unwrap_or_default();
            let parameters = text("parameters").unwrap_or_default();
            let key = (url.clone(), parameters.clone(), has_images);
            let idx = *by_key.entry(key).or_insert_with(|| {
                self.groups.push(Group { url, parameters, has_images, lines: Vec::new() });
                self.groups.len() - 1
            });
            let custom_id = text("custom_id").unwrap_or_default();
            self.groups[idx].lines.push((line, custom_id));
        }
    }
}

impl Group {
    /// Returns a name for the folder of the group's job.
    #[must_use]
    pub fn name(&self) -> String {
        let images = if self.has_images { "images" } else { "" };
        sha256_hex([self.url.as_bytes(), self.parameters.as_bytes(), images.as_bytes()])[..16]
            .to_owned()
    }

    /// Returns the query that chooses the group's rows.
    #[must_use]
    pub fn query(&self) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let (url, parameters) = (quoted(&self.url), quoted(&self.parameters));
        let not = if self.has_images { "" } else { "NOT " };
        format!(
            "SELECT * FROM source WHERE url = {url} AND parameters = {parameters} AND {not}has_images"
        )
    }

    /// Adds the responses that the group's job has written to `responses`, by their lines.
    ///
    /// # Errors
    ///
    /// [`BatchError`].
    pub fn collect(
        &self,
        output: &OutputFiles,
        model: &str,
        responses: &mut BTreeMap<i64, String>,
    ) -> Result<(), BatchError> {
        for entry in output.read_entries()? {
            for part in &entry.parts {
                for rows in read(output, part)? {
                    for row in 0..rows.num_rows() {
                        let response = self.response(&rows, row, model);
                        responses.extend(response);
                    }
                }
            }
            for rows in entry.rejects_file.iter().map(|file| read(output, file)) {
                for rows in rows? {
                    for row in 0..rows.num_rows() {
                        let text = |name| text_at(&rows, name, row);
                        let code = text("legenda_code").unwrap_or_default();
                        // What is refused is told once, by the file itself.
                        let Some(line) = line_at(&rows, row).filter(|_| code != "row_damaged")
                        else {
                            continue;
                        };
                        let message = text("legenda_message").unwrap_or_default();
                        let error = error_line(line, text("custom_id").as_deref(), &code, &message);
                        responses.insert(line, error);
                    }
                }
            }
        }
        Ok(())
    }

    fn response(&self, rows: &RecordBatch, row: usize, model: &str) -> Option<(i64, String)> {
        let text = |name| text_at(rows, name, row);
        let count = |name: &str| -> Option<u32> {
            let column = rows.column_by_name(name)?.as_primitive_opt::<UInt32Type>()?;
            column.is_valid(row).then(|| column.value(row))
        };
        let line = line_at(rows, row)?;
        let digest = text("legenda_input_sha256").unwrap_or_default();
        let digest = digest.get(..24).unwrap_or_default();
        let asked = count("legenda_tokens_prompt").unwrap_or_default();
        let said = count("legenda_tokens_generated").unwrap_or_default();
        let finish = match text("legenda_finish_reason").as_deref() {
            Some("stop") => "stop",
            _ => "length",
        };
        let usage = json!({
            "prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said,
        });
        let body = match self.url.as_str() {
            "/v1/embeddings" => {
                let lists = rows.column_by_name("embedding")?.as_fixed_size_list_opt()?.value(row);
                let numbers = lists.as_primitive_opt::<Float32Type>()?.values().to_vec();
                json!({
                    "object": "list",
                    "data": [{"object": "embedding", "index": 0, "embedding": numbers}],
                    "model": model,
                    "usage": {"prompt_tokens": asked, "total_tokens": asked},
                })
            }
            "/v1/completions" => json!({
                "id": format!("cmpl-{digest}"),
                "object": "text_completion",
                "created": now(),
                "model": model,
                "choices": [{
                    "index": 0, "text": text("answer"), "finish_reason": finish, "logprobs": null,
                }],
                "usage": usage,
            }),
            _ => json!({
                "id": format!("chatcmpl-{digest}"),
                "object": "chat.completion",
                "created": now(),
                "model": model,
                "choices": [{
                    "index": 0,
                    "message": {"role": "assistant", "content": text("answer"), "refusal": null},
                    "finish_reason": finish,
                    "logprobs": null,
                }],
                "usage": usage,
            }),
        };
        let custom_id = text("custom_id");
        Some((line, response_line(line, custom_id.as_deref(), 200, &body, &Value::Null)))
    }
}

/// Returns the line of a request that is not answered.
#[must_use]
pub fn error_line(line: i64, custom_id: Option<&str>, code: &str, message: &str) -> String {
    let error = json!({"code": code, "message": message});
    let told = json!({"message": message, "type": "invalid_request_error", "code": code});
    response_line(line, custom_id, 400, &json!({"error": told}), &error)
}

fn response_line(
    line: i64,
    custom_id: Option<&str>,
    status: u16,
    body: &Value,
    error: &Value,
) -> String {
    json!({
        "id": format!("batch_req_{line}"),
        "custom_id": custom_id,
        "response": {"status_code": status, "request_id": format!("req_{line}"), "body": body},
        "error": error,
    })
    .to_string()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn read(output: &OutputFiles, file: &CommittedFile) -> Result<Vec<RecordBatch>, BatchError> {
    let path = || output.folder.path_of(&file.name);
    let refuse = |problem: String| BatchError::Part { path: path(), problem };
    let bytes = output.folder.read(&file.name).map_err(|error| refuse(error.problem))?;
    let bytes = bytes.ok_or_else(|| refuse("it is gone".to_owned()))?;
    output.decode(file, bytes).map_err(|error| refuse(error.to_string()))
}

fn line_at(rows: &RecordBatch, row: usize) -> Option<i64> {
    let lines = rows.column_by_name("line")?.as_primitive_opt::<Int64Type>()?;
    lines.is_valid(row).then(|| lines.value(row))
}

fn text_at(rows: &RecordBatch, name: &str, row: usize) -> Option<String> {
    let column = rows.column_by_name(name)?.as_string_opt::<i32>()?;
    column.is_valid(row).then(|| column.value(row).to_owned())
}
