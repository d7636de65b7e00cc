"""Measures how the time and memory of the binary scale with the size of a job.

    python tests/measure/scale.py target/release/legenda > docs/scale.md

Needs pyarrow. Prints a Markdown file: cost per row by number of rows, a table of 10,000 row groups,
and folders of up to 100,000 files.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SAMPLE = Path(__file__).parents[2] / "jobs" / "examples" / "sample"
TEXTS = """
version = 1
task = { kind = "generate" }
source = { paths = ["table.parquet"], columns = { text = "text" } }
generation = { max_new_tokens = 1 }
limits = { memory = "1GiB" }
output = { path = "out" }
"""
FOLDER = """
version = 1
task = { kind = "caption" }
source = { paths = ["images"], columns = { image = "media" } }
limits = { memory = "1GiB" }
output = { path = "out" }
"""


def measured(command: list[str], folder: Path) -> tuple[float, float, str]:
    """Runs a command; returns its seconds, its peak resident memory in MiB and its output."""
    log = folder / "log"
    start = time.monotonic()
    with log.open("w") as out:
        actions = [(os.POSIX_SPAWN_DUP2, out.fileno(), fd) for fd in (1, 2)]
        os.chdir(folder)
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - start
    output = log.read_text()
    if status:
        sys.exit(f"{command} exited with wait status {status}: {output}")
    return seconds, usage.ru_maxrss / 1024, output


def write_texts(path: Path, rows: int, group_rows: int) -> None:
    """Writes a table of short texts."""
    words = ["umbrella", "cherry", "violin", "taxi", "fir", "pear", "whale"]
    texts = [f"{row}: translate {words[row % len(words)]} into Spanish." for row in range(rows)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=group_rows)


def text_run(binary: str, rows: int, group_rows: int) -> tuple[float, float]:
    """Answers each text of a table with one token; returns seconds and MiB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder / "table.parquet", rows, group_rows)
        (folder / "job.toml").write_text(TEXTS)
        seconds, peak, output = measured([binary, "run", "job.toml", "--progress", "none"], folder)
        if f"rows_in {rows} == answers {rows} + rejects 0" not in output:
            sys.exit(f"rows are missing: {output}")
        return seconds, peak


def main() -> None:
    """Measures and prints."""
    binary = str(Path(sys.argv[1]).resolve())
    print("# Scale\n")
    print("Made by `just scale` on two cores; `limits.memory` = 1 GiB. The embedded model answers")
    print("each text with one token, so the figures show the cost outside the model.\n")
    print("| rows | seconds | ms per row | peak MiB |\n|---:|---:|---:|---:|")
    for rows in (1_000, 10_000, 100_000):
        seconds, peak = text_run(binary, rows, 10_000)
        print(f"| {rows} | {seconds:.1f} | {seconds / rows * 1000:.2f} | {peak:.0f} |", flush=True)
    print("\n10,000 rows in row groups of one row:\n")
    print("| row groups | seconds | peak MiB |\n|---:|---:|---:|")
    seconds, peak = text_run(binary, 10_000, 1)
    print(f"| 10000 | {seconds:.1f} | {peak:.0f} |", flush=True)
    print("\n`legenda check` on a folder of images, which lists the files and plans the rows:\n")
    print("| files | seconds | peak MiB |\n|---:|---:|---:|")
    image = pq.read_table(SAMPLE / "pictures.parquet", columns=["image"]).to_pylist()[0]["image"]
    image = image["bytes"] if isinstance(image, dict) else image
    for files in (1_000, 10_000, 100_000):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for file in range(files):
                path = folder / "images" / f"{file % 100:02}" / f"{file}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image)
            (folder / "job.toml").write_text(FOLDER)
            seconds, peak, _ = measured([binary, "check", "job.toml"], folder)
        print(f"| {files} | {seconds:.1f} | {peak:.0f} |", flush=True)


main()
