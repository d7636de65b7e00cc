//! A line of a batch file as a request.

use std::fmt;

use memchr::memmem;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Deserializer, Value};

use super::{
    chat,
    parameters::{Endpoint, Parameters},
};

/// A parsed line; its id and endpoint are kept even if the rest is invalid.
#[derive(Debug)]
pub(crate) struct Request {
    /// The client's id; a string if it is valid.
    pub(crate) custom_id: Option<Value>,
    /// Its endpoint.
    pub(crate) url: Option<String>,
    /// The parameters and inputs; a list of inputs is answered one by one.
    pub(crate) request: Result<(Parameters, Vec<RequestInput>), Refusal>,
}

/// The input of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RequestInput {
    /// The messages of a chat, as JSON.
    pub(crate) messages: Option<String>,
    /// The text of other requests.
    pub(crate) text: Option<String>,
    /// The images of the last message.
    pub(crate) images: Vec<Vec<u8>>,
}

/// The reason a request is rejected, as in the error object of the OpenAI API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of error, such as `unsupported_parameter`.
    pub code: String,
    /// The parameter at fault.
    pub param: Option<String>,
    /// The cause and the remedy.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(
        code: impl Into<String>,
        param: Option<&str>,
        message: impl Into<String>,
    ) -> Self {
        Self { code: code.into(), param: param.map(str::to_owned), message: message.into() }
    }

    /// Rejects the value of a parameter.
    pub(super) fn value(param: &str, message: impl Into<String>) -> Self {
        Self::new("invalid_value", Some(param), message)
    }
}

/// The known members of a line, parsed as far as the line is JSON.
#[derive(Default)]
struct Members {
    custom_id: Option<Value>,
    method: Option<Value>,
    url: Option<Value>,
    body: Option<Value>,
}

