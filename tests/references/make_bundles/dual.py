"""CLIP and SigLIP: a text and a vision encoder, in the layout of transformers.js."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, normalizers
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModel,
    CLIPConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipConfig,
)

from . import media, toktypes
from .common import BUNDLES, WORK, size_of, write_reference
from .corpus import ROW_TEXTS
from .export import export
from .graphs import trace
from .runtime import open_session
from .toktypes import write_json
from .weights import randomize

IMAGES = sorted(media.images())
TOLERANCE = 5e-5
# Sizes of both towers.
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
EAGER = {"attn_implementation": "eager"}


@dataclass
class Spec:
    """One bundle of this kind."""

    name: str
    tokenizer: Callable[[], Tokenizer]
    tokenizer_config: dict
    config: Callable[[PreTrainedTokenizerBase], PretrainedConfig]
    processor: dict
    # SigLIP does not have a mask: all texts must be padded to its full length.
    pad_to: int | None
    text_outputs: list[str]
    vision_outputs: list[str]


class TextTower(nn.Module):
    """The text encoder, with its projection if the model has one."""

    def __init__(self, model: PreTrainedModel, projected: bool) -> None:
        super().__init__()
        self.model, self.projected = model, projected

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the outputs that transformers.js names, in its order."""
        out = self.model.text_model(input_ids)
        if self.projected:
            return self.model.text_projection(out.pooler_output), out.last_hidden_state
        return out.last_hidden_state, out.pooler_output


