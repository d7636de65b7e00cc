"""LLaVA, SmolVLM, PaliGemma, Gemma 3, Qwen2-VL and Qwen2.5-VL."""

from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from . import templates
from .causal import SIZES
from .multimodal import Spec, make
from .reader_tokenizers import gemma_tokenizer, llava_tokenizer, qwen_tokenizer, smolvlm_tokenizer
from .sessions import (
    ImageFeatures,
    LlavaFeatures,
    PatchFeatures,
    TileFeatures,
    WindowPatchFeatures,
)

__all__ = ["SPECS", "make"]

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
CLIP_PIXELS = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
}
QWEN_PIXELS = {
    **{k: v for k, v in CLIP_PIXELS.items() if k != "resample"},
    "image_processor_type": "Qwen2VLImageProcessor",
    "max_pixels": 9216,
    "merge_size": 2,
    "min_pixels": 1024,
    "patch_size": 8,
    "temporal_patch_size": 2,
}
PAIRS = {0: "num_images"}


def _ids(tokenizer: PreTrainedTokenizerBase) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _generation(tokenizer: PreTrainedTokenizerBase) -> dict:
    ids = {k: v for k, v in _ids(tokenizer).items() if k != "vocab_size" and v is not None}
    return {**ids, "transformers_version": "4.57.6"}


