use arrow::datatypes::{DataType, Field, Schema};
use legenda_schemas::cause::chain;
use minijinja::Environment;
use serde_json::{Map, Value, json};

use super::{Kind, Template, TemplateError};

fn row(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn compile(source: &str) -> Template {
    Template::compile("task.prompt", source).unwrap()
}

fn table(names: &[&str]) -> Schema {
    let field = |name: &&str| match *name {
        "image" => Field::new(*name, DataType::Binary, true),
        name => Field::new(name, DataType::Utf8, true),
    };
    Schema::new(names.iter().map(field).collect::<Vec<_>>())
}

/// Returns the columns that a template reads from a table with `names`.
fn columns(source: &str, names: &[&str]) -> Result<Vec<String>, String> {
    let columns = compile(source).columns(&table(names), &["text"]);
    columns.map(|columns| columns.into_iter().collect()).map_err(|error| error.to_string())
}

#[test]
fn columns_fill_the_template() {
    let template = compile("{{ a }} and {{ b | upper }}");
    assert_eq!(template.render(&row(json!({"a": 1, "b": "x"}))).unwrap(), "1 and X");
}

#[test]
fn columns_win_over_functions_of_the_engine() {
    let names = ["range", "dict", "namespace", "debug", "loop", "self"];
    for name in names {
        let template = format!("{{{{ {name} }}}}");
        assert_eq!(columns(&template, &names).unwrap(), [name]);
        let rendered = compile(&template).render(&row(json!({name: "a cell"}))).unwrap();
        assert_eq!(rendered, "a cell");
    }
    // A cell cannot be called, so a called name is the function.
    let counted = "{% for i in range(3) %}{{ i }}{{ row['range'] }}{% endfor %}";
    assert_eq!(columns(counted, &names).unwrap(), ["range"]);
    let rendered = compile(counted).render(&row(json!({"range": "-"}))).unwrap();
    assert_eq!(rendered, "0-1-2-");
    assert_eq!(columns("{% for i in range(3) %}{{ i }}{% endfor %}", &["x"]).unwrap(), [""; 0]);
}

#[test]
fn names_that_are_not_identifiers_can_be_used() {
    let chinese = "\u{554f}\u{984c}";
    let names = ["Review Text", "2024", "a-b", chinese, "image"];
    let template =
        format!("{{{{ row[\"Review Text\"] }}}}, {{{{ {chinese} }}}}, {{{{ row['2024'] }}}}");
    assert_eq!(columns(&template, &names).unwrap(), ["2024", "Review Text", chinese]);
    let cells = row(json!({"Review Text": "good", "2024": 7, chinese: "why"}));
    assert_eq!(compile(&template).render(&cells).unwrap(), "good, why, 7");
    // Unless the columns are known statically, all of them are read, except media.
    let all = ["2024", "Review Text", "a-b", chinese];
    for dynamic in [
        "{% set name = 'a-' ~ 'b' %}{{ row[name] }}",
        "{{ row }}",
        "{% for name, cell in row | items %}{{ name }}{% endfor %}",
        "{% macro shown(name) %}{{ row[name] }}{% endmacro %}{{ shown('a-b') }}",
    ] {
        assert_eq!(columns(dynamic, &names).unwrap(), all, "{dynamic}");
    }
    assert_eq!(columns("{{ row['image'] | length }}", &names).unwrap(), ["image"]);
}

#[test]
fn a_column_named_row_is_itself() {
    let template = "{{ row }}";
    assert_eq!(columns(template, &["row", "x"]).unwrap(), ["row"]);
    assert_eq!(compile(template).render(&row(json!({"row": "a cell"}))).unwrap(), "a cell");
    // A variable set by the template is neither.
    let own = "{% for row in x %}{{ row.any }}{% endfor %}";
    assert_eq!(columns(own, &["x", "y"]).unwrap(), ["x"]);
}

#[test]
fn columns_are_found_wherever_they_stand() {
    for template in [
        "{% set a = a | upper %}{{ a }}",
        "{% with a = a %}{{ a }}{% endwith %}",
        "{% filter replace('x', a) %}x{% endfilter %}",
        "{% if true %}{% set b = 1 %}{% else %}{{ a }}{% endif %}",
        "{% macro m(b) %}{{ b }}{{ a }}{% endmacro %}{{ m(1) }}",
        "{% block one %}{{ a }}{% endblock %}",
        "{{ 'x' if a is defined }}",
        "{% for b in [1, 2] if b == a %}{{ b }}{{ loop.index }}{% endfor %}",
    ] {
        assert_eq!(columns(template, &["a", "c"]).unwrap(), ["a"], "{template}");
    }
}

#[test]
fn unknown_names_are_reported_with_suggestions() {
    for (template, expected) in [
        ("{{ text | uper }}", "unknown filter `uper` in line 1; did you mean `upper`?"),
        (
            "a\n{% if text is strng %}{% endif %}",
            "unknown test `strng` in line 2; did you mean `string`?",
        ),
        ("{{ rnge(3) }}", "unknown function `rnge` in line 1; did you mean `range`?"),
        ("{% filter uper %}x{% endfilter %}", "unknown filter `uper`"),
        ("{% if false %}{{ text | sparkle }}{% endif %}", "unknown filter `sparkle` in line 1"),
    ] {
        let error = Template::compile("task.prompt", template).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let names = ["question", "Review Text"];
    for (template, expected) in [
        (
            "{{ qestion }}",
            "`qestion` is not a column of the table; available columns: `question`, `Review Text`; did you mean `question`?",
        ),
        (
            "{{ row['review text'] }}",
            "`row[\"review text\"]` is not a column of the table; available columns: `question`, `Review Text`; did you mean `row[\"Review Text\"]`?",
        ),
        ("{{ row.mood }}", "`row[\"mood\"]`"),
        ("{{ Review }}", "did you mean `row[\"Review Text\"]`?"),
    ] {
        let error = columns(template, &names).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn suggestions_are_names_that_exist() {
    let environment = Environment::new();
    for (kind, names) in [(Kind::Filter, Kind::FILTERS), (Kind::Test, Kind::TESTS)] {
        for name in names.split(' ') {
            assert!(kind.exists(name, &environment), "{kind} {name}");
        }
        assert!(!kind.exists("sparkle", &environment));
    }
}

#[test]
fn bad_templates_and_rows_are_errors() {
    let syntax = Template::compile("task.prompt", "{{ a").unwrap_err();
    assert!(matches!(syntax, TemplateError::Syntax { key: "task.prompt", .. }), "{syntax}");
    let spaced = Template::compile("task.prompt", "{{ Review Text }}").unwrap_err();
    // The program adds a hint to this message.
    assert!(chain(&spaced).contains("unexpected identifier"), "{spaced:?}");
    let endless =
        "{% for i in range(9999) %}{% for j in range(9999) %}{{ j }}{% endfor %}{% endfor %}";
    assert!(matches!(compile(endless).render(&Map::new()), Err(TemplateError::Render { .. })));
    let long = "{% for i in range(9999) %}{{ text }}{% endfor %}";
    let refused = compile(long).render(&row(json!({"text": "x".repeat(100_000)}))).unwrap_err();
    // Whichever limit is reached first.
    let text = refused.to_string();
    assert!(text.contains("writes more than") || text.contains("out of fuel"), "{text}");
}
