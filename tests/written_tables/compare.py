"""Reads written tables and compares cells."""

import csv
import gzip
import io
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


class CsvCell(str):
    """A CSV cell: text that the binary may have read as a number."""


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a Parquet file."""
    return pq.ParquetFile(path).read().to_pylist()


def rows_of_csv(path: Path, delimiter: str = ",") -> list[dict[str, Any]]:
    """Returns the rows of a CSV file: cells verbatim, empty cells as `None`."""
    contents = path.read_bytes()
    text = (gzip.decompress(contents) if path.suffix == ".gz" else contents).decode()
    records = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    names, *records = records
    return [
        {name: CsvCell(cell) if cell else None for name, cell in zip(names, record, strict=True)}
        for record in records
    ]


def rows_of_json(path: Path, is_list: bool = False) -> list[dict[str, Any]]:
    """Returns the rows of a JSON file, with all digits of every number."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if is_list:
        return json.loads(data, parse_float=Decimal)
    return [json.loads(line, parse_float=Decimal) for line in data.splitlines() if line.strip()]


def difference(read: Any, written: Any) -> str | None:
    """Returns how a cell differs from the written one, or `None` if they are equal."""
    same = equal_text(read, written) if isinstance(written, CsvCell) else equal(read, written)
    return None if same else f"read {read!r}, written {written!r}"


def equal_text(read: Any, cell: str) -> bool:
    """Returns whether a CSV cell was read as written."""
    if isinstance(read, bool):
        return cell.lower() == str(read).lower()
    if isinstance(read, float):
        return equal(read, Decimal(cell))
    return str(read) == cell


def equal(read: Any, written: Any) -> bool:
    """Returns whether a value was read as written."""
    if isinstance(written, float) and math.isnan(written):
        return isinstance(read, float) and math.isnan(read)
    if isinstance(written, Decimal) or (isinstance(written, int) and isinstance(read, float)):
        if isinstance(read, bool) or not isinstance(read, int | float | Decimal | str):
            return False
        # Writers write the shortest text of a float.
        return Decimal(repr(read) if isinstance(read, float) else read) == written
    if isinstance(written, dict) and isinstance(read, dict):
        # Members that are missing from a row are null.
        return all(equal(value, written.get(name)) for name, value in read.items()) and all(
            name in read for name in written
        )
    if isinstance(written, list) and isinstance(read, list):
        return len(read) == len(written) and all(map(equal, read, written))
    if isinstance(written, dict | list) and isinstance(read, str):
        return equal(json.loads(read, parse_float=Decimal), written)
    if isinstance(written, bool) and isinstance(read, str):
        # A column of mixed shapes is JSON text.
        return read == json.dumps(written)
    if isinstance(written, int | bool) and not isinstance(read, str):
        return type(read) is type(written) and read == written
    return str(read) == str(written) if isinstance(read, str) else read == written
