"""Was the plant named? A finished run's first latents against an organism's file, beside a shuffled-label baseline.

An organism is *named* by a ranking when a label or description of its first five latents matches the file's label
pattern, or when at least half of these latents' top documents carry the plant. The baseline deals the labels and
documents out anew among all live latents: how often would five latents drawn blindly have been counted as naming it?
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modeldiff_eval.errors import EvidenceError, UsageError, did_you_mean
from modeldiff_eval.organism_files import Organism
from modeldiff_eval.records import Record
from modeldiff_eval.truth_report import Proportion, proportion

if TYPE_CHECKING:
    import pandas as pd

TOP = 5
TOP_DOCUMENTS = 20
DOCUMENT_SHARE = 0.5
SHUFFLES = 2000
DEFAULT_RANK = "rank_key"
RANKS = (
    *("rank_key", "delta_norm", "nu_error", "nu_error_low", "nu_error_high"),
    *("nu_reconstruction", "nu_reconstruction_low", "nu_reconstruction_high"),
    *("rank_nu_error", "rank_nu_error_low", "rank_nu_error_high", "rank_nu_reconstruction"),
    *("energy", "graded_weight", "firings", "frequency", "confidence"),
    *("shift", "shift_low", "shift_high", "shift_null", "shift_bar"),
)
"""The numbers that ``latents.parquet`` has of every latent, by which latents can be ranked."""


class TopHit(Record):
    """One of the first latents: what it is called, and how many of its top documents carry the plant."""

    latent: int
    value: float
    label: str | None
    category: str | None
    label_matches: bool
    documents: Proportion


class Baseline(Record):
    """Shares of the shuffles that would have counted; ``named`` is by label or by documents."""

    named: Proportion
    by_label: Proportion
    by_documents: Proportion
    class_hit: Proportion
    category_hit: Proportion | None


class Score(Record):
    """One ranking of one run. ``by_documents`` pools the top documents of the first five latents.

    ``by_one_latent`` is the laxer reading, half of the documents of any one of them; it does not count for ``named``.
    ``category_hit`` is None where the file expects no category.
    """

    ranking: str
    named: bool
    by_label: bool
    by_documents: bool
    by_one_latent: bool
    documents: Proportion
    class_hit: bool
    category_hit: bool | None
    ranked: int
    live: int
    first: list[TopHit]
    baseline: Baseline


@dataclass(frozen=True)
class Bundles:
    """What is known of each live latent of one side, in the table's order; every array is [live latents].

    ``carrying`` and ``documents``: top documents that carry the plant, and how many there are.
    """

    latent: NDArray[np.int64]
    label_matches: NDArray[np.bool_]
    carrying: NDArray[np.int64]
    documents: NDArray[np.int64]
    in_class: NDArray[np.bool_]
    in_category: NDArray[np.bool_]
    label: list[str | None]
    category: list[str | None]

    def by_documents(self, which: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[draws] Whether half of the documents of the latents ``which`` [draws, top] carry the plant, pooled."""
        return np.asarray(self.carrying[which].sum(1) >= DOCUMENT_SHARE * self.documents[which].sum(1))


def require_rank(rank: str) -> None:
    """Refuse a ranking that no run has.

    Raises:
        UsageError: with the nearest one.
    """
    if rank not in RANKS:
        raise UsageError(
            f"Latents cannot be ranked by {rank!r}.{did_you_mean(rank, RANKS)} --rank is one of {', '.join(RANKS)}."
        )


def score(
    organism: Organism,
    latents: pd.DataFrame,
    examples: pd.DataFrame,
    *,
    side: str = "tuned",
    rank: str = DEFAULT_RANK,
    ascending: bool = True,
    top: int = TOP,
    shuffles: int = SHUFFLES,
    rng: np.random.Generator,
) -> Score:
    """Score one ranking of one side's latents.

    Args:
        latents, examples: ``latents.parquet`` and ``examples.parquet`` of a run.
        rank: the column to order by, or ``"shift"``: the largest relative activation shift, up or down, among latents
            whose interval lies outside of what the null control shows.
        ascending: whether small values of ``rank`` come first; not used by ``"shift"``.

    Raises:
        EvidenceError: a column is missing, the run has no latent of that side, or none with examples.
        UsageError: a pattern of the file takes too long.
    """
    own = _side(latents, side, rank)
    bundles = _bundles(organism, own, examples)
    place = {int(latent): i for i, latent in enumerate(bundles.latent)}
    order, values = (_shift_order if rank == "shift" else _column_order)(own, rank, ascending)
    kept = [(place[latent], value) for latent, value in zip(order, values, strict=True) if latent in place]
    chosen = np.array([i for i, _ in kept[:top]], dtype=np.int64)
    first = [
        TopHit(
            latent=int(bundles.latent[i]), value=value, label=bundles.label[i], category=bundles.category[i],
            label_matches=bool(bundles.label_matches[i]),
            documents=proportion(int(bundles.carrying[i]), int(bundles.documents[i])),
        )
        for i, value in kept[:top]
    ]  # fmt: skip
    pooled = proportion(int(bundles.carrying[chosen].sum()), int(bundles.documents[chosen].sum()))
    by_label = any(hit.label_matches for hit in first)
    by_documents = _half(pooled)
    return Score(
        ranking=rank,
        named=by_label or by_documents,
        by_label=by_label,
        by_documents=by_documents,
        by_one_latent=any(_half(hit.documents) for hit in first),
        documents=pooled,
        class_hit=bool(bundles.in_class[chosen].any()),
        category_hit=None if organism.category is None else bool(bundles.in_category[chosen].any()),
        ranked=len(kept),
        live=len(bundles.latent),
        first=first,
        baseline=_baseline(organism, bundles, top=min(top, len(bundles.latent)), shuffles=shuffles, rng=rng),
    )


