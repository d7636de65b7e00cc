//! Opening valid, broken and unsupported bundles.

use std::borrow::Cow;

use legenda_schemas::{job::TaskKind, precision::PrecisionChoice};

use super::{Bundle, BundleFiles};
use crate::{arch::supported_models, config::BundleError, load::BundleSource};

const CONFIG: &str = r#"{"architectures": ["LegendaForConditionalGeneration"], "image_token_id": 5,
    "text_config": {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "hidden_size": 32, "vocab_size": 64, "max_position_embeddings": 100, "eos_token_id": 2}}"#;

const PROCESSOR: &str = r#"{"image_token": "<image>", "image_seq_length": 4,
    "image_processor": {"size": {"height": 8, "width": 8}}}"#;

fn open(files: &[(&str, &str)]) -> Result<Bundle, BundleError> {
    open_in(files, PrecisionChoice::default())
}

fn open_in(files: &[(&str, &str)], precision: PrecisionChoice) -> Result<Bundle, BundleError> {
    let files = files
        .iter()
        .map(|(name, content)| {
            (Cow::Owned((*name).to_owned()), Cow::Owned(content.as_bytes().to_vec()))
        })
        .collect();
    Bundle::from_files("test".to_owned(), BundleFiles::memory(files, precision), None)
}

fn files() -> Vec<(&'static str, &'static str)> {
    vec![
        ("config.json", CONFIG),
        ("processor_config.json", PROCESSOR),
        ("onnx/embed_tokens.onnx", ""),
        ("onnx/decoder_model_merged.onnx", ""),
        ("onnx/vision_encoder.onnx", ""),
    ]
}

#[test]
fn a_bundle_reports_its_capabilities() {
    let bundle = open(&files()).unwrap();
    let modalities = bundle.modalities();
    assert!(modalities.text && modalities.image && !modalities.audio);
    assert!(bundle.supports(TaskKind::Caption).is_ok());
    let error = bundle.supports(TaskKind::Transcribe).unwrap_err();
    assert_eq!(error.to_string(), "`test` does not support `transcribe`: it has no audio input");
    // 2 (keys and values) x 2 layers x 2 heads x 128 positions x 8 dimensions x 4 bytes.
    assert_eq!(bundle.kv_bytes_per_slot(100), 2 * 2 * 2 * 128 * 8 * 4);
}

#[test]
fn a_missing_file_is_named() {
    for missing in 0..files().len() {
        let mut files = files();
        let (name, _) = files.remove(missing);
        let error = open(&files).unwrap_err();
        let expected = if name == "processor_config.json" {
            // The older name is also accepted, and is looked up last.
            "preprocessor_config.json"
        } else {
            name
        };
        assert_eq!(error.to_string(), format!("the bundle has no file `{expected}`"));
    }
}

#[test]
fn an_unknown_architecture_names_what_is_supported() {
    let mut files = files();
    let config = CONFIG.replace("Legenda", "Strange");
    files[0].1 = &config;
    let error = open(&files).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "unsupported architecture `StrangeForConditionalGeneration`, supported: {}",
            supported_models()
        )
    );
    // The other keys are irrelevant, because they depend on the architecture.
    files[0].1 = r#"{"model_type": "mamba"}"#;
    assert_eq!(open(&files).unwrap_err().code(), "architecture_unsupported");
}

#[test]
fn broken_json_is_named_with_its_position() {
    let mut files = files();
    files[1].1 = "{";
    let error = open(&files).unwrap_err();
    assert_eq!(error.code(), "bundle_json_invalid");
    assert!(error.to_string().starts_with("invalid `processor_config.json` in the bundle"));
}

#[test]
fn a_changed_byte_changes_the_revision() {
    let revision = open(&files()).unwrap().revision().to_owned();
    let mut files = files();
    files[2].1 = "x";
    assert_ne!(open(&files).unwrap().revision(), revision);
    assert_eq!(revision.len(), 64);
}

#[test]
fn a_directory_and_the_embedded_bundle_are_the_same_bundle() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tiny");
    let on_disk = Bundle::open(&BundleSource::parse(path)).unwrap();
    let embedded = Bundle::open(&BundleSource::parse("legenda-tiny")).unwrap();
    assert_eq!(on_disk.revision(), embedded.revision());
    assert_eq!(on_disk.name(), "tiny");
}

#[test]
fn a_missing_directory_is_an_error() {
    let error = Bundle::open(&BundleSource::parse("no/such/bundle")).unwrap_err();
    assert_eq!(error.to_string(), "failed to read the bundle directory `no/such/bundle`");
}

#[test]
fn the_requested_or_first_available_precision_is_used() {
    let mut files = files();
    files.push(("onnx/decoder_model_merged_q4.onnx", ""));
    files.push(("onnx/embed_tokens_fp16.onnx", ""));
    assert_eq!(open(&files).unwrap().precision().unwrap(), "fp32");
    let choice = "decoder_model_merged=q4,embed_tokens=fp16".parse().unwrap();
    let bundle = open_in(&files, choice).unwrap();
    let mixed = "vision_encoder=fp32,embed_tokens=fp16,decoder_model_merged=q4";
    assert_eq!(bundle.precision().unwrap(), mixed);
    assert_eq!(bundle.graphs().unwrap()[2].file, "onnx/decoder_model_merged_q4.onnx");
}

