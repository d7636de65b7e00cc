//! Arrow IPC files (Feather V2, `.arrow`) and streams, as stored by `datasets`.
//!
//! One pass over the message headers finds the batches and their row counts. A batch is always read whole
//! and acts as a row group.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{RecordBatch, UInt64Array},
    buffer::Buffer,
    compute::take_record_batch,
    datatypes::SchemaRef,
    error::ArrowError,
    ipc::{self, Block, MetadataVersion, convert::fb_to_schema, reader::FileDecoder},
};
use bytes::Bytes;
use legenda_schemas::cause::{Cause, chain};
use parquet::file::reader::{ChunkReader, Length};

use super::{
    convert::conform,
    file::SourceFile,
    pages::{RefusedRows, RowBounds},
    portable::portable_schema,
    reader::ReadError,
    rows::ReadRows,
    steps::{BatchLimits, size},
    table_file::RowGroupSize,
};
use crate::base::guard::{CALL_MAX, guarded_within};

/// The magic at both ends of a file; streams have none.
const MAGIC: &[u8] = b"ARROW1";
/// The bytes after the footer of a file: its length and the magic.
const TRAILER_BYTES: usize = 10;
/// The prefix of messages since format version 0.15, before the header length.
const CONTINUATION: [u8; 4] = [0xFF; 4];

/// The index of a file or stream.
#[derive(Clone, Debug)]
pub(super) struct ArrowFile(Arc<Index>);

#[derive(Debug)]
struct Index {
    schema: SchemaRef,
    version: MetadataVersion,
    dictionaries: Vec<Block>,
    batches: Vec<Batch>,
}

#[derive(Debug)]
struct Batch {
    block: Block,
    n_rows: usize,
    /// The number of dictionary blocks before it; later ones may replace earlier ones.
    n_dictionaries: usize,
}

impl ArrowFile {
    /// Reads the headers of a file or stream.
    ///
    /// # Errors
    ///
    /// A description of the problem.
    pub(super) fn index(file: &SourceFile) -> Result<Self, String> {
        let file = file.clone();
        let read = move || -> Result<Index, String> {
            let magic = file.get_bytes(0, MAGIC.len()).map_err(|error| error.to_string())?;
            if magic == MAGIC { index_file(&file) } else { index_stream(&file) }
        };
        let index = guarded_within(CALL_MAX, read).map_err(|error| chain(&error))??;
        Ok(Self(Arc::new(index)))
    }

    /// Returns the columns, converted to types that every output supports.
    pub(super) fn schema(&self) -> SchemaRef {
        portable_schema(&self.0.schema)
    }

    pub(super) fn row_groups(&self) -> Vec<RowGroupSize> {
        let batches = self.0.batches.iter();
        batches
            .map(|batch| RowGroupSize { n_rows: batch.n_rows, bytes: block_bytes(&batch.block) })
            .collect()
    }

    /// Computes the memory needed to read rows of a batch: the whole batch, stored and decoded.
    pub(super) fn row_bounds(
        &self,
        file: &SourceFile,
        row_group: usize,
        bytes_max: u64,
    ) -> RowBounds {
        let Some(batch) = self.0.batches.get(row_group) else { return RowBounds::default() };
        // A damaged header is reported when the batch is read.
        let read = unpacked_bytes(file, &batch.block).unwrap_or_default();
        let bytes = read.max(block_bytes(&batch.block));
        let refused = (bytes > bytes_max).then_some(RefusedRows { rows: 0..batch.n_rows, bytes });
        let refused: Vec<RefusedRows> = refused.into_iter().collect();
        RowBounds { row_bytes_max: if refused.is_empty() { bytes } else { 0 }, refused }
    }

