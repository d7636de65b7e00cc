//! Damaged images and audio: no file makes the run panic, takes long, or uses more memory than
//! reserved. `just torture-media` tries 20,000 files; by default a share that takes seconds.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use legenda_pipeline::{
    guard::{GuardError, guarded_within, quiet_panics},
    media::{MediaError, audio::decode_audio, image::PendingImage},
    metrics::resident_memory,
};
use legenda_tests::{
    IMAGE_JOB, Workplace,
    mutate::{Random, fix_checksums, mutated},
    repository, write_table,
};

const PIXELS_MAX: u64 = 64_000_000;
const SECONDS_MAX: f64 = 3600.0;
/// The memory limit of an audio file, as in a run with the default limits.
const AUDIO_BYTES_MAX: u64 = 256 << 20;
/// Memory besides that of decoding: threads, the allocator, the input file.
const NOISE_BYTES: u64 = 24 << 20;
/// The time after which decoding a file counts as a hang.
const HANG: Duration = Duration::from_secs(10);

/// The number of files to try, over all seeds.
fn n_files() -> usize {
    std::env::var("LEGENDA_TORTURE_FILES").map_or(500, |text| text.parse().unwrap())
}

fn seeds(folder: &str) -> Vec<(String, Vec<u8>)> {
    let dir = repository().join("tests/torture").join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
}

fn is_image(name: &str) -> bool {
    ["png", "jpg", "gif", "webp", "bmp", "tiff"].iter().any(|ending| name.ends_with(ending))
}

/// The bytes that `prepare` reserves per byte of encoded audio (`stage/decode.rs`).
const AUDIO_EXPANSION: u64 = 22;

/// Decodes a file as `prepare` does; returns the number of bytes reserved for it.
fn decode(bytes: &[u8], as_image: bool) -> (u64, Result<(), MediaError>) {
    if as_image {
        let owned = bytes.to_vec();
        let kind = "image";
        match guarded_within(HANG, move || {
            let pending = PendingImage::open(&owned, PIXELS_MAX)?;
            let promised = pending.decode_bytes();
            // Decoding that many pixels takes seconds; smaller images show excess memory as well.
            Ok((promised, pending.decode().map(drop)))
        }) {
            Ok(Ok((promised, decoded))) => (promised, decoded),
            Ok(Err(error)) => (0, Err(error)),
            Err(source) => (0, Err(MediaError::Decoder { kind, source })),
        }
    } else {
        let owned: Arc<[u8]> = bytes.into();
        let decoded =
            guarded_within(HANG, move || decode_audio(owned, SECONDS_MAX, AUDIO_BYTES_MAX))
                .unwrap_or_else(|source| Err(MediaError::Decoder { kind: "audio", source }));
        // The initial reservation, or the actual size of the audio if larger.
        let usual = bytes.len() as u64 * AUDIO_EXPANSION;
        let promised = decoded
            .as_ref()
            .map_or(AUDIO_BYTES_MAX, |sound| usual.max(sound.media.samples.len() as u64 * 8));
        (promised, decoded.map(drop))
    }
}

/// Resets the peak of resident memory (proc(5), `clear_refs`); returns false if the system does not
/// support it.
fn forget_peak() -> bool {
    OpenOptions::new()
        .write(true)
        .open("/proc/self/clear_refs")
        .and_then(|mut file| file.write_all(b"5"))
        .is_ok()
}

#[derive(Default)]
struct Tally {
    tried: usize,
    decoded: usize,
    panics: usize,
    hangs: usize,
    over_promise: Vec<String>,
    slowest: Duration,
    peak_bytes: u64,
}

impl Tally {
    fn try_file(&mut self, name: &str, bytes: &[u8]) {
        let measures = forget_peak();
        let before = resident_memory().map_or(0, |(now, _)| now);
        let start = Instant::now();
        let (promised, result) = decode(bytes, is_image(name));
        self.slowest = self.slowest.max(start.elapsed());
        self.tried += 1;
        match result {
            Ok(()) => self.decoded += 1,
            Err(MediaError::Decoder { source: GuardError::TooSlow { .. }, .. }) => self.hangs += 1,
            Err(MediaError::Decoder { .. }) => self.panics += 1,
            Err(_) => {}
        }
        if measures && let Some((_, peak)) = resident_memory() {
            let taken = peak.saturating_sub(before);
            self.peak_bytes = self.peak_bytes.max(taken);
            if taken > promised + NOISE_BYTES {
                self.over_promise.push(format!("{name}: {taken} bytes taken, {promised} promised"));
            }
        }
    }
}

