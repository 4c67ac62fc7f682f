"""An annotator over a scripted replier: order, repeats, restarts, failures, budgets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Scripted, by_step, choice, description, is_first, latent

from modeldiff_eval.annotate import annotate_all, annotation_key
from modeldiff_eval.annotate_model import NO_EXAMPLES, ModelAnnotator
from modeldiff_eval.annotation import Annotation, Annotator, Evidence
from modeldiff_eval.ask import Question, Reply
from modeldiff_eval.errors import AnnotationError, UsageError
from modeldiff_eval.quoting import Limits
from modeldiff_eval.repeats import vote
from modeldiff_eval.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()


def number(question: Question) -> int:
    return int(question.about.rsplit(" ", 1)[1])


def plainly(question: Question) -> dict[str, object]:
    """A right answer that tells latents apart."""
    return (
        description(f"label {number(question)}")
        if is_first(question)
        else choice("A.2" if number(question) % 2 else "none")
    )


def by_repeat(codes: Sequence[str], confidence: Sequence[float] = ()) -> Scripted:
    """Repeat r is described as "label r" and chooses the r-th code; the text "fail" is a failure."""

    def second(question: Question) -> dict[str, object] | str:
        code = codes[question.repeat]
        return code if code == "fail" else choice(code, confidence=confidence[question.repeat] if confidence else 0.8)

    return Scripted(by_step(lambda question: description(f"label {question.repeat}"), second))


def only(annotator: ModelAnnotator, evidence: Evidence | None = None) -> Annotation:
    (annotation,) = annotator.annotate([evidence or latent(1)])
    return annotation


def test_it_is_an_annotator() -> None:
    annotator = ModelAnnotator(TAXONOMY, Scripted(plainly))
    assert isinstance(annotator, Annotator)
    assert (annotator.name, annotator.paid) == ("scripted", True)


def test_latents_come_in_order_with_every_field() -> None:
    annotations = list(ModelAnnotator(TAXONOMY, Scripted(plainly)).annotate([latent(i) for i in (3, 1, 2)]))
    assert [a.latent for a in annotations] == [3, 1, 2]
    assert [a.label for a in annotations] == ["label 3", "label 1", "label 2"]
    assert [a.category for a in annotations] == ["A.2", "A.2", None]
    first = annotations[0]
    assert first.description == "Fires on label 3. It is active on the word that carries the meaning."
    assert first.patterns == ("the speaker is sorry",)
    assert (first.confidence, first.failure, first.annotator) == (0.8, None, "scripted")
    assert first.reason == "the definition fits; described with high confidence: nearly all documents agree"


def test_all_descriptions_are_asked_before_any_category() -> None:
    replier = Scripted(plainly)
    list(ModelAnnotator(TAXONOMY, replier).annotate([latent(i) for i in range(3)]))
    assert [is_first(question) for question in replier.asked] == [True] * 3 + [False] * 3
    replier = Scripted(plainly)
    list(ModelAnnotator(TAXONOMY, replier, chunk=2).annotate([latent(i) for i in range(3)]))
    assert [is_first(question) for question in replier.asked] == [True, True, False, False, True, False]


def test_a_second_run_asks_nothing_and_a_killed_one_only_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    evidence = [latent(i) for i in range(6)]
    whole = list(ModelAnnotator(TAXONOMY, Scripted(plainly)).annotate(evidence))

    class Killed(Scripted):
        def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
            for reply in super().ask(questions):
                yield reply
                if len(self.asked) == 8:
                    raise KeyboardInterrupt

    killed = Killed(plainly)
    with pytest.raises(KeyboardInterrupt):
        list(ModelAnnotator(TAXONOMY, killed, path=path).annotate(evidence))
    second = Scripted(plainly)
    assert list(ModelAnnotator(TAXONOMY, second, path=path).annotate(evidence)) == whole
    asked = [question.digest for question in (*killed.asked, *second.asked)]
    assert len(asked) == len(set(asked)) == 12
    third = Scripted(plainly)
    assert list(ModelAnnotator(TAXONOMY, third, path=path).annotate(evidence)) == whole
    assert third.asked == []


def test_through_annotate_all_only_what_changed_is_asked(tmp_path: Path) -> None:
    files = {"path": tmp_path / "annotations.jsonl"}
    annotate_all(
        ModelAnnotator(TAXONOMY, Scripted(plainly), path=tmp_path / "r.jsonl"), [latent(0), latent(1)], **files
    )
    again = Scripted(plainly)
    changed = [latent(0), latent(1, ["another text", "and more", "and a third"])]
    annotate_all(ModelAnnotator(TAXONOMY, again, path=tmp_path / "r.jsonl"), changed, **files)
    # The words that came back for the new examples are the old ones, so step 2 is the old question.
    assert [number(question) for question in again.asked] == [1]


def test_a_failed_reply_is_a_failure_and_is_asked_again_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"

    def answer(question: Question) -> dict[str, object] | str:
        return "refused" if number(question) == 1 and not is_first(question) else plainly(question)

    annotations = list(ModelAnnotator(TAXONOMY, Scripted(answer), path=path).annotate([latent(0), latent(1)]))
    assert [a.failure for a in annotations] == [None, "category: refused"]
    assert annotations[1].label is None
    again = Scripted(plainly)
    annotations = list(ModelAnnotator(TAXONOMY, again, path=path).annotate([latent(0), latent(1)]))
    assert [a.failure for a in annotations] == [None, None]
    assert len(again.asked) == 1


def test_an_answer_that_cannot_be_used_is_asked_for_once_more_with_the_rule(tmp_path: Path) -> None:
    def answer(question: Question) -> dict[str, object]:
        first_time = "could not be used" not in question.text
        if is_first(question):
            return description("one two three four five six" if first_time else "short")
        return choice("Z.9" if first_time else "A.2")

    path = tmp_path / "replies.jsonl"
    replier = Scripted(answer)
    annotation = only(ModelAnnotator(TAXONOMY, replier, path=path))
    assert (annotation.label, annotation.category, annotation.failure) == ("short", "A.2", None)
    assert "the field 'label' must be 1 to 5 words" in replier.asked[1].text
    assert "Z.9" not in replier.asked[3].text
    again = Scripted(answer)
    assert only(ModelAnnotator(TAXONOMY, again, path=path)) == annotation
    assert again.asked == []


def test_a_second_unusable_answer_is_a_named_failure() -> None:
    replier = Scripted(by_step(plainly, lambda question: choice("A.22")))
    annotation = only(ModelAnnotator(TAXONOMY, replier))
    assert annotation.failure == (
        "category: category: 'A.22' is not in the taxonomy. Did you mean 'A.2'? (asked twice)"
    )
    assert annotation.category is None
    assert len(replier.asked) == 3


def test_a_latent_without_examples_costs_nothing() -> None:
    replier = Scripted(plainly)
    empty = Evidence(latent=9, examples=[])
    annotations = list(ModelAnnotator(TAXONOMY, replier).annotate([empty, latent(1)]))
    assert [a.failure for a in annotations] == [NO_EXAMPLES, None]
    assert len(replier.asked) == 2


@pytest.mark.parametrize(
    ("codes", "category", "label", "confidence"),
    [
        (["A.1", "A.2", "A.2", "none", "A.2"], "A.2", "label 2", 0.48),  # (0.8 + 0.9 + 0.7) / 5
        (["A.1", "A.1", "A.2", "A.2", "none"], None, "label 2", 0.33),  # a tie of two: 1/3
        (["A.1", "none", "none", "A.2", "none"], None, "label 2", 0.48),
        (["A.1", "fail", "fail", "fail", "A.1"], "A.1", "label 0", 0.7),  # of the two that are usable
    ],
)
def test_the_majority_of_the_repeats(codes: list[str], category: str | None, label: str, confidence: float) -> None:
    replier = by_repeat(codes, [0.7, 0.8, 0.9, 0.6, 0.7])
    annotator = ModelAnnotator(TAXONOMY, replier, repeats=5)
    annotation = only(annotator)
    assert (annotation.category, annotation.label, annotation.confidence) == (category, label, confidence)
    assert annotator.repeat_categories([latent(1)]) == {1: tuple(None if code == "fail" else code for code in codes)}
    assert f"usable repeats of 5 chose {category or 'none'}" in (annotation.reason or "")
    assert ("do not agree" in (annotation.reason or "")) == (codes.count("A.1") == 2 and codes.count("A.2") == 2)


def test_when_every_repeat_fails_the_first_failure_is_told() -> None:
    annotation = only(ModelAnnotator(TAXONOMY, by_repeat(["fail"] * 3), repeats=3))
    assert annotation.failure == "category: fail (so 3 of 3 repeats)"


def test_the_repeats_of_an_earlier_process_are_read_and_not_asked(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    evidence = [latent(1), latent(2)]
    first = ModelAnnotator(TAXONOMY, by_repeat(["A.1", "A.2", "A.2"]), path=path, repeats=3)
    list(first.annotate(evidence))
    replier = by_repeat(["none"] * 3)
    later = ModelAnnotator(TAXONOMY, replier, path=path, repeats=3)
    assert later.repeat_categories([]) == {}
    assert (
        later.repeat_categories(evidence)
        == first.repeat_categories(evidence)
        == dict.fromkeys((1, 2), ("A.1", "A.2", "A.2"))
    )
    assert later.repeat_categories([*evidence, latent(3)])[3] == (None, None, None)
    assert replier.asked == []


@given(st.lists(st.sampled_from(["A.1", "A.2", "none"]), min_size=1, max_size=9), st.randoms())
def test_a_vote_knows_no_order(codes: list[str], random: object) -> None:
    category, leaders = vote(codes)
    shuffled = sorted(codes, reverse=True)
    assert vote(shuffled)[0] == category
    assert set(vote(shuffled)[1]) == set(leaders)
    assert category in leaders or (len(leaders) > 1 and category == "none")


@pytest.mark.parametrize("kept", [True, False])
def test_when_the_money_is_spent_the_rest_fails_by_name(tmp_path: Path, kept: bool) -> None:
    path = tmp_path / "replies.jsonl" if kept else None
    annotator = ModelAnnotator(TAXONOMY, Scripted(plainly, stops_after=5), path=path, chunk=2)
    annotations = list(annotator.annotate([latent(i) for i in range(4)]))
    assert [a.failure is None for a in annotations] == [True, True, False, False]
    assert {a.failure for a in annotations[2:]} <= {
        "description: not asked. The money is spent.", "category: not asked. The money is spent.",
    }  # fmt: skip
    assert str(annotator.stopped) == "The money is spent."
    if kept:
        more = Scripted(plainly)
        done = list(ModelAnnotator(TAXONOMY, more, path=path, chunk=2).annotate([latent(i) for i in range(4)]))
        assert all(a.failure is None for a in done)
        assert len(more.asked) == 3


def test_an_error_before_the_first_answer_is_raised() -> None:
    with pytest.raises(AnnotationError, match="money"):
        list(ModelAnnotator(TAXONOMY, Scripted(plainly, stops_after=0)).annotate([latent(1)]))


def test_what_can_change_an_answer_changes_the_version() -> None:
    def key(**changes: object) -> str:
        taxonomy = changes.pop("taxonomy", TAXONOMY)
        replier = Scripted(plainly, version=str(changes.pop("version", "1")))
        return annotation_key(ModelAnnotator(taxonomy, replier, **changes), latent(1))  # type: ignore[arg-type]

    other = Taxonomy(classes=TAXONOMY.classes[:-1])
    keys = [key(), key(version=2), key(repeats=2), key(limits=Limits(documents=3)), key(taxonomy=other)]
    assert len(set(keys)) == 5
    assert key(chunk=7) == key()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 7), st.one_of(st.none(), st.integers(1, 4)), st.integers(1, 3))
def test_every_latent_gets_one_annotation(count: int, chunk: int | None, repeats: int) -> None:
    replier = Scripted(plainly)
    annotator = ModelAnnotator(TAXONOMY, replier, chunk=chunk, repeats=repeats)
    evidence = [latent(i) for i in range(count)]
    assert [a.latent for a in annotator.annotate(evidence)] == list(range(count))
    assert len(replier.asked) == 2 * repeats * count
    first = [q.digest for q in replier.asked if is_first(q)]
    assert sorted(q.digest for q in annotator.first_questions(evidence)) == sorted(first)


def test_nothing_to_do_and_impossible_settings() -> None:
    assert list(ModelAnnotator(TAXONOMY, Scripted(plainly)).annotate([])) == []
    for wrong in ({"repeats": 0}, {"chunk": 0}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} = 0"):
            ModelAnnotator(TAXONOMY, Scripted(plainly), **wrong)


def test_progress_is_told_by_step() -> None:
    seen: list[tuple[int, int]] = []
    annotator = ModelAnnotator(TAXONOMY, Scripted(plainly), on_progress=lambda done, total: seen.append((done, total)))
    list(annotator.annotate([latent(0), latent(1)]))
    assert seen == [(0, 2), (1, 2), (2, 2)] * 2


def test_replies_are_plain_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "replies.jsonl"
    only(ModelAnnotator(TAXONOMY, Scripted(plainly), path=path))
    assert [json.loads(line)["replier"] for line in path.read_text().splitlines()] == ["scripted"] * 2
