//! Encoder-decoder models, run by the real binary: translation, captioning and transcription match
//! the references.

use std::{fs, io::Write, path::Path, sync::Arc};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use legenda_tests::{
    IMAGE_JOB, TEXT_JOB, Workplace,
    references::{REFERENCE_LENGTH, ask, media, rows, rows_under, with_bundle},
    repository, text_column, write_table,
};
use serde_json::Value;

const AUDIO_JOB: &str = r#"
version = 1
[source]
paths = ["table.parquet"]
columns = { id = "id", audio = "audio" }
[output]
path = "out"
span_rows = 4
[task]
kind = "transcribe"
"#;

/// Returns a job with a bundle, with answers as long as the reference's.
fn job_of(job: &str, name: &str) -> String {
    format!("{}{REFERENCE_LENGTH}", with_bundle(job, name))
}

/// Returns a table of the texts or files that rows of a reference name.
fn table(rows: &[Value], key: &str, column: &str) -> RecordBatch {
    let cells = rows.iter().map(|row| row[key].as_str().unwrap());
    let cells: ArrayRef = if key == "text" {
        Arc::new(StringArray::from_iter_values(cells))
    } else {
        Arc::new(BinaryArray::from_iter_values(cells.map(media)))
    };
    let ids = StringArray::from_iter_values((0..rows.len()).map(|row| format!("row-{row}")));
    RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), (column, cells)]).unwrap()
}

/// Runs a job over rows of a reference and compares the answers.
fn assert_answers(job: &str, name: &str, rows: &[Value], table: &RecordBatch) {
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), table, 4);
    place.write("job.toml", &job_of(job, name));
    let ended = place.run(&["run", "job.toml", "--set", "model.slots=3"]).expect(0);
    assert!(ended.stderr.contains(name), "the model is named: {}", ended.stderr);
    let answers = text_column(&place.answers("out"), "answer");
    // transformers keeps the leading space of a transcript.
    let is_transcript = job.contains("kind = \"transcribe\"");
    let expected = rows.iter().map(|row| {
        let text = row["answer"].as_str()?;
        Some(if is_transcript { text.trim_start() } else { text }.to_owned())
    });
    assert_eq!(answers, expected.collect::<Vec<_>>(), "{name}");
}

#[test]
fn a_text_column_is_translated() {
    let rows = rows("marian", |_| true);
    assert_answers(TEXT_JOB, "marian", &rows, &table(&rows, "text", "question"));
}

#[test]
fn images_are_captioned_without_a_prompt() {
    let rows = rows("vit_gpt2", |_| true);
    assert_answers(IMAGE_JOB, "vit_gpt2", &rows, &table(&rows, "image", "image"));
}

#[test]
fn a_text_is_translated_to_the_target_language_of_the_job() {
    let rows = rows("nllb", |row| row["language"] == "deu_Latn");
    let languages = "language = \"deu_Latn\"\ntarget_language = \"fra_Latn\"\n[source]";
    let job = TEXT_JOB.replacen("[source]", languages, 1);
    assert_answers(&job, "nllb", &rows, &table(&rows, "text", "question"));
}

#[test]
fn the_prompt_selects_the_task_of_document_models() {
    let rows = rows("donut", |row| row["prompt"] == "<s_receipt>");
    let job = IMAGE_JOB.replacen("[source]", "prompt = \"<s_receipt>\"\n[source]", 1);
    assert_answers(&job, "donut", &rows, &table(&rows, "image", "image"));
}

#[test]
fn audio_is_transcribed_in_its_language() {
    let rows = rows("whisper", |row| row["language"] == "de");
    let job = format!("{AUDIO_JOB}language = \"German\"\n");
    assert_answers(&job, "whisper", &rows, &table(&rows, "audio", "audio"));
}

