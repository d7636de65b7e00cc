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

The small multimodal model that is embedded in Legenda: pictures, sounds and text in, short text
out. It exists so that the first command works without a download and so that every path of the
engine can be tested against a reference. It knows the little world it was trained on and nothing
else; for real work, give Legenda a real model.

## What it can be asked

- `Describe the picture.` A caption in a fixed grammar: `a dog`, `three dogs`,
  `a dog left of a cat`, `two dogs, a cat and a tree`.
- Questions about a picture: how many, is there, what is left of (right of, above, below), which
  colour is the background, which animal is in the picture. Written or spoken.
- `Write down what is said.` English sentences of up to about eight words, at most six seconds,
  over its vocabulary; lower case without punctuation.
- Text questions about its {concepts} concepts: group, plural, German, French and Spanish names,
  sums up to twelve.

## Architecture

Hugging Face model classes: a ResNet over {image} x {image} pixels ({image_tokens} image tokens), a
Whisper encoder over 64 log-mel bands of six seconds ({audio_tokens} audio tokens), a Llama decoder
({layers} layers, width {width}, {heads} query and {kv_heads} key/value heads, vocabulary
{vocabulary}). Features take the place of placeholder tokens in the prompt. An image token is a
linear projection of its ResNet cell plus a mixture of codebook vectors, one per concept, weighed by
the cell's own scores; an audio token stacks three encoder positions (120 ms).

{parameters}

The graphs take {megabytes} MB: weights of two or more dimensions are stored as float16 and computed
in float32. The decoder graph is opset 24 with an in-place cache (`TensorScatter`, `Attention` with
`nonpad_kv_seqlen`), so rows of unequal length share a batch.

## Data

- Pictures: {pictured} of the {concepts} concepts, as open emoji designs, one to four of them
  composed on a plain, graded or mottled background of eleven named colours, with strong roughening.
  Styles trained on: Twemoji (CC BY 4.0), OpenMoji (CC BY-SA 4.0), Fluent Emoji 3D and flat (MIT),
  EmojiOne 2 (CC BY 4.0). **Noto Emoji (Apache-2.0) is held out: never trained on, only measured.**
- Speech: 20,000 utterances by eSpeak NG, drawn from {voices} voices (dialect x variant) at 110 to
  220 words per minute, with noise, echo, gain and band limits added. **The variants
  {held_out_variants} and the dialect {held_out_dialect} are held out.**
- Text: the project's own concept table (names, groups, translations), question and sentence
  grammars.

Everything is synthetic; no photograph, no recording of a person, no text of others.

## Training

On two CPU cores without AVX-512 that compilers used at the same time (training had about one core
of them), from random weights, in three rounds of stages.

Round one (`curves_round1.csv`): `vision` 33 and `audio` 37 minutes of wall clock at once, `listen`
13 minutes, `joint` 54 minutes as two processes. The vision stage was shortened and restarted once
with fewer pictured concepts, and the joint stage was restarted at steps 600, 810 and 1050, when the
losses that align image tokens with names, the codebook, and a larger share of pictures came in; at
step 2185 it went on with its rate raised again. The curve shows the steps.

Round two (`curves_round2.csv`) went on from the bundle of round one, with batch norms unfolded from
its graphs, pictures roughened from lightly to strongly, more questions about each, and the first
8,000 utterances: `vision` 46, `answer` 4 and `joint` 26 minutes. After it the model still answered
"Is there a dog?" by chance and 69 % of 6,000 scene questions of four seeds.

Round three (`curves.csv`) went on from the bundle of round two, with the same 8,000 utterances, and
has the `answer` stage alone: both towers are those of round two. It tells attention where to look:
one head of the middle layer from a name in a question at the cells where its objects have their
centres, or at the first token for want of one, and one head of the last layer from the answer at
that name. Weak kinds of questions were asked more often. The stage was restarted after step 1500,
when the second head came in and the weight of the first rose from 0.3 to 1, and was ended before
its cosine was, at a rate of 7e-5. (A `joint` stage after it was cut off twice in its first 400
steps and is not used.)

{stages}

## Scores

Measured on the exported graphs with ONNX Runtime, greedy decoding, on scenes, sentences and voices
drawn with another seed than training. An answer counts only if it equals the expected text exactly.
Held-out style means Noto designs; held-out voices were never heard. Text questions are facts that
were all in training: that score measures memory.

{scores}

## Known limits

- It can name the {pictured} pictured concepts and nothing else; a photograph gets the name of the
  nearest emoji, with no sign of doubt.
- Designs it has not seen are named clearly worse than those it has; small objects in crowded scenes
  worse than large single ones. The scene captions need every name, count and place right at once.
- Speech is synthetic throughout; human voices were not measured. Sounds longer than six seconds
  are refused.
- "Is the dog left of the cat?" is answered by chance.
- Questions outside the trained phrasings get an answer in the trained style, right or wrong.
- Names are British English; translations are the project's own and give one word where languages
  have several.

Weights: Apache-2.0, as the project. Designs the training pictures were made from: see `NOTICE`.
"""
