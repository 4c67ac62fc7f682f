"""How far names can be trusted: agreement of repeats and of annotators, weak latents, and names as a source of noise.

Categories are given as a table [latents, raters] of taxonomy codes, ``""`` or ``"none"`` for "none of them" and None where
there is no answer. κ is Fleiss' for repeats (statsmodels) and Cohen's for two annotators (scikit-learn), with bootstrap intervals over
latents.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modeldiff_eval.annotation import Annotation, Evidence
from modeldiff_eval.errors import AnnotationError
from modeldiff_eval.records import ClassRow, Estimate, Kappa
from modeldiff_eval.stats import estimate
from modeldiff_eval.stats_shares import over_seeds

LEAST_LATENTS = 5
"""Latents below which κ is null: a bootstrap over fewer says nothing."""
KAPPA_DRAWS = 1000
_PICKS = 64
Level = Literal["classes", "categories"]
Code = str | None
Array = NDArray[np.float64]


def at_level(code: Code, level: Level) -> Code:
    """A category's class, or the category itself; None stays, "none" is ""."""
    if code is None or code in ("", "none"):
        return code and ""
    return code.split(".")[0] if level == "classes" else code


def fleiss(
    categories: Sequence[Sequence[Code]], *, of: str, level: Level, rng: np.random.Generator, draws: int = KAPPA_DRAWS
) -> Kappa:
    """Fleiss' κ over the latents that every repeat answered.

    Args:
        categories: [latents, repeats] codes.
        of: whose repeats, in words.
    """
    rows = [[at_level(code, level) or "" for code in row] for row in categories if None not in row]
    raters = len(rows[0]) if rows else 0
    names = {name: i for i, name in enumerate(sorted({code for row in rows for code in row}))}
    table = np.zeros((len(rows), len(names)), dtype=np.int64)
    for i, row in enumerate(rows):
        for code in row:
            table[i, names[code]] += 1

    def point() -> float:
        from statsmodels.stats.inter_rater import fleiss_kappa

        with np.errstate(invalid="ignore", divide="ignore"):
            return float(fleiss_kappa(table))

    def over(times: Array) -> Array:
        agreed = times @ ((table**2).sum(axis=1) - raters) / (len(rows) * raters * (raters - 1))
        return _above_chance(agreed, ((times @ table / (len(rows) * raters)) ** 2).sum(axis=1))

    usable = len(rows) if raters > 1 else 0
    return Kappa(
        of=of,
        statistic="Fleiss",
        level=level,
        raters=raters,
        latents=len(rows),
        agree=float((table.max(axis=1) == raters).mean()) if usable else None,
        value=_bootstrapped(point, over, usable, draws=draws, rng=rng),
    )


def cohen(
    first: Sequence[Code],
    second: Sequence[Code],
    *,
    of: str,
    level: Level,
    rng: np.random.Generator,
    draws: int = KAPPA_DRAWS,
) -> Kappa:
    """Cohen's κ of two annotators over the latents that both answered [latents]."""
    pairs = [
        (at_level(a, level) or "", at_level(b, level) or "")
        for a, b in zip(first, second, strict=True)
        if a is not None and b is not None
    ]
    names = {name: i for i, name in enumerate(sorted({code for pair in pairs for code in pair}))}
    a, b = (np.array([names[pair[i]] for pair in pairs], dtype=np.int64) for i in (0, 1))

    def point() -> float:
        from sklearn.metrics import cohen_kappa_score

        with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
            warnings.simplefilter("ignore")  # One label only: κ is 0/0, which is NaN here.
            return float(cohen_kappa_score(a, b))

    def over(times: Array) -> Array:
        each = np.eye(len(names))
        chance = ((times @ each[a]) * (times @ each[b])).sum(axis=1) / len(pairs) ** 2
        return _above_chance(times @ (a == b) / len(pairs), chance)

    return Kappa(
        of=of,
        statistic="Cohen",
        level=level,
        raters=2,
        latents=len(pairs),
        agree=float((a == b).mean()) if pairs else None,
        value=_bootstrapped(point, over, len(pairs), draws=draws, rng=rng),
    )


