"""A head start for image tokens: codebook and projector are set from the embeddings of names.

A concept's codebook vector becomes the mean embedding of its name. The projector is solved by least
squares: a cell that an object covers is mapped near the embedding of the object's name, a bare cell
near that of the background's colour. So the decoder, which has learned from sounds to copy what
feature tokens say, can name what it sees from the first step of joint training.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import DataLoader

from .packs import PackStream
from .pretrain_vision import NONE, normalised
from .train import Trainee

TOKEN_NORM = 20.0
"""Length of the target vectors, like that of audio tokens after their own training."""
RIDGE = 1e-3


@torch.no_grad()
def align_vision(trainee: Trainee, data: Path, batches: int = 100, seed: int = 41) -> float:
    """Set codebook and projector, the latter from `batches` batches of scenes; returns the share of
    covered cells whose concept scores are right."""
    model = trainee.model.eval()
    table = model.get_input_embeddings().weight
    table = table - table.mean(0)
    names = torch.nn.functional.normalize(trainee.names @ table, dim=-1) * TOKEN_NORM
    colours = torch.nn.functional.normalize(table[trainee.colours], dim=-1) * TOKEN_NORM
    loader = iter(DataLoader(PackStream(data, seed, 1.0, {"image": 1.0}), batch_size=None))
    width = model.vision_encoder.projector.in_features
    left = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    right = torch.zeros(width + 1, names.shape[1], dtype=torch.float64)
    held = []
    for number in range(batches):
        batch = next(loader)
        pixels = normalised(batch["pixels"]).to(memory_format=torch.channels_last)
        cells = model.vision_encoder.cells(pixels)
        cells = torch.cat([cells, torch.ones_like(cells[..., :1])], -1)
        concept = batch["concept"]
        ground = colours[batch["background"]][:, None].expand(-1, cells.shape[1], -1)
        named = names[concept.clamp(max=NONE - 1)]
        wanted = torch.where((concept == NONE)[..., None], ground, named)
        if number >= batches - 4:
            held.append((cells[concept != NONE], concept[concept != NONE]))
            continue
        weight = torch.where(concept == NONE, 0.3, 1.0).flatten()[:, None].double()
        x, y = cells.flatten(0, 1).double(), wanted.flatten(0, 1).double()
        left += x.T @ (weight * x)
        right += x.T @ (weight * y)
    left += RIDGE * left.diagonal().mean() * torch.eye(width + 1, dtype=torch.float64)
    solved = torch.linalg.solve(left, right).float()
    model.vision_encoder.projector.weight.copy_(solved[:-1].T)
    model.vision_encoder.projector.bias.copy_(solved[-1])
    model.vision_encoder.codebook.weight[:, :NONE] = names.T
    model.vision_encoder.codebook.weight[:, NONE] = 0
    cells, concept = torch.cat([c for c, _ in held]), torch.cat([t for _, t in held])
    scores = model.vision_encoder.concepts(cells[:, :-1])
    return float((scores.argmax(-1) == concept).float().mean())
