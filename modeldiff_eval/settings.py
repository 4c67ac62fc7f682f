"""Settings of a run: presets, and who wins when several places set the same thing.

Precedence: flag > environment (``MODELDIFF_LAYER=14``) > ``--config`` YAML > preset > default.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from modeldiff_eval.errors import SettingsError, UsageError, did_you_mean
from modeldiff_eval.records import Record
from modeldiff_eval.resources import resource

PAPER_MODEL = "a model of Gemma-2-9b's size"
"""Stands for both models where the ``paper`` preset is planned without any."""
Preset = Literal["fast", "quick", "standard", "paper"]
Method = Literal["difference", "batchtopk", "dedicated", "delta"]
TrackerName = Literal["tensorboard", "wandb"]
Weighting = Literal["none", "kl", "assistant"]
ShiftEstimator = Literal["gated", "hard"]


class Thresholds(Record):
    """When a latent counts as specific (ALGORITHMS §3). The paper's cuts by default."""

    nu_error: float = Field(0.2, gt=0)
    nu_reconstruction: float = Field(0.5, gt=0)
    min_firings: int = Field(16, ge=1)


class Settings(Record):
    """Everything that decides a run's result, besides the two models, and ``log_to``."""

    base: str
    tuned: str
    anchor: str | None = None
    layer: int | None = Field(None, ge=0)
    """Zero-based block whose output residual is read; default round(20/42 · layers)."""
    preset: Preset = "quick"
    method: Method = "difference"
    """How latents that only one model has are found: :mod:`modeldiff_eval.methods`."""
    weighting: Weighting = "none"
    """Which training tokens the dictionary of claims sees more often: :mod:`modeldiff_eval.weighting`."""
    crosscoder: tuple[str, ...] = ()
    """Trained crosscoders to load: one for a direct run, (anchor, base) and (anchor, tuned) for an anchored one."""
    corpus: tuple[str, ...] = ("packaged",)
    tokens: int | None = Field(None, ge=1000)
    max_length: int = Field(512, ge=16)
    heldout_share: float = Field(0.25, gt=0, lt=1)
    stream: bool = False
    """Train on rows straight from both models instead of keeping all activations on the disk (decision 009)."""
    measure_tokens: int = Field(1_000_000, ge=1000)
    """Streaming: held-out tokens whose activations are kept, for the threshold, quality, ν, shifts and examples."""
    rollouts: int = Field(0, ge=0)
    rollout_tokens: int = Field(64, ge=1)
    answers: str | None = None
    """Chats (JSONL) that join the text as the models' own answers do: of a batch, the answers of all its models."""
    text_from: str | None = None
    """A model whose tokenizer and chat template write the text; tuned's own where left out."""
    latents: int = Field(4096, ge=2)
    k: int = Field(32, ge=1)
    steps: int = Field(400, ge=1)
    batch: int = Field(2048, ge=1)
    lr: float = Field(3e-3, gt=0)
    thresholds: Thresholds = Thresholds()
    false_discovery_rate: float = Field(0.05, gt=0, lt=1)
    """Of the latents that are called more than noise by the exchange control (method ``difference``)."""
    top_examples: int = Field(8, ge=1)
    annotate_top: int = Field(12, ge=0)
    annotator: str = "offline"
    annotator_model: str | None = None
    """Which model of the annotator claude; its default where left out."""
    max_cost: float | None = Field(None, gt=0)
    """US dollars at which the annotator claude stops."""
    batches: bool = False
    """Claude by Message Batches: half the price, an hour or more."""
    repeats: int = Field(1, ge=1)
    """How often a language model is asked about each latent."""
    contrast_examples: int = Field(4, ge=0)
    """Near passages on which a latent is silent, for annotators that read them."""
    detection_examples: int = Field(10, ge=0)
    """Passages of either kind, firing and silent, that a latent's description is tried on; 0 leaves detection out."""
    detection_bar: float = Field(0.7, ge=0, le=1)
    """Balanced accuracy below which a latent's name is called weak."""
    taxonomy: str | None = None
    tasks: tuple[str, ...] = ()
    task_limit: int | None = Field(None, ge=1)
    num_fewshot: int | None = Field(None, ge=0)
    """Examples before each question of a benchmark; None leaves it to the task."""
    cluster_by: str | None = None
    """Field of a benchmark's documents that those which belong together share: they are resampled together."""
    benchmarks: str | None = None
    arena: str | None = None
    """LMArena's tables (a file, or a folder of snapshots) or a file of battles."""
    arena_style: str | None = None
    arena_snapshot: str | None = None
    """Which snapshot of the tables; the newest that lists both models where left out."""
    arena_names: tuple[str, str] | None = None
    agreement: str | None = None
    """Another map from classes to outside measures than ``data/agreement.yaml``."""
    null_tokens: int = Field(16_384, ge=0)
    """Held-out tokens of the numerical null control (base in another precision); 0 leaves it out."""
    causal: bool = False
    """Patch the tuned model's latents out of it while it runs and measure what changes."""
    causal_tokens: int = Field(4096, ge=256)
    """Tokens of held-out chats that are patched, each about two hundred times."""
    causal_tasks: tuple[str, ...] = ()
    """lm-eval tasks that the patched model is scored on; they switch ``causal`` on."""
    shift_estimator: ShiftEstimator = "gated"
    """How a latent's mass under one model is measured; ``hard`` is how cards before this setting did it."""
    draws: int = Field(10_000, ge=100)
    seed: int = Field(0, ge=0, lt=2**63)
    seeds: int = Field(1, ge=1)
    """Crosscoders trained for each pair, with the seeds ``seed``, ``seed`` + 1, …; the card is of the first."""
    device: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    trust_remote_code: bool = False
    title: str | None = None
    log_to: tuple[TrackerName, ...] = ()
    """Where a training shows itself while it runs; the result does not depend on it."""

    def deciding(self) -> dict[str, Any]:
        """The settings that decide a run's result."""
        return self.model_dump(exclude={"log_to"})


