"""A person's review: out as CSV, back as an annotator, and the rest by another one."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from scripted import latent

from modeldiff_eval.annotate import annotate_all, get_annotator
from modeldiff_eval.annotate_human import COLUMNS, HumanAnnotator, read_review, write_review
from modeldiff_eval.annotation import Annotation, Annotator, Evidence
from modeldiff_eval.errors import UsageError
from modeldiff_eval.taxonomy import Taxonomy

TAXONOMY = Taxonomy.load()
EVIDENCE = [latent(i) for i in range(4)]


def said(number: int, **changes: object) -> Annotation:
    fields: dict[str, object] = {
        "latent": number, "label": f"label {number}", "description": "It fires.", "category": "A.2", "confidence": 0.75,
        "reason": "r", "failure": None, "annotator": "machine", "key": "",
    }  # fmt: skip
    return Annotation.model_validate(fields | changes)


class Machine:
    """Names every latent in one way and remembers which it was asked for."""

    name, version, paid = "machine", "1", False

    def __init__(self) -> None:
        self.asked: list[int] = []

    def annotate(self, evidence: Sequence[Evidence]) -> Iterator[Annotation]:
        for item in evidence:
            self.asked.append(item.latent)
            yield said(item.latent)


def review(path: Path, changes: dict[int, dict[str, str]], annotations: Sequence[Annotation] = ()) -> Path:
    """Write the file, then fill in what a reader would."""
    write_review(path, EVIDENCE, annotations or [said(i) for i in range(4)], TAXONOMY)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows([row | changes.get(int(row["latent"]), {}) for row in rows])
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_the_file_shows_what_a_reader_needs(tmp_path: Path) -> None:
    failed = said(1, label=None, description=None, category=None, confidence=None, failure="no answer")
    hostile = said(2, label="=cmd|' /C calc'!A0", category=None)
    path = write_review(tmp_path / "r.csv", EVIDENCE[:3], [said(0), failed, hostile], TAXONOMY)
    first, second, third = rows(path)
    assert tuple(first) == COLUMNS
    assert first["machine_category"] == "A.2 Request Refusal Mechanisms"
    assert first["machine_confidence"] == "0.75"
    assert first["examples"].startswith("1. I am[[ sorry]] about number 0, part 0.\n2. I am[[ sorry]]")
    assert all(first[name] == "" for name in ("label", "description", "category", "verdict", "note"))
    assert second["machine_label"] == second["machine_category"] == ""
    assert third["machine_label"] == "'=cmd|' /C calc'!A0"
    assert third["machine_category"] == "none"


def test_a_file_that_nobody_touched_reviews_nothing(tmp_path: Path) -> None:
    assert read_review(review(tmp_path / "r.csv", {}), TAXONOMY) == {}


def test_corrections_and_confirmations_come_back_and_the_machine_names_the_rest(tmp_path: Path) -> None:
    path = review(
        tmp_path / "r.csv",
        {
            0: {"verdict": "OK"},
            1: {"label": "sorrow", "category": "Harmful Content Detection", "note": "clear"},
            2: {"category": "None"},
        },
    )
    machine = Machine()
    human = HumanAnnotator(TAXONOMY, path, fallback=machine)
    assert isinstance(human, Annotator)
    human.meet(EVIDENCE)
    human.require_met()
    found = annotate_all(human, EVIDENCE, path=tmp_path / "annotations.jsonl")
    assert [a.annotator for a in found] == ["human", "human", "human", "machine"]
    assert [a.category for a in found] == ["A.2", "A.1", None, "A.2"]
    assert [a.label for a in found] == ["label 0", "sorrow", "label 2", "label 3"]
    assert found[0].reason == "confirmed by a reader"
    assert found[1].reason == "label, category corrected by a reader; clear"
    assert {a.confidence for a in found[:3]} == {1.0}
    assert machine.asked == [3]


def test_without_another_annotator_the_rest_stays_unnamed(tmp_path: Path) -> None:
    human = HumanAnnotator(TAXONOMY, review(tmp_path / "r.csv", {0: {"verdict": "ok"}}))
    assert [a.failure for a in human.annotate(EVIDENCE)] == [None, "not reviewed", "not reviewed", "not reviewed"]


def test_a_file_written_by_hand_needs_few_columns(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("latent;label;category\n2;sorrow;A.2\n3.0;;none\n")
    found = list(HumanAnnotator(TAXONOMY, path, fallback=Machine()).annotate(EVIDENCE))
    assert [(a.label, a.category) for a in found[2:]] == [("sorrow", "A.2"), (None, None)]


def test_the_version_follows_the_review_and_the_other_annotator(tmp_path: Path) -> None:
    path = review(tmp_path / "r.csv", {0: {"verdict": "ok"}})
    one = HumanAnnotator(TAXONOMY, path, fallback=Machine()).version
    assert HumanAnnotator(TAXONOMY, path, fallback=Machine()).version == one
    other = Machine()
    other.version = "2"
    assert HumanAnnotator(TAXONOMY, path, fallback=other).version != one
    review(path, {0: {"verdict": "ok"}, 1: {"category": "none"}})
    assert HumanAnnotator(TAXONOMY, path, fallback=Machine()).version != one


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latent,category\nseven,A.2\n", "line 2: latent 'seven' is not a whole number"),
        ("latent,category\n1.2E+05,A.2\n", "rounded it"),
        ("latent,category\n1,A.2\n1,A.1\n", "line 3: latent 1 stands on line 2 already"),
        ("latent,category\n1,A.22\n", "line 2: the taxonomy has no category 'A.22'. Did you mean 'a.2'"),
        ("latent,category\n1,Request Refusl Mechanisms\n", "Did you mean"),
        ("latent,verdict\n1,maybe\n", "verdict 'maybe'"),
        ("latent,verdict\n1,ok\n", "no machine_category to agree with"),
        ("latent,label\n1,sorrow\n", "latent 1 has no category"),
        ("latent,lable\n1,sorrow\n", "Did you mean 'label'"),
        ("category\nA.2\n", "'latent' is missing"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "r.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        HumanAnnotator(TAXONOMY, path)


def test_latents_that_the_run_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("latent,category\n1,A.2\n77,A.1\n78,A.1\n")
    human = HumanAnnotator(TAXONOMY, path)
    human.meet(EVIDENCE)
    with pytest.raises(UsageError, match=r"no latent 77, 78 with the examples that were reviewed \(2 of 3 reviewed\)"):
        human.require_met()


def test_a_row_about_other_examples_is_not_used_and_then_refused(tmp_path: Path) -> None:
    """Another dictionary of the run may have a latent of that number; where none fits, the file is another run's."""
    path = review(tmp_path / "r.csv", {1: {"category": "none"}})
    human = HumanAnnotator(TAXONOMY, path, fallback=Machine())
    changed = [latent(1, ["quite other text", "and more of it"])]
    human.meet(changed)
    assert [a.annotator for a in human.annotate(changed)] == ["machine"]
    with pytest.raises(UsageError, match="another run"):
        human.require_met()
    human.meet(EVIDENCE)
    human.require_met()


def test_by_name(tmp_path: Path) -> None:
    path = review(tmp_path / "r.csv", {1: {"category": "none"}})
    human = get_annotator(f"human:{path}", TAXONOMY, fallback=Machine())
    assert [a.annotator for a in human.annotate(EVIDENCE)] == ["machine", "human", "machine", "machine"]
    with pytest.raises(UsageError, match="No file is named"):
        get_annotator("human:", TAXONOMY)
    with pytest.raises(UsageError, match="Cannot read"):
        get_annotator(f"human:{tmp_path}/absent.csv", TAXONOMY, fallback=None)
