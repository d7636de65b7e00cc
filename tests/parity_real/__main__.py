"""`python -m parity_real BINARY WORK` compares real weights; ends with 1 where they differ."""

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
    """Compares transcripts of the sample sounds that need no resampling."""
    bundle, model = whisper.make_bundle(work)
    rows = compare.sample_rows("sounds")
    sounds = [compare.samples_at(row["audio"], whisper.RATE_HZ) for row in rows]
    rows = [row for row, samples in zip(rows, sounds, strict=True) if samples is not None]
    sounds = [samples for samples in sounds if samples is not None]
    start = time.perf_counter()
    expected = whisper.transcripts(work, model, sounds)
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
    same = sum(a == b for a, b in zip(expected, actual, strict=True))
    said = [row["expected"] for row in rows]
    print(f"whisper tiny.en: {same} of {len(rows)} transcripts are those of transformers")
    print(f"  word error rate {compare.word_error_rate(said, actual):.3f}")
    print(f"  {seconds:.1f} s with start and all, transformers {reference_seconds:.1f} s loaded")
    return same == len(rows)


def check_long_sounds(binary: Path, work: Path) -> bool:
    """Compares transcripts of sample sounds that follow each other, heard window by window."""
    bundle, model = whisper.make_bundle(work)
    rows = compare.sample_rows("sounds")
    sounds = [compare.samples_at(row["audio"], whisper.RATE_HZ) for row in rows]
    said = [(s, row["expected"]) for s, row in zip(sounds, rows, strict=True) if s is not None]
    pause = np.zeros(whisper.RATE_HZ // 2, np.float32)
    long, expected_words = [], []
    for i, seconds in enumerate(LONG_SECONDS):
        pieces, words = [], []
        while sum(map(len, pieces)) < seconds * whisper.RATE_HZ:
            samples, text = said[(7 * i + 3 * len(words)) % len(said)]
            pieces += [samples, pause]
            words.append(text)
        long.append(np.concatenate(pieces))
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
    same = sum(a == b for a, b in zip(expected, actual, strict=True))
    print(f"whisper tiny.en, window by window: {same} of {len(long)} transcripts are the same")
    texts = [re.sub(r"<\|[0-9.]*\|>", " ", text) for text in actual]
    print(f"  word error rate {compare.word_error_rate(expected_words, texts):.3f}")
    return same == len(long)


def check_sentences(binary: Path, work: Path) -> bool:
    """Compares vectors of all texts of the sample tables."""
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
    """Compares everything, then ends."""
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    checks = (check_whisper, check_long_sounds, check_sentences)
    results = [check(Path(binary).resolve(), folder.resolve()) for check in checks]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
