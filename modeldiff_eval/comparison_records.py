"""The record of tuned models of one base side by side: ``comparison.json`` is exactly :class:`Comparison`."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field

from modeldiff_eval.records import ArenaRow, BenchmarkRow, ClassRow, Estimate, ModelInfo, Record, Verdict


class ComparedRun(Record):
    """One finished run."""

    name: str
    title: str
    created: str
    headline: str
    tuned: ModelInfo
    specific_base: int
    specific_tuned: int
    annotated_base: int
    annotated_tuned: int


class PairDifference(Record):
    """What one tuned model changed minus what another changed, both against the same base.

    ``value`` is (first − base) − (second − base), in the unit of the row; the verdict is its sign if and only if ``p_adjusted``
    < 0.05. ``missing`` says why it is undefined.
    """

    first: str
    second: str
    value: Estimate
    simultaneous: Estimate | None = None
    """Holds for all rows of the level at once."""
    mde: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    verdict: Verdict = "unclear"
    missing: str | None = None


class SharedActivation(PairDifference):
    """Difference of two activation changes in percent points, both measured on the documents that both runs read.

    ``change_first``, ``change_second``: each run's own change on those documents. ``null_size``: what numerical noise alone could make of
    the difference, the sum of both runs' controls; a verdict needs more.
    """

    change_first: Estimate = Estimate(value=None, low=None, high=None)
    change_second: Estimate = Estimate(value=None, low=None, high=None)
    n_latents: int = 0
    n_documents: int = 0
    null_size: float | None = None


class ScoreDifference(PairDifference):
    """Difference of two benchmark deltas: over the same ``n`` documents where ``paired``, else from their intervals as if independent."""

    n: int = 0
    paired: bool = False


class ComparedClass(Record):
    """One class or category: each run's row by the run's name, and the differences of every pair."""

    code: str
    name: str
    runs: dict[str, ClassRow]
    shares: list[PairDifference]
    activation: list[SharedActivation]


class ComparedBenchmark(Record):
    """One metric of one task."""

    task: str
    metric: str
    runs: dict[str, BenchmarkRow]
    differences: list[ScoreDifference]


class ComparedArena(Record):
    """One arena category; ``style`` are the differences of the style-controlled deltas."""

    category: str
    runs: dict[str, ArenaRow]
    raw: list[PairDifference]
    style: list[PairDifference]


class SharedLatent(Record):
    """One latent of a list, numbered in the run's own dictionary (``second``: its partner in the other's)."""

    first: int | None
    second: int | None
    label: str | None
    category: str | None
    cosine: float | None = None


class LatentOverlap(Record):
    """Which latents two runs have in common.

    ``what``: specific to the tuned model, specific to base, or changed in activation. ``opposite``: latents changed in both, in
    opposite directions, which are counted in ``both`` too. Lists hold the first few. ``missing`` says why there are no counts.
    """

    what: Literal["tuned", "base", "changed"]
    first: str
    second: str
    same_dictionary: bool
    both: int | None = None
    only_first: int | None = None
    only_second: int | None = None
    opposite: int | None = None
    shared: list[SharedLatent] = Field(default_factory=list)
    exclusive_first: list[SharedLatent] = Field(default_factory=list)
    exclusive_second: list[SharedLatent] = Field(default_factory=list)
    missing: str | None = None


class Comparison(Record):
    """Several tuned models of one base (``comparison.json``, schema version 1)."""

    schema_version: Literal[1] = 1
    title: str
    created: str
    """Of the newest card."""
    mode: Literal["direct", "anchored"]
    method: str
    base: ModelInfo
    anchor: ModelInfo | None
    layer: int | None
    base_shared: bool
    """Whether base's specific latents are the same ones in all runs, so that base is drawn once and cancels."""
    runs: list[ComparedRun]
    classes: list[ComparedClass]
    categories: list[ComparedClass]
    benchmarks: list[ComparedBenchmark]
    arena: list[ComparedArena]
    overlaps: list[LatentOverlap]
    draws: int
    seed: int
    rules: list[str]
    caveats: list[str]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every two runs, in the order given."""
        names = [run.name for run in self.runs]
        return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]

    def to_json(self) -> str:
        """Indented JSON; NaN and infinity are refused."""
        return json.dumps(self.model_dump(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
