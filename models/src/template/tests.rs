//! Templates that would exhaust memory, time or the stack, and templates that must render as
//! before.

use std::time::{Duration, Instant};

use minijinja::{Environment, Error, context};

use super::BoundedTemplate;

const FUEL: u64 = 1_000_000;

fn render(source: &str) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    let template = BoundedTemplate::new(environment, "test", source.to_owned(), FUEL)?;
    template.render(context! { items => [1, 2, 3], text => "a b", map => context! { k => "v" } })
}

/// Sets `c` to nested lists of texts that would be 10 GB as text, or `l` to a list of 6 GB.
const NESTED: &str = "{% set a = 'x'*10000 %}{% set b = [a]*1000 %}{% set c = [b]*1000 %}{% set l = ['x'*900000]*7000 %}";
/// Extends a list in `ns.l` repeatedly.
const GROW: &str = "{% set ns = namespace(l=[1], s='x') %}{% for i in range(99999) %}";

#[test]
fn excessive_memory_or_time_is_an_error() {
    let nested_uses = [
        "l|join",
        "''.join(l)",
        "l|sum(start='')",
        "l|unique",
        "c",
        "'' ~ c",
        "c|join",
        "c|string",
        "c|tojson",
        "c|pprint",
        "c|upper",
        "c|urlencode",
        "c|map('join')|list",
        "c|map('to json')|list",
        "c in [c, c]",
        "c == [b]*1000",
        "('%s'*10000)|format(l[0], l[0])",
        "('%(a)s'*10000)|format({'a': l[0]})",
        "('{0}'*10000).format(l[0])",
    ];
    let mut sources: Vec<String> =
        nested_uses.iter().map(|use_| format!("{NESTED}{{{{ {use_} }}}}")).collect();
    sources.push(format!("{NESTED}{{% set d %}}{{{{ c }}}}{{% endset %}}"));
    let growing = [
        "ns.s = ns.s ~ ns.s",
        "ns.s = ns.s + ns.s",
        "ns.s = ns.s * 2",
        "ns.s = ns.s|replace('x', 'xx')",
        "ns.s = '%s%s'|format(ns.s, ns.s)",
        "ns.l = ns.l + ns.l",
        "ns.l = ns.l|chain(ns.l)",
        "ns.l = [ns.l, ns.l]",
        "ns.l = [ns.l|join, ns.l|join]",
        "ns.l = ns.l[0:]",
        "ns.l = ns.l|chain([1])",
    ];
    sources.extend(growing.iter().map(|set| format!("{GROW}{{% set {set} %}}{{% endfor %}}")));
    sources.extend(
        [
            "{{ '{:>3000000000}'.format('x') }}",
            "{{ '%3000000000d'|format(5) }}",
            "{{ [1]|tojson(indent=3000000000) }}",
            "{{ ('x'*30000000)|split('') }}",
            "{{ ('<'*30000000)|tojson }}",
            "{{ ('a\n'*100000)|indent(100000) }}",
            "{{ range(99999)|slice(1000000) }}",
            "{% for i in range(99999) %}{% for j in range(99999) %}{{ i * j }}{% endfor %}{% endfor %}",
            "{% set a = 'x'*1000000 %}{% for i in range(99999) %}{{ a }}{% endfor %}",
            "{% set a = 'x'*5000000 %}{% set b = 'x'*5000000 %}{{ ([a, b]*50000)|sort }}",
            "{% set a = 'x'*5000000 %}{% set b = 'x'*5000000 %}\
             {% for i in range(99999) %}{{ a == b }}{% endfor %}",
        ]
        .map(str::to_owned),
    );
    for source in sources {
        let start = Instant::now();
        let error = render(&source).unwrap_err().to_string();
        let is_expected =
            error.contains("shorten its loops, lists or texts") || error.contains("150 levels");
        assert!(is_expected, "{source}: {error}");
        assert!(start.elapsed() < Duration::from_secs(5), "{source}: {:?}", start.elapsed());
    }
}

/// Each of these overflowed the stack, which aborts the process, or leaked memory.
#[test]
fn a_stack_overflow_is_an_error() {
    let depth = 100_000;
    let sources = [
        format!("{GROW}{{% set ns.l = [ns.l] %}}{{% endfor %}}"),
        format!("{GROW}{{% set ns.l = ns.l|batch(1) %}}{{% endfor %}}"),
        format!("{GROW}{{% set ns.l = dict(a=ns.l) %}}{{% endfor %}}"),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_owned(),
        "{% for x in [[[1]]] recursive %}{{ loop([[[x]]]) }}{% endfor %}".to_owned(),
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.a = [{'b': ns}] %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% for x in [1] %}{% set ns.a = loop %}{% endfor %}".to_owned(),
        format!("{{{{ {} }}}}", vec!["1"; depth].join("+")),
        format!("{{{{ {} 1 }}}}", "not ".repeat(depth)),
        format!("{{{{ a{} }}}}", ".a".repeat(depth)),
        format!("{{{{ a{} }}}}", "|e".repeat(depth)),
        format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(depth / 2)),
    ];
    for source in sources {
        assert!(render(&source).is_err(), "{}", &source[..80.min(source.len())]);
    }
}

