//! `limits.memory` is a guarantee: rows that are far larger than their neighbors, or than memory,
//! are rejected with their size, and peak memory stays below the limit.

use std::{fs, io::Cursor, sync::Arc};

use arrow::array::{ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray};
use image::{ImageFormat, Rgb, RgbImage};
use legenda_tests::{IMAGE_JOB, TEXT_JOB, Workplace, png, repository, text_column, write_table};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};

const LIMIT: &str = "limits.memory=400MiB";

/// The outcome of a run.
struct Ran {
    answers: u64,
    rejects: serde_json::Map<String, serde_json::Value>,
}

/// Runs `job` with a limit of 400 MiB and checks the report against it.
fn run(name: &str, place: &Workplace, job: &str, n_rows: usize) -> Ran {
    place.write("job.toml", job);
    let args = ["run", "job.toml", "--set", LIMIT, "--set", "generation.max_new_tokens=1"];
    // Duplicate rows reserve memory like any other.
    let args = [&args[..], &["--set", "reuse.within_run=false"]].concat();
    let ended = place.run(&args).expect(0);
    let report = fs::read(place.path("out.legenda/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let rejects = report["rejects"].as_object().unwrap().clone();
    let answers = report["answers"].as_u64().unwrap();
    let rejected: u64 = rejects.values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(answers + rejected, n_rows as u64, "{}", ended.stdout);
    let (peak, limit) = (&report["peak_memory_bytes"], &report["memory_limit_bytes"]);
    let mib = |bytes: &serde_json::Value| bytes.as_u64().unwrap_or(0) >> 20;
    println!("| {name} | {n_rows} | {answers} | {rejected} | {} | {} |", mib(peak), mib(limit));
    // The peak is null if the system does not report it.
    if let Some(peak) = peak.as_u64() {
        assert!(peak <= limit.as_u64().unwrap(), "{name}: {peak} bytes, over the limit of {limit}");
    }
    Ran { answers, rejects }
}

/// Returns an image with many pixels in few bytes.
fn large_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    RgbImage::from_pixel(width, height, Rgb([9, 90, 200]))
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .unwrap();
    bytes
}

fn image_table(cells: &[Vec<u8>]) -> RecordBatch {
    let ids = StringArray::from_iter_values((0..cells.len()).map(|row| format!("row-{row}")));
    let cells: ArrayRef = Arc::new(BinaryArray::from_iter_values(cells));
    RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("image", cells)]).unwrap()
}

#[test]
fn large_images_wait_for_memory_and_those_that_never_fit_are_rejected() {
    let place = Workplace::new();
    let (large, huge) = (large_png(1200, 1000), large_png(6000, 5000));
    let cells: Vec<Vec<u8>> =
        (0..24).map(|row| if row % 8 == 7 { huge.clone() } else { large.clone() }).collect();
    write_table(&place.path("table.parquet"), &image_table(&cells), 24);
    let ran = run("pictures of 1.2 and 30 million pixels", &place, IMAGE_JOB, 24);
    assert_eq!(ran.answers, 21);
    assert_eq!(ran.rejects["media_exceeds_memory"], 3);
    let message = text_column(&place.rejects("out"), "legenda_message")[0].clone().unwrap();
    assert!(message.contains("`limits.memory` leaves"), "{message}");
}

#[test]
fn a_cell_of_200_mb_is_rejected_with_its_size_and_costs_at_most_its_row_group() {
    let place = Workplace::new();
    let mut cells: Vec<Vec<u8>> = (0..8).map(png).collect();
    cells[5] = vec![0xAB; 200_000_000];
    write_table(&place.path("table.parquet"), &image_table(&cells), 4);
    let ran = run("a cell of 200 MB", &place, IMAGE_JOB, 8);
    assert!(ran.answers >= 4, "other row groups must be answered");
    assert!(ran.rejects["row_exceeds_memory"].as_u64().unwrap() >= 1);
    let rejects = place.rejects("out");
    for message in text_column(&rejects, "legenda_message") {
        let message = message.unwrap();
        assert!(message.contains("set it to") && message.contains("row is omitted"), "{message}");
    }
    // With the limit that the message suggests, the row is read.
    let needed = text_column(&rejects, "legenda_message")[0].clone().unwrap();
    let needed = needed.split("set it to at least ").nth(1).unwrap().split(' ').next().unwrap();
    let memory = format!("limits.memory={}MiB", needed.parse::<u64>().unwrap() + 16);
    let args = ["run", "job.toml", "--overwrite", "--set", &memory];
    let ended = place.run(&args).expect(0);
    assert!(ended.stdout.contains("rows_in 8 == answers 7 + rejects 1"), "{}", ended.stdout);
    assert_eq!(
        text_column(&place.rejects("out"), "legenda_code"),
        [Some("media_too_large".into())]
    );
}

