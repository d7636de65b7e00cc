"""Runs Legenda at full load for minutes on a table with faulty rows, stops it with SIGTERM, and
samples the resident memory and open descriptors of the process.

    python tests/measure/soak.py target/release/legenda 20

Needs pyarrow. Prints a Markdown table with the maximum of every minute, and the slopes of memory
and descriptors after the first quarter, by least squares. Fails if the last quarter uses more than
the second.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# Normal fluctuation between two samples.
GROWTH_MIB = 24
GROWTH_DESCRIPTORS = 4
SAMPLE = Path(__file__).parents[2] / "jobs" / "examples" / "sample"
JOB = """
version = 1
task = { kind = "answer", prompt = "{{ question }}" }
source = { paths = ["table.parquet"], columns = { id = "id", image = "image" } }
output = { path = "out", span_rows = 256 }
limits = { memory = "768MiB" }
"""


def write_table(path: Path, rows: int) -> int:
    """Writes images and questions, every eleventh image faulty; returns the faulty count."""
    sample = pq.read_table(SAMPLE / "pictures.parquet", columns=["id", "image"]).to_pylist()
    rng = random.Random(11)
    n_faulty = 0
    writer = None
    for start in range(0, rows, 2000):
        batch = []
        for row in range(start, min(start + 2000, rows)):
            image = sample[row % len(sample)]["image"]
            image = image["bytes"] if isinstance(image, dict) else image
            if row % 11 == 5:
                n_faulty += 1
                image = damaged(image, row // 11 % 5, rng)
            # Rows must differ: equal rows are deduplicated and computed once.
            batch.append(
                {"id": f"row-{row}", "question": f"What is shown in {row}?", "image": image}
            )
        schema = pa.schema([("id", pa.string()), ("question", pa.string()), ("image", pa.binary())])
        table = pa.Table.from_pylist(batch, schema=schema)
        writer = writer or pq.ParquetWriter(path, schema)
        writer.write_table(table)
    if writer:
        writer.close()
    return n_faulty


def damaged(image: bytes, kind: int, rng: random.Random) -> bytes | None:
    """Returns a faulty image: one of five kinds of damage."""
    if kind == 0:
        return None
    if kind == 1:
        return b""
    if kind == 2:
        return image[: len(image) // 2]
    if kind == 3:
        return rng.randbytes(2000)
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\x02\0\0\0\0\0\0\0"


def sample_process(pid: int) -> tuple[float, int] | None:
    """Returns resident memory in MiB and the number of open descriptors, from /proc."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        n_open = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith("VmRSS:")), None)
    return (int(line.split()[1]) / 1024, n_open) if line else None


def slope(samples: list[tuple[float, float]]) -> float:
    """Returns the least-squares slope of the second values over the first."""
    n = len(samples)
    mean_x = sum(x for x, _ in samples) / n
    mean_y = sum(y for _, y in samples) / n
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / max(spread, 1e-9)


def main() -> None:
    """Runs the soak test and prints the results."""
    binary = str(Path(sys.argv[1]).resolve())
    minutes = float(sys.argv[2])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # More rows than can be answered in the time: the run is stopped at the end.
        rows = int(os.environ.get("ROWS", max(4000, int(minutes * 60 * 400))))
        n_faulty = write_table(folder / "table.parquet", rows)
        (folder / "job.toml").write_text(JOB)
        command = [binary, "run", "job.toml", "--progress", "none", "--grace", "600"]
        start = time.monotonic()
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
            samples: list[tuple[float, float, int]] = []
            while process.poll() is None and time.monotonic() - start < minutes * 60:
                time.sleep(1)
                usage = sample_process(process.pid)
                if usage:
                    samples.append(((time.monotonic() - start) / 60, *usage))
            process.terminate()
            code = process.wait()
        if code not in (0, 130):
            sys.exit(f"exit code {code}: {(folder / 'log').read_text()}")
        report = json.loads((folder / "out.legenda/report.json").read_text())
        n_rejects = sum(report["rejects"].values())
        if report["rows_in"] != report["answers"] + n_rejects:
            sys.exit(f"rows are missing: {report}")
        settled = [sample for sample in samples if sample[0] >= samples[-1][0] / 4]
        print(f"{report['rows_in']} rows of {rows} ({n_faulty} of them faulty), exit code {code},")
        print(f"{report['answers']} answers, {n_rejects} rejects: {report['rejects']}.\n")
        print("| minute | peak resident MiB | peak open descriptors |")
        print("|---|---|---|")
        for minute in range(int(samples[-1][0]) + 1):
            within = [sample for sample in samples if minute <= sample[0] < minute + 1]
            if within:
                memory, n_open = max(s[1] for s in within), max(s[2] for s in within)
                print(f"| {minute} | {memory:.0f} | {n_open} |")
        memory_slope = slope([(at, mib) for at, mib, _ in settled])
        descriptor_slope = slope([(at, n_open) for at, _, n_open in settled])
        total = samples[-1][0]
        second = [sample for sample in samples if total / 4 <= sample[0] < total / 2]
        last = [sample for sample in samples if sample[0] >= total * 3 / 4]
        print(f"\nAfter the first quarter: {memory_slope:+.2f} MiB", end=" ")
        print(f"and {descriptor_slope:+.3f} descriptors per minute.")
        if max(s[1] for s in last) > max(s[1] for s in second) + GROWTH_MIB:
            sys.exit("memory usage grows")
        if max(s[2] for s in last) > max(s[2] for s in second) + GROWTH_DESCRIPTORS:
            sys.exit("file descriptors leak")


main()