#[test]
fn damaged_files_and_bombs_stay_within_the_reserved_memory() {
    quiet_panics();
    let seeds = seeds("seeds");
    let each = (n_files() / seeds.len()).max(1);
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for (idx, (name, intact)) in seeds.iter().enumerate() {
        let tally = tallies.entry(name.clone()).or_default();
        tally.try_file(name, intact);
        assert_eq!(tally.decoded, 1, "the undamaged seed {name} does not decode");
        for number in 0..each {
            let mut random = Random(((idx as u64) << 32) | number as u64);
            let other = &seeds[random.below(seeds.len())].1;
            tally.try_file(name, &mutated(intact, other, &mut random));
        }
    }
    for (name, bytes) in self::seeds("seeds/bombs").iter().chain(&bombs()) {
        tallies.entry(format!("bomb {name}")).or_default().try_file(name, bytes);
    }
    println!("file | tried | decoded | panics caught | hangs | slowest ms | peak MiB");
    for (name, tally) in &tallies {
        let (slowest, peak) = (tally.slowest.as_millis(), tally.peak_bytes >> 20);
        let Tally { tried, decoded, panics, hangs, .. } = tally;
        println!("{name} | {tried} | {decoded} | {panics} | {hangs} | {slowest} | {peak}");
    }
    let over: Vec<&String> = tallies.values().flat_map(|tally| &tally.over_promise).collect();
    assert!(over.is_empty(), "over the reserved memory: {over:#?}");
    assert_eq!(tallies.values().map(|tally| tally.hangs).sum::<usize>(), 0, "hangs");
}

/// Headers that claim more than any file holds.
fn bombs() -> Vec<(String, Vec<u8>)> {
    let seed = |name: &str| fs::read(repository().join("tests/torture/seeds").join(name)).unwrap();
    let with = |name: &str, label: &str, edits: &[(usize, &[u8])]| {
        let mut bytes = seed(name);
        for (at, value) in edits {
            bytes[*at..at + value.len()].copy_from_slice(value);
        }
        let ending = name.rsplit('.').next().unwrap();
        (format!("{label}.{ending}"), bytes)
    };
    // Set the count or length after a marker to its maximum, and fix the checksums.
    let claims = |name: &str, label: &str, mark: &[u8], offset: usize, value: &[u8]| {
        let mut bytes = seed(name);
        let at = bytes.windows(mark.len()).position(|window| window == mark);
        let at = at.unwrap_or_else(|| panic!("no {mark:?} in {name}")) + mark.len() + offset;
        bytes[at..at + value.len()].copy_from_slice(value);
        fix_checksums(&mut bytes);
        (format!("{label}.{}", name.rsplit('.').next().unwrap()), bytes)
    };
    let mut comments = seed("vorbis.ogg");
    let at = comments.windows(7).position(|window| window == b"\x03vorbis").unwrap() + 7;
    let n_bytes = usize::from(comments[at]);
    comments[at + 4 + n_bytes..][..4].fill(0xFF);
    fix_checksums(&mut comments);
    vec![
        ("comment_count.ogg".to_owned(), comments),
        // A vendor string of 4 GiB.
        claims("vorbis.ogg", "vendor_4_GiB", b"\x03vorbis", 0, &[0xFF; 4]),
        // Huge sample, chunk and duration counts in an MP4.
        claims("aac.m4a", "sample_count", b"stsz", 8, &[0xFF; 4]),
        claims(
            "aac.m4a",
            "one_sample_size_for_all",
            b"stsz",
            4,
            &[0, 0, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF],
        ),
        claims("aac.m4a", "time_count", b"stts", 4, &[0xFF; 4]),
        claims("aac.m4a", "frames_of_a_time", b"stts", 8, &[0x7F, 0xFF, 0xFF, 0xFF]),
        claims("aac.m4a", "chunk_count", b"stco", 4, &[0xFF; 4]),
        claims("aac.m4a", "samples_of_a_chunk", b"stsc", 12, &[0x7F, 0xFF, 0xFF, 0xFF]),
        claims("aac.m4a", "duration", b"mdhd", 16, &[0xFF; 4]),
        // A Xing header that claims 4 billion frames and bytes.
        claims(
            "variable.mp3",
            "xing_frames",
            b"Xing",
            0,
            &[0, 0, 0, 3, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
        ),
        claims("variable.mp3", "xing_no_frames", b"Xing", 0, &[0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]),
        // An APNG that claims 2 billion frames.
        claims("frames.png", "frame_count", b"acTL", 0, &[0x7F, 0xFF, 0xFF, 0xFF]),
        ("many_frames.png".to_owned(), many_frames(&seed("plain.png"), 50_000)),
        ("many_comments.flac".to_owned(), many_comments(&seed("plain.flac"), 200_000)),
        with("frames.gif", "65535_x_65535", &[(6, &[0xFF; 4])]),
        with("plain.bmp", "huge", &[(18, &[0xFF, 0xFF, 0, 0, 0xFF, 0xFF, 0, 0])]),
        with("pcm16.wav", "65535_channels", &[(22, &[0xFF; 2])]),
        with("pcm16.wav", "4_GHz", &[(24, &[0xFF; 4])]),
        with("pcm16.wav", "1_Hz", &[(24, &[1, 0, 0, 0])]),
        with("pcm16.wav", "4_GiB_claimed", &[(4, &[0xFF; 4]), (40, &[0xFF; 4])]),
        with(
            "plain.flac",
            "655_kHz_36_bit_count",
            &[(18, &[0x9F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF])],
        ),
    ]
}

/// Returns a PNG with `n_frames` empty frames after its image (PNG, third edition, section 11.3.6).
fn many_frames(intact: &[u8], n_frames: u32) -> Vec<u8> {
    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        [&length[..], kind, data, &[0; 4]].concat()
    }
    // Signature and header, the frame count, the rest of the valid file, then the frames.
    let (head, rest) = intact.split_at(33);
    let end = rest.len() - 12;
    let mut bytes = head.to_vec();
    bytes.extend(chunk(b"acTL", &[&n_frames.to_be_bytes()[..], &[0; 4]].concat()));
    bytes.extend(&rest[..end]);
    for number in 0..n_frames {
        let size = [0, 0, 0, 1, 0, 0, 0, 1];
        let control =
            [&(2 * number).to_be_bytes()[..], &size, &[0; 8], &[0, 1, 0, 100, 0, 0]].concat();
        bytes.extend(chunk(b"fcTL", &control));
        bytes.extend(chunk(b"fdAT", &(2 * number + 1).to_be_bytes()));
    }
    bytes.extend(&rest[end..]);
    fix_checksums(&mut bytes);
    bytes
}

