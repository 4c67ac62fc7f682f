"""The file of published counts (``COUNTS.yaml``): its shape, and everything that can be wrong with it.

A small file::

    models: {base: org/model, tuned: org/model-simpo}
    latents:
      base: {specific: 113, annotated: 112}
      tuned: {specific: 92, annotated: 89}
    classes:
      A: {base: 18, tuned: 19}

Optional: ``title source mode method not_covered categories published arena benchmarks caveats`` (see the classes
below, :mod:`modeldiff_eval.counts_spec_evidence` and ``reports/paper_simpo.yaml``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from modeldiff_eval.counts_spec_evidence import (
    ArenaRowSpec,
    ArenaSpec,
    BenchmarkSpec,
    OtherScore,
    RatingSpec,
    SnapshotSpec,
    Spec,
)
from modeldiff_eval.errors import UsageError, did_you_mean
from modeldiff_eval.records import ModelInfo, Record
from modeldiff_eval.yaml_file import read_yaml

Count = Annotated[int, Field(strict=True, ge=0, le=10_000_000)]
"""``true`` and ``'3'`` are no counts; more than ten million are a slip of the keyboard, and every latent is resampled."""


class SideSpec(Spec):
    """One side's latents. ``failed`` is what could not be annotated; left out it is ``specific - annotated``.

    ``specific: null`` says that the number was not published.
    """

    specific: Count | None = None
    annotated: Count
    none: Count | None = None
    failed: Count | None = None


class LatentsSpec(Spec):
    """Both sides."""

    base: SideSpec
    tuned: SideSpec


class CountPair(Spec):
    """Annotated latents of one class or category; ``name`` is needed only for codes outside the packaged taxonomy."""

    base: Count
    tuned: Count
    name: str | None = None


class PairSpec(Spec):
    """The compared models: ids, or records with ``id``, ``revision`` and so on."""

    anchor: str | ModelInfo | None = None
    base: str | ModelInfo
    tuned: str | ModelInfo


class Decimals(Spec):
    """Decimals with which the published table prints its columns."""

    share: int = Field(default=2, ge=0, le=6)
    diff: int = Field(default=2, ge=0, le=6)
    change: int = Field(default=1, ge=0, le=6)
    elo: int = Field(default=0, ge=0, le=6)


class PrintedShift(Spec):
    """Printed cells of one class or category."""

    base_share: float | None = None
    tuned_share: float | None = None
    diff: float | None = None
    change: float | None = None


class PrintedElo(Spec):
    """Printed cells of one arena category."""

    base: float | None = None
    tuned: float | None = None
    delta: float | None = None
    base_style: float | None = None
    tuned_style: float | None = None
    delta_style: float | None = None
    style_effect: float | None = None


class PublishedSpec(Spec):
    """What the publication prints, so that the card can say which cells its own numbers bear out."""

    source: str
    arena_snapshot: str | None = None
    decimals: Decimals = Decimals()
    classes: dict[str, PrintedShift] = Field(default_factory=dict)
    categories: dict[str, PrintedShift] = Field(default_factory=dict)
    arena: dict[str, PrintedElo] = Field(default_factory=dict)


class CountsSpec(Spec):
    """The whole file."""

    title: str | None = None
    source: str | None = None
    mode: Literal["direct", "anchored"] = "direct"
    method: str = "published counts"
    models: PairSpec
    latents: LatentsSpec
    classes: dict[str, CountPair]
    categories: dict[str, CountPair] = Field(default_factory=dict)
    not_covered: list[str] = Field(default_factory=list)
    published: PublishedSpec | None = None
    arena: ArenaSpec | None = None
    benchmarks: list[BenchmarkSpec] = Field(default_factory=list)
    caveats: list[str] = Field(default_factory=list)


def read_spec(path: Path) -> CountsSpec:
    """Read and check a counts file.

    Raises:
        UsageError: the file is missing, not YAML, has unknown or wrong keys, or its counts do not add up.
    """
    raw = read_yaml(path, "file of counts")
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: expected a mapping with the keys models, latents and classes.")
    try:
        spec = CountsSpec.model_validate(raw)
    except ValidationError as error:
        raise UsageError(f"{path}: " + "; ".join(_explain(item) for item in error.errors()[:5])) from error
    _check_models(spec, path)
    _check_sums(spec, path)
    return spec


def _known_keys() -> set[str]:
    records: list[type[Record]] = [
        CountsSpec, PairSpec, LatentsSpec, SideSpec, CountPair, PublishedSpec, PrintedShift, PrintedElo, Decimals,
        ArenaSpec, ArenaRowSpec, SnapshotSpec, RatingSpec, BenchmarkSpec, OtherScore, ModelInfo,
    ]  # fmt: skip
    return {name for record in records for name in record.model_fields}


def _explain(item: Any) -> str:
    """One pydantic error as "where: what, did you mean"."""
    where = ".".join(
        str(part) for part in item["loc"] if part not in ("str", "ModelInfo") and "function" not in str(part)
    )
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key.{did_you_mean(str(item['loc'][-1]), _known_keys())}"
    if item["type"] == "missing":
        return f"{where}: is missing"
    if item["type"].startswith("int_"):
        return f"{where}: must be a whole number (got {item['input']!r})"[:300]
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]} (got {item['input']!r})"[:300]


def _check_models(spec: CountsSpec, path: Path) -> None:
    for side in ("anchor", "base", "tuned"):
        model: str | ModelInfo | None = getattr(spec.models, side)
        if model is not None and not (model if isinstance(model, str) else model.id).strip():
            raise UsageError(f"{path}: models.{side} is empty; give the model's id or a name.")
    if spec.mode == "anchored" and spec.models.anchor is None:
        raise UsageError(
            f"{path}: mode anchored needs models.anchor, the model that both come from. Give it, or leave mode out."
        )


def _check_sums(spec: CountsSpec, path: Path) -> None:
    if not spec.classes:
        raise UsageError(f"{path}: 'classes' is empty; give at least one class with base and tuned counts.")
    for side_name in ("base", "tuned"):
        side: SideSpec = getattr(spec.latents, side_name)
        counts = {code: int(getattr(pair, side_name)) for code, pair in spec.classes.items()}
        total, where = sum(counts.values()), f"{path}: {side_name} counts do not add up:"
        listed = " + ".join(f"{code} {count}" for code, count in counts.items())
        if total > side.annotated:
            raise UsageError(
                f"{where} the classes sum to {total} ({listed}) but only {side.annotated} latents are annotated. "
                f"Correct latents.{side_name}.annotated or a class."
            )
        if side.none is not None and total + side.none != side.annotated:
            raise UsageError(
                f"{where} classes {total} + none {side.none} = {total + side.none}, but annotated is {side.annotated}. "
                f"Leave out latents.{side_name}.none to have it computed, or correct one of them."
            )
        if side.specific is not None and side.annotated + (side.failed or 0) > side.specific:
            raise UsageError(
                f"{where} annotated {side.annotated} + failed {side.failed or 0} exceed specific {side.specific}."
            )
        if side.specific is not None and side.failed is not None and side.annotated + side.failed != side.specific:
            raise UsageError(
                f"{where} annotated {side.annotated} + failed {side.failed} is not specific {side.specific}. "
                f"Leave out latents.{side_name}.failed to have it computed."
            )
        inside: dict[str, int] = dict.fromkeys(counts, 0)
        for code, pair in spec.categories.items():
            class_code = code.split(".")[0]
            if class_code not in inside:
                raise UsageError(
                    f"{path}: category {code} belongs to class {class_code!r}, which is not listed under 'classes'."
                    f"{did_you_mean(class_code, inside)}"
                )
            inside[class_code] += int(getattr(pair, side_name))
        for code, count in inside.items():
            if count > counts[code]:
                raise UsageError(
                    f"{where} the categories of class {code} hold {count} latents, the class {counts[code]}."
                )
    known = {*spec.classes, *spec.categories}
    printed = [*spec.published.classes, *spec.published.categories] if spec.published else []
    for code in (*spec.not_covered, *printed):
        if code not in known:
            raise UsageError(f"{path}: {code!r} has no counts in this file.{did_you_mean(code, known)}")
