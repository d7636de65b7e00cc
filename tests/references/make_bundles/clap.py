"""CLAP: a text and an audio encoder, in the layout of transformers.js."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn
from transformers import (
    ClapAudioModelWithProjection,
    ClapConfig,
    ClapFeatureExtractor,
    ClapTextModelWithProjection,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from . import media
from .captioners import roberta_tokenizer
from .common import BUNDLES, size_of, write_reference
from .corpus import ROW_TEXTS
from .graphs import trace
from .runtime import TYPES, open_session
from .toktypes import write_json
from .weights import randomize

# Published models use 48 kHz. These use the rate of the audio clips, because decibels expose the
# residue of a resampler in silence, which differs between resamplers.
RATE = 16000
CLIPS = [name for name, (_, rate) in sorted(media.audio_clips().items()) if rate == RATE]
TOLERANCE = 5e-5


@dataclass
class Spec:
    """One bundle of this kind; `fused` sees long audio as a whole and in three crops."""

    name: str
    fused: bool


class TextTower(nn.Module):
    """The text encoder and its projection."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Returns the embeddings [B, D]."""
        return self.model(input_ids, attention_mask).text_embeds


class AudioTower(nn.Module):
    """The audio encoder and its projection."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_features: torch.Tensor, is_longer: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the embeddings [B, D]."""
        return self.model(input_features, is_longer).audio_embeds


def _config(tokenizer: PreTrainedTokenizerBase, fused: bool) -> ClapConfig:
    return ClapConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            # Two more than the number of tokens, as in RoBERTa.
            "max_position_embeddings": 130,
            "pad_token_id": tokenizer.pad_token_id,
        },
        audio_config={
            "spec_size": 128,
            "window_size": 4,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "patch_embeds_hidden_size": 16,
            "depths": [1, 1],
            "num_attention_heads": [2, 4],
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "enable_fusion": fused,
            "fusion_type": "aff_2d" if fused else None,
        },
        projection_dim=24,
        attn_implementation="eager",
    )


def _processor(fused: bool) -> dict:
    return {
        "chunk_length_s": 1,
        "feature_extractor_type": "ClapFeatureExtractor",
        "feature_size": 64,
        "fft_window_size": 512,
        "frequency_max": 7000,
        "frequency_min": 50,
        "hop_length": 160,
        "max_length_s": 1,
        "n_fft": 512,
        "nb_frequency_bins": 257,
        "nb_max_frames": 101,
        "nb_max_samples": RATE,
        "padding": "repeatpad",
        "padding_side": "right",
        "padding_value": 0.0,
        "processor_class": "ClapProcessor",
        "return_attention_mask": False,
        "sampling_rate": RATE,
        "top_db": None,
        "truncation": "fusion" if fused else "rand_trunc",
    }


@contextmanager
def first_crops() -> Iterator[None]:
    """Makes the extractor choose the first possible crop instead of a random one."""
    with (
        mock.patch("numpy.random.randint", lambda low, high: low),
        mock.patch("numpy.random.choice", lambda values: values[0]),
    ):
        yield


def features(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Returns the features of one clip, [1, C, frames, mels], and whether it is long."""
    extractor = ClapFeatureExtractor.from_pretrained(folder)
    with first_crops():
        samples = media.read_audio(name)
        return dict(extractor(samples, sampling_rate=RATE, return_tensors="pt"))


@torch.no_grad()
def references(
    folder: Path,
    text: PreTrainedModel,
    audio: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> list[dict]:
    """Returns the rows of texts, then of audio clips, with unnormalized embeddings."""
    rows = []
    for line in ROW_TEXTS:
        inputs = tokenizer(line, truncation=True, max_length=128, return_tensors="pt")
        embedding = text(inputs["input_ids"], inputs["attention_mask"]).text_embeds[0]
        rows.append({"text": line, "token_ids": inputs["input_ids"][0].tolist()})
        rows[-1]["embedding"] = [round(v, 6) for v in embedding.tolist()]
    for name in CLIPS:
        embedding = audio(**features(folder, name)).audio_embeds[0]
        rows.append({"audio": name, "embedding": [round(v, 6) for v in embedding.tolist()]})
    return rows


def check(name: str, rows: list[dict], folder: Path) -> None:
    """Runs both graphs row by row and compares their embeddings."""
    text = open_session(folder / "onnx" / "text_model.onnx")
    audio = open_session(folder / "onnx" / "audio_model.onnx")
    worst = 0.0
    for row in rows:
        if "text" in row:
            ids = np.array([row["token_ids"]])
            output = text.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        else:
            inputs = features(folder, row["audio"])
            input_types = {i.name: TYPES[i.type] for i in audio.get_inputs()}
            feeds = {n: inputs[n].numpy().astype(dtype) for n, dtype in input_types.items()}
            output = audio.run(None, feeds)[0]
        worst = max(worst, float(np.abs(output[0] - np.array(row["embedding"])).max()))
    print(f"  largest difference {worst:.1e}")
    if worst > TOLERANCE:
        raise AssertionError(f"{name}: a graph differs by {worst}")


def make(spec: Spec) -> None:
    """Makes the bundle and its reference."""
    folder = BUNDLES / spec.name
    shutil.rmtree(folder, ignore_errors=True)
    media.make()
    tokenizer = roberta_tokenizer(folder)
    config = _config(tokenizer, spec.fused)
    write_json(folder / "preprocessor_config.json", _processor(spec.fused))
    write_json(folder / "config.json", {**config.to_diff_dict(), "architectures": ["ClapModel"]})
    text = ClapTextModelWithProjection(config.text_config).eval()
    audio = ClapAudioModelWithProjection(config.audio_config).eval()
    for model in (text, audio):
        randomize(model, seed=0)
    # The average level of an audio band, in decibels.
    audio.audio_model.audio_encoder.batch_norm.running_mean.fill_(-30.0)
    audio.audio_model.audio_encoder.batch_norm.running_var.fill_(900.0)
    rows = references(folder, text, audio, tokenizer)

    ids = torch.tensor([rows[1]["token_ids"], rows[1]["token_ids"]])
    states = {0: "batch_size", 1: "sequence_length"}
    trace(
        TextTower(text),
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        {"text_embeds": {0: "batch_size"}},
        {"input_ids": states, "attention_mask": states},
        folder / "onnx" / "text_model.onnx",
    )
    inputs = features(folder, CLIPS[0])
    names = list(inputs) if spec.fused else ["input_features"]
    trace(
        AudioTower(audio),
        {name: torch.cat([inputs[name]] * 2) for name in names},
        {"audio_embeds": {0: "batch_size"}},
        {name: {0: "batch_size"} for name in names},
        folder / "onnx" / "audio_model.onnx",
    )
    check(spec.name, rows, folder)
    write_reference(spec.name, rows, normalized=False)
    print(f"  {size_of(folder)} bytes")


SPECS = [Spec("clap", fused=False), Spec("clap_fused", fused=True)]
