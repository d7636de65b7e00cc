//! Request parameters: applied, without effect, or rejected; none is ignored silently.

use legenda_schemas::suggest::did_you_mean;
use serde_json::{Map, Value, json};

use super::request::Refusal;

/// A supported endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
    /// `/v1/embeddings`.
    Embeddings,
}

impl Endpoint {
    pub(crate) const ALL: [Self; 3] = [Self::Chat, Self::Completions, Self::Embeddings];

    /// Returns its path.
    #[must_use]
    pub fn url(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
        }
    }

    pub(super) fn parse(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.url() == url)
    }

    /// Returns the member of a body that contains the input.
    pub(crate) fn input(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Completions => "prompt",
            Self::Embeddings => "input",
        }
    }

    /// Returns the parameters of the endpoint, by their API names.
    fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Chat | Self::Completions => &SET,
            Self::Embeddings => &["encoding_format", "dimensions"],
        }
    }
}

/// The encoding of an embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum EmbeddingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Little-endian 32-bit floats in base64.
    Base64,
}

/// The parameters of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parameters {
    pub(crate) endpoint: Endpoint,
    /// The requested model name, which is not checked.
    pub(crate) model: Option<String>,
    /// The keys of `generation` that are set, without the seed.
    pub(crate) set: Map<String, Value>,
    pub(crate) seed: Option<i64>,
    pub(crate) format: EmbeddingFormat,
    /// The requested embedding dimension.
    pub(crate) dimensions: Option<u64>,
}

/// Returns whether a parameter value is supported.
type Fits = fn(&Value) -> bool;

/// The supported generation parameters.
const SET: [&str; 10] = [
    "max_tokens",
    "max_completion_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
];

/// Parameters that do not change the answer.
const WITHOUT_EFFECT: [(&str, Fits, &str); 5] = [
    ("user", Value::is_string, "a string"),
    ("safety_identifier", Value::is_string, "a string"),
    ("prompt_cache_key", Value::is_string, "a string"),
    ("metadata", Value::is_object, "an object"),
    // Without tools there is nothing to call.
    ("parallel_tool_calls", Value::is_boolean, "a boolean"),
];

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_false(value: &Value) -> bool {
    *value == false
}

