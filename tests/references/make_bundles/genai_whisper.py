"""The weights of `whisper` in the layout of onnxruntime-genai.

Its encoder computes the keys and values of cross-attention, and there is no list of suppressed
tokens.
"""

import json
import shutil
from dataclasses import dataclass

import numpy as np
import onnx
from transformers import AutoFeatureExtractor

from . import media
from .common import BUNDLES, WORK, size_of, write_reference_text
from .gqa import build
from .graphs import shorten
from .runtime import TYPES, expect_equal, open_session

SOURCE = "whisper"
# The other files of published repositories.
TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]


@dataclass
class Spec:
    """One bundle of this kind."""

    name: str


SPECS = [Spec("whisper_genai")]


class Transcriber:
    """Runs both graphs, one row at a time."""

    def __init__(self, folder: object) -> None:
        self.encoder = open_session(folder / "encoder.onnx")
        self.decoder = open_session(folder / "decoder.onnx")
        self.inputs = {i.name: i for i in self.decoder.get_inputs()}

    def answer(self, features: np.ndarray, prompt_ids: list[int], n_tokens: int) -> list[int]:
        """Returns the tokens of greedy decoding after a prompt."""
        names = [o.name for o in self.encoder.get_outputs()]
        states = dict(zip(names, self.encoder.run(None, {"audio_features": features}), strict=True))
        cache = {k.replace("present_", "past_"): v for k, v in states.items() if "_cross_" in k}
        for name, meta in self.inputs.items():
            if "_self_" in name:
                cache[name] = np.zeros((1, meta.shape[1], 0, meta.shape[3]), TYPES[meta.type])
        names = [o.name for o in self.decoder.get_outputs()]
        tokens, token_ids = prompt_ids, []
        while len(token_ids) < n_tokens:
            feeds = {"input_ids": np.array([tokens], np.int32), **cache}
            out = dict(zip(names, self.decoder.run(None, feeds), strict=True))
            cache |= {k.replace("present_", "past_"): v for k, v in out.items() if "_self_" in k}
            tokens = [int(out["logits"][0, -1].argmax())]
            token_ids += tokens
        return token_ids


def make(spec: Spec) -> None:
    """Makes the bundle; its reference has the answers of `whisper` without suppressed tokens."""
    folder = BUNDLES / spec.name
    shutil.rmtree(folder, ignore_errors=True)
    build(folder, SOURCE)
    for path in sorted(folder.glob("*.onnx")):
        model = shorten(onnx.load(path))
        for data in folder.glob(f"{path.name}.data"):
            data.unlink()
        onnx.save(model, path)
    for path in folder.iterdir():
        if path.is_file() and path.name in {"config.json", "generation_config.json"}:
            raise RuntimeError(f"the builder now writes {path.name}: update the README")
    for name in TOKENIZER_FILES:
        shutil.copy(BUNDLES / SOURCE / name, folder)

    reference = json.loads((BUNDLES / f"{SOURCE}.json").read_text())
    transcriber = Transcriber(folder)
    extractor = AutoFeatureExtractor.from_pretrained(WORK / SOURCE)
    rows = reference.pop("unlisted_rows")
    for i, row in enumerate(rows):
        # The timestamp rules are not part of the graphs.
        if not row["return_timestamps"]:
            samples = media.read_audio(row["audio"])
            features = extractor(samples, sampling_rate=16000, return_tensors="np")
            ours = transcriber.answer(
                features["input_features"], row["prompt_ids"], len(row["token_ids"])
            )
            expect_equal(spec.name, i, ours, row["token_ids"])
    del reference["long_rows"], reference["rows"]
    write_reference_text(spec.name, rows, {**reference, "weights_of": SOURCE})
    print(f"  {size_of(folder)} bytes, inputs {list(transcriber.inputs)}")
