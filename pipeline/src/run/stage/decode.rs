//! Reads and decodes the media of a row within memory that is reserved for the whole row at once.
//!
//! A row never adds to its reservation while it waits, because rows that did so could deadlock. Part of
//! the need is only known after reading files and decoding audio: a row that needs more releases
//! everything and starts over with a larger reservation.

use std::borrow::Cow;

use legenda_models::{Processor, RgbImage, Waveform};
use legenda_schemas::job::Limits;

use super::admission::Shortfall;
use crate::{
    base::{
        budget::{Budget, Reservation},
        guard::{CALL_MAX, GuardError, guarded_within},
    },
    input::{
        media::{
            Decoded, MediaError, audio::decode_audio, damaged::decode_image, encoded::Encoded,
            image::PendingImage,
        },
        source::cell::MediaCell,
    },
};

/// Bytes of 32-bit samples, twice, per byte of encoded audio: MP3 at 128 kbit/s and 44.1 kHz.
const AUDIO_EXPANSION: u64 = 22;
/// The initial reservation for media of unknown size: a file with an image of 3 million pixels.
const FILE_BYTES: u64 = 48 << 20;
/// Bytes per decoded pixel.
const PIXEL_BYTES: u64 = 3;

/// The reason media cannot be decoded within the row's budget.
pub(super) enum ReservationShortfall {
    /// The row needs a larger reservation.
    Needs(Shortfall),
    /// The media cannot be used.
    Refused(MediaError),
}

impl From<MediaError> for ReservationShortfall {
    fn from(error: MediaError) -> Self {
        Self::Refused(error)
    }
}

/// The memory budget for the media of one row.
pub(super) struct RowBudget<'a> {
    pub(super) budget: &'a Budget,
    pub(super) processor: &'a Processor,
    pub(super) limits: &'a Limits,
    pub(super) allowed: u64,
    pub(super) used: u64,
    /// `None` only while a decoder holds it.
    pub(super) reservation: Option<Reservation>,
}

/// Returns the initial reservation of a row: the exact need if headers reveal it, else a typical one.
///
/// # Errors
///
/// [`MediaError`] if the header of an image shows that it cannot be used.
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
                ImageNeed::new(processor, &pending).with(bytes.len())
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

/// Returns the bytes needed to decode base64 text: its bytes, and copies without white space and escapes.
pub(super) fn decode_bytes(encoded: Encoded<'_>) -> u64 {
    encoded.size_bytes().saturating_add((encoded.text().len() as u64).saturating_mul(2))
}

/// Returns the initial reservation for `bytes` of encoded audio.
fn audio_need(processor: &Processor, bytes: u64) -> u64 {
    bytes.saturating_mul(AUDIO_EXPANSION).saturating_add(processor.audio_bytes(0, 1))
}

/// The memory needs of an image.
struct ImageNeed {
    /// After decoding, until it is preprocessed.
    kept: u64,
    /// While it is decoded or preprocessed.
    peak: u64,
}

impl ImageNeed {
    fn new(processor: &Processor, pending: &PendingImage<'_>) -> Self {
        let (width, height) = pending.size();
        let pixels = (width as u64).saturating_mul(height as u64);
        let model_bytes = processor.image_bytes(width, height) as u64;
        let kept = pixels.saturating_mul(PIXEL_BYTES).saturating_add(model_bytes);
        Self { kept, peak: pending.decode_bytes().max(kept) }
    }

    /// Adds a copy of its encoded bytes.
    fn with(self, n_bytes: usize) -> Self {
        Self { peak: self.peak.saturating_add(n_bytes as u64), ..self }
    }
}

impl RowBudget<'_> {
    /// Returns the remaining bytes.
    pub(super) fn left(&self) -> u64 {
        self.allowed.saturating_sub(self.used)
    }

    fn need(&self, bytes: u64) -> Result<(), ReservationShortfall> {
        if bytes > self.left() {
            let bytes = self.used.saturating_add(bytes);
            return Err(ReservationShortfall::Needs(Shortfall { bytes, is_exact: true }));
        }
        Ok(())
    }

    /// Accounts for the bytes of a file, which are held until they are decoded.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        self.used = self.used.saturating_add(bytes.len() as u64);
    }

    fn let_go(&mut self, bytes: &[u8]) {
        self.used = self.used.saturating_sub(bytes.len() as u64);
    }

    /// Runs `work` on the guard's thread, which holds the reservation while it runs.
    fn guarded<T: Send + 'static>(
        &mut self,
        kind: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, MediaError> {
        let lent = self.reservation.take().map(|reservation| self.budget.lend(reservation));
        let (lent, lender) = lent.unzip();
        match guarded_within(CALL_MAX, move || (work(), lent)) {
            Ok((result, lent)) => {
                self.reservation = lent.map(crate::base::budget::Lent::back);
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
    pub(super) fn image(
        &mut self,
        bytes: Cow<'_, [u8]>,
    ) -> Result<Decoded<RgbImage>, ReservationShortfall> {
        let pixels_max = self.limits.image_pixels;
        let need = ImageNeed::new(self.processor, &PendingImage::open(&bytes, pixels_max)?);
        let is_copied = matches!(bytes, Cow::Borrowed(_));
        let need = if is_copied { need.with(bytes.len()) } else { need };
        self.need(need.peak)?;
        if !is_copied {
            self.let_go(&bytes);
        }
        // The library's decoder is not `Send`, so the guard's thread parses the header again.
        let bytes = bytes.into_owned();
        let damaged_media = self.limits.damaged_media;
        let decode = move || decode_image(&bytes, pixels_max, damaged_media);
        let image = self.guarded("image", decode)??;
        self.used = self.used.saturating_add(need.kept);
        Ok(image)
    }

    /// Decodes an audio file, whose length is only known afterwards.
    pub(super) fn audio(
        &mut self,
        bytes: Cow<'_, [u8]>,
    ) -> Result<Decoded<Waveform>, ReservationShortfall> {
        let seconds_max = self.limits.audio_seconds;
        let n_bytes = bytes.len() as u64;
        let copied = bytes.into();
        let bytes_max = self.left().saturating_sub(n_bytes);
        let decoded =
            self.guarded("audio", move || decode_audio(copied, seconds_max, bytes_max))?;
        let audio = decoded.map_err(|error| match error {
            MediaError::TooMuchMemory { bytes, .. } => {
                let bytes = self.used.saturating_add(n_bytes).saturating_add(bytes);
                ReservationShortfall::Needs(Shortfall { bytes, is_exact: false })
            }
            error => ReservationShortfall::Refused(error),
        })?;
        let Waveform { samples, sample_rate_hz } = &audio.media;
        let model_bytes = self.processor.audio_bytes(samples.len(), *sample_rate_hz);
        let kept = (samples.len() as u64 * size_of::<f32>() as u64).saturating_add(model_bytes);
        self.need(kept)?;
        self.used = self.used.saturating_add(kept);
        Ok(audio)
    }
}
