//! Qwen2-VL and Qwen2.5-VL: patches of an image at its own size, and positions on three axes.

use crate::{
    arch::{
        Architecture, EncoderInputs, Expansion, ExtraInput, ExtraValue, GenaiModel, ImageSpec,
        Names, PositionScheme, PromptConfigs, PromptLayout, RunUnit, Wiring, inconsistent,
    },
    config::{BundleError, ImageLayoutKind},
};

pub(in crate::arch) static QWEN2_VL: Architecture = Architecture {
    models: "Qwen2-VL, Qwen2.5-VL",
    names: Names::exact(&[
        "Qwen2VLForConditionalGeneration",
        "qwen2_vl",
        "Qwen2_5_VLForConditionalGeneration",
        "qwen2_5_vl",
    ]),
    genai: &[genai("qwen2_5_vl"), genai("fara")],
    wiring: Wiring::Multimodal,
    image: Some(ImageSpec {
        layout: ImageLayoutKind::Patches,
        expansion: image_expansion,
        inputs: EncoderInputs {
            dims: &[-1, -1],
            has_leading_axis: false,
            unit: RunUnit::Patches,
            extra: &[ExtraInput {
                names: &["grid_thw", "image_grid_thw"],
                is_optional: false,
                value: ExtraValue::PatchGrids,
            }],
        },
    }),
    positions: PositionScheme::MRope,
    ..Architecture::BASE
};

const fn genai(model_type: &'static str) -> GenaiModel {
    GenaiModel {
        model_type,
        needs_embedding: true,
        name: "Qwen2_5_VLForConditionalGeneration",
        tokens: &[("image_token_id", "<|image_pad|>")],
    }
}

fn image_expansion(configs: &PromptConfigs<'_>) -> Result<PromptLayout, BundleError> {
    let merge = configs.of_image_processor("merge_size");
    let edge = merge.map_or(Some(2), |n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let model_edge = configs.model.media.spatial_merge_size();
    if edge != Some(model_edge) {
        return Err(inconsistent(format!(
            "`merge_size` is not {model_edge}, the `spatial_merge_size` of `config.json`"
        )));
    }
    Ok(Expansion::PerSquare { edge: model_edge }.into())
}
