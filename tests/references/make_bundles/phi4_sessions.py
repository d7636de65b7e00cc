"""The sessions of Phi-4-multimodal before its decoder, and their inputs."""

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from .graphs import trace


class VisionFeatures(nn.Module):
    """Maps the crops of one image to its features, without loops over images and masks."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.embed = model.model.embed_tokens_extend.image_embed
        tower = self.embed.img_processor
        side = tower.embeddings.num_patches_per_side
        # The positions of patches in a row, by number of patches, rounded like the tower.
        places = torch.zeros(side + 1, side, dtype=torch.long)
        edges = torch.arange(1 / side, 1.0, 1 / side)
        for count in range(1, side + 1):
            parts = torch.arange(0, 1 - 1e-6, 1 / torch.tensor(count))
            places[count, :count] = torch.bucketize(parts, edges, right=True)
        self.register_buffer("places", places)
        self.side = side

    def _states(self, crops: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        tower = self.embed.img_processor
        states = tower.embeddings.patch_embedding(crops).flatten(2).transpose(1, 2)
        rows = self.places[mask[:, :, 0].sum(1).long()]
        columns = self.places[mask[:, 0].sum(1).long()]
        positions = (rows[:, :, None] * self.side + columns[:, None]) * mask.long()
        states = states + tower.embeddings.position_embedding(positions.flatten(1))
        lowest = torch.finfo(torch.float32).min
        bias = torch.where(mask.flatten(1)[:, None, None].bool(), 0.0, lowest)
        bias = bias.expand(-1, 1, self.side**2, -1)
        # The last layer is not used.
        for layer in tower.encoder.layers[: self.embed.layer_idx + 1]:
            states = layer(states, bias)
        return states

    def forward(
        self,
        pixel_values: torch.Tensor,
        image_attention_mask: torch.Tensor,
        image_sizes: torch.Tensor,
    ) -> torch.Tensor:
        """Returns [tokens, size]."""
        embed = self.embed
        states = self._states(pixel_values[0], image_attention_mask[0])
        grid = states.reshape(-1, self.side, self.side, states.shape[-1]).permute(0, 3, 1, 2)
        crops = embed.image_token_compression(grid).permute(0, 2, 3, 1)
        side, size = self.side // 2, embed.image_dim_out
        whole = crops[0]
        whole = torch.cat([whole, embed.sub_img_feature_extensor[0].expand(side, 1, size)], 1)
        rows, columns = (image_sizes[0] // embed.crop_size).unbind()
        parts = crops[1:].reshape(rows, columns, side, side, size).transpose(1, 2)
        parts = parts.reshape(rows * side, columns * side, size)
        mask = image_attention_mask[0, 1:, 0::2, 0::2]
        mask = mask.reshape(rows, columns, side, side).transpose(1, 2)
        mask = mask.reshape(rows * side, columns * side)
        height, width = mask[:, 0].sum().long(), mask[0].sum().long()
        parts = parts[:height, :width]
        parts = torch.cat([parts, embed.sub_img_feature_extensor[0].expand(height, 1, size)], 1)
        between = embed.global_img_feature_extensor[0]
        features = torch.cat([parts.reshape(-1, size), between, whole.reshape(-1, size)])
        return embed.img_projection_down(nn.functional.gelu(embed.img_projection_up(features)))


class SpeechFeatures(nn.Module):
    """Maps audio to concatenated features; each clip has at most 500 states."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.embed = model.model.embed_tokens_extend.audio_embed

    def forward(
        self,
        audio_embeds: torch.Tensor,
        audio_attention_mask: torch.Tensor,
        audio_sizes: torch.Tensor,
        audio_projection_mode: torch.Tensor,
    ) -> torch.Tensor:
        """Returns [tokens of all clips, size]; mode 3 is for prompts with images."""
        embed, encoder = self.embed, self.embed.encoder
        states, mask = encoder.embed(encoder.encoder_embedding(audio_embeds), audio_attention_mask)
        # Transformers adds this mask as a number, so this code does the same.
        bias = mask[:, None].float() + encoder.relative_attention_bias_layer(states)
        for layer in encoder.encoders:
            states = layer(states, bias)
        by_mode = []
        for mode in ("speech", "vision_speech"):
            up, down = (getattr(embed, f"{part}_proj_for_{mode}") for part in ("up", "down"))
            by_mode.append(down(nn.functional.gelu(up(states))))
        features = torch.where(audio_projection_mode.reshape(1, 1, 1) == 3, by_mode[1], by_mode[0])
        is_valid = torch.arange(features.shape[1])[None] < audio_sizes[:, None]
        return features[is_valid]


