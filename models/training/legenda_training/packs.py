"""Packed training rows of stage B: one prefix (with an image) and several questions after it.

The questions of a pack attend to the prefix but not to each other; each continues the positions of
the prefix. An image is therefore encoded once for all its questions. Only answer tokens have a
loss.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from .emoji import TRAINED_STYLES, concepts
from .modeling import IMAGE_SIZE
from .pretrain_audio import HOP, log_mel, vocabulary
from .pretrain_vision import CELLS, STRENGTH, centre_cell, stacked_targets
from .questions import (
    CAPTION_PROMPT,
    CAPTION_PROMPTS,
    TRAINING_KINDS,
    TRANSCRIBE_PROMPT,
    TRANSCRIBE_PROMPTS,
    answer_spoken,
    ask_scene,
    caption,
    group_truth,
    sum_question,
    text_questions,
)
from .scenes import Scene, SpriteBox, arrange, paint
from .sentences import SPOKEN_QUESTIONS
from .speech import SpeechStore, augmented
from .tokenizer import stored_tokenizer

BOS, EOS, USER, IMAGE, AUDIO, ASSISTANT = 1, 2, 4, 5, 6, 7
IGNORED = -100
FIRST_IMAGE = 2
"""Index of the first image token in a pack with an image."""


@dataclass
class Pack:
    """Token IDs with their positions, branches (0 is the prefix) and labels.

    `marks` are the indices of tokens that end a name in a question, with the concepts of the name.
    `reads` are the indices of assistant tokens whose answer depends on a name, with the index of
    the name.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    marks: list[tuple[int, frozenset[int]]] = field(default_factory=list)
    reads: list[tuple[int, int]] = field(default_factory=list)
    prefix: int = 0

    def open(self, ids: list[int]) -> None:
        """Adds the prefix."""
        self.ids += ids
        self.positions += range(len(ids))
        self.branches += [0] * len(ids)
        self.labels += [IGNORED] * len(ids)
        self.prefix = len(ids)

    def ask(
        self,
        question: list[int],
        answer: list[int],
        marks: Iterable[tuple[int, frozenset[int]]] = (),
        reads: bool = False,
    ) -> None:
        """Adds a branch: question, assistant token, answer, end; marks index the question."""
        start = len(self.ids)
        self.marks += [(start + index, referents) for index, referents in marks]
        if reads:
            self.reads.append((start + len(question), self.marks[-1][0]))
        ids = [*question, ASSISTANT, *answer, EOS]
        branch = self.branches[-1] + 1
        self.ids += ids
        self.positions += range(self.prefix, self.prefix + len(ids))
        self.branches += [branch] * len(ids)
        self.labels += [IGNORED] * (len(question) + 1) + [*answer, EOS]


def collate(packs: list[Pack]) -> dict[str, Tensor]:
    """Returns right-padded tensors and a boolean attention mask [B, 1, S, S]."""
    longest = max(len(p.ids) for p in packs)

    def padded(name: str, fill: int) -> Tensor:
        rows = [getattr(p, name) + [fill] * (longest - len(p.ids)) for p in packs]
        return torch.tensor(rows)

    branches = padded("branches", -1)
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    is_visible = (branches[:, None, :] == branches[:, :, None]) | (branches[:, None, :] == 0)
    return {
        "input_ids": padded("ids", 0),
        "position_ids": padded("positions", 0),
        "labels": padded("labels", IGNORED),
        "attention_mask": (causal & is_visible)[:, None],
    }


