"""Paired activation shift: how much more or less of each latent, class and part of the text the tuned model shows.

Both models are read on the same held-out tokens (ALGORITHMS §3b). :mod:`modeldiff_eval.shift_estimators` says how a
latent's mass is measured, :mod:`modeldiff_eval.shift_null` when a change counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modeldiff_eval import activations as acts
from modeldiff_eval import latents as measure
from modeldiff_eval import shift_estimators as estimating
from modeldiff_eval.annotation import Annotation
from modeldiff_eval.corpus import TokenCorpus
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.records import ActivationChange, ActivationSplit, Estimate
from modeldiff_eval.shift_null import beyond_null, enough, null_bars
from modeldiff_eval.shift_shared import SharedMass, dictionary_key, shared_blocks
from modeldiff_eval.shift_splits import Part, parts
from modeldiff_eval.stats_bootstrap import bootstrap_ratio, class_activation_shift, two_way_ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modeldiff_eval.fit import Pair
    from modeldiff_eval.workspace import Workspace

DRAWS = 1000
BLOCKS = 256
Control = tuple[acts.Activations, "NDArray[np.int64]"]
"""Base in another precision, and for every token of the corpus its row there or −1."""


@dataclass(frozen=True)
class Shift:
    """Paired activation shift of base against tuned in one dictionary.

    ``value``, ``low``, ``high`` [latents]: relative change, NaN where undefined. ``null`` [latents]: |relative change|
    in the numerical control, NaN where it was not measured. ``bars`` [latents]: what a change must exceed; infinite
    without a control. ``mass`` [2, blocks, latents]; ``null_mass`` likewise. ``parts``: the masses of parts of the text;
    ``shared``: of blocks that other runs have too.
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    null: NDArray[np.float64]
    bars: NDArray[np.float64]
    mass: NDArray[np.float64]
    null_mass: NDArray[np.float64] | None
    documents: int
    parts: list[Part] = field(default_factory=list)
    shared: SharedMass | None = None

    @property
    def changed(self) -> NDArray[np.bool_]:
        """[latents] True where the interval excludes 0 and the change exceeds the latent's bar."""
        return beyond_null(self.value, self.low, self.high, self.bars)

    def changed_column(self) -> Any:
        """:attr:`changed` as a column of a table; missing where nothing was measured or no control could judge it."""
        import pandas as pd

        unknown = ~np.isfinite(self.value) | ~np.isfinite(self.bars)
        return pd.arrays.BooleanArray(self.changed, unknown)


SMALLEST = 0.25
"""Percent: no class shift below this gets a verdict. Noise of up to 1 % of the energy, which changes no ability, moved classes of the demo by
up to 0.16 % (``scripts/null_verdicts.py``), beyond what another precision shows."""


def activation_shift(
    work: Workspace,
    corpus: TokenCorpus,
    kept: acts.Kept,
    rows: dict[str, acts.Activations],
    dictionary: Pair,
    statistics: dict[str, tuple[torch.Tensor, torch.Tensor]],
    null: Control | None,
    *,
    shared: bool = False,
) -> Shift:
    """Compare each latent's mass under both models on held-out documents.

    Args:
        dictionary: the crosscoder that gives the latents.
        statistics: role → (mean, scale) of that model's own normaliser.
        null: base in another precision on some held-out documents.
        shared: also measure by blocks that other runs over the same documents have.
    """
    settings = work.settings
    document = corpus.document_of_token()
    _, heldout = acts.split_rows(corpus, kept)
    both = acts.PairedRows([rows["base"], rows["tuned"]])
    mean = torch.stack([statistics[role][0] for role in ("base", "tuned")])
    scale = torch.stack([statistics[role][1] for role in ("base", "tuned")])

    def normalised(index: torch.Tensor) -> torch.Tensor:
        return (both(index) - mean) * scale[:, None]

    estimator = settings.shift_estimator
    blocks = measure.document_blocks(heldout, document, seed=settings.seed, limit=BLOCKS)
    split = parts(work, corpus, heldout, blocks)
    groupings = [estimating.Grouping(blocks.block, blocks.n), *(part.grouping for part in split)]
    common = shared_blocks(corpus, heldout, document) if shared else None
    groupings += [common.grouping] if common else []
    with work.reporter.task("Paired activation shift", unit="tokens") as advance:
        mass, *rest = estimating.group_masses(
            dictionary.crosscoder, normalised, heldout, groupings, estimators=(estimator,), on_progress=advance,
        )[estimator]  # fmt: skip
    kept_mass = SharedMass(common, rest.pop(), dictionary_key(dictionary.crosscoder)) if common else None
    ratio = bootstrap_ratio(mass[1], mass[0], draws=DRAWS, rng=np.random.default_rng([settings.seed, 21]))
    value, low, high = (np.where(enough(mass), bound - 1, np.nan) for bound in ratio)
    null_shift, null_mass = np.full(len(value), np.nan), None
    bars = np.full(len(value), np.inf)
    if null is not None:
        null_mass = _null_mass(work, rows["base"], null, heldout, document, dictionary.crosscoder, statistics["base"])
        with np.errstate(divide="ignore", invalid="ignore"):
            null_shift = np.abs(null_mass[1].sum(0) / null_mass[0].sum(0) - 1)
        null_shift[~np.isfinite(null_shift)] = np.nan
        bars = null_bars(null_mass, mass[0].sum(0), draws=DRAWS, rng=np.random.default_rng([settings.seed, 26]))
    split = [part.with_mass(masses) for part, masses in zip(split, rest, strict=True)]
    return Shift(value, low, high, null_shift, bars, mass, null_mass, int(blocks.documents.sum()), split, kept_mass)


