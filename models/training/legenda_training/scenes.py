"""Pictures composed from sprites: one to four objects on a coloured background.

All positions and sizes are fractions of the picture's side, origin at the top left.
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
    """One object of a scene: centre and side as fractions of the picture's side."""

    concept: int
    x: float
    y: float
    side: float


@dataclass(frozen=True)
class Scene:
    """What a picture shows."""

    objects: tuple[Placed, ...]
    background: str


class SpriteBox:
    """Pictured concepts in some styles, at three resolutions, premultiplied alpha, uint8."""

    def __init__(self, data: Path, styles: tuple[str, ...]) -> None:
        self.by_concept: dict[int, list[list[np.ndarray]]] = {}
        for style in styles:
            for concept, picture in sprites(data, style).items():
                if not concepts()[concept].pictured:
                    continue
                pixels = picture.astype(np.float32)
                pixels[..., :3] *= pixels[..., 3:] / 255
                levels = [
                    cv2.resize(pixels, (s, s), interpolation=cv2.INTER_AREA).astype(np.uint8)
                    for s in (128, 64, 32)
                ]
                self.by_concept.setdefault(concept, []).append(levels)
        self.concepts = tuple(sorted(self.by_concept))

    def sprite(self, concept: int, side: float, rng: np.random.Generator) -> np.ndarray:
        """A random style's sprite, at the resolution next above `side` pixels."""
        designs = self.by_concept[concept]
        levels = designs[int(rng.integers(len(designs)))]
        return levels[2 if side <= 32 else 1 if side <= 64 else 0]


def arrange(
    rng: np.random.Generator,
    concept_pool: tuple[int, ...],
    first: int | None = None,
    objects: int | None = None,
) -> Scene:
    """Draw a scene: half of the multi-object scenes repeat a concept; places never coincide."""
    background = COLOUR_NAMES[int(rng.integers(len(COLOUR_NAMES)))]
    count = objects or int(rng.choice(4, p=(0.35, 0.3, 0.2, 0.15))) + 1
    chosen = [int(rng.choice(concept_pool)) if first is None else first]
    for _ in range(count - 1):
        repeat = rng.random() < 0.4
        chosen.append(int(rng.choice(chosen)) if repeat else int(rng.choice(concept_pool)))
    if count == 1:
        side = rng.uniform(0.4, 0.98)
        place = rng.uniform(side / 2 - 0.03, 1.03 - side / 2, 2)
        return Scene(
            (Placed(chosen[0], float(place[0]), float(place[1]), float(side)),), background
        )
    largest = {2: 0.5, 3: 0.42, 4: 0.38}[count]
    places, sides = _places(rng, count, largest)
    placed = tuple(
        Placed(c, float(p[0]), float(p[1]), float(s))
        for c, p, s in zip(chosen, places, sides, strict=True)
    )
    return Scene(placed, background)


def _places(rng: np.random.Generator, count: int, largest: float) -> tuple[np.ndarray, np.ndarray]:
    """Centres [count, 2] and sides [count] such that no two objects overlap by more than a
    sliver and who is left of or above whom is plain. Tried 48 arrangements at a time."""
    first, second = np.triu_indices(count, 1)
    while True:
        sides = rng.uniform(0.27, largest, (48, count))
        places = sides[..., None] / 2 + rng.random((48, count, 2)) * (1 - sides[..., None])
        gaps = np.abs(places[:, first] - places[:, second])
        dx, dy = gaps[..., 0], gaps[..., 1]
        room = np.maximum(dx, dy) >= 0.45 * (sides[:, first] + sides[:, second])
        plain = (np.abs(dx - dy) >= 0.06) & ((dx >= 0.04) | (count == 2))
        good = np.flatnonzero((room & plain).all(1))
        if len(good):
            return places[good[0]], sides[good[0]]


def paint_background(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """Plain, gradient or mottled colour: float32 [size, size, 3], 0-255."""
    base = np.array(BACKGROUNDS[name], np.float32) + rng.normal(0, 6, 3).astype(np.float32)
    kind = rng.random()
    if kind < 0.45:
        picture = np.broadcast_to(base, (size, size, 3)).copy()
    elif kind < 0.75:
        spread = rng.uniform(8, 26)
        angle = rng.uniform(0, 2 * np.pi)
        line = np.linspace(-1, 1, size, dtype=np.float32)
        ramp = np.cos(angle) * line[None, :] + np.sin(angle) * line[:, None]
        picture = base + spread * ramp[..., None].astype(np.float32)
    else:
        coarse = rng.normal(0, rng.uniform(4, 16), (int(rng.integers(4, 16)),) * 2 + (1,))
        noise = cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        picture = base + noise[..., None]
    return np.clip(picture, 0, 255)


def _tint(rng: np.random.Generator, strength: float) -> np.ndarray:
    """A colour matrix [4, 4] over premultiplied RGBA: saturation, gain, offset, rarely a swap of
    channels or no colour at all."""
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
    """Draw a scene: uint8 [size, size, 3]. `strength` scales the roughening (0 draws cleanly)."""
    picture = paint_background(rng, scene.background, size)
    for item in scene.objects:
        side = item.side * size
        sprite = box.sprite(item.concept, side, rng)
        if rng.random() < 0.5 * min(strength, 1):
            sprite = sprite[:, ::-1]
        own = sprite.shape[0]
        angle = np.deg2rad(rng.normal(0, 8) if strength > 0 else 0)
        stretch = np.exp(rng.normal(0, 0.07, 2)) if strength > 0 else np.ones(2)
        shear = rng.normal(0, 0.06) if strength > 0 else 0.0
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = turn @ np.array([[1, shear], [0, 1]]) @ np.diag(stretch) * (side / own)
        centre = np.array([item.x, item.y]) * size
        reach = int(np.ceil(side * 0.75)) + 1
        left, top = (np.floor(centre) - reach).astype(int)
        corner = np.array([left, top])
        offset = centre - corner - linear @ np.array([own / 2, own / 2])
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
        view = picture[y0:y1, x0:x1]
        view *= 1 - patch[..., 3:] / 255
        view += patch[..., :3]
    if strength > 0:
        picture = _roughened(picture, rng)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _roughened(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, blur, grain and JPEG blocks, each by chance."""
    if rng.random() < 0.5:
        picture = (picture - 128) * rng.uniform(0.8, 1.15) + 128 + rng.uniform(-12, 12)
    if rng.random() < 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 1.0))
    if rng.random() < 0.3:
        start = int(rng.integers(len(_GRAIN) - picture.size))
        grain = _GRAIN[start : start + picture.size].reshape(picture.shape)
        picture = picture + rng.uniform(1, 8) * grain
    if rng.random() < 0.15:
        clipped = np.clip(picture, 0, 255).astype(np.uint8)
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))]
        picture = cv2.imdecode(cv2.imencode(".jpg", clipped, quality)[1], cv2.IMREAD_COLOR)
    return picture
