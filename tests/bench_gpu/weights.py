"""Weights by formula: graphs travel without them, and both machines make the same."""

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


def _kept_from_zero(value: np.ndarray) -> np.ndarray:
    """Halves as onnxruntime 1.31.1 (`transformers/float16.py`) makes them: none becomes zero."""
    least = np.float32(5.96e-08)
    small = (value != 0) & (np.abs(value) < least)
    return np.where(small, np.copysign(least, value), value).astype(np.float16)


PRECISIONS = {
    "fp32": lambda value: value,
    "fp16": lambda value: value.astype(np.float16),
    "fp16 kept from zero": _kept_from_zero,
}


def parameters(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The parameters of a model, filled by their names."""
    # Small gains: in deep random models with large ones, rounding alone changes every answer.
    randomize(model.eval(), seed=7, gain=0.5)
    return {name: value.detach().numpy() for name, value in model.named_parameters()}


def _forms(known: dict[str, np.ndarray]) -> dict[bytes, dict]:
    """What a graph may hold of parameters: as they are, turned, or three projections in one."""
    found: dict[bytes, dict] = {}

    def add(names: list[str], turned: bool) -> None:
        value = _value({"names": names, "turned": turned}, known)
        for precision in PRECISIONS:
            form = {"names": names, "turned": turned, "precision": precision}
            found.setdefault(PRECISIONS[precision](value).tobytes(), form)

    for name, value in known.items():
        add([name], turned=False)
        if value.ndim == 2:
            add([name], turned=True)
        if "q_proj" in name:
            add([name, name.replace("q_proj", "k_proj"), name.replace("q_proj", "v_proj")], True)
    return found


def _value(form: dict, known: dict[str, np.ndarray]) -> np.ndarray:
    parts = [known[name].T if form["turned"] else known[name] for name in form["names"]]
    return np.ascontiguousarray(np.concatenate(parts, axis=-1))


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    inner = [a.g for node in graph.node for a in node.attribute if a.type == a.GRAPH]
    return [graph, *(g for graph in inner for g in _graphs(graph))]


def strip(sources: list[Path], folder: Path, known: dict[str, np.ndarray]) -> None:
    """Writes graphs whose large tensors lie in a file that is left out, and what is in it."""
    forms, places, end = _forms(known), {}, 0
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
            if key not in places:
                places[key] = {**form, "offset": end, "length": len(content)}
                # Pages, as the runtime wants them for mapping.
                end += -(-len(content) // 4096) * 4096
            for field in ("raw_data", "float_data", "int32_data"):
                tensor.ClearField(field)
            tensor.data_location = TensorProto.EXTERNAL
            for name in ("offset", "length"):
                tensor.external_data.add(key=name, value=str(places[key][name]))
            tensor.external_data.add(key="location", value=LOCATION)
        (folder / source.name).write_bytes(model.SerializeToString())
    (folder / "weights.json").write_text(json.dumps(list(places.values())))
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB without {end / 1e6:.0f} MB of weights")


def fill(folder: Path, known: dict[str, np.ndarray]) -> None:
    """Writes the file that `strip` left out."""
    with (folder / LOCATION).open("wb") as file:
        for place in json.loads((folder / "weights.json").read_text()):
            file.seek(place["offset"])
            value = PRECISIONS[place["precision"]](_value(place, known))
            file.write(value.tobytes())
