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
    # What `generation_config.json` says; its `decoder_start_token_id` starts every answer.
    generation: Callable[[PreTrainedTokenizerBase], dict]
    task: str
    # What each row asks: a text, or the name of a picture or a sound.
    rows: list[dict]
    processor: dict = field(default_factory=dict)
    skip: tuple[str, ...] = UNMERGED
    gain: float = 1.5
    embedding_std: float = 1.0
    # A forced end token leaves no answer that ends by its length.
    needs_both_ends: bool = True
    # What is done to the weights beside making them random.
    tweak: Callable[[PreTrainedModel], None] | None = None
    # Further keys of the reference, from the model, its tokenizer and its folder.
    more: Callable[[PreTrainedModel, PreTrainedTokenizerBase, Path], dict] | None = None
    # The text of an answer's tokens, which follow those of the prompt.
    answer: Callable[[PreTrainedTokenizerBase, list[int], list[int]], str] = (
        lambda tokenizer, _, answer: tokenizer.decode(answer, skip_special_tokens=True)
    )
    # How far inputs may be from the reference's, by rounding, without another answer.
    input_noise: float = 1e-6


def inputs_of(spec: Spec, folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[dict]:
    """What `generate` is given for each row, the encoder's tensors among it."""
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
            inputs.append(dict(processor(media.read_picture(row["image"]), return_tensors="pt")))
            if "prompt" in row:
                prompt = tokenizer(row["prompt"], add_special_tokens=False, return_tensors="pt")
                inputs[-1]["decoder_input_ids"] = prompt["input_ids"]
        return inputs
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    inputs = []
    for row in spec.rows:
        samples = media.read_sound(row["audio"])
        features = extractor(samples, sampling_rate=16000, return_tensors="pt")
        options = {k: row[k] for k in ("language", "task", "return_timestamps") if k in row}
        if options:
            options["force_unique_generate_call"] = True
        inputs.append({**features, **options})
    return inputs


def faults_by_noise(
    spec: Spec, inputs: list[dict], found: list[Generation], answer: Callable[[dict], Generation]
) -> bool:
    """Whether rounding in pictures or sounds would change an answer."""
    generator = torch.Generator().manual_seed(0)
    for row, reference in zip(inputs, found, strict=True):
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
    """The model of the first seed whose answers are a good reference."""
    config = spec.generation(tokenizer)
    never = set(tokenizer.all_special_ids) | {config["decoder_start_token_id"]}
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
            found = end_by_bias(model, eos_id, lambda: answers(model))
        else:
            end = common_token(answers(model), never)
            if end is None:
                return None
            swap_rows(model.get_output_embeddings().weight, end, eos_id)
            found = answers(model)
        if not faults(found, spec.needs_both_ends) and faults_by_noise(
            spec, inputs, found, lambda row: generate(model, row, [eos_id])
        ):
            return None
        return (model, found), found

    return first_good_seed(attempt, spec.needs_both_ends)


def end_by_bias(
    model: PreTrainedModel, eos_id: int, answers: Callable[[], list[Generation]]
) -> list[Generation]:
    """Raises the end token's bias until some rows end early.

    For families whose output head is their embedding and that start with the end token: to give
    it another row there would change every answer from its first token on.
    """
    found = answers()
    deviation = float(np.std(found[0].raw_logits[0]))
    for eighths in range(1, 40):
        model.final_logits_bias[0, eos_id] = round(deviation * eighths / 8, 3)
        found = answers()
        if sum(len(g.token_ids) < MAX_NEW_TOKENS for g in found) >= len(found) // 3:
            break
    return found


def save_checkpoint(model: PreTrainedModel, folder: Path, checkpoint: Path) -> None:
    """Writes what optimum exports from, with the bundle's tokenizer and processor beside it."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        setattr(model.config, name, getattr(model.generation_config, name))
    if not model.config.tie_word_embeddings:
        # Else what could be tied, but is not, is not written.
        parameters = list(model.named_parameters(remove_duplicate=False))
        count = Counter(id(parameter) for _, parameter in parameters)
        model._tied_weights_keys = [name for name, p in parameters if count[id(p)] > 1]
    model.save_pretrained(checkpoint)
    for path in folder.iterdir():
        shutil.copy(path, checkpoint)


def encode(folder: Path, inputs: dict) -> dict[str, np.ndarray]:
    """Runs the encoder on one row; returns what the decoder wants beside tokens and cache."""
    session = open_session(folder / "onnx" / "encoder_model.onnx")
    wanted = {i.name: TYPES[i.type] for i in session.get_inputs()}
    feeds = {name: inputs[name].numpy().astype(kind) for name, kind in wanted.items()}
    extra: dict[str, Any] = {"encoder_hidden_states": session.run(None, feeds)[0]}
    if "attention_mask" in feeds:
        extra["encoder_attention_mask"] = feeds["attention_mask"]
    return extra


def check(
    name: str, folder: Path, inputs: list[dict], starts: list[list[int]], found: list[Generation]
) -> list[str]:
    """Compares the graphs' logits with the model's, row by row; returns the decoder's inputs."""
    decoder = Decoder(folder / "onnx" / "decoder_model_merged.onnx")
    worst = 0.0
    for i, (row, start, answer) in enumerate(zip(inputs, starts, found, strict=True)):
        extra = {k: v for k, v in encode(folder, row).items() if k in decoder.inputs}
        worst = max(worst, check_steps(name, i, decoder, start, answer, **extra))
    print(f"  largest difference of logits {worst:.1e}")
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
    model, found = build(spec, tokenizer, inputs)
    save_checkpoint(model, folder, checkpoint)
    export(checkpoint, folder, spec.task, spec.skip)
    write_json(folder / "generation_config.json", spec.generation(tokenizer))

    starts = [answer.prompt_ids for answer in found]
    names = check(spec.name, folder, inputs, starts, found)
    rows = []
    for row, fed, answer in zip(spec.rows, inputs, found, strict=True):
        prompt = fed["input_ids"][0].tolist() if "text" in row else answer.prompt_ids
        rows.append({**row, "prompt_ids": prompt, **answer.row()})
        rows[-1]["answer"] = spec.answer(tokenizer, answer.prompt_ids, answer.token_ids)
    eos_id = model.generation_config.eos_token_id
    more = {"max_new_tokens": MAX_NEW_TOKENS, "eos_token_ids": [eos_id]}
    if "image" in rows[0]:
        more["image_backend"] = "torchvision"
    if spec.more:
        more |= spec.more(model, tokenizer, folder)
    write_reference(spec.name, rows, **more)
    print(f"  {size_of(folder)} bytes, decoder inputs {names}")
