//! MPEG-4 metadata (ISO/IEC 14496-12) that the demuxer ignores: edit lists and unknown codecs.

use std::ops::Range;

use symphonia::core::codecs::audio::{
    AudioCodecId,
    well_known::{
        CODEC_ID_PCM_F32BE, CODEC_ID_PCM_F32LE, CODEC_ID_PCM_F64BE, CODEC_ID_PCM_F64LE,
        CODEC_ID_PCM_S24BE, CODEC_ID_PCM_S24LE, CODEC_ID_PCM_S32BE, CODEC_ID_PCM_S32LE,
    },
};

use crate::input::media::number::ByteOrder;

/// An entry of an edit list, in decoded samples.
#[derive(Debug, PartialEq)]
struct Edit {
    start: u64,
    /// The duration; `None` for the rest of the track.
    n_samples: Option<u64>,
}

/// The played ranges of a track.
#[derive(Debug, PartialEq)]
pub(super) struct EditList(Vec<Edit>);

impl EditList {
    /// Parses the edit list of track `track_id` with decoded samples at `sample_rate_hz`; if it has none, the
    /// equivalent by iTunes (`iTunSMPB`). Returns `None` if the whole track is played.
    ///
    /// Like ffmpeg 9, this ignores empty edits and playback rates.
    pub(super) fn read(bytes: &[u8], track_id: u32, sample_rate_hz: u32) -> Option<Self> {
        let movie = body_of(bytes, &[b"moov"])?;
        let track = boxes(movie)
            .filter(|(kind, _)| kind == b"trak")
            .map(|(_, body)| body)
            .find(|track| body_of(track, &[b"tkhd"]).and_then(number_of) == Some(track_id))?;
        let listed = body_of(track, &[b"edts", b"elst"]).and_then(|list| {
            let movie_scale = body_of(movie, &[b"mvhd"]).and_then(timescale)?;
            let media_scale = body_of(track, &[b"mdia", b"mdhd"]).and_then(timescale)?;
            Self::from_elst(list, movie_scale, media_scale, sample_rate_hz)
        });
        listed.or_else(|| Self::from_itunes(movie))
    }

    fn from_elst(list: &[u8], movie_scale: u32, media_scale: u32, rate_hz: u32) -> Option<Self> {
        let is_wide = *list.first()? == 1;
        let entry_bytes = if is_wide { 20 } else { 12 };
        let n = usize::try_from(big_endian(list.get(4..8)?)).ok()?;
        let in_samples = |time: u64, scale: u32| {
            let rounded = (u128::from(time) * u128::from(rate_hz) + u128::from(scale) / 2)
                / u128::from(scale);
            u64::try_from(rounded).unwrap_or(u64::MAX)
        };
        let edits = list[8..].chunks_exact(entry_bytes).take(n).filter_map(|entry| {
            let (duration, start) = entry.split_at(if is_wide { 8 } else { 4 });
            let start = &start[..duration.len()];
            // A start of -1: an empty edit.
            let is_empty = start[0] >= 0x80;
            let duration = big_endian(duration);
            let n_samples = (duration > 0).then(|| in_samples(duration, movie_scale));
            let start = in_samples(big_endian(start), media_scale);
            (!is_empty).then_some(Edit { start, n_samples })
        });
        let edits: Vec<Edit> = edits.collect();
        (!edits.is_empty()).then_some(Self(edits))
    }

    /// Parses ` 00000000 00000840 000001CA 00000000003F31F6 ...`: the number of samples before the audio,
    /// after it, and in it, in hexadecimal.
    fn from_itunes(movie: &[u8]) -> Option<Self> {
        // A version and flags before the boxes of `meta`.
        let metadata = body_of(movie, &[b"udta", b"meta"])?.get(4..)?;
        let list = body_of(metadata, &[b"ilst"])?;
        let entries = boxes(list).filter(|(kind, _)| kind == b"----").map(|(_, body)| body);
        let value = entries
            .filter(|entry| {
                body_of(entry, &[b"name"]).is_some_and(|name| name.ends_with(b"iTunSMPB"))
            })
            .find_map(|entry| body_of(entry, &[b"data"])?.get(8..))?;
        let mut fields = std::str::from_utf8(value).ok()?.split_ascii_whitespace().skip(1);
        let mut field = || u64::from_str_radix(fields.next()?, 16).ok();
        let (start, _after, n_samples) = (field()?, field()?, field()?);
        let n_samples = (n_samples > 0).then_some(n_samples);
        (start > 0 || n_samples.is_some()).then_some(Self(vec![Edit { start, n_samples }]))
    }

