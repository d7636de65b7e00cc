//! Files whose types follow from their rows, made alike.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use super::{shape::Members, table::TableFile};

/// Gives the files whose types are guessed the columns of all of them: what one file lacks is null
/// there, and where types differ it is the wider, or text.
pub(super) fn unify(files: &mut [TableFile]) {
    let mut guessed: Vec<&mut TableFile> =
        files.iter_mut().filter(|file| file.contents.has_guessed_types()).collect();
    if guessed.len() < 2 {
        return;
    }
    let mut columns = Members::default();
    for found in guessed.iter().filter_map(|file| file.contents.columns()) {
        columns.widen(found.clone());
    }
    let mut fields: Vec<FieldRef> = columns.fields().map(Arc::new).collect();
    for file in guessed.iter().filter(|file| file.contents.columns().is_none()) {
        merge(&mut fields, file.own_schema().fields());
    }
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    for file in &mut guessed {
        file.set_own_schema(&schema);
    }
}

fn merge(known: &mut Vec<FieldRef>, fields: &[FieldRef]) {
    for field in fields {
        match known.iter_mut().find(|one| one.name() == field.name()) {
            Some(one) if one.data_type() == field.data_type() => {}
            Some(one) => {
                let wider = wider(one.data_type(), field.data_type());
                *one = Arc::new(Field::new(field.name(), wider, true));
            }
            None => known.push(Arc::clone(field)),
        }
    }
}

/// Returns the type that holds values of both.
fn wider(one: &DataType, other: &DataType) -> DataType {
    match (one, other) {
        (one, other) if one == other => one.clone(),
        (DataType::List(one), DataType::List(other)) => {
            let item = wider(one.data_type(), other.data_type());
            DataType::List(Arc::new(Field::new_list_field(item, true)))
        }
        (DataType::Struct(one), DataType::Struct(other)) => {
            let mut fields = one.to_vec();
            merge(&mut fields, other);
            DataType::Struct(fields.into())
        }
        // A column of nulls, too, was taken for text.
        (DataType::Utf8, other) | (other, DataType::Utf8) if other.is_nested() => other.clone(),
        _ => DataType::Utf8,
    }
}
