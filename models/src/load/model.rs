//! A bundle loaded on a device: processor, encoder and engine.

use std::sync::Arc;

use legenda_schemas::{
    answer::Form,
    job::{Device, EmbeddingOptions, GenerationOptions, GraphForm},
};

use crate::{
    arch::AnswerFormat,
    bundle::{Bundle, SpeechOptions},
    config::{EarlyStoppingConfig, GenerationConfig},
    engine::{
        Beams, Constraints, Detokenizer, EarlyStopping, Engine, EngineOptions, Guard, LengthLimit,
        Sampling,
    },
    exec::{self, Encoder, GraphSetup, Graphs, ModelError, RowCount, Slots},
    grammar::{Automaton, Grammar, GrammarError, TokenBytes},
    postprocess::{Continued, Document, Regions, Transcript},
    preprocess::Processor,
    runtime::{DeviceKind, Runtime},
};

/// The options for loading a model.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// The device to run on.
    pub device: Device,
    /// The form of the graphs.
    pub graphs: GraphForm,
    /// The number of rows generated together. Derived from `kv_bytes_max` by default.
    pub slots: Option<usize>,
    /// The maximum size in bytes of the KV caches of all slots.
    pub kv_bytes_max: Option<usize>,
    /// The maximum number of tokens of a row, prompt and answer together. Defaults to the model's
    /// limit.
    pub context_tokens: Option<usize>,
    /// The decoding options. The seed is unused here: each row has its own.
    pub generation: GenerationOptions,
    /// The speech options.
    pub speech: SpeechOptions,
    /// The form of the answers; `None` for any text.
    pub answer: Option<Form>,
    /// The embedding options.
    pub embedding: EmbeddingOptions,
}

/// The properties of a loaded model, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The bundle's name.
    pub name: String,
    /// The bundle's revision.
    pub revision: String,
    /// The selected device.
    pub device: DeviceKind,
    /// The reason for the device, if `auto` could not select the preferred one.
    pub device_note: Option<String>,
    /// The number of rows generated together.
    pub slots: usize,
    /// The maximum number of tokens of a row, prompt and answer together.
    pub context_tokens: usize,
    /// The KV cache size of one row in bytes.
    pub kv_bytes_per_slot: usize,
    /// The rewritings of its graphs.
    pub rewritings: Vec<&'static str>,
    /// Whether answers are, or may be, sampled and so depend on the seed of the row.
    pub draws: bool,
}

/// A loaded model. Its parts run on different threads: any, the encoder thread, the engine thread.
#[derive(Debug)]
pub struct Model {
    /// Prepares records. Shared by all threads.
    pub processor: Arc<Processor>,
    /// Turns samples into prompts. Owned by one thread.
    pub encoder: Box<dyn Encoder>,
    /// Turns prompts into generations. Owned by one thread.
    pub engine: Engine,
    /// The properties of the model.
    pub info: ModelInfo,
}