class VisionTower(nn.Module):
    """The vision encoder, with its projection if the model has one."""

    def __init__(self, model: PreTrainedModel, projected: bool) -> None:
        super().__init__()
        self.model, self.projected = model, projected

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the outputs that transformers.js names, in its order."""
        out = self.model.vision_model(pixel_values)
        if self.projected:
            return self.model.visual_projection(out.pooler_output), out.last_hidden_state
        return out.last_hidden_state, out.pooler_output


def references(
    spec: Spec, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> list[dict]:
    """Returns the rows of texts, then of images, with unnormalized embeddings."""
    rows = []
    for text in ROW_TEXTS:
        padding = "max_length" if spec.pad_to else False
        inputs = tokenizer(
            text, padding=padding, max_length=spec.pad_to, truncation=True, return_tensors="pt"
        )
        inputs.pop("token_type_ids", None)
        if spec.pad_to:
            inputs.pop("attention_mask", None)
        with torch.no_grad():
            embedding = model.get_text_features(**inputs)[0]
        rows.append({"text": text, "token_ids": inputs["input_ids"][0].tolist()})
        rows[-1]["embedding"] = [round(v, 6) for v in embedding.tolist()]
    processor = AutoImageProcessor.from_pretrained(folder, use_fast=True)
    for name in IMAGES:
        inputs = processor(media.read_image(name), return_tensors="pt")
        with torch.no_grad():
            embedding = model.get_image_features(**inputs)[0]
        rows.append({"image": name, "embedding": [round(v, 6) for v in embedding.tolist()]})
    return rows


def check(spec: Spec, rows: list[dict], folder: Path) -> None:
    """Runs both graphs row by row and compares their embeddings."""
    text = open_session(folder / "onnx" / "text_model.onnx")
    vision = open_session(folder / "onnx" / "vision_model.onnx")
    processor = AutoImageProcessor.from_pretrained(folder, use_fast=True)
    index = 0 if "embeds" in spec.text_outputs[0] else 1
    worst = 0.0
    for row in rows:
        if "text" in row:
            output = text.run(None, {"input_ids": np.array([row["token_ids"]])})[index]
        else:
            inputs = processor(media.read_image(row["image"]), return_tensors="pt")
            output = vision.run(None, {"pixel_values": inputs["pixel_values"].numpy()})[index]
        worst = max(worst, float(np.abs(output[0] - np.array(row["embedding"])).max()))
    print(f"  largest difference {worst:.1e}")
    if worst > TOLERANCE:
        raise AssertionError(f"{spec.name}: a graph differs by {worst}")


def make(spec: Spec) -> None:
    """Makes the bundle and its reference."""
    folder, checkpoint = BUNDLES / spec.name, WORK / spec.name
    for path in (folder, checkpoint):
        shutil.rmtree(path, ignore_errors=True)
    media.make()
    tokenizer = toktypes.save(spec.tokenizer(), folder, spec.tokenizer_config)
    write_json(folder / "preprocessor_config.json", spec.processor)
    model = AutoModel.from_config(spec.config(tokenizer), **EAGER).eval()
    randomize(model, seed=0)
    model.save_pretrained(checkpoint)
    for path in folder.iterdir():
        shutil.copy(path, checkpoint)
    export(checkpoint, folder, "zero-shot-image-classification")
    rows = references(spec, model, tokenizer, folder)

    projected = "embeds" in spec.text_outputs[0]
    states = {0: "batch_size", 1: "sequence_length"}
    ids = torch.tensor([rows[1]["token_ids"], rows[1]["token_ids"]])
    size = model.config.vision_config.image_size
    trace(
        TextTower(model, projected),
        {"input_ids": ids},
        {n: states if "hidden" in n else {0: "batch_size"} for n in spec.text_outputs},
        {"input_ids": states},
        folder / "onnx" / "text_model.onnx",
    )
    trace(
        VisionTower(model, projected),
        {"pixel_values": torch.zeros(2, 3, size, size)},
        {n: {0: "batch_size"} for n in spec.vision_outputs},
        {"pixel_values": {0: "batch_size"}},
        folder / "onnx" / "vision_model.onnx",
    )
    check(spec, rows, folder)
    write_reference(spec.name, rows, normalized=False, image_backend="torchvision")
    print(f"  {size_of(folder)} bytes")


def _siglip_tokenizer() -> Tokenizer:
    tokenizer = toktypes.metaspace_bpe(
        440, ["<pad>", "<eos>", "<bos>", "<unk>"], prefix_space=False
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), tokenizer.normalizer])
    toktypes.frame(tokenizer, [], ["<eos>"])
    return tokenizer


SPECS = [
    Spec(
        name="clip",
        tokenizer=lambda: toktypes.clip_bpe(600),
        tokenizer_config={
            "add_prefix_space": False,
            "bos_token": "<|startoftext|>",
            "clean_up_tokenization_spaces": True,
            "do_lower_case": True,
            "eos_token": "<|endoftext|>",
            "errors": "replace",
            "model_max_length": 77,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": "<|endoftext|>",
        },
        config=lambda t: CLIPConfig(
            text_config={
                **TOWER,
                "vocab_size": len(t),
                "max_position_embeddings": 77,
                "bos_token_id": t.bos_token_id,
                "eos_token_id": t.eos_token_id,
                "pad_token_id": t.pad_token_id,
            },
            vision_config={**TOWER, "image_size": 32, "patch_size": 8},
            projection_dim=24,
        ),
        processor={
            "crop_size": {"height": 32, "width": 32},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "CLIPImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": 32},
        },
        pad_to=None,
        text_outputs=["text_embeds", "last_hidden_state"],
        vision_outputs=["image_embeds", "last_hidden_state"],
    ),
    Spec(
        name="siglip",
        tokenizer=_siglip_tokenizer,
        tokenizer_config={
            "add_bos_token": False,
            "add_eos_token": True,
            "bos_token": "<bos>",
            "clean_up_tokenization_spaces": False,
            "do_lower_case": True,
            "eos_token": "<eos>",
            "model_max_length": 64,
            "pad_token": "<pad>",
            "padding_side": "right",
            "tokenizer_class": "GemmaTokenizer",
            "unk_token": "<unk>",
        },
        config=lambda t: SiglipConfig(
            text_config={
                **TOWER,
                "vocab_size": len(t),
                "max_position_embeddings": 64,
                "projection_size": 32,
            },
            vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        ),
        processor={
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SiglipImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "SiglipProcessor",
            "resample": 2,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": 32, "width": 32},
        },
        pad_to=64,
        text_outputs=["last_hidden_state", "pooler_output"],
        vision_outputs=["last_hidden_state", "pooler_output"],
    ),
]
