//! Tests of typed answers with a decoder whose scores are random, so that nothing but the form shapes an answer.

use std::sync::Arc;

use legenda_schemas::answer::{Form, members_of_schema};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::{
    Beams, Constraints, DecodeError, Decoder, Detokenizer, Engine, EngineOptions, FinishReason,
    GenerateError, Generation, Guard, Join, LengthLimit, Logits, Sampling, SlotCopy, StepRow,
};
use crate::{
    fake::fake_prompt,
    grammar::{Automaton, Grammar, TokenBytes},
};

/// A decoder whose scores depend on all tokens of a row, at random.
struct Noise {
    n_tokens: usize,
    seed: u64,
    slots: Vec<Vec<i64>>,
}

impl Noise {
    fn new(n_tokens: usize, seed: u64) -> Self {
        Self { n_tokens, seed, slots: vec![Vec::new(); 3] }
    }

    /// Returns the scores after these tokens.
    fn scores(&self, token_ids: &[i64]) -> Vec<f32> {
        let mixed = token_ids.iter().fold(self.seed, |hash, id| mix(hash ^ id.cast_unsigned()));
        let score =
            |id: usize| f32::from(u16::try_from(mix(mixed ^ id as u64) >> 48).unwrap()) / 4096.0;
        (0..self.n_tokens).map(score).collect()
    }
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

impl Decoder for Noise {
    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn context_tokens(&self) -> usize {
        4096
    }

    fn prefill_rows_max(&self) -> usize {
        2
    }