/// Published models start a transcript with a space; the tiny model does too once two of its tokens
/// are swapped.
#[test]
fn a_transcript_has_no_leading_space() {
    // Byte 25 and the space, as encoded by byte-level BPE.
    let (byte, space) = ("\u{119}", "\u{120}");
    let rows = rows("whisper", |row| row["language"] == "de");
    let begin = rows.iter().filter(|row| row["answer"].as_str().unwrap().starts_with('\u{19}'));
    assert!(begin.count() > 0, "expected transcripts with a leading space");
    let place = Workplace::new();
    copy_folder(&repository().join("tests/references/bundles/whisper"), &place.path("bundle"));
    for file in ["tokenizer.json", "vocab.json"] {
        let path = place.path("bundle").join(file);
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let mut tokens: Value = serde_json::from_str(&text).unwrap();
        let vocab = if file == "vocab.json" { &mut tokens } else { &mut tokens["model"]["vocab"] };
        let ids = [vocab[byte].take(), vocab[space].take()];
        assert!(ids.iter().all(Value::is_number), "expected both tokens in the vocabulary");
        [vocab[space], vocab[byte]] = ids;
        fs::File::create(&path).unwrap().write_all(tokens.to_string().as_bytes()).unwrap();
    }
    write_table(&place.path("table.parquet"), &table(&rows, "audio", "audio"), 4);
    let job = format!(
        "{AUDIO_JOB}language = \"German\"\n[model]\nbundle = \"bundle\"\n{REFERENCE_LENGTH}"
    );
    place.write("job.toml", &job);
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stdout.contains("rejects 0"), "{}", ended.stdout);
    let answers = text_column(&place.answers("out"), "answer");
    for (answer, row) in answers.into_iter().zip(&rows) {
        let swap = |c| match c {
            ' ' => '\u{19}',
            '\u{19}' => ' ',
            c => c,
        };
        let expected: String = row["answer"].as_str().unwrap().chars().map(swap).collect();
        assert_eq!(answer.as_deref(), Some(expected.trim_start()));
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn timestamps_are_written_on_request() {
    let rows = rows("whisper", |row| row["return_timestamps"] == true);
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &table(&rows, "audio", "audio"), 4);
    let job = format!("{AUDIO_JOB}language = \"en\"\ntimestamps = true\n");
    place.write("job.toml", &job_of(&job, "whisper"));
    let ended = place.run(&["run", "job.toml"]).expect(0);
    assert!(ended.stderr.contains("whisper"), "{}", ended.stderr);
    let answers = text_column(&place.answers("out"), "answer");
    for (answer, row) in answers.into_iter().zip(&rows) {
        let answer = answer.unwrap();
        let (mut text, mut times) = (String::new(), Vec::new());
        for (idx, part) in answer.split("<|").enumerate() {
            let (time, after) = if idx == 0 { ("", part) } else { part.split_once("|>").unwrap() };
            text.push_str(after);
            times.extend(time.parse::<f64>().ok());
        }
        assert_eq!(text, row["answer"].as_str().unwrap(), "the text between the timestamps");
        // The first timestamp token of the tiny vocabulary is 330, and the step is 20 ms.
        let ids = row["token_ids"].as_array().unwrap().iter().filter_map(Value::as_i64);
        let expected: Vec<String> = ids
            .filter(|id| *id >= 330)
            .map(|id| format!("{:.2}", 0.02 * (id - 330) as f64))
            .collect();
        let times: Vec<String> = times.iter().map(|time| format!("{time:.2}")).collect();
        assert_eq!(times, expected, "{answer}");
        assert!(!times.is_empty());
    }
}

/// Concatenates 16-bit mono WAV files of the same sample rate.
fn concatenated_audio(names: &[&str]) -> Vec<u8> {
    let clips = names.iter().map(|name| media(name));
    let mut joined = Vec::new();
    for clip in clips {
        joined.extend_from_slice(&clip[if joined.is_empty() { 0 } else { 44 }..]);
    }
    let n_bytes = u32::try_from(joined.len()).unwrap();
    joined[4..8].copy_from_slice(&(n_bytes - 8).to_le_bytes());
    joined[40..44].copy_from_slice(&(n_bytes - 44).to_le_bytes());
    joined
}

#[test]
fn audio_longer_than_the_model_window_is_transcribed_completely() {
    let rows = rows_under("long_rows", "whisper", |row| row["return_timestamps"] == false);
    let clips = rows.iter().map(|row| {
        let names: Vec<&str> =
            row["audio"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        concatenated_audio(&names)
    });
    let ids = StringArray::from_iter_values((0..rows.len()).map(|row| format!("row-{row}")));
    let cells: ArrayRef = Arc::new(BinaryArray::from_iter_values(clips));
    let table =
        RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("audio", cells)]).unwrap();
    let job = format!("{AUDIO_JOB}language = \"en\"\n");
    assert_answers(&job, "whisper", &rows, &table);
}

/// Returns a job of `whisper_sequential.json`, whose rows have several files each.
fn sequential(name: &str) -> Value {
    let path = repository().join("tests/references/whisper_sequential.json");
    let reference: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let jobs = reference["jobs"].as_array().unwrap();
    jobs.iter().find(|job| job["name"] == name).unwrap().clone()
}

