//! JPEG markers (ITU-T T.81, annex B), parsed like libjpeg: bytes between segments are skipped.

use memchr::memchr;

/// The first bytes of a JPEG file: the marker SOI.
const SOI: [u8; 2] = [0xff, 0xd8];
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const APP1: u8 = 0xe1;

/// The prefix of an APP1 segment with EXIF data.
const EXIF: &[u8] = b"Exif\0\0";
/// The prefix of an APP1 segment with XMP data.
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// An error of decoding a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// Bytes are missing or wrong.
    #[error("{0}")]
    Damaged(String),
    /// The variant of JPEG is not supported.
    #[error("{0}")]
    Unsupported(String),
}

/// The contents of the markers before the first scan.
#[derive(Clone, Debug)]
pub(super) struct Header {
    /// The width in pixels.
    pub(super) width: u16,
    /// The height in pixels.
    pub(super) height: u16,
    /// Whether coefficients are spread over several scans (SOF2).
    pub(super) is_progressive: bool,
    /// Horizontal and vertical sampling factors of the components.
    pub(super) sampling: Vec<(u8, u8)>,
    /// The EXIF data, a TIFF structure, which may be split over several segments.
    pub(super) exif: Option<Vec<u8>>,
    /// The last XMP packet.
    pub(super) xmp: Option<Vec<u8>>,
    /// The offset of the segment that starts the first scan.
    scans_start: usize,
}

/// The contents of the markers from the first scan on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scans {
    /// The number of scans.
    pub(super) n_scans: usize,
    /// Whether the first scan has data.
    pub(super) has_data: bool,
    /// Whether the file ends with the marker EOI.
    pub(super) has_end: bool,
}

/// An iterator over markers.
struct Markers<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Markers<'a> {
    /// Advances past the next marker; `None` at the end of the file. Everything before it is skipped,
    /// including entropy-coded data.
    fn next(&mut self) -> Option<u8> {
        loop {
            self.at += memchr(0xff, self.bytes.get(self.at..)?)? + 1;
            while *self.bytes.get(self.at)? == 0xff {
                self.at += 1;
            }
            let marker = self.bytes[self.at];
            self.at += 1;
            // A stuffed byte, a restart, or a standalone marker without meaning.
            if !matches!(marker, 0x00 | 0x01 | 0xd0..=0xd7) {
                return Some(marker);
            }
        }
    }

    /// Reads the segment of the last marker and advances past it.
    fn segment(&mut self) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.at..];
        let length = rest.first_chunk().map(|bytes| usize::from(u16::from_be_bytes(*bytes)));
        let length = length.ok_or_else(|| damaged("unexpected end of file within the header"))?;
        if length < 2 {
            return Err(damaged("invalid length of a header segment"));
        }
        let segment = rest
            .get(2..length)
            .ok_or_else(|| damaged("unexpected end of file within the header"))?;
        self.at += length;
        Ok(segment)
    }
}

fn damaged(problem: &str) -> Fault {
    Fault::Damaged(problem.to_owned())
}

fn unsupported(variant: &str) -> Fault {
    Fault::Unsupported(variant.to_owned())
}

impl Header {
    /// Parses the header of a file.
    ///
    /// # Errors
    ///
    /// [`Fault`] if the file has no scan or is an unsupported variant.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Fault> {
        if !bytes.starts_with(&SOI) {
            return Err(damaged("the marker SOI is missing"));
        }
        let mut markers = Markers { bytes, at: SOI.len() };
        let (mut frame, mut exif, mut xmp) = (None, None::<Vec<u8>>, None);
        loop {
            let marker = markers
                .next()
                .ok_or_else(|| damaged("unexpected end of file before the pixels"))?;
            match marker {
                SOS => break,
                EOI => return Err(damaged("unexpected end of file before the pixels")),
                0xd8 => return Err(damaged("a second file begins within the header")),
                // DHT, JPG and DAC are among the start-of-frame markers.
                0xc4 | 0xc8 | 0xcc => drop(markers.segment()?),
                0xc0..=0xcf => {
                    let segment = markers.segment()?;
                    if frame.replace(Frame::read(marker, segment)?).is_some() {
                        return Err(damaged("the file has two frames"));
                    }
                }
                APP1 => {
                    let segment = markers.segment()?;
                    if let Some(data) = segment.strip_prefix(EXIF) {
                        exif.get_or_insert_with(Vec::new).extend_from_slice(data);
                    } else if let Some(data) = segment.strip_prefix(XMP) {
                        xmp = Some(data.to_vec());
                    }
                }
                _ => drop(markers.segment()?),
            }
        }
        let Frame { width, height, is_progressive, sampling } =
            frame.ok_or_else(|| damaged("the frame header is missing"))?;
        let scans_start = markers.at;
        Ok(Self { width, height, is_progressive, sampling, exif, xmp, scans_start })
    }

    /// Finds the scans of the file with this header, and its end.
    pub(super) fn scans(&self, bytes: &[u8]) -> Scans {
        let mut markers = Markers { bytes, at: self.scans_start };
        let mut scans = Scans { n_scans: 1, has_data: false, has_end: false };
        while markers.segment().is_ok() {
            let data = &bytes[markers.at..];
            scans.has_data |= !matches!(data, [] | [0xff] | [0xff, 1..=0xff, ..]);
            match markers.next() {
                Some(SOS) => scans.n_scans += 1,
                Some(EOI) => return Scans { has_end: true, ..scans },
                Some(_) => {}
                None => break,
            }
        }
        scans
    }
}

