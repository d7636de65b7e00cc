//! Guards: limits on the size of lists and maps that an operator, filter, test or method reads.
//!
//! Each guard is a function of the environment with a name that no template can write. It takes the
//! operands, fails if their nested content does not fit into the remaining fuel, and returns them.

use std::borrow::Cow;

use minijinja::{
    Environment, Error, ErrorKind, State, Value, escape_formatter,
    value::{DynObject, ObjectRepr, Rest, ValueOrKwargs},
};

use super::weight::{UNIT_BYTES, Weight, ensure, remaining};

/// The maximum size in bytes of an escaped character: `\u{10ffff}`, rounded up. minijinja charges
/// this for text that it makes of lists.
const ESCAPED_BYTES: u64 = 16;
/// The size in bytes of a value when its list is printed: commas, quotes, brackets or digits.
const NODE_BYTES: u64 = 24;
/// The size in bytes of a value in a list in memory, including growth.
const SLOT_BYTES: u64 = 48;
/// The number of list values created per unit of fuel.
const UNIT_SLOTS: u64 = 2;
/// The number of columns that `pprint` indents by.
const PPRINT_INDENT: u64 = 4;

/// A check before an operation, or after it ([`Guard::Solid`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// Reads lists and maps completely.
    Read,
    /// Prints lists and maps as text.
    Show,
    /// Prints lists, maps and texts, escaped and indented.
    Serialize,
    /// Splits a text into a list.
    Split,
    /// Prints each operand as often as a format string uses it.
    Format,
    /// Applies another filter to every value of a list.
    Map,
    /// Adds up the values of a list, which copies the sum for each value.
    Sum,
    /// Compares two values.
    Compare,
    /// Searches for one operand in the other, in either direction.
    Search,
    /// Stores the first operand in a namespace.
    Keep,
    /// Materializes a value with lazy items into a list, and limits its depth.
    Solid,
}

impl Guard {
    const ALL: [Self; 11] = [
        Self::Read,
        Self::Show,
        Self::Serialize,
        Self::Split,
        Self::Format,
        Self::Map,
        Self::Sum,
        Self::Compare,
        Self::Search,
        Self::Keep,
        Self::Solid,
    ];

    /// Returns the name in the environment, which is not a valid identifier.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "<read>",
            Self::Show => "<show>",
            Self::Serialize => "<serialize>",
            Self::Split => "<split>",
            Self::Format => "<format>",
            Self::Map => "<map>",
            Self::Sum => "<sum>",
            Self::Compare => "<compare>",
            Self::Search => "<search>",
            Self::Keep => "<keep>",
            Self::Solid => "<solid>",
        }
    }

    fn check(self, state: &State<'_, '_>, operands: &mut [Value]) -> Result<(), Error> {
        let (first, rest) = match operands {
            [] => return Ok(()),
            [first, rest @ ..] => (first, rest),
        };
        match self {
            Self::Read => {
                read(state, first)?;
                rest.iter().try_for_each(|value| read(state, value))
            }
            Self::Show => {
                show(state, first)?;
                rest.iter().try_for_each(|value| show(state, value))
            }
            Self::Serialize => serialize(state, first, rest),
            Self::Split => split(state, first, rest.first()),
            Self::Format => format(state, first, rest),
            Self::Map => map(state, first, rest),
            Self::Sum => sum(state, first),
            Self::Compare => rest.first().map_or(Ok(()), |other| compare(state, first, other)),
            Self::Search => rest.first().map_or(Ok(()), |other| {
                compare(state, first, other)?;
                read(state, first)?;
                read(state, other)
            }),
            Self::Keep => {
                *first = solid(state, first, false)?;
                Ok(())
            }
            Self::Solid => {
                *first = solid(state, first, true)?;
                Ok(())
            }
        }
    }
}

/// Returns the guard of a filter or method.
pub(super) fn for_filter(name: &str) -> Option<Guard> {
    Some(match name {
        // These do not read nested content, or consume fuel for every value.
        "abs" | "attr" | "batch" | "bool" | "chain" | "d" | "default" | "first" | "float"
        | "get" | "int" | "items" | "keys" | "last" | "length" | "list" | "reverse" | "round"
        | "slice" | "values" | "zip" => return None,
        "e" | "escape" | "forceescape" | "pprint" | "tojson" | "urlencode" => Guard::Serialize,
        "split" | "lines" | "splitlines" => Guard::Split,
        "format" => Guard::Format,
        "map" => Guard::Map,
        "sum" => Guard::Sum,
        "string" => Guard::Show,
        _ => Guard::Read,
    })
}

