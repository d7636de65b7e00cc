//! Decodes one image or audio of a sample as a run would.

use std::{borrow::Cow, sync::Arc};

use legenda_models::Waveform;
use legenda_schemas::{cause::chain, job::Limits};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use crate::{
    base::{
        budget::{Budget, Reservation, TooLarge},
        guard::{CALL_MAX, GuardError, guarded_within},
    },
    input::{
        media::{
            MediaError, MediaKind,
            audio::decode_audio,
            encoded::Encoded,
            image::PendingImage,
            locate::{LocateError, MediaRoots},
        },
        source::cell::MediaCell,
    },
};

/// The initial bytes of samples per byte of encoded audio; larger audio gets the whole budget.
const AUDIO_EXPANSION: u64 = 22;

/// The environment for decoding media of a sample.
pub(super) struct Decoding<'a> {
    pub(super) limits: &'a Limits,
    pub(super) media_roots: &'a MediaRoots,
    pub(super) budget: &'a Budget,
    pub(super) runtime: &'a Handle,
}

/// The result of inspecting a cell.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Medium {
    /// The detected kind; for URLs that are not fetched, the kind by extension.
    pub(super) kind: Option<MediaKind>,
    /// SHA-256 of its bytes, if readable.
    pub(super) digest: Option<[u8; 32]>,
    pub(super) bytes: u64,
    /// Width and height in pixels.
    pub(super) size: Option<(f64, f64)>,
    pub(super) seconds: Option<f64>,
    /// The reject code and message it would get.
    pub(super) problem: Option<(&'static str, String)>,
}

/// The result of a decoder.
enum Decoded {
    Picture(Option<(f64, f64)>),
    Sound(f64),
}

