"""May two cards be compared rule by rule? Only cards that measure the same thing in the same way."""

from __future__ import annotations

from modeldiff_eval.errors import UsageError
from modeldiff_eval.records import Card, ModelInfo
from modeldiff_eval.render_text import visible


def require_comparable(card: Card, baseline: Card) -> list[str]:
    """What differs between a card and its baseline but does not forbid a comparison, as sentences.

    Raises:
        UsageError: another design, method, base, anchor, taxonomy or layer: a difference of their numbers means nothing.
    """
    refused = [
        *_differs("design", card.mode, baseline.mode),
        *_differs("method", card.method, baseline.method),
        *_differs("base", _model(card.models.base), _model(baseline.models.base)),
        *_differs("anchor", _model(card.models.anchor), _model(baseline.models.anchor)),
        *_taxonomy(card, baseline),
        *_layers(card, baseline),
    ]
    if refused:
        raise UsageError(
            f"The baseline cannot be compared with this card: {'; '.join(refused)}. "
            "Make the baseline again in the same way, or name another one."
        )
    own, other = card.provenance, baseline.provenance
    noted = [
        *_differs("corpus", own.corpus, other.corpus),
        *_differs("tokens", own.tokens, other.tokens),
        *_differs("annotator", own.annotator, other.annotator),
        *_differs("package", own.package, other.package),
    ]
    return [f"The baseline has {difference}." for difference in noted]


def _differs(what: str, own: object, other: object) -> list[str]:
    if own == other:
        return []
    return [f"another {what} ({visible(str(other), limit=120)}, here {visible(str(own), limit=120)})"]


def _model(info: ModelInfo | None) -> str:
    if info is None:
        return "none"
    return " ".join([info.id, *(f"adapter {info.adapter}" for _ in [0] if info.adapter), info.revision or ""]).strip()


def _taxonomy(card: Card, baseline: Card) -> list[str]:
    """Classes must be the same; of categories, which a card may list in part, those that both list."""
    if [(row.code, row.name) for row in card.classes] != [(row.code, row.name) for row in baseline.classes]:
        own, other = ("; ".join(f"{row.code} {row.name}" for row in c.classes) for c in (card, baseline))
        return _differs("taxonomy", own, other)
    names = {row.code: row.name for row in baseline.categories}
    for row in card.categories:
        if names.get(row.code, row.name) != row.name:
            return _differs("taxonomy", f"{row.code} {row.name}", f"{row.code} {names[row.code]}")
    return []


def _layers(card: Card, baseline: Card) -> list[str]:
    own, other = ({coder.layer for coder in c.crosscoders} for c in (card, baseline))
    return _differs("layer", sorted(own), sorted(other)) if own and other else []
