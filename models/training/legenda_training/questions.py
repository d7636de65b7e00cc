"""Questions and their one right answer: about scenes, and about the names themselves.

The caption grammar is fixed: one object `a dog`; several of one kind `three dogs`; two kinds, one
each, with their relation `a dog left of a cat` or `a dog above a cat`; anything else as a list from
left to right, `two dogs, a cat and a tree`.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from .emoji import Concept, concepts
from .scenes import Placed, Scene
from .sentences import NUMBERS

CAPTION_PROMPT = "Describe the picture."
TRANSCRIBE_PROMPT = "Write down what is said."
CAPTION_PROMPTS = (CAPTION_PROMPT, "What is in the picture?", "What do you see?",
                   "Describe this image.", "Caption the picture.")  # fmt: skip
TRANSCRIBE_PROMPTS = (TRANSCRIBE_PROMPT, "What is said?", "Transcribe the sound.",
                      "What do you hear?")  # fmt: skip
LANGUAGES = ("German", "French", "Spanish")


@dataclass(frozen=True)
class Asked:
    """A question with its answer; `kind` names the family of the question."""

    kind: str
    question: str
    answer: str
    names: tuple[tuple[int, frozenset[int]], ...] = ()
    """Where in the question a name ends, and the concepts that it stands for."""


def named(kind: str, form: str, answer: str, *names: tuple[str, frozenset[int]]) -> Asked:
    """A question from its form with `{}` for each name, and the concepts of each."""
    first, *rest = form.split("{}")
    ends = []
    for (name, meant), part in zip(names, rest, strict=True):
        first += name
        ends.append((len(first), meant))
        first += part
    return Asked(kind, first, answer, tuple(ends))


def counted(concept: Concept, number: int) -> str:
    """`a dog`, `three dogs`."""
    return concept.with_article if number == 1 else f"{NUMBERS[number]} {concept.plural}"


def listed(parts: list[str]) -> str:
    """`x`, `x and y`, `x, y and z`."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def is_sideways(a: Placed, b: Placed) -> bool:
    """Whether the two stand rather beside than above each other."""
    return abs(a.x - b.x) >= abs(a.y - b.y)


def caption(scene: Scene) -> str:
    """The caption of a scene in the fixed grammar."""
    table = concepts()
    counts = Counter(item.concept for item in scene.objects)
    if len(scene.objects) == 2 and len(counts) == 2:
        a, b = scene.objects
        if is_sideways(a, b):
            first, second = (a, b) if a.x < b.x else (b, a)
            relation = "left of"
        else:
            first, second = (a, b) if a.y < b.y else (b, a)
            relation = "above"
        names = [table[item.concept].with_article for item in (first, second)]
        return f"{names[0]} {relation} {names[1]}"
    leftmost = {c: min(i.x for i in scene.objects if i.concept == c) for c in counts}
    order = sorted(counts, key=leftmost.__getitem__)
    return listed([counted(table[c], counts[c]) for c in order])


RELATIONS = ("left", "right", "above", "below")
PHRASES = {"left": "left of", "right": "right of", "above": "above", "below": "below"}


def holds(a: Placed, relation: str, b: Placed) -> bool:
    """Whether `a` is `relation` (left, right, above, below) of `b`."""
    if is_sideways(a, b):
        return relation == ("left" if a.x < b.x else "right")
    return relation == ("above" if a.y < b.y else "below")


def related(scene: Scene, relation: str, concept: int) -> str | None:
    """What stands `relation` of the only `concept` of the scene, when that is plain."""
    anchors = [item for item in scene.objects if item.concept == concept]
    if len(anchors) != 1:
        return None
    hits = [o for o in scene.objects if o is not anchors[0] and holds(o, relation, anchors[0])]
    if len(hits) != 1:
        return None
    return concepts()[hits[0].concept].with_article


def answer_spoken(scene: Scene, kind: str, concept: int) -> str | None:
    """The answer to a spoken question (`sentences.spoken_question`), None if it has none."""
    number = sum(item.concept == concept for item in scene.objects)
    if kind == "count":
        return NUMBERS[number]
    if kind == "exists":
        return "yes" if number else "no"
    if kind in RELATIONS:
        return related(scene, kind, concept)
    if kind == "colour":
        return scene.background
    if kind == "total":
        return NUMBERS[len(scene.objects)]
    return caption(scene)


ASKED = ("count", "count", "exists", "exists", "relation", "relation", "truth", "colour", "total",
         "group")  # fmt: skip
"""Kinds of questions about a scene, by how often they are tried; some scenes rule some out."""
TAUGHT = (*("count",) * 4, *("exists",) * 5, "relation", "relation", "truth", "truth", "truth",
          "colour", "total", "group", "group")  # fmt: skip
"""The kinds as training draws them: what is hard comes more often."""


