//! JSON Schema to shapes. Only a subset can be enforced and has a column type; anything else is an error
//! that names the keyword. `docs/typed-answers.md` lists the subset.

use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use super::{
    Member, NumberShape, Shape, ShapeError, decimal,
    shape::{DEPTH_MAX, LIST_ITEMS_LIMIT, LIST_ITEMS_MAX, TEXT_CHARS_LIMIT, TEXT_CHARS_MAX},
};

/// Keywords that allow every value.
const ANNOTATIONS: [&str; 12] = [
    "title",
    "description",
    "default",
    "examples",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "deprecated",
    "readOnly",
    "writeOnly",
];

/// The pattern of `format: uuid`.
const UUID: &str = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";

/// Returns the members of the object that a JSON Schema describes: the required ones in their order, then the
/// others by name.
///
/// # Errors
///
/// [`ShapeError::Keyword`] if a keyword is not supported, does not apply, or contradicts another.
pub fn members_of_schema(schema: &Value) -> Result<Vec<Member>, ShapeError> {
    let (shape, is_nullable) = Parser { root: schema }.parse(schema, "#", 0)?;
    match shape {
        Shape::Struct(members) if !is_nullable => Ok(members),
        _ => Err(problem("type", "#", "must be `object`: each property becomes a column")),
    }
}

fn problem(keyword: &str, at: &str, problem: impl Into<String>) -> ShapeError {
    ShapeError::Keyword { keyword: keyword.to_owned(), at: at.to_owned(), problem: problem.into() }
}

struct Parser<'s> {
    root: &'s Value,
}

