"""Random weights that give varied answers.

The usual initial deviation of 0.02 makes a model that says one token over and over. Here each
matrix keeps the size of what goes through it, so that answers depend on the whole prompt and the
best token stands clear of the second.
"""

import zlib

import numpy as np
import torch
from torch import nn


def _values(name: str, seed: int, shape: torch.Size) -> np.ndarray:
    """Normal values that depend on the parameter's name and the seed alone."""
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
    biases 0.1; norms stay near what they were (1, or 0 where the family adds the 1 itself).
    Positions that the family computes stay as they are.
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
            # Conv1D of GPT-2 has inputs first; for square matrices it is the same.
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
    """Exchanges what makes two tokens likely, so that a common token's place is the end token's."""
    weight[[first, second]] = weight[[second, first]]
