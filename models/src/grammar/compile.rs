//! Forms compiled to the nodes of an automaton.

use legenda_schemas::answer::{Form, Member, NumberShape, Shape};

use super::{GrammarError, number, number::Digits, pattern::Pattern};

/// The calendar dates of the years 1000 to 2999.
const DATE: &str = "(?:[12][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|\
     02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[12][0-9](?:0[48]|[2468][048]|[13579][26])|(?:1[26]|2[048])00)-02-29)";

/// The time of day and the offset of RFC 3339.
const TIME: &str = "T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?\
     (?:Z|[+-](?:0[0-9]|1[0-4]):[0-5][0-9])";

/// A node: what is valid as a value.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// Whether `null` is valid too.
    pub(super) is_nullable: bool,
    /// The shortest valid text; `null` where it is valid.
    pub(super) shortest: Vec<u8>,
}

/// A kind of value. Other nodes are given by their index.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// A text that matches.
    Raw(Pattern),
    /// A string whose inside matches.
    Quoted { pattern: Pattern, bytes_max: u32 },
    /// A string.
    Text { chars_min: u32, chars_max: u32 },
    /// A number.
    Number(NumberShape),
    /// An array.
    List { item: usize, items_min: u32, items_max: u32 },
    /// An object.
    Object(Vec<Key>),
}

/// A member of an object.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// The name as JSON with a colon.
    pub(super) text: Vec<u8>,
    pub(super) node: usize,
    pub(super) is_required: bool,
}

/// Compiles a form to nodes; the last one is the whole answer.
pub(super) fn nodes_of(form: &Form) -> Result<Vec<Node>, GrammarError> {
    let mut nodes = Vec::new();
    let kind = match form {
        Form::Object(members) => object(members, &mut nodes)?,
        Form::Regex(regex) => Kind::Raw(Pattern::new(regex, false)?),
        Form::Choices(choices) => Kind::Raw(one_of(choices.iter().cloned())?),
    };
    push(&mut nodes, kind, false);
    Ok(nodes)
}

fn push(nodes: &mut Vec<Node>, kind: Kind, is_nullable: bool) -> usize {
    let shortest = if is_nullable { b"null".to_vec() } else { shortest(&kind, nodes) };
    nodes.push(Node { kind, is_nullable, shortest });
    nodes.len() - 1
}

fn member(member: &Member, nodes: &mut Vec<Node>) -> Result<usize, GrammarError> {
    let kind = match &member.shape {
        Shape::Text { chars_min, chars_max } => {
            Kind::Text { chars_min: small(*chars_min), chars_max: small(*chars_max) }
        }
        Shape::Pattern { regex, bytes_max } => {
            let pattern = Pattern::new(&Pattern::anywhere(regex), true)?;
            if pattern.distance(pattern.start()) > small(*bytes_max) {
                let source = format!("it needs more than {bytes_max} bytes").into();
                return Err(GrammarError::Regex { regex: regex.clone(), source });
            }
            Kind::Quoted { pattern, bytes_max: small(*bytes_max) }
        }
        Shape::Choice(values) => Kind::Raw(one_of(values.iter().map(|value| json(value)))?),
        Shape::Numbers(values) => Kind::Raw(one_of(values.iter().map(i64::to_string))?),
        Shape::Bool => Kind::Raw(Pattern::new("true|false", false)?),
        Shape::Number(number) => Kind::Number(number.clone()),
        Shape::Date => Kind::Quoted { pattern: Pattern::new(DATE, true)?, bytes_max: 10 },
        Shape::Timestamp => {
            let pattern = Pattern::new(&format!("{DATE}{TIME}"), true)?;
            Kind::Quoted { pattern, bytes_max: 32 }
        }
        Shape::List { item, items_min, items_max } => Kind::List {
            item: self::member(item, nodes)?,
            items_min: small(*items_min),
            items_max: small(*items_max),
        },
        Shape::Struct(members) => object(members, nodes)?,
    };
    Ok(push(nodes, kind, member.is_nullable))
}

fn object(members: &[Member], nodes: &mut Vec<Node>) -> Result<Kind, GrammarError> {
    let key = |one: &Member| {
        let text = format!("{}:", json(&one.name)).into_bytes();
        Ok(Key { text, node: member(one, nodes)?, is_required: one.is_required })
    };
    members.iter().map(key).collect::<Result<_, GrammarError>>().map(Kind::Object)
}

/// Returns a pattern that matches exactly these texts.
fn one_of(texts: impl Iterator<Item = String>) -> Result<Pattern, GrammarError> {
    let escaped: Vec<String> = texts.map(|text| escaped(&text)).collect();
    Pattern::new(&escaped.join("|"), false)
}

/// Escapes the operators of regular expressions.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Returns a string as JSON.
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Returns the shortest text of a kind, of nodes that are complete.
fn shortest(kind: &Kind, nodes: &[Node]) -> Vec<u8> {
    match kind {
        Kind::Raw(pattern) => pattern.rest(pattern.start()),
        Kind::Quoted { pattern, .. } => {
            [b"\"".as_slice(), &pattern.rest(pattern.start()), b"\""].concat()
        }
        Kind::Text { chars_min, .. } => {
            [b"\"".as_slice(), &vec![super::frame::FILLER; *chars_min as usize], b"\""].concat()
        }
        Kind::Number(shape) => {
            number::rest(shape, Digits::default()).unwrap_or_default().into_bytes()
        }
        Kind::List { item, items_min, .. } => {
            let items = vec![nodes[*item].shortest.as_slice(); *items_min as usize];
            [b"[".as_slice(), &items.join(&b','), b"]"].concat()
        }
        Kind::Object(keys) => {
            let required = keys.iter().filter(|key| key.is_required);
            let members = required.map(|key| [&key.text[..], &nodes[key.node].shortest].concat());
            [b"{".as_slice(), &members.collect::<Vec<_>>().join(&b','), b"}"].concat()
        }
    }
}
