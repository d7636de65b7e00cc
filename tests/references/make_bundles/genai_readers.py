"""Gemma 3 as onnxruntime-genai lays it out.

Its decoder is traced: the builder of 0.18 does not read what transformers 5.23 makes of its config.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import Gemma3Config, PreTrainedModel, PreTrainedTokenizerBase

from . import media
from .common import BUNDLES, WORK, write_reference
from .decoding import MAX_NEW_TOKENS
from .genai_text import check
from .genai_whisper import TOKENIZER_FILES
from .graphs import trace
from .multimodal import Spec, build, export_decoder, prompts
from .readers import SPECS as READERS
from .readers import TOWER
from .toktypes import write_json

# What is not the tokenizer's, and what the code of onnxruntime-genai has for every Gemma 3.
CONTEXT, N_PATCHES, SIDE = 1024, 256, 128


class Embedding(nn.Module):
    """Tokens and features to embeddings."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.table, self.mark = model.get_input_embeddings(), model.config.image_token_id

    def forward(self, input_ids: torch.Tensor, image_features: torch.Tensor) -> torch.Tensor:
        """Returns [rows, tokens, size]."""
        places = torch.nonzero(input_ids == self.mark, as_tuple=True)
        return torch.index_put(self.table(input_ids), places, image_features)


class FlatFeatures(nn.Module):
    """What a module makes of pictures, one feature after the other."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns [tokens of all pictures, size]."""
        return self.model.get_image_features(pixel_values).flatten(0, 1)


def _gemma3_config(tokenizer: PreTrainedTokenizerBase) -> Gemma3Config:
    base = GEMMA3.config(tokenizer).to_dict()
    base["vision_config"] |= {**TOWER, "image_size": SIDE}
    base["text_config"]["max_position_embeddings"] = CONTEXT
    return Gemma3Config(**base | {"mm_tokens_per_image": N_PATCHES})


GEMMA3 = next(spec for spec in READERS if spec.name == "gemma3")
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
    )
]


def _genai_config(spec: Spec, model: PreTrainedModel, generation: dict) -> dict:
    text = model.config.text_config
    return {
        "model": {
            "bos_token_id": generation["bos_token_id"],
            "context_length": CONTEXT,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": "gemma-3-text.onnx",
                "head_size": text.head_dim,
                "hidden_size": text.hidden_size,
                "inputs": {
                    "inputs_embeds": "inputs_embeds",
                    "attention_mask": "attention_mask",
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
                "filename": "gemma-3-embedding.onnx",
                "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
                "outputs": {"inputs_embeds": "inputs_embeds"},
            },
            "vision": {
                "filename": "gemma-3-vision.onnx",
                "config_filename": "processor_config.json",
                "inputs": {"pixel_values": "pixel_values"},
                "outputs": {"image_features": "image_features"},
            },
            "eos_token_id": generation["eos_token_id"],
            "pad_token_id": generation["pad_token_id"],
            "type": "gemma3",
            "vocab_size": text.vocab_size,
        },
        "search": {"do_sample": False, "max_length": CONTEXT, "num_beams": 1, "top_k": 64},
    }


def _operation(name: str, kind: str, **attrs: object) -> dict:
    return {"operation": {"name": name, "type": kind, **({"attrs": attrs} if attrs else {})}}


PROCESSOR = {
    "processor": {
        "name": "gemma_3_image_processing",
        "transforms": [
            _operation("decode_image", "DecodeImage", color_space="RGB"),
            _operation(
                "resize",
                "Resize",
                interpolation="CUBIC",
                width=SIDE,
                height=SIDE,
                keep_aspect_ratio=0,
            ),
            _operation("re-scale", "Rescale"),
            _operation("normalize", "Normalize", mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5]),
            _operation("to_channel_first", "Permute3D", dims=[2, 0, 1]),
        ],
    }
}


def _export(model: PreTrainedModel, pixels: torch.Tensor, folder: Path) -> None:
    trace(
        FlatFeatures(model),
        {"pixel_values": pixels},
        {"image_features": {0: "num_image_tokens"}},
        {"pixel_values": {0: "num_images"}},
        folder / "gemma-3-vision.onnx",
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
        folder / "gemma-3-embedding.onnx",
    )


def make(spec: Spec) -> None:
    """Makes the bundle and its reference."""
    folder, source = BUNDLES / spec.name, WORK / spec.name
    for path in (folder, source):
        shutil.rmtree(path, ignore_errors=True)
    folder.mkdir()
    media.make()
    tokenizer = spec.tokenizer(source)
    for name, content in spec.files.items():
        write_json(source / name, content)
    rows = prompts(spec, source)
    model, found = build(spec, tokenizer, [inputs for _, inputs in rows])
    generation = spec.generation(tokenizer)
    write_json(folder / "genai_config.json", _genai_config(spec, model, generation))
    write_json(folder / "processor_config.json", PROCESSOR)
    for name in [*TOKENIZER_FILES, "chat_template.jinja"]:
        shutil.copy(source / name, folder)
    seen = [inputs["pixel_values"] for _, inputs in rows if "pixel_values" in inputs]
    _export(model, max(seen, key=len), folder)
    export_decoder(spec, model, folder / "gemma-3-text.onnx")
    written = []
    for place, ((row, inputs), answer) in enumerate(zip(rows, found, strict=True)):
        pixels = {"vision/pixel_values": inputs.get("pixel_values")}
        np.savez(source / f"row_{place}.npz", **{k: v for k, v in pixels.items() if v is not None})
        written.append({**row, **answer.row()})
        written[-1]["answer"] = tokenizer.decode(answer.token_ids, skip_special_tokens=True)
    config = json.loads((folder / "genai_config.json").read_text())
    write_reference(
        spec.name,
        written,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_ids=config["model"]["eos_token_id"],
        image_backend=spec.image_backend,
    )
    check(spec.name, "gemma-3", source)
