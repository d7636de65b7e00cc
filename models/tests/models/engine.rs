//! The engine with the embedded bundle: the answer of a row depends only on that row.

use std::collections::BTreeMap;

use legenda_models::{
    Bundle, BundleSource, Generation, Model, ModelOptions, Prompt, engine::FinishReason,
};
use legenda_schemas::job::GenerationOptions;

fn load(slots: usize, generation: GenerationOptions) -> Model {
    load_with(ModelOptions { slots: Some(slots), generation, ..Default::default() })
}

fn load_with(options: ModelOptions) -> Model {
    let bundle = Bundle::open(&BundleSource::Embedded).unwrap();
    let options = ModelOptions { device: crate::support::device(), ..options };
    Model::load(&crate::support::runtime(), &bundle, &options).unwrap()
}

fn prompts(model: &mut Model) -> Vec<Prompt> {
    let samples =
        crate::support::records().iter().map(|r| model.processor.prepare(r).unwrap()).collect();
    model.encoder.encode(samples).into_iter().map(Result::unwrap).collect()
}

/// Answers all prompts in the given order. Tickets are the indices of the prompts.
fn answer(model: &mut Model, order: &[usize]) -> BTreeMap<u64, Generation> {
    let prompts = prompts(model);
    let mut waiting = order.iter().peekable();
    let mut answers = BTreeMap::new();
    while waiting.peek().is_some() || !model.engine.is_idle() {
        while model.engine.free_slots() > 0 {
            let Some(&idx) = waiting.next() else { break };
            let ticket = u64::try_from(idx).unwrap();
            model.engine.admit(ticket, prompts[idx].clone(), ticket * 31).unwrap();
        }
        for finished in model.engine.step() {
            answers.insert(finished.ticket, finished.result.unwrap());
        }
    }
    assert_eq!(answers.len(), order.len());
    answers
}

