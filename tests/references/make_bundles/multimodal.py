"""Decoders with image or audio input: encoders, `embed_tokens` and `decoder_model_merged`."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from . import media
from .common import BUNDLES, size_of, write_reference
from .corpus import ROW_TEXTS
from .decoding import MAX_NEW_TOKENS, Generation, common_token, first_good_seed, generate
from .graphs import shorten, trace
from .runtime import TYPES, Decoder, open_session
from .sessions import EmbedTokens, TextDecoder, text_model
from .toktypes import write_json
from .weights import randomize, swap_rows

QUESTION = "What is in the picture?"
# Texts and the images before them.
ROWS = [
    (QUESTION, ["waves-90x120.png"]),
    (QUESTION, ["disc-120x90.png"]),
    (QUESTION, ["checks-64x64.png"]),
    ("Hello", ["noise-33x24.png"]),
    (ROW_TEXTS[8], ["waves-300x200.png"]),
    (ROW_TEXTS[2], ["palette-70x50.png"]),
    (ROW_TEXTS[3], ["grey-48x80.png"]),
    (ROW_TEXTS[5], ["checks-200x40.png"]),
    ("Describe it.", ["tiny-7x5.png"]),
    ("Which of both is larger?", ["disc-40x160.png", "alpha-60x44.png"]),
    ("Hello", []),
    (ROW_TEXTS[7], []),
]


@dataclass
class Spec:
    """One bundle of this kind."""

    name: str
    tokenizer: Callable[[Path], PreTrainedTokenizerBase]
    model_class: type[PreTrainedModel]
    config: Callable[[PreTrainedTokenizerBase], PretrainedConfig]
    generation: Callable[[PreTrainedTokenizerBase], dict]
    # Files of the processor, by name.
    files: dict[str, dict]
    vision: Callable[[PreTrainedModel], nn.Module] | None = None
    # Dynamic sizes, by input of the vision encoder.
    vision_axes: dict[str, dict[int, str]] = field(default_factory=dict)
    # The same for audio.
    audio: Callable[[PreTrainedModel], nn.Module] | None = None
    audio_axes: dict[str, dict[int, str]] = field(default_factory=dict)
    # Returns the public part and the model inputs of each row, for models whose processor needs its
    # own code.
    rows: Callable[[Path, PreTrainedTokenizerBase], list[tuple[dict, dict]]] | None = None
    # More keys of the reference.
    extras: Callable[[Path], dict] = lambda folder: {}
    # Converts the config written by transformers to its published form.
    publish: Callable[[dict], dict] = lambda config: config
    embed: Callable[[PreTrainedModel], nn.Module] = EmbedTokens
    decoder_class: Callable[..., nn.Module] = TextDecoder
    # Arguments of `decoder_class`.
    decoder: dict = field(default_factory=dict)
    # Whether images are content parts of a message, or an image token before the text.
    has_template: bool = True
    single_image: bool = False
    first_position: int = 0
    image_backend: str = "torchvision"
    # Whether to add sessions in half precision.
    fp16: bool = False
    gain: float = 1.2
    embedding_std: float = 1.0


def prompts(spec: Spec, folder: Path) -> list[tuple[dict, dict]]:
    """Returns the public part and the model inputs of each row."""
    processor: ProcessorMixin = AutoProcessor.from_pretrained(folder, use_fast=True)
    if spec.image_backend == "pil":
        processor.image_processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
    results = []
    for text, names in ROWS:
        if spec.single_image and len(names) != 1:
            continue
        row: dict = {"text": text, "images": names}
        if spec.has_template:
            content = [{"type": "image"} for _ in names] + [{"type": "text", "text": text}]
            rendered = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        else:
            rendered = text
        row["rendered"] = rendered if spec.has_template else None
        images = [media.read_image(name) for name in names] or None
        # The template writes the begin token.
        options = {"add_special_tokens": False} if spec.has_template else {}
        inputs = dict(processor(text=rendered, images=images, return_tensors="pt", **options))
        inputs = {
            name: value
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor) and name != "token_type_ids"
        }
        row["prompt_ids"] = inputs["input_ids"][0].tolist()
        results.append((row, inputs))
    return results


def build(
    spec: Spec, tokenizer: PreTrainedTokenizerBase, inputs: list[dict]
) -> tuple[PreTrainedModel, list[Generation]]:
    """Returns the model of the first seed whose answers are a good reference."""
    config = spec.generation(tokenizer)
    eos_ids = config["eos_token_id"]
    eos_ids = eos_ids if isinstance(eos_ids, list) else [eos_ids]

    def answers(model: PreTrainedModel) -> list[Generation]:
        return [generate(model, row, eos_ids) for row in inputs]

    def attempt(seed: int) -> tuple[tuple, list[Generation]] | None:
        torch.manual_seed(seed)
        model_config = spec.config(tokenizer)
        model_config._attn_implementation = "eager"
        model = spec.model_class(model_config).eval()
        randomize(model, seed, spec.gain, embedding_std=spec.embedding_std)
        model.generation_config = GenerationConfig(**config)
        end = common_token(answers(model), set(tokenizer.all_special_ids))
        if end is None:
            return None
        swap_rows(model.get_output_embeddings().weight, end, eos_ids[0])
        results = answers(model)
        return (model, results), results

    return first_good_seed(attempt)


def media_feeds(names: list[str], inputs: dict) -> dict[str, torch.Tensor]:
    """Returns the inputs of an image or audio encoder, by input name."""
    renamed = {"grid_thw": "image_grid_thw", "audio_values": "input_features"}
    results = {name: inputs[renamed.get(name, name)] for name in names}
    if "pixel_attention_mask" in results:
        results["pixel_attention_mask"] = results["pixel_attention_mask"].bool()
    return results


def export(spec: Spec, model: PreTrainedModel, inputs: list[dict], folder: Path) -> None:
    """Traces the sessions."""
    encoders = [
        (spec.vision, spec.vision_axes, "pixel_values", "image_features", "vision_encoder"),
        (spec.audio, spec.audio_axes, "input_features", "audio_features", "audio_encoder"),
    ]
    for module, axes, values, features, name in encoders:
        if module is None:
            continue
        sample = max((row for row in inputs if values in row), key=lambda row: row[values].numel())
        trace(
            module(model),
            media_feeds(list(axes), sample),
            {features: {0: "num_features"}},
            axes,
            folder / f"{name}.onnx",
        )
    rows = {0: "batch_size", 1: "sequence_length"}
    text = text_model(model).config
    per_layer_size = getattr(text, "hidden_size_per_layer_input", None)
    embeds = {"inputs_embeds": rows} | ({"per_layer_inputs": rows} if per_layer_size else {})
    trace(
        spec.embed(model),
        {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 6]])},
        embeds,
        {"input_ids": rows},
        folder / "embed_tokens.onnx",
    )
    export_decoder(spec, model, folder / "decoder_model_merged.onnx")


def export_decoder(spec: Spec, model: PreTrainedModel, target: Path) -> None:
    """Traces the decoder."""
    rows = {0: "batch_size", 1: "sequence_length"}
    text = text_model(model).config
    per_layer_size = getattr(text, "hidden_size_per_layer_input", None)
    embeds = {"inputs_embeds": rows} | ({"per_layer_inputs": rows} if per_layer_size else {})
    heads = text.num_key_value_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    positions = torch.arange(2, 5).expand(2, -1)
    is_3d = "mrope_section" in (getattr(text, "rope_scaling", None) or {})
    total = {0: "batch_size", 1: "total_sequence_length"}
    axes = embeds | {"position_ids": {1: "batch_size", 2: "sequence_length"} if is_3d else rows}
    inputs = {"inputs_embeds": torch.randn(2, 3, text.hidden_size)}
    if per_layer_size:
        shape = (2, 3, text.num_hidden_layers, per_layer_size)
        inputs["per_layer_inputs"] = torch.randn(shape)
    else:
        axes["attention_mask"] = total
        inputs["attention_mask"] = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    inputs["position_ids"] = positions.expand(3, -1, -1) if is_3d else positions
    if spec.decoder.get("keeps_logits"):
        inputs["num_logits_to_keep"] = torch.tensor(1)
    outputs = {"logits": rows}
    # The last layers may share the keys and values of earlier layers.
    for layer in range(text.num_hidden_layers - getattr(text, "num_kv_shared_layers", 0)):
        for part in ("key", "value"):
            name = f"past_key_values.{layer}.{part}"
            inputs[name] = torch.randn(2, heads, 2, size)
            axes[name] = {0: "batch_size", 2: "past_sequence_length"}
            outputs[f"present.{layer}.{part}"] = {0: "batch_size", 2: "total_sequence_length"}
    trace(
        spec.decoder_class(model, **spec.decoder),
        inputs,
        outputs,
        axes,
        target,
    )


class Runner:
    """Runs the sessions of a bundle, one row at a time."""

    def __init__(
        self,
        spec: Spec,
        model: PreTrainedModel,
        folder: Path,
        suffixes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        def path(name: str) -> Path:
            return folder / f"{name}{suffixes.get(name, '')}.onnx"

        self.spec, self.model = spec, model
        # The input of each encoder, and the config key of its placeholder token.
        encoders = {
            "pixel_values": ("vision_encoder", "image_token_id", spec.vision),
            "input_features": ("audio_encoder", "audio_token_id", spec.audio),
        }
        self.encoders = {
            values: (open_session(path(name)), getattr(model.config, token))
            for values, (name, token, module) in encoders.items()
            if module is not None
        }
        self.embed = open_session(path("embed_tokens"))
        self.embed_outputs = [o.name for o in self.embed.get_outputs()]
        self.decoder = Decoder(path("decoder_model_merged"))

    def _embed_tokens(self, ids: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Returns embeddings, and the other decoder inputs per token."""
        results = self.embed.run(self.embed_outputs, {"input_ids": ids})
        named = {
            name: values.astype(np.float32)
            for name, values in zip(self.embed_outputs, results, strict=True)
        }
        return named.pop("inputs_embeds"), named

    def _embed(self, inputs: dict) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        ids = inputs["input_ids"].numpy()
        embeds, extra_inputs = self._embed_tokens(ids)
        for values, (session, token_id) in self.encoders.items():
            if values not in inputs:
                continue
            input_types = {i.name: TYPES[i.type] for i in session.get_inputs()}
            feeds = {
                name: value.numpy().astype(input_types[name])
                for name, value in media_feeds(list(input_types), inputs).items()
            }
            (features,) = session.run(None, feeds)
            features = features.reshape(-1, features.shape[-1])
            mask = ids == token_id
            if mask.sum() != len(features):
                raise AssertionError(f"{mask.sum()} placeholders for {len(features)} features")
            embeds[mask] = features
        return embeds, extra_inputs

    def _steps(self, inputs: dict, choose: Callable[[np.ndarray], int | None]) -> None:
        """Passes the logits of each step to `choose`, which returns the next token."""
        decoder, first = self.decoder, self.spec.first_position
        decoder.reset()
        embeds, extra_inputs = self._embed(inputs)
        length = embeds.shape[1]
        positions = np.arange(first, first + length)[None]
        shift = first
        if len(decoder.inputs["position_ids"].shape) == 3:
            grid = inputs.get("image_grid_thw")
            rope_ids, delta = self.model.model.get_rope_index(inputs["input_ids"], grid)
            positions, shift = rope_ids.numpy(), int(delta)
        while True:
            extra = {"position_ids": positions, **extra_inputs}
            if "num_logits_to_keep" in decoder.inputs:
                extra["num_logits_to_keep"] = np.array(1)
            token_id = choose(decoder.step(embeds, "inputs_embeds", **extra))
            if token_id is None:
                return
            embeds, extra_inputs = self._embed_tokens(np.array([[token_id]]))
            positions = np.full_like(positions[..., :1], decoder.length + shift)

    def check(self, row: int, inputs: dict, answer: Generation) -> float:
        """Compares the logits with those of the model; returns the largest difference."""
        differences: list[float] = []

        def compare(logits: np.ndarray) -> int | None:
            n = len(differences)
            differences.append(float(np.abs(logits - answer.raw_logits[n]).max()))
            return answer.token_ids[n] if n + 1 < len(answer.token_ids) else None

        self._steps(inputs, compare)
        worst = max(differences)
        if worst * 4 > answer.gap:
            raise AssertionError(f"row {row}: logits differ by {worst}, gap {answer.gap}")
        return worst

    def answer(self, inputs: dict, eos_ids: list[int]) -> dict:
        """Returns the greedy answer of the sessions."""
        token_ids: list[int] = []
        gaps = []

        def best(logits: np.ndarray) -> int | None:
            second, first = np.sort(logits)[-2:]
            gaps.append(float(first - second))
            token_ids.append(int(logits.argmax()))
            ended = token_ids[-1] in eos_ids or len(token_ids) == MAX_NEW_TOKENS
            return None if ended else token_ids[-1]

        self._steps(inputs, best)
        finish = "stop" if token_ids[-1] in eos_ids else "length"
        return {"token_ids": token_ids, "finish": finish, "gap": round(min(gaps), 5)}


