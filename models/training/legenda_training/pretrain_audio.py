"""Stage A2: pretrains the audio tower with two CTC losses.

A phoneme loss in the middle layer and a word loss at the top, both over encoder positions (40 ms).
Batches contain clips of similar length and are cropped to the longest, so that little silence is
computed. The heads are discarded afterwards, except that joint training keeps the word loss.
"""

from __future__ import annotations

import functools
import json
import math
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .checkpoint import save_tower
from .speech import CHUNK_SECONDS, SAMPLING_RATE, SpeechStore, augmented

HOP = 320
"""Samples per log-mel frame: 20 ms."""


@functools.cache
def feature_extractor() -> WhisperFeatureExtractor:
    """Returns the feature extractor: 64 log-mel bands, 20 ms frames, six seconds: 300 frames."""
    return WhisperFeatureExtractor(
        feature_size=64,
        sampling_rate=SAMPLING_RATE,
        hop_length=HOP,
        n_fft=512,
        chunk_length=CHUNK_SECONDS,
        padding_value=0.0,
        dither=0.0,
    )


def log_mel(clips: list[np.ndarray]) -> Tensor:
    """Returns the reference features of zero-padded clips: float32 [B, 64, 300]."""
    padded = np.zeros((len(clips), CHUNK_SECONDS * SAMPLING_RATE), np.float32)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip[: len(row)]
    return torch.from_numpy(feature_extractor()._torch_extract_fbank_features(padded)).float()


