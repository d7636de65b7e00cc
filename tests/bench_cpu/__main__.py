"""Runs the tasks: `python -m bench_cpu BINARY WORK [TASK...]`. Prints a table for each.

All tools run on one thread. CPU time is that of the whole process without loading; for Legenda,
loading is a run of one row. Answers are compared with those of transformers.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from . import tasks

TASKS = {
    "text-32": ("text", 32),
    "text-128": ("text", 128),
    "captions-32": ("captions", 32),
    "speech-32": ("speech", 32),
    "embeddings-512": ("embeddings", 512),
}
# optimum computes cross-attention of captions in every step, which takes minutes.
PEERS = {
    "text": ["transformers", "optimum", "optimum-int8"],
    "captions": ["transformers"],
    "speech": ["transformers", "optimum", "faster-whisper", "faster-whisper-int8"],
    "embeddings": ["transformers", "sentence-transformers", "onnxruntime", "onnxruntime-int8"],
}
FORMS = {
    "legenda": "",
    "legenda, published graphs": 'graphs = "published"',
    "legenda, int8": 'precision = "q8"',
    "legenda, int8, published graphs": 'precision = "q8", graphs = "published"',
}
# The cosine above which two vectors count as equal.
COSINE_MIN = 0.9999


def write_rows(work: Path, task: str, n_rows: int) -> str:
    """Writes the table of a task and returns the job without its model."""
    path = work / f"{task}-{n_rows}.parquet"
    generation = "temperature = 0.0"
    match task:
        case "text":
            table = {"text": tasks.texts(n_rows)}
            kind = 'kind = "generate", prompt = "{{ text }}"'
            generation += f", max_new_tokens = {tasks.N_TOKENS}"
        case "captions":
            table = {"image": [str(path) for path in tasks.images(work, n_rows)]}
            kind = 'kind = "caption"'
            generation += f", max_new_tokens = {tasks.N_CAPTION_TOKENS}"
        case "speech":
            table = {"audio": [str(path) for path in tasks.recordings(work, n_rows)]}
            kind = 'kind = "transcribe"'
        case _:
            table = {"text": tasks.sentences(n_rows)}
            kind, generation = 'kind = "embed"', ""
    column = next(iter(table))
    pq.write_table(pa.table({"id": list(range(n_rows)), **table}), path)
    return f"""version = 1
task = {{ {kind} }}
source = {{ paths = ["{path.name}"], columns = {{ {column} = "{column}" }} }}
generation = {{ {generation} }}
output = {{ path = "out" }}
"""


def legenda(
    binary: Path, work: Path, task: str, n_rows: int, model: str, limit: int | None = None
) -> dict:
    """Runs a job and returns its figures and answers."""
    job = write_rows(work, task, n_rows)
    path = work / "job.toml"
    path.write_text(f'{job}model = {{ bundle = "{task}", device = "cpu", threads = 1, {model} }}\n')
    for old in (work / "out", work / "out.legenda"):
        shutil.rmtree(old, ignore_errors=True)
    command = [str(binary), "run", str(path)]
    command += ["--limit", str(limit)] if limit else []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    log = (work / "legenda.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    _, status, usage = os.wait4(process.pid, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status != 0:
        raise SystemExit(f"legenda failed: {path}")
    table = pq.read_table(work / "out").sort_by("id")
    return {
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "system_seconds": usage.ru_stime,
        "faults": usage.ru_minflt,
        "peak_mb": usage.ru_maxrss / 1024,
        "answers": table["embedding" if task == "embeddings" else "answer"].to_pylist(),
    }


def peer(name: str, work: Path, task: str, n_rows: int) -> dict:
    """Runs a peer in a process of its own."""
    command = [sys.executable, "-m", "bench_cpu.peers", name, task, str(work), str(n_rows)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.strip().splitlines()[-1])


def are_equal(a: str | list[float], b: str | list[float]) -> bool:
    """Returns whether two texts are the same, or two unit vectors nearly so."""
    if isinstance(a, str):
        return a.strip() == b.strip()
    return sum(x * y for x, y in zip(a, b, strict=True)) >= COSINE_MIN


def report(name: str, figures: dict, load: float, n_rows: int, expected: list) -> None:
    """Prints a row of the table."""
    seconds = figures["cpu_seconds"]
    n_equal = sum(are_equal(a, b) for a, b in zip(figures["answers"], expected, strict=True))
    print(
        f"| {name} | {n_rows / seconds:.2f} | {seconds:.1f} | {load:.1f} | "
        f"{figures['peak_mb']:.0f} | {figures.get('faults', 0) / 1e6:.1f} | "
        f"{n_equal} of {n_rows} |",
        flush=True,
    )


def main() -> None:
    """Makes the models and runs the tasks."""
    binary, work = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    work.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[3:] or TASKS:
        task, n_rows = TASKS[name]
        # In a process of its own: the peak memory of a child is at least that of its parent.
        subprocess.run([sys.executable, "-m", "bench_cpu.models", task, str(work)], check=True)
        print(f"\n{name}\n")
        columns = ["", "rows/CPU-s", "CPU-s", "load CPU-s", "peak MB", "M faults", "equal answers"]
        print(f"| {' | '.join(columns)} |")
        print("|---" * len(columns) + "|")
        expected = None
        for other in PEERS[task]:
            figures = peer(other, work, task, n_rows)
            expected = expected or figures["answers"]
            report(other, figures, figures["load_cpu_seconds"], n_rows, expected)
        # Published graphs take minutes with many rows.
        forms = {
            name: model
            for name, model in FORMS.items()
            if task != "text" or n_rows < 100 or "graphs" not in model
        }
        for form, model in forms.items():
            # The first run also tests the rewritten graph.
            legenda(binary, work, task, n_rows, model, limit=1)
            load = legenda(binary, work, task, n_rows, model, limit=1)["cpu_seconds"]
            figures = legenda(binary, work, task, n_rows, model)
            figures["cpu_seconds"] -= load
            report(form, figures, load, n_rows, expected)


if __name__ == "__main__":
    main()
