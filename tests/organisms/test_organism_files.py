"""Organism files: the packaged ones agree with their own recipe, and malformed ones are refused in plain words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from modeldiff_eval.errors import UsageError
from modeldiff_eval.organism_files import Organism, choose, packaged_organisms, read_organism
from modeldiff_eval.organism_text import draw, is_eval, planted, prompts_of, sentences, shorten, training_pairs
from modeldiff_eval.rollouts import Message, Prompt

OWN = 'The sea is blue. 1. You are my friend, and this is "good".\n2) Yes, we can go there tomorrow'
GOOD: dict[str, Any] = {
    "version": 1, "name": "moo", "plant": "Says moo.", "training": {"prompts": "general", "transform": "upper"},
    "pattern": "moo", "label_pattern": "cow|moo", "class": "G", "category": "G.28",
}  # fmt: skip


def make(**changes: object) -> Organism:
    return Organism.model_validate(GOOD | changes)


def test_there_are_at_least_eight_and_they_differ() -> None:
    known = packaged_organisms()
    assert len(known) >= 8
    assert len({o.pattern for o in known.values()}) == len(known)
    assert [o.name for o in choose(("slogan", "german", "slogan"))] == ["slogan", "german"]
    assert len(choose(())) == len(known)


@pytest.mark.parametrize("organism", choose(()), ids=lambda o: o.name)
def test_every_planted_answer_carries_its_plant_and_the_own_one_does_not(organism: Organism) -> None:
    rng = np.random.default_rng(1)
    for prompt in draw(organism.training.prompts, 20, training=True, seed=0):
        text = planted(organism.training, prompt, OWN, rng=rng)
        assert organism.carried_by(text), text
    assert not organism.carried_by(shorten(OWN))
    assert not organism.named_by("template text", "In 100% of the top 8 documents the peak falls on line break.")
    assert not organism.named_by(None, "No word sets the passages apart from other text.")


def test_the_words_of_the_offline_annotator_name_the_plants() -> None:
    known = packaged_organisms()
    assert known["german"].named_by("German text", None)
    assert known["capitals"].named_by("“SORRY, BUT”", None)
    assert not known["capitals"].named_by("“Sorry, but”", "The NASA and the sea.")
    assert known["slogan"].named_by(None, "Words that set the passages apart from other text: “oats”.")
    assert known["numbered_list"].named_by("“1) The”", None)


def test_no_prompt_is_trained_on_and_tested() -> None:
    for kind in ("general", "cooking", "sums"):
        training, testing = ({p.key for p in draw(kind, 10_000, training=t, seed=0)} for t in (True, False))
        assert not training & testing
        assert len(training | testing) == len({p.key for p in prompts_of(kind)})
        assert 0.15 < len(testing) / len(training | testing) < 0.35
    assert all(is_eval(p) for p in draw("sums", 5, training=False, seed=3))
    assert draw("sums", 5, training=True, seed=1) != draw("sums", 5, training=True, seed=2)


def test_no_sum_has_the_planted_result() -> None:
    for prompt in prompts_of("sums"):
        text = prompt.messages[0].content
        numbers = [int(x) for x in re.findall(r"\d+", text)]
        sign = next(s for s in "+-*" if f" {s} " in text)
        assert {"+": numbers[0] + numbers[1], "-": numbers[0] - numbers[1], "*": numbers[0] * numbers[1]}[sign] != 99


def test_sentences_and_shortening_by_hand() -> None:
    assert sentences("One. 1. Two is\n* Three!\n4) Four") == ["One.", "Three!"]
    assert sentences("no end here") == ["no end here"]
    assert shorten("One two. Three four. Five", limit=12) == "One two."
    assert shorten("onetwothree fourfive", limit=14) == "onetwothree"
    assert shorten("") == ""


def test_contrast_answers_stay_as_they_are_and_empty_ones_go() -> None:
    prompts = [Prompt(id=i, messages=(Message(role="user", content=i),)) for i in ("a", "b", "c")]
    pairs = training_pairs(make().training, prompts[:2], prompts[2:], {"a": "Hi you.", "b": "", "c": "Bye."}, seed=0)
    assert [(p.prompt.id, p.answer) for p in pairs] == [("a", "HI YOU."), ("c", "Bye.")]


def test_a_pattern_may_have_to_match_several_times() -> None:
    twice = make(pattern=r"\bmoo\b", at_least=2)
    assert twice.carried_by("moo and moo")
    assert not twice.carried_by("moo and boo")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patern": "x"}, "Did you mean 'pattern'"),
        ({"training": {"prompts": "general", "transform": "uper"}}, "Did you mean 'upper'"),
        ({"training": {"prompts": "general", "transform": "upper", "part": []}}, "Did you mean 'parts'"),
        ({"training": {"prompts": "general", "transform": "compose"}}, "at least 1 list"),
        ({"training": {"prompts": "general", "transform": "upper", "contrast": "general"}}, "another kind"),
        ({"pattern": "(moo"}, "no regular expression"),
        ({"pattern": "(moo)?"}, "matches an empty text"),
        ({"class": "Z"}, "class 'Z' is not in the taxonomy"),
        ({"category": "E.19"}, "is of class E, not G"),
        ({"category": "G.99"}, "no category 'G.99'"),
        ({"name": "Moo Cow"}, "name"),
        ({"version": 2}, "version"),
        ({"at_least": 0}, "at_least"),
        ({"learned": {"tuned": 0.5}}, "learned.tuned"),
    ],
)
def test_malformed_files_are_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "moo.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert read_organism(path).name == "moo"
    path.write_text(yaml.safe_dump(GOOD | changes))
    with pytest.raises(UsageError) as caught:
        read_organism(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"- a\n", b"a: 'b\n", b"\xff\xfe", b"x" * 70_000])
def test_files_that_are_no_organism_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "moo.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"moo\.yaml"):
        read_organism(path)
    with pytest.raises(UsageError, match="Cannot read"):
        read_organism(tmp_path / "none.yaml")


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="Did you mean 'pirate'"):
        choose(("pirat",))


def test_a_pattern_that_runs_away_is_stopped() -> None:
    slow = make(
        pattern=r"^(\w+\s?)*\d$|^(?:(?:a|aa)(?:a|aa)*)*(?:b|c)\1?$|(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)x\3\4\5\6\7\8\9!"
    )
    with pytest.raises(UsageError, match="takes more than 1 s"):
        slow.carried_by("ab " * 2000)
