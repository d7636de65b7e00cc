//! End-to-end runs with a fake model and without ONNX Runtime: a failing row is rejected alone,
//! stages overlap, and a span is committed once its last row is answered or rejected.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use legenda_models::{
    Bundle, BundleSource, Model, ModelInfo, Processor,
    fake::{FakeEncoder, FakeOptions},
    runtime::DeviceKind,
};
use legenda_pipeline::{
    Ending, PlanScope, Progress, RunOptions, RunPlan, RunReport, Stop, ledger::Stale,
    store::LeaseTerms,
};
use legenda_schemas::job::Job;
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};

const JOB: &str = r#"
version = 1
task = { kind = "generate" }
source = { paths = ["table.parquet"], columns = { text = "text" } }
output = { path = "out", span_rows = 3 }
"#;

/// Returns the set of tokens on which a call of the fake model fails.
type FailsOn = fn(&mut FakeOptions) -> &mut BTreeSet<i64>;

fn write_texts(path: &Path, texts: &[String]) {
    let column: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn run(dir: &Path, bundle: &Bundle, options: &FakeOptions) -> RunReport {
    let job = Job::parse(JOB, &[]).unwrap();
    let plan = Arc::new(RunPlan::new(job, dir, bundle, PlanScope::default()).unwrap());
    let model = Model {
        processor: Arc::new(Processor::open(bundle).unwrap()),
        encoder: Box::new(FakeEncoder::new(options.clone())),
        engine: options.engine(64),
        info: ModelInfo {
            name: "fake".to_owned(),
            revision: "none".to_owned(),
            device: DeviceKind::Cpu,
            device_note: None,
            slots: options.slots,
            context_tokens: options.context_tokens,
            kv_bytes_per_slot: 0,
            rewritings: Vec::new(),
            draws: false,
        },
    };
    let run_options = RunOptions {
        overwrite: false,
        prepare_workers: 2,
        base_dir: dir.to_owned(),
        lease: LeaseTerms::default(),
        stale: Stale::Refuse,
        retry: None,
        command: String::new(),
    };
    let (progress, stop) = (Arc::new(Progress::default()), Arc::new(Stop::default()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(legenda_pipeline::run(plan, model, &run_options, progress, stop)).unwrap()
}

fn answers(dir: &Path) -> BTreeMap<String, String> {
    let mut answers = BTreeMap::new();
    for entry in dir.join("out").read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            let file = File::open(path).unwrap();
            for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
                let batch = batch.unwrap();
                let column =
                    |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
                for (text, answer) in column("text").iter().zip(&column("answer")) {
                    answers.insert(text.unwrap().to_owned(), answer.unwrap().to_owned());
                }
            }
        }
    }
    answers
}

#[test]
fn a_row_that_fails_in_the_model_costs_only_that_row() {
    let texts: Vec<String> = (0..40).map(|n| format!("row {n}")).collect();
    let bundle = Bundle::open(&BundleSource::Embedded).unwrap();
    let processor = Processor::open(&bundle).unwrap();
    let ids = |text: &str| {
        let record = legenda_models::Record { text: Some(text.to_owned()), ..Default::default() };
        processor.prepare(&record).unwrap().token_ids
    };
    // Calls fail on a token that occurs only in rows like "row 7".
    let poison = *ids("row 7").iter().find(|id| !ids("row 8").contains(id)).unwrap();
    let poisoned = |text: &String| ids(text).contains(&poison);
    let n_bad = texts.iter().filter(|text| poisoned(text)).count() as u64;
    assert!(n_bad > 0 && n_bad < 40);

    let calls: [FailsOn; 3] = [
        |options| &mut options.encode_fails_on,
        |options| &mut options.prefill_fails_on,
        |options| &mut options.step_fails_on,
    ];
    for (fails_on, panics) in calls.into_iter().flat_map(|call| [(call, false), (call, true)]) {
        let dir = tempfile::tempdir().unwrap();
        write_texts(&dir.path().join("table.parquet"), &texts);
        let mut options = FakeOptions { panics, ..FakeOptions::default() };
        fails_on(&mut options).insert(poison);
        let report = run(dir.path(), &bundle, &options);
        assert_eq!(report.ending, Ending::Complete);
        assert_eq!((report.rows_in, report.answers, report.n_rejects()), (40, 40 - n_bad, n_bad));
        let code = if panics { "model_panicked" } else { "runtime" };
        assert_eq!(report.rejects.keys().collect::<Vec<_>>(), [code]);
        let answers = answers(dir.path());
        for text in &texts {
            let wanted = (!poisoned(text)).then(|| options.answer_text(&ids(text)));
            assert_eq!(answers.get(text), wanted.as_ref(), "{text}");
        }
    }
}

#[test]
fn free_slots_wait_for_rows_in_the_encoders() {
    let texts: Vec<String> = (0..64).map(|n| format!("row {n}")).collect();
    let bundle = Bundle::open(&BundleSource::Embedded).unwrap();
    let dir = tempfile::tempdir().unwrap();
    write_texts(&dir.path().join("table.parquet"), &texts);
    let options = FakeOptions {
        slots: 16,
        answer_tokens_min: 20,
        encode_takes: Duration::from_millis(50),
        ..FakeOptions::default()
    };
    let report = run(dir.path(), &bundle, &options);
    assert_eq!((report.ending, report.answers), (Ending::Complete, 64));
    // Rows are encoded in batches of 8, so that without waiting a step never has more than 8.
    let n_steps = options.n_steps.load(Relaxed);
    assert!(n_steps <= 64 / 16 * 20 + 40, "{n_steps} steps");
}
