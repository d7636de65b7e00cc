"""Answers of Whisper's own sequential loop to long audio: `whisper_sequential.json`.

This makes no bundle; it uses that of `speech`. Make `whisper` first: its checkpoint is in `work/`.
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

CLIPS = sorted(media.audio_clips())
N_CLIPS = 8
MAX_NEW_TOKENS = 40
NOISE = 2e-5
# The smallest distance of a measure from its threshold, relative to the threshold.
SMALLEST_MARGIN = 0.03


@dataclass
class Spec:
    """The options for all clips of a job."""

    name: str
    # The arguments of `generate`; `temperatures` follow temperature 0.
    options: dict = field(default_factory=dict)
    language: str | None = "en"
    temperatures: tuple[float, ...] = ()
    # Checks the trace of a row for an effect of the job's options.
    needs: Callable[["Trace"], bool] = lambda trace: True


class Stream:
    """The random number generator of a row in the Rust code: SplitMix64."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def unit(self) -> float:
        """Returns a number in [0, 1) with 53 random bits."""
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        mixed = self.state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        return ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)


@dataclass
class Trace:
    """The events of one transcription."""

    seed: int
    n_windows: int = 0
    n_tries: int = 0
    # Windows without speech.
    n_silent: int = 0
    longest_prompt: int = 0
    smallest_gap: float = 1.0
    smallest_margin: float = 1.0
    stream: Stream = field(default_factory=lambda: Stream(0))

    def draw(self, probabilities: torch.Tensor) -> int:
        """Samples a token like the Rust code: cumulative probabilities, most likely token first."""
        values = probabilities.double().numpy()
        order = np.lexsort((np.arange(len(values)), -values))
        sums = np.cumsum(values[order])
        target = self.stream.unit() * sums[-1]
        self.smallest_gap = min(self.smallest_gap, 100 * float(np.abs(sums - target).min()))
        return int(order[np.searchsorted(sums, target, side="right")])

    def weigh(self, value: float, threshold: float | None) -> None:
        """Records the distance of a measure from its threshold."""
        if threshold is not None:
            margin = abs(value - threshold) / max(abs(threshold), 1e-9)
            self.smallest_margin = min(self.smallest_margin, margin)


class TraceModel(WhisperForConditionalGeneration):
    """The model with the sampling of the Rust code and a trace of its decisions."""

    trace: Trace

    def generate_with_fallback(self, *args: object, **kwargs: object) -> tuple:
        """Starts a new random stream for each window."""
        self.trace.stream = Stream(self.trace.seed + self.trace.n_windows)
        self.trace.n_windows += 1
        prompt = kwargs["decoder_input_ids"]
        self.trace.longest_prompt = max(self.trace.longest_prompt, prompt.shape[1])
        result = super().generate_with_fallback(*args, **kwargs)
        self.trace.n_silent += sum(result[2])
        return result

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
        # For beams, the best tokens of a step do not show the effect of rounding; noise does.
        if not temperature and config.num_beams == 1:
            for used in scores:
                best = torch.topk(used.float(), 2).values
                trace.smallest_gap = min(trace.smallest_gap, (best[0] - best[1]).item())
        ratio = self._retrieve_compression_ratio(tokens, size)
        # Compression libraries give slightly different sizes for the same input.
        trace.weigh(ratio, config.compression_ratio_threshold)
        mean = self._retrieve_avg_logprobs(scores, tokens, temperature).item()
        trace.weigh(mean, config.logprob_threshold)
        if config.no_speech_threshold is not None and mean < config.logprob_threshold:
            speech = next(p for p in processors if hasattr(p, "no_speech_prob"))
            trace.weigh(speech.no_speech_prob[index].item(), config.no_speech_threshold)
        return super()._need_fallback(tokens, outputs, index, processors, config, size, temperature)


def clip_lists() -> Iterator[list[str]]:
    """Yields one short file, then lists of files with 35 to 95 seconds in total."""
    yield [CLIPS[0]]
    generator = np.random.default_rng(5)
    while True:
        seconds, names = generator.uniform(35, 92), []
        while sum(len(media.read_audio(name)) for name in names) < seconds * 16000:
            # The last file is stereo and has another rate.
            names.append(CLIPS[generator.integers(len(CLIPS) - 1)])
        yield names


def answer(model: TraceModel, spec: Spec, features: torch.Tensor, seed: int) -> tuple[dict, Trace]:
    """Returns the answer of the loop to one clip, and its trace."""
    model.trace = Trace(seed)
    options = {"language": spec.language} if spec.language else {}
    with torch.no_grad():
        result = model.generate(
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
    return result, model.trace


def rows(spec: Spec, model: TraceModel, folder: str) -> list[dict]:
    """Returns rows of the first clips that show the effect of a job and are stable under noise."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    output_rows, n_skipped = [], 0
    for names in clip_lists():
        samples = np.concatenate([media.read_audio(name) for name in names])
        is_long = len(samples) > extractor.n_samples
        padding = {"truncation": False, "padding": "longest"} if is_long else {}
        features = extractor(samples, sampling_rate=16000, return_tensors="pt", **padding)
        features = features["input_features"]
        seed = 1000 * len(output_rows)
        result, trace = answer(model, spec, features, seed)
        tokens = result["sequences"][0].tolist()
        noise = NOISE * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
        noisy, _ = answer(model, spec, features + noise, seed)
        is_safe = (
            trace.smallest_gap > SMALLEST_GAP
            and trace.smallest_margin > SMALLEST_MARGIN
            and noisy["sequences"][0].tolist() == tokens
        )
        if not is_safe or (is_long and not spec.needs(trace)):
            n_skipped += 1
            continue
        segments = result["segments"][0]
        text = [tokenizer.decode(s["tokens"], skip_special_tokens=True) for s in segments]
        output_rows.append(
            {
                "audio": names,
                "token_ids": tokens,
                "answer": tokenizer.decode(tokens, skip_special_tokens=True),
                "segments": [
                    [round(float(s["start"]), 2), round(float(s["end"]), 2), segment_text]
                    for s, segment_text in zip(segments, text, strict=True)
                ],
                "windows": trace.n_windows,
                "tries": trace.n_tries,
                "silent": trace.n_silent,
                "seed": seed,
            }
        )
        print(f"  {spec.name}: {len(samples) / 16000:.1f} s, {len(tokens)} tokens, {trace}")
        if len(output_rows) == N_CLIPS:
            print(f"  {spec.name}: skipped {n_skipped} clips")
            return output_rows


JOBS = [
    Spec("plain"),
    # The model detects the language.
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
    # After sampling, transformers continues without beams to the end of the clip.
    Spec(
        "beams_fallback",
        {"num_beams": 2, "logprob_threshold": -1.8},
        temperatures=(0.4,),
        needs=lambda trace: trace.n_tries > trace.n_windows > 2,
    ),
]


@dataclass
class Reference:
    """The name on the command line."""

    name: str


SPECS = [Reference("whisper_sequential")]


def make(spec: Reference) -> None:
    """Writes the reference."""
    folder = BUNDLES / "whisper"
    model = TraceModel.from_pretrained(WORK / "whisper").eval()
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
        row_lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in job.pop("rows"))
        texts.append(json.dumps(job)[:-1] + f', "rows": [\n{row_lines}\n]}}')
    lines.append('"jobs": [\n' + ",\n".join(texts) + "\n]")
    (REFERENCES / f"{spec.name}.json").write_text("{" + ",\n".join(lines) + "}\n")
