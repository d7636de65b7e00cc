"""Florence-2: maps an image and a task to a caption, boxes, polygons or lines of text.

No exporter supports the layout of transformers.js: `vision_encoder`, `embed_tokens`,
`encoder_model`, `decoder_model_merged`. The graphs are traced from modules in this file and merged
by optimum.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartTokenizerFast,
    CLIPImageProcessorFast,
    EncoderDecoderCache,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GenerationConfig,
    PreTrainedTokenizerBase,
)

from . import media, toktypes
from .common import BUNDLES, size_of, write_reference
from .decoding import MAX_NEW_TOKENS, Generation, common_token, faults, first_good_seed, generate
from .graphs import merge, trace
from .runtime import Decoder, check_steps, open_session
from .sessions import EmbedTokens, ImageFeatures
from .toktypes import write_json
from .weights import randomize, swap_rows

SIDE = 48
IMAGE_TOKENS = 37
LAYERS = 2
# Special tokens of the published tokenizer that occur in answers.
MARKS = ["<od>", "</od>", "<ocr>", "</ocr>", "<sep>", "<poly>", "</poly>", "<and>"]
BANNED = ["it", "the image", "image", "the", "a"]
LOCATIONS = [f"<loc_{location}>" for location in range(1000)]
REGION = "<loc_52><loc_332><loc_932><loc_774>"
# One prompt per image, in the order of image names.
PROMPTS = [
    "<CAPTION>",
    "<OD>",
    "<OCR_WITH_REGION>",
    "<CAPTION_TO_PHRASE_GROUNDING>A green car parked in front of a house.",
    "<REGION_PROPOSAL>",
    f"<REGION_TO_DESCRIPTION>{REGION}",
    "<REFERRING_EXPRESSION_SEGMENTATION> the disc ",
    "<OPEN_VOCABULARY_DETECTION>wheel",
    "<DENSE_REGION_CAPTION>",
    f"<REGION_TO_SEGMENTATION>{REGION}",
    "<MORE_DETAILED_CAPTION>",
    "<OCR>",
    # No task: the model gets the text unchanged.
    "What colour is the disc?",
]
BOX, QUAD = "<loc_1><loc_22><loc_333><loc_999>", "<loc_0><loc_10><loc_500><loc_10>"
QUAD += "<loc_500><loc_40><loc_0><loc_40>"
# Outputs of trained models, and outputs that they should not write, with the task.
SEQUENCES = [
    ("<CAPTION>", "<s> a cup of tea on a table. "),
    ("<OD>", f"<s>car{BOX}door{BOX}{BOX}wheel<loc_1><loc_2>"),
    ("<OD>", f"<s>{BOX}unnamed"),
    ("<OD>", f"<s> two\nlines{BOX}\n spaced {BOX}\nends with a line\n{BOX}"),
    ("<OD>", f"<s>caffè ☕{BOX}<loc_5><loc_6><loc_7> rest<sep>x{BOX}"),
    ("<OD>", "nothing at all"),
    ("<DENSE_REGION_CAPTION>", f"<pad>a < b{BOX}"),
    ("<CAPTION_TO_PHRASE_GROUNDING>", f"<s>A green car{BOX}{BOX} the image{BOX}it{BOX}dog {BOX}"),
    ("<REGION_PROPOSAL>", f"<s>{BOX}{BOX}<loc_7>text{BOX}"),
    ("<OCR_WITH_REGION>", f"<s>First line{QUAD}Second{QUAD}{QUAD}"),
    ("<OCR_WITH_REGION>", f"<s>over\ntwo{QUAD}<loc_3>three{QUAD} \n{QUAD}<s>tail"),
    ("<REFERRING_EXPRESSION_SEGMENTATION>", f"<s>{QUAD}<sep>{BOX}<loc_9>"),
    ("<REGION_TO_SEGMENTATION>", f"<s><poly>{QUAD}</poly><poly>{BOX}<sep>{BOX}</poly>"),
    ("<REGION_TO_SEGMENTATION>", f"<s>{QUAD}<poly>{BOX}and{BOX}<sep>{BOX}"),
    ("<REGION_TO_SEGMENTATION>", f"<s><sep><loc_1><loc_2><sep>{BOX}</poly>"),
    ("<OPEN_VOCABULARY_DETECTION>", f"<s>wheel{BOX}tyre{BOX}{BOX}"),
    ("<OPEN_VOCABULARY_DETECTION>", f"<s>wheel<poly>{QUAD}</poly>tyre{BOX}<sep>{QUAD}"),
]
SIZES = [(300, 200), (48, 80), (1000, 1000), (1237, 911), (400, 16)]


@dataclass
class Spec:
    """The name on the command line."""

    name: str


SPECS = [Spec("florence2")]


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = toktypes.byte_level(340, specials, digits=None)
    tokenizer = toktypes.specials_first(tokenizer, specials)
    tokenizer.add_special_tokens([*MARKS[:4], *LOCATIONS, *MARKS[4:]])
    toktypes.frame(tokenizer, ["<s>"], ["</s>"])
    return toktypes.save(
        tokenizer,
        folder,
        {
            "add_prefix_space": False,
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "cls_token": "<s>",
            "eos_token": "</s>",
            "errors": "replace",
            "model_max_length": 1024,
            "pad_token": "<pad>",
            "processor_class": "Florence2Processor",
            "sep_token": "</s>",
            "tokenizer_class": "BartTokenizer",
            "trim_offsets": True,
            "unk_token": "<unk>",
        },
    )


def _processor(folder: Path) -> Florence2Processor:
    """Makes the reference processor; its tokenizer has an additional image token."""
    tokenizer = BartTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.image_token = "<image>"
    tokenizer.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    kinds = ["pure_text", "ocr", "description_with_bboxes", "description_with_polygons"]
    kinds += ["polygons", "bboxes", "description_with_bboxes_or_polygons"]
    parsing = {kind: {} for kind in kinds}
    parsing["phrase_grounding"] = {"banned_grounding_tokens": BANNED}
    images = CLIPImageProcessorFast.from_pretrained(folder)
    images.image_seq_length = IMAGE_TOKENS
    return Florence2Processor(images, tokenizer, post_processor_config=parsing)


def _preprocessor(processor: Florence2Processor | None = None) -> dict:
    config = {
        "crop_size": {"height": SIDE, "width": SIDE},
        "do_center_crop": False,
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "CLIPImageProcessor",
        "image_seq_length": IMAGE_TOKENS,
        "image_std": [0.229, 0.224, 0.225],
        "processor_class": "Florence2Processor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": SIDE, "width": SIDE},
    }
    if processor:
        # For transformers.js, this file contains constants that transformers has in its code.
        for name in (
            "task_prompts_with_input",
            "task_prompts_without_inputs",
            "tasks_answer_post_processing_type",
        ):
            config[name] = getattr(processor, name)
    return config


def _generation() -> dict:
    return {
        "bos_token_id": 0,
        "decoder_start_token_id": 2,
        "early_stopping": True,
        "eos_token_id": 2,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "no_repeat_ngram_size": 3,
        "pad_token_id": 1,
        "transformers_version": "4.57.6",
    }


def _config(n_tokens: int, image_token_id: int) -> Florence2Config:
    text = BartConfig(
        vocab_size=n_tokens,
        d_model=16,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=160,
        tie_word_embeddings=False,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )
    vision = {
        "depths": [1, 1],
        "embed_dim": [8, 16],
        "num_heads": [2, 2],
        "num_groups": [2, 2],
        "patch_size": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "window_size": 4,
        "drop_path_rate": 0.0,
        "projection_dim": 16,
        "max_position_embeddings": 8,
        "max_temporal_embeddings": 4,
    }
    config = Florence2Config(
        text_config=text.to_dict(), vision_config=vision, image_token_id=image_token_id
    )
    config.tie_word_embeddings = False
    return config


def _publish(config: dict, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Converts the config to the form of the original code, published with the weights."""
    config = config | {
        "architectures": ["Florence2ForConditionalGeneration"],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "projection_dim": 16,
        "vocab_size": len(tokenizer) + 1,
    }
    del config["image_token_id"]
    return config


