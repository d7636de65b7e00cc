"""Text decoders with a growing KV cache, exported by optimum: `onnx/model.onnx`."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

import onnx
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
)

from . import templates, toktypes
from .common import BUNDLES, WORK, size_of, write_reference
from .corpus import ROW_TEXTS, SYSTEM_TEXTS
from .decoding import MAX_NEW_TOKENS, Generation, common_token, first_good_seed, generate
from .export import export
from .graphs import shorten
from .runtime import Decoder, check_batch, expect_equal, greedy, greedy_rows
from .weights import randomize, swap_rows

# Two layers, and fewer key and value heads than query heads if the model supports that.
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


@dataclass
class Spec:
    """One bundle of this kind."""

    name: str
    tokenizer: Callable[[], Tokenizer]
    # The contents of `tokenizer_config.json`; `eos_token` ends an answer.
    tokenizer_config: dict
    config: Callable[[PreTrainedTokenizerBase], PretrainedConfig]
    template: str | None
    # More end tokens, which published generation configs may list.
    extra_eos: list[str] = field(default_factory=list)
    eos_is_list: bool = True
    supports_system: bool = True
    gain: float = 1.5
    fp16: bool = False
    template_in_config: bool = False


def prompts(spec: Spec, tokenizer: PreTrainedTokenizerBase) -> list[dict]:
    """Returns the rows without answers."""
    rows = []
    for i, text in enumerate(ROW_TEXTS):
        row = {"text": text}
        if spec.template is None:
            row |= {"rendered": None, "prompt_ids": tokenizer(text)["input_ids"]}
        else:
            messages = [{"role": "user", "content": text}]
            if spec.supports_system and i in SYSTEM_TEXTS:
                row["system"] = SYSTEM_TEXTS[i]
                messages.insert(0, {"role": "system", "content": row["system"]})
            row["rendered"] = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            row["prompt_ids"] = tokenizer(row["rendered"], add_special_tokens=False)["input_ids"]
        rows.append(row)
    return rows


def answers(model: PreTrainedModel, rows: list[dict], eos_ids: list[int]) -> list[Generation]:
    """Answers each row separately."""
    results = []
    for row in rows:
        input_ids = torch.tensor([row["prompt_ids"]])
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        results.append(generate(model, inputs, eos_ids, pad_token_id=0))
    return results


def build(
    spec: Spec, tokenizer: PreTrainedTokenizerBase, rows: list[dict], eos_ids: list[int]
) -> tuple[PreTrainedModel, list[Generation]]:
    """Returns the model of the first seed whose answers are a good reference."""
    excluded = set(tokenizer.all_special_ids)

    def attempt(seed: int) -> tuple[tuple, list[Generation]] | None:
        model = AutoModelForCausalLM.from_config(spec.config(tokenizer)).eval()
        model.generation_config.pad_token_id = None
        randomize(model, seed, spec.gain)
        end = common_token(answers(model, rows, []), excluded)
        if end is None:
            return None
        swap_rows(model.lm_head.weight, end, eos_ids[0])
        results = answers(model, rows, eos_ids)
        return (model, results), results

    return first_good_seed(attempt)


def make_fp16(spec: Spec, rows: list[dict], eos_ids: list[int]) -> list[dict]:
    """Adds `onnx/model_fp16.onnx`, with KV cache and logits in half precision too.

    Its answers are those of ONNX Runtime, row by row: transformers rounds differently.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx_folder = BUNDLES / spec.name / "onnx"
    half = convert_float_to_float16(onnx.load(onnx_folder / "model.onnx"), keep_io_types=False)
    onnx.save(shorten(half), onnx_folder / "model_fp16.onnx")
    decoder = Decoder(onnx_folder / "model_fp16.onnx")
    results = greedy_rows(decoder, rows, eos_ids, MAX_NEW_TOKENS)
    smallest = min(row["gap"] for row in results)
    n_equal = sum(a["token_ids"] == b["token_ids"] for a, b in zip(results, rows, strict=True))
    print(f"  fp16: smallest gap {smallest:.4f}, {n_equal} of {len(rows)} rows as in fp32")
    return results


