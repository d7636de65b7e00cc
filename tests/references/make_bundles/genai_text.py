"""Builds the decoder and adapters of `phi4` with onnxruntime-genai's builder.

Also compares bundles of that layout with their references.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from .common import BUNDLES, WORK, size_of
from .gqa import build
from .graphs import shorten
from .runtime import Decoder, expect_equal, open_session

# Edge of a Phi-4-multimodal crop, in pixels.
CROP = 448


@dataclass
class Spec:
    """The name on the command line, and the bundle that the decoder belongs to."""

    name: str
    bundle: str
    # The prefix of graph file names.
    prefix: str
    # The folder of its checkpoint and its encoder inputs.
    checkpoint: str


SPECS = [
    Spec("phi4_text", "phi4", "phi-4-mm", "phi4_text"),
    Spec("qwen2_5_vl_text", "qwen2_5_vl_genai", "qwen-2.5-vl", "qwen2_5_vl_genai"),
]


class Graphs:
    """Runs all graphs, one row at a time."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.parts = {
            path.stem.removeprefix(f"{prefix}-"): open_session(path)
            for path in folder.glob("*.onnx")
            if not path.stem.endswith("text")
        }
        config = json.loads((folder / "genai_config.json").read_text())["model"]
        # Images need the vision adapter even together with audio, so it comes first.
        self.adapters = {
            part: read_adapter(folder / config[part]["adapter_filename"])
            for part in ("vision", "speech")
            if "adapter_filename" in config.get(part, {})
        }
        self.decoder = Decoder(folder / f"{prefix}-text.onnx", head_size=16)

    def _features(self, part: str, media: dict[str, np.ndarray], size: int) -> np.ndarray:
        own = {name.split("/")[1]: v for name, v in media.items() if name.startswith(f"{part}/")}
        if part == "vision" and len(own.get("image_sizes", ())) > 1:
            # One image at a time, without the crops that pad it to the largest image.
            split = []
            for i, image_size in enumerate(own["image_sizes"]):
                one = {f"{part}/{name}": values[i : i + 1] for name, values in own.items()}
                n_crops = int((image_size // CROP).prod()) + 1
                for name in ("pixel_values", "image_attention_mask"):
                    one[f"{part}/{name}"] = one[f"{part}/{name}"][:, :n_crops]
                split.append(one)
            return np.concatenate([self._features(part, one, size) for one in split])
        if not own:
            return np.zeros((0, size), np.float32)
        return self.parts[part].run(None, own)[0]

    def answer(self, prompt_ids: list[int], media: dict[str, np.ndarray], n: int) -> list[int]:
        """Returns the tokens of greedy decoding."""
        size = self.decoder.inputs["inputs_embeds"].shape[2]
        parts = {"image_features": "vision", "audio_features": "speech"}
        accepted = [i.name for i in self.parts["embedding"].get_inputs()]
        features = {
            name: self._features(part, media, size)
            for name, part in parts.items()
            if name in accepted
        }
        no_features = {name: values[:0] for name, values in features.items()}
        kinds = {name.split("/")[0] for name in media}
        adapter = next((own for part, own in self.adapters.items() if part in kinds), {})
        self.decoder.reset()
        tokens, token_ids = prompt_ids, []
        while len(token_ids) < n:
            feeds = {"input_ids": np.array([tokens]), **(no_features if token_ids else features)}
            (embeds,) = self.parts["embedding"].run(None, feeds)
            extra_inputs = dict(adapter)
            if "positions" in media:
                # Three axes, which advance together after the prompt.
                extra_inputs["position_ids"] = media["positions"]
                if token_ids:
                    position = self.decoder.length + int(media["shift"].squeeze())
                    extra_inputs["position_ids"] = np.full((3, 1, 1), position)
            tokens = [int(self.decoder.step(embeds, "inputs_embeds", **extra_inputs).argmax())]
            token_ids += tokens
        return token_ids


def read_adapter(path: Path) -> dict[str, np.ndarray]:
    """Returns the LoRA weights of an adapter file, by decoder input."""
    parameters = ort.AdapterFormat.read_adapter(str(path)).get_parameters()
    return {name: value.numpy().copy() for name, value in parameters.items()}


def write_adapter(weights: dict[str, np.ndarray], path: Path) -> None:
    """Writes an adapter file."""
    adapter = ort.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in weights.items()}
    adapter.set_parameters(values)
    adapter.export_adapter(str(path))


def add_lora_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Adds LoRA weights of the linear layers as inputs, of rank 0 by default.

    Published decoders have such inputs, and their adapters are files of the inputs.
    """
    graph = model.graph
    sizes = {value.name: list(value.dims) for value in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.append(node)
        if node.op_type != "MatMul" or not node.input[1].startswith("model.layers."):
            continue
        layer = node.input[1].removesuffix(".MatMul.weight")
        a, b = (f"{layer}.lora_{part}.MatMul.weight" for part in "AB")
        n_in, n_out = sizes[node.input[1]]
        for name, shape, empty in (
            (a, [n_in, "rank"], [n_in, 0]),
            (b, ["rank", n_out], [0, n_out]),
        ):
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
            graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, empty, []))
        output = node.output[0]
        base, down, up = (f"{output}/{part}" for part in ("base", "lora_A", "lora_B"))
        graph.node[-1].output[0] = base
        graph.node.append(helper.make_node("MatMul", [node.input[0], a], [down]))
        graph.node.append(helper.make_node("MatMul", [down, b], [up]))
        graph.node.append(helper.make_node("Add", [base, up], [output]))
    return model


def check(bundle: str, prefix: str, media: Path) -> None:
    """Compares a bundle's graphs with its reference; `media` has the encoder inputs of each row."""
    reference = json.loads((BUNDLES / f"{bundle}.json").read_text())
    graphs = Graphs(BUNDLES / bundle, prefix)
    for index, row in enumerate(reference["rows"]):
        own = dict(np.load(media / f"row_{index}.npz"))
        ours = graphs.answer(row["prompt_ids"], own, len(row["token_ids"]))
        expect_equal(bundle, index, ours, row["token_ids"])
    print(f"  {size_of(BUNDLES / bundle)} bytes, inputs {list(graphs.decoder.inputs)}")


def make(spec: Spec) -> None:
    """Adds the decoder and its adapters to the bundle; its reference does not change."""
    folder, build_folder = BUNDLES / spec.bundle, WORK / f"{spec.name}_built"
    shutil.rmtree(build_folder, ignore_errors=True)
    build(build_folder, spec.checkpoint, ["--extra_options", "exclude_embeds=true"])
    model = onnx.load(build_folder / "model.onnx")
    adapters = WORK / spec.checkpoint / "adapters.npz"
    if adapters.exists():
        model = add_lora_inputs(model)
        for part in ("vision", "speech"):
            weights = {
                name.removeprefix(f"{part}/"): values
                for name, values in np.load(adapters).items()
                if name.startswith(f"{part}/")
            }
            write_adapter(weights, folder / f"{spec.prefix}-{part}.onnx_adapter")
    onnx.save(shorten(model), folder / f"{spec.prefix}-text.onnx")
    check(spec.bundle, spec.prefix, WORK / spec.checkpoint)