impl<'de> Visitor<'de> for &mut Members {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<String>()? {
            let member = match name.as_str() {
                "custom_id" => &mut self.custom_id,
                "method" => &mut self.method,
                "url" => &mut self.url,
                "body" => &mut self.body,
                _ => {
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *member = Some(members.next_value()?);
        }
        Ok(())
    }
}

impl Request {
    /// Parses a line.
    pub(crate) fn read(line: &[u8]) -> Self {
        let mut members = Members::default();
        let mut reader = Deserializer::from_slice(line.trim_ascii_end());
        let read = reader.deserialize_map(&mut members).and_then(|()| reader.end());
        let Members { mut custom_id, method, url, body } = members;
        if read.is_err() {
            custom_id = custom_id.or_else(|| custom_id_of_broken(line));
        }
        let request = match read {
            Err(error) => Err(Refusal::new(
                "invalid_json",
                None,
                format!("the line is not a valid request: {error}"),
            )),
            Ok(()) => read_request(custom_id.as_ref(), method.as_ref(), url.as_ref(), body),
        };
        let url = url.and_then(|url| url.as_str().map(str::to_owned));
        Self { custom_id: custom_id.filter(|id| !id.is_null()), url, request }
    }
}

fn read_request(
    custom_id: Option<&Value>,
    method: Option<&Value>,
    url: Option<&Value>,
    body: Option<Value>,
) -> Result<(Parameters, Vec<RequestInput>), Refusal> {
    let wrong = |member: &str, expected: &str, found: Option<&Value>| {
        let found = found.map_or("missing", kind);
        let code = if found == "missing" { "missing_required_parameter" } else { "invalid_value" };
        let message = format!("`{member}` of the line: expected {expected}, got {found}");
        Refusal::new(code, Some(member), message)
    };
    if !custom_id.is_some_and(Value::is_string) {
        return Err(wrong("custom_id", "a string", custom_id));
    }
    if let Some(method) = method.filter(|method| *method != "POST") {
        return Err(Refusal::value(
            "method",
            format!("invalid `method`: expected \"POST\", got {method}"),
        ));
    }
    let name = url.and_then(Value::as_str).ok_or_else(|| wrong("url", "a string", url))?;
    let endpoint = Endpoint::parse(name).ok_or_else(|| {
        let known = Endpoint::ALL.map(Endpoint::url).join("`, `");
        let message = format!("the endpoint `{name}` is not supported: expected one of `{known}`");
        Refusal::new("invalid_url", Some("url"), message)
    })?;
    let body = match body {
        Some(Value::Object(body)) => body,
        other => return Err(wrong("body", "an object", other.as_ref())),
    };
    let parameters = Parameters::read(endpoint, &body)?;
    let input = body.get(endpoint.input());
    let input = match endpoint {
        Endpoint::Chat => vec![chat::read(input)?],
        Endpoint::Completions | Endpoint::Embeddings => texts(endpoint.input(), input)?,
    };
    Ok((parameters, input))
}

/// Returns the texts of an input: a string or a list of strings.
fn texts(param: &str, input: Option<&Value>) -> Result<Vec<RequestInput>, Refusal> {
    let text = |text: &str| RequestInput { text: Some(text.to_owned()), ..RequestInput::default() };
    let problem = match input {
        Some(Value::String(input)) => return Ok(vec![text(input)]),
        Some(Value::Array(inputs)) if inputs.is_empty() => "is an empty list".to_owned(),
        Some(Value::Array(inputs)) => {
            let texts: Option<Vec<RequestInput>> =
                inputs.iter().map(|input| input.as_str().map(text)).collect();
            match texts {
                Some(texts) => return Ok(texts),
                None if inputs.iter().any(|input| input.is_number() || input.is_array()) => {
                    "contains token ids, which belong to another model's tokenizer".to_owned()
                }
                None => "contains an item that is not a string".to_owned(),
            }
        }
        None | Some(Value::Null) => {
            let message = format!("`{param}` is missing: expected a string or a list of strings");
            return Err(Refusal::new("missing_required_parameter", Some(param), message));
        }
        Some(other) => format!("is {}", kind(other)),
    };
    let message = format!("`{param}` {problem}: expected a string or a list of strings");
    Err(Refusal::value(param, message))
}

/// Returns the kind of a JSON value.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Finds the id of a request after the position where its line stops being JSON.
fn custom_id_of_broken(line: &[u8]) -> Option<Value> {
    const KEY: &[u8] = b"\"custom_id\"";
    memmem::find_iter(line, KEY)
        // Within a string, its quotes would be escaped.
        .filter(|at| at.checked_sub(1).is_none_or(|before| line[before] != b'\\'))
        .find_map(|at| {
            let rest = line[at + KEY.len()..].trim_ascii_start().strip_prefix(b":")?;
            let id = Deserializer::from_slice(rest).into_iter::<Value>().next()?.ok()?;
            id.is_string().then_some(id)
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Parameters, Refusal, Request, RequestInput};

    fn read(line: &str) -> Request {
        Request::read(line.as_bytes())
    }

    fn request(url: &str, body: &Value) -> Result<(Parameters, Vec<RequestInput>), Refusal> {
        read(&json!({"custom_id": "x", "method": "POST", "url": url, "body": body}).to_string())
            .request
    }

    #[test]
    fn a_name_is_kept_whatever_else_is_wrong() {
        for line in [
            r#"{"custom_id": "x", "url": "/v1/embeddings", "body": null}"#,
            r#"{"custom_id": "x", "url": 7}"#,
            r#"{"custom_id": "x", "method": "GET", "url": "/v1/embeddings", "body": {"input": "a"}}"#,
            r#"{"custom_id": "x", "body": {"input": "a"#,
            r#"{"url": "/v1/embeddings", "body": {"input": nonsense}, "custom_id" : "x"}"#,
            r#"{"url": "/v1", "body": "say \"custom_id\": \"y\" ", "custom_id": "x"} trailing"#,
            r#"{"body": [[[}, "custom_id": "x"}"#,
            "{\"custom_id\": \"x\", \"body\": \"\u{1}\"}",
        ] {
            let read = read(line);
            assert_eq!(read.custom_id, Some(json!("x")), "{line}");
            let refusal = read.request.unwrap_err();
            assert!(!refusal.message.is_empty(), "{line}");
        }
        // An id of another type is returned unchanged.
        let number = read(r#"{"custom_id": 7, "url": "/v1/embeddings", "body": {"input": "a"}}"#);
        assert_eq!(number.custom_id, Some(json!(7)));
        assert_eq!(number.request.unwrap_err().param.as_deref(), Some("custom_id"));
        for line in ["no json", "[]", "{}", "7", r#"{"custom_id": null}"#] {
            let read = read(line);
            assert!(read.custom_id.is_none() && read.request.is_err(), "{line}");
        }
    }

    #[test]
    fn a_list_of_texts_is_several_inputs() {
        let texts = |url: &str, body: Value| {
            request(url, &body).map(|(_, input)| {
                input.into_iter().map(|one| one.text.unwrap()).collect::<Vec<_>>()
            })
        };
        let of = |value: Value| texts("/v1/embeddings", json!({"input": value}));
        assert_eq!(of(json!("a")).unwrap(), ["a"]);
        assert_eq!(of(json!(["a"])).unwrap(), ["a"]);
        assert_eq!(of(json!(["a", "b", "a"])).unwrap(), ["a", "b", "a"]);
        let prompts = texts("/v1/completions", json!({"prompt": ["a", "b"]}));
        assert_eq!(prompts.unwrap(), ["a", "b"]);
        for (value, problem) in [
            (json!([]), "empty"),
            (json!([1, 2]), "token ids"),
            (json!([[1, 2], [3]]), "token ids"),
            (json!(["a", null]), "not a string"),
            (json!({"a": 1}), "an object"),
            (Value::Null, "missing"),
        ] {
            let refusal = of(value).unwrap_err();
            assert!(refusal.message.contains(problem), "{}", refusal.message);
            assert_eq!(refusal.param.as_deref(), Some("input"));
        }
    }

    #[test]
    fn an_endpoint_that_is_not_answered_is_named() {
        for url in ["/v1/responses", "/v1/moderations", "", "/v1/embedding"] {
            let refusal = request(url, &json!({"input": "a"})).unwrap_err();
            assert_eq!(refusal.code, "invalid_url");
            assert!(refusal.message.contains("`/v1/embeddings`"), "{}", refusal.message);
        }
    }
}
