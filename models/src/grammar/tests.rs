//! Tests of the automaton: what it accepts, and that every answer can be completed.

use legenda_schemas::answer::{Form, Member, Shape, members_of_schema, shape_of_name};
use serde_json::{Value, json};

use super::{Automaton, Grammar, TokenBytes};

fn column(shape: Shape) -> Automaton {
    let name = "x".to_owned();
    let member = Member { name, shape, is_nullable: false, is_required: true };
    Automaton::new(&Form::Object(vec![member])).unwrap()
}

fn of_schema(schema: &Value) -> Automaton {
    Automaton::new(&Form::Object(members_of_schema(schema).unwrap())).unwrap()
}

#[test]
fn values_of_each_type_are_accepted_as_declared() {
    for (name, valid, invalid) in [
        ("bool", vec!["true", "false"], vec!["True", "1", "null", "\"true\""]),
        ("int8", vec!["0", "-128", "127", "7"], vec!["128", "-129", "-0", "01", "1.0", "1e1", ""]),
        ("uint8", vec!["0", "255"], vec!["-1", "256"]),
        (
            "decimal(4, 2)",
            vec!["0", "99.99", "-1.5", "0.05"],
            vec!["100", "1.005", "1.", ".5", "-0.00"],
        ),
        (
            "float",
            vec!["1", "-0.000001", "123456789012345.654321"],
            vec!["1e3", "NaN", "1234567890123456"],
        ),
        (
            "date",
            vec!["\"2024-02-29\"", "\"2000-02-29\"", "\"1999-12-31\""],
            vec![
                "\"2023-02-29\"",
                "\"1900-02-29\"",
                "\"2024-04-31\"",
                "\"0001-01-01\"",
                "\"2024-1-1\"",
                "2024-01-01",
            ],
        ),
        (
            "timestamp",
            vec!["\"2024-02-29T23:59:59Z\"", "\"2024-02-28T00:00:00.123456+02:00\""],
            vec!["\"2024-02-28 00:00:00Z\"", "\"2024-02-28T24:00:00Z\"", "\"2024-02-28T00:00:00\""],
        ),
        (
            "string(3)",
            vec!["\"\"", "\"äöü\"", "\"\\n\\\"a\"", "\"日本語\""],
            vec!["\"abcd\"", "\"\n\"", "\"\\x\"", "\"\\u0000\"", "abc"],
        ),
        (
            "list<int, 2>",
            vec!["[]", "[1]", "[1,2]"],
            vec!["[1,2,3]", "[1 ,2]", "[,1]", "[1,]", "1"],
        ),
    ] {
        let automaton = column(shape_of_name(name).unwrap().0);
        let accepts = |value: &str| automaton.accepts(&format!("{{\"x\":{value}}}"));
        for value in valid {
            assert!(accepts(value), "{name}: {value}");
        }
        for value in invalid {
            assert!(!accepts(value), "{name}: {value}");
        }
    }
}

