//! Answers of encoder-decoders, compared token for token with Hugging Face transformers: text,
//! image and audio input, with 1, 3 and 8 slots.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Instant};

use crate::references::{
    self, Tally, answers, assert_answer, bundle, changed, encode, ids, load, read_audio,
    read_image, read_joined_audio, reference, slots_of, with_json,
};
use legenda_models::{Bundle, BundleSource, Model, ModelOptions, Record, SpeechOptions, Work};
use legenda_schemas::job::{GraphForm, TaskKind};
use serde_json::Value;

fn record(row: &Value) -> Record {
    let text = |key: &str| row[key].as_str().map(str::to_owned);
    Record {
        // A model without text input gets none, regardless of the job's prompt.
        text: text("text").or(text("prompt")).or_else(|| Some("Describe it.".to_owned())),
        images: text("image").iter().map(|name| read_image(name)).collect(),
        audios: text("audio").iter().map(|name| read_audio(name)).collect(),
        ..Record::default()
    }
}

fn options(row: &Value) -> SpeechOptions {
    SpeechOptions {
        language: row["language"].as_str().map(str::to_owned),
        target_language: row["target_language"].as_str().map(str::to_owned),
        translate: row["task"] == "translate",
        timestamps: row["return_timestamps"] == true,
        ..SpeechOptions::default()
    }
}

/// Compares a bundle, or equivalent files, with its reference.
fn assert_answers(name: &str, bundle: PathBuf) {
    assert_answers_of(&[GraphForm::Published, GraphForm::Rewritten], name, bundle);
}

/// Compares a bundle in 8 bits with its reference. Rewritten graphs have other scales, so their answers
/// differ, but do not depend on the number of slots.
fn assert_answers_in_8_bits(name: &str) {
    assert_answers_of(&[GraphForm::Published], name, bundle(name));
    let rows = &reference(name)["rows"];
    let records: Vec<Record> = rows.as_array().unwrap().iter().map(record).collect();
    let answers_of = |slots| {
        let mut model = load(bundle(name), slots, ModelOptions::default());
        assert!(model.info.rewritings.contains(&"one int8 scale per token"), "{name}");
        assert_eq!(model.engine.slots(), slots, "{name}");
        let prompts = encode(&mut model, &records);
        let answers = answers(&mut model, prompts).into_iter().map(|answer| answer.token_ids);
        answers.collect::<Vec<_>>()
    };
    let alone = answers_of(1);
    assert_eq!(alone, answers_of(3), "{name}");
    assert_eq!(alone, answers_of(8), "{name}");
}

fn assert_answers_of(forms: &[GraphForm], name: &str, bundle: PathBuf) {
    let reference = reference(name);
    // Transcription options are set per job, so rows with different options are separate jobs.
    let mut jobs: BTreeMap<String, Vec<(usize, &Value)>> = BTreeMap::new();
    for (row_idx, row) in reference["rows"].as_array().unwrap().iter().enumerate() {
        jobs.entry(format!("{:?}", options(row))).or_default().push((row_idx, row));
    }
    for &graphs in forms {
        for slots in slots_of(graphs) {
            let mut tally = Tally::default();
            for rows in jobs.values() {
                let speech = options(rows[0].1);
                let options = ModelOptions { speech, graphs, ..ModelOptions::default() };
                assert_rows(name, &mut load(bundle.clone(), *slots, options), rows, &mut tally);
            }
            if *slots == 8 && bundle == references::bundle(name) {
                tally.note(name, &bundle, "tokens");
            }
        }
    }
}

