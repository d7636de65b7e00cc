//! WAV and its 64-bit variants (RF64, BW64, Wave64): locates the samples.
//!
//! Sizes in these files are often wrong: a program that writes to a pipe cannot go back to fill them in, and
//! neither could an interrupted recorder. So samples are located here and passed to the demuxer with a
//! corrected header.

use std::ops::Range;

use super::kind::wave_codec;
use crate::input::media::number::ByteOrder;

/// Larger claimed sizes than the file are placeholders from this size on: 2 GiB minus a page, as SoX writes.
/// Real files of that size are RF64.
const PLACEHOLDER_MIN: u64 = 0x7fff_f000;

/// The size of the fixed part of a `fmt ` chunk.
const FORMAT_BYTES: usize = 16;

/// Encoding ids in a `fmt ` chunk (`mmreg.h` of the Windows SDK).
mod tag {
    pub(super) const PCM: u16 = 1;
    pub(super) const ADPCM_MS: u16 = 2;
    pub(super) const FLOAT: u16 = 3;
    pub(super) const A_LAW: u16 = 6;
    pub(super) const MU_LAW: u16 = 7;
    pub(super) const ADPCM_IMA: u16 = 0x11;
    pub(super) const MPEG: u16 = 0x50;
    pub(super) const MP3: u16 = 0x55;
    pub(super) const EXTENSIBLE: u16 = 0xfffe;
}

/// An error of locating samples.
#[derive(Debug, PartialEq)]
pub(super) enum WaveError {
    /// The chunks are invalid.
    Damaged(&'static str),
    /// The encoding is not supported.
    Unsupported(String),
}

/// The location of the samples of a file.
#[derive(Debug, PartialEq)]
pub(super) struct Wave {
    /// The input of the demuxer before the samples: a corrected WAV header, or nothing if the samples are a
    /// file of their own (MP3).
    pub(super) header: Vec<u8>,
    /// The samples.
    pub(super) data: Range<usize>,
    /// Whether the header claims a plausible number of bytes and the file ends before them.
    pub(super) ends_early: bool,
}

/// The layout of chunks.
struct Layout {
    id_bytes: usize,
    size_bytes: usize,
    /// Whether the size includes the chunk's own header.
    counts_header: bool,
    /// The alignment of chunks.
    align: usize,
    /// The offset of the first chunk.
    first: usize,
}

const RIFF: Layout =
    Layout { id_bytes: 4, size_bytes: 4, counts_header: false, align: 2, first: 12 };
const WAVE64: Layout =
    Layout { id_bytes: 16, size_bytes: 8, counts_header: true, align: 8, first: 40 };

/// A chunk, whose body may be shorter than its size.
struct Chunk<'a> {
    /// Its name; in Wave64 the same four letters before the rest of a GUID.
    id: &'a [u8],
    body: &'a [u8],
    start: usize,
    size: u64,
}

impl Layout {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let is_wave = bytes.get(8..12) == Some(b"WAVE");
        match bytes.get(..4)? {
            b"RIFF" | b"RF64" | b"BW64" if is_wave => Some(RIFF),
            b"riff" if bytes.get(24..28) == Some(b"wave") => Some(WAVE64),
            _ => None,
        }
    }

    fn chunk<'a>(&self, bytes: &'a [u8], at: usize) -> Option<Chunk<'a>> {
        let header_bytes = self.id_bytes + self.size_bytes;
        let header = bytes.get(at..at.checked_add(header_bytes)?)?;
        let size = little_endian(&header[self.id_bytes..]);
        let size = if self.counts_header { size.saturating_sub(header_bytes as u64) } else { size };
        let start = at + header_bytes;
        let rest = &bytes[start..];
        let n = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
        Some(Chunk { id: &header[..4], body: &rest[..n], start, size })
    }

    /// Returns the claimed size of the whole file.
    fn claimed_file_size(&self, bytes: &[u8]) -> u64 {
        match self.size_bytes {
            4 => little_endian(&bytes[4..8]) + 8,
            _ => little_endian(&bytes[16..24]),
        }
    }

    /// Returns the offset of the chunk after `chunk`. Some writers omit the padding.
    fn after(&self, bytes: &[u8], chunk: &Chunk<'_>) -> usize {
        let end = chunk.start + chunk.body.len();
        let padded = end.next_multiple_of(self.align);
        let is_name = |at: usize| {
            bytes.get(at..at + 4).is_some_and(|id| id.iter().all(|c| matches!(c, b' '..=b'~')))
        };
        if is_name(end) && !is_name(padded) { end } else { padded }
    }

    /// Returns whether chunks fill `bytes` from `at` to the end.
    fn fills(&self, bytes: &[u8], mut at: usize) -> bool {
        while at < bytes.len() {
            match self.chunk(bytes, at) {
                Some(chunk)
                    if chunk.size == chunk.body.len() as u64
                        && chunk.id.iter().all(|c| matches!(c, b' '..=b'~')) =>
                {
                    at = self.after(bytes, &chunk);
                }
                _ => return false,
            }
        }
        true
    }
}

