"""The records of a report card: ``card.json`` is exactly :class:`Card`.

Every slot exists from the start; what a run did not produce is ``None`` (JSON ``null``) and is
explained by a caveat, never 0.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

Verdict = Literal["up", "down", "unclear", "not covered"]

SCHEMA_VERSION = 1


class Record(BaseModel):
    """A frozen record that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(Record):
    """A number with its 95 % interval. A bound that is not defined is ``None``."""

    value: float | None
    low: float | None
    high: float | None


class LevelEstimate(Estimate):
    """An estimate that names the level of its interval."""

    level: float = 0.95


class ModelInfo(Record):
    """One compared model. ``adapter`` is the LoRA folder applied on top of ``id``."""

    id: str
    revision: str | None = None
    adapter: str | None = None
    dtype: str | None = None
    n_layers: int | None = None
    d_model: int | None = None


class Models(Record):
    """The compared pair and, in the anchored design, their shared reference."""

    anchor: ModelInfo | None = None
    base: ModelInfo
    tuned: ModelInfo


class TrainingCurve(Record):
    """How a training went: at most 60 points of its log, the first and the last among them.

    ``fve_*`` are of the training batch, before the step that learns from it and with as many active latents as were allowed
    then: not held out, so they are no substitute for those of :class:`CrosscoderInfo`.
    """

    rows: list[int] = Field(min_length=1)
    """Rows (tokens, each time one was shown) presented so far."""
    loss: list[FiniteFloat]
    """Mean squared error of a normalised coordinate, plus the weighted auxiliary loss."""
    fve_first: list[FiniteFloat]
    fve_second: list[FiniteFloat]
    dead: list[int]
    """Latents silent for longer than the training's own window (an eighth of its rows, at most 10 million)."""
    steps: int

    @model_validator(mode="after")
    def _equally_long(self) -> Self:
        if any(len(values) != len(self.rows) for values in (self.loss, self.fve_first, self.fve_second, self.dead)):
            raise ValueError("the lists of a training curve must be equally long")
        return self


class CrosscoderInfo(Record):
    """Quality of one crosscoder. ``dead_share`` is in [0, 1]; ``fve_*`` are pooled, held out.

    ``training`` is None where no log came with the crosscoder.
    """

    first: str
    second: str
    layer: int
    n_latents: int
    k: int
    tokens: int
    fve_first: float
    fve_second: float
    l0: float
    dead_share: float
    source: str
    seed_agreement: float | None = None
    training: TrainingCurve | None = None


class LatentCounts(Record):
    """How many latents of one side are specific, shifted and annotated."""

    specific: int
    shifted: int | None = None
    annotated: int
    none: int
    failed: int
    effective_n: float | None = None


class Latents(Record):
    """Latent counts of both sides."""

    base: LatentCounts
    tuned: LatentCounts
    null_rate: float | None = None


class CountShare(Record):
    """Annotated latents of one side in one class; ``share`` is percent of the annotated."""

    count: int
    share: float | None


class GradedShare(Record):
    """Class shares (percent) when latents count by graded weight instead of by threshold."""

    base: float | None
    tuned: float | None
    diff: Estimate


class ActivationChange(Record):
    """Percent change of a class's activation mass, tuned against base, on the same tokens."""

    change: Estimate
    p_adjusted: float | None
    verdict: Verdict
    n_latents: int
    n_documents: int
    null_size: float | None


class ActivationSplit(Record):
    """Percent change of every class's activation mass (by class code) on one part of the held-out tokens.

    ``split`` says by what the tokens were told apart, ``part`` which of them these are; a change is all null where too few
    documents hold the class there. Intervals are over documents and latents; no verdict, as parts have no null control.
    """

    split: Literal["token kind", "text"]
    part: str
    tokens: int
    documents: int
    changes: dict[str, Estimate]


class ClassRow(Record):
    """One class (``code`` "A") or category (``code`` "A.1").

    ``diff`` and ``mde`` are percentage points of the annotated latents; ``change`` is percent of
    the base share, ``None`` when that share is 0. ``covered`` is None when no corpus was read.
    """

    code: str
    name: str
    covered: bool = True
    base: CountShare
    tuned: CountShare
    count_change: Estimate
    diff: Estimate
    diff_simultaneous: Estimate | None = None
    change: Estimate | None = None
    mde: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    verdict: Verdict
    graded: GradedShare | None = None
    activation: ActivationChange | None = None


class ArenaRow(Record):
    """Elo of both models in one arena category."""

    category: str
    base: float
    tuned: float
    delta: Estimate
    delta_style: Estimate | None = None
    style_effect: Estimate | None = None
    verdict: Verdict


class Arena(Record):
    """LMArena rows from one snapshot."""

    source: str
    snapshot: str | None
    independence_assumed: bool
    rows: list[ArenaRow]


class BenchmarkRow(Record):
    """One benchmark metric of both models, paired per document where possible."""

    task: str
    metric: str
    n: int
    base: float
    tuned: float
    delta: LevelEstimate
    p: float | None
    p_adjusted: float | None
    mde: float | None
    verdict: Verdict
    paired: bool
    source: str


class AgreementRow(Record):
    """Whether the inside view (latents) and an outside view agree."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    class_: str = Field(alias="class")
    category_or_task: str
    latent_verdict: Verdict
    outside_verdict: Verdict
    agrees: bool | None


class Example(Record):
    """One activating excerpt; ``activations[i]`` belongs to ``tokens[i]``."""

    text: str
    tokens: list[str]
    activations: list[float]


class TopLatent(Record):
    """One latent shown in the card."""

    model: Literal["base", "tuned"]
    latent: int
    label: str | None
    description: str | None
    category: str | None
    confidence: float | None
    nu_error: Estimate | None
    nu_reconstruction: Estimate | None
    activation_shift: Estimate | None
    delta_norm: float | None
    frequency: float | None
    examples: list[Example] = []


class Coverage(Record):
    """Tokens of the corpus by language and by category code."""

    languages: list[dict[str, Any]]
    categories: list[dict[str, Any]]


class Rule(Record):
    """One gate rule and what it saw."""

    rule: str
    value: float | None
    verdict: Literal["pass", "fail", "inconclusive"]


class Gate(Record):
    """The gate's verdict over all rules."""

    verdict: Literal["pass", "fail", "inconclusive"]
    rules: list[Rule]


class Provenance(Record):
    """What made this card. Nothing here differs between two equal runs."""

    package: str
    versions: dict[str, str]
    seeds: dict[str, int]
    command: str
    corpus: str | None
    tokens: int | None
    annotator: str | None


class Card(Record):
    """The report card (``card.json``, schema version 1)."""

    schema_version: Literal[1] = 1
    title: str
    created: str
    mode: Literal["direct", "anchored"]
    method: str
    headline: str
    gate: Gate | None = None
    models: Models
    crosscoders: list[CrosscoderInfo]
    latents: Latents
    classes: list[ClassRow]
    categories: list[ClassRow]
    arena: Arena | None = None
    activation_by: list[ActivationSplit] | None = None
    benchmarks: list[BenchmarkRow] = []
    agreement: list[AgreementRow] = []
    causal: dict[str, Any] | None = None
    probing: dict[str, Any] | None = None
    annotation_quality: dict[str, Any] | None = None
    coverage: Coverage | None = None
    not_significant: list[str]
    top_latents: list[TopLatent] = []
    caveats: list[str]
    provenance: Provenance

    def to_json(self) -> str:
        """The card as indented JSON with the published names; NaN and infinity are refused."""
        import json

        return json.dumps(self.model_dump(by_alias=True), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
