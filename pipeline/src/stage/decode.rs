//! The media of a row, read and decoded within memory that is reserved for the whole row at once.
//!
//! A row never adds to what it holds while it waits, because rows that did so could wait for each other
//! for ever. What it takes shows in part only when it is at work, by reading files and decoding
//! sounds: a row that needs more gives all back and begins anew with more.

use std::borrow::Cow;

use legenda_models::{Processor, RgbImage, Waveform};
use legenda_schemas::job::Limits;

use crate::{
    budget::{Budget, Reservation},
    guard::{CALL_MAX, GuardError, guarded_within},
    media::{
        Decoded, MediaError, audio::decode_audio, damaged::decode_image, encoded::Encoded,
        image::PendingImage,
    },
    source::cell::MediaCell,
};

/// Bytes of 32-bit samples, twice over, for a byte of encoded sound: MP3 at 128 kbit/s and 44.1 kHz.
const AUDIO_EXPANSION: u64 = 22;
/// What a medium of unknown size is first given: a picture of 3 million pixels and its file.
const FILE_BYTES: u64 = 48 << 20;
/// Bytes of a decoded pixel.
const PIXEL_BYTES: u64 = 3;

/// Why a medium is not decoded within the room of its row.
pub(super) enum Short {
    /// It takes more.
    Needs {
        /// What the row takes with it, as far as that is known.
        bytes: u64,
        /// Whether that is all.
        is_exact: bool,
    },
    /// It cannot be used.
    Refused(MediaError),
}

impl From<MediaError> for Short {
    fn from(error: MediaError) -> Self {
        Self::Refused(error)
    }
}

/// Memory for the media of one row.
pub(super) struct Room<'a> {
    pub(super) budget: &'a Budget,
    pub(super) processor: &'a Processor,
    pub(super) limits: &'a Limits,
    pub(super) allowed: u64,
    pub(super) used: u64,
    /// Gone only while a decoder has it.
    pub(super) reservation: Option<Reservation>,
}