#[test]
fn a_missing_precision_names_the_available_ones() {
    let mut files = files();
    files.push(("onnx/decoder_model_merged_q4.onnx", ""));
    let error = open_in(&files, "decoder_model_merged=int8".parse().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`model.precision` requests `decoder_model_merged` in int8, available: fp32, q4"
    );
    let error = open_in(&files, "decoder=q4".parse().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`model.precision` names an unknown graph `decoder`, expected one of: vision_encoder, embed_tokens, \
         decoder_model_merged"
    );
}

/// Returns a graph whose only weight is in an external file (`ModelProto.graph` = 7, `initializer`
/// = 5, `external_data` = 13, `key` = 1, `value` = 2).
fn graph_with_data(location: &str) -> Vec<u8> {
    let field = |tag: u8, content: &[u8]| {
        [&[tag << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    };
    let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
    field(7, &field(5, &field(13, &entry)))
}

/// Creates a folder with a bundle whose decoder graph has external data.
fn folder(location: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("onnx")).unwrap();
    let config = CONFIG.replace("LegendaForConditionalGeneration", "LlamaForCausalLM");
    write(folder.path(), "config.json", config.as_bytes());
    write(folder.path(), "onnx/model.onnx", &graph_with_data(location));
    folder
}

fn write(folder: &std::path::Path, file: &str, content: &[u8]) {
    std::io::Write::write_all(&mut std::fs::File::create(folder.join(file)).unwrap(), content)
        .unwrap();
}

fn open_folder(folder: &tempfile::TempDir) -> Result<Bundle, BundleError> {
    Bundle::open(&BundleSource::Directory(folder.path().to_owned()))
}

#[test]
fn external_data_is_part_of_the_revision() {
    let folder = folder("model.onnx_data");
    assert_eq!(open_folder(&folder).unwrap_err().code(), "bundle_file_missing");
    write(folder.path(), "onnx/model.onnx_data", b"1");
    let bundle = open_folder(&folder).unwrap();
    assert_eq!(bundle.external_data("onnx/model.onnx").unwrap(), ["onnx/model.onnx_data"]);
    write(folder.path(), "onnx/model.onnx_data", b"2");
    assert_ne!(open_folder(&folder).unwrap().revision(), bundle.revision());
    // A graph in another precision is not part of it.
    write(folder.path(), "onnx/model_fp16.onnx", b"");
    let other = open_folder(&folder).unwrap();
    write(folder.path(), "onnx/model_fp16.onnx", b"x");
    assert_eq!(open_folder(&folder).unwrap().revision(), other.revision());
}

#[test]
fn files_outside_the_bundle_are_refused() {
    for location in ["../secret", "/etc/hostname", "a/../../secret", "*/_ORT_MEM_ADDR_/*"] {
        let code = open_folder(&folder(location)).unwrap_err().code();
        let expected =
            if location.contains('*') { "bundle_file_missing" } else { "bundle_file_outside" };
        assert_eq!(code, expected, "{location}");
    }
    #[cfg(unix)]
    {
        let elsewhere = tempfile::tempdir().unwrap();
        write(elsewhere.path(), "data", b"1");
        for file in ["onnx/model.onnx_data", "generation_config.json"] {
            let folder = folder("model.onnx_data");
            write(folder.path(), "onnx/model.onnx_data", b"1");
            std::fs::remove_file(folder.path().join(file)).ok();
            std::os::unix::fs::symlink(elsewhere.path().join("data"), folder.path().join(file))
                .unwrap();
            let error = open_folder(&folder).unwrap_err();
            assert_eq!(error.code(), "bundle_file_outside", "{file}: {error}");
        }
    }
}

#[test]
fn files_above_the_size_limit_are_refused() {
    for (file, limit) in
        [("tokenizer.json", 128 << 20), ("config.json", 16 << 20), ("chat_template.jinja", 1 << 20)]
    {
        let folder = tempfile::tempdir().unwrap();
        let long = std::fs::File::create(folder.path().join(file)).unwrap();
        let files = BundleFiles::directory(folder.path(), PrecisionChoice::default()).unwrap();
        long.set_len(limit).unwrap();
        assert_eq!(files.bytes(file).unwrap().len() as u64, limit);
        long.set_len(limit + 1).unwrap();
        let error = files.bytes(file).map(|bytes| bytes.len()).unwrap_err();
        assert_eq!(error.code(), "bundle_file_too_large");
        let expected = format!(
            "`{file}` of the bundle is too large: expected at most {limit} bytes, got {}",
            limit + 1
        );
        assert_eq!(error.to_string(), expected);
    }
}
