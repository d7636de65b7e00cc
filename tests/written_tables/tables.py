"""The test tables, each written to a folder by a library.

A writer returns the file and its rows, as `compare` reads them.
"""

import datetime as dt
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import webdataset
from compare import rows_of, rows_of_csv, rows_of_json

Written = tuple[Path, list[dict[str, Any]]]
WRITERS: dict[str, Callable[[Path], Written]] = {}

N_ROWS = 1200
#: The row from which some columns change their type, after the first thousand rows.
LATE = N_ROWS - 50


def plain() -> dict[str, list]:
    """Returns columns that every format can hold."""
    rows = range(N_ROWS)
    floats = [0.1, 1e-7, 1e22, -0.0, 123456.789, 0.30000000000000004, 5e-324, 2.0]
    texts = ["plain", 'a, "quoted"', "two\nlines", "\U00020bb7\U0001f980", "semi;colon", " pad "]
    return {
        "text": [f"question {row}: {texts[row % len(texts)]}" for row in rows],
        "id": [2**63 - 1 - row for row in rows],
        "unsigned": [2**64 - 1 - row for row in rows],
        "small": [row - 600 for row in rows],
        "number": [floats[row % len(floats)] for row in rows],
        "late_number": [float(row) if row < LATE else row + 0.5 for row in rows],
        "late_text": [str(row) if row < LATE else f"x{row}" for row in rows],
        "code": [f"{row:05}" for row in rows],
        "truth": [row % 3 == 0 for row in rows],
        "some": [None if row % 4 else row for row in rows],
        "nothing": [None for _ in rows],
    }


def typed() -> dict[str, list]:
    """Returns more columns, for typed formats."""
    day = dt.date(2026, 11, 30)
    noon = dt.datetime(2026, 11, 30, 12, 0, 0, 123456)
    return {
        "day": [day + dt.timedelta(days=row) for row in range(N_ROWS)],
        "instant": [noon + dt.timedelta(seconds=row) for row in range(N_ROWS)],
        "price": [Decimal(row) / 100 + Decimal("0.00") for row in range(N_ROWS)],
    }


def nested() -> dict[str, list]:
    """Returns columns of lists and objects."""
    rows = range(N_ROWS)
    return {
        "tags": [[f"t{n}" for n in range(row % 3)] for row in rows],
        "object": [{"a": row, "b": {"c": [row / 4]}} for row in rows],
        "turns": [[{"role": "user", "content": f"say {row}"}] for row in rows],
    }


def mixed() -> list[dict[str, Any]]:
    """Returns JSON rows whose members have mixed shapes."""
    shapes = [1, 1.5, "text", True, None, {"a": 1}, [1, "x", {"b": 2}], {}, [], {"a": "x"}]
    return [
        {
            "text": f"question {row} \U00020bb7",
            "shape": shapes[row % len(shapes)],
            "empty": {},
            "late": 7 if row < LATE else "seven",
            "late_shape": {"a": 1} if row < LATE else "none",
            **({"rare": row} if row >= LATE else {}),
        }
        for row in range(N_ROWS)
    ]


def arrow(columns: dict[str, list]) -> pa.Table:
    """Returns an Arrow table of the columns."""
    unsigned = {"unsigned": pa.array(columns["unsigned"], pa.uint64())}
    return pa.table(columns | unsigned)


def writer(name: str) -> Callable:
    """Registers a writer under a name."""

    def add(write: Callable[[Path], Written]) -> Callable[[Path], Written]:
        WRITERS[name] = write
        return write

    return add


@writer("json.dumps, mixed shapes")
def _(folder: Path) -> Written:
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in mixed()))
    return path, rows_of_json(path)


@writer("json.dumps, indented list")
def _(folder: Path) -> Written:
    path = folder / "t.json"
    path.write_text(json.dumps(mixed(), indent=2, ensure_ascii=False))
    return path, rows_of_json(path, is_list=True)


@writer("pandas CSV")
def _(folder: Path) -> Written:
    path = folder / "t.csv"
    pd.DataFrame(plain() | typed()).to_csv(path, index=False)
    return path, rows_of_csv(path)


@writer("pandas CSV, semicolons")
def _(folder: Path) -> Written:
    path = folder / "t.csv"
    pd.DataFrame(plain()).to_csv(path, index=False, sep=";")
    return path, rows_of_csv(path, ";")


@writer("pandas TSV, gzip")
def _(folder: Path) -> Written:
    path = folder / "t.tsv.gz"
    pd.DataFrame(plain()).to_csv(path, index=False, sep="\t")
    return path, rows_of_csv(path, "\t")


@writer("pandas JSON Lines")
def _(folder: Path) -> Written:
    path = folder / "t.jsonl"
    pd.DataFrame(plain() | nested()).to_json(path, orient="records", lines=True)
    return path, rows_of_json(path)