    fn prefill(&mut self, joins: &[Join<'_>], logits: &mut Logits) -> Result<(), DecodeError> {
        logits.reset(joins.len(), self.n_tokens);
        for (row, join) in joins.iter().enumerate() {
            self.slots[join.slot] = join.prompt.token_ids().to_vec();
            logits.row_mut(row).copy_from_slice(&self.scores(&self.slots[join.slot]));
        }
        Ok(())
    }

    fn step(&mut self, rows: &[StepRow], logits: &mut Logits) -> Result<(), DecodeError> {
        logits.reset(rows.len(), self.n_tokens);
        for (row, step) in rows.iter().enumerate() {
            self.slots[step.slot].push(step.token_id);
            logits.row_mut(row).copy_from_slice(&self.scores(&self.slots[step.slot]));
        }
        Ok(())
    }

    fn copy_slots(&mut self, _: &[SlotCopy]) -> Result<(), DecodeError> {
        panic!("one beam")
    }

    fn release(&mut self, slot: usize) {
        self.slots[slot].clear();
    }
}

struct NoText;

impl Detokenizer for NoText {
    fn text(&self, _: &[i64]) -> String {
        "not the text of a typed answer".to_owned()
    }
}

const EOS: i64 = 0;

/// The end token, all bytes, and some longer tokens.
fn vocabulary() -> TokenBytes {
    let mut tokens = vec![Vec::new()];
    tokens.extend((0..=u8::MAX).map(|byte| vec![byte]));
    let longer = [
        "{\"",
        "\":",
        "\",",
        "\"}",
        "},{",
        "[[",
        "true",
        "false",
        "null",
        "12",
        "00",
        "-1",
        ".5",
        "  ",
        "\\n\\n",
        "ab",
        "ä",
        "日本",
        "\u{1F600}",
        "\":\"",
        "2024-",
        "],",
    ];
    tokens.extend(longer.iter().map(|text| text.as_bytes().to_vec()));
    TokenBytes { tokens, has_leading_space: false }
}

fn engine(
    form: &Form,
    vocabulary: &TokenBytes,
    seed: u64,
    max_new_tokens: usize,
    constraints: Constraints,
) -> Engine {
    let grammar = Grammar::new(Automaton::new(form).unwrap(), vocabulary, vec![EOS]).unwrap();
    let options = EngineOptions {
        eos_token_ids: vec![EOS],
        length: LengthLimit::NewTokens(max_new_tokens),
        stop_strings: vec!["a".to_owned()],
        constraints,
        sampling: Sampling::GREEDY,
        beams: Beams::OFF,
        guard: Guard::default(),
        fallback: None,
        grammar: Some(grammar),
    };
    Engine::new(Box::new(Noise::new(vocabulary.tokens.len(), seed)), Arc::new(NoText), options)
}

fn answers(engine: &mut Engine, prompts: &[Vec<i64>]) -> Vec<Result<Generation, GenerateError>> {
    for (ticket, ids) in (0..).zip(prompts) {
        engine.admit(ticket, fake_prompt(ids.clone()), ticket).unwrap();
    }
    let mut finished = Vec::new();
    while !engine.is_idle() {
        finished.extend(engine.step());
    }
    finished.sort_by_key(|one| one.ticket);
    finished.into_iter().map(|one| one.result).collect()
}

fn object(schema: &Value) -> Form {
    Form::Object(members_of_schema(schema).unwrap())
}

/// Greedy decoding under the mask is the best of the tokens whose bytes the automaton accepts.
#[test]
fn tokens_equal_those_of_a_mask_applied_by_hand() {
    let form = object(&json!({"type": "object", "required": ["kind", "n"], "properties": {
        "kind": {"enum": ["invoice", "receipt"]}, "n": {"type": "integer", "minimum": -5, "maximum": 1200},
        "note": {"type": "string", "maxLength": 12}, "tags": {"type": "array", "maxItems": 3, "items": {"type": "boolean"}}}}));
    let (vocabulary, automaton) = (vocabulary(), Automaton::new(&form).unwrap());
    for seed in 0..20 {
        let noise = Noise::new(vocabulary.tokens.len(), seed);
        let mut engine = engine(&form, &vocabulary, seed, 400, Constraints::default());
        let prompts = [vec![1], vec![7, 8], vec![9]];
        for (answer, prompt) in answers(&mut engine, &prompts).into_iter().zip(&prompts) {
            let answer = answer.unwrap();
            let (mut state, mut ids) = (automaton.start(false), prompt.clone());
            while ids.len() == prompt.len() || ids.last() != Some(&EOS) {
                let scores = noise.scores(&ids);
                let after = |id: usize| {
                    let bytes = vocabulary.tokens[id].iter();
                    bytes
                        .copied()
                        .try_fold(state.clone(), |state, byte| automaton.step(&state, byte))
                };
                let is_valid = |id: &usize| {
                    if *id == 0 { automaton.is_complete(&state) } else { after(*id).is_some() }
                };
                let valid = (0..scores.len()).filter(is_valid);
                let best = valid
                    .reduce(|best, id| if scores[id] > scores[best] { id } else { best })
                    .unwrap();
                state = after(best).unwrap();
                ids.push(i64::try_from(best).unwrap());
            }
            assert_eq!(answer.token_ids, ids[prompt.len()..], "{}", answer.text);
            assert_eq!(answer.finish_reason, FinishReason::Stop);
            assert!(automaton.accepts(&answer.text), "{}", answer.text);
        }
    }
}

#[test]
fn a_loop_or_a_full_limit_closes_the_answer() {
    let form = object(&json!({"type": "object", "required": ["zeros", "end"], "properties": {
        "zeros": {"type": "array", "maxItems": 4000, "items": {"enum": [0]}}, "end": {"type": "boolean"}}}));
    let mut vocabulary = vocabulary();
    vocabulary.tokens.retain(|token| token.len() < 2);
    // A list of zeros is a loop of two tokens, unless the list ends by chance.
    let mut reasons = Vec::new();
    for max_new_tokens in [40, 400] {
        for seed in 0..40 {
            let mut engine =
                engine(&form, &vocabulary, seed, max_new_tokens, Constraints::default());
            let answer = answers(&mut engine, &[vec![3]]).remove(0).unwrap();
            let value: Value = serde_json::from_str(&answer.text).unwrap();
            assert!(value["end"].is_boolean(), "{}", answer.text);
            assert!(answer.token_ids.len() <= max_new_tokens);
            reasons.push(answer.finish_reason);
        }
    }
    let form = Form::Regex("(?:ab)+c".to_owned());
    for (max_new_tokens, expected) in [(40, FinishReason::Length), (400, FinishReason::Guard)] {
        // Only `ab` continues well: `c` is forbidden until the answer is closed.
        let c = i64::from(b'c') + 1;
        let constraints = Constraints { suppressed: vec![c], ..Constraints::default() };
        let mut engine = engine(&form, &vocabulary, 1, max_new_tokens, constraints);
        let answer = answers(&mut engine, &[vec![3]]).remove(0).unwrap();
        assert_eq!(answer.finish_reason, expected, "{}", answer.text);
        assert!(answer.text.ends_with("abc"), "{}", answer.text);
        reasons.push(answer.finish_reason);
    }
    assert!(reasons.contains(&FinishReason::Stop));
}

#[test]
fn an_answer_that_cannot_fit_or_continue_is_an_error() {
    let choice = |text: &str| Form::Choices(vec![text.to_owned()]);
    let vocabulary = vocabulary();
    let mut short = engine(&choice("xyzxyz"), &vocabulary, 0, 5, Constraints::default());
    let error = answers(&mut short, &[vec![1]]).remove(0).unwrap_err();
    assert_eq!(
        (error.code(), error.to_string().contains("7 tokens")),
        ("answer_invalid", true),
        "{error}"
    );

    // The vocabulary has the first byte of `é` and not the second: a choice that it cannot write is not begun.
    let tokens = vec![vec![], vec![b'x'], vec![0xC3]];
    let gaps = TokenBytes { tokens, has_leading_space: false };
    let form = Form::Regex("x|é".to_owned());
    let mut results = Vec::new();
    for seed in 0..10 {
        let mut engine = engine(&form, &gaps, seed, 9, Constraints::default());
        results.extend(answers(&mut engine, &[vec![1]]));
    }
    let texts = results.iter().map(|result| result.as_ref().map(|answer| answer.text.as_str()));
    assert!(texts.clone().all(|text| text.is_ok_and(|text| text == "x")), "{results:?}");
}

/// The form has precedence over constraints that forbid all of its tokens.
#[test]
fn other_constraints_do_not_break_the_form() {
    let constraints = Constraints {
        min_new_tokens: 30,
        suppressed: vec![i64::from(b'y') + 1],
        ..Constraints::default()
    };
    let form = Form::Choices(vec!["yes".to_owned()]);
    let mut engine = engine(&form, &vocabulary(), 0, 50, constraints);
    let answer = answers(&mut engine, &[vec![1]]).remove(0).unwrap();
    assert_eq!((answer.text.as_str(), answer.finish_reason), ("yes", FinishReason::Stop));
}

/// A schema of the supported subset.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        (0_u64..6, 0_u64..30).prop_map(|(least, more)| json!({"type": "string", "minLength": least, "maxLength": least + more})),
        Just(json!({"type": "string"})),
        Just(json!({"type": "string", "format": "date"})),
        Just(json!({"type": "string", "format": "date-time"})),
        Just(json!({"type": "string", "pattern": "^[a-c]{2,}\\d", "maxLength": 20})),
        Just(json!({"type": "boolean"})),
        (-2000_i64..2000, 0_i64..3000).prop_map(|(low, more)| json!({"type": "integer", "minimum": low, "maximum": low + more})),
        (-50_i32..50, 1_i32..50).prop_map(|(low, more)| json!({"type": ["number", "null"], "exclusiveMinimum": f64::from(low) / 8.0, "maximum": f64::from(low + more) / 8.0})),
        Just(json!({"type": "number", "multipleOf": 0.01})),
        Just(json!({"enum": ["red", "re\"d", "grün", null]})),
        Just(json!({"const": 7})),
    ];
    let object = |inner: BoxedStrategy<Value>| {
        let properties = prop::collection::btree_map("[a-c]{1,3}|ü\"", inner, 1..4);
        (properties, any::<u8>()).prop_map(|(properties, required)| {
            let names = properties.keys().enumerate().filter(|(idx, _)| required >> idx & 1 == 1);
            let required: Vec<&String> = names.map(|(_, name)| name).collect();
            json!({"type": "object", "required": required, "properties": properties.clone()})
        })
    };
    let value = leaf.prop_recursive(2, 8, 3, move |inner| {
        prop_oneof![
            (inner.clone(), 0_u64..3, 0_u64..3).prop_map(|(items, least, more)|
                json!({"type": "array", "items": items, "minItems": least, "maxItems": least + more})),
            object(inner.boxed()),
        ]
    });
    object(value.boxed())
}