impl Decoding<'_> {
    /// Inspects a cell of a table file.
    pub(super) fn look(&self, cell: MediaCell<'_>, file: &str) -> Medium {
        let bytes_max = self.limits.media_bytes.0;
        let bytes = match cell {
            MediaCell::Bytes(bytes) => Cow::Borrowed(bytes),
            MediaCell::Encoded(encoded) => match self.decode(encoded) {
                Ok(decoded) => Cow::Owned(decoded),
                Err(error) => return Medium::not_decoded(encoded, &error),
            },
            MediaCell::Path(path) => {
                match self.media_roots.read(path, file, bytes_max, self.runtime) {
                    Ok(read) => Cow::Owned(read),
                    Err(error) => return Medium::not_read(path, &error),
                }
            }
        };
        let kind = MediaKind::from_bytes(&bytes);
        let mut medium = Medium {
            kind,
            digest: Some(Sha256::digest(&bytes).into()),
            bytes: bytes.len() as u64,
            size: None,
            seconds: None,
            problem: None,
        };
        let name = kind.map_or("media", MediaKind::as_str);
        let decoded = if medium.bytes > bytes_max {
            Err(MediaError::TooManyBytes { kind: name, bytes: medium.bytes, bytes_max })
        } else {
            match kind {
                Some(MediaKind::Image) => self.image(&bytes, &mut medium.size),
                Some(MediaKind::Audio) => self.audio(&bytes),
                None if bytes.is_empty() => Err(MediaError::Empty { kind: name }),
                None => Err(MediaError::unknown(name, &bytes)),
            }
        };
        match decoded {
            Ok(Decoded::Picture(size)) => medium.size = size,
            Ok(Decoded::Sound(seconds)) => medium.seconds = Some(seconds),
            Err(error) => medium.problem = Some((error.code(), chain(&error))),
        }
        medium
    }

    /// Decodes the text of a cell within the size limit.
    fn decode(&self, encoded: Encoded<'_>) -> Result<Vec<u8>, MediaError> {
        let (bytes, bytes_max) = (encoded.size_bytes(), self.limits.media_bytes.0);
        if bytes > bytes_max {
            return Err(MediaError::TooManyBytes { kind: "media", bytes, bytes_max });
        }
        encoded.decode().map_err(|error| MediaError::undecoded("media", &error))
    }

    /// Decodes an image; `size` is set from its header even if the rest is damaged.
    fn image(&self, bytes: &[u8], size: &mut Option<(f64, f64)>) -> Result<Decoded, MediaError> {
        let pixels_max = self.limits.image_pixels;
        let pending = PendingImage::open(bytes, pixels_max).inspect_err(|error| {
            if let MediaError::TooManyPixels { width, height, .. } = error {
                *size = Some((f64::from(*width), f64::from(*height)));
            }
        })?;
        #[expect(clippy::cast_precision_loss, reason = "image sides are small")]
        let sides = |(width, height): (usize, usize)| (width as f64, height as f64);
        let found = Some(sides(pending.size()));
        *size = found;
        let need = pending.decode_bytes().saturating_add(bytes.len() as u64);
        drop(pending);
        let reservation = self.reserve("image", need)?;
        let owned = bytes.to_vec();
        let decode = move || PendingImage::open(&owned, pixels_max)?.decode().map(drop);
        self.guarded("image", reservation, decode)??;
        Ok(Decoded::Picture(found))
    }

    /// Decodes audio, whose duration is only known afterwards.
    fn audio(&self, bytes: &[u8]) -> Result<Decoded, MediaError> {
        let n_bytes = bytes.len() as u64;
        let whole = self.budget.bytes_max();
        let mut room = n_bytes.saturating_mul(AUDIO_EXPANSION).min(whole);
        loop {
            let reservation = self.reserve("audio", room)?;
            let shared: Arc<[u8]> = bytes.into();
            let seconds_max = self.limits.audio_seconds;
            let left = room.saturating_sub(n_bytes);
            let decode = move || decode_audio(shared, seconds_max, left);
            match self.guarded("audio", reservation, decode)? {
                Ok(audio) => {
                    let Waveform { samples, sample_rate_hz } = audio.media;
                    #[expect(clippy::cast_precision_loss, reason = "a duration need not be exact")]
                    let seconds = samples.len() as f64 / f64::from(sample_rate_hz);
                    return Ok(Decoded::Sound(seconds));
                }
                Err(MediaError::TooMuchMemory { .. }) if room < whole => room = whole,
                Err(error) => return Err(error),
            }
        }
    }

    fn reserve(&self, kind: &'static str, bytes: u64) -> Result<Reservation, MediaError> {
        let reserved = self.runtime.block_on(self.budget.reserve_or_refuse(bytes));
        reserved.map_err(|TooLarge { bytes, bytes_max }| MediaError::TooMuchMemory {
            kind,
            bytes,
            bytes_max,
        })
    }

    /// Runs `work` on the guard's thread, which holds the reservation while it runs.
    fn guarded<T: Send + 'static>(
        &self,
        kind: &'static str,
        reservation: Reservation,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, MediaError> {
        let (lent, lender) = self.budget.lend(reservation);
        match guarded_within(CALL_MAX, move || (work(), lent)) {
            Ok((result, lent)) => {
                drop(lent.back());
                Ok(result)
            }
            Err(source) => {
                if matches!(source, GuardError::TooSlow { .. }) {
                    lender.give_up();
                }
                Err(MediaError::Decoder { kind, source })
            }
        }
    }
}

impl Medium {
    fn not_decoded(encoded: Encoded<'_>, error: &MediaError) -> Self {
        Self {
            kind: None,
            digest: None,
            bytes: encoded.size_bytes(),
            size: None,
            seconds: None,
            problem: Some((error.code(), chain(error))),
        }
    }

    fn not_read(path: &str, error: &LocateError) -> Self {
        // Classify a URL that may not be fetched by its name.
        let is_refused = matches!(error, LocateError::Url { .. });
        Self {
            kind: is_refused.then(|| MediaKind::from_name(path)).flatten(),
            digest: None,
            bytes: 0,
            size: None,
            seconds: None,
            problem: Some((error.code(), chain(error))),
        }
    }
}
