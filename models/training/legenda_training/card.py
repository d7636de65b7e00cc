"""The model card: generated from the scores and curves of a run, never edited by hand."""

from __future__ import annotations

import csv
from pathlib import Path

from .emoji import concepts
from .modeling import LegendaForConditionalGeneration
from .restore import load_bundle
from .speech import DIALECTS, HELD_OUT_DIALECT, HELD_OUT_VARIANTS, VARIANTS

FLOORS = {
    ("caption, one object", "trained styles"): ("at least", 0.80),
    ("caption, one object", "held-out style"): ("at least", 0.50),
    ("question about a scene", "trained styles"): ("at least", 0.80),
    ("transcript, word error rate", "held-out voices"): ("at most", 0.20),
}
"""The minimum quality of the model, by task and condition."""

STAGES = ("vision", "audio", "listen", "answer", "joint")


def merged_curves(runs: Path, out: Path) -> dict[str, float]:
    """Writes the curves of all stages as one long table (stage, step, seconds, measure, value).

    Returns the minutes of each stage.
    """
    minutes: dict[str, float] = {}
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("stage", "step", "seconds", "measure", "value"))
        for stage in STAGES:
            path = runs / f"{stage}.csv"
            if not path.exists():
                continue
            for row in csv.DictReader(path.open()):
                minutes[stage] = float(row["seconds"]) / 60
                prefix = row.get("kind", "")
                for key, value in row.items():
                    if key in ("step", "seconds", "rate", "kind") or value == "nan":
                        continue
                    name = f"{prefix} {key}".strip()
                    writer.writerow((stage, row["step"], row["seconds"], name, value))
    return minutes


def score_table(scores: Path) -> str:
    """Returns a Markdown table of `scores.csv`, with the floor of each score."""
    lines = ["| task | condition | score | n | floor |", "|---|---|---:|---:|---|"]
    for row in csv.DictReader(scores.open()):
        floor = FLOORS.get((row["task"], row["condition"]))
        score = float(row["score"])
        note = ""
        if floor is not None:
            word, limit = floor
            met = score >= limit if word == "at least" else score <= limit
            note = f"{word} {limit:.0%}: {'met' if met else 'not met'}"
        lines.append(f"| {row['task']} | {row['condition']} | {score:.1%} | {row['n']} | {note} |")
    return "\n".join(lines)


def parameter_table(model: LegendaForConditionalGeneration) -> str:
    """Returns a Markdown table of the parts and their parameter counts."""
    parts = {
        "vision encoder (ResNet, basic blocks)": model.vision_encoder,
        "audio encoder (Whisper encoder)": model.audio_encoder,
        "decoder (Llama), tied embeddings included": model.language_model,
    }
    lines = ["| part | parameters |", "|---|---:|"]
    total = 0
    for name, part in parts.items():
        count = sum(p.numel() for p in part.parameters())
        total += count
        lines.append(f"| {name} | {count:,} |")
    return "\n".join([*lines, f"| all | {total:,} |"])


def write_card(bundle: Path, data: Path, scores: Path) -> None:
    """Writes `MODEL_CARD.md` and `curves.csv` to a bundle."""
    minutes = merged_curves(data / "runs", bundle / "curves.csv")
    model = load_bundle(bundle)
    config = model.config
    graphs = sum(p.stat().st_size for p in (bundle / "onnx").glob("*.onnx"))
    text = config.text_config
    card = CARD.format(
        concepts=len(concepts()),
        pictured=sum(c.pictured for c in concepts()),
        parameters=parameter_table(model),
        image=config.image_size,
        image_tokens=config.image_seq_length,
        audio_tokens=config.audio_seq_length,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        vocabulary=text.vocab_size,
        megabytes=f"{graphs / 1e6:.1f}",
        stages="\n".join(f"- `{s}`: {m:.0f} minutes of wall clock" for s, m in minutes.items()),
        scores=score_table(scores / "scores.csv"),
        voices=len(DIALECTS) * len(VARIANTS),
        held_out_variants=", ".join(HELD_OUT_VARIANTS),
        held_out_dialect=HELD_OUT_DIALECT,
    )
    (bundle / "MODEL_CARD.md").write_text(card, encoding="utf-8")


