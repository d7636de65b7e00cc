"""Benchmarks Legenda against transformers on one GPU, with the same weights.

Usage: `python -m bench_gpu LEGENDA FOLDER`. `FOLDER` is the output of `bench_gpu.graphs`. Both
sides read the same Parquet file and stop when all answers are written. Model loading is not counted
for transformers; for Legenda's first run it is counted and printed.
"""

import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import GenerationConfig, PreTrainedModel, ViTImageProcessor

from .models import EOS_IDS, MAX_NEW_TOKENS, MODELS, START_ID
from .weights import fill, parameters

BATCHES = (32, 128)


def write_images(path: Path, n_rows: int = 1024) -> None:
    """Writes a table of JPEG images of different sizes."""
    rng = np.random.default_rng(1)
    cells = []
    for _ in range(n_rows):
        width, height = rng.integers(160, 480, 2)
        coarse = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        cells.append(buffer.getvalue())
    pq.write_table(pa.table({"id": range(n_rows), "image": cells}), path, row_group_size=256)


def write_texts(path: Path, n_rows: int = 1024) -> None:
    """Writes a table of texts of 8 to 400 words."""
    rng = np.random.default_rng(2)
    lengths = rng.integers(8, 400, n_rows)
    rows = [" ".join(f"w{w}" for w in rng.integers(0, 49152, n)) for n in lengths]
    pq.write_table(pa.table({"id": range(n_rows), "text": rows}), path, row_group_size=256)


def legenda(binary: str, bundle: Path, table: Path, slots: int, device: str) -> dict:
    """Runs a job and returns its figures and its answers by ID."""
    column = "image" if "captioner" in bundle.name else "text"
    task = 'kind = "caption"' if column == "image" else 'kind = "answer"\nprompt = "{{ text }}"'
    out = table.parent / f"out-{bundle.name}-{slots}-{device}"
    job = table.parent / f"{out.name}.toml"
    job.write_text(
        f"""version = 1
[task]
{task}
[model]
bundle = "{bundle}"
device = "{device}"
slots = {slots}
[source]
paths = ["{table}"]
columns = {{ id = "id", {column} = "{column}" }}
[output]
path = "{out}"
columns = ["id"]
[generation]
max_new_tokens = {MAX_NEW_TOKENS}
[reuse]
within_run = false
[limits]
memory = "32 GiB"
"""
    )
    start = time.perf_counter()
    command = [binary, "run", job, "--overwrite"]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=100)
    wall = time.perf_counter() - start
    text = completed.stdout + completed.stderr
    if completed.returncode:
        print(text[-3000:])
        raise SystemExit(f"legenda exited with code {completed.returncode}")
    rows = pq.read_table(out, columns=["id", "answer", "legenda_tokens_generated"]).to_pylist()
    rate = re.search(r"([\d.]+) rows/s, (\d+) tokens/s \((.*?)\)", text)
    return {
        "side": "legenda",
        "device": device,
        "rows_per_second": float(rate[1]),
        "tokens_per_second": float(rate[2]),
        "stages": rate[3],
        "wall_seconds": wall,
        "answers": {row["id"]: row["answer"] for row in rows},
    }


def batches(table: Path, n: int) -> Iterator[list[dict]]:
    """Yields batches of `n` rows of a table."""
    rows = pq.read_table(table).to_pylist()
    yield from (rows[at : at + n] for at in range(0, len(rows), n))


class ImageDataset(torch.utils.data.Dataset):
    """A data set that decodes and resizes images in the processes of the data loader."""

    def __init__(self, table: Path) -> None:
        """Reads the files without decoding them."""
        self.rows = pq.read_table(table).to_pylist()
        self.processor = ViTImageProcessor(size={"height": 224, "width": 224})

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.rows)

    def __getitem__(self, idx: int) -> tuple[int, torch.Tensor]:
        """Returns the ID and the pixels of a row."""
        row = self.rows[idx]
        image = Image.open(io.BytesIO(row["image"])).convert("RGB")
        return row["id"], self.processor(image, return_tensors="pt")["pixel_values"][0]


