"""Stage B: trains the decoder with all parts, within a wall-clock budget.

Stage `listen` uses only audio and texts (it can run while the vision tower is being pretrained).
Stage `answer` uses all tasks but does not train the towers, so it is cheap; it can also run in
parallel with `vision`. Stage `joint` trains everything and starts from the results of the earlier
stages. The towers come from pretraining and keep its losses at a low weight. Batch norms update
their statistics until the last fifth. `vision` and `answer` can start from a bundle instead.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.models.llama.modeling_llama import rotate_half

from .checkpoint import save_checkpoint
from .emoji import concepts
from .modeling import LegendaForConditionalGeneration, VisionEncoder, tiny_config
from .packs import FIRST_IMAGE, KINDS, KINDS_WITHOUT_IMAGES, PackStream
from .pretrain_audio import SpeechHeads, vocabulary
from .pretrain_vision import NONE, CellHeads, normalised, object_means
from .restore import load_bundle, unfold_norms
from .scenes import COLOUR_NAMES
from .tokenizer import stored_tokenizer

CELL_WEIGHT, WORD_WEIGHT, TOKEN_WEIGHT, NAME_WEIGHT = 0.3, 0.2, 0.3, 0.4
LOOK_WEIGHT, READ_WEIGHT = 1.0, 0.1
"""Weights of the losses in addition to the answer loss: the losses of the towers; the losses that
pull audio tokens towards the embeddings of the spoken words, and image tokens towards those of the
visible names; and the losses that make a name in a question attend to the image tokens that show
it, and the answer to that name."""


class Trainee(nn.Module):
    """The model with its remaining pretraining heads."""

    def __init__(self, data: Path, preset: str = "tiny") -> None:
        super().__init__()
        tokenizer = stored_tokenizer(data)
        self.model = LegendaForConditionalGeneration(tiny_config(len(tokenizer), preset))
        config = self.model.config
        words, _, phonemes = vocabulary(data)
        self.cells = CellHeads(config.vision_config.hidden_sizes[-1])
        self.cells.concept = self.model.vision_encoder.concepts
        self.speech = SpeechHeads(config.audio_config.d_model, phonemes, len(words))
        self.token_scale = nn.Parameter(torch.tensor(3.0))
        names = torch.zeros(NONE, len(tokenizer))
        for concept in concepts():
            for form in (concept.name, concept.name, concept.plural):
                ids = tokenizer(" " + form, add_special_tokens=False).input_ids
                for token in ids:
                    names[concept.index, token] += 1 / len(ids) / 3
        self.register_buffer("names", names, persistent=False)
        colours = [tokenizer(" " + c, add_special_tokens=False).input_ids[0] for c in COLOUR_NAMES]
        self.register_buffer("colours", torch.tensor(colours), persistent=False)

    def load_earlier(self, runs: Path, stage: str) -> VisionEncoder | None:
        """Loads the results of the stages before `stage`, if they were run.

        Returns the vision encoder that stage `answer` was trained with, if the tower has changed
        since.
        """
        earlier = [s for s in ("answer", "listen") if s != stage and (runs / f"{s}.pt").exists()]
        if stage != "listen" and earlier:
            state = torch.load(runs / f"{earlier[0]}.pt", weights_only=True)["trainee"]
            self.load_state_dict(state, strict=False)
        tower_changed = "answer" in earlier and (runs / "vision.pt").exists()
        earlier_encoder = copy.deepcopy(self.model.vision_encoder) if tower_changed else None
        towers = {
            "vision": (self.model.vision_encoder.tower, self.cells),
            "audio": (self.model.audio_encoder.tower, self.speech),
        }
        for name, (tower, heads) in towers.items():
            if not (runs / f"{name}.pt").exists():
                continue
            if name == "audio" and earlier:
                continue
            state = torch.load(runs / f"{name}.pt", weights_only=True)
            tower.load_state_dict(state["tower"])
            heads.load_state_dict(state["heads"])
        return earlier_encoder

    def load_bundle(self, bundle: Path, data: Path) -> None:
        """Loads the weights of a bundle; heads that it does not contain start from scratch."""
        self.model.load_state_dict(load_bundle(bundle).state_dict())
        self.model.eval()
        stream = PackStream(data, 29, 16.0, {"image": 1.0})
        unfold_norms(self.model.vision_encoder, normalised(next(iter(stream))["pixels"]))

    def loss(
        self, batch: dict, train_audio: bool = True, train_vision: bool = True
    ) -> tuple[Tensor, float, float]:
        """Returns the total loss, answer loss and answer token accuracy of a batch.

        Without `train_audio`, the audio tower is not trained on this batch; without `train_vision`,
        the vision tower is not trained.
        """
        model = self.model
        images = audio = None
        extra = torch.zeros(())
        if "pixels" in batch:
            pixels = normalised(batch["pixels"]).to(memory_format=torch.channels_last)
            with torch.set_grad_enabled(train_vision):
                cells = model.vision_encoder.cells(pixels)
            images = model.vision_encoder.project(cells)
            if train_vision:
                extra = extra + CELL_WEIGHT * self.cells.losses(cells, batch)[0]
            extra = extra + NAME_WEIGHT * self._name_loss(images, batch)
        if "input_features" in batch:
            with torch.set_grad_enabled(train_audio):
                positions = model.audio_encoder.tower(batch["input_features"]).last_hidden_state
            audio = model.audio_encoder.project(positions)
            scores = self.speech.word(positions).log_softmax(-1).transpose(0, 1)
            extra = extra + WORD_WEIGHT * nn.functional.ctc_loss(
                scores,
                batch["words"],
                batch["sound_positions"],
                batch["word_counts"],
                zero_infinity=True,
            )
            extra = extra + TOKEN_WEIGHT * self._token_loss(audio, batch)
        embeds = model.merged(batch["input_ids"], images, audio)
        labels = batch["labels"]
        with self._attention_inputs() as inputs:
            out = model(
                inputs_embeds=embeds,
                attention_mask=batch["attention_mask"],
                position_ids=batch["position_ids"],
                labels=labels,
                use_cache=False,
            )
        if "mark_places" in batch:
            look_loss, read_loss = self._look_losses(inputs, batch)
            extra = extra + LOOK_WEIGHT * look_loss + READ_WEIGHT * read_loss
        target = labels[:, 1:]
        right = (out.logits.argmax(-1) == target[target != -100]).float().mean()
        return out.loss + extra, float(out.loss.detach()), float(right)

    def _token_scores(self, features: Tensor) -> Tensor:
        """Returns log-probabilities [..., vocabulary] of features, scored by the embeddings."""
        scale = features.pow(2).mean(-1, keepdim=True).add(1e-5).rsqrt()
        return self.model.lm_head(self.token_scale * scale * features).log_softmax(-1)

    def _name_loss(self, images: Tensor, batch: dict) -> Tensor:
        """Returns the cross entropy of each object's mean image token with the tokens of its name,
        plus that of the mean background cell with the background colour."""
        object_tokens, is_object = object_means(images, batch["owner"], batch["objects"])
        name_weights = self.names[batch["objects"][is_object]]
        loss = -(name_weights * self._token_scores(object_tokens)).sum(-1).mean()
        is_background = (batch["owner"] == -1).float().unsqueeze(1)
        count = is_background.sum(-1)
        background = ((is_background @ images).squeeze(1) / count.clamp(min=1))[count[:, 0] > 0]
        colour = self.colours[batch["background"][count[:, 0] > 0]]
        return loss + 0.5 * nn.functional.nll_loss(self._token_scores(background), colour)

    @contextmanager
    def _attention_inputs(self) -> Iterator[dict[int, dict[str, Any]]]:
        """Yields a dict that collects the attention inputs of every layer when the decoder runs."""
        inputs: dict[int, dict[str, Any]] = {}
        hooks = [
            layer.self_attn.register_forward_pre_hook(
                lambda attention, _, kwargs: inputs.update({attention.layer_idx: kwargs}),
                with_kwargs=True,
            )
            for layer in self.model.language_model.layers
        ]
        try:
            yield inputs
        finally:
            for hook in hooks:
                hook.remove()

    def _looks(
        self,
        inputs: dict[int, dict[str, Any]],
        layer: int,
        batch: dict,
        rows: Tensor,
        indices: Tensor,
    ) -> Tensor:
        """Returns the log attention weights [M, S] of a layer's first head for M tokens."""
        attention = self.model.language_model.layers[layer].self_attn
        hidden = inputs[layer]["hidden_states"]
        size = attention.head_dim
        cosine, sine = inputs[layer]["position_embeddings"]
        keys = nn.functional.linear(hidden, attention.k_proj.weight[:size])
        keys = keys * cosine + rotate_half(keys) * sine
        queries = nn.functional.linear(hidden[rows, indices], attention.q_proj.weight[:size])
        queries = queries * cosine[rows, indices] + rotate_half(queries) * sine[rows, indices]
        scores = torch.einsum("md,msd->ms", queries, keys[rows]) * attention.scaling
        visible = batch["attention_mask"][rows, 0, indices]
        return scores.masked_fill(~visible, -1e4).log_softmax(-1)

    def _look_losses(self, inputs: dict[int, dict[str, Any]], batch: dict) -> tuple[Tensor, Tensor]:
        """Returns the cross entropies of the first head's attention with its targets.

        In the middle layer, a name in a question attends to its objects, or to the first token if
        there are none. In the last layer, the assistant token attends to the name that its answer
        depends on.

        "Is there a dog?" and "How many dogs are there?" need a comparison of a name with 36 image
        tokens, which the decoder does not learn from the answers alone.
        """
        layers = len(self.model.language_model.layers)
        looks = self._looks(inputs, layers // 2, batch, *batch["mark_places"].unbind(1))
        count = batch["mark_wanted"].shape[1] - 1
        looks = torch.cat([looks[:, :1], looks[:, FIRST_IMAGE : FIRST_IMAGE + count]], 1)
        rows, indices, names = batch["read_places"].unbind(1)
        reads = self._looks(inputs, layers - 1, batch, rows, indices)
        look_loss = -(batch["mark_wanted"] * looks).sum(1).mean()
        return look_loss, -reads.gather(1, names[:, None]).mean()

    def _token_loss(self, audio: Tensor, batch: dict) -> Tensor:
        """Returns the CTC loss of the spoken tokens over audio tokens, scored by the embeddings."""
        scores = self._token_scores(audio).transpose(0, 1)
        lengths = (batch["sound_positions"] // self.model.audio_encoder.stack + 1).clamp(max=50)
        return nn.functional.ctc_loss(
            scores, batch["said"], lengths, batch["said_counts"], zero_infinity=True
        )


def freeze_norms(model: nn.Module, freeze: bool = True) -> None:
    """Freezes the statistics of batch norms, or lets them update slowly."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(not freeze)
            module.momentum = 0.03


def train(
    data: Path,
    runs: Path,
    seconds: float,
    stage: str = "joint",
    preset: str = "tiny",
    peak: float = 1.2e-3,
    tower_share: float = 0.5,
    seed: int = 3,
    scale: float = 1.0,
    rank: int = 0,
    ranks: int = 1,
    bundle: Path | None = None,
    train_audio: bool = True,
) -> None:
    """Trains for `seconds` of wall clock; writes a checkpoint every two minutes and resumes from
    it.

    `listen` and `answer` do not train the towers. `joint` trains them too, the audio tower on every
    other batch and only with `train_audio`. The rate follows a cosine to the end, except in
    `listen`, which keeps it constant after warm-up. With several `ranks` (processes of one group),
    each draws its own batches, and gradients are averaged. Without a checkpoint of this stage,
    training starts from `bundle`, or from the earlier stages.
    """
    torch.manual_seed(seed)
    out = runs / f"{stage}.pt"
    trainee = Trainee(data, preset)
    joint = stage == "joint"
    if stage == "answer":
        trainee.cells.requires_grad_(False)
    towers, rest = [], []
    for name, parameter in trainee.named_parameters():
        if not parameter.requires_grad:
            continue
        (towers if ".tower." in name or not name.startswith("model.") else rest).append(parameter)
    optimiser = torch.optim.AdamW(
        [{"params": rest, "share": 1.0}, {"params": towers, "share": tower_share}],
        lr=peak,
        weight_decay=0.03,
        betas=(0.9, 0.98),
        fused=True,
    )
    spent, step = 0.0, 0
    if out.exists():
        state = torch.load(out, weights_only=True)
        trainee.load_state_dict(state["trainee"])
        if state["optimiser"]:
            optimiser.load_state_dict(state["optimiser"])
        spent, step = state["spent"], state["step"]
    elif bundle:
        trainee.load_bundle(bundle, data)
    else:
        from .align import align_vision, keep_projection

        earlier_encoder = trainee.load_earlier(runs, stage)
        if earlier_encoder is not None:
            keep_projection(trainee.model.vision_encoder, earlier_encoder, data)
        elif stage != "listen" and not (runs / "answer.pt").exists():
            align_vision(trainee, data, 60)
    kinds = KINDS_WITHOUT_IMAGES if stage == "listen" else KINDS
    first = step
    stream = PackStream(data, seed + step + 1_000_003 * rank, scale, kinds)
    loader = iter(DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=8))
    trainee.train()
    start, saved = time.monotonic() - spent, time.monotonic()
    means: dict[str, np.ndarray] = {}
    curve = runs / f"{stage}.csv"
    if not curve.exists():
        curve.write_text("step,seconds,rate,kind,answer_loss,answer_tokens_right\n")
    while True:
        spent = broadcast(time.monotonic() - start, ranks)
        if spent >= seconds:
            break
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * spent / seconds))
        cosine = 1.0 if stage == "listen" else cosine
        rate = peak * min(1, (step - first + 1) / 80) * cosine
        for group in optimiser.param_groups:
            group["lr"] = rate * group["share"]
        freeze_norms(trainee, not joint or spent > 0.8 * seconds)
        batch = next(loader)
        trains_audio = joint and train_audio and step % 2 == 0
        loss, answer, right = trainee.loss(batch, train_audio=trains_audio, train_vision=joint)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients([*towers, *rest], ranks)
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimiser.step()
        step += 1
        kind = batch["kind"]
        decayed = 0.97 * means.get(kind, np.zeros(3))
        means[kind] = decayed + 0.03 * np.array([answer, right, 1])
        if step % 50 == 0 and rank == 0:
            parts = []
            with curve.open("a") as file:
                for name, mean in sorted(means.items()):
                    loss_mean, right_mean = mean[:2] / mean[2]
                    file.write(
                        f"{step},{spent:.0f},{rate:.2e},{name},{loss_mean:.4f},{right_mean:.4f}\n"
                    )
                    parts.append(f"{name} {loss_mean:.3f}/{right_mean:.3f}")
            print(f"{stage} {step} {spent:.0f}s {'  '.join(parts)}", flush=True)
        if time.monotonic() - saved > 120 and rank == 0:
            save(out, trainee, optimiser, spent, step)
            saved = time.monotonic()
    if rank == 0:
        save(out, trainee, optimiser, spent, step)


def broadcast(value: float, ranks: int) -> float:
    """Returns the value of the first rank, on every rank."""
    if ranks == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64)
    torch.distributed.broadcast(shared, 0)
    return float(shared)


def average_gradients(parameters: list[nn.Parameter], ranks: int) -> None:
    """Averages gradients over the ranks; a missing gradient counts as zero."""
    if ranks == 1:
        return
    flat = torch.cat(
        [(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters]
    )
    torch.distributed.all_reduce(flat)
    flat /= ranks
    start = 0
    for p in parameters:
        p.grad = flat[start : start + p.numel()].view_as(p)
        start += p.numel()


def save(
    out: Path, trainee: Trainee, optimiser: torch.optim.Optimizer, spent: float, step: int
) -> None:
    """Writes the checkpoint atomically."""
    state = {
        "trainee": trainee.state_dict(),
        "optimiser": optimiser.state_dict(),
        "spent": spent,
        "step": step,
    }
    save_checkpoint(out, state)


def trained_model(data: Path, runs: Path, preset: str = "tiny") -> LegendaForConditionalGeneration:
    """Returns the model of the latest joint checkpoint."""
    trainee = Trainee(data, preset)
    state = torch.load(runs / "joint.pt", weights_only=True)["trainee"]
    trainee.load_state_dict(state, strict=False)
    return trainee.model.eval()
