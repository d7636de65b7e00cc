//! `legenda estimate` predicts a run without changing the output, and runs report how the prediction
//! compares.

use std::{fs, io::Write};

use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, image_table, numbered_png, png, texts, write_table,
};
use serde_json::Value;

/// Writes a table of images in which every tenth is invalid.
fn write_images(place: &Workplace, n_rows: u16) {
    let cell = |row: u16| Some(if row % 10 == 3 { b"junk".to_vec() } else { numbered_png(row) });
    let cells: Vec<_> = (0..n_rows).map(cell).collect();
    write_table(&place.path("table.parquet"), &image_table(&cells), 100);
    place.write("job.toml", &IMAGE_JOB.replace("span_rows = 4", "span_rows = 64"));
}

fn predicted(place: &Workplace, args: &[&str]) -> Value {
    let told = place.run(&[&["estimate", "job.toml", "--json"], args].concat()).expect(0);
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(told["confidence"], 0.9);
    told["prediction"].clone()
}

/// Returns the interval of a predicted number.
fn interval(prediction: &Value, what: &str) -> (f64, f64, f64) {
    let of = |end: &str| prediction[what][end].as_f64().unwrap();
    let (low, value, high) = (of("low"), of("value"), of("high"));
    assert!(0.0 <= low && low <= value && value <= high, "{what}: {}", prediction[what]);
    (low, value, high)
}

const NUMBERS: [&str; 6] = [
    "seconds",
    "peak_memory_bytes",
    "tokens_prompt",
    "tokens_generated",
    "output_bytes",
    "rejects",
];

#[test]
fn a_run_is_compared_with_its_prediction() {
    let place = Workplace::new();
    write_images(&place, 600);
    let prediction = predicted(&place, &["--rows", "120"]);
    assert!(!place.path("out").try_exists().unwrap(), "the output was created");
    assert_eq!((&prediction["rows"], &prediction["sampled"]), (&600.into(), &120.into()));
    for what in NUMBERS {
        let (low, _, high) = interval(&prediction, what);
        assert!(low < high, "{what}: expected a nonempty interval");
    }
    // More rows take longer than the sample did.
    let sample_seconds = prediction["sample_seconds"].as_f64().unwrap();
    assert!(interval(&prediction, "seconds").1 > sample_seconds);

    let shown = place.run(&["estimate", "job.toml", "--rows", "120", "--save"]).expect(0);
    for text in ["120 of 600 rows", "90 % interval", "generated tokens", "media_unknown_format"] {
        assert!(shown.stdout.contains(text), "no `{text}` in {}", shown.stdout);
    }
    assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 0);
    assert!(place.path("out.legenda/prediction.json").is_file());
    // An output with only a saved prediction does not count as an output and does not block a run.
    place.run(&["verify", "out"]).expect(2).stderr_contains(&["not the output of a run"]);
    let run = place.run(&["run", "job.toml"]).expect(0);
    assert!(run.stdout.contains("rows_in 600 == answers 540 + rejects 60"), "{}", run.stdout);
    // Numbers that depend only on rows are deterministic; times and memory depend on the machine.
    for what in ["prompt tokens", "generated tokens", "output bytes", "rejects"] {
        let line = run.stdout.lines().find(|line| line.starts_with(&format!("predicted {what}")));
        let line = line.unwrap_or_else(|| panic!("no `{what}` in {}", run.stdout));
        assert!(line.ends_with(": within"), "{line}");
    }
    assert!(run.stdout.contains("predicted seconds: "), "{}", run.stdout);
    let html = fs::read_to_string(place.path("out.legenda/report.html")).unwrap();
    assert!(html.contains("<h2>Prediction</h2>") && html.contains(">rejects</td>"), "{html}");
    let report = fs::read_to_string(place.path("out.legenda/report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["prediction"]["rows"], 600);
    let truth = |what: &str| report[what].as_f64().unwrap();
    for what in ["tokens_prompt", "tokens_generated", "output_bytes"] {
        let (low, _, high) = interval(&prediction, what);
        assert!(truth(what) > 0.0 && low <= truth(what) && truth(what) <= high, "{what}");
    }
    assert!(place.run(&["verify", "out"]).expect(0).stdout.contains("rows_in 600"));

    // A run without new rows, or of another job, ignores the prediction; a full rerun uses it.
    let again = place.run(&["run", "job.toml"]).expect(0);
    assert!(!again.stdout.contains("predicted"), "{}", again.stdout);
    let other = ["run", "job.toml", "--overwrite", "--set", "task.prompt=What is it?"];
    let other = place.run(&other).expect(0);
    assert!(!other.stdout.contains("predicted"), "{}", other.stdout);
    let fresh = place.run(&["run", "job.toml", "--overwrite"]).expect(0);
    assert!(fresh.stdout.contains("predicted rejects"), "{}", fresh.stdout);
    // Committed rows are predicted as well, and stay.
    let prediction = predicted(&place, &["--rows", "120"]);
    assert_eq!((&prediction["rows"], &prediction["sampled"]), (&600.into(), &120.into()));
    assert!(place.run(&["verify", "out"]).expect(0).stdout.contains("rows_in 600"));
}

#[test]
fn a_sample_of_all_rows_predicts_exactly() {
    let place = Workplace::new();
    write_images(&place, 50);
    let prediction = predicted(&place, &["--save"]);
    assert_eq!((&prediction["rows"], &prediction["sampled"]), (&50.into(), &50.into()));
    let run = place.run(&["run", "job.toml", "--progress", "json"]).expect(0);
    let last = run.stderr.lines().rfind(|line| line.contains("\"report\"")).unwrap();
    let report: Value = serde_json::from_str(last).unwrap();
    for what in ["tokens_prompt", "tokens_generated"] {
        let (low, value, high) = interval(&prediction, what);
        assert_eq!((low, high), (value, value), "{what}");
        assert_eq!(report["report"][what].as_f64(), Some(value), "{what}");
    }
    assert_eq!(interval(&prediction, "rejects"), (5.0, 5.0, 5.0));
}

#[test]
fn predictions_respect_queries_limits_and_sidecars() {
    let place = Workplace::new();
    let rows: Vec<String> = (0..400).map(|row| format!("What is {row}?")).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    write_table(&place.path("table.parquet"), &texts(&rows), 50);
    place.write("job.toml", TEXT_JOB);
    assert_eq!(predicted(&place, &["--limit", "120", "--rows", "32"])["rows"], 120);
    #[cfg(feature = "sql")]
    {
        let query = "source.query=SELECT * FROM source WHERE question LIKE '%1?'";
        let prediction = predicted(&place, &["--set", query, "--rows", "16"]);
        assert_eq!((&prediction["rows"], &prediction["sampled"]), (&40.into(), &16.into()));
    }
    place.run(&["plan", "job.toml", "--rows", "0"]).expect(2).stderr_contains(&["--rows"]);
    // Sidecars are not written.
    fs::create_dir(place.path("media")).unwrap();
    for shade in 0..6_u8 {
        let path = place.path(&format!("media/{shade}.png"));
        fs::File::create(path).unwrap().write_all(&png(shade)).unwrap();
    }
    let job = IMAGE_JOB
        .replace("table.parquet", "media")
        .replace("columns = { id = \"id\", image = \"image\" }", "columns = { image = \"media\" }");
    place.write(
        "job.toml",
        &format!("{job}sidecars = {{ extension = \"txt\", mode = \"skip\" }}\n"),
    );
    assert_eq!(predicted(&place, &[])["sampled"], 6);
    assert_eq!(fs::read_dir(place.path("media")).unwrap().count(), 6);
}