CARD = """# legenda-tiny

The small multimodal model that is embedded in Legenda: images, audio and text in, short text out.
With it, the first command works without a download, and tests compare every path of the engine
with a reference. It only knows the small set of concepts that it was trained on. For real work,
use another model.

## Tasks

- `Describe the picture.` A caption in a fixed grammar: `a dog`, `three dogs`,
  `a dog left of a cat`, `two dogs, a cat and a tree`.
- Questions about an image: how many, is there, what is left of (right of, above, below), which
  colour is the background, which animal is in the picture. Written or spoken.
- `Write down what is said.` English sentences of up to about eight words, at most six seconds,
  within its vocabulary; lower case without punctuation.
- Text questions about its {concepts} concepts: group, plural, German, French and Spanish names,
  sums up to twelve.

## Architecture

Hugging Face model classes: a ResNet over {image} x {image} pixels ({image_tokens} image tokens),
a Whisper encoder over 64 log-mel bands of six seconds ({audio_tokens} audio tokens), a Llama
decoder ({layers} layers, width {width}, {heads} query and {kv_heads} key/value heads, vocabulary
{vocabulary}). Features replace the embeddings of placeholder tokens in the prompt. An image token
is the sum of a linear projection of its ResNet cell and a mixture of codebook vectors, one per
concept, weighted by the cell's scores. An audio token stacks three encoder positions (120 ms).

{parameters}

The graphs take {megabytes} MB: weights of two or more dimensions are stored as float16 and
computed in float32. The decoder graph is opset 24 with an in-place KV cache (`TensorScatter`,
`Attention` with `nonpad_kv_seqlen`), so rows of different lengths share a batch.

## Data

- Images: {pictured} of the {concepts} concepts, as open emoji designs, one to four of them
  composed on a plain, gradient or mottled background of eleven named colours, with strong
  augmentation. Trained styles: Twemoji (CC BY 4.0), OpenMoji (CC BY-SA 4.0), Fluent Emoji 3D and
  flat (MIT), EmojiOne 2 (CC BY 4.0). **Noto Emoji (Apache-2.0) is held out: used only for
  evaluation, never for training.**
- Speech: 20,000 utterances from eSpeak NG, in {voices} voices (dialect x variant) at 110 to
  220 words per minute, augmented with noise, echo, gain and band limits. **The variants
  {held_out_variants} and the dialect {held_out_dialect} are held out.**
- Text: the project's own concept table (names, groups, translations), question and sentence
  grammars.

All data is synthetic. It contains no photographs, no recordings of people and no third-party
texts.

## Training

The model was trained from random weights, in three rounds of stages, on two CPU cores without
AVX-512. Compilers used the same cores, so that training had about one of them.

Round one (`curves_round1.csv`): `vision` took 33 and `audio` 37 minutes of wall clock in
parallel, `listen` 13 minutes, and `joint` 54 minutes in two processes. The vision stage was
shortened, and restarted once with fewer pictured concepts. The joint stage was restarted at steps
600, 810 and 1050. These restarts introduced the losses that align image tokens with names, the
codebook, and a larger share of images. At step 2185, it continued with a higher learning rate.
The curve shows these changes.

Round two (`curves_round2.csv`) continued from the bundle of round one, with the batch norms
unfolded from its graphs, light to strong augmentation of images, more questions about each image,
and the first 8,000 utterances: `vision` 46, `answer` 4 and `joint` 26 minutes. The result
answered "Is there a dog?" at chance level, and 69 % of 6,000 scene questions of four seeds
correctly.

Round three (`curves.csv`) continued from the bundle of round two with the same 8,000 utterances.
It consists of the `answer` stage only: both towers are those of round two. It supervises
attention. One head of the middle layer attends from a name in a question to the cells with the
centres of its objects, or to the first token if there are none. One head of the last layer
attends from the answer to that name. Weak kinds of questions were sampled more often. After step
1500, the stage was restarted with the second head, and the weight of the first rose to 1 (from
0.3). It was stopped before the end of its cosine schedule, at a learning rate of 7e-5. (A
subsequent `joint` stage was interrupted twice in its first 400 steps and is not used.)

{stages}

## Scores

Measured on the exported graphs with ONNX Runtime and greedy decoding. Scenes, sentences and
voices use another seed than training. An answer is correct only if it equals the expected text
exactly. The held-out style is Noto. The held-out voices are not in the training data. All facts
of the text questions are in the training data, so that score measures memorization.

{scores}

## Known limits

- It can only name the {pictured} pictured concepts. A photograph gets the name of the
  nearest emoji, with no sign of doubt.
- Accuracy is clearly lower on unseen designs than on trained ones, and lower on small objects in
  crowded scenes than on large single ones. A scene caption is correct only if every name, count and
  position is.
- All speech is synthetic; human voices were not evaluated. Audio longer than six seconds
  is rejected.
- It answers "Is the dog left of the cat?" at chance level.
- Questions outside the trained phrasings get an answer in the trained style, correct or not.
- Names are British English. Translations are the project's own, with one word even where languages
  have several.

Weights: Apache-2.0, like the project. Designs in the training images: see `NOTICE`.
"""
