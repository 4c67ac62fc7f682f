"""The records of a report card: ``card.json`` is exactly :class:`Card`.

Every slot exists from the start; what a run did not produce is ``None`` (JSON ``null``) and is
explained by a caveat, never 0.
"""

from collections.abc import Callable
from typing import Literal, Self

from pydantic import Field, model_validator

from modeldiff_eval.records_base import CardRecord as CardRecord
from modeldiff_eval.records_base import Estimate as Estimate
from modeldiff_eval.records_base import LevelEstimate as LevelEstimate
from modeldiff_eval.records_base import Record as Record
from modeldiff_eval.records_base import Verdict as Verdict
from modeldiff_eval.records_base import problem_of as problem_of
from modeldiff_eval.records_gate import Gate as Gate
from modeldiff_eval.records_gate import GateVerdict as GateVerdict
from modeldiff_eval.records_gate import Rule as Rule
from modeldiff_eval.records_outside import AgreementRow as AgreementRow
from modeldiff_eval.records_outside import Arena as Arena
from modeldiff_eval.records_outside import ArenaRow as ArenaRow
from modeldiff_eval.records_outside import ArenaSnapshot as ArenaSnapshot
from modeldiff_eval.records_outside import BenchmarkRow as BenchmarkRow
from modeldiff_eval.records_outside import Flip as Flip
from modeldiff_eval.records_outside import RankCorrelation as RankCorrelation
from modeldiff_eval.records_outside import StyleCoefficient as StyleCoefficient
from modeldiff_eval.records_panels import CausalEffect as CausalEffect
from modeldiff_eval.records_panels import CausalMeasure as CausalMeasure
from modeldiff_eval.records_panels import CausalPanel as CausalPanel
from modeldiff_eval.records_panels import CausalRow as CausalRow
from modeldiff_eval.records_panels import CausalTask as CausalTask
from modeldiff_eval.records_panels import CausalText as CausalText
from modeldiff_eval.records_panels import LensPanel as LensPanel
from modeldiff_eval.records_panels import LensScope as LensScope
from modeldiff_eval.records_panels import LensToken as LensToken
from modeldiff_eval.records_panels import ProbeRow as ProbeRow
from modeldiff_eval.records_panels import ProbingPanel as ProbingPanel

SCHEMA_VERSION = 1


class ModelInfo(CardRecord):
    """One compared model. ``adapter`` is the LoRA folder applied on top of ``id``."""

    id: str
    revision: str | None = None
    adapter: str | None = None
    dtype: str | None = None
    n_layers: int | None = None
    d_model: int | None = None


class Models(CardRecord):
    """The compared pair and, in the anchored design, their shared reference."""

    anchor: ModelInfo | None = None
    base: ModelInfo
    tuned: ModelInfo


class TrainingCurve(CardRecord):
    """How a training went: at most 60 points of its log, the first and the last among them.

    ``fve_*`` are of the training batch, before the step that learns from it and with as many active latents as were allowed
    then: not held out, so they are no substitute for those of :class:`CrosscoderInfo`.
    """

    rows: list[int] = Field(min_length=1)
    """Rows (tokens, each time one was shown) presented so far."""
    loss: list[float]
    """Mean squared error of a normalised coordinate, plus the weighted auxiliary loss."""
    fve_first: list[float]
    fve_second: list[float]
    dead: list[int]
    """Latents silent for longer than the training's own window (an eighth of its rows, at most 10 million)."""
    steps: int

    @model_validator(mode="after")
    def _equally_long(self) -> Self:
        if any(len(values) != len(self.rows) for values in (self.loss, self.fve_first, self.fve_second, self.dead)):
            raise ValueError("the lists of a training curve must be equally long")
        return self


class CrosscoderInfo(CardRecord):
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


class DeltaNormHistogram(CardRecord):
    """Δ_norm of one crosscoder's live latents, counted in equal bins from 0 (first only) over 0.5 (shared) to 1 (second only)."""

    first: str
    second: str
    counts: list[int] = Field(min_length=1)
    dead: int
    """Latents that never fire on the measured tokens, or have no Δ_norm; not counted."""


class NuMap(CardRecord):
    """How many (ν^ε, ν^r) pairs of one side's latents fall in each square of a grid from ``low`` to ``high`` on both axes.

    ``counts[r][e]``: row r of ν^r, column e of ν^ε, both from ``low`` up. ``outside`` lie beyond the grid; ``undefined`` lack
    one of the two.
    """

    side: Literal["base", "tuned"]
    low: float
    high: float
    counts: list[list[int]] = Field(min_length=1)
    outside: int
    undefined: int

    @model_validator(mode="after")
    def _square(self) -> Self:
        if self.low >= self.high or any(len(row) != len(self.counts) for row in self.counts):
            raise ValueError("a map of nu must be square, and its low below its high")
        return self


class DifferenceInfo(CardRecord):
    """The dictionary of what differs between two models (method ``difference``); held out.

    ``energy_share``: energy of second − first over that of both models, each about its mean, from 0 to 2. ``fve``: how much of it
    the dictionary explains; None where nothing differs. ``changed``: latents that are more than noise by the exchange control
    at ``false_discovery_rate``; ``null_rate``: mean share of the measured latents that the same rule finds with the models
    exchanged in half of the documents at random, where all it finds is false. ``prompts``: held-out prompts that vote;
    ``prompts_needed``: in how many a latent must respond before the control could let it through; ``unjudged``: measured latents
    that respond in fewer, for which there is too little text.
    """

    first: str
    second: str
    n_latents: int
    k: int
    tokens: int
    energy_share: float
    fve: float | None
    l0: float
    dead_share: float
    measured: int | None = None
    changed: int | None = None
    rewritten: int | None = None
    false_discovery_rate: float | None = None
    null_rate: float | None = None
    prompts: int | None = None
    prompts_needed: int | None = None
    unjudged: int | None = None
    training: TrainingCurve | None = None


