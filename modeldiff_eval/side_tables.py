"""What was measured of the dictionaries, by the two models: specific latents, families and weights, and all of it as tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from modeldiff_eval import latents as measure
from modeldiff_eval.annotate import Annotation, Evidence
from modeldiff_eval.exchange_control import Control
from modeldiff_eval.families import families
from modeldiff_eval.graded import GradedView, Shifted, SideWeights, Weights, graded_shares
from modeldiff_eval.shift import Shift

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from modeldiff_eval.fit import Pair
    from modeldiff_eval.workspace import Workspace


@dataclass(frozen=True)
class Measured:
    """One dictionary's latents. ``nu`` by claim side (0 = specific to the first model, 1 = to the second).

    In tables, evidence and annotations a latent's number is ``offset`` + its place here. ``control``: None but for a dictionary
    of differences.
    """

    pair: Pair
    nu: dict[int, measure.Nu]
    delta_norm: NDArray[np.float64]
    firings: NDArray[np.int64]
    frequency: NDArray[np.float64]
    peaks: list[list[measure.Peak]]
    windows: list[list[measure.Window]]
    annotations: dict[int, Annotation]
    evidence: dict[int, Evidence]
    weights: dict[int, Weights]
    offset: int = 0
    control: Control | None = None

    def rank_key(self, claim: int) -> NDArray[np.float64]:
        """What orders candidates of one claim, smallest first; NaN for latents that are none.

        The upper limit of ν^ε on the ranking half. In a dictionary of differences minus what the latent explains of the difference
        in answers of its own model beyond answers of the other, for latents that are more than noise and of which the other has less.
        """
        if (nu := self.nu.get(claim)) is None:
            return np.full(len(self.firings), np.nan)
        if self.control is None:
            return nu.rank_error_high
        return np.where(self.control.shifted[claim], -self.control.rank[claim], np.nan)

    @property
    def dictionary(self) -> str:
        return "crosscoder" if self.control is None else "difference"

    @property
    def alive(self) -> NDArray[np.bool_]:
        return self.firings > 0


@dataclass(frozen=True)
class Side:
    """One model of the comparison: the dictionary its specific latents live in, and which they are."""

    role: str
    measured: Measured
    claim: int
    specific: NDArray[np.int64]
    nearest: NDArray[np.int64]
    shift: Shift | None
    null: Shifted | None = None

    @property
    def nu(self) -> measure.Nu | None:
        return self.measured.nu.get(self.claim)


def make_side(work: Workspace, role: str, measured: Measured, claim: int, shift: Shift | None) -> Side:
    """Specific latents by the thresholds, and the nearest candidates by the upper limit of ν^ε on the ranking half.

    In a difference dictionary: |ν^ε| below its threshold among the latents that the exchange control lets through, and shifted
    where the interval of ν^ε lies within ±1. Without ν (the dictionary of the activation view beside one of differences)
    there are none of either.
    """
    limits = work.settings.thresholds
    nu = measured.nu.get(claim)
    if nu is None:
        none = np.zeros(0, dtype=np.int64)
        return Side(role, measured, claim, none, none, shift)
    null = None
    if (control := measured.control) is not None:
        passing = nu.absent(limits.nu_error) & control.shifted[claim]
        if control.null_rate is not None:
            rate = work.settings.false_discovery_rate
            null = Shifted(control.shifted[claim], control.null_rate, 1.0, 0.0, rate)
    else:
        passing = nu.specific(error=limits.nu_error, reconstruction=limits.nu_reconstruction)
    key = measured.rank_key(claim)
    order = np.argsort(np.where(np.isnan(key), np.inf, key), kind="stable")
    nearest = order[: work.settings.annotate_top]
    nearest = nearest[~np.isnan(key[nearest])]
    return Side(role, measured, claim, np.flatnonzero(passing), nearest, shift, null)


def asked_latents(side: Side) -> NDArray[np.int64]:
    """Places of the latents that a side's numbers rest on: specific, nearest candidates, and of a graded weight."""
    weights = side.measured.weights.get(side.claim)
    graded = np.zeros(0, dtype=np.int64) if weights is None else weights.positive
    return np.unique(np.concatenate([side.specific, side.nearest, graded])).astype(np.int64)


