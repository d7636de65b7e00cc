//! Rows of very different size, answered in one run and one by one.

use std::{collections::BTreeMap, path::Path};

use legenda_models::{
    Bundle, BundleSource, Generation, Modalities, Model, ModelOptions, Prompt, Record,
};
use legenda_schemas::job::GenerationOptions;

const N_ROWS: usize = 200;

fn load(bundle: &Bundle, slots: usize) -> Model {
    let options = ModelOptions {
        device: crate::support::device(),
        slots: Some(slots),
        generation: GenerationOptions { max_new_tokens: Some(16), ..Default::default() },
        ..ModelOptions::default()
    };
    Model::load(&crate::support::runtime(), bundle, &options).unwrap()
}

/// Builds the record of a row, limited to the modalities that the model supports: every seventh row
/// has all of them, images have one pixel to half a million, audio lasts from 0.01 s to `longest`
/// hundredths of a second, and texts have one to eighty words.
fn record(row_idx: usize, reads: Modalities, longest: usize) -> Record {
    let words = ["what", "red", "two", "keys", "🐱", "left", "of", "Straße", "is", "there"];
    let n_words = 1 + row_idx * row_idx % 80;
    let text = (0..n_words).map(|i| words[(row_idx + i * i) % words.len()]).collect::<Vec<_>>();
    let mut record = Record { text: Some(text.join(" ")), ..Record::default() };
    if reads.image && (row_idx.is_multiple_of(7) || row_idx % 3 == 1) {
        let (width, height) = (1 + row_idx * 37 % 911, 1 + row_idx * 101 % 577);
        record.images.push(crate::support::image(width, height, row_idx % 11));
    }
    if reads.audio && (row_idx.is_multiple_of(7) || row_idx % 5 == 2) {
        let hundredths = u16::try_from(1 + row_idx * 53 % longest).unwrap();
        record.audios.push(crate::support::audio(f32::from(hundredths) / 100.0, row_idx % 9));
    }
    record
}

/// Answers prompts as slots become free; a prompt that is too long gets an error.
fn answer(model: &mut Model, prompts: Vec<Prompt>) -> BTreeMap<u64, Result<Generation, String>> {
    let mut waiting = (0..).zip(prompts).peekable();
    let mut answers = BTreeMap::new();
    while waiting.peek().is_some() || !model.engine.is_idle() {
        while model.engine.free_slots() > 0 {
            let Some((ticket, prompt)) = waiting.next() else { break };
            model.engine.admit(ticket, prompt, ticket).unwrap();
        }
        for finished in model.engine.step() {
            answers.insert(finished.ticket, finished.result.map_err(|error| error.to_string()));
        }
    }
    answers
}

/// Returns the answer to a single record.
fn answer_alone(model: &mut Model, record: &Record) -> Result<Generation, String> {
    let sample = model.processor.prepare(record).map_err(|error| error.to_string())?;
    let prompt = model.encoder.encode(vec![sample]).remove(0).map_err(|error| error.to_string())?;
    answer(model, vec![prompt]).remove(&0).unwrap()
}

fn assert_mixed(source: &BundleSource, longest: usize) {
    let bundle = Bundle::open(source).unwrap();
    let records: Vec<Record> =
        (0..N_ROWS).map(|row_idx| record(row_idx, bundle.modalities(), longest)).collect();
    let mut model = load(&bundle, 16);
    let mut together = vec![Err(String::new()); N_ROWS];
    let mut samples = Vec::new();
    let mut rows = Vec::new();
    for (row_idx, record) in records.iter().enumerate() {
        match model.processor.prepare(record) {
            Ok(sample) => {
                rows.push(row_idx);
                samples.push(sample);
            }
            Err(error) => together[row_idx] = Err(error.to_string()),
        }
    }
    let prompts = model.encoder.encode(samples).into_iter().map(Result::unwrap).collect();
    let answers = answer(&mut model, prompts);
    assert_eq!(answers.len(), rows.len());
    for (row_idx, answer) in rows.into_iter().zip(answers.into_values()) {
        together[row_idx] = answer;
    }
    let n_answered = together.iter().filter(|answer| answer.is_ok()).count();
    assert!(n_answered > N_ROWS * 9 / 10, "{n_answered} rows are answered");

    let mut model = load(&bundle, 1);
    for (row_idx, (record, together)) in records.iter().zip(together).enumerate() {
        let (alone, together) = match (answer_alone(&mut model, record), together) {
            (Ok(alone), Ok(together)) => (alone, together),
            (alone, together) => {
                assert_eq!(alone.err(), together.err(), "row {row_idx}");
                continue;
            }
        };
        assert_eq!(alone.token_ids, together.token_ids, "row {row_idx}");
        assert_eq!(alone.text, together.text, "row {row_idx}");
        let difference = (alone.logprob_mean - together.logprob_mean).abs();
        assert!(difference < 1e-4, "row {row_idx}: scores differ by {difference}");
    }
}

fn assert_published_mixed(name: &str, longest: usize) {
    let bundles = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/references/bundles");
    assert_mixed(&BundleSource::Directory(Path::new(bundles).join(name)), longest);
}

#[test]
fn two_hundred_mixed_rows_do_not_depend_on_batching() {
    assert_mixed(&BundleSource::Embedded, 599);
}

#[test]
fn equal_length_rows_do_not_depend_on_batching() {
    // This bundle fits 25 audio tokens of 16 frames each.
    assert_published_mixed("gemma3n", 400);
}

#[test]
fn image_crops_and_audio_do_not_depend_on_batching() {
    assert_published_mixed("phi4", 599);
}

#[test]
fn native_size_images_in_place_do_not_depend_on_batching() {
    assert_published_mixed("qwen2_5_vl_genai", 599);
}

#[test]
fn native_size_images_with_a_growing_cache_do_not_depend_on_batching() {
    assert_published_mixed("qwen2_5_vl", 599);
}

#[test]
fn image_tiles_do_not_depend_on_batching() {
    assert_published_mixed("smolvlm", 599);
}

#[test]
fn multiple_audio_clips_do_not_depend_on_batching() {
    assert_published_mixed("voxtral", 599);
}
