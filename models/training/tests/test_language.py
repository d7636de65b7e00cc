"""The grammar of captions and questions, and the concept table."""

import random

import numpy as np
import pytest

from legenda_training.emoji import concepts
from legenda_training.packs import ASSISTANT, EOS, IGNORED, Pack, collate, mark_targets
from legenda_training.pretrain_audio import edit_distance
from legenda_training.pretrain_vision import NONE, cell_targets
from legenda_training.questions import ask_scene, caption, listed, related, text_questions
from legenda_training.scenes import Placed, Scene, arrange
from legenda_training.sentences import sentence


def number(name: str) -> int:
    """Returns the index of a concept."""
    return next(c.index for c in concepts() if c.name == name)


def scene(*objects: tuple[str, float, float]) -> Scene:
    """Returns a scene of named objects at the given centres."""
    placed = tuple(Placed(number(name), x, y, 0.3) for name, x, y in objects)
    return Scene(placed, "blue")


def test_names_are_unique_and_plurals_are_english() -> None:
    names = [c.name for c in concepts()]
    assert len(set(names)) == len(names) >= 250
    plurals = {c.name: c.plural for c in concepts()}
    assert plurals["mouse"] == "mice"
    assert plurals["cherry"] == "cherries"
    assert plurals["pair of glasses"] == "pairs of glasses"
    assert plurals["slice of cake"] == "slices of cake"


def test_captions_follow_the_grammar() -> None:
    assert caption(scene(("apple", 0.5, 0.5))) == "an apple"
    assert caption(scene(("dog", 0.8, 0.5), ("dog", 0.2, 0.5))) == "two dogs"
    assert caption(scene(("dog", 0.8, 0.5), ("cat", 0.2, 0.5))) == "a cat left of a dog"
    assert caption(scene(("dog", 0.5, 0.8), ("cat", 0.5, 0.2))) == "a cat above a dog"
    three = scene(("tree", 0.8, 0.2), ("dog", 0.2, 0.5), ("dog", 0.5, 0.5))
    assert caption(three) == "two dogs and a tree"
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_relations_are_asked_only_when_plain() -> None:
    pair = scene(("dog", 0.8, 0.5), ("cat", 0.2, 0.5))
    assert related(pair, "left", number("dog")) == "a cat"
    assert related(pair, "right", number("dog")) is None
    three = scene(("dog", 0.8, 0.5), ("cat", 0.2, 0.4), ("tree", 0.3, 0.6))
    assert related(three, "left", number("dog")) is None


def test_names_in_questions_end_where_they_are_said_to() -> None:
    choice, drawn = random.Random(1), scene(("dog", 0.8, 0.5), ("pair of glasses", 0.2, 0.5))
    for _ in range(200):
        qa = ask_scene(choice, drawn, same_group=0.5)
        for end, referents in qa.names:
            forms = {f for c in referents for f in (concepts()[c].name, concepts()[c].plural)}
            forms |= {concepts()[c].group for c in referents}
            assert any(qa.question[:end].endswith(form) for form in forms), qa


def test_names_look_at_the_centres_of_their_objects_and_at_the_first_token() -> None:
    drawn = scene(("dog", 0.9, 0.1), ("dog", 0.1, 0.9), ("cat", 0.5, 0.5))
    pack = Pack()
    pack.open([1, 4, *[5] * 36])
    referents = [frozenset((number(name),)) for name in ("dog", "cat", "tree")]
    pack.ask([100, 101, 102], [103], [(1, referents[0]), (2, referents[1])])
    pack.ask([100], [103], [(0, referents[2])], reads=True)
    targets = mark_targets([pack], [drawn])
    assert targets["mark_places"].tolist() == [[0, 39], [0, 40], [0, 44]]
    assert targets["read_places"].tolist() == [[0, 45, 44]]
    looks = [{i: s for i, s in enumerate(row) if s} for row in targets["mark_wanted"].tolist()]
    third = pytest.approx(1 / 3)
    assert looks == [{0: third, 6: third, 31: third}, {0: 0.5, 22: 0.5}, {0: 1.0}]


def test_every_random_scene_can_be_asked_about() -> None:
    rng, choice = np.random.default_rng(0), random.Random(0)
    pool = tuple(range(20))
    for _ in range(50):
        drawn = arrange(rng, pool)
        qa = ask_scene(choice, drawn)
        assert qa.question.endswith("?") and qa.answer
        targets = cell_targets(drawn)
        covered = set(targets["concept"].tolist()) - {NONE}
        assert covered <= {o.concept for o in drawn.objects}


def test_text_answers_depend_on_the_question_alone() -> None:
    answers: dict[str, str] = {}
    for concept in concepts():
        for qa in text_questions(concept):
            assert answers.setdefault(qa.question, qa.answer) == qa.answer


def test_sentences_are_lower_case_words() -> None:
    choice = random.Random(0)
    for concept in concepts():
        text = sentence(choice, concept)
        assert text == text.lower() and text.replace(" ", "").isalpha()


def test_branches_of_a_pack_do_not_see_each_other() -> None:
    pack = Pack()
    pack.open([1, 4])
    pack.ask([10, 11], [12])
    pack.ask([20], [21])
    tensors = collate([pack])
    mask = tensors["attention_mask"][0, 0]
    assert pack.ids == [1, 4, 10, 11, ASSISTANT, 12, EOS, 20, ASSISTANT, 21, EOS]
    assert tensors["position_ids"][0].tolist() == [0, 1, 2, 3, 4, 5, 6, 2, 3, 4, 5]
    assert tensors["labels"][0].tolist()[-2:] == [21, EOS]
    assert tensors["labels"][0].tolist().count(IGNORED) == 7
    assert mask[7, :2].all() and not mask[7, 2:7].any() and not mask[2, 3]


def test_edit_distance() -> None:
    assert edit_distance("a b c".split(), "a c".split()) == 1
    assert edit_distance([], ["x"]) == 1
