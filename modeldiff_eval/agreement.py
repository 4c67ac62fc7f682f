"""Do the latents and the outside agree? A map from classes to outside measures, both verdicts, and their rank correlation.

The map is data (``data/agreement.yaml``; ``--agreement FILE`` takes another). The paper asks this question in prose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError
from scipy.stats import rankdata

from modeldiff_eval.errors import UsageError, did_you_mean
from modeldiff_eval.records import (
    AgreementRow,
    Arena,
    BenchmarkRow,
    ClassRow,
    Coverage,
    Estimate,
    RankCorrelation,
    Record,
    Verdict,
    problem_of,
)
from modeldiff_eval.resources import resource
from modeldiff_eval.taxonomy import Taxonomy
from modeldiff_eval.yaml_file import read_yaml

ARENA_NAMES: Mapping[str, str] = {
    "full": "overall",
    "if": "instruction_following",
    "multiturn": "multi_turn",
    "hard_6": "hard_prompts",
    "hard_english_6": "hard_prompts_english",
    "long_user": "longer_query",
}
"""LMArena's file names of categories → the names its site shows."""
FEWEST = 6
"""Pairs below which a rank correlation is null: with so few, any order is likely by chance."""
DRAWS = 4000
_OPPOSITE: Mapping[Verdict, Verdict] = {"up": "down", "down": "up"}
Kind = Literal["arena", "benchmarks"]


class Pair(Record):
    """One line of the map; see ``data/agreement.yaml``."""

    code: str
    outside: str
    direction: Literal[-1, 1] = 1
    language: str | None = None


class AgreementMap(Record):
    """Which outside measures speak about which class or category."""

    version: Literal[1]
    pairs: list[Pair]


@cache
def packaged() -> AgreementMap:
    """The map of the packaged taxonomy."""
    return read_map(resource("data/agreement.yaml"), Taxonomy.load())


def map_for(file: str | None, taxonomy: Taxonomy) -> AgreementMap:
    """The map of a run: its own file, else the packaged lines whose code the taxonomy has under the same name."""
    if file is not None:
        return read_map(Path(file).expanduser(), taxonomy)
    ours, theirs = _names(Taxonomy.load()), _names(taxonomy)
    return AgreementMap(version=1, pairs=[p for p in packaged().pairs if theirs.get(p.code) == ours[p.code]])


def read_map(path: Path, taxonomy: Taxonomy) -> AgreementMap:
    """A map from a file.

    Raises:
        UsageError: it cannot be read, a field is wrong, a code is not in the taxonomy, or a pair stands there twice.
    """
    try:
        found = AgreementMap.model_validate(read_yaml(path, "agreement map"))
    except ValidationError as error:
        raise UsageError(
            f"{path}: {problem_of(error)}. A line reads: {{code: B, outside: german, language: de}}."
        ) from error
    known, seen = _names(taxonomy), set[tuple[str, str]]()
    for pair in found.pairs:
        if pair.code not in known:
            raise UsageError(f"{path}: the taxonomy has no {pair.code!r}.{did_you_mean(pair.code, known)}")
        if (pair.code, pair.outside) in seen:
            raise UsageError(f"{path}: {pair.code} and {pair.outside} stand there twice; keep one.")
        seen.add((pair.code, pair.outside))
    return found


def _names(taxonomy: Taxonomy) -> dict[str, str]:
    return {item.code: item.name for level in (taxonomy.classes, taxonomy.categories) for item in level}


class Compared(Record):
    """One pair that exists: the latents' value and the outside's, both so that more means more of the class."""

    row: AgreementRow
    kind: Kind
    inside: float | None
    outside: float | None


def compare(
    chosen: AgreementMap,
    rows: Sequence[ClassRow],
    *,
    arena: Arena | None = None,
    benchmarks: Sequence[BenchmarkRow] = (),
    coverage: Coverage | None = None,
) -> list[Compared]:
    """Every pair of the map for which there are latents and an outside measure.

    The latents' side is the share of specific latents; where no share is defined, the activation view takes its place. A benchmark
    speaks by its headline metric, else its first; one of which less is better is turned round.
    ``agrees`` is None unless both verdicts are "up" or "down".

    Args:
        coverage: what the corpus holds; None where no corpus was read.
    """
    by_code = {row.code: row for row in rows}
    seen: dict[str, tuple[Kind, Verdict, float | None]] = {}
    less: set[str] = set()
    for bench in sorted(benchmarks, key=lambda row: not row.headline):
        if bench.task not in seen and bench.higher_is_better is False:
            less.add(bench.task)
        seen.setdefault(bench.task, ("benchmarks", bench.verdict, bench.delta.value))
    for found in arena.rows if arena else ():
        name = ARENA_NAMES.get(found.category, found.category)
        seen[name] = ("arena", found.verdict, found.delta.value)
    languages = None if coverage is None else {str(row["language"]) for row in coverage.languages if row["tokens"]}
    out = []
    for pair in chosen.pairs:
        own = by_code.get(pair.code)
        name = ARENA_NAMES.get(pair.outside, pair.outside)
        if own is None or name not in seen:
            continue
        inside, value = _inside(own)
        if pair.language is not None and languages is not None and pair.language not in languages:
            inside, value = "not covered", None
        kind, outside, delta = seen[name]
        turned = (pair.direction < 0) != (kind == "benchmarks" and name in less)
        if turned:
            outside, delta = _OPPOSITE.get(outside, outside), None if delta is None else -delta
        clear = {inside, outside} <= {"up", "down"}
        row = AgreementRow(
            class_=pair.code, category_or_task=name, latent_verdict=inside, outside_verdict=outside,
            agrees=inside == outside if clear else None, reversed=turned,
        )  # fmt: skip
        out.append(Compared(row=row, kind=kind, inside=value, outside=delta))
    return out


