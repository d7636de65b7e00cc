//! `caption`, `ask`, `transcribe` and `embed`: tasks on files without a job file.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use legenda_tests::{
    CommandResult, Workplace, png, read_table,
    references::{bundle, media},
    run_command, text_column, texts, write_table,
};
use serde_json::Value;

fn put(place: &Workplace, name: &str, bytes: &[u8]) {
    let path = place.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::io::Write::write_all(&mut fs::File::create(path).unwrap(), bytes).unwrap();
}

/// Runs a command that keeps its answers in the folder of the test.
fn run(place: &Workplace, args: &[&str]) -> CommandResult {
    run_command(place.command(args).env("LEGENDA_RUNS", place.path("runs")))
}

/// Makes the folder `photos` with `n` images and a file of another kind.
fn photos(place: &Workplace, n: u8) {
    for number in 0..n {
        put(place, &format!("photos/{number:02}.png"), &png(number.wrapping_mul(11)));
    }
    put(place, "photos/notes.json", b"{\"a\": 1}\n");
}

/// Returns the lines `name<TAB>answer` of an output.
fn pairs(stdout: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (name, answer) = line.split_once('\t').unwrap_or_else(|| panic!("{line}"));
        (name.to_owned(), answer.to_owned())
    };
    stdout.lines().map(pair).collect()
}

#[test]
fn captions_are_printed_in_order_and_are_those_of_the_saved_job() {
    let place = Workplace::new();
    photos(&place, 40);
    put(&place, "photos/05.png", b"junk");
    let told = run(&place, &["caption", "photos/"]).expect(0);
    let printed = pairs(&told.stdout);
    let names: Vec<String> =
        (0..40).filter(|n| *n != 5).map(|n| format!("photos/{n:02}.png")).collect();
    assert_eq!(printed.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), names);
    told.stderr_contains(&[
        "rejected photos/05.png: media_",
        "rows_in 40 == answers 39 + rejects 1",
    ]);
    told.stderr_contains(&["retry rejects: legenda retry ", "report in "]);

    // The job that it runs, through `legenda run`.
    let saved = run(&place, &["caption", "photos/", "--save-job", "job.toml"]).expect(0);
    saved.stderr_contains(&["job in job.toml", "legenda run job.toml"]);
    let job = fs::read_to_string(place.path("job.toml")).unwrap();
    assert!(job.contains("\n# The kind of task.\nkind = \"caption\"\n"), "{job}");
    let refused = run(&place, &["caption", "photos/", "--save-job", "job.toml"]).expect(2);
    refused.stderr_contains(&["`job.toml` already exists"]);
    let _ran = place.run(&["run", "job.toml"]).expect(0);
    let rows = place.answers("captions");
    let answers: Vec<String> = text_column(&rows, "answer").into_iter().flatten().collect();
    assert_eq!(answers, printed.into_iter().map(|(_, answer)| answer).collect::<Vec<_>>());

    // A second run prints the same answers without computing them again.
    let again = run(&place, &["caption", "photos/"]).expect(0);
    again.stderr_contains(&["resuming: 40 rows are answered by an earlier run", "0 rows in"]);
    assert_eq!(again.stdout, told.stdout);
    let anew = run(&place, &["caption", "photos/", "--overwrite"]).expect(0);
    anew.stderr_contains(&["40 rows in"]);
    assert_eq!(anew.stdout, told.stdout);
    let few = run(&place, &["caption", "photos/", "--limit", "2"]).expect(0);
    assert_eq!(pairs(&few.stdout).len(), 2);
}

