"""Initializes codebook and projector of image tokens from the embeddings of names.

The codebook vector of a concept becomes the mean embedding of its name. The projector is solved by
least squares: a cell with an object is mapped near the embedding of the object's name, a background
cell near that of the background colour. The decoder has learned from audio to copy feature tokens,
so it can name objects from the first step of joint training.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .modeling import VisionEncoder
from .packs import PackStream
from .pretrain_vision import NONE, normalised
from .train import Trainee

TOKEN_NORM = 20.0
"""Length of the target vectors, similar to audio tokens after their own training."""
RIDGE = 1e-3


@torch.no_grad()
def align_vision(trainee: Trainee, data: Path, batches: int = 100, seed: int = 41) -> float:
    """Sets codebook and projector, the latter from `batches` batches of scenes.

    Returns the accuracy of concept scores for cells with an object.
    """
    model = trainee.model.eval()
    table = model.get_input_embeddings().weight
    table = table - table.mean(0)
    names = torch.nn.functional.normalize(trainee.names @ table, dim=-1) * TOKEN_NORM
    colours = torch.nn.functional.normalize(table[trainee.colours], dim=-1) * TOKEN_NORM
    right, covered = 0, 0

    def targets_of(batch: dict, cells: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal right, covered
        concept = batch["concept"]
        scores = model.vision_encoder.concepts(cells)
        right += int((scores.argmax(-1) == concept)[concept != NONE].sum())
        covered += int((concept != NONE).sum())
        ground = colours[batch["background"]][:, None].expand(-1, cells.shape[1], -1)
        named = names[concept.clamp(max=NONE - 1)]
        target = torch.where((concept == NONE)[..., None], ground, named)
        return target, torch.where(concept == NONE, 0.3, 1.0)

    _solve_projector(model.vision_encoder, data, batches, seed, targets_of)
    model.vision_encoder.codebook.weight[:, :NONE] = names.T
    model.vision_encoder.codebook.weight[:, NONE] = 0
    return right / max(1, covered)


@torch.no_grad()
def keep_projection(
    encoder: VisionEncoder, earlier: VisionEncoder, data: Path, batches: int = 60, seed: int = 43
) -> None:
    """Sets the projector so that the new tower gives the tokens of the `earlier` encoder."""

    def targets_of(batch: dict, cells: Tensor) -> tuple[Tensor, Tensor]:
        target = earlier.projector(earlier.cells(normalised(batch["pixels"])))
        return target, torch.ones(cells.shape[:2])

    encoder.eval()
    earlier.eval()
    _solve_projector(encoder, data, batches, seed, targets_of)


def _solve_projector(
    encoder: VisionEncoder,
    data: Path,
    batches: int,
    seed: int,
    targets_of: Callable[[dict, Tensor], tuple[Tensor, Tensor]],
) -> None:
    """Fits the projector by ridge regression.

    `targets_of` returns targets [B, N, C] and weights [B, N] for a batch of scenes and its cells.
    """
    loader = iter(DataLoader(PackStream(data, seed, 1.0, {"image": 1.0}), batch_size=None))
    width, height = encoder.projector.in_features, encoder.projector.out_features
    left = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    right = torch.zeros(width + 1, height, dtype=torch.float64)
    for _ in range(batches):
        batch = next(loader)
        pixels = normalised(batch["pixels"]).to(memory_format=torch.channels_last)
        cells = encoder.cells(pixels)
        target, weight = targets_of(batch, cells)
        x = torch.cat([cells, torch.ones_like(cells[..., :1])], -1).flatten(0, 1).double()
        weighted = weight.flatten()[:, None].double() * x
        left += weighted.T @ x
        right += weighted.T @ target.flatten(0, 1).double()
    left += RIDGE * left.diagonal().mean() * torch.eye(width + 1, dtype=torch.float64)
    solved = torch.linalg.solve(left, right).float()
    encoder.projector.weight.copy_(solved[:-1].T)
    encoder.projector.bias.copy_(solved[-1])
