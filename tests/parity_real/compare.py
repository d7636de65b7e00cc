"""Runs the binary on tables and compares its answers."""

import io
import subprocess
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SAMPLES = Path(__file__).parents[2] / "jobs" / "examples" / "sample"


def sample_rows(*tables: str) -> list[dict]:
    """Returns the rows of sample tables that have an expected answer."""
    rows = [
        row for table in tables for row in pq.read_table(SAMPLES / f"{table}.parquet").to_pylist()
    ]
    return [row for row in rows if row["expected"]]


def samples_at(audio: bytes, rate_hz: int) -> np.ndarray | None:
    """Returns the samples of a mono 16-bit WAV file at this rate; `None` for any other file."""
    try:
        with wave.open(io.BytesIO(audio)) as file:
            is_plain = file.getnchannels() == 1 and file.getsampwidth() == 2
            if not is_plain or file.getframerate() != rate_hz:
                return None
            return np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32768)
    except (wave.Error, EOFError):
        return None


def wave_of(samples: np.ndarray, rate_hz: int) -> bytes:
    """Returns a mono 16-bit WAV file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.round(samples * 32768).clip(-32768, 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def run(binary: Path, work: Path, name: str, rows: list[dict], job: str) -> pa.Table:
    """Runs a job on the rows and returns its answers in order."""
    pq.write_table(pa.Table.from_pylist(rows), work / f"{name}.parquet")
    file = work / f"{name}.toml"
    file.write_text(f'version = 1\n{job}\n[output]\npath = "{name}-out"\n')
    subprocess.run([binary, "run", file, "--overwrite", "--progress", "none"], check=True)
    answers = pq.read_table(work / f"{name}-out", filesystem=None)
    assert answers.num_rows == len(rows), f"{answers.num_rows} answers to {len(rows)} rows"
    return answers


def word_error_rate(expected: list[str], actual: list[str]) -> float:
    """Returns the word error rate, ignoring case and punctuation."""
    edits = n_words = 0
    for a, b in zip(map(words, expected), map(words, actual), strict=True):
        row = list(range(len(b) + 1))
        for i, word in enumerate(a, 1):
            last, row[0] = row[0], i
            for j, other in enumerate(b, 1):
                last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (word != other))
        edits += row[-1]
        n_words += len(a)
    return edits / n_words


def words(text: str) -> list[str]:
    """Returns the words of a text in lower case."""
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()
