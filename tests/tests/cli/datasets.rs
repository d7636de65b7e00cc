//! Datasets of the Hub as a source, from a Hub in this process.

use std::fs;

use arrow::array::RecordBatch;
use legenda_tests::{
    TEXT_JOB, Workplace, ended,
    hub::{HubServer, TOKEN},
    numbered_png, pictures, text_column, texts, write_table,
};

/// A dataset of two tables of texts, one of pictures, which is large, and what is no table.
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
    put("pictures/all.parquet", &pictures(&cells));
    hub.put("README.md", b"# A dataset");
    hub
}

fn job(paths: &str) -> String {
    TEXT_JOB.replace("\"table.parquet\"", &format!("\"{paths}\""))
}

#[test]
fn tables_of_a_dataset_are_read_where_they_lie() {
    let place = Workplace::new();
    let hub = dataset(&place);
    hub.want_token();
    place.write("job.toml", &job("hf://datasets/owner/data/data"));
    let run = |arguments: &[&str]| {
        let mut command = hub.command(&place, &[&["run", "job.toml"], arguments].concat());
        ended(command.env("HF_TOKEN", TOKEN))
    };
    let told = run(&[]).expect(0);
    assert!(told.stdout.contains("rows_in 3 == answers 3"), "{}", told.stdout);
    let questions = text_column(&place.answers("out"), "question");
    assert_eq!(questions.iter().flatten().filter(|text| text.contains("German")).count(), 3);
    let bearer = format!("Bearer {TOKEN}");
    assert!(hub.asked().iter().all(|asked| asked.authorization.as_ref() == Some(&bearer)));
    let mut verify = hub.command(&place, &["verify", "out"]);
    assert!(ended(verify.env("HF_TOKEN", TOKEN)).expect(0).stdout.contains("verified"));

    // A commit that adds a table has that read, and no other.
    drop(hub.asked());
    write_table(&place.path("one.parquet"), &texts(&["What is tree in German?"]), 400);
    hub.put("data/train-2.parquet", &fs::read(place.path("one.parquet")).unwrap());
    let told = run(&[]).expect(0);
    assert!(told.stdout.contains("rows_in 4 == answers 4"), "{}", told.stdout);
    assert!(told.stdout.contains("3 rows were committed by earlier runs"), "{}", told.stdout);
    let asked = hub.asked().into_iter().filter(|asked| asked.range_start.is_some());
    let ranges: Vec<String> = asked.map(|asked| asked.path).collect();
    let n_of = |name: &str| ranges.iter().filter(|path| path.contains(name)).count();
    // Of the first table the footer, for the columns of all.
    assert_eq!((n_of("train-0"), n_of("train-1")), (1, 0), "{ranges:?}");
    assert!(n_of("train-2") > 1, "{ranges:?}");

    // `--offline` is about models; what a job reads it reads.
    let told = run(&["--offline", "--set", "output.path=again"]).expect(0);
    assert!(told.stdout.contains("rows_in 4 =="), "{}", told.stdout);
}

#[test]
fn a_large_table_lies_at_another_host_which_sees_no_token() {
    let place = Workplace::new();
    let hub = dataset(&place);
    hub.want_token();
    let job = job("hf://datasets/owner/data@main/*/all.parquet").replace("generate", "caption");
    place.write("job.toml", &job.replace("text = \"question\"", "image = \"image\""));
    let mut command = hub.command(&place, &["run", "job.toml", "--limit", "40"]);
    let told = ended(command.env("HF_TOKEN", TOKEN)).expect(0);
    assert!(told.stdout.contains("rows_in 40 == answers 40"), "{}", told.stdout);
    let (second, first): (Vec<_>, Vec<_>) =
        hub.asked().into_iter().partition(|asked| asked.at_second);
    assert!(!second.is_empty() && second.iter().all(|asked| asked.authorization.is_none()));
    assert!(first.iter().all(|asked| asked.authorization.is_some()));
    let mut said = format!("{}{}", told.stdout, told.stderr);
    for name in ["report.html", "report.json", "job.json", "plan.json"] {
        said += &fs::read_to_string(place.path("out.legenda").join(name)).unwrap();
    }
    assert!(!said.contains(TOKEN), "the token is told nowhere");
}

#[test]
fn what_is_wrong_with_a_dataset_is_told() {
    let place = Workplace::new();
    let hub = dataset(&place);
    let refused = |paths: &str, token: Option<&str>| {
        place.write("job.toml", &job(paths));
        let mut command = hub.command(&place, &["check", "job.toml"]);
        ended(command.envs(token.map(|token| ("HF_TOKEN", token)))).expect(2)
    };
    let none = refused("hf://datasets/owner/data/none-*.parquet", None);
    none.complains_of(&["none-*.parquet", "no readable file matches"]);
    refused("hf://datasets/owner/other", None).complains_of(&["dataset", "check the name"]);
    refused("hf://datasets/owner", None).complains_of(&["expected `hf://datasets/owner/name`"]);
    let pictures = refused("hf://datasets/owner/data/pictures", None);
    pictures.complains_of(&["all.parquet"]);
    hub.want_token();
    refused("hf://datasets/owner/data", None).complains_of(&["the Hub denied access", "HF_TOKEN"]);
    let mut command = hub.command(&place, &["check", "job.toml"]);
    let offline = ended(command.env("HF_HUB_OFFLINE", "1")).expect(2);
    offline.complains_of(&["owner/data", "`HF_HUB_OFFLINE` is set"]);
}
