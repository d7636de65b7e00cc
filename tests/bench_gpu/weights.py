"""Weights by formula: graphs are copied without them; each machine computes the same weights."""

import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from references.make_bundles.weights import randomize

# Smaller tensors stay in the graph.
LARGE_BYTES = 4096
LOCATION = "weights.data"


def _to_fp16_without_zeros(value: np.ndarray) -> np.ndarray:
    """Converts to fp16 as onnxruntime 1.31.1 (`transformers/float16.py`), without new zeros."""
    smallest = np.float32(5.96e-08)
    small = (value != 0) & (np.abs(value) < smallest)
    return np.where(small, np.copysign(smallest, value), value).astype(np.float16)


PRECISIONS = {
    "fp32": lambda value: value,
    "fp16": lambda value: value.astype(np.float16),
    "fp16 kept from zero": _to_fp16_without_zeros,
}


def parameters(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Returns the parameters of a model, filled by a formula of their names."""
    # Small gains: in deep random models with large gains, rounding alone changes every answer.
    randomize(model.eval(), seed=7, gain=0.5)
    return {name: value.detach().numpy() for name, value in model.named_parameters()}


def _forms(weights: dict[str, np.ndarray]) -> dict[bytes, dict]:
    """Returns the forms of parameters in a graph: unchanged, transposed or fused projections."""
    forms: dict[bytes, dict] = {}

    def add(names: list[str], turned: bool) -> None:
        value = _value({"names": names, "turned": turned}, weights)
        for precision in PRECISIONS:
            form = {"names": names, "turned": turned, "precision": precision}
            forms.setdefault(PRECISIONS[precision](value).tobytes(), form)

    for name, value in weights.items():
        add([name], turned=False)
        if value.ndim == 2:
            add([name], turned=True)
        if "q_proj" in name:
            add([name, name.replace("q_proj", "k_proj"), name.replace("q_proj", "v_proj")], True)
    return forms


def _value(form: dict, weights: dict[str, np.ndarray]) -> np.ndarray:
    parts = [weights[name].T if form["turned"] else weights[name] for name in form["names"]]
    return np.ascontiguousarray(np.concatenate(parts, axis=-1))


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    subgraphs = [a.g for node in graph.node for a in node.attribute if a.type == a.GRAPH]
    return [graph, *(g for graph in subgraphs for g in _graphs(graph))]


def strip(sources: list[Path], folder: Path, weights: dict[str, np.ndarray]) -> None:
    """Writes graphs without the file of their large tensors, and a description of that file."""
    forms, entries, end = _forms(weights), {}, 0
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        model = onnx.load(source)
        for tensor in (t for graph in _graphs(model.graph) for t in graph.initializer):
            if tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
                continue
            content = numpy_helper.to_array(tensor).tobytes()
            form = forms.get(content)
            if len(content) < LARGE_BYTES:
                continue
            if form is None:
                print(f"{source.name}: {tensor.name} {list(tensor.dims)} stays in the graph")
                continue
            key = json.dumps(form)
            if key not in entries:
                entries[key] = {**form, "offset": end, "length": len(content)}
                # The runtime maps the file, so tensors start on page boundaries.
                end += -(-len(content) // 4096) * 4096
            for field in ("raw_data", "float_data", "int32_data"):
                tensor.ClearField(field)
            tensor.data_location = TensorProto.EXTERNAL
            for name in ("offset", "length"):
                tensor.external_data.add(key=name, value=str(entries[key][name]))
            tensor.external_data.add(key="location", value=LOCATION)
        (folder / source.name).write_bytes(model.SerializeToString())
    (folder / "weights.json").write_text(json.dumps(list(entries.values())))
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB without {end / 1e6:.0f} MB of weights")


def fill(folder: Path, weights: dict[str, np.ndarray]) -> None:
    """Writes the file that `strip` omitted."""
    with (folder / LOCATION).open("wb") as file:
        for entry in json.loads((folder / "weights.json").read_text()):
            file.seek(entry["offset"])
            value = PRECISIONS[entry["precision"]](_value(entry, weights))
            file.write(value.tobytes())
