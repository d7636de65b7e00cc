//! The columns that a job uses, checked against its table.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Field, Fields};
use legenda_schemas::{
    answer::Member,
    job::{Job, RejectsMode},
    table::{self, RESERVED_PREFIX},
};

use super::error::PlanError;
use crate::input::{
    source::{
        SourceError, SourceTable,
        column::{holds_media, is_carried_unasked, is_text},
        conversation::holds_messages,
        partitions,
    },
    template::Template,
};

/// Checks the types of the columns that `source.columns` names.
pub(super) fn check_mapped_columns(job: &Job, table: &SourceTable) -> Result<(), SourceError> {
    let columns = &job.source.columns;
    type Fits = fn(&DataType) -> bool;
    // A column without values has the null type in some files.
    let is_seed: Fits = |kind| kind.is_integer() || kind.is_null();
    const MESSAGES: &str = "a list of structs `{role, content}`, or such a list as JSON";
    const MEDIA: &str = "bytes, a struct `{bytes, path}`, a path, or a list of those";
    let mapped: [(&str, &Option<String>, Fits, &'static str); 6] = [
        ("source.columns.id", &columns.id, |_| true, "anything"),
        ("source.columns.text", &columns.text, is_text, "text"),
        ("source.columns.messages", &columns.messages, holds_messages, MESSAGES),
        ("source.columns.image", &columns.image, holds_media, MEDIA),
        ("source.columns.audio", &columns.audio, holds_media, MEDIA),
        ("source.columns.seed", &columns.seed, is_seed, "whole numbers"),
    ];
    for (key, name, fits, expected) in mapped {
        let Some(name) = name else { continue };
        for file in &table.files {
            let field = file.column(key, name)?;
            if !fits(field.data_type()) {
                return Err(SourceError::ColumnType {
                    key: key.to_owned(),
                    column: name.clone(),
                    path: file.path().to_owned(),
                    actual: field.data_type().to_string(),
                    expected,
                });
            }
        }
    }
    Ok(())
}

/// Checks the column that `output.partition_by` names.
pub(super) fn check_partitions(job: &Job, carried: &Fields) -> Result<(), PlanError> {
    let Some(column) = &job.output.partition_by else { return Ok(()) };
    let (problem, remedy) = match carried.find(column) {
        None => (
            "is not carried to the answers",
            "add it to `output.columns`, or choose another column",
        ),
        Some((_, field)) if !partitions::may_name_folders(field.data_type()) => {
            ("cannot name folders", "choose a text, integer, boolean or date column")
        }
        Some(_) => return Ok(()),
    };
    Err(PlanError::Partition { column: column.clone(), problem, remedy })
}

/// Checks that no column of a typed answer is a carried column.
pub(super) fn check_answer_columns(members: &[Member], carried: &Fields) -> Result<(), PlanError> {
    let is_carried = |member: &&Member| carried.find(&member.name).is_some();
    match members.iter().find(is_carried) {
        Some(member) => Err(PlanError::AnswerColumn { column: member.name.clone() }),
        None => Ok(()),
    }
}

/// Returns the columns that the templates use.
pub(super) fn template_columns(
    job: &Job,
    table: &SourceTable,
    prompt: &Template,
    system: Option<&Template>,
) -> Result<Vec<String>, PlanError> {
    let given: &[&str] = if job.source.columns.has_text() { &["text"] } else { &[] };
    let mut columns = BTreeSet::new();
    for (key, template) in [("task.prompt", Some(prompt)), ("task.system", system)] {
        let Some(template) = template else { continue };
        for name in template.columns(&table.files[0].schema, given)? {
            // `text` always means the text of the row, whatever its column is called.
            if given.contains(&name.as_str()) {
                continue;
            }
            table.common_column(key, &name)?;
            columns.insert(name);
        }
    }
    Ok(columns.into_iter().collect())
}

/// Returns the columns that are carried to the answers.
pub(super) fn carried_columns(job: &Job, table: &SourceTable) -> Result<Fields, SourceError> {
    const KEY: &str = "output.columns";
    let names: Vec<String> = match &job.output.columns {
        Some(names) => names.clone(),
        None => table.files[0]
            .schema
            .fields()
            .iter()
            .filter(|field| {
                is_carried_unasked(field.data_type()) && !field.name().starts_with(RESERVED_PREFIX)
            })
            .map(|field| field.name().clone())
            .collect(),
    };
    let mut fields: Vec<Field> = Vec::with_capacity(names.len());
    for name in &names {
        if name == table::answer_column(job.task.kind) || name.starts_with(RESERVED_PREFIX) {
            return Err(SourceError::ReservedColumn {
                column: name.clone(),
                path: table.files[0].path().to_owned(),
            });
        }
        let field = table.common_column(KEY, name)?.clone();
        // A row that cannot be read has null carried columns but stays among the answers.
        let nullable = field.is_nullable()
            || job.output.rejects == RejectsMode::Inline
            || table
                .files
                .iter()
                .any(|file| file.schema.field_with_name(name).is_ok_and(Field::is_nullable));
        fields.push(field.with_nullable(nullable));
    }
    Ok(fields.into())
}