/// Returns a FLAC file with `n_comments` comments (RFC 9639, section 8.6).
fn many_comments(intact: &[u8], n_comments: u32) -> Vec<u8> {
    let comment = b"A=bomb";
    let mut block = [&4_u32.to_le_bytes()[..], b"none", &n_comments.to_le_bytes()].concat();
    for _ in 0..n_comments {
        block.extend(u32::try_from(comment.len()).unwrap().to_le_bytes());
        block.extend(comment);
    }
    let length = u32::try_from(block.len()).unwrap().to_be_bytes();
    // After the stream info block, whose header says whether it is the last block.
    let (head, rest) = intact.split_at(42);
    let mut bytes = head.to_vec();
    let kind = 4 | (bytes[4] & 0x80);
    bytes[4] &= 0x7F;
    bytes.push(kind);
    bytes.extend(&length[1..]);
    bytes.extend(block);
    bytes.extend(rest);
    bytes
}

#[test]
fn rows_of_damaged_media_are_answered_or_rejected_within_the_memory_limit() {
    let seeds = seeds("seeds");
    for as_image in [true, false] {
        let of_kind: Vec<_> = seeds.iter().filter(|(name, _)| is_image(name) == as_image).collect();
        let n_rows = (n_files() / 10).max(50);
        let cells = (0..n_rows).map(|row| {
            let mut random = Random(0xF11E ^ row as u64);
            let intact = &of_kind[row % of_kind.len()].1;
            let other = &of_kind[random.below(of_kind.len())].1;
            mutated(intact, other, &mut random)
        });
        let cells: ArrayRef = Arc::new(BinaryArray::from_iter_values(cells));
        let ids = StringArray::from_iter_values((0..n_rows).map(|row| format!("row-{row}")));
        let column = if as_image { "image" } else { "audio" };
        let table =
            RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), (column, cells)]);

        let place = Workplace::new();
        write_table(&place.path("table.parquet"), &table.unwrap(), 100);
        let job = if as_image {
            IMAGE_JOB.to_owned()
        } else {
            IMAGE_JOB.replace("caption", "transcribe").replace("image", "audio")
        };
        place.write("job.toml", &job);
        let args = ["run", "job.toml", "--set", "generation.max_new_tokens=1"];
        let ended = place.run(&args).expect(0);
        let report = fs::read(place.path("out.legenda/report.json")).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        let rejects: u64 =
            report["rejects"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        let answers = report["answers"].as_u64().unwrap();
        assert_eq!(answers + rejects, n_rows as u64, "{}", ended.stdout);
        assert!(answers > 0 && rejects > 0, "{}", ended.stdout);
        assert!(report["peak_memory_bytes"].as_u64() <= report["memory_limit_bytes"].as_u64());
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
}
