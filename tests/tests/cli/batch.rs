//! OpenAI batch files: every line gets a response, valid or not.

use std::fs;

use base64::{Engine, prelude::BASE64_STANDARD};
use legenda_tests::{Workplace, png, references::bundle};
use serde_json::{Value, json};

fn request(id: &str, url: &str, body: Value) -> String {
    json!({"custom_id": id, "method": "POST", "url": url, "body": body}).to_string()
}

/// Returns a chat request with one question and extra parameters.
fn chat(id: &str, question: &str, parameters: Value) -> String {
    let mut body = json!({
        "model": "m", "messages": [{"role": "user", "content": question}], "max_tokens": 12,
    });
    for (name, value) in parameters.as_object().unwrap() {
        body[name] = value.clone();
    }
    request(id, "/v1/chat/completions", body)
}

/// Runs `legenda batch` with a model; returns the responses in file order.
fn answer(place: &Workplace, lines: &[String], model: &str) -> Vec<Value> {
    place.write("in.jsonl", &lines.join("\n"));
    let args = ["batch", "in.jsonl", "--model", model, "--out", "out.jsonl"];
    let ended = place.run(&args).expect(0);
    let count = format!("{} response", lines.len());
    assert!(ended.stdout.contains(&count), "{}", ended.stdout);
    let responses = fs::read_to_string(place.path("out.jsonl")).unwrap();
    let responses: Vec<Value> =
        responses.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(responses.len(), lines.len(), "expected one response per line");
    responses
}

/// Returns the number of jobs; each has its own output.
fn n_jobs(place: &Workplace) -> usize {
    let folders = fs::read_dir(place.path("out.jsonl.legenda")).unwrap();
    let names = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != "requests" && !name.ends_with(".legenda")).count()
}

fn llama() -> String {
    bundle("llama").to_str().unwrap().to_owned()
}

fn minilm() -> String {
    bundle("minilm").to_str().unwrap().to_owned()
}

fn content(response: &Value) -> &str {
    let content = &response["response"]["body"]["choices"][0]["message"]["content"];
    content.as_str().unwrap_or_else(|| panic!("no answer: {response}"))
}

/// Asserts that a response is a bad-request error; returns its message.
fn error<'a>(response: &'a Value, param: Option<&str>) -> &'a str {
    assert_eq!(response["response"]["status_code"], 400, "{response}");
    let error = &response["response"]["body"]["error"];
    assert_eq!(error["type"], "invalid_request_error", "{response}");
    assert_eq!(error["param"].as_str(), param, "{response}");
    assert!(error["code"].is_string(), "{response}");
    assert_eq!(error["message"], response["error"]["message"]);
    error["message"].as_str().unwrap()
}

#[test]
fn an_invalid_line_does_not_affect_other_lines() {
    let place = Workplace::new();
    let embedding = request("embedding", "/v1/embeddings", json!({"model": "m", "input": "five"}));
    let lines = [
        chat("first", "What is five plus four?", json!({})),
        embedding,
        chat("logprobs", "What?", json!({"logprobs": true, "top_k": 5})),
        r#"{"custom_id": "no body", "url": "/v1/chat/completions", "body": null}"#.to_owned(),
        r#"{"custom_id": "cut", "url": "/v1/chat/completions", "body": {"mess"#.to_owned(),
        "not JSON at all".to_owned(),
        json!({"url": "/v1/chat/completions", "body": {"messages": []}}).to_string(),
        json!({"custom_id": 12, "url": "/v1/chat/completions", "body": {}}).to_string(),
        request("elsewhere", "/v1/images/generations", json!({"prompt": "a dog"})),
        chat("last", "What is dog in German?", json!({})),
    ];
    let told = answer(&place, &lines, &llama());
    let names: Vec<&Value> = told.iter().map(|told| &told["custom_id"]).collect();
    let expected = json!([
        "first",
        "embedding",
        "logprobs",
        "no body",
        "cut",
        null,
        null,
        12,
        "elsewhere",
        "last"
    ]);
    assert_eq!(json!(names), expected);
    assert!(!content(&told[0]).is_empty() && !content(&told[9]).is_empty());
    for (idx, param, text) in [
        (1, Some("url"), "embed"),
        (2, Some("logprobs"), "`logprobs`"),
        (3, Some("body"), "null"),
        (4, None, "EOF"),
        (5, None, "not a valid request"),
        (6, Some("custom_id"), "missing"),
        (7, Some("custom_id"), "a number"),
        (8, Some("url"), "/v1/chat/completions"),
    ] {
        let message = error(&told[idx], param);
        assert!(message.contains(text), "{message}");
    }
    // With an embedding model, chats fail and embeddings succeed.
    let place = Workplace::new();
    let told = answer(&place, &lines, &minilm());
    assert!(told[1]["response"]["body"]["data"][0]["embedding"][0].is_f64(), "{}", told[1]);
    assert!(error(&told[0], Some("url")).contains("embeddings"));
}

