//! Detection of AAC profiles (ISO/IEC 14496-3). The decoder only supports the low-complexity profile and
//! ignores spectral band replication (SBR), which encodes the upper half of a spectrum.

use symphonia::core::codecs::audio::AudioCodecParameters;

use crate::input::media::number::bits;

/// The name of AAC with SBR.
pub(super) const HE_AAC: &str = "HE-AAC (AAC with spectral band replication)";

/// The number of frames to check for SBR.
const FRAMES_MAX: u32 = 64;

/// The minimum number of frames to distinguish SBR from chance.
const FRAMES_MIN: u32 = 2;

/// Returns the name of an undecodable AAC track by its audio object type.
pub(super) fn name(parameters: &AudioCodecParameters) -> String {
    let n_channels = parameters.channels.as_ref().map_or(0, |channels| channels.count());
    let object_type = match parameters.extra_data.as_deref() {
        Some([first, second, ..]) if first >> 3 == 31 => 32 + ((first & 7) << 3 | second >> 5),
        Some([first, ..]) => first >> 3,
        // ADTS stores the type minus one.
        _ => parameters.profile.map_or(2, |profile| u8::try_from(profile.get() + 1).unwrap_or(0)),
    };
    let name = match object_type {
        1 => "AAC Main",
        3 => "AAC SSR",
        4 => "AAC LTP",
        5 | 29 => HE_AAC,
        20 | 22 => "AAC of an error-resilient profile",
        23 => "AAC-LD",
        39 => "AAC-ELD",
        42 => "xHE-AAC (USAC)",
        2 if n_channels > 2 => return format!("AAC with {n_channels} channels"),
        2 => "AAC of an unusual frame length or channel layout",
        other => return format!("MPEG-4 audio of object type {other}"),
    };
    name.to_owned()
}

/// Detects SBR in frames, because streams need not announce it.
#[derive(Default)]
pub(super) struct SbrSearch {
    n_frames: u32,
    n_with_sbr: u32,
}

impl SbrSearch {
    /// Checks a frame (`raw_data_block`).
    pub(super) fn look_at(&mut self, frame: &[u8]) {
        if self.n_frames < FRAMES_MAX {
            self.n_frames += 1;
            self.n_with_sbr += u32::from(ends_with_sbr(frame));
        }
    }

    /// Returns whether three of four frames contain SBR. By chance, one in fifty seems to.
    pub(super) fn has_found(&self) -> bool {
        self.n_frames >= FRAMES_MIN && self.n_with_sbr * 4 >= self.n_frames * 3
    }
}

/// Returns whether a frame ends like one with SBR.
///
/// Element boundaries are only known after decoding everything before them, so this scans backwards: a frame
/// ends with the element `ID_END` (three set bits) and zero padding, preceded by fill elements, one of which
/// has the `extension_type` 13 or 14 (`EXT_SBR_DATA`, without or with a checksum).
fn ends_with_sbr(frame: &[u8]) -> bool {
    let Some(last) = frame.iter().rposition(|byte| *byte != 0) else { return false };
    let n_bits = (last + 1) * 8 - frame[last].trailing_zeros() as usize;
    let Some(mut end) = n_bits.checked_sub(3) else { return false };
    if bits(frame, end, 3) != 7 {
        return false;
    }
    // The SBR element may be followed by one that only pads the frame.
    for _ in 0..2 {
        match fill_before(frame, end, |extension| matches!(extension, 13 | 14)) {
            Some(_) => return true,
            None => match fill_before(frame, end, |extension| extension <= 1) {
                Some(start) => end = start,
                None => return false,
            },
        }
    }
    false
}

/// Returns the start of the fill element that ends at bit `end` and has the wanted extension: `ID_FIL` (6 in
/// three bits), a byte count in 4 bits, or 15 and the rest in 8 more bits, and the bytes.
fn fill_before(frame: &[u8], end: usize, is_wanted: impl Fn(u64) -> bool) -> Option<usize> {
    let starts = |n: usize, head_bits: usize| {
        let start = end.checked_sub(n * 8 + head_bits)?;
        let has_count = match head_bits {
            7 => bits(frame, start + 3, 4) == n as u64,
            _ => bits(frame, start + 3, 4) == 15 && bits(frame, start + 7, 8) + 14 == n as u64,
        };
        (bits(frame, start, 3) == 6 && has_count && is_wanted(bits(frame, start + head_bits, 4)))
            .then_some(start)
    };
    (1..15).find_map(|n| starts(n, 7)).or_else(|| (15..=269).find_map(|n| starts(n, 15)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes numbers with the given bit widths.
    fn frame(fields: &[(usize, usize)]) -> Vec<u8> {
        let bits = fields.iter().flat_map(|(number, n)| {
            (0..*n).rev().map(move |at| u8::try_from(number >> at & 1).unwrap())
        });
        let mut bits: Vec<u8> = bits.collect();
        bits.resize(bits.len().next_multiple_of(8), 0);
        bits.chunks(8).map(|byte| byte.iter().fold(0, |all, bit| all << 1 | bit)).collect()
    }

    /// A fill element with an extension and a byte count.
    fn fill(extension: usize, n_bytes: usize) -> Vec<(usize, usize)> {
        let count = match n_bytes {
            0..15 => vec![(n_bytes, 4)],
            _ => vec![(15, 4), (n_bytes - 14, 8)],
        };
        let rest = (1..n_bytes).map(|i| ((i * 37) & 255, 8));
        [vec![(6, 3)], count, vec![(extension, 4), (9, 4)], rest.collect()].concat()
    }

    #[test]
    fn sbr_is_found_at_the_end_of_frames() {
        let audio = [(1, 3), (0b1011_0111, 8), (0b10_1101, 6), (3, 2)];
        let end = vec![(7, 3)];
        let whole = |parts: &[Vec<(usize, usize)>]| frame(&parts.concat());
        let audio = audio.to_vec();
        for extension in [13, 14] {
            for n_bytes in [1, 14, 15, 16, 100, 269] {
                let sbr = fill(extension, n_bytes);
                assert!(ends_with_sbr(&whole(&[audio.clone(), sbr.clone(), end.clone()])));
                let filled = whole(&[audio.clone(), sbr, fill(0, 20), end.clone()]);
                assert!(ends_with_sbr(&filled));
            }
        }
        for plain in [vec![audio.clone(), end.clone()], vec![audio, fill(0, 30), end]] {
            assert!(!ends_with_sbr(&whole(&plain)));
        }
        assert!(!ends_with_sbr(&[]) && !ends_with_sbr(&[0, 0]) && !ends_with_sbr(&[0x80]));
    }
}
