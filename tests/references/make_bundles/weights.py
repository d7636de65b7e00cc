"""Random weights that give varied answers.

With the usual initial deviation of 0.02, a model repeats one token. Here each matrix preserves the
size of its input, so that answers depend on the whole prompt and the best token is clearly better
than the second.
"""

import zlib

import numpy as np
import torch
from torch import nn


def _values(name: str, seed: int, shape: torch.Size) -> np.ndarray:
    """Returns normal values that depend only on the parameter name and the seed."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return generator.standard_normal(tuple(shape)).astype(np.float32)


@torch.no_grad()
def randomize(
    model: nn.Module,
    seed: int,
    gain: float = 1.5,
    head_std: float = 0.6,
    embedding_std: float = 1.0,
) -> None:
    """Fills all parameters.

    Matrices get a deviation of `gain / sqrt(inputs)`, the output head and embeddings their own,
    biases 0.1. Norms stay near their initial value (1, or 0 if the model adds the 1 itself).
    Computed positions do not change.
    """
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    computed = {
        id(module.weight)
        for module in model.modules()
        if "Sinusoidal" in type(module).__name__ and hasattr(module, "weight")
    }
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for name, parameter in model.named_parameters():
        if id(parameter) in computed or not parameter.requires_grad:
            continue
        values = torch.from_numpy(_values(name, seed, parameter.shape)).to(parameter.dtype)
        if id(parameter) in embeddings:
            parameter.copy_(values * embedding_std)
        elif head is not None and parameter is head.weight:
            parameter.copy_(values * head_std)
        elif parameter.dim() >= 2:
            # GPT-2's Conv1D has the inputs first; for square matrices, this makes no difference.
            inputs = parameter[0].numel() if parameter.dim() > 2 else min(parameter.shape)
            parameter.copy_(values * (gain / inputs**0.5))
        elif name.endswith("bias"):
            parameter.copy_(values * 0.1)
        elif name.endswith(("weight", "logit_scale")):
            # Norm weights start at 1 or 0.
            parameter.add_(values * 0.1)
        else:
            parameter.copy_(values)


@torch.no_grad()
def swap_rows(weight: torch.Tensor, first: int, second: int) -> None:
    """Swaps the output weights of two tokens, so that a common token becomes the end token."""
    weight[[first, second]] = weight[[second, first]]
