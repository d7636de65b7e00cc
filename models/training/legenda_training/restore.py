"""Restores a PyTorch model from a bundle: reads the weights from the ONNX initializers.

Stored weights have their parameter names, except those that the exporter transposed. These are
found by their node: the initializer of the MatMul that corresponds to the module.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from .export import read_json
from .modeling import LegendaConfig, LegendaForConditionalGeneration


def initializers(path: Path) -> dict[str, np.ndarray]:
    """Returns initializers as float32 or integer arrays, by name without the `_half` suffix."""
    arrays = {}
    for tensor in onnx.load(path).graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float16:
            value = value.astype(np.float32)
        arrays[tensor.name.removesuffix("_half")] = value
    return arrays


def matmul_weights(path: Path) -> list[np.ndarray]:
    """Returns the right operands of MatMul nodes, in graph order, as float32 [in, out]."""
    graph = onnx.load(path).graph
    stored = initializers(path)
    casts = {n.output[0] for n in graph.node if n.op_type == "Cast"}
    names = [n.input[1] for n in graph.node if n.op_type == "MatMul"]
    return [stored[n] for n in names if n in stored and (n in casts or stored[n].ndim == 2)]


@torch.no_grad()
def load_encoder(encoder: nn.Module, path: Path) -> None:
    """Loads the weights of a vision or audio encoder from its graph."""
    stored = initializers(path)
    linears = [m for m in encoder.modules() if isinstance(m, nn.Linear)]
    by_call = _call_order(encoder)
    weights = matmul_weights(path)
    if len(weights) != len(linears) or len(by_call) != len(linears):
        raise ValueError(f"{path.name}: {len(weights)} matrices for {len(linears)} linear layers")
    for module, weight in zip(by_call, weights, strict=True):
        module.weight.copy_(torch.from_numpy(np.array(weight.T)))
    loaded = {id(m.weight) for m in linears}
    for name, parameter in encoder.named_parameters():
        if id(parameter) in loaded:
            continue
        if name.endswith("normalization.weight"):
            parameter.fill_(1)
            continue
        key = name
        if name.endswith("normalization.bias"):
            key = name.replace("normalization.bias", "convolution.weight_bias")
        if key not in stored:  # folded into a constant of another name
            candidates = [k for k, v in stored.items() if v.shape == tuple(parameter.shape)]
            if len(candidates) != 1:
                raise KeyError(f"{path.name}: ambiguous initializer for {key}: {candidates}")
            key = candidates[0]
        parameter.copy_(torch.from_numpy(np.array(stored[key])))
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
            module.running_var.fill_(1 - module.eps)


def _call_order(encoder: nn.Module) -> list[nn.Linear]:
    """Returns the linear layers in the order of calls in a forward pass."""
    called: list[nn.Linear] = []
    hooks = [
        m.register_forward_hook(lambda module, *_: called.append(module))
        for m in encoder.modules()
        if isinstance(m, nn.Linear)
    ]
    config = encoder.tower.config
    if hasattr(config, "num_mel_bins"):
        example = torch.zeros(1, config.num_mel_bins, 2 * config.max_source_positions)
    else:
        example = torch.zeros(1, config.num_channels, encoder.image_size, encoder.image_size)
    was_training = encoder.training
    encoder.eval()
    encoder(example)
    encoder.train(was_training)
    for hook in hooks:
        hook.remove()
    return called


@torch.no_grad()
def load_bundle(bundle: Path) -> LegendaForConditionalGeneration:
    """Returns the PyTorch model of a bundle in evaluation mode, with exactly its weights."""
    values = read_json(bundle / "config.json")
    config = LegendaConfig(**{k: v for k, v in values.items() if k != "transformers_version"})
    model = LegendaForConditionalGeneration(config)
    stored = initializers(bundle / "onnx" / "decoder_model_merged.onnx")
    for name, parameter in model.language_model.named_parameters():
        if name == "embed_tokens.weight":
            value = initializers(bundle / "onnx" / "embed_tokens.onnx")[name]
        else:
            value = stored[name]
            value = value.T if value.ndim == 2 else value
        parameter.copy_(torch.from_numpy(np.array(value)))
    load_encoder(model.vision_encoder, bundle / "onnx" / "vision_encoder.onnx")
    load_encoder(model.audio_encoder, bundle / "onnx" / "audio_encoder.onnx")
    return model.eval()


@torch.no_grad()
def unfold_norms(encoder: nn.Module, pixel_values: Tensor) -> None:
    """Restores statistics of folded batch norms from `pixel_values` [B, 3, H, W].

    Scale and shift cancel the statistics, so the function does not change. The norms then follow
    the weights, and training can continue as before folding.
    """
    statistics: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3))
        statistics[module] = (mean, variance)

    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [m.register_forward_pre_hook(keep) for m in norms]
    encoder(pixel_values)
    for hook in hooks:
        hook.remove()
    for module, (mean, variance) in statistics.items():
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)
        module.weight.copy_((variance + module.eps).sqrt())
        module.bias.add_(mean)
