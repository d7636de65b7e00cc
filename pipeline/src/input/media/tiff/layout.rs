//! The layout of a TIFF image: the meaning of its samples and the location of its strips or tiles.

use image::ImageResult;

use super::{Directory, damaged, unsupported};
use crate::input::media::number::ByteOrder;

/// The maximum samples per pixel, more than in any real image.
const SAMPLES_MAX: usize = 64;

/// The maximum pixels of a tile of a smaller image.
const TILE_PIXELS_MAX: u64 = 1 << 24;

/// The meaning of samples (`PhotometricInterpretation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Color {
    WhiteIsZero,
    BlackIsZero,
    Rgb,
    Palette,
    Cmyk,
    YCbCr,
}

impl Color {
    /// Returns the number of colour samples per pixel.
    pub(super) fn n_samples(self) -> usize {
        match self {
            Self::WhiteIsZero | Self::BlackIsZero | Self::Palette => 1,
            Self::Rgb | Self::YCbCr => 3,
            Self::Cmyk => 4,
        }
    }
}

/// The encoding of samples (`SampleFormat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SampleKind {
    Unsigned,
    Signed,
    Float,
}

/// The compression of strips and tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    /// Modified Huffman: Group 3 without end-of-line codes, with byte-aligned rows.
    Huffman,
    Group3,
    Group4,
    Lzw,
    Jpeg,
    Deflate,
    PackBits,
    Zstd,
}

impl Compression {
    fn read(number: u64) -> ImageResult<Self> {
        Ok(match number {
            1 => Self::None,
            2 => Self::Huffman,
            3 => Self::Group3,
            4 => Self::Group4,
            5 => Self::Lzw,
            7 => Self::Jpeg,
            8 | 32946 => Self::Deflate,
            32773 => Self::PackBits,
            50000 => Self::Zstd,
            other => {
                let name = match other {
                    6 => "old-style JPEG compression".to_owned(),
                    9 | 10 => "JBIG compression".to_owned(),
                    32809 => "ThunderScan compression".to_owned(),
                    33003 | 33005 | 34712 => "JPEG 2000 compression".to_owned(),
                    34676 | 34677 => "LogLuv compression".to_owned(),
                    34887 => "LERC compression".to_owned(),
                    34892 => "lossy DNG compression".to_owned(),
                    34925 => "LZMA compression".to_owned(),
                    50001 => "WebP compression".to_owned(),
                    50002 | 52546 => "JPEG XL compression".to_owned(),
                    _ => format!("compression {other}"),
                };
                return Err(unsupported(name));
            }
        })
    }
}

/// The transformation of samples before compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Predictor {
    None,
    Horizontal,
    Float,
}

/// The layout of a TIFF image.
#[derive(Clone, Debug)]
pub(super) struct Layout<'a> {
    pub(super) order: ByteOrder,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) color: Color,
    pub(super) kind: SampleKind,
    /// Bits per sample, at most 64.
    pub(super) bits: usize,
    /// Samples per pixel: colour, then others.
    pub(super) samples: usize,
    /// Whether colours are premultiplied by the sample after them.
    pub(super) is_premultiplied: bool,
    pub(super) compression: Compression,
    pub(super) predictor: Predictor,
    /// Whether the first bit of a byte is the lowest.
    pub(super) is_lowest_first: bool,
    /// Bit 0: Group 3 rows refer to the previous row.
    pub(super) fax_options: u64,
    pub(super) jpeg_tables: Option<&'a [u8]>,
    /// The meaning of samples in the file, before a JPEG decoder converts them to RGB.
    pub(super) coded_color: Color,
    /// 16-bit red, green and blue: all reds, then all greens, then all blues.
    pub(super) palette: Vec<u64>,
    /// Pixels per chroma sample, across and down.
    pub(super) subsampling: (usize, usize),
    /// Whether each sample has separate strips or tiles.
    pub(super) is_planar: bool,
    is_tiled: bool,
    chunk_width: usize,
    chunk_height: usize,
    offsets: Vec<u64>,
    byte_counts: Option<Vec<u64>>,
}

/// A strip or tile: its position in the image and in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    /// The index of its sample, if samples are separate.
    pub(super) plane: usize,
    pub(super) left: usize,
    pub(super) top: usize,
    /// Pixels per encoded row, and encoded rows; for a tile at an edge, more than in the image.
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) offset: u64,
    pub(super) n_bytes: Option<u64>,
}

