//! `legenda models check`: a model answers a built-in prompt for each of its tasks.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use legenda_models::{
    Bundle, Embedder, EmbeddingInput, Generation, Modalities, Model, ModelOptions, Record,
    RgbImage, Waveform,
};
use legenda_schemas::job::TaskKind;
use serde_json::{Value, json};

use super::{open, print_object, tasks};
use crate::{
    cli::ModelsCheckArgs,
    command::{open_runtime, print},
    failure::{Exit, Failure},
};

/// The most tokens of an answer: enough to see words, and quick on a large model.
const NEW_TOKENS_MAX: usize = 24;

/// What a model made of a built-in record.
struct Tried {
    task: TaskKind,
    /// The values for machines, beside the task and the time.
    values: Vec<(&'static str, Value)>,
    /// The same for people.
    line: String,
    took: Duration,
}

/// Opens a model and says how fast it loads and answers, and what.
pub(crate) fn check(args: &ModelsCheckArgs) -> Result<Exit, Failure> {
    let bundle = open(&args.model)?;
    let runtime = open_runtime(args.model.offline, None)?;
    // Two slots, so that whether rows depend on each other is tried too.
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
        let tried = tasks(&bundle).into_iter();
        let tried = tried.map(|task| answer(&mut model, task, &record(task))).collect();
        ((info.device, info.device_note, tried), load)
    };
    let (device, note, tried) = loaded;
    let tried: Vec<Tried> = tried.into_iter().collect::<anyhow::Result<_>>().map_err(|error| {
        Failure::config(error.context(format!("`{}` fails at a built-in prompt", bundle.name())))
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
        let answers = tried.into_iter().map(|tried| {
            let mut values: serde_json::Map<String, Value> =
                tried.values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            values.insert("task".to_owned(), json!(tried.task.as_str()));
            values.insert("seconds".to_owned(), json!(rounded(tried.took)));
            Value::Object(values)
        });
        object.push(("answers", answers.collect()));
        print_object(object, true);
        return Ok(Exit::Done);
    }
    print_object(object, false);
    for Tried { task, line, .. } in tried {
        print(&format!("{:<14} {line}", task.as_str()));
    }
    Ok(Exit::Done)
}

/// Embeds a built-in record.
fn embedding(embedder: &mut Embedder, input: EmbeddingInput) -> anyhow::Result<Tried> {
    let record = match input {
        EmbeddingInput::Text => record(TaskKind::Embed),
        EmbeddingInput::Image => Record { images: vec![picture()], ..Record::default() },
        EmbeddingInput::Audio => Record { audios: vec![tone()], ..Record::default() },
    };
    let start = Instant::now();
    let sample = embedder.processor.prepare(&record)?;
    let embedded = embedder.embed(&[sample]).into_iter().next();
    let embedding = embedded.ok_or_else(|| anyhow!("nothing was embedded"))??;
    let took = start.elapsed();
    let dimension = embedding.values.len();
    let length = embedding.values.iter().map(|value| value * value).sum::<f32>().sqrt();
    Ok(Tried {
        task: TaskKind::Embed,
        values: vec![
            ("input", json!(input.as_str())),
            ("dimension", json!(dimension)),
            ("length", json!(length)),
            ("rows_per_second", json!(rate(1, took))),
        ],
        line: format!(
            "{} as {dimension} numbers of length {length:.3} ({} rows/s)",
            input.as_str(),
            rate(1, took)
        ),
        took,
    })
}

/// Lets a model answer a built-in record.
fn answer(model: &mut Model, task: TaskKind, record: &Record) -> anyhow::Result<Tried> {
    let start = Instant::now();
    let answer = generation(model, record).with_context(|| format!("task `{}`", task.as_str()))?;
    let took = start.elapsed();
    let n_tokens = answer.token_ids.len();
    Ok(Tried {
        task,
        line: format!("{:?} ({n_tokens} tokens, {} tokens/s)", answer.text, rate(n_tokens, took)),
        values: vec![
            ("answer", json!(answer.text)),
            ("finish_reason", json!(answer.finish_reason.as_str())),
            ("tokens_prompt", json!(answer.n_prompt_tokens)),
            ("tokens_generated", json!(n_tokens)),
            ("tokens_per_second", json!(rate(n_tokens, took))),
        ],
        took,
    })
}

/// Takes a built-in record through processor, encoders and engine.
fn generation(model: &mut Model, record: &Record) -> anyhow::Result<Generation> {
    let sample = model.processor.prepare(record)?;
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

/// Returns what a model is tried on; one that wants to be told its task in tokens of its own is left
/// to what its config says.
fn built_in(bundle: &Bundle, task: TaskKind) -> Record {
    if bundle.is_prompted() {
        return Record { images: vec![picture()], ..Record::default() };
    }
    if let Some(prompt) = bundle.default_prompt(TaskKind::Caption) {
        // Whatever it is asked, it wants a picture.
        let text = Some(prompt.to_owned());
        return Record { text, images: vec![picture()], ..Record::default() };
    }
    record(task)
}

/// Returns what a task is tried on: a question, a picture of two colours, a second of a tone.
fn record(task: TaskKind) -> Record {
    let mut record = Record::default();
    let text = match task {
        TaskKind::Caption | TaskKind::Transcribe => task.default_prompt(),
        TaskKind::Answer | TaskKind::Embed => "What is two plus three?",
        TaskKind::Generate => "Once upon a time",
    };
    record.text = Some(text.to_owned());
    match task {
        TaskKind::Caption => record.images.push(picture()),
        TaskKind::Transcribe => record.audios.push(tone()),
        TaskKind::Answer | TaskKind::Generate | TaskKind::Embed => {}
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

/// Returns how many a second, the whole way counted in.
#[expect(clippy::cast_precision_loss, reason = "a few tokens")]
fn rate(n: usize, took: Duration) -> f64 {
    (n as f64 / took.as_secs_f64().max(1e-6)).round()
}