impl Model {
    /// Opens the graphs of a bundle on a device and allocates the slots.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if a file is missing, a graph violates its contract, the device is not
    /// available, or an option is out of range.
    pub fn load(
        runtime: &Runtime,
        bundle: &Bundle,
        options: &ModelOptions,
    ) -> Result<Self, ModelError> {
        let context_tokens = context_tokens(bundle, options)?;
        let mut engine_options = engine_options(bundle, &options.generation);
        let n_beams = engine_options.beams.n_beams;
        if n_beams > 1 && engine_options.sampling.temperature > 0.0 {
            return Err(ModelError::BeamsDraw { n_beams });
        }
        let rows = row_count(options)?;
        let (speech, job) = (&options.speech, &options.generation);
        let start = bundle.decoder_start(speech)?;
        let eos_token_ids = &engine_options.eos_token_ids;
        let sequential =
            bundle.sequential_rules(speech, job, &start, eos_token_ids, context_tokens);
        engine_options.fallback = bundle.fallback(speech, job, &start)?;
        let processor = Processor::open(bundle)?.of_language(start.source.clone());
        let processor = Arc::new(processor.with_sequential(sequential));
        let constraints = &mut engine_options.constraints;
        constraints.timestamps = start.timestamps;
        constraints.forced_first = start.target_id.or(constraints.forced_first);
        let choice = runtime.choose_device(options.device)?;
        let slots = Slots { rows, per_row: n_beams, context_tokens };
        let setup = GraphSetup { runtime, device: choice.kind, graphs: options.graphs };
        let Graphs { encoder, decoder, rewritings } = exec::open(setup, bundle, slots, start)?;
        // The graph may support fewer rows than requested.
        let rows = decoder.slots() / n_beams;
        let info = ModelInfo {
            name: bundle.name().to_owned(),
            revision: bundle.revision().to_owned(),
            device: choice.kind,
            device_note: choice.note,
            slots: rows,
            context_tokens,
            kv_bytes_per_slot: n_beams
                * (bundle.kv_bytes_per_slot(context_tokens)
                    + bundle.source_bytes_per_slot(context_tokens)),
            rewritings,
            draws: engine_options.sampling.temperature > 0.0 || engine_options.fallback.is_some(),
        };
        let text = processor.text().ok_or_else(|| bundle.no_generation("generate"))?;
        engine_options.grammar = options
            .answer
            .as_ref()
            .map(|form| grammar(form, &text.token_bytes()?, &engine_options, context_tokens))
            .transpose()?;
        let detokenizer: Arc<dyn Detokenizer> = match bundle.arch.answer {
            AnswerFormat::Timestamped if let Some(clip_seconds) = processor.clip_seconds() => {
                Arc::new(Transcript {
                    text,
                    first_timestamp_id: bundle.first_timestamp_id(),
                    shows_timestamps: speech.timestamps,
                    clip_seconds,
                })
            }
            AnswerFormat::DocumentFields => Arc::new(Document { text }),
            AnswerFormat::Continuation => Arc::new(Continued { text }),
            AnswerFormat::Regions if let Some(tasks) = processor.tasks() => {
                Arc::new(Regions { text, tasks })
            }
            AnswerFormat::Text | AnswerFormat::Timestamped | AnswerFormat::Regions => text,
        };
        let engine = Engine::new(decoder, detokenizer, engine_options);
        Ok(Self { processor, encoder, engine, info })
    }
}

/// Creates the grammar of a form over the vocabulary of a model.
fn grammar(
    form: &Form,
    vocabulary: &TokenBytes,
    options: &EngineOptions,
    context_tokens: usize,
) -> Result<Grammar, GrammarError> {
    let n_beams = options.beams.n_beams;
    if n_beams > 1 {
        return Err(GrammarError::Beams { n_beams });
    }
    let automaton = Automaton::new(form)?;
    let grammar = Grammar::new(automaton, vocabulary, options.eos_token_ids.clone())?;
    let n_tokens = grammar.closing(&grammar.start()).map_or(0, |rest| rest.len());
    let max_tokens = match options.length {
        LengthLimit::NewTokens(max_tokens) | LengthLimit::Tokens(max_tokens) => max_tokens,
    };
    let max_tokens = max_tokens.min(context_tokens);
    if n_tokens > max_tokens {
        return Err(GrammarError::Limit { n_tokens, max_tokens });
    }
    Ok(grammar)
}

fn context_tokens(bundle: &Bundle, options: &ModelOptions) -> Result<usize, ModelError> {
    let max = bundle.context_tokens();
    match options.context_tokens {
        Some(asked) if (asked > max && !bundle.is_relative()) || asked < 2 => {
            Err(ModelError::ContextTooLong { bundle: bundle.name().to_owned(), asked, max })
        }
        Some(asked) => Ok(asked),
        None => Ok(max),
    }
}

fn row_count(options: &ModelOptions) -> Result<RowCount, ModelError> {
    match options.slots {
        Some(0) => Err(ModelError::NoSlots),
        Some(slots) => Ok(RowCount::Fixed(slots)),
        None => Ok(RowCount::Fitting { bytes_max: options.kv_bytes_max }),
    }
}