@cache
def presets() -> Mapping[str, Mapping[str, Any]]:
    """What each preset sets; ``data/presets.yaml`` has the reason for every number."""
    import yaml

    text = resource("data/presets.yaml").read_text(encoding="utf-8")
    return {
        name: {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        for name, values in yaml.safe_load(text).items()
    }


def make_settings(
    flags: Mapping[str, Any],
    *,
    config: Path | Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    stand_in: str | None = None,
) -> tuple[Settings, dict[str, str]]:
    """Settings from all places, and where each one came from.

    Args:
        flags: what was given explicitly; None values count as not given. ``tasks`` may be "none" or empty.
        config: the file of ``--config``, or what such a file holds.
        stand_in: stands for both models of the preset ``paper`` where no place names one.

    Raises:
        SettingsError: an unknown name (with the nearest known one) or an impossible value.
    """
    layers: list[tuple[str, dict[str, Any]]] = [
        ("flag", {name: value for name, value in flags.items() if value is not None}),
        ("environment", _from_environment(os.environ if environ is None else environ)),
        ("config", _from_config(config) if config is not None else {}),
    ]
    preset = next((values["preset"] for _, values in layers if "preset" in values), "quick")
    if preset not in get_args(Preset):
        raise SettingsError(
            f"There is no preset {preset!r}.{did_you_mean(str(preset), get_args(Preset))} Use one of {', '.join(get_args(Preset))}."
        )
    layers.append((f"preset {preset}", dict(presets()[preset])))
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for place, values in layers:
        for name, value in values.items():
            if name not in Settings.model_fields:
                raise SettingsError(
                    f"Unknown setting {name!r} ({place}).{did_you_mean(name, Settings.model_fields)} See --help and --show-config."
                )
            if name not in merged:
                merged[name], origin[name] = value, place
    if stand_in and preset == "paper" and "base" not in merged and "tuned" not in merged:
        merged |= {"base": stand_in, "tuned": stand_in}
    if merged.get("crosscoder") and "method" not in merged:
        # A dictionary that someone brings is what they want the latents of.
        merged["method"], origin["method"] = "batchtopk", "crosscoder given"
    if merged["tasks"] in ("none", ("none",)):
        merged["tasks"] = ()
    if isinstance(merged.get("thresholds"), str):
        merged["thresholds"] = _thresholds(merged["thresholds"])
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(problem) for problem in error.errors())) from error
    if settings.k > settings.latents:
        raise SettingsError(f"k = {settings.k} exceeds the number of latents, {settings.latents}.")
    if settings.seeds > 1 and settings.crosscoder:
        raise SettingsError(
            f"--seeds {settings.seeds} trains several crosscoders, but --crosscoder gives trained ones: leave one of the two out."
        )
    for name, given, fits in (
        ("annotator-model", settings.annotator_model is not None, settings.annotator == "claude"),
        ("max-cost", settings.max_cost is not None, settings.annotator == "claude"),
        ("batch", settings.batches, settings.annotator == "claude"),
        ("repeats", settings.repeats > 1, settings.annotator == "claude"),
    ):
        if given and not fits:
            raise SettingsError(
                f"--{name} has no effect with --annotator {settings.annotator}: it belongs to claude. Leave it out."
            )
    for name, asked in (("num-fewshot", settings.num_fewshot), ("task-limit", settings.task_limit)):
        if asked is not None and settings.benchmarks:
            raise SettingsError(
                f"--{name} has no effect with --benchmarks, whose results are there already. Leave it out."
            )
    if settings.weighting != "none" and (settings.stream or settings.crosscoder):
        why = (
            "training rows that are streamed cannot be drawn again"
            if settings.stream
            else "a trained crosscoder was given"
        )
        raise SettingsError(f"--weighting {settings.weighting} has no effect here: {why}. Leave one of the two out.")
    return settings, {name: origin.get(name, "default") for name in Settings.model_fields}