def ask_scene(
    rng: random.Random, scene: Scene, kinds: tuple[str, ...] = ASKED, alike: float = 0.0
) -> Asked:
    """A random question about a scene; questions without one plain answer are not asked.

    With the chance `alike` an absent thing that is asked for is of the group of a present one.
    """
    table = concepts()
    present = sorted({item.concept for item in scene.objects})
    while True:
        kind = rng.choice(kinds)
        some = rng.choice(present)
        others = [c.index for c in table if c.pictured and c.index not in present]
        if alike and rng.random() < alike:
            others = [c for c in others if table[c].group == table[some].group] or others
        absent = rng.choice(others)
        if kind == "count":
            concept = some if rng.random() < 0.9 else absent
            number = sum(item.concept == concept for item in scene.objects)
            form = rng.choice(("How many {} are there?", "How many {} are in the picture?",
                               "How many {} do you see?"))  # fmt: skip
            name = table[concept].plural, frozenset((concept,))
            return named(kind, form, NUMBERS[number], name)
        if kind == "exists":
            concept = some if rng.random() < 0.5 else absent
            form = rng.choice(("Is there {}?", "Is there {} in the picture?", "Do you see {}?"))
            answer = "yes" if concept in present else "no"
            return named(kind, form, answer, (table[concept].with_article, frozenset((concept,))))
        if kind == "relation":
            relation = rng.choice(RELATIONS)
            found = related(scene, relation, some)
            if found is not None:
                form = f"What is {PHRASES[relation]} the {{}}?"
                return named(kind, form, found, (table[some].name, frozenset((some,))))
        if kind == "truth" and len(scene.objects) == 2 and len(present) == 2:
            a, b = rng.sample(scene.objects, 2)
            true = next(r for r in RELATIONS if holds(a, r, b))
            opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
            relation = true if rng.random() < 0.5 else opposite[true]
            names = [(table[o.concept].name, frozenset((o.concept,))) for o in (a, b)]
            form = f"Is the {{}} {PHRASES[relation]} the {{}}?"
            return named(kind, form, "yes" if relation == true else "no", *names)
        if kind == "colour":
            form = rng.choice(("What colour is the background?", "What is the background colour?",
                               "Which colour is behind?"))  # fmt: skip
            return Asked(kind, form, scene.background)
        if kind == "total":
            form = rng.choice(("How many things are there?", "How many objects are there?",
                               "How many things do you see?"))  # fmt: skip
            return Asked(kind, form, NUMBERS[len(scene.objects)])
        if kind == "group":
            group = table[some].group
            members = {item.concept for item in scene.objects if table[item.concept].group == group}
            if len(members) == 1 and len(present) > 1:
                count = sum(item.concept == some for item in scene.objects)
                if count == 1:
                    meant = frozenset(c.index for c in table if c.group == group)
                    form = "Which {} is in the picture?"
                    return named(kind, form, table[some].with_article, (group, meant))


def text_questions(concept: Concept) -> list[Asked]:
    """Every text question about a concept, in every phrasing."""
    name = concept.name
    article = concept.with_article
    asked = [
        Asked("group", f"What group is the {name} in?", concept.group),
        Asked("group", f"What kind of thing is {article}?", concept.group),
        Asked("plural", f"What is the plural of {name}?", concept.plural),
    ]
    for language, word in zip(
        LANGUAGES, (concept.german, concept.french, concept.spanish), strict=True
    ):
        asked += [
            Asked("to " + language, f"What is {name} in {language}?", word),
            Asked("to " + language, f"Translate {name} into {language}.", word),
        ]
        if _is_unique(word, language):
            asked += [
                Asked("from " + language, f"What is {word} in English?", name),
                Asked("from " + language, f"What does {word} mean in English?", name),
            ]
    return asked


def _is_unique(word: str, language: str) -> bool:
    """Whether the foreign word stands for one concept only, in this and the other languages."""
    meanings = {c.index for c in concepts() if word in (c.german, c.french, c.spanish)}
    return len(meanings) == 1


def group_truth(rng: random.Random) -> Asked:
    """`Is a dog a bird?` with its answer."""
    table = concepts()
    concept = rng.choice(table)
    groups = sorted({c.group for c in table} - {"weather", "nature", "fantasy", "office", "body"})
    right = rng.random() < 0.5 and concept.group in groups
    group = concept.group if right else rng.choice([g for g in groups if g != concept.group])
    if group in ("clothing", "furniture", "food"):
        phrase = {"clothing": "a piece of clothing", "furniture": "a piece of furniture",
                  "food": "food"}[group]  # fmt: skip
    else:
        phrase = f"{'an' if group[0] in 'aeiou' else 'a'} {group}"
    answer = "yes" if right else "no"
    return Asked("truth", f"Is {concept.with_article} {phrase}?", answer)


def sum_question(rng: random.Random) -> Asked:
    """`What is two plus three?` within twelve."""
    a = rng.randint(0, 8)
    b = rng.randint(0, 12 - a) if a else rng.randint(0, 8)
    return Asked("sum", f"What is {NUMBERS[a]} plus {NUMBERS[b]}?", NUMBERS[a + b])