def _inside(row: ClassRow) -> tuple[Verdict, float | None]:
    if row.diff.value is None and row.activation is not None and row.verdict != "not covered":
        return row.activation.verdict, row.activation.change.value
    return row.verdict, row.diff.value


def rank_correlations(found: Sequence[Compared], *, rng: np.random.Generator) -> list[RankCorrelation]:
    """Spearman's ρ between the shifts of classes and the outside's, for LMArena (Elo) and for benchmarks apart: units differ.

    Categories are left out: an outside measure must not count twice. The interval (95 %) resamples pairs; pairs of one class
    share the class's value, so it is rather too narrow. Null, with the reason, for fewer than :data:`FEWEST` pairs or where one
    side does not vary.
    """
    out = []
    kinds: tuple[Kind, Kind] = ("arena", "benchmarks")
    for kind, own in zip(kinds, rng.spawn(2), strict=True):
        known = [c for c in found if c.kind == kind and "." not in c.row.class_ and None not in (c.inside, c.outside)]
        if not known:
            continue
        pairs = np.array([(c.inside, c.outside) for c in known], dtype=np.float64)
        out.append(_correlation(kind, pairs, len({c.row.class_ for c in known}), own))
    return out


def _correlation(kind: Kind, pairs: np.ndarray, codes: int, rng: np.random.Generator) -> RankCorrelation:
    n, nothing = len(pairs), Estimate(value=None, low=None, high=None)
    if n < FEWEST:
        return RankCorrelation(of=kind, n=n, classes=codes, value=nothing, note=f"{n} pairs are fewer than {FEWEST}")
    value = _spearman(pairs[None])[0]
    if not np.isfinite(value):
        return RankCorrelation(of=kind, n=n, classes=codes, value=nothing, note="one side does not vary")
    draws = _spearman(pairs[rng.integers(n, size=(DRAWS, n))])
    draws = draws[np.isfinite(draws)]
    enough = len(draws) >= 0.9 * DRAWS
    low, high = np.quantile(draws, (0.025, 0.975)).tolist() if enough else (None, None)
    return RankCorrelation(
        of=kind, n=n, classes=codes, value=Estimate(value=float(value), low=low, high=high),
        note=None if enough else "too many resamples in which one side does not vary",
    )  # fmt: skip


def _spearman(samples: np.ndarray) -> np.ndarray:
    """ρ of every sample of ``[draws, n, 2]``; NaN where one side does not vary."""
    ranks = rankdata(samples, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    first, second = ranks[..., 0], ranks[..., 1]
    scale = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 1e-12, (first * second).sum(1) / scale, np.nan)


def sentence(found: Sequence[Compared], correlations: Sequence[RankCorrelation]) -> str | None:
    """What the table says in one sentence, None where there is nothing to compare."""
    if not found:
        return None
    told = [c.row.agrees for c in found if c.row.agrees is not None]
    said = (
        f"Latents and outside measures: of {len(found)} pairs {sum(told)} agree, {len(told) - sum(told)} disagree, "
        f"and {len(found) - len(told)} cannot be told because one of both verdicts is open."
    )
    for item in correlations:
        name = {"arena": "LMArena", "benchmarks": "benchmarks"}[item.of]
        if item.value.value is None:
            said += f" Rank correlation with {name}: not given, {item.note} (n {item.n})."
        else:
            bounds = (
                "open"
                if item.value.low is None
                else f"{item.value.low:+.2f} to {item.value.high:+.2f}".replace("-", "−")
            )
            said += (
                f" Rank correlation with {name}: {item.value.value:+.2f} (95 % {bounds}; n {item.n} pairs of {item.classes} "
                "classes, over pairs)."
            ).replace("-", "−")
    return said
