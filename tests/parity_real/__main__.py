"""Compares real weights: `python -m parity_real BINARY WORK`. Exits with code 1 on differences."""

import json
import re
import sys
import time
from pathlib import Path

import numpy as np

from . import compare, sentences, whisper

COSINE_MIN = 0.99999
LONG_SECONDS = [35, 42, 50, 58, 66, 75, 84, 93]


def check_whisper(binary: Path, work: Path) -> bool:
    """Compares transcripts of the sample audio that does not need resampling."""
    bundle, model = whisper.make_bundle(work)
    rows = compare.sample_rows("sounds")
    waveforms = [compare.samples_at(row["audio"], whisper.RATE_HZ) for row in rows]
    rows = [row for row, samples in zip(rows, waveforms, strict=True) if samples is not None]
    waveforms = [samples for samples in waveforms if samples is not None]
    start = time.perf_counter()
    expected = whisper.transcripts(work, model, waveforms)
    reference_seconds = time.perf_counter() - start
    job = f"""task = {{ kind = "transcribe" }}
source = {{ paths = ["whisper.parquet"], columns = {{ audio = "audio" }} }}
model = {{ bundle = "{bundle.name}", device = "cpu" }}"""
    start = time.perf_counter()
    actual = compare.run(binary, work, "whisper", rows, job)["answer"].to_pylist()
    seconds = time.perf_counter() - start
    for row, a, b in zip(rows, expected, actual, strict=True):
        if a != b:
            print(f"  {row['id']}: {b!r}, transformers has {a!r}")
    n_equal = sum(a == b for a, b in zip(expected, actual, strict=True))
    spoken = [row["expected"] for row in rows]
    print(f"whisper tiny.en: {n_equal} of {len(rows)} transcripts equal those of transformers")
    print(f"  word error rate {compare.word_error_rate(spoken, actual):.3f}")
    print(f"  {seconds:.1f} s in total, transformers {reference_seconds:.1f} s without loading")
    return n_equal == len(rows)


def check_long_audio(binary: Path, work: Path) -> bool:
    """Compares transcripts of concatenated sample audio, transcribed window by window."""
    bundle, model = whisper.make_bundle(work)
    rows = compare.sample_rows("sounds")
    waveforms = [compare.samples_at(row["audio"], whisper.RATE_HZ) for row in rows]
    spoken = [(s, row["expected"]) for s, row in zip(waveforms, rows, strict=True) if s is not None]
    pause = np.zeros(whisper.RATE_HZ // 2, np.float32)
    long, expected_words = [], []
    for i, seconds in enumerate(LONG_SECONDS):
        segments, words = [], []
        while sum(map(len, segments)) < seconds * whisper.RATE_HZ:
            samples, text = spoken[(7 * i + 3 * len(words)) % len(spoken)]
            segments += [samples, pause]
            words.append(text)
        long.append(np.concatenate(segments))
        expected_words.append(" ".join(words))
    expected = whisper.long_transcripts(work, model, long)
    rows = [{"audio": compare.wave_of(samples, whisper.RATE_HZ)} for samples in long]
    options = "\n".join(f"{key} = {json.dumps(v)}" for key, v in whisper.LONG_OPTIONS.items())
    job = f"""task = {{ kind = "transcribe", long_audio = "sequential", timestamps = true }}
source = {{ paths = ["long.parquet"], columns = {{ audio = "audio" }} }}
model = {{ bundle = "{bundle.name}", device = "cpu", slots = 3 }}
[generation]
{options}"""
    actual = compare.run(binary, work, "long", rows, job)["answer"].to_pylist()
    for samples, a, b in zip(long, expected, actual, strict=True):
        if a != b:
            print(f"  {len(samples) / whisper.RATE_HZ:.1f} s: {b!r}, transformers has {a!r}")
    n_equal = sum(a == b for a, b in zip(expected, actual, strict=True))
    print(f"whisper tiny.en, window by window: {n_equal} of {len(long)} transcripts are equal")
    texts = [re.sub(r"<\|[0-9.]*\|>", " ", text) for text in actual]
    print(f"  word error rate {compare.word_error_rate(expected_words, texts):.3f}")
    return n_equal == len(long)


def check_sentences(binary: Path, work: Path) -> bool:
    """Compares the embeddings of all texts of the sample tables."""
    bundle = sentences.make_bundle(work)
    rows = compare.sample_rows("sounds", "texts", "questions", "pictures")
    rows = [{"text": f"{row['question']} {row['expected']}"} for row in rows]
    texts = [row["text"] for row in rows]
    expected = sentences.vectors(bundle, texts)
    job = f"""task = {{ kind = "embed" }}
source = {{ paths = ["sentences.parquet"], columns = {{ text = "text" }} }}
model = {{ bundle = "{bundle.name}", device = "cpu" }}"""
    table = compare.run(binary, work, "sentences", rows, job)
    actual = np.array(table["embedding"].to_pylist())
    lengths = np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = (actual * expected).sum(1) / lengths
    print(f"all-MiniLM-L6-v2: {len(rows)} texts, smallest cosine {cosines.min():.8f}")
    return bool(cosines.min() >= COSINE_MIN)


def main(binary: str, work: str) -> None:
    """Runs all comparisons and exits."""
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    checks = (check_whisper, check_long_audio, check_sentences)
    results = [check(Path(binary).resolve(), folder.resolve()) for check in checks]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
