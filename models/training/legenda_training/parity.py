"""Compares the slots of a bundle with PyTorch: rows of different length, joining, foreign rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .restore import load_bundle
from .runner import BundleRunner


@torch.no_grad()
def check_slots(bundle: Path, rows: int = 5, steps: int = 8, seed: int = 5) -> float:
    """Returns the largest logit difference of three experiments; raises if a token differs.

    (a) rows of different length prefilled right-padded, then decoded in place;
    (b) each row prefilled alone and copied to a slot of a larger KV cache;
    (c) garbage in the other slots, one of them empty (position 0, length 1).
    """
    rng = np.random.default_rng(seed)
    model, runner = load_bundle(bundle), BundleRunner(bundle)
    vocabulary = runner.config["text_config"]["vocab_size"]
    prompts = [rng.integers(9, vocabulary, int(rng.integers(3, 40))) for _ in range(rows)]
    worst = 0.0
    expected: list[list[np.ndarray]] = []
    for prompt in prompts:
        ids, logits = list(prompt), []
        for _ in range(steps):
            out = model(input_ids=torch.tensor([ids])).logits[0, -1].numpy()
            logits.append(out)
            ids.append(int(out.argmax()))
        expected.append(logits)

    def decode_and_compare(
        slots: list[int],
        cache: dict[str, np.ndarray],
        count: int,
        first: np.ndarray,
        lengths: np.ndarray,
    ) -> None:
        nonlocal worst
        token = first.copy()
        lengths = lengths.copy()
        for step in range(1, steps):
            logits = runner.step(
                runner.embed(token[:, None]), lengths[:, None], lengths, lengths + 1, cache, 1
            )[:, -1]
            for row, slot in enumerate(slots):
                worst = max(worst, float(np.abs(logits[slot] - expected[row][step]).max()))
                if logits[slot].argmax() != expected[row][step].argmax():
                    raise AssertionError(f"slot {slot} differs at step {step}")
            is_used = np.isin(np.arange(count), slots)
            token = np.where(is_used, logits.argmax(-1), token)
            lengths = np.where(is_used, lengths + 1, lengths)

    longest = max(map(len, prompts))
    lengths = np.array([len(p) for p in prompts])
    padded = np.zeros((rows, longest), np.int64)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = prompt
    cache = runner.empty_cache(rows, longest + steps)
    for value in cache.values():
        value[:] = rng.standard_normal(value.shape)
    positions = np.tile(np.arange(longest), (rows, 1))
    logits = runner.step(runner.embed(padded), positions, np.zeros(rows), lengths, cache, 0)
    last = logits[np.arange(rows), lengths - 1]
    for row in range(rows):
        worst = max(worst, float(np.abs(last[row] - expected[row][0]).max()))
    decode_and_compare(list(range(rows)), cache, rows, last.argmax(-1), lengths)

    count = rows + 2
    slots = [int(s) for s in rng.permutation(np.arange(1, count))[:rows]]
    cache = runner.empty_cache(count, longest + steps + 3)
    for value in cache.values():
        value[:] = 50 * rng.standard_normal(value.shape)
    token = rng.integers(9, vocabulary, count)
    lengths = np.zeros(count, np.int64)
    for row, slot in enumerate(slots):
        size = len(prompts[row])
        single_cache = runner.empty_cache(1, size)
        logits = runner.step(
            runner.embed(prompts[row][None]),
            np.arange(size)[None],
            np.zeros(1),
            np.array([size]),
            single_cache,
            1,
        )
        worst = max(worst, float(np.abs(logits[0, -1] - expected[row][0]).max()))
        for name, value in cache.items():
            value[slot, :, :size] = single_cache[name][0]
        token[slot], lengths[slot] = logits[0, -1].argmax(), size
    decode_and_compare(slots, cache, count, token, lengths)
    print(f"parity: {rows} rows, {steps} steps, largest logit difference {worst:.2e}")
    return worst
