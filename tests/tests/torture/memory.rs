//! `limits.memory` is a promise: rows that are far larger than their neighbours, or than memory, are
//! rejected with their size, and what the process held at its peak stays below.

use std::{fs, io::Cursor, sync::Arc};

use arrow::array::{ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray};
use image::{ImageFormat, Rgb, RgbImage};
use legenda_tests::{PICTURE_JOB, TEXT_JOB, Workplace, png, repository, text_column, write_table};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};

const LIMIT: &str = "limits.memory=400MiB";

/// What a run came to.
struct Ran {
    answers: u64,
    rejects: serde_json::Map<String, serde_json::Value>,
}

/// Runs `job` with a promise of 400 MiB, and holds the report to it.
fn run(name: &str, place: &Workplace, job: &str, n_rows: usize) -> Ran {
    place.write("job.toml", job);
    let args = ["run", "job.toml", "--set", LIMIT, "--set", "generation.max_new_tokens=1"];
    // Rows that are equal are held like others.
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
    // Where the system does not tell the peak it is null.
    if let Some(peak) = peak.as_u64() {
        assert!(peak <= limit.as_u64().unwrap(), "{name}: {peak} bytes, {limit} promised");
    }
    Ran { answers, rejects }
}

/// A picture of so many pixels in few bytes.
fn large_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    RgbImage::from_pixel(width, height, Rgb([9, 90, 200]))
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .unwrap();
    bytes
}

fn pictures(cells: &[Vec<u8>]) -> RecordBatch {
    let ids = StringArray::from_iter_values((0..cells.len()).map(|row| format!("row-{row}")));
    let cells: ArrayRef = Arc::new(BinaryArray::from_iter_values(cells));
    RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("image", cells)]).unwrap()
}

#[test]
fn large_pictures_wait_for_memory_and_those_that_never_fit_are_rejected() {
    let place = Workplace::new();
    let (large, huge) = (large_png(1200, 1000), large_png(6000, 5000));
    let cells: Vec<Vec<u8>> =
        (0..24).map(|row| if row % 8 == 7 { huge.clone() } else { large.clone() }).collect();
    write_table(&place.path("table.parquet"), &pictures(&cells), 24);
    let ran = run("pictures of 1.2 and 30 million pixels", &place, PICTURE_JOB, 24);
    assert_eq!(ran.answers, 21);
    assert_eq!(ran.rejects["media_exceeds_memory"], 3);
    let message = text_column(&place.rejects("out"), "legenda_message")[0].clone().unwrap();
    assert!(message.contains("`limits.memory` leaves"), "{message}");
}

