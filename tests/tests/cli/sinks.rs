//! JSON Lines output, sidecars next to images, and OpenAI batch files.

use std::{collections::BTreeMap, fs, io::Write, path::Path};

use arrow::array::{AsArray, RecordBatch};
use base64::{Engine, prelude::BASE64_STANDARD};
use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace, image_table, png,
    references::{bundle, with_bundle},
    run_command, text_column, texts, write_table,
};
use serde_json::{Value, json};

fn put(path: &Path, bytes: &[u8]) {
    fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

/// Returns the objects of the files in a folder whose names start with `prefix`, in the order of
/// the names.
fn objects(dir: &Path, prefix: &str) -> Vec<Value> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix))
        .collect();
    paths.sort();
    let lines = paths.iter().flat_map(|path| {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>()
    });
    lines.collect()
}

fn cells(objects: &[Value], name: &str) -> Vec<Option<String>> {
    objects.iter().map(|object| object[name].as_str().map(str::to_owned)).collect()
}

#[test]
fn json_lines_output_has_the_rows_of_parquet_output() {
    let place = Workplace::new();
    let cells_in: Vec<_> =
        (0..9_u8).map(|row| Some(if row == 4 { b"junk".to_vec() } else { png(row * 9) })).collect();
    write_table(&place.path("table.parquet"), &image_table(&cells_in), 10);
    place.write("job.toml", IMAGE_JOB);
    let run = |format: &str| {
        let (format, path) = (format!("output.format={format}"), format!("output.path={format}"));
        let args = ["run", "job.toml", "--set", &format, "--set", &path, "--show", "9"];
        place.run(&args).expect(0)
    };
    let (parquet, jsonl) = (run("parquet"), run("jsonl"));
    // The table printed at the end is the same too.
    let shown = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.contains("row-")).map(str::to_owned).collect()
    };
    assert_eq!(shown(&parquet.stdout), shown(&jsonl.stdout));
    assert!(shown(&jsonl.stdout).len() > 5);
    let (answers, rejects) = (place.answers("parquet"), place.rejects("parquet"));
    let lines = objects(&place.path("jsonl"), "part-");
    assert_eq!(lines.len(), 8);
    for name in ["id", "answer", "legenda_status", "legenda_input_sha256"] {
        assert_eq!(cells(&lines, name), text_column(&answers, name));
    }
    let rejected = objects(&place.path("jsonl.legenda/rejects"), "rejects-");
    for name in ["id", "legenda_code", "legenda_message"] {
        assert_eq!(cells(&rejected, name), text_column(&rejects, name));
    }
    assert_eq!(cells(&rejected, "image"), [Some(BASE64_STANDARD.encode(b"junk"))]);
    // Columns keep their order.
    let mut part = fs::read_dir(place.path("jsonl")).unwrap().map(|entry| entry.unwrap().path());
    let part = part.find(|path| path.extension().is_some_and(|name| name == "jsonl"));
    let text = fs::read_to_string(part.unwrap()).unwrap();
    let (id, answer) = (text.find("\"id\"").unwrap(), text.find("\"answer\"").unwrap());
    assert!(id < answer && answer < text.find("\"legenda_status\"").unwrap());

    let told = place.run(&["verify", "jsonl"]).expect(0);
    assert!(told.stdout.contains("rows_in 9 == answers 8 + rejects 1"), "{}", told.stdout);
    let retried = place.run(&["retry", "jsonl"]).expect(0);
    assert!(retried.stdout.contains("answers 8 + rejects 1"), "{}", retried.stdout);
    assert!(place.run(&["verify", "jsonl"]).expect(0).stdout.contains("rejects 1"));
    // The output can be used as a source.
    place.write(
        "again.toml",
        &TEXT_JOB.replace("table.parquet", "jsonl/part-*.jsonl").replace("question", "answer"),
    );
    let args =
        ["run", "again.toml", "--set", "output.path=again", "--set", "output.columns=[\"id\"]"];
    let again = place.run(&args).expect(0);
    assert!(again.stdout.contains("rows_in 8"), "{}", again.stdout);
}

const SIDECAR_JOB: &str = r#"
version = 1
[task]
kind = "caption"
[source]
paths = ["pictures"]
columns = { image = "media" }
[output]
path = "out"
sidecars = { extension = "txt", mode = "append" }
"#;

