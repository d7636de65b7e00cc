"""Encoder-decoders: `onnx/encoder_model.onnx` and `onnx/decoder_model_merged.onnx`."""

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from . import media
from .common import BUNDLES, WORK, size_of, write_reference
from .decoding import MAX_NEW_TOKENS, Generation, common_token, faults, first_good_seed, generate
from .export import export
from .runtime import TYPES, Decoder, check_steps, open_session
from .toktypes import write_json
from .weights import randomize, swap_rows

UNMERGED = ("decoder_model", "decoder_with_past_model")


@dataclass
class Spec:
    """One bundle of this kind."""

    name: str
    tokenizer: Callable[[Path], PreTrainedTokenizerBase]
    model: Callable[[PreTrainedTokenizerBase], PreTrainedModel]
    # The contents of `generation_config.json`; its `decoder_start_token_id` starts every answer.
    generation: Callable[[PreTrainedTokenizerBase], dict]
    task: str
    # The input of each row: a text, or the name of an image or audio file.
    rows: list[dict]
    processor: dict = field(default_factory=dict)
    skip: tuple[str, ...] = UNMERGED
    gain: float = 1.5
    embedding_std: float = 1.0
    # With a forced end token, no answer ends because of its length.
    needs_both_ends: bool = True
    # Changes the weights after they are randomized.
    tweak: Callable[[PreTrainedModel], None] | None = None
    # More keys of the reference, from the model, its tokenizer and its folder.
    extra_keys: Callable[[PreTrainedModel, PreTrainedTokenizerBase, Path], dict] | None = None
    # Decodes the answer tokens, which follow the prompt tokens.
    answer: Callable[[PreTrainedTokenizerBase, list[int], list[int]], str] = (
        lambda tokenizer, _, answer: tokenizer.decode(answer, skip_special_tokens=True)
    )
    # The rounding error of inputs that must not change an answer.
    input_noise: float = 1e-6


