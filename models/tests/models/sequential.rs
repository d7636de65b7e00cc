//! Sequential long-form transcription, in which each window starts where the previous one ended,
//! compared token for token with Whisper's own loop in Hugging Face transformers, with 1, 3 and 8
//! slots.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    time::Instant,
};

use crate::references::{self, Tally, bundle, ids, load, read_joined_audio, with_json};
use legenda_models::{
    Bundle, BundleSource, Generation, Model, ModelError, ModelOptions, Record, Runtime,
    RuntimeOptions, SequentialAudio, SpeechOptions, Waveform, Work,
};
use legenda_schemas::job::{GenerationOptions, LongAudio};
use serde_json::Value;

fn reference() -> Value {
    let path = references::references().join("whisper_sequential.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn options(job: &Value) -> ModelOptions {
    let temperatures = job["fallback_temperatures"].as_array().unwrap().iter();
    #[expect(clippy::cast_possible_truncation, reason = "temperatures are f32")]
    let fallback_temperatures = temperatures.map(|t| t.as_f64().unwrap() as f32).collect();
    ModelOptions {
        speech: SpeechOptions {
            language: job["language"].as_str().map(str::to_owned),
            timestamps: true,
            long_audio: LongAudio::Sequential,
            ..SpeechOptions::default()
        },
        generation: GenerationOptions {
            max_new_tokens: Some(40),
            condition_on_prev_tokens: job["condition_on_prev_tokens"].as_bool(),
            compression_ratio_threshold: job["compression_ratio_threshold"].as_f64(),
            logprob_threshold: job["logprob_threshold"].as_f64(),
            no_speech_threshold: job["no_speech_threshold"].as_f64(),
            num_beams: job["num_beams"].as_u64().map(|n| usize::try_from(n).unwrap()),
            fallback_temperatures,
            ..GenerationOptions::default()
        },
        ..ModelOptions::default()
    }
}

fn waveform(row: &Value) -> Waveform {
    let names: Vec<&str> =
        row["audio"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
    read_joined_audio(&names)
}

/// An audio input in progress.
struct Transcription {
    sequential: SequentialAudio,
    seed: u64,
    n_windows: u64,
}

/// Transcribes all audio inputs concurrently and returns each answer with its number of windows.
fn transcribe(model: &mut Model, rows: &[(Waveform, u64)]) -> Vec<(Generation, u64)> {
    let mut transcriptions: BTreeMap<usize, Transcription> = BTreeMap::new();
    for (row_idx, (audio, seed)) in rows.iter().enumerate() {
        let record = Record { audios: vec![audio.clone()], ..Record::default() };
        let Work::Sequential(sequential) = model.processor.begin(record).unwrap() else {
            panic!("row {row_idx} is not transcribed sequentially");
        };
        transcriptions.insert(row_idx, Transcription { sequential, seed: *seed, n_windows: 0 });
    }
    let mut waiting: VecDeque<usize> = (0..rows.len()).collect();
    let mut answers = BTreeMap::new();
    while answers.len() < rows.len() {
        while model.engine.free_slots() > 0 {
            let Some(row_idx) = waiting.pop_front() else { break };
            let transcription = transcriptions.get_mut(&row_idx).unwrap();
            let Some(window) = transcription.sequential.window() else {
                let Transcription { sequential, n_windows, .. } =
                    transcriptions.remove(&row_idx).unwrap();
                answers.insert(row_idx, (sequential.answer(), n_windows));
                continue;
            };
            let prompt = model.encoder.encode(vec![window]).remove(0).unwrap();
            let seed = transcription.seed + transcription.n_windows;
            transcription.n_windows += 1;
            model.engine.admit(row_idx as u64, prompt, seed).unwrap();
        }
        for finished in model.engine.step() {
            let row_idx = usize::try_from(finished.ticket).unwrap();
            transcriptions.get_mut(&row_idx).unwrap().sequential.take(finished.result.unwrap());
            waiting.push_back(row_idx);
        }
    }
    answers.into_values().collect()
}

fn assert_answers(job: &Value) {
    let name = job["name"].as_str().unwrap();
    let rows = job["rows"].as_array().unwrap();
    assert!(rows.len() >= 8, "{name}: too few rows for a comparison");
    let inputs: Vec<(Waveform, u64)> =
        rows.iter().map(|row| (waveform(row), row["seed"].as_u64().unwrap())).collect();
    for slots in [1, 3, 8] {
        let mut model = load(bundle("whisper"), slots, options(job));
        assert!(model.processor.is_sequential());
        let start = Instant::now();
        let answers = transcribe(&mut model, &inputs);
        let took = start.elapsed();
        for (row_idx, ((answer, n_windows), row)) in answers.iter().zip(rows).enumerate() {
            let context = format!("{name}, row {row_idx}, {slots} slots");
            assert_eq!(answer.token_ids, ids(&row["token_ids"]), "{context}");
            assert_eq!(*n_windows, row["windows"].as_u64().unwrap(), "{context}");
            let time = |time: &Value| format!("<|{:.2}|>", time.as_f64().unwrap());
            let segments = row["segments"].as_array().unwrap().iter();
            let expected: String = segments
                .map(|segment| {
                    let text = segment[2].as_str().unwrap();
                    format!("{}{text}{}", time(&segment[0]), time(&segment[1]))
                })
                .collect();
            assert_eq!(answer.text, expected, "{context}");
        }
        if slots == 8 {
            let mut tally = Tally::default();
            let n_tokens = answers.iter().map(|(answer, _)| answer.token_ids.len()).sum();
            tally.add(answers.len(), n_tokens, took);
            tally.note(&format!("whisper sequential {name}"), &bundle("whisper"), "tokens");
        }
    }
}

fn job(name: &str) -> Value {
    let reference = reference();
    let jobs = reference["jobs"].as_array().unwrap();
    jobs.iter().find(|job| job["name"] == name).unwrap().clone()
}

#[test]
fn a_window_starts_where_the_previous_one_ended() {
    assert_answers(&job("plain"));
}

#[test]
fn previous_text_is_part_of_the_prompt() {
    assert_answers(&job("conditioned"));
}

#[test]
fn a_poor_transcript_is_retried_at_higher_temperatures() {
    let job = job("fallback");
    let count = |key: &str| -> u64 {
        let rows = job["rows"].as_array().unwrap().iter();
        rows.map(|row| row[key].as_u64().unwrap()).sum()
    };
    assert!(count("tries") > count("windows"), "nothing was retried");
    assert_answers(&job);
}

#[test]
fn windows_are_searched_with_beams() {
    assert_answers(&job("beams"));
}

#[test]
fn after_a_sampled_window_decoding_continues_without_beams() {
    let job = job("beams_fallback");
    assert_answers(&job);
    // The result differs from beam search in every window.
    let alone = &job["rows"][1];
    let mut searched = job.clone();
    searched["fallback_temperatures"] = Value::Array(Vec::new());
    let mut model = load(bundle("whisper"), 1, options(&searched));
    let answers = transcribe(&mut model, &[(waveform(alone), alone["seed"].as_u64().unwrap())]);
    assert_ne!(answers[0].0.token_ids, ids(&alone["token_ids"]));
}

#[test]
fn a_silent_window_has_no_text() {
    let job = job("silence");
    let silent = job["rows"].as_array().unwrap().iter().map(|row| row["silent"].as_u64().unwrap());
    assert!(silent.sum::<u64>() > 0, "no window is silent");
    assert_answers(&job);
}

/// An English-only model's answers start with one token, and transformers reads the no-speech
/// probability where that token is already suppressed (`WhisperNoSpeechDetection` comes after
/// `SuppressTokensLogitsProcessor`).
#[test]
fn an_english_model_detects_silence_only_if_its_token_is_allowed() {
    let no_speech_id = 328;
    let n_tokens = |suppresses: bool| {
        let folder = with_json("whisper", "generation_config.json", |config| {
            config["is_multilingual"] = false.into();
            let ids = config["suppress_tokens"].as_array_mut().unwrap();
            assert!(ids.iter().any(|id| *id == no_speech_id), "the published config suppresses it");
            ids.retain(|id| suppresses || *id != no_speech_id);
        });
        let mut options = options(&job("plain"));
        options.speech.language = None;
        options.generation.logprob_threshold = Some(0.0);
        options.generation.no_speech_threshold = Some(0.0);
        let audio = waveform(&job("plain")["rows"][0]);
        let mut model = load(folder.path().to_owned(), 1, options);
        transcribe(&mut model, &[(audio, 0)]).remove(0).0.token_ids.len()
    };
    assert!(n_tokens(true) > 0, "its probability is 0");
    assert_eq!(n_tokens(false), 0, "every window is silent");
}

#[test]
fn without_timestamps_the_answer_is_only_text() {
    let job = job("plain");
    let mut options = options(&job);
    options.speech.timestamps = false;
    let row = &job["rows"][1];
    let mut model = load(bundle("whisper"), 1, options);
    let answers = transcribe(&mut model, &[(waveform(row), 0)]);
    assert_eq!(answers[0].0.token_ids, ids(&row["token_ids"]));
    assert_eq!(answers[0].0.text, row["answer"].as_str().unwrap());
}

#[test]
fn thresholds_can_be_set_in_the_generation_config() {
    let job = job("silence");
    let folder = with_json("whisper", "generation_config.json", |config| {
        for key in ["logprob_threshold", "no_speech_threshold"] {
            config[key] = job[key].clone();
        }
    });
    let mut options = options(&job);
    options.generation.logprob_threshold = None;
    options.generation.no_speech_threshold = None;
    let row = &job["rows"][0];
    let mut model = load(folder.path().to_owned(), 1, options);
    let answers = transcribe(&mut model, &[(waveform(row), row["seed"].as_u64().unwrap())]);
    assert_eq!(answers[0].0.token_ids, ids(&row["token_ids"]));
}

#[test]
fn contradictory_options_are_rejected() {
    let runtime = Runtime::open(&RuntimeOptions::from_env(), &|_| {}).unwrap();
    let load = |name: &str, change: &dyn Fn(&mut ModelOptions)| -> ModelError {
        let bundle = Bundle::open(&BundleSource::Directory(bundle(name))).unwrap();
        let mut options = options(&job("plain"));
        change(&mut options);
        Model::load(&runtime, &bundle, &options).unwrap_err()
    };
    let error = load("whisper", &|options| options.generation.no_speech_threshold = Some(0.6));
    assert!(error.to_string().contains("`generation.logprob_threshold`"), "{error}");
    let error = load("moonshine", &|options| {
        options.speech.language = None;
        options.speech.timestamps = false;
    });
    assert!(error.to_string().contains("`task.long_audio` = `sequential`"), "{error}");
}