#[test]
fn a_run_that_was_killed_resumes() {
    let place = Workplace::new();
    photos(&place, 96);
    let mut command = place.command(&["caption", "photos"]);
    command.env("LEGENDA_RUNS", place.path("runs"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // The first answer is printed while others are made.
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "the run ended before it was killed");
    let resumed = run(&place, &["caption", "photos"]).expect(0);
    resumed.stderr_contains(&["answered by an earlier run of this command", "rows_in 96"]);
    resumed.stderr_contains(&["rows were committed by earlier runs"]);
    assert!(resumed.stdout.starts_with(&first), "{first}{}", resumed.stdout);
    let again = run(&place, &["caption", "photos", "--overwrite"]).expect(0);
    assert_eq!(resumed.stdout, again.stdout);
}

#[test]
fn answers_go_to_one_file() {
    let place = Workplace::new();
    photos(&place, 5);
    for name in ["a.csv", "a.parquet", "a.arrow", "a.jsonl"] {
        let told = run(&place, &["caption", "photos", "-o", name]).expect(0);
        assert!(told.stdout.contains(&format!("5 rows in {name}")), "{}", told.stdout);
        assert!(told.stdout.contains("open in polars: python3 -c "), "{}", told.stdout);
    }
    let rows = &read_table(&place.path("a.parquet"))[0];
    assert_eq!(rows.num_rows(), 5);
    assert!(text_column(rows, "path")[4].as_deref().unwrap().ends_with("photos/04.png"));
    let csv = fs::read_to_string(place.path("a.csv")).unwrap();
    assert!(csv.starts_with("path,file_name,size,answer,legenda_status,"), "{csv}");

    let refused = run(&place, &["caption", "photos", "-o", "a.csv"]).expect(2);
    refused.stderr_contains(&["`a.csv` already exists", "--force"]);
    let few = ["caption", "photos", "-o", "a.csv", "--force", "--limit", "2"];
    let _told = run(&place, &few).expect(0);
    assert_eq!(fs::read_to_string(place.path("a.csv")).unwrap().lines().count(), 3);
    for (target, problem) in [("a.docx", "`-o a.docx/`"), ("none/a.csv", "no folder `none`")] {
        run(&place, &["caption", "photos", "-o", target]).expect(2).stderr_contains(&[problem]);
    }
}

#[test]
fn answers_go_to_an_output_folder_and_sidecars() {
    let place = Workplace::new();
    photos(&place, 3);
    put(&place, "photos/01.txt", b"mine");
    let args = ["caption", "photos", "-o", "out/", "--txt", "--json"];
    let told = run(&place, &args).expect(0);
    assert!(told.stdout.contains("rows_in 3 == answers 3 + rejects 0"), "{}", told.stdout);
    let answers = text_column(&place.answers("out"), "answer");
    let read = |name: &str| fs::read_to_string(place.path(name)).unwrap();
    assert_eq!(read("photos/00.txt").trim(), answers[0].as_deref().unwrap());
    assert_eq!(read("photos/01.txt"), "mine");
    let json: Value = serde_json::from_str(&read("photos/02.json")).unwrap();
    assert_eq!(json["answer"].as_str(), answers[2].as_deref());
    let forced = ["caption", "photos", "-o", "out/", "--txt", "--json", "--force", "--overwrite"];
    let _told = run(&place, &forced).expect(0);
    assert_eq!(read("photos/01.txt").trim(), answers[1].as_deref().unwrap());
    let tables = ["caption", "table.parquet", "--txt"];
    write_table(&place.path("table.parquet"), &legenda_tests::image_table(&[Some(png(1))]), 1);
    run(&place, &tables).expect(2).stderr_contains(&["not an image or audio file"]);
}

#[test]
fn questions_are_answered_about_images_and_texts() {
    let place = Workplace::new();
    photos(&place, 2);
    let told = run(&place, &["ask", "photos/00.png", "What color is it?"]).expect(0);
    assert_eq!(pairs(&told.stdout)[0].0, "photos/00.png");
    place.write("reviews.csv", "id,review\na,A fine book to read\nb,Not good at all\n");
    let told = run(&place, &["ask", "reviews.csv", "Is it good?"]).expect(0);
    let names: Vec<String> = pairs(&told.stdout).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b"]);
    let args = ["ask", "reviews.csv", "Is it good?", "--save-job", "job.toml"];
    let _saved = run(&place, &args).expect(0);
    let job: toml::Table = fs::read_to_string(place.path("job.toml")).unwrap().parse().unwrap();
    assert_eq!(job["task"]["prompt"].as_str(), Some("Is it good?\n\n{{ text }}"));
    assert_eq!(job["source"]["columns"]["text"].as_str(), Some("review"));
    // A template takes its place.
    let args = ["ask", "reviews.csv", "{{ id }}: {{ review }}", "--save-job", "other.toml"];
    let _saved = run(&place, &args).expect(0);
    let job: toml::Table = fs::read_to_string(place.path("other.toml")).unwrap().parse().unwrap();
    assert_eq!(job["task"]["prompt"].as_str(), Some("{{ id }}: {{ review }}"));

    let refuse = |args: &[&str], texts: &[&str]| run(&place, args).expect(2).stderr_contains(texts);
    refuse(&["ask", "photos", "what", "color", "is", "it?"], &["`what`", "quotes"]);
    refuse(&["ask", "photos", "photos/00.png"], &["must be the question", "quotes"]);
    refuse(&["ask", "photos"], &["<PATH>... <QUESTION>"]);
}

#[test]
fn rows_of_a_table_without_ids_are_named_by_their_number() {
    let place = Workplace::new();
    place.write("t.csv", "words\nsome words here\n\"and, others\"\n");
    let told = run(&place, &["ask", "t.csv", "What is this?"]).expect(0);
    let names: Vec<String> = pairs(&told.stdout).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["t.csv:0", "t.csv:1"]);
}

