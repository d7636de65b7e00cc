"""Exports a trained model to a bundle: the published directory layout that Legenda reads.

Weights of two or more dimensions are first rounded to float16 in the PyTorch model, and the graphs
store the same float16 values. Both therefore compute with equal weights in float32.
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from transformers import PreTrainedTokenizerFast

from .decoder_graph import decoder_graph, embed_tokens_graph
from .modeling import LegendaForConditionalGeneration
from .processing import new_processor

MAX_NEW_TOKENS = 48
SIZE_LIMIT = 24_000_000
"""Maximum total size of the graphs, in bytes."""


@torch.no_grad()
def frozen(model: LegendaForConditionalGeneration) -> LegendaForConditionalGeneration:
    """Returns a copy for inference: batch norms folded into convolutions, weights in float16.

    The batch norm modules remain as a pure bias: mean 0, variance 1 - eps, weight 1.
    """
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        convolution = getattr(module, "convolution", None)
        norm = getattr(module, "normalization", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            convolution.weight.mul_(scale[:, None, None, None])
            norm.bias.sub_(norm.running_mean * scale)
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)
            norm.weight.fill_(1)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.copy_(parameter.half().float())
    return model


def halve_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Stores float32 initializers of two or more dimensions as float16, followed by a Cast."""
    graph = model.graph
    casts = []
    for index, tensor in enumerate(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        value = numpy_helper.to_array(tensor)
        if value.size < 256 or not np.array_equal(value.astype(np.float16), value):
            if value.size >= 4096:
                difference = float(np.abs(value.astype(np.float16) - value).max())
                print(f"export: {tensor.name} {value.shape} rounds by {difference:.2e}")
            if value.size < 4096:
                continue
        name = tensor.name
        half = numpy_helper.from_array(value.astype(np.float16), name + "_half")
        graph.initializer[index].CopyFrom(half)
        casts.append(
            helper.make_node(
                "Cast", [name + "_half"], [name], to=TensorProto.FLOAT, name=name + "_cast"
            )
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def encoder_graph(
    encoder: nn.Module, example: torch.Tensor, name: str, output: str
) -> onnx.ModelProto:
    """Exports a vision or audio encoder; only the batch axis is symbolic."""
    program = torch.onnx.export(
        encoder,
        (example,),
        dynamo=True,
        input_names=[name],
        output_names=[output],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
        verbose=False,
        opset_version=20,
    )
    return halve_initializers(program.model_proto)


def export_bundle(
    model: LegendaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> LegendaForConditionalGeneration:
    """Writes the bundle; returns the frozen reference model."""
    model = frozen(model)
    config = model.config
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    side = config.image_size
    mels = config.audio_config.num_mel_bins
    frames = 2 * config.audio_config.max_source_positions
    weights = {k: v.numpy() for k, v in model.language_model.state_dict().items()}
    weights["lm_head.weight"] = model.lm_head.weight.detach().numpy()
    graphs = {
        "vision_encoder": encoder_graph(
            model.vision_encoder, torch.zeros(2, 3, side, side), "pixel_values", "image_features"
        ),
        "audio_encoder": encoder_graph(
            model.audio_encoder, torch.zeros(2, mels, frames), "input_features", "audio_features"
        ),
        "embed_tokens": embed_tokens_graph(weights["embed_tokens.weight"]),
        "decoder_model_merged": decoder_graph(config.text_config, weights),
    }
    total = 0
    for name, graph in graphs.items():
        stored = graph.SerializeToString()
        total += len(stored)
        (folder / "onnx" / f"{name}.onnx").write_bytes(stored)
    if total > SIZE_LIMIT:
        raise ValueError(f"graphs too large: {total} bytes, limit {SIZE_LIMIT}")
    print(f"export: graphs take {total / 1e6:.1f} MB")
    _write_configs(model, tokenizer, folder)
    return model


def read_json(path: Path) -> dict:
    """Reads a JSON file of a bundle."""
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_configs(
    model: LegendaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    config = model.config
    values = config.to_dict()
    values["architectures"] = ["LegendaForConditionalGeneration"]
    values["dtype"] = "float32"
    _write_json(folder / "config.json", values)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    _write_json(
        folder / "generation_config.json",
        {**ids, "do_sample": False, "max_new_tokens": MAX_NEW_TOKENS},
    )
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")
    processor = new_processor(config, tokenizer)
    images = processor.image_processor.to_dict()
    audio = processor.feature_extractor.to_dict()
    image_keys = (
        "image_processor_type",
        "do_convert_rgb",
        "do_resize",
        "size",
        "resample",
        "do_rescale",
        "rescale_factor",
        "do_normalize",
        "image_mean",
        "image_std",
    )
    audio_keys = ("feature_extractor_type", "feature_size", "sampling_rate", "hop_length", "n_fft",
                  "chunk_length", "n_samples", "nb_max_frames", "padding_value", "padding_side",
                  "return_attention_mask", "dither")  # fmt: skip
    image_values = {k: images[k] for k in image_keys if k in images}
    image_values["size"] = dict(images["size"])
    image_values["resample"] = int(images["resample"])
    _write_json(
        folder / "processor_config.json",
        {
            "processor_class": "LegendaProcessor",
            "image_token": "<image>",
            "audio_token": "<audio>",
            "image_seq_length": config.image_seq_length,
            "audio_seq_length": config.audio_seq_length,
            "image_processor": image_values,
            "feature_extractor": {k: audio[k] for k in audio_keys if k in audio},
        },
    )


def copy_documents(source: Path, folder: Path) -> None:
    """Copies the model card, notice and curves of one bundle to another."""
    for pattern in ("MODEL_CARD.md", "NOTICE", "curves*.csv"):
        for path in source.glob(pattern):
            shutil.copy(path, folder / path.name)
