"""What Whisper's own loop over windows answers to long sounds: `whisper_sequential.json`.

No bundle: it is that of `speech`, whose checkpoint is in `work/` once `whisper` was made.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import transformers
from transformers import (
    AutoFeatureExtractor,
    AutoTokenizer,
    GenerationConfig,
    WhisperForConditionalGeneration,
)

from . import media
from .common import BUNDLES, REFERENCES, WORK
from .decoding import SMALLEST_GAP

SOUNDS = sorted(media.sounds())
N_SOUNDS = 8
MAX_NEW_TOKENS = 40
NOISE = 2e-5
# How far a measure has to stand from its threshold, of the threshold's size.
SMALLEST_MARGIN = 0.03


@dataclass
class Spec:
    """What is asked of all sounds of a job."""

    name: str
    # What `generate` is told; temperatures are those after 0.
    options: dict = field(default_factory=dict)
    language: str | None = "en"
    temperatures: tuple[float, ...] = ()
    # What shows that the job's rules were of effect, of the trace of a row.
    needs: Callable[["Trace"], bool] = lambda trace: True


class Stream:
    """The random numbers of a row in the Rust code: SplitMix64."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def unit(self) -> float:
        """A number in [0, 1) with 53 random bits."""
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        mixed = self.state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        return ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)


@dataclass
class Trace:
    """What happened while a sound was heard."""

    seed: int
    n_windows: int = 0
    n_tries: int = 0
    # Windows in which nobody speaks.
    n_silent: int = 0
    longest_prompt: int = 0
    smallest_gap: float = 1.0
    smallest_margin: float = 1.0
    stream: Stream = field(default_factory=lambda: Stream(0))

    def draw(self, probabilities: torch.Tensor) -> int:
        """The walk from the likeliest token on that the Rust code takes."""
        values = probabilities.double().numpy()
        order = np.lexsort((np.arange(len(values)), -values))
        sums = np.cumsum(values[order])
        place = self.stream.unit() * sums[-1]
        self.smallest_gap = min(self.smallest_gap, 100 * float(np.abs(sums - place).min()))
        return int(order[np.searchsorted(sums, place, side="right")])

    def weigh(self, value: float, threshold: float | None) -> None:
        """Notes how far a measure stands from its threshold."""
        if threshold is not None:
            margin = abs(value - threshold) / max(abs(threshold), 1e-9)
            self.smallest_margin = min(self.smallest_margin, margin)


class Listener(WhisperForConditionalGeneration):
    """The model, with draws of the Rust code and a trace of what it decides."""

    trace: Trace

    def generate_with_fallback(self, *args: object, **kwargs: object) -> tuple:
        """A window begins a stream of its own."""
        self.trace.stream = Stream(self.trace.seed + self.trace.n_windows)
        self.trace.n_windows += 1
        prompt = kwargs["decoder_input_ids"]
        self.trace.longest_prompt = max(self.trace.longest_prompt, prompt.shape[1])
        found = super().generate_with_fallback(*args, **kwargs)
        self.trace.n_silent += sum(found[2])
        return found

    def _need_fallback(
        self,
        tokens: torch.Tensor,
        outputs: list[dict],
        index: int,
        processors: list,
        config: GenerationConfig,
        size: int,
        temperature: float,
    ) -> tuple[bool, bool]:
        trace = self.trace
        trace.n_tries += 1
        scores = outputs[index]["scores"]
        # What beams leave to rounding is not in the best tokens of a step: noise shows it.
        if not temperature and config.num_beams == 1:
            for used in scores:
                best = torch.topk(used.float(), 2).values
                trace.smallest_gap = min(trace.smallest_gap, (best[0] - best[1]).item())
        ratio = self._retrieve_compression_ratio(tokens, size)
        # Libraries differ by some bytes in what they make of the same input.
        trace.weigh(ratio, config.compression_ratio_threshold)
        mean = self._retrieve_avg_logprobs(scores, tokens, temperature).item()
        trace.weigh(mean, config.logprob_threshold)
        if config.no_speech_threshold is not None and mean < config.logprob_threshold:
            speech = next(p for p in processors if hasattr(p, "no_speech_prob"))
            trace.weigh(speech.no_speech_prob[index].item(), config.no_speech_threshold)
        return super()._need_fallback(tokens, outputs, index, processors, config, size, temperature)


def sounds() -> Iterator[list[str]]:
    """Files to follow each other to 35 to 95 seconds, and a short one first."""
    yield [SOUNDS[0]]
    generator = np.random.default_rng(5)
    while True:
        seconds, names = generator.uniform(35, 92), []
        while sum(len(media.read_sound(name)) for name in names) < seconds * 16000:
            # The last file is in stereo, at another rate.
            names.append(SOUNDS[generator.integers(len(SOUNDS) - 1)])
        yield names


