//! Decompression of TIFF strips and tiles.

use std::{borrow::Cow, io::Read};

use flate2::read::ZlibDecoder;
use image::ImageResult;
use weezl::{BitOrder, LzwStatus, decode::Configuration};

use super::{
    damaged, fax, jpeg,
    layout::{Chunk, Compression, Layout, Predictor},
};
use crate::input::media::number::ByteOrder;

/// Returns the rows of a strip or tile, and the byte order of their samples.
pub(super) fn decode<'a>(
    file: &'a [u8],
    layout: &Layout<'_>,
    chunk: &Chunk,
) -> ImageResult<(Cow<'a, [u8]>, ByteOrder)> {
    let (across, down) = layout.subsampling;
    let is_subsampled = (across, down) != (1, 1);
    let n_bytes = if is_subsampled {
        chunk.width.div_ceil(across) * chunk.height.div_ceil(down) * (across * down + 2)
    } else {
        layout.row_bytes(chunk.width) * chunk.height
    };
    let encoded = encoded(file, layout, chunk, n_bytes)?;
    let mut data = decompress(encoded, layout, chunk, n_bytes)?;
    if is_subsampled {
        data = Cow::Owned(spread_chroma(&data, layout, chunk));
    }
    let order = match layout.predictor {
        Predictor::None => layout.order,
        Predictor::Horizontal => {
            add_up(data.to_mut(), layout, chunk);
            layout.order
        }
        Predictor::Float => {
            gather_floats(data.to_mut(), layout, chunk);
            ByteOrder::Big
        }
    };
    Ok((data, order))
}

/// Returns the bytes of a strip or tile in the file. Byte counts of uncompressed strips are often wrong and
/// not needed; if other counts are missing, the strip may extend to the end of the file.
fn encoded<'a>(
    file: &'a [u8],
    layout: &Layout<'_>,
    chunk: &Chunk,
    n_bytes: usize,
) -> ImageResult<Cow<'a, [u8]>> {
    let beyond = || damaged("a strip or tile is beyond the end of the file");
    let start = usize::try_from(chunk.offset).map_err(|_| beyond())?;
    let rest = file.get(start..).ok_or_else(beyond)?;
    let n_encoded = match (layout.compression, chunk.n_bytes) {
        (Compression::None, _) => n_bytes,
        (_, Some(n_encoded)) => usize::try_from(n_encoded).map_err(|_| beyond())?,
        (_, None) => rest.len(),
    };
    let encoded = rest.get(..n_encoded).ok_or_else(beyond)?;
    Ok(if layout.is_lowest_first && layout.compression != Compression::Jpeg {
        Cow::Owned(encoded.iter().map(|byte| byte.reverse_bits()).collect())
    } else {
        Cow::Borrowed(encoded)
    })
}

/// Returns exactly `n_bytes`; drops anything after them.
fn decompress<'a>(
    encoded: Cow<'a, [u8]>,
    layout: &Layout<'_>,
    chunk: &Chunk,
    n_bytes: usize,
) -> ImageResult<Cow<'a, [u8]>> {
    let (width, height) = (chunk.width, chunk.height);
    let read_all = |reader: &mut dyn Read| {
        let mut data = vec![0; n_bytes];
        let read = reader.read_exact(&mut data);
        read.map(|()| data).map_err(damaged)
    };
    let is_fax = matches!(
        layout.compression,
        Compression::Huffman | Compression::Group3 | Compression::Group4
    );
    if is_fax && (layout.bits, layout.samples_together()) != (1, 1) {
        return Err(damaged("fax compression of more than one bit"));
    }
    let data = match layout.compression {
        Compression::None => return Ok(encoded),
        Compression::Huffman => fax::decode(&encoded, width, height, fax::Coding::Huffman)?,
        Compression::Group3 => {
            let has_references = layout.fax_options & 1 == 1;
            fax::decode(&encoded, width, height, fax::Coding::Group3 { has_references })?
        }
        Compression::Group4 => fax::decode(&encoded, width, height, fax::Coding::Group4)?,
        Compression::Lzw => unpack_lzw(&encoded, n_bytes)?,
        Compression::PackBits => unpack_bits(&encoded, n_bytes)?,
        Compression::Deflate => read_all(&mut ZlibDecoder::new(&*encoded))?,
        Compression::Zstd => read_all(&mut zstd::Decoder::new(&*encoded).map_err(damaged)?)?,
        Compression::Jpeg => jpeg::decode(&encoded, layout, (width, height))?,
    };
    if data.len() != n_bytes {
        return Err(damaged(format!("a strip or tile has {} of {n_bytes} bytes", data.len())));
    }
    Ok(Cow::Owned(data))
}