def side_families(sides: list[Side]) -> list[NDArray[np.int64]]:
    """Family of every specific latent, matched over both sides by decoder direction in the side's own model.

    Co-activation is used within one dictionary only, where it is cheap: top documents shared by both latents.
    """
    directions = [_directions(side, side.specific) for side in sides]
    activity = [_document_profile(side) for side in sides]
    width = max((a.shape[1] for a in activity), default=0)
    padded = np.concatenate([np.pad(a, ((0, 0), (0, width - a.shape[1]))) for a in activity])
    joint = families(np.concatenate(directions), padded if len(padded) else None)
    return np.split(joint, np.cumsum([len(side.specific) for side in sides])[:-1])


def _directions(side: Side, latents: NDArray[np.int64]) -> NDArray[np.float64]:
    """[latents, d_model] decoder rows in the side's own model."""
    decoder = side.measured.pair.crosscoder.W_dec.view(side.measured.pair.crosscoder.n_latents, 2, -1)
    rows: NDArray[np.float64] = decoder[torch.from_numpy(latents), side.claim].double().numpy()
    return rows


def graded_view(sides: list[Side], groups: dict[str, list[str]], *, draws: int, seed: int) -> GradedView:
    """Class and category shares with every annotated latent weighted by its ν^ε (:mod:`modeldiff_eval.graded`).

    Families of the latents with weight > 0 are by decoder direction alone, matched over both sides.

    Args:
        groups: "classes" and "categories" → codes.
    """
    weights = [side.measured.weights[side.claim] for side in sides]
    positive = [w.positive for w in weights]
    family = families(np.concatenate([_directions(s, p) for s, p in zip(sides, positive, strict=True)]), None)
    both: dict[str, list[SideWeights]] = {level: [] for level in groups}
    own = np.split(family, [len(positive[0])])
    for side, w, latents, number in zip(sides, weights, positive, own, strict=True):
        named = [side.measured.annotations.get(side.measured.offset + int(j)) for j in latents]
        known = np.array([a is not None and a.failure is None for a in named], dtype=bool)
        for level, codes in groups.items():
            index = {code: i for i, code in enumerate(codes)}
            category = [a.category if a and a.category else "" for a in named]
            label = [index.get(c.split(".")[0] if level == "classes" else c, -1) for c in category]
            both[level].append(
                SideWeights(
                    np.array(label, dtype=np.int64)[known], w.weight[latents][known], number[known], w.draws[:, known]
                )
            )
    shares = {
        level: graded_shares(base, tuned, len(groups[level]), draws=draws, rng=np.random.default_rng([seed, 25, i]))
        for i, (level, (base, tuned)) in enumerate(both.items())
    }
    return GradedView(shares, {side.role: w.counts() for side, w in zip(sides, both["classes"], strict=True)})


def _document_profile(side: Side) -> NDArray[np.float64]:
    """[specific, documents] largest activation of each latent in its top documents."""
    documents = max((peak.document for own in side.measured.peaks for peak in own), default=-1) + 1
    profile = np.zeros((len(side.specific), documents))
    for row, latent in enumerate(side.specific):
        for peak in side.measured.peaks[latent]:
            profile[row, peak.document] = peak.activation
    return profile


def seed_table(work: Workspace, measured: list[Measured], claims: list[tuple[int, ...]]) -> pd.DataFrame:
    """The table of another seed's crosscoders, for counts of specific latents by class; without activation shifts."""
    sides = [
        make_side(work, "base", measured[0], claims[0][0], None),
        make_side(work, "tuned", measured[-1], claims[-1][-1], None),
    ]
    return latent_table(sides, side_families(sides))