# The sessions, and the groups that are converted to half precision together.
SESSIONS = ("vision_encoder", "embed_tokens", "decoder_model_merged")
HALVES = {"rows_fp16_front": SESSIONS[:2], "rows_fp16_decoder": SESSIONS[2:]}


def make_fp16(
    spec: Spec, model: PreTrainedModel, folder: Path, inputs: list[dict], eos_ids: list[int]
) -> dict[str, list[dict]]:
    """Adds sessions in half precision, including inputs and outputs, and answers of mixed sessions.

    The answers are those of ONNX Runtime, row by row: transformers rounds differently.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    for name in SESSIONS:
        half = convert_float_to_float16(onnx.load(folder / f"{name}.onnx"), keep_io_types=False)
        onnx.save(shorten(half), folder / f"{name}_fp16.onnx")
    results = {}
    for key, half_sessions in HALVES.items():
        runner = Runner(spec, model, folder, dict.fromkeys(half_sessions, "_fp16"))
        results[key] = [runner.answer(row, eos_ids) for row in inputs]
        print(f"  {key}: smallest gap {min(row['gap'] for row in results[key]):.4f}")
    return results


def make(spec: Spec) -> None:
    """Makes the bundle and its reference."""
    folder = BUNDLES / spec.name
    shutil.rmtree(folder, ignore_errors=True)
    media.make()
    tokenizer = spec.tokenizer(folder)
    for name, content in spec.files.items():
        write_json(folder / name, content)
    rows = spec.rows(folder, tokenizer) if spec.rows else prompts(spec, folder)
    model, results = build(spec, tokenizer, [inputs for _, inputs in rows])
    config = json.loads(model.config.to_json_string()) | {
        "architectures": [spec.model_class.__name__]
    }
    write_json(folder / "config.json", spec.publish(config))
    write_json(folder / "generation_config.json", spec.generation(tokenizer))
    export(spec, model, [inputs for _, inputs in rows], folder / "onnx")

    runner = Runner(spec, model, folder / "onnx")
    worst = max(runner.check(i, rows[i][1], answer) for i, answer in enumerate(results))
    print(f"  largest logit difference {worst:.1e}")
    output_rows = []
    for (row, _), answer in zip(rows, results, strict=True):
        output_rows.append({**row, **answer.row()})
        output_rows[-1]["answer"] = tokenizer.decode(answer.token_ids, skip_special_tokens=True)
    eos_ids = np.atleast_1d(spec.generation(tokenizer)["eos_token_id"]).tolist()
    inputs = [inputs for _, inputs in rows]
    fp16_rows = make_fp16(spec, model, folder / "onnx", inputs, eos_ids) if spec.fp16 else {}
    write_reference(
        spec.name,
        output_rows,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_ids=eos_ids,
        image_backend=spec.image_backend,
        **spec.extras(folder),
        **fp16_rows,
    )
    print(f"  {size_of(folder)} bytes")