#[test]
fn wrong_paths_and_kinds_are_clear_errors() {
    let place = Workplace::new();
    photos(&place, 2);
    put(&place, "sounds/a.wav", &media("beeps-2.5s.wav"));
    fs::create_dir(place.path("empty")).unwrap();
    put(&place, "texts/a.txt", b"text");
    write_table(&place.path("texts.parquet"), &texts(&["one", "two"]), 2);
    let refuse = |args: &[&str], texts: &[&str]| run(&place, args).expect(2).stderr_contains(texts);
    refuse(
        &["transcribe", "photos"],
        &["`transcribe` needs audio in `photos`: found images", "use `legenda caption`"],
    );
    refuse(
        &["caption", "sounds/a.wav"],
        &["`caption` needs images in `sounds/a.wav`: found audio", "use `legenda transcribe`"],
    );
    refuse(&["caption", "texts.parquet"], &["found text", "use `legenda ask`"]);
    refuse(&["caption", "empty"], &["no image, audio file or table in ", "empty`", "JPEG"]);
    refuse(
        &["caption", "texts"],
        &["no image, audio file or table in ", "(skipped 1 file: 1 TXT)"],
    );
    refuse(&["caption", "phtos"], &["no file or folder `phtos`", "did you mean `photos`?"]);
    refuse(&["caption", "photos/*.gif"], &["no image, audio file or table in "]);
    refuse(&["captoin", "photos"], &["'captoin'", "'caption'"]);
    refuse(&["embed", "photos"], &["embed", "--model clip"]);
    refuse(&["transcribe", "sounds", "--srt"], &["timestamps", "--model whisper-base"]);
    refuse(&["caption", "photos", "--model", "smolvml"], &["did you mean `smolvlm`?"]);
    assert!(!place.path("runs").try_exists().unwrap(), "a refused command left a run");
}

#[test]
fn transcripts_have_subtitles() {
    let place = Workplace::new();
    for name in ["beeps-2.5s.wav", "glide-2s.wav"] {
        put(&place, &format!("sounds/{name}"), &media(name));
    }
    let model = bundle("whisper").display().to_string();
    let common = ["transcribe", "sounds", "--model", &model, "--language", "en"];
    let told =
        run(&place, &[&common[..], &["--srt", "--vtt", "--txt", "-o", "out/"]].concat()).expect(0);
    assert!(told.stdout.contains("rows_in 2 == answers 2"), "{}", told.stdout);
    let answers = text_column(&place.answers("out"), "answer");
    assert!(answers[0].as_deref().unwrap().starts_with("<|0."), "{answers:?}");
    for (name, answer) in ["beeps-2.5s", "glide-2s"].iter().zip(&answers) {
        let read = |extension: &str| {
            fs::read_to_string(place.path(&format!("sounds/{name}.{extension}"))).unwrap()
        };
        let plain = read("txt");
        assert!(!plain.contains("<|") && !plain.trim().is_empty(), "{plain}");
        assert!(answer.as_deref().unwrap().contains(plain.split_whitespace().next().unwrap()));
        let srt = read("srt");
        assert!(srt.starts_with("1\n00:00:0") && srt.contains(" --> "), "{srt}");
        assert!(read("vtt").starts_with("WEBVTT\n\n00:00:0"));
        let shown: String = srt.lines().filter(|line| !line.contains("-->")).collect();
        assert!(shown.contains(plain.split_whitespace().next().unwrap()), "{srt}");
    }
    // Without subtitles, the answers have no timestamps.
    let told = run(&place, &common).expect(0);
    assert!(!told.stdout.contains("<|") && pairs(&told.stdout).len() == 2, "{}", told.stdout);
}

#[test]
fn embeddings_are_printed_and_written() {
    let place = Workplace::new();
    place.write("t.csv", "id,title\n1,one\n2,two\n");
    let model = bundle("minilm").display().to_string();
    let told = run(&place, &["embed", "t.csv", "--model", &model]).expect(0);
    let printed = pairs(&told.stdout);
    let vector: Vec<f32> = serde_json::from_str(&printed[0].1).unwrap();
    assert!(printed.len() == 2 && vector.len() > 8);
    let args = ["embed", "t.csv", "--model", &model, "-o", "e.jsonl", "--prompt", "{{ title }}"];
    let _told = run(&place, &args).expect(0);
    let text = fs::read_to_string(place.path("e.jsonl")).unwrap();
    let object: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(object["embedding"].as_array().map(Vec::len), Some(vector.len()));
}

#[test]
fn a_saved_job_in_another_folder_names_its_input() {
    let place = Workplace::new();
    photos(&place, 2);
    fs::create_dir(place.path("jobs")).unwrap();
    let args = [
        "caption",
        "photos",
        "-o",
        "c.csv",
        "--save-job",
        "jobs/j.toml",
        "--set",
        "limits.memory=1 GiB",
    ];
    let _saved = run(&place, &args).expect(0);
    let text = fs::read_to_string(place.path("jobs/j.toml")).unwrap();
    let job: toml::Table = text.parse().unwrap();
    assert!(Path::new(job["source"]["paths"][0].as_str().unwrap()).is_absolute(), "{text}");
    assert_eq!(job["output"]["format"].as_str(), Some("csv"));
    assert!(text.contains("memory = "), "{text}");
    let _ran = place.run(&["run", "jobs/j.toml"]).expect(0);
    assert!(place.path("jobs/c").is_dir());
    assert!(!place.path("runs").try_exists().unwrap());
}