def transformers(name: str, model: PreTrainedModel, table: Path, n: int) -> dict:
    """Answers a table in batches, as the documentation of transformers shows."""
    model.generation_config = GenerationConfig(
        decoder_start_token_id=START_ID, eos_token_id=EOS_IDS, pad_token_id=START_ID,
        bos_token_id=START_ID, max_new_tokens=MAX_NEW_TOKENS, do_sample=False,
    )  # fmt: skip
    answers, n_tokens, start = {}, 0, time.perf_counter()
    with torch.inference_mode():
        if name == "captioner":
            loader = torch.utils.data.DataLoader(
                ImageDataset(table), batch_size=n, num_workers=12, pin_memory=True
            )
            for ids, pixels in loader:
                pixels = pixels.to("cuda", model.dtype, non_blocking=True)
                generated = model.generate(pixels)[:, 1:].tolist()
                n_tokens += collect(ids.tolist(), generated, answers)
        else:
            for rows in batches(table, n):
                ids, mask = padded([row["text"] for row in rows])
                generated = model.generate(ids, attention_mask=mask)[:, ids.shape[1] :].tolist()
                n_tokens += collect([r["id"] for r in rows], generated, answers)
    wall = time.perf_counter() - start
    return {
        "side": f"transformers, batch {n}, {str(model.dtype).removeprefix('torch.')}",
        "rows_per_second": len(answers) / wall,
        "tokens_per_second": n_tokens / wall,
        "wall_seconds": wall,
        "answers": answers,
    }


def padded(rows: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the left-padded token IDs of texts, and their attention mask."""
    ids = [[int(word[1:]) for word in text.split()] for text in rows]
    longest = max(map(len, ids))
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in ids]
    ids = [[START_ID] * (longest - len(row)) + row for row in ids]
    return torch.tensor(ids, device="cuda"), torch.tensor(mask, device="cuda")


def collect(ids: list[int], generated: list[list[int]], answers: dict[int, str]) -> int:
    """Cuts answers at their end token and returns their number of tokens."""
    n_tokens, ends = 0, set(EOS_IDS)
    for row_id, tokens in zip(ids, generated, strict=True):
        end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens) - 1)
        n_tokens += end + 1
        answers[row_id] = " ".join(f"w{t}" for t in tokens[: end + 1])
    return n_tokens


def measure(name: str, bundles: list[str], binary: str, folder: Path) -> list[dict]:
    """Returns the results of all runs of one model."""
    table = folder / f"{name}.parquet"
    (write_images if name == "captioner" else write_texts)(table)
    model = MODELS[name]()
    weights = parameters(model)
    results = []
    for bundle in bundles:
        graphs = next((folder / bundle).rglob("weights.json")).parent
        fill(graphs, weights)
        for slots in BATCHES:
            results.append({"bundle": bundle, "slots": slots})
            results[-1] |= legenda(binary, folder / bundle, table, slots, "cuda")
            show(results[-1])
    for dtype in (torch.float32, torch.float16):
        device_model = model.to("cuda", dtype)
        warm_up = folder / "warm.parquet"
        pq.write_table(pq.read_table(table).slice(0, 64), warm_up)
        transformers(name, device_model, warm_up, 32)
        for n in BATCHES:
            results.append({"bundle": name} | transformers(name, device_model, table, n))
            show(results[-1])
    return results


def show(result: dict) -> None:
    """Prints the figures of a run."""
    print({key: value for key, value in result.items() if key != "answers"}, flush=True)


def same(a: dict, b: dict) -> str:
    """Returns how many rows have the same answer in two runs, with or without an end token."""
    pairs = [(a["answers"].get(i, ""), text) for i, text in b["answers"].items()]
    return f"{sum(x == y or y.rsplit(' ', 1)[0] == x for x, y in pairs)} of {len(pairs)}"


def main(binary: str, folder: Path, *names: str) -> None:
    """Runs the benchmark and writes `results.json` to the folder of the tables."""
    report = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "runs": []}
    bundles = {"captioner": ["captioner", "captioner_fp16"], "writer": ["writer"]}
    for name in names or bundles:
        results = measure(name, bundles[name], binary, folder)
        references = [r for r in results if r["side"].startswith("transformers")]
        for result in results:
            for reference in references:
                print(name, result.get("bundle"), result["side"], "=", reference["side"],
                      same(result, reference))  # fmt: skip
        report["runs"] += [{k: v for k, v in r.items() if k != "answers"} for r in results]
    (folder / "results.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve(), *sys.argv[3:])
