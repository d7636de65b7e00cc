"""The model: a ResNet for images, a Whisper encoder for audio, a Llama decoder for text.

Feature rows of the encoders replace the embeddings of `<image>` and `<audio>` placeholder tokens,
in order. Shapes: B rows, S tokens, C = decoder width, N = image tokens, M = audio tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import (
    GenerationMixin,
    LlamaConfig,
    LlamaModel,
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
    WhisperConfig,
)
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.whisper.modeling_whisper import WhisperEncoder

IMAGE_SIZE = 96
"""Side of the input image in pixels."""
IMAGE_STRIDE = 16
AUDIO_STACK = 3
"""Encoder positions (40 ms each) per audio token."""


class LegendaConfig(PreTrainedConfig):
    """Sizes of the three parts and the IDs of the placeholder tokens."""

    model_type = "legenda"
    sub_configs = {
        "vision_config": ResNetConfig,
        "audio_config": WhisperConfig,
        "text_config": LlamaConfig,
    }
    vision_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_id: int = 5
    audio_token_id: int = 6
    image_size: int = IMAGE_SIZE
    audio_stack: int = AUDIO_STACK
    num_concepts: int = 345
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        for name, sub_config in self.sub_configs.items():
            value = getattr(self, name)
            if value is None:
                value = {}
            if isinstance(value, dict):
                setattr(self, name, sub_config(**value))
        super().__post_init__(**kwargs)

    @property
    def image_seq_length(self) -> int:
        """N: image tokens per image."""
        side = self.image_size // IMAGE_STRIDE
        return side * side

    @property
    def audio_seq_length(self) -> int:
        """M: audio tokens per clip."""
        return self.audio_config.max_source_positions // self.audio_stack


def tiny_config(vocab_size: int, preset: str = "tiny") -> LegendaConfig:
    """Returns the config of `legenda-tiny`, or of the toy model of `--preset check`."""
    toy = preset == "check"
    width = 64 if toy else 256
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return LegendaConfig(
        vision_config={
            "embedding_size": 16 if toy else 32,
            "hidden_sizes": [16, 24, 32] if toy else [48, 96, 256],
            "depths": [1, 1, 1] if toy else [1, 1, 2],
            "layer_type": "basic",
        },
        audio_config={
            "d_model": 48 if toy else 160,
            "encoder_layers": 1 if toy else 4,
            "encoder_attention_heads": 2 if toy else 4,
            "encoder_ffn_dim": 96 if toy else 512,
            "num_mel_bins": 64,
            "max_source_positions": 150,
            "vocab_size": 8,
            "decoder_layers": 0,
            **ids,
            "decoder_start_token_id": 1,
        },
        text_config={
            "hidden_size": width,
            "intermediate_size": 2 * width if toy else 512,
            "num_hidden_layers": 2 if toy else 3,
            "num_attention_heads": 2 if toy else 4,
            "num_key_value_heads": 1 if toy else 2,
            "head_dim": 32 if toy else 64,
            "vocab_size": vocab_size,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            **ids,
        },
        **ids,
    )


class VisionEncoder(nn.Module):
    """Maps pixels to image tokens.

    An image token is the sum of a linear projection of its ResNet cell, a position, and a mixture
    of codebook vectors, one per concept. The weights of the mixture are the softmax of the cell's
    concept scores (the last class is `none`).
    """

    def __init__(self, config: LegendaConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.image_size = config.image_size
        self.tower = ResNetModel(config.vision_config)
        cell_width = config.vision_config.hidden_sizes[-1]
        self.concepts = nn.Linear(cell_width, config.num_concepts + 1)
        self.codebook = nn.Linear(config.num_concepts + 1, width, bias=False)
        self.projector = nn.Linear(cell_width, width)
        self.positions = nn.Parameter(torch.zeros(1, config.image_seq_length, width))

    def cells(self, pixel_values: Tensor) -> Tensor:
        """Maps [B, 3, H, W] to [B, N, cell width], row by row from the top left."""
        cells = self.tower(pixel_values).last_hidden_state
        return cells.flatten(2).transpose(1, 2)

    def project(self, cells: Tensor) -> Tensor:
        """Maps [B, N, cell width] to [B, N, C]."""
        mixture = self.codebook(self.concepts(cells).softmax(-1))
        return self.projector(cells) + mixture + self.positions

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Maps [B, 3, H, W] to [B, N, C]."""
        return self.project(self.cells(pixel_values))