#[test]
fn dictionary_values_reserve_their_decoded_size() {
    // 600 rows that refer to one text of 900 kB: the file has 1 MB, its rows have 540 MB.
    let place = Workplace::new();
    let text = "a word or two ".repeat(64_000);
    let n_rows = 600;
    let ids = StringArray::from_iter_values((0..n_rows).map(|row| format!("row-{row}")));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..20).map(|_| text.as_str())));
    let path = place.path("table.parquet");
    let properties = WriterProperties::builder()
        .set_dictionary_page_size_limit(4 << 20)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .build();
    let schema = RecordBatch::try_from_iter([
        ("id", Arc::new(StringArray::from(vec![""])) as ArrayRef),
        ("question", Arc::new(StringArray::from(vec![""])) as ArrayRef),
    ])
    .unwrap()
    .schema();
    let file = fs::File::create(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties)).unwrap();
    for start in (0..n_rows).step_by(20) {
        let columns: Vec<ArrayRef> = vec![Arc::new(ids.slice(start, 20)), Arc::clone(&texts)];
        writer.write(&RecordBatch::try_new(schema.clone(), columns).unwrap()).unwrap();
    }
    writer.close().unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 4 << 20, "the file must store the text once");
    let job = format!("{TEXT_JOB}[limits]\ntext_bytes = \"64KiB\"\nerror_budget = \"100%\"\n");
    let ran = run("a dictionary of one text of 900 kB", &place, &job, n_rows);
    assert_eq!((ran.answers, ran.rejects.len()), (0, 1));
    assert_eq!(ran.rejects["text_too_long"], n_rows);
}

#[test]
fn long_audio_waits_for_memory_and_audio_that_never_fits_is_rejected() {
    // Silence of many minutes in a few kB, and one-second clips.
    let place = Workplace::new();
    let long = fs::read(repository().join("tests/torture/seeds/bombs/silence.flac")).unwrap();
    let short = fs::read(repository().join("tests/torture/seeds/plain.flac")).unwrap();
    let cells: Vec<Vec<u8>> =
        (0..16).map(|row| if row % 4 == 3 { long.clone() } else { short.clone() }).collect();
    let table = image_table(&cells);
    let names = [("id", table.column(0).clone()), ("audio", table.column(1).clone())];
    write_table(&place.path("table.parquet"), &RecordBatch::try_from_iter(names).unwrap(), 16);
    let job = IMAGE_JOB.replace("caption", "transcribe").replace("image", "audio");
    let ran = run("sounds that unpack to minutes", &place, &job, 16);
    assert_eq!(ran.answers, 12);
    assert_eq!(ran.rejects.len(), 1);
}

#[test]
fn images_of_a_row_reserve_memory_together() {
    // If rows reserved memory image by image, they could deadlock.
    let place = Workplace::new();
    let image = large_png(1000, 800);
    let mut lists = arrow::array::ListBuilder::new(arrow::array::BinaryBuilder::new());
    for _ in 0..12 {
        (0..3).for_each(|_| lists.values().append_value(&image));
        lists.append(true);
    }
    let ids = StringArray::from_iter_values((0..12).map(|row| format!("row-{row}")));
    let columns: [(&str, ArrayRef); 2] =
        [("id", Arc::new(ids)), ("image", Arc::new(lists.finish()))];
    write_table(&place.path("table.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 12);
    let ran = run("rows of three pictures", &place, IMAGE_JOB, 12);
    assert_eq!(ran.answers + ran.rejects.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), 12);
    assert!(!ran.rejects.contains_key("media_exceeds_memory"), "{:?}", ran.rejects);
}

#[test]
fn carried_columns_stay_within_the_memory_limit_and_arrive_intact() {
    // 200 MB of carried images in one span: more than memory can hold.
    let place = Workplace::new();
    let n_rows = 200;
    let mut noise = 1_u32;
    let mut next = || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise.to_be_bytes()[0]
    };
    let cells: Vec<Vec<u8>> = (0..n_rows)
        .map(|row| match row % 20 {
            19 => b"junk".to_vec(),
            _ => {
                let mut bytes = Vec::new();
                let image = RgbImage::from_fn(600, 560, |_, _| Rgb([next(), next(), next()]));
                image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
                bytes
            }
        })
        .collect();
    write_table(&place.path("table.parquet"), &image_table(&cells), n_rows);
    for (rejects, n_answers) in [("separate", 190), ("inline", n_rows)] {
        let output = format!("rejects = \"{rejects}\"\ncolumns = [\"id\", \"image\"]\n");
        let job = IMAGE_JOB.replace("span_rows = 4\n", &format!("{output}span_rows = 200\n"));
        fs::remove_dir_all(place.path("out")).ok();
        fs::remove_dir_all(place.path("out.legenda")).ok();
        let ran = run(&format!("carried pictures, rejects {rejects}"), &place, &job, n_rows);
        assert_eq!((ran.answers, ran.rejects.len()), (190, 1));
        let answers = place.answers("out");
        assert_eq!(answers.num_rows(), n_answers);
        let ids = text_column(&answers, "id");
        for (row, cell) in answers["image"].as_binary::<i32>().iter().enumerate() {
            let of: usize = ids[row].as_ref().unwrap()["row-".len()..].parse().unwrap();
            assert!(cell == Some(cells[of].as_slice()), "row {of} carries a wrong cell");
        }
        let part = |name: &str| name.starts_with("part-");
        let files = fs::read_dir(place.path("out")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        assert!(
            names.filter(|name| part(name)).count() > 1,
            "expected several parts, as memory is too small for one"
        );
        assert!(place.run(&["verify", "out"]).expect(0).stdout.contains("verified"));
    }
}
