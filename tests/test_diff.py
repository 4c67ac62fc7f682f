"""The whole run on tiny models: what it finds, what it refuses, and that nothing is done twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_pair import perturbed, save_model
from tiny_run import STEPS, Recorder, Runner, but_for_created, notes

from modeldiff_eval import activations, analysis, diff, models, side_tables, train
from modeldiff_eval.annotate import get_annotator
from modeldiff_eval.errors import (
    CrosscoderError,
    MismatchedModelsError,
    MissingDependencyError,
    ModelError,
    OutputError,
    SettingsError,
)
from modeldiff_eval.graded import Shifted
from modeldiff_eval.records import Card
from modeldiff_eval.render import pdf_available, render

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def options(text: Path) -> dict[str, Any]:
    return {
        "method": "batchtopk", "corpus": (str(text),), "rollouts": 0, "tasks": (), "latents": 48, "k": 4, "steps": STEPS, "batch": 256,
        "null_tokens": 4000, "draws": 200, "max_length": 128, "dtype": "float32", "layer": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def direct(
    base_model: Path,
    tuned_model: Path,
    options: dict[str, Any],
    shared: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """The plain comparison, made once."""
    return diff(str(base_model), str(tuned_model), out=tmp_path_factory.mktemp("direct"), cache=shared, **options)


def findings(card: Card) -> dict[str, Any]:
    """What a card says, without its time and how its models and files are called."""
    drop = {"created", "title", "models", "provenance", "crosscoders", "caveats"}
    return {name: value for name, value in card.model_dump().items() if name not in drop}


def test_a_direct_run_writes_everything(direct: Any, base_model: Path) -> None:
    names = {str(p.relative_to(direct.out)) for p in direct.out.rglob("*") if p.is_file()}
    wanted = {"card.json", "card.md", "card.csv", "run.json", "annotations.jsonl"}
    wanted |= {"latents.parquet", "examples.parquet", "evidence.parquet"}
    wanted |= {f"crosscoders/base--tuned/{kind}/cfg.json" for kind in ("native", "jumprelu")}
    assert wanted <= names
    assert not [name for name in names if "partial" in name]
    card = Card.model_validate_json((direct.out / "card.json").read_text())
    assert card == direct.card
    assert (card.mode, card.models.anchor, card.models.base.id) == ("direct", None, "tiny-base")
    assert str(base_model.parent) not in card.to_json()
    assert (notes(direct)["trained"], notes(direct)["cwd"]) == (["(base, tuned)"], str(Path.cwd()))


def test_the_run_holds_what_the_table_holds(direct: Any) -> None:
    table = pd.read_parquet(direct.out / "latents.parquet")
    assert len(table) == len(direct.latents) == 2 * 48
    pd.testing.assert_frame_equal(table, direct.latents, check_dtype=False)
    (info,) = direct.card.crosscoders
    assert (info.first, info.second, info.n_latents, info.k, info.layer) == ("base", "tuned", 48, 4, 1)
    assert 0.2 < info.fve_first <= 1
    assert 0.2 < info.fve_second <= 1
    assert 2 <= info.l0 <= 6
    assert info.training is not None
    assert (info.training.steps, info.training.rows[-1]) == (STEPS, STEPS * 256)
    assert info.training.loss[-1] < info.training.loss[0]
    for side, counts in (("base", direct.card.latents.base), ("tuned", direct.card.latents.tuned)):
        assert counts.specific == int(table.loc[table["model"] == side, "specific"].sum())
    shown = {(latent.model, latent.latent) for latent in direct.card.top_latents}
    assert shown
    assert all(latent.examples for latent in direct.card.top_latents)
    assert direct.card.coverage is not None
    assert direct.card.provenance.tokens == sum(row["tokens"] for row in direct.card.coverage.languages)


def test_a_perturbed_model_moves_activations(direct: Any) -> None:
    shift = direct.latents.loc[direct.latents["model"] == "base", "shift"]
    assert shift.abs().max() > 0.05
    assert any(row.activation and row.activation.change.value for row in direct.card.classes)


def test_graded_weights_are_in_table_and_card(direct: Any) -> None:
    table, counts = direct.latents, direct.card.latents
    low, high = (table[f"nu_error_{bound}"].to_numpy(dtype=float) for bound in ("low", "high"))
    weight = np.where(np.isnan(high), 0, np.maximum(0, 1 - np.maximum(high, -low)))
    np.testing.assert_allclose(table["graded_weight"], weight)
    assert table["shifted"].isna().all()
    assert (counts.base.shifted, counts.null_rate) == (None, None)
    for side, own in (("base", counts.base.graded), ("tuned", counts.tuned.graded)):
        assert own is not None
        rows = table[(table["model"] == side) & (table["graded_weight"] > 0) & table["annotation_failure"].isna()]
        assert own.latents == len(rows) > 0
        assert own.weight == pytest.approx(rows["graded_weight"].sum(), abs=1e-5)
    for row in direct.card.classes:
        assert row.graded is None or row.graded.diff.low <= row.graded.diff.value <= row.graded.diff.high
    assert any("Graded shares" in line for line in direct.card.caveats)


def test_two_seeds_give_their_agreement_and_keep_the_first_crosscoder(
    run: Runner, direct: Any, base_model: Path, tuned_model: Path
) -> None:
    two = run(base_model, tuned_model, seeds=2)
    assert notes(two)["trained"] == ["(base, tuned)"]  # The first seed's is the one of the plain run.
    (info,) = two.card.crosscoders
    assert 0 <= info.seed_agreement <= 1
    assert direct.card.crosscoders[0].seed_agreement is None
    assert info.model_copy(update={"seed_agreement": None}) == direct.card.crosscoders[0]
    pd.testing.assert_frame_equal(two.latents, direct.latents)
    names = {path.name for path in (two.out / "crosscoders").iterdir()}
    assert names == {"base--tuned", "base--tuned--seed-1"}
    said = " ".join(two.card.caveats)
    assert "Seed agreement of (base, tuned)" in said
    assert "Annotated specific latents by seed" in said
    for one, other in zip(direct.card.classes, two.card.classes, strict=True):
        assert other.diff.value == one.diff.value
        if one.diff.value is not None:
            assert other.diff.low <= one.diff.low
            assert other.diff.high >= one.diff.high


def test_a_null_control_fills_the_shifted_counts(
    run: Runner, base_model: Path, tuned_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_side = side_tables.make_side

    def controlled(work: Any, role: str, measured: Any, claim: int, shift: Any) -> Any:
        high = measured.nu[claim].error_high
        null = Shifted(high < 0.9, rate=0.01 if role == "base" else 0.02, threshold=0.9, delta=0.1)
        return replace(make_side(work, role, measured, claim, shift), null=null)

    monkeypatch.setattr(side_tables, "make_side", controlled)
    card = (made := run(base_model, tuned_model)).card
    assert card.latents.null_rate == 0.02
    for side, counts in (("base", card.latents.base), ("tuned", card.latents.tuned)):
        own = made.latents[made.latents["model"] == side]
        assert counts.shifted == int((own["nu_error_high"] < 0.9).sum())
    assert f"{card.latents.tuned.shifted} latents of tuned are shifted" in card.headline
    assert f"{card.latents.tuned.shifted} shifted in tuned" in (made.out / "card.md").read_text()


def test_a_latent_counts_as_changed_only_beyond_its_bar(direct: Any) -> None:
    own = direct.latents[direct.latents["model"] == "base"]
    judged = own[own["shift_changed"].notna()]
    assert len(judged) > 20
    changed = judged["shift_changed"].astype(bool)
    beyond = judged["shift"].abs() > judged["shift_bar"]
    assert (changed == (beyond & ((judged["shift_low"] > 0) | (judged["shift_high"] < 0)))).all()
    assert changed.any()
    (line,) = (text for text in direct.card.caveats if "changed beyond the null" in text)
    assert line.startswith(f"{changed.sum()} of {len(judged)} latents")


def test_the_parts_of_the_text_are_the_held_out_text(direct: Any) -> None:
    """Half of the rows are chats: user, assistant, template and plain text; one source, so no split by text."""
    parts = {row.part: row for row in direct.card.activation_by}
    assert {row.split for row in parts.values()} == {"token kind"}
    assert set(parts) == {"user", "assistant", "template and system", "plain text"}
    assert parts["user"].tokens < parts["assistant"].tokens
    assert parts["user"].documents == parts["assistant"].documents
    codes = [row.code for row in direct.card.classes]
    assert all(list(row.changes) == codes for row in parts.values())
    known = [change for row in parts.values() for change in row.changes.values() if change.value is not None]
    assert known
    assert all(change.low <= change.value <= change.high for change in known if change.low is not None)


def test_the_hard_estimator_can_still_be_had(run: Runner, direct: Any, base_model: Path, tuned_model: Path) -> None:
    hard = run(base_model, tuned_model, "hard", shift_estimator="hard")
    assert notes(hard)["trained"] == []
    assert not hard.latents["shift"].equals(direct.latents["shift"])
    assert "MODELDIFF_SHIFT_ESTIMATOR=hard" in hard.card.provenance.command


def test_a_second_run_does_nothing_twice_and_says_the_same(
    run: Runner, direct: Any, base_model: Path, tuned_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activations, "forward_rows", None)
    monkeypatch.setattr("modeldiff_eval.fit.train_method", None)
    load, loaded = models.load, list[str]()

    def counted(source: models.Source, **options: Any) -> models.Loaded:
        loaded.append(source.name)
        return load(source, **options)

    monkeypatch.setattr(models, "load", counted)
    recorder = Recorder()
    again = run(base_model, tuned_model, reporter=recorder)
    assert recorder.work() == set()
    assert loaded == [str(tuned_model)]  # For the lens: what its final norm and unembedding make of the difference.
    assert notes(again)["trained"] == []
    assert but_for_created(again.card) == but_for_created(direct.card)
    pd.testing.assert_frame_equal(again.latents, direct.latents)


def test_the_time_stamp_can_be_given(run: Runner, base_model: Path, tuned_model: Path) -> None:
    cards = [run(base_model, tuned_model, name, created="2026-01-02T03:04:05Z").out / "card.json" for name in "ab"]
    assert cards[0].read_bytes() == cards[1].read_bytes()


def test_a_model_against_itself_changes_nothing(run: Runner, base_model: Path) -> None:
    same = run(base_model, base_model)
    card, table = same.card, same.latents
    assert card.latents.base.specific == card.latents.tuned.specific == 0
    shift = table[["shift", "shift_low", "shift_high"]].dropna()
    assert len(shift) > 30
    assert (shift == 0).to_numpy().all()
    assert table["delta_norm"].dropna().eq(0.5).all()
    measured = 0
    for row in (*card.classes, *card.categories):
        assert row.verdict in ("unclear", "not covered")
        if row.activation is not None:
            assert row.activation.verdict in ("unclear", "not covered")
            change = row.activation.change
            assert {change.value, change.low, change.high} in ({0.0}, {None})
            measured += change.value == 0
    assert measured >= 3
    np.testing.assert_allclose(table["nu_error"].dropna(), 1.0, atol=1e-6)
    assert "No latent is specific" in card.headline


def test_an_anchored_run_reuses_the_shared_crosscoder(
    run: Runner, direct: Any, base_model: Path, tuned_model: Path, merged_model: Path
) -> None:
    """(base, tuned) of the direct run is (anchor, base) here; only (anchor, tuned) is new, and then nothing."""
    first = run(tuned_model, merged_model, "first", anchor=base_model)
    assert notes(first)["trained"] == ["(anchor, tuned)"]
    card = first.card
    assert card.mode == "anchored"
    assert card.models.anchor is not None
    assert [(c.first, c.second) for c in card.crosscoders] == [("anchor", "base"), ("anchor", "tuned")]
    assert set(first.latents["crosscoder"]) == {"anchor--base", "anchor--tuned"}
    assert (first.out / "crosscoders" / "anchor--tuned" / "native" / "cfg.json").exists()
    assert any("anchored design" in caveat for caveat in card.caveats)
    recorder = Recorder()
    second = run(tuned_model, merged_model, "second", anchor=base_model, reporter=recorder)
    assert recorder.work() == set()
    assert but_for_created(second.card) == but_for_created(card)


@pytest.mark.slow(minutes=0.5)
def test_two_anchored_runs_train_the_shared_crosscoder_once(
    run: Runner, base_model: Path, tuned_model: Path, merged_model: Path, tmp_path: Path
) -> None:
    other = perturbed(base_model, tmp_path / "other", seed=8)
    fresh = tmp_path / "fresh"
    first = run(tuned_model, merged_model, "first", anchor=base_model, cache=fresh)
    second = run(tuned_model, other, "second", anchor=base_model, cache=fresh)
    assert notes(first)["trained"] == ["(anchor, base)", "(anchor, tuned)"]
    assert notes(second)["trained"] == ["(anchor, tuned)"]
    assert len([p for p in (fresh / "crosscoders").iterdir() if p.is_dir()]) == 3
    assert first.card.crosscoders[0] == second.card.crosscoders[0]


def test_an_adapter_and_its_merged_checkpoint_give_the_same_findings(
    run: Runner, base_model: Path, adapter: Path, merged_model: Path, tmp_path: Path
) -> None:
    one = run(base_model, adapter, "adapter", title="t", cache=tmp_path / "fresh")
    two = run(base_model, merged_model, "merged", title="t", cache=tmp_path / "fresh")
    assert notes(one)["trained"] == notes(two)["trained"] == ["(base, tuned)"]
    assert findings(one.card) == findings(two.card)
    pd.testing.assert_frame_equal(one.latents, two.latents)
    assert (one.card.models.tuned.adapter, two.card.models.tuned.adapter) == ("tiny-lora", None)
    assert one.card.models.tuned.id == one.card.models.base.id


@pytest.mark.parametrize("kind", ["native", "jumprelu"])
def test_a_crosscoder_loaded_back_gives_the_same_findings(
    run: Runner, direct: Any, base_model: Path, tuned_model: Path, kind: str
) -> None:
    folder = direct.out / "crosscoders" / "base--tuned" / kind
    loaded = run(base_model, tuned_model, crosscoder=(str(folder),))
    assert notes(loaded)["trained"] == []
    (info,), (trained,) = loaded.card.crosscoders, direct.card.crosscoders
    assert info.source == f"loaded from {kind}"
    assert info.fve_first == pytest.approx(trained.fve_first, abs=1e-5)
    assert info.l0 == pytest.approx(trained.l0, rel=1e-4)
    assert info.training == trained.training
    ours, theirs = loaded.latents, direct.latents
    for column in ("specific", "category", "firings"):
        assert ours[column].equals(theirs[column])
    for column in ("nu_error", "nu_error_low", "nu_reconstruction", "delta_norm", "shift", "shift_high"):
        np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-3, atol=1e-4)
    for row, other in zip(loaded.card.classes, direct.card.classes, strict=True):
        assert (row.code, row.verdict, row.covered) == (other.code, other.verdict, other.covered)
        assert (row.activation and row.activation.verdict) == (other.activation and other.activation.verdict)


def test_crosscoders_that_do_not_fit(
    run: Runner, direct: Any, base_model: Path, tuned_model: Path, merged_model: Path, tmp_path: Path
) -> None:
    folder = str(direct.out / "crosscoders" / "base--tuned")
    wide = [save_model(tmp_path / f"wide{seed}", seed=seed, width=48) for seed in (0, 1)]
    with pytest.raises(CrosscoderError, match="trained on models of width 32; these have 48"):
        run(*wide, crosscoder=(folder,), null_tokens=0)
    with pytest.raises(SettingsError, match=r"given 2 times; this design needs one"):
        run(base_model, tuned_model, crosscoder=(folder, folder))
    with pytest.raises(SettingsError, match=r"given 1 times; this design needs two"):
        run(tuned_model, merged_model, anchor=base_model, crosscoder=(folder,))
    with pytest.raises(CrosscoderError, match=r"There is no folder .*absent"):
        run(base_model, tuned_model, crosscoder=(str(tmp_path / "absent"),))


@pytest.mark.parametrize(
    ("stage", "at"),
    [
        ("Activations of tuned", 4000),
        ("Training", STEPS // 2),
        pytest.param("Null control: base", 500, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_resumes_and_says_the_same(
    run: Runner,
    direct: Any,
    base_model: Path,
    tuned_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    at: int,
) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_MINUTES", 0.0)
    own = tmp_path / "own"
    cut = Recorder(stage, at)
    with pytest.raises(KeyboardInterrupt):
        run(base_model, tuned_model, cache=own, reporter=cut)
    assert not (tmp_path / "run" / "card.json").exists()
    rest = Recorder()
    whole = run(base_model, tuned_model, cache=own, reporter=rest)
    assert but_for_created(whole.card) == but_for_created(direct.card)
    (before,) = (calls for title, calls in cut.calls.items() if title.startswith(stage))
    (after,) = (calls for title, calls in rest.calls.items() if title.startswith(stage))
    earlier = {"Activations of base", "Activations of tuned", "Training"}
    assert not {title for title in rest.calls if title in earlier - {stage}}
    assert 0 < after[0] <= before[-1] + 4096
    assert after[-1] >= before[-1]
    if stage == "Training":
        # It goes on from a checkpoint, not from the start; not every step has one.
        assert 1 < after[0] <= STEPS // 2
        assert after == list(range(after[0], STEPS + 1))


def test_a_tracker_sees_the_training_and_changes_nothing(
    run: Runner, direct: Any, base_model: Path, tuned_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Listener:
        def start(self, done: int, config: dict[str, Any]) -> None:
            seen.append((done, config["steps"]))

        def log(self, step: int, figures: dict[str, float]) -> None:
            seen.append(step)

        def stop(self, *, failed: bool) -> None:
            seen.append(failed)

    def listener(names: Sequence[str], folder: Path, *, key: str, title: str) -> Listener:
        seen.append((tuple(names), folder, title))
        return Listener()

    monkeypatch.setattr("modeldiff_eval.fit.trackers", listener)
    monkeypatch.setattr("modeldiff_eval.inputs.require_trackers", seen.append)
    logged = run(base_model, tuned_model, cache=tmp_path / "own", log_to=("wandb",))
    told = (("wandb",), tmp_path / "run", "base--tuned")
    assert seen == [("wandb",), told, (0, STEPS), *range(1, STEPS + 1), False]
    assert but_for_created(logged.card) == but_for_created(direct.card)
    assert notes(logged)["findings"] == notes(direct)["findings"]


def test_a_missing_tracker_costs_nothing(
    run: Runner, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match="pip install wandb"):
        run(base_model, base_model, cache=tmp_path / "own", log_to=("wandb",))
    assert not list((tmp_path / "own").glob("[!.]*"))


def test_pairs_that_cannot_be_compared_cost_nothing(run: Runner, base_model: Path, tmp_path: Path) -> None:
    deep = save_model(tmp_path / "deep", seed=0, layers=4)
    with pytest.raises(MismatchedModelsError, match="layers 3"):
        run(base_model, deep, cache=tmp_path / "own")
    assert not list((tmp_path / "own").glob("[!.]*"))
    with pytest.raises(SettingsError, match=r"--layer 3 is out of range"):
        run(base_model, base_model, layer=3)


def test_an_unwritable_output_stops_before_any_work(run: Runner, base_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="--out"):
        run(base_model, base_model, out=tmp_path / "file", cache=tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_a_failed_run_leaves_the_old_card(run: Runner, direct: Any, base_model: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in direct.out.rglob("*") if p.is_file()}
    deep = save_model(tmp_path / "deep", seed=0, layers=4)
    with pytest.raises(MismatchedModelsError):
        run(base_model, deep, out=direct.out)
    assert {p: p.read_bytes() for p in direct.out.rglob("*") if p.is_file()} == before


def test_models_in_memory(run: Runner, direct: Any, base_model: Path, tuned_model: Path) -> None:
    """A caller's own model and tokenizer take the place of the tuned folder."""
    from tiny_lm import tiny_tokenizer
    from tiny_pair import load_model

    loaded = run(base_model, tuned_model, tuned_loaded=(load_model(tuned_model), tiny_tokenizer()))
    assert findings(loaded.card) == findings(direct.card)


