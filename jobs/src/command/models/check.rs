//! `legenda models check`: a model answers a built-in prompt for each of its tasks.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use legenda_models::{Generation, Model, ModelOptions, Record, RgbImage, Waveform};
use legenda_schemas::job::TaskKind;
use serde_json::json;

use super::{open, print_object, tasks};
use crate::{
    cli::ModelsCheckArgs,
    command::{open_runtime, print},
    failure::{Exit, Failure},
};

/// The most tokens of an answer: enough to see words, and quick on a large model.
const NEW_TOKENS_MAX: usize = 24;

/// Opens a model and says how fast it loads and answers, and what.
pub(crate) fn check(args: &ModelsCheckArgs) -> Result<Exit, Failure> {
    let bundle = open(&args.model)?;
    let runtime = open_runtime(args.model.offline, None)?;
    let mut options =
        ModelOptions { device: args.device.into(), slots: Some(2), ..ModelOptions::default() };
    options.generation.max_new_tokens = Some(NEW_TOKENS_MAX);
    let start = Instant::now();
    let mut model = Model::load(&runtime, &bundle, &options).map_err(Failure::config)?;
    let load = start.elapsed();
    let mut answers = Vec::new();
    for task in tasks(&bundle) {
        let start = Instant::now();
        let answer = answer(&mut model, task).map_err(|error| {
            Failure::config(error.context(format!(
                "`{}` fails at `{}`",
                bundle.name(),
                task.as_str()
            )))
        })?;
        answers.push((task, answer, start.elapsed()));
    }
    let mut object = vec![
        ("name", json!(bundle.name())),
        ("revision", json!(bundle.revision())),
        ("device", json!(model.info.device.to_string())),
        ("device note", json!(model.info.device_note)),
        ("onnxruntime", json!(runtime.version())),
        ("load seconds", json!(rounded(load))),
    ];
    if args.model.json {
        let answers: Vec<_> = answers
            .iter()
            .map(|(task, answer, took)| {
                json!({
                    "task": task.as_str(),
                    "answer": answer.text,
                    "finish_reason": answer.finish_reason.as_str(),
                    "tokens_prompt": answer.n_prompt_tokens,
                    "tokens_generated": answer.token_ids.len(),
                    "seconds": rounded(*took),
                    "tokens_per_second": rate(answer, *took),
                })
            })
            .collect();
        object.push(("answers", json!(answers)));
        print_object(object, true);
        return Ok(Exit::Done);
    }
    print_object(object, false);
    for (task, answer, took) in &answers {
        print(&format!(
            "{:<14} {:?} ({} tokens, {} tokens/s)",
            task.as_str(),
            answer.text,
            answer.token_ids.len(),
            rate(answer, *took)
        ));
    }
    Ok(Exit::Done)
}

/// Takes a built-in record through processor, encoders and engine.
fn answer(model: &mut Model, task: TaskKind) -> anyhow::Result<Generation> {
    let sample = model.processor.prepare(&record(task))?;
    let prompts = model.encoder.encode(vec![sample]);
    let prompt = prompts.into_iter().next().ok_or_else(|| anyhow!("no prompt was made"))??;
    model.engine.admit(0, prompt, 0).map_err(|_| anyhow!("no slot is free"))?;
    while !model.engine.is_idle() {
        if let Some(finished) = model.engine.step().pop() {
            return Ok(finished.result?);
        }
    }
    Err(anyhow!("the engine ended without an answer"))
}

/// Returns what a task is tried on: a question, a picture of two colours, a second of a tone.
fn record(task: TaskKind) -> Record {
    let mut record = Record::default();
    let text = match task {
        TaskKind::Caption | TaskKind::Transcribe => task.default_prompt(),
        TaskKind::Answer => "What is two plus three?",
        TaskKind::Generate => "Once upon a time",
    };
    record.text = Some(text.to_owned());
    match task {
        TaskKind::Caption => record.images.push(picture()),
        TaskKind::Transcribe => record.audios.push(tone()),
        TaskKind::Answer | TaskKind::Generate => {}
    }
    record
}

/// A red square on white.
fn picture() -> RgbImage {
    const EDGE: usize = 224;
    let inside = EDGE / 4..EDGE * 3 / 4;
    let pixel = |idx: usize| {
        let (row, column) = (idx / EDGE, idx % EDGE);
        let red = inside.contains(&row) && inside.contains(&column);
        if red { [220, 30, 30] } else { [255, 255, 255] }
    };
    RgbImage { width: EDGE, height: EDGE, pixels: (0..EDGE * EDGE).flat_map(pixel).collect() }
}

/// A second of the note A.
#[expect(clippy::cast_precision_loss, reason = "16000 samples")]
fn tone() -> Waveform {
    const RATE_HZ: u32 = 16_000;
    let sample = |idx: u32| {
        let phase = std::f32::consts::TAU * 440.0 * idx as f32 / RATE_HZ as f32;
        0.3 * phase.sin()
    };
    Waveform { sample_rate_hz: RATE_HZ, samples: (0..RATE_HZ).map(sample).collect() }
}

/// Seconds with two decimals.
fn rounded(took: Duration) -> f64 {
    (took.as_secs_f64() * 100.0).round() / 100.0
}

/// Tokens of an answer per second, the prompt's time counted in.
#[expect(clippy::cast_precision_loss, reason = "a few tokens")]
fn rate(answer: &Generation, took: Duration) -> f64 {
    (answer.token_ids.len() as f64 / took.as_secs_f64().max(1e-6)).round()
}