def make(spec: Spec) -> None:
    """Makes the bundle and its reference."""
    folder, checkpoint = BUNDLES / spec.name, WORK / spec.name
    for path in (folder, checkpoint):
        shutil.rmtree(path, ignore_errors=True)
    tokenizer = toktypes.save(
        spec.tokenizer(),
        folder,
        spec.tokenizer_config,
        spec.template,
        spec.template_in_config,
    )
    eos_ids = [
        tokenizer.convert_tokens_to_ids(token) for token in [tokenizer.eos_token, *spec.extra_eos]
    ]
    rows = prompts(spec, tokenizer)
    model, results = build(spec, tokenizer, rows, eos_ids)
    for row, generation in zip(rows, results, strict=True):
        row |= generation.row()
        row["answer"] = tokenizer.decode(generation.token_ids, skip_special_tokens=True)

    model.save_pretrained(checkpoint)
    for path in folder.iterdir():
        shutil.copy(path, checkpoint)
    generation_config = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": eos_ids if spec.eos_is_list else eos_ids[0],
        "pad_token_id": tokenizer.pad_token_id,
        "max_new_tokens": MAX_NEW_TOKENS,
        "transformers_version": model.config.transformers_version,
    }
    generation_config = {k: v for k, v in generation_config.items() if v is not None}
    toktypes.write_json(checkpoint / "generation_config.json", generation_config)
    export(checkpoint, folder, "text-generation-with-past")
    toktypes.write_json(folder / "generation_config.json", generation_config)

    decoder = Decoder(folder / "onnx" / "model.onnx")
    for i, row in enumerate(rows):
        ours, _ = greedy(decoder, row["prompt_ids"], eos_ids, MAX_NEW_TOKENS)
        expect_equal(spec.name, i, ours, row["token_ids"])
    check_batch(spec.name, decoder, rows, eos_ids, pad_left=True)
    more = {"max_new_tokens": MAX_NEW_TOKENS, "eos_token_ids": eos_ids}
    if spec.fp16:
        more["rows_fp16"] = make_fp16(spec, rows, eos_ids)
    write_reference(spec.name, rows, **more)
    print(f"  {size_of(folder)} bytes, inputs {list(decoder.inputs)}")


def _llama3_tokenizer() -> Tokenizer:
    specials = [
        *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
        *("<|eot_id|>", "<|finetune_right_pad_id|>"),
    ]
    tokenizer = toktypes.byte_level(340, specials, digits="{1,3}")
    toktypes.frame(tokenizer, ["<|begin_of_text|>"], [])
    return tokenizer


def _ids(tokenizer: PreTrainedTokenizerBase) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


SPECS = [
    Spec(
        name="llama",
        tokenizer=_llama3_tokenizer,
        tokenizer_config={
            "bos_token": "<|begin_of_text|>",
            "clean_up_tokenization_spaces": True,
            "eos_token": "<|eot_id|>",
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 512,
            "pad_token": "<|finetune_right_pad_id|>",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
        # `gqa.py` puts these weights into GroupQueryAttention, which needs a head size of 16.
        config=lambda t: LlamaConfig(**SIZES, **_ids(t), head_dim=16, rope_theta=500000.0),
        template=templates.LLAMA3,
        extra_eos=["<|end_of_text|>"],
        template_in_config=True,
        fp16=True,
    ),
    Spec(
        name="qwen3",
        tokenizer=lambda: toktypes.byte_level(
            400,
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"],
            digits="",
            nfc=True,
        ),
        tokenizer_config={
            "add_prefix_space": False,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 512,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
        # The head size is not hidden / heads, as in published models.
        config=lambda t: Qwen3Config(**SIZES, **_ids(t), head_dim=16, rope_theta=1000000.0),
        template=templates.QWEN3,
        extra_eos=["<|endoftext|>"],
    ),
    Spec(
        name="gpt2",
        tokenizer=lambda: toktypes.byte_level(360, ["<|endoftext|>"], digits=None),
        tokenizer_config={
            "add_prefix_space": False,
            "bos_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|endoftext|>",
            "model_max_length": 512,
            "tokenizer_class": "GPT2Tokenizer",
            "unk_token": "<|endoftext|>",
        },
        config=lambda t: GPT2Config(
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=512,
            tie_word_embeddings=False,
            **_ids(t),
        ),
        template=None,
        eos_is_list=False,
    ),
    Spec(
        name="gemma3_text",
        tokenizer=lambda: _framed_bos(
            toktypes.metaspace_bpe(
                460,
                ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
                prefix_space=False,
            ),
            "<bos>",
        ),
        tokenizer_config={
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<bos>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "<end_of_turn>",
            "model_max_length": 512,
            "pad_token": "<pad>",
            "spaces_between_special_tokens": False,
            "tokenizer_class": "GemmaTokenizer",
            "unk_token": "<unk>",
            "use_default_system_prompt": False,
        },
        config=lambda t: Gemma3TextConfig(
            **SIZES,
            **_ids(t),
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention"],
        ),
        template=templates.GEMMA3,
        extra_eos=["<eos>"],
    ),
    Spec(
        name="mistral",
        tokenizer=lambda: _framed_bos(
            toktypes.metaspace_bpe(440, ["<unk>", "<s>", "</s>"], prefix_space=True), "<s>"
        ),
        tokenizer_config={
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "legacy": True,
            "model_max_length": 512,
            "pad_token": None,
            "spaces_between_special_tokens": False,
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>",
            "use_default_system_prompt": False,
        },
        config=lambda t: MistralConfig(**SIZES, **_ids(t), sliding_window=16),
        template=templates.MISTRAL,
        supports_system=False,
        eos_is_list=False,
        template_in_config=True,
    ),
]


def _framed_bos(tokenizer: Tokenizer, bos: str) -> Tokenizer:
    toktypes.frame(tokenizer, [bos], [])
    return tokenizer
