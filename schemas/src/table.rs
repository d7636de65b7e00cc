//! The Arrow schemas of answers and rejects.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, Field, Fields, Schema};

use crate::{
    answer::Member,
    job::{RejectsMode, TaskKind},
};

/// The kinds of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// A string, in the column `answer`.
    Text,
    /// An embedding, in the column `embedding`.
    Embedding {
        /// The number of values.
        dimension: usize,
    },
}

/// Returns the answer column of a task.
#[must_use]
pub fn answer_column(task: TaskKind) -> &'static str {
    match task {
        TaskKind::Embed => "embedding",
        _ => ANSWER_COLUMN,
    }
}

/// The column with the flags of answers.
pub const FLAGS_COLUMN: &str = "legenda_flags";

/// Returns the list item field of the flags column.
#[must_use]
pub fn flags_item() -> Field {
    Field::new_list_field(DataType::Utf8, false)
}

fn flags_field() -> Field {
    Field::new(FLAGS_COLUMN, DataType::List(Arc::new(flags_item())), false)
}

/// Returns the list item field of the embedding column.
#[must_use]
pub fn embedding_item() -> Field {
    Field::new_list_field(DataType::Float32, true)
}

/// The prefix of accounting columns; a carried column must not have it.
pub const RESERVED_PREFIX: &str = "legenda_";

/// The column with the row index in the input file, for rejects and partitioned answers.
pub const ROW_COLUMN: &str = "legenda_row";

/// The column with the status of a row: `ok`, `reused` or `rejected`.
pub const STATUS_COLUMN: &str = "legenda_status";

/// The column of text answers.
pub const ANSWER_COLUMN: &str = "answer";

/// The column with the message of a reject.
pub const MESSAGE_COLUMN: &str = "legenda_message";

/// The column with the code of a reject.
pub const CODE_COLUMN: &str = "legenda_code";

/// The column with the code of an inline reject.
pub const INLINE_CODE_COLUMN: &str = "legenda_reject_code";

/// The column with the message of an inline reject.
pub const INLINE_MESSAGE_COLUMN: &str = "legenda_reject_message";

/// Returns the answer column, the columns of a typed answer and the accounting columns after them.
///
/// | name | type | meaning |
/// |---|---|---|
/// | `answer` | `Utf8`, null if rejected | a generated text |
/// | each of `members` | as declared, null if rejected | a value of a typed answer |
/// | or `embedding` | `FixedSizeList<Float32, D>`, null if rejected | an embedding |
/// | `legenda_status` | `Utf8` | `ok`, `reused` (taken from `reuse.store`) or `rejected` |
/// | `legenda_finish_reason` (text) | `Utf8`, null if rejected | `stop`, `length` or `guard` |
/// | `legenda_flags` | `List<Utf8>`, never null | conditions of the row's input ([`Flag`](crate::flag::Flag)): `media_damaged`, `channels_cancel`; usually empty, always empty for rejects |
/// | `legenda_tokens_prompt` | `UInt32`, null if rejected | prompt tokens, including media; for an embedding, tokens of the embedded text after truncation, null for an image |
/// | `legenda_tokens_generated` (text) | `UInt32`, null if rejected | generated tokens, including the end token |
/// | `legenda_logprob_mean` (text) | `Float32`, null if rejected | mean natural log probability of the generated tokens |
/// | `legenda_input_sha256` | `Utf8`, null if the row could not be read | digest of prompt and media |
///
/// With inline rejects, `legenda_reject_code` and `legenda_reject_message` follow. With
/// `output.partition_by`, `legenda_row` (`UInt64`) follows, because the order of rows is lost.
#[must_use]
pub fn answer_fields(
    kind: AnswerKind,
    members: &[Member],
    rejects: RejectsMode,
    is_partitioned: bool,
) -> Vec<Field> {
    let inline = rejects == RejectsMode::Inline;
    let status = Field::new(STATUS_COLUMN, DataType::Utf8, false);
    let mut fields = match kind {
        AnswerKind::Text => vec![
            Field::new(answer_column(TaskKind::Generate), DataType::Utf8, inline),
            status,
            Field::new("legenda_finish_reason", DataType::Utf8, inline),
            flags_field(),
            Field::new("legenda_tokens_prompt", DataType::UInt32, inline),
            Field::new("legenda_tokens_generated", DataType::UInt32, inline),
            Field::new("legenda_logprob_mean", DataType::Float32, inline),
        ],
        AnswerKind::Embedding { dimension } => {
            let size = i32::try_from(dimension).unwrap_or(i32::MAX);
            let list = DataType::FixedSizeList(Arc::new(embedding_item()), size);
            vec![
                Field::new(answer_column(TaskKind::Embed), list, inline),
                status,
                flags_field(),
                Field::new("legenda_tokens_prompt", DataType::UInt32, true),
            ]
        }
    };
    fields.splice(1..1, members.iter().map(|member| member.field(inline)));
    fields.push(Field::new("legenda_input_sha256", DataType::Utf8, inline));
    if inline {
        fields.push(Field::new(INLINE_CODE_COLUMN, DataType::Utf8, true));
        fields.push(Field::new(INLINE_MESSAGE_COLUMN, DataType::Utf8, true));
    }
    if is_partitioned {
        fields.push(Field::new(ROW_COLUMN, DataType::UInt64, false));
    }
    fields
}