    /// Returns the played ranges of `n_samples` samples, in order.
    pub(super) fn ranges(&self, n_samples: usize) -> impl Iterator<Item = Range<usize>> + Clone {
        let within = move |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(n_samples);
        self.0.iter().map(move |edit| {
            let end = edit.n_samples.map_or(u64::MAX, |n| edit.start.saturating_add(n));
            within(edit.start)..within(end)
        })
    }
}

/// Returns the PCM codec of a QuickTime file: `in24`, `in32`, `fl32` and `fl64` are big-endian unless a box
/// `enda` says otherwise; the demuxer assumes little-endian.
pub(super) fn pcm_codec(bytes: &[u8], codec: AudioCodecId) -> AudioCodecId {
    let is_big_endian = first_audio_entry(bytes).is_some_and(|(kind, entry)| {
        matches!(&kind, b"in24" | b"in32" | b"fl32" | b"fl64")
            && memchr::memmem::find(entry, b"enda\0\x01").is_none()
    });
    match codec {
        CODEC_ID_PCM_S24LE if is_big_endian => CODEC_ID_PCM_S24BE,
        CODEC_ID_PCM_S32LE if is_big_endian => CODEC_ID_PCM_S32BE,
        CODEC_ID_PCM_F32LE if is_big_endian => CODEC_ID_PCM_F32BE,
        CODEC_ID_PCM_F64LE if is_big_endian => CODEC_ID_PCM_F64BE,
        other => other,
    }
}

/// Returns the codec in the first sample entry of an audio track.
pub(super) fn audio_sample_entry(bytes: &[u8]) -> Option<[u8; 4]> {
    first_audio_entry(bytes).map(|(kind, _)| kind)
}

fn first_audio_entry(bytes: &[u8]) -> Option<([u8; 4], &[u8])> {
    let movie = body_of(bytes, &[b"moov"])?;
    let tracks = boxes(movie).filter(|(kind, _)| kind == b"trak").map(|(_, body)| body);
    let mut audio = tracks.filter(|track| {
        let handler = body_of(track, &[b"mdia", b"hdlr"]);
        handler.is_some_and(|handler| handler.get(8..12) == Some(b"soun"))
    });
    let entries = body_of(audio.next()?, &[b"mdia", b"minf", b"stbl", b"stsd"])?;
    // A version, flags, and the number of entries.
    boxes(entries.get(8..)?).next()
}

/// Returns the body of the first box at a path of nested boxes.
fn body_of<'a>(bytes: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
    path.iter().try_fold(bytes, |body, wanted| {
        boxes(body).find(|(kind, _)| kind == *wanted).map(|(_, body)| body)
    })
}

/// Returns the consecutive boxes in `bytes`: four letters and a body each.
fn boxes(bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let size = big_endian(rest.get(..4)?);
        let kind: [u8; 4] = rest.get(4..8)?.try_into().ok()?;
        let (head, size) = match size {
            0 => (8, rest.len() as u64),
            1 => (16, big_endian(rest.get(8..16)?)),
            size => (8, size),
        };
        let end = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
        let body = rest.get(head..end)?;
        rest = &rest[end..];
        Some((kind, body))
    })
}

/// Returns the timescale in a movie or media header, in ticks per second.
fn timescale(header: &[u8]) -> Option<u32> {
    number_of(header).filter(|scale| *scale > 0)
}

/// Returns the number after the times in a header: of a track header, the track id.
fn number_of(header: &[u8]) -> Option<u32> {
    let at = if *header.first()? == 1 { 20 } else { 12 };
    u32::try_from(big_endian(header.get(at..at + 4)?)).ok()
}