def mark_targets(packs: list[Pack], scenes: list[Scene]) -> dict[str, Tensor]:
    """Returns the attention targets of names in questions.

    `mark_places` [M, 2] are pack and token index; `mark_wanted` [M, 1 + N] are target weights of
    the first token of the pack and of the image tokens. `read_places` [R, 3] are pack, index of an
    assistant token, and index of the name that it should attend to.

    A name attends equally to the centre cells of its n objects and to the first token, each with
    weight 1 / (n + 1). Without such an object, the first token has weight 1. Returns nothing if no
    pack has reads.
    """
    token_indices, weights = [], []
    for number, (pack, scene) in enumerate(zip(packs, scenes, strict=True)):
        for index, referents in pack.marks:
            target = torch.zeros(1 + CELLS * CELLS)
            target[0] = 1
            for item in scene.objects:
                if item.concept in referents:
                    target[1 + centre_cell(item)] = 1
            token_indices.append((number, index))
            weights.append(target / target.sum())
    reads = [(n, *read) for n, pack in enumerate(packs) for read in pack.reads]
    if not reads:
        return {}
    return {
        "mark_places": torch.tensor(token_indices),
        "mark_wanted": torch.stack(weights),
        "read_places": torch.tensor(reads),
    }


KINDS = {"image": 0.62, "audio": 0.14, "spoken": 0.1, "text": 0.14}
"""Fraction of batches of each kind, with images."""
KINDS_WITHOUT_IMAGES = {"audio": 0.68, "text": 0.32}
"""Fraction of batches of each kind while the vision tower is being pretrained."""
SIZES = {"image": 12, "audio": 16, "spoken": 8, "text": 8}
"""Packs per batch of each kind."""
QUESTIONS = 9
"""Questions per image of several objects, which share its encoding."""
SAME_GROUP = 0.25
"""Probability that an absent object in a question has the group of a present one."""


