"""Whisper and Moonshine: audio to text."""

from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoFeatureExtractor,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from transformers.pipelines.automatic_speech_recognition import chunk_iter

from . import media, toktypes
from .decoding import generate
from .seq2seq import Spec, make

__all__ = ["SPECS", "make"]

CLIPS = sorted(media.audio_clips())
LANGUAGES = ["en", "zh", "de", "fr", "ru"]
TASK = "automatic-speech-recognition-with-past"
# One token per 20 ms of a 30 s window.
TIMESTAMPS = 1501


def _whisper_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Makes a tokenizer with published IDs; timestamps follow its last token, as in older ones."""
    specials = [
        *("<|endoftext|>", "<|startoftranscript|>"),
        *(f"<|{language}|>" for language in LANGUAGES),
        *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"),
        *("<|nocaptions|>", "<|notimestamps|>"),
    ]
    return toktypes.save(
        toktypes.byte_level(330, specials, digits=None),
        folder,
        {
            "add_prefix_space": False,
            "additional_special_tokens": specials,
            "bos_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": True,
            "eos_token": "<|endoftext|>",
            "errors": "replace",
            "model_max_length": 448,
            "pad_token": "<|endoftext|>",
            "processor_class": "WhisperProcessor",
            "return_attention_mask": False,
            "tokenizer_class": "WhisperTokenizer",
            "unk_token": "<|endoftext|>",
        },
    )


def _whisper(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    ids = tokenizer.convert_tokens_to_ids
    config = WhisperConfig(
        vocab_size=len(tokenizer) + TIMESTAMPS,
        num_mel_bins=80,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=1500,
        max_target_positions=448,
        bos_token_id=ids("<|endoftext|>"),
        eos_token_id=ids("<|endoftext|>"),
        pad_token_id=ids("<|endoftext|>"),
        decoder_start_token_id=ids("<|startoftranscript|>"),
        suppress_tokens=None,
        begin_suppress_tokens=None,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    return WhisperForConditionalGeneration(config)


@torch.no_grad()
def _quiet_timestamps(model: PreTrainedModel) -> None:
    """Makes timestamps less likely than text: they are most of the tiny vocabulary."""
    model.proj_out.weight[-TIMESTAMPS:] *= 0.3


def _whisper_generation(tokenizer: PreTrainedTokenizerBase) -> dict:
    ids = tokenizer.convert_tokens_to_ids
    punctuation = map(ids, "#()*+/:;<=>@[]")
    suppressed = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"]
    return {
        "begin_suppress_tokens": [ids("Ġ"), ids("<|endoftext|>")],
        "bos_token_id": ids("<|endoftext|>"),
        "decoder_start_token_id": ids("<|startoftranscript|>"),
        "eos_token_id": ids("<|endoftext|>"),
        "is_multilingual": True,
        "lang_to_id": {f"<|{language}|>": ids(f"<|{language}|>") for language in LANGUAGES},
        "max_initial_timestamp_index": 50,
        "max_length": 448,
        "no_timestamps_token_id": ids("<|notimestamps|>"),
        "pad_token_id": ids("<|endoftext|>"),
        "prev_sot_token_id": ids("<|startofprev|>"),
        "return_timestamps": False,
        "suppress_tokens": sorted({*punctuation, *map(ids, suppressed), ids("<|nocaptions|>")}),
        "task_to_id": {"transcribe": ids("<|transcribe|>"), "translate": ids("<|translate|>")},
        "transformers_version": "4.57.6",
    }


def _whisper_rows() -> list[dict]:
    plain = {"language": "en", "task": "transcribe", "return_timestamps": False}
    rows = [{"audio": name, **plain} for name in CLIPS]
    rows += [
        {"audio": CLIPS[0], **plain, "language": "de"},
        {"audio": CLIPS[1], **plain, "language": "fr", "task": "translate"},
        # Without a language, the model detects it.
        {"audio": CLIPS[2], "task": "transcribe", "return_timestamps": False},
    ]
    return rows + [{"audio": name, **plain, "return_timestamps": True} for name in CLIPS[:3]]


# Lists of 16 kHz files that together exceed one window of 30 s.
LONG_CLIPS = [CLIPS[:8] * 3, CLIPS[:5] * 7, CLIPS[3:8] * 5]


def _whisper_long(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> dict[str, list[dict]]:
    """Returns the answers of the speech recognition pipeline with `chunk_length_s=30`.

    This calls the parts of the pipeline separately, because the pipeline cannot generate without
    the loop over segments. `answer` is the text, `segments` its pieces with timestamps.
    """
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    rate, eos_id = 16000, model.generation_config.eos_token_id
    rows = []
    for names in LONG_CLIPS:
        samples = np.concatenate([media.read_audio(name) for name in names])
        for timestamps in (False, True):
            options = {"language": "en", "task": "transcribe", "return_timestamps": timestamps}
            outputs, smallest = [], 1.0
            for chunk in chunk_iter(samples, extractor, 30 * rate, 5 * rate, 5 * rate):
                inputs = {"input_features": chunk["input_features"], **options}
                generation = generate(
                    model, inputs | {"force_unique_generate_call": True}, [eos_id]
                )
                smallest = min(smallest, generation.gap)
                stride = tuple(n / rate for n in chunk["stride"])
                outputs.append({"tokens": torch.tensor([generation.token_ids]), "stride": stride})
            if smallest < 1e-3:
                raise RuntimeError(
                    f"long audio: gap to the second best token too small: {smallest}"
                )
            text, details = tokenizer._decode_asr(
                outputs, return_timestamps=timestamps, return_language=None, time_precision=0.02
            )
            rows.append(
                {
                    "audio": names,
                    **options,
                    "windows": [output["tokens"][0].tolist() for output in outputs],
                    "answer": text,
                }
            )
            if timestamps:
                pieces = details["chunks"]
                rows[-1]["segments"] = [[*piece["timestamp"], piece["text"]] for piece in pieces]
    return {"long_rows": rows}


def _whisper_unlisted(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> dict[str, list[dict]]:
    """Returns rows without suppressed tokens: the onnxruntime-genai layout has no such lists."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    config = model.generation_config
    lists = config.suppress_tokens, config.begin_suppress_tokens
    config.suppress_tokens = config.begin_suppress_tokens = None
    rows = []
    for row in _whisper_rows():
        samples = media.read_audio(row["audio"])
        features = extractor(samples, sampling_rate=16000, return_tensors="pt")
        options = {k: v for k, v in row.items() if k != "audio"}
        inputs = {**features, **options, "force_unique_generate_call": True}
        generation = generate(model, inputs, [config.eos_token_id])
        if generation.gap < 1e-3:
            raise RuntimeError(f"{row}: gap to the second best token too small: {generation.gap}")
        answer = tokenizer.decode(generation.token_ids, skip_special_tokens=True)
        rows.append(
            {**row, "prompt_ids": generation.prompt_ids, **generation.row(), "answer": answer}
        )
    config.suppress_tokens, config.begin_suppress_tokens = lists
    return {"unlisted_rows": rows}


