//! Hub datasets as a source, served by a Hub in this process.

use std::fs;

use arrow::array::RecordBatch;
use legenda_tests::{
    TEXT_JOB, Workplace,
    hub::{HubServer, TOKEN},
    image_table, numbered_png, run_command, text_column, texts, write_table,
};

/// A dataset with two tables of texts, a large one of images, and a file that is not a table.
fn dataset(place: &Workplace) -> HubServer {
    let hub = HubServer::start(&fs::canonicalize(place.path(".")).unwrap());
    let put = |name: &str, rows: &RecordBatch| {
        write_table(&place.path("one.parquet"), rows, 400);
        hub.put(name, &fs::read(place.path("one.parquet")).unwrap());
    };
    put("data/train-0.parquet", &texts(&["What is dog in German?", "What is cat in German?"]));
    put("data/train-1.parquet", &texts(&["What is house in German?"]));
    put("data/.hidden/train-9.parquet", &texts(&["Not read."]));
    let cells: Vec<_> = (0..400).map(|row| Some(numbered_png(row))).collect();
    put("pictures/all.parquet", &image_table(&cells));
    hub.put("README.md", b"# A dataset");
    hub
}

fn job(paths: &str) -> String {
    TEXT_JOB.replace("\"table.parquet\"", &format!("\"{paths}\""))
}

#[test]
fn dataset_tables_are_read_from_the_hub_without_a_download() {
    let place = Workplace::new();
    let hub = dataset(&place);
    hub.require_token();
    place.write("job.toml", &job("hf://datasets/owner/data/data"));
    let run = |arguments: &[&str]| {
        let mut command = hub.command(&place, &[&["run", "job.toml"], arguments].concat());
        run_command(command.env("HF_TOKEN", TOKEN))
    };
    let told = run(&[]).expect(0);
    assert!(told.stdout.contains("rows_in 3 == answers 3"), "{}", told.stdout);
    let questions = text_column(&place.answers("out"), "question");
    assert_eq!(questions.iter().flatten().filter(|text| text.contains("German")).count(), 3);
    let bearer = format!("Bearer {TOKEN}");
    assert!(hub.requests().iter().all(|asked| asked.authorization.as_ref() == Some(&bearer)));
    let mut verify = hub.command(&place, &["verify", "out"]);
    assert!(run_command(verify.env("HF_TOKEN", TOKEN)).expect(0).stdout.contains("verified"));

    // After a commit adds a table, only that table is read.
    drop(hub.requests());
    write_table(&place.path("one.parquet"), &texts(&["What is tree in German?"]), 400);
    hub.put("data/train-2.parquet", &fs::read(place.path("one.parquet")).unwrap());
    let told = run(&[]).expect(0);
    assert!(told.stdout.contains("rows_in 4 == answers 4"), "{}", told.stdout);
    assert!(told.stdout.contains("3 rows were committed by earlier runs"), "{}", told.stdout);
    let asked = hub.requests().into_iter().filter(|asked| asked.range_start.is_some());
    let ranges: Vec<String> = asked.map(|asked| asked.path).collect();
    let n_of = |name: &str| ranges.iter().filter(|path| path.contains(name)).count();
    // The footer of the first table is read for the columns of all.
    assert_eq!((n_of("train-0"), n_of("train-1")), (1, 0), "{ranges:?}");
    assert!(n_of("train-2") > 1, "{ranges:?}");

    // `--offline` applies to models only, not to the source.
    let told = run(&["--offline", "--set", "output.path=again"]).expect(0);
    assert!(told.stdout.contains("rows_in 4 =="), "{}", told.stdout);
}

#[test]
fn the_second_host_of_a_large_table_receives_no_token() {
    let place = Workplace::new();
    let hub = dataset(&place);
    hub.require_token();
    let job = job("hf://datasets/owner/data@main/*/all.parquet").replace("generate", "caption");
    place.write("job.toml", &job.replace("text = \"question\"", "image = \"image\""));
    let mut command = hub.command(&place, &["run", "job.toml", "--limit", "40"]);
    let told = run_command(command.env("HF_TOKEN", TOKEN)).expect(0);
    assert!(told.stdout.contains("rows_in 40 == answers 40"), "{}", told.stdout);
    let (second, first): (Vec<_>, Vec<_>) =
        hub.requests().into_iter().partition(|asked| asked.at_second_host);
    assert!(!second.is_empty() && second.iter().all(|asked| asked.authorization.is_none()));
    assert!(first.iter().all(|asked| asked.authorization.is_some()));
    let mut said = format!("{}{}", told.stdout, told.stderr);
    for name in ["report.html", "report.json", "job.json", "plan.json"] {
        said += &fs::read_to_string(place.path("out.legenda").join(name)).unwrap();
    }
    assert!(!said.contains(TOKEN), "the token is shown");
}

#[test]
fn dataset_errors_are_reported() {
    let place = Workplace::new();
    let hub = dataset(&place);
    let refused = |paths: &str, token: Option<&str>| {
        place.write("job.toml", &job(paths));
        let mut command = hub.command(&place, &["check", "job.toml"]);
        run_command(command.envs(token.map(|token| ("HF_TOKEN", token)))).expect(2)
    };
    let none = refused("hf://datasets/owner/data/none-*.parquet", None);
    none.stderr_contains(&["none-*.parquet", "no readable file matches"]);
    refused("hf://datasets/owner/other", None).stderr_contains(&["dataset", "check the name"]);
    refused("hf://datasets/owner", None).stderr_contains(&["expected `hf://datasets/owner/name`"]);
    let images = refused("hf://datasets/owner/data/pictures", None);
    images.stderr_contains(&["all.parquet"]);
    hub.require_token();
    refused("hf://datasets/owner/data", None)
        .stderr_contains(&["the Hub denied access", "HF_TOKEN"]);
    let mut command = hub.command(&place, &["check", "job.toml"]);
    let offline = run_command(command.env("HF_HUB_OFFLINE", "1")).expect(2);
    offline.stderr_contains(&["owner/data", "`HF_HUB_OFFLINE` is set"]);
}
