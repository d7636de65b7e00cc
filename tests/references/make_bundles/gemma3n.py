"""Gemma 3n: image and audio encoders, and a decoder with additional per-layer inputs."""

from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    AutoProcessor,
    DynamicCache,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nAudioAttention

from . import media, templates, toktypes
from .corpus import ROW_TEXTS
from .listeners import samples_of
from .multimodal import Spec, make
from .reader_tokenizers import GEMMA_SPECIALS, gemma_config
from .sessions import text_model

__all__ = ["SPECS", "make"]

# Texts, and the images and audio before them; each audio input is a list of concatenated files.
ROWS = [
    ("What is in the picture?", ["waves-90x120.png"], []),
    ("What is in the picture?", ["disc-120x90.png"], []),
    ("Hello", ["noise-33x24.png"], []),
    (ROW_TEXTS[3], ["grey-48x80.png"], []),
    ("Which of both is larger?", ["disc-40x160.png", "alpha-60x44.png"], []),
    ("What do you hear?", [], [["glide-2s.wav"]]),
    ("What do you hear?", [], [["fall-1s.wav"]]),
    ("", [], [["hiss-1s.wav"]]),
    (ROW_TEXTS[2], [], [["short-0.3s.wav"]]),
    ("Write it down.", [], [["fall-1s.wav", "low-3s.wav"]]),
    ("Which of both is longer?", [], [["glide-2s.wav"], ["hiss-1s.wav"]]),
    ("Does it sound like this?", ["checks-64x64.png"], [["steps-1.7s.wav"]]),
    ("Hello", [], []),
    (ROW_TEXTS[7], [], []),
]
SIDE, PATCH, N_PATCHES, N_AUDIO_TOKENS = 32, 8, 16, 25


class PatchConfig(PretrainedConfig):
    """The config fields of the tower that the rest of the model uses."""

    model_type = "patch_tower"

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.hidden_size = kwargs.get("hidden_size", 32)


class PatchTower(PreTrainedModel):
    """Replaces MobileNetV5, which timm has only with 300 million parameters."""

    config_class = PatchConfig

    def __init__(self, config: PatchConfig) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.patches = nn.Conv2d(3, size, PATCH, PATCH)
        self.mix = nn.Conv2d(size, size, 3, padding=1)

    def forward(self, pixel_values: torch.Tensor, **_: object) -> BaseModelOutput:
        """Returns [images, size, rows, columns], as MobileNetV5 does."""
        states = nn.functional.gelu(self.patches(pixel_values))
        return BaseModelOutput(last_hidden_state=self.mix(states))


AutoModel.register(PatchConfig, PatchTower)


class ImageFeatures(nn.Module):
    """Maps `pixel_values` to `image_features`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns [images, tokens, size]."""
        return self.model.get_image_features(pixel_values)


class WholeAttention(nn.Module):
    """Computes `Gemma3nAudioAttention` without blocks, which TorchScript cannot trace.

    Each frame attends to the previous frames, up to `max_past_horizon`.
    """

    def __init__(self, attention: Gemma3nAudioAttention) -> None:
        super().__init__()
        self.attention = attention
        if attention.max_future_horizon:
            raise ValueError("published models do not attend to later frames")

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Returns [clips, frames, heads, head size]; the mask is true for padding."""
        a, n_frames = self.attention, states.shape[1]
        heads = (states.shape[0], n_frames, a.num_heads, a.head_dim)
        query = a.q_proj(states).reshape(heads)
        query = query * a.q_scale * nn.functional.softplus(a.per_dim_scale)
        query = query.transpose(1, 2)
        key = a.k_proj(states).reshape(heads).transpose(1, 2)
        value = a.v_proj(states).reshape(heads).transpose(1, 2)
        positions = a.relative_position_embedding
        past = torch.arange(a.max_past_horizon, -1, -1)[None]
        signal = positions._get_timing_signal_1d_pos(past, states.dtype)
        past_keys = positions.pos_proj(signal).reshape(-1, a.num_heads, a.head_dim).permute(1, 2, 0)
        frames = torch.arange(n_frames)
        distances = frames[:, None] - frames[None]
        seen = (distances >= 0) & (distances <= a.max_past_horizon)
        distance = (a.max_past_horizon - distances).clamp(0, a.max_past_horizon)
        bias = (query @ past_keys).gather(3, distance.expand(states.shape[0], a.num_heads, -1, -1))
        logits = query @ key.transpose(2, 3) + bias
        logits = torch.tanh(logits / a.softcap) * a.softcap
        allowed = seen & ~mask[:, None, None]
        logits = torch.where(allowed, logits, torch.finfo(logits.dtype).min)
        return (torch.softmax(logits, -1) @ value).transpose(1, 2)


class AudioFeatures(nn.Module):
    """Maps `input_features` and their mask to `audio_features`, padded to the prompt tokens."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.model
        self.filling = model.config.text_config.vocab_size - 1
        self.n_tokens = model.config.audio_soft_tokens_per_image
        for block in self.model.audio_tower.conformer:
            if isinstance(block.attention.attn, Gemma3nAudioAttention):
                block.attention.attn = WholeAttention(block.attention.attn)

    def forward(
        self, input_features: torch.Tensor, input_features_mask: torch.Tensor
    ) -> torch.Tensor:
        """Returns [clips, tokens, size]."""
        features, empty = self.model.get_audio_features(input_features, ~input_features_mask)
        filling = self.model.embed_audio(input_ids=torch.tensor([[self.filling]]))
        features = torch.where(empty[..., None], filling, features)
        extra = filling.expand(features.shape[0], self.n_tokens - features.shape[1], -1)
        return torch.cat([features, extra], dim=1)


