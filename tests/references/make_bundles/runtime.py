"""Runs exported graphs row by row in ONNX Runtime, and compares them with the model."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from .decoding import Generation

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def open_session(path: Path) -> ort.InferenceSession:
    """Opens a session with one thread: the machine compiles at the same time."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Decoder:
    """A decoder graph with a growing KV cache, and the state of the cache."""

    def __init__(self, path: Path, head_size: int | None = None) -> None:
        self.session = open_session(path)
        # Inputs with default values may be fed too.
        inputs = [*self.session.get_inputs(), *self.session.get_overridable_initializers()]
        self.inputs = {i.name: i for i in inputs}
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.head_size = head_size
        self.reset()

    def reset(self) -> None:
        """Clears the KV cache."""
        self.length = 0
        self.cache = {}
        for name, meta in self.inputs.items():
            if name.startswith(("past", "input.past")):
                # The first named size is the batch, others are past lengths. genai names the head
                # size too, and transformers' exporter writes numbers as names.
                dims = [int(d) if str(d).isdigit() else 0 for d in meta.shape]
                dims[0] = 1
                if self.head_size and not dims[-1]:
                    dims[-1] = self.head_size
                self.cache[name] = np.zeros(dims, TYPES[meta.type])

    def _present(self, name: str) -> str:
        if name.startswith("input."):
            return "output." + name.removeprefix("input.")
        return name.replace("past_key_values.", "present.")

    def step(
        self,
        tokens: np.ndarray,
        name: str = "input_ids",
        all_logits: bool = False,
        **extra: np.ndarray,
    ) -> np.ndarray:
        """Feeds tokens (or embeddings, with their input name); returns the last logits [V].

        With `all_logits`, returns all logits [B, S, V].
        """
        n_new = tokens.shape[1]
        feeds = {name: tokens, **self.cache, **extra}
        if "attention_mask" in self.inputs and "attention_mask" not in extra:
            feeds["attention_mask"] = np.ones((1, self.length + n_new), np.int64)
        if "position_ids" in self.inputs and "position_ids" not in extra:
            feeds["position_ids"] = np.arange(self.length, self.length + n_new)[None]
        if "use_cache_branch" in self.inputs:
            feeds["use_cache_branch"] = np.array([self.length > 0])
        for key, value in feeds.items():
            feeds[key] = value.astype(TYPES[self.inputs[key].type])
        results = dict(zip(self.outputs, self.session.run(None, feeds), strict=True))
        for key in self.cache:
            # The cached branch of a merged graph returns dummies for the encoder's KV cache.
            if not (".encoder." in key and self.length > 0):
                self.cache[key] = results[self._present(key)]
        self.length += n_new
        logits = results["logits"].astype(np.float32)
        return logits if all_logits else logits[0, -1]


def greedy(
    decoder: Decoder,
    prompt_ids: list[int],
    eos_ids: list[int],
    max_new_tokens: int,
    **extra: np.ndarray,
) -> tuple[list[int], float]:
    """Returns the greedy tokens after a prompt, and the smallest gap of the two best logits."""
    decoder.reset()
    logits = decoder.step(np.array([prompt_ids]), **extra)
    token_ids, gap = [], float("inf")
    while True:
        second, best = np.sort(logits)[-2:]
        gap = min(gap, float(best - second))
        token_ids.append(int(logits.argmax()))
        if token_ids[-1] in eos_ids or len(token_ids) == max_new_tokens:
            return token_ids, gap
        logits = decoder.step(np.array([token_ids[-1:]]), **extra)


def greedy_rows(
    decoder: Decoder, rows: list[dict], eos_ids: list[int], max_new_tokens: int
) -> list[dict]:
    """Returns the reference fields of greedy answers to the rows, one row at a time."""
    answers = []
    for row in rows:
        token_ids, gap = greedy(decoder, row["prompt_ids"], eos_ids, max_new_tokens)
        finish = "stop" if token_ids[-1] in eos_ids else "length"
        answers.append({"token_ids": token_ids, "finish": finish, "gap": round(gap, 5)})
    return answers


def check_steps(
    name: str, row: int, decoder: Decoder, prompt_ids: list[int], answer: Generation, **extra: Any
) -> float:
    """Feeds a reference answer token by token, and compares the logits with those of the model.

    `extra` is fed in every step. Returns the largest difference; fails if it could change the best
    token.
    """
    decoder.reset()
    worst = 0.0
    tokens = prompt_ids
    for token_id, reference in zip(answer.token_ids, answer.raw_logits, strict=True):
        logits = decoder.step(np.array([tokens]), **extra)
        worst = max(worst, float(np.abs(logits - reference).max()))
        tokens = [token_id]
    if worst * 4 > answer.gap:
        raise AssertionError(f"{name}: row {row}: logits differ by {worst}, gap {answer.gap}")
    return worst


def expect_equal(name: str, row: int, ours: list[int], reference: list[int]) -> None:
    """Fails if the answers of graph and model differ."""
    if ours != reference:
        raise AssertionError(f"{name}: row {row}: expected {reference}, got {ours}")


def greedy_batch(
    decoder: Decoder,
    prompts: list[list[int]],
    eos_ids: list[int],
    max_new_tokens: int,
    pad_left: bool,
) -> list[list[int]]:
    """Returns the greedy tokens of a batch of prompts, padded on the side that the graph needs."""
    decoder.reset()
    width = max(map(len, prompts))
    tokens = np.zeros((len(prompts), width), np.int64)
    mask = np.zeros_like(tokens)
    for i, prompt in enumerate(prompts):
        columns = slice(width - len(prompt), None) if pad_left else slice(len(prompt))
        tokens[i, columns], mask[i, columns] = prompt, 1
    for name, value in decoder.cache.items():
        decoder.cache[name] = np.zeros((len(prompts), *value.shape[1:]), value.dtype)
    last = np.full(len(prompts), width - 1) if pad_left else mask.sum(1) - 1
    answers: list[list[int]] = [[] for _ in prompts]
    for _ in range(max_new_tokens):
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -tokens.shape[1] :]
        extra = {"position_ids": positions} if "position_ids" in decoder.inputs else {}
        logits = decoder.step(tokens, attention_mask=mask, all_logits=True, **extra)
        tokens = logits[np.arange(len(prompts)), last].argmax(-1)[:, None]
        last[:] = 0
        for answer, token in zip(answers, tokens[:, 0].tolist(), strict=True):
            if not answer or answer[-1] not in eos_ids:
                answer.append(token)
        # With right padding, the next token of a row follows its own tokens.
        column = np.ones((len(prompts), 1), np.int64)
        mask = np.concatenate([mask, column] if pad_left else [column, mask], axis=1)
    return answers


def check_batch(
    name: str, decoder: Decoder, rows: list[dict], eos_ids: list[int], pad_left: bool
) -> None:
    """Fails if the answers of a batch differ from those of single rows."""
    longest = max(len(row["token_ids"]) for row in rows)
    prompts = [row["prompt_ids"] for row in rows]
    batch_answers = greedy_batch(decoder, prompts, eos_ids, longest, pad_left)
    for i, (ours, row) in enumerate(zip(batch_answers, rows, strict=True)):
        expect_equal(f"{name}, batch", i, ours, row["token_ids"])
