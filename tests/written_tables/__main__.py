"""Writes tables by the libraries that people write tables with, and runs the binary on them.

    python tests/written_tables target/release/legenda [NAME ...]

Every column is carried to the answers, and every cell there is held to the file that was written: a
text file as Python's `csv` and `json` read it, numbers digit by digit; a Parquet file as `pyarrow`
reads it. Ends with 1 if a cell differs, a row is missing or a table cannot be read. `NAME` runs
only the tables whose name contains it. Needs `requirements.txt`.
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


def answers(place: Path) -> list[dict]:
    """Returns the rows of every part of an output, without its rejects."""
    parts = sorted((place / "out").rglob("*.parquet"))
    apart = ("rejects", "_legenda")
    parts = [part for part in parts if not any(name in str(part) for name in apart)]
    return [row for part in parts for row in rows_of(part)]


def problem_with(binary: Path, name: str, place: Path) -> str | None:
    """Writes a table, runs the binary on it, and returns what is wrong."""
    path, expected = WRITERS[name](place)
    text = "text" if any("text" in row for row in expected) else "txt"
    (place / "job.toml").write_text(JOB.format(path=path.name, text=text))
    ended = subprocess.run(
        [binary, "run", "job.toml"], cwd=place, capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        return f"exit code {ended.returncode}: {ended.stderr.strip().splitlines()[-1:]}"
    found = answers(place)
    if len(found) != len(expected):
        return f"{len(found)} answers to {len(expected)} rows: {ended.stdout.strip()}"
    for number, (row, written) in enumerate(zip(found, expected, strict=True)):
        for column, cell in written.items():
            if column not in row:
                return f"the column `{column}` is missing"
            if told := difference(row[column], cell):
                return f"row {number}, `{column}`: {told}"
    return None


def main() -> int:
    """Runs every table that is named."""
    binary = Path(sys.argv[1]).resolve()
    wanted = sys.argv[2:]
    names = [name for name in WRITERS if not wanted or any(part in name for part in wanted)]
    n_failed = 0
    for name in names:
        with tempfile.TemporaryDirectory() as place:
            problem = problem_with(binary, name, Path(place))
        n_failed += problem is not None
        print(f"{'ok' if problem is None else 'DIFFERS':8} {name:34} {problem or ''}", flush=True)
    print(f"{len(names) - n_failed} of {len(names)} tables are read as they were written")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