#[test]
fn answers_do_not_depend_on_slots_or_order() {
    let samplings = [
        GenerationOptions { max_new_tokens: Some(24), ..Default::default() },
        GenerationOptions {
            max_new_tokens: Some(24),
            temperature: Some(1.0),
            ..Default::default()
        },
    ];
    for generation in samplings {
        let mut order: Vec<usize> = (0..crate::support::records().len()).collect();
        let expected = answer(&mut load(1, generation.clone()), &order);
        for slots in [3, 8] {
            order.rotate_left(slots);
            order.reverse();
            let actual = answer(&mut load(slots, generation.clone()), &order);
            for (ticket, expected) in &expected {
                let actual = &actual[ticket];
                assert_eq!(actual.token_ids, expected.token_ids, "row {ticket}, {slots} slots");
                assert_eq!(actual.text, expected.text);
                assert_eq!(actual.finish_reason, expected.finish_reason);
                assert!((actual.logprob_mean - expected.logprob_mean).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn prompts_do_not_depend_on_the_encoder_batch() {
    let mut model = load(1, GenerationOptions::default());
    let together = prompts(&mut model);
    for (record, together) in crate::support::records().iter().zip(together) {
        let sample = model.processor.prepare(record).unwrap();
        let alone = model.encoder.encode(vec![sample]).remove(0).unwrap();
        assert_eq!(alone.embeds().unwrap().data(), together.embeds().unwrap().data(), "{record:?}");
    }
}

#[test]
fn a_short_row_finishes_before_an_older_longer_one() {
    // The context is so short that prompts with media leave little room, so answers differ in
    // length for any weights.
    let options = |slots| ModelOptions {
        slots: Some(slots),
        context_tokens: Some(128),
        generation: GenerationOptions { max_new_tokens: Some(60), ..Default::default() },
        ..Default::default()
    };
    let mut probe = load_with(options(4));
    let order: Vec<usize> = (0..crate::support::records().len()).collect();
    let answers = answer(&mut probe, &order);
    let by_length = |(_, answer): &(&u64, &Generation)| answer.token_ids.len();
    let (long, long_answer) = answers.iter().max_by_key(by_length).unwrap();
    let (short, short_answer) = answers.iter().min_by_key(by_length).unwrap();
    assert!(short_answer.token_ids.len() < long_answer.token_ids.len());

    let mut model = load_with(options(2));
    let prompts = prompts(&mut model);
    let prompt = |ticket: u64| prompts[usize::try_from(ticket).unwrap()].clone();
    model.engine.admit(*long, prompt(*long), 0).unwrap();
    let early = model.engine.step();
    assert!(early.is_empty(), "the long row ended immediately");
    model.engine.admit(*short, prompt(*short), 0).unwrap();
    let mut ended = Vec::new();
    while !model.engine.is_idle() {
        ended.extend(model.engine.step().into_iter().map(|finished| finished.ticket));
    }
    assert_eq!(ended, [*short, *long]);
}

#[test]
fn the_limit_of_new_tokens_ends_a_row_as_length() {
    let generation = GenerationOptions { max_new_tokens: Some(1), ..Default::default() };
    let mut model = load(2, generation);
    let answers = answer(&mut model, &[0]);
    assert_eq!(answers[&0].token_ids.len(), 1);
    assert_eq!(answers[&0].finish_reason, FinishReason::Length);
}

#[test]
fn a_wrong_graph_is_rejected_with_the_expected_input() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny");
    std::fs::create_dir(folder.path().join("onnx")).unwrap();
    let files = [
        ("config.json", "config.json"),
        ("processor_config.json", "processor_config.json"),
        ("tokenizer.json", "tokenizer.json"),
        ("onnx/vision_encoder.onnx", "onnx/vision_encoder.onnx"),
        ("onnx/audio_encoder.onnx", "onnx/audio_encoder.onnx"),
        ("onnx/embed_tokens.onnx", "onnx/embed_tokens.onnx"),
        ("onnx/embed_tokens.onnx", "onnx/decoder_model_merged.onnx"),
    ];
    for (from, to) in files {
        std::fs::copy(tiny.join(from), folder.path().join(to)).unwrap();
    }
    let bundle = Bundle::open(&BundleSource::Directory(folder.path().to_owned())).unwrap();
    let options = ModelOptions { device: crate::support::device(), ..Default::default() };
    let error = Model::load(&crate::support::runtime(), &bundle, &options).unwrap_err();
    assert_eq!(error.code(), "graph_contract");
    let text = error.to_string();
    assert!(text.contains("expected `past_key_values.0.key` of type f32"), "{text}");
}

/// Prints the time of each stage: run this test with `--nocapture`.
#[test]
fn speed_is_reported() {
    let generation = GenerationOptions { max_new_tokens: Some(32), ..Default::default() };
    let mut model = load(16, generation);
    let records = crate::support::records();
    let start = std::time::Instant::now();
    let samples: Vec<_> = records.iter().map(|r| model.processor.prepare(r).unwrap()).collect();
    println!("{} records prepared in {:?}", records.len(), start.elapsed());
    let start = std::time::Instant::now();
    let prompts = model.encoder.encode(samples);
    println!("{} samples encoded in {:?}", records.len(), start.elapsed());

    let start = std::time::Instant::now();
    let n_prompts = 48;
    let mut n_tokens = 0;
    let mut waiting = prompts.iter().cycle().take(n_prompts).peekable();
    while waiting.peek().is_some() || !model.engine.is_idle() {
        while model.engine.free_slots() > 0 {
            let Some(prompt) = waiting.next() else { break };
            model.engine.admit(0, prompt.as_ref().unwrap().clone(), 0).unwrap();
        }
        for finished in model.engine.step() {
            n_tokens += finished.result.unwrap().token_ids.len();
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let n_steps = model.engine.n_steps();
    println!("{n_prompts} prompts: {n_tokens} tokens in {n_steps} steps and {seconds:.2} s");
}
