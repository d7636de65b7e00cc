#!/usr/bin/env bash
# Measures the peak resident memory of caption runs by number of rows, and prints a table. Run it after
# `cargo build --release`; it needs python3 with pyarrow to make the tables.
set -euo pipefail
cd "$(dirname "$0")/../.."
legenda=${LEGENDA:-target/release/legenda}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 - "$work" <<'PYTHON'
import sys
import pyarrow as pa
import pyarrow.parquet as pq

sample = pq.read_table("jobs/examples/sample/pictures.parquet", columns=["id", "image"])
sample = sample.slice(0, 60)
for rows in (1000, 20000, 60000):
    table = pa.concat_tables([sample] * (rows // len(sample) + 1)).slice(0, rows)
    pq.write_table(table.combine_chunks(), f"{sys.argv[1]}/{rows}.parquet", row_group_size=1000)
PYTHON
echo "rows    seconds  rows/s  peak resident memory (MiB)"
for rows in ${ROWS:-1000 20000 60000}; do
    cat >"$work/job.toml" <<TOML
version = 1
task = { kind = "caption" }
source = { paths = ["$rows.parquet"], columns = { id = "id", image = "image" } }
reuse = { within_run = false }
output = { path = "out-$rows" }
TOML
    "$legenda" run "$work/job.toml" --progress none >"$work/log" 2>&1
    python3 - "$rows" "$work/out-$rows/_legenda/report.json" <<'PYTHON'
import json
import sys

report = json.load(open(sys.argv[2]))
assert report["rows_in"] == report["answers"] + sum(report["rejects"].values())
seconds = report["seconds"]
peak = report["peak_memory_bytes"] / 2**20
print(f"{sys.argv[1]:>6}  {seconds:7.1f}  {report['rows_in'] / seconds:6.1f}  {peak:.0f}")
PYTHON
done
