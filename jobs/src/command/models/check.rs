//! `legenda models check`: runs a built-in prompt for each task of a model.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use legenda_models::{
    Bundle, Embedder, EmbeddingInput, Generation, Modalities, Model, ModelOptions, Record,
    RgbImage, Waveform,
};
use legenda_schemas::job::TaskKind;
use serde_json::{Value, json};

use super::{
    bundle::{open, tasks},
    object::print_object,
};
use crate::{
    cli::ModelsCheckArgs,
    command::{open_runtime, print},
    failure::{Exit, Failure},
};

/// The maximum number of tokens of an answer: enough for a few words, and fast on a large model.
const NEW_TOKENS_MAX: usize = 24;

/// The result of a built-in record.
struct CheckResult {
    task: TaskKind,
    /// The values for JSON output, besides the task and the time.
    values: Vec<(&'static str, Value)>,
    /// The line for text output.
    line: String,
    elapsed: Duration,
}

/// Loads a model, answers the built-in records, and prints answers and timings.
pub(crate) fn check(args: &ModelsCheckArgs) -> Result<Exit, Failure> {
    let bundle = open(&args.model)?;
    let runtime = open_runtime(args.model.offline, None)?;
    // Two slots, so that batching is exercised too.
    let mut options =
        ModelOptions { device: args.device.into(), slots: Some(2), ..ModelOptions::default() };
    options.generation.max_new_tokens = Some(NEW_TOKENS_MAX);
    let start = Instant::now();
    let (loaded, load) = if bundle.supports(TaskKind::Embed).is_ok() {
        let input = match bundle.modalities() {
            Modalities { text: true, .. } => EmbeddingInput::Text,
            Modalities { image: true, .. } => EmbeddingInput::Image,
            _ => EmbeddingInput::Audio,
        };
        let embedder = Embedder::load(&runtime, &bundle, &options, input);
        let mut embedder = embedder.map_err(Failure::config)?;
        let (load, info) = (start.elapsed(), embedder.info.clone());
        ((info.device, info.device_note, vec![embedding(&mut embedder, input)]), load)
    } else {
        let mut model = Model::load(&runtime, &bundle, &options).map_err(Failure::config)?;
        let (load, info) = (start.elapsed(), model.info.clone());
        let record = |task| built_in(&bundle, task);
        let results = tasks(&bundle).into_iter();
        let results = results.map(|task| answer(&mut model, task, &record(task))).collect();
        ((info.device, info.device_note, results), load)
    };
    let (device, note, results) = loaded;
    let results = results.into_iter().collect::<anyhow::Result<Vec<CheckResult>>>();
    let results = results.map_err(|error| {
        Failure::config(error.context(format!("`{}` failed a built-in prompt", bundle.name())))
    })?;
    let mut object = vec![
        ("name", json!(bundle.name())),
        ("revision", json!(bundle.revision())),
        ("device", json!(device.to_string())),
        ("device note", json!(note)),
        ("onnxruntime", json!(runtime.version())),
        ("load seconds", json!(rounded(load))),
    ];
    if args.model.json {
        let answers = results.into_iter().map(|result| {
            let mut values: serde_json::Map<String, Value> =
                result.values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            values.insert("task".to_owned(), json!(result.task.as_str()));
            values.insert("seconds".to_owned(), json!(rounded(result.elapsed)));
            Value::Object(values)
        });
        object.push(("answers", answers.collect()));
        print_object(object, true);
        return Ok(Exit::Done);
    }
    print_object(object, false);
    for CheckResult { task, line, .. } in results {
        print(&format!("{:<14} {line}", task.as_str()));
    }
    Ok(Exit::Done)
}

/// Embeds a built-in record.
fn embedding(embedder: &mut Embedder, input: EmbeddingInput) -> anyhow::Result<CheckResult> {
    let record = match input {
        EmbeddingInput::Text => record(TaskKind::Embed),
        EmbeddingInput::Image => Record { images: vec![test_image()], ..Record::default() },
        EmbeddingInput::Audio => Record { audios: vec![tone()], ..Record::default() },
    };
    let start = Instant::now();
    let sample = embedder.processor.prepare(&record)?;
    let embedded = embedder.embed(&[sample]).into_iter().next();
    let embedding = embedded.ok_or_else(|| anyhow!("the embedder returned no embedding"))??;
    let elapsed = start.elapsed();
    let dimension = embedding.values.len();
    let length = embedding.values.iter().map(|value| value * value).sum::<f32>().sqrt();
    Ok(CheckResult {
        task: TaskKind::Embed,
        values: vec![
            ("input", json!(input.as_str())),
            ("dimension", json!(dimension)),
            ("length", json!(length)),
            ("rows_per_second", json!(rate(1, elapsed))),
        ],
        line: format!(
            "{} as {dimension} numbers of length {length:.3} ({} rows/s)",
            input.as_str(),
            rate(1, elapsed)
        ),
        elapsed,
    })
}

/// Answers a built-in record.
fn answer(model: &mut Model, task: TaskKind, record: &Record) -> anyhow::Result<CheckResult> {
    let start = Instant::now();
    let answer = generation(model, record).with_context(|| format!("task `{}`", task.as_str()))?;
    let elapsed = start.elapsed();
    let n_tokens = answer.token_ids.len();
    Ok(CheckResult {
        task,
        line: format!(
            "{:?} ({n_tokens} tokens, {} tokens/s)",
            answer.text,
            rate(n_tokens, elapsed)
        ),
        values: vec![
            ("answer", json!(answer.text)),
            ("finish_reason", json!(answer.finish_reason.as_str())),
            ("tokens_prompt", json!(answer.n_prompt_tokens)),
            ("tokens_generated", json!(n_tokens)),
            ("tokens_per_second", json!(rate(n_tokens, elapsed))),
        ],
        elapsed,
    })
}

/// Runs a built-in record through processor, encoders and engine.
fn generation(model: &mut Model, record: &Record) -> anyhow::Result<Generation> {
    let sample = model.processor.prepare(record)?;
    let prompts = model.encoder.encode(vec![sample]);
    let prompt =
        prompts.into_iter().next().ok_or_else(|| anyhow!("the encoder returned no prompt"))??;
    model.engine.admit(0, prompt, 0).map_err(|_| anyhow!("no free slot"))?;
    while !model.engine.is_idle() {
        if let Some(finished) = model.engine.step().pop() {
            return Ok(finished.result?);
        }
    }
    Err(anyhow!("the engine finished without an answer"))
}

/// Returns the built-in record of a task. Models with task tokens use the prompt of their config.
fn built_in(bundle: &Bundle, task: TaskKind) -> Record {
    if bundle.is_prompted() {
        return Record { images: vec![test_image()], ..Record::default() };
    }
    if let Some(prompt) = bundle.default_prompt(TaskKind::Caption) {
        // The model needs an image for every task.
        let text = Some(prompt.to_owned());
        return Record { text, images: vec![test_image()], ..Record::default() };
    }
    record(task)
}

/// Returns the built-in record of a task: a question, a two-color image, or a one-second tone.
fn record(task: TaskKind) -> Record {
    let mut record = Record::default();
    let text = match task {
        TaskKind::Caption | TaskKind::Transcribe => task.default_prompt(),
        TaskKind::Answer | TaskKind::Embed => "What is two plus three?",
        TaskKind::Generate => "Once upon a time",
    };
    record.text = Some(text.to_owned());
    match task {
        TaskKind::Caption => record.images.push(test_image()),
        TaskKind::Transcribe => record.audios.push(tone()),
        TaskKind::Answer | TaskKind::Generate | TaskKind::Embed => {}
    }
    record
}

/// Returns a red square on white.
fn test_image() -> RgbImage {
    const EDGE: usize = 224;
    let inside = EDGE / 4..EDGE * 3 / 4;
    let pixel = |idx: usize| {
        let (row, column) = (idx / EDGE, idx % EDGE);
        let red = inside.contains(&row) && inside.contains(&column);
        if red { [220, 30, 30] } else { [255, 255, 255] }
    };
    RgbImage { width: EDGE, height: EDGE, pixels: (0..EDGE * EDGE).flat_map(pixel).collect() }
}

/// Returns one second of a 440 Hz tone.
#[expect(clippy::cast_precision_loss, reason = "16000 samples")]
fn tone() -> Waveform {
    const RATE_HZ: u32 = 16_000;
    let sample = |idx: u32| {
        let phase = std::f32::consts::TAU * 440.0 * idx as f32 / RATE_HZ as f32;
        0.3 * phase.sin()
    };
    Waveform { sample_rate_hz: RATE_HZ, samples: (0..RATE_HZ).map(sample).collect() }
}

/// Returns seconds rounded to two decimals.
fn rounded(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 100.0).round() / 100.0
}

/// Returns the rate per second, including preprocessing.
#[expect(clippy::cast_precision_loss, reason = "a few tokens")]
fn rate(n: usize, elapsed: Duration) -> f64 {
    (n as f64 / elapsed.as_secs_f64().max(1e-6)).round()
}