def _thresholds(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(equals for _, equals, _ in pairs):
        raise SettingsError(f"--thresholds {text!r} is not of the form nu_error=0.2,nu_reconstruction=0.5.")
    return {name.strip(): value for name, _, value in pairs}


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if name.split(".")[0] == "arena_names":
        return "--arena-names takes two names, base,tuned, as the file of --arena spells them"
    if problem["type"] == "missing":
        return f"--{name} is missing: name a hub id, a folder, a .gguf file or an adapter folder"
    if problem["type"] == "extra_forbidden":
        return f"Unknown setting {name!r}.{did_you_mean(name.split('.')[-1], Thresholds.model_fields)}"
    return f"{name} = {problem['input']!r}: {problem['msg'].lower()}"


_LISTS = ("corpus", "tasks", "causal_tasks", "crosscoder", "arena_names", "log_to")


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in environ.items():
        field = name.removeprefix("MODELDIFF_").lower()
        if name.startswith("MODELDIFF_") and field not in ("cache", "out"):
            values[field] = tuple(value.split(",")) if field in _LISTS else value
    return values


def _from_config(config: Path | Mapping[str, Any]) -> dict[str, Any]:
    data = _read_config(config) if isinstance(config, Path) else config
    return {
        str(name).replace("-", "_"): ((value,) if name in _LISTS and isinstance(value, str) else value)
        for name, value in data.items()
    }


def _read_config(path: Path) -> Mapping[str, Any]:
    from modeldiff_eval.yaml_file import read_yaml

    try:
        data = read_yaml(path, "configuration")
    except UsageError as error:
        raise SettingsError(str(error)) from error
    if not isinstance(data, dict):
        raise SettingsError(f"The configuration {path} must be a mapping of settings, such as 'layer: 14'.")
    return data


CONFIG_ONLY = frozenset(
    {
        *(
            "max_length",
            "heldout_share",
            "measure_tokens",
            "rollout_tokens",
            "answers",
            "text_from",
            "batch",
            "lr",
            "top_examples",
        ),
        *("contrast_examples", "detection_examples", "detection_bar"),
        *("null_tokens", "causal_tokens", "shift_estimator", "draws", "title", "false_discovery_rate"),
    }
)
"""Settings without a flag: they come from ``--config`` or the environment."""


def flag_of(name: str) -> str:
    """The flag of a setting. ``batch`` has none, and ``--batch`` is that of ``batches``."""
    return "--" + {"batches": "batch"}.get(name, name).replace("_", "-")


def default_out(settings: Settings) -> Path:
    """The run's folder where none is named: ``runs/`` and the last part of the tuned model's name or path."""
    return Path("runs") / os.path.basename(os.path.abspath(Path(settings.tuned).expanduser()))


def command_line(settings: Settings) -> str:
    """The command that makes this run again; settings without a flag are written as ``MODELDIFF_*`` before it."""
    defaults = make_settings({"base": settings.base, "tuned": settings.tuned, "preset": settings.preset}, environ={})[0]
    parts = ["modeldiff-eval", "--base", settings.base, "--tuned", settings.tuned]
    if settings.preset != "quick":
        parts += ["--preset", settings.preset]
    for name, value in settings.deciding().items():
        if name in ("base", "tuned", "title") or value == defaults.model_dump()[name]:
            continue
        if name in CONFIG_ONLY:
            parts.insert(0, f"MODELDIFF_{name.upper()}={value}")
            continue
        flag = flag_of(name)
        if name == "thresholds":
            value = ",".join(f"{key}={v}" for key, v in value.items())
        if name in ("tasks", "causal_tasks", "arena_names"):
            value = ",".join(value) or "none"
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, bool):
                parts.append(flag if item else flag.replace("--", "--no-"))
            else:
                parts += [flag, str(item)]
    return shlex.join(parts)
