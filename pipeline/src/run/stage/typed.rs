//! Typed answers as columns: the JSON of each answer, read with the declared types.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch},
    compute::cast,
    datatypes::Schema,
    error::ArrowError,
    json::ReaderBuilder,
};
use legenda_schemas::answer::Member;

/// Builds the columns of typed answers; `None` is a rejected row.
///
/// # Errors
///
/// [`ArrowError`] if an answer does not have the declared form, which the engine excludes.
pub(super) fn typed_columns(
    members: &[Member],
    texts: &[Option<&str>],
) -> Result<Vec<ArrayRef>, ArrowError> {
    if members.is_empty() {
        return Ok(Vec::new());
    }
    let fields = members.iter().map(|member| member.plain_field(true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let rows = read(&schema, texts)?;
    let columns = members.iter().zip(rows.columns());
    columns.map(|(member, column)| cast(column, &member.shape.data_type())).collect()
}

/// Reads objects, one per row; a row without one has nulls.
fn read(schema: &Arc<Schema>, texts: &[Option<&str>]) -> Result<RecordBatch, ArrowError> {
    let mut decoder = ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(texts.len().max(1))
        .build_decoder()?;
    for text in texts {
        let line = format!("{}\n", text.unwrap_or("{}"));
        let n_read = decoder.decode(line.as_bytes())?;
        if n_read < line.trim_end().len() {
            return Err(ArrowError::JsonError(format!("more than an object: {line}")));
        }
    }
    let rows = decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema)));
    if rows.num_rows() != texts.len() {
        let problem = format!("{} objects in {} answers", rows.num_rows(), texts.len());
        return Err(ArrowError::JsonError(problem));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Array, AsArray, StructArray},
        datatypes::{
            DataType, Date32Type, Decimal128Type, Int8Type, Int32Type, TimestampMicrosecondType,
        },
    };
    use legenda_schemas::answer::{Member, Shape, members_of_schema, shape_of_name};
    use serde_json::json;

    use super::typed_columns;

    fn member(name: &str, kind: &str) -> Member {
        let (shape, is_nullable) = shape_of_name(kind).unwrap();
        Member { name: name.to_owned(), shape, is_nullable, is_required: true }
    }

    #[test]
    fn answers_become_columns_of_the_declared_types() {
        let choices = Shape::Choice(vec!["a".to_owned(), "b".to_owned()]);
        let members = [
            Member { shape: choices, ..member("choice", "string") },
            member("price", "decimal(6, 2)"),
            member("day", "date?"),
            member("time", "timestamp"),
            member("small", "int8"),
            member("tags", "list<string>"),
        ];
        let first = r#"{"choice":"b","price":-12.5,"day":"1970-01-03","time":"1970-01-01T01:00:00+01:00","small":-7,"tags":["x","\""]}"#;
        let second = r#"{"choice":"b","price":3,"day":null,"time":"1970-01-01T00:00:01.5Z","small":7,"tags":[]}"#;
        let columns = typed_columns(&members, &[Some(first), None, Some(second)]).unwrap();
        for (member, column) in members.iter().zip(&columns) {
            assert_eq!(column.data_type(), &member.shape.data_type(), "{}", member.name);
            assert_eq!((column.len(), column.is_null(1)), (3, true), "{}", member.name);
        }
        let choice = columns[0].as_dictionary::<Int32Type>();
        let choice = choice.downcast_dict::<arrow::array::StringArray>().unwrap();
        assert_eq!(choice.into_iter().collect::<Vec<_>>(), [Some("b"), None, Some("b")]);
        let prices = columns[1].as_primitive::<Decimal128Type>();
        assert_eq!(prices.iter().collect::<Vec<_>>(), [Some(-1250), None, Some(300)]);
        let days = columns[2].as_primitive::<Date32Type>();
        assert_eq!(days.iter().collect::<Vec<_>>(), [Some(2), None, None]);
        let times = columns[3].as_primitive::<TimestampMicrosecondType>();
        assert_eq!(times.iter().collect::<Vec<_>>(), [Some(0), None, Some(1_500_000)]);
        assert_eq!(columns[4].as_primitive::<Int8Type>().value(0), -7);
        let tags = columns[5].as_list::<i32>().value(0);
        assert_eq!(tags.as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["x", "\""]);
    }

    #[test]
    fn objects_in_lists_become_structs() {
        let schema = json!({"type": "object", "properties": {"lines": {"type": "array", "items": {
            "type": "object", "required": ["kind"], "properties": {
                "kind": {"enum": ["x", "y"]}, "n": {"type": "integer"}}}}}});
        let members = members_of_schema(&schema).unwrap();
        let texts = [Some(r#"{"lines":[{"kind":"y"},{"kind":"x","n":5}]}"#), Some("{}"), None];
        let columns = typed_columns(&members, &texts).unwrap();
        assert_eq!(columns[0].data_type(), &members[0].shape.data_type());
        let lines = columns[0].as_list::<i32>().value(0);
        let lines: &StructArray = lines.as_struct();
        assert!(matches!(lines.column(0).data_type(), DataType::Dictionary(..)));
        assert!(lines.column(1).is_null(0) && lines.column(1).is_valid(1));
        assert!(columns[0].is_null(1) && columns[0].is_null(2));
    }

    #[test]
    fn an_answer_of_another_form_is_an_error() {
        let members = [member("n", "int8")];
        for text in [r#"{"n":300}"#, r#"{"n":"x"}"#, r#"{"n":1}{"n":2}"#, "[1]", ""] {
            assert!(typed_columns(&members, &[Some(text)]).is_err(), "{text}");
        }
    }
}
