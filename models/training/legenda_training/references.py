"""Stored references: the answers of Hugging Face's own code for the sample tables.

The chat template of the tokenizer renders prompts, `LegendaProcessor` makes inputs, and greedy
`generate` of the PyTorch model with exactly the weights of the bundle makes tokens.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile
import torch
import transformers
from PIL import Image
from safetensors.numpy import save_file
from scipy.signal import resample_poly

from .modeling import LegendaForConditionalGeneration
from .processing import LegendaProcessor
from .restore import load_bundle
from .runner import BundleRunner, Row, load_processor
from .speech import SAMPLING_RATE

TABLES = ("pictures", "sounds", "questions", "texts")


def decode_audio(stored: bytes) -> tuple[np.ndarray, int]:
    """Decodes WAV or FLAC to float32 mono at 16 kHz; also returns the rate of the file in Hz."""
    samples, rate = soundfile.read(io.BytesIO(stored), dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if rate != SAMPLING_RATE:
        divisor = int(np.gcd(rate, SAMPLING_RATE))
        mono = resample_poly(mono, SAMPLING_RATE // divisor, rate // divisor)
    return mono.astype(np.float32), rate


def sample_rows(folder: Path) -> list[tuple[str, dict, Row | None, str]]:
    """Returns per row: table, stored row, decoded row (`None` if broken) and the reason."""
    rows = []
    for table in TABLES:
        for stored in pq.read_table(folder / f"{table}.parquet").to_pylist():
            image = audio = None
            try:
                if stored["image"] is not None:
                    image = Image.open(io.BytesIO(stored["image"])).convert("RGB")
                if stored["audio"] is not None:
                    audio, _ = decode_audio(stored["audio"])
                    if len(audio) > 6 * SAMPLING_RATE:
                        raise ValueError("the audio is too long")
                if stored["question"] is None and audio is None:
                    raise ValueError("no question")
            except Exception as error:  # noqa: BLE001 - a broken row may fail in any decoder
                rows.append((table, stored, None, str(error)))
                continue
            rows.append((table, stored, Row(stored["question"], image, audio), ""))
    return rows


@torch.no_grad()
def answer(
    model: LegendaForConditionalGeneration, processor: LegendaProcessor, row: Row, limit: int
) -> tuple[str, list[int], list[int], float]:
    """Returns the rendered prompt, expanded input IDs, greedy output IDs with end token, and
    margin.

    The margin is the smallest gap between the best and the second best logit of any step.
    """
    text = processor.prompt(row.question, row.image is not None, row.audio is not None)
    inputs = processor(text, row.image, row.audio)
    out = model.generate(
        **inputs,
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=2,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    ids = inputs["input_ids"][0].tolist()
    best = torch.stack(out.logits)[:, 0].topk(2).values
    margin = float((best[:, 0] - best[:, 1]).min())
    return text, ids, out.sequences[0, len(ids) :].tolist(), margin


def make_references(bundle: Path, sample: Path, out: Path) -> int:
    """Writes `sample.jsonl`, `inputs.safetensors` and a README; returns ONNX token mismatches."""
    out.mkdir(parents=True, exist_ok=True)
    model, processor = load_bundle(bundle), load_processor(bundle)
    runner = BundleRunner(bundle)
    rows = sample_rows(sample)
    onnx_answers = runner.generate([row for _, _, row, _ in rows if row is not None])
    lines, mismatches, right = [], 0, 0
    tensors: dict[str, np.ndarray] = {}
    n_images = n_audio = 0
    for table, stored, row, _ in rows:
        if row is None:
            continue
        prompt, ids, generated, margin = answer(model, processor, row, runner.limit)
        mismatches += generated != onnx_answers[len(lines)]
        answer_text = processor.tokenizer.decode(generated, skip_special_tokens=True)
        right += answer_text == stored["expected"]
        lines.append(
            {
                "table": table,
                "id": stored["id"],
                "prompt_text": prompt,
                "input_ids": ids,
                "generated_ids": generated,
                "text": answer_text,
                "margin": round(margin, 4),
            }
        )
        inputs = processor(prompt, row.image, row.audio)
        is_lossless = row.image is not None and stored["image"][:4] == b"\x89PNG"
        if table == "pictures" and is_lossless and n_images < 4:
            n_images += 1
            tensors[f"pixel_values/{stored['id']}"] = inputs["pixel_values"][0].numpy()
        is_original_rate = table == "sounds" and decode_audio(stored["audio"])[1] == SAMPLING_RATE
        if is_original_rate and n_audio < 3:
            n_audio += 1
            tensors[f"input_features/{stored['id']}"] = inputs["input_features"][0].numpy()
    with (out / "sample.jsonl").open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    save_file(
        {k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items()},
        out / "inputs.safetensors",
    )
    (out / "README.md").write_text(
        README.format(
            torch=torch.__version__.split("+")[0],
            transformers=transformers.__version__,
            rows=len(lines),
            names="\n".join(f"- `{k}`" for k in sorted(tensors)),
        ),
        encoding="utf-8",
    )
    print(
        f"references: {len(lines)} rows, {right} equal the expected answer, "
        f"{mismatches} differ between PyTorch and ONNX Runtime"
    )
    return mismatches


README = """# Reference answers of the default model

Made by `python -m legenda_training references` from `models/tiny` and `jobs/examples/sample`
with PyTorch {torch} and transformers {transformers}, on the CPU in float32.

`sample.jsonl`: {rows} lines, one for each row of the sample tables that can be processed. Fields:
`table`, `id`, `prompt_text` (the rendered chat template), `input_ids` (placeholders expanded),
`generated_ids` (greedy `generate`, end token included), `text`, `margin` (the smallest gap between
the best and the second best logit over the steps of the row). If another JPEG decoder or resampler
gives slightly different values, only answers of rows with a small margin may change.

`inputs.safetensors`: float32 inputs of a few rows, with the row ID in the name:
`pixel_values` [3, 96, 96] of `SiglipImageProcessor` (torchvision back end, PNG rows) and
`input_features` [64, 300] of `WhisperFeatureExtractor` (16 kHz rows).

{names}

Stereo audio is averaged to mono, then audio at other rates is resampled by
`scipy.signal.resample_poly`. With another resampler, compare only the tokens of these rows.
"""
