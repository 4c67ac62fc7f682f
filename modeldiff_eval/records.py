"""The records of a report card: ``card.json`` is exactly :class:`Card`.

Every slot exists from the start; what a run did not produce is ``None`` (JSON ``null``) and is
explained by a caveat, never 0.
"""

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

Verdict = Literal["up", "down", "unclear", "not covered"]

SCHEMA_VERSION = 1


class Record(BaseModel):
    """A frozen record that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def problem_of(error: ValidationError) -> str:
    """The first thing that is wrong with a record, as ``place.in.it: what``."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


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


class DeltaNormHistogram(Record):
    """Δ_norm of one crosscoder's live latents, counted in equal bins from 0 (first only) over 0.5 (shared) to 1 (second only)."""

    first: str
    second: str
    counts: list[int] = Field(min_length=1)
    dead: int
    """Latents that never fire on the measured tokens, or have no Δ_norm; not counted."""


class NuMap(Record):
    """How many (ν^ε, ν^r) pairs of one side's latents fall in each square of a grid from ``low`` to ``high`` on both axes.

    ``counts[r][e]``: row r of ν^r, column e of ν^ε, both from ``low`` up. ``outside`` lie beyond the grid; ``undefined`` lack
    one of the two.
    """

    side: Literal["base", "tuned"]
    low: FiniteFloat
    high: FiniteFloat
    counts: list[list[int]] = Field(min_length=1)
    outside: int
    undefined: int

    @model_validator(mode="after")
    def _square(self) -> Self:
        if self.low >= self.high or any(len(row) != len(self.counts) for row in self.counts):
            raise ValueError("a map of nu must be square, and its low below its high")
        return self


class DifferenceInfo(Record):
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


class GradedCounts(Record):
    """Annotated latents of one side with a graded weight above 0: how many, their total weight, their effective number."""

    latents: int
    weight: float
    effective_n: float | None


class LatentCounts(Record):
    """How many latents of one side are specific, shifted and annotated."""

    specific: int
    shifted: int | None = None
    annotated: int
    none: int
    failed: int
    effective_n: float | None = None
    graded: GradedCounts | None = None


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
    """Class shares (percent) when latents count by graded weight instead of by threshold; ``n_*``: the class's latents."""

    base: float | None
    tuned: float | None
    diff: Estimate
    n_base: int | None = None
    n_tuned: int | None = None


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
    """Elo of both models in one arena category.

    From battles ``delta_style`` and ``style_effect`` are of LMArena's shrunken fit, as its site shows it, and the fields that
    end in ``_unpenalised`` of the fit without a penalty; win rates are percent of the points at stake, a tie being half.
    """

    category: str
    base: float
    tuned: float
    delta: Estimate
    delta_style: Estimate | None = None
    style_effect: Estimate | None = None
    verdict: Verdict
    delta_style_unpenalised: Estimate | None = None
    style_effect_unpenalised: Estimate | None = None
    win_rate: Estimate | None = None
    """What tuned is expected to take from base by the fit; what it did take, where only these two met."""
    base_win_rate: Estimate | None = None
    """What base took from all its opponents in the file."""
    tuned_win_rate: Estimate | None = None
    battles: int | None = None
    """Battles of the fit, those of other models included."""
    base_battles: int | None = None
    tuned_battles: int | None = None


class StyleCoefficient(Record):
    """What a feature of style is worth in log-odds, for one standard difference, over all battles."""

    feature: str
    shrunken: Estimate
    unpenalised: Estimate | None


class ArenaSnapshot(Record):
    """The same categories on another day; ratings are compared inside one snapshot only, since the scale drifts.

    Verdicts are adjusted over the rows of this snapshot.
    """

    snapshot: str
    rows: list[ArenaRow]


class Arena(Record):
    """LMArena rows from one snapshot, or ratings fitted to battles."""

    source: str
    snapshot: str | None
    independence_assumed: bool
    rows: list[ArenaRow]
    kind: Literal["tables", "battles"] = "tables"
    scale: str | None = None
    """What the ratings' zero is, where they were fitted here."""
    style: list[StyleCoefficient] = []
    other_snapshots: list[ArenaSnapshot] = []
    """Oldest first."""


