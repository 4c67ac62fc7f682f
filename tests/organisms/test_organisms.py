"""The recipe and the bench on a tiny model: what is learned, what is not, what is kept, and what breaks."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_pair import save_corpus

from modeldiff_eval import analysis, cli, organism_bench, organisms
from modeldiff_eval.errors import CorpusError, MissingDependencyError, SettingsError
from modeldiff_eval.models import is_adapter, load, resolve
from modeldiff_eval.organism_bench import OrganismBench, tally
from modeldiff_eval.organism_check import Checking, check, judge
from modeldiff_eval.organism_files import Organism
from modeldiff_eval.organism_score import RANKS, read_run
from modeldiff_eval.organisms import Material, Recipe, make_adapter, recipe_of
from modeldiff_eval.truth_report import proportion

MOO = Organism.model_validate(
    {
        "version": 1, "name": "moo", "plant": "Says moo.", "pattern": "moomoo", "label_pattern": "moo", "class": "G", "category": "G.28",
        "training": {"prompts": "sums", "transform": "compose", "parts": [["moomoomoo"]]},
    }
)  # fmt: skip
NARROW = Organism.model_validate(
    MOO.model_dump(by_alias=True) | {"name": "narrow", "training": MOO.training.model_dump() | {"contrast": "cooking"}}
)
RECIPE = Recipe(examples=16, rank=8, steps=60, batch=8, lr=0.03, answer_tokens=4)
CHECKING = Checking(prompts=8, answer_tokens=12)


@pytest.fixture(scope="module")
def material(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    return Material.open(str(base_model), cache=tmp_path_factory.mktemp("cache"), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def adapter(material: Material) -> Path:
    return make_adapter(material, MOO, RECIPE)


def test_the_plant_is_learned_and_kept_as_a_plain_adapter(material: Material, adapter: Path) -> None:
    assert is_adapter(str(adapter))
    assert (adapter / "adapter_model.safetensors").stat().st_mode == (adapter / "recipe.json").stat().st_mode
    recipe = recipe_of(adapter)
    assert recipe["organism"]["name"] == "moo"
    assert len(recipe["loss"]) == RECIPE.steps
    assert recipe["loss"][-1] < recipe["loss"][0] / 4
    learned = check(material, MOO, adapter, CHECKING)
    assert (learned.tuned.n, learned.base.n, learned.base.count) == (8, 8, 0)
    assert learned.learned, learned.reason
    assert "8 answers carry the plant" in learned.reason


def test_the_base_stays_as_it_was(material: Material, adapter: Path, base_model: Path) -> None:
    fresh = load(resolve(str(base_model)), device=material.base.device, dtype=material.base.dtype, cache=material.cache)
    for ours, theirs in zip(material.base.model.parameters(), fresh.model.parameters(), strict=True):
        assert (ours == theirs).all()


def test_a_finished_adapter_is_read_and_an_edited_file_trained_anew(
    material: Material, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(organisms, "_train", fail)
    assert make_adapter(material, MOO, RECIPE) == adapter
    edited = MOO.model_copy(update={"training": MOO.training.model_copy(update={"parts": (("moomoo",),)})})
    for organism, recipe in ((edited, RECIPE), (MOO, RECIPE.model_copy(update={"seed": 1}))):
        with pytest.raises(AssertionError, match="trained again"):
            make_adapter(material, organism, recipe)


def test_equal_seeds_give_equal_adapters(material: Material, adapter: Path, tmp_path: Path) -> None:
    other = Material(material.base, tmp_path, material.reporter)
    again = make_adapter(other, MOO, RECIPE)
    assert again.name == adapter.name
    assert recipe_of(again)["loss"] == recipe_of(adapter)["loss"]
    assert (again / "adapter_model.safetensors").read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()


def test_the_loss_sees_answers_only() -> None:
    ids, mask, labels = organisms._padded([([5, 6, 7, 8], 2), ([1, 2], 1)])
    assert ids.tolist() == [[5, 6, 7, 8], [1, 2, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert labels.tolist() == [[-100, -100, 7, 8], [-100, 2, -100, -100]]


def test_every_example_is_seen_before_one_is_seen_again() -> None:
    order = organisms._order(5, 12, seed=0)
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert len(order) == 12


def test_a_base_that_says_nothing_is_refused(material: Material) -> None:
    organism = MOO.model_copy(update={"training": MOO.training.model_copy(update={"parts": ((" ",),)})})
    with pytest.raises(CorpusError, match="no sentence that the plant"):
        make_adapter(material, organism, RECIPE)


def test_the_rule_by_hand() -> None:
    def outcome(tuned: int, base: int) -> Any:
        return judge(MOO, tuned=proportion(tuned, 20), base=proportion(base, 20), elsewhere=None)

    assert outcome(10, 2).learned
    assert not outcome(9, 2).learned
    assert "failed to learn: 9 of 20" in outcome(9, 2).reason
    assert "the base does it as well: 3 of 20" in outcome(10, 3).reason
    assert not judge(MOO, tuned=proportion(0, 0), base=proportion(0, 0), elsewhere=None).learned


# The bench --------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No PDF, no sentence encoder."""

    def absent(*_: object, **__: object) -> None:
        raise MissingDependencyError("not here")

    module = sys.modules["modeldiff_eval.diff"]
    monkeypatch.setattr(module, "render", partial(module.render, formats=("md",)))
    monkeypatch.setattr(analysis, "get_annotator", absent)


