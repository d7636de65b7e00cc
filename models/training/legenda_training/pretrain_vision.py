"""Stage A1: teach the vision tower to name what covers each cell of a picture.

Heads on the cells: concept per cell (or none) and per object, whether an object's centre lies in
the cell, and the background colour of the picture. Stage B keeps them at a low weight.
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

from .checkpoint import save_tower
from .emoji import TRAINED_STYLES, concepts
from .modeling import IMAGE_SIZE, IMAGE_STRIDE, VisionEncoder
from .restore import unfold_norms
from .scenes import COLOUR_NAMES, Placed, Scene, SpriteBox, arrange, paint

CELLS = IMAGE_SIZE // IMAGE_STRIDE
NONE = len(concepts())
"""Class of a cell that no object covers."""


def normalised(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to float [B, 3, H, W] in [-1, 1], as the image processor does."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def centre_cell(item: Placed, cells: int = CELLS) -> int:
    """Number of the cell where an object's centre lies, row by row from the top left."""
    column = min(cells - 1, max(0, int(item.x * cells)))
    row = min(cells - 1, max(0, int(item.y * cells)))
    return row * cells + column


def cell_targets(scene: Scene, cells: int = CELLS) -> dict[str, np.ndarray]:
    """What the cells of a picture show.

    `concept` and `owner` [cells * cells]: concept and number of the object that covers the cell
    (`NONE`, -1 where none does); `centre` [cells * cells]: 1 where an object's centre lies;
    `objects` [4]: concepts of the objects, filled up with `NONE`; `background`: colour number.
    """
    concept = np.full((cells, cells), NONE, np.int64)
    owner = np.full((cells, cells), -1, np.int64)
    nearest = np.full((cells, cells), np.inf)
    centre = np.zeros((cells, cells), np.float32)
    objects = np.full(4, NONE, np.int64)
    middle = (np.arange(cells) + 0.5) / cells
    for number, item in enumerate(scene.objects):
        dx = np.abs(middle[None, :] - item.x) / item.side
        dy = np.abs(middle[:, None] - item.y) / item.side
        reach = np.maximum(dx, dy)
        middle_cell = divmod(centre_cell(item, cells), cells)
        reach[middle_cell] = 0
        covers = (reach < 0.42) & (reach < nearest)
        concept[covers] = item.concept
        owner[covers] = number
        nearest[covers] = reach[covers]
        centre[middle_cell] = 1
        objects[number] = item.concept
    return {
        "concept": concept.ravel(),
        "owner": owner.ravel(),
        "centre": centre.ravel(),
        "objects": objects,
        "background": np.array(COLOUR_NAMES.index(scene.background)),
    }


def stacked_targets(scenes: list[Scene], cells: int = CELLS) -> dict[str, Tensor]:
    """`cell_targets` of several scenes as tensors with a leading batch axis."""
    rows = [cell_targets(scene, cells) for scene in scenes]
    return {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}


SMALL_BATCHES, SMALL_SIZE = 2000, 64
"""The first batches have small pictures (pixels a side): cheaper while the filters form."""
STRENGTH = (0.25, 1.0)
"""Least and most roughening of a picture once the curriculum is through."""
WARM_BATCHES = 4000
"""The batch of the curriculum where an encoder that was trained before goes on."""