impl Wave {
    /// Locates the samples of a file; `None` if it has another format.
    ///
    /// The rules, in order (ffmpeg reads the same samples):
    ///
    /// 1. A data size that fits in the file is right, whatever follows.
    /// 2. A data size of 0 is right if the rest of the file consists of chunks, else a placeholder.
    /// 3. A larger size means "to the end of the file". The file is truncated if the claim is less than 2
    ///    GiB and the size of the whole file, if present, does not match.
    ///
    /// An incomplete frame of samples is dropped.
    pub(super) fn find(bytes: &[u8]) -> Option<Result<Self, WaveError>> {
        if bytes.starts_with(b"RIFX") {
            let kind = "WAV with big-endian samples (RIFX)".to_owned();
            return Some(Err(WaveError::Unsupported(kind)));
        }
        Layout::from_bytes(bytes).map(|layout| Self::read(bytes, &layout))
    }

    fn read(bytes: &[u8], layout: &Layout) -> Result<Self, WaveError> {
        let (mut at, mut format, mut data, mut wide_size) = (layout.first, None, None, None);
        while format.is_none() || data.is_none() {
            let Some(chunk) = layout.chunk(bytes, at) else { break };
            at = layout.after(bytes, &chunk);
            match chunk.id {
                b"ds64" => wide_size = chunk.body.get(8..16).map(little_endian),
                b"fmt " if format.is_none() => format = Some(Format::read(chunk.body)?),
                b"data" if data.is_none() => data = Some(chunk),
                _ => {}
            }
        }
        let format = format.ok_or(WaveError::Damaged("the `fmt ` chunk is missing"))?;
        let data = data.ok_or(WaveError::Damaged("the `data` chunk is missing"))?;

        let claimed = match (data.size, wide_size) {
            (0xffff_ffff, Some(wide)) => wide,
            (size, _) => size,
        };
        let rest = bytes.len() - data.start;
        let is_placeholder = claimed == 0 && !layout.fills(bytes, data.start);
        let held = if is_placeholder { None } else { usize::try_from(claimed).ok() };
        let n_bytes = held.filter(|n| *n <= rest).unwrap_or(rest);
        let ends_early = claimed > rest as u64
            && claimed < PLACEHOLDER_MIN
            && layout.claimed_file_size(bytes).abs_diff(bytes.len() as u64) > 1;
        let n_bytes = n_bytes - n_bytes % format.block_bytes;
        let header = format.header(n_bytes);
        Ok(Self { header, data: data.start..data.start + n_bytes, ends_early })
    }
}

/// A `fmt ` chunk in the form expected by the demuxer.
struct Format {
    /// The chunk's body; `None` if the samples are MPEG audio.
    body: Option<Vec<u8>>,
    /// The number of bytes that are decoded together.
    block_bytes: usize,
}

