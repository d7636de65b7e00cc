//! What a run writes: the Arrow schemas of answers and rejects.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, Field, Fields, Schema};

use crate::job::{RejectsPlace, TaskKind};

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// A text, in the column `answer`.
    Text,
    /// An embedding, in the column `embedding`.
    Embedding {
        /// How many numbers it has.
        dimension: usize,
    },
}

/// Returns the column of the answers of a task.
#[must_use]
pub fn answer_column(task: TaskKind) -> &'static str {
    match task {
        TaskKind::Embed => "embedding",
        _ => ANSWER_COLUMN,
    }
}

/// The column with the flags of an answer.
pub const FLAGS_COLUMN: &str = "legenda_flags";

/// Returns the field of a flag's name.
#[must_use]
pub fn flags_item() -> Field {
    Field::new_list_field(DataType::Utf8, false)
}

fn flags_field() -> Field {
    Field::new(FLAGS_COLUMN, DataType::List(Arc::new(flags_item())), false)
}

/// Returns the field of an embedding's numbers.
#[must_use]
pub fn embedding_item() -> Field {
    Field::new_list_field(DataType::Float32, true)
}

/// Names of the accounting columns begin so; a carried column may not.
pub const RESERVED_PREFIX: &str = "legenda_";

/// The column with the row within its file, of rejects and of answers that stand in folders.
pub const ROW_COLUMN: &str = "legenda_row";

/// The column of answers that are texts.
pub const ANSWER_COLUMN: &str = "answer";

/// The column with what is wrong with a reject.
pub const MESSAGE_COLUMN: &str = "legenda_message";

/// The column with the code of a reject.
pub const CODE_COLUMN: &str = "legenda_code";

/// The column with the code of a reject that stands among the answers.
pub const INLINE_CODE_COLUMN: &str = "legenda_reject_code";

/// The column with what is wrong with a reject that stands among the answers.
pub const INLINE_MESSAGE_COLUMN: &str = "legenda_reject_message";

/// The column of an answer and the accounting columns after it.
///
/// | name | type | meaning |
/// |---|---|---|
/// | `answer` | `Utf8`, null if rejected | a generated text |
/// | or `embedding` | `FixedSizeList<Float32, D>`, null if rejected | an embedding |
/// | `legenda_status` | `Utf8` | `ok`, `reused` (an earlier run has computed it, as `reuse.store` kept it) or `rejected` |
/// | `legenda_finish_reason` (text) | `Utf8`, null if rejected | `stop`, `length` or `guard` |
/// | `legenda_flags` | `List<Utf8>`, never null | conditions of the row's input ([`Flag`](crate::flag::Flag)): `media_damaged`, `channels_cancel`; usually empty, always for rejects |
/// | `legenda_tokens_prompt` | `UInt32`, null if rejected | tokens of the prompt, media included; of an embedding, tokens of the text that it was made of (after it was cut), null for an image |
/// | `legenda_tokens_generated` (text) | `UInt32`, null if rejected | tokens generated, the end token included |
/// | `legenda_logprob_mean` (text) | `Float32`, null if rejected | mean natural log probability of the generated tokens |
/// | `legenda_input_sha256` | `Utf8`, null if the row could not be read | digest of prompt and media |
///
/// With rejects inline two more follow: `legenda_reject_code`, `legenda_reject_message`; where answers
/// stand in folders (`output.partition_by`), so that their order tells nothing, `legenda_row` of `UInt64`.
#[must_use]
pub fn answer_fields(kind: AnswerKind, rejects: RejectsPlace, is_partitioned: bool) -> Vec<Field> {
    let inline = rejects == RejectsPlace::Inline;
    let status = Field::new("legenda_status", DataType::Utf8, false);
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

/// Returns the schema of the answers: the carried columns, the answer, the accounting columns;
/// `metadata` names model, revision, prompt and job fingerprint.
#[must_use]
pub fn answer_schema(
    carried: &Fields,
    kind: AnswerKind,
    rejects: RejectsPlace,
    is_partitioned: bool,
    metadata: HashMap<String, String>,
) -> Schema {
    let carried = carried.iter().map(|field| field.as_ref().clone());
    let fields: Vec<Field> = carried.chain(answer_fields(kind, rejects, is_partitioned)).collect();
    Schema::new_with_metadata(fields, metadata)
}

/// Returns the schema of the rejects: the original row, then where and why it was rejected.
///
/// | name | type | meaning |
/// |---|---|---|
/// | `legenda_row` | `UInt64` | the row within its file |
/// | `legenda_file` | `Utf8` | the file |
/// | `legenda_stage` | `Utf8` | `scan`, `prepare`, `encode`, `generate` or `embed` |
/// | `legenda_code` | `Utf8` | one of a small, stable set |
/// | `legenda_message` | `Utf8` | what is wrong and what would mend it |
#[must_use]
pub fn reject_schema(source: &Schema, metadata: HashMap<String, String>) -> Schema {
    let told = [
        Field::new(ROW_COLUMN, DataType::UInt64, false),
        Field::new("legenda_file", DataType::Utf8, false),
        Field::new("legenda_stage", DataType::Utf8, false),
        Field::new(CODE_COLUMN, DataType::Utf8, false),
        Field::new(MESSAGE_COLUMN, DataType::Utf8, false),
    ];
    // A row whose bytes cannot be read any more is kept with nulls, so every field may be null.
    let fields: Vec<Field> = source
        .fields()
        .iter()
        .filter(|field| !field.name().starts_with(RESERVED_PREFIX))
        .map(|field| field.as_ref().clone().with_nullable(true))
        .chain(told)
        .collect();
    Schema::new_with_metadata(fields, metadata)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};

    use super::{AnswerKind, FLAGS_COLUMN, answer_schema, reject_schema};
    use crate::job::RejectsPlace;

    #[test]
    fn carried_columns_come_first() {
        let carried = vec![Field::new("id", DataType::Utf8, false)].into();
        for (kind, answer) in
            [(AnswerKind::Text, "answer"), (AnswerKind::Embedding { dimension: 4 }, "embedding")]
        {
            let schema =
                answer_schema(&carried, kind, RejectsPlace::Separate, false, Default::default());
            let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            assert_eq!(names[..3], ["id", answer, "legenda_status"]);
            let flags = names.iter().position(|name| *name == FLAGS_COLUMN).unwrap();
            assert_eq!(names[flags + 1], "legenda_tokens_prompt");
            assert!(!schema.field(flags).is_nullable());
        }
    }

    #[test]
    fn rejects_of_rejects_keep_one_set_of_reasons() {
        let source = Schema::new(vec![Field::new("id", DataType::Utf8, false)]);
        let once = reject_schema(&source, Default::default());
        assert_eq!(once, reject_schema(&once, Default::default()));
    }
}
