"""Makes eval.json: rows, and their scores by established implementations.

Run in an environment with sacrebleu==2.5.1, jiwer==4.0.0, rouge-score==0.1.2 and
pycocoevalcap==1.2:

    python tests/references/make_eval.py tests/references/eval.json

CIDEr runs without its Java tokenizer: texts are lower-cased and stripped of punctuation at the ends
of words, as in `pipeline/src/insight/eval/words.rs`.
"""

import collections
import json
import re
import string
import sys
from pathlib import Path

import jiwer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF

Row = tuple[str, list[str]]

SINGLE: list[Row] = [
    ("a cat sits on the mat", ["a cat sat on the mat"]),
    (
        "The quick brown fox jumps over the lazy dog.",
        ["The quick brown fox jumped over the lazy dog."],
    ),
    ("two dogs run in the park", ["two dogs are running in a park with a ball"]),
    ("", ["nothing was said here"]),
    ("a red bus, a blue car and 3.5 bicycles", ["a red bus, a blue car and 3.5 bicycles"]),
    ("Es regnet heute in Zürich.", ["Heute regnet es in Zürich."]),
    ("el gato está en la alfombra", ["el gato está sobre la alfombra roja"]),
    ("今日はとても寒いです", ["今日はかなり寒いです"]),
    ("word word word word word", ["word by word"]),
    ("forty-two is the answer: 42-ish", ["the answer is forty-two; 42-ish"]),
    ("Привет, мир!", ["Привет мир"]),
    ("an elephant   with  spaces", ["An elephant with spaces."]),
    ('He said "no" & left <quickly>', ["He said 'no' and left quickly"]),
    ("a long answer that goes on and on about very little of note at all", ["a short one"]),
]

SEVERAL: list[Row] = [
    (
        "a man rides a horse",
        ["a man riding a horse", "a person on a horse", "someone rides a brown horse"],
    ),
    ("a horse", ["a brown horse stands in a field", "a horse in the grass"]),
    (
        "two children play football on the grass",
        ["children playing soccer", "two kids play football in a field"],
    ),
    (
        "a plate of food",
        ["a plate with rice and vegetables", "food on a white plate", "a plate of food"],
    ),
    ("", ["a dark picture", "nothing to see"]),
    ("a train at the station", ["a train arrives at a station", "the train is at the station"]),
    ("a dog and a cat sleep on a sofa together", ["a cat and a dog asleep on the couch"]),
    ("a dog", ["a dog", "dog"]),
]


# Texts that implementations tokenize differently.
CUTS: list[Row] = [
    ("il l’a vu hier soir", ["il l’avait vu hier soir", "il l’ vu hier soir"]),
    ("she said “the cat” and left", ["she said “cat” and left"]),
    ("wait ..5 or e.g.,5 minutes", ["wait .5 or e.g. ,5 minutes"]),
    ("rows 1-2--3 cost 1,000.5.,7 in all-", ["rows 1 - 2 - -3 cost 1,000.5 .,7 in all -"]),
    ("x &amp;lt; y &quot;z&quot;", ['x < y "z"']),
    ("{a}[b]`c`~d/e", ["{a} [b] `c` ~d/e"]),
]


def squad(text: str) -> list[str]:
    """Normalizes and splits a text like the evaluation script of SQuAD v1.1."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def token_f1(answer: str, reference: str) -> float:
    """Returns the token F1 of SQuAD v1.1."""
    a, b = squad(answer), squad(reference)
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    return 0.0 if common == 0 else 2 * common / (len(a) + len(b))


def edits(rows: list[Row], characters: bool) -> float:
    """Returns the error rate of jiwer over all rows, with the best reference of each row."""
    total, length = 0, 0
    for answer, references in rows:
        counts = []
        for reference in references:
            process = jiwer.process_characters if characters else jiwer.process_words
            alignment = process(reference, answer)
            n_edits = alignment.substitutions + alignment.deletions + alignment.insertions
            n = alignment.hits + alignment.substitutions + alignment.deletions
            counts.append((n_edits / max(n, 1), n_edits, n))
        _, n_edits, n = min(counts, key=lambda count: count[0])
        total, length = total + n_edits, length + n
    return total / length


def cider(rows: list[Row]) -> float:
    """Returns the CIDEr-D of pycocoevalcap, without its tokenizer."""

    def normalized(text: str) -> str:
        words = (word.strip(string.punctuation) for word in text.lower().split())
        return " ".join(word for word in words if word)

    scorer = CiderScorer(n=4, sigma=6.0)
    for answer, references in rows:
        scorer += (normalized(answer), [normalized(reference) for reference in references])
    score, _ = scorer.compute_score()
    return float(score)


def scores(rows: list[Row]) -> list[float]:
    """Returns the scores in the order of `Metric::ALL`."""
    answers = [answer for answer, _ in rows]
    n_references = max(len(references) for _, references in rows)
    # sacreBLEU needs the same number of references for every row: `None` fills the gaps.
    streams = [
        [refs[idx] if idx < len(refs) else None for _, refs in rows] for idx in range(n_references)
    ]
    rouge = rouge_scorer.RougeScorer(["rougeL"])
    rouge_l = [
        max(rouge.score(ref, answer)["rougeL"].fmeasure for ref in refs) for answer, refs in rows
    ]
    return [
        edits(rows, characters=False),
        edits(rows, characters=True),
        sum(any(squad(answer) == squad(r) for r in refs) for answer, refs in rows) / len(rows),
        sum(max(token_f1(answer, r) for r in refs) for answer, refs in rows) / len(rows),
        BLEU().corpus_score(answers, streams).score,
        CHRF().corpus_score(answers, streams).score,
        sum(rouge_l) / len(rows),
        cider(rows),
    ]


def main() -> None:
    """Writes the file given on the command line."""
    sets = [SINGLE, SEVERAL, SINGLE[:2], CUTS]
    golden = [{"pairs": rows, "scores": scores(rows)} for rows in sets]
    text = json.dumps(golden, ensure_ascii=False, indent=1)
    Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