/// Creates four images, one of them broken, and a sidecar of one of them.
fn captioned() -> Workplace {
    let place = Workplace::new();
    fs::create_dir(place.path("pictures")).unwrap();
    for row in 0..4_u8 {
        let bytes = if row == 3 { b"junk".to_vec() } else { png(row * 70) };
        put(&place.path(&format!("pictures/{row}.png")), &bytes);
    }
    place.write("pictures/0.txt", "by hand\n");
    place.write("job.toml", SIDECAR_JOB);
    place
}

/// Returns the files of the folder that are not images.
fn sidecars(place: &Workplace) -> BTreeMap<String, String> {
    let entries = fs::read_dir(place.path("pictures")).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|name| name != "png"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn answer_of(rows: &RecordBatch, name: &str) -> String {
    let names = text_column(rows, "file_name");
    let row = names.iter().position(|cell| cell.as_deref() == Some(name)).unwrap();
    rows.column_by_name("answer").unwrap().as_string::<i32>().value(row).to_owned()
}

#[test]
fn sidecars_contain_the_answers() {
    for (mode, joined) in [
        ("append", "by hand, {}\n"),
        ("prepend", "{}, by hand\n"),
        ("overwrite", "{}\n"),
        ("skip", "by hand\n"),
    ] {
        let place = captioned();
        let set = format!("output.sidecars.mode={mode}");
        let run = place.run(&["run", "job.toml", "--set", &set]).expect(0);
        assert!(run.stdout.contains("rows_in 4 == answers 3 + rejects 1"), "{}", run.stdout);
        let answers = place.answers("out");
        let expected = BTreeMap::from([
            ("0.txt".to_owned(), joined.replace("{}", &answer_of(&answers, "0.png"))),
            ("1.txt".to_owned(), format!("{}\n", answer_of(&answers, "1.png"))),
            ("2.txt".to_owned(), format!("{}\n", answer_of(&answers, "2.png"))),
        ]);
        assert_eq!(sidecars(&place), expected, "{mode}");
        // Running the job again adds nothing.
        for more in [&["--overwrite"][..], &[]] {
            let args = [&["run", "job.toml", "--set", &set][..], more].concat();
            assert!(place.run(&args).expect(0).stdout.contains("answers 3"));
            assert_eq!(sidecars(&place), expected, "{mode}");
        }
    }
}

#[test]
fn a_crash_anywhere_leaves_each_sidecar_with_one_answer() {
    let calm = captioned();
    assert!(calm.run(&["run", "job.toml"]).expect(0).stdout.contains("answers 3"));
    let expected = sidecars(&calm);
    let whole = std::env::var("LEGENDA_TORTURE").is_ok();
    let mut crashes = 0;
    for step in (1_usize..).step_by(if whole { 1 } else { 2 }) {
        let place = captioned();
        let mut command = place.command(&["run", "job.toml"]);
        let crashed = run_command(command.env("LEGENDA_CRASH_AT", step.to_string()));
        crashes += usize::from(crashed.code.is_none());
        let finished = place.run(&["run", "job.toml"]).expect(0);
        assert!(finished.stdout.contains("rows_in 4"), "{}", finished.stdout);
        assert_eq!(sidecars(&place), expected, "crash at step {step}");
        assert!(place.run(&["verify", "out"]).expect(0).stdout.contains("verified"));
        if crashed.code.is_some() {
            break;
        }
    }
    println!("{crashes} crashes");
    assert!(crashes > 10);
}

#[test]
fn files_that_cannot_have_sidecars_are_errors() {
    let place = captioned();
    put(&place.path("pictures/0.jpg"), &png(1));
    let run = place.run(&["run", "job.toml"]).expect(2);
    run.stderr_contains(&["output.sidecars", "0.jpg", "0.png", "would share", "0.txt"]);
    write_table(&place.path("table.parquet"), &image_table(&[Some(png(1))]), 4);
    let sidecars = "output.sidecars={ extension = \"txt\", mode = \"skip\" }";
    place.write("table.toml", IMAGE_JOB);
    let run = place.run(&["run", "table.toml", "--set", sidecars]).expect(2);
    run.stderr_contains(&["output.sidecars", "is a table, not an image"]);
}

fn request(id: &str, url: &str, body: Value) -> String {
    json!({"custom_id": id, "method": "POST", "url": url, "body": body}).to_string()
}

fn chat(id: &str, content: Value, more: Value) -> String {
    let mut body = json!({"model": "any", "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": content},
    ]});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    request(id, "/v1/chat/completions", body)
}

