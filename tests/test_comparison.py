"""Tuned models of one base side by side: differences of differences by hand, their laws, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sample_cards import CLASSES
from sample_runs import SETTINGS, codes_of, latent_rows, mass_rows, named_latents, plain_card, save_run

from modeldiff_eval.comparison import compare_runs
from modeldiff_eval.comparison_records import Comparison
from modeldiff_eval.comparison_shares import Sides, share_differences
from modeldiff_eval.errors import SettingsError, UsageError
from modeldiff_eval.records import Estimate

ROOT = Path(__file__).resolve().parents[1]
GROUPS = list(CLASSES.items())
BASE = {"A": 18, "B": 7, "C": 19, "D": 16, "E": 12, "F": 7, "G": 32}


def test_the_papers_simpo_and_dpo_from_its_counts() -> None:
    made = compare_runs({"SimPO": ROOT / "reports/paper_simpo", "DPO": ROOT / "reports/paper_dpo"})
    by = {row.code: row.shares[0] for row in made.classes}
    assert made.base_shared
    assert by["A"].value.value == pytest.approx(100 * (19 / 89 - 16 / 109))
    assert by["D"].value.value == pytest.approx(100 * (11 / 89 - 20 / 109))
    assert all(d.verdict == "unclear" for d in by.values())
    assert any("published counts" in caveat for caveat in made.caveats)
    assert all(row.activation[0].value.value is None and row.activation[0].missing for row in made.classes)


def two_runs(tmp_path: Path, first: dict[str, int], second: dict[str, int], **cards: Any) -> dict[str, Path]:
    """Anchored runs with the same base latents and tuned latents by class."""
    out = {}
    for name, counts in (("one", first), ("two", second)):
        table = pd.concat(
            [
                latent_rows("base", "anchor--base", codes_of(BASE)),
                latent_rows("tuned", "anchor--tuned", codes_of(counts)),
            ]
        )
        out[name] = save_run(tmp_path / name, plain_card(**cards), latents=table)
    return out


def test_base_is_drawn_once_so_the_interval_is_narrower_than_two_cards_give(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, {**BASE, "A": 40}, BASE)
    made = compare_runs(runs, draws=2000)
    assert made.base_shared
    own = made.classes[0].shares[0]
    n = sum(BASE.values())
    assert own.value.value == pytest.approx(100 * (40 / (n + 22) - 18 / n))
    assert own.value.low is not None
    assert own.value.high is not None
    # Each card's difference to base has base's variance too: half-widths of about 1.96·sqrt(2)·se, here 1.96·se·sqrt(2) in all.
    share = 100 * np.sqrt(0.16 * 0.84 / n)
    assert (own.value.high - own.value.low) / 2 < 1.96 * 2 * share
    assert own.p_adjusted is not None


def test_a_large_difference_is_found_and_mirrors(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, {**BASE, "A": 90}, BASE)
    made = compare_runs(runs, draws=1000)
    mirrored = compare_runs(dict(reversed(runs.items())), draws=1000)
    assert made.classes[0].shares[0].verdict == "up"
    assert mirrored.classes[0].shares[0].verdict == "down"
    for row, other in zip(made.classes, mirrored.classes, strict=True):
        assert row.shares[0].value.value == pytest.approx(-(other.shares[0].value.value or 0))


def sides(labels: list[np.ndarray], families: list[np.ndarray] | None = None) -> Sides:
    keys = [("one", "base"), ("one", "tuned"), ("two", "base"), ("two", "tuned")]
    starts = np.cumsum([0, *(len(x) for x in labels)])
    own = families or [np.arange(len(x)) + start for x, start in zip(labels, starts, strict=False)]
    return Sides(dict(zip(keys, labels, strict=True)), dict(zip(keys, own, strict=True)), False, True)


def test_four_sides_are_rarely_told_apart_where_nothing_differs() -> None:
    rng, groups = np.random.default_rng(3), [(str(i), str(i)) for i in range(5)]
    wrong = covered = rows = 0
    for _ in range(120):
        drawn = [rng.choice(5, size=n, p=[0.3, 0.3, 0.2, 0.1, 0.1]) for n in (60, 40, 70, 50)]
        found = share_differences(sides(drawn), "one", "two", groups, [True] * 5, draws=400, rng=rng)
        wrong += any(d.verdict != "unclear" for d in found)
        covered += sum((d.value.low or 0) <= 0 <= (d.value.high or 0) for d in found)
        rows += len(found)
    assert wrong / 120 <= 0.10  # 5 % by design; 10 % is beyond chance (p < 0.02).
    assert covered / rows >= 0.93


def test_latents_that_both_runs_have_are_drawn_together() -> None:
    rng, groups = np.random.default_rng(0), [("a", "a"), ("b", "b")]
    base, tuned = np.repeat([0, 1], [20, 20]), np.repeat([0, 1], [30, 10])
    apart = share_differences(sides([base, tuned, base, tuned]), "one", "two", groups, [True] * 2, draws=2000, rng=rng)
    same = [np.arange(40), np.arange(40) + 40]
    together = share_differences(
        sides([base, tuned, base, tuned], [*same, *same]), "one", "two", groups, [True] * 2, draws=2000, rng=rng
    )
    widths = [(d[0].value.high or 0) - (d[0].value.low or 0) for d in (together, apart)]
    assert together[0].value.value == apart[0].value.value == 0
    assert widths[0] < 0.5 * widths[1]


def test_a_side_without_latents_is_undefined_with_a_reason(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, dict.fromkeys(BASE, 0), BASE)
    own = compare_runs(runs, draws=200).classes[0].shares[0]
    assert own.value == Estimate(value=None, low=None, high=None)
    assert own.missing
    assert own.verdict == "unclear"


def activation_runs(
    tmp_path: Path, factors: tuple[float, float], *, null: float | None = 1.0, spread: float = 0.0, **masses: Any
) -> dict[str, Path]:
    """Runs in which class A's latents fire ``factors`` times as strongly under each tuned model."""
    rng = np.random.default_rng(1)
    n = 70
    base = rng.gamma(2.0, 1.0, (40, n)) * (rng.random((40, n)) < 0.7)
    uneven = spread * rng.normal(size=n)
    card = plain_card()
    rows = [
        row.model_dump() | {"activation": row.activation and row.activation.model_dump() | {"null_size": null}}
        for row in card.classes
    ]
    out = {}
    for number, (name, factor) in enumerate(zip(("one", "two"), factors, strict=True)):
        by = 1 + uneven
        by[::7] += factor - 1
        tuned = base * by * rng.normal(1, 0.02, base.shape)
        table = latent_rows("base", "anchor--base", named_latents(n), specific=False)
        own = {key: value[number] if isinstance(value, tuple) else value for key, value in masses.items()}
        out[name] = save_run(
            tmp_path / name,
            plain_card(classes=rows),
            latents=table,
            masses=mass_rows(base.round(4), tuned.round(4), **own),
        )
    return out


