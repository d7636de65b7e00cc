//! Reproducible damage to valid files: the same seed gives the same damage on every machine.

/// A random number generator (`SplitMix64` by Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Returns the next 64-bit number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`; `end` must be positive.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % end as u64).unwrap_or(0)
    }
}

/// Boundary values for lengths and counts.
const EXTREMES: [u64; 8] =
    [0, 1, 0x7F, 0xFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x7FFF_FFFF_FFFF_FFFF];

/// Damages `bytes` in one to four places: flips bits, sets integers to boundary values (more often
/// near the start, where headers are), truncates, or repeats, removes or splices in pieces of
/// `other`. Then fixes the checksums of PNG, Ogg and FLAC; otherwise decoders would reject every
/// file early.
#[must_use]
pub fn mutated(bytes: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        if bytes.len() < 16 {
            break;
        }
        let reach = if random.below(2) == 0 { bytes.len().min(256) } else { bytes.len() };
        let at = random.below(reach);
        let n_bytes = (1 + random.below(64)).min(bytes.len() - at);
        match random.below(8) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 | 3 => {
                let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
                let extreme = EXTREMES[random.below(EXTREMES.len())];
                let big = random.below(2) == 0;
                let value = if big {
                    (extreme << (64 - 8 * width)).to_be_bytes()
                } else {
                    extreme.to_le_bytes()
                };
                bytes[at..at + width].copy_from_slice(&value[..width]);
            }
            4 => bytes.truncate(at.max(8)),
            5 => drop(bytes.drain(at..at + n_bytes)),
            6 => {
                let piece = bytes[at..at + n_bytes].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let from = random.below(other.len().max(1)).min(other.len());
                let piece = &other[from..(from + n_bytes).min(other.len())];
                bytes.splice(at..at + n_bytes, piece.iter().copied());
            }
        }
    }
    fix_checksums(&mut bytes);
    bytes
}

/// Recomputes the checksums of a PNG, Ogg or FLAC file.
pub fn fix_checksums(bytes: &mut [u8]) {
    if bytes.starts_with(b"\x89PNG") {
        fix_png(bytes);
    } else if bytes.starts_with(b"OggS") {
        fix_ogg(bytes);
    } else if bytes.starts_with(b"fLaC") {
        fix_flac(bytes);
    }
}

fn crc(bytes: &[u8], width: u32, polynomial: u32) -> u32 {
    let (top, mask) = (1_u32 << (width - 1), u32::MAX >> (32 - width));
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u32::from(*byte) << (width - 8)), |crc, _| {
            (if crc & top == 0 { crc << 1 } else { (crc << 1) ^ polynomial }) & mask
        })
    })
}

/// CRC-32 over the type and data of every chunk (PNG, third edition, section 5.3).
fn fix_png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let end = at + 8 + length;
        if end + 4 > bytes.len() {
            break;
        }
        let sum = bytes[at + 4..end].iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0xEDB8_8320 }
            })
        });
        bytes[end..end + 4].copy_from_slice(&(!sum).to_be_bytes());
        at = end + 4;
    }
}

/// CRC-32 over every page, with the checksum field set to zero (RFC 3533, section 6).
fn fix_ogg(bytes: &mut [u8]) {
    let mut starts: Vec<usize> = (0..bytes.len().saturating_sub(27))
        .filter(|at| bytes[*at..].starts_with(b"OggS"))
        .collect();
    starts.push(bytes.len());
    for pair in starts.windows(2) {
        let page = &mut bytes[pair[0]..pair[1]];
        if page.len() < 27 {
            continue;
        }
        let n_segments = usize::from(page[26]);
        let lengths = page.get(27..27 + n_segments).unwrap_or_default();
        let body: usize = lengths.iter().map(|length| usize::from(*length)).sum();
        let end = (27 + n_segments + body).min(page.len());
        page[22..26].fill(0);
        let sum = crc(&page[..end], 32, 0x04C1_1DB7);
        page[22..26].copy_from_slice(&sum.to_le_bytes());
    }
}

/// CRC-8 of frame headers and CRC-16 of frames (RFC 9639, sections 9.1.8 and 9.3). Frames are found
/// by their sync code, so data that looks like a sync code may be taken for a frame.
fn fix_flac(bytes: &mut [u8]) {
    let mut starts: Vec<usize> = (8..bytes.len().saturating_sub(16))
        .filter(|at| bytes[*at] == 0xFF && bytes[at + 1] & 0xFE == 0xF8)
        .collect();
    starts.push(bytes.len());
    for pair in starts.windows(2) {
        let frame = &mut bytes[pair[0]..pair[1]];
        if frame.len() < 20 {
            continue;
        }
        let number = match frame[4].leading_ones() {
            0 => 1,
            ones => ones as usize,
        };
        let block = match frame[2] >> 4 {
            6 => 1,
            7 => 2,
            _ => 0,
        };
        let rate = match frame[2] & 15 {
            12 => 1,
            13 | 14 => 2,
            _ => 0,
        };
        let end = 4 + number + block + rate;
        let sum = crc(&frame[..end], 8, 0x07);
        frame[end] = sum.to_le_bytes()[0];
        let end = frame.len() - 2;
        let sum = crc(&frame[..end], 16, 0x8005).to_be_bytes();
        frame[end..].copy_from_slice(&sum[2..]);
    }
}

#[cfg(test)]
mod tests {
    use super::fix_checksums;

    fn seed(name: &str) -> Vec<u8> {
        std::fs::read(crate::repository().join("tests/torture/seeds").join(name)).unwrap()
    }

    #[test]
    fn checksums_of_valid_files_do_not_change() {
        for name in ["plain.png", "frames.png", "vorbis.ogg", "plain.flac"] {
            let valid = seed(name);
            let mut fixed = valid.clone();
            fix_checksums(&mut fixed);
            assert!(fixed == valid, "{name}");
        }
    }
}
