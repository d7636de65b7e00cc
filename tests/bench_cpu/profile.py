"""Where the time of a task goes: `python -m bench_cpu.profile BINARY WORK TASK [MODEL OPTIONS]`.

Prints the time of each operator of each graph, from ONNX Runtime's own profiles, and, where `perf`
is installed, the share of each library and of the kernel in each thread. The work folder has the
models of `python -m bench_cpu`.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from .__main__ import TASKS, write_rows

N_OPERATORS = 12


def operators(profile: Path) -> tuple[Counter, Counter, int]:
    """Returns the microseconds and the number of calls of each operator, and the number of runs."""
    times, calls, n_runs = Counter(), Counter(), 0
    text = profile.read_text().rstrip().rstrip(",")
    # A process that ends early leaves the list open.
    for event in json.loads(text if text.endswith("]") else f"{text}]"):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["args"]["op_name"]
            times[name] += event["dur"]
            calls[name] += 1
        n_runs += event.get("name") == "model_run"
    return times, calls, n_runs


def print_operators(folder: Path) -> None:
    """Prints a table for each graph that ran, the trials at load included."""
    for profile in sorted(folder.glob("*.json")):
        times, calls, n_runs = operators(profile)
        total = times.total()
        print(f"\n{profile.name.split('_20')[0]}: {n_runs} runs, {total / 1e6:.1f} s\n")
        print("| operator | s | % | calls |\n|---|---|---|---|")
        for name, time in times.most_common(N_OPERATORS):
            print(f"| {name} | {time / 1e6:.2f} | {100 * time / total:.1f} | {calls[name]} |")


def print_libraries(data: Path) -> None:
    """Prints the share of each library by thread."""
    command = ["perf", "report", "--input", data, "--no-children", "--sort", "tid,dso", "--stdio"]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [line.split() for line in report.splitlines() if "%" in line and "#" not in line]
    print("\n| % | thread | library |\n|---|---|---|")
    for line in lines[:N_OPERATORS]:
        print(f"| {line[0].rstrip('%')} | {' '.join(line[1:-1])} | {line[-1]} |")


def main() -> None:
    """Profiles a task twice: its operators, and its libraries."""
    binary, work = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    task, n_rows = TASKS[sys.argv[3]]
    options = sys.argv[4] if len(sys.argv) > 4 else ""
    job = work / "profile.toml"
    model = f'model = {{ bundle = "{task}", device = "cpu", threads = 1, {options} }}'
    job.write_text(f"{write_rows(work, task, n_rows)}{model}\n")
    folder, data = work / "profile", work / "perf.data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    run = [str(binary), "run", str(job), "--overwrite", "--progress", "none"]
    subprocess.run(run, check=True, env={**os.environ, "LEGENDA_PROFILE": str(folder)})
    print_operators(folder)
    if shutil.which("perf"):
        record = ["perf", "record", "--event", "cpu-clock", "--output", str(data), "--", *run]
        subprocess.run(record, check=True, stderr=subprocess.DEVNULL)
        print_libraries(data)


if __name__ == "__main__":
    main()
