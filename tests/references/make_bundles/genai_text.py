"""The decoder of `phi4` by onnxruntime-genai's builder and its adapters, and bundles of that layout
held to their references."""

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

# Pixels of the edge of a crop of Phi-4-multimodal.
CROP = 448


@dataclass
class Spec:
    """What the command names, and the bundle of which that is the decoder."""

    name: str
    bundle: str
    # What files of graphs begin with.
    prefix: str
    # Where its checkpoint and what its encoders take was left.
    checkpoint: str


SPECS = [
    Spec("phi4_text", "phi4", "phi-4-mm", "phi4_text"),
    Spec("qwen2_5_vl_text", "qwen2_5_vl_genai", "qwen-2.5-vl", "qwen2_5_vl_genai"),
]


class Graphs:
    """All graphs, one row at a time."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.parts = {
            path.stem.removeprefix(f"{prefix}-"): open_session(path)
            for path in folder.glob("*.onnx")
            if not path.stem.endswith("text")
        }
        config = json.loads((folder / "genai_config.json").read_text())["model"]
        # Pictures want their adapter with sounds beside them too, so it comes first.
        self.adapters = {
            part: read_adapter(folder / config[part]["adapter_filename"])
            for part in ("vision", "speech")
            if "adapter_filename" in config.get(part, {})
        }
        self.decoder = Decoder(folder / f"{prefix}-text.onnx", head_size=16)

    def _features(self, part: str, media: dict[str, np.ndarray], size: int) -> np.ndarray:
        own = {name.split("/")[1]: v for name, v in media.items() if name.startswith(f"{part}/")}
        if part == "vision" and len(own.get("image_sizes", ())) > 1:
            # One picture at a time, without the crops that fill it up to the largest.
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
        """The likeliest tokens."""
        size = self.decoder.inputs["inputs_embeds"].shape[2]
        parts = {"image_features": "vision", "audio_features": "speech"}
        taken = [i.name for i in self.parts["embedding"].get_inputs()]
        features = {
            name: self._features(part, media, size) for name, part in parts.items() if name in taken
        }
        none = {name: values[:0] for name, values in features.items()}
        seen = {name.split("/")[0] for name in media}
        adapter = next((own for part, own in self.adapters.items() if part in seen), {})
        self.decoder.reset()
        tokens, token_ids = prompt_ids, []
        while len(token_ids) < n:
            feeds = {"input_ids": np.array([tokens]), **(none if token_ids else features)}
            (embeds,) = self.parts["embedding"].run(None, feeds)
            more = dict(adapter)
            if "positions" in media:
                # Three axes, which go on after the prompt as one.
                more["position_ids"] = media["positions"]
                if token_ids:
                    place = self.decoder.length + int(media["shift"].squeeze())
                    more["position_ids"] = np.full((3, 1, 1), place)
            tokens = [int(self.decoder.step(embeds, "inputs_embeds", **more).argmax())]
            token_ids += tokens
        return token_ids


def read_adapter(path: Path) -> dict[str, np.ndarray]:
    """The LoRA weights of an adapter's file, by the decoder's inputs."""
    parameters = ort.AdapterFormat.read_adapter(str(path)).get_parameters()
    return {name: value.numpy().copy() for name, value in parameters.items()}


def write_adapter(weights: dict[str, np.ndarray], path: Path) -> None:
    """Writes the file of one adapter."""
    adapter = ort.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in weights.items()}
    adapter.set_parameters(values)
    adapter.export_adapter(str(path))


def add_lora_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Gives the linear layers LoRA weights as inputs, which are of rank 0 where nothing is fed.

    So are the published decoders, whose adapters are files of such inputs.
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
    """Holds the graphs of a bundle to its reference; `media` has what encoders take of each row."""
    reference = json.loads((BUNDLES / f"{bundle}.json").read_text())
    graphs = Graphs(BUNDLES / bundle, prefix)
    for place, row in enumerate(reference["rows"]):
        own = dict(np.load(media / f"row_{place}.npz"))
        ours = graphs.answer(row["prompt_ids"], own, len(row["token_ids"]))
        expect_equal(bundle, place, ours, row["token_ids"])
    print(f"  {size_of(BUNDLES / bundle)} bytes, inputs {list(graphs.decoder.inputs)}")


def make(spec: Spec) -> None:
    """Adds the decoder and its adapters to the bundle; its reference stays as it is."""
    folder, built = BUNDLES / spec.bundle, WORK / f"{spec.name}_built"
    shutil.rmtree(built, ignore_errors=True)
    build(built, spec.checkpoint, ["--extra_options", "exclude_embeds=true"])
    model = onnx.load(built / "model.onnx")
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
