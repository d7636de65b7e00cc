"""Runs a bundle with ONNX Runtime, with slots and an in-place KV cache, like the Rust engine.

Used for evaluation (scores are those of the exported graphs) and for the parity checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image
from transformers import PreTrainedTokenizerFast, SiglipImageProcessor, WhisperFeatureExtractor

from .export import read_json
from .processing import LegendaProcessor


def load_processor(bundle: Path) -> LegendaProcessor:
    """Loads the processor from the files of a bundle."""
    values = read_json(bundle / "processor_config.json")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(bundle)
    tokenizer.chat_template = (bundle / "chat_template.jinja").read_text(encoding="utf-8")
    return LegendaProcessor(
        image_processor=SiglipImageProcessor(**values["image_processor"]),
        feature_extractor=WhisperFeatureExtractor(**values["feature_extractor"]),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        image_seq_length=values["image_seq_length"],
        audio_seq_length=values["audio_seq_length"],
    )


@dataclass(frozen=True)
class Row:
    """A model input: question, image and audio, in any combination."""

    question: str | None = None
    image: Image.Image | None = None
    audio: np.ndarray | None = None


class BundleRunner:
    """The sessions of one bundle."""

    def __init__(self, bundle: Path, threads: int = 2) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.sessions = {
            name: ort.InferenceSession(
                bundle / "onnx" / f"{name}.onnx", options, providers=["CPUExecutionProvider"]
            )
            for name in ("vision_encoder", "audio_encoder", "embed_tokens", "decoder_model_merged")
        }
        self.processor = load_processor(bundle)
        self.config = read_json(bundle / "config.json")
        self.limit = read_json(bundle / "generation_config.json")["max_new_tokens"]
        text = self.config["text_config"]
        self.layers = text["num_hidden_layers"]
        self.cache_shape = (text["num_key_value_heads"], text["head_dim"])

    def embed(self, ids: np.ndarray) -> np.ndarray:
        """Maps token IDs [B, S] to embeddings [B, S, C]."""
        return self.sessions["embed_tokens"].run(None, {"input_ids": ids.astype(np.int64)})[0]

    def prompt(self, row: Row) -> tuple[np.ndarray, np.ndarray]:
        """Returns token IDs [S] and embeddings [S, C] of a row, including features."""
        text = self.processor.prompt(row.question, row.image is not None, row.audio is not None)
        inputs = self.processor(text, row.image, row.audio)
        ids = inputs["input_ids"][0].numpy()
        embeds = self.embed(ids[None])[0].copy()
        for session, key, token in (
            ("vision_encoder", "pixel_values", "image_token_id"),
            ("audio_encoder", "input_features", "audio_token_id"),
        ):
            if key in inputs:
                features = self.sessions[session].run(None, {key: inputs[key].numpy()})[0][0]
                embeds[ids == self.config[token]] = features
        return ids, embeds

    def empty_cache(self, slots: int, length: int) -> dict[str, np.ndarray]:
        """Returns zeros for `past_key_values.{i}.{key,value}`: [slots, kv heads, length, dim]."""
        heads, dim = self.cache_shape
        return {
            f"past_key_values.{i}.{part}": np.zeros((slots, heads, length, dim), np.float32)
            for i in range(self.layers)
            for part in ("key", "value")
        }

    def step(
        self,
        embeds: np.ndarray,
        positions: np.ndarray,
        write: np.ndarray,
        lengths: np.ndarray,
        cache: dict[str, np.ndarray],
        keep: int,
    ) -> np.ndarray:
        """Runs the decoder once, with the cache bound as input and output; returns logits."""
        session = self.sessions["decoder_model_merged"]
        binding = session.io_binding()
        feeds = {
            "inputs_embeds": embeds.astype(np.float32),
            "position_ids": positions.astype(np.int64),
            "write_indices": write.astype(np.int64),
            "nonpad_kv_seqlen": lengths.astype(np.int64),
            "num_logits_to_keep": np.array(keep, np.int64),
        }
        # A binding reads the memory of the array when it runs, and does not keep the array alive.
        arrays = {name: np.array(value, order="C") for name, value in feeds.items()}
        for name, value in arrays.items():
            binding.bind_cpu_input(name, value)
        for name, value in cache.items():
            binding.bind_cpu_input(name, value)
            binding.bind_output(
                name.replace("past_key_values", "present"),
                "cpu",
                0,
                np.float32,
                value.shape,
                value.ctypes.data,
            )
        binding.bind_output("logits", "cpu")
        session.run_with_iobinding(binding)
        return binding.get_outputs()[-1].numpy()

    def generate(self, rows: list[Row], batch: int = 16) -> list[list[int]]:
        """Returns the greedy token IDs of every row, including the end token if reached."""
        prompts = [self.prompt(row) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: len(prompts[i][0]))
        answers: list[list[int]] = [[] for _ in rows]
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            results = self.generate_batch([prompts[i][1] for i in chosen])
            for i, tokens in zip(chosen, results, strict=True):
                answers[i] = tokens
        return answers

    def generate_batch(self, embeds: list[np.ndarray]) -> list[list[int]]:
        """Prefills right-padded prompts [S_i, C] as a batch, then decodes until all have ended."""
        count = len(embeds)
        lengths = np.array([len(e) for e in embeds])
        longest = int(lengths.max())
        padded = np.zeros((count, longest, embeds[0].shape[1]), np.float32)
        for row, value in zip(padded, embeds, strict=True):
            row[: len(value)] = value
        cache = self.empty_cache(count, longest + self.limit)
        positions = np.tile(np.arange(longest), (count, 1))
        logits = self.step(padded, positions, np.zeros(count), lengths, cache, 0)
        token = logits[np.arange(count), lengths - 1].argmax(-1)
        answers = [[int(t)] for t in token]
        end = self.config["eos_token_id"]
        for _ in range(self.limit - 1):
            if all(a[-1] == end for a in answers):
                break
            logits = self.step(
                self.embed(token[:, None]), lengths[:, None], lengths, lengths + 1, cache, 1
            )
            lengths = lengths + 1
            token = logits[:, -1].argmax(-1)
            for answer, t in zip(answers, token, strict=True):
                if answer[-1] != end:
                    answer.append(int(t))
        return answers

    def text(self, tokens: list[int]) -> str:
        """Decodes an answer without special tokens."""
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True)
