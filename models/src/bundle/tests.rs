//! Opening bundles that are whole, broken and of another kind.

use std::borrow::Cow;

use legenda_schemas::job::TaskKind;

use super::{Bundle, BundleError, BundleFiles, BundleSource};

const CONFIG: &str = r#"{"architectures": ["LegendaForConditionalGeneration"], "image_token_id": 5,
    "text_config": {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "hidden_size": 32, "vocab_size": 64, "max_position_embeddings": 100, "eos_token_id": 2}}"#;

const PROCESSOR: &str = r#"{"image_token": "<image>", "image_seq_length": 4,
    "image_processor": {"size": {"height": 8, "width": 8}}}"#;

fn open(files: &[(&str, &str)]) -> Result<Bundle, BundleError> {
    let files = files
        .iter()
        .map(|(name, content)| {
            (Cow::Owned((*name).to_owned()), Cow::Owned(content.as_bytes().to_vec()))
        })
        .collect();
    Bundle::from_files("test".to_owned(), BundleFiles::Memory(files))
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
        "architecture `StrangeForConditionalGeneration` is not supported, supported: \
         LegendaForConditionalGeneration, LLaVA, Idefics3, SmolVLM, PaliGemma, Gemma 3, Qwen2-VL, \
         Qwen2.5-VL, text decoders (…ForCausalLM, …LMHeadModel), encoder-decoders (T5, BART, \
         Marian and their like, VisionEncoderDecoderModel, Whisper, Moonshine), and embedding \
         models (sentence encoders, CLIP, SigLIP)"
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
