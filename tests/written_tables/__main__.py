"""Writes tables with common data libraries and runs the binary on them.

    python tests/written_tables target/release/legenda [NAME ...]

Every column is carried to the answers, and every cell is compared with the written file: a text
file as read by Python's `csv` and `json`, numbers digit by digit; a Parquet file as read by
`pyarrow`. Exits with code 1 if a cell differs, a row is missing or a table cannot be read. `NAME`
runs only the tables whose name contains it. Needs `requirements.txt`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from compare import difference, rows_of
from tables import WRITERS

JOB = """
version = 1
task = {{ kind = "generate", prompt = "{{{{ {text} }}}}" }}
source = {{ paths = ["{path}"], columns = {{ text = "{text}" }} }}
generation = {{ max_new_tokens = 1 }}
output = {{ path = "out" }}
"""


def answers(folder: Path) -> list[dict]:
    """Returns the rows of all parts of an output, without rejects."""
    parts = sorted((folder / "out").rglob("*.parquet"))
    excluded = ("rejects", "_legenda")
    parts = [part for part in parts if not any(name in str(part) for name in excluded)]
    return [row for part in parts for row in rows_of(part)]


def problem_with(binary: Path, name: str, folder: Path) -> str | None:
    """Writes a table, runs the binary on it and returns the problem, if any."""
    path, expected = WRITERS[name](folder)
    text = "text" if any("text" in row for row in expected) else "txt"
    (folder / "job.toml").write_text(JOB.format(path=path.name, text=text))
    completed = subprocess.run(
        [binary, "run", "job.toml"], cwd=folder, capture_output=True, text=True, check=False
    )
    if completed.returncode != 0:
        return f"exit code {completed.returncode}: {completed.stderr.strip().splitlines()[-1:]}"
    found = answers(folder)
    if len(found) != len(expected):
        return f"{len(found)} answers to {len(expected)} rows: {completed.stdout.strip()}"
    for number, (row, written) in enumerate(zip(found, expected, strict=True)):
        for column, cell in written.items():
            if column not in row:
                return f"the column `{column}` is missing"
            if mismatch := difference(row[column], cell):
                return f"row {number}, `{column}`: {mismatch}"
    return None


def main() -> int:
    """Tests every selected table."""
    binary = Path(sys.argv[1]).resolve()
    filters = sys.argv[2:]
    names = [name for name in WRITERS if not filters or any(part in name for part in filters)]
    n_failed = 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            problem = problem_with(binary, name, Path(folder))
        n_failed += problem is not None
        print(f"{'ok' if problem is None else 'DIFFERS':8} {name:34} {problem or ''}", flush=True)
    print(f"{len(names) - n_failed} of {len(names)} tables are read as written")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
