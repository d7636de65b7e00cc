"""Bundles in the most common published quantizations, with the weights of other bundles.

`q8` as in transformers.js: 8-bit weights and activations, with a scale over the whole run
(`DynamicQuantizeLinear`). The answer of a row therefore depends on the other rows of its batch; the
references are of rows that run alone. `q4`: weights in blocks of 4 bits, and activations unchanged
or in blocks of 8 bits (`MatMulNBits`, accuracy level 4). Here a row depends only on itself.

The answers are those of ONNX Runtime, row by row. For encoder-decoders, transformers generates with
the sessions of optimum.
"""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16
from optimum.onnxruntime import ORTModelForSeq2SeqLM, ORTModelForSpeechSeq2Seq
from transformers import AutoTokenizer

from . import embeddings, multimodal, readers, seq2seq, speech, translators
from .common import BUNDLES, WORK, size_of, write_reference_text
from .decoding import MAX_NEW_TOKENS, generate
from .graphs import shorten
from .runtime import Decoder, greedy_rows, open_session

# Rows with a smaller gap between the best and the second best logit are omitted: rounding an
# activation to the next of 256 values could change their answers.
SMALLEST_GAP = 3e-3
# The file name suffix of each precision.
SUFFIXES = {"q8": "_quantized", "q4": "_q4", "q4f16": "_q4f16"}


