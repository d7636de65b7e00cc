"""Ultravox and Voxtral: decoders with audio input."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers import (
    AutoFeatureExtractor,
    PreTrainedTokenizerBase,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    VoxtralProcessor,
)
from transformers.models.voxtral.processing_voxtral import VoxtralProcessorKwargs

from . import media, templates, toktypes
from .causal import SIZES
from .corpus import ROW_TEXTS
from .multimodal import Spec, make
from .sessions import AudioFeatures
from .ultravox import UltravoxConfig, UltravoxModel

__all__ = ["SPECS", "make"]

QUESTION = "What do you hear?"
# Texts and the audio before them; each audio input is a list of concatenated files.
ONE_CLIP = [
    (QUESTION, [["glide-2s.wav"]]),
    (QUESTION, [["fall-1s.wav"]]),
    ("", [["hiss-1s.wav"]]),
    ("Hello", [["beeps-2.5s.wav"]]),
    (ROW_TEXTS[8], [["low-3s.wav"]]),
    (ROW_TEXTS[2], [["short-0.3s.wav"]]),
    (ROW_TEXTS[3], [["steps-1.7s.wav"]]),
    (ROW_TEXTS[5], [["quiet-0.8s.wav"]]),
    ("Write it down.", [["fall-1s.wav", "low-3s.wav"]]),
    ("Hello", []),
    (ROW_TEXTS[7], []),
]
OTHER_CLIPS = [
    ("Which of both is longer?", [["glide-2s.wav"], ["fall-1s.wav"]]),
    # More than 30 s.
    ("Is it long?", [["low-3s.wav", "beeps-2.5s.wav", "glide-2s.wav", "steps-1.7s.wav"] * 4]),
]
ENCODER = {
    "hidden_size": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
WHISPER = {
    "chunk_length": 30,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
    "sampling_rate": 16000,
}


def samples_of(names: list[str]) -> np.ndarray:
    """Returns the concatenated samples of files."""
    return np.concatenate([media.read_audio(name) for name in names])


def _row(
    tokenizer: PreTrainedTokenizerBase,
    row: dict,
    rendered: str,
    expanded: str,
    features: torch.Tensor | None,
) -> tuple[dict, dict]:
    ids = tokenizer(expanded, add_special_tokens=False, return_tensors="pt")["input_ids"]
    row |= {"rendered": rendered, "prompt_ids": ids[0].tolist()}
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if features is not None:
        inputs["input_features"] = features
    return row, inputs


def _config(tokenizer: PreTrainedTokenizerBase) -> dict:
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    sizes = {**SIZES, "head_dim": 8, "vocab_size": len(tokenizer)}
    return {"model_type": "llama", **sizes, **ids}


AUDIO = "<|audio|>"
STACK, ENCODER_STRIDE = 8, 320


def _ultravox_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Makes a Llama 3 tokenizer with an audio token."""
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
    return toktypes.save(
        toktypes.byte_level(340, [*specials, "<|eot_id|>", AUDIO], digits="{1,3}"),
        folder,
        {
            "bos_token": "<|begin_of_text|>",
            "clean_up_tokenization_spaces": True,
            "eos_token": "<|eot_id|>",
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 512,
            "pad_token": "<|eot_id|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
        templates.LLAMA3,
        template_in_config=True,
    )


def _ultravox_rows(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[tuple[dict, dict]]:
    """Returns rows in the format of `UltravoxPipeline` and the transformers.js processor.

    An audio token is repeated once per feature of the published graph.
    """
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    rows = []
    for text, clips in ONE_CLIP:
        content, features, n_audio_tokens = text, None, 0
        for names in clips:
            content = f"{text} {AUDIO}" if text else AUDIO
            samples = samples_of(names)
            options = {"padding": "longest", "max_length": len(samples), "sampling_rate": 16000}
            features = extractor(samples, return_tensors="pt", **options)["input_features"]
            n_frames = round(len(samples) / ENCODER_STRIDE + 1e-4)
            n_audio_tokens = 1 + math.ceil(n_frames / STACK)
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        expanded = rendered.replace(AUDIO, AUDIO * n_audio_tokens)
        rows.append(_row(tokenizer, {"text": text, "audios": clips}, rendered, expanded, features))
    return rows


def _publish_ultravox(config: dict) -> dict:
    """Stores the audio token where transformers.js looks for it."""
    token_id = config.pop("audio_token_id")
    return {**config, "ignore_index": token_id}


def _voxtral_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Makes a Mistral tokenizer with special tokens for turns and audio."""
    specials = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    specials += ["[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]"]
    return toktypes.save(
        toktypes.byte_level(340, specials, digits=""),
        folder,
        {
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "model_max_length": 1024,
            "processor_class": "VoxtralProcessor",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>",
        },
        templates.VOXTRAL,
    )


def _voxtral_rows(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[tuple[dict, dict]]:
    """Returns rows with the features of the processor's own code.

    Prompts come from another package; the template has the same format, with 375 tokens per started
    30 s.
    """
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    options = dict(VoxtralProcessorKwargs._defaults["audio_kwargs"])
    retrieve, holder = VoxtralProcessor._retrieve_input_features, SimpleNamespace()
    holder.feature_extractor = extractor
    rows = []
    for text, clips in ONE_CLIP + OTHER_CLIPS:
        content = [{"type": "audio"} for _ in clips] + [{"type": "text", "text": text}]
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        samples = [samples_of(names) for names in clips]
        expanded, *rest = rendered.split("[AUDIO]")
        for clip_samples, after in zip(samples, rest, strict=True):
            n_clips = math.ceil(len(clip_samples) / extractor.n_samples)
            expanded += "[BEGIN_AUDIO]" + "[AUDIO]" * (375 * n_clips) + after
        features = None
        if samples:
            features = retrieve(holder, samples, return_tensors="pt", **options)
        rows.append(_row(tokenizer, {"text": text, "audios": clips}, rendered, expanded, features))
    return rows


def _generation(tokenizer: PreTrainedTokenizerBase) -> dict:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
        "transformers_version": "4.57.6",
    }


SPECS = [
    Spec(
        name="ultravox",
        tokenizer=_ultravox_tokenizer,
        model_class=UltravoxModel,
        config=lambda t: UltravoxConfig(
            text_config=_config(t),
            # Four seconds.
            audio_config={**ENCODER, "num_mel_bins": 80, "max_source_positions": 200},
            audio_token_id=t.convert_tokens_to_ids(AUDIO),
            stack_factor=STACK,
            tie_word_embeddings=False,
        ),
        generation=lambda t: {
            **_generation(t),
            "eos_token_id": [t.eos_token_id, t.convert_tokens_to_ids("<|end_of_text|>")],
        },
        files={
            "preprocessor_config.json": {
                **WHISPER,
                "feature_size": 80,
                "processor_class": "UltravoxProcessor",
            },
            "processor_config.json": {
                "audio_padding": "longest",
                "audio_placeholder": AUDIO,
                "encoder_ds_factor": ENCODER_STRIDE,
                "processor_class": "UltravoxProcessor",
                "stack_factor": STACK,
            },
        },
        publish=_publish_ultravox,
        audio=AudioFeatures,
        audio_axes={"audio_values": {0: "num_sounds", 2: "num_frames"}},
        rows=_ultravox_rows,
    ),
    Spec(
        name="voxtral",
        tokenizer=_voxtral_tokenizer,
        model_class=VoxtralForConditionalGeneration,
        config=lambda t: VoxtralConfig(
            text_config={**_config(t), "max_position_embeddings": 1024},
            audio_config={**ENCODER, "num_mel_bins": 128},
            audio_token_id=t.convert_tokens_to_ids("[AUDIO]"),
            tie_word_embeddings=False,
        ),
        generation=_generation,
        files={
            "preprocessor_config.json": {
                **WHISPER,
                "dither": 0.0,
                "feature_size": 128,
                "processor_class": "VoxtralProcessor",
            }
        },
        audio=AudioFeatures,
        audio_axes={"audio_values": {0: "num_clips"}},
        rows=_voxtral_rows,
        gain=1.6,
    ),
]
