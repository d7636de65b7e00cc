"""Scores of an exported bundle on images, audio and texts that are not in training.

Images are new scenes (another seed) in trained styles and in the held-out style, with light
augmentation. Audio is from held-out voices, clean and noisy. Answers must equal the expected text.
Every task has its own random stream, so a smaller share uses the first of the same rows.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
from PIL import Image

from .emoji import HELD_OUT_STYLE, TRAINED_STYLES, concepts
from .pretrain_audio import edit_distance
from .questions import (
    CAPTION_PROMPT,
    TRANSCRIBE_PROMPT,
    answer_spoken,
    ask_scene,
    caption,
    group_truth,
    sum_question,
    text_questions,
)
from .runner import BundleRunner, Row
from .scenes import SpriteBox, arrange, paint
from .speech import SpeechStore, augmented

IMAGE_SIZE = 192
"""Side of evaluation images in pixels; the processor scales them down."""
SCENES, SCENE_QUESTIONS, SPOKEN = 400, 2000, 500
"""Rows of each task and condition. A score of 80 % has a standard error of 0.9 points with 2000
rows, and of 3.4 points with 140. If a model answers `no` and `one` too often, the expected answers
of so few rows change the score even more."""
CLIPS = {"held_out": 480, "trained": 240}
"""Clips per set of voices."""


class Evaluation:
    """Collects the scores of one bundle: rows of (task, condition, score, n)."""

    def __init__(self, bundle: Path, data: Path, share: float = 1.0, seed: int = 77) -> None:
        self.runner = BundleRunner(bundle)
        self.data, self.share = data, share
        self.seed = seed
        self._draw_for("")
        self.scores: list[tuple[str, str, float, int]] = []
        self.misses: list[tuple[str, str, str, str]] = []

    def count(self, full: int) -> int:
        """Returns the number of rows at the chosen share."""
        return max(8, round(full * self.share))

    def _draw_for(self, task: str) -> None:
        """Starts the random streams of a task."""
        self.choice = random.Random(f"{self.seed} {task}")
        self.rng = np.random.default_rng(self.choice.getrandbits(64))

    def _answers(self, rows: list[Row]) -> list[str]:
        return [self.runner.text(t) for t in self.runner.generate(rows)]

    def exact(
        self,
        task: str,
        condition: str,
        rows: list[Row],
        expected: list[str],
        kinds: list[str] | None = None,
    ) -> None:
        """Adds the share of answers that equal the expected text, in total and by kind."""
        answers = self._answers(rows)
        right = np.array([a == e for a, e in zip(answers, expected, strict=True)])
        self._add(task, condition, float(right.mean()), len(right))
        for kind in sorted(set(kinds or ())):
            chosen = np.array([k == kind for k in kinds or ()])
            self._add(task, f"{condition}, {kind}", float(right[chosen].mean()), int(chosen.sum()))
        for row, answer, want in zip(rows, answers, expected, strict=True):
            if answer != want:
                self.misses.append((f"{task} {condition}", row.question or "", want, answer))

    def _add(self, task: str, condition: str, score: float, count: int) -> None:
        self.scores.append((task, condition, score, count))
        print(f"evaluate: {task} | {condition} | {score:.3f} | n={count}", flush=True)

    def images(self) -> None:
        """Scores captions and questions in trained styles and in the held-out style."""
        for condition, styles in (
            ("trained styles", TRAINED_STYLES),
            ("held-out style", (HELD_OUT_STYLE,)),
        ):
            box = SpriteBox(self.data, styles)
            self._draw_for(f"object {condition}")
            rows, expected = [], []
            for number in range(self.count(345)):
                first = box.concepts[number % len(box.concepts)]
                scene = arrange(self.rng, box.concepts, first=first, objects=1)
                rows.append(Row(CAPTION_PROMPT, self._image(scene, box)))
                expected.append(caption(scene))
            self.exact("caption, one object", condition, rows, expected)
            self._draw_for(f"caption {condition}")
            rows, expected, kinds = [], [], []
            for _ in range(self.count(SCENES)):
                scene = arrange(self.rng, box.concepts, objects=self.choice.choice((2, 3, 4)))
                rows.append(Row(CAPTION_PROMPT, self._image(scene, box)))
                expected.append(caption(scene))
                kinds.append(f"{len(scene.objects)} objects")
            self.exact("caption, scene", condition, rows, expected, kinds)
            self._draw_for(f"question {condition}")
            rows, expected, kinds = [], [], []
            for _ in range(self.count(SCENE_QUESTIONS)):
                scene = arrange(self.rng, box.concepts)
                qa = ask_scene(self.choice, scene)
                rows.append(Row(qa.question, self._image(scene, box)))
                expected.append(qa.answer)
                kinds.append(qa.kind)
            self.exact("question about a scene", condition, rows, expected, kinds)
            self._spoken(condition, box)

    def _image(self, scene, box: SpriteBox) -> Image.Image:
        return Image.fromarray(paint(scene, box, self.rng, IMAGE_SIZE, strength=0.25))

    def _spoken(self, condition: str, box: SpriteBox) -> None:
        store = SpeechStore(self.data, "held_out")
        question_indices = [i for i, u in enumerate(store.utterances) if u.kind != "said"]
        self._draw_for(f"spoken {condition}")
        rows, expected = [], []
        while len(rows) < self.count(SPOKEN):
            index = self.choice.choice(question_indices)
            utterance = store.utterances[index]
            first = utterance.concept if utterance.concept in box.by_concept else None
            first = first if self.rng.random() < 0.7 else None
            scene = arrange(self.rng, box.concepts, first=first)
            answer = answer_spoken(scene, utterance.kind, utterance.concept)
            if answer is not None:
                rows.append(Row(None, self._image(scene, box), store.audio(index)))
                expected.append(answer)
        self.exact("spoken question about a scene", f"{condition}, held-out voices", rows, expected)

    def audio(self) -> None:
        """Scores transcripts by word error rate (lower is better)."""
        conditions = (("held-out voices", "held_out", False), ("held-out voices, noisy", "held_out",
                      True), ("trained voices", "trained", False))  # fmt: skip
        for condition, name, noisy in conditions:
            store = SpeechStore(self.data, name)
            statements = [i for i, u in enumerate(store.utterances) if u.kind == "said"]
            self._draw_for(f"sound {condition}")
            chosen = self.choice.sample(statements, len(statements))[: self.count(CLIPS[name])]
            clips = [store.audio(i) for i in chosen]
            if noisy:
                clips = [augmented(s, self.rng) for s in clips]
            answers = self._answers([Row(TRANSCRIBE_PROMPT, audio=s) for s in clips])
            n_edits = n_words = n_exact = 0
            for index, answer in zip(chosen, answers, strict=True):
                want = store.utterances[index].text.split()
                got = answer.split()
                n_edits += edit_distance(want, got)
                n_words += len(want)
                n_exact += want == got
                if want != got:
                    self.misses.append(
                        (condition, store.utterances[index].voice, " ".join(want), answer)
                    )
            self._add("transcript, word error rate", condition, n_edits / n_words, len(chosen))
            self._add(
                "transcript, whole sentence right", condition, n_exact / len(chosen), len(chosen)
            )

    def texts(self) -> None:
        """Scores text questions; all facts and phrasings are in training."""
        self._draw_for("text")
        rows, expected, kinds = [], [], []
        for _ in range(self.count(400)):
            draw = self.choice.random()
            if draw < 0.8:
                qa = self.choice.choice(text_questions(self.choice.choice(concepts())))
            else:
                qa = group_truth(self.choice) if draw < 0.9 else sum_question(self.choice)
            rows.append(Row(qa.question))
            expected.append(qa.answer)
            kinds.append(qa.kind.split()[0])
        self.exact("text question", "all facts seen in training", rows, expected, kinds)

    def write(self, folder: Path) -> None:
        """Writes `scores.csv` and `misses.csv`."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "scores.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("task", "condition", "score", "n"))
            writer.writerows((t, c, f"{s:.4f}", n) for t, c, s, n in self.scores)
        with (folder / "misses.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("task", "question", "expected", "answer"))
            writer.writerows(self.misses)


def evaluate(bundle: Path, data: Path, out: Path, share: float = 1.0) -> list[tuple]:
    """Scores a bundle and writes the scores to `out`."""
    evaluation = Evaluation(bundle, data, share)
    evaluation.images()
    evaluation.audio()
    evaluation.texts()
    evaluation.write(out)
    return evaluation.scores