def _null_mass(
    work: Workspace, base: acts.Activations, null: Control, heldout: torch.Tensor, document: NDArray[np.int32],
    crosscoder: Crosscoder, statistics: tuple[torch.Tensor, torch.Tensor],
) -> NDArray[np.float64]:  # fmt: skip
    other, place = null
    covered = heldout[torch.from_numpy(place[heldout.numpy()] >= 0)]
    blocks = measure.document_blocks(covered, document, seed=work.settings.seed, limit=BLOCKS)
    same, changed = base.mapped(), other.mapped()
    mean, scale = statistics

    def normalised(index: torch.Tensor) -> torch.Tensor:
        there = torch.from_numpy(place[index.numpy()])
        return (torch.stack([same[index].float(), changed[there].float()], dim=1) - mean) * scale

    estimator = work.settings.shift_estimator
    with work.reporter.task("Null control of the shift", unit="tokens") as advance:
        (mass,) = estimating.group_masses(
            crosscoder, normalised, covered, [estimating.Grouping(blocks.block, blocks.n)], estimators=(estimator,),
            on_progress=advance,
        )[estimator]  # fmt: skip
    return mass


def group_labels(
    annotations: dict[int, Annotation], groups: list[str], n_latents: int, *, classes: bool
) -> NDArray[np.int64]:
    """[latents] the number of each latent's class or category in ``groups``, −1 where it has none."""
    label = np.full(n_latents, -1)
    index = {code: i for i, code in enumerate(groups)}
    for latent, annotation in annotations.items():
        if annotation.category is not None:
            label[latent] = index[annotation.category.split(".")[0] if classes else annotation.category]
    return label


def group_shifts(
    shift: Shift, annotations: dict[int, Annotation], groups: list[str], *, classes: bool, draws: int, seed: int
) -> list[ActivationChange]:
    """Activation change of every class or category from all its latents, judged against the null control.

    The interval is over documents and over the class's latents (decision 007); a change whose interval holds 0 is
    unclear, whatever its p over documents.
    """
    label = group_labels(annotations, groups, shift.mass.shape[2], classes=classes)
    onto = np.zeros((len(label), len(groups)))
    onto[np.flatnonzero(label >= 0), label[label >= 0]] = 1
    size: list[float | None] = [None] * len(groups)
    if shift.null_mass is not None:
        ratio = bootstrap_ratio(
            shift.null_mass[1] @ onto,
            shift.null_mass[0] @ onto,
            draws=DRAWS,
            rng=np.random.default_rng([seed, 22]),
        )
        with np.errstate(invalid="ignore"):
            bounds = 100 * np.maximum(np.abs(ratio.low - 1), np.abs(ratio.high - 1))
        size = [max(float(bound), SMALLEST) if np.isfinite(bound) else None for bound in bounds]
    changes = class_activation_shift(
        shift.mass[0] @ onto, shift.mass[1] @ onto, size,
        n_latents=[int((label == i).sum()) for i in range(len(groups))], draws=draws, rng=np.random.default_rng([seed, 23, int(classes)]),
    )  # fmt: skip
    rng = np.random.default_rng([seed, 24, int(classes)])
    return [
        _two_way(change, shift.mass[:, :, label == group], shift.documents, rng) for group, change in enumerate(changes)
    ]


def _two_way(
    change: ActivationChange, mass: NDArray[np.float64], documents: int, rng: np.random.Generator
) -> ActivationChange:
    """Widen the interval to documents × latents, and count documents instead of the blocks they were dealt into."""
    value = change.change.value
    ratio = two_way_ratio(mass[0], mass[1], draws=DRAWS, rng=rng)
    low, high = (100 * (bound - 1) for bound in ratio)
    if value is None or not (np.isfinite(low) and np.isfinite(high)):
        return change.model_copy(update={"n_documents": documents})
    interval = Estimate(value=value, low=min(low, value), high=max(high, value))
    clear = low > 0 or high < 0
    return change.model_copy(
        update={"change": interval, "n_documents": documents, "verdict": change.verdict if clear else "unclear"}
    )


def split_changes(
    shift: Shift, annotations: dict[int, Annotation], classes: list[str], *, seed: int
) -> list[ActivationSplit] | None:
    """Every class's change on each part of the text, with intervals over documents and latents; None without parts."""
    label = group_labels(annotations, classes, shift.mass.shape[2], classes=True)
    rng = np.random.default_rng([seed, 27])
    return [part.changes(label, classes, draws=DRAWS, rng=rng) for part in shift.parts] or None