def read_run(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``latents.parquet`` and ``examples.parquet`` of a finished run.

    Raises:
        EvidenceError: one of them is missing or cannot be read.
    """
    import pandas as pd

    tables = []
    for name in ("latents", "examples"):
        path = folder / f"{name}.parquet"
        try:
            tables.append(pd.read_parquet(path))
        except (OSError, ValueError) as error:
            raise EvidenceError(f"Cannot read {path}: {error}. Is {folder} the folder of a finished run?") from error
    return tables[0], tables[1]


def _half(share: Proportion) -> bool:
    return share.value is not None and share.value >= DOCUMENT_SHARE


def _side(latents: pd.DataFrame, side: str, rank: str) -> pd.DataFrame:
    need = ["model", "crosscoder", "latent", "label", "description", "category"]
    need += ["shift", "shift_low", "shift_high"] if rank == "shift" else [rank]
    for name in need:
        if name not in latents.columns:
            raise EvidenceError(
                f"The table of latents has no column {name!r}.{did_you_mean(name, map(str, latents.columns))} "
                "Latents are ranked by one of its columns."
            )
    own = latents[latents["model"] == side]
    if own.empty:
        raise EvidenceError(
            f"The run has no latents of the side {side!r}; it has {', '.join(sorted(set(latents['model'])))}."
        )
    return own


def _column_order(own: pd.DataFrame, rank: str, ascending: bool) -> tuple[list[int], list[float]]:
    values = own[rank].to_numpy(dtype=np.float64)
    order = np.argsort(values if ascending else -values, kind="stable")
    order = order[~np.isnan(values[order])]
    return [int(own["latent"].iloc[i]) for i in order], [float(values[i]) for i in order]


def _shift_order(own: pd.DataFrame, rank: str, ascending: bool) -> tuple[list[int], list[float]]:
    """Largest relative change first, of those whose interval lies beyond the null control on either side.

    A bound that is not defined (few resamples had activations in base) counts as infinite.
    """
    value, low, high = (own[name].to_numpy(dtype=np.float64) for name in ("shift", "shift_low", "shift_high"))
    null = own["shift_null"].to_numpy(dtype=np.float64) if "shift_null" in own.columns else np.zeros(len(own))
    null = np.where(np.isnan(null), 0.0, null)
    up = np.where(np.isnan(low), -np.inf, low) > null
    down = np.where(np.isnan(high), np.inf, high) < -null
    order = np.argsort(-np.abs(value), kind="stable")
    order = order[(up | down)[order] & ~np.isnan(value[order])]
    return [int(own["latent"].iloc[i]) for i in order], [float(value[i]) for i in order]


def _bundles(organism: Organism, own: pd.DataFrame, examples: pd.DataFrame) -> Bundles:
    for name in ("crosscoder", "latent", "rank", "text"):
        if name not in examples.columns:
            raise EvidenceError(f"The table of examples has no column {name!r}. Is it the examples.parquet of a run?")
    pairs = set(own["crosscoder"])
    shown = examples[examples["crosscoder"].isin(pairs) & (examples["rank"] < TOP_DOCUMENTS)]
    known: dict[str, bool] = {}
    carrying: dict[int, int] = {}
    documents: dict[int, int] = {}
    for latent, text in zip(shown["latent"], shown["text"], strict=True):
        if text not in known:
            known[text] = organism.carried_by(str(text))
        documents[int(latent)] = documents.get(int(latent), 0) + 1
        carrying[int(latent)] = carrying.get(int(latent), 0) + known[text]
    live = own[own["latent"].isin(documents.keys())]
    if live.empty:
        raise EvidenceError("No latent of this run has examples; nothing can be said about what its latents fire on.")
    latent = live["latent"].to_numpy(dtype=np.int64)
    label, described, category = ([_text(x) for x in live[name]] for name in ("label", "description", "category"))
    return Bundles(
        latent=latent,
        label_matches=np.array([organism.named_by(*pair) for pair in zip(label, described, strict=True)], dtype=bool),
        carrying=np.array([carrying[int(i)] for i in latent], dtype=np.int64),
        documents=np.array([documents[int(i)] for i in latent], dtype=np.int64),
        in_class=np.array([c is not None and c.split(".")[0] == organism.class_ for c in category], dtype=bool),
        in_category=np.array([c is not None and c == organism.category for c in category], dtype=bool),
        label=label,
        category=category,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _any(hits: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[draws] Whether one of each row's hits [draws, top] is True."""
    return np.asarray(hits.any(axis=1))


def _baseline(organism: Organism, bundles: Bundles, *, top: int, shuffles: int, rng: np.random.Generator) -> Baseline:
    """Five bundles drawn blindly without putting back, many times: what a permutation gives to the first five ranks."""
    if shuffles < 1:
        raise UsageError(f"shuffles = {shuffles}: the baseline needs at least one.")
    drawn = np.stack([rng.choice(len(bundles.latent), size=top, replace=False) for _ in range(shuffles)])
    by_label, by_documents = _any(bundles.label_matches[drawn]), bundles.by_documents(drawn)

    def share(hits: NDArray[np.bool_]) -> Proportion:
        return proportion(int(hits.sum()), shuffles)

    return Baseline(
        named=share(by_label | by_documents),
        by_label=share(by_label),
        by_documents=share(by_documents),
        class_hit=share(_any(bundles.in_class[drawn])),
        category_hit=None if organism.category is None else share(_any(bundles.in_category[drawn])),
    )