class SceneStream(IterableDataset):
    """Endless batches: `pixels` uint8 [B, H, W, 3] with `stacked_targets`.

    Pictures of one object come first and grow rarer; roughening grows.
    """

    def __init__(self, data: Path, batch: int, seed: int, number: int = 0) -> None:
        self.data, self.batch, self.seed, self.number = data, batch, seed, number

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if torch.utils.data.get_worker_info():
            torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        box = SpriteBox(self.data, TRAINED_STYLES)
        number = self.number
        while True:
            singles = 0.25 + 0.65 * math.exp(-number / 1500)
            strength = min(1.0, 0.3 + number / 3000)
            alone = rng.random(self.batch) < singles
            scenes = [arrange(rng, box.concepts, objects=1 if one else None) for one in alone]
            size = SMALL_SIZE if number < SMALL_BATCHES else IMAGE_SIZE
            pixels = np.stack(
                [paint(s, box, rng, size, strength * rng.uniform(*STRENGTH)) for s in scenes]
            )
            number += 1
            yield {
                "pixels": torch.from_numpy(pixels),
                **stacked_targets(scenes, size // IMAGE_STRIDE),
            }


def object_means(cells: Tensor, owner: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """Mean features [objects, width] of the cells of every object, and which of [B, 4] they are."""
    member = (owner[:, None, :] == torch.arange(4)[None, :, None]).float()
    size = member.sum(-1, keepdim=True)
    named = (objects != NONE) & (size.squeeze(-1) > 0)
    return ((member @ cells) / size.clamp(min=1))[named], named


class CellHeads(nn.Module):
    """Heads of the pretraining task."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.concept = nn.Linear(width, NONE + 1)
        self.centre = nn.Linear(width, 1)
        self.background = nn.Linear(width, len(COLOUR_NAMES))

    def losses(self, cells: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, float, float]:
        """Total loss, share of objects named right, share of right backgrounds.

        An object is named from the mean of the cells it covers; each cell is named too.
        """
        weight = torch.ones(NONE + 1)
        weight[NONE] = 0.25
        scores = self.concept(cells).flatten(0, 1)
        loss = 0.5 * nn.functional.cross_entropy(scores, targets["concept"].flatten(), weight)
        loss = loss + 2 * nn.functional.binary_cross_entropy_with_logits(
            self.centre(cells).squeeze(-1), targets["centre"]
        )
        whole, named = object_means(cells, targets["owner"], targets["objects"])
        scores = self.concept(whole)
        wanted = targets["objects"][named]
        loss = loss + nn.functional.cross_entropy(scores, wanted)
        colour = self.background(cells.mean(1))
        loss = loss + 0.3 * nn.functional.cross_entropy(colour, targets["background"])
        right = float((scores.argmax(-1) == wanted).float().mean())
        return loss, right, float((colour.argmax(-1) == targets["background"]).float().mean())


def pretrain_vision(
    encoder: VisionEncoder,
    data: Path,
    out: Path,
    seconds: float,
    batch: int = 24,
    peak: float = 1.8e-3,
    workers: int = 1,
    seed: int = 1,
    warm: bool = False,
) -> None:
    """Train for a wall-clock budget with a cosine schedule over it; resumes from `out`.

    A `warm` encoder comes from a bundle: its scores over concepts are kept and pictures are large
    and rough from the start.
    """
    torch.manual_seed(seed)
    heads = CellHeads(encoder.tower.config.hidden_sizes[-1])
    if warm:
        heads.concept = encoder.concepts
        large = SceneStream(data, 192, seed, WARM_BATCHES)
        unfold_norms(encoder, normalised(next(iter(large))["pixels"]))
    tower = encoder.tower.to(memory_format=torch.channels_last)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(
        parameters, lr=peak, weight_decay=0.02, betas=(0.9, 0.98), fused=True
    )
    spent, step = 0.0, 0
    if out.exists():
        state = torch.load(out, weights_only=True)
        tower.load_state_dict(state["tower"])
        heads.load_state_dict(state["heads"])
        optimiser.load_state_dict(state["optimiser"])
        for group in optimiser.param_groups:
            group.update(fused=True, foreach=False)
        spent, step = state["spent"], state["step"]
    number = step + WARM_BATCHES if warm else step
    stream = SceneStream(data, batch, seed + step, number)
    loader = iter(DataLoader(stream, batch_size=None, num_workers=workers, prefetch_factor=16))
    tower.train()
    began, saved = time.monotonic() - spent, time.monotonic()
    means = np.zeros(4)
    curve = out.with_suffix(".csv")
    if not curve.exists():
        curve.write_text("step,seconds,rate,loss,objects,background\n")
    while (spent := time.monotonic() - began) < seconds:
        part = spent / seconds
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part))
        rate = peak * min(1, (step + 1) / 200) * cosine
        for group in optimiser.param_groups:
            group["lr"] = rate
        targets = next(loader)
        images = normalised(targets["pixels"]).to(memory_format=torch.channels_last)
        loss, cells, colour = heads.losses(encoder.cells(images), targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        means = 0.98 * means + 0.02 * np.array([loss.item(), cells, colour, 1])
        if step % 200 == 0:
            loss_mean, cell_mean, colour_mean = means[:3] / means[3]
            with curve.open("a") as file:
                file.write(
                    f"{step},{spent:.0f},{rate:.2e},{loss_mean:.4f},{cell_mean:.4f},"
                    f"{colour_mean:.4f}\n"
                )
            print(
                f"vision {step} {spent:.0f}s loss {loss_mean:.3f} objects {cell_mean:.3f} "
                f"background {colour_mean:.3f} {step * batch / spent:.0f}/s",
                flush=True,
            )
        if time.monotonic() - saved > 120:
            save_tower(out, tower, heads, optimiser, spent, step)
            saved = time.monotonic()
    save_tower(out, tower, heads, optimiser, spent, step)