/// Returns the guard of a test.
pub(super) fn for_test(name: &str) -> Option<Guard> {
    Some(match name {
        "boolean" | "defined" | "divisibleby" | "escaped" | "even" | "false" | "filter"
        | "float" | "int" | "integer" | "iterable" | "mapping" | "none" | "number" | "odd"
        | "safe" | "sequence" | "string" | "test" | "true" | "undefined" => return None,
        "in" => Guard::Search,
        "==" | "eq" | "equalto" | "!=" | "ne" | "<" | "lt" | "lessthan" | "<=" | "le" | ">"
        | "gt" | "greaterthan" | ">=" | "ge" => Guard::Compare,
        _ => Guard::Read,
    })
}

/// Returns the guard of a function, if it takes a message. Macros consist of instructions that are
/// guarded themselves.
pub(super) fn for_function(name: &str) -> Option<Guard> {
    (name == "raise_exception").then_some(Guard::Show)
}

/// Adds the guards to an environment.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    for guard in Guard::ALL {
        environment.add_function(
            guard.name(),
            move |state: &State<'_, '_>, operands: Rest<ValueOrKwargs>| -> Result<Value, Error> {
                let mut operands: Vec<Value> = operands.0.into_iter().map(Value::from).collect();
                guard.check(state, &mut operands)?;
                if let [operand] = operands.as_slice() {
                    return Ok(operand.clone());
                }
                // Unpacked lists are on the stack with the first item on top.
                operands.reverse();
                Ok(Value::from(operands))
            },
        );
    }
    environment.set_formatter(|output, state, value| {
        show(state, value)?;
        escape_formatter(output, state, value)
    });
}

/// Charges for the content of a list or map. minijinja itself charges for texts.
fn read(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.as_object().is_none() {
        return Ok(());
    }
    let weight = Weight::measure(state, value)?;
    if weight.depth > 1 {
        // The nested lists may be printed as text.
        ensure(state, written(weight))?;
    }
    state.consume_fuel(weight.bytes / UNIT_BYTES)
}

/// Ensures that a list or map fits into the remaining fuel as text.
fn show(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.as_object() {
        Some(_) => ensure(state, written(Weight::measure(state, value)?)),
        None => Ok(()),
    }
}

fn written(weight: Weight) -> u64 {
    weight.bytes.saturating_mul(ESCAPED_BYTES).saturating_add(weight.nodes * NODE_BYTES)
}

fn serialize(state: &State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<(), Error> {
    let weight = Weight::measure(state, value)?;
    let indents = arguments.iter().map(|argument| {
        let named = argument.get_attr("indent").ok().and_then(|indent| indent.as_usize());
        argument.as_usize().or(named).unwrap_or(0) as u64
    });
    let indent = indents.max().unwrap_or(0).max(PPRINT_INDENT);
    let margins = weight.nodes.saturating_mul(weight.depth + 1).saturating_mul(indent);
    ensure(state, written(weight).saturating_add(margins))
}

fn split(state: &State<'_, '_>, value: &Value, separator: Option<&Value>) -> Result<(), Error> {
    let Some(text) = value.as_str() else { return read(state, value) };
    let pieces = match separator.and_then(Value::as_str) {
        Some("") => text.len(),
        Some(separator) => text.matches(separator).count(),
        // Splits at spaces or line ends.
        None => text.bytes().filter(u8::is_ascii_whitespace).count() + text.len() / 64,
    };
    ensure(state, (pieces as u64).saturating_mul(SLOT_BYTES).saturating_add(text.len() as u64))
}

/// Handles `%s` and `{}`: an operand becomes at most as long as the width in the format string.
fn format(state: &State<'_, '_>, format: &Value, operands: &[Value]) -> Result<(), Error> {
    let Some(format) = format.as_str() else { return read(state, format) };
    let mut longest = 0;
    for operand in operands {
        longest = longest.max(written(Weight::measure(state, operand)?));
    }
    let fields = format.matches(['%', '{']).count() as u64;
    let widths = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let widths = widths
        .map(|digits| digits.parse::<u64>().unwrap_or(u64::MAX))
        .fold(0, |sum: u64, width| sum.saturating_add(width));
    let bytes = fields.saturating_mul(longest).saturating_add(widths.saturating_mul(4));
    ensure(state, bytes.saturating_add(format.len() as u64))
}

fn map(state: &State<'_, '_>, value: &Value, arguments: &[Value]) -> Result<(), Error> {
    let name = arguments.first().and_then(Value::as_str);
    // Named arguments have no filter name: `map(attribute="x")`.
    let guard = name.and_then(|name| for_filter(&without_spaces(name)));
    let rest = arguments.get(1..).unwrap_or_default();
    match guard {
        Some(Guard::Format | Guard::Map) => {
            let problem = "`format` and `map` cannot be applied by `map`; write a loop";
            Err(Error::new(ErrorKind::InvalidOperation, problem))
        }
        Some(Guard::Serialize) => serialize(state, value, rest),
        Some(Guard::Split) => {
            let weight = Weight::measure(state, value)?;
            ensure(state, weight.bytes.saturating_mul(SLOT_BYTES))
        }
        Some(Guard::Sum) => sum(state, value),
        _ => {
            read(state, value)?;
            rest.iter().try_for_each(|value| read(state, value))
        }
    }
}

/// minijinja ignores spaces in filter names.
fn without_spaces(name: &str) -> Cow<'_, str> {
    if name.contains(|c: char| c.is_ascii_whitespace()) {
        name.split_ascii_whitespace().collect::<String>().into()
    } else {
        name.into()
    }
}

