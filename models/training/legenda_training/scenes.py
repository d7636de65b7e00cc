"""Images composed from sprites: one to four objects on a coloured background.

All positions and sizes are fractions of the image side, with the origin at the top left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .emoji import concepts, sprites

cv2.setNumThreads(1)

BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "black": (14, 14, 16),
    "grey": (136, 138, 140),
    "red": (206, 32, 38),
    "orange": (245, 142, 28),
    "yellow": (250, 222, 62),
    "green": (52, 158, 66),
    "blue": (40, 92, 205),
    "purple": (126, 48, 160),
    "pink": (248, 150, 190),
    "brown": (116, 72, 40),
}
"""Background colours by name, sRGB 0-255."""
COLOUR_NAMES = tuple(BACKGROUNDS)
_GRAIN = np.random.default_rng(0).standard_normal(400_000).astype(np.float32)


@dataclass(frozen=True)
class Placed:
    """One object of a scene: centre and side as fractions of the image side."""

    concept: int
    x: float
    y: float
    side: float


@dataclass(frozen=True)
class Scene:
    """The objects and background of an image."""

    objects: tuple[Placed, ...]
    background: str


class SpriteBox:
    """Sprites of concepts in some styles, at three resolutions, premultiplied alpha, uint8."""

    def __init__(self, data: Path, styles: tuple[str, ...]) -> None:
        self.by_concept: dict[int, list[list[np.ndarray]]] = {}
        for style in styles:
            for concept, image in sprites(data, style).items():
                if not concepts()[concept].pictured:
                    continue
                pixels = image.astype(np.float32)
                pixels[..., :3] *= pixels[..., 3:] / 255
                levels = [
                    cv2.resize(pixels, (s, s), interpolation=cv2.INTER_AREA).astype(np.uint8)
                    for s in (128, 64, 32)
                ]
                self.by_concept.setdefault(concept, []).append(levels)
        self.concepts = tuple(sorted(self.by_concept))

    def sprite(self, concept: int, side: float, rng: np.random.Generator) -> np.ndarray:
        """Returns the sprite of a random style, at the next resolution above `side` pixels."""
        designs = self.by_concept[concept]
        levels = designs[int(rng.integers(len(designs)))]
        return levels[2 if side <= 32 else 1 if side <= 64 else 0]


def arrange(
    rng: np.random.Generator,
    concept_pool: tuple[int, ...],
    first: int | None = None,
    objects: int | None = None,
) -> Scene:
    """Draws a random scene: half of the multi-object scenes repeat a concept; positions differ."""
    background = COLOUR_NAMES[int(rng.integers(len(COLOUR_NAMES)))]
    count = objects or int(rng.choice(4, p=(0.35, 0.3, 0.2, 0.15))) + 1
    chosen = [int(rng.choice(concept_pool)) if first is None else first]
    for _ in range(count - 1):
        repeat = rng.random() < 0.4
        chosen.append(int(rng.choice(chosen)) if repeat else int(rng.choice(concept_pool)))
    if count == 1:
        side = rng.uniform(0.4, 0.98)
        position = rng.uniform(side / 2 - 0.03, 1.03 - side / 2, 2)
        return Scene(
            (Placed(chosen[0], float(position[0]), float(position[1]), float(side)),), background
        )
    largest = {2: 0.5, 3: 0.42, 4: 0.38}[count]
    centres, sides = _layout(rng, count, largest)
    placed = tuple(
        Placed(c, float(p[0]), float(p[1]), float(s))
        for c, p, s in zip(chosen, centres, sides, strict=True)
    )
    return Scene(placed, background)


def _layout(rng: np.random.Generator, count: int, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns centres [count, 2] and sides [count] by trying 48 arrangements at a time.

    Objects overlap only slightly, and their left/right and above/below relations are unambiguous.
    """
    first, second = np.triu_indices(count, 1)
    while True:
        sides = rng.uniform(0.27, largest, (48, count))
        centres = sides[..., None] / 2 + rng.random((48, count, 2)) * (1 - sides[..., None])
        gaps = np.abs(centres[:, first] - centres[:, second])
        dx, dy = gaps[..., 0], gaps[..., 1]
        is_apart = np.maximum(dx, dy) >= 0.45 * (sides[:, first] + sides[:, second])
        is_unambiguous = (np.abs(dx - dy) >= 0.06) & ((dx >= 0.04) | (count == 2))
        valid = np.flatnonzero((is_apart & is_unambiguous).all(1))
        if len(valid):
            return centres[valid[0]], sides[valid[0]]


