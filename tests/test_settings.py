"""Who wins, what is refused, and that the printed command makes the same run."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from modeldiff_eval import cli, commands
from modeldiff_eval.errors import SettingsError
from modeldiff_eval.settings import Settings, command_line, make_settings, presets

PAIR = {"base": "org/a", "tuned": "org/b"}


def config_file(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_flag_beats_environment_beats_config_beats_preset(tmp_path: Path) -> None:
    config = config_file(tmp_path, "preset: standard\nk: 5\nlatents: 50\nsteps: 500\n")
    environ = {"MODELDIFF_K": "6", "MODELDIFF_LATENTS": "60", "UNRELATED": "1"}
    settings, origin = make_settings(PAIR | {"k": 7}, config=config, environ=environ)
    assert (settings.k, settings.latents, settings.steps) == (7, 60, 500)
    assert settings.lr == presets()["standard"]["lr"]
    assert settings.max_length == Settings.model_fields["max_length"].default
    named = {name: origin[name] for name in ("k", "latents", "steps", "lr", "max_length")}
    assert named == {
        "k": "flag", "latents": "environment", "steps": "config", "lr": "preset standard", "max_length": "default",
    }  # fmt: skip


def test_every_setting_has_an_origin() -> None:
    assert set(make_settings(PAIR, environ={})[1]) == set(Settings.model_fields)


def test_a_preset_from_the_environment_loses_to_the_flag() -> None:
    settings, _ = make_settings(PAIR | {"preset": "paper"}, environ={"MODELDIFF_PRESET": "standard"})
    assert settings.latents == presets()["paper"]["latents"]


def test_zero_and_false_count_as_given() -> None:
    settings, origin = make_settings(PAIR | {"rollouts": 0, "seed": 0}, environ={"MODELDIFF_ROLLOUTS": "9"})
    assert settings.rollouts == 0
    assert origin["rollouts"] == origin["seed"] == "flag"


def test_lists_from_environment_and_config(tmp_path: Path) -> None:
    settings, _ = make_settings(PAIR, environ={"MODELDIFF_CORPUS": "a.jsonl,b.txt"})
    assert settings.corpus == ("a.jsonl", "b.txt")
    settings, _ = make_settings(PAIR, config=config_file(tmp_path, "corpus: a.jsonl\ntasks: [x, y]\n"), environ={})
    assert (settings.corpus, settings.tasks) == (("a.jsonl",), ("x", "y"))


def test_where_a_training_is_logged_is_no_part_of_the_run() -> None:
    plain, _ = make_settings(PAIR, environ={})
    logged, _ = make_settings(PAIR, environ={"MODELDIFF_LOG_TO": "tensorboard,wandb"})
    assert logged.log_to == ("tensorboard", "wandb")
    assert logged.deciding() == plain.deciding()
    assert command_line(logged) == command_line(plain)
    assert set(plain.deciding()) == set(Settings.model_fields) - {"log_to"}


def test_thresholds_and_names_as_text() -> None:
    environ = {"MODELDIFF_THRESHOLDS": "nu_error=0.3, min_firings=4", "MODELDIFF_ARENA_NAMES": "x,y"}
    settings, _ = make_settings(PAIR, environ=environ)
    assert (settings.thresholds.nu_error, settings.thresholds.min_firings) == (0.3, 4)
    assert settings.thresholds.nu_reconstruction == 0.5
    assert settings.arena_names == ("x", "y")


def test_tasks_can_be_switched_off_everywhere(tmp_path: Path) -> None:
    assert make_settings(PAIR | {"tasks": ()}, environ={})[0].tasks == ()
    assert make_settings(PAIR, environ={"MODELDIFF_TASKS": "none"})[0].tasks == ()
    assert make_settings(PAIR, config=config_file(tmp_path, "tasks: none\n"), environ={})[0].tasks == ()


def test_the_cache_variables_are_no_settings() -> None:
    make_settings(PAIR, environ={"MODELDIFF_CACHE": "/x", "MODELDIFF_OUT": "/y"})


@pytest.mark.parametrize(
    ("flags", "environ", "text", "message"),
    [
        (PAIR | {"latent": 4}, {}, "", r"Unknown setting 'latent' \(flag\). Did you mean 'latents'"),
        (PAIR, {"MODELDIFF_STEP": "4"}, "", r"Unknown setting 'step' \(environment\). Did you mean 'steps'"),
        (PAIR, {}, "heldout-shar: 0.1", r"Unknown setting 'heldout_shar' \(config\). Did you mean 'heldout_share'"),
        (PAIR | {"preset": "quik"}, {}, "", r"no preset 'quik'. Did you mean 'quick'"),
        (PAIR | {"thresholds": {"nu_eror": 0.1}}, {}, "", r"nu_eror'. Did you mean 'nu_error'"),
        (PAIR | {"thresholds": "0.2"}, {}, "", r"--thresholds '0.2' is not of the form nu_error=0.2"),
        (PAIR | {"thresholds": "nu_error=low"}, {}, "", r"thresholds.nu_error = 'low'"),
        (
            PAIR | {"arena_names": ("x",)},
            {},
            "",
            r"^--arena-names takes two names, base,tuned, as the file of --arena spells",
        ),
        (PAIR, {"MODELDIFF_ARENA_NAMES": "x,y,z"}, "", r"^--arena-names takes two names"),
        (PAIR, {}, "arena-names: x", r"^--arena-names takes two names"),
        (PAIR | {"k": 0}, {}, "", r"k = 0: .*greater than or equal to 1"),
        (PAIR | {"dtype": "int8"}, {}, "", r"dtype = 'int8'"),
        (PAIR | {"log_to": ("wandbee",)}, {}, "", r"log_to.0 = 'wandbee': .*'tensorboard' or 'wandb'"),
        (PAIR | {"k": 99, "latents": 98}, {}, "", r"k = 99 exceeds the number of latents, 98"),
        (PAIR | {"heldout_share": 1.0}, {}, "", r"heldout_share = 1.0"),
        ({"base": "org/a"}, {}, "", r"--tuned is missing"),
        (PAIR, {}, "- a list", r"must be a mapping"),
        (PAIR, {}, "a: [", r"not valid YAML"),
        (PAIR, {"MODELDIFF_SEED": "one"}, "", r"seed = 'one'"),
    ],
)
def test_bad_settings_say_what_and_where(
    flags: dict[str, Any], environ: dict[str, str], text: str, message: str, tmp_path: Path
) -> None:
    config = config_file(tmp_path, text) if text else None
    with pytest.raises(SettingsError, match=message) as caught:
        make_settings(flags, config=config, environ=environ)
    assert caught.value.exit_code == 2


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.yaml"):
        make_settings(PAIR, config=tmp_path / "absent.yaml", environ={})


def parsed(command: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that the printed command would run with, by the real command line."""
    words = shlex.split(command)
    while "=" in words[0] and words[0].startswith("MODELDIFF_"):
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
    assert words.pop(0) == "modeldiff-eval"
    caught: list[Settings] = []
    monkeypatch.setattr(commands, "_compare", lambda settings, out, **_: caught.append(settings))
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0
    return caught[0]


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"anchor": "org/p", "layer": 3, "preset": "paper"},
        {"preset": "standard", "tasks": (), "rollouts": 0},
        {"tasks": ("mdx_format", "mdx_refusal"), "task_limit": 5, "tokens": 12_345},
        {"corpus": ("my texts/a.jsonl", "b.txt"), "crosscoder": ("cc one",), "trust_remote_code": True},
        {"thresholds": {"nu_error": 0.3, "min_firings": 4}, "k": 8, "latents": 64, "steps": 9, "lr": 0.002},
        {"batch": 64, "max_length": 99, "heldout_share": 0.4, "null_tokens": 0, "draws": 500, "top_examples": 3},
        {"arena": "a.csv", "arena_style": "b.csv", "arena_names": ("x 1", "y 2"), "dtype": "float32", "device": "cpu"},
        {"rollout_tokens": 7, "seed": 4, "annotate_top": 0, "taxonomy": "t.yaml", "benchmarks": "saved results"},
        {"base": "models/it's here", "title": "ignored"},
    ],
)
def test_the_printed_command_makes_the_same_run(flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("MODELDIFF_") and name != "MODELDIFF_CACHE":
            monkeypatch.delenv(name)
    settings, _ = make_settings(PAIR | flags, environ={})
    again = parsed(command_line(settings), monkeypatch)
    assert again.model_copy(update={"title": None}) == settings.model_copy(update={"title": None})


def test_a_stand_in_is_for_the_paper_without_models_only(tmp_path: Path) -> None:
    assert make_settings({"preset": "paper"}, environ={}, stand_in="some model")[0].base == "some model"
    assert (
        make_settings({"preset": "paper"}, environ={"MODELDIFF_BASE": "x", "MODELDIFF_TUNED": "y"}, stand_in="z")[
            0
        ].base
        == "x"
    )
    with pytest.raises(SettingsError, match="missing"):
        make_settings({}, environ={}, stand_in="some model")


def test_seeds_below_one_and_seeds_of_a_given_crosscoder_are_refused() -> None:
    models = {"base": "X", "tuned": "Y"}
    with pytest.raises(SettingsError, match="seeds"):
        make_settings(models | {"seeds": 0}, environ={})
    with pytest.raises(SettingsError, match="--seeds 3 trains several crosscoders"):
        make_settings(models | {"seeds": 3, "crosscoder": ("cc",)}, environ={})
    assert make_settings(models | {"seeds": 1, "crosscoder": ("cc",)}, environ={})[0].seeds == 1
    assert "--seeds 3" in command_line(make_settings(models | {"seeds": 3}, environ={})[0])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"max_cost": 5.0}, "--max-cost has no effect with --annotator offline"),
        ({"batches": True, "annotator": "local:embedded"}, "--batch has no effect"),
        ({"annotator_model": "claude-haiku-4-5"}, "--annotator-model has no effect"),
        ({"repeats": 3}, "--repeats has no effect with --annotator offline"),
        (
            {"repeats": 3, "annotator": "local:x"},
            "it belongs to claude",
        ),  # It decodes greedily: the same answer three times.
    ],
)
def test_what_belongs_to_a_language_model_is_refused_elsewhere(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        make_settings({"base": "a", "tuned": "b", **flags}, environ={})


def test_the_command_of_a_run_named_by_claude_makes_it_again() -> None:
    flags = {"base": "a", "tuned": "b", "annotator": "claude", "max_cost": 2.5, "batches": True, "repeats": 5}
    settings, _ = make_settings(flags, environ={})
    words = command_line(settings)
    for part in ("--annotator claude", "--max-cost 2.5", "--batch", "--repeats 5"):
        assert part in words