impl<'a> Layout<'a> {
    /// Parses the layout, with the defaults of TIFF 6.0 and of Pillow.
    pub(super) fn read(tags: &Directory<'a>) -> ImageResult<Self> {
        const WIDTH: u16 = 256;
        const HEIGHT: u16 = 257;
        const COMPRESSION: u16 = 259;
        const FILL_ORDER: u16 = 266;
        const PLANAR: u16 = 284;
        const FAX_OPTIONS: u16 = 292;
        const PREDICTOR: u16 = 317;
        const COLOR_MAP: u16 = 320;
        const SAMPLE_FORMAT: u16 = 339;
        const JPEG_TABLES: u16 = 347;
        const SUBSAMPLING: u16 = 530;
        let (Some(width), Some(height)) = (size(tags, WIDTH), size(tags, HEIGHT)) else {
            return Err(damaged("missing or invalid dimensions"));
        };
        let compression = Compression::read(tags.integer(COMPRESSION).unwrap_or(1))?;
        let (mut color, samples, bits) = pixel(tags)?;
        let is_planar = tags.integer(PLANAR) == Some(2) && samples > 1;
        let coded_color = color;
        if compression == Compression::Jpeg && !is_planar && color.n_samples() > 1 {
            if samples != 3 || bits != 8 {
                return Err(unsupported(format!(
                    "JPEG compression of {samples} samples of {bits} bits"
                )));
            }
            // The JPEG decoder returns RGB.
            color = Color::Rgb;
        }
        let is_premultiplied = samples > color.n_samples()
            && tags.integer(EXTRA_SAMPLES) == Some(1)
            && matches!(color, Color::Rgb | Color::BlackIsZero | Color::WhiteIsZero);
        let formats = tags.integers(SAMPLE_FORMAT).unwrap_or_else(|| vec![1]);
        let kind = match formats[0] {
            _ if formats.iter().any(|format| *format != formats[0]) => {
                return Err(unsupported("samples of different formats"));
            }
            // 4 is undefined: treat it as unsigned.
            1 | 4 => SampleKind::Unsigned,
            2 => SampleKind::Signed,
            3 if matches!(bits, 16 | 32 | 64) => SampleKind::Float,
            3 => return Err(unsupported(format!("floats of {bits} bits"))),
            _ => return Err(unsupported("complex samples")),
        };
        let is_lossless_coded =
            matches!(compression, Compression::Lzw | Compression::Deflate | Compression::Zstd);
        let predictor = match tags.integer(PREDICTOR) {
            _ if !is_lossless_coded => Predictor::None,
            None | Some(1) => Predictor::None,
            Some(2) if matches!(bits, 8 | 16 | 32 | 64) => Predictor::Horizontal,
            Some(3) if kind == SampleKind::Float => Predictor::Float,
            Some(other) => {
                return Err(unsupported(format!("predictor {other} of {bits}-bit samples")));
            }
        };
        let palette = tags.integers(COLOR_MAP).unwrap_or_default();
        if color == Color::Palette && (palette.len() < 3 || bits > 8) {
            return Err(unsupported(format!("a palette of {} entries", palette.len() / 3)));
        }
        let subsampling = match tags.integers(SUBSAMPLING).as_deref() {
            _ if color != Color::YCbCr => (1, 1),
            Some([across @ (1 | 2 | 4), down @ (1 | 2 | 4), ..]) => {
                (usize::try_from(*across).unwrap_or(1), usize::try_from(*down).unwrap_or(1))
            }
            None => (2, 2),
            Some(other) => return Err(unsupported(format!("chroma subsampling of {other:?}"))),
        };
        if color == Color::YCbCr && (bits != 8 || (is_planar && subsampling != (1, 1))) {
            return Err(unsupported(format!("YCbCr of {bits} bits or in planes")));
        }
        let mut layout = Self {
            order: tags.order(),
            width,
            height,
            color,
            kind,
            bits,
            samples,
            is_premultiplied,
            compression,
            predictor,
            is_lowest_first: tags.integer(FILL_ORDER) == Some(2),
            fax_options: tags.integer(FAX_OPTIONS).unwrap_or(0),
            jpeg_tables: tags.bytes(JPEG_TABLES),
            coded_color,
            palette,
            subsampling,
            is_planar,
            is_tiled: false,
            chunk_width: width as usize,
            chunk_height: height as usize,
            offsets: Vec::new(),
            byte_counts: None,
        };
        layout.place(tags)?;
        Ok(layout)
    }

    /// Parses the location of strips or tiles.
    fn place(&mut self, tags: &Directory<'_>) -> ImageResult<()> {
        const STRIP_OFFSETS: u16 = 273;
        const ROWS_PER_STRIP: u16 = 278;
        const STRIP_BYTE_COUNTS: u16 = 279;
        const TILE_WIDTH: u16 = 322;
        const TILE_LENGTH: u16 = 323;
        const TILE_OFFSETS: u16 = 324;
        const TILE_BYTE_COUNTS: u16 = 325;
        if let Some(offsets) = tags.integers(STRIP_OFFSETS) {
            let rows = size(tags, ROWS_PER_STRIP).unwrap_or(self.height);
            self.chunk_height = rows.min(self.height) as usize;
            self.offsets = offsets;
            self.byte_counts = tags.integers(STRIP_BYTE_COUNTS);
        } else if let Some(offsets) = tags.integers(TILE_OFFSETS) {
            let (Some(width), Some(height)) = (size(tags, TILE_WIDTH), size(tags, TILE_LENGTH))
            else {
                return Err(damaged("missing or invalid tile dimensions"));
            };
            let pixels_max = (u64::from(self.width) * u64::from(self.height)).max(TILE_PIXELS_MAX);
            if u64::from(width) * u64::from(height) > pixels_max {
                return Err(damaged("tiles are too large"));
            }
            self.is_tiled = true;
            (self.chunk_width, self.chunk_height) = (width as usize, height as usize);
            self.offsets = offsets;
            self.byte_counts = tags.integers(TILE_BYTE_COUNTS);
        } else {
            return Err(damaged("strips and tiles are missing"));
        }
        let n_chunks = self.chunks_across() * self.chunks_down() * self.n_planes();
        if self.offsets.len() < n_chunks {
            return Err(damaged(format!(
                "expected {n_chunks} strips or tiles, got {}",
                self.offsets.len()
            )));
        }
        Ok(())
    }