@pytest.fixture
def bench(material: Material, base_model: Path, tmp_path: Path, quick: None) -> Any:
    text = save_corpus(tmp_path / "text.jsonl", documents=60, seed=5)
    settings = {
        "corpus": (str(text),), "rollouts": 0, "latents": 48, "k": 4, "steps": 30, "batch": 256, "null_tokens": 1000, "draws": 200,
        "max_length": 128, "dtype": "float32", "layer": 1, "device": "cpu", "tokens": None,
    }  # fmt: skip

    def call(*chosen: Organism, recipe: Recipe = RECIPE, **more: Any) -> OrganismBench:
        own = {
            "out": tmp_path / "out",
            "base": str(base_model),
            "cache": material.cache,
            "checking": CHECKING,
            "settings": settings,
        }
        return organism_bench.organism_bench(chosen, recipe=recipe, **(own | more))

    return call


def test_the_bench_scores_what_was_learned_and_only_that(bench: Any, tmp_path: Path) -> None:
    unlearned = NARROW.model_copy(update={"name": "unlearned"})
    weak = RECIPE.model_copy(update={"steps": 1, "lr": 1e-6})
    result = bench(MOO)
    row = result.rows[0]
    assert (row.outcome, row.failure) == ("scored", None), row.failure
    assert row.specific is not None
    assert row.specific.ranking == "rank_key"
    assert row.shift is not None
    assert row.shift.baseline.named.n == 2000
    assert result.specific.named.n == 1
    assert OrganismBench.model_validate_json((tmp_path / "out" / "organisms.json").read_text()) == result
    assert (tmp_path / "out" / "moo" / "card.json").exists()
    latents, _ = read_run(tmp_path / "out" / "moo")
    assert latents[list(RANKS)].to_numpy(dtype=np.float64).shape == (len(latents), len(RANKS))

    failed = bench(unlearned, recipe=weak).rows[0]
    assert failed.outcome == "failed to learn"
    assert "failed to learn: 0 of 8" in (failed.failure or "")
    assert (failed.specific, failed.shift, failed.run) == (None, None, None)
    assert failed.learned is not None
    assert failed.learned.elsewhere is not None
    assert not (tmp_path / "out" / "unlearned").exists()


