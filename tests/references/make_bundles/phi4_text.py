"""The decoder of `phi4` by onnxruntime-genai's builder, and whether all graphs answer as `phi4`."""

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

SOURCE = "phi4"
# Pixels of a crop's edge.
CROP = 448


@dataclass
class Spec:
    """What the command names."""

    name: str


SPECS = [Spec("phi4_text")]


class Graphs:
    """All graphs, one row at a time."""

    def __init__(self, folder: Path) -> None:
        self.parts = {
            part: open_session(folder / f"phi-4-mm-{part}.onnx")
            for part in ("vision", "speech", "embedding")
        }
        self.decoder = Decoder(folder / "phi-4-mm-text.onnx", head_size=16)

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
        features = {
            "image_features": self._features("vision", media, size),
            "audio_features": self._features("speech", media, size),
        }
        none = {name: values[:0] for name, values in features.items()}
        self.decoder.reset()
        tokens, token_ids = prompt_ids, []
        while len(token_ids) < n:
            feeds = {"input_ids": np.array([tokens]), **(none if token_ids else features)}
            (embeds,) = self.parts["embedding"].run(None, feeds)
            tokens = [int(self.decoder.step(embeds, "inputs_embeds").argmax())]
            token_ids += tokens
        return token_ids


def make(spec: Spec) -> None:
    """Adds the decoder to the bundle; its reference stays as it is."""
    folder, built = BUNDLES / SOURCE, WORK / "phi4_built"
    shutil.rmtree(built, ignore_errors=True)
    build(built, spec.name, ["--extra_options", "exclude_embeds=true"])
    onnx.save(shorten(onnx.load(built / "model.onnx")), folder / "phi-4-mm-text.onnx")
    reference = json.loads((BUNDLES / f"{SOURCE}.json").read_text())
    graphs = Graphs(folder)
    for place, row in enumerate(reference["rows"]):
        media = dict(np.load(WORK / spec.name / f"row_{place}.npz"))
        ours = graphs.answer(row["prompt_ids"], media, len(row["token_ids"]))
        expect_equal(SOURCE, place, ours, row["token_ids"])
    print(f"  {size_of(folder)} bytes, inputs {list(graphs.decoder.inputs)}")
