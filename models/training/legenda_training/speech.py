"""Spoken sentences: synthesised by espeak-ng in many voices, stored once, augmented on the fly.

A *voice* is a dialect with a variant (`en-gb+f2`). `HELD_OUT_VARIANTS` and `HELD_OUT_DIALECT` are
never trained on. Audio is 16 kHz mono; the store is one int16 array plus offsets.
"""

from __future__ import annotations

import io
import json
import random
import subprocess
import wave
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve, resample_poly

from .emoji import concepts
from .sentences import SPOKEN_QUESTIONS, sentence, spoken_question

SAMPLING_RATE = 16_000
"""In Hz."""
CHUNK_SECONDS = 6
"""Longest audio that the model accepts, in seconds."""
DIALECTS = ("en-gb", "en-us", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029",
            "en-us-nyc")  # fmt: skip
HELD_OUT_DIALECT = "en-gb-scotland"
VARIANTS = (
    "m1", "m2", "m3", "m5", "m6", "m7", "m8", "f1", "f2", "f4", "f5", "adam", "Alex", "Alicia",
    "Andrea", "Andy", "belinda", "benjamin", "caleb", "david", "ed", "Gene", "Henrique", "Jacky",
    "john", "Lee", "marcelo", "Michael", "Mike", "paul", "pedro", "quincy", "rob", "robert",
    "sandro", "shelby", "steph", "travis", "victor", "Zac",
)  # fmt: skip
HELD_OUT_VARIANTS = ("m4", "f3", "Annie", "edward", "linda", "max")


@dataclass(frozen=True)
class Utterance:
    """One clip of the store; `kind` is `said` or a kind of spoken question."""

    text: str
    voice: str
    kind: str
    concept: int
    start: int
    end: int


def synthesise(text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """Speaks `text` (words per minute, pitch 0-99): float32 [samples] at 16 kHz in [-1, 1]."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    spoken = subprocess.run(command, check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(spoken)) as stream:
        rate = stream.getframerate()
    samples = np.frombuffer(spoken[44:], dtype="<i2").astype(np.float32) / 32768
    divisor = np.gcd(rate, SAMPLING_RATE)
    return resample_poly(samples, SAMPLING_RATE // divisor, rate // divisor).astype(np.float32)


def trimmed(samples: np.ndarray, margin: int = 800) -> np.ndarray:
    """Trims the silence at both ends to `margin` samples."""
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    if not len(loud):
        return samples
    return samples[max(0, loud[0] - margin) : loud[-1] + margin]


def _job(seed: int, held_out: bool) -> tuple[str, str, str, int, np.ndarray]:
    rng = random.Random(f"{seed}-{held_out}")
    concept = concepts()[seed % len(concepts())]
    if rng.random() < 0.3:
        kind = rng.choice(SPOKEN_QUESTIONS)
        text = spoken_question(rng, kind, concept)
    else:
        kind, text = "said", sentence(rng, concept)
    if held_out:
        dialect = rng.choice((*DIALECTS, HELD_OUT_DIALECT, HELD_OUT_DIALECT))
        variant = rng.choice(HELD_OUT_VARIANTS)
    else:
        dialect, variant = rng.choice(DIALECTS), rng.choice(VARIANTS)
    voice = f"{dialect}+{variant}"
    speed = rng.randint(110, 220)
    samples = trimmed(synthesise(text, voice, speed, rng.randint(20, 75)))
    if len(samples) > (CHUNK_SECONDS - 0.3) * SAMPLING_RATE:
        samples = trimmed(synthesise(text, voice, 220, 50))
    return text, voice, kind, concept.index, samples


def prepare_speech(data: Path, name: str, count: int, held_out: bool, workers: int = 2) -> None:
    """Synthesises `count` utterances to `data/speech/<name>.{npy,json}`."""
    folder = data / "speech"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / f"{name}.json").exists():
        return
    clips: list[np.ndarray] = []
    index: list[dict] = []
    start = 0
    with ThreadPoolExecutor(workers) as pool:
        for text, voice, kind, concept, samples in pool.map(
            lambda seed: _job(seed, held_out), range(count)
        ):
            if len(samples) > CHUNK_SECONDS * SAMPLING_RATE - 1600:
                continue
            peak = float(np.abs(samples).max()) or 1.0
            clips.append((samples / peak * 20_000).astype(np.int16))
            end = start + len(samples)
            index.append(Utterance(text, voice, kind, concept, start, end).__dict__)
            start = end
            if len(index) % 2000 == 0:
                print(f"speech: {name} {len(index)} of {count}", flush=True)
    np.save(folder / f"{name}.npy", np.concatenate(clips))
    (folder / f"{name}.json").write_text(json.dumps(index))


class SpeechStore:
    """The stored utterances of one split."""

    def __init__(self, data: Path, name: str) -> None:
        self.samples = np.load(data / "speech" / f"{name}.npy", mmap_mode="r")
        stored = json.loads((data / "speech" / f"{name}.json").read_text())
        self.utterances = [Utterance(**row) for row in stored]

    def __len__(self) -> int:
        return len(self.utterances)

    def audio(self, index: int) -> np.ndarray:
        """Returns the clean samples, float32 [n] in [-1, 1]."""
        row = self.utterances[index]
        return self.samples[row.start : row.end].astype(np.float32) / 32768


def augmented(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies random gain, offset, band limit, echo and noise; cuts to the chunk length."""
    out = samples
    if rng.random() < 0.3:
        factor = rng.uniform(0.9, 1.1)
        positions = np.arange(0, len(out) - 1, factor)
        out = np.interp(positions, np.arange(len(out)), out).astype(np.float32)
    if rng.random() < 0.25:
        length = int(rng.uniform(0.02, 0.12) * SAMPLING_RATE)
        tail = rng.standard_normal(length) * np.exp(-np.arange(length) / (length / 5))
        tail *= rng.uniform(0.02, 0.12)
        tail[0] = 1.0
        out = fftconvolve(out, tail.astype(np.float32))[: len(out)]
    if rng.random() < 0.25:
        kernel = np.hanning(int(rng.integers(3, 9)))
        out = np.convolve(out, kernel / kernel.sum(), mode="same")
    out = out * rng.uniform(0.15, 1.5)
    if rng.random() < 0.6:
        level = np.sqrt(np.mean(out**2)) * 10 ** (-rng.uniform(8, 40) / 20)
        noise = rng.standard_normal(len(out))
        if rng.random() < 0.5:
            noise = np.convolve(noise, np.ones(4) / 2, mode="same")
        out = out + level * noise
    remaining = CHUNK_SECONDS * SAMPLING_RATE - len(out)
    if remaining > 0 and rng.random() < 0.7:
        lead = int(rng.integers(0, min(remaining, SAMPLING_RATE)))
        out = np.concatenate([np.zeros(lead, np.float32), out])
    return np.clip(out[: CHUNK_SECONDS * SAMPLING_RATE], -1, 1).astype(np.float32)
