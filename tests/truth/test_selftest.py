"""The bench as a whole, its laws, and the command."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modeldiff_eval import cli, truth
from modeldiff_eval import truth_laws as laws
from modeldiff_eval.errors import SettingsError
from modeldiff_eval.planted_constants import Scale, constants
from modeldiff_eval.settings import Method
from modeldiff_eval.truth_methods import Dictionary, Fit
from modeldiff_eval.truth_report import Law, RuleRow, Selftest, proportion
from modeldiff_eval.truth_score import NuErrors

FILE = constants()
TINY = Scale.model_validate(
    FILE.scales["quick"].model_dump()
    | {
        "kinds": {"shared": 24, "base_only": 4, "tuned_only": 4, "rotated": 4, "rescaled": 4},
        "d_model": 24, "documents": 120, "frequency_min": 0.02,
        "training": {"n_latents": 60, "k": 4, "steps": 150, "batch": 256, "lr": 0.003},
    }
)  # fmt: skip
Run = Callable[..., tuple[int, str, str]]


def bench(method: Method) -> Selftest:
    return truth.selftest("quick", seeds=1, sizes=TINY, method=Dictionary(method))


@pytest.fixture(scope="module")
def small() -> Selftest:
    return bench("batchtopk")


def test_the_laws_hold_at_a_small_size(small: Selftest) -> None:
    assert [law.name for law in small.broken] == []
    assert len(small.laws) == 4


def test_the_record_is_whole(small: Selftest) -> None:
    assert {row.rule for row in small.rules} == {
        "delta_norm cuts", "paper thresholds", "shifted (null run)", "shifted (re-seeded)",
    }  # fmt: skip
    for rule in {row.rule for row in small.rules}:
        base, tuned, both = (
            next(r for r in small.rules if (r.rule, r.side) == (rule, s)) for s in ("base", "tuned", "both")
        )
        for name in ("planted", "claims", "exclusive", "rescaled", "rotated", "shared", "unmatched", "duplicates"):
            assert getattr(base, name) + getattr(tuned, name) == getattr(both, name)
        assert both.planted == 8
        assert both.claims == both.exclusive + both.rescaled + both.rotated + both.shared + both.unmatched
        assert both.recall.n == 8
        assert both.false_on_null.n == 2 * TINY.training.n_latents
    assert [(run.pair, run.seed) for run in small.runs] == [("planted", 0), ("null", 0)]
    assert Selftest.model_validate_json(small.model_dump_json()) == small


@pytest.fixture(scope="module")
def difference() -> Selftest:
    """What the command runs when no method is named."""
    return truth.selftest("quick", seeds=1, sizes=TINY)


def test_a_dictionary_of_differences_keeps_the_laws_but_for_what_it_is_too_small_for(difference: Selftest) -> None:
    """Sixteen latents for 24 that differ: none of the rescaled ones is learnt, so there is no order to look at."""
    assert difference.method == "difference"
    held = {law.name: law for law in difference.laws if law.holds}
    (order,) = difference.broken
    assert "of 0 pairs" in order.detail
    assert len(held) == 3
    assert held["base against itself: ν = 1 and nothing specific"].detail == "no latent fires, 0 claims"
    assert "0 of 160 claims and definitions differ" in held["exchanging base and tuned exchanges every answer"].detail


def test_its_record_has_the_rules_of_the_exchange_control(difference: Selftest) -> None:
    rows = {row.rule: row for row in difference.rules if row.side == "both"}
    assert list(rows) == ["delta_norm cuts", "specific (exchange)", "shifted (exchange)"]
    specific, shifted = rows["specific (exchange)"], rows["shifted (exchange)"]
    assert (specific.level, shifted.level) == ("specific", "shifted")
    assert 1 <= specific.exclusive <= specific.claims <= shifted.claims
    assert specific.false_on_null.n == shifted.false_on_null.n == 2 * (TINY.training.n_latents // 3)
    assert all(run.l0 == pytest.approx(2, rel=0.5) for run in difference.runs)  # 3/8 of k = 4, rounded


@pytest.mark.parametrize("method", ["dedicated", "delta"])
def test_the_bench_runs_the_other_methods(method: Method, small: Selftest) -> None:
    made = bench(method)
    assert made.method == method
    assert [(row.rule, row.side) for row in made.rules] == [(row.rule, row.side) for row in small.rules]
    assert made.rules != small.rules
    held = {law.name for law in made.laws if law.holds}
    assert "recovered exclusive latents have a lower ν than shared ones" in held
    assert "nothing differs: shifted claims at most 5 % of the latents" in held


def test_equal_seeds_give_equal_answers(small: Selftest) -> None:
    again = bench("batchtopk")
    assert again.model_copy(update={"runs": []}) == small.model_copy(update={"runs": []})


def test_no_seeds_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least one seed"):
        truth.selftest("quick", seeds=0, sizes=TINY)


# Every law can break ---------------------------------------------------------------------------------


def fitted(make: str, **training: object) -> Fit:
    _, pair = truth.planted_pair(FILE, TINY, seed=0)
    pair = pair if make == "pair" else getattr(pair, make)()
    settings = TINY.training.model_copy(update=training)
    return Dictionary("batchtopk").fit(pair, settings, FILE.scoring, seed=0, on_step=lambda *_: None)


def test_different_models_break_the_law_of_identity() -> None:
    law = laws.identical(fitted("pair"), fitted("pair"), FILE)
    assert not law.holds
    assert laws.identical(fitted("identical"), fitted("pair"), FILE).holds


def test_another_training_breaks_the_law_of_the_mirror() -> None:
    direct, mirror, null = fitted("pair"), fitted("swapped"), fitted("identical")
    law = laws.mirrored(direct, mirror, null, FILE)
    assert law.holds
    assert "; 0 of " in law.detail
    for side in (0, 1):
        np.testing.assert_allclose(mirror.nu[1 - side].error, direct.nu[side].error, rtol=1e-3)
        np.testing.assert_allclose(mirror.directions[:, 1 - side], direct.directions[:, side], atol=1e-4)
    assert not laws.mirrored(direct, direct, null, FILE).holds


def errors(values: list[float], truth_is: float) -> NuErrors:
    v = np.array(values)
    return NuErrors(len(v), len(v), np.full(len(v), float(truth_is)), v, v - 0.1, v + 0.1)


def test_the_law_of_order_by_hand() -> None:
    assert laws.ordered({"exclusive": errors([0.1, 0.2], 0), "shared": errors([0.9, 1.1], 1)}).holds
    law = laws.ordered({"exclusive": errors([0.1, 1.0], 0), "shared": errors([0.9, 1.1], 1)})
    assert not law.holds
    assert "75.0 % of 4 pairs" in law.detail
    # Nothing recovered is not a proof of order.
    assert not laws.ordered({"exclusive": errors([], 0), "shared": errors([0.9], 1)}).holds


def test_claims_on_a_null_pair_break_the_law_of_quiet(small: Selftest) -> None:
    def loud(row: RuleRow, count: int) -> RuleRow:
        return row.model_copy(update={"false_on_null": proportion(count, 100)})

    assert laws.quiet([loud(row, 5) for row in small.rules], 0.05).holds
    assert not laws.quiet([loud(row, 6) for row in small.rules], 0.05).holds
    assert not laws.quiet([], 0.05).holds


# The command -----------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small: Selftest) -> Run:
    """Call the command with a finished bench; gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str, result: Selftest = small) -> tuple[int, str, str]:
        monkeypatch.setattr("modeldiff_eval.truth.selftest", lambda scale, **_: result)
        with pytest.raises(SystemExit) as ended:
            cli.main(["selftest", *words])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def test_the_table_shows_every_row_with_its_n(run: Run, small: Selftest) -> None:
    code, out, err = run()
    assert (code, err) == (0, "")
    for row in small.rules:
        line = next(line for line in out.splitlines() if line.startswith(f"  {row.rule} ") and f" {row.side} " in line)
        assert f"n {row.recall.n}" in line
        assert f"{row.verdict}: {row.reason}" in line
    assert [line.split()[0] for line in out.splitlines()[-4:]] == ["holds"] * 4
    assert "rescaled" in out
    assert out.splitlines()[0].endswith("seed 0")