#[test]
fn unbounded_features_are_rejected() {
    for (source, problem) in [
        ("{% include 'test' %}", "another template"),
        ("{% extends 'test' %}", "another template"),
        ("{{ '%s'|format(*items) }}", "unpacks arguments"),
        ("{{ ('' ~ ['x']*100000000)|length }}", "multiplies a constant list"),
        ("{{ debug() }}", "debug is unknown"),
        ("{{ ['%s']|map('format', items) }}", "cannot be applied by `map`"),
    ] {
        let error = render(source).unwrap_err().to_string();
        assert!(error.contains(problem), "{source}: {error}");
    }
    let long = render(&"x".repeat((1 << 20) + 1)).unwrap_err().to_string();
    assert!(long.contains("1048577 bytes"), "{long}");
}

#[test]
fn operators_filters_and_jumps_are_unchanged() {
    for (source, expected) in [
        (
            "{{ 1 < 2 < 3 }} {{ 3 < 2 < 1 }} {{ 2 in items }} {{ 5 not in items }}",
            "True False True True",
        ),
        ("{{ 'a' ~ 1 ~ [2, 'b'] }} {{ 7 - 2 }} {{ 'x' == 'y' }}", "a1[2, 'b'] 5 False"),
        (
            "{{ items[1:] }} {{ items[-1] }} {{ (items + [4])[3] }} {{ items * 2 }}",
            "[2, 3] 3 4 [1, 2, 3, 1, 2, 3]",
        ),
        ("{{ text.split(' ')[1] }} {{ text|replace('a', 'c') }} {{ 'b' in text }}", "b c b True"),
        ("{% for k, v in map.items() %}{{ k }}={{ v }}{% else %}none{% endfor %}", "k=v"),
        (
            "{% for i in items if i > 1 %}{{ loop.index }}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}",
            "12,23",
        ),
        (
            "{% macro m(a, b='d') %}<{{ a }}{{ b }}>{% endmacro %}{{ m(1) }}{{ m('x', b=2) }}",
            "<1d><x2>",
        ),
        (
            "{% set ns = namespace(n=0, l=[]) %}{% for i in items %}{% set ns.n = ns.n + i %}\
          {% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.n }}{{ ns.l }}",
            "6[1, 2, 3]",
        ),
        (
            "{{ map|tojson }} {{ items|map('string')|join('-') }} {{ none_such|default('d') }}",
            "{\"k\": \"v\"} 1-2-3 d",
        ),
        ("{{ items|selectattr('x', 'undefined')|list|length }} {{ items|sum }}", "3 6"),
        ("{{ '%s-%05d'|format('a', 42) }} {{ '{}:{:>3}'.format('a', 'b') }}", "a-00042 a:  b"),
        ("{% set a, b = [1, 2] %}{{ b }}{{ a }}{% if a is defined and b > a %}y{% endif %}", "21y"),
        ("{% block x %}{{ 'a' ~ 'b' }}{% endblock %}{{ 'y' if items else 'n' }}", "aby"),
        (
            "{% for g in [{'a': 1}, {'a': 2}]|groupby('a') %}{{ g.grouper }}{{ g.list|length }}{% endfor %}",
            "1121",
        ),
    ] {
        assert_eq!(render(source).unwrap(), expected, "{source}");
    }
}

#[test]
fn long_texts_and_many_turns_render() {
    let text = "x".repeat(8 << 20);
    let source = "{% for m in messages[1:] %}{{ '<' + m.role + '>' + m.content|trim }}{% endfor %}";
    let template = BoundedTemplate::new(Environment::new(), "test", source.to_owned(), FUEL);
    let template = template.unwrap();
    let message = |content: &str| context! { role => "user", content => content };
    let long = template.render(context! { messages => [message("s"), message(&text)] });
    assert_eq!(long.unwrap().len(), text.len() + "<user>".len());
    let many: Vec<_> = (0..5000).map(|_| message("hello")).collect();
    let many = template.render(context! { messages => many }).unwrap();
    assert_eq!(many.len(), 4999 * "<user>hello".len());
}