    /// Reads rows of a batch as rows of `schema`, in batches within `limits`.
    ///
    /// # Errors
    ///
    /// [`ReadError`] for a damaged batch or an I/O error.
    pub(super) fn read(
        &self,
        file: &SourceFile,
        row_group: usize,
        ranges: &[Range<usize>],
        schema: SchemaRef,
        limits: BatchLimits,
    ) -> Result<impl Iterator<Item = Result<ReadRows, ReadError>> + use<>, ReadError> {
        let blocks = self.0.blocks(row_group);
        let within = blocks.iter().map(|block| {
            let start = u64::try_from(block.offset()).unwrap_or_default();
            start..start.saturating_add(block_bytes(block))
        });
        let file = file.within(within.collect());
        let (index, own_file, wanted) = (Arc::clone(&self.0), file.clone(), Arc::clone(&schema));
        let work = move || index.read(&own_file, row_group, &wanted);
        let read = guarded_within(CALL_MAX, work)
            .map_err(Cause::from)
            .and_then(|read| read.map_err(Cause::from));
        let batch = read.map_err(|problem| file.read_error(row_group, problem))?;
        let row_bytes = size(&batch) / (batch.num_rows() as u64).max(1);
        let by_bytes = usize::try_from(limits.bytes_max / row_bytes.max(1)).unwrap_or(usize::MAX);
        let step = limits.rows_max.min(by_bytes).max(1);
        let pieces = ranges.iter().flat_map(move |range| {
            let (start, end) = (range.start, range.end);
            (start..end).step_by(step).map(move |at| at..end.min(at + step))
        });
        let pieces: Vec<Range<usize>> = pieces.collect();
        Ok(pieces.into_iter().map(move |rows| {
            // Copy, so that a few rows do not keep the whole batch alive.
            let rows = UInt64Array::from_iter_values(rows.map(|row| row as u64));
            take_record_batch(&batch, &rows)
                .map(|rows| conform(rows, &schema))
                .map_err(|error| file.read_error(row_group, error))
        }))
    }
}

impl Index {
    /// Returns the blocks needed to read a batch: the batch and the preceding dictionaries.
    fn blocks(&self, row_group: usize) -> Vec<Block> {
        let Some(batch) = self.batches.get(row_group) else { return Vec::new() };
        let dictionaries = self.dictionaries.iter().take(batch.n_dictionaries);
        dictionaries.chain([&batch.block]).copied().collect()
    }

    fn read(
        &self,
        file: &SourceFile,
        row_group: usize,
        wanted: &SchemaRef,
    ) -> Result<RecordBatch, ArrowError> {
        let missing =
            || ArrowError::IpcError("the file has changed since it was planned".to_owned());
        let blocks = self.blocks(row_group);
        let (batch, dictionaries) = blocks.split_last().ok_or_else(missing)?;
        let names = self.schema.fields().iter().enumerate();
        let columns = names.filter(|(_, field)| wanted.field_with_name(field.name()).is_ok());
        let columns = columns.map(|(column, _)| column).collect();
        let mut decoder =
            FileDecoder::new(Arc::clone(&self.schema), self.version).with_projection(columns);
        for block in dictionaries {
            decoder.read_dictionary(block, &buffer(file, block)?)?;
        }
        let read = decoder.read_record_batch(batch, &buffer(file, batch)?)?;
        read.ok_or_else(missing)
    }
}

fn buffer(file: &SourceFile, block: &Block) -> Result<Buffer, ArrowError> {
    let start = u64::try_from(block.offset()).unwrap_or(u64::MAX);
    let n_bytes = usize::try_from(block_bytes(block)).unwrap_or(usize::MAX);
    let bytes = file.get_bytes(start, n_bytes);
    Ok(bytes.map_err(|error| ArrowError::IpcError(error.to_string()))?.into())
}

fn block_bytes(block: &Block) -> u64 {
    let header = u64::try_from(block.metaDataLength()).unwrap_or_default();
    header.saturating_add(u64::try_from(block.bodyLength()).unwrap_or_default())
}

fn index_file(file: &SourceFile) -> Result<Index, String> {
    let cut = || "the file is truncated".to_owned();
    let end = file.len().checked_sub(TRAILER_BYTES as u64).ok_or_else(cut)?;
    let trailer = bytes_at(file, end, TRAILER_BYTES)?;
    let (length, magic) = trailer.split_first_chunk::<4>().ok_or_else(cut)?;
    if magic != MAGIC {
        return Err(cut());
    }
    let length = usize::try_from(i32::from_le_bytes(*length)).map_err(|_| cut())?;
    let footer = bytes_at(file, end.checked_sub(length as u64).ok_or_else(cut)?, length)?;
    let footer =
        ipc::root_as_footer(&footer).map_err(|error| format!("invalid footer: {error}"))?;
    let schema = footer.schema().ok_or("the footer has no schema")?;
    let dictionaries: Vec<Block> = footer.dictionaries().iter().flatten().copied().collect();
    let mut batches = Vec::new();
    for block in footer.recordBatches().iter().flatten() {
        let start = u64::try_from(block.offset()).map_err(|error| error.to_string())?;
        let length = usize::try_from(block.metaDataLength()).map_err(|error| error.to_string())?;
        let header = bytes_at(file, start, length)?;
        let message = message_of(&header).ok_or_else(cut)?;
        let message = ipc::root_as_message(message).map_err(|error| error.to_string())?;
        let batch = message.header_as_record_batch().ok_or("a block is not a record batch")?;
        let n_rows = usize::try_from(batch.length()).map_err(|error| error.to_string())?;
        let n_dictionaries = dictionaries.len();
        batches.push(Batch { block: *block, n_rows, n_dictionaries });
    }
    let (schema, version) = (Arc::new(fb_to_schema(schema)), footer.version());
    Ok(Index { schema, version, dictionaries, batches })
}

