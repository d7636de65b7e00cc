"""Peers on the same weights. `python -m bench_cpu.peers PEER TASK WORK N` prints JSON."""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    VisionEncoderDecoderModel,
    ViTImageProcessor,
)

from . import tasks
from .models import load_tokenizer

BATCH_ROWS = 16


def cpu_seconds() -> float:
    """Returns the CPU time of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def load(peer: str, task: str, work: Path) -> PreTrainedModel:
    """Loads the model of a task as a peer does."""
    checkpoint = work / f"{task}-checkpoint"
    if peer == "transformers":
        kind = AutoModelForCausalLM if task == "text" else VisionEncoderDecoderModel
        return kind.from_pretrained(checkpoint, dtype=torch.float32).eval()
    import onnxruntime
    from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForVision2Seq

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    kind = ORTModelForCausalLM if task == "text" else ORTModelForVision2Seq
    bundle = work / task
    suffix = "_quantized" if peer == "optimum-int8" else ""
    if task == "text":
        names = {"file_name": f"model{suffix}.onnx"}
    else:
        names = {
            "encoder_file_name": f"encoder_model{suffix}.onnx",
            "decoder_file_name": f"decoder_model_merged{suffix}.onnx",
            "use_merged": True,
        }
    return kind.from_pretrained(bundle, subfolder="onnx", session_options=options, **names)


def answer_texts(model: PreTrainedModel, work: Path, texts: list[str]) -> tuple[list[str], int]:
    """Continues texts in batches of similar length, and counts the new tokens."""
    tokenizer = load_tokenizer(work / "text-checkpoint")
    config = GenerationConfig(
        max_new_tokens=tasks.N_TOKENS, do_sample=False, eos_token_id=0, pad_token_id=0
    )
    order = sorted(range(len(texts)), key=lambda idx: len(texts[idx]))
    answers, n_tokens = [""] * len(texts), 0
    for start in range(0, len(order), BATCH_ROWS):
        chosen = order[start : start + BATCH_ROWS]
        inputs = tokenizer([texts[idx] for idx in chosen], return_tensors="pt", padding=True)
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            outputs = model.generate(**inputs, generation_config=config)
        for idx, row in zip(chosen, outputs[:, inputs["input_ids"].shape[1] :], strict=True):
            answers[idx] = tokenizer.decode(row, skip_special_tokens=True)
            n_tokens += int((row != 0).sum())
    return answers, n_tokens


def caption(model: PreTrainedModel, work: Path, paths: list[Path]) -> tuple[list[str], int]:
    """Captions images."""
    from PIL import Image

    checkpoint = work / "captions-checkpoint"
    tokenizer, processor = load_tokenizer(checkpoint), ViTImageProcessor.from_pretrained(checkpoint)
    config = GenerationConfig(
        max_new_tokens=tasks.N_CAPTION_TOKENS,
        do_sample=False,
        eos_token_id=0,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    answers, n_tokens = [], 0
    for start in range(0, len(paths), BATCH_ROWS):
        images = [Image.open(path).convert("RGB") for path in paths[start : start + BATCH_ROWS]]
        pixels = processor(images, return_tensors="pt").pixel_values
        with torch.no_grad():
            outputs = model.generate(pixel_values=pixels, generation_config=config)
        for row in outputs[:, 1:]:
            answers.append(tokenizer.decode(row, skip_special_tokens=True))
            n_tokens += int((row != 0).sum())
    return answers, n_tokens


def main() -> None:
    """Runs a task and prints its figures and answers."""
    peer, task, work, n_rows = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    model = load(peer, task, work)
    loaded = cpu_seconds()
    start = time.perf_counter()
    if task == "text":
        answers, n_tokens = answer_texts(model, work, tasks.texts(n_rows))
    else:
        answers, n_tokens = caption(model, work, tasks.images(work, n_rows))
    json.dump(
        {
            "cpu_seconds": cpu_seconds() - loaded,
            "load_cpu_seconds": loaded,
            "wall_seconds": time.perf_counter() - start,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "tokens": n_tokens,
            "answers": answers,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
