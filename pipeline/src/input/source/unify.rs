//! Unification of files with inferred types.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};

use super::{known::KnownColumns, table_file::TableFile};

/// Gives every file with inferred types the columns of all files and the `known` ones: missing columns are
/// null, and different types are widened, up to text.
pub(super) fn unify(files: &mut [TableFile], known: &mut KnownColumns) {
    let mut guessed: Vec<&mut TableFile> =
        files.iter_mut().filter(|file| file.contents.has_guessed_types()).collect();
    for found in guessed.iter().filter_map(|file| file.contents.columns()) {
        known.text.widen(found.clone());
    }
    let mut shard_fields: Vec<FieldRef> = known.shards.iter().cloned().collect();
    for file in guessed.iter().filter(|file| file.contents.is_shard()) {
        merge(&mut shard_fields, file.own_schema().fields());
    }
    known.shards = shard_fields.into();
    let mut fields: Vec<FieldRef> = known.text.fields().map(Arc::new).collect();
    merge(&mut fields, &known.shards);
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    for file in &mut guessed {
        file.set_own_schema(&schema);
    }
}

/// Adds the columns of a shard, which are text or bytes.
fn merge(known: &mut Vec<FieldRef>, fields: &[FieldRef]) {
    for field in fields {
        match known.iter_mut().find(|one| one.name() == field.name()) {
            Some(one) if one.data_type() == field.data_type() => {}
            Some(one) => *one = Arc::new(Field::new(field.name(), DataType::Utf8, true)),
            None => known.push(Arc::clone(field)),
        }
    }
}