def inputs_of(spec: Spec, folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[dict]:
    """Returns the arguments of `generate` for each row, including the encoder tensors."""
    if "text" in spec.rows[0]:
        inputs = []
        for row in spec.rows:
            if "language" in row:
                tokenizer.src_lang = row["language"]
            batch = tokenizer(row["text"], return_tensors="pt")
            inputs.append({k: batch[k] for k in ("input_ids", "attention_mask")})
            if "target_language" in row:
                target = tokenizer.convert_tokens_to_ids(row["target_language"])
                inputs[-1]["forced_bos_token_id"] = target
        return inputs
    if "image" in spec.rows[0]:
        processor = AutoImageProcessor.from_pretrained(folder, use_fast=True)
        inputs = []
        for row in spec.rows:
            inputs.append(dict(processor(media.read_image(row["image"]), return_tensors="pt")))
            if "prompt" in row:
                prompt = tokenizer(row["prompt"], add_special_tokens=False, return_tensors="pt")
                inputs[-1]["decoder_input_ids"] = prompt["input_ids"]
        return inputs
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    inputs = []
    for row in spec.rows:
        samples = media.read_audio(row["audio"])
        features = extractor(samples, sampling_rate=16000, return_tensors="pt")
        options = {k: row[k] for k in ("language", "task", "return_timestamps") if k in row}
        if options:
            options["force_unique_generate_call"] = True
        inputs.append({**features, **options})
    return inputs


def is_sensitive_to_noise(
    spec: Spec, inputs: list[dict], results: list[Generation], answer: Callable[[dict], Generation]
) -> bool:
    """Returns whether rounding errors in images or audio would change an answer."""
    generator = torch.Generator().manual_seed(0)
    for row, reference in zip(inputs, results, strict=True):
        noisy = {
            name: value + spec.input_noise * torch.randn(value.shape, generator=generator)
            if isinstance(value, torch.Tensor) and value.is_floating_point()
            else value
            for name, value in row.items()
        }
        if answer(noisy).token_ids != reference.token_ids:
            return True
    return False


def build(
    spec: Spec, tokenizer: PreTrainedTokenizerBase, inputs: list[dict]
) -> tuple[PreTrainedModel, list[Generation]]:
    """Returns the model of the first seed whose answers are a good reference."""
    config = spec.generation(tokenizer)
    excluded = set(tokenizer.all_special_ids) | {config["decoder_start_token_id"]}
    eos_id = config["eos_token_id"]

    def answers(model: PreTrainedModel) -> list[Generation]:
        return [generate(model, row, [eos_id]) for row in inputs]

    def attempt(seed: int) -> tuple[tuple, list[Generation]] | None:
        torch.manual_seed(seed)
        model = spec.model(tokenizer).eval()
        randomize(model, seed, spec.gain, embedding_std=spec.embedding_std)
        if spec.tweak:
            spec.tweak(model)
        model.generation_config = GenerationConfig(**config, num_beams=1)
        if hasattr(model, "final_logits_bias") and model.config.tie_word_embeddings:
            results = end_by_bias(model, eos_id, lambda: answers(model))
        else:
            end = common_token(answers(model), excluded)
            if end is None:
                return None
            swap_rows(model.get_output_embeddings().weight, end, eos_id)
            results = answers(model)
        if not faults(results, spec.needs_both_ends) and is_sensitive_to_noise(
            spec, inputs, results, lambda row: generate(model, row, [eos_id])
        ):
            return None
        return (model, results), results

    return first_good_seed(attempt, spec.needs_both_ends)


def end_by_bias(
    model: PreTrainedModel, eos_id: int, answers: Callable[[], list[Generation]]
) -> list[Generation]:
    """Raises the bias of the end token until some rows end early.

    For model families with tied embeddings that start with the end token: swapping its row would
    change every answer from its first token on.
    """
    results = answers()
    deviation = float(np.std(results[0].raw_logits[0]))
    for eighths in range(1, 40):
        model.final_logits_bias[0, eos_id] = round(deviation * eighths / 8, 3)
        results = answers()
        if sum(len(g.token_ids) < MAX_NEW_TOKENS for g in results) >= len(results) // 3:
            break
    return results


def save_checkpoint(model: PreTrainedModel, folder: Path, checkpoint: Path) -> None:
    """Writes the checkpoint for optimum, with the tokenizer and processor of the bundle."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        setattr(model.config, name, getattr(model.generation_config, name))
    if not model.config.tie_word_embeddings:
        # Otherwise weights that could be tied, but are not, would not be written.
        parameters = list(model.named_parameters(remove_duplicate=False))
        count = Counter(id(parameter) for _, parameter in parameters)
        model._tied_weights_keys = [name for name, p in parameters if count[id(p)] > 1]
    model.save_pretrained(checkpoint)
    for path in folder.iterdir():
        shutil.copy(path, checkpoint)


def encode(folder: Path, inputs: dict) -> dict[str, np.ndarray]:
    """Runs the encoder on one row; returns the decoder inputs except tokens and KV cache."""
    session = open_session(folder / "onnx" / "encoder_model.onnx")
    input_types = {i.name: TYPES[i.type] for i in session.get_inputs()}
    feeds = {name: inputs[name].numpy().astype(dtype) for name, dtype in input_types.items()}
    extra: dict[str, Any] = {"encoder_hidden_states": session.run(None, feeds)[0]}
    if "attention_mask" in feeds:
        extra["encoder_attention_mask"] = feeds["attention_mask"]
    return extra


def check(
    name: str, folder: Path, inputs: list[dict], starts: list[list[int]], results: list[Generation]
) -> list[str]:
    """Compares the logits of graphs and model, row by row; returns the decoder input names."""
    decoder = Decoder(folder / "onnx" / "decoder_model_merged.onnx")
    worst = 0.0
    for i, (row, start, answer) in enumerate(zip(inputs, starts, results, strict=True)):
        extra = {k: v for k, v in encode(folder, row).items() if k in decoder.inputs}
        worst = max(worst, check_steps(name, i, decoder, start, answer, **extra))
    print(f"  largest logit difference {worst:.1e}")
    return list(decoder.inputs)


def make(spec: Spec) -> None:
    """Makes the bundle and its reference."""
    folder, checkpoint = BUNDLES / spec.name, WORK / spec.name
    for path in (folder, checkpoint):
        shutil.rmtree(path, ignore_errors=True)
    media.make()
    tokenizer = spec.tokenizer(folder)
    if spec.processor:
        write_json(folder / "preprocessor_config.json", spec.processor)
    inputs = inputs_of(spec, folder, tokenizer)
    model, results = build(spec, tokenizer, inputs)
    save_checkpoint(model, folder, checkpoint)
    export(checkpoint, folder, spec.task, spec.skip)
    write_json(folder / "generation_config.json", spec.generation(tokenizer))

    starts = [answer.prompt_ids for answer in results]
    names = check(spec.name, folder, inputs, starts, results)
    rows = []
    for row, row_inputs, answer in zip(spec.rows, inputs, results, strict=True):
        prompt = row_inputs["input_ids"][0].tolist() if "text" in row else answer.prompt_ids
        rows.append({**row, "prompt_ids": prompt, **answer.row()})
        rows[-1]["answer"] = spec.answer(tokenizer, answer.prompt_ids, answer.token_ids)
    eos_id = model.generation_config.eos_token_id
    head = {"max_new_tokens": MAX_NEW_TOKENS, "eos_token_ids": [eos_id]}
    if "image" in rows[0]:
        head["image_backend"] = "torchvision"
    if spec.extra_keys:
        head |= spec.extra_keys(model, tokenizer, folder)
    write_reference(spec.name, rows, **head)
    print(f"  {size_of(folder)} bytes, decoder inputs {names}")