fn big_endian(bytes: &[u8]) -> u64 {
    ByteOrder::Big.unsigned(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn box_of(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let size = u32::try_from(body.len() + 8).unwrap();
        [&size.to_be_bytes()[..], kind, &body].concat()
    }

    /// A header with `number` at offset 12.
    fn header(kind: &[u8; 4], number: u32) -> Vec<u8> {
        box_of(kind, &[&[0; 12], &number.to_be_bytes(), &[0; 8]])
    }

    /// A movie with 1000 ticks per second and a track 7 with 44,100.
    fn movie(list: &[u8], more: &[u8]) -> Vec<u8> {
        let edits = box_of(b"edts", &[list]);
        let media = box_of(b"mdia", &[&header(b"mdhd", 44_100)]);
        let other = box_of(b"trak", &[&header(b"tkhd", 6)]);
        let track = box_of(b"trak", &[&header(b"tkhd", 7), &edits, &media]);
        let movie = box_of(b"moov", &[&header(b"mvhd", 1000), &other, &track, more]);
        [box_of(b"ftyp", &[b"M4A "]), movie].concat()
    }

    /// An edit list of durations and starts.
    fn list(entries: &[(u32, i32)]) -> Vec<u8> {
        let n = u32::try_from(entries.len()).unwrap();
        let entries = entries.iter().flat_map(|(duration, start)| {
            [duration.to_be_bytes(), start.to_be_bytes(), [0, 1, 0, 0]].concat()
        });
        box_of(b"elst", &[&[0; 4], &n.to_be_bytes(), &entries.collect::<Vec<u8>>()])
    }

    fn ranges(bytes: &[u8], rate_hz: u32, n_samples: usize) -> Option<Vec<[usize; 2]>> {
        let list = EditList::read(bytes, 7, rate_hz)?;
        Some(list.ranges(n_samples).map(|range| [range.start, range.end]).collect())
    }

    #[test]
    fn edits_are_counted_in_samples() {
        let bytes = movie(&list(&[(1000, 1024)]), &[]);
        assert_eq!(ranges(&bytes, 44_100, 50_000), Some(vec![[1024, 45_124]]));
        assert_eq!(ranges(&bytes, 44_100, 2000), Some(vec![[1024, 2000]]), "no more than there is");
        assert_eq!(ranges(&bytes, 22_050, 50_000), Some(vec![[512, 22_562]]), "another rate");
        let several = movie(&list(&[(50, -1), (100, 4410), (0, 44_100)]), &[]);
        assert_eq!(ranges(&several, 44_100, 50_000), Some(vec![[4410, 8820], [44_100, 50_000]]));
        let wide = [&100_u64.to_be_bytes()[..], &4410_i64.to_be_bytes(), &[0, 1, 0, 0]].concat();
        let wide = box_of(b"elst", &[&[1, 0, 0, 0], &1_u32.to_be_bytes(), &wide]);
        assert_eq!(ranges(&movie(&wide, &[]), 44_100, 50_000), Some(vec![[4410, 8820]]));
        assert_eq!(ranges(&movie(&list(&[(50, -1)]), &[]), 44_100, 50_000), None);
        assert_eq!(ranges(&movie(&[], &[]), 44_100, 50_000), None);
        assert_eq!(EditList::read(&bytes, 6, 44_100), None, "another track");
    }

    #[test]
    fn itunes_says_it_in_words() {
        let text = b" 00000000 00000840 000001CA 0000000000000BB8 00000000 00000000";
        let data = box_of(b"data", &[&[0, 0, 0, 1, 0, 0, 0, 0], text]);
        let name = box_of(b"name", &[&[0; 4], b"iTunSMPB"]);
        let entry = box_of(b"----", &[&name, &data]);
        let metadata = box_of(b"meta", &[&[0; 4], &box_of(b"ilst", &[&entry])]);
        let more = box_of(b"udta", &[&metadata]);
        assert_eq!(ranges(&movie(&[], &more), 44_100, 9000), Some(vec![[2112, 5112]]));
        let edited = movie(&list(&[(0, 1024)]), &more);
        assert_eq!(
            ranges(&edited, 44_100, 9000),
            Some(vec![[1024, 9000]]),
            "an edit list is first"
        );
    }

    #[test]
    fn damaged_boxes_say_nothing() {
        let whole = movie(&list(&[(1000, 1024)]), &[]);
        for n in 0..whole.len() {
            EditList::read(&whole[..n], 7, 44_100);
            audio_sample_entry(&whole[..n]);
        }
        let mut huge = whole.clone();
        huge[..4].copy_from_slice(&[0, 0, 0, 1]);
        assert_eq!(EditList::read(&huge, 7, 44_100), None);
    }
}