#[test]
fn parameters_are_applied_or_refused_and_neutral_ones_have_no_effect() {
    let place = Workplace::new();
    let question = "What is five plus four?";
    let neutral = json!({
        "logprobs": false, "top_logprobs": 0, "n": 1, "tools": [], "tool_choice": "auto",
        "logit_bias": {}, "stream": false, "response_format": {"type": "text"},
        "presence_penalty": 0, "frequency_penalty": 0.0, "user": "u", "guided_json": null,
    });
    let lines = [
        chat("plain", question, json!({})),
        chat("neutral", question, neutral),
        chat("one", question, json!({"max_tokens": 1})),
        chat("penalty", question, json!({"repetition_penalty": 5.0})),
        chat("drawn", question, json!({"temperature": 1.5, "top_k": 1, "min_p": 0})),
        chat("schema", question, json!({"guided_json": {"type": "object"}})),
        chat("bias", question, json!({"logit_bias": {"7": -100}})),
        chat("unknown", question, json!({"max_token": 3})),
    ];
    let told = answer(&place, &lines, &llama());
    assert_eq!(content(&told[0]), content(&told[1]));
    let tokens = |told: &Value| told["response"]["body"]["usage"]["completion_tokens"].clone();
    assert_eq!(tokens(&told[2]), 1);
    assert_ne!(content(&told[3]), content(&told[0]), "the penalty has no effect");
    assert_eq!(
        content(&told[4]),
        content(&told[0]),
        "sampling from one candidate must equal greedy decoding"
    );
    error(&told[5], Some("guided_json"));
    error(&told[6], Some("logit_bias"));
    assert!(error(&told[7], Some("max_token")).contains("did you mean `max_tokens`?"));
    // Requests with the same parameters share a job.
    assert_eq!(n_jobs(&place), 4);
}

#[test]
fn requests_that_differ_only_in_their_seed_share_a_job() {
    let place = Workplace::new();
    let drawn = |id: String, seed: i64| {
        chat(&id, "What is five plus four?", json!({"temperature": 3.0, "top_k": -1, "seed": seed}))
    };
    let seeds: Vec<i64> = (-10..20).collect();
    let mut lines: Vec<String> =
        seeds.iter().map(|seed| drawn(format!("seed {seed}"), *seed)).collect();
    lines.extend([drawn("again".to_owned(), 7), drawn("negative".to_owned(), -3)]);
    let told = answer(&place, &lines, &llama());
    let of = |id: &str| content(told.iter().find(|told| told["custom_id"] == id).unwrap());
    assert_eq!(of("again"), of("seed 7"), "the answer depends on the position of the line");
    assert_eq!(of("negative"), of("seed -3"));
    let mut answers: Vec<&str> = told.iter().map(content).collect();
    answers.sort_unstable();
    answers.dedup();
    assert!(answers.len() > 20, "{} answers of 30 seeds", answers.len());
    assert_eq!(n_jobs(&place), 1);
}

