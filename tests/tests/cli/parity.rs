//! The embedded model generates the same tokens as its PyTorch reference on the sample tables.
//!
//! The references were made by `python -m legenda_training references` with Hugging Face
//! transformers; see `tests/references/README.md`.

use std::{collections::HashMap, fs};

use arrow::array::{Array, AsArray, RecordBatch};
use legenda_models::{
    Bundle, BundleSource, Generation, Model, ModelOptions, Record, Runtime, RuntimeOptions, Sample,
};
use legenda_pipeline::media::{audio::decode_audio, image::PendingImage};
use legenda_tests::{read_table, repository};
use serde_json::Value;

/// Rows whose inputs cannot be bit-equal (JPEG decoders and resamplers differ by one level) may
/// differ where the reference's top two logits are closer than this.
const MARGIN_MIN: f64 = 0.05;

fn ids(reference: &Value, key: &str) -> Vec<i64> {
    reference[key].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

/// Returns the rows of a sample table by id, decoded, without broken ones.
fn records(table: &str) -> HashMap<String, (Record, bool)> {
    let path = repository().join(format!("jobs/examples/sample/{table}.parquet"));
    let mut records = HashMap::new();
    for batch in read_table(&path) {
        for row in 0..batch.num_rows() {
            let id = batch.column_by_name("id").unwrap().as_string::<i32>().value(row).to_owned();
            if let Some(record) = record(&batch, row) {
                records.insert(id, record);
            }
        }
    }
    records
}

/// Returns the record and whether its inputs are bit-equal to the reference's.
fn record(batch: &RecordBatch, row: usize) -> Option<(Record, bool)> {
    let bytes = |name: &str| {
        let column = batch.column_by_name(name).unwrap().as_binary::<i32>();
        column.is_valid(row).then(|| column.value(row).to_vec())
    };
    let question = batch.column_by_name("question").unwrap().as_string::<i32>();
    let mut record = Record {
        text: question.is_valid(row).then(|| question.value(row).to_owned()),
        ..Record::default()
    };
    let mut exact = true;
    if let Some(image) = bytes("image") {
        exact &= !image.starts_with(b"\xFF\xD8") && !image.starts_with(b"RIFF");
        record.images.push(PendingImage::open(&image, 1 << 24).ok()?.decode().ok()?);
    }
    if let Some(audio) = bytes("audio") {
        let clip = decode_audio(audio.into(), 60.0, 1 << 26).ok()?.media;
        exact &= clip.sample_rate_hz == 16_000;
        record.audios.push(clip);
    }
    Some((record, exact))
}

#[test]
fn tokens_equal_the_reference() {
    let runtime = Runtime::open(&RuntimeOptions::from_env(), &|_| {}).unwrap();
    let bundle = Bundle::open(&BundleSource::Embedded).unwrap();
    let mut model = Model::load(&runtime, &bundle, &ModelOptions::default()).unwrap();
    let references =
        fs::read_to_string(repository().join("tests/references/sample.jsonl")).unwrap();
    let references: Vec<Value> =
        references.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(references.len() >= 120, "{} references", references.len());

    let tables: HashMap<&str, _> = ["pictures", "sounds", "questions", "texts"]
        .into_iter()
        .map(|table| (table, records(table)))
        .collect();
    let mut samples: Vec<Sample> = Vec::new();
    for reference in &references {
        let (table, id) = (reference["table"].as_str().unwrap(), reference["id"].as_str().unwrap());
        let (record, _) = tables[table].get(id).unwrap_or_else(|| panic!("row `{id}` of {table}"));
        let prompt = model.processor.prompt_text(record).unwrap();
        assert_eq!(prompt, reference["prompt_text"].as_str().unwrap(), "{id}");
        let sample = model.processor.prepare(record).unwrap();
        assert_eq!(sample.token_ids, ids(reference, "input_ids"), "{id}");
        samples.push(sample);
    }

    let generations = answer(&mut model, samples);
    let mut n_near = 0;
    for (reference, generation) in references.iter().zip(&generations) {
        let id = reference["id"].as_str().unwrap();
        let (_, exact) = &tables[reference["table"].as_str().unwrap()][id];
        if generation.token_ids == ids(reference, "generated_ids") {
            assert_eq!(generation.text, reference["text"].as_str().unwrap(), "{id}");
            continue;
        }
        let margin = reference["margin"].as_f64().unwrap();
        assert!(
            !exact && margin < MARGIN_MIN,
            "{id}: answered {:?}, the reference {:?} (margin {margin})",
            generation.text,
            reference["text"]
        );
        n_near += 1;
    }
    println!("{} of {} rows equal", references.len() - n_near, references.len());
    assert!(n_near <= references.len() / 50, "{n_near} rows differ");
}

/// Generates answers for all samples, encoding eight at a time and keeping all slots full.
fn answer(model: &mut Model, samples: Vec<Sample>) -> Vec<Generation> {
    let n_rows = samples.len();
    let mut prompts = Vec::new();
    let mut left = samples.into_iter();
    loop {
        let batch: Vec<Sample> = left.by_ref().take(8).collect();
        if batch.is_empty() {
            break;
        }
        prompts.extend(model.encoder.encode(batch).into_iter().map(Result::unwrap));
    }
    let mut generations: Vec<Option<Generation>> = vec![None; n_rows];
    let mut waiting = prompts.into_iter().enumerate();
    let mut n_done = 0;
    while n_done < n_rows {
        while model.engine.free_slots() > 0
            && let Some((row, prompt)) = waiting.next()
        {
            assert!(model.engine.admit(row as u64, prompt, 0).is_ok());
        }
        for finished in model.engine.step() {
            let row = usize::try_from(finished.ticket).unwrap();
            generations[row] = Some(finished.result.unwrap());
            n_done += 1;
        }
    }
    generations.into_iter().flatten().collect()
}
