"""Greedy generation with transformers, and the rules that a reference must meet."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from transformers import PreTrainedModel

MAX_NEW_TOKENS = 24
# Below this gap between the best and the second best logit, another order of sums may change the
# answer; such a seed is not usable as a reference.
SMALLEST_GAP = 1e-3
SEEDS_TRIED = 60

T = TypeVar("T")


@dataclass
class Generation:
    """The generated answer of one row."""

    token_ids: list[int]
    finish: str
    logprob_mean: float
    gap: float
    # Raw logits of the model, before tokens are suppressed or forced.
    raw_logits: list[np.ndarray] = field(default_factory=list, repr=False)
    # The decoder tokens before the answer.
    prompt_ids: list[int] = field(default_factory=list)

    def row(self) -> dict:
        """Returns the answer fields of a reference row."""
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
    """Answers one row greedily; `logprob_mean` uses the raw logits, `gap` the processed ones."""
    out = model.generate(
        **inputs,
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        # Whisper's timestamp rules need a number if there is only one end token.
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


def common_token(generations: list[Generation], excluded: set[int]) -> int | None:
    """Returns a token that would end about half of the rows after a few tokens, or `None`."""
    ends: dict[int, list[int]] = {}
    for generation in generations:
        for token_id in set(generation.token_ids) - excluded:
            ends.setdefault(token_id, []).append(generation.token_ids.index(token_id))
    useful = {
        token_id: positions
        for token_id, positions in ends.items()
        if sum(p >= 2 for p in positions) >= 2 and len(positions) < len(generations) - 1
    }
    if not useful:
        return None
    return min(useful, key=lambda t: (abs(len(useful[t]) - len(generations) / 2), t))


def faults(generations: list[Generation], needs_both_ends: bool = True) -> list[str]:
    """Returns why these answers are not usable as a reference; empty if they are usable."""
    problems = []
    answers = [tuple(g.token_ids) for g in generations]
    if len(set(answers)) < len(answers):
        problems.append("two rows have the same answer")
    if any(len(g.token_ids) >= 8 and len(set(g.token_ids)) < 5 for g in generations):
        problems.append("a row repeats a few tokens")
    if min(g.gap for g in generations) <= SMALLEST_GAP:
        problems.append("the best token is too close to the second")
    if needs_both_ends and {g.finish for g in generations} != {"stop", "length"}:
        problems.append("rows do not end in both ways")
    return problems


def first_good_seed(
    attempt: Callable[[int], tuple[T, list[Generation]] | None], needs_both_ends: bool = True
) -> T:
    """Tries seeds in order until the answers of one are a good reference."""
    reasons = []
    for seed in range(SEEDS_TRIED):
        result = attempt(seed)
        problems = faults(result[1], needs_both_ends) if result else ["no token can end answers"]
        if result and not problems:
            print(f"  seed {seed}, smallest gap {min(g.gap for g in result[1]):.4f}")
            return result[0]
        reasons.append((seed, problems))
    raise RuntimeError(f"no seed is good: {reasons[:9]}")
