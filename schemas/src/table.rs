//! What a run writes: the Arrow schemas of answers and rejects.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field, Fields, Schema};

use crate::job::RejectsPlace;

/// The column of the answers.
pub const ANSWER: &str = "answer";
/// Names of the accounting columns begin so; a carried column may not.
pub const RESERVED_PREFIX: &str = "legenda_";

/// The accounting columns of an answer, after `answer`.
///
/// | name | type | meaning |
/// |---|---|---|
/// | `legenda_status` | `Utf8` | `ok` or `rejected` |
/// | `legenda_finish_reason` | `Utf8`, null if rejected | `stop`, `length` or `guard` |
/// | `legenda_tokens_prompt` | `UInt32`, null if rejected | tokens of the prompt, media included |
/// | `legenda_tokens_generated` | `UInt32`, null if rejected | tokens generated, the end token included |
/// | `legenda_logprob_mean` | `Float32`, null if rejected | mean natural log probability of the generated tokens |
/// | `legenda_input_sha256` | `Utf8`, null if the row could not be read | digest of prompt and media |
///
/// With rejects inline two more follow: `legenda_reject_code`, `legenda_reject_message`.
#[must_use]
pub fn answer_fields(rejects: RejectsPlace) -> Vec<Field> {
    let inline = rejects == RejectsPlace::Inline;
    let mut fields = vec![
        Field::new(ANSWER, DataType::Utf8, inline),
        Field::new("legenda_status", DataType::Utf8, false),
        Field::new("legenda_finish_reason", DataType::Utf8, inline),
        Field::new("legenda_tokens_prompt", DataType::UInt32, inline),
        Field::new("legenda_tokens_generated", DataType::UInt32, inline),
        Field::new("legenda_logprob_mean", DataType::Float32, inline),
        Field::new("legenda_input_sha256", DataType::Utf8, inline),
    ];
    if inline {
        fields.push(Field::new("legenda_reject_code", DataType::Utf8, true));
        fields.push(Field::new("legenda_reject_message", DataType::Utf8, true));
    }
    fields
}

/// Returns the schema of the answers: the carried columns, `answer`, the accounting columns;
/// `metadata` names model, revision, prompt and job fingerprint.
#[must_use]
pub fn answer_schema(
    carried: &Fields,
    rejects: RejectsPlace,
    metadata: HashMap<String, String>,
) -> Schema {
    let fields: Vec<Field> =
        carried.iter().map(|field| field.as_ref().clone()).chain(answer_fields(rejects)).collect();
    Schema::new_with_metadata(fields, metadata)
}

/// Returns the schema of the rejects: the original row, then where and why it was rejected.
///
/// | name | type | meaning |
/// |---|---|---|
/// | `legenda_row` | `UInt64` | the row within its file |
/// | `legenda_file` | `Utf8` | the file |
/// | `legenda_stage` | `Utf8` | `scan`, `prepare`, `encode` or `generate` |
/// | `legenda_code` | `Utf8` | one of a small, stable set |
/// | `legenda_message` | `Utf8` | what is wrong and what would mend it |
#[must_use]
pub fn reject_schema(source: &Schema, metadata: HashMap<String, String>) -> Schema {
    let told = [
        Field::new("legenda_row", DataType::UInt64, false),
        Field::new("legenda_file", DataType::Utf8, false),
        Field::new("legenda_stage", DataType::Utf8, false),
        Field::new("legenda_code", DataType::Utf8, false),
        Field::new("legenda_message", DataType::Utf8, false),
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

    use super::{answer_schema, reject_schema};
    use crate::job::RejectsPlace;

    #[test]
    fn carried_columns_come_first() {
        let carried = vec![Field::new("id", DataType::Utf8, false)].into();
        let schema = answer_schema(&carried, RejectsPlace::Separate, Default::default());
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names[..3], ["id", "answer", "legenda_status"]);
    }

    #[test]
    fn rejects_of_rejects_keep_one_set_of_reasons() {
        let source = Schema::new(vec![Field::new("id", DataType::Utf8, false)]);
        let once = reject_schema(&source, Default::default());
        assert_eq!(once, reject_schema(&once, Default::default()));
    }
}