def _qwen_parts(tokenizer: PreTrainedTokenizerBase) -> dict:
    """Returns the common config fields of Qwen2-VL and Qwen2.5-VL."""
    ids = tokenizer.convert_tokens_to_ids
    return dict(
        text_config={
            **SIZES,
            **_ids(tokenizer),
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
            "rope_theta": 1000000.0,
            "use_sliding_window": False,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )


PATCHES = {
    "hidden_size": 32,
    "num_heads": 4,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def _qwen_config(tokenizer: PreTrainedTokenizerBase) -> Qwen2VLConfig:
    tower = {**PATCHES, "depth": 2, "embed_dim": 32, "mlp_ratio": 2}
    return Qwen2VLConfig(vision_config=tower, **_qwen_parts(tokenizer))


def _qwen_2_5_config(tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLConfig:
    tower = {
        **PATCHES,
        "depth": 3,
        "fullatt_block_indexes": [1],
        "intermediate_size": 48,
        "out_hidden_size": 32,
        "tokens_per_second": 2,
        "window_size": 32,
    }
    return Qwen2_5_VLConfig(vision_config=tower, **_qwen_parts(tokenizer))


def _flat(config: dict) -> dict:
    """Converts a Qwen config to its published form: text fields at the top level."""
    text = {k: v for k, v in config.pop("text_config").items() if k != "model_type"}
    text["rope_scaling"] = {"type": "mrope", "mrope_section": text["rope_scaling"]["mrope_section"]}
    return {**text, **config}


SQUARE_PIXELS = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 32, "width": 32},
}
SIGLIP = {"model_type": "siglip_vision_model", **TOWER}

SPECS = [
    Spec(
        name="llava",
        tokenizer=llava_tokenizer,
        model_class=LlavaForConditionalGeneration,
        config=lambda t: LlavaConfig(
            text_config={"model_type": "llama", **SIZES, **_ids(t)},
            vision_config={"model_type": "clip_vision_model", **TOWER},
            image_token_index=t.convert_tokens_to_ids("<image>"),
            image_seq_length=16,
            tie_word_embeddings=False,
        ),
        generation=_generation,
        files={
            "preprocessor_config.json": {
                **CLIP_PIXELS,
                "crop_size": {"height": 32, "width": 32},
                "do_center_crop": True,
                "image_processor_type": "CLIPImageProcessor",
                "processor_class": "LlavaProcessor",
                "size": {"shortest_edge": 32},
            },
            "processor_config.json": {
                "image_token": "<image>",
                "num_additional_image_tokens": 1,
                "patch_size": 8,
                "processor_class": "LlavaProcessor",
                "vision_feature_select_strategy": "default",
            },
        },
        vision=LlavaFeatures,
        vision_axes={"pixel_values": PAIRS},
        fp16=True,
    ),
    Spec(
        name="smolvlm",
        tokenizer=smolvlm_tokenizer,
        model_class=Idefics3ForConditionalGeneration,
        config=lambda t: Idefics3Config(
            text_config={"model_type": "llama", **SIZES, **_ids(t)},
            vision_config={"model_type": "idefics3_vision", **TOWER},
            image_token_id=t.convert_tokens_to_ids("<image>"),
            scale_factor=2,
            pad_token_id=t.pad_token_id,
            tie_word_embeddings=False,
        ),
        generation=_generation,
        files={
            "preprocessor_config.json": {
                "do_convert_rgb": True,
                "do_image_splitting": True,
                "do_normalize": True,
                "do_pad": True,
                "do_rescale": True,
                "do_resize": True,
                "image_mean": [0.5, 0.5, 0.5],
                "image_processor_type": "Idefics3ImageProcessor",
                "image_std": [0.5, 0.5, 0.5],
                "max_image_size": {"longest_edge": 32},
                "processor_class": "Idefics3Processor",
                "resample": 1,
                "rescale_factor": 0.00392156862745098,
                "size": {"longest_edge": 96},
            },
            "processor_config.json": {
                "image_seq_len": 4,
                "processor_class": "Idefics3Processor",
            },
        },
        vision=TileFeatures,
        vision_axes={
            "pixel_values": {0: "batch_size", 1: "num_images"},
            "pixel_attention_mask": {0: "batch_size", 1: "num_images"},
        },
        # Torchvision does not have the Lanczos filter, which this model family needs.
        image_backend="pil",
    ),
    Spec(
        name="paligemma",
        tokenizer=lambda folder: gemma_tokenizer(folder, "<eos>", "PaliGemmaProcessor"),
        model_class=PaliGemmaForConditionalGeneration,
        config=lambda t: PaliGemmaConfig(
            text_config={
                "model_type": "gemma",
                **SIZES,
                **_ids(t),
                "head_dim": 8,
                "num_key_value_heads": 1,
            },
            vision_config={**SIGLIP, "projection_dim": 32, "num_image_tokens": 16},
            image_token_index=t.convert_tokens_to_ids("<image>"),
            projection_dim=32,
            hidden_size=32,
            pad_token_id=t.pad_token_id,
            tie_word_embeddings=False,
        ),
        generation=_generation,
        files={
            "preprocessor_config.json": {
                **SQUARE_PIXELS,
                "image_processor_type": "SiglipImageProcessor",
                "image_seq_length": 16,
                "processor_class": "PaliGemmaProcessor",
                "resample": 3,
            }
        },
        vision=ImageFeatures,
        vision_axes={"pixel_values": PAIRS},
        decoder={"causal": False},
        has_template=False,
        single_image=True,
        first_position=1,
        # The model family multiplies its embeddings by sqrt(32).
        embedding_std=0.2,
    ),
    Spec(
        name="gemma3",
        tokenizer=lambda folder: gemma_tokenizer(
            folder, "<end_of_turn>", "Gemma3Processor", templates.GEMMA3
        ),
        model_class=Gemma3ForConditionalGeneration,
        config=lambda t: Gemma3Config(
            text_config={
                **SIZES,
                **_ids(t),
                "head_dim": 8,
                "query_pre_attn_scalar": 8,
                "sliding_window": 16,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            vision_config={**SIGLIP, "vision_use_head": False},
            mm_tokens_per_image=4,
            boi_token_index=t.convert_tokens_to_ids("<start_of_image>"),
            eoi_token_index=t.convert_tokens_to_ids("<end_of_image>"),
            image_token_index=t.convert_tokens_to_ids("<image_soft_token>"),
            eos_token_id=[t.convert_tokens_to_ids("<eos>"), t.eos_token_id],
            tie_word_embeddings=False,
        ),
        generation=lambda t: {
            **_generation(t),
            "eos_token_id": [t.eos_token_id, t.convert_tokens_to_ids("<eos>")],
        },
        files={
            "preprocessor_config.json": {
                **SQUARE_PIXELS,
                "do_pan_and_scan": None,
                "image_processor_type": "Gemma3ImageProcessor",
                "image_seq_length": 4,
                "pan_and_scan_max_num_crops": None,
                "pan_and_scan_min_crop_size": None,
                "pan_and_scan_min_ratio_to_activate": None,
                "processor_class": "Gemma3Processor",
                "resample": 2,
            },
            "processor_config.json": {
                "image_seq_length": 4,
                "processor_class": "Gemma3Processor",
            },
        },
        vision=ImageFeatures,
        vision_axes={"pixel_values": PAIRS},
        decoder={
            "windows": {"sliding_attention": 16, "full_attention": None},
            "keeps_logits": True,
        },
        first_position=1,
        embedding_std=0.2,
    ),
    Spec(
        name="qwen2_vl",
        tokenizer=qwen_tokenizer,
        model_class=Qwen2VLForConditionalGeneration,
        config=_qwen_config,
        generation=lambda t: {
            **_generation(t),
            "eos_token_id": [t.eos_token_id, t.convert_tokens_to_ids("<|endoftext|>")],
        },
        files={"preprocessor_config.json": {**QWEN_PIXELS, "processor_class": "Qwen2VLProcessor"}},
        publish=_flat,
        vision=PatchFeatures,
        vision_axes={"pixel_values": {0: "num_patches"}, "grid_thw": PAIRS},
    ),
    Spec(
        name="qwen2_5_vl",
        tokenizer=qwen_tokenizer,
        model_class=Qwen2_5_VLForConditionalGeneration,
        config=_qwen_2_5_config,
        generation=lambda t: {
            **_generation(t),
            "eos_token_id": [t.eos_token_id, t.convert_tokens_to_ids("<|endoftext|>")],
        },
        files={
            "preprocessor_config.json": {**QWEN_PIXELS, "processor_class": "Qwen2_5_VLProcessor"}
        },
        publish=_flat,
        vision=WindowPatchFeatures,
        vision_axes={"pixel_values": {0: "num_patches"}, "image_grid_thw": PAIRS},
    ),
]
