"""The records of a card's outside evidence: LMArena, benchmarks, and whether they agree with the latents."""

from typing import Literal

from pydantic import ConfigDict, Field

from modeldiff_eval.records_base import CardRecord, Estimate, LevelEstimate, Verdict


class ArenaRow(CardRecord):
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


class StyleCoefficient(CardRecord):
    """What a feature of style is worth in log-odds, for one standard difference, over all battles."""

    feature: str
    shrunken: Estimate
    unpenalised: Estimate | None


class ArenaSnapshot(CardRecord):
    """The same categories on another day; ratings are compared inside one snapshot only, since the scale drifts.

    Verdicts are adjusted over the rows of this snapshot.
    """

    snapshot: str
    rows: list[ArenaRow]


class Arena(CardRecord):
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


class Flip(CardRecord):
    """A document that one model gets right and the other wrong. The texts are shortened and not to be trusted: escape them."""

    document: str
    base: float
    tuned: float
    prompt: str | None = None
    target: str | None = None
    base_answer: str | None = None
    tuned_answer: str | None = None


class BenchmarkRow(CardRecord):
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


class AgreementRow(CardRecord):
    """Whether the inside view (latents) and an outside view agree."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    class_: str = Field(alias="class")
    category_or_task: str
    latent_verdict: Verdict
    outside_verdict: Verdict
    agrees: bool | None
    reversed: bool = False
    """A higher score of the outside measure means less of the class; ``outside_verdict`` is turned round already."""


class RankCorrelation(CardRecord):
    """Spearman's ρ between class shifts and outside deltas over ``n`` pairs; null, with ``note``, where it cannot be given."""

    of: Literal["arena", "benchmarks"]
    n: int
    classes: int
    value: Estimate
    note: str | None = None
