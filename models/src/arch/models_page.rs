//! The table of supported models in `docs/models.md`, generated from the registry.

use std::{env, fs, io::Write as _, path::Path};

use super::{AnswerFormat, Architecture, EmbeddingSpec, PromptText, Wiring, registry::supported};

/// If set to 1, the page is written instead of compared.
const UPDATE: &str = "LEGENDA_UPDATE";

const HEAD: &str = "\
# Supported models

This page is generated from the architecture registry (`models/src/arch/`). Do not edit it; run
`LEGENDA_UPDATE=1 cargo test -p legenda-models models_page`.

The architecture of a bundle is the first entry of `architectures` in `config.json`, or `model_type` if
there is none. In the layout of onnxruntime-genai it is `model.type` in `genai_config.json`. `…` stands
for any prefix. Suffixes of encoder-decoders match only if `config.json` sets `is_encoder_decoder`.

| models | `config.json` | `genai_config.json` | wiring | input | answer |
|---|---|---|---|---|---|
";

#[test]
fn the_page_of_supported_models_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/models.md");
    let page = page();
    if env::var_os(UPDATE).is_some_and(|value| value == "1") {
        fs::File::create(&path).unwrap().write_all(page.as_bytes()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/models.md is out of date: run this test with {UPDATE}=1");
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for one in supported() {
        let cells = [
            one.models.to_owned(),
            names(one),
            genai(one),
            one.wiring.as_str().to_owned(),
            input(one),
            answer(one).to_owned(),
        ];
        page += &format!("| {} |\n", cells.join(" | "));
    }
    page
}

fn code(name: &str) -> String {
    format!("`{name}`")
}

fn names(one: &Architecture) -> String {
    let exact = one.names.exact.iter().map(|name| code(name));
    let suffixes = one.names.suffixes.iter().map(|suffix| code(&format!("…{suffix}")));
    let names = exact.chain(suffixes).collect::<Vec<_>>().join(", ");
    match one.names.encoder {
        Some(encoder) => format!("{names} with an encoder `…{encoder}…`"),
        None => names,
    }
}

fn genai(one: &Architecture) -> String {
    match one.wiring {
        Wiring::Causal => "any other".to_owned(),
        _ => one.genai.iter().map(|model| code(model.model_type)).collect::<Vec<_>>().join(", "),
    }
}

fn input(one: &Architecture) -> String {
    let text = (one.prompt.text != PromptText::Unread).then_some("text");
    let image = one.image.as_ref().map(|_| "images");
    let audio = one.audio.as_ref().map(|_| "audio");
    let single = one.seq2seq().and_then(|spec| spec.input.modality());
    let dual = match one.wiring {
        Wiring::Embedding(EmbeddingSpec::Dual(dual)) => Some(dual.modality),
        _ => None,
    };
    [text, image, audio, single, dual].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn answer(one: &Architecture) -> &'static str {
    match (one.wiring, one.answer) {
        (Wiring::Embedding(_), _) => "one vector",
        (_, AnswerFormat::Text) => "text",
        (_, AnswerFormat::Timestamped) => "text, with timestamps if enabled by the job",
        (_, AnswerFormat::DocumentFields) => "the fields of a document, as JSON",
        (_, AnswerFormat::Regions) => "text; JSON for tasks with regions of the image",
        (_, AnswerFormat::Continuation) => "the prompt and its continuation",
    }
}
