//! Damaged media are rejected, or answered and flagged, as the job configures. Every output format
//! carries `legenda_flags`.

use std::{fs, io::Write, path::Path};

use arrow::array::{AsArray, RecordBatch};
use legenda_pipeline::media::{MediaError, damaged::decode_image};
use legenda_schemas::job::DamagedMedia;
use legenda_tests::{
    IMAGE_JOB, Workplace, image_table, png, read_table, repository, text_column, write_table,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const ANSWER: [&str; 2] = ["--set", "limits.damaged_media=answer"];

fn put(path: &Path, bytes: &[u8]) {
    fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

fn jpeg() -> Vec<u8> {
    fs::read(repository().join("tests/jpeg/sample-1x1.jpg")).unwrap()
}

/// Returns a valid JPEG and PNG, both truncated, a JPEG with only its header, and the truncated
/// JPEG again.
fn cells() -> Vec<Option<Vec<u8>>> {
    let (jpeg, png) = (jpeg(), noisy_png());
    let cut = |bytes: &[u8]| bytes[..bytes.len() * 3 / 4].to_vec();
    let header = jpeg.windows(2).position(|two| two == [0xff, 0xda]).unwrap() + 14;
    [jpeg.clone(), png.clone(), cut(&jpeg), cut(&png), jpeg[..header].to_vec(), cut(&jpeg)]
        .map(Some)
        .to_vec()
}

/// Returns a PNG whose pixels do not compress.
fn noisy_png() -> Vec<u8> {
    let noise = |x: u32, y: u32| (x * 7919 + y * 104_729).wrapping_mul(2_654_435_761).to_be_bytes();
    let image = image::RgbImage::from_fn(40, 40, |x, y| {
        let [red, green, blue, _] = noise(x, y);
        image::Rgb([red, green, blue])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// Returns the flags of each row, joined.
fn flags(rows: &RecordBatch) -> Vec<String> {
    let lists = rows.column_by_name("legenda_flags").unwrap().as_list::<i32>();
    assert_eq!(arrow::array::Array::null_count(lists), 0);
    let names = |row| {
        let names = lists.value(row);
        let names: Vec<String> =
            names.as_string::<i32>().iter().flatten().map(str::to_owned).collect();
        names.join(" ")
    };
    (0..rows.num_rows()).map(names).collect()
}

const MARKED: &str = "media_damaged";

fn workplace() -> Workplace {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &image_table(&cells()), 2);
    place.write("job.toml", IMAGE_JOB);
    place
}

#[test]
fn damaged_images_are_rejected_unless_the_job_answers_them() {
    let place = workplace();
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rows_in 6 == answers 2 + rejects 4"), "{}", ended.stdout);
    assert_eq!(flags(&place.answers("out")), ["", ""]);
    let codes = text_column(&place.rejects("out"), "legenda_code");
    assert!(codes.iter().all(|code| code.as_deref() == Some("media_damaged")), "{codes:?}");

    // The setting changes answers, so the output belongs to another job.
    let args = [&["run", "job.toml"], &ANSWER[..]].concat();
    place.run(&args).expect(2).stderr_contains(&["limits"]);
    let ended = place.run(&[&args[..], &["--overwrite"]].concat()).expect(0);
    assert!(ended.stdout.contains("rows_in 6 == answers 5 + rejects 1"), "{}", ended.stdout);
    let answers = place.answers("out");
    assert_eq!(text_column(&place.rejects("out"), "id"), [Some("row-4".to_owned())]);
    assert_eq!(flags(&answers), ["", "", MARKED, MARKED, MARKED]);
    let _proof = place.run(&["verify", "out"]).expect(0);
    let _page = place.run(&["report", "out"]).expect(0);
    let page = fs::read_to_string(place.path("out.legenda/report.html")).unwrap();
    assert!(page.contains("media damaged"), "the report does not show row flags");
}

#[test]
fn flags_are_written_to_stores_rejects_and_json() {
    let place = workplace();
    place.write("job.toml", &format!("{IMAGE_JOB}[reuse]\nstore = \"answers.sqlite\"\n"));
    let run = |output: &str, more: &[&str]| {
        let path = format!("output.path={output}");
        let args = [&["run", "job.toml", "--set", &path], &ANSWER[..], more].concat();
        place.run(&args).expect(0)
    };
    let _first = run("first", &[]);
    let _second = run("second", &["--set", "output.rejects=inline"]);
    let second = place.answers("second");
    assert_eq!(flags(&second), ["", "", MARKED, MARKED, "", MARKED]);
    let status = text_column(&second, "legenda_status");
    let expected = ["reused", "reused", "reused", "reused", "rejected", "reused"];
    assert_eq!(status, expected.map(|text| Some(text.to_owned())));

    let _third = run("third", &["--set", "output.format=jsonl"]);
    let parts = fs::read_dir(place.path("third")).unwrap().map(|entry| entry.unwrap().path());
    let mut lines: Vec<Value> = parts
        .filter(|path| path.extension().is_some_and(|name| name == "jsonl"))
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
        })
        .collect();
    lines.sort_by_key(|line| line["id"].to_string());
    let found: Vec<&Value> = lines.iter().map(|line| &line["legenda_flags"]).collect();
    let marked = json!([MARKED]);
    assert_eq!(found, [&json!([]), &json!([]), &marked, &marked, &marked]);
    let _proof = place.run(&["verify", "third"]).expect(0);
}

#[test]
fn json_sidecars_have_the_flags() {
    let place = Workplace::new();
    fs::create_dir(place.path("pictures")).unwrap();
    for (idx, cell) in cells().iter().take(3).enumerate() {
        let ending = if idx == 1 { "png" } else { "jpg" };
        put(&place.path(&format!("pictures/{idx}.{ending}")), cell.as_ref().unwrap());
    }
    let job = IMAGE_JOB
        .replace("table.parquet", "pictures")
        .replace("id = \"id\", image = \"image\"", "image = \"media\"");
    place.write(
        "job.toml",
        &format!("{job}sidecars = {{ extension = \"json\", mode = \"overwrite\" }}\n"),
    );
    let _ended = place.run(&[&["run", "job.toml"], &ANSWER[..]].concat()).expect(0);
    let sidecar = |idx: usize| -> Value {
        let path = place.path(&format!("pictures/{idx}.json"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    assert_eq!(sidecar(2)["legenda_flags"], json!([MARKED]));
    assert_eq!(sidecar(0).get("legenda_flags"), None);
}

/// Rewrites a committed output as a version without the flags column would have written it: removes
/// the column from every part and updates the ledger.
fn without_flags(place: &Workplace, output: &str) {
    let ledger = place.path(&format!("{output}.legenda/ledger"));
    for entry in fs::read_dir(ledger).unwrap().map(|entry| entry.unwrap().path()) {
        let mut value: Value = serde_json::from_slice(&fs::read(&entry).unwrap()).unwrap();
        for part in value["parts"].as_array_mut().unwrap() {
            let path = place.path(output).join(part["name"].as_str().unwrap());
            let mut rows = read_table(&path).remove(0);
            let column = rows.schema().index_of("legenda_flags").unwrap();
            rows.remove_column(column);
            write_table(&path, &rows, 100);
            let digest = Sha256::digest(fs::read(&path).unwrap());
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            part["sha256"] = json!(digest);
        }
        put(&entry, value.to_string().as_bytes());
    }
}

#[test]
fn an_output_of_an_earlier_version_can_be_resumed() {
    let place = Workplace::new();
    let mut cells: Vec<Option<Vec<u8>>> = (0..12).map(|shade| Some(png(shade))).collect();
    // Answered after the limit is raised.
    cells[1] = Some(noisy_png());
    write_table(&place.path("table.parquet"), &image_table(&cells), 4);
    place.write("job.toml", IMAGE_JOB);
    let small = ["--set", "limits.image_pixels=1100", "--set", "output.rejects=inline"];
    let args = [&["run", "job.toml"], &small[..]].concat();
    let _begun = place.run(&args).expect(0);
    without_flags(&place, "out");
    // Remove one span from the ledger.
    let ledger = place.path("out.legenda/ledger");
    let undone = fs::read_dir(ledger).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let has_reject = fs::read_to_string(&undone).unwrap().contains("image_too_large");
    let undone = if has_reject {
        fs::read_dir(undone.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).min()
    } else {
        Some(undone)
    };
    fs::remove_file(undone.unwrap()).unwrap();

    let resumed = place.run(&args).expect(0);
    assert!(resumed.stdout.contains("committed by earlier runs"), "{}", resumed.stdout);
    let parts = |column: &str| {
        let files = fs::read_dir(place.path("out")).unwrap().map(|file| file.unwrap().path());
        let parts = files.filter(|path| path.extension().is_some_and(|name| name == "parquet"));
        parts.filter(|path| read_table(path)[0].column_by_name(column).is_some()).count()
    };
    assert_eq!((parts("legenda_flags"), parts("answer")), (1, 3));
    let told = place.run(&["verify", "out"]).expect(0);
    assert!(told.stdout.contains("rows_in 12 == answers 11 + rejects 1"), "{}", told.stdout);
    let _page = place.run(&["report", "out"]).expect(0);

    // A job reads parts with and without the column.
    let over = IMAGE_JOB
        .replace("caption", "generate")
        .replace("table.parquet", "out")
        .replace("image = \"image\"", "text = \"answer\"")
        .replace("path = \"out\"", "path = \"over\"");
    place.write("over.toml", &over);
    let carried = ["run", "over.toml", "--set", "output.columns=[\"id\"]"];
    let ended = place.run(&carried).expect(0);
    assert!(ended.stdout.contains("rows_in 12"), "{}", ended.stdout);

    // The answer replaces the reject in place.
    let retried = place.run(&["retry", "out", "--set", "limits.image_pixels=5000"]).expect(0);
    assert!(retried.stdout.contains("rows_in 12 == answers 12 + rejects 0"), "{}", retried.stdout);
    assert_eq!(parts("legenda_flags"), 2);
    let _proof = place.run(&["verify", "out"]).expect(0);
}

/// Decodes as a run does by default.
fn pixels(bytes: &[u8]) -> Result<Vec<u8>, MediaError> {
    decode_image(bytes, 64_000_000, DamagedMedia::Reject).map(|decoded| decoded.media.pixels)
}

#[test]
fn truncated_images_of_any_format_are_intact_or_an_error() {
    let seeds = repository().join("tests/torture/seeds");
    let mut n_formats = 0;
    for path in fs::read_dir(seeds).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let Ok(whole) = pixels(&bytes) else { continue };
        n_formats += 1;
        for end in (0..bytes.len()).rev().step_by(bytes.len().div_ceil(400)) {
            match pixels(&bytes[..end]) {
                // Only bytes after the pixel data are missing.
                Ok(found) => assert!(found == whole, "{}, first {end} bytes", path.display()),
                Err(error) => assert!(
                    matches!(
                        error.code(),
                        "media_damaged" | "media_unknown_format" | "media_empty"
                    ),
                    "{}, first {end} bytes: {error}",
                    path.display()
                ),
            }
        }
    }
    assert!(n_formats >= 12, "{n_formats} images");
}