def _above_chance(agreed: Array, chance: Array) -> Array:
    """κ from shares of agreement; NaN where chance alone agrees always (one category only)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (agreed - chance) / (1 - chance)


def _bootstrapped(
    point: Callable[[], float], over: Callable[[Array], Array], n: int, *, draws: int, rng: np.random.Generator
) -> Estimate:
    """Value and percentile interval over latents; null where it is undefined (all in one category, or too few latents).

    Args:
        point: the library's κ of all latents.
        over: the same of resamples, from how often each latent is in each of them [draws, n] to [draws]: the library's functions
            take one resample a call, which is a thousand times their checks.
    """
    if n < LEAST_LATENTS:
        return estimate(math.nan, math.nan, math.nan)
    value = point()
    drawn = over(np.array([np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(draws)], dtype=np.float64))
    if not math.isfinite(value) or np.isnan(drawn).mean() > 0.025:
        return estimate(value, math.nan, math.nan)
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return estimate(value, min(float(low), value), max(float(high), value))


def halves(evidence: Sequence[Evidence]) -> tuple[list[Evidence], list[Evidence]]:
    """Every latent's examples dealt into two disjoint halves by rank (1, 3, 5, … and 2, 4, 6, …), as even as can be.

    A deterministic annotator has no repeats; naming both halves says how much its answer hangs on which documents it saw.
    """
    sides = [[item.model_copy(update={"examples": item.examples[i::2]}) for item in evidence] for i in (0, 1)]
    return sides[0], sides[1]


def codes_of(annotations: Sequence[Annotation]) -> list[Code]:
    """Category codes in order; "" is none of them, None is a failure."""
    return [None if a.failure is not None else a.category or "" for a in annotations]


def read_codes(path: Path) -> dict[int, Code]:
    """Category of every latent from ``annotations.jsonl`` (the last line of a latent counts) or a CSV with the columns latent and category.

    Raises:
        AnnotationError: the file cannot be read, or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"The annotations {path} cannot be read: {error}") from error
    found: dict[int, Code] = {}
    if text.lstrip().startswith("{"):
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                item = Annotation.model_validate_json(line)
            except ValueError:
                if number == 1 + text.count("\n"):  # The torn end of a crash.
                    continue
                raise AnnotationError(f"Line {number} of {path} is no annotation; give an annotations.jsonl.") from None
            found[item.latent] = codes_of([item])[0]
        return found
    try:
        rows = list(csv.DictReader(text.splitlines()))
    except csv.Error as error:
        raise AnnotationError(f"{path} is not CSV: {error}.") from error
    if not rows or not {"latent", "category"} <= set(rows[0]):
        raise AnnotationError(f"{path} is neither an annotations.jsonl nor a CSV with the columns latent and category.")
    for number, row in enumerate(rows, start=2):
        try:
            found[int(row["latent"])] = (row["category"] or "").strip()
        except (TypeError, ValueError):
            raise AnnotationError(f"Line {number} of {path}: {row.get('latent')!r} is no latent's number.") from None
    return found


def annotator_agreement(
    first: Mapping[int, Code], second: Mapping[int, Code], *, of: str, rng: np.random.Generator
) -> list[Kappa]:
    """Cohen's κ of two annotators over the latents that both named, by class and by category.

    Raises:
        AnnotationError: they have no latent in common.
    """
    common = sorted(set(first) & set(second))
    if not common:
        raise AnnotationError(f"{of}: the two annotations have no latent in common; are they of the same run?")
    a, b = [first[j] for j in common], [second[j] for j in common]
    levels: tuple[Level, Level] = ("classes", "categories")
    return [cohen(a, b, of=of, level=level, rng=own) for level, own in zip(levels, rng.spawn(2), strict=True)]


class Repeated(NamedTuple):
    """Repeated answers for one side's annotated specific latents: group index [latents, repeats] (−1 none), family [latents]."""

    labels: NDArray[np.int64]
    families: NDArray[np.int64]


def over_repeats(
    rows: Sequence[ClassRow], base: Repeated, tuned: Repeated, *, draws: int, rng: np.random.Generator
) -> list[ClassRow]:
    """Rows whose interval of ``diff`` also covers what the annotator happened to answer.

    :data:`_PICKS` times one repeat is drawn for each latent, and families are resampled within each such naming; the
    draws are pooled. Values and p stay; no interval gets narrower; a verdict is unclear where the interval then holds 0.

    Raises:
        AnnotationError: the repeats of the sides are not tables of one row for each family number.
    """
    pick_rng, draw_rng = rng.spawn(2)
    for side in (base, tuned):
        if side.labels.ndim != 2 or len(side.labels) != len(side.families) or not side.labels.shape[1]:
            raise AnnotationError(
                f"Repeats have shape {side.labels.shape} for {len(side.families)} latents; give [latents, repeats]."
            )
    sides: list[tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]] = [
        (_picked(base, pick_rng), _picked(tuned, pick_rng), base.families, tuned.families) for _ in range(_PICKS)
    ]
    return over_seeds(rows, sides, draws=draws, rng=draw_rng)[0]


def _picked(side: Repeated, rng: np.random.Generator) -> NDArray[np.int64]:
    chosen = rng.integers(side.labels.shape[1], size=len(side.labels))
    return side.labels[np.arange(len(side.labels)), chosen]