/// A frame header.
struct Frame {
    width: u16,
    height: u16,
    is_progressive: bool,
    sampling: Vec<(u8, u8)>,
}

impl Frame {
    fn read(marker: u8, segment: &[u8]) -> Result<Self, Fault> {
        let (head, components) = segment.split_first_chunk::<6>().ok_or_else(too_short)?;
        let [precision, h1, h0, w1, w0, n_components] = *head;
        match marker {
            0xc3 | 0xc7 | 0xcb | 0xcf => return Err(unsupported("lossless JPEG")),
            0xc5 | 0xc6 | 0xcd | 0xce => return Err(unsupported("hierarchical JPEG")),
            0xc9 | 0xca => return Err(unsupported("arithmetic-coded JPEG")),
            _ => {}
        }
        if precision != 8 {
            return Err(unsupported(&format!("JPEG with {precision} bits per sample")));
        }
        if !matches!(n_components, 1 | 3 | 4) {
            return Err(unsupported(&format!("JPEG with {n_components} components")));
        }
        let (width, height) = (u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]));
        if height == 0 {
            return Err(unsupported("JPEG whose height follows its pixels (DNL)"));
        }
        if width == 0 {
            return Err(damaged("the frame header has a width of 0"));
        }
        let components = components.get(..3 * usize::from(n_components)).ok_or_else(too_short)?;
        let sampling = components.chunks_exact(3).map(|one| (one[1] >> 4, one[1] & 0xf)).collect();
        Ok(Self { width, height, is_progressive: marker == 0xc2, sampling })
    }
}

fn too_short() -> Fault {
    damaged("the frame header is too short")
}

#[cfg(test)]
mod tests {
    use super::{Fault, Header};

    /// A frame header with one component.
    fn header(frame: u8, precision: u8, [height, width]: [u8; 2], n_components: u8) -> Vec<u8> {
        let mut bytes = b"\xff\xd8junk\xff\x00\xff\xff\xe1\0\x0aExif\0\0II".to_vec();
        let length = 8 + 3 * n_components;
        bytes.extend([0xff, frame, 0, length, precision, 0, height, 0, width, n_components]);
        for component in 0..n_components {
            bytes.extend([component, 0x21, 0]);
        }
        bytes
    }

    /// A scan with apparent markers in its header and in a comment after it.
    const SCAN: &[u8] =
        b"\xff\xda\0\x08\x01\0\0\xff\xd9\0\x12\xff\x00\x34\xff\xd0\x56\xff\xfe\0\x04\xff\xda";

    #[test]
    fn frames_metadata_and_scans_are_found() {
        let bytes = [&header(0xc2, 8, [5, 7], 3), SCAN, SCAN, b"\xff\xff\xd9after"].concat();
        let header = Header::read(&bytes).unwrap();
        assert_eq!((header.width, header.height, header.is_progressive), (7, 5, true));
        assert_eq!(header.sampling, [(2, 1); 3]);
        assert_eq!(header.exif.as_deref(), Some(b"II".as_slice()));
        let scans = header.scans(&bytes);
        assert_eq!((scans.n_scans, scans.has_end), (2, true));
        assert!(!header.scans(&bytes[..bytes.len() - 6]).has_end);
    }

    #[test]
    fn variants_are_refused_by_name() {
        let read = |frame, precision, size, n_components| {
            let bytes = [&header(frame, precision, size, n_components), SCAN].concat();
            Header::read(&bytes).map(drop).unwrap_err()
        };
        for (fault, name) in [
            (read(0xc9, 8, [5, 7], 3), "arithmetic-coded JPEG"),
            (read(0xca, 8, [5, 7], 3), "arithmetic-coded JPEG"),
            (read(0xc3, 8, [5, 7], 3), "lossless JPEG"),
            (read(0xc5, 8, [5, 7], 3), "hierarchical JPEG"),
            (read(0xc1, 12, [5, 7], 3), "JPEG with 12 bits per sample"),
            (read(0xc0, 8, [5, 7], 2), "JPEG with 2 components"),
            (read(0xc0, 8, [0, 7], 3), "JPEG whose height follows its pixels (DNL)"),
        ] {
            assert_eq!(fault, Fault::Unsupported(name.to_owned()));
        }
        assert!(matches!(read(0xc0, 8, [5, 0], 3), Fault::Damaged(_)));
    }

    #[test]
    fn a_header_that_ends_anywhere_is_damaged() {
        let whole = [&header(0xc0, 8, [5, 7], 3), &SCAN[..2]].concat();
        assert!(Header::read(&whole).is_ok());
        for end in 0..whole.len() {
            let fault = Header::read(&whole[..end]).map(drop).unwrap_err();
            assert!(matches!(fault, Fault::Damaged(_)), "{end}: {fault:?}");
        }
    }
}