/// Returns the schema of answers: carried columns, answer columns, accounting columns. `metadata` contains
/// the model, its revision, the prompt and the job fingerprint.
#[must_use]
pub fn answer_schema(
    carried: &Fields,
    (kind, members): (AnswerKind, &[Member]),
    rejects: RejectsMode,
    is_partitioned: bool,
    metadata: HashMap<String, String>,
) -> Schema {
    let carried = carried.iter().map(|field| field.as_ref().clone());
    let own = answer_fields(kind, members, rejects, is_partitioned);
    let fields: Vec<Field> = carried.chain(own).collect();
    Schema::new_with_metadata(fields, metadata)
}

/// Returns the schema of rejects: the original row, then the location and reason of the rejection.
///
/// | name | type | meaning |
/// |---|---|---|
/// | `legenda_row` | `UInt64` | the row index in the file |
/// | `legenda_file` | `Utf8` | the input file |
/// | `legenda_stage` | `Utf8` | `scan`, `prepare`, `encode`, `generate` or `embed` |
/// | `legenda_code` | `Utf8` | a stable reject code |
/// | `legenda_message` | `Utf8` | the reason and the remedy |
#[must_use]
pub fn reject_schema(source: &Schema, metadata: HashMap<String, String>) -> Schema {
    let reasons = [
        Field::new(ROW_COLUMN, DataType::UInt64, false),
        Field::new("legenda_file", DataType::Utf8, false),
        Field::new("legenda_stage", DataType::Utf8, false),
        Field::new(CODE_COLUMN, DataType::Utf8, false),
        Field::new(MESSAGE_COLUMN, DataType::Utf8, false),
    ];
    // A row that can no longer be read is stored with nulls, so every field is nullable.
    let fields: Vec<Field> = source
        .fields()
        .iter()
        .filter(|field| !field.name().starts_with(RESERVED_PREFIX))
        .map(|field| field.as_ref().clone().with_nullable(true))
        .chain(reasons)
        .collect();
    Schema::new_with_metadata(fields, metadata)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};

    use super::{AnswerKind, FLAGS_COLUMN, answer_schema, reject_schema};
    use crate::job::RejectsMode;

    #[test]
    fn carried_columns_come_first() {
        let carried = vec![Field::new("id", DataType::Utf8, false)].into();
        for (kind, answer) in
            [(AnswerKind::Text, "answer"), (AnswerKind::Embedding { dimension: 4 }, "embedding")]
        {
            let schema = answer_schema(
                &carried,
                (kind, &[]),
                RejectsMode::Separate,
                false,
                Default::default(),
            );
            let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            assert_eq!(names[..3], ["id", answer, "legenda_status"]);
            let flags = names.iter().position(|name| *name == FLAGS_COLUMN).unwrap();
            assert_eq!(names[flags + 1], "legenda_tokens_prompt");
            assert!(!schema.field(flags).is_nullable());
        }
    }

    #[test]
    fn rejects_of_rejects_have_one_set_of_reason_columns() {
        let source = Schema::new(vec![Field::new("id", DataType::Utf8, false)]);
        let once = reject_schema(&source, Default::default());
        assert_eq!(once, reject_schema(&once, Default::default()));
    }
}