class Flip(Record):
    """A document that one model gets right and the other wrong. The texts are shortened and not to be trusted: escape them."""

    document: str
    base: float
    tuned: float
    prompt: str | None = None
    target: str | None = None
    base_answer: str | None = None
    tuned_answer: str | None = None


class BenchmarkRow(Record):
    """One benchmark metric of both models, paired per document where possible.

    ``headline``: the task's first metric, which counts for the multiplicity of all tasks; the other metrics are a family of
    their own. ``wins`` and ``losses``: documents that tuned scores higher or lower on, which is better or worse as
    ``higher_is_better`` says. ``clusters``: how many were resampled, None where documents were. ``p_mcnemar``: exact, over
    documents, for scores of 0 and 1. ``flips``: the first few documents of either direction.
    """

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
    headline: bool = False
    higher_is_better: bool | None = None
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    clusters: int | None = None
    p_mcnemar: float | None = None
    flips: list[Flip] = []


class AgreementRow(Record):
    """Whether the inside view (latents) and an outside view agree."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    class_: str = Field(alias="class")
    category_or_task: str
    latent_verdict: Verdict
    outside_verdict: Verdict
    agrees: bool | None
    reversed: bool = False
    """A higher score of the outside measure means less of the class; ``outside_verdict`` is turned round already."""


class RankCorrelation(Record):
    """Spearman's ρ between class shifts and outside deltas over ``n`` pairs; null, with ``note``, where it cannot be given."""

    of: Literal["arena", "benchmarks"]
    n: int
    classes: int
    value: Estimate
    note: str | None = None


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
    detection: Estimate | None = None
    """Balanced accuracy of telling from the description alone in which passages the latent fires; 0.5 is a guess."""
    weak: bool | None = None
    """Whether ``detection`` lies below the card's bar; None where it was not measured."""
    examples: list[Example] = []


class ProbeRow(Record):
    """One class or category told from all others by a linear probe: ROC AUC on ``n`` held-out documents, ``positives`` of them of it."""

    code: str
    name: str
    n: int
    positives: int
    base: Estimate
    tuned: Estimate
    diff: Estimate
    p: float | None
    p_adjusted: float | None
    verdict: Verdict


class ProbingPanel(Record):
    """What linear probes on either model's activations of the same documents say; intervals are over held-out prompts."""

    said: str
    layer: int
    pooling: str
    documents_train: int
    documents_heldout: int
    prompts_heldout: int
    base: Estimate
    """Mean AUC over the categories."""
    tuned: Estimate
    diff: Estimate
    classes: list[ProbeRow]
    categories: list[ProbeRow]


class LensToken(Record):
    """A token that the mean difference promotes or demotes; ``score`` is in logits above those of the average token."""

    token: str
    score: Estimate
    p_adjusted: float


class LensScope(Record):
    """The mean of tuned minus base over the first ``positions`` tokens of every answer, or over all of them (None)."""

    positions: int | None
    tokens: int
    documents: int
    prompts: int
    norm: Estimate
    """Length of the mean difference, what chance alone adds to it taken off."""
    share: Estimate
    """The same in percent of the mean length of base's residual there."""
    null_norm: float
    """Length that 95 % of the differences with random signs stay below, nothing taken off."""
    p: float
    up: list[LensToken]
    down: list[LensToken]


class LensPanel(Record):
    """The training-free activation-difference lens: the mean residual difference in words."""

    layer: int
    draws: int
    scopes: list[LensScope]


class CausalMeasure(Record):
    """What patching did to one figure (nats a token, patched minus as it is), beside matched random latents.

    ``random``: mean over the draws, with the smallest and the largest draw for bounds. ``difference``: effect minus a
    random set, its interval over documents and over which random set it is. The verdict is "down" or "up" only where the
    intervals of effect and difference both exclude 0 on the same side.
    """

    effect: Estimate
    random: Estimate
    difference: Estimate
    verdict: Verdict