def test_activation_on_shared_documents_by_hand(tmp_path: Path) -> None:
    made = compare_runs(activation_runs(tmp_path, (1.3, 1.0)), draws=500)
    first, other = made.classes[0].activation[0], made.classes[1].activation[0]
    assert first.value.value == pytest.approx(30, abs=1)
    assert first.change_first.value == pytest.approx(30, abs=1)
    assert (first.verdict, first.n_latents, first.n_documents, first.null_size) == ("up", 10, 120, 2.0)
    assert other.verdict == "unclear"
    assert abs(other.value.value or 9) < 1


def test_noise_that_is_not_known_or_larger_gives_no_verdict(tmp_path: Path) -> None:
    for null in (None, 40.0):
        made = compare_runs(activation_runs(tmp_path / str(null), (1.3, 1.0), null=null), draws=500)
        assert made.classes[0].activation[0].verdict == "unclear"


def test_a_dictionary_of_each_ones_own_gives_wider_intervals(tmp_path: Path) -> None:
    widths = []
    for name, dictionary in (("same", "one"), ("own", ("one", "two"))):
        made = compare_runs(activation_runs(tmp_path / name, (1.3, 1.3), spread=0.2, dictionary=dictionary), draws=500)
        value = made.classes[0].activation[0].value
        widths.append((value.high or 0) - (value.low or 0))
    assert widths[0] < 0.5 * widths[1]