class TextEncoder(nn.Module):
    """Maps the features of an image and a text to hidden states."""

    def __init__(self, model: Florence2ForConditionalGeneration) -> None:
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, attention_mask: torch.Tensor, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Returns [B, T, C]."""
        out = self.encoder(inputs_embeds=inputs_embeds, attention_mask=attention_mask)
        return out.last_hidden_state


class TextDecoder(nn.Module):
    """The first step, or a later step with a KV cache."""

    def __init__(self, model: Florence2ForConditionalGeneration) -> None:
        super().__init__()
        self.decoder, self.head = model.model.language_model.decoder, model.lm_head

    def forward(
        self,
        encoder_attention_mask: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        inputs_embeds: torch.Tensor,
        *past: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Returns logits, then the KV cache: all of it, or only the part that grows."""
        layers = tuple(past[i : i + 4] for i in range(0, len(past), 4))
        cache = EncoderDecoderCache.from_legacy_cache(layers) if past else None
        out = self.decoder(
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=cache,
            use_cache=True,
        )
        present = out.past_key_values.to_legacy_cache()
        states = [state for layer in present for state in layer[: 2 if past else 4]]
        return self.head(out.last_hidden_state), *states


def _export(model: Florence2ForConditionalGeneration, folder: Path) -> None:
    rows = {0: "batch_size", 1: "sequence_length"}
    images = {0: "batch_size"}
    trace(
        ImageFeatures(model),
        {"pixel_values": torch.randn(2, 3, SIDE, SIDE)},
        {"image_features": images},
        {"pixel_values": images},
        folder / "vision_encoder.onnx",
    )
    trace(
        EmbedTokens(model),
        {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 10]])},
        {"inputs_embeds": rows},
        {"input_ids": rows},
        folder / "embed_tokens.onnx",
    )
    source = {0: "batch_size", 1: "encoder_sequence_length"}
    mask = torch.tensor([[1] * 40, [1] * 38 + [0] * 2])
    trace(
        TextEncoder(model),
        {"attention_mask": mask, "inputs_embeds": torch.randn(2, 40, 16)},
        {"last_hidden_state": source},
        {"attention_mask": source, "inputs_embeds": source},
        folder / "encoder_model.onnx",
    )
    inputs = {
        "encoder_attention_mask": mask,
        "encoder_hidden_states": torch.randn(2, 40, 16),
        "inputs_embeds": torch.randn(2, 1, 16),
    }
    axes = dict.fromkeys(list(inputs)[:2], source) | {"inputs_embeds": rows}
    past, parts = {}, []
    for layer in range(LAYERS):
        for side in ("decoder", "encoder"):
            for part in ("key", "value"):
                parts.append(f"{layer}.{side}.{part}")
                length = 3 if side == "decoder" else 40
                past[f"past_key_values.{parts[-1]}"] = torch.randn(2, 2, length, 8)
    lengths = {"decoder": "past_decoder_sequence_length", "encoder": "encoder_sequence_length"}
    past_axes = {name: {0: "batch_size", 2: lengths[name.split(".")[2]]} for name in past}
    present = {f"present.{part}": {0: "batch_size", 2: "length"} for part in parts}
    grown = {name: sizes for name, sizes in present.items() if ".decoder." in name}
    first, with_past = folder / "decoder_model.onnx", folder / "decoder_with_past_model.onnx"
    trace(TextDecoder(model), inputs, {"logits": rows, **present}, axes, first)
    trace(
        TextDecoder(model),
        inputs | past,
        {"logits": rows, **grown},
        axes | past_axes,
        with_past,
    )
    shapes = {name: ["batch_size", 2, "length", 8] for name in present}
    shapes["logits"] = ["batch_size", "sequence_length", model.lm_head.out_features]
    merge(folder, shapes)