def vocabulary(data: Path) -> tuple[dict[str, int], dict[str, list[int]], int]:
    """Returns word IDs (from 1; 0 is the blank), phoneme IDs per word (from 1), phoneme count."""
    stored = data / "speech" / "vocabulary.json"
    if not stored.exists():
        texts = [u.text for u in SpeechStore(data, "trained").utterances]
        words = sorted({word for text in texts for word in text.split()})
        spoken = subprocess.run(
            ["espeak-ng", "-v", "en-gb", "-q", "-x", "--sep=_"],
            input="\n".join(f"{w}." for w in words) + "\n",
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        lines = [line.strip() for line in spoken.splitlines() if line.strip()]
        if len(lines) != len(words):
            lines = [_phonemes(word) for word in words]
        phones = [[re.sub(r"[',%=|:;]", "", p) for p in re.split(r"[_ ]+", x)] for x in lines]
        stored.write_text(
            json.dumps(
                {
                    "words": words,
                    "phonemes": [[p for p in s if p] for s in phones],
                }
            )
        )
    table = json.loads(stored.read_text())
    phonemes = sorted({p for phones in table["phonemes"] for p in phones})
    numbers = {p: i + 1 for i, p in enumerate(phonemes)}
    words = {word: i + 1 for i, word in enumerate(table["words"])}
    phonemes_by_word = {
        w: [numbers[p] for p in s] for w, s in zip(table["words"], table["phonemes"], strict=True)
    }
    return words, phonemes_by_word, len(phonemes)


def _phonemes(word: str) -> str:
    return subprocess.run(
        ["espeak-ng", "-v", "en-gb", "-q", "-x", "--sep=_", word],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


class SpeechStream(IterableDataset):
    """Endless batches: features [B, 64, frames], positions, words, word counts, phonemes, counts.

    `frames` is even and just covers the longest clip of the batch.
    """

    def __init__(self, data: Path, seconds_per_batch: float, seed: int) -> None:
        self.data, self.seconds, self.seed = data, seconds_per_batch, seed

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if torch.utils.data.get_worker_info():
            torch.set_num_threads(1)
        rng = np.random.default_rng(self.seed)
        store = SpeechStore(self.data, "trained")
        words, phonemes_by_word, _ = vocabulary(self.data)
        lengths = np.array([u.end - u.start for u in store.utterances])
        while True:
            for batch in self._batches(rng, lengths):
                clips = [augmented(store.audio(i), rng) for i in batch]
                frames = min(300, 2 * math.ceil((max(map(len, clips)) + 800) / HOP / 2))
                features = _masked(log_mel(clips)[..., :frames], rng)
                texts = [store.utterances[i].text.split() for i in batch]
                word_ids = [[words[w] for w in text] for text in texts]
                phoneme_ids = [[p for w in text for p in phonemes_by_word[w]] for text in texts]
                yield (
                    features,
                    torch.tensor([min(frames, len(s) // HOP + 2) // 2 for s in clips]),
                    torch.tensor([w for ids in word_ids for w in ids]),
                    torch.tensor([len(ids) for ids in word_ids]),
                    torch.tensor([p for ids in phoneme_ids for p in ids]),
                    torch.tensor([len(ids) for ids in phoneme_ids]),
                )

    def _batches(self, rng: np.random.Generator, lengths: np.ndarray) -> list[list[int]]:
        order = np.argsort(lengths * rng.uniform(0.85, 1.15, len(lengths)))
        batches: list[list[int]] = [[]]
        remaining = self.seconds
        for index in order:
            cost = lengths[index] / SAMPLING_RATE + 0.5
            if remaining < cost and batches[-1]:
                batches.append([])
                remaining = self.seconds
            batches[-1].append(int(index))
            remaining -= cost
        return [batches[i] for i in rng.permutation(len(batches))]


def _masked(features: Tensor, rng: np.random.Generator) -> Tensor:
    """Randomly masks a mel band and a time range in each clip."""
    floor = features.amin(dim=(1, 2))
    for row, low in zip(features, floor, strict=True):
        if rng.random() < 0.5:
            start = int(rng.integers(0, 56))
            row[start : start + int(rng.integers(2, 9))] = low
        if rng.random() < 0.3:
            start = int(rng.integers(0, max(1, row.shape[1] - 8)))
            row[:, start : start + int(rng.integers(2, 8))] = low
    return features


def encode_cropped(tower: WhisperEncoder, features: Tensor, tap: int) -> tuple[Tensor, Tensor]:
    """Runs the tower on fewer frames than its full length.

    Maps [B, mels, frames] to (hidden after layer `tap`, normed output), each [B, frames / 2, d].
    """
    hidden = nn.functional.gelu(tower.conv1(features))
    hidden = nn.functional.gelu(tower.conv2(hidden)).permute(0, 2, 1)
    hidden = hidden + tower.embed_positions.weight[: hidden.shape[1]]
    tapped = hidden
    for number, layer in enumerate(tower.layers, 1):
        hidden = layer(hidden, None)
        if number == tap:
            tapped = hidden
    return tapped, tower.layer_norm(hidden)


class SpeechHeads(nn.Module):
    """CTC heads: phonemes at the tap, words at the top."""

    def __init__(self, width: int, phonemes: int, words: int) -> None:
        super().__init__()
        self.phoneme_norm = nn.LayerNorm(width)
        self.phoneme = nn.Linear(width, phonemes + 1)
        self.word = nn.Linear(width, words + 1)

    def losses(
        self,
        tapped: Tensor,
        top: Tensor,
        positions: Tensor,
        words: Tensor,
        word_counts: Tensor,
        phonemes: Tensor,
        phoneme_counts: Tensor,
    ) -> tuple[Tensor, ...]:
        """Returns phoneme loss and word loss, each divided per clip by its label count."""
        scores = self.phoneme(self.phoneme_norm(tapped)).log_softmax(-1).transpose(0, 1)
        phoneme = nn.functional.ctc_loss(
            scores, phonemes, positions, phoneme_counts, zero_infinity=True
        )
        scores = self.word(top).log_softmax(-1).transpose(0, 1)
        word = nn.functional.ctc_loss(scores, words, positions, word_counts, zero_infinity=True)
        return phoneme, word


def greedy_words(scores: Tensor, positions: int) -> list[int]:
    """Returns the best path of one clip [positions, words + 1] without repeats and blanks."""
    best = scores[:positions].argmax(-1).tolist()
    return [w for k, w in enumerate(best) if w and (k == 0 or best[k - 1] != w)]


@torch.no_grad()
def held_out_error(tower: WhisperEncoder, heads: SpeechHeads, data: Path, count: int) -> float:
    """Returns the word error rate of greedy CTC on clean, full-length clips of held-out voices."""
    store, (words, _, _) = SpeechStore(data, "held_out"), vocabulary(data)
    tower.eval()
    wrong = total = 0
    for start in range(0, count, 20):
        rows = range(start, min(start + 20, len(store)))
        clips = [store.audio(i) for i in rows]
        top = heads.word(tower(log_mel(clips)).last_hidden_state)
        for row, scores, clip in zip(rows, top, clips, strict=True):
            want = [words.get(w, -1) for w in store.utterances[row].text.split()]
            wrong += edit_distance(want, greedy_words(scores, len(clip) // HOP // 2 + 2))
            total += len(want)
    tower.train()
    return wrong / total


def edit_distance(want: list, got: list) -> int:
    """Returns the number of edits (insertions, deletions, substitutions) from `want` to `got`."""
    row = list(range(len(got) + 1))
    for i, a in enumerate(want, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(got, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


def pretrain_audio(
    tower: WhisperEncoder,
    data: Path,
    out: Path,
    seconds: float,
    batch_seconds: float = 64,
    peak: float = 1.5e-3,
    seed: int = 1,
) -> None:
    """Trains for a wall-clock budget with a cosine schedule; resumes from `out`."""
    torch.manual_seed(seed)
    words, _, phonemes = vocabulary(data)
    heads = SpeechHeads(tower.config.d_model, phonemes, len(words))
    parameters = [p for p in (*tower.parameters(), *heads.parameters()) if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.01, betas=(0.9, 0.98))
    spent, step, n_clips = 0.0, 0, 0
    if out.exists():
        state = torch.load(out, weights_only=True)
        tower.load_state_dict(state["tower"])
        heads.load_state_dict(state["heads"])
        optimiser.load_state_dict(state["optimiser"])
        spent, step = state["spent"], state["step"]
    stream = SpeechStream(data, batch_seconds, seed + step)
    loader = iter(DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=6))
    tap = max(1, len(tower.layers) // 2)
    tower.train()
    began, saved = time.monotonic() - spent, time.monotonic()
    means = np.zeros(3)
    curve = out.with_suffix(".csv")
    if not curve.exists():
        curve.write_text("step,seconds,rate,phoneme_loss,word_loss,held_out_word_error\n")
    while (spent := time.monotonic() - began) < seconds:
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * spent / seconds))
        rate = peak * min(1, (step + 1) / 200) * cosine
        for group in optimiser.param_groups:
            group["lr"] = rate
        features, positions, *labels = next(loader)
        tapped, top = encode_cropped(tower, features, tap)
        phoneme, word = heads.losses(tapped, top, positions, *labels)
        optimiser.zero_grad(set_to_none=True)
        (0.5 * phoneme + 0.5 * word).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        n_clips += len(features)
        means = 0.98 * means + 0.02 * np.array([phoneme.item(), word.item(), 1])
        if step % 100 == 0:
            error = held_out_error(tower, heads, data, 60) if step % 400 == 0 else float("nan")
            row = (means[:2] / means[2]).tolist()
            with curve.open("a") as file:
                file.write(f"{step},{spent:.0f},{rate:.2e},{row[0]:.4f},{row[1]:.4f},{error:.4f}\n")
            print(
                f"audio {step} {spent:.0f}s phoneme {row[0]:.3f} word {row[1]:.3f} "
                f"held-out {error:.3f} {n_clips} clips",
                flush=True,
            )
        if time.monotonic() - saved > 120:
            save_tower(out, tower, heads, optimiser, spent, step)
            saved = time.monotonic()
    save_tower(out, tower, heads, optimiser, spent, step)