/// Combines the options of the job with those of the bundle. The job takes precedence.
pub(crate) fn engine_options(bundle: &Bundle, job: &GenerationOptions) -> EngineOptions {
    let model = &bundle.generation;
    let eos_token_ids =
        [&model.eos_token_id, &bundle.config.eos_token_id, &bundle.config.text.eos_token_id];
    EngineOptions {
        // `generation_config.json` overrides `config.json`, as in transformers.
        eos_token_ids: eos_token_ids
            .into_iter()
            .flatten()
            .next()
            .map(|ids| ids.0.clone())
            .unwrap_or_default(),
        length: match (job.max_new_tokens.or(model.max_new_tokens), model.max_length) {
            (Some(n_tokens), _) => LengthLimit::NewTokens(n_tokens),
            (None, Some(n_tokens)) => LengthLimit::Tokens(n_tokens),
            (None, None) => LengthLimit::NewTokens(DEFAULT_MAX_NEW_TOKENS),
        },
        stop_strings: job.stop.iter().filter(|stop| !stop.is_empty()).cloned().collect(),
        constraints: constraints(model, job),
        sampling: sampling(model, job),
        beams: beams(model, job),
        guard: Guard::default(),
        fallback: None,
        grammar: None,
    }
}

/// The default length limit if neither the job nor the model sets one. The default of transformers
/// (20 tokens including the prompt) is too short to be useful.
const DEFAULT_MAX_NEW_TOKENS: usize = 128;

/// The default of `GenerationConfig.top_k` in transformers.
const DEFAULT_TOP_K: usize = 50;

fn sampling(model: &GenerationConfig, job: &GenerationOptions) -> Sampling {
    // The model's temperature applies only if the model enables sampling.
    let default = model.do_sample.unwrap_or(false).then(|| model.temperature.unwrap_or(1.0));
    Sampling {
        temperature: job.temperature.or(default).unwrap_or(0.0),
        top_k: Some(job.top_k.or(model.top_k).unwrap_or(DEFAULT_TOP_K)).filter(|k| *k > 0),
        top_p: job.top_p.or(model.top_p).filter(|p| *p < 1.0),
        min_p: job.min_p.or(model.min_p),
    }
}

fn beams(model: &GenerationConfig, job: &GenerationOptions) -> Beams {
    Beams {
        n_beams: job.num_beams.or(model.num_beams).unwrap_or(1).max(1),
        length_penalty: job.length_penalty.or(model.length_penalty).unwrap_or(1.0),
        early_stopping: match model.early_stopping {
            Some(EarlyStoppingConfig::Bool(true)) => EarlyStopping::Full,
            Some(EarlyStoppingConfig::Word(_)) => EarlyStopping::Never,
            Some(EarlyStoppingConfig::Bool(false)) | None => EarlyStopping::Heuristic,
        },
        renormalizes: model.renormalize_logits.unwrap_or(false),
    }
}

fn constraints(model: &GenerationConfig, job: &GenerationOptions) -> Constraints {
    let ids = |ids: &Option<Vec<i64>>| ids.clone().unwrap_or_default();
    Constraints {
        repetition_penalty: job.repetition_penalty.or(model.repetition_penalty).unwrap_or(1.0),
        no_repeat_ngram_tokens: job
            .no_repeat_ngram_size
            .or(model.no_repeat_ngram_size)
            .unwrap_or(0),
        bad_words: model.bad_words_ids.clone().unwrap_or_default(),
        min_tokens: model.min_length.unwrap_or(0),
        min_new_tokens: job.min_new_tokens.or(model.min_new_tokens).unwrap_or(0),
        forced_first: model.forced_bos_token_id,
        forced_last: model.forced_eos_token_id.as_ref().map_or_else(Vec::new, |ids| ids.0.clone()),
        suppressed: ids(&model.suppress_tokens),
        suppressed_first: ids(&model.begin_suppress_tokens),
        timestamps: None,
    }
}