class EmbedTokens(nn.Module):
    """Maps `input_ids` to `inputs_embeds` and `per_layer_inputs`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.model

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Uses separate tables for special tokens beyond the text vocabulary."""
        model = self.model
        is_text = input_ids < model.vocab_size_per_layer_input
        per_layer = model.language_model.get_per_layer_inputs(torch.where(is_text, input_ids, 0))
        embeds = model.get_input_embeddings()(input_ids)
        is_audio = input_ids >= model.embed_audio.vocab_offset
        is_vision = (input_ids >= model.embed_vision.vocab_offset) & ~is_audio
        for table, is_own in ((model.embed_vision, is_vision), (model.embed_audio, is_audio)):
            special_embeds = table(input_ids=torch.where(is_own, input_ids, table.vocab_offset))
            embeds = torch.where(is_own[..., None], special_embeds, embeds)
        return embeds, per_layer


class PerLayerDecoder(nn.Module):
    """Maps `inputs_embeds`, `per_layer_inputs`, positions and KV cache to logits and the new cache.

    Published graphs do not have a mask: every token attends to all previous tokens in the attention
    window of its layer.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.text, self.head = text_model(model), model.get_output_embeddings()

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        per_layer_inputs: torch.Tensor,
        position_ids: torch.Tensor,
        *past: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Runs the text model."""
        config = self.text.config
        n_new, n_past = inputs_embeds.shape[1], past[0].shape[2]
        keys = torch.arange(n_past + n_new)[None]
        queries = torch.arange(n_past + n_new)[n_past:, None]
        seen = keys <= queries
        lowest = torch.finfo(torch.float32).min
        masks = {
            "full_attention": seen,
            "sliding_attention": seen & (keys > queries - config.sliding_window),
        }
        cache = DynamicCache.from_legacy_cache(tuple(zip(past[::2], past[1::2], strict=True)))
        out = self.text(
            inputs_embeds=inputs_embeds,
            per_layer_inputs=per_layer_inputs,
            attention_mask={
                kind: torch.where(mask, 0.0, lowest)[None, None] for kind, mask in masks.items()
            },
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        logits = self.head(out.last_hidden_state)
        cap = config.final_logit_softcapping
        present = [state for layer in out.past_key_values.to_legacy_cache() for state in layer]
        return torch.tanh(logits / cap) * cap, *present


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Makes a Gemma tokenizer; the media tokens come after the text tokens, grouped by kind."""
    media_tokens = {
        "boi_token": "<start_of_image>",
        "boa_token": "<start_of_audio>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
        "eoa_token": "<end_of_audio>",
        "audio_token": "<audio_soft_token>",
    }
    names = list(media_tokens.values())
    tokenizer = toktypes.metaspace_bpe(460, [*GEMMA_SPECIALS, *names[:2]], prefix_space=False)
    toktypes.add_specials(tokenizer, names[2:])
    toktypes.frame(tokenizer, ["<bos>"], [])
    config = gemma_config("<eos>", "Gemma3nProcessor", media_tokens)
    return toktypes.save(tokenizer, folder, config, templates.GEMMA3N)


def _config(tokenizer: PreTrainedTokenizerBase) -> Gemma3nConfig:
    ids = tokenizer.convert_tokens_to_ids
    n_text = ids("<end_of_image>")
    size = 32
    tables = {"vocab_size": 2, "rms_norm_eps": 1e-6}
    vision = PatchConfig(hidden_size=size, vocab_offset=n_text, **tables)
    return Gemma3nConfig(
        text_config={
            "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
            "altup_num_inputs": 2,
            "head_dim": 8,
            "hidden_size": size,
            "hidden_size_per_layer_input": 8,
            "intermediate_size": [48, 48, 48, 48],
            "laurel_rank": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "max_position_embeddings": 512,
            "num_attention_heads": 4,
            "num_hidden_layers": 4,
            "num_key_value_heads": 2,
            "num_kv_shared_layers": 2,
            "sliding_window": 16,
            "vocab_size": len(tokenizer),
            "vocab_size_per_layer_input": n_text,
        },
        vision_config=vision,
        audio_config={
            "conf_num_attention_heads": 2,
            "conf_num_hidden_layers": 2,
            "hidden_size": size,
            "sscp_conv_channel_size": (4, 2),
            "vocab_offset": n_text + 2,
            **tables,
        },
        audio_soft_tokens_per_image=N_AUDIO_TOKENS,
        vision_soft_tokens_per_image=N_PATCHES,
        boi_token_id=ids("<start_of_image>"),
        eoi_token_id=ids("<end_of_image>"),
        image_token_id=ids("<image_soft_token>"),
        boa_token_id=ids("<start_of_audio>"),
        eoa_token_id=ids("<end_of_audio>"),
        audio_token_id=ids("<audio_soft_token>"),
        tie_word_embeddings=False,
    )


def _publish(config: dict) -> dict:
    """Sets the tower that published configs name."""
    vision = config["vision_config"] | {
        "architecture": "mobilenetv5_300m_enc",
        "model_type": "gemma3n_vision",
    }
    return {**config, "vision_config": vision}


def _rows(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[tuple[dict, dict]]:
    processor = AutoProcessor.from_pretrained(folder, use_fast=True)
    rows = []
    for text, images, clips in ROWS:
        content = [{"type": "image"} for _ in images] + [{"type": "audio"} for _ in clips]
        content.append({"type": "text", "text": text})
        rendered = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = processor(
            text=rendered,
            images=[media.read_image(name) for name in images] or None,
            audio=[samples_of(names) for names in clips] or None,
            add_special_tokens=False,
            return_tensors="pt",
        )
        inputs = {name: value for name, value in inputs.items() if name != "token_type_ids"}
        row = {"text": text, "images": images, "audios": clips, "rendered": rendered}
        row["prompt_ids"] = inputs["input_ids"][0].tolist()
        rows.append((row, inputs))
    return rows


def _features(folder: Path) -> dict:
    """Returns some frames of the audio features."""
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    cases = []
    for name in ("glide-2s.wav", "hiss-1s.wav", "quiet-0.8s.wav"):
        values = extractor([samples_of([name])], return_tensors="np")["input_features"][0]
        frames = list(range(0, len(values), 13))
        rows = [[round(float(value), 5) for value in values[frame]] for frame in frames]
        cases.append({"audio": name, "n_frames": len(values), "frames": frames, "values": rows})
    return {"features": cases}


def _generation(tokenizer: PreTrainedTokenizerBase) -> dict:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": [
            tokenizer.convert_tokens_to_ids("<end_of_turn>"),
            tokenizer.eos_token_id,
        ],
        "pad_token_id": tokenizer.pad_token_id,
        "transformers_version": "4.57.6",
    }


SPECS = [
    Spec(
        name="gemma3n",
        tokenizer=_tokenizer,
        model_class=Gemma3nForConditionalGeneration,
        config=_config,
        generation=_generation,
        files={
            # Both processors in one file, as published.
            "preprocessor_config.json": {
                "crop_size": None,
                "data_format": "channels_first",
                "default_to_square": False,
                "device": None,
                "disable_grouping": None,
                "dither": 0.0,
                "do_center_crop": None,
                "do_convert_rgb": None,
                "do_normalize": False,
                "do_rescale": True,
                "do_resize": True,
                "feature_extractor_type": "Gemma3nAudioFeatureExtractor",
                "feature_size": 128,
                "fft_length": 1024,
                "fft_overdrive": True,
                "frame_length": 512,
                "hop_length": 160,
                "image_mean": [0.5, 0.5, 0.5],
                "image_processor_type": "SiglipImageProcessorFast",
                "image_seq_length": N_PATCHES,
                "image_std": [0.5, 0.5, 0.5],
                "input_data_format": None,
                "input_scale_factor": 1.0,
                "max_frequency": 7600.0,
                "mel_floor": 1e-05,
                "min_frequency": 125.0,
                "padding_side": "right",
                "padding_value": 0.0,
                "per_bin_mean": None,
                "per_bin_stddev": None,
                "preemphasis": 0.97,
                "preemphasis_htk_flavor": True,
                "processor_class": "Gemma3nProcessor",
                "resample": 2,
                "rescale_factor": 0.00392156862745098,
                "return_attention_mask": False,
                "return_tensors": None,
                "sampling_rate": 16000,
                "size": {"height": SIDE, "width": SIDE},
            },
            "processor_config.json": {
                "audio_seq_length": N_AUDIO_TOKENS,
                "image_seq_length": N_PATCHES,
                "processor_class": "Gemma3nProcessor",
            },
        },
        publish=_publish,
        vision=ImageFeatures,
        vision_axes={"pixel_values": {0: "num_images"}},
        audio=AudioFeatures,
        audio_axes={
            "input_features": {0: "num_sounds", 1: "num_frames"},
            "input_features_mask": {0: "num_sounds", 1: "num_frames"},
        },
        rows=_rows,
        extras=_features,
        embed=EmbedTokens,
        decoder_class=PerLayerDecoder,
        # The model family multiplies its embeddings by sqrt(32).
        embedding_std=0.2,
    )
]
