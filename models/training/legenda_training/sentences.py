"""The grammar of spoken training sentences: short English sentences with concept names.

Like the transcripts, sentences are lower case without punctuation. Numbers are words.
"""

from __future__ import annotations

import random

from .emoji import Concept, concepts

NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
)  # fmt: skip
COLOURS = (
    "white", "black", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown",
)  # fmt: skip
PREPOSITIONS = ("on", "under", "behind", "near", "beside", "inside", "above", "below",
                "left of", "right of")  # fmt: skip
ADJECTIVES = ("big", "small", "old", "new", "happy", "little", "nice", "lovely", "strange",
              "beautiful", "heavy", "clean", "dirty", "broken")  # fmt: skip
PLACES = ("in the garden", "at home", "in the kitchen", "at school", "in the park", "by the river",
          "in the box", "on the table", "in the street", "at the station", "on the roof",
          "in the forest")  # fmt: skip
TIMES = ("today", "yesterday", "tomorrow", "this morning", "last night", "every day", "on monday",
         "on friday", "in summer", "in winter")  # fmt: skip
NAMES = ("anna", "ben", "clara", "david", "emma", "tom", "lucy", "max")
VERBS = ("found", "lost", "bought", "sold", "painted", "likes", "wants", "saw", "made", "took")
CREATURES = ("animal", "bird", "sea animal", "insect", "fantasy")


def said_name(concept: Concept) -> str:
    """Returns the name as written in transcripts."""
    return concept.name.lower()


def _with_article(concept: Concept) -> str:
    return concept.with_article


def sentence(rng: random.Random, concept: Concept) -> str:
    """Returns a statement or request that names `concept`, at most about eight words."""
    table = concepts()
    other = table[rng.randrange(len(table))]
    name, plural = concept.name, concept.plural
    number = rng.choice(NUMBERS[2:])
    colour, adjective = rng.choice(COLOURS), rng.choice(ADJECTIVES)
    place, time = rng.choice(PLACES), rng.choice(TIMES)
    preposition, person = rng.choice(PREPOSITIONS), rng.choice(NAMES)
    forms = [
        name,
        _with_article(concept),
        f"{number} {plural}",
        f"{_with_article(concept)} and {_with_article(other)}",
        f"the {name} is {preposition} the {other.name}",
        f"the {name} is {rng.choice((colour, adjective))}",
        f"the {colour} {name} is {place}",
        f"i can see {_with_article(concept)} {place}",
        f"i see {number} {plural} {place}",
        f"put the {name} {preposition} the {other.name}",
        f"please give me the {colour} {name}",
        f"where is the {adjective} {name}",
        f"there are {number} {colour} {plural} {place}",
        f"{person} has {number} {plural}",
        f"{person} {rng.choice(VERBS)} the {name} {time}",
        f"my {adjective} {name} was {place} {time}",
        f"she {rng.choice(VERBS)} {_with_article(concept)} {time}",
        f"we {rng.choice(('saw', 'found', 'lost', 'made'))} {number} {adjective} {plural} {time}",
        f"this {name} is {colour} and {adjective}",
        f"{number} {plural} and {rng.choice(NUMBERS[2:])} {other.plural}",
        f"the {name} and the {other.name} are {place}",
    ]
    if concept.group in CREATURES:
        action = rng.choice(("sleeping", "running", "eating", "playing", "waiting", "singing"))
        forms += [
            f"the {name} is {action} {place}",
            f"the {adjective} {name} is {action} {time}",
            f"{number} {plural} are {action} {place}",
        ]
    return rng.choice(forms)


SPOKEN_QUESTIONS = (
    "count", "count", "exists", "exists", "left", "right", "above", "below", "colour", "caption",
    "total",
)  # fmt: skip
"""Kinds of spoken questions, repeated by frequency (see `questions.py`)."""


def spoken_question(rng: random.Random, kind: str, concept: Concept) -> str:
    """Returns the text of a spoken question of a kind about a concept."""
    name = concept.name
    return {
        "count": f"how many {concept.plural} are there",
        "exists": f"is there {_with_article(concept)}",
        "left": f"what is left of the {name}",
        "right": f"what is right of the {name}",
        "above": f"what is above the {name}",
        "below": f"what is below the {name}",
        "colour": "what colour is the background",
        "caption": rng.choice(("describe the picture", "what is in the picture")),
        "total": "how many things are there",
    }[kind]
