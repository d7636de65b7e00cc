"""The sample tables: four small Parquet files of images, audio, questions and texts.

All have the same schema: `id`, `question` (null if the audio is the question), `image`, `audio`,
`expected` (null for broken rows). The same data gives the same files.
"""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from PIL import Image
from scipy.signal import resample_poly

from .emoji import HELD_OUT_STYLE, concepts
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
from .scenes import Scene, SpriteBox, arrange, paint
from .sentences import spoken_question
from .speech import SAMPLING_RATE, SpeechStore, synthesise, trimmed

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("image", pa.binary()),
        ("audio", pa.binary()),
        ("expected", pa.string()),
    ]
)
SHOWN_STYLES = ("twemoji", "fluent-emoji", "fluent-emoji-flat", "emojione")
"""Trained styles whose licence requires at most attribution."""

NOTICE = """The sample tables contain images composed from emoji designs, and audio from a
speech synthesiser. `python -m legenda_training sample` generates them.

Images, by style (the style is part of the row ID):
- twemoji: Twemoji, (c) Twitter, Inc. and other contributors, CC BY 4.0
- emojione: EmojiOne 2, (c) Ranks.com Inc., CC BY 4.0
- fluent-emoji, fluent-emoji-flat: Fluent Emoji, (c) Microsoft Corporation, MIT
- noto: Noto Emoji, (c) Google LLC, Apache-2.0
The designs were scaled, recoloured, rotated and composed on backgrounds.

Audio: spoken by eSpeak NG; the sentences are the project's own.
"""


def encode_image(pixels: np.ndarray, codec: str) -> bytes:
    """Encodes an image as PNG, JPEG or WebP."""
    stream = io.BytesIO()
    options = {"PNG": {"optimize": True}, "JPEG": {"quality": 88}, "WEBP": {"quality": 88}}[codec]
    Image.fromarray(pixels).save(stream, codec, **options)
    return stream.getvalue()