class AudioEncoder(nn.Module):
    """Maps log-mel frames to audio tokens: Whisper encoder, `audio_stack` positions stacked."""

    def __init__(self, config: LegendaConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.stack = config.audio_stack
        self.tower = WhisperEncoder(config.audio_config)
        self.projector = nn.Linear(config.audio_config.d_model * self.stack, width)

    def project(self, positions: Tensor) -> Tensor:
        """Maps [B, positions, d] to [B, M, C]."""
        batch, length, width = positions.shape
        stacked = positions.reshape(batch, length // self.stack, width * self.stack)
        return self.projector(stacked)

    def forward(self, input_features: Tensor) -> Tensor:
        """Maps [B, mels, frames] to [B, M, C]."""
        return self.project(self.tower(input_features).last_hidden_state)


class LegendaPreTrainedModel(PreTrainedModel):
    """Base class of the model: configuration and supported features."""

    config_class = LegendaConfig
    base_model_prefix = "model"
    input_modalities = ("image", "audio", "text")
    _supports_sdpa = True
    _supports_flash_attn = False
    _skip_keys_device_placement = ["past_key_values"]


class LegendaForConditionalGeneration(LegendaPreTrainedModel, GenerationMixin):
    """The model: image, audio and text to text."""

    _tied_weights_keys = {"lm_head.weight": "language_model.embed_tokens.weight"}

    def __init__(self, config: LegendaConfig) -> None:
        super().__init__(config)
        self.vision_encoder = VisionEncoder(config)
        self.audio_encoder = AudioEncoder(config)
        self.language_model = LlamaModel(config.text_config)
        text = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Returns the table of token embeddings [vocabulary, C]."""
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the table of token embeddings."""
        self.language_model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        """Returns the output head, which is tied to the embedding table."""
        return self.lm_head

    def merged(
        self, input_ids: Tensor, image_features: Tensor | None, audio_features: Tensor | None
    ) -> Tensor:
        """Returns embeddings [B, S, C] with feature rows in place of their placeholders."""
        embeds = self.get_input_embeddings()(input_ids)
        for features, token in (
            (image_features, self.config.image_token_id),
            (audio_features, self.config.audio_token_id),
        ):
            if features is not None:
                mask = (input_ids == token).unsqueeze(-1)
                if int(mask.sum()) != features.shape[0] * features.shape[1]:
                    raise ValueError("the numbers of placeholders and feature rows differ")
                embeds = embeds.masked_scatter(mask, features.to(embeds.dtype))
        return embeds

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Runs the model; with `labels` [B, S], logits exist only for labels other than -100."""
        if inputs_embeds is None:
            images = None if pixel_values is None else self.vision_encoder(pixel_values)
            audio = None if input_features is None else self.audio_encoder(input_features)
            inputs_embeds = self.merged(input_ids, images, audio)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        hidden = outputs.last_hidden_state
        if labels is not None:
            target = labels[:, 1:]
            is_target = target != -100
            logits = self.lm_head(hidden[:, :-1][is_target])
            loss = nn.functional.cross_entropy(logits, target[is_target])
            return CausalLMOutputWithPast(loss=loss, logits=logits)
        hidden = hidden[:, -logits_to_keep:] if logits_to_keep else hidden
        return CausalLMOutputWithPast(
            logits=self.lm_head(hidden), past_key_values=outputs.past_key_values
        )