def test_only_documents_that_both_runs_read_are_compared(tmp_path: Path) -> None:
    names = ([f"x{i}" for i in range(40)], [f"x{i}" for i in range(20)] + [f"y{i}" for i in range(20)])
    made = compare_runs(activation_runs(tmp_path / "some", (1.3, 1.0), blocks=names), draws=300)
    assert made.classes[0].activation[0].n_documents == 60
    none = ([f"x{i}" for i in range(40)], [f"y{i}" for i in range(40)])
    made = compare_runs(activation_runs(tmp_path / "none", (1.3, 1.0), blocks=none), draws=300)
    assert "0 blocks" in (made.classes[0].activation[0].missing or "")


def benchmark(value: float, n: int) -> dict[str, Any]:
    row = plain_card().benchmarks[0].model_dump()
    delta = {"value": value, "low": value - 0.1, "high": value + 0.1, "level": 0.95}
    return row | {"task": "t", "metric": "acc", "n": n, "base": 0.5, "tuned": 0.5 + value, "delta": delta}


def test_benchmarks_are_paired_by_document_where_scores_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    base = (rng.random(200) < 0.5).astype(float)
    one = np.where(rng.random(200) < 0.3, 1.0, base)
    two = one.copy()
    two[:5] = 1 - two[:5]
    runs = {}
    for name, tuned in (("one", one), ("two", two)):
        scores = pd.DataFrame(
            {"task": "t", "metric": "acc", "document": [f"d{i}" for i in range(200)], "base": base, "tuned": tuned}
        )
        card = plain_card(benchmarks=[benchmark(float((tuned - base).mean()), 200)])
        runs[name] = save_run(tmp_path / name, card, scores=scores)
    (row,) = compare_runs(runs, draws=1000).benchmarks
    (own,) = row.differences
    assert own.paired
    assert own.n == 200
    assert own.value.value == pytest.approx(float((one - two).mean()))
    assert (own.value.high or 0) - (own.value.low or 0) < 0.06
    notes = json.loads((runs["two"] / "run.json").read_text())
    other = notes | {"settings": notes["settings"] | {"num_fewshot": 5}}
    (runs["two"] / "run.json").write_text(json.dumps(other))
    (apart,) = compare_runs(runs, draws=1000).benchmarks[0].differences
    assert (apart.value.value, apart.verdict) == (None, "unclear")
    assert "different numbers of examples" in (apart.missing or "")
    (runs["two"] / "run.json").write_text(json.dumps(notes))
    for path in runs.values():
        (path / "scores.parquet").unlink()
    (loose,) = compare_runs(runs, draws=1000).benchmarks[0].differences
    assert not loose.paired
    assert loose.value.high == pytest.approx((loose.value.value or 0) + 0.1 * np.sqrt(2), abs=1e-5)


def test_elo_of_one_snapshot_by_the_square_root_rule_and_not_over_two(tmp_path: Path) -> None:
    def with_arena(delta: float, snapshot: str) -> Any:
        arena = plain_card().arena
        assert arena is not None
        row = arena.rows[0].model_dump() | {
            "category": "overall", "delta": {"value": delta, "low": delta - 3, "high": delta + 4}, "delta_style": None, "style_effect": None,
        }  # fmt: skip
        return arena.model_dump() | {"rows": [row], "snapshot": snapshot}

    runs = {n: save_run(tmp_path / n, plain_card(arena=with_arena(d, "s"))) for n, d in (("one", 30.0), ("two", 10.0))}
    (row,) = compare_runs(runs, draws=200).arena
    assert row.raw[0].value.model_dump() == pytest.approx({"value": 20.0, "low": 15.0, "high": 25.0})
    assert row.raw[0].verdict == "up"
    assert row.style[0].missing == "Not listed for both."
    save_run(tmp_path / "two", plain_card(arena=with_arena(10.0, "other")))
    assert "snapshots" in (compare_runs(runs, draws=200).arena[0].raw[0].missing or "")


