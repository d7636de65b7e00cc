"""Gemma 3 and Qwen2.5-VL in the layout of onnxruntime-genai.

The decoder of Gemma 3 is traced, because builder 0.18 cannot read the config that transformers 5.23
makes of it. The builder makes the decoder of Qwen2.5-VL (`qwen2_5_vl_text`).
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import (
    Gemma3Config,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5_VLConfig,
)

from . import media
from .common import BUNDLES, WORK, write_reference
from .decoding import MAX_NEW_TOKENS
from .genai_text import check
from .genai_whisper import TOKENIZER_FILES
from .graphs import trace
from .multimodal import Spec, build, export_decoder, media_feeds, prompts
from .readers import QWEN_PIXELS, TOWER
from .readers import SPECS as READERS
from .sessions import ImageFeatures
from .toktypes import write_json

# Sizes that the code of onnxruntime-genai uses for every Gemma 3.
CONTEXT, N_PATCHES, SIDE = 1024, 256, 128
HEAD_SIZE = 16


class Embedding(nn.Module):
    """Maps tokens and features to embeddings."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.table, self.mark = model.get_input_embeddings(), model.config.image_token_id

    def forward(self, input_ids: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        """Returns [rows, tokens, size]."""
        positions = torch.nonzero(input_ids == self.mark, as_tuple=True)
        return torch.index_put(self.table(input_ids), positions, image_features)


class FlatFeatures(nn.Module):
    """The image features of a model, concatenated."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns [tokens of all images, size]."""
        return self.model.get_image_features(pixel_values).flatten(0, 1)


def _gemma3_config(tokenizer: PreTrainedTokenizerBase) -> Gemma3Config:
    base = GEMMA3.config(tokenizer).to_dict()
    base["vision_config"] |= {**TOWER, "image_size": SIDE}
    base["text_config"]["max_position_embeddings"] = CONTEXT
    return Gemma3Config(**base | {"mm_tokens_per_image": N_PATCHES})


def _qwen_config(tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLConfig:
    base = QWEN.config(tokenizer).to_dict()
    base["text_config"] |= {
        # GroupQueryAttention needs a head size of 16.
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "layer_types": None,
    }
    return Qwen2_5_VLConfig(**base)


GEMMA3, QWEN = (
    next(spec for spec in READERS if spec.name == name) for name in ("gemma3", "qwen2_5_vl")
)
SPECS = [
    replace(
        GEMMA3,
        name="gemma3_genai",
        decoder={"windows": GEMMA3.decoder["windows"]},
        config=_gemma3_config,
        files={
            "preprocessor_config.json": {
                **GEMMA3.files["preprocessor_config.json"],
                "image_seq_length": N_PATCHES,
                "size": {"height": SIDE, "width": SIDE},
                "resample": 3,
            },
            "processor_config.json": {
                "image_seq_length": N_PATCHES,
                "processor_class": "Gemma3Processor",
            },
        },
    ),
    replace(QWEN, name="qwen2_5_vl_genai", config=_qwen_config),
]
# The prefixes of graph file names.
PREFIXES = {"gemma3_genai": "gemma-3", "qwen2_5_vl_genai": "qwen-2.5-vl"}


def _genai_config(spec: Spec, model: PreTrainedModel, generation: dict) -> dict:
    text, prefix = model.config.text_config, PREFIXES[spec.name]
    is_qwen = spec.name.startswith("qwen")
    extra_inputs = {"position_ids": "position_ids"} if is_qwen else {}
    vision = {
        "filename": f"{prefix}-vision.onnx",
        "config_filename": "processor_config.json",
        "inputs": {"pixel_values": "pixel_values"},
        "outputs": {"image_features": "image_features"},
    }
    if is_qwen:
        vision["inputs"]["image_grid_thw"] = "image_grid_thw"
        vision["spatial_merge_size"] = 2
    return {
        "model": {
            "bos_token_id": generation.get("bos_token_id", generation["pad_token_id"]),
            "context_length": text.max_position_embeddings,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": f"{prefix}-text.onnx",
                "head_size": getattr(text, "head_dim", None) or HEAD_SIZE,
                "hidden_size": text.hidden_size,
                "inputs": {
                    "inputs_embeds": "inputs_embeds",
                    "attention_mask": "attention_mask",
                    **extra_inputs,
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "num_attention_heads": text.num_attention_heads,
                "num_hidden_layers": text.num_hidden_layers,
                "num_key_value_heads": text.num_key_value_heads,
            },
            "embedding": {
                "filename": f"{prefix}-embedding.onnx",
                "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
                "outputs": {"inputs_embeds": "inputs_embeds"},
            },
            "vision": vision,
            "eos_token_id": generation["eos_token_id"],
            "pad_token_id": generation["pad_token_id"],
            "type": "qwen2_5_vl" if is_qwen else "gemma3",
            "vocab_size": text.vocab_size,
        },
        "search": {
            "do_sample": False,
            "max_length": text.max_position_embeddings,
            "num_beams": 1,
            "top_k": 64,
        },
    }


def _operation(name: str, kind: str, **attrs: object) -> dict:
    return {"operation": {"name": name, "type": kind, **({"attrs": attrs} if attrs else {})}}


GEMMA3_STEPS = [
    _operation("decode_image", "DecodeImage", color_space="RGB"),
    _operation(
        "resize", "Resize", interpolation="CUBIC", width=SIDE, height=SIDE, keep_aspect_ratio=0
    ),
    _operation("re-scale", "Rescale"),
    _operation("normalize", "Normalize", mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5]),
    _operation("to_channel_first", "Permute3D", dims=[2, 0, 1]),
]
_PATCH = {name: QWEN_PIXELS[name] for name in ("patch_size", "temporal_patch_size", "merge_size")}
QWEN_STEPS = [
    _operation("decode_image", "DecodeImage", color_space="RGB"),
    _operation("convert_to_rgb", "ConvertRGB"),
    _operation(
        "resize",
        "Resize",
        width=540,
        height=360,
        smart_resize=1,
        min_pixels=QWEN_PIXELS["min_pixels"],
        max_pixels=QWEN_PIXELS["max_pixels"],
        **_PATCH,
    ),
    _operation("rescale", "Rescale", rescale_factor=QWEN_PIXELS["rescale_factor"]),
    _operation(
        "normalize", "Normalize", mean=QWEN_PIXELS["image_mean"], std=QWEN_PIXELS["image_std"]
    ),
    _operation("patch_image", "PatchImage", **_PATCH),
]


def _export(spec: Spec, model: PreTrainedModel, inputs: dict, folder: Path) -> None:
    prefix = PREFIXES[spec.name]
    module = FlatFeatures(model) if spec.vision is ImageFeatures else spec.vision(model)
    trace(
        module,
        media_feeds(list(spec.vision_axes), inputs),
        {"image_features": {0: "num_image_tokens"}},
        spec.vision_axes,
        folder / f"{prefix}-vision.onnx",
    )
    rows = {0: "batch_size", 1: "sequence_length"}
    embedding = Embedding(model)
    trace(
        embedding,
        {
            "input_ids": torch.tensor([[1, embedding.mark, embedding.mark, 4]]),
            "image_features": torch.randn(2, model.config.text_config.hidden_size),
        },
        {"inputs_embeds": rows},
        {"input_ids": rows, "image_features": {0: "num_image_tokens"}},
        folder / f"{prefix}-embedding.onnx",
    )


def make(spec: Spec) -> None:
    """Makes the bundle and its reference, without the decoder if the builder makes it."""
    folder, source = BUNDLES / spec.name, WORK / spec.name
    for path in (folder, source):
        shutil.rmtree(path, ignore_errors=True)
    folder.mkdir()
    media.make()
    tokenizer = spec.tokenizer(source)
    for name, content in spec.files.items():
        write_json(source / name, content)
    rows = prompts(spec, source)
    model, answers = build(spec, tokenizer, [inputs for _, inputs in rows])
    generation = spec.generation(tokenizer)
    write_json(folder / "genai_config.json", _genai_config(spec, model, generation))
    steps = QWEN_STEPS if spec.name.startswith("qwen") else GEMMA3_STEPS
    write_json(
        folder / "processor_config.json",
        {"processor": {"name": "image_processing", "transforms": steps}},
    )
    for name in [*TOKENIZER_FILES, "chat_template.jinja"]:
        shutil.copy(source / name, folder)
    with_images = [inputs for _, inputs in rows if "pixel_values" in inputs]
    largest = max(with_images, key=lambda inputs: inputs["pixel_values"].numel())
    _export(spec, model, largest, folder)
    output_rows = []
    for index, ((row, inputs), answer) in enumerate(zip(rows, answers, strict=True)):
        feeds = {}
        if "pixel_values" in inputs:
            feeds = media_feeds(list(spec.vision_axes), inputs)
        if spec.name.startswith("qwen"):
            grid = inputs.get("image_grid_thw")
            positions, delta = model.model.get_rope_index(inputs["input_ids"], grid)
            feeds |= {"positions": positions, "shift": delta}
        named = {n if n in ("positions", "shift") else f"vision/{n}": v for n, v in feeds.items()}
        np.savez(source / f"row_{index}.npz", **{n: v.numpy() for n, v in named.items()})
        output_rows.append({**row, **answer.row()})
        output_rows[-1]["answer"] = tokenizer.decode(answer.token_ids, skip_special_tokens=True)
    config = json.loads((folder / "genai_config.json").read_text())
    write_reference(
        spec.name,
        output_rows,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_ids=config["model"]["eos_token_id"],
        image_backend=spec.image_backend,
    )
    if spec.name.startswith("qwen"):
        model.save_pretrained(source)
        saved = json.loads((source / "config.json").read_text())
        write_json(source / "config.json", saved | {"architectures": [spec.model_class.__name__]})
        return
    export_decoder(spec, model, folder / f"{PREFIXES[spec.name]}-text.onnx")
    check(spec.name, PREFIXES[spec.name], source)