fn responses(place: &Workplace, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(place.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_batch_file_is_answered_line_by_line() {
    let place = Workplace::new();
    let question = "What is dog in German?";
    let image = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png(9)));
    let shown = json!([
        {"type": "text", "text": "Describe the picture."},
        {"type": "image_url", "image_url": {"url": image}},
    ]);
    let mut lines = vec![
        chat("text", json!(question), json!({"max_tokens": 20})),
        "no json".to_owned(),
        chat("tools", json!(question), json!({"tools": [{"type": "function"}]})),
        request("completion", "/v1/completions", json!({"prompt": question, "max_tokens": 20})),
        chat("again", json!(question), json!({"max_tokens": 20})),
        chat(
            "far",
            json!([{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]),
            json!({}),
        ),
    ];
    // A query separates the groups.
    if cfg!(feature = "sql") {
        lines.push(chat("picture", shown, json!({"max_completion_tokens": 20})));
    } else {
        lines.retain(|line| !line.contains("/v1/completions"));
    }
    place.write("in.jsonl", &lines.join("\n"));
    let args = ["batch", "in.jsonl", "--model", "legenda-tiny", "--out", "out.jsonl"];
    let run = place.run(&args).expect(0);
    assert!(run.stdout.contains(&format!("{} responses in out.jsonl", lines.len())));
    let told = responses(&place, "out.jsonl");
    assert_eq!(told.len(), lines.len());
    let of = |id: &str| told.iter().find(|told| told["custom_id"] == id).unwrap();
    let content = |id: &str| &of(id)["response"]["body"]["choices"][0]["message"]["content"];
    // The answer equals that of a job with the same prompt.
    place.write(
        "job.toml",
        &TEXT_JOB.replace("kind = \"generate\"", "kind = \"generate\"\nsystem = \"Be short.\""),
    );
    write_table(&place.path("table.parquet"), &texts(&[question]), 4);
    let args_of_job = ["run", "job.toml", "--set", "generation.max_new_tokens=20"];
    assert!(place.run(&args_of_job).expect(0).stdout.contains("answers 1"));
    let answer = text_column(&place.answers("out"), "answer")[0].clone().unwrap();
    assert_eq!(content("text"), &json!(answer));
    assert_eq!(content("again"), &json!(answer));
    assert_eq!(of("text")["response"]["status_code"], 200);
    assert_eq!(of("text")["error"], Value::Null);
    assert_eq!(of("text")["response"]["body"]["object"], "chat.completion");
    let usage = &of("text")["response"]["body"]["usage"];
    assert!(usage["prompt_tokens"].as_u64().unwrap() > 0);
    let errors = [("tools", "`tools`"), ("far", "not fetched")];
    for (id, problem) in errors {
        let message = of(id)["error"]["message"].as_str().unwrap();
        assert!(message.contains(problem), "{message}");
        assert_eq!(of(id)["response"]["status_code"], 400);
    }
    assert_eq!(told[1]["custom_id"], Value::Null);
    assert!(
        told[1]["error"]["message"]
            .as_str()
            .unwrap()
            .starts_with("the line is not a valid request")
    );
    if cfg!(feature = "sql") {
        let choice = &of("completion")["response"]["body"]["choices"][0];
        assert!(choice["text"].as_str().is_some_and(|text| !text.is_empty()), "{choice}");
        assert!(content("picture").as_str().is_some_and(|text| !text.is_empty()));
    }
    // A second run processes no rows, and the responses differ only in their time.
    let again = place.run(&args).expect(0);
    assert!(again.stdout.contains("0 rows in"), "{}", again.stdout);
    let mut later = responses(&place, "out.jsonl");
    let mut told = told;
    for response in later.iter_mut().chain(&mut told) {
        if let Some(body) = response["response"]["body"].as_object_mut() {
            body.remove("created");
        }
    }
    assert_eq!(later, told);
}

/// The expected answers come from a job with the same conversation, which other tests compare with
/// the reference.
#[test]
fn a_batch_file_may_contain_conversations() {
    let said = |role: &str, content: &str| json!({"role": role, "content": content});
    let turns = [
        said("system", "Be short."),
        said("user", "Hello."),
        said("assistant", "Hello, who is it?"),
        said("user", "What is dog in German?"),
    ];
    let place = Workplace::new();
    let body = |messages: Value| json!({"messages": messages, "max_tokens": 20});
    let chat = |id: &str, messages: Value| request(id, "/v1/chat/completions", body(messages));
    let image = json!([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]);
    let shown = json!([{"role": "user", "content": image}, turns[2], turns[3]]);
    let lines = [
        chat("whole", json!(turns)),
        chat("alone", json!([turns[0], turns[3]])),
        chat("unasked", json!(turns[..3])),
        chat("shown", shown),
        chat("tool", json!([said("tool", "x"), turns[3]])),
    ];
    place.write("in.jsonl", &lines.join("\n"));
    let llama = bundle("llama");
    let args = ["batch", "in.jsonl", "--model", llama.to_str().unwrap(), "--out", "out.jsonl"];
    let _told = place.run(&args).expect(0);
    let told = responses(&place, "out.jsonl");
    let content = |row: usize| &told[row]["response"]["body"]["choices"][0]["message"]["content"];
    for (row, problem) in [(2, "not from the user"), (3, "last message"), (4, "`role`")] {
        let message = told[row]["error"]["message"].as_str().unwrap();
        assert!(message.contains(problem), "{message}");
    }

    // The same conversations as a table, whose cells are lists of structs or JSON.
    let cells = [json!(turns), json!([turns[0], turns[3]]), json!(turns[..3]), Value::Null];
    let lists = cells
        .iter()
        .enumerate()
        .map(|(row, cell)| json!({"id": format!("row-{row}"), "messages": cell}).to_string());
    place.write("lists.jsonl", &lists.collect::<Vec<_>>().join("\n"));
    let texts = cells.iter().enumerate().map(|(row, cell)| {
        let cell = if cell.is_null() { Value::Null } else { json!(cell.to_string()) };
        json!({"id": format!("row-{row}"), "messages": cell}).to_string()
    });
    place.write("texts.jsonl", &texts.collect::<Vec<_>>().join("\n"));
    for table in ["lists", "texts"] {
        let job = TEXT_JOB
            .replace("table.parquet", &format!("{table}.jsonl"))
            .replace("text = \"question\"", "messages = \"messages\"")
            .replace("\"out\"", &format!("\"{table}\""));
        let job = format!("{job}[generation]\nmax_new_tokens = 20\n");
        place.write("job.toml", &with_bundle(&job, "llama"));
        let run = place.run(&["run", "job.toml"]).expect(0);
        assert!(run.stdout.contains("rows_in 4 == answers 2 + rejects 2"), "{}", run.stdout);
        let answers = text_column(&place.answers(table), "answer");
        assert_eq!(
            [json!(answers[0]), json!(answers[1])],
            [content(0).clone(), content(1).clone()]
        );
        assert_ne!(answers[0], answers[1], "earlier turns have no effect");
        let codes = text_column(&place.rejects(table), "legenda_code");
        let expected = ["messages_invalid", "row_empty"].map(|code| Some(code.to_owned()));
        assert_eq!(codes, expected);
    }
    let both = ["check", "job.toml", "--set", "source.columns.text=id"];
    place.run(&both).expect(2).stderr_contains(&["`source.columns.messages`", "remove one"]);
    let other = ["check", "job.toml", "--set", "source.columns.messages=id"];
    assert!(place.run(&other).code == Some(0), "a JSON id was refused");
}

#[test]
fn a_batch_of_embeddings_is_answered() {
    let place = Workplace::new();
    let lines: Vec<String> = ["one", "two"]
        .iter()
        .map(|text| request(text, "/v1/embeddings", json!({"model": "any", "input": text})))
        .collect();
    place.write("in.jsonl", &lines.join("\n"));
    let bundle = legenda_tests::repository().join("tests/references/bundles/minilm");
    let bundle = bundle.to_string_lossy();
    let args = ["batch", "in.jsonl", "--model", &bundle, "--out", "out.jsonl"];
    assert!(place.run(&args).expect(0).stdout.contains("2 responses"));
    let told = responses(&place, "out.jsonl");
    let numbers = told[1]["response"]["body"]["data"][0]["embedding"].as_array().unwrap();
    assert!(numbers.len() > 8 && numbers.iter().all(Value::is_f64));
    assert_eq!(told[0]["custom_id"], "one");
}