/// Returns whether a value is valid, as JSON Schema says.
fn is_valid(schema: &Value, value: &Value) -> bool {
    if let Some(values) = schema["enum"].as_array() {
        return values.contains(value);
    }
    if let Some(only) = schema.get("const") {
        return only == value;
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => vec![kind.as_str().unwrap()],
    };
    let count = |keyword: &str, default: usize| {
        schema[keyword].as_u64().map_or(default, |n| usize::try_from(n).unwrap())
    };
    let number = |keyword: &str, default: f64| schema[keyword].as_f64().unwrap_or(default);
    match value {
        Value::Null => kinds.contains(&"null"),
        Value::Bool(_) => kinds == ["boolean"],
        Value::Number(n) => {
            let n = n.as_f64().unwrap();
            (kinds.contains(&"number") || (kinds == ["integer"] && value.is_i64()))
                && (number("minimum", f64::MIN)..=number("maximum", f64::MAX)).contains(&n)
                && n > number("exclusiveMinimum", f64::MIN)
        }
        Value::String(text) => {
            let n_chars = text.chars().count();
            let is_day = |text: &str| {
                text.len() == 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-'
            };
            let has_format = match schema["format"].as_str() {
                Some("date") => is_day(text),
                Some(_) => is_day(&text[..10]) && text.as_bytes()[10] == b'T',
                None => true,
            };
            let matches = schema.get("pattern").is_none_or(|_| {
                let letters = text.bytes().take_while(|byte| (b'a'..=b'c').contains(byte)).count();
                letters >= 2 && text.chars().nth(letters).is_some_and(char::is_numeric)
            });
            kinds == ["string"]
                && has_format
                && matches
                && (count("minLength", 0)..=count("maxLength", 256)).contains(&n_chars)
        }
        Value::Array(items) => {
            kinds == ["array"]
                && (count("minItems", 0)..=count("maxItems", 16)).contains(&items.len())
                && items.iter().all(|item| is_valid(&schema["items"], item))
        }
        Value::Object(members) => {
            let required = schema["required"].as_array().unwrap().iter();
            let known = schema["properties"].as_object().cloned().unwrap_or_else(Map::new);
            kinds == ["object"]
                && required.filter_map(Value::as_str).all(|name| members.contains_key(name))
                && members.iter().all(|(name, value)| {
                    known.get(name).is_some_and(|schema| is_valid(schema, value))
                })
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_answer_parses_and_validates(schema in schemas(), seed: u64, more in 0_usize..200) {
        let (form, vocabulary) = (object(&schema), vocabulary());
        let grammar = Grammar::new(Automaton::new(&form).unwrap(), &vocabulary, vec![EOS]).unwrap();
        let max_new_tokens = grammar.closing(&grammar.start()).unwrap().len() + more;
        let mut engine = engine(&form, &vocabulary, seed, max_new_tokens, Constraints::default());
        for answer in answers(&mut engine, &[vec![1], vec![2]]) {
            let answer = answer.unwrap();
            prop_assert_eq!(answer.token_ids.last(), Some(&EOS));
            prop_assert!(answer.token_ids.len() <= max_new_tokens);
            let value: Value = serde_json::from_str(&answer.text)
                .unwrap_or_else(|error| panic!("{error}: {}", answer.text));
            prop_assert!(is_valid(&schema, &value), "{} is not of {}", answer.text, schema);
        }
    }
}