#[test]
fn lists_of_inputs_are_answered_in_their_order() {
    let place = Workplace::new();
    let embedding = |id: &str, body: Value| request(id, "/v1/embeddings", body);
    let lines = [
        embedding("one", json!({"input": "five"})),
        embedding("list", json!({"input": ["four", "five", "four"], "user": "u"})),
        embedding("packed", json!({"input": ["five"], "encoding_format": "base64"})),
        embedding("ids", json!({"input": [[1, 2], [3]]})),
        embedding("narrow", json!({"input": "five", "dimensions": 3})),
        embedding("hot", json!({"input": "five", "temperature": 1})),
    ];
    let told = answer(&place, &lines, &minilm());
    let data = |idx: usize| told[idx]["response"]["body"]["data"].as_array().unwrap();
    let five = &data(0)[0]["embedding"];
    let list = data(1);
    let places: Vec<&Value> = list.iter().map(|one| &one["index"]).collect();
    assert_eq!(json!(places), json!([0, 1, 2]));
    assert_eq!(&list[1]["embedding"], five);
    assert_eq!(list[0]["embedding"], list[2]["embedding"]);
    assert_ne!(list[0]["embedding"], list[1]["embedding"]);
    let usage =
        |idx: usize| told[idx]["response"]["body"]["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(usage(1) > usage(0), "the usage must count all inputs");
    let packed = BASE64_STANDARD.decode(data(2)[0]["embedding"].as_str().unwrap()).unwrap();
    let (numbers, rest) = packed.as_chunks::<4>();
    let numbers = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<_>>();
    assert!(rest.is_empty());
    #[expect(clippy::cast_possible_truncation, reason = "embeddings are 32-bit floats")]
    let as_f32 = |number: &Value| number.as_f64().unwrap() as f32;
    assert_eq!(numbers, five.as_array().unwrap().iter().map(as_f32).collect::<Vec<_>>());
    let dimensions = numbers.len();
    assert!(error(&told[3], Some("input")).contains("token ids"));
    assert!(error(&told[4], Some("dimensions")).contains(&dimensions.to_string()));
    error(&told[5], Some("temperature"));
    // The model's own dimension is accepted.
    let own = embedding("own", json!({"input": "five", "dimensions": dimensions}));
    let told = answer(&Workplace::new(), &[own], &minilm());
    assert_eq!(&told[0]["response"]["body"]["data"][0]["embedding"], five);
}

#[test]
fn each_prompt_of_a_completion_gets_one_choice() {
    let place = Workplace::new();
    let body = |prompt: Value| json!({"prompt": prompt, "max_tokens": 8});
    let completion = |id: &str, prompt: Value| request(id, "/v1/completions", body(prompt));
    let lines = [
        completion("one", json!("What is dog in German?")),
        completion("two", json!(["What is five plus four?", "What is dog in German?"])),
        completion("blank", json!(["What is five plus four?", " "])),
        request("echo", "/v1/completions", json!({"prompt": "What?", "echo": true})),
    ];
    let told = answer(&place, &lines, &llama());
    let choices = |idx: usize| told[idx]["response"]["body"]["choices"].as_array().unwrap();
    assert_eq!(choices(1).len(), 2);
    assert_eq!(choices(1)[1]["text"], choices(0)[0]["text"]);
    assert_eq!(choices(1)[1]["index"], 1);
    assert!(error(&told[2], Some("prompt")).starts_with("prompt[1]: "));
    error(&told[3], Some("echo"));
}

#[test]
fn images_are_sent_only_to_models_that_accept_them() {
    let image = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png(9)));
    let broken = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(b"no image"));
    let shown = |id: &str, url: &str| {
        let content = json!([
            {"type": "text", "text": "Describe the picture."},
            {"type": "image_url", "image_url": {"url": url}},
        ]);
        let messages = json!([{"role": "user", "content": content}]);
        request(id, "/v1/chat/completions", json!({"messages": messages, "max_tokens": 12}))
    };
    let lines = [
        shown("shown", &image),
        shown("broken", &broken),
        chat("asked", "What is dog in German?", json!({})),
        shown("far", "https://example.org/x.png"),
    ];
    let told = answer(&Workplace::new(), &lines, "legenda-tiny");
    assert!(!content(&told[0]).is_empty() && !content(&told[2]).is_empty());
    error(&told[1], Some("messages"));
    assert!(error(&told[3], Some("messages")).contains("not fetched"));
    let told = answer(&Workplace::new(), &lines, &llama());
    assert!(error(&told[0], Some("messages")).contains("does not accept images"));
    assert!(!content(&told[2]).is_empty());
}

#[test]
fn answered_requests_are_not_processed_again() {
    let place = Workplace::new();
    let mut lines = vec![
        chat("a", "What is five plus four?", json!({})),
        chat("b", "What is dog in German?", json!({"max_tokens": 3})),
    ];
    let first = answer(&place, &lines, &llama());
    // A second group has new requests; the first group is unchanged.
    lines.push(chat("c", "What is cat in German?", json!({"max_tokens": 3})));
    place.write("in.jsonl", &lines.join("\n"));
    let args = ["batch", "in.jsonl", "--model", &llama(), "--out", "out.jsonl"];
    let ended = place.run(&args).expect(0);
    assert!(
        ended.stdout.contains("1 row was committed by earlier runs")
            || ended.stdout.contains("1 rows were committed by earlier runs"),
        "{}",
        ended.stdout
    );
    let later = fs::read_to_string(place.path("out.jsonl")).unwrap();
    let later: Vec<Value> = later.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(content(&later[0]), content(&first[0]));
    assert_eq!(content(&later[1]), content(&first[1]));
    assert!(!content(&later[2]).is_empty());
    let tables = fs::read_dir(place.path("out.jsonl.legenda/requests")).unwrap().count();
    assert_eq!(tables, 2, "expected one table per group and no earlier ones");
}

#[test]
fn duplicate_ids_and_multiple_models_are_reported() {
    let place = Workplace::new();
    let lines = [
        chat("x", "What is five plus four?", json!({})),
        chat("x", "What is dog in German?", json!({"model": "another"})),
    ];
    place.write("in.jsonl", &lines.join("\n"));
    let args = ["batch", "in.jsonl", "--model", &llama(), "--out", "out.jsonl"];
    let ended = place.run(&args).expect(0);
    ended.stderr_contains(&[
        "1 request repeats the `custom_id`",
        "2 requests name another model",
        "`another`",
    ]);
    let told = fs::read_to_string(place.path("out.jsonl")).unwrap();
    assert_eq!(told.lines().count(), 2);
    let model = llama();
    for line in told.lines() {
        let told: Value = serde_json::from_str(line).unwrap();
        assert_eq!(told["custom_id"], "x");
        assert_eq!(told["response"]["body"]["model"], model.as_str());
    }
}