class GradedCounts(CardRecord):
    """Annotated latents of one side with a graded weight above 0: how many, their total weight, their effective number."""

    latents: int
    weight: float
    effective_n: float | None


class LatentCounts(CardRecord):
    """How many latents of one side are specific, shifted and annotated."""

    specific: int
    shifted: int | None = None
    annotated: int
    none: int
    failed: int
    effective_n: float | None = None
    graded: GradedCounts | None = None


class Latents(CardRecord):
    """Latent counts of both sides."""

    base: LatentCounts
    tuned: LatentCounts
    null_rate: float | None = None


class CountShare(CardRecord):
    """Annotated latents of one side in one class; ``share`` is percent of the annotated."""

    count: int
    share: float | None


class GradedShare(CardRecord):
    """Class shares (percent) when latents count by graded weight instead of by threshold; ``n_*``: the class's latents."""

    base: float | None
    tuned: float | None
    diff: Estimate
    n_base: int | None = None
    n_tuned: int | None = None


class ActivationChange(CardRecord):
    """Percent change of a class's activation mass, tuned against base, on the same tokens."""

    change: Estimate
    p_adjusted: float | None
    verdict: Verdict
    n_latents: int
    n_documents: int
    null_size: float | None


class ActivationSplit(CardRecord):
    """Percent change of every class's activation mass (by class code) on one part of the held-out tokens.

    ``split`` says by what the tokens were told apart, ``part`` which of them these are; a change is all null where too few
    documents hold the class there. Intervals are over documents and latents; no verdict, as parts have no null control.
    """

    split: Literal["token kind", "text"]
    part: str
    tokens: int
    documents: int
    changes: dict[str, Estimate]


class ClassRow(CardRecord):
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


class Example(CardRecord):
    """One activating excerpt; ``activations[i]`` belongs to ``tokens[i]``."""

    text: str
    tokens: list[str]
    activations: list[float]


class TopLatent(CardRecord):
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
    detection: Estimate | None = None
    """Balanced accuracy of telling from the description alone in which passages the latent fires; 0.5 is a guess."""
    weak: bool | None = None
    """Whether ``detection`` lies below the card's bar; None where it was not measured."""
    examples: list[Example] = []


class Kappa(CardRecord):
    """Agreement of ``raters`` about ``latents``, chance taken off: 0 is chance, 1 is full agreement.

    ``of`` says whose answers were compared; ``agree`` is the plain share of latents with one answer. Intervals are over
    latents; the value is null for too few latents, or where there is one answer only.
    """

    of: str
    statistic: Literal["Cohen", "Fleiss"]
    level: Literal["classes", "categories"]
    raters: int
    latents: int
    agree: float | None
    value: Estimate


class StrongShare(CardRecord):
    """One class's share when latents with a weak name are left out; compare the class's own row."""

    code: str
    base: CountShare
    tuned: CountShare
    diff: Estimate


class AnnotationQuality(CardRecord):
    """How far the latents' names can be trusted.

    ``detector`` read the descriptions. ``detection``: mean balanced accuracy over ``scored`` latents with an interval over
    them, of ``asked`` (the others fire in too few documents, or have no name). ``weak``: scored latents below ``bar``.
    ``repeats``: answers for each latent that the class intervals cover; 1 is none. None and empty: not measured.
    """

    detector: str | None = None
    reader: Literal["offline", "model"] | None = None
    asked: int = 0
    scored: int = 0
    passages: int = 0
    """Most passages that one latent's description was tried on."""
    detection: Estimate | None = None
    bar: float | None = None
    weak: int | None = None
    kappas: list[Kappa] = []
    repeats: int = 1
    without_weak: list[StrongShare] | None = None


class Coverage(CardRecord):
    """Tokens of the corpus by language and by category code."""

    languages: list[dict[str, float | int | str]]
    categories: list[dict[str, float | int | str]]


class Provenance(CardRecord):
    """What made this card. Nothing here differs between two equal runs."""

    package: str
    versions: dict[str, str]
    seeds: dict[str, int]
    command: str
    corpus: str | None
    tokens: int | None
    annotator: str | None
    digest: str | None = None
    """Checksum of the card, by :mod:`modeldiff_eval.card_digest`."""


class Card(CardRecord):
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
    differences: list[DifferenceInfo] | None = None
    delta_norm_histogram: list[DeltaNormHistogram] | None = None
    nu_maps: list[NuMap] | None = None
    latents: Latents
    classes: list[ClassRow]
    categories: list[ClassRow]
    arena: Arena | None = None
    activation_by: list[ActivationSplit] | None = None
    benchmarks: list[BenchmarkRow] = []
    agreement: list[AgreementRow] = []
    rank_correlations: list[RankCorrelation] = []
    causal: CausalPanel | None = None
    probing: ProbingPanel | None = None
    lens: LensPanel | None = None
    annotation_quality: AnnotationQuality | None = None
    coverage: Coverage | None = None
    not_significant: list[str]
    top_latents: list[TopLatent] = []
    caveats: list[str]
    provenance: Provenance

    def to_json(self) -> str:
        """The card as indented JSON with the published names; NaN and infinity are refused."""
        import json

        return json.dumps(self.model_dump(by_alias=True), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def _repr_html_(self) -> str | None:
        """What a notebook shows; None (the plain record) until :mod:`modeldiff_eval.run` has been imported."""
        return _shown[0](self) if _shown else None


_shown: list[Callable[[Card], str]] = []


def show_cards(html: Callable[[Card], str]) -> None:
    """Set how notebooks show cards: records know nothing of pages."""
    _shown[:] = [html]