class CausalEffect(Record):
    """``kl``: KL(tuned ‖ other) of the next token, down is towards the other model; ``nll`` of the text as it stands."""

    kl: CausalMeasure
    nll: CausalMeasure


class CausalRow(Record):
    """One set of latents, and the ``random`` ones matched to it.

    ``fires`` and ``random_fires``: share of the patched tokens where one of them is active. ``out`` takes them out of tuned,
    ``into`` puts the other model's share in their place; None where none is ever active.
    """

    name: str
    kind: Literal["set", "class", "shifted", "latent"]
    code: str | None = None
    latents: list[int] = Field(min_length=1)
    random: list[list[int]] = []
    fires: float
    random_fires: float | None
    out: CausalEffect | None = None
    into: CausalEffect | None = None


class CausalTask(Record):
    """One benchmark metric of tuned with the set taken out, minus tuned as it is, over the same documents.

    ``random``: mean change over the random sets, with the smallest and the largest for bounds. The verdict also asks that
    the change lies beyond all of them.
    """

    task: str
    metric: str
    n: int
    tuned: float
    patched: float
    delta: Estimate
    p_adjusted: float | None
    random: Estimate
    draws: int
    verdict: Verdict


class CausalText(Record):
    """Greedy answers to one prompt: tuned, tuned with the set taken out, and the other model."""

    prompt: str
    tuned: str
    patched: str
    other: str

    @property
    def differs(self) -> bool:
        """Whether patching changed the answer."""
        return self.tuned != self.patched


class CausalPanel(Record):
    """What happens when latents are patched out of the running tuned model at one layer, over assistant tokens.

    ``kl`` is KL(tuned ‖ other) before anything is patched, ``nll`` tuned's own on the text; nats a token, intervals over
    documents (those that answer one prompt count as one). ``chosen`` says how the main set was chosen; ``draws`` random
    sets stand beside each row.
    """

    other: Literal["base", "anchor"]
    chosen: Literal["specific", "nearest"]
    layer: int
    dtype: str
    assistant_only: bool
    documents: int
    tokens: int
    patched_tokens: int
    draws: int
    kl: Estimate
    nll: Estimate
    rows: list[CausalRow]
    tasks: list[CausalTask] = []
    texts: list[CausalText] = []


class Kappa(Record):
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


class StrongShare(Record):
    """One class's share when latents with a weak name are left out; compare the class's own row."""

    code: str
    base: CountShare
    tuned: CountShare
    diff: Estimate


class AnnotationQuality(Record):
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


class Coverage(Record):
    """Tokens of the corpus by language and by category code."""

    languages: list[dict[str, Any]]
    categories: list[dict[str, Any]]


GateVerdict = Literal["pass", "fail", "inconclusive"]


class Rule(Record):
    """One gate rule and what it saw.

    ``value`` is the number that decided (None where it is missing, or a word: ``word``), at the path ``at``, of the estimate
    ``interval`` and over ``n`` items where there are such. ``bound`` is what it had to pass. A rule of severity "warn", or
    one that is ``waived``, leaves the gate's verdict alone.
    """

    rule: str
    value: float | None
    verdict: GateVerdict
    name: str | None = None
    severity: Literal["fail", "warn"] = "fail"
    waived: bool = False
    at: str | None = None
    bound: str | None = None
    word: str | None = None
    interval: Estimate | None = None
    n: int | None = None
    notes: list[str] = []
    line: int | None = None
    """Line of the policy file."""

    @property
    def counts(self) -> bool:
        """Whether the gate's verdict rests on this rule."""
        return self.severity == "fail" and not self.waived


class Gate(Record):
    """The gate's verdict over all rules."""

    verdict: GateVerdict
    rules: list[Rule]
    policy: str | None = None
    baseline: str | None = None
    checked: str | None = None
    """The day on which waivers were looked at."""
    fast: bool = False
    """Decided on a small budget: a bound that the interval straddles is inconclusive."""
    notes: list[str] = []


class Provenance(Record):
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