fn assert_rows(name: &str, model: &mut Model, rows: &[(usize, &Value)], tally: &mut Tally) {
    let records: Vec<Record> = rows.iter().map(|(_, row)| record(row)).collect();
    for (record, (row_idx, row)) in records.iter().zip(rows) {
        if row["text"].is_string() {
            let sample = model.processor.prepare(record).unwrap();
            assert_eq!(sample.token_ids, ids(&row["prompt_ids"]), "{name}, text {row_idx}");
        }
    }
    let prompts = encode(model, &records);
    for (prompt, (row_idx, row)) in prompts.iter().zip(rows) {
        // A language that the model chooses itself is not in the prompt yet.
        if !row["text"].is_string() && prompt.choice().is_none() {
            assert_eq!(prompt.token_ids(), ids(&row["prompt_ids"]), "{name}, prompt {row_idx}");
        }
    }
    let slots = model.engine.slots();
    let start = Instant::now();
    let answers = answers(model, prompts);
    let n_tokens = answers.iter().map(|answer| answer.token_ids.len()).sum();
    tally.add(answers.len(), n_tokens, start.elapsed());
    for (answer, (row_idx, row)) in answers.iter().zip(rows) {
        let context = format!("{name}, row {row_idx}, {slots} slots");
        assert_answer(answer, row, &context);
        let n_decoder_tokens = if row["text"].is_string() { 1 } else { 0 };
        let n_prompt_tokens = ids(&row["prompt_ids"]).len() + n_decoder_tokens;
        assert_eq!(answer.n_prompt_tokens, n_prompt_tokens, "{context}");
        if row["return_timestamps"] != true {
            assert_eq!(answer.text, row["answer"].as_str().unwrap(), "{context}");
        }
    }
}

#[test]
fn t5_translates() {
    assert_answers("t5", bundle("t5"));
}

#[test]
fn t5_with_two_decoder_graphs() {
    let folder = changed("t5", |file, content| {
        (file != "onnx/decoder_model_merged.onnx").then_some(content)
    });
    assert_answers("t5", folder.path().to_owned());
}

#[test]
fn t5_in_8_bits_runs_rows_alone_unless_rewritten() {
    assert_answers_in_8_bits("t5_quantized");
}

#[test]
fn whisper_in_8_bits_runs_rows_alone_unless_rewritten() {
    assert_answers_in_8_bits("whisper_quantized");
}

#[test]
fn bart_summarizes() {
    assert_answers("bart", bundle("bart"));
}

#[test]
fn marian_translates() {
    assert_answers("marian", bundle("marian"));
}

#[test]
fn nllb_translates_between_named_languages() {
    assert_answers("nllb", bundle("nllb"));
    let open = |name| Bundle::open(&BundleSource::Directory(bundle(name))).unwrap();
    let to = |language: &str| SpeechOptions {
        target_language: Some(language.to_owned()),
        ..SpeechOptions::default()
    };
    open("nllb").supports_speech(&to("deu_Latn")).unwrap();
    let error = open("nllb").supports_speech(&to("klingon")).unwrap_err().to_string();
    assert!(error.contains("`task.target_language` = `klingon`"), "{error}");
    assert!(error.contains("deu_Latn"), "{error}");
    for name in ["t5", "whisper", "trocr", "llama"] {
        assert!(open(name).supports_speech(&to("deu_Latn")).is_err(), "{name}");
    }
}

#[test]
fn vit_gpt2_without_a_cross_attention_cache() {
    assert_answers("vit_gpt2", bundle("vit_gpt2"));
}

#[test]
fn an_older_config_has_a_scalar_size() {
    let folder =
        with_json("vit_gpt2", "preprocessor_config.json", |config| config["size"] = 32.into());
    assert_answers("vit_gpt2", folder.path().to_owned());
}

#[test]
fn trocr_reads() {
    assert_answers("trocr", bundle("trocr"));
}

#[test]
fn blip_captions_and_continues_a_text() {
    assert_answers("blip", bundle("blip"));
    let opened = Bundle::open(&BundleSource::Directory(bundle("blip"))).unwrap();
    assert!(opened.supports(TaskKind::Caption).is_ok());
    for task in [TaskKind::Answer, TaskKind::Generate] {
        assert_eq!(opened.supports(task).unwrap_err().code(), "task_unsupported");
    }
    let model = load(bundle("blip"), 1, ModelOptions::default());
    let code = |record: Record| model.processor.prepare(&record).err().map(|error| error.code());
    let record = || Record { images: vec![read_image("tiny-7x5.png")], ..Record::default() };
    assert_eq!(code(record()), None);
    assert_eq!(code(Record { system: Some("Be brief.".to_owned()), ..record() }), Some("template"));
    assert_eq!(
        code(Record { text: Some("a".to_owned()), ..Record::default() }),
        Some("media_count")
    );
    // The name of a special token in a text is plain text.
    let marked = Record { text: Some("a [SEP] b".to_owned()), ..record() };
    let end = *ids(&reference("blip")["eos_token_ids"]).first().unwrap();
    assert!(!model.processor.prepare(&marked).unwrap().token_ids.contains(&end));
}