#[test]
fn sequential_windows_start_where_the_previous_one_ended() {
    for (name, keys) in [("plain", "false"), ("conditioned", "true")] {
        let reference = sequential(name);
        let rows = reference["rows"].as_array().unwrap();
        let mut clips: Vec<Vec<u8>> = Vec::new();
        let mut expected = Vec::new();
        for row in rows {
            let names: Vec<&str> =
                row["audio"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            clips.push(concatenated_audio(&names));
            let time = |time: &Value| format!("<|{:.2}|>", time.as_f64().unwrap());
            let segments = row["segments"].as_array().unwrap().iter();
            let written = segments.map(|segment| {
                let text = segment[2].as_str().unwrap();
                format!("{}{text}{}", time(&segment[0]), time(&segment[1]))
            });
            expected.push(Some(written.collect::<String>()));
        }
        // A broken file costs only its own row.
        clips.insert(2, b"no sound at all".to_vec());
        let ids = StringArray::from_iter_values((0..clips.len()).map(|row| format!("row-{row}")));
        let cells: ArrayRef = Arc::new(BinaryArray::from_iter_values(&clips));
        let table =
            RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("audio", cells)]);
        let language = reference["language"].as_str();
        let language = language.map_or(String::new(), |code| format!("language = \"{code}\"\n"));
        let job = format!(
            "{AUDIO_JOB}timestamps = true\nlong_audio = \"sequential\"\n{language}\
             [generation]\nmax_new_tokens = 40\ncondition_on_prev_tokens = {keys}\n"
        );
        let place = Workplace::new();
        write_table(&place.path("table.parquet"), &table.unwrap(), 4);
        place.write("job.toml", &with_bundle(&job, "whisper"));
        for slots in ["1", "3"] {
            let slots = format!("model.slots={slots}");
            let args = ["run", "job.toml", "--overwrite", "--set", &slots];
            let ended = place.run(&args).expect(0);
            let counts = format!("rows_in {} == answers {} + rejects 1", clips.len(), rows.len());
            assert!(ended.stdout.contains(&counts), "{}", ended.stdout);
            let answers = text_column(&place.answers("out"), "answer");
            assert_eq!(answers, expected, "{name}, {slots}");
        }
    }
}

#[test]
fn region_tasks_return_locations_in_images() {
    let rows = rows("florence2", |_| true);
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let mut prompts: Vec<String> = rows.iter().map(|row| text(row, "prompt")).collect();
    let mut files: Vec<Option<Vec<u8>>> =
        rows.iter().map(|row| Some(media(row["image"].as_str().unwrap()))).collect();
    prompts.push("<OD> on the left".to_owned());
    files.push(files[0].clone());
    let place = Workplace::new();
    let ended = ask(&place, "florence2", "caption", prompts, vec![("image", files)]).expect(0);
    let counts = format!("rows_in {} == answers {} + rejects 1", rows.len() + 1, rows.len());
    assert!(ended.stdout.contains(&counts), "{}", ended.stdout);
    let expected: Vec<Option<String>> = rows.iter().map(|row| Some(text(row, "answer"))).collect();
    assert_eq!(text_column(&place.answers("out"), "answer"), expected);
    let rejects = place.rejects("out");
    assert_eq!(text_column(&rejects, "legenda_code"), [Some("task_not_alone".to_owned())]);
}

#[test]
fn a_caption_without_a_prompt_uses_the_default_task_of_the_model() {
    let rows = rows("florence2", |row| row["prompt"] == "<CAPTION>");
    assert_answers(IMAGE_JOB, "florence2", &rows, &table(&rows, "image", "image"));
}

#[test]
fn unsupported_tasks_are_reported_before_a_row_is_read() {
    let rows = rows("moonshine", |_| true);
    let place = Workplace::new();
    write_table(&place.path("table.parquet"), &table(&rows, "audio", "audio"), 4);
    place.write("job.toml", &job_of(AUDIO_JOB, "moonshine"));
    let check = |set: &str| place.run(&["check", "job.toml", "--set", set]).expect(2);
    check("task.language=de").stderr_contains(&["`task.language` = `de` is not supported"]);
    check("task.kind=generate").stderr_contains(&["source.columns.text"]);
    check("task.long_audio=sequential").stderr_contains(&["`task.long_audio` = `sequential`"]);
    place.write("job.toml", &job_of(AUDIO_JOB, "whisper"));
    check("task.language=xx").stderr_contains(&["supported: de, en, fr, ru, zh"]);
    let ended = place.run(&["check", "job.toml", "--set", "task.language=fr"]).expect(0);
    assert!(ended.stdout.contains("WhisperForConditionalGeneration"), "{}", ended.stdout);
}