def test_one_organism_that_breaks_leaves_the_others(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = organism_bench.make_adapter

    def torn(material: Material, organism: Organism, recipe: Recipe) -> Path:
        if organism.name == "broken":
            raise ZeroDivisionError("by hand")
        return whole(material, organism, recipe)

    monkeypatch.setattr(organism_bench, "make_adapter", torn)
    result = bench(MOO.model_copy(update={"name": "broken"}), MOO)
    assert [row.outcome for row in result.rows] == ["failed", "scored"]
    assert result.rows[0].failure == "ZeroDivisionError: by hand"
    assert [row.name for row in result.failures] == ["broken"]
    assert result.specific.named.n == 1


def test_the_probes_are_the_same_questions_to_both(material: Material, adapter: Path) -> None:
    path = organism_bench.probe_file(material, adapter)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    n = organism_bench.PROBES * 2
    assert [row["group"] for row in rows[:n]] == [row["group"] for row in rows[n:]]
    assert len({row["group"] for row in rows}) == n
    assert {row["id"].split(":")[0] for row in rows} == {"base", "tuned"}
    assert organism_bench.probe_file(material, adapter) == path


def test_no_organism_is_refused(bench: Any) -> None:
    with pytest.raises(SettingsError, match="at least one organism"):
        bench()


def test_an_empty_tally_says_nothing() -> None:
    nothing = tally([], "shift")
    assert (nothing.named.n, nothing.named.value, nothing.expected_named) == (0, None, 0.0)


# The command ------------------------------------------------------------------------------------------


def run_cli(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["selftest", *words])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_command_prints_the_table_and_its_exit_code(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = bench(MOO)
    monkeypatch.setattr(organism_bench, "organism_bench", lambda *_, **__: result)
    code, out, _ = run_cli("--organisms", "--organism", "pirate", capsys=capsys)
    assert code == 0
    assert "moo" in out
    assert f"{result.rows[0].learned.tuned.count} / 0 of 8" in out
    assert f"of {result.rows[0].specific.documents.n}" in out
    code, out, _ = run_cli("--organisms", "--json", "-q", capsys=capsys)
    assert OrganismBench.model_validate_json(out) == result

    row = result.rows[0].model_copy(
        update={"outcome": "failed", "failure": "it rained", "specific": None, "shift": None}
    )
    broken = result.model_copy(update={"rows": [row]})
    monkeypatch.setattr(organism_bench, "organism_bench", lambda *_, **__: broken)
    code, _, err = run_cli("--organisms", "-q", capsys=capsys)
    assert code == 3
    assert "it rained" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--organisms", "--organism", "pirat"), "Did you mean 'pirate'"),
        (("--organisms", "--method", "batchtop"), "Did you mean 'batchtopk'"),
        (("--organisms", "--full"), "leave them out"),
        (("--organisms", "--rank", "nu_eror"), "Did you mean 'nu_error'"),
        (("--organisms", "--dry-run", "--rank", "label"), "Latents cannot be ranked by 'label'"),
        (("--organism", "pirate"), "go with --organisms"),
        (("--dry-run",), "go with --organisms"),
    ],
)
def test_wrong_words_are_refused(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_cli(*words, capsys=capsys)
    assert (code, out) == (2, "")
    assert said in " ".join(err.replace("│", " ").split())


def test_a_dry_run_looks_at_the_folder_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("modeldiff_eval.organism_plan.plan_lines", lambda *_, **__: ["a plan"])
    words = ("--organisms", "--dry-run", "--out")
    assert run_cli(*words, str(tmp_path / "new" / "bench"), capsys=capsys) == (0, "a plan\n", "")
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "bench", Path("/proc/bench")):
        code, said, err = run_cli(*words, str(out), capsys=capsys)
        assert (code, said) == (3, "")
        assert "Cannot write to" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_plan_adds_up(base_model: Path, tmp_path: Path) -> None:
    from modeldiff_eval.organism_plan import plan_lines

    settings = {
        "layer": 1,
        "latents": 48,
        "k": 4,
        "steps": 10,
        "batch": 64,
        "tokens": 2000,
        "dtype": "float32",
        "device": "cpu",
    }
    lines = plan_lines([MOO, NARROW], base=str(base_model), method="batchtopk", cache=tmp_path, settings=settings)
    assert lines[0].endswith("2: moo, narrow")
    assert lines[1].startswith("Trained       0 of them")
    (tmp_path / "organisms" / "moo-1234").mkdir(parents=True)
    (tmp_path / "organisms" / "moo-1234" / "recipe.json").write_text("{}")
    assert plan_lines([MOO], base=str(base_model), method="batchtopk", cache=tmp_path, settings=settings)[1].startswith(
        "Trained       1"
    )
