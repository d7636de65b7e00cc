"""Reads outputs of the binary with common libraries: each must find exactly the answers.

Usage: read_outputs.py LEGENDA DIR
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import duckdb
import pandas
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet

ROWS = 40
"""Rows of the table. Every fifth row has no text and is rejected."""

JOB = """
version = 1
[task]
kind = "generate"
[source]
paths = ["table.parquet"]
columns = {{ id = "id", text = "question" }}
[output]
path = "{path}"
span_rows = 7
{options}
"""


def run_job(legenda: Path, work_dir: Path, path: str, options: str) -> None:
    """Runs a job on the table, with its output at `path`."""
    job = work_dir / f"{path}.toml"
    job.write_text(JOB.format(path=path, options=options))
    subprocess.run([legenda, "run", job, "--overwrite"], check=True, capture_output=True)


def parquet_readers(output: Path, cache: Path) -> dict[str, Callable[[], int]]:
    """Returns functions, by name, that count the rows of a folder of Parquet files."""
    path = str(output)
    return {
        "pandas": lambda: len(pandas.read_parquet(path)),
        "polars": lambda: polars.read_parquet(path).height,
        "polars, lazy": lambda: polars.scan_parquet(path).collect().height,
        "pyarrow.dataset": lambda: pyarrow.dataset.dataset(path).to_table().num_rows,
        "pyarrow.parquet": lambda: pyarrow.parquet.read_table(path).num_rows,
        "duckdb": lambda: len(duckdb.sql(f"FROM read_parquet('{path}')").fetchall()),
        "duckdb, by pattern": lambda: len(duckdb.sql(f"FROM '{path}/**/*.parquet'").fetchall()),
        "datasets": lambda: len(datasets.load_dataset(path, split="train", cache_dir=str(cache))),
    }


def lines_readers(output: Path, cache: Path) -> dict[str, Callable[[], int]]:
    """Returns functions, by name, that count the rows of a folder of JSON Lines files."""
    path = str(output)
    return {
        "polars": lambda: polars.scan_ndjson(f"{path}/*.jsonl").collect().height,
        "duckdb": lambda: len(duckdb.sql(f"FROM read_json('{path}/*.jsonl')").fetchall()),
        "datasets": lambda: len(datasets.load_dataset(path, split="train", cache_dir=str(cache))),
    }


def main() -> None:
    """Writes the outputs and reads them."""
    legenda, work_dir = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    datasets.disable_progress_bars()
    columns = {
        "id": [f"row-{row}" for row in range(ROWS)],
        "lang": [["de", "en"][row % 2] for row in range(ROWS)],
        "question": ["" if row % 5 == 0 else f"What is {row}?" for row in range(ROWS)],
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), work_dir / "table.parquet")
    outputs = [
        ("plain", "", parquet_readers),
        ("partitioned", 'partition_by = "lang"', parquet_readers),
        ("lines", 'format = "jsonl"', lines_readers),
    ]
    expected = ROWS - ROWS // 5
    n_wrong = 0
    for path, options, readers in outputs:
        run_job(legenda, work_dir, path, options)
        for name, count in readers(work_dir / path, work_dir / "cache").items():
            try:
                found = str(count())
            except Exception as error:  # noqa: BLE001 (any exception of a reader is a failure to report)
                found = f"{type(error).__name__}: {error}".splitlines()[0]
            n_wrong += found != str(expected)
            print(f"{path}: {name}: {found} of {expected} answers")
    if n_wrong:
        sys.exit(f"{n_wrong} readers do not find exactly the answers")


if __name__ == "__main__":
    main()