#[test]
fn donut_reads_the_fields_of_a_document() {
    assert_answers("donut", bundle("donut"));
}

#[test]
fn donut_requires_one_image_and_a_task() {
    let model = load(bundle("donut"), 1, ModelOptions::default());
    let page = Record { images: vec![read_image("checks-64x64.png")], ..Record::default() };
    let without_task = Record { text: Some("Describe the image.".to_owned()), ..page.clone() };
    let error = model.processor.prepare(&without_task).unwrap_err();
    assert_eq!(error.code(), "task_missing");
    assert!(error.to_string().contains("`<s_receipt>`"), "{error}");
    let unseen = Record { text: Some("<s_receipt>".to_owned()), ..Record::default() };
    assert_eq!(model.processor.prepare(&unseen).unwrap_err().code(), "media_count");
    // Without a text, the answer prefix comes from the config.
    assert!(model.processor.prepare(&page).unwrap().token_ids.is_empty());
}

#[test]
fn moonshine_transcribes_raw_samples() {
    assert_answers("moonshine", bundle("moonshine"));
}

#[test]
fn whisper_transcribes_and_translates_with_timestamps() {
    assert_answers("whisper", bundle("whisper"));
}

#[test]
fn whisper_with_an_encoder_that_returns_keys_and_values() {
    assert_answers("whisper_genai", bundle("whisper_genai"));
}

#[test]
fn transformers_configs_next_to_genai_graphs_are_used() {
    // They contain the suppressed tokens, unlike those of genai.
    for files in [&["generation_config.json"][..], &["generation_config.json", "config.json"]] {
        let folder = changed("whisper_genai", |_, content| Some(content));
        for file in files {
            fs::copy(bundle("whisper").join(file), folder.path().join(file)).unwrap();
        }
        assert_answers("whisper", folder.path().to_owned());
    }
}

#[test]
fn long_audio_is_transcribed_in_windows() {
    let reference = reference("whisper");
    for row in reference["long_rows"].as_array().unwrap() {
        let names: Vec<&str> =
            row["audio"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
        let audios = vec![read_joined_audio(&names)];
        let options = ModelOptions { speech: options(row), ..ModelOptions::default() };
        let mut model = load(bundle("whisper"), 3, options);
        let record = Record { audios, ..Record::default() };
        let Work::Chunks(parts) = model.processor.begin(record).unwrap() else {
            panic!("sequential transcription is not enabled");
        };
        let windows: Vec<Vec<i64>> = row["windows"].as_array().unwrap().iter().map(ids).collect();
        assert!(windows.len() > 1, "expected several windows");
        assert_eq!(parts.len(), windows.len());
        let prompts = encode(&mut model, &parts);
        let found = answers(&mut model, prompts);
        let found_ids: Vec<Vec<i64>> = found.iter().map(|found| found.token_ids.clone()).collect();
        assert_eq!(found_ids, windows);
        let whole = model.engine.join(found);
        assert_eq!(whole.token_ids, windows.concat());
        let time = |time: &Value| time.as_f64().map(|time| format!("<|{time:.2}|>"));
        let expected = match row["segments"].as_array() {
            None => row["answer"].as_str().unwrap().to_owned(),
            Some(segments) => segments
                .iter()
                .map(|segment| {
                    let [start, end] = [time(&segment[0]), time(&segment[1])];
                    let text = segment[2].as_str().unwrap();
                    format!("{}{text}{}", start.unwrap_or_default(), end.unwrap_or_default())
                })
                .collect(),
        };
        assert_eq!(whole.text, expected);
    }
}

#[test]
fn unsupported_transcription_options_are_rejected() {
    let open = |name| Bundle::open(&BundleSource::Directory(bundle(name))).unwrap();
    let german = SpeechOptions { language: Some("German".to_owned()), ..SpeechOptions::default() };
    open("whisper").supports_speech(&german).unwrap();
    let error = open("moonshine").supports_speech(&german).unwrap_err();
    assert!(error.to_string().starts_with("`task.language` = `German`"), "{error}");
    let klingon = SpeechOptions { language: Some("tlh".to_owned()), ..SpeechOptions::default() };
    let error = open("whisper").supports_speech(&klingon).unwrap_err();
    assert!(error.to_string().ends_with("supported: de, en, fr, ru, zh"), "{error}");
}
