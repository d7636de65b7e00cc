"""Sentence encoders in the layout of sentence-transformers, with `onnx/model.onnx`."""

import shutil
from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, BertConfig, PreTrainedModel, PreTrainedTokenizerBase

from . import toktypes
from .common import BUNDLES, WORK, size_of, write_reference
from .corpus import ROW_TEXTS
from .export import export
from .runtime import open_session
from .toktypes import write_json
from .weights import randomize

MAX_TOKENS = 64
TOLERANCE = 2e-6


@dataclass
class Spec:
    """One bundle of this kind."""

    name: str
    # `mean` or `cls`.
    pooling: str
    lowercase: bool = True
    prompts: dict[str, str] = field(default_factory=dict)
    # Like the published bundle, the first bundle has a tokenizer file that truncates and pads to an
    # unintended length; sentence-transformers overrides both settings.
    frozen_length: int | None = None


SPECS = [
    Spec("minilm", "mean", prompts={"query": "query: ", "document": "passage: "}, frozen_length=24),
    Spec("bge", "cls", lowercase=False),
]


def pool(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Returns normalized sentence embeddings [B, C], as sentence-transformers computes them."""
    if pooling == "cls":
        pooled = states[:, 0]
    else:
        weights = mask[..., None].to(states.dtype)
        pooled = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(pooled, dim=-1)


def write_modules(spec: Spec, hidden_size: int) -> None:
    """Writes the additional files that sentence-transformers reads."""
    folder = BUNDLES / spec.name
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    pooling = {
        "word_embedding_dimension": hidden_size,
        "pooling_mode_cls_token": spec.pooling == "cls",
        "pooling_mode_mean_tokens": spec.pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": MAX_TOKENS, "do_lower_case": False},
    )
    versions = {"sentence_transformers": "2.0.0", "transformers": "4.57.6", "pytorch": "2.9.1"}
    config = {"__version__": versions}
    if spec.prompts:
        config |= {"prompts": spec.prompts, "default_prompt_name": None}
    write_json(folder / "config_sentence_transformers.json", config)


def build_tokenizer(spec: Spec) -> Tokenizer:
    """Makes a BERT tokenizer, with frozen settings if the spec has them."""
    tokenizer = toktypes.word_piece(400, spec.lowercase)
    if spec.frozen_length:
        tokenizer.enable_truncation(spec.frozen_length)
        tokenizer.enable_padding(length=spec.frozen_length, pad_token="[PAD]")
    return tokenizer


def references(
    spec: Spec, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[dict]:
    """Returns rows for every text without a prompt, then for the first texts with each prompt."""
    rows = []
    for prompt_name in [None, *spec.prompts]:
        for text in ROW_TEXTS if prompt_name is None else ROW_TEXTS[:3]:
            whole = spec.prompts.get(prompt_name, "") + text
            inputs = tokenizer(
                whole, truncation=True, padding=False, max_length=MAX_TOKENS, return_tensors="pt"
            )
            with torch.no_grad():
                states = model(**inputs).last_hidden_state
            embedding = pool(states, inputs["attention_mask"], spec.pooling)[0]
            row = {"text": text}
            if prompt_name:
                row["prompt_name"] = prompt_name
            row["token_ids"] = inputs["input_ids"][0].tolist()
            row["embedding"] = [round(v, 7) for v in embedding.tolist()]
            rows.append(row)
    return rows


def check(spec: Spec, rows: list[dict]) -> list[str]:
    """Runs the graph on all rows as one right-padded batch; returns its input names."""
    session = open_session(BUNDLES / spec.name / "onnx" / "model.onnx")
    width = max(len(row["token_ids"]) for row in rows)
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row["token_ids"])] = row["token_ids"]
        mask[i, : len(row["token_ids"])] = 1
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    names = [i.name for i in session.get_inputs()]
    (states,) = session.run(None, {name: feeds[name] for name in names})
    ours = pool(torch.from_numpy(states), torch.from_numpy(mask), spec.pooling).numpy()
    reference = np.array([row["embedding"] for row in rows])
    worst = np.abs(ours - reference).max()
    nearest = (reference @ reference.T - 2 * np.eye(len(rows))).max()
    print(f"  largest difference {worst:.1e}, most similar rows {nearest:.3f}")
    if worst > TOLERANCE:
        raise AssertionError(f"{spec.name}: the graph differs by {worst}")
    return names


def make(spec: Spec) -> None:
    """Makes the bundle and its reference."""
    folder, checkpoint = BUNDLES / spec.name, WORK / spec.name
    for path in (folder, checkpoint):
        shutil.rmtree(path, ignore_errors=True)
    config = {
        "clean_up_tokenization_spaces": True,
        "cls_token": "[CLS]",
        "do_basic_tokenize": True,
        "do_lower_case": spec.lowercase,
        "mask_token": "[MASK]",
        "model_max_length": 128,
        "never_split": None,
        "pad_token": "[PAD]",
        "sep_token": "[SEP]",
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "tokenizer_class": "BertTokenizer",
        "unk_token": "[UNK]",
    }
    tokenizer = toktypes.save(build_tokenizer(spec), folder, config)
    model_config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=128,
        attn_implementation="eager",
    )
    model = AutoModel.from_config(model_config, add_pooling_layer=False).eval()
    randomize(model, seed=0)
    rows = references(spec, model, tokenizer)

    model.save_pretrained(checkpoint)
    for path in folder.iterdir():
        shutil.copy(path, checkpoint)
    export(checkpoint, folder, "feature-extraction")
    write_modules(spec, model_config.hidden_size)
    inputs = check(spec, rows)
    write_reference(spec.name, rows, pooling=spec.pooling, max_seq_length=MAX_TOKENS)
    print(f"  {size_of(folder)} bytes, inputs {inputs}")
