"""Stage A1: teach the vision tower to name what covers each cell of a picture.

Three heads on the cells: concept per cell (or none), whether an object's centre lies in the cell,
and the background colour of the picture. The heads are thrown away afterwards.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from .emoji import TRAINED_STYLES, concepts
from .modeling import IMAGE_SIZE, IMAGE_STRIDE, VisionEncoder
from .scenes import COLOUR_NAMES, Scene, SpriteBox, arrange, paint

CELLS = IMAGE_SIZE // IMAGE_STRIDE
NONE = len(concepts())
"""Class of a cell that no object covers."""


def normalised(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to float [B, 3, H, W] in [-1, 1], as the image processor does."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def cell_targets(scene: Scene) -> tuple[np.ndarray, np.ndarray, int]:
    """Concept per cell [CELLS, CELLS], centre map [CELLS, CELLS] and background index."""
    concept = np.full((CELLS, CELLS), NONE, np.int64)
    nearest = np.full((CELLS, CELLS), np.inf)
    centre = np.zeros((CELLS, CELLS), np.float32)
    middle = (np.arange(CELLS) + 0.5) / CELLS
    for item in scene.objects:
        dx = np.abs(middle[None, :] - item.x) / item.side
        dy = np.abs(middle[:, None] - item.y) / item.side
        reach = np.maximum(dx, dy)
        column = min(CELLS - 1, max(0, int(item.x * CELLS)))
        row = min(CELLS - 1, max(0, int(item.y * CELLS)))
        reach[row, column] = 0
        covers = (reach < 0.42) & (reach < nearest)
        concept[covers] = item.concept
        nearest[covers] = reach[covers]
        centre[row, column] = 1
    return concept, centre, COLOUR_NAMES.index(scene.background)


class SceneStream(IterableDataset):
    """Endless batches: pixels uint8 [B, H, W, 3], concept, centre, background.

    Pictures of one object come first and grow rarer.
    """

    def __init__(self, data: Path, batch: int, seed: int) -> None:
        self.data, self.batch, self.seed = data, batch, seed

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        box = SpriteBox(self.data, TRAINED_STYLES)
        number = 0
        while True:
            singles = 0.2 + 0.55 * math.exp(-number / 500)
            alone = rng.random(self.batch) < singles
            scenes = [arrange(rng, box.concepts, objects=1 if one else None) for one in alone]
            number += 1
            pixels = np.stack([paint(scene, box, rng, IMAGE_SIZE) for scene in scenes])
            targets = [cell_targets(scene) for scene in scenes]
            yield (
                torch.from_numpy(pixels),
                torch.from_numpy(np.stack([t[0] for t in targets])).flatten(1),
                torch.from_numpy(np.stack([t[1] for t in targets])).flatten(1),
                torch.tensor([t[2] for t in targets]),
            )


class CellHeads(nn.Module):
    """Heads of the pretraining task."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.concept = nn.Linear(width, NONE + 1)
        self.centre = nn.Linear(width, 1)
        self.background = nn.Linear(width, len(COLOUR_NAMES))

    def losses(self, cells: Tensor, concept: Tensor, centre: Tensor,
               background: Tensor) -> tuple[Tensor, float, float]:
        """Total loss, share of right cells among covered ones, share of right backgrounds."""
        weight = torch.ones(NONE + 1)
        weight[NONE] = 0.25
        scores = self.concept(cells)
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), concept.flatten(), weight)
        loss = loss + 2 * nn.functional.binary_cross_entropy_with_logits(
            self.centre(cells).squeeze(-1), centre
        )
        colour = self.background(cells.mean(1))
        loss = loss + 0.3 * nn.functional.cross_entropy(colour, background)
        covered = concept != NONE
        right = float((scores.argmax(-1) == concept)[covered].float().mean())
        return loss, right, float((colour.argmax(-1) == background).float().mean())


def pretrain_vision(encoder: VisionEncoder, data: Path, out: Path, seconds: float,
                    batch: int = 64, peak: float = 2e-3, workers: int = 1, seed: int = 1) -> None:
    """Train for a wall-clock budget with a cosine schedule over it; resumes from `out`."""
    torch.manual_seed(seed)
    heads = CellHeads(encoder.tower.config.hidden_sizes[-1])
    tower = encoder.tower.to(memory_format=torch.channels_last)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.02, betas=(0.9, 0.98))
    spent, step = 0.0, 0
    if out.exists():
        state = torch.load(out, weights_only=True)
        tower.load_state_dict(state["tower"])
        heads.load_state_dict(state["heads"])
        optimiser.load_state_dict(state["optimiser"])
        spent, step = state["spent"], state["step"]
    stream = SceneStream(data, batch, seed + step)
    loader = iter(DataLoader(stream, batch_size=None, num_workers=workers, prefetch_factor=6))
    tower.train()
    began, saved = time.monotonic() - spent, time.monotonic()
    means = np.zeros(4)
    curve = out.with_suffix(".csv")
    if not curve.exists():
        curve.write_text("step,seconds,rate,loss,cells,background\n")
    while (spent := time.monotonic() - began) < seconds:
        part = spent / seconds
        rate = peak * min(1, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        pixels, concept, centre, background = next(loader)
        images = normalised(pixels).to(memory_format=torch.channels_last)
        loss, cells, colour = heads.losses(encoder.cells(images), concept, centre, background)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        means = 0.98 * means + 0.02 * np.array([loss.item(), cells, colour, 1])
        if step % 100 == 0:
            loss_mean, cell_mean, colour_mean = means[:3] / means[3]
            with curve.open("a") as file:
                file.write(f"{step},{spent:.0f},{rate:.2e},{loss_mean:.4f},{cell_mean:.4f},"
                           f"{colour_mean:.4f}\n")
            print(f"vision {step} {spent:.0f}s loss {loss_mean:.3f} cells {cell_mean:.3f} "
                  f"background {colour_mean:.3f} {step * batch / spent:.0f}/s", flush=True)
        if time.monotonic() - saved > 120:
            _save(out, tower, heads, optimiser, spent, step)
            saved = time.monotonic()
    _save(out, tower, heads, optimiser, spent, step)


def _save(out: Path, tower: nn.Module, heads: nn.Module, optimiser: torch.optim.Optimizer,
          spent: float, step: int) -> None:
    state = {"tower": tower.state_dict(), "heads": heads.state_dict(),
             "optimiser": optimiser.state_dict(), "spent": spent, "step": step}
    torch.save(state, out.with_suffix(".tmp"))
    out.with_suffix(".tmp").replace(out)