    fn chunks_across(&self) -> usize {
        (self.width as usize).div_ceil(self.chunk_width)
    }

    fn chunks_down(&self) -> usize {
        (self.height as usize).div_ceil(self.chunk_height)
    }

    fn n_planes(&self) -> usize {
        if self.is_planar { self.samples } else { 1 }
    }

    /// Returns the number of samples per pixel that are stored together in a strip or tile.
    pub(super) fn samples_together(&self) -> usize {
        if self.is_planar { 1 } else { self.samples }
    }

    /// Returns the number of samples per pixel that affect its RGB value.
    pub(super) fn kept_samples(&self) -> usize {
        self.color.n_samples() + usize::from(self.is_premultiplied)
    }

    /// Returns the decompressed size of an encoded row of `width` pixels.
    pub(super) fn row_bytes(&self, width: usize) -> usize {
        (width * self.samples_together() * self.bits).div_ceil(8)
    }

    /// Returns the decompressed size of the largest strip or tile.
    pub(super) fn chunk_bytes(&self) -> usize {
        self.row_bytes(self.chunk_width).saturating_mul(self.chunk_height)
    }

    /// Returns the strips or tiles of the samples that are kept.
    pub(super) fn chunks(&self) -> impl Iterator<Item = Chunk> {
        let (across, down) = (self.chunks_across(), self.chunks_down());
        let n_planes = self.n_planes().min(self.kept_samples());
        (0..across * down * n_planes).map(move |idx| {
            let (plane, place) = (idx / (across * down), idx % (across * down));
            let top = place / across * self.chunk_height;
            let rows_left = self.height as usize - top;
            Chunk {
                plane,
                left: place % across * self.chunk_width,
                top,
                width: self.chunk_width,
                height: if self.is_tiled {
                    self.chunk_height
                } else {
                    self.chunk_height.min(rows_left)
                },
                offset: self.offsets[idx],
                n_bytes: self.byte_counts.as_ref().and_then(|counts| counts.get(idx)).copied(),
            }
        })
    }
}

const EXTRA_SAMPLES: u16 = 338;

/// Parses a size in pixels; `None` if it is 0 or exceeds 31 bits.
fn size(tags: &Directory<'_>, tag: u16) -> Option<u32> {
    tags.integer(tag).and_then(|size| u32::try_from(size).ok()).filter(|size| *size > 0)
}

/// Parses the composition of a pixel: the meaning, number and bits of its samples.
fn pixel(tags: &Directory<'_>) -> ImageResult<(Color, usize, usize)> {
    const BITS_PER_SAMPLE: u16 = 258;
    const PHOTOMETRIC: u16 = 262;
    const SAMPLES_PER_PIXEL: u16 = 277;
    let samples = tags.integer(SAMPLES_PER_PIXEL).unwrap_or(1);
    let samples = usize::try_from(samples).unwrap_or(usize::MAX);
    let color = match tags.integer(PHOTOMETRIC).unwrap_or(0) {
        0 => Color::WhiteIsZero,
        1 => Color::BlackIsZero,
        2 => Color::Rgb,
        3 => Color::Palette,
        5 => Color::Cmyk,
        // Luma only.
        6 if samples == 1 => Color::BlackIsZero,
        6 => Color::YCbCr,
        4 => return Err(unsupported("a transparency mask")),
        8..=10 => return Err(unsupported("colours in CIE L*a*b*")),
        32803 => return Err(unsupported("raw data of a camera sensor")),
        32844 | 32845 => return Err(unsupported("LogLuv colours")),
        34892 => return Err(unsupported("linear raw data of a camera")),
        other => return Err(unsupported(format!("photometric interpretation {other}"))),
    };
    if !(color.n_samples()..=SAMPLES_MAX).contains(&samples) {
        return Err(unsupported(format!("{samples} samples per pixel of {color:?}")));
    }
    let bits = tags.integers(BITS_PER_SAMPLE).unwrap_or_else(|| vec![1]);
    if bits.iter().take(samples).any(|other| *other != bits[0]) {
        return Err(unsupported(format!("samples of different depths ({bits:?} bits)")));
    }
    match usize::try_from(bits[0]) {
        Ok(bits @ (1..=32 | 64)) => Ok((color, samples, bits)),
        _ => Err(unsupported(format!("samples of {} bits", bits[0]))),
    }
}
