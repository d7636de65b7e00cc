"""Answers of bundles with different generation configs and sampling parameters.

The bundles are those of other modules, with another `generation_config.json`. The reference stores
each config and its answers, and for sampling the probabilities of transformers.
"""

import json
from dataclasses import dataclass

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers.generation import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .common import BUNDLES, REFERENCES, WORK, write_reference_text
from .decoding import MAX_NEW_TOKENS, SMALLEST_GAP

# Each config changes the answers of most rows; the last one combines all rules.
GREEDY = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"bad_words_ids": "common"},
    {"min_new_tokens": 12},
    {"min_length": 88},
    {"max_length": 70},
    {"forced_eos_token_id": 338, "max_new_tokens": 5},
    {"suppress_tokens": "common"},
    {"begin_suppress_tokens": "first"},
    {
        "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 2,
        "bad_words_ids": "common",
        "min_new_tokens": 6,
        "forced_eos_token_id": 338,
        "begin_suppress_tokens": "first",
        "max_new_tokens": 16,
    },
]

BEAMS = [
    {"num_beams": 2},
    {"num_beams": 4},
    {"num_beams": 3, "length_penalty": 0.0},
    {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    {"num_beams": 3, "length_penalty": 2.0, "early_stopping": "never"},
    {"num_beams": 3, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2, "min_new_tokens": 6},
]

# Published encoder-decoders use beam search more often than other models.
SEQ2SEQ_BEAMS = [
    {"num_beams": 2},
    {"num_beams": 4, "early_stopping": True},
    {"num_beams": 3, "length_penalty": 0.5, "no_repeat_ngram_size": 2},
]

WARPERS = [
    {"temperature": 0.5},
    {"temperature": 1.5, "top_k": 4},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 0.7, "top_k": 8, "top_p": 0.9, "min_p": 0.05},
    {"temperature": 2.0, "top_k": 6, "top_p": 0.5},
]


@dataclass
class Spec:
    """The only output of this module."""

    name: str = "decoding_rules"


SPECS = [Spec()]


class Noise(LogitsProcessor):
    """Adds noise as large as rounding; answers that change with it are not stored."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores + 1e-4 * torch.randn(scores.shape, generator=self.generator)


def concrete(config: dict, tokens: list[list[int]]) -> dict:
    """Replaces the symbolic tokens of a config by tokens of the default answers."""
    common = sorted({token for row in tokens for token in row[2:6]})
    values = {
        ("bad_words_ids", "common"): [[common[0]], *[row[1:3] for row in tokens[:4]]],
        ("suppress_tokens", "common"): common[:8],
        ("begin_suppress_tokens", "first"): sorted({row[0] for row in tokens[::2]}),
    }
    return {
        k: values[k, v] if isinstance(v, str) and k != "early_stopping" else v
        for k, v in config.items()
    }


@torch.no_grad()
def answer(model: PreTrainedModel, row: dict, config: dict, seed: int | None) -> list[int]:
    """Returns the answer tokens of a row with a config, with or without noise."""
    input_ids = torch.tensor([row["prompt_ids"]])
    lengths = {} if "max_length" in config else {"max_new_tokens": MAX_NEW_TOKENS}
    is_decoder = not model.config.is_encoder_decoder
    out = model.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        do_sample=False,
        pad_token_id=model.config.pad_token_id,
        logits_processor=LogitsProcessorList([] if seed is None else [Noise(seed)]),
        **{**lengths, **config},
    )
    tokens = out[0, input_ids.shape[1] if is_decoder else 1 :].tolist()
    # Beam search may leave padding after the end token.
    eos_ids = model.generation_config.eos_token_id
    ends = eos_ids if isinstance(eos_ids, list) else [eos_ids]
    end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: end + 1]


def answers(model: PreTrainedModel, rows: list[dict], config: dict) -> list[list[int] | None]:
    """Returns an answer per row, or `None` if there is none or rounding might change it."""
    results: list[list[int] | None] = []
    for row in rows:
        if len(row["prompt_ids"]) >= config.get("max_length", 512):
            # transformers refuses the row.
            results.append(None)
            continue
        default = answer(model, row, config, None)
        noisy = [answer(model, row, config, seed) for seed in range(3)]
        results.append(default if all(tokens == default for tokens in noisy) else None)
    return results


def probabilities(scores: torch.Tensor, options: dict) -> list[float]:
    """Returns the sampling probabilities of transformers, with its order of warpers."""
    warpers = [
        ("temperature", TemperatureLogitsWarper),
        ("top_k", TopKLogitsWarper),
        ("top_p", TopPLogitsWarper),
        ("min_p", MinPLogitsWarper),
    ]
    for key, warper in warpers:
        if key in options:
            scores = warper(options[key])(None, scores)
    return [round(p, 6) for p in torch.softmax(scores, -1)[0].tolist()]


def cases_of(name: str, model: PreTrainedModel, configs: list[dict]) -> list[dict]:
    """Returns the answers of the rows of a bundle with each config."""
    model.generation_config.max_new_tokens = None
    rows = json.loads((BUNDLES / f"{name}.json").read_text())["rows"]
    default = [row["token_ids"] for row in rows]
    cases = []
    for config in configs:
        config = concrete(config, default)
        results = answers(model.eval(), rows, config)
        n_stable = sum(tokens is not None for tokens in results)
        n_changed = sum(a is not None and a != b for a, b in zip(results, default, strict=True))
        print(f"  {name}, {json.dumps(config)[:60]}: {n_stable} rows stable, {n_changed} changed")
        assert n_stable >= 6 and n_changed >= 2, "too few stable or changed answers"
        cases.append({"bundle": name, "generation_config": config, "token_ids": results})
    return cases


def make(spec: Spec) -> None:
    """Writes `decoding_rules.json` from the checkpoints of the bundles."""
    llama = AutoModelForCausalLM.from_pretrained(WORK / "llama")
    cases = cases_of("llama", llama, [*GREEDY, *BEAMS])
    for name in ("bart", "marian"):
        model = AutoModelForSeq2SeqLM.from_pretrained(WORK / name)
        cases += cases_of(name, model, SEQ2SEQ_BEAMS)
    generator = torch.Generator().manual_seed(5)
    scores = 2 * torch.randn((1, 24), generator=generator)
    draws = [{**options, "probabilities": probabilities(scores, options)} for options in WARPERS]
    head = {
        "reference": json.loads((BUNDLES / "llama.json").read_text())["reference"],
        "smallest_noise": SMALLEST_GAP / 10,
        "scores": [round(score, 6) for score in scores[0].tolist()],
        "draws": draws,
    }
    write_reference_text(spec.name, cases, head)
    (BUNDLES / f"{spec.name}.json").rename(REFERENCES / f"{spec.name}.json")
