"""Tests keys with every printable character in a bucket of an S3 server (moto, from PyPI).

    python tests/servers/store_keys.py target/release/legenda

The script stores images under such keys, lists and reads a folder of them, and reads them through
the cells of a table in that folder. It writes an output under such a prefix, partitioned by a
column, and reads the partitions back. Needs the packages of `tests/src/python.rs`.
"""

import io
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import s3_bucket

PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "/")
KEYS = [
    "plain.png",
    "a b.png",
    "q?mark.png",
    "hash#1.png",
    "percent%20x.png",
    "plus+plus.png",
    "ünï.png",
    "two//slashes.png",
    "%2e%2e/up.png",
    "v=San%20Francisco/x.png",
    "day=2026-01-01 00%3A00/x.png",
    f"a{PRINTABLE}.png",
    *(f"one/{character}x.png" for character in PRINTABLE if character not in "._"),
]
PREFIX = "pre%fix/ #?&+"


def png(number: int) -> bytes:
    """Encodes a PNG of a single colour, which encodes the number."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes([number, 90, 200]) * 32) * 32
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def job(source: str, columns: str, output: str, more: str = "") -> str:
    """Returns the text of a job file."""
    return f"""
version = 1
[task]
kind = "caption"
[source]
paths = ['''{source}''']
columns = {{ {columns} }}
[output]
path = '''{output}'''
{more}
"""


def main() -> None:
    """Starts the server, runs the jobs and prints the results."""
    binary = str(Path(sys.argv[1]).resolve())
    server, client, environment = s3_bucket.start()
    for number, key in enumerate(KEYS):
        client.put_object(Bucket="bucket", Key=f"{PREFIX}/{key}", Body=png(number))

    def rows(prefix: str) -> list[dict[str, object]]:
        listed = client.list_objects_v2(Bucket="bucket", Prefix=prefix)
        found: list[dict[str, object]] = []
        for entry in listed["Contents"]:
            if entry["Key"].endswith(".parquet") and "/rejects/" not in entry["Key"]:
                body = client.get_object(Bucket="bucket", Key=entry["Key"])["Body"].read()
                found += pq.read_table(io.BytesIO(body)).to_pylist()
        return found

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.toml"

        def run(text: str) -> str:
            path.write_text(text, encoding="utf-8")
            command = [binary, "run", str(path), "--progress", "none", "--overwrite"]
            completed = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
            assert completed.returncode == 0, completed.stderr
            return completed.stdout.splitlines()[0]

        media = 'id = "path", image = "media"'
        print(run(job(f"s3://bucket/{PREFIX}", media, "s3://bucket/o%20?/all")))
        found = sorted(str(row["path"]) for row in rows("o%20?/all/"))
        assert found == sorted(f"s3://bucket/{PREFIX}/{key}" for key in KEYS), found

        # Each cell refers to the image of its row, so all digests differ.
        table = pa.table({"id": [str(n) for n in range(len(KEYS))], "image": KEYS, "day": KEYS})
        sink = io.BytesIO()
        pq.write_table(table, sink)
        client.put_object(Bucket="bucket", Key=f"{PREFIX}/t.parquet", Body=sink.getvalue())
        cells = 'id = "id", image = "image"'
        table_url = f"s3://bucket/{PREFIX}/t.parquet"
        by_day = 'columns = ["id", "day"]\npartition_by = "day"'
        print(run(job(table_url, cells, "s3://bucket/days #1", by_day)))
        answers = rows("days #1/")
        assert len(answers) == len(KEYS), len(answers)
        assert len({row["legenda_input_sha256"] for row in answers}) == len(KEYS)

        # The values of the partition folders are read back.
        texts = job("s3://bucket/days #1", 'id = "id", text = "answer"', "s3://bucket/again")
        texts = texts.replace('"caption"', '"generate"')
        print(run(texts + 'columns = ["id", "day"]'))
        read = {str(row["id"]): row["day"] for row in rows("again/")}
        assert read == {str(number): key for number, key in enumerate(KEYS)}, read
    server.stop()


if __name__ == "__main__":
    main()
