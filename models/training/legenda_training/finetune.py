"""Fine-tunes a bundle on a Parquet table and writes a new bundle.

Columns: `answer` (string), and any of `question` (string), `image` and `audio` (file bytes). A row
without image, audio and question is skipped and counted.
"""

from __future__ import annotations

import io
import math
import random
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from .export import copy_documents, export_bundle
from .packs import AUDIO, BOS, IMAGE, USER, Pack, collate
from .pretrain_audio import CHUNK_SECONDS, SAMPLING_RATE, log_mel
from .processing import LegendaProcessor
from .references import decode_audio
from .restore import load_bundle
from .runner import load_processor
from .train import freeze_norms


class Examples:
    """The rows of a fine-tuning table, as packs with decoded media."""

    def __init__(self, table: Path, processor: LegendaProcessor) -> None:
        self.processor = processor
        self.rows: list[tuple[Pack, Tensor | None, Tensor | None]] = []
        self.skipped = 0
        for row in pq.read_table(table).to_pylist():
            try:
                self.rows.append(self._example(row))
            except Exception as error:  # noqa: BLE001 - a broken row is counted, not fatal
                self.skipped += 1
                print(f"finetune: skipped a row: {error}", flush=True)

    def _example(self, row: dict) -> tuple[Pack, Tensor | None, Tensor | None]:
        tokenizer: PreTrainedTokenizerFast = self.processor.tokenizer
        question, image, audio = (row.get(k) for k in ("question", "image", "audio"))
        if not (question or image or audio) or not row.get("answer"):
            raise ValueError("the row has no input or no answer")
        prefix = [BOS, USER]
        pixels = features = None
        if image:
            rgb = Image.open(io.BytesIO(image)).convert("RGB")
            pixels = self.processor.image_processor(rgb, return_tensors="pt")["pixel_values"]
            prefix += [IMAGE] * self.processor.image_seq_length
        if audio:
            samples, _ = decode_audio(audio)
            if len(samples) > CHUNK_SECONDS * SAMPLING_RATE:
                raise ValueError("the audio is too long")
            features = log_mel([samples])
            prefix += [AUDIO] * self.processor.audio_seq_length
        pack = Pack()
        pack.open(prefix)
        encoded = [tokenizer(t or "", add_special_tokens=False).input_ids
                   for t in (question, row["answer"])]  # fmt: skip
        pack.ask(*encoded)
        return pack, pixels, features

    def batch(self, chosen: list[int]) -> dict[str, Tensor | None]:
        """Returns the tensors of some rows; media are stacked in row order."""
        rows = [self.rows[i] for i in chosen]
        pixels = [p for _, p, _ in rows if p is not None]
        features = [f for _, _, f in rows if f is not None]
        return {
            **collate([pack for pack, _, _ in rows]),
            "pixel_values": torch.cat(pixels) if pixels else None,
            "input_features": torch.cat(features) if features else None,
        }


def finetune(
    bundle: Path,
    table: Path,
    out: Path,
    steps: int = 300,
    batch: int = 16,
    peak: float = 2e-4,
    seed: int = 11,
) -> float:
    """Trains all weights on the table, writes the new bundle, and returns the last mean loss."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model, processor = load_bundle(bundle), load_processor(bundle)
    examples = Examples(table, processor)
    if not examples.rows:
        raise ValueError("the table has no usable rows")
    print(f"finetune: {len(examples.rows)} rows, {examples.skipped} skipped", flush=True)
    model.train()
    freeze_norms(model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.01)
    mean, began = 0.0, time.monotonic()
    for step in range(steps):
        rate = peak * min(1, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        chosen = [rng.randrange(len(examples.rows)) for _ in range(batch)]
        tensors = examples.batch(chosen)
        loss = model(**tensors, use_cache=False).loss
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        mean = loss.item() if step == 0 else 0.9 * mean + 0.1 * loss.item()
        if (step + 1) % 20 == 0:
            print(
                f"finetune {step + 1}/{steps} {time.monotonic() - began:.0f}s loss {mean:.3f}",
                flush=True,
            )
    export_bundle(model, processor.tokenizer, out)
    copy_documents(bundle, out)
    return mean