def test_unknown_options_are_refused(base_model: Path) -> None:
    with pytest.raises(SettingsError, match="Did you mean 'latents'"):
        diff(str(base_model), str(base_model), latent=5)


@pytest.mark.slow(minutes=0.5)
def test_everything_real(
    base_model: Path, tuned_model: Path, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence encoder, every page, rollouts of the packaged prompts and a benchmark, through the same call."""
    more = options | {"rollouts": 30, "rollout_tokens": 8, "tasks": ("mdx_format",), "task_limit": 6}
    pair = (str(base_model), str(tuned_model))
    monkeypatch.setattr(analysis, "get_annotator", get_annotator)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["modeldiff_eval.diff"], "render", render)
        made = diff(*pair, out=tmp_path / "run", cache=tmp_path / "cache", **more)
    again = diff(*pair, out=tmp_path / "two", cache=tmp_path / "cache", **more)
    assert but_for_created(made.card) == but_for_created(again.card)
    assert made.card.provenance.annotator == "offline"
    assert "offline" in (made.out / "annotations.jsonl").read_text()
    assert (made.out / "card.html").stat().st_size > 10_000
    assert (made.paths["pdf"] is None) == (pdf_available() is not None)
    assert made.card.benchmarks
    assert made.card.coverage is not None
    assert len([row for row in made.card.coverage.categories if row["category"] != "not stated"]) >= 30


def test_the_same_run_in_the_same_folder_is_read_not_made_again(
    base_model: Path, tuned_model: Path, small_corpus: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "corpus": (str(small_corpus),), "rollouts": 0, "latents": 16, "k": 2, "steps": 5, "batch": 128,
        "tasks": (), "null_tokens": 0, "draws": 200, "annotate_top": 2, "max_length": 64,
    }  # fmt: skip
    pair = (str(base_model), str(tuned_model))
    first = diff(*pair, out=tmp_path / "out", cache=tmp_path / "cache", **options)
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.*")}
    again = diff(*pair, out=tmp_path / "out", cache=tmp_path / "cache", **options)
    a, b = again.card.model_dump(), first.card.model_dump()
    assert [name for name in a if a[name] != b[name]] == []
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.*")} == written
    other = diff(*pair, out=tmp_path / "out", cache=tmp_path / "cache", **options | {"annotate_top": 3})
    assert other.card != first.card
    (tmp_path / "out" / "card.json").unlink()
    mended = diff(*pair, out=tmp_path / "out", cache=tmp_path / "cache", **options | {"annotate_top": 3})
    assert (tmp_path / "out" / "card.json").exists()
    assert mended.card.model_copy(update={"created": ""}) == other.card.model_copy(update={"created": ""})


# Rows streamed from the models ------------------------------------------------------------------------


@pytest.fixture
def streaming(run: Runner) -> Runner:
    return partial(run, stream=True, measure_tokens=2000)


def test_a_streamed_run_says_what_it_was_trained_and_measured_on(
    streaming: Runner, direct: Any, base_model: Path, tuned_model: Path
) -> None:
    streamed = streaming(base_model, tuned_model)
    (info,), (kept,) = streamed.card.crosscoders, direct.card.crosscoders
    assert info.source == "trained on this corpus, streamed"
    assert info.tokens == kept.tokens
    # Another order of rows and fewer held-out tokens: about as good.
    assert info.fve_first == pytest.approx(kept.fve_first, abs=0.05)
    card = streamed.card
    assert card.coverage is not None
    measured = sum(row["tokens"] for row in card.coverage.languages)
    assert 2000 <= measured < 2500
    assert card.provenance.tokens == direct.card.provenance.tokens > 5 * measured
    quality = json.loads((streamed.out / "crosscoders" / "base--tuned" / "quality.json").read_text())
    assert quality["dead_tokens"] == quality["heldout_tokens"] <= measured
    said = "\n".join(card.caveats)
    assert f"{STEPS * 256:,} training rows were streamed from each pair of models" in said
    assert f"only {measured:,} tokens of " in said
    assert (
        "While training, leading BOS tokens were left out as well, tokens with a norm beyond 10 × the median of the first block"
        in said
    )
    assert f"dead = silent over these {quality['dead_tokens']:,} tokens" in said
    assert "--stream" in card.provenance.command
    assert "MODELDIFF_MEASURE_TOKENS=2000" in card.provenance.command
    # Nothing of the training documents was kept, and none of them is shown.
    assert streamed.latents["firings"].max() <= quality["heldout_tokens"]


def test_a_streamed_crosscoder_is_found_again_by_a_comparison(
    streaming: Runner, base_model: Path, tuned_model: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    from modeldiff_eval.crosscoder_train import train_crosscoder
    from modeldiff_eval.settings import make_settings

    flags = {"base": str(base_model), "tuned": str(tuned_model), "stream": True, "measure_tokens": 2000, "seed": 3}
    settings, _ = make_settings(options | flags, environ={})
    facts = train_crosscoder(settings, tmp_path / "cc", cache=tmp_path / "own")
    assert facts
    found = streaming(base_model, tuned_model, seed=3, cache=tmp_path / "own")
    assert notes(found)["trained"] == []
    (info,) = found.card.crosscoders
    given = streaming(
        base_model, tuned_model, "given", seed=3, cache=tmp_path / "own", crosscoder=(str(tmp_path / "cc"),)
    )
    (loaded,) = given.card.crosscoders
    assert loaded == info.model_copy(update={"source": "loaded from cc"})
    said = "\n".join(given.card.caveats)
    assert "no crosscoder was trained here" in said
    assert "While training" not in said
    pd.testing.assert_frame_equal(given.latents, found.latents)


def test_an_interrupted_streamed_run_resumes_and_says_the_same(
    streaming: Runner, base_model: Path, tuned_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_MINUTES", 0.0)
    monkeypatch.setattr(train, "_SAVING_SHARE", 1e9)
    whole = streaming(base_model, tuned_model, "whole", cache=tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        streaming(base_model, tuned_model, cache=tmp_path / "two", reporter=Recorder("Training", STEPS // 2))
    rest = Recorder()
    resumed = streaming(base_model, tuned_model, cache=tmp_path / "two", reporter=rest)
    assert but_for_created(resumed.card) == but_for_created(whole.card)
    (steps,) = (calls for title, calls in rest.calls.items() if title.startswith("Training"))
    assert STEPS // 4 < steps[0] <= STEPS // 2 + 1


def test_an_anchored_run_streams_two_pairs(
    streaming: Runner, base_model: Path, tuned_model: Path, merged_model: Path, tmp_path: Path
) -> None:
    made = streaming(tuned_model, merged_model, anchor=base_model, cache=tmp_path / "own")
    assert notes(made)["trained"] == ["(anchor, base)", "(anchor, tuned)"]
    assert [coder.source for coder in made.card.crosscoders] == ["trained on this corpus, streamed"] * 2
    assert sum("dead = silent over these" in caveat for caveat in made.card.caveats) == 2


# Causes -----------------------------------------------------------------------------------------------


def test_a_run_with_causes_says_them_once_and_the_same(
    run: Runner, direct: Any, base_model: Path, tuned_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"causal": True, "causal_tokens": 400}
    made = run(base_model, tuned_model, **options)
    panel = made.card.causal
    assert panel is not None
    assert direct.card.causal is None
    assert (panel.other, panel.layer, panel.assistant_only, len(panel.texts)) == ("base", 1, True, 6)
    assert panel.rows[0].kind == "set"
    assert panel.kl.value is not None
    assert panel.kl.value > 0
    assert "--causal" in made.card.provenance.command
    assert "MODELDIFF_CAUSAL_TOKENS=400" in made.card.provenance.command
    assert any(caveat.startswith("Causal panel: ") for caveat in made.card.caveats)
    assert "Causes" in (made.out / "card.md").read_text()
    monkeypatch.setattr("modeldiff_eval.causal_measure._measure", None)
    monkeypatch.setattr("modeldiff_eval.causal_live.rollouts", None)
    elsewhere = run(base_model, tuned_model, "elsewhere", **options)
    assert elsewhere.card.causal == panel


def test_a_model_that_cannot_be_patched_still_gets_its_card(
    run: Runner, direct: Any, base_model: Path, tuned_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ModelError("its layers cannot be hooked.")

    monkeypatch.setattr("modeldiff_eval.causal_measure.Remainder", refuse)
    made = run(base_model, tuned_model, causal=True, causal_tokens=400)
    assert made.card.causal is None
    assert "The causal panel was asked for and not made: its layers cannot be hooked." in made.card.caveats
    assert made.card.classes == direct.card.classes


def test_in_the_anchored_design_the_other_model_is_the_anchor(
    run: Runner, base_model: Path, tuned_model: Path, merged_model: Path
) -> None:
    made = run(tuned_model, merged_model, anchor=base_model, causal=True, causal_tokens=400)
    panel = made.card.causal
    assert panel is not None
    assert panel.other == "anchor"
    assert not [row for row in panel.rows if row.kind == "shifted"]
    assert "away from anchor" in (made.out / "card.md").read_text()


def test_the_function_stays_the_function_when_its_module_comes_first() -> None:
    code = "import modeldiff_eval.diff, modeldiff_eval as md; print(callable(md.diff), md.diff.__name__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["True", "diff"]
