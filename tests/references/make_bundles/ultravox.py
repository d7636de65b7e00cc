"""Ultravox: reimplements the parts that are published with its weights, not in transformers.

The other parts are those of Voxtral in transformers: features replace the audio tokens before a
causal model.
"""

import torch
from torch import nn
from transformers import VoxtralConfig, VoxtralForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.voxtral.modeling_voxtral import VoxtralEncoder


class UltravoxConfig(VoxtralConfig):
    """The config of a Whisper encoder and a text decoder, and the number of stacked frames."""

    model_type = "ultravox"

    def __init__(self, stack_factor: int = 8, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.stack_factor = stack_factor


class ShortEncoder(VoxtralEncoder):
    """A Whisper encoder that also accepts less than 30 s of frames."""

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        """Returns [clips, frames / 2 rounded up, size]."""
        states = nn.functional.gelu(self.conv1(input_features))
        states = nn.functional.gelu(self.conv2(states)).transpose(1, 2)
        states = states + self.embed_positions.weight[: states.shape[1]]
        for layer in self.layers:
            states = layer(states, attention_mask=None, layer_head_mask=None)[0]
        return self.layer_norm(states)


class Projector(nn.Module):
    """Stacks frames; a gated layer between norms, the second norm inside it since version 0.5."""

    def __init__(self, config: UltravoxConfig) -> None:
        super().__init__()
        self.stack_factor = config.stack_factor
        stacked = config.audio_config.hidden_size * config.stack_factor
        size = config.text_config.hidden_size
        self.ln_pre = LlamaRMSNorm(stacked)
        self.linear_1 = nn.Linear(stacked, size, bias=False)
        self.ln_mid = LlamaRMSNorm(size // 2)
        self.linear_2 = nn.Linear(size // 2, size, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Returns one row per stack of frames, and one more, as the published graph does."""
        n_frames = states.shape[1]
        missing = -n_frames % self.stack_factor + self.stack_factor
        states = nn.functional.pad(states, (0, 0, 0, missing))
        states = states.reshape(states.shape[0], -1, states.shape[2] * self.stack_factor)
        values, gate = self.linear_1(self.ln_pre(states)).chunk(2, dim=-1)
        return self.linear_2(self.ln_mid(nn.functional.silu(gate) * values))


class UltravoxModel(VoxtralForConditionalGeneration):
    """Ultravox 0.5."""

    config_class = UltravoxConfig

    def __init__(self, config: UltravoxConfig) -> None:
        super().__init__(config)
        self.audio_tower = ShortEncoder(config.audio_config)
        self.multi_modal_projector = Projector(config)

    def get_audio_features(self, input_features: torch.Tensor) -> torch.Tensor:
        """Returns the concatenated features of all clips."""
        return self.multi_modal_projector(self.audio_tower(input_features)).flatten(0, 1)
