//! Builds the rows of a span's parts and rejects.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray, UInt64Array},
    compute::concat_batches,
    datatypes::Schema,
};
use legenda_schemas::{cause::Cause, job::RejectsMode, span::Span, table::RESERVED_PREFIX};

use super::{
    Collector,
    open_spans::{OpenSpan, Settled},
};
use crate::{
    input::source::{SourceError, SourceFailed, TableFile, reader::FileReader},
    run::stage::{
        Reject,
        answer::{Answer, answer_columns},
        carry::Carrying,
        reread::{Found, Reread, RereadError, RereadRows},
        typed::typed_columns,
    },
};

/// The rows of a span's parts, in input order, as many at a time as fit in memory.
pub(super) struct Answers<'a> {
    collector: &'a Collector,
    place: &'a Span,
    span: &'a OpenSpan,
    is_inline: bool,
    rows: Vec<(usize, &'a Settled)>,
    n_built: usize,
    carrying: Carrying<'a>,
}

impl<'a> Answers<'a> {
    pub(super) fn new(collector: &'a Collector, place: &'a Span, span: &'a OpenSpan) -> Self {
        let is_inline = collector.plan.job.output.rejects == RejectsMode::Inline;
        let settled = span.settled.iter().enumerate();
        let rows = settled
            .filter_map(|(row_idx, settled)| Some((row_idx, settled.as_ref()?)))
            .filter(|(_, settled)| is_inline || matches!(settled, Settled::Answered { .. }))
            .collect();
        let bytes_max = collector.reread_bytes_max;
        let carrying =
            Carrying::new(&collector.plan, place, &span.rows, &span.rows_read, bytes_max);
        Self { collector, place, span, is_inline, rows, n_built: 0, carrying }
    }

    /// Builds the next rows; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<RecordBatch>, RereadError> {
        let left = &self.rows[self.n_built..];
        if left.is_empty() {
            return Ok(None);
        }
        let row_idxs: Vec<usize> = left.iter().map(|(row_idx, _)| *row_idx).collect();
        let (mut columns, n_rows) = self.carrying.columns(&row_idxs)?;
        let rows: Vec<&Settled> = left[..n_rows].iter().map(|(_, settled)| *settled).collect();
        self.n_built += n_rows;

        let kind = self.collector.answers;
        let answers: Vec<Option<&Answer>> = rows.iter().map(|settled| settled.answer()).collect();
        let status = rows.iter().map(|settled| match settled {
            Settled::Answered { origin, .. } => origin.status(),
            Settled::Rejected(_) => "rejected",
        });
        let status = Arc::new(StringArray::from_iter_values(status));
        let mut own = answer_columns(kind, &answers, status);
        let texts: Vec<Option<&str>> =
            answers.iter().map(|answer| answer.and_then(Answer::text)).collect();
        own.splice(1..1, typed_columns(self.collector.plan.answer_members(), &texts)?);
        columns.extend(own);
        let digests = rows.iter().map(|settled| match settled {
            Settled::Answered { input_sha256, .. } => Some(input_sha256.as_str()),
            Settled::Rejected(_) => None,
        });
        columns.push(Arc::new(digests.collect::<StringArray>()));
        if self.is_inline {
            let rejects: Vec<Option<&Reject>> =
                rows.iter().map(|settled| settled.reject()).collect();
            let codes = rejects.iter().map(|reject| reject.map(|reject| reject.code));
            columns.push(Arc::new(codes.collect::<StringArray>()));
            let messages =
                rejects.iter().map(|reject| reject.map(|reject| reject.message.as_str()));
            columns.push(Arc::new(messages.collect::<StringArray>()));
        }
        if self.collector.plan.job.output.partition_by.is_some() {
            let row_of = |row_idx: &usize| self.place.file_row(self.span.rows[*row_idx]);
            let numbers = row_idxs[..n_rows].iter().map(row_of);
            columns.push(Arc::new(UInt64Array::from_iter_values(numbers)));
        }
        let schema = Arc::new(self.collector.plan.answer_schema(kind));
        Ok(Some(RecordBatch::try_new(schema, columns)?))
    }

    /// Builds all rows at once, regardless of memory.
    pub(super) fn all(mut self) -> Result<Option<RecordBatch>, RereadError> {
        let mut batches = Vec::new();
        while let Some(rows) = self.next()? {
            batches.push(rows);
        }
        let Some(first) = batches.first() else { return Ok(None) };
        Ok(Some(concat_batches(&first.schema(), &batches)?))
    }
}

impl Collector {
    /// Builds the rejects of a span: its original rows, read again, and the reasons.
    pub(super) fn rejects(
        &self,
        place: &Span,
        span: &OpenSpan,
    ) -> Result<RecordBatch, RereadError> {
        let rejected: Vec<(usize, &Reject)> = span
            .settled
            .iter()
            .enumerate()
            .filter_map(|(row_idx, settled)| Some((row_idx, settled.as_ref()?.reject()?)))
            .collect();
        let path = &place.object.path;
        let failed = |source: Cause| SourceFailed { path: path.clone(), source };
        let reader = match self.plan.table.reader(&place.object) {
            Ok(reader) => reader,
            Err(SourceError::Io { source, .. }) => return Err(failed(source.into()).into()),
            Err(_) => None,
        };
        let file_schema =
            reader.as_ref().map_or_else(|| Arc::new(Schema::empty()), FileReader::schema);
        let schema = Arc::new(self.plan.reject_schema(&file_schema));
        let positions: Vec<usize> =
            rejected.iter().map(|(row_idx, _)| span.rows[*row_idx]).collect();
        let bytes_max = self.reread_bytes_max;
        let again = Reread {
            reader: reader.as_ref(),
            row_group: place.row_group,
            columns: None,
            schema: &file_schema,
            bytes_max,
        };
        let RereadRows { rows: originals, found } =
            again.rows(&positions).map_err(|error| failed(error.source))?;

        let mut columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .filter(|field| !field.name().starts_with(RESERVED_PREFIX))
            .filter_map(|field| originals.column_by_name(field.name()).cloned())
            .collect();
        let row_numbers = positions.iter().map(|position| place.file_row(*position));
        columns.push(Arc::new(UInt64Array::from_iter_values(row_numbers)));
        // In a group of image or audio files, each row is a file of its own.
        let media = self.plan.table.file(path).map_or(&[][..], TableFile::media);
        let files = positions.iter();
        let files = files.map(|row| media.get(*row).map_or(path.as_str(), |own| own.path.as_str()));
        columns.push(Arc::new(StringArray::from_iter_values(files)));
        let texts: [&dyn Fn(&Reject) -> String; 3] = [
            &|reject| reject.stage.as_str().to_owned(),
            &|reject| reject.code.to_owned(),
            &|reject| reject.message.clone(),
        ];
        for (text_of, found) in texts.into_iter().zip([None, None, Some(&found)]) {
            let values = rejected.iter().enumerate().map(|(idx, (_, reject))| {
                let mut text = text_of(reject);
                if found.is_some_and(|found| found[idx] == Found::LeftOut) {
                    text += &format!(
                        "; the original row is omitted: `limits.memory` leaves {bytes_max} bytes \
                         for the rows of the rejects of a span"
                    );
                }
                text
            });
            columns.push(Arc::new(StringArray::from_iter_values(values)));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rejected.len()));
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }
}