fn is_true(value: &Value) -> bool {
    *value == true
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn calls_nothing(value: &Value) -> bool {
    *value == "none" || *value == "auto"
}

fn never(_: &Value) -> bool {
    false
}

/// Parameters of the OpenAI API and compatible servers that are not supported, with the value that requests
/// the default behaviour and is therefore accepted.
const FIXED: [(&str, Fits, &str); 45] = [
    ("n", is_one, "1"),
    ("best_of", is_one, "1"),
    ("stream", is_false, "false"),
    ("stream_options", never, ""),
    ("store", is_false, "false"),
    ("echo", is_false, "false"),
    ("suffix", is_empty, "\"\""),
    ("logprobs", is_false, "false"),
    ("top_logprobs", is_zero, "0"),
    ("prompt_logprobs", never, ""),
    ("logit_bias", is_empty, "{}"),
    ("frequency_penalty", is_zero, "0"),
    ("presence_penalty", is_zero, "0"),
    ("length_penalty", is_one, "1"),
    ("tools", is_empty, "[]"),
    ("tool_choice", calls_nothing, "\"none\" or \"auto\""),
    ("functions", is_empty, "[]"),
    ("function_call", calls_nothing, "\"none\" or \"auto\""),
    ("response_format", |value| *value == json!({"type": "text"}), "{\"type\": \"text\"}"),
    ("guided_json", never, ""),
    ("guided_regex", never, ""),
    ("guided_choice", never, ""),
    ("guided_grammar", never, ""),
    ("guided_decoding_backend", never, ""),
    ("structured_outputs", never, ""),
    ("service_tier", |value| *value == "auto" || *value == "default", "\"auto\" or \"default\""),
    ("modalities", |value| *value == json!(["text"]), "[\"text\"]"),
    ("audio", never, ""),
    ("prediction", never, ""),
    ("reasoning_effort", never, ""),
    ("verbosity", |value| *value == "medium", "\"medium\""),
    ("web_search_options", never, ""),
    ("use_beam_search", is_false, "false"),
    ("ignore_eos", is_false, "false"),
    ("stop_token_ids", is_empty, "[]"),
    ("bad_words", is_empty, "[]"),
    ("include_stop_str_in_output", is_false, "false"),
    ("skip_special_tokens", is_true, "true"),
    ("spaces_between_special_tokens", is_true, "true"),
    ("truncate_prompt_tokens", never, ""),
    ("add_generation_prompt", is_true, "true"),
    ("continue_final_message", is_false, "false"),
    ("chat_template", never, ""),
    ("chat_template_kwargs", is_empty, "{}"),
    ("priority", is_zero, "0"),
];

impl Parameters {
    /// Parses the parameters of a body; a null parameter is not set.
    pub(super) fn read(endpoint: Endpoint, body: &Map<String, Value>) -> Result<Self, Refusal> {
        let mut this = Self {
            endpoint,
            model: None,
            set: Map::new(),
            seed: None,
            format: EmbeddingFormat::default(),
            dimensions: None,
        };
        let set = body.iter().filter(|(key, value)| *key != endpoint.input() && !value.is_null());
        for (key, value) in set {
            if key == "model" {
                let name = value.as_str();
                let name =
                    name.ok_or_else(|| Refusal::value("model", "`model` is not a string"))?;
                this.model = Some(name.to_owned());
            } else if endpoint.parameters().contains(&key.as_str()) {
                this.set(key, value)?;
            } else {
                check_fixed(endpoint, key, value)?;
            }
        }
        Ok(this)
    }

    /// Applies a parameter.
    fn set(&mut self, key: &str, value: &Value) -> Result<(), Refusal> {
        let refuse = |expected: &str| {
            Refusal::value(key, format!("invalid `{key}`: expected {expected}, got {value}"))
        };
        // A job uses 32-bit numbers.
        #[expect(clippy::cast_possible_truncation, reason = "too large values become infinite")]
        let number = |fits: fn(f32) -> bool| {
            value.as_f64().is_some_and(|number| (number as f32).is_finite() && fits(number as f32))
        };
        let count = |least: u64| value.as_u64().is_some_and(|count| count >= least);
        let (name, fits, expected) = match key {
            "max_tokens" | "max_completion_tokens" => {
                if self.set.get("max_new_tokens").is_some_and(|other| other != value) {
                    let message = "`max_tokens` and `max_completion_tokens` differ: remove one";
                    return Err(Refusal::value(key, message));
                }
                ("max_new_tokens", count(1), "an integer of at least 1")
            }
            "min_tokens" => ("min_new_tokens", count(0), "an integer of at least 0"),
            "temperature" => (key, number(|t| t >= 0.0), "a number of at least 0"),
            "top_p" => (key, number(|p| p > 0.0 && p <= 1.0), "a number above 0 and up to 1"),
            "min_p" => (key, number(|p| (0.0..=1.0).contains(&p)), "a number from 0 to 1"),
            "repetition_penalty" => (key, number(|p| p > 0.0), "a number above 0"),
            "top_k" => {
                // Both mean all tokens, like 0 in a job.
                let is_all = matches!(value.as_i64(), Some(-1 | 0));
                if is_all || count(1) {
                    let k = if is_all { json!(0) } else { value.clone() };
                    self.set.insert(key.to_owned(), k);
                    return Ok(());
                }
                (key, false, "an integer of at least 1, or -1 for all tokens")
            }
            "seed" => {
                let seed = value.as_i64().ok_or_else(|| refuse("a 64-bit integer"))?;
                self.seed = Some(seed);
                return Ok(());
            }
            "stop" => {
                let stop = match value {
                    Value::String(_) => json!([value]),
                    other => other.clone(),
                };
                let is_text = |stop: &Value| stop.as_str().is_some_and(|stop| !stop.is_empty());
                let fits = stop.as_array().is_some_and(|stops| stops.iter().all(is_text));
                if !fits {
                    return Err(refuse("a non-empty string or a list of non-empty strings"));
                }
                self.set.insert(key.to_owned(), stop);
                return Ok(());
            }
            "encoding_format" => {
                self.format = match value.as_str() {
                    Some("float") => EmbeddingFormat::Float,
                    Some("base64") => EmbeddingFormat::Base64,
                    _ => return Err(refuse("\"float\" or \"base64\"")),
                };
                return Ok(());
            }
            _ => {
                // Whether it equals the model's dimension is checked with its answers.
                let dimensions = value.as_u64().filter(|dimensions| *dimensions > 0);
                self.dimensions =
                    Some(dimensions.ok_or_else(|| refuse("an integer of at least 1"))?);
                return Ok(());
            }
        };
        if !fits {
            return Err(refuse(expected));
        }
        self.set.insert(name.to_owned(), value.clone());
        Ok(())
    }

    /// Returns the `generation` keys that are set, including the seed, as JSON.
    pub(super) fn generation(&self) -> String {
        let mut set = self.set.clone();
        // A job has no negative seed; the seed column has it.
        if let Some(seed) = self.seed.and_then(|seed| u64::try_from(seed).ok()) {
            set.insert("seed".to_owned(), seed.into());
        }
        Value::Object(set).to_string()
    }
}

/// Checks an unsupported parameter, which may only request the default behaviour.
fn check_fixed(endpoint: Endpoint, key: &str, value: &Value) -> Result<(), Refusal> {
    if let Some((_, fits, expected)) = WITHOUT_EFFECT.iter().find(|(name, ..)| *name == key) {
        if fits(value) {
            return Ok(());
        }
        return Err(Refusal::value(
            key,
            format!("invalid `{key}`: expected {expected}, got {value}"),
        ));
    }
    let Some((_, is_default, shown)) = FIXED.iter().find(|(name, ..)| *name == key) else {
        let fixed = FIXED.iter().map(|(name, ..)| *name);
        let without = WITHOUT_EFFECT.iter().map(|(name, ..)| *name);
        let known = endpoint.parameters().iter().copied().chain(fixed).chain(without);
        let suggestion = did_you_mean(key, known);
        let message = format!("unknown parameter `{key}` of `{}`{suggestion}", endpoint.url());
        return Err(Refusal::new("unknown_parameter", Some(key), message));
    };
    if is_default(value) {
        return Ok(());
    }
    let only = if shown.is_empty() { String::new() } else { format!(" except for {shown}") };
    let message = format!("`{key}` is not supported{only}: remove it");
    Err(Refusal::new("unsupported_parameter", Some(key), message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{EmbeddingFormat, Endpoint, Parameters, Refusal};

    fn read(endpoint: Endpoint, body: &Value) -> Result<Parameters, Refusal> {
        Parameters::read(endpoint, body.as_object().unwrap())
    }

    #[test]
    fn what_a_job_can_do_is_followed() {
        let body = json!({
            "model": "m", "messages": [], "max_completion_tokens": 7, "max_tokens": 7,
            "min_tokens": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0,
            "repetition_penalty": 1.1, "seed": -3, "stop": "END",
        });
        let read = read(Endpoint::Chat, &body).unwrap();
        let expected = json!({
            "max_new_tokens": 7, "min_new_tokens": 2, "temperature": 0.5, "top_p": 0.9,
            "top_k": 5, "min_p": 0, "repetition_penalty": 1.1, "stop": ["END"],
        });
        assert_eq!(Value::Object(read.set), expected);
        assert_eq!((read.seed, read.model.as_deref()), (Some(-3), Some("m")));
    }

    #[test]
    fn every_token_is_said_in_two_ways() {
        for all in [-1, 0] {
            let read = read(Endpoint::Chat, &json!({"top_k": all})).unwrap();
            assert_eq!(read.set["top_k"], 0, "the model's own limit would apply otherwise");
        }
    }

    #[test]
    fn parameters_that_ask_for_what_is_done_anyway_are_accepted() {
        let neutral = json!({
            "logprobs": false, "top_logprobs": 0, "n": 1, "best_of": 1, "tools": [],
            "tool_choice": "none", "functions": [], "parallel_tool_calls": true,
            "logit_bias": {}, "response_format": {"type": "text"}, "stream": false,
            "frequency_penalty": 0, "presence_penalty": 0.0, "echo": false, "suffix": "",
            "guided_json": null, "user": "u", "metadata": {"a": "b"}, "store": false,
            "service_tier": "auto", "unheard_of": null, "length_penalty": 1.0,
        });
        for endpoint in [Endpoint::Chat, Endpoint::Completions] {
            assert_eq!(read(endpoint, &neutral).unwrap().set.len(), 0);
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused_by_its_name() {
        for (key, value) in [
            ("logprobs", json!(true)),
            ("logprobs", json!(0)),
            ("top_logprobs", json!(3)),
            ("n", json!(2)),
            ("best_of", json!(4)),
            ("tools", json!([{"type": "function"}])),
            ("tool_choice", json!("required")),
            ("tool_choice", json!({"type": "function", "function": {"name": "f"}})),
            ("logit_bias", json!({"50256": -100})),
            ("guided_json", json!({"type": "object"})),
            ("structured_outputs", json!({"json": {}})),
            ("response_format", json!({"type": "json_object"})),
            ("response_format", json!("text")),
            ("stream", json!(true)),
            ("echo", json!(true)),
            ("frequency_penalty", json!(0.5)),
            ("presence_penalty", json!(-1)),
            ("reasoning_effort", json!("low")),
            ("service_tier", json!("flex")),
        ] {
            for endpoint in [Endpoint::Chat, Endpoint::Completions] {
                let refusal = read(endpoint, &json!({key: value})).unwrap_err();
                assert_eq!(refusal.param.as_deref(), Some(key), "{value}");
                assert_eq!(refusal.code, "unsupported_parameter");
                assert!(refusal.message.contains(key), "{}", refusal.message);
            }
        }
        for (key, value) in [
            ("max_tokens", json!(0)),
            ("max_tokens", json!("7")),
            ("temperature", json!(-1)),
            ("temperature", json!(true)),
            ("top_p", json!(0)),
            ("top_p", json!(1.5)),
            ("top_k", json!(-2)),
            ("top_k", json!(2.5)),
            ("min_p", json!(2)),
            ("repetition_penalty", json!(0)),
            ("seed", json!(0.5)),
            ("seed", json!(u64::MAX)),
            ("stop", json!("")),
            ("stop", json!(["a", 7])),
            ("model", json!(7)),
            ("user", json!(7)),
        ] {
            let refusal = read(Endpoint::Chat, &json!({key: value})).unwrap_err();
            assert_eq!(refusal.code, "invalid_value", "{key}: {value}");
            assert_eq!(refusal.param.as_deref(), Some(key));
        }
        let unlike = json!({"max_tokens": 5, "max_completion_tokens": 6});
        assert!(read(Endpoint::Chat, &unlike).unwrap_err().message.contains("differ"));
        let unknown = read(Endpoint::Chat, &json!({"temprature": 1})).unwrap_err();
        assert_eq!(unknown.code, "unknown_parameter");
        assert!(unknown.message.ends_with("did you mean `temperature`?"), "{}", unknown.message);
    }

    #[test]
    fn embeddings_have_parameters_of_their_own() {
        let body = json!({"input": ["a"], "encoding_format": "base64", "dimensions": 8});
        let embedding = read(Endpoint::Embeddings, &body).unwrap();
        assert_eq!(embedding.format, EmbeddingFormat::Base64);
        assert_eq!((embedding.dimensions, embedding.set.len()), (Some(8), 0));
        for (key, value) in [
            ("encoding_format", json!("hex")),
            ("dimensions", json!(0)),
            ("temperature", json!(1)),
            ("seed", json!(1)),
        ] {
            let refusal = read(Endpoint::Embeddings, &json!({key: value})).unwrap_err();
            assert_eq!(refusal.param.as_deref(), Some(key));
        }
        assert!(read(Endpoint::Chat, &json!({"dimensions": 8})).is_err());
    }
}
