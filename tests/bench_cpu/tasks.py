"""The rows of the tasks."""

from pathlib import Path

import numpy as np
from parity_real import compare, whisper
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


def sentences(n_rows: int) -> list[str]:
    """Returns texts of 20 to 400 characters, each another one."""
    return [f"{idx}: {text}" for idx, text in enumerate(prompts(n_rows))]


def recordings(work: Path, n_rows: int) -> list[Path]:
    """Writes recordings of the sample table as WAV files of 16 kHz, some of them several times."""
    folder = work / "recordings"
    folder.mkdir(exist_ok=True)
    rows = compare.sample_rows("sounds")
    found = [compare.samples_at(row["audio"], whisper.RATE_HZ) for row in rows]
    found = [samples for samples in found if samples is not None]
    paths = []
    for idx in range(n_rows):
        path = folder / f"{idx:05}.wav"
        # Another gain makes it another input, so that no answer is taken from an equal one.
        gain = np.float32(1 - idx / 1000)
        path.write_bytes(compare.wave_of(found[idx % len(found)] * gain, whisper.RATE_HZ))
        paths.append(path)
    return paths
