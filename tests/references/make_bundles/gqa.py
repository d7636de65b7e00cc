"""The weights of `llama` in graphs with GroupQueryAttention.

`llama_gqa` is the output of onnxruntime-genai's model builder. `llama_gqa_hub` is the same graph in
the layout of transformers.js. `llama_bias` handles padding by `attention_bias`, as newer published
decoders do; no available builder writes that, so the script edits the graph.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .common import BUNDLES, WORK, size_of, write_reference_text
from .runtime import Decoder, check_batch, expect_equal, greedy
from .toktypes import write_json

SOURCE = "llama"


@dataclass
class Spec:
    """One bundle of this kind."""

    name: str


SPECS = [Spec("llama_gqa"), Spec("llama_gqa_hub"), Spec("llama_bias")]


def build(folder: Path, source: str = SOURCE, extra_args: Sequence[str] = ()) -> None:
    """Runs the builder, which writes the genai layout."""
    checkpoint = WORK / source
    if not checkpoint.exists():
        raise SystemExit(f"checkpoint not found: make `{source}` first")
    options = ["-i", checkpoint, "-o", folder, "-p", "fp32", "-e", "cpu", "-c", WORK / "cache"]
    # Its Python function needs options that its command line prepares, so run the command.
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    subprocess.run([*builder, *map(str, options), *extra_args], check=True, capture_output=True)


def as_hub_layout(genai: Path, folder: Path) -> onnx.ModelProto:
    """Copies the other files from `llama`, and returns the graph with its weights."""
    shutil.copytree(BUNDLES / SOURCE, folder, ignore=shutil.ignore_patterns("onnx"))
    (folder / "onnx").mkdir()
    return onnx.load(genai / "model.onnx")


def save_with_external_data(model: onnx.ModelProto, folder: Path) -> None:
    """Writes `onnx/model.onnx` with `onnx/model.onnx_data`, and declares that in `config.json`."""
    onnx.save(
        model,
        folder / "onnx" / "model.onnx",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=256,
    )
    (folder / "onnx" / "model.onnx_data").chmod(0o644)
    config = json.loads((folder / "config.json").read_text())
    config["transformers.js_config"] = {"use_external_data_format": {"model.onnx": 1}}
    write_json(folder / "config.json", config)


def mask_by_bias(model: onnx.ModelProto) -> onnx.ModelProto:
    """Moves padding from `seqlens_k` to `attention_bias`.

    `seqlens_k` becomes the batch width minus one for every row. The bias is 0 where the mask is 1,
    and the lowest float where it is 0. Rows are therefore padded on the left.
    """
    graph = model.graph
    root = "/model/gqa_attention_bias"
    constants = {
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "axes": np.array([1, 2], np.int64),
        "keep": np.array(0, np.float32),
        "drop": np.array(np.finfo(np.float32).min, np.float32),
    }
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(value, f"{root}/{name}"))

    def node(op: str, name: str, inputs: list[str], **attributes: object) -> onnx.NodeProto:
        full = [i if i.startswith(("/", "attention", "input")) else f"{root}/{i}" for i in inputs]
        output = f"{root}/{name}"
        return helper.make_node(op, full, [output], f"{output}_node", **attributes)

    added = [
        node("Shape", "batch", ["attention_mask"], start=0, end=1),
        node("Shape", "total", ["attention_mask"], start=1, end=2),
        node("Shape", "new", ["input_ids"], start=1, end=2),
        node("Sub", "last", ["total", "one"]),
        node("Cast", "last_int32", ["last"], to=TensorProto.INT32),
        node("Expand", "seqlens_k", ["last_int32", "batch"]),
        node("Cast", "is_token", ["attention_mask"], to=TensorProto.BOOL),
        node("Where", "by_key", ["is_token", "keep", "drop"]),
        node("Unsqueeze", "by_key_4d", ["by_key", "axes"]),
        node("Concat", "shape", ["batch", "one", "new", "total"], axis=0),
        node("Expand", "Expand/output_0", ["by_key_4d", "shape"]),
    ]
    for attention in graph.node:
        if attention.op_type == "GroupQueryAttention":
            attention.input[5] = f"{root}/seqlens_k"
            attention.input[10] = f"{root}/Expand/output_0"
    rest = [n for n in graph.node if "ReduceSum" not in n.op_type]
    del graph.node[:]
    graph.node.extend(_used(added + rest, {o.name for o in graph.output}))
    return model


def _used(nodes: list[onnx.NodeProto], needed: set[str]) -> list[onnx.NodeProto]:
    """Drops nodes with unused outputs; `nodes` is in topological order."""
    kept = []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    return kept[::-1]


def make(spec: Spec) -> None:
    """Makes the bundle; its weights and its reference are those of `llama`."""
    folder, genai = BUNDLES / spec.name, WORK / "llama_gqa"
    shutil.rmtree(folder, ignore_errors=True)
    if spec.name == "llama_gqa" or not genai.exists():
        shutil.rmtree(genai, ignore_errors=True)
        build(genai)
    graph_path = folder / "onnx" / "model.onnx"
    if spec.name == "llama_gqa":
        shutil.copytree(genai, folder)
        graph_path = folder / "model.onnx"
    elif spec.name == "llama_gqa_hub":
        save_with_external_data(as_hub_layout(genai, folder), folder)
    else:
        onnx.save(mask_by_bias(as_hub_layout(genai, folder)), graph_path)

    text = (BUNDLES / f"{SOURCE}.json").read_text()
    reference = json.loads(text)
    decoder = Decoder(graph_path, head_size=16)
    for i, row in enumerate(reference["rows"]):
        ours, _ = greedy(
            decoder,
            row["prompt_ids"],
            reference["eos_token_ids"],
            reference["max_new_tokens"],
        )
        expect_equal(spec.name, i, ours, row["token_ids"])
    check_batch(
        spec.name,
        decoder,
        reference["rows"],
        reference["eos_token_ids"],
        pad_left=spec.name == "llama_bias",
    )
    del reference["rows_fp16"]
    rows = reference.pop("rows")
    write_reference_text(spec.name, rows, {**reference, "weights_of": SOURCE})
    print(f"  {size_of(folder)} bytes, inputs {list(decoder.inputs)}")
