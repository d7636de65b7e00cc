"""Greedy generation by transformers, and the rules that a reference must meet."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from transformers import PreTrainedModel

MAX_NEW_TOKENS = 24
# Below this gap between the best and the second best logit, another order of sums may answer
# otherwise; such a seed is of no use as a reference.
SMALLEST_GAP = 1e-3
SEEDS_TRIED = 60

T = TypeVar("T")


@dataclass
class Generation:
    """What one row was answered."""

    token_ids: list[int]
    finish: str
    logprob_mean: float
    gap: float
    # Logits of the model itself, before suppressed and forced tokens.
    raw_logits: list[np.ndarray] = field(default_factory=list, repr=False)
    # The tokens before the answer, on the decoder's side.
    prompt_ids: list[int] = field(default_factory=list)

    def row(self) -> dict:
        """The part of a reference row that is about the answer."""
        return {
            "token_ids": self.token_ids,
            "finish": self.finish,
            "logprob_mean": round(self.logprob_mean, 6),
            "gap": round(self.gap, 5),
        }


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    inputs: dict,
    eos_ids: list[int],
    max_new_tokens: int = MAX_NEW_TOKENS,
    **options: object,
) -> Generation:
    """Answers one row greedily; `logprob_mean` is of the raw logits, the gap of the used ones."""
    out = model.generate(
        **inputs,
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        # Whisper's rules for timestamps want a number where there is one alone.
        eos_token_id=eos_ids[0] if len(eos_ids) == 1 else eos_ids or None,
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    token_ids = out.sequences[0][-len(out.logits) :].tolist()
    logprobs, gaps = [], []
    for token_id, raw, used in zip(token_ids, out.logits, out.scores, strict=True):
        logprobs.append(torch.log_softmax(raw[0].float(), -1)[token_id].item())
        best = torch.topk(used[0].float(), 2).values
        gaps.append((best[0] - best[1]).item())
    finish = "stop" if token_ids[-1] in eos_ids else "length"
    raw_logits = [raw[0].float().numpy() for raw in out.logits]
    prompt_ids = out.sequences[0][: -len(out.logits)].tolist()
    logprob_mean = sum(logprobs) / len(logprobs)
    return Generation(token_ids, finish, logprob_mean, min(gaps), raw_logits, prompt_ids)


def common_token(generations: list[Generation], never: set[int]) -> int | None:
    """A token that would end about half of the rows, after a few tokens; `None` if none would."""
    ends: dict[int, list[int]] = {}
    for generation in generations:
        for token_id in set(generation.token_ids) - never:
            ends.setdefault(token_id, []).append(generation.token_ids.index(token_id))
    useful = {
        token_id: places
        for token_id, places in ends.items()
        if sum(place >= 2 for place in places) >= 2 and len(places) < len(generations) - 1
    }
    if not useful:
        return None
    return min(useful, key=lambda t: (abs(len(useful[t]) - len(generations) / 2), t))


def faults(generations: list[Generation], needs_both_ends: bool = True) -> list[str]:
    """Why these answers are of no use as a reference; empty where they are."""
    found = []
    answers = [tuple(g.token_ids) for g in generations]
    if len(set(answers)) < len(answers):
        found.append("two rows have the same answer")
    if any(len(g.token_ids) >= 8 and len(set(g.token_ids)) < 5 for g in generations):
        found.append("a row says few tokens over and over")
    if min(g.gap for g in generations) <= SMALLEST_GAP:
        found.append("the best token is too near the second")
    if needs_both_ends and {g.finish for g in generations} != {"stop", "length"}:
        found.append("rows do not end in both ways")
    return found


def first_good_seed(
    attempt: Callable[[int], tuple[T, list[Generation]] | None], needs_both_ends: bool = True
) -> T:
    """Tries seeds in order until the answers of one are a good reference."""
    reasons = []
    for seed in range(SEEDS_TRIED):
        tried = attempt(seed)
        found = faults(tried[1], needs_both_ends) if tried else ["no token can be the end"]
        if tried and not found:
            print(f"  seed {seed}, smallest gap {min(g.gap for g in tried[1]):.4f}")
            return tried[0]
        reasons.append((seed, found))
    raise RuntimeError(f"no seed is good: {reasons[:9]}")
