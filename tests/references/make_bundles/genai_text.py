"""The decoder of `phi4` by onnxruntime-genai's builder, and bundles of that layout held to their
references."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

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
        self.decoder.reset()
        tokens, token_ids = prompt_ids, []
        while len(token_ids) < n:
            feeds = {"input_ids": np.array([tokens]), **(none if token_ids else features)}
            (embeds,) = self.parts["embedding"].run(None, feeds)
            more = {}
            if "positions" in media:
                # Three axes, which go on after the prompt as one.
                more["position_ids"] = media["positions"]
                if token_ids:
                    place = self.decoder.length + int(media["shift"].squeeze())
                    more["position_ids"] = np.full((3, 1, 1), place)
            tokens = [int(self.decoder.step(embeds, "inputs_embeds", **more).argmax())]
            token_ids += tokens
        return token_ids


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
    """Adds the decoder to the bundle; its reference stays as it is."""
    folder, built = BUNDLES / spec.bundle, WORK / f"{spec.name}_built"
    shutil.rmtree(built, ignore_errors=True)
    build(built, spec.checkpoint, ["--extra_options", "exclude_embeds=true"])
    onnx.save(shorten(onnx.load(built / "model.onnx")), folder / f"{spec.prefix}-text.onnx")
    check(spec.bundle, spec.prefix, WORK / spec.checkpoint)
