//! Opening bundles that are whole, broken and of another kind.

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
fn a_bundle_says_what_it_can_do() {
    let bundle = open(&files()).unwrap();
    let modalities = bundle.modalities();
    assert!(modalities.text && modalities.image && !modalities.audio);
    assert!(bundle.supports(TaskKind::Caption).is_ok());
    let error = bundle.supports(TaskKind::Transcribe).unwrap_err();
    assert_eq!(error.to_string(), "`test` cannot do `transcribe`: it has no audio input");
    // 2 kinds, 2 layers, 2 heads, 128 positions, 8 dimensions, 4 bytes.
    assert_eq!(bundle.kv_bytes_per_slot(100), 2 * 2 * 2 * 128 * 8 * 4);
}

#[test]
fn a_missing_file_is_named() {
    for missing in 0..files().len() {
        let mut files = files();
        let (name, _) = files.remove(missing);
        let error = open(&files).unwrap_err();
        let expected = if name == "processor_config.json" {
            // The older name is accepted too, and asked for last.
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
            "architecture `StrangeForConditionalGeneration` is not supported, supported: {}",
            supported_models()
        )
    );
    // Whatever else its config has: that depends on the architecture.
    files[0].1 = r#"{"model_type": "mamba"}"#;
    assert_eq!(open(&files).unwrap_err().code(), "architecture_unsupported");
}

#[test]
fn broken_json_is_named_with_its_place() {
    let mut files = files();
    files[1].1 = "{";
    let error = open(&files).unwrap_err();
    assert_eq!(error.code(), "bundle_json_invalid");
    assert!(error.to_string().starts_with("`processor_config.json` of the bundle is not valid"));
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
fn a_directory_that_is_not_there_is_an_error() {
    let error = Bundle::open(&BundleSource::parse("no/such/bundle")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the bundle directory `no/such/bundle`");
}

#[test]
fn precisions_are_taken_as_wanted_or_in_order() {
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
fn a_precision_that_is_not_there_names_those_that_are() {
    let mut files = files();
    files.push(("onnx/decoder_model_merged_q4.onnx", ""));
    let error = open_in(&files, "decoder_model_merged=int8".parse().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`model.precision` wants `decoder_model_merged` in int8, the bundle has it in: fp32, q4"
    );
    let error = open_in(&files, "decoder=q4".parse().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`model.precision` names a graph `decoder`, the model runs: vision_encoder, embed_tokens, \
         decoder_model_merged"
    );
}

/// A graph whose one weight lies in a file of this name (`ModelProto.graph` = 7, `initializer` = 5,
/// `external_data` = 13, `key` = 1, `value` = 2).
fn graph_with_data(location: &str) -> Vec<u8> {
    let field = |tag: u8, content: &[u8]| {
        [&[tag << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
    };
    let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
    field(7, &field(5, &field(13, &entry)))
}

/// A folder with a bundle whose decoder is a graph with outside data.
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
fn weights_outside_a_graph_are_part_of_the_revision() {
    let folder = folder("model.onnx_data");
    assert_eq!(open_folder(&folder).unwrap_err().code(), "bundle_file_missing");
    write(folder.path(), "onnx/model.onnx_data", b"1");
    let bundle = open_folder(&folder).unwrap();
    assert_eq!(bundle.external_data("onnx/model.onnx").unwrap(), ["onnx/model.onnx_data"]);
    write(folder.path(), "onnx/model.onnx_data", b"2");
    assert_ne!(open_folder(&folder).unwrap().revision(), bundle.revision());
    // Another precision beside it is not.
    write(folder.path(), "onnx/model_fp16.onnx", b"");
    let other = open_folder(&folder).unwrap();
    write(folder.path(), "onnx/model_fp16.onnx", b"x");
    assert_eq!(open_folder(&folder).unwrap().revision(), other.revision());
}

#[test]
fn a_bundle_does_not_reach_outside_its_directory() {
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
fn a_file_that_is_larger_than_any_of_its_kind_is_refused() {
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
            "`{file}` of the bundle has {} bytes, at most {limit} are read; is it the right file?",
            limit + 1
        );
        assert_eq!(error.to_string(), expected);
    }
}