#[test]
fn a_cell_of_200_mb_is_rejected_with_its_size_and_costs_its_row_group_at_most() {
    let place = Workplace::new();
    let mut cells: Vec<Vec<u8>> = (0..8).map(png).collect();
    cells[5] = vec![0xAB; 200_000_000];
    write_table(&place.path("table.parquet"), &pictures(&cells), 4);
    let ran = run("a cell of 200 MB", &place, PICTURE_JOB, 8);
    assert!(ran.answers >= 4, "the row group without it");
    assert!(ran.rejects["row_exceeds_memory"].as_u64().unwrap() >= 1);
    let rejects = place.rejects("out");
    for message in text_column(&rejects, "legenda_message") {
        let message = message.unwrap();
        assert!(message.contains("set it to") && message.contains("row is omitted"), "{message}");
    }
    // With what the message asks for the row is read.
    let needed = text_column(&rejects, "legenda_message")[0].clone().unwrap();
    let needed = needed.split("set it to ").nth(1).unwrap().split(' ').next().unwrap();
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
fn values_of_a_dictionary_are_as_large_as_they_are_and_not_as_their_numbers() {
    // 600 rows that name one text of 900 kB: the file has 1 MB, its rows have 540 MB.
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
    assert!(fs::metadata(&path).unwrap().len() < 4 << 20, "the text stands in the file once");
    let job = format!("{TEXT_JOB}[limits]\ntext_bytes = \"64KiB\"\nerror_budget = \"100%\"\n");
    let ran = run("a dictionary of one text of 900 kB", &place, &job, n_rows);
    assert_eq!((ran.answers, ran.rejects.len()), (0, 1));
    assert_eq!(ran.rejects["text_too_long"], n_rows);
}

#[test]
fn long_sounds_wait_for_memory_and_those_that_never_fit_are_rejected() {
    // Silence of many minutes in a few kB, and sounds of a second.
    let place = Workplace::new();
    let long = fs::read(repository().join("tests/torture/seeds/bombs/silence.flac")).unwrap();
    let short = fs::read(repository().join("tests/torture/seeds/plain.flac")).unwrap();
    let cells: Vec<Vec<u8>> =
        (0..16).map(|row| if row % 4 == 3 { long.clone() } else { short.clone() }).collect();
    let table = pictures(&cells);
    let names = [("id", table.column(0).clone()), ("audio", table.column(1).clone())];
    write_table(&place.path("table.parquet"), &RecordBatch::try_from_iter(names).unwrap(), 16);
    let job = PICTURE_JOB.replace("caption", "transcribe").replace("image", "audio");
    let ran = run("sounds that unpack to minutes", &place, &job, 16);
    assert_eq!(ran.answers, 12);
    assert_eq!(ran.rejects.len(), 1);
}

#[test]
fn pictures_that_are_many_in_a_row_reserve_together() {
    // Rows that took memory picture by picture could wait for each other for ever.
    let place = Workplace::new();
    let picture = large_png(1000, 800);
    let mut lists = arrow::array::ListBuilder::new(arrow::array::BinaryBuilder::new());
    for _ in 0..12 {
        (0..3).for_each(|_| lists.values().append_value(&picture));
        lists.append(true);
    }
    let ids = StringArray::from_iter_values((0..12).map(|row| format!("row-{row}")));
    let columns: [(&str, ArrayRef); 2] =
        [("id", Arc::new(ids)), ("image", Arc::new(lists.finish()))];
    write_table(&place.path("table.parquet"), &RecordBatch::try_from_iter(columns).unwrap(), 12);
    let ran = run("rows of three pictures", &place, PICTURE_JOB, 12);
    assert_eq!(ran.answers + ran.rejects.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), 12);
    assert!(!ran.rejects.contains_key("media_exceeds_memory"), "{:?}", ran.rejects);
}

#[test]
fn columns_that_are_carried_wait_within_the_promise_and_arrive_whole() {
    // 200 MB of pictures in one span, which answers carry: more than there is memory to keep.
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
                let picture = RgbImage::from_fn(600, 560, |_, _| Rgb([next(), next(), next()]));
                picture.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
                bytes
            }
        })
        .collect();
    write_table(&place.path("table.parquet"), &pictures(&cells), n_rows);
    for (rejects, n_answers) in [("separate", 190), ("inline", n_rows)] {
        let output = format!("rejects = \"{rejects}\"\ncolumns = [\"id\", \"image\"]\n");
        let job = PICTURE_JOB.replace("span_rows = 4\n", &format!("{output}span_rows = 200\n"));
        fs::remove_dir_all(place.path("out")).ok();
        fs::remove_dir_all(place.path("out.legenda")).ok();
        let ran = run(&format!("carried pictures, rejects {rejects}"), &place, &job, n_rows);
        assert_eq!((ran.answers, ran.rejects.len()), (190, 1));
        let answers = place.answers("out");
        assert_eq!(answers.num_rows(), n_answers);
        let ids = text_column(&answers, "id");
        for (row, cell) in answers["image"].as_binary::<i32>().iter().enumerate() {
            let of: usize = ids[row].as_ref().unwrap()["row-".len()..].parse().unwrap();
            assert!(cell == Some(cells[of].as_slice()), "row {of} carries another cell");
        }
        let part = |name: &str| name.starts_with("part-");
        let files = fs::read_dir(place.path("out")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        assert!(names.filter(|name| part(name)).count() > 1, "it did not fit at once");
        assert!(place.run(&["verify", "out"]).expect(0).stdout.contains("verified"));
    }
}