def _check(folder: Path, inputs: list[dict], results: list[Generation], image_id: int) -> None:
    """Runs the sessions with the wiring of transformers.js."""
    vision = open_session(folder / "vision_encoder.onnx")
    embed = open_session(folder / "embed_tokens.onnx")
    encoder = open_session(folder / "encoder_model.onnx")
    decoder = Decoder(folder / "decoder_model_merged.onnx")
    worst = 0.0
    plain_step = decoder.step

    def step(tokens: np.ndarray, **extra: np.ndarray) -> np.ndarray:
        (embeds,) = embed.run(None, {"input_ids": tokens})
        return plain_step(embeds, "inputs_embeds", **extra)

    decoder.step = step
    for i, (row, answer) in enumerate(zip(inputs, results, strict=True)):
        ids = row["input_ids"].numpy()
        (text,) = embed.run(None, {"input_ids": ids[:, (ids != image_id)[0]]})
        (features,) = vision.run(None, {"pixel_values": row["pixel_values"].numpy()})
        embeds = np.concatenate([features, text], axis=1)
        mask = np.ones(embeds.shape[:2], np.int64)
        (states,) = encoder.run(None, {"inputs_embeds": embeds, "attention_mask": mask})
        extra = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        worst = max(worst, check_steps("florence2", i, decoder, [2], answer, **extra))
    print(f"  largest logit difference {worst:.1e}, decoder inputs {list(decoder.inputs)}")