class Embedding(nn.Module):
    """Maps tokens and features to embeddings."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.table = model.get_input_embeddings()
        self.marks = [
            model.config.vision_config.image_token_id,
            model.config.audio_config.audio_token_id,
        ]

    def forward(
        self, input_ids: torch.Tensor, image_features: torch.Tensor, audio_features: torch.Tensor
    ) -> torch.Tensor:
        """Returns [rows, tokens, size]."""
        embeds = self.table(input_ids)
        for mark, features in zip(self.marks, (image_features, audio_features), strict=True):
            places = torch.nonzero(input_ids == mark, as_tuple=True)
            embeds = torch.index_put(embeds, places, features)
        return embeds


def media_feeds(inputs: dict) -> dict[str, dict[str, torch.Tensor]]:
    """Returns the encoder inputs of a row, by encoder and input name."""
    feeds: dict[str, dict] = {"vision": {}, "speech": {}}
    if "image_pixel_values" in inputs:
        feeds["vision"] = {
            "pixel_values": inputs["image_pixel_values"],
            "image_attention_mask": inputs["image_attention_mask"].float(),
            "image_sizes": inputs["image_sizes"],
        }
    if "audio_input_features" in inputs:
        features = inputs["audio_input_features"]
        all_valid = torch.ones(features.shape[:2], dtype=torch.bool)
        feeds["speech"] = {
            "audio_embeds": features,
            "audio_attention_mask": inputs.get("audio_attention_mask", all_valid),
            "audio_sizes": inputs["audio_embed_sizes"],
            "audio_projection_mode": torch.tensor([3 if feeds["vision"] else 2]),
        }
    return feeds


def export(model: PreTrainedModel, inputs: list[dict], folder: Path) -> None:
    """Traces the sessions, with the sizes of the row inputs."""
    feeds = [media_feeds(row) for row in inputs]
    vision_sample = next(row["vision"] for row in feeds if row["vision"])
    trace(
        VisionFeatures(model),
        vision_sample,
        {"image_features": {0: "num_image_tokens"}},
        {
            "pixel_values": {0: "num_images", 1: "num_crops"},
            "image_attention_mask": {0: "num_images", 1: "num_crops"},
            "image_sizes": {0: "num_images"},
        },
        folder / "phi-4-mm-vision.onnx",
    )
    speech_feeds = [row["speech"] for row in feeds if row["speech"]]
    speech_sample = max(speech_feeds, key=lambda row: len(row["audio_sizes"]))
    speech_axes = {0: "num_audios", 1: "num_frames"}
    trace(
        SpeechFeatures(model),
        speech_sample,
        {"audio_features": {0: "num_audio_tokens"}},
        {
            "audio_embeds": speech_axes,
            "audio_attention_mask": speech_axes,
            "audio_sizes": {0: "num_audios"},
        },
        folder / "phi-4-mm-speech.onnx",
    )
    rows = {0: "batch_size", 1: "sequence_length"}
    size = model.config.hidden_size
    marks = Embedding(model).marks
    trace(
        Embedding(model),
        {
            "input_ids": torch.tensor([[1, marks[0], marks[0], 4, marks[1]]]),
            "image_features": torch.randn(2, size),
            "audio_features": torch.randn(1, size),
        },
        {"inputs_embeds": rows},
        {
            "input_ids": rows,
            "image_features": {0: "num_image_tokens"},
            "audio_features": {0: "num_audio_tokens"},
        },
        folder / "phi-4-mm-embedding.onnx",
    )