class PackStream(IterableDataset):
    """Endless batches for stage B: dicts of tensors with their `kind`.

    In addition to the tensors of `collate`: pixels uint8 [b, H, W, 3] with cell targets, and
    `input_features` [b, mels, frames] with the spoken words and tokens (`words`, `word_counts`,
    `said`, `said_counts`) and the length in encoder positions (`sound_positions`).
    """

    def __init__(
        self, data: Path, seed: int, scale: float = 1.0, kinds: dict[str, float] = KINDS
    ) -> None:
        self.data, self.seed, self.scale, self.kinds = data, seed, scale, kinds

    def __iter__(self) -> Iterator[dict]:
        if torch.utils.data.get_worker_info():
            torch.set_num_threads(1)
        self.rng = np.random.default_rng(self.seed)
        self.choice = random.Random(self.seed)
        self.tokenizer: PreTrainedTokenizerFast = stored_tokenizer(self.data)
        self.box = SpriteBox(self.data, TRAINED_STYLES)
        self.speech = SpeechStore(self.data, "trained")
        self.words = vocabulary(self.data)[0]
        self.tokens: dict[str, list[int]] = {}
        utterances = self.speech.utterances
        self.statements = [i for i, u in enumerate(utterances) if u.kind == "said"]
        self.by_kind: dict[str, list[int]] = {}
        self.by_topic: dict[tuple[str, int], list[int]] = {}
        for i, u in enumerate(utterances):
            if u.kind != "said":
                self.by_kind.setdefault(u.kind, []).append(i)
                self.by_topic.setdefault((u.kind, u.concept), []).append(i)
        self.text_table = [a for c in concepts() for a in text_questions(c)]
        kinds, shares = list(self.kinds), list(self.kinds.values())
        while True:
            kind = self.choice.choices(kinds, shares)[0]
            count = max(2, round(SIZES[kind] * self.scale))
            yield {"kind": kind, **getattr(self, "_" + kind)(count)}

    def _encode(self, text: str) -> list[int]:
        ids = self.tokens.get(text)
        if ids is None:
            ids = self.tokenizer(text, add_special_tokens=False).input_ids
            self.tokens[text] = ids
        return ids

    def _painted_scenes(self, count: int) -> tuple[list[Scene], dict[str, Tensor]]:
        scenes = [arrange(self.rng, self.box.concepts) for _ in range(count)]
        return scenes, self._painted(scenes)

    def _painted(self, scenes: list[Scene]) -> dict[str, Tensor]:
        strengths = self.rng.uniform(*STRENGTH, len(scenes))
        pixels = np.stack(
            [
                paint(scene, self.box, self.rng, IMAGE_SIZE, strength)
                for scene, strength in zip(scenes, strengths, strict=True)
            ]
        )
        return {"pixels": torch.from_numpy(pixels), **stacked_targets(scenes)}

    def _audio_tensors(self, rows: list[int]) -> dict[str, Tensor]:
        clips = [augmented(self.speech.audio(i), self.rng) for i in rows]
        texts = [self.speech.utterances[i].text.split() for i in rows]
        tokens = [self._encode(self.speech.utterances[i].text) for i in rows]
        return {
            "input_features": log_mel(clips),
            "sound_positions": torch.tensor([min(150, len(s) // HOP // 2 + 2) for s in clips]),
            "words": torch.tensor([self.words[w] for t in texts for w in t]),
            "word_counts": torch.tensor([len(t) for t in texts]),
            "said": torch.tensor([t for ids in tokens for t in ids]),
            "said_counts": torch.tensor([len(ids) for ids in tokens]),
        }

    def _image(self, count: int) -> dict:
        scenes, tensors = self._painted_scenes(count)
        packs = []
        for scene in scenes:
            pack = Pack()
            pack.open([BOS, USER, *[IMAGE] * 36])
            prompt = (CAPTION_PROMPT if self.choice.random() < 0.6
                      else self.choice.choice(CAPTION_PROMPTS))  # fmt: skip
            pack.ask(self._encode(prompt), self._encode(caption(scene)))
            for _ in range(4 if len(scene.objects) == 1 else QUESTIONS):
                qa = ask_scene(self.choice, scene, TRAINING_KINDS, SAME_GROUP)
                marks = [(len(self._encode(qa.question[:end])) - 1, m) for end, m in qa.names]
                pack.ask(
                    self._encode(qa.question),
                    self._encode(qa.answer),
                    marks,
                    reads=qa.kind in ("count", "exists"),
                )
            packs.append(pack)
        return {**collate(packs), **tensors, **mark_targets(packs, scenes)}

    def _audio(self, count: int) -> dict:
        pool = range(len(self.speech)) if self.choice.random() < 0.3 else self.statements
        rows = self.choice.sample(pool, count)
        packs = []
        for row in rows:
            pack = Pack()
            prompt = (TRANSCRIBE_PROMPT if self.choice.random() < 0.6
                      else self.choice.choice(TRANSCRIBE_PROMPTS))  # fmt: skip
            pack.open([BOS, USER, *[AUDIO] * 50, *self._encode(prompt)])
            pack.ask([], self._encode(self.speech.utterances[row].text))
            packs.append(pack)
        return {**collate(packs), **self._audio_tensors(rows)}

    def _spoken(self, count: int) -> dict:
        scenes, rows, packs = [], [], []
        while len(packs) < count:
            scene, row, answer = self._spoken_row()
            scenes.append(scene)
            rows.append(row)
            pack = Pack()
            pack.open([BOS, USER, *[IMAGE] * 36, *[AUDIO] * 50])
            pack.ask([], self._encode(answer))
            packs.append(pack)
        return {**collate(packs), **self._painted(scenes), **self._audio_tensors(rows)}

    def _spoken_row(self) -> tuple[Scene, int, str]:
        while True:
            kind = self.choice.choice(SPOKEN_QUESTIONS)
            row = self.choice.choice(self.by_kind[kind])
            concept = self.speech.utterances[row].concept
            is_shown = concept in self.box.by_concept and self.choice.random() < 0.7
            first = concept if is_shown else None
            scene = arrange(
                self.rng,
                self.box.concepts,
                first=first,
                objects=self.choice.choice((2, 3))
                if kind in ("left", "right", "above", "below")
                else None,
            )
            answer = answer_spoken(scene, kind, concept)
            if answer is not None:
                return scene, row, answer

    def _text(self, count: int) -> dict:
        packs = []
        for _ in range(count):
            pack = Pack()
            pack.open([BOS, USER])
            for qa in self.choice.sample(self.text_table, 8):
                pack.ask(self._encode(qa.question), self._encode(qa.answer))
            for qa in (group_truth(self.choice), sum_question(self.choice)):
                pack.ask(self._encode(qa.question), self._encode(qa.answer))
            packs.append(pack)
        return collate(packs)