impl Format {
    fn read(body: &[u8]) -> Result<Self, WaveError> {
        if body.len() < FORMAT_BYTES {
            return Err(WaveError::Damaged("the `fmt ` chunk is too short"));
        }
        let field = |at: usize| u16::from_le_bytes([body[at], body[at + 1]]);
        let (n_channels, block_align, n_bits) = (field(2), field(12), field(14));
        let tag = match field(0) {
            // The encoding is in the first bytes of a GUID, after three other fields.
            tag::EXTENSIBLE => body
                .get(24..26)
                .map(|id| u16::from_le_bytes([id[0], id[1]]))
                .ok_or(WaveError::Damaged("the `fmt ` chunk is too short"))?,
            tag => tag,
        };
        if n_channels == 0 {
            return Err(WaveError::Damaged("the number of channels is 0"));
        }
        let unsupported = |what: String| Err(WaveError::Unsupported(format!("WAV with {what}")));
        let sample_bytes = match (tag, n_bits) {
            (tag::PCM, 1..=32) => n_bits.div_ceil(8),
            (tag::FLOAT, 32 | 64) => n_bits / 8,
            (tag::A_LAW | tag::MU_LAW, _) => 1,
            (tag::PCM | tag::FLOAT, 0) => {
                return Err(WaveError::Damaged("the number of bits per sample is 0"));
            }
            (tag::PCM, _) => return unsupported(format!("samples of {n_bits} bits")),
            (tag::FLOAT, _) => return unsupported(format!("floats of {n_bits} bits")),
            (tag::ADPCM_MS | tag::ADPCM_IMA, 4) if block_align > 0 => {
                let (body, block_bytes) = (Some(body.to_vec()), usize::from(block_align));
                return Ok(Self { body, block_bytes });
            }
            (tag::MPEG | tag::MP3, _) => return Ok(Self { body: None, block_bytes: 1 }),
            _ => return unsupported(wave_codec(tag)),
        };
        // Only the required and correct fields: the demuxer accepts no other lengths of this chunk.
        let block_bytes = usize::from(sample_bytes) * usize::from(n_channels);
        let mut plain = tag.to_le_bytes().to_vec();
        plain.extend(&body[2..12]);
        plain.extend(u16::try_from(block_bytes).unwrap_or(0).to_le_bytes());
        plain.extend((sample_bytes * 8).to_le_bytes());
        plain.extend(0_u16.to_le_bytes());
        Ok(Self { body: Some(plain), block_bytes })
    }

