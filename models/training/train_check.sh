#!/usr/bin/env bash
# Runs the whole pipeline at a toy size: prepare, train, export, evaluate, finetune. Takes minutes, no GPU.
# Needs the Python environment of pyproject.toml, npm and espeak-ng. Usage: train_check.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")"
work="${1:-data/check}"
mkdir -p "$work"
run() { python -m legenda_training --data "$work" --preset check "$@"; }
run prepare
run train
run export --out "$work/bundle"
run evaluate --bundle "$work/bundle" --out "$work/scores" --share 0.03
run sample --out "$work/sample"
run references --bundle "$work/bundle" --sample "$work/sample" --out "$work/references"
python - "$work" <<'PY'
import sys

import pyarrow as pa
import pyarrow.parquet as pq

folder = sys.argv[1]
rows = pq.read_table(f"{folder}/sample/pictures.parquet").to_pylist()
rows += pq.read_table(f"{folder}/sample/sounds.parquet").to_pylist()

table = [{**{k: r[k] for k in ("question", "image", "audio")}, "answer": r["expected"]} for r in rows]
schema = pa.schema([("question", pa.string()), ("image", pa.binary()), ("audio", pa.binary()),
                    ("answer", pa.string())])
pq.write_table(pa.Table.from_pylist(table, schema=schema), f"{folder}/finetune.parquet")
PY
run finetune "$work/finetune.parquet" --bundle "$work/bundle" --out "$work/tuned" --steps 20
run parity --bundle "$work/tuned"
echo "train-check: all steps from prepare to finetune succeeded"