def nodes_of(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Returns all nodes, including those of branches."""
    results = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                results += nodes_of(attribute.g)
    return results


def quantize(source: Path, target: Path, precision: str) -> None:
    """Writes a graph in another precision."""
    WORK.mkdir(exist_ok=True)
    model = onnx.load(source)
    # Quantizers identify nodes by name.
    for i, node in enumerate(nodes_of(model.graph)):
        node.name = f"n{i}"
    if precision == "q8":
        named = WORK / "named.onnx"
        onnx.save(model, named)
        # Unsigned weights: with signed ones, 16-bit overflow differs between processors.
        quantize_dynamic(
            named,
            target,
            weight_type=QuantType.QUInt8,
            extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
        )
        model = onnx.load(target)
    else:
        if precision == "q4f16":
            model = convert_float_to_float16(model, keep_io_types=False)
        level = 4 if precision == "q4" else None
        quantizer = MatMulNBitsQuantizer(
            model, bits=4, block_size=32, is_symmetric=True, accuracy_level=level
        )
        quantizer.process()
        model = quantizer.model.model
    expected_op = "DynamicQuantizeLinear" if precision == "q8" else "MatMulNBits"
    is_static = "embed_tokens" in target.name
    if not is_static and expected_op not in {node.op_type for node in nodes_of(model.graph)}:
        raise AssertionError(f"{target}: {expected_op} not found")
    onnx.save(shorten(model), target)


def path(folder: Path, graph: str, precision: str) -> Path:
    """Returns the path of a graph."""
    return folder / "onnx" / f"{graph}{SUFFIXES[precision]}.onnx"


def causal_rows(folder: Path, source: dict, precisions: Mapping[str, str]) -> list[dict]:
    """Returns the answers of a text decoder."""
    decoder = Decoder(path(folder, "model", precisions["model"]), head_size=16)
    return greedy_rows(decoder, source["rows"], source["eos_token_ids"], MAX_NEW_TOKENS)


def encoder_decoder_rows(folder: Path, source: dict, precisions: Mapping[str, str]) -> list[dict]:
    """Returns the answers of an encoder-decoder: transformers with the sessions of optimum."""
    name = folder.name.removesuffix("_quantized")
    spec = next(spec for spec in [*translators.SPECS, *speech.SPECS] if spec.name == name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    is_audio = "audio" in source["rows"][0]
    with TemporaryDirectory() as renamed:
        # Optimum expects the file names of full-precision graphs.
        shutil.copytree(folder, renamed, ignore=shutil.ignore_patterns("onnx"), dirs_exist_ok=True)
        for graph, precision in precisions.items():
            shutil.copy(path(folder, graph, precision), Path(renamed) / f"{graph}.onnx")
        model_class = ORTModelForSpeechSeq2Seq if is_audio else ORTModelForSeq2SeqLM
        model = model_class.from_pretrained(renamed)
        results = []
        for row in seq2seq.inputs_of(spec, folder, tokenizer):
            answer = generate(model, row, source["eos_token_ids"])
            decoded = {"answer": spec.answer(tokenizer, answer.prompt_ids, answer.token_ids)}
            results.append(answer.row() | decoded)
    for row in results:
        # Other processors give similar values, not equal ones.
        del row["logprob_mean"]
    return results


def reader_rows(folder: Path, source: dict, precisions: Mapping[str, str]) -> list[dict]:
    """Returns the answers of a decoder with image input."""
    spec = next(spec for spec in readers.SPECS if spec.name == "smolvlm")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    model = SimpleNamespace(config=SimpleNamespace(image_token_id=image_token_id))
    suffixes = {graph: SUFFIXES[precision] for graph, precision in precisions.items()}
    runner = multimodal.Runner(spec, model, folder / "onnx", suffixes)
    eos_ids = source["eos_token_ids"]
    return [runner.answer(inputs, eos_ids) for _, inputs in multimodal.prompts(spec, folder)]


def embedding_rows(folder: Path, source: dict, precisions: Mapping[str, str]) -> list[dict]:
    """Returns the embeddings of a sentence encoder."""
    session = open_session(path(folder, "model", precisions["model"]))
    results = []
    for row in source["rows"]:
        ids = np.array([row["token_ids"]])
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        feeds["token_type_ids"] = np.zeros_like(ids)
        (states,) = session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})
        states, mask = torch.from_numpy(states), torch.from_numpy(feeds["attention_mask"])
        embedding = embeddings.pool(states, mask, source["pooling"])[0]
        results.append({"embedding": [round(v, 7) for v in embedding.tolist()]})
    return results


# The answer fields of a source row.
ANSWERED = {"finish", "logprob_mean", "gap", "answer", "embedding"}


@dataclass
class Spec:
    """One bundle of this kind."""

    name: str
    source: str
    # The values of `run` in reference rows, with the precision of each graph.
    runs: dict[str, dict[str, str]]
    rows: Callable[[Path, dict, Mapping[str, str]], list[dict]]


def make(spec: Spec) -> None:
    """Makes the bundle and its reference."""
    # Quantizers log every tensor.
    logging.disable(logging.WARNING)
    folder, origin = BUNDLES / spec.name, BUNDLES / spec.source
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(origin, folder, ignore=shutil.ignore_patterns("*.onnx", "*.onnx_data"))
    for graph, precision in sorted({pair for run in spec.runs.values() for pair in run.items()}):
        quantize(origin / "onnx" / f"{graph}.onnx", path(folder, graph, precision), precision)
    source = json.loads((BUNDLES / f"{spec.source}.json").read_text())
    rows = []
    for run, precisions in spec.runs.items():
        for row, answer in zip(source["rows"], spec.rows(folder, source, precisions), strict=True):
            if answer.get("gap", 1) > SMALLEST_GAP:
                source_fields = {key: value for key, value in row.items() if key not in ANSWERED}
                rows.append({"run": run, **source_fields, **answer})
        n_rows = sum(row["run"] == run for row in rows)
        print(f"  {run}: {n_rows} of {len(source['rows'])} rows")
        if n_rows < 8:
            raise AssertionError(f"{spec.name}: too few rows: {n_rows}")
    head = ("max_new_tokens", "eos_token_ids", "image_backend", "pooling", "max_seq_length")
    copied = {key: source[key] for key in head if key in source}
    made_by = f"onnxruntime {onnxruntime.__version__}, one row at a time"
    head_lines = {"reference": made_by, "weights_of": spec.source, **copied}
    write_reference_text(spec.name, rows, head_lines)
    print(f"  {size_of(folder)} bytes")


SPECS = [
    Spec(
        "llama_quantized",
        "llama",
        {precision: {"model": precision} for precision in SUFFIXES},
        causal_rows,
    ),
    Spec("llama_gqa_quantized", "llama_gqa_hub", {"q8": {"model": "q8"}}, causal_rows),
    *(
        Spec(
            f"{source}_quantized",
            source,
            {"q8": {"encoder_model": "q8", "decoder_model_merged": "q8"}},
            encoder_decoder_rows,
        )
        for source in ("t5", "whisper")
    ),
    Spec(
        "smolvlm_quantized",
        "smolvlm",
        {
            "q8": dict.fromkeys(multimodal.SESSIONS, "q8"),
            "q8_q4": {
                "vision_encoder": "q8",
                "embed_tokens": "q8",
                "decoder_model_merged": "q4",
            },
        },
        reader_rows,
    ),
    Spec("minilm_quantized", "minilm", {"q8": {"model": "q8"}}, embedding_rows),
]
