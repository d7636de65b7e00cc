//! LLaVA: one placeholder per patch of an image.

use crate::{
    arch::{
        Architecture, EncoderInputs, Expansion, ImageSpec, Names, PromptConfigs, PromptLayout,
        Wiring, inconsistent,
    },
    config::{BundleError, ImageLayoutKind},
};

pub(in crate::arch) static LLAVA: Architecture = Architecture {
    models: "LLaVA",
    names: Names::exact(&["LlavaForConditionalGeneration", "llava"]),
    wiring: Wiring::Multimodal,
    image: Some(ImageSpec {
        layout: ImageLayoutKind::Whole,
        expansion: image_expansion,
        inputs: EncoderInputs::IMAGES,
    }),
    ..Architecture::BASE
};

fn image_expansion(configs: &PromptConfigs<'_>) -> Result<PromptLayout, BundleError> {
    let processor = configs.processor;
    let expansion = match (processor.patch_size, configs.model.media.image_seq_length) {
        (Some(patch), _) if patch > 0 => {
            let strategy = processor.vision_feature_select_strategy.as_deref();
            Expansion::PerPatch {
                patch,
                more: processor.num_additional_image_tokens,
                fewer: usize::from(strategy == Some("default")),
            }
        }
        (_, Some(n_tokens)) => Expansion::Repeated(n_tokens),
        _ => return Err(inconsistent("`patch_size` is missing or 0".to_owned())),
    };
    Ok(expansion.into())
}
