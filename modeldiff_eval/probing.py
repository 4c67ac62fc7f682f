"""Probing baseline: how well a linear probe reads each category from either model's activations (the paper's Appendix E).

One document is one row, the mean of its residuals after block L; its label is the category that the corpus states. Probes
are trained on training documents and judged on held-out ones, and no prompt is on both sides. Both models are read on the
same documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from modeldiff_eval.activations import Activations
from modeldiff_eval.errors import CorpusError, MissingDependencyError
from modeldiff_eval.records import Estimate, ProbeRow, ProbingPanel
from modeldiff_eval.stats import benjamini_hochberg, estimate, verdict

C = 0.01
"""Inverse strength of the ridge on standardised coordinates: strong, for there are about as many coordinates as documents."""
MIN_TRAIN, MIN_HELDOUT = 16, 8
DRAWS = 2000
POOLING = "mean over the document's tokens"
_ROWS = 8192


@dataclass(frozen=True)
class Labelled:
    """Documents with a category. ``features``: one [documents, d_model] for base and one for tuned."""

    features: tuple[Float[np.ndarray, "documents d_model"], Float[np.ndarray, "documents d_model"]]
    category: list[str]
    prompt: list[str]
    heldout: Bool[np.ndarray, " documents"]


def pooled(
    rows: Activations, tokens: Int[Tensor, " tokens"], document: Int[np.ndarray, " tokens"], documents: int
) -> Float[np.ndarray, "documents d_model"]:
    """Mean of every document's rows; NaN where it has none.

    Args:
        tokens: rows that count. ``document``: the document of each of them.
    """
    mapped, owner = rows.mapped(), torch.from_numpy(document.astype(np.int64))
    total = torch.zeros(documents, rows.d_model)
    for start in range(0, len(tokens), _ROWS):
        part = slice(start, start + _ROWS)
        total.index_add_(0, owner[part], mapped[tokens[part]].float())
    out: np.ndarray[Any, Any] = (total / torch.bincount(owner, minlength=documents)[:, None]).numpy()
    return out


def probing(
    data: Labelled,
    classes: Sequence[tuple[str, str]],
    categories: Sequence[tuple[str, str]],
    *,
    layer: int,
    draws: int = DRAWS,
    rng: np.random.Generator,
) -> ProbingPanel:
    """Probe every class and category that has documents enough.

    Args:
        classes, categories: (code, name) in the taxonomy's order.

    Raises:
        CorpusError: too few documents of any two categories. MissingDependencyError: no scikit-learn.
    """
    heldout = data.heldout
    prompts, owner = np.unique(np.asarray(data.prompt)[heldout], return_inverse=True)
    n = len(prompts)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=draws)[:, owner] if n else np.zeros((draws, 0))
    levels = []
    for codes, label in ((classes, [c.split(".")[0] for c in data.category]), (categories, data.category)):
        levels.append(_level(data, codes, label, weights.astype(np.float64)))
    (class_rows, _, _), (rows, points, drawn) = levels
    if not rows:
        raise CorpusError(
            f"Probing needs a category with at least {MIN_TRAIN} training and {MIN_HELDOUT} held-out documents, and as many of other categories; "
            f"the text has {int((~heldout).sum())} training and {int(heldout.sum())} held-out documents with a category. Give more text with a "
            "'category', and do not stream it."
        )
    known = ~np.isnan(drawn).all(axis=(0, 1))  # A resample may hold no category at all.
    means, spread = points.mean(0), np.nanmean(drawn[..., known], axis=0)
    base, tuned = (_estimate(means[i], spread[i]) for i in (0, 1))
    diff = _estimate(means[1] - means[0], spread[1] - spread[0])
    said = (
        f"Probing would have said: {len(rows)} categories can be read from base with a mean AUC of {means[0]:.3f} and from tuned with "
        f"{means[1]:.3f} (difference {_signed(float(means[1] - means[0]))}, 95 % {_range(diff)}). "
        f"{_moved(rows, 'categories')} {_moved(class_rows, 'classes')}"
    )
    return ProbingPanel(
        said=said, layer=layer, pooling=POOLING, documents_train=int((~heldout).sum()), documents_heldout=int(heldout.sum()),
        prompts_heldout=len(prompts), base=base, tuned=tuned, diff=diff, classes=class_rows, categories=rows,
    )  # fmt: skip


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\u2212")


def _range(value: Estimate) -> str:
    return (
        "not defined" if value.low is None or value.high is None else f"{_signed(value.low)} to {_signed(value.high)}"
    )


def _moved(rows: Sequence[ProbeRow], what: str) -> str:
    moved = [f"{row.code} {row.name} ({_signed(row.diff.value or 0.0)})" for row in rows if row.verdict != "unclear"]
    names = f": {', '.join(moved[:4])}{' and others' if moved[4:] else ''}" if moved else ""
    return f"After Benjamini-Hochberg {len(moved) or 'none'} of {len(rows)} {what} read{'s' if len(moved) < 2 else ''} differently{names}."


def _level(
    data: Labelled,
    codes: Sequence[tuple[str, str]],
    label: Sequence[str],
    weights: Float[np.ndarray, "draws documents"],
) -> tuple[list[ProbeRow], Any, Any]:
    """Rows, AUC [rows, 2] and resampled AUC [rows, 2, draws] of one level, BH over its rows."""
    kept, points, drawn = [], [], []
    if data.heldout.all() or not data.heldout.any():
        return [], np.zeros((0, 2)), np.zeros((0, 2, 0))
    scaled = [_standardised(x, data.heldout) for x in data.features]
    for code, name in codes:
        own = np.asarray(label) == code
        counts = [int((part & side).sum()) for side in (~data.heldout, data.heldout) for part in (own, ~own)]
        if min(counts[:2]) < MIN_TRAIN or min(counts[2:]) < MIN_HELDOUT:
            continue
        scores = [_scores(train, test, own[~data.heldout]) for train, test in scaled]
        positive = own[data.heldout]
        points.append([float(weighted_auc(s, positive, np.ones((1, len(s))))[0]) for s in scores])
        drawn.append([weighted_auc(s, positive, weights) for s in scores])
        kept.append((code, name, counts[2]))
    p = [_bootstrap_p(d[1] - d[0]) for d in drawn]
    rows = []
    for (code, name, positives), value, draw, own_p, adjusted in zip(
        kept, points, drawn, p, benjamini_hochberg(p), strict=True
    ):
        difference = value[1] - value[0]
        rows.append(
            ProbeRow(
                code=code, name=name, n=int(data.heldout.sum()), positives=positives,
                base=_estimate(value[0], draw[0]), tuned=_estimate(value[1], draw[1]), diff=_estimate(difference, draw[1] - draw[0]),
                p=own_p, p_adjusted=adjusted, verdict=verdict(difference, adjusted),
            )
        )  # fmt: skip
    return rows, np.asarray(points), np.asarray(drawn)


def _standardised(
    x: Float[np.ndarray, "documents d_model"], heldout: Bool[np.ndarray, " documents"]
) -> tuple[Any, Any]:
    train = x[~heldout]
    mean, spread = train.mean(0), train.std(0)
    spread[~(spread > 0)] = 1.0
    return (train - mean) / spread, (x[heldout] - mean) / spread


def _scores(train: Any, test: Any, label: Bool[np.ndarray, " train"]) -> Float[np.ndarray, " test"]:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise MissingDependencyError("Probing needs scikit-learn: pip install scikit-learn.") from None
    probe = LogisticRegression(C=C, class_weight="balanced", max_iter=500).fit(train, label)
    out: np.ndarray[Any, Any] = probe.decision_function(test)
    return out


def weighted_auc(
    score: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], weights: Float[np.ndarray, "draws n"]
) -> Float[np.ndarray, " draws"]:
    """ROC AUC under each row of weights, ties counted half; NaN where one side has no weight."""
    order = np.argsort(score, kind="stable")
    _, rank = np.unique(score[order], return_inverse=True)
    w, own = weights[:, order], positive[order]
    starts = np.flatnonzero(np.diff(rank, prepend=-1))
    ups = np.add.reduceat(np.where(own, w, 0.0), starts, axis=1)
    downs = np.add.reduceat(np.where(own, 0.0, w), starts, axis=1)
    won = (ups * (np.cumsum(downs, axis=1) - downs / 2)).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        out: np.ndarray[Any, Any] = won / (ups.sum(1) * downs.sum(1))
    return out


def _estimate(value: float, drawn: Float[np.ndarray, " draws"]) -> Estimate:
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return estimate(value, min(low, value), max(high, value))


def _bootstrap_p(drawn: Float[np.ndarray, " draws"]) -> float:
    known = drawn[np.isfinite(drawn)]
    below, above = int((known <= 0).sum()), int((known >= 0).sum())
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + len(known))))