    fn header(&self, n_bytes: usize) -> Vec<u8> {
        let Some(body) = &self.body else { return Vec::new() };
        let mut header = b"RIFF\xff\xff\xff\xffWAVEfmt ".to_vec();
        header.extend(u32::try_from(body.len()).unwrap_or(0).to_le_bytes());
        header.extend(body);
        header.resize(header.len().next_multiple_of(2), 0);
        header.extend(b"data");
        header.extend(u32::try_from(n_bytes).unwrap_or(u32::MAX).to_le_bytes());
        header
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    ByteOrder::Little.unsigned(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes in the headers of a file.
    struct Sizes {
        whole: u32,
        data: u32,
    }

    fn chunk(id: &[u8; 4], size: u32, body: &[u8]) -> Vec<u8> {
        [id.as_slice(), &size.to_le_bytes(), body].concat()
    }

    fn sized(id: &[u8; 4], body: &[u8]) -> Vec<u8> {
        chunk(id, u32::try_from(body.len()).unwrap(), body)
    }

    /// The body of a `fmt ` chunk.
    fn format_body(tag: u16, n_channels: u16, n_bits: u16) -> Vec<u8> {
        let block = n_channels * n_bits.div_ceil(8);
        let mut body = [tag, n_channels].map(u16::to_le_bytes).concat();
        body.extend(8000_u32.to_le_bytes());
        body.extend((8000 * u32::from(block)).to_le_bytes());
        body.extend([block, n_bits].map(u16::to_le_bytes).concat());
        body
    }

    fn file(sizes: &Sizes, before: &[u8], samples: &[u8], after: &[u8]) -> Vec<u8> {
        let format = sized(b"fmt ", &format_body(1, 1, 16));
        let data = chunk(b"data", sizes.data, samples);
        let body = [b"WAVE".as_slice(), &format, before, &data, after].concat();
        chunk(b"RIFF", sizes.whole, &body)
    }

    fn found(bytes: &[u8]) -> (&[u8], bool) {
        let wave = Wave::find(bytes).unwrap().unwrap();
        (&bytes[wave.data], wave.ends_early)
    }

    const SAMPLES: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    #[test]
    fn placeholders_reach_to_the_end_of_the_file() {
        for data in [0, 0xffff_ffff, 0x7fff_ffff, 0x7fff_f000, 0x8000_0000, 0xffff_ff00] {
            for whole in [0, 36, 44, 0xffff_ffff, 0x7fff_f024, 4] {
                let bytes = file(&Sizes { whole, data }, &[], &SAMPLES, &[]);
                assert_eq!(found(&bytes), (&SAMPLES[..], false), "data {data:#x}, {whole:#x}");
                let odd = file(&Sizes { whole, data }, &[], &[1, 2, 3, 4, 5], &[]);
                assert_eq!(found(&odd), (&[1, 2, 3, 4][..], false), "data {data:#x}, {whole:#x}");
            }
        }
    }

    #[test]
    fn right_sizes_end_the_samples_whatever_follows() {
        let list = sized(b"LIST", b"INFOabcdefgh");
        for whole in [0, 36, 0xffff_ffff, 44] {
            for after in [&list[..], b"garbage", &[0; 9]] {
                let bytes = file(&Sizes { whole, data: 8 }, &list, &SAMPLES, after);
                assert_eq!(found(&bytes), (&SAMPLES[..], false));
            }
        }
        let empty = file(&Sizes { whole: 36, data: 0 }, &[], &[], &list);
        assert_eq!(found(&empty), (&[][..], false), "a file without samples has none");
    }

    #[test]
    fn truncated_files_are_distinguished_from_wrong_sizes() {
        let cut = file(&Sizes { whole: 136, data: 100 }, &[], &SAMPLES, &[]);
        assert_eq!(found(&cut), (&SAMPLES[..], true));
        // The file is complete by its own account: its writer counted the header as samples.
        let counted = file(&Sizes { whole: 44, data: 52 }, &[], &SAMPLES, &[]);
        assert_eq!(found(&counted), (&SAMPLES[..], false));
    }

    #[test]
    fn chunks_of_odd_length_are_followed_with_padding_and_without() {
        for padding in [&[0_u8][..], &[]] {
            let odd = [&sized(b"junk", b"abc")[..], padding].concat();
            let bytes = file(&Sizes { whole: 0, data: 8 }, &odd, &SAMPLES, &[]);
            assert_eq!(found(&bytes), (&SAMPLES[..], false), "{padding:?}");
        }
    }

    #[test]
    fn sizes_of_64_bits_are_read() {
        let format = sized(b"fmt ", &format_body(1, 1, 16));
        for (wide, wanted) in [(4_u64, 4), (0, 8), (1 << 40, 8)] {
            let sizes = [0_u64, wide, 0].map(u64::to_le_bytes).concat();
            let ds64 = sized(b"ds64", &[&sizes[..], &[0; 4]].concat());
            let data = chunk(b"data", u32::MAX, &SAMPLES);
            let body = [b"WAVE".as_slice(), &ds64, &format, &data].concat();
            for id in [b"RF64", b"BW64"] {
                let bytes = chunk(id, u32::MAX, &body);
                assert_eq!(found(&bytes), (&SAMPLES[..wanted], false), "{wide}");
            }
        }
        let guid = |id: &[u8; 4]| [id.as_slice(), &[0xf3; 12]].concat();
        let wide = |id: &[u8; 4], size: u64, body: &[u8]| {
            let mut bytes = [&guid(id)[..], &size.to_le_bytes(), body].concat();
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes
        };
        for size in [32, 24, 0, u64::MAX] {
            let data = wide(b"data", size, &SAMPLES);
            let body = [guid(b"wave"), wide(b"fmt ", 40, &format_body(1, 1, 16)), data];
            let bytes = wide(b"riff", 0, &body.concat());
            assert_eq!(found(&bytes).0, SAMPLES, "{size}");
        }
    }

    #[test]
    fn formats_are_made_plain_or_named() {
        let read = |body: &[u8]| {
            let data = sized(b"data", &SAMPLES);
            let body = [b"WAVE".as_slice(), &sized(b"fmt ", body), &data].concat();
            Wave::find(&chunk(b"RIFF", 0, &body)).unwrap()
        };
        let bits = |wave: Wave| u16::from_le_bytes([wave.header[34], wave.header[35]]);
        assert_eq!(bits(read(&format_body(1, 1, 20)).unwrap()), 24);
        let odd_length = [&format_body(1, 1, 16)[..], &[0; 7]].concat();
        assert_eq!(bits(read(&odd_length).unwrap()), 16);
        let extended = |tag: u8| {
            let guid = [&[tag, 0, 0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71][..]];
            [&format_body(0xfffe, 1, 32)[..], &[22, 0, 24, 0, 4, 0, 0, 0], guid[0]].concat()
        };
        assert_eq!(bits(read(&extended(1)).unwrap()), 32);
        assert_eq!(bits(read(&extended(3)).unwrap()), 32);
        let named = |body: &[u8]| match read(body) {
            Err(WaveError::Unsupported(name)) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(named(&format_body(0x31, 1, 0)), "WAV with GSM 6.10");
        assert_eq!(named(&format_body(0x45, 1, 4)), "WAV with ADPCM");
        assert_eq!(named(&format_body(0x161, 2, 16)), "WAV with WMA");
        assert_eq!(named(&format_body(3, 1, 16)), "WAV with floats of 16 bits");
        assert_eq!(named(&format_body(0x4321, 1, 16)), "WAV with encoding 0x4321");
        assert!(matches!(read(&format_body(1, 0, 16)), Err(WaveError::Damaged(_))));
        assert!(matches!(read(&[1, 0]), Err(WaveError::Damaged(_))));
    }
}