impl Parser<'_> {
    /// Returns the shape of a schema, and whether it allows `null`.
    fn parse(&self, schema: &Value, at: &str, depth: usize) -> Result<(Shape, bool), ShapeError> {
        if depth > DEPTH_MAX {
            let limit = format!("is recursive, or nested more than {DEPTH_MAX} times");
            return Err(problem("properties", at, limit));
        }
        let Value::Object(schema) = schema else {
            return Err(problem("schema", at, format!("must be an object, got `{schema}`")));
        };
        if let Some(target) = schema.get("$ref") {
            only(schema, at, "$ref", &["$ref"])?;
            let pointer = target.as_str().and_then(|target| target.strip_prefix('#'));
            let found = pointer.filter(|pointer| !pointer.is_empty());
            let Some(found) = found.and_then(|pointer| self.root.pointer(pointer)) else {
                return Err(problem("$ref", at, format!("leads nowhere in this schema: {target}")));
            };
            return self.parse(found, target.as_str().unwrap_or(at), depth + 1);
        }
        for keyword in ["anyOf", "oneOf", "allOf"] {
            if let Some(branches) = schema.get(keyword) {
                only(schema, at, keyword, &[keyword])?;
                return self.alternative(keyword, branches, at, depth);
            }
        }
        if schema.contains_key("enum") || schema.contains_key("const") {
            return literals(schema, at);
        }
        let (kind, is_nullable) = kind_of(schema, at)?;
        let shape = match kind {
            "string" => text(schema, at)?,
            "boolean" => {
                only(schema, at, kind, &["type"])?;
                Shape::Bool
            }
            "integer" | "number" => number(schema, at, kind)?,
            "array" => self.list(schema, at, depth)?,
            "object" => self.object(schema, at, depth)?,
            other => {
                return Err(problem("type", at, format!("must not be `{other}` alone")));
            }
        };
        Ok((shape, is_nullable))
    }

    /// Parses a schema with one branch, or with one branch and `null`.
    fn alternative(
        &self,
        keyword: &str,
        branches: &Value,
        at: &str,
        depth: usize,
    ) -> Result<(Shape, bool), ShapeError> {
        let branches = branches.as_array().map(Vec::as_slice).unwrap_or_default();
        let is_null = |branch: &&Value| branch.get("type").is_some_and(|kind| kind == "null");
        let others: Vec<&Value> = branches.iter().filter(|branch| !is_null(branch)).collect();
        let has_null = others.len() < branches.len();
        match others[..] {
            [only] if !has_null || keyword != "allOf" => {
                let (shape, is_nullable) =
                    self.parse(only, &format!("{at}/{keyword}"), depth + 1)?;
                Ok((shape, is_nullable || has_null))
            }
            _ => Err(problem(keyword, at, "must have one schema, optionally with `null`")),
        }
    }

    fn list(
        &self,
        schema: &Map<String, Value>,
        at: &str,
        depth: usize,
    ) -> Result<Shape, ShapeError> {
        only(schema, at, "array", &["type", "items", "minItems", "maxItems"])?;
        let Some(items) = schema.get("items") else {
            return Err(problem("items", at, "is required for `array`"));
        };
        let (shape, is_nullable) = self.parse(items, &format!("{at}/items"), depth + 1)?;
        let items_min = count(schema, at, "minItems", LIST_ITEMS_LIMIT)?.unwrap_or(0);
        let items_max = count(schema, at, "maxItems", LIST_ITEMS_LIMIT)?;
        let items_max = items_max.unwrap_or(LIST_ITEMS_MAX.max(items_min));
        if items_min > items_max {
            return Err(problem(
                "minItems",
                at,
                format!("{items_min} is above `maxItems` {items_max}"),
            ));
        }
        let item = Member { name: "item".to_owned(), shape, is_nullable, is_required: true };
        Ok(Shape::List { item: Box::new(item), items_min, items_max })
    }

    fn object(
        &self,
        schema: &Map<String, Value>,
        at: &str,
        depth: usize,
    ) -> Result<Shape, ShapeError> {
        only(schema, at, "object", &["type", "properties", "required", "additionalProperties"])?;
        if schema.get("additionalProperties").is_some_and(|value| !value.is_boolean()) {
            return Err(problem("additionalProperties", at, "must be `true` or `false`"));
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        let Some(properties) = properties.filter(|properties| !properties.is_empty()) else {
            return Err(problem("properties", at, "must have at least one property"));
        };
        let required = match schema.get("required") {
            None => &[][..],
            Some(Value::Array(names)) => names.as_slice(),
            Some(_) => return Err(problem("required", at, "must be a list of names")),
        };
        let mut names: Vec<&str> = Vec::new();
        for name in required {
            let name = name.as_str().unwrap_or_default();
            if !properties.contains_key(name) {
                return Err(problem("required", at, format!("`{name}` is not in `properties`")));
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let n_required = names.len();
        for name in properties.keys() {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        let member = |(idx, name): (usize, &str)| {
            let at = format!("{at}/properties/{name}");
            let (shape, is_nullable) = self.parse(&properties[name], &at, depth + 1)?;
            let (name, is_required) = (name.to_owned(), idx < n_required);
            Ok(Member { name, shape, is_nullable, is_required })
        };
        names.into_iter().enumerate().map(member).collect::<Result<_, _>>().map(Shape::Struct)
    }
}

/// Checks that a schema of a kind has no keywords but annotations and `known`.
fn only(
    schema: &Map<String, Value>,
    at: &str,
    kind: &str,
    known: &[&str],
) -> Result<(), ShapeError> {
    let is_unknown =
        |key: &&String| !known.contains(&key.as_str()) && !ANNOTATIONS.contains(&key.as_str());
    match schema.keys().find(is_unknown) {
        Some(keyword) => Err(problem(keyword, at, format!("is not supported with `{kind}`"))),
        None => Ok(()),
    }
}

/// Returns the type of a schema, and whether `null` is another one.
fn kind_of<'s>(schema: &'s Map<String, Value>, at: &str) -> Result<(&'s str, bool), ShapeError> {
    let kinds: Vec<&str> = match schema.get("type") {
        None => return Err(problem("type", at, "is required")),
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        Some(other) => return Err(problem("type", at, format!("must be a name, got `{other}`"))),
    };
    let others: Vec<&str> = kinds.iter().copied().filter(|kind| *kind != "null").collect();
    match others[..] {
        [kind] => Ok((kind, others.len() < kinds.len())),
        _ => Err(problem("type", at, "must be one type, optionally with `null`")),
    }
}

fn count(
    schema: &Map<String, Value>,
    at: &str,
    keyword: &str,
    limit: usize,
) -> Result<Option<usize>, ShapeError> {
    let Some(value) = schema.get(keyword) else { return Ok(None) };
    let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
    match count.filter(|count| *count <= limit) {
        Some(count) => Ok(Some(count)),
        None => Err(problem(
            keyword,
            at,
            format!("must be a whole number up to {limit}, got `{value}`"),
        )),
    }
}

fn text(schema: &Map<String, Value>, at: &str) -> Result<Shape, ShapeError> {
    only(schema, at, "string", &["type", "minLength", "maxLength", "pattern", "format"])?;
    let chars_min = count(schema, at, "minLength", TEXT_CHARS_LIMIT)?;
    let chars_max = count(schema, at, "maxLength", TEXT_CHARS_LIMIT)?;
    let shortest = chars_min.unwrap_or(0);
    let longest = chars_max.unwrap_or(TEXT_CHARS_MAX.max(shortest));
    if shortest > longest {
        return Err(problem("minLength", at, format!("{shortest} is above `maxLength` {longest}")));
    }
    let excludes = |keyword: &'static str, others: &[&str]| match others
        .iter()
        .find(|other| schema.contains_key(**other))
    {
        Some(other) => {
            Err(problem(keyword, at, format!("is not supported together with `{other}`")))
        }
        None => Ok(()),
    };
    if let Some(format) = schema.get("format") {
        excludes("format", &["pattern", "minLength", "maxLength"])?;
        return match format.as_str() {
            Some("date") => Ok(Shape::Date),
            Some("date-time") => Ok(Shape::Timestamp),
            Some("uuid") => Ok(Shape::Pattern { regex: UUID.to_owned(), bytes_max: 36 }),
            _ => {
                let known = "must be `date`, `date-time` or `uuid`";
                Err(problem("format", at, format!("{known}, got `{format}`")))
            }
        };
    }
    if let Some(pattern) = schema.get("pattern") {
        excludes("pattern", &["minLength"])?;
        let Some(regex) = pattern.as_str() else {
            return Err(problem("pattern", at, format!("must be a string, got `{pattern}`")));
        };
        // A character has at least one byte, so the limit in bytes keeps that in characters.
        return Ok(Shape::Pattern { regex: regex.to_owned(), bytes_max: longest });
    }
    Ok(Shape::Text { chars_min: shortest, chars_max: longest })
}

fn number(schema: &Map<String, Value>, at: &str, kind: &str) -> Result<Shape, ShapeError> {
    let known =
        ["type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];
    only(schema, at, kind, &known)?;
    let bound = |keyword: &str| match schema.get(keyword) {
        None => Ok(None),
        Some(Value::Number(number)) => Ok(Some(number)),
        Some(other) => Err(problem(keyword, at, format!("must be a number, got `{other}`"))),
    };
    let mut shape = match kind {
        "integer" => NumberShape::whole(DataType::Int64),
        _ => Some(NumberShape::float(DataType::Float64)),
    }
    .ok_or_else(|| problem("type", at, "has no column type"))?;
    if let Some(step) = bound("multipleOf")? {
        let digits = decimal::fraction_digits(step).filter(|digits| *digits <= shape.scale);
        let Some(digits) = digits else {
            let steps = if kind == "integer" { "1" } else { "1, 0.1, 0.01 and so on" };
            return Err(problem("multipleOf", at, format!("must be one of {steps}, got `{step}`")));
        };
        let unit = 10_i128.pow(shape.scale - digits);
        shape =
            NumberShape { scale: digits, low: shape.low / unit, high: shape.high / unit, ..shape };
    }
    let scaled = |keyword: &str, rounds_up: bool| -> Result<Option<i128>, ShapeError> {
        let Some(number) = bound(keyword)? else { return Ok(None) };
        match decimal::scaled(number, shape.scale, rounds_up) {
            Some(value) => Ok(Some(value)),
            None => Err(problem(keyword, at, format!("`{number}` is too large"))),
        }
    };
    let low = [
        scaled("minimum", true)?,
        // The next value above the bound.
        scaled("exclusiveMinimum", false)?.map(|value| value + 1),
    ];
    let high =
        [scaled("maximum", false)?, scaled("exclusiveMaximum", true)?.map(|value| value - 1)];
    let low = low.into_iter().flatten().max();
    let high = high.into_iter().flatten().min();
    let keyword = if schema.contains_key("minimum") { "minimum" } else { "exclusiveMinimum" };
    let within = shape.within(low, high);
    within.map(Shape::Number).map_err(|error| problem(keyword, at, error.to_string()))
}

/// Parses `enum` and `const`.
fn literals(schema: &Map<String, Value>, at: &str) -> Result<(Shape, bool), ShapeError> {
    let (keyword, values) = match (schema.get("enum"), schema.get("const")) {
        (Some(Value::Array(values)), None) => ("enum", values.clone()),
        (None, Some(value)) => ("const", vec![value.clone()]),
        (Some(_), None) => return Err(problem("enum", at, "must be a list")),
        _ => return Err(problem("enum", at, "is not supported together with `const`")),
    };
    only(schema, at, keyword, &["type", keyword])?;
    let (kind, allows_null) = match schema.get("type") {
        Some(_) => {
            let (kind, allows_null) = kind_of(schema, at)?;
            (Some(kind), allows_null)
        }
        None => (None, true),
    };
    let has_null = values.iter().any(Value::is_null);
    if has_null && !allows_null {
        return Err(problem(keyword, at, "has `null`, which `type` forbids"));
    }
    let others: Vec<&Value> = values.iter().filter(|value| !value.is_null()).collect();
    let mixed = || problem(keyword, at, "must have strings, or whole numbers, of the given `type`");
    let shape = match others.first() {
        Some(Value::String(_)) if kind.is_none_or(|kind| kind == "string") => {
            let texts = others.iter().map(|value| value.as_str().map(str::to_owned));
            Shape::Choice(distinct(texts.collect::<Option<Vec<_>>>().ok_or_else(mixed)?))
        }
        Some(Value::Number(_)) if kind.is_none_or(|kind| kind == "integer") => {
            let numbers = others.iter().map(|value| value.as_i64());
            Shape::Numbers(distinct(numbers.collect::<Option<Vec<_>>>().ok_or_else(mixed)?))
        }
        Some(_) => return Err(mixed()),
        None => return Err(problem(keyword, at, "must have a value other than `null`")),
    };
    Ok((shape, has_null))
}

fn distinct<T: PartialEq>(values: Vec<T>) -> Vec<T> {
    let mut kept = Vec::with_capacity(values.len());
    for value in values {
        if !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use serde_json::{Value, json};

    use super::{super::Shape, members_of_schema};

    fn error(property: Value) -> String {
        let schema = json!({"type": "object", "properties": {"x": property}});
        members_of_schema(&schema).unwrap_err().to_string()
    }

    #[test]
    fn a_schema_of_pydantic_becomes_columns() {
        let schema = json!({
            "$defs": {"Line": {"type": "object", "title": "Line", "required": ["name"],
                "properties": {"name": {"type": "string"}, "price": {"type": "number"}}}},
            "title": "Receipt", "type": "object",
            "properties": {
                "total": {"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}]},
                "lines": {"type": "array", "items": {"$ref": "#/$defs/Line"}},
                "kind": {"enum": ["a", "b"], "type": "string"},
                "note": {"type": ["string", "null"], "maxLength": 9},
            },
            "required": ["total", "kind"],
        });
        let members = members_of_schema(&schema).unwrap();
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["total", "kind", "lines", "note"]);
        assert!(members[0].is_nullable && members[0].is_required);
        assert!(!members[1].field(false).is_nullable() && members[2].field(false).is_nullable());
        let Shape::Number(total) = &members[0].shape else { panic!("{:?}", members[0]) };
        assert_eq!((total.low, &total.data_type), (0, &DataType::Float64));
        let DataType::List(item) = members[2].shape.data_type() else { panic!("{members:?}") };
        let DataType::Struct(fields) = item.data_type() else { panic!("{item}") };
        assert_eq!(
            fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>(),
            ["name", "price"]
        );
    }

    #[test]
    fn errors_name_the_keyword_and_its_place() {
        for (property, expected) in [
            (
                json!({"type": "string", "contentEncoding": "base64"}),
                "`contentEncoding` at `#/properties/x`",
            ),
            (
                json!({"type": "string", "format": "email"}),
                "`format` at `#/properties/x` must be `date`",
            ),
            (
                json!({"type": "string", "minLength": 9, "maxLength": 3}),
                "`minLength` at `#/properties/x` 9 is above",
            ),
            (
                json!({"type": "integer", "minLength": 3}),
                "`minLength` at `#/properties/x` is not supported with `integer`",
            ),
            (
                json!({"type": "integer", "minimum": 5, "maximum": 4}),
                "`minimum` at `#/properties/x` allows no number",
            ),
            (json!({"type": "integer", "minimum": 0.2, "exclusiveMaximum": 1}), "allows no number"),
            (json!({"type": "number", "multipleOf": 0.25}), "`multipleOf`"),
            (
                json!({"type": "array", "items": {"type": "null"}}),
                "`type` at `#/properties/x/items`",
            ),
            (json!({"type": "array"}), "`items`"),
            (
                json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true}),
                "`uniqueItems`",
            ),
            (json!({"enum": []}), "`enum`"),
            (json!({"enum": ["a", 1]}), "`enum`"),
            (json!({"type": "string", "enum": [1]}), "`enum`"),
            (json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}), "`anyOf`"),
            (json!({"type": ["string", "integer"]}), "`type`"),
            (json!({"$ref": "#/$defs/Gone"}), "`$ref`"),
            (json!({"$ref": "#/properties/x"}), "recursive"),
            (
                json!({"type": "object", "properties": {"y": {"type": "null"}}, "required": ["z"]}),
                "`required`",
            ),
            (json!(true), "`schema`"),
        ] {
            let error = error(property.clone());
            assert!(error.contains(expected), "{property}: {error}");
        }
        let list = json!({"type": "array", "items": {"type": "string"}});
        assert!(members_of_schema(&list).unwrap_err().to_string().contains("`type` at `#`"));
    }
}