def test_latents_in_common_and_each_ones_own(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    common = rng.normal(size=(3, 64))
    runs = {}
    for name, extra in (("one", 2), ("two", 1)):
        rows = np.concatenate([common, rng.normal(size=(extra, 64))]).astype(np.float32)
        table = pd.concat(
            [
                latent_rows("base", "anchor--base", ["A.1", "B.2"]),
                latent_rows("tuned", "anchor--tuned", ["A.1"] * len(rows)),
            ]
        )
        folder = save_run(tmp_path / name, plain_card(), latents=table)
        for pair, decoder in (("anchor--base", common[:2].astype(np.float32)), ("anchor--tuned", rows)):
            (folder / "crosscoders" / pair / "native").mkdir(parents=True)
            whole = np.concatenate([np.ones_like(decoder), decoder], axis=1)
            save_file({"W_dec": whole}, folder / "crosscoders" / pair / "native" / "sae_weights.safetensors")
        runs[name] = folder
    made = compare_runs(runs, draws=200)
    tuned, base, changed = made.overlaps
    assert (tuned.both, tuned.only_first, tuned.only_second, tuned.same_dictionary) == (3, 2, 1, False)
    assert [latent.cosine for latent in tuned.shared] == [1, 1, 1]
    assert (base.both, base.only_first, base.same_dictionary) == (2, 0, True)
    assert changed.both is None
    assert changed.missing


@pytest.mark.parametrize(
    ("cards", "notes", "said"),
    [
        ({"mode": "direct"}, {}, "designs"),
        ({"method": "another"}, {}, "methods"),
        ({"models": {**plain_card().models.model_dump(), "base": {"id": "other"}}}, {}, "base models"),
        ({"classes": [r.model_dump() | {"name": "x"} for r in plain_card().classes]}, {}, "classes"),
        ({}, {"models": {"base": "other", "anchor": "a", "tuned": "t"}}, "weights of the base"),
        ({}, {"settings": SETTINGS | {"corpus": ["other"]}}, "settings corpus"),
        ({}, {"settings": SETTINGS | {"seed": 1}}, "settings seed"),
    ],
)  # fmt: skip
def test_runs_that_differ_in_more_than_the_tuned_model_are_refused(
    tmp_path: Path, cards: dict[str, Any], notes: dict[str, Any], said: str
) -> None:
    one = save_run(tmp_path / "one", plain_card())
    two = save_run(tmp_path / "two", plain_card(**cards), notes=notes)
    with pytest.raises(UsageError, match=f"'one' and 'two' cannot be compared: their {said} differ"):
        compare_runs({"one": one, "two": two})


def test_bad_folders_and_settings_are_refused(tmp_path: Path) -> None:
    one = save_run(tmp_path / "one", plain_card())
    two = save_run(tmp_path / "two", plain_card())
    with pytest.raises(UsageError, match="two runs or more"):
        compare_runs({"one": one})
    with pytest.raises(SettingsError, match="at least 100"):
        compare_runs({"one": one, "two": two}, draws=5)
    with pytest.raises(UsageError, match="There is no card"):
        compare_runs({"one": one, "two": tmp_path / "none"})
    (two / "latents.parquet").write_bytes(b"not parquet")
    with pytest.raises(UsageError, match=r"latents\.parquet cannot be read"):
        compare_runs({"one": one, "two": two})
    pd.DataFrame({"model": ["base"]}).to_parquet(two / "latents.parquet")
    with pytest.raises(UsageError, match="lacks crosscoder"):
        compare_runs({"one": one, "two": two})
    (two / "latents.parquet").unlink()
    (two / "run.json").write_text("[]")
    with pytest.raises(UsageError, match=r"run\.json is not what a run writes"):
        compare_runs({"one": one, "two": two})


def test_three_runs_give_three_pairs_and_p_pays_for_them(tmp_path: Path) -> None:
    runs = two_runs(tmp_path, {**BASE, "A": 60}, BASE)
    pair = compare_runs(runs, draws=500)
    three = compare_runs({**runs, "three": runs["two"]}, draws=500)
    assert three.pairs == [("one", "two"), ("one", "three"), ("two", "three")]
    mine, theirs = pair.classes[0].shares[0], three.classes[0].shares[0]
    assert theirs.p_adjusted == pytest.approx(min(1, 3 * (mine.p_adjusted or 0)))
    assert three.classes[0].shares[2].value.value == 0


def test_equal_runs_give_equal_comparisons_and_the_record_reads_itself(tmp_path: Path) -> None:
    runs = activation_runs(tmp_path, (1.1, 1.0))
    made = compare_runs(runs, draws=300)
    assert made == compare_runs(runs, draws=300)
    assert Comparison.model_validate(json.loads(made.to_json())) == made