def encode_audio(
    samples: np.ndarray, codec: str = "WAV", rate: int = SAMPLING_RATE, channels: int = 1
) -> bytes:
    """Encodes 16 kHz samples as a 16-bit WAV or FLAC file at any rate, mono or stereo."""
    if rate != SAMPLING_RATE:
        divisor = np.gcd(rate, SAMPLING_RATE)
        samples = resample_poly(samples, rate // divisor, SAMPLING_RATE // divisor)
    if channels == 2:
        samples = np.stack([samples, 0.8 * samples], axis=1)
    stream = io.BytesIO()
    soundfile.write(stream, np.clip(samples, -1, 1), rate, format=codec, subtype="PCM_16")
    return stream.getvalue()


class SampleMaker:
    """Generates rows; the same data folder and seed give the same tables."""

    def __init__(self, data: Path, seed: int = 20) -> None:
        self.data = data
        self.rng = np.random.default_rng(seed)
        self.choice = random.Random(seed)
        self.boxes = {s: SpriteBox(data, (s,)) for s in (*SHOWN_STYLES, HELD_OUT_STYLE)}

    def scene_image(
        self, style: str, objects: int | None, codec: str | None = None, first: int | None = None
    ) -> tuple[Scene, bytes]:
        """Returns a scene in one style at a random size, with light augmentation."""
        box = self.boxes[style]
        scene = arrange(self.rng, box.concepts, first=first, objects=objects)
        size = self.choice.randint(16, 28) * 8 if objects == 1 else self.choice.randint(18, 32) * 8
        pixels = paint(scene, box, self.rng, size, strength=0.25)
        codec = codec or self.choice.choice(("PNG", "JPEG", "JPEG", "JPEG", "WEBP"))
        return scene, encode_image(pixels, codec)

    def pictures(self) -> list[dict]:
        """Returns caption rows: trained styles and the held-out one, and three broken rows."""
        rows = []
        styles = [*SHOWN_STYLES * 12, *(HELD_OUT_STYLE,) * 24]
        for number, style in enumerate(styles):
            objects = 1 if number % 2 == 0 else self.choice.randint(2, 4)
            scene, stored = self.scene_image(style, objects)
            rows.append(
                _row(
                    f"picture-{number:03}-{style}",
                    CAPTION_PROMPT,
                    image=stored,
                    expected=caption(scene),
                )
            )
        intact = self.scene_image("twemoji", 1, "PNG")[1]
        broken = (
            ("truncated", intact[: len(intact) // 3]),
            ("text", b"This is a letter, not a picture.\n"),
            ("empty", b""),
        )
        for position, (name, stored) in zip((9, 33, 58), broken, strict=True):
            rows.insert(position, _row(f"picture-broken-{name}", CAPTION_PROMPT, image=stored))
        return rows

    def sounds(self) -> list[dict]:
        """Returns transcript rows, half from held-out voices, and two broken rows."""
        rows = []
        stores = {name: SpeechStore(self.data, name) for name in ("trained", "held_out")}
        for number in range(34):
            name = "held_out" if number % 2 else "trained"
            store = stores[name]
            while True:
                index = self.choice.randrange(len(store))
                if store.utterances[index].kind == "said":
                    break
            codec = "WAV" if number % 4 == 0 else "FLAC"
            rate = {5: 22_050, 12: 44_100, 19: 22_050, 26: 44_100}.get(number, SAMPLING_RATE)
            samples = 0.5 * store.audio(index)
            stored = encode_audio(samples, codec, rate, 2 if number in (12, 22) else 1)
            voice = store.utterances[index].voice.replace("+", "-")
            rows.append(
                _row(
                    f"sound-{number:03}-{name.replace('_', '-')}-{voice}",
                    TRANSCRIBE_PROMPT,
                    audio=stored,
                    expected=store.utterances[index].text,
                )
            )
        clip = np.tile(stores["trained"].audio(0), 40)[: 10 * SAMPLING_RATE]
        rows.insert(
            7, _row("sound-broken-header", TRANSCRIBE_PROMPT, audio=encode_audio(clip[:8000])[:30])
        )
        rows.insert(
            21, _row("sound-too-long", TRANSCRIBE_PROMPT, audio=encode_audio(clip, "FLAC", 8000))
        )
        return rows

    def questions(self) -> list[dict]:
        """Returns rows of questions about scenes, some of them spoken."""
        rows = []
        styles = [*SHOWN_STYLES * 7, *(HELD_OUT_STYLE,) * 12]
        for number, style in enumerate(styles):
            scene, stored = self.scene_image(style, self.choice.choice((1, 2, 2, 3, 3, 4)))
            if number % 5 == 4:
                concept, kind, answer = self._spoken(scene)
                text = spoken_question(self.choice, kind, concepts()[concept])
                samples = 0.5 * trimmed(synthesise(text, "en-gb+f2", 150, 50))
                rows.append(
                    _row(
                        f"question-{number:03}-{style}-spoken",
                        None,
                        image=stored,
                        audio=encode_audio(samples),
                        expected=answer,
                    )
                )
                continue
            qa = ask_scene(self.choice, scene)
            rows.append(
                _row(
                    f"question-{number:03}-{style}",
                    qa.question,
                    image=stored,
                    expected=qa.answer,
                )
            )
        return rows

    def _spoken(self, scene: Scene) -> tuple[int, str, str]:
        while True:
            kind = self.choice.choice(
                ("count", "exists", "left", "right", "above", "below", "colour", "total")
            )
            concept = self.choice.choice(scene.objects).concept
            answer = answer_spoken(scene, kind, concept)
            if answer is not None:
                return concept, kind, answer

    def texts(self) -> list[dict]:
        """Returns rows of questions about names, groups and translations, and one without any."""
        rows = []
        for number in range(36):
            if number % 9 == 8:
                qa = group_truth(self.choice)
            elif number % 9 == 7:
                qa = sum_question(self.choice)
            else:
                qa = self.choice.choice(text_questions(self.choice.choice(concepts())))
            rows.append(_row(f"text-{number:03}", qa.question, expected=qa.answer))
        rows.insert(17, _row("text-broken-null", None))
        return rows


def _row(
    name: str,
    question: str | None,
    image: bytes | None = None,
    audio: bytes | None = None,
    expected: str | None = None,
) -> dict:
    return {"id": name, "question": question, "image": image, "audio": audio, "expected": expected}


def write_table(rows: list[dict], path: Path) -> None:
    """Writes one table, with row groups of 16 so that even a small file has several."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, path, compression="zstd", row_group_size=16, store_schema=False)


def make_sample(data: Path, folder: Path) -> None:
    """Writes the four tables and their notice."""
    folder.mkdir(parents=True, exist_ok=True)
    maker = SampleMaker(data)
    for name in ("pictures", "sounds", "questions", "texts"):
        rows = getattr(maker, name)()
        write_table(rows, folder / f"{name}.parquet")
        size = (folder / f"{name}.parquet").stat().st_size
        print(f"sample: {name} {len(rows)} rows, {size / 1e3:.0f} kB")
    (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")
