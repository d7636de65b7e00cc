"""Traceable modules for the three sessions of a multimodal bundle.

Transformers' own forward functions loop over images or build masks in ways that TorchScript cannot
trace. These modules compute the same with tensor operations only.
"""

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision


class EmbedTokens(nn.Module):
    """Maps `input_ids` to `inputs_embeds`."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.embed = model.get_input_embeddings()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Looks up the token embeddings, including the scale factor of Gemma 3."""
        return self.embed(input_ids)


class TextDecoder(nn.Module):
    """Maps `inputs_embeds`, mask, positions and KV cache to logits and the extended KV cache.

    `causal` is false for PaliGemma, whose prompts use full attention. `windows` are the attention
    windows of Gemma 3's layer types, by their names in its config. With `keeps_logits`, the number
    of last positions to compute logits for is an input too (0: all).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        causal: bool = True,
        windows: dict[str, int | None] | None = None,
        keeps_logits: bool = False,
    ) -> None:
        super().__init__()
        self.text, self.head = text_model(model), model.get_output_embeddings()
        self.causal, self.windows, self.keeps_logits = causal, windows, keeps_logits

    def _bias(self, mask: torch.Tensor, n_new: int, window: int | None) -> torch.Tensor:
        total = mask.shape[1]
        keys = torch.arange(total)[None]
        queries = torch.arange(total)[total - n_new :, None]
        allowed = mask[:, None, None, :].bool()
        if self.causal:
            allowed = allowed & (keys <= queries)
        if window:
            allowed = allowed & (keys > queries - window)
        allowed = allowed.expand(-1, 1, n_new, -1)
        return torch.where(allowed, 0.0, torch.finfo(torch.float32).min)

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        *rest: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Runs the text model; `rest` is the optional number of logits, then the KV cache."""
        keep, past = (rest[0], rest[1:]) if self.keeps_logits else (None, rest)
        n_new = inputs_embeds.shape[1]
        if self.windows:
            bias = {kind: self._bias(attention_mask, n_new, w) for kind, w in self.windows.items()}
        else:
            bias = self._bias(attention_mask, n_new, None)
        cache = DynamicCache.from_legacy_cache(tuple(zip(past[::2], past[1::2], strict=True)))
        out = self.text(
            inputs_embeds=inputs_embeds,
            attention_mask=bias,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        states = out.last_hidden_state
        if keep is not None:
            states = states[:, -keep:]
        present = [state for layer in out.past_key_values.to_legacy_cache() for state in layer]
        return self.head(states), *present


def text_model(model: PreTrainedModel) -> nn.Module:
    """Returns the text model, whose attribute name depends on the model family."""
    module = getattr(model, "model", model)
    module = module.text_model if hasattr(module, "text_model") else module.language_model
    # Voxtral has a complete causal model there.
    return getattr(module, "model", module)


class ImageFeatures(nn.Module):
    """Maps `pixel_values` to `image_features`, for models whose own function can be traced."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns [images, tokens, size]."""
        features = self.model.get_image_features(pixel_values)
        # LLaVA returns a list, one entry per image.
        return features if isinstance(features, torch.Tensor) else torch.stack(tuple(features))


class AudioFeatures(nn.Module):
    """Maps audio to its features, for models whose own function can be traced."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio_values: torch.Tensor) -> torch.Tensor:
        """Returns [tokens of all audio inputs, size]."""
        return self.model.get_audio_features(audio_values)


class LlavaFeatures(nn.Module):
    """Image features of LLaVA: the penultimate layer of its tower, without the class token."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Returns [images, patches, size]."""
        states = self.tower(pixel_values, output_hidden_states=True).hidden_states[-2]
        return self.projector(states[:, 1:])


class TileFeatures(nn.Module):
    """Image features of Idefics3: all-zero tiles are padding and are dropped; others are full.

    The processor makes tiles of the tower's full size, so the positions of a full tile are
    constants, taken from the model's own function.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.tower, self.connector = model.model.vision_model, model.model.connector
        embeddings = self.tower.embeddings
        side, patch = embeddings.image_size, embeddings.patch_size
        self.grid, self.patch = side // patch, patch
        whole = torch.ones(1, self.grid, self.grid, dtype=torch.bool)
        blank = torch.zeros(1, 3, side, side)
        with torch.no_grad():
            states = embeddings(pixel_values=blank, patch_attention_mask=whole)
            bare = embeddings.patch_embedding(blank).flatten(2).transpose(1, 2)
        self.register_buffer("positions", states - bare)

    def forward(
        self, pixel_values: torch.Tensor, pixel_attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Returns [real tiles, tokens, size]."""
        tiles = pixel_values.flatten(0, 1)
        real = (tiles != 0.0).any(-1).any(-1).any(-1)
        tiles = tiles[real]
        mask = pixel_attention_mask.flatten(0, 1)[real]
        blocks = mask.reshape(-1, self.grid, self.patch, self.grid, self.patch)
        seen = blocks.any(-1).any(2).flatten(1)
        bias = torch.where(seen[:, None, None], 0.0, torch.finfo(torch.float32).min)
        bias = bias.expand(-1, 1, self.grid**2, -1)
        states = self.tower.embeddings.patch_embedding(tiles).flatten(2).transpose(1, 2)
        states = self.tower.encoder(
            inputs_embeds=states + self.positions, attention_mask=bias
        ).last_hidden_state
        return self.connector(self.tower.post_layernorm(states))


class PatchFeatures(nn.Module):
    """Image features of Qwen2-VL: one sequence of all patches; images attend only to themselves."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.tower = model.model.visual
        self.merge = self.tower.spatial_merge_size

    def _positions(self, n_patches: int, grid: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the frame of each patch, and its row and column in that frame."""
        sizes = grid[:, 1] * grid[:, 2]
        ends = (grid[:, 0] * sizes).cumsum(0)
        index = torch.arange(n_patches)
        image = (index[:, None] >= ends[None]).sum(1)
        within = index - (ends - grid[:, 0] * sizes)[image]
        frame, within = within // sizes[image], within % sizes[image]
        # Patches to merge are adjacent: (rows / m, columns / m, m, m).
        per_row = grid[:, 2][image] * self.merge
        block = within % per_row // self.merge**2
        inner = within % self.merge**2
        row = within // per_row * self.merge + inner // self.merge
        column = block * self.merge + inner % self.merge
        return image * 100_000 + frame, row, column

    def _groups(
        self, frame: torch.Tensor, row: torch.Tensor, column: torch.Tensor
    ) -> list[torch.Tensor]:
        """Returns per layer [patches, K]; patches with equal values attend to each other."""
        return [frame[:, None]] * len(self.tower.blocks)

    def forward(self, pixel_values: torch.Tensor, grid_thw: torch.Tensor) -> torch.Tensor:
        """Returns [merged patches of all images, size]."""
        tower = self.tower
        frame, row, column = self._positions(pixel_values.shape[0], grid_thw)
        frequencies = tower.rotary_pos_emb.inv_freq
        angles = torch.stack([row, column], 1)[..., None].float() * frequencies
        angles = angles.flatten(1)
        angles = torch.cat([angles, angles], dim=-1)
        cos, sin = angles.cos(), angles.sin()
        states = tower.patch_embed(pixel_values)
        groups = self._groups(frame, row, column)
        for block, group in zip(tower.blocks, groups, strict=True):
            same_group = (group[:, None] == group[None]).all(-1)
            bias = torch.where(same_group, 0.0, torch.finfo(torch.float32).min)
            attention = block.attn
            qkv = attention.qkv(block.norm1(states))
            qkv = qkv.reshape(states.shape[0], 3, attention.num_heads, -1).permute(1, 0, 2, 3)
            query, key = apply_rotary_pos_emb_vision(qkv[0], qkv[1], cos, sin)
            scores = query.transpose(0, 1) @ key.permute(1, 2, 0) * attention.scaling
            weights = torch.softmax(scores + bias, dim=-1)
            mixed = (weights @ qkv[2].transpose(0, 1)).transpose(0, 1).flatten(1)
            states = states + attention.proj(mixed)
            states = states + block.mlp(block.norm2(states))
        return tower.merger(states)


class WindowPatchFeatures(PatchFeatures):
    """Image features of Qwen2.5-VL: in most layers, a patch attends only to its window.

    The model reorders patches by window and back; a mask has the same effect.
    """

    def _groups(
        self, frame: torch.Tensor, row: torch.Tensor, column: torch.Tensor
    ) -> list[torch.Tensor]:
        tower = self.tower
        edge = tower.window_size // self.merge // tower.patch_size * self.merge
        window = torch.stack([frame, row // edge, column // edge], 1)
        whole = tower.fullatt_block_indexes
        layers = range(len(tower.blocks))
        return [frame[:, None] if layer in whole else window for layer in layers]

    def forward(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> torch.Tensor:
        """Returns [merged patches of all images, size]."""
        return super().forward(pixel_values, image_grid_thw)