def test_a_broken_law_is_named_and_costs_the_exit_code(run: Run, small: Selftest) -> None:
    broken = small.model_copy(update={"laws": [Law(name="two is two", holds=False, detail="it is 3")]})
    code, out, err = run("-q", result=broken)
    assert (code, out) == (3, "")
    assert "two is two" in err
    assert "it is 3" in err
    assert run("-q") == (0, "", "")


def test_json_and_file_are_the_record(run: Run, small: Selftest, tmp_path: Path) -> None:
    code, out, _ = run("--json", "--out", "record.json")
    assert code == 0
    assert Selftest.model_validate(json.loads(out)) == small
    assert (tmp_path / "record.json").read_text() == out


def test_a_method_that_is_not_there_is_refused_with_the_nearest(run: Run) -> None:
    code, out, err = run("--method", "diference")
    assert (code, out) == (2, "")
    assert "Did you mean 'difference'?" in err
    assert "difference, batchtopk, dedicated, delta" in " ".join(err.split())


def test_the_method_reaches_the_bench(monkeypatch: pytest.MonkeyPatch, small: Selftest) -> None:
    asked: list[str] = []

    def selftest(scale: str, *, method: Dictionary, **_: object) -> Selftest:
        asked.append(method.name)
        return small

    monkeypatch.setattr("modeldiff_eval.truth.selftest", selftest)
    for words in ([], ["--method", "delta"]):
        with pytest.raises(SystemExit):
            cli.main(["selftest", "-q", *words])
    assert asked == ["difference", "delta"]