def _moonshine_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = toktypes.metaspace_bpe(420, ["<unk>", "<s>", "</s>"], prefix_space=True)
    toktypes.frame(tokenizer, ["<s>"], ["</s>"])
    return toktypes.save(
        tokenizer,
        folder,
        {
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "extra_special_tokens": {},
            "model_max_length": 194,
            "processor_class": "Wav2Vec2Processor",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>",
        },
    )


def _moonshine(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    config = MoonshineConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        max_position_embeddings=194,
        partial_rotary_factor=0.5,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return MoonshineForConditionalGeneration(config)


SPECS = [
    Spec(
        name="whisper",
        tokenizer=_whisper_tokenizer,
        model=_whisper,
        generation=_whisper_generation,
        task=TASK,
        rows=_whisper_rows(),
        processor={
            "chunk_length": 30,
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": 80,
            "hop_length": 160,
            "n_fft": 400,
            "n_samples": 480000,
            "nb_max_frames": 3000,
            "padding_side": "right",
            "padding_value": 0.0,
            "processor_class": "WhisperProcessor",
            "return_attention_mask": False,
            "sampling_rate": 16000,
        },
        tweak=_quiet_timestamps,
        extra_keys=lambda *arguments: _whisper_long(*arguments) | _whisper_unlisted(*arguments),
        gain=2.0,
        input_noise=2e-5,
    ),
    Spec(
        name="moonshine",
        tokenizer=_moonshine_tokenizer,
        model=_moonshine,
        generation=lambda t: {
            "bos_token_id": 1,
            "decoder_start_token_id": 1,
            "eos_token_id": 2,
            "max_length": 194,
            "transformers_version": "4.57.6",
        },
        task=TASK,
        rows=[{"audio": name} for name in CLIPS],
        processor={
            "do_normalize": False,
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "padding_side": "right",
            "padding_value": 0.0,
            "processor_class": "Wav2Vec2Processor",
            "return_attention_mask": True,
            "sampling_rate": 16000,
        },
    ),
]
