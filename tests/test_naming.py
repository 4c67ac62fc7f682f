"""Scores of names in a whole run: whose passages they are tried on, what the card says, what is switched off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sample_cards import full_card
from tiny_run import STEPS, ByHash

from modeldiff_eval import analysis, diff, naming, naming_words
from modeldiff_eval.annotation import Annotation, Evidence
from modeldiff_eval.ask import Question, Reply
from modeldiff_eval.detection import Detection
from modeldiff_eval.naming import Scored, half_agreement, repeat_agreement
from modeldiff_eval.records import AnnotationQuality, Card
from modeldiff_eval.render_html import render_html
from modeldiff_eval.render_markdown import render_markdown
from modeldiff_eval.settings import Thresholds

pytestmark = pytest.mark.usefixtures("quick_runs")


class Unsure(ByHash):
    """Asks three times; the third answer is always "none"."""

    paid = True

    def repeat_categories(self, evidence: Sequence[Evidence]) -> dict[int, tuple[str | None, ...]]:
        return {note.latent: (note.category, note.category, "none") for note in self.annotate(evidence)}


class Guesser:
    """A language model that names every passage."""

    name, version, paid = "guesser", "1", True

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        for question in questions:
            everything = list(range(1, question.text.count("<passage number=") + 1))
            yield Reply(question=question.digest, replier=self.name, value={"fires": everything}, failure=None)


@pytest.fixture(scope="module")
def options(text: Path) -> dict[str, Any]:
    return {
        "method": "batchtopk", "corpus": (str(text),), "rollouts": 0, "tasks": (), "latents": 160, "k": 2, "steps": STEPS, "batch": 256,
        "null_tokens": 0, "draws": 200, "max_length": 128, "dtype": "float32", "layer": 1, "top_examples": 5,
        "thresholds": Thresholds(nu_error=0.97, nu_reconstruction=5.0, min_firings=1),
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(
    base_model: Path, tuned_model: Path, options: dict[str, Any], shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, list[naming.Probe]]:
    probes: list[naming.Probe] = []
    original = naming.probe_latents

    def remember(*args: Any, **more: Any) -> naming.Probe:
        probes.append(original(*args, **more))
        return probes[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(naming, "probe_latents", remember)
        found = diff(str(base_model), str(tuned_model), out=tmp_path_factory.mktemp("run"), cache=shared, **options)
    return found, probes


def test_the_card_holds_detection_agreement_and_both_ways(run: tuple[Any, list[naming.Probe]]) -> None:
    card = run[0].card
    quality = card.annotation_quality
    assert quality is not None
    assert quality.detection is not None
    assert 0 < quality.scored <= quality.asked
    assert (quality.reader, quality.detector, quality.repeats, quality.bar) == ("offline", "TF-IDF", 1, 0.7)
    assert quality.detection.low <= quality.detection.value <= quality.detection.high
    assert [(k.of, k.level) for k in quality.kappas] == [
        ("two halves of the examples", "classes"), ("two halves of the examples", "categories"),
    ]  # fmt: skip
    assert quality.without_weak is not None
    assert [row.code for row in quality.without_weak] == [row.code for row in card.classes]
    table = run[0].latents
    for side in ("base", "tuned"):
        strong = table[
            (table["model"] == side) & table["specific"] & table["category"].notna() & ~table["weak"].fillna(False)
        ]
        classes = strong["category"].str.split(".").str[0].value_counts()
        for row in quality.without_weak:
            assert getattr(row, side).count == classes.get(row.code, 0)
    assert any("0.5 is a guess" in line for line in card.caveats)
    assert Card.model_validate_json(card.to_json()) == card


def test_latents_carry_their_own_score(run: tuple[Any, list[naming.Probe]]) -> None:
    table, card = pd.read_parquet(run[0].out / "latents.parquet"), run[0].card
    scored = table[table["detection"].notna()]
    assert scored["latent"].nunique() == card.annotation_quality.scored
    assert scored["detection"].between(scored["detection_low"], scored["detection_high"]).all()
    assert (scored["detection_n"] >= 8).all()
    assert ((scored["detection"] < 0.7) == scored["weak"].astype(bool)).all()
    assert table.loc[table["detection"].isna(), "weak"].isna().all()
    values = scored.groupby("latent")["detection"].first()
    assert card.annotation_quality.detection.value == pytest.approx(values.mean())
    assert card.annotation_quality.weak == int((values < 0.7).sum())
    shown = {latent.latent: latent for latent in card.top_latents}
    for latent, value in values.items():
        if latent in shown:
            assert shown[latent].detection.value == pytest.approx(value)
            assert shown[latent].weak == (value < 0.7)


def test_names_are_tried_on_documents_that_their_annotator_was_not_shown(run: tuple[Any, list[naming.Probe]]) -> None:
    (probe,) = run[1]
    assert len(probe.evidence) > 10
    with_mix = 0
    for row, (item, own) in enumerate(zip(probe.evidence, probe.mixes(10, near=False, seed=0), strict=True)):
        shown = {example.passage for example in item.examples}
        assert not shown & set(probe.firing[row])
        near = probe.hard[row][probe.hard[row] >= 0]
        assert probe.activity.silent[row, near].all()
        if own is not None:
            with_mix += 1
            firing = {text for text, fires in zip(own.passages, own.fires, strict=True) if fires}
            assert firing <= set(probe.firing[row])
            assert 2 * len(firing) == len(own.passages)
    assert with_mix > 5


def test_contrast_is_silent_and_not_what_detection_asks_about(run: tuple[Any, list[naming.Probe]]) -> None:
    (probe,) = run[1]
    some = 0
    for item, own in zip(probe.contrast(), probe.mixes(10, near=True, seed=0), strict=True):
        some += bool(item.contrast)
        assert len(item.contrast) <= 4
        if own is not None:
            told = {excerpt.passage for excerpt in item.contrast}
            silent = {text for text, fires in zip(own.passages, own.fires, strict=True) if not fires}
            assert not told & silent
    assert some > 5


def test_equal_runs_give_equal_scores(
    run: tuple[Any, list[naming.Probe]],
    base_model: Path,
    tuned_model: Path,
    options: dict[str, Any],
    shared: Path,
    tmp_path: Path,
) -> None:
    again = diff(str(base_model), str(tuned_model), out=tmp_path / "again", cache=shared, **options)
    assert again.card.annotation_quality == run[0].card.annotation_quality


def test_repeats_enter_intervals_and_kappa_and_no_half_is_asked_of_a_paid_annotator(
    run: tuple[Any, list[naming.Probe]], base_model: Path, tuned_model: Path, options: dict[str, Any], shared: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(analysis, "get_annotator", lambda *_, **__: Unsure())
    original = naming.score_names
    monkeypatch.setattr(
        naming, "score_names", lambda *a, **k: original(*a, **{**k, "replier": Guesser(), "path": tmp_path / "r.jsonl"})
    )
    card = diff(str(base_model), str(tuned_model), out=tmp_path / "unsure", cache=shared, **options).card
    quality = card.annotation_quality
    assert quality is not None
    assert quality.detection is not None
    assert (quality.repeats, quality.reader, quality.detector) == (3, "model", "guesser")
    assert (quality.detection.value, quality.weak) == (0.5, quality.scored)
    assert [(k.of, k.statistic, k.raters) for k in quality.kappas] == [("3 repeats", "Fleiss", 3)] * 2
    assert not any("named once" in line for line in card.caveats)
    wider = 0
    for before, after in zip(run[0].card.classes, card.classes, strict=True):
        if before.diff.low is not None and after.diff.low is not None:
            assert after.diff.value == before.diff.value
            assert after.diff.low <= before.diff.low
            assert after.diff.high >= before.diff.high
            wider += after.diff.low < before.diff.low
    assert wider > 0


def test_switched_off_it_is_null_and_says_so(
    base_model: Path, tuned_model: Path, options: dict[str, Any], shared: Path, tmp_path: Path
) -> None:
    off = {**options, "detection_examples": 0}
    card = diff(str(base_model), str(tuned_model), out=tmp_path / "off", cache=shared, **off).card
    assert card.annotation_quality is None
    assert naming_words.NOT_MEASURED in card.caveats
    assert all(latent.detection is None and latent.weak is None for latent in card.top_latents)
    html = render_html(card)
    assert "Quality of the names: not measured" in html


def test_scores_find_their_rows_in_an_anchored_table() -> None:
    table = pd.DataFrame({"crosscoder": ["anchor--base", "anchor--tuned", "anchor--tuned"], "latent": [3, 3, 4]})
    quality = AnnotationQuality(bar=0.7, scored=1)
    score = Detection(0.6, 0.4, 0.8, 6, 6)
    found = Scored({("anchor--tuned", 3): score, ("anchor--tuned", 4): None}, {}, quality).add_to(table)
    assert found["detection"].fillna(-1).tolist() == [-1, 0.6, -1]
    assert found["detection_n"].tolist() == [0, 12, 0]
    assert found["weak"].tolist() == [pd.NA, True, pd.NA]


def test_an_annotator_that_reads_all_alike_agrees_with_itself() -> None:
    class First(ByHash):
        def annotate(self, evidence: Sequence[Evidence]) -> Iterator[Annotation]:
            for note, item in zip(super().annotate(evidence), evidence, strict=True):
                yield note.model_copy(update={"category": ["A.1", "B.7"][item.latent % 2]})

    from modeldiff_eval.annotation import Excerpt

    rows = [
        Evidence(latent=i, examples=[Excerpt(text=f"{i} {j}", tokens=[], activations=[]) for j in range(6)])
        for i in range(40)
    ]
    for kappa in half_agreement(First(), rows, rng=np.random.default_rng(0)):
        assert (kappa.value.value, kappa.agree, kappa.latents) == (1.0, 1.0, 40)
    # The first six categories are all of class A: nothing to agree about by class, chance by category.
    classes, categories = half_agreement(ByHash(), rows, rng=np.random.default_rng(0))
    assert (classes.agree, classes.value.value) == (1.0, None)
    assert categories.value.high is not None
    assert categories.value.high < 0.5
    assert repeat_agreement([("A.1",)], rng=np.random.default_rng(0)) == []


def test_the_share_of_guesses_that_reach_the_bar() -> None:
    # 7 or more of 10 by hypergeometric chance: (120² + 45² + 10² + 1) / C(20, 10).
    quality = AnnotationQuality(bar=0.7, passages=20)
    assert naming_words.guess_rate(quality) == pytest.approx((120**2 + 45**2 + 10**2 + 1) / 184756)
    assert naming_words.guess_rate(AnnotationQuality(bar=0.0, passages=20)) == pytest.approx(1)


def test_every_format_shows_scores_and_both_ways() -> None:
    card = full_card(hostile=False)
    html, text = render_html(card), render_markdown(card)
    tag = '<span class="tag">weak name</span>'
    assert tag not in html  # no shown latent of the sample is weak
    latents = [card.top_latents[0].model_copy(update={"weak": True}), *card.top_latents[1:]]
    assert tag in render_html(card.model_copy(update={"top_latents": latents}))
    for shown in (html, text.replace("\\", "")):
        assert "0.71 (0.66 … 0.76)" in shown
        assert "9 weak, below 0.70" in shown
        assert "5 repeats" in shown
        assert "not defined" in shown
    assert "without weak names" in html
    assert "Class shares without weak names" in text
    assert naming_words.terminal_lines(card) == [naming_words.detection_words(card.annotation_quality)]  # type: ignore[arg-type]
    assert naming_words.terminal_lines(card.model_copy(update={"annotation_quality": None})) == []
