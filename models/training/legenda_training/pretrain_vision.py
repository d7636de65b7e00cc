"""Stage A1: pretrains the vision tower to name the object in each cell of an image.

Heads on the cells: concept per cell (or none) and per object, whether an object's centre is in the
cell, and the background colour of the image. Stage B keeps them at a low weight.
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
"""Class of a cell without an object."""


def normalised(pixels: Tensor) -> Tensor:
    """Converts uint8 [B, H, W, 3] to float [B, 3, H, W] in [-1, 1], like the image processor."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def centre_cell(item: Placed, cells: int = CELLS) -> int:
    """Returns the cell index of an object's centre, row by row from the top left."""
    column = min(cells - 1, max(0, int(item.x * cells)))
    row = min(cells - 1, max(0, int(item.y * cells)))
    return row * cells + column


def cell_targets(scene: Scene, cells: int = CELLS) -> dict[str, np.ndarray]:
    """Returns the targets of the cells of an image.

    `concept` and `owner` [cells * cells]: concept and number of the object that covers the cell
    (`NONE`, -1 without an object); `centre` [cells * cells]: 1 at the centre of an object;
    `objects` [4]: concepts of the objects, padded with `NONE`; `background`: colour number.
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
    """Returns the `cell_targets` of several scenes as tensors with a leading batch axis."""
    rows = [cell_targets(scene, cells) for scene in scenes]
    return {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}


SMALL_BATCHES, SMALL_SIZE = 2000, 64
"""The first batches have small images (side in pixels), which are cheaper for early training."""
STRENGTH = (0.25, 1.0)
"""Minimum and maximum augmentation of an image after the curriculum."""
WARM_BATCHES = 4000
"""The batch of the curriculum at which a pretrained encoder continues."""


class SceneStream(IterableDataset):
    """Endless batches: `pixels` uint8 [B, H, W, 3] with `stacked_targets`.

    Images of one object come first and become rarer; augmentation increases.
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
            single_share = 0.25 + 0.65 * math.exp(-number / 1500)
            strength = min(1.0, 0.3 + number / 3000)
            is_single = rng.random(self.batch) < single_share
            scenes = [arrange(rng, box.concepts, objects=1 if one else None) for one in is_single]
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
    """Returns the mean cell features [objects, width] of every object, and their mask [B, 4]."""
    member = (owner[:, None, :] == torch.arange(4)[None, :, None]).float()
    size = member.sum(-1, keepdim=True)
    is_object = (objects != NONE) & (size.squeeze(-1) > 0)
    return ((member @ cells) / size.clamp(min=1))[is_object], is_object


class CellHeads(nn.Module):
    """Heads of the pretraining task."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.concept = nn.Linear(width, NONE + 1)
        self.centre = nn.Linear(width, 1)
        self.background = nn.Linear(width, len(COLOUR_NAMES))

    def losses(self, cells: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, float, float]:
        """Returns the total loss, and the accuracy for objects and backgrounds.

        Objects are classified by the mean of their cells; each cell is classified too.
        """
        weight = torch.ones(NONE + 1)
        weight[NONE] = 0.25
        scores = self.concept(cells).flatten(0, 1)
        loss = 0.5 * nn.functional.cross_entropy(scores, targets["concept"].flatten(), weight)
        loss = loss + 2 * nn.functional.binary_cross_entropy_with_logits(
            self.centre(cells).squeeze(-1), targets["centre"]
        )
        object_features, is_object = object_means(cells, targets["owner"], targets["objects"])
        scores = self.concept(object_features)
        labels = targets["objects"][is_object]
        loss = loss + nn.functional.cross_entropy(scores, labels)
        colour = self.background(cells.mean(1))
        loss = loss + 0.3 * nn.functional.cross_entropy(colour, targets["background"])
        accuracy = float((scores.argmax(-1) == labels).float().mean())
        return loss, accuracy, float((colour.argmax(-1) == targets["background"]).float().mean())


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
    """Trains for a wall-clock budget with a cosine schedule; resumes from `out`.

    A `warm` encoder comes from a bundle: its concept classifier is kept, and images are large and
    strongly augmented from the start.
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
