"""ViT with GPT-2, and TrOCR: image to text."""

from collections.abc import Callable
from pathlib import Path

from transformers import (
    GPT2Config,
    PreTrainedTokenizerBase,
    TrOCRConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

from . import media, toktypes
from .seq2seq import Spec, make

__all__ = ["SPECS", "make"]

ROWS = [{"image": name} for name in sorted(media.images())]
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
PROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "ViTImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 32, "width": 32},
}


def _gpt2_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return toktypes.save(
        toktypes.byte_level(330, ["<|endoftext|>"], digits=None),
        folder,
        {
            "add_prefix_space": False,
            "bos_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": True,
            "eos_token": "<|endoftext|>",
            "model_max_length": 128,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "GPT2Tokenizer",
            "unk_token": "<|endoftext|>",
        },
    )


def roberta_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Makes a RoBERTa tokenizer, which TrOCR and CLAP use."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = toktypes.byte_level(340, specials, digits=None)
    tokenizer = toktypes.specials_first(tokenizer, specials)
    toktypes.frame(tokenizer, ["<s>"], ["</s>"])
    return toktypes.save(
        tokenizer,
        folder,
        {
            "add_prefix_space": False,
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": True,
            "cls_token": "<s>",
            "eos_token": "</s>",
            "errors": "replace",
            "mask_token": "<mask>",
            "model_max_length": 128,
            "pad_token": "<pad>",
            "sep_token": "</s>",
            "tokenizer_class": "RobertaTokenizer",
            "unk_token": "<unk>",
        },
    )


def _vit_gpt2(tokenizer: PreTrainedTokenizerBase) -> VisionEncoderDecoderModel:
    decoder = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        add_cross_attention=True,
        is_decoder=True,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**VIT), decoder)
    config.tie_word_embeddings = False
    return VisionEncoderDecoderModel(config)


def _trocr(tokenizer: PreTrainedTokenizerBase) -> VisionEncoderDecoderModel:
    decoder = TrOCRConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        max_position_embeddings=128,
        cross_attention_hidden_size=32,
        tie_word_embeddings=False,
    )
    encoder = ViTConfig(**(VIT | {"image_size": 48}), qkv_bias=False)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.tie_word_embeddings = False
    return VisionEncoderDecoderModel(config)


def _generation(start: str) -> Callable[[PreTrainedTokenizerBase], dict[str, object]]:
    """Returns a function for generation configs, which differ only in the start token."""

    def generation(tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
        return {
            "bos_token_id": tokenizer.bos_token_id,
            "decoder_start_token_id": getattr(tokenizer, start),
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "transformers_version": "4.57.6",
        }

    return generation


SPECS = [
    Spec(
        name="vit_gpt2",
        tokenizer=_gpt2_tokenizer,
        model=_vit_gpt2,
        # The begin, end and padding tokens are the same.
        generation=_generation("bos_token_id"),
        task="image-to-text-with-past",
        rows=ROWS,
        processor=PROCESSOR | {"feature_extractor_type": "ViTFeatureExtractor"},
    ),
    Spec(
        name="trocr",
        tokenizer=roberta_tokenizer,
        model=_trocr,
        generation=_generation("eos_token_id"),
        task="image-to-text-with-past",
        rows=ROWS,
        processor=PROCESSOR
        | {"size": {"height": 48, "width": 48}, "resample": 3, "processor_class": "TrOCRProcessor"},
        gain=0.8,
    ),
]
