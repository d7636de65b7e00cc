"""Concepts and their sprites: open emoji designs, rendered to small RGBA images.

A *concept* is a row of `concepts.tsv`: emoji, English name, group, German, French and Spanish
names, and whether it appears in images. A *style* is one open design set, read from the
`@iconify-json/<style>` npm package (`icons.json` contains SVG bodies, `chars.json` maps code points
to icon names). The `noto` style is held out: it is used for evaluation, never for training.
"""

from __future__ import annotations

import functools
import io
import json
import subprocess
import tarfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

TRAINED_STYLES = ("twemoji", "openmoji", "fluent-emoji", "fluent-emoji-flat", "emojione")
HELD_OUT_STYLE = "noto"
STYLES = (*TRAINED_STYLES, HELD_OUT_STYLE)
SPRITE_SIZE = 128
"""Side of a stored sprite in pixels."""

IRREGULAR_PLURALS = {
    "mouse": "mice",
    "computer mouse": "computer mice",
    "wolf": "wolves",
    "fish": "fish",
    "angelfish": "angelfish",
    "blowfish": "blowfish",
    "sheep": "sheep",
    "die": "dice",
    "loaf": "loaves",
    "maple leaf": "maple leaves",
    "tooth": "teeth",
    "snowman": "snowmen",
    "kitchen knife": "kitchen knives",
    "scarf": "scarves",
    "bow and arrow": "bows and arrows",
    "chips": "chips",
    "shrimp": "shrimp",
    "squid": "squid",
}


@dataclass(frozen=True)
class Concept:
    """An object that the model can name."""

    index: int
    emoji: str
    name: str
    group: str
    german: str
    french: str
    spanish: str
    use: str
    """`pictured`: in images, speech and text; `named`: in speech and text only."""

    @property
    def with_article(self) -> str:
        """The name with its article: `a dog`, `an apple`; `chips` is a plural and has none."""
        if self.name == "chips":
            return self.name
        vowel = self.name.startswith(("a", "e", "i", "o", "um", "hour"))
        return f"{'an' if vowel else 'a'} {self.name}"

    @property
    def plural(self) -> str:
        """The English plural: `dogs`, `pairs of glasses`, `mice`."""
        name = self.name
        if name in IRREGULAR_PLURALS:
            return IRREGULAR_PLURALS[name]
        head, of, rest = name.partition(" of ")
        if head.endswith(("s", "x", "z", "ch", "sh")):
            head += "es"
        elif head.endswith("y") and head[-2] not in "aeiou":
            head = head[:-1] + "ies"
        elif head in ("tomato", "potato", "mango", "volcano", "tornado"):
            head += "es"
        else:
            head += "s"
        return head + of + rest

    @property
    def pictured(self) -> bool:
        """Whether scenes show it: all trained styles have it, and it is recognisable when small."""
        return self.use == "pictured"

    @property
    def code_points(self) -> str:
        """The code points in hex without variation selectors: the key of `chars.json`."""
        return "-".join(f"{ord(c):x}" for c in self.emoji if ord(c) != 0xFE0F)


@functools.cache
def concepts() -> tuple[Concept, ...]:
    """Returns all concepts, in the order of `concepts.tsv`; `index` is the row number."""
    table = resources.files(__package__).joinpath("concepts.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in table.splitlines() if line]
    return tuple(Concept(index, *row) for index, row in enumerate(rows))


def fetch_icons(folder: Path) -> None:
    """Downloads and unpacks the npm package of every style into `folder/<style>/`."""
    folder.mkdir(parents=True, exist_ok=True)
    for style in STYLES:
        target = folder / style
        if (target / "icons.json").exists():
            continue
        npm = subprocess.run(
            ["npm", "pack", "--silent", f"@iconify-json/{style}"],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
        archive = folder / npm.stdout.strip().splitlines()[-1]
        target.mkdir(exist_ok=True)
        with tarfile.open(archive) as tar:
            for member in ("icons.json", "chars.json", "info.json"):
                source = tar.extractfile(f"package/{member}")
                if source is not None:
                    (target / member).write_bytes(source.read())
        archive.unlink()


def icon_names(folder: Path, concept: Concept) -> list[str]:
    """Returns the names of a concept in the sets (two sets do not have a code-point map)."""
    names: list[str] = []
    for style in STYLES:
        chars = _json(folder / style / "chars.json")
        for key in (concept.code_points, concept.code_points + "-fe0f"):
            if key in chars and chars[key] not in names:
                names.append(chars[key])
    return names


@functools.cache
def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def svg(folder: Path, style: str, concept: Concept) -> str | None:
    """Returns the SVG document of a concept in a style, or `None` if the style lacks it."""
    icons = _json(folder / style / "icons.json")
    chars = _json(folder / style / "chars.json")
    keys = (concept.code_points, concept.code_points + "-fe0f")
    style_names = [chars[key] for key in keys if key in chars]
    for name in [*style_names, *icon_names(folder, concept)]:
        alias = icons.get("aliases", {}).get(name)
        icon = icons["icons"].get(alias["parent"] if alias else name)
        if icon is not None:
            width = icon.get("width", icons.get("width", 16))
            height = icon.get("height", icons.get("height", 16))
            return (
                '<svg xmlns="http://www.w3.org/2000/svg" '
                'xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
                f"{icon['body']}</svg>"
            )
    return None


def draw(document: str, size: int = SPRITE_SIZE) -> np.ndarray:
    """Renders an SVG, crops it to its opaque part and centres it: uint8 [size, size, 4]."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=document, width=2 * size, height=2 * size))
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    if box is None:
        raise ValueError("the rendered SVG is empty")
    image = image.crop(box)
    scale = size / max(image.size)
    shape = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(shape, Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(image, ((size - shape[0]) // 2, (size - shape[1]) // 2))
    return np.asarray(canvas)


def _draw_concept(job: tuple[str, str, int]) -> np.ndarray | None:
    folder, style, index = job
    document = svg(Path(folder), style, concepts()[index])
    return None if document is None else draw(document)


def prepare_sprites(data: Path, workers: int = 2) -> None:
    """Renders every style to `data/sprites/<style>.npz` (pixels uint8 [n,s,s,4], concept int32)."""
    fetch_icons(data / "icons")
    (data / "sprites").mkdir(parents=True, exist_ok=True)
    for style in STYLES:
        target = data / "sprites" / f"{style}.npz"
        if target.exists():
            continue
        jobs = [(str(data / "icons"), style, c.index) for c in concepts()]
        with ProcessPoolExecutor(workers) as pool:
            rendered = list(pool.map(_draw_concept, jobs, chunksize=8))
        available = [i for i, image in enumerate(rendered) if image is not None]
        np.savez(
            target,
            pixels=np.stack([rendered[i] for i in available]),
            concept=np.array(available, dtype=np.int32),
        )
        print(f"sprites: {style} has {len(available)} of {len(rendered)} concepts", flush=True)


def sprites(data: Path, style: str) -> dict[int, np.ndarray]:
    """Returns the sprites of a style by concept index: uint8 [128, 128, 4], straight alpha."""
    with np.load(data / "sprites" / f"{style}.npz") as stored:
        pixels, index = stored["pixels"], stored["concept"]
    return {int(i): pixels[k] for k, i in enumerate(index)}