@writer("pandas JSON Lines, gzip")
def _(folder: Path) -> Written:
    path = folder / "t.jsonl.gz"
    pd.DataFrame(plain() | nested()).to_json(path, orient="records", lines=True)
    return path, rows_of_json(path)


@writer("pandas JSON")
def _(folder: Path) -> Written:
    path = folder / "t.json"
    pd.DataFrame(plain() | nested()).to_json(path, orient="records")
    return path, rows_of_json(path, is_list=True)


@writer("pandas Parquet")
def _(folder: Path) -> Written:
    path = folder / "t.parquet"
    pd.DataFrame(plain() | typed() | nested()).to_parquet(path)
    return path, rows_of(path)


@writer("polars CSV")
def _(folder: Path) -> Written:
    path = folder / "t.csv"
    pl.DataFrame(plain() | typed(), strict=False).write_csv(path)
    return path, rows_of_csv(path)


@writer("polars NDJSON")
def _(folder: Path) -> Written:
    path = folder / "t.ndjson"
    pl.DataFrame(plain() | typed() | nested(), strict=False).write_ndjson(path)
    return path, rows_of_json(path)


@writer("polars JSON")
def _(folder: Path) -> Written:
    path = folder / "t.json"
    pl.DataFrame(plain() | nested(), strict=False).write_json(path)
    return path, rows_of_json(path, is_list=True)


@writer("polars Parquet")
def _(folder: Path) -> Written:
    path = folder / "t.parquet"
    pl.DataFrame(plain() | typed() | nested(), strict=False).write_parquet(path)
    return path, rows_of(path)


def write_with_duckdb(path: Path, options: str, columns: dict[str, list]) -> None:
    """Writes a table with DuckDB."""
    table = arrow(columns)
    connection = duckdb.connect()
    connection.register("t", table)
    connection.execute(f"COPY t TO '{path}' {options}")


@writer("duckdb CSV")
def _(folder: Path) -> Written:
    path = folder / "t.csv"
    write_with_duckdb(path, "(HEADER)", plain() | typed())
    return path, rows_of_csv(path)


@writer("duckdb CSV, pipes, gzip")
def _(folder: Path) -> Written:
    path = folder / "t.csv.gz"
    write_with_duckdb(path, "(HEADER, DELIMITER '|')", plain())
    return path, rows_of_csv(path, "|")


@writer("duckdb JSON")
def _(folder: Path) -> Written:
    path = folder / "t.json"
    write_with_duckdb(path, "(FORMAT JSON)", plain() | typed() | nested())
    return path, rows_of_json(path)


@writer("duckdb JSON, list")
def _(folder: Path) -> Written:
    path = folder / "t.json"
    write_with_duckdb(path, "(FORMAT JSON, ARRAY true)", plain() | nested())
    return path, rows_of_json(path, is_list=True)


@writer("duckdb Parquet")
def _(folder: Path) -> Written:
    path = folder / "t.parquet"
    write_with_duckdb(path, "(FORMAT PARQUET)", plain() | typed() | nested())
    return path, rows_of(path)


@writer("pyarrow CSV")
def _(folder: Path) -> Written:
    path = folder / "t.csv"
    pa.csv.write_csv(arrow(plain() | typed()), path)
    return path, rows_of_csv(path)


@writer("pyarrow Parquet")
def _(folder: Path) -> Written:
    path = folder / "t.parquet"
    pq.write_table(arrow(plain() | typed() | nested()), path, row_group_size=100)
    return path, rows_of(path)


@writer("datasets CSV")
def _(folder: Path) -> Written:
    path = folder / "t.csv"
    datasets.Dataset(arrow(plain())).to_csv(path)
    return path, rows_of_csv(path)


@writer("datasets JSON Lines")
def _(folder: Path) -> Written:
    path = folder / "t.jsonl"
    datasets.Dataset(arrow(plain() | nested())).to_json(path)
    return path, rows_of_json(path)


@writer("datasets Parquet")
def _(folder: Path) -> Written:
    path = folder / "t.parquet"
    datasets.Dataset(arrow(plain() | typed() | nested())).to_parquet(path)
    return path, rows_of(path)


@writer("webdataset shard")
def _(folder: Path) -> Written:
    return shard(folder / "t.tar")


@writer("webdataset shard, gzip")
def _(folder: Path) -> Written:
    return shard(folder / "t.tar.gz")


def shard(path: Path) -> Written:
    """Writes a shard with text, JSON, a class and bytes in every row."""
    rows = []
    with webdataset.TarWriter(str(path)) as sink:
        for row in range(100):
            cells = {"txt": f"say {row}", "json": {"n": row}, "cls": row, "npy.bin": bytes([row])}
            sink.write({"__key__": f"{row:06}", **cells})
            # Binary columns are not carried by default.
            texts = {"txt": cells["txt"], "json": json.dumps(cells["json"]), "cls": str(row)}
            rows.append({"__key__": f"{row:06}", **texts})
    return path, rows
