//! Responses to a group of requests.

use std::{
    collections::{BTreeMap, HashMap},
    time::{SystemTime, UNIX_EPOCH},
};

use arrow::{
    array::{Array, AsArray, PrimitiveArray, RecordBatch},
    datatypes::{ArrowPrimitiveType, Float32Type, Int64Type, UInt32Type},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use legenda_schemas::{
    cause::Cause,
    ledger::CommittedFile,
    table::{CODE_COLUMN, MESSAGE_COLUMN},
};
use serde_json::{Value, json};

use super::{BatchError, EmbeddingFormat, Endpoint, Group, Line, Refusal, line_at};
use crate::output::ledger::OutputFiles;

/// The status of a response to a bad request, and of one after an error that is not the client's fault.
const BAD_REQUEST: u16 = 400;
const SERVER_ERROR: u16 = 500;

/// The result of an input.
enum Outcome {
    Text { text: String, finish_reason: &'static str },
    Embedding(Vec<f32>),
    Rejected { stage: String, code: String, message: String },
}

/// A settled input of a request.
struct Settled {
    outcome: Outcome,
    n_prompt: u32,
    n_generated: u32,
    /// The start of the input digest.
    digest: String,
}

impl Group {
    /// Returns the input column of the group's table.
    #[must_use]
    pub fn input_column(&self) -> &'static str {
        if self.endpoint == Endpoint::Chat { "messages" } else { "text" }
    }

    /// Refuses every request of the group.
    pub fn refuse(&self, refusal: &Refusal, responses: &mut BTreeMap<i64, String>) {
        for (number, line) in &self.lines {
            responses.insert(*number, error_line(*number, Some(&line.custom_id), refusal));
        }
    }

    /// Adds the responses to all requests of the group to `responses`, by line, from the `output` of the
    /// group's job.
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
        let mut settled: HashMap<(i64, i64), Settled> = HashMap::new();
        for entry in output.read_entries()? {
            for part in &entry.parts {
                settled.extend(inputs(&read(output, part)?, |rows, row| self.answer(rows, row)));
            }
            for file in entry.rejects_file.iter() {
                settled.extend(inputs(&read(output, file)?, rejected));
            }
        }
        for (number, line) in &self.lines {
            let inputs = (0..).take(line.n_inputs).map(|index| settled.remove(&(*number, index)));
            let response = match inputs.collect::<Option<Vec<Settled>>>() {
                Some(inputs) => self.response(*number, line, &inputs, model),
                None => Err((
                    SERVER_ERROR,
                    Refusal::new(
                        "not_answered",
                        None,
                        "the job did not process this request: run it again",
                    ),
                )),
            };
            let response = response.unwrap_or_else(|(status, refusal)| {
                error_response(*number, Some(&line.custom_id), status, &refusal)
            });
            responses.insert(*number, response);
        }
        Ok(())
    }

    fn answer(&self, rows: &RecordBatch, row: usize) -> Option<Settled> {
        let text = |name| text_at(rows, name, row);
        let outcome = if self.endpoint == Endpoint::Embeddings {
            let lists = rows.column_by_name("embedding")?.as_fixed_size_list_opt()?.value(row);
            Outcome::Embedding(lists.as_primitive_opt::<Float32Type>()?.values().to_vec())
        } else {
            let finish_reason = match text("legenda_finish_reason").as_deref() {
                Some("stop") => "stop",
                _ => "length",
            };
            Outcome::Text { text: text("answer")?, finish_reason }
        };
        let digest = text("legenda_input_sha256").unwrap_or_default();
        Some(Settled {
            outcome,
            // Images have no tokens of their own.
            n_prompt: number_at::<UInt32Type>(rows, "legenda_tokens_prompt", row).unwrap_or(0),
            n_generated: number_at::<UInt32Type>(rows, "legenda_tokens_generated", row)
                .unwrap_or(0),
            digest: digest.get(..24).unwrap_or_default().to_owned(),
        })
    }

    /// Returns the response to a request with settled inputs (at least one).
    fn response(
        &self,
        number: i64,
        line: &Line,
        inputs: &[Settled],
        model: &str,
    ) -> Result<String, (u16, Refusal)> {
        let mut parts = Vec::with_capacity(inputs.len());
        for (index, input) in inputs.iter().enumerate() {
            parts.push(match &input.outcome {
                Outcome::Rejected { stage, code, message } => {
                    return Err(self.rejection(index, line, stage, code, message));
                }
                Outcome::Embedding(values) => {
                    let embedding = line.embedding(values).map_err(|it| (BAD_REQUEST, it))?;
                    json!({"object": "embedding", "index": index, "embedding": embedding})
                }
                Outcome::Text { text, finish_reason } if self.endpoint == Endpoint::Chat => json!({
                    "index": index,
                    "message": {"role": "assistant", "content": text, "refusal": null},
                    "finish_reason": finish_reason,
                    "logprobs": null,
                }),
                Outcome::Text { text, finish_reason } => json!({
                    "index": index, "text": text, "finish_reason": finish_reason, "logprobs": null,
                }),
            });
        }
        let sum = |count: fn(&Settled) -> u32| inputs.iter().map(count).map(u64::from).sum::<u64>();
        let (n_prompt, n_generated) = (sum(|it| it.n_prompt), sum(|it| it.n_generated));
        let usage = json!({
            "prompt_tokens": n_prompt, "completion_tokens": n_generated,
            "total_tokens": n_prompt + n_generated,
        });
        let digest = &inputs[0].digest;
        let body = match self.endpoint {
            Endpoint::Embeddings => json!({
                "object": "list",
                "data": parts,
                "model": model,
                "usage": {"prompt_tokens": n_prompt, "total_tokens": n_prompt},
            }),
            Endpoint::Completions => json!({
                "id": format!("cmpl-{digest}"),
                "object": "text_completion",
                "created": now(),
                "model": model,
                "choices": parts,
                "usage": usage,
            }),
            Endpoint::Chat => json!({
                "id": format!("chatcmpl-{digest}"),
                "object": "chat.completion",
                "created": now(),
                "model": model,
                "choices": parts,
                "usage": usage,
            }),
        };
        Ok(response_line(number, Some(&line.custom_id), 200, &body, &Value::Null))
    }

    /// Returns the error of an input that was rejected, with its index if there are several.
    fn rejection(
        &self,
        index: usize,
        line: &Line,
        stage: &str,
        code: &str,
        message: &str,
    ) -> (u16, Refusal) {
        let is_of_request = matches!(stage, "scan" | "prepare")
            || matches!(code, "prompt_too_long" | "empty_prompt");
        let status = if is_of_request { BAD_REQUEST } else { SERVER_ERROR };
        let input = self.endpoint.input();
        let message = if line.n_inputs > 1 {
            format!("{input}[{index}]: {message}")
        } else {
            message.to_owned()
        };
        (status, Refusal::new(code, is_of_request.then_some(input), message))
    }
}