def paint_background(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """Returns a plain, gradient or mottled background: float32 [size, size, 3], 0-255."""
    base = np.array(BACKGROUNDS[name], np.float32) + rng.normal(0, 6, 3).astype(np.float32)
    kind = rng.random()
    if kind < 0.45:
        image = np.broadcast_to(base, (size, size, 3)).copy()
    elif kind < 0.75:
        spread = rng.uniform(8, 26)
        angle = rng.uniform(0, 2 * np.pi)
        line = np.linspace(-1, 1, size, dtype=np.float32)
        ramp = np.cos(angle) * line[None, :] + np.sin(angle) * line[:, None]
        image = base + spread * ramp[..., None].astype(np.float32)
    else:
        coarse = rng.normal(0, rng.uniform(4, 16), (int(rng.integers(4, 16)),) * 2 + (1,))
        noise = cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        image = base + noise[..., None]
    return np.clip(image, 0, 255)


def _tint(rng: np.random.Generator, strength: float) -> np.ndarray:
    """Returns a random colour matrix [4, 4] over premultiplied RGBA.

    It changes saturation, gain and offset, and rarely swaps channels or removes colour.
    """
    saturation = 1 + strength * rng.uniform(-0.7, 0.35)
    if rng.random() < 0.05 * strength:
        saturation = 0.0
    rgb = saturation * np.eye(3) + (1 - saturation) / 3
    rgb *= (1 + strength * (rng.uniform(-0.2, 0.2) + rng.uniform(-0.08, 0.08, 3)))[:, None]
    if rng.random() < 0.06 * strength:
        rgb = rgb[rng.permutation(3)]
    matrix = np.eye(4, dtype=np.float32)
    matrix[:3, :3] = rgb
    matrix[:3, 3] = strength * rng.uniform(-20, 20) / 255
    return matrix


def paint(
    scene: Scene, box: SpriteBox, rng: np.random.Generator, size: int = 96, strength: float = 1.0
) -> np.ndarray:
    """Paints a scene: uint8 [size, size, 3]. `strength` scales the augmentation (0: none)."""
    image = paint_background(rng, scene.background, size)
    for item in scene.objects:
        side = item.side * size
        sprite = box.sprite(item.concept, side, rng)
        if rng.random() < 0.5 * min(strength, 1):
            sprite = sprite[:, ::-1]
        sprite_side = sprite.shape[0]
        angle = np.deg2rad(rng.normal(0, 8) if strength > 0 else 0)
        stretch = np.exp(rng.normal(0, 0.07, 2)) if strength > 0 else np.ones(2)
        shear = rng.normal(0, 0.06) if strength > 0 else 0.0
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = rotation @ np.array([[1, shear], [0, 1]]) @ np.diag(stretch) * (side / sprite_side)
        centre = np.array([item.x, item.y]) * size
        reach = int(np.ceil(side * 0.75)) + 1
        left, top = (np.floor(centre) - reach).astype(int)
        corner = np.array([left, top])
        offset = centre - corner - linear @ np.array([sprite_side / 2, sprite_side / 2])
        matrix = np.concatenate([linear, offset[:, None]], 1)
        patch = cv2.warpAffine(
            np.ascontiguousarray(sprite), matrix, (2 * reach, 2 * reach), flags=cv2.INTER_LINEAR
        )
        x0, y0 = max(0, left), max(0, top)
        x1, y1 = min(size, left + 2 * reach), min(size, top + 2 * reach)
        patch = patch[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float32)
        if strength > 0:
            patch = cv2.transform(patch, _tint(rng, strength))
            patch[..., :3] = np.clip(patch[..., :3], 0, patch[..., 3:])
        view = image[y0:y1, x0:x1]
        view *= 1 - patch[..., 3:] / 255
        view += patch[..., :3]
    if strength > 0:
        image = _augmented(image, rng)
    return np.clip(image, 0, 255).astype(np.uint8)


def _augmented(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies random brightness, contrast, blur, grain and JPEG artifacts."""
    if rng.random() < 0.5:
        image = (image - 128) * rng.uniform(0.8, 1.15) + 128 + rng.uniform(-12, 12)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.0))
    if rng.random() < 0.3:
        start = int(rng.integers(len(_GRAIN) - image.size))
        grain = _GRAIN[start : start + image.size].reshape(image.shape)
        image = image + rng.uniform(1, 8) * grain
    if rng.random() < 0.15:
        clipped = np.clip(image, 0, 255).astype(np.uint8)
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))]
        image = cv2.imdecode(cv2.imencode(".jpg", clipped, quality)[1], cv2.IMREAD_COLOR)
    return image