def test_a_file_in_no_folder_is_refused_before_the_work(run: Run) -> None:
    code, out, err = run("--out", "nowhere/record.json")
    assert (code, out) == (2, "")
    assert "nowhere" in err


def test_a_file_that_cannot_be_written_is_said_before_the_work(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    code, out, err = run("--out", "folder")
    assert (code, out) == (2, "")
    assert "folder is a folder" in err

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    code, out, err = run("--out", "record.json")
    assert (code, out) == (3, "")
    assert f"Cannot write to {tmp_path}: Read-only file system" in err


def test_help_is_light() -> None:
    script = (
        "import sys\nfrom modeldiff_eval.cli import main\ntry:\n    main(['selftest', '--help'])\nexcept SystemExit as e:\n"
        "    assert e.code == 0\nprint('HEAVY', sorted({'torch', 'numpy', 'scipy', 'rich.progress'} & set(sys.modules)))"
    )
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": root}, check=True
    )  # fmt: skip
    assert "modeldiff-eval selftest" in done.stdout
    assert done.stdout.splitlines()[-1] == "HEAVY []"


# The whole bench --------------------------------------------------------------------------------------


@pytest.mark.slow(minutes=4)
def test_the_default_bench() -> None:
    """Laws, and floors well below what was measured over three seeds (decision 011): they notice a broken method, not a
    mediocre one. One of the seeds here, which takes minutes."""
    result = truth.selftest(method=Dictionary("batchtopk"), seeds=1)
    assert [law.detail for law in result.broken] == []
    rows = {row.rule: row for row in result.rules if row.side == "both"}
    nu = {row.kind: row for row in result.nu}
    assert all(
        run.fve_first > 0.75 and run.fve_second > 0.75 for run in result.runs
    )  # 0.785 to 0.80; a perfect one has 0.82
    assert nu["shared"].recovered.value > 0.45  # 0.565 (0.540 to 0.591), n 1,440
    assert nu["exclusive"].recovered.value > 0.15  # 0.275 (0.203 to 0.361), n 120
    assert nu["shared"].absolute < 0.02  # 0.006
    assert nu["exclusive"].absolute < 0.06  # 0.017
    assert rows["delta_norm cuts"].precision.value > 0.9  # 24 of 24
    assert rows["paper thresholds"].recall.value > 0.1  # 0.233 (0.167 to 0.317)
    assert rows["paper thresholds"].precision.value > 0.45  # 0.667 (0.515 to 0.790)
    assert rows["paper thresholds"].false_on_null.count == 0