impl Line {
    /// Encodes an embedding in the requested format.
    fn embedding(&self, values: &[f32]) -> Result<Value, Refusal> {
        if let Some(dimensions) = self.dimensions.filter(|n| *n != values.len() as u64) {
            let message = format!(
                "`dimensions` is {dimensions}, but the model's embeddings have {}: remove it",
                values.len()
            );
            return Err(Refusal::new("unsupported_parameter", Some("dimensions"), message));
        }
        Ok(match self.format {
            EmbeddingFormat::Float => json!(values),
            EmbeddingFormat::Base64 => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                Value::from(BASE64_STANDARD.encode(bytes))
            }
        })
    }
}

/// Returns the response line of a refused request.
#[must_use]
pub fn error_line(line: i64, custom_id: Option<&Value>, refusal: &Refusal) -> String {
    error_response(line, custom_id, BAD_REQUEST, refusal)
}

fn error_response(line: i64, custom_id: Option<&Value>, status: u16, refusal: &Refusal) -> String {
    let Refusal { code, param, message } = refusal;
    let kind = if status == BAD_REQUEST { "invalid_request_error" } else { "server_error" };
    let body = json!({"message": message, "type": kind, "param": param, "code": code});
    let error = json!({"code": code, "message": message});
    response_line(line, custom_id, status, &json!({"error": body}), &error)
}

fn response_line(
    line: i64,
    custom_id: Option<&Value>,
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
    let refuse = |source: Cause| BatchError::Part { path: path(), source };
    let bytes = output.folder.read(&file.name).map_err(|error| refuse(error.source.into()))?;
    let bytes = bytes.ok_or_else(|| refuse("the file is missing".into()))?;
    output.decode(file, bytes).map_err(|error| refuse(error.into()))
}

/// Returns the results of the inputs in some rows, by line and index.
fn inputs(
    batches: &[RecordBatch],
    settled: impl Fn(&RecordBatch, usize) -> Option<Settled>,
) -> Vec<((i64, i64), Settled)> {
    let rows = batches.iter().flat_map(|rows| (0..rows.num_rows()).map(move |row| (rows, row)));
    rows.filter_map(|(rows, row)| {
        let input = (line_at(rows, row)?, number_at::<Int64Type>(rows, "index", row)?);
        Some((input, settled(rows, row)?))
    })
    .collect()
}

fn rejected(rows: &RecordBatch, row: usize) -> Option<Settled> {
    let text = |name| text_at(rows, name, row).unwrap_or_default();
    let (stage, code, message) = (text("legenda_stage"), text(CODE_COLUMN), text(MESSAGE_COLUMN));
    let outcome = Outcome::Rejected { stage, code, message };
    Some(Settled { outcome, n_prompt: 0, n_generated: 0, digest: String::new() })
}

fn text_at(rows: &RecordBatch, name: &str, row: usize) -> Option<String> {
    let column = rows.column_by_name(name)?.as_string_opt::<i32>()?;
    column.is_valid(row).then(|| column.value(row).to_owned())
}

fn number_at<T: ArrowPrimitiveType>(
    rows: &RecordBatch,
    name: &str,
    row: usize,
) -> Option<T::Native> {
    let column: &PrimitiveArray<T> = rows.column_by_name(name)?.as_primitive_opt::<T>()?;
    column.is_valid(row).then(|| column.value(row))
}