fn index_stream(file: &SourceFile) -> Result<Index, String> {
    let mut found: Option<(SchemaRef, MetadataVersion)> = None;
    let (mut dictionaries, mut batches) = (Vec::new(), Vec::new());
    let mut at: u64 = 0;
    while at < file.len() {
        let head =
            bytes_at(file, at, usize::min(8, usize::try_from(file.len() - at).unwrap_or(8)))?;
        let (prefix, length) = match head.strip_prefix(&CONTINUATION) {
            Some(rest) => (8, rest.first_chunk()),
            None => (4, head.first_chunk()),
        };
        let length = length.map(|length| i32::from_le_bytes(*length)).unwrap_or_default();
        // A message with an empty header ends the stream.
        if length == 0 {
            break;
        }
        let no_stream = || "it starts neither like a file nor like a stream".to_owned();
        let length = usize::try_from(length).map_err(|_| no_stream())?;
        let header = bytes_at(file, at + prefix, length)
            .map_err(|problem| if found.is_none() { no_stream() } else { problem })?;
        let message = ipc::root_as_message(&header)
            .map_err(|error| if found.is_none() { no_stream() } else { error.to_string() })?;
        let n_meta = i32::try_from(prefix + length as u64).map_err(|error| error.to_string())?;
        let start = i64::try_from(at).map_err(|error| error.to_string())?;
        let block = Block::new(start, n_meta, message.bodyLength());
        at = at.saturating_add(block_bytes(&block));
        if at > file.len() {
            return Err("the stream is truncated".to_owned());
        }
        if let Some(schema) = message.header_as_schema() {
            found = Some((Arc::new(fb_to_schema(schema)), message.version()));
        } else if message.header_as_dictionary_batch().is_some() {
            dictionaries.push(block);
        } else if let Some(batch) = message.header_as_record_batch() {
            let n_rows = usize::try_from(batch.length()).map_err(|error| error.to_string())?;
            batches.push(Batch { block, n_rows, n_dictionaries: dictionaries.len() });
        }
    }
    let (schema, version) = found.ok_or("the stream has no schema")?;
    Ok(Index { schema, version, dictionaries, batches })
}

fn bytes_at(file: &SourceFile, start: u64, n_bytes: usize) -> Result<Bytes, String> {
    file.get_bytes(start, n_bytes).map_err(|error| error.to_string())
}

/// Returns the message of a block, without its length prefix.
fn message_of(header: &[u8]) -> Option<&[u8]> {
    header.get(if header.starts_with(&CONTINUATION) { 8 } else { 4 }..)
}

/// Returns the decoded size of a batch; compressed buffers are prefixed with their uncompressed size.
fn unpacked_bytes(file: &SourceFile, block: &Block) -> Option<u64> {
    let start = u64::try_from(block.offset()).ok()?;
    let n_meta = usize::try_from(block.metaDataLength()).ok()?;
    let header = file.get_bytes(start, n_meta).ok()?;
    let message = ipc::root_as_message(message_of(&header)?).ok()?;
    let batch = message.header_as_record_batch()?;
    if batch.compression().is_none() {
        return u64::try_from(block.bodyLength()).ok();
    }
    let body = start.saturating_add(n_meta as u64);
    let buffers = batch.buffers()?.iter().filter(|buffer| buffer.length() > 0);
    let sizes = buffers.map(|buffer| {
        let at = body.checked_add(u64::try_from(buffer.offset()).ok()?)?;
        let size = i64::from_le_bytes(*file.get_bytes(at, 8).ok()?.first_chunk()?);
        // -1 marks a buffer that is stored uncompressed.
        u64::try_from(size).or_else(|_| u64::try_from(buffer.length())).ok()
    });
    sizes.sum()
}