/// LZW as in TIFF, or as in files before TIFF 5.0, whose codes begin with their lowest bit.
fn unpack_lzw(encoded: &[u8], n_bytes: usize) -> ImageResult<Vec<u8>> {
    let is_old = matches!(encoded, [0, second, ..] if second & 1 == 1);
    let configuration = if is_old {
        Configuration::new(BitOrder::Lsb, 8)
    } else {
        Configuration::with_tiff_size_switch(BitOrder::Msb, 8)
    };
    let mut decoder = configuration.with_yield_on_full_buffer(true).build();
    let mut data = vec![0; n_bytes];
    let (mut n_read, mut n_written) = (0, 0);
    while n_written < n_bytes {
        let step = decoder.decode_bytes(&encoded[n_read..], &mut data[n_written..]);
        n_read += step.consumed_in;
        n_written += step.consumed_out;
        match step.status {
            Ok(LzwStatus::Ok) if step.consumed_in + step.consumed_out > 0 => {}
            Ok(_) => break,
            Err(error) => return Err(damaged(error)),
        }
    }
    data.truncate(n_written);
    Ok(data)
}

/// PackBits: a count of literal bytes, or of repetitions of one byte.
fn unpack_bits(mut encoded: &[u8], n_bytes: usize) -> ImageResult<Vec<u8>> {
    let cut = || damaged("truncated PackBits run");
    let mut data = Vec::with_capacity(n_bytes);
    while data.len() < n_bytes {
        let count = usize::from(*encoded.split_off_first().ok_or_else(cut)?);
        match count {
            0..128 => data.extend_from_slice(encoded.split_off(..=count).ok_or_else(cut)?),
            128 => {}
            _ => {
                let byte = *encoded.split_off_first().ok_or_else(cut)?;
                data.resize(data.len() + 257 - count, byte);
            }
        }
    }
    data.truncate(n_bytes);
    Ok(data)
}

/// Expands blocks of luma samples with their two chroma samples to pixels of three samples.
fn spread_chroma(data: &[u8], layout: &Layout<'_>, chunk: &Chunk) -> Vec<u8> {
    let (across, down) = layout.subsampling;
    let (block_bytes, blocks_across) = (across * down + 2, chunk.width.div_ceil(across));
    let mut pixels = Vec::with_capacity(3 * chunk.width * chunk.height);
    for row in 0..chunk.height {
        for column in 0..chunk.width {
            let block_idx = row / down * blocks_across + column / across;
            let block = &data[block_idx * block_bytes..][..block_bytes];
            let luma = block[row % down * across + column % across];
            pixels.extend([luma, block[across * down], block[across * down + 1]]);
        }
    }
    pixels
}

/// Reverses horizontal differencing: each sample is the sum of those of its kind before it.
fn add_up(data: &mut [u8], layout: &Layout<'_>, chunk: &Chunk) {
    let size = layout.bits / 8;
    let stride = layout.samples_together() * size;
    for row in data.chunks_exact_mut(layout.row_bytes(chunk.width)) {
        for start in (stride..row.len()).step_by(size) {
            let before = layout.order.unsigned(&row[start - stride..][..size]);
            let sum = layout.order.unsigned(&row[start..][..size]).wrapping_add(before);
            match layout.order {
                ByteOrder::Little => {
                    row[start..][..size].copy_from_slice(&sum.to_le_bytes()[..size]);
                }
                ByteOrder::Big => {
                    row[start..][..size].copy_from_slice(&sum.to_be_bytes()[8 - size..]);
                }
            }
        }
    }
}

/// Reverses the floating-point predictor (Adobe's TIFF Technical Note 3): a row contains the highest bytes of
/// all samples, then the next; all are differences.
fn gather_floats(data: &mut [u8], layout: &Layout<'_>, chunk: &Chunk) {
    let (size, stride) = (layout.bits / 8, layout.samples_together());
    for row in data.chunks_exact_mut(layout.row_bytes(chunk.width)) {
        for idx in stride..row.len() {
            row[idx] = row[idx].wrapping_add(row[idx - stride]);
        }
        let planes = row.to_vec();
        let n_samples = row.len() / size;
        for (idx, byte) in row.iter_mut().enumerate() {
            *byte = planes[idx % size * n_samples + idx / size];
        }
    }
}
