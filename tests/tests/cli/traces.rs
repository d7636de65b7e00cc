//! OpenTelemetry traces of a run, as received by a collector.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use legenda_tests::{CommandResult, TEXT_JOB, Workplace, run_command, texts, write_table};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;

/// The path and body of each request that a collector received.
type Sent = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Starts a collector that responds with `status`; returns its address.
fn start_collector(status: &'static str) -> (String, Sent) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let sent = Sent::default();
    let kept = Arc::clone(&sent);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let kept = Arc::clone(&kept);
            std::thread::spawn(move || while receive(&stream, status, &kept).is_some() {});
        }
    });
    (address, sent)
}

/// Handles one request; returns `None` if the client disconnects.
fn receive(mut stream: &TcpStream, status: &str, sent: &Sent) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    sent.lock().unwrap().push((path, body));
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").ok()
}

/// Runs a job of ten rows in three spans with a collector.
fn run_with(collector: &str, arguments: &[&str], variables: &[(&str, &str)]) -> CommandResult {
    let place = Workplace::new();
    let questions: Vec<String> = (0..10).map(|n| format!("what is {n}?")).collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    write_table(&place.path("table.parquet"), &texts(&questions), 100);
    place.write("job.toml", TEXT_JOB);
    let mut command = place.command(&["run", "job.toml", "--set", "generation.max_new_tokens=4"]);
    command.args(arguments).env("OTEL_EXPORTER_OTLP_ENDPOINT", collector);
    run_command(command.envs(variables.iter().copied()))
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn number(span: &Span, key: &str) -> Option<i64> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::IntValue(number) => Some(*number),
        _ => None,
    }
}

#[test]
fn a_collector_receives_the_spans_of_a_run() {
    let (collector, sent) = start_collector("200 OK");
    let _whole = run_with(&collector, &[], &[]).expect(0);
    let mut spans = Vec::new();
    for (path, body) in sent.lock().unwrap().iter() {
        assert_eq!(path, "/v1/traces");
        for of_resource in ExportTraceServiceRequest::decode(&body[..]).unwrap().resource_spans {
            let resource = of_resource.resource.unwrap();
            assert_eq!(text(&resource.attributes, "service.name"), Some("legenda"));
            spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    let by_id: BTreeMap<&[u8], &Span> =
        spans.iter().map(|span| (span.span_id.as_slice(), span)).collect();
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for span in &spans {
        assert_eq!(span.trace_id, spans[0].trace_id, "expected one trace per run");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        let parent = by_id.get(span.parent_span_id.as_slice());
        seen.push((parent.map_or("", |parent| parent.name.as_str()), &span.name));
    }
    seen.sort_unstable();
    let mut expected = vec![("", "job"), ("job", "load"), ("job", "run")];
    expected.extend(["scan", "prepare", "encode", "generate"].map(|stage| ("run", stage)));
    expected.extend([("run", "span"), ("span", "commit")].repeat(3));
    expected.sort_unstable();
    assert_eq!(seen, expected);

    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let run = named("run")[0];
    assert_eq!(text(&run.attributes, "task"), Some("generate"));
    assert_eq!(number(run, "rows_planned"), Some(10));
    assert_eq!(number(run, "answers"), Some(10));
    let rows: Option<i64> = named("span").iter().map(|span| number(span, "answers")).sum();
    assert_eq!(rows, Some(10));
    assert!(text(&named("span")[0].attributes, "file").unwrap().ends_with("table.parquet"));
}

#[test]
fn nothing_is_sent_offline_or_with_traces_disabled() {
    let (collector, sent) = start_collector("200 OK");
    let offline = run_with(&collector, &["--offline"], &[]).expect(0);
    offline.stderr_contains(&["traces are disabled by `--offline`"]);
    let _off = run_with(&collector, &[], &[("OTEL_SDK_DISABLED", "true")]).expect(0);
    let _none = run_with(&collector, &[], &[("OTEL_TRACES_EXPORTER", "none")]).expect(0);
    assert!(sent.lock().unwrap().is_empty());
}

#[test]
fn a_failing_collector_loses_traces_but_not_the_run() {
    let (collector, sent) = start_collector("503 Service Unavailable");
    let failing = run_with(&collector, &[], &[]).expect(0);
    assert!(!sent.lock().unwrap().is_empty());
    assert!(failing.stderr.contains("WARN") || failing.stderr.contains("ERROR"), "{failing:?}");
    let _gone = run_with("http://127.0.0.1:1", &[], &[]).expect(0);
    let wrong = run_with("not an address", &[], &[]).expect(0);
    wrong.stderr_contains(&["traces are disabled"]);
}
