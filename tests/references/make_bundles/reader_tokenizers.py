"""Tokenizers of the decoders with image input."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from . import templates, toktypes


def llava_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Makes a Llama 2 tokenizer with an image token."""
    specials = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
    tokenizer = toktypes.metaspace_bpe(440, specials, prefix_space=True)
    toktypes.frame(tokenizer, ["<s>"], [])
    return toktypes.save(
        tokenizer,
        folder,
        {
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "extra_special_tokens": {"image_token": "<image>"},
            "image_token": "<image>",
            "legacy": False,
            "model_max_length": 512,
            "pad_token": "<pad>",
            "padding_side": "left",
            "processor_class": "LlavaProcessor",
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>",
        },
        templates.LLAVA,
    )


def smolvlm_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Makes a GPT-2 tokenizer with special tokens for images and their tiles."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<end_of_utterance>"]
    specials += ["<fake_token_around_image>", "<image>", "<global-img>"]
    # Published tokenizers go up to 6; images here have at most 3 by 3 tiles.
    specials += [f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)]
    return toktypes.save(
        toktypes.byte_level(340, specials, digits="{1,3}"),
        folder,
        {
            "add_prefix_space": False,
            "additional_special_tokens": specials[4:],
            "bos_token": "<|im_start|>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "<end_of_utterance>",
            "legacy": False,
            "model_max_length": 512,
            "pad_token": "<|im_end|>",
            "processor_class": "Idefics3Processor",
            "tokenizer_class": "GPT2Tokenizer",
            "truncation_side": "left",
            "unk_token": "<|endoftext|>",
        },
        templates.SMOLVLM,
    )


GEMMA_SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]


def gemma_config(eos: str, processor: str, media_tokens: dict[str, str]) -> dict[str, object]:
    """Returns the config of a Gemma tokenizer, with named media tokens."""
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<bos>",
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        **({"extra_special_tokens": media_tokens, **media_tokens} if media_tokens else {}),
        "model_max_length": 512,
        "pad_token": "<pad>",
        "processor_class": processor,
        "spaces_between_special_tokens": False,
        "tokenizer_class": "GemmaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }


def gemma_tokenizer(
    folder: Path, eos: str, processor: str, template: str | None = None
) -> PreTrainedTokenizerBase:
    """Makes a Gemma tokenizer with special tokens for turns and images."""
    images = {
        "image_token": "<image_soft_token>" if template else "<image>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    tokenizer = toktypes.metaspace_bpe(460, [*GEMMA_SPECIALS, *images.values()], prefix_space=False)
    toktypes.frame(tokenizer, ["<bos>"], [])
    config = gemma_config(eos, processor, images if template else {})
    return toktypes.save(tokenizer, folder, config, template)


def qwen_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Makes a Qwen tokenizer with image tokens."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"]
    specials += ["<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
    return toktypes.save(
        toktypes.byte_level(340, specials, digits="", nfc=True),
        folder,
        {
            "add_prefix_space": False,
            "additional_special_tokens": specials[1:],
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 512,
            "pad_token": "<|endoftext|>",
            "processor_class": "Qwen2VLProcessor",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
        templates.QWEN2_VL,
    )