/// Numbers have no bytes; the running sum of texts and lists is copied for each value.
fn sum(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let weight = Weight::measure(state, value)?;
    let lists = if weight.depth > 1 { weight.nodes * SLOT_BYTES } else { 0 };
    let copied = weight.bytes.saturating_add(lists).saturating_mul(weight.nodes);
    ensure(state, copied)?;
    state.consume_fuel(copied / UNIT_BYTES)
}

/// Charges for the shorter of two texts or lists, since no more is compared.
fn compare(state: &State<'_, '_>, one: &Value, other: &Value) -> Result<(), Error> {
    let bytes = match (one.as_str(), other.as_str()) {
        // Comparing is much faster than printing.
        (Some(one), Some(other)) => one.len().min(other.len()) as u64 / 8,
        _ if one.as_object().is_some() && other.as_object().is_some() => {
            let shorter = Weight::measure(state, one)?.bytes;
            shorter.min(Weight::measure(state, other)?.bytes)
        }
        _ => 0,
    };
    state.consume_fuel(bytes / UNIT_BYTES)
}

/// Materializes all items of a value, so that lazy lists cannot be chained: chaining takes no fuel
/// until one of them is read, and then overflows the stack.
///
/// Allows a namespace, loop or macro if `may_be_namespace` is set, but never within a list or a
/// namespace: a namespace that contains itself is never freed.
fn solid(state: &State<'_, '_>, value: &Value, may_be_namespace: bool) -> Result<Value, Error> {
    let Some(object) = value.as_object() else { return Ok(value.clone()) };
    if is_stateful(object) {
        let name = object.type_name().rsplit("::").next().unwrap_or_default().to_lowercase();
        let problem = format!("a {name} cannot be stored in a namespace; store its values");
        let refused = || Error::new(ErrorKind::InvalidOperation, problem);
        return if may_be_namespace { Ok(value.clone()) } else { Err(refused()) };
    }
    let is_lazy = match object.repr() {
        ObjectRepr::Iterable => true,
        ObjectRepr::Seq => {
            object.downcast_ref::<Vec<Value>>().is_none()
                && !value.is_tuple()
                && !object.type_name().ends_with("GroupTuple")
        }
        _ => false,
    };
    let made = if is_lazy {
        let limit = remaining(state).saturating_mul(UNIT_SLOTS);
        let mut items = Vec::new();
        for item in object.try_iter().into_iter().flatten() {
            if items.len() as u64 >= limit {
                return Err(ErrorKind::OutOfFuel.into());
            }
            items.push(item);
        }
        state.consume_fuel(items.len() as u64 / UNIT_SLOTS)?;
        Value::from(items)
    } else {
        value.clone()
    };
    Weight::measure(state, &made)?;
    Ok(made)
}

/// Returns whether an object is mutable and holds others, or is not data.
pub(super) fn is_stateful(object: &DynObject) -> bool {
    let name = object.type_name();
    ["Namespace", "Loop"].iter().any(|end| name.ends_with(end))
}