def _task(prompt: str) -> str:
    """Returns the task of a prompt, or an empty string."""
    return prompt.split(">")[0] + ">" if prompt.startswith("<") else ""


def _answer(processor: Florence2Processor, text: str, task: str, size: tuple[int, int]) -> str:
    """Returns the reference answer for a text: JSON, or plain text for text tasks."""
    results = processor.post_process_generation(text, task=task, image_size=size)[task]
    if isinstance(results, str):
        return results
    return json.dumps(results, ensure_ascii=False, separators=(",", ":"))


def make(spec: Spec) -> None:
    """Makes the bundle and its reference."""
    folder = BUNDLES / spec.name
    shutil.rmtree(folder, ignore_errors=True)
    media.make()
    tokenizer = _tokenizer(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        # A thousand locations, each on ten lines, would be most of the bundle.
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content, separators=(",", ":")) + "\n")
    write_json(folder / "preprocessor_config.json", _preprocessor())
    processor = _processor(folder)
    image_id = processor.image_token_id
    names = sorted(media.images())
    inputs = []
    for name, prompt in zip(names, PROMPTS, strict=True):
        image = media.read_image(name)
        row = processor(images=image, text=prompt, return_tensors="pt")
        inputs.append({key: row[key] for key in ("input_ids", "attention_mask", "pixel_values")})

    def answers(model: Florence2ForConditionalGeneration) -> list[Generation]:
        return [generate(model, row, [2]) for row in inputs]

    def answer_text(row: int, answer: Generation) -> str:
        text = processor.batch_decode([[2, *answer.token_ids]], skip_special_tokens=False)[0]
        size = media.read_image(names[row]).size
        return _answer(processor, text, _task(PROMPTS[row]), size)

    def attempt(seed: int) -> tuple[tuple, list[Generation]] | None:
        torch.manual_seed(seed)
        config = _config(len(tokenizer) + 1, image_id)
        config._attn_implementation = "eager"
        model = Florence2ForConditionalGeneration(config).eval()
        randomize(model, seed, 1.5, embedding_std=1.0)
        with torch.no_grad():
            # Make location tokens likely, so that some answers have boxes.
            first = tokenizer.convert_tokens_to_ids(LOCATIONS[0])
            model.lm_head.weight[first : first + 1000] *= 1.3
            model.lm_head.weight[image_id] *= 0.0
        model.generation_config = GenerationConfig(**_generation())
        end = common_token(answers(model), set(tokenizer.all_special_ids) - set(range(344, 1400)))
        if end is None:
            return None
        swap_rows(model.lm_head.weight, end, 2)
        results = answers(model)
        if not faults(results, needs_both_ends=False):
            if sum("[[" in text for text in map(answer_text, range(len(results)), results)) < 4:
                return None
            noise = [row | {"pixel_values": row["pixel_values"] + 1e-6} for row in inputs]
            noisy_answers = [generate(model, row, [2]).token_ids for row in noise]
            if noisy_answers != [answer.token_ids for answer in results]:
                return None
        return (model, results), results

    model, results = first_good_seed(attempt, needs_both_ends=False)
    write_json(folder / "preprocessor_config.json", _preprocessor(processor))
    config = json.loads(model.config.to_json_string())
    write_json(folder / "config.json", _publish(config, tokenizer))
    write_json(folder / "generation_config.json", _generation())
    _export(model, folder / "onnx")
    _check(folder / "onnx", inputs, results, image_id)

    rows = []
    for i, (name, row_inputs, answer) in enumerate(zip(names, inputs, results, strict=True)):
        ids = row_inputs["input_ids"][0].tolist()
        beams = model.generate(**row_inputs, num_beams=3, max_new_tokens=MAX_NEW_TOKENS)[0].tolist()
        rows.append(
            {
                "image": name,
                "prompt": PROMPTS[i],
                "prompt_ids": [token for token in ids if token != image_id],
                **answer.row(),
                "answer": answer_text(i, answer),
                "beams": beams[1:],
            }
        )
    sequences = [
        [task, text, list(size), _answer(processor, f"</s>{text}</s>", task, size)]
        for task, text in SEQUENCES
        for size in SIZES
    ]
    write_reference(
        spec.name,
        rows,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_ids=[2],
        image_backend="torchvision",
        sequences=sequences,
        banned=BANNED,
    )
    print(f"  {size_of(folder)} bytes")
