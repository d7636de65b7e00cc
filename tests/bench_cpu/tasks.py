"""The rows of the tasks."""

import sysconfig
from pathlib import Path

import numpy as np
from parity_real import compare
from PIL import Image

# New tokens of an answer.
N_TOKENS = 48
N_CAPTION_TOKENS = 20
# The sample rate of recordings.
RATE_HZ = 16_000


def corpus() -> list[str]:
    """Returns the sources of Python's standard library, as text to train a tokenizer on."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in folder.glob("*.py"))
    return [path.read_text(encoding="utf-8", errors="replace") for path in files]


def prompts(n_rows: int) -> list[str]:
    """Returns texts of 20 to 400 characters."""
    lines = [line.strip() for text in corpus() for line in text.splitlines() if len(line) > 30]
    chosen = []
    for idx in range(n_rows):
        n_chars = 20 + (idx * 7919) % 381
        start = (idx * 104729) % (len(lines) - 20)
        chosen.append(" ".join(lines[start : start + 20])[:n_chars])
    return chosen


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
    found = [compare.samples_at(row["audio"], RATE_HZ) for row in rows]
    found = [samples for samples in found if samples is not None]
    paths = []
    for idx in range(n_rows):
        path = folder / f"{idx:05}.wav"
        # Another gain makes it another input, so that no answer is taken from an equal one.
        gain = np.float32(1 - idx / 1000)
        path.write_bytes(compare.wave_of(found[idx % len(found)] * gain, RATE_HZ))
        paths.append(path)
    return paths