/// Returns what a row is first given: all that it takes where headers tell, else the usual.
///
/// # Errors
///
/// [`MediaError`] of a picture whose header tells that it cannot be used.
pub(super) fn first_bytes(
    processor: &Processor,
    limits: &Limits,
    images: &[MediaCell<'_>],
    audios: &[MediaCell<'_>],
) -> Result<u64, MediaError> {
    let (mut kept, mut peak) = (0_u64, 0_u64);
    for cell in images {
        let need = match cell {
            MediaCell::Path(_) => ImageNeed { kept: 0, peak: FILE_BYTES },
            MediaCell::Encoded(encoded) => {
                let peak = FILE_BYTES.saturating_add(decode_bytes(*encoded));
                ImageNeed { kept: 0, peak }
            }
            MediaCell::Bytes(bytes) => {
                let pending = PendingImage::open(bytes, limits.image_pixels)?;
                ImageNeed::of(processor, &pending).with(bytes.len())
            }
        };
        peak = peak.max(kept.saturating_add(need.peak));
        kept = kept.saturating_add(need.kept);
    }
    for cell in audios {
        let need = match cell {
            MediaCell::Path(_) => FILE_BYTES,
            MediaCell::Encoded(encoded) => {
                audio_need(processor, encoded.size_bytes()).saturating_add(decode_bytes(*encoded))
            }
            MediaCell::Bytes(bytes) => audio_need(processor, bytes.len() as u64),
        };
        kept = kept.saturating_add(need);
    }
    Ok(kept.max(peak))
}

/// Returns what decoding a text takes: its bytes, and copies of it without white space and escapes.
pub(super) fn decode_bytes(encoded: Encoded<'_>) -> u64 {
    encoded.size_bytes().saturating_add((encoded.text().len() as u64).saturating_mul(2))
}

/// Returns what a sound of so many encoded bytes is first given.
fn audio_need(processor: &Processor, bytes: u64) -> u64 {
    bytes.saturating_mul(AUDIO_EXPANSION).saturating_add(processor.audio_bytes(0, 1))
}

/// What a picture takes.
struct ImageNeed {
    /// Once it is decoded, until it is processed.
    kept: u64,
    /// While it is decoded or processed.
    peak: u64,
}

impl ImageNeed {
    fn of(processor: &Processor, pending: &PendingImage<'_>) -> Self {
        let (width, height) = pending.size();
        let pixels = (width as u64).saturating_mul(height as u64);
        let of_model = processor.image_bytes(width, height) as u64;
        let kept = pixels.saturating_mul(PIXEL_BYTES).saturating_add(of_model);
        Self { kept, peak: pending.decode_bytes().max(kept) }
    }

    /// With a copy of its encoded bytes.
    fn with(self, n_bytes: usize) -> Self {
        Self { peak: self.peak.saturating_add(n_bytes as u64), ..self }
    }
}

impl Room<'_> {
    /// Returns what is left.
    pub(super) fn left(&self) -> u64 {
        self.allowed.saturating_sub(self.used)
    }

    fn need(&self, bytes: u64) -> Result<(), Short> {
        if bytes > self.left() {
            let bytes = self.used.saturating_add(bytes);
            return Err(Short::Needs { bytes, is_exact: true });
        }
        Ok(())
    }

    /// Takes in the bytes of a file, which are held until they are decoded.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        self.used = self.used.saturating_add(bytes.len() as u64);
    }

    fn let_go(&mut self, bytes: &[u8]) {
        self.used = self.used.saturating_sub(bytes.len() as u64);
    }

    /// Does `work` on the guard's thread, which has the reservation as long as it works.
    fn guarded<T: Send + 'static>(
        &mut self,
        kind: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, MediaError> {
        let lent = self.reservation.take().map(|reservation| self.budget.lend(reservation));
        let (lent, lender) = lent.unzip();
        match guarded_within(CALL_MAX, move || (work(), lent)) {
            Ok((result, lent)) => {
                self.reservation = lent.map(crate::budget::Lent::back);
                Ok(result)
            }
            Err(source) => {
                if let (GuardError::TooSlow { .. }, Some(lender)) = (&source, lender) {
                    lender.give_up();
                }
                Err(MediaError::Decoder { kind, source })
            }
        }
    }

    /// Decodes an image.
    pub(super) fn image(&mut self, bytes: Cow<'_, [u8]>) -> Result<Decoded<RgbImage>, Short> {
        let pixels_max = self.limits.image_pixels;
        let need = ImageNeed::of(self.processor, &PendingImage::open(&bytes, pixels_max)?);
        let is_copied = matches!(bytes, Cow::Borrowed(_));
        let need = if is_copied { need.with(bytes.len()) } else { need };
        self.need(need.peak)?;
        if !is_copied {
            self.let_go(&bytes);
        }
        // The library's decoder cannot change threads, so the header is read again on the guard's.
        let bytes = bytes.into_owned();
        let damaged_media = self.limits.damaged_media;
        let decode = move || decode_image(&bytes, pixels_max, damaged_media);
        let image = self.guarded("image", decode)??;
        self.used = self.used.saturating_add(need.kept);
        Ok(image)
    }

    /// Decodes a sound. How long it is shows only then.
    pub(super) fn sound(&mut self, bytes: Cow<'_, [u8]>) -> Result<Decoded<Waveform>, Short> {
        let seconds_max = self.limits.audio_seconds;
        let n_bytes = bytes.len() as u64;
        let copied = bytes.into();
        let bytes_max = self.left().saturating_sub(n_bytes);
        let decoded =
            self.guarded("audio", move || decode_audio(copied, seconds_max, bytes_max))?;
        let audio = decoded.map_err(|error| match error {
            MediaError::TooMuchMemory { bytes, .. } => {
                let bytes = self.used.saturating_add(n_bytes).saturating_add(bytes);
                Short::Needs { bytes, is_exact: false }
            }
            error => Short::Refused(error),
        })?;
        let Waveform { samples, sample_rate_hz } = &audio.media;
        let of_model = self.processor.audio_bytes(samples.len(), *sample_rate_hz);
        let kept = (samples.len() as u64 * size_of::<f32>() as u64).saturating_add(of_model);
        self.need(kept)?;
        self.used = self.used.saturating_add(kept);
        Ok(audio)
    }
}
