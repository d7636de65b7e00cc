//! Rows of wildly different size, answered in one run and one by one.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[expect(dead_code, reason = "each test file uses some of what they share")]
mod support;

use std::collections::BTreeMap;

use legenda_models::{Bundle, BundleSource, Generation, Model, ModelOptions, Prompt, Record};
use legenda_schemas::job::GenerationOptions;

const N_ROWS: usize = 200;

fn load(slots: usize) -> Model {
    let bundle = Bundle::open(&BundleSource::Embedded).unwrap();
    let options = ModelOptions {
        device: support::device(),
        slots: Some(slots),
        generation: GenerationOptions { max_new_tokens: Some(16), ..Default::default() },
        ..ModelOptions::default()
    };
    Model::load(&support::runtime(), &bundle, &options).unwrap()
}

/// A row's parts by its number: every seventh has everything, images are from one pixel to half a
/// million, sounds from a hundredth of a second to six, texts from one word to eighty.
fn record(row_idx: usize) -> Record {
    let words = ["what", "red", "two", "keys", "🐱", "left", "of", "Straße", "is", "there"];
    let n_words = 1 + row_idx * row_idx % 80;
    let text = (0..n_words).map(|i| words[(row_idx + i * i) % words.len()]).collect::<Vec<_>>();
    let mut record = Record { text: Some(text.join(" ")), ..Record::default() };
    if row_idx.is_multiple_of(7) || row_idx % 3 == 1 {
        let (width, height) = (1 + row_idx * 37 % 911, 1 + row_idx * 101 % 577);
        record.images.push(support::image(width, height, row_idx % 11));
    }
    if row_idx.is_multiple_of(7) || row_idx % 5 == 2 {
        let hundredths = u16::try_from(1 + row_idx * 53 % 599).unwrap();
        record.audios.push(support::sound(f32::from(hundredths) / 100.0, row_idx % 9));
    }
    record
}

/// Answers prompts as they fit in; one that is too long has an error instead.
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

#[test]
fn two_hundred_mixed_rows_are_answered_in_one_run_as_one_by_one() {
    let records: Vec<Record> = (0..N_ROWS).map(record).collect();
    let mut together = load(16);
    let samples = records.iter().map(|record| together.processor.prepare(record).unwrap());
    let samples = samples.collect();
    let prompts = together.encoder.encode(samples).into_iter().map(Result::unwrap).collect();
    let together = answer(&mut together, prompts);
    assert_eq!(together.len(), N_ROWS);
    assert!(together.values().filter(|answer| answer.is_ok()).count() > N_ROWS * 9 / 10);

    let mut alone = load(1);
    for (record, (row_idx, together)) in records.iter().zip(together) {
        let sample = alone.processor.prepare(record).unwrap();
        let prompt = alone.encoder.encode(vec![sample]).remove(0).unwrap();
        let alone = answer(&mut alone, vec![prompt]).remove(&0).unwrap();
        let (alone, together) = match (alone, together) {
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