def answer(model: Listener, spec: Spec, features: torch.Tensor, seed: int) -> tuple[dict, Trace]:
    """What the loop answers to a sound."""
    model.trace = Trace(seed)
    options = {"language": spec.language} if spec.language else {}
    with torch.no_grad():
        found = model.generate(
            features,
            task="transcribe",
            return_timestamps=True,
            return_segments=True,
            return_dict_in_generate=True,
            output_scores=True,
            max_new_tokens=MAX_NEW_TOKENS,
            temperature=(0.0, *spec.temperatures),
            **options,
            **spec.options,
        )
    return found, model.trace


def rows(spec: Spec, model: Listener, folder: str) -> list[dict]:
    """The first sounds that show the rules of a job and leave nothing to rounding."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found_rows, left_out = [], 0
    for names in sounds():
        samples = np.concatenate([media.read_sound(name) for name in names])
        is_long = len(samples) > extractor.n_samples
        padding = {"truncation": False, "padding": "longest"} if is_long else {}
        features = extractor(samples, sampling_rate=16000, return_tensors="pt", **padding)
        features = features["input_features"]
        seed = 1000 * len(found_rows)
        found, trace = answer(model, spec, features, seed)
        tokens = found["sequences"][0].tolist()
        noise = NOISE * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
        noisy, _ = answer(model, spec, features + noise, seed)
        is_safe = (
            trace.smallest_gap > SMALLEST_GAP
            and trace.smallest_margin > SMALLEST_MARGIN
            and noisy["sequences"][0].tolist() == tokens
        )
        if not is_safe or (is_long and not spec.needs(trace)):
            left_out += 1
            continue
        segments = found["segments"][0]
        text = [tokenizer.decode(s["tokens"], skip_special_tokens=True) for s in segments]
        found_rows.append(
            {
                "audio": names,
                "token_ids": tokens,
                "answer": tokenizer.decode(tokens, skip_special_tokens=True),
                "segments": [
                    [round(float(s["start"]), 2), round(float(s["end"]), 2), said]
                    for s, said in zip(segments, text, strict=True)
                ],
                "windows": trace.n_windows,
                "tries": trace.n_tries,
                "silent": trace.n_silent,
                "seed": seed,
            }
        )
        print(f"  {spec.name}: {len(samples) / 16000:.1f} s, {len(tokens)} tokens, {trace}")
        if len(found_rows) == N_SOUNDS:
            print(f"  {spec.name}: {left_out} sounds left out")
            return found_rows


JOBS = [
    Spec("plain"),
    # The model is asked which language it is.
    Spec(
        "conditioned",
        {"condition_on_prev_tokens": True},
        language=None,
        needs=lambda trace: trace.longest_prompt > 30,
    ),
    Spec(
        "fallback",
        {
            "condition_on_prev_tokens": True,
            "compression_ratio_threshold": 1.2,
            "logprob_threshold": -2.0,
        },
        temperatures=(0.4, 0.8),
        needs=lambda trace: trace.n_tries > trace.n_windows and trace.longest_prompt > 4,
    ),
    Spec(
        "silence",
        {"logprob_threshold": -1.9, "no_speech_threshold": 6e-5},
        temperatures=(0.4,),
        needs=lambda trace: 0 < trace.n_silent < trace.n_windows < trace.n_tries,
    ),
    Spec("beams", {"num_beams": 3, "condition_on_prev_tokens": True}),
    # After a draw, transformers goes on without beams to the end of the sound.
    Spec(
        "beams_fallback",
        {"num_beams": 2, "logprob_threshold": -1.8},
        temperatures=(0.4,),
        needs=lambda trace: trace.n_tries > trace.n_windows > 2,
    ),
]


@dataclass
class Reference:
    """The name by which it is made."""

    name: str


SPECS = [Reference("whisper_sequential")]


def make(spec: Reference) -> None:
    """Writes the reference."""
    folder = BUNDLES / "whisper"
    model = Listener.from_pretrained(WORK / "whisper").eval()
    model.generation_config = GenerationConfig.from_pretrained(folder)
    real = torch.multinomial

    def draw(probabilities: torch.Tensor, num_samples: int) -> torch.Tensor:
        assert num_samples == 1
        return torch.tensor([[model.trace.draw(row)] for row in probabilities])

    torch.multinomial = draw
    jobs = []
    for job in JOBS:
        head = {"name": job.name, "language": job.language, **job.options}
        head["fallback_temperatures"] = list(job.temperatures)
        jobs.append(head | {"rows": rows(job, model, str(folder))})
    torch.multinomial = real
    versions = f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
    head = {"reference": versions, "max_new_tokens": MAX_NEW_TOKENS}
    lines = [json.dumps(key) + ": " + json.dumps(value) for key, value in head.items()]
    texts = []
    for job in jobs:
        found = ",\n".join(json.dumps(row, ensure_ascii=False) for row in job.pop("rows"))
        texts.append(json.dumps(job)[:-1] + f', "rows": [\n{found}\n]}}')
    lines.append('"jobs": [\n' + ",\n".join(texts) + "\n]")
    (REFERENCES / f"{spec.name}.json").write_text("{" + ",\n".join(lines) + "}\n")
