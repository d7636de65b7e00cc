"""Questions about scenes and about names, each with its only right answer.

The caption grammar is fixed: one object `a dog`; several of one kind `three dogs`; one each of two
kinds with their relation, `a dog left of a cat` or `a dog above a cat`; anything else as a list
from left to right, `two dogs, a cat and a tree`.
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
class QuestionAnswer:
    """A question with its answer; `kind` is the type of the question."""

    kind: str
    question: str
    answer: str
    names: tuple[tuple[int, frozenset[int]], ...] = ()
    """The end of each name in the question, and the concepts that the name refers to."""


def named(kind: str, form: str, answer: str, *names: tuple[str, frozenset[int]]) -> QuestionAnswer:
    """Returns a question from a form with `{}` for each name, and the concepts of each name."""
    first, *rest = form.split("{}")
    ends = []
    for (name, referents), part in zip(names, rest, strict=True):
        first += name
        ends.append((len(first), referents))
        first += part
    return QuestionAnswer(kind, first, answer, tuple(ends))


def counted(concept: Concept, number: int) -> str:
    """`a dog`, `three dogs`."""
    return concept.with_article if number == 1 else f"{NUMBERS[number]} {concept.plural}"


def listed(parts: list[str]) -> str:
    """`x`, `x and y`, `x, y and z`."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def is_sideways(a: Placed, b: Placed) -> bool:
    """Returns whether the horizontal distance is at least the vertical one."""
    return abs(a.x - b.x) >= abs(a.y - b.y)


def caption(scene: Scene) -> str:
    """Returns the caption of a scene in the fixed grammar."""
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
    """Returns whether `a` is `relation` (left, right, above, below) of `b`."""
    if is_sideways(a, b):
        return relation == ("left" if a.x < b.x else "right")
    return relation == ("above" if a.y < b.y else "below")


def related(scene: Scene, relation: str, concept: int) -> str | None:
    """Returns the object that is `relation` of the only `concept` of the scene, if unambiguous."""
    anchors = [item for item in scene.objects if item.concept == concept]
    if len(anchors) != 1:
        return None
    hits = [o for o in scene.objects if o is not anchors[0] and holds(o, relation, anchors[0])]
    if len(hits) != 1:
        return None
    return concepts()[hits[0].concept].with_article


def answer_spoken(scene: Scene, kind: str, concept: int) -> str | None:
    """Returns the answer to a spoken question (`sentences.spoken_question`), or `None`."""
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


SCENE_KINDS = ("count", "count", "exists", "exists", "relation", "relation", "truth", "colour",
               "total", "group")  # fmt: skip
"""Kinds of questions about a scene, repeated by frequency; some scenes rule out some kinds."""
TRAINING_KINDS = (*("count",) * 4, *("exists",) * 5, "relation", "relation", "truth", "truth",
                  "truth", "colour", "total", "group", "group")  # fmt: skip
"""The kinds in training: hard kinds are more frequent."""


def ask_scene(
    rng: random.Random, scene: Scene, kinds: tuple[str, ...] = SCENE_KINDS, same_group: float = 0.0
) -> QuestionAnswer:
    """Returns a random question about a scene that has a single unambiguous answer.

    With probability `same_group`, an absent object in the question has the group of a present one.
    """
    table = concepts()
    present = sorted({item.concept for item in scene.objects})
    while True:
        kind = rng.choice(kinds)
        some = rng.choice(present)
        others = [c.index for c in table if c.pictured and c.index not in present]
        if same_group and rng.random() < same_group:
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
            answer = related(scene, relation, some)
            if answer is not None:
                form = f"What is {PHRASES[relation]} the {{}}?"
                return named(kind, form, answer, (table[some].name, frozenset((some,))))
        if kind == "truth" and len(scene.objects) == 2 and len(present) == 2:
            a, b = rng.sample(scene.objects, 2)
            true_relation = next(r for r in RELATIONS if holds(a, r, b))
            opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
            relation = true_relation if rng.random() < 0.5 else opposite[true_relation]
            names = [(table[o.concept].name, frozenset((o.concept,))) for o in (a, b)]
            form = f"Is the {{}} {PHRASES[relation]} the {{}}?"
            return named(kind, form, "yes" if relation == true_relation else "no", *names)
        if kind == "colour":
            form = rng.choice(("What colour is the background?", "What is the background colour?",
                               "Which colour is behind?"))  # fmt: skip
            return QuestionAnswer(kind, form, scene.background)
        if kind == "total":
            form = rng.choice(("How many things are there?", "How many objects are there?",
                               "How many things do you see?"))  # fmt: skip
            return QuestionAnswer(kind, form, NUMBERS[len(scene.objects)])
        if kind == "group":
            group = table[some].group
            members = {item.concept for item in scene.objects if table[item.concept].group == group}
            if len(members) == 1 and len(present) > 1:
                count = sum(item.concept == some for item in scene.objects)
                if count == 1:
                    referents = frozenset(c.index for c in table if c.group == group)
                    form = "Which {} is in the picture?"
                    return named(kind, form, table[some].with_article, (group, referents))


def text_questions(concept: Concept) -> list[QuestionAnswer]:
    """Returns every text question about a concept, in every phrasing."""
    name = concept.name
    article = concept.with_article
    questions = [
        QuestionAnswer("group", f"What group is the {name} in?", concept.group),
        QuestionAnswer("group", f"What kind of thing is {article}?", concept.group),
        QuestionAnswer("plural", f"What is the plural of {name}?", concept.plural),
    ]
    for language, word in zip(
        LANGUAGES, (concept.german, concept.french, concept.spanish), strict=True
    ):
        questions += [
            QuestionAnswer("to " + language, f"What is {name} in {language}?", word),
            QuestionAnswer("to " + language, f"Translate {name} into {language}.", word),
        ]
        if _is_unique(word, language):
            questions += [
                QuestionAnswer("from " + language, f"What is {word} in English?", name),
                QuestionAnswer("from " + language, f"What does {word} mean in English?", name),
            ]
    return questions


def _is_unique(word: str, language: str) -> bool:
    """Returns whether the foreign word refers to only one concept, in all languages."""
    meanings = {c.index for c in concepts() if word in (c.german, c.french, c.spanish)}
    return len(meanings) == 1


def group_truth(rng: random.Random) -> QuestionAnswer:
    """Returns a question such as `Is a dog a bird?` with its answer."""
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
    return QuestionAnswer("truth", f"Is {concept.with_article} {phrase}?", answer)


def sum_question(rng: random.Random) -> QuestionAnswer:
    """Returns a sum question such as `What is two plus three?`, up to twelve."""
    a = rng.randint(0, 8)
    b = rng.randint(0, 12 - a) if a else rng.randint(0, 8)
    return QuestionAnswer("sum", f"What is {NUMBERS[a]} plus {NUMBERS[b]}?", NUMBERS[a + b])
