"""Running any annotator: order, resuming, torn lines, stale keys; and the stretches of text that latents share."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeldiff_eval.annotate import (
    Annotation,
    Annotator,
    Evidence,
    Excerpt,
    annotate_all,
    annotation_key,
    context_span,
    get_annotator,
    read_annotations,
)
from modeldiff_eval.annotate_model import ModelAnnotator
from modeldiff_eval.errors import AnnotationError, ModelError, OutputError, UsageError
from modeldiff_eval.records import Example
from modeldiff_eval.taxonomy import Taxonomy


class Echo:
    """Names a latent after its first text; stops with an error before latent ``dies_at``; fails where told."""

    name = "echo"

    def __init__(
        self, version: str = "1", *, paid: bool = True, dies_at: int | None = None, fails: Sequence[int] = ()
    ) -> None:
        self.version, self.paid, self.dies_at, self.fails = version, paid, dies_at, fails
        self.asked: list[int] = []

    def annotate(self, evidence: Sequence[Evidence]) -> Iterator[Annotation]:
        for item in evidence:
            if item.latent == self.dies_at:
                raise KeyboardInterrupt
            self.asked.append(item.latent)
            failed = item.latent in self.fails
            yield Annotation(
                latent=item.latent, label=None if failed else item.examples[0].text, description=None, category=None,
                confidence=None, reason=None, failure="no answer" if failed else None, annotator=self.name, key="",
            )  # fmt: skip


def evidence(latent: int, text: str | None = None, activation: float = 1.0) -> Evidence:
    text = text or f"text of {latent}"
    return Evidence(latent=latent, examples=[Excerpt(text=text, tokens=[text], activations=[activation])])


def some(count: int) -> list[Evidence]:
    return [evidence(i) for i in range(count)]


def test_the_example_annotator_follows_the_protocol() -> None:
    assert isinstance(Echo(), Annotator)


@pytest.mark.parametrize("paid", [True, False])
def test_answers_come_in_order_and_a_second_run_asks_nothing(tmp_path: Path, paid: bool) -> None:
    path = tmp_path / "run" / "annotations.jsonl"
    first = Echo(paid=paid)
    progress: list[tuple[int, int]] = []
    answers = annotate_all(first, some(5), path=path, on_progress=lambda done, total: progress.append((done, total)))
    assert [a.latent for a in answers] == first.asked == [0, 1, 2, 3, 4]
    assert progress == [(i, 5) for i in range(6)]
    second = Echo(paid=paid)
    assert annotate_all(second, some(5), path=path) == answers
    assert second.asked == []
    assert len(path.read_text().splitlines()) == 5


def test_nothing_is_written_without_a_path(tmp_path: Path) -> None:
    assert [a.label for a in annotate_all(Echo(), some(2))] == ["text of 0", "text of 1"]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_asks_only_for_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "annotations.jsonl"
    with pytest.raises(KeyboardInterrupt):
        annotate_all(Echo(dies_at=3), some(6), path=path)
    assert len(path.read_text().splitlines()) == 3
    again = Echo()
    assert [a.latent for a in annotate_all(again, some(6), path=path)] == list(range(6))
    assert again.asked == [3, 4, 5]


@pytest.mark.parametrize("torn", [b'{"latent": 2, "label": "half', b"\xff\xfe\x00", b"{}"])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "annotations.jsonl"
    annotate_all(Echo(), some(2), path=path)
    path.write_bytes(path.read_bytes() + torn)
    again = Echo()
    annotate_all(again, some(3), path=path)
    assert again.asked == [2]
    lines = path.read_text().splitlines()
    assert [json.loads(line)["latent"] for line in lines] == [0, 1, 2]


def test_a_broken_line_in_the_middle_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "annotations.jsonl"
    annotate_all(Echo(), some(3), path=path)
    lines = path.read_bytes().splitlines()
    lines[1] = b"not json"
    path.write_bytes(b"\n".join(lines) + b"\n")
    again = Echo()
    annotate_all(again, some(3), path=path)
    assert again.asked == [1]


def test_changed_evidence_or_version_is_asked_again_and_old_answers_stay(tmp_path: Path) -> None:
    path = tmp_path / "annotations.jsonl"
    annotate_all(Echo(), some(3), path=path)
    changed = [evidence(0), evidence(1, "other text"), evidence(2)]
    again = Echo()
    assert annotate_all(again, changed, path=path)[1].label == "other text"
    assert again.asked == [1]
    newer = Echo("2")
    annotate_all(newer, changed, path=path)
    assert newer.asked == [0, 1, 2]
    assert len(read_annotations(path)) == 7
    old = Echo()
    annotate_all(old, some(3), path=path)
    assert old.asked == []


def test_equal_evidence_of_another_latent_needs_no_second_question(tmp_path: Path) -> None:
    path = tmp_path / "annotations.jsonl"
    annotate_all(Echo(), [evidence(1, "same")], path=path)
    again = Echo()
    answer = annotate_all(again, [evidence(9, "same")], path=path)[0]
    assert (answer.latent, answer.label, again.asked) == (9, "same", [])


def test_failures_are_values_and_are_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "annotations.jsonl"
    first = annotate_all(Echo(fails=[1]), some(3), path=path)
    assert [a.failure for a in first] == [None, "no answer", None]
    again = Echo()
    assert [a.failure for a in annotate_all(again, some(3), path=path)] == [None, None, None]
    assert again.asked == [1]


def test_the_key_ignores_noise_in_the_last_digits_and_nothing_else() -> None:
    echo = Echo()
    key = annotation_key(echo, evidence(0, "a", 1.0))
    assert annotation_key(echo, evidence(5, "a", 1.00001)) == key
    assert annotation_key(echo, evidence(0, "a", 1.01)) != key
    assert annotation_key(echo, evidence(0, "b", 1.0)) != key
    assert annotation_key(Echo("2"), evidence(0, "a", 1.0)) != key


class Wrong(Echo):
    """Answers with a plan: latents to answer for, whatever is asked."""

    def __init__(self, plan: list[int]) -> None:
        super().__init__()
        self.plan = plan

    def annotate(self, evidence: Sequence[Evidence]) -> Iterator[Annotation]:
        by_latent = {item.latent: item for item in evidence}
        for latent in self.plan:
            yield from super().annotate([by_latent[latent]])


@pytest.mark.parametrize(("plan", "said"), [([1, 0], "in order"), ([0], "1 of 2"), ([0, 1, 1], "more often")])
def test_an_annotator_out_of_step_is_an_error(plan: list[int], said: str) -> None:
    with pytest.raises(AnnotationError, match=said):
        annotate_all(Wrong(plan), some(2))


def test_an_unwritable_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot"):
        annotate_all(Echo(), some(1), path=tmp_path / "file" / "annotations.jsonl")


def test_excerpts_show_as_plain_examples() -> None:
    excerpt = Excerpt(
        text="a b", tokens=["a", " b"], activations=[0.0, 2.0], context="x a b y", document="d1", role="user"
    )
    assert excerpt.example() == Example(text="a b", tokens=["a", " b"], activations=[0.0, 2.0])
    assert excerpt.passage == "x a b y"
    assert Excerpt(text="a", tokens=[], activations=[]).passage == "a"


def test_annotators_by_name() -> None:
    taxonomy = Taxonomy.load()
    with pytest.raises(UsageError, match="Did you mean 'offline'"):
        get_annotator("ofline", taxonomy)
    with pytest.raises(UsageError, match="Did you mean 'local'"):
        get_annotator("locale:embedded", taxonomy)
    with pytest.raises(UsageError, match=r"local:MODEL, human:FILE"):
        get_annotator("local", taxonomy)
    with pytest.raises(UsageError, match="Did you mean 'background'"):
        get_annotator("offline", taxonomy, backgrund=[])
    with pytest.raises(ModelError, match="No model is named"):
        get_annotator("local:", taxonomy)
    with pytest.raises(UsageError, match="Did you mean 'repeats'"):
        get_annotator("local:embedded", taxonomy, repeat=3)


def test_the_replier_gets_its_options_and_the_annotator_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, dict[str, Any]]] = []

    class Client:
        name, version, paid = "claude", "1", True

        def __init__(self, model: str = "m", *, max_cost: float | None = None) -> None:
            made.append(("live", {"model": model, "max_cost": max_cost}))

    class Batch(Client):
        def __init__(self, model: str = "m", *, path: Path, poll: float = 5.0) -> None:
            made.append(("batch", {"model": model, "path": path, "poll": poll}))

    monkeypatch.setitem(sys.modules, "modeldiff_eval.claude", types.SimpleNamespace(ClaudeReplier=Client))
    monkeypatch.setitem(sys.modules, "modeldiff_eval.claude_batch", types.SimpleNamespace(ClaudeBatchReplier=Batch))
    taxonomy = Taxonomy.load()
    path = tmp_path / "replies.jsonl"
    annotator = get_annotator("claude", taxonomy, model="x", max_cost=2.0, repeats=3, path=path)
    assert isinstance(annotator, ModelAnnotator)
    assert (annotator.name, annotator.repeats, annotator.path) == ("claude", 3, path)
    get_annotator("claude", taxonomy, batch=True, path=path, poll=1.0)
    assert made == [
        ("live", {"model": "x", "max_cost": 2.0}),
        ("batch", {"model": "m", "path": tmp_path / "batches.jsonl", "poll": 1.0}),
    ]
    with pytest.raises(UsageError, match="Did you mean 'max_cost'"):
        get_annotator("claude", taxonomy, maxcost=1)
    with pytest.raises(UsageError, match="folder"):
        get_annotator("claude", taxonomy, batch=True)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 3000), st.data())
def test_the_stretch_holds_the_peak_and_few_are_needed(length: int, data: st.DataObject) -> None:
    peak = data.draw(st.integers(0, length - 1))
    start, stop = context_span(peak, length)
    assert 0 <= start <= peak < stop <= length
    assert start % 32 == 0
    assert stop - start == min(48, length) or stop == length
    assert peak - start >= 8 or start == 0
    assert stop - 1 - peak >= 7 or stop == length


def test_stretches_are_shared() -> None:
    spans = {context_span(peak, 1000) for peak in range(1000)}
    assert len(spans) <= 1000 / 32 + 1
    assert context_span(0, 10) == (0, 10)
    with pytest.raises(ValueError, match="outside"):
        context_span(10, 10)
