"""The rows of the tasks."""

from pathlib import Path

import numpy as np
from PIL import Image

from .models import prompts

# New tokens of an answer.
N_TOKENS = 48
N_CAPTION_TOKENS = 20


def texts(n_rows: int) -> list[str]:
    """Returns the texts to continue."""
    return prompts(n_rows)


def images(work: Path, n_rows: int) -> list[Path]:
    """Makes images of different sizes and contents."""
    folder = work / "images"
    folder.mkdir(exist_ok=True)
    paths = []
    for idx in range(n_rows):
        path = folder / f"{idx:05}.png"
        if not path.exists():
            random = np.random.default_rng(idx)
            coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            size = (320 + idx % 5 * 40, 240 + idx % 3 * 40)
            Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths
