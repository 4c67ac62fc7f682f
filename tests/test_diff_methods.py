"""Whole runs on tiny models by every method: the dictionary of differences beside its crosscoder, and the other two."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_run import STEPS, Recorder, Runner, but_for_created, notes

from modeldiff_eval import diff, fit, train
from modeldiff_eval.records import Card
from modeldiff_eval.settings import make_settings

pytestmark = pytest.mark.usefixtures("quick_runs")
SEED = 1
LATENTS, OWN = 48, 16
"""Latents of the crosscoder, and of the dictionary of differences: a third as many."""


@pytest.fixture(scope="module")
def options(text: Path) -> dict[str, Any]:
    return {
        "corpus": (str(text),), "rollouts": 0, "tasks": (), "latents": LATENTS, "k": 4, "steps": STEPS, "batch": 256,
        "null_tokens": 0, "draws": 200, "max_length": 128, "dtype": "float32", "layer": 1, "thresholds": {"nu_error": 0.6},
    }  # fmt: skip


@pytest.fixture(scope="module")
def made(
    base_model: Path,
    tuned_model: Path,
    options: dict[str, Any],
    shared: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """The comparison as it is without naming a method."""
    return diff(str(base_model), str(tuned_model), out=tmp_path_factory.mktemp("made"), cache=shared, **options)


def of(table: pd.DataFrame, dictionary: str, model: str | None = None) -> pd.DataFrame:
    own = table[table["dictionary"] == dictionary]
    return own if model is None else own[own["model"] == model].reset_index(drop=True)


def same_rows(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Equal, whichever way a missing answer is written."""
    kinds = dict.fromkeys(("changed", "shifted", "shift_changed"), "boolean")
    pd.testing.assert_frame_equal(one.astype(kinds), other.astype(kinds), check_dtype=False)


def specific(run: Any, model: str) -> set[int]:
    table = run.latents
    return set(table.loc[(table["model"] == model) & table["specific"], "latent"])


def no_nan(run: Any) -> bool:
    """JSON has no word for it; Python would write NaN all the same."""
    text = (run.out / "card.json").read_text()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in card.json"))
    return re.search(r"\b(nan|inf)\b", (run.out / "card.md").read_text()) is None


# A dictionary of differences --------------------------------------------------------------------------


def test_the_default_is_a_dictionary_of_differences_beside_the_crosscoder(made: Any) -> None:
    assert notes(made)["settings"]["method"] == "difference"
    assert notes(made)["trained"] == ["(base, tuned)", "(base, tuned), differences"]
    card = Card.model_validate_json((made.out / "card.json").read_text())
    assert card == made.card
    (info,) = card.differences
    assert (info.first, info.second, info.n_latents, info.k) == ("base", "tuned", OWN, 2)
    assert (card.crosscoders[0].n_latents, card.crosscoders[0].k) == (LATENTS, 4)
    assert 0 < info.energy_share < 1
    assert 0 < info.fve <= 1
    assert info.prompts > info.prompts_needed > 1
    assert 0 <= info.unjudged <= info.measured - info.changed
    assert f"{info.prompts_needed} of the {info.prompts} held-out prompts" in (made.out / "card.md").read_text()
    assert info.training.steps == 2 * STEPS
    assert 0 < info.changed <= info.measured <= OWN
    assert 0 <= info.rewritten <= info.changed
    assert (info.false_discovery_rate, card.latents.null_rate) == (0.05, info.null_rate)
    assert 0 <= info.null_rate <= 0.2
    for kind in ("native", "jumprelu"):
        assert (made.out / "differences" / "base--tuned" / kind / "cfg.json").exists()
    assert no_nan(made)


def test_its_latents_are_numbered_after_the_crosscoders(made: Any) -> None:
    table = made.latents
    same_rows(pd.read_parquet(made.out / "latents.parquet"), table)
    for model in ("base", "tuned"):
        assert of(table, "crosscoder", model)["latent"].tolist() == list(range(LATENTS))
        assert of(table, "difference", model)["latent"].tolist() == list(range(LATENTS, LATENTS + OWN))
    examples = pd.read_parquet(made.out / "examples.parquet")
    lines = (made.out / "annotations.jsonl").read_text().splitlines()
    named = {note["latent"] for note in map(json.loads, lines)}
    for dictionary in ("crosscoder", "difference"):
        firing = of(table, dictionary, "base")
        firing = set(firing.loc[firing["firings"] > 0, "latent"])
        assert firing
        assert set(of(examples, dictionary)["latent"]) == firing
        assert firing <= named
    # What is said of a latent is said of that latent: its examples' first words are its label, by the stand-in's rule.
    first = examples[examples["rank"] == 0].set_index("latent")
    own = of(table, "difference", "tuned").dropna(subset=["label"])
    assert len(own) > 5
    for row in own.itertuples():
        assert first.loc[row.latent, "text"][:12] == row.label


def test_claims_are_made_from_the_dictionary_of_differences_alone(made: Any) -> None:
    table, counts = made.latents, made.card.latents
    whole, own = of(table, "crosscoder"), of(table, "difference")
    assert not whole["specific"].any()
    for column in ("changed", "shifted", "nu_error", "rank_key"):
        assert whole[column].isna().all()
    assert (whole["graded_weight"] == 0).all()
    changed, shifted = own["changed"].astype(bool), own["shifted"].astype(bool)
    assert changed.any()
    assert own["specific"].any()
    assert changed[own["specific"]].all()
    assert changed[shifted].all()
    assert (own.loc[own["specific"], "rank_nu_error"].abs() < 0.6).all()
    low, high = own["rank_nu_error_low"], own["rank_nu_error_high"]
    assert (shifted == (changed & (high < 1) & (low > -1))).all()
    assert (own["rank_key"].notna() == shifted).all()
    assert (own.loc[~changed, "graded_weight"] == 0).all()
    assert own["shift"].isna().all()
    assert whole.loc[whole["model"] == "base", "shift"].abs().max() > 0.05
    for side, said in (("base", counts.base), ("tuned", counts.tuned)):
        rows = of(table, "difference", side)
        assert said.specific == int(rows["specific"].sum())
        assert said.shifted == int(rows["shifted"].astype(bool).sum())
    energy = of(table, "difference", "base")["energy"]
    assert energy.sum() == pytest.approx(1)
    assert (energy >= 0).all()


def test_what_the_card_shows_can_be_looked_up(made: Any) -> None:
    shown = {(latent.model, latent.latent): latent for latent in made.card.top_latents}
    assert shown
    table = made.latents.set_index(["model", "latent"])
    for key, latent in shown.items():
        assert key[1] >= LATENTS
        assert table.loc[key, "dictionary"] == "difference"
        assert latent.label == table.loc[key, "label"]
        assert latent.examples


def test_a_run_that_is_there_is_read_and_not_made_again(
    made: Any,
    base_model: Path,
    tuned_model: Path,
    shared: Path,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = {path: path.stat().st_mtime_ns for path in made.out.rglob("*.*")}
    pair = (str(base_model), str(tuned_model))
    with monkeypatch.context() as patch:
        patch.setattr(fit, "difference_for", None)
        again = diff(*pair, out=made.out, cache=shared, **options)
    assert again.card == made.card
    same_rows(again.latents, made.latents)
    now = {path: path.stat().st_mtime_ns for path in made.out.rglob("*.*")}
    changed = {path.relative_to(made.out).parts[0] for path in now if now[path] != written.get(path)}
    assert changed <= {"crosscoders"}  # Copied again from the cache.


def test_the_cache_has_the_dictionary_for_another_folder(
    run: Runner, made: Any, base_model: Path, tuned_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "train_method", None)
    again = run(base_model, tuned_model)
    assert notes(again)["trained"] == []
    assert but_for_created(again.card) == but_for_created(made.card)
    pd.testing.assert_frame_equal(again.latents, made.latents)


def test_a_run_cut_off_while_the_differences_are_learnt_goes_on_and_says_the_same(
    run: Runner, made: Any, base_model: Path, tuned_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_MINUTES", 0.0)
    title = "Learning the differences (base, tuned)"
    with pytest.raises(KeyboardInterrupt):
        run(base_model, tuned_model, cache=tmp_path / "own", reporter=Recorder(title, STEPS))
    assert not (tmp_path / "run" / "card.json").exists()
    rest = Recorder()
    whole = run(base_model, tuned_model, cache=tmp_path / "own", reporter=rest)
    assert notes(whole)["trained"] == ["(base, tuned), differences"]  # The crosscoder was finished.
    steps = rest.calls[title]
    assert 1 < steps[0] <= STEPS
    assert steps == list(range(steps[0], 2 * STEPS + 1))
    assert but_for_created(whole.card) == but_for_created(made.card)
    pd.testing.assert_frame_equal(whole.latents, made.latents)


def test_a_model_against_itself_has_no_differences(run: Runner, base_model: Path) -> None:
    same = run(base_model, base_model)
    (info,) = same.card.differences
    assert (info.energy_share, info.fve, info.l0, info.dead_share) == (0.0, None, 0.0, 1.0)
    assert (info.measured, info.changed, info.rewritten, info.null_rate) == (0, 0, 0, None)
    own = of(same.latents, "difference")
    assert len(own) == 2 * OWN
    assert not own["specific"].any()
    assert not own["changed"].any()
    assert (own["firings"] == 0).all()
    assert (own["graded_weight"] == 0).all()
    counts = same.card.latents
    assert (counts.base.specific, counts.tuned.specific) == (0, 0)
    assert not counts.base.shifted
    assert not counts.tuned.shifted
    assert all(row.verdict in ("unclear", "not covered") for row in (*same.card.classes, *same.card.categories))
    shift = of(same.latents, "crosscoder")[["shift", "shift_low", "shift_high"]].dropna()
    assert len(shift) > 30
    assert (shift == 0).to_numpy().all()
    assert no_nan(same)
    again = run(base_model, base_model, "again")
    assert notes(again)["trained"] == []
    assert but_for_created(again.card) == but_for_created(same.card)


def test_exchanging_the_models_exchanges_the_findings_exactly(run: Runner, base_model: Path, tuned_model: Path) -> None:
    """By a seed whose threshold is not the score of the one prefix that all chats have: rounding would decide about these."""
    direct, swapped = run(base_model, tuned_model, "direct", seed=SEED), run(tuned_model, base_model, seed=SEED)
    for here, there in (("base", "tuned"), ("tuned", "base")):
        assert specific(direct, here) == specific(swapped, there)
        one, other = of(direct.latents, "difference", here), of(swapped.latents, "difference", there)
        for column in ("latent", "changed", "specific", "firings"):
            assert one[column].tolist() == other[column].tolist()
        for column in ("nu_error", "rank_nu_error", "nu_reconstruction", "energy"):
            np.testing.assert_allclose(one[column], other[column], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one["delta_norm"], 1 - other["delta_norm"], atol=1e-5)
    assert specific(direct, "base") | specific(direct, "tuned")
    (one,), (other,) = direct.card.differences, swapped.card.differences
    for name in ("measured", "changed", "rewritten", "null_rate"):
        assert getattr(one, name) == getattr(other, name)
    assert one.fve == pytest.approx(other.fve, abs=1e-5)
    assert one.energy_share == pytest.approx(other.energy_share, abs=1e-6)


def test_a_streamed_run_learns_the_differences_too(run: Runner, made: Any, base_model: Path, tuned_model: Path) -> None:
    streamed = run(base_model, tuned_model, stream=True, measure_tokens=2000)
    assert notes(streamed)["trained"] == ["(base, tuned)", "(base, tuned), differences"]
    (info,), (kept,) = streamed.card.differences, made.card.differences
    # Another order of rows and fewer held-out tokens: about as good.
    assert info.fve == pytest.approx(kept.fve, abs=0.1)
    assert info.energy_share == pytest.approx(kept.energy_share, rel=0.1)
    assert 0 < info.changed <= info.measured
    assert no_nan(streamed)
    again = run(base_model, tuned_model, "again", stream=True, measure_tokens=2000)
    assert notes(again)["trained"] == []
    assert but_for_created(again.card) == but_for_created(streamed.card)


def test_an_anchored_run_has_two_dictionaries(
    run: Runner, made: Any, base_model: Path, tuned_model: Path, merged_model: Path
) -> None:
    """(base, tuned) of the plain run is (anchor, base) here."""
    anchored = run(tuned_model, merged_model, anchor=base_model)
    assert notes(anchored)["trained"] == ["(anchor, tuned)", "(anchor, tuned), differences"]
    first, second = anchored.card.differences
    assert [(x.first, x.second) for x in (first, second)] == [("anchor", "base"), ("anchor", "tuned")]
    (plain,) = made.card.differences
    assert (first.fve, first.energy_share) == (plain.fve, plain.energy_share)
    assert {path.name for path in (anchored.out / "differences").iterdir()} == {"anchor--base", "anchor--tuned"}
    for side, pair in (("base", "anchor--base"), ("tuned", "anchor--tuned")):
        own = of(anchored.latents, "difference", side)
        assert set(own["crosscoder"]) == {pair}
        assert own["latent"].tolist() == list(range(LATENTS, LATENTS + OWN))
        assert own["changed"].astype(bool)[own["specific"]].all()
    # Base's latents against the anchor are tuned's of the plain run.
    assert specific(anchored, "base") == specific(made, "tuned")
    np.testing.assert_allclose(
        of(anchored.latents, "difference", "base")["nu_error"], of(made.latents, "difference", "tuned")["nu_error"]
    )
    examples = of(pd.read_parquet(anchored.out / "examples.parquet"), "difference")
    assert set(examples["crosscoder"]) == {"anchor--base", "anchor--tuned"}
    assert no_nan(anchored)


def test_two_seeds_train_two_dictionaries_and_widen_the_first_ones_intervals(
    run: Runner, made: Any, base_model: Path, tuned_model: Path
) -> None:
    two = run(base_model, tuned_model, seeds=2)
    names = {"base--tuned", "base--tuned--seed-1"}
    for folder in ("crosscoders", "differences"):
        assert {path.name for path in (two.out / folder).iterdir()} == names
    weights = [(two.out / "differences" / name / "native" / "sae_weights.safetensors").read_bytes() for name in names]
    assert weights[0] != weights[1]
    assert two.card.differences == made.card.differences
    assert 0 <= two.card.crosscoders[0].seed_agreement <= 1
    pd.testing.assert_frame_equal(two.latents, made.latents)
    said = " ".join(two.card.caveats)
    assert "Annotated specific latents by seed" in said
    for one, other in zip(made.card.classes, two.card.classes, strict=True):
        assert other.diff.value == one.diff.value
        if one.diff.value is not None:
            assert other.diff.low <= one.diff.low
            assert other.diff.high >= one.diff.high


# Other methods ----------------------------------------------------------------------------------------


def test_a_crosscoder_that_is_given_is_what_is_looked_at(
    run: Runner, made: Any, base_model: Path, tuned_model: Path, options: dict[str, Any]
) -> None:
    folder = str(made.out / "crosscoders" / "base--tuned")
    pair = {"base": str(base_model), "tuned": str(tuned_model), "crosscoder": (folder,)}
    settings, origin = make_settings(options | pair, environ={})
    assert (settings.method, origin["method"]) == ("batchtopk", "crosscoder given")
    assert make_settings(options | pair | {"method": "difference"}, environ={})[0].method == "difference"
    loaded = run(base_model, tuned_model, crosscoder=(folder,))
    assert notes(loaded)["settings"]["method"] == "batchtopk"
    assert loaded.card.differences is None
    assert set(loaded.latents["dictionary"]) == {"crosscoder"}
    assert loaded.latents["nu_error"].notna().any()
    both = run(base_model, tuned_model, "both", crosscoder=(folder,), method="difference")
    assert notes(both)["trained"] == []
    pd.testing.assert_frame_equal(both.latents, made.latents)


@pytest.fixture(scope="module", params=["dedicated", "delta"])
def other(
    request: pytest.FixtureRequest, base_model: Path, tuned_model: Path, options: dict[str, Any], shared: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:  # fmt: skip
    own = options | {"method": request.param}
    return diff(str(base_model), str(tuned_model), out=tmp_path_factory.mktemp("other"), cache=shared, **own)


def test_the_other_methods_make_one_crosscoder(other: Any) -> None:
    assert notes(other)["trained"] == ["(base, tuned)"]
    assert other.card.differences is None
    assert set(other.latents["dictionary"]) == {"crosscoder"}
    assert len(other.latents) == 2 * LATENTS
    assert other.latents["changed"].isna().all()
    (info,) = other.card.crosscoders
    assert min(info.fve_first, info.fve_second) > 0.2
    assert 2 <= info.l0 <= 6
    assert f"--method {notes(other)['settings']['method']}" in other.card.provenance.command
    if notes(other)["settings"]["method"] == "dedicated":
        delta = other.latents.loc[other.latents["model"] == "base", "delta_norm"]
        assert (delta[:6] == 0).all()
        assert (delta[6:12] == 1).all()
        assert delta[12:].between(0, 1, inclusive="neither").all()
    assert no_nan(other)


@pytest.mark.parametrize("kind", ["native", "jumprelu"])
def test_their_crosscoders_loaded_back_give_the_same_findings(
    run: Runner, other: Any, base_model: Path, tuned_model: Path, kind: str
) -> None:
    folder = other.out / "crosscoders" / "base--tuned" / kind
    loaded = run(base_model, tuned_model, crosscoder=(str(folder),))
    assert notes(loaded)["trained"] == []
    (info,), (trained,) = loaded.card.crosscoders, other.card.crosscoders
    assert info.source == f"loaded from {kind}"
    assert (info.fve_first, info.fve_second) == pytest.approx((trained.fve_first, trained.fve_second), abs=1e-5)
    assert info.l0 == pytest.approx(trained.l0, rel=1e-4)
    ours, theirs = loaded.latents, other.latents
    for column in ("specific", "category", "firings"):
        assert ours[column].equals(theirs[column])
    for column in ("nu_error", "nu_error_low", "nu_reconstruction", "delta_norm", "shift", "shift_high"):
        np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-3, atol=1e-4, err_msg=column)
    for row, before in zip(loaded.card.classes, other.card.classes, strict=True):
        assert (row.code, row.verdict, row.covered) == (before.code, before.verdict, before.covered)