def latent_table(sides: list[Side], family: list[NDArray[np.int64]]) -> pd.DataFrame:
    """One row for each (side, latent): everything measured, NaN where undefined."""
    import pandas as pd

    frames = []
    for side, own in zip(sides, family, strict=True):
        m, n = side.measured, len(side.measured.firings)
        unknown = np.full(n, np.nan)
        nu = side.nu or measure.Nu(side.claim, *[unknown] * 10)
        shift = (
            [unknown] * 4
            if side.shift is None
            else [side.shift.value, side.shift.low, side.shift.high, side.shift.null]
        )
        number = np.full(n, -1)
        number[side.specific] = own
        named = [m.annotations.get(m.offset + j) for j in range(n)]
        frames.append(
            pd.DataFrame(
                {
                    "model": side.role,
                    "crosscoder": f"{m.pair.first}--{m.pair.second}",
                    "dictionary": m.dictionary,
                    "latent": m.offset + np.arange(n),
                    "delta_norm": m.delta_norm,
                    "nu_error": nu.error, "nu_error_low": nu.error_low, "nu_error_high": nu.error_high,
                    "nu_reconstruction": nu.reconstruction, "nu_reconstruction_low": nu.reconstruction_low,
                    "nu_reconstruction_high": nu.reconstruction_high,
                    "rank_nu_error": nu.rank_error, "rank_nu_reconstruction": nu.rank_reconstruction,
                    "rank_nu_error_high": nu.rank_error_high, "rank_nu_error_low": nu.rank_error_low,
                    "rank_key": m.rank_key(side.claim),
                    "changed": np.full(n, None) if m.control is None else m.control.changed,
                    "energy": unknown if m.control is None else m.control.energy,
                    "specific": np.isin(np.arange(n), side.specific),
                    "family": number,
                    "shifted": pd.array(side.null.shifted if side.null else [None] * n, dtype="boolean"),
                    "graded_weight": m.weights[side.claim].weight if m.weights else np.zeros(n),
                    "firings": m.firings, "frequency": m.frequency,
                    "shift": shift[0], "shift_low": shift[1], "shift_high": shift[2], "shift_null": shift[3],
                    "shift_bar": unknown if side.shift is None else side.shift.bars,
                    "shift_changed": [None] * n if side.shift is None else side.shift.changed_column(),
                    "label": [a.label if a else None for a in named],
                    "description": [a.description if a else None for a in named],
                    "category": [a.category if a else None for a in named],
                    "confidence": [a.confidence if a else None for a in named],
                    "annotation_failure": [a.failure if a else "not annotated" for a in named],
                }
            )
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def claimed_rows(table: pd.DataFrame, measured: Measured) -> pd.DataFrame:
    """The rows of one dictionary, with latents numbered by their place in it."""
    own = table[table["dictionary"] == measured.dictionary]
    return own.assign(latent=own["latent"] - measured.offset)


def joined(*tables: pd.DataFrame) -> pd.DataFrame:
    """Tables of the same columns below each other."""
    import pandas as pd

    return pd.concat(
        [table.astype({"changed": object, "shifted": object, "shift_changed": object}) for table in tables],
        ignore_index=True,
    )


def example_table(measured: list[Measured]) -> pd.DataFrame:
    """Top examples of every latent, one row each."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "crosscoder": f"{m.pair.first}--{m.pair.second}", "dictionary": m.dictionary, "latent": latent, "rank": rank, "document": e.document,
                "activation": peak.activation, "text": e.text, "tokens": e.tokens, "activations": e.activations,
            }
            for m in measured
            for latent, item in m.evidence.items()
            for rank, (e, peak) in enumerate(zip(item.examples, m.peaks[latent - m.offset], strict=True))
        ]
    )  # fmt: skip