#[test]
fn objects_are_compact_and_in_order() {
    let automaton = of_schema(&json!({"type": "object", "required": ["b"], "properties": {
        "a": {"type": "boolean"}, "ab": {"type": ["integer", "null"]},
        "b": {"type": "object", "properties": {"c": {"enum": ["x\"y", "z"]}}}}}));
    for (text, is_valid) in [
        (r#"{"b":{}}"#, true),
        (r#"{"b":{"c":"x\"y"},"a":true,"ab":null}"#, true),
        (r#"{"b":{},"ab":-12}"#, true),
        (r#"{"b":{},"ab":1,"a":true}"#, false),
        (r#"{"a":true}"#, false),
        (r#"{"b": {}}"#, false),
        (r#"{"b":{},}"#, false),
        (r#"{"b":{"c":"w"}}"#, false),
        (r#"{"b":{}} "#, false),
    ] {
        assert_eq!(automaton.accepts(text), is_valid, "{text}");
    }
}

#[test]
fn texts_match_as_a_whole() {
    let regex = Automaton::new(&Form::Regex("[A-Z]{2}[0-9]+|none".to_owned())).unwrap();
    assert!(regex.accepts("AB12") && regex.accepts("none"));
    assert!(!regex.accepts("AB") && !regex.accepts("xAB12") && !regex.accepts("AB12 "));
    let choices =
        Automaton::new(&Form::Choices(vec!["yes".into(), "yes, but".into(), "n.o".into()]));
    let choices = choices.unwrap();
    assert!(choices.accepts("yes") && choices.accepts("yes, but") && choices.accepts("n.o"));
    assert!(!choices.accepts("yes,") && !choices.accepts("nno"));
    let pattern = of_schema(&json!({"type": "object", "required": ["x"], "properties": {
        "x": {"type": "string", "pattern": "^a.c$", "maxLength": 4}}}));
    assert!(pattern.accepts(r#"{"x":"abc"}"#) && pattern.accepts("{\"x\":\"aäc\"}"));
    assert!(!pattern.accepts(r#"{"x":"abcd"}"#) && !pattern.accepts(r#"{"x":"a"c"}"#));
    for regex in ["(", "a{1000}{5000}", "[a&&b]"] {
        let error = Automaton::new(&Form::Regex(regex.to_owned())).unwrap_err().to_string();
        assert!(error.contains(regex), "{error}");
    }
}

/// From every prefix of an answer, the rest completes it.
#[test]
fn every_prefix_can_be_completed() {
    let automaton = of_schema(
        &json!({"type": "object", "required": ["a", "n", "l"], "properties": {
        "a": {"type": "string", "minLength": 3, "maxLength": 5},
        "n": {"type": "number", "minimum": 2.5, "exclusiveMaximum": 12},
        "l": {"type": "array", "minItems": 2, "items": {"type": "object", "required": ["k"],
            "properties": {"k": {"type": ["integer", "null"], "minimum": -20, "maximum": -11}, "d": {"type": "string", "format": "date"}}}},
        "p": {"type": "string", "pattern": "[0-9]x"}}}),
    );
    let answer = "{\"a\":\"\u{e4}\u{1F600}\\n\",\"n\":11.25,\"l\":[{\"k\":-12,\"d\":\"2024-02-29\"},\
                  {\"k\":null}],\"p\":\"ab3x\u{e4}\"}";
    assert!(automaton.accepts(answer));
    let mut state = automaton.start(false);
    for (n_bytes, byte) in answer.bytes().enumerate() {
        let whole = [&answer.as_bytes()[..n_bytes], &automaton.rest(&state)].concat();
        let text = String::from_utf8(whole).unwrap();
        assert!(automaton.accepts(&text), "{n_bytes}: {text}");
        state = automaton.step(&state, byte).unwrap();
    }
    assert!(automaton.is_complete(&state) && automaton.rest(&state).is_empty());
}

/// A mask is the set of tokens that the automaton accepts, byte by byte.
#[test]
fn a_mask_has_the_tokens_that_continue_the_answer() {
    let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
    tokens.extend(
        ["{\"", "\":", "tru", "true}", "xyz", "\",\"", "12", ",\"b\":", "-1"]
            .map(|text| text.as_bytes().to_vec()),
    );
    tokens.push(Vec::new());
    let eos = i64::try_from(tokens.len() - 1).unwrap();
    let automaton = of_schema(&json!({"type": "object", "required": ["a", "b"], "properties": {
        "a": {"type": "string", "maxLength": 60}, "b": {"type": "boolean"}}}));
    let vocabulary = TokenBytes { tokens: tokens.clone(), has_leading_space: false };
    let mut grammar = Grammar::new(automaton.clone(), &vocabulary, vec![eos]).unwrap();
    let answer = format!("{{\"a\":\"{}\",\"b\":true}}", "xyz".repeat(19));
    let mut state = automaton.start(false);
    for byte in answer.bytes() {
        let mut scores = vec![0.0; tokens.len() + 3];
        grammar.mask(&state, &mut scores);
        for (id, token) in tokens.iter().enumerate() {
            let after =
                token.iter().try_fold(state.clone(), |state, byte| automaton.step(&state, *byte));
            let is_valid = after.is_some() && !token.is_empty();
            assert_eq!(scores[id] == 0.0, is_valid, "{state:?}: {token:?}");
        }
        assert!(scores[tokens.len()..].iter().all(|score| *score == f32::NEG_INFINITY));
        state = automaton.step(&state, byte).unwrap();
    }
    let mut scores = vec![0.0; tokens.len()];
    grammar.mask(&state, &mut scores);
    assert_eq!(scores.iter().position(|score| *score == 0.0), Some(tokens.len() - 1));
}

#[test]
fn a_vocabulary_without_a_needed_byte_is_refused() {
    let automaton = Automaton::new(&Form::Choices(vec!["yes".to_owned()])).unwrap();
    let tokens = |texts: &[&str]| TokenBytes {
        tokens: texts.iter().map(|text| text.as_bytes().to_vec()).collect(),
        has_leading_space: false,
    };
    assert!(Grammar::new(automaton.clone(), &tokens(&["", "y", "es"]), vec![0]).is_ok());
    let error = Grammar::new(automaton.clone(), &tokens(&["", "y", "e"]), vec![0]).unwrap_err();
    assert!(error.to_string().contains("`yes`"), "{error}");
    assert!(Grammar::new(automaton, &tokens(&["y", "es"]), Vec::new()).is_err());
}
