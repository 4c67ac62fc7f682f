"""The outside evidence in a file of published counts: arena ratings by snapshot, and benchmark scores with their sources."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from modeldiff_eval.records import Record


class Spec(Record):
    """A part of the file: unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RatingSpec(Spec):
    """An Elo rating with its 95 % bounds; in the file also short, ``[rating, low, high]``."""

    rating: float
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> RatingSpec:
        if not self.low <= self.rating <= self.high:
            raise ValueError(f"rating {self.rating} lies outside its bounds {self.low} to {self.high}")
        return self


def _short(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if len(value) != 3:
        raise ValueError("a short rating is [rating, low, high]")
    return dict(zip(("rating", "low", "high"), value, strict=True))


Rating = Annotated[RatingSpec, BeforeValidator(_short)]


class ArenaRowSpec(Spec):
    """Ratings of both models in one arena category, without and (where published) with style control."""

    category: str
    base: Rating
    tuned: Rating
    base_style: Rating | None = None
    tuned_style: Rating | None = None


class SnapshotSpec(Spec):
    """The same table on another day: never mixed with the rows of the card, only set beside them."""

    snapshot: str
    rows: list[ArenaRowSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> SnapshotSpec:
        _distinct([row.category for row in self.rows], f"of the snapshot {self.snapshot}")
        return self


class ArenaSpec(Spec):
    """Arena evidence: rows written here, or ``table`` (and ``style_table``), files read by the arena module."""

    source: str | None = None
    snapshot: str | None = None
    rows: list[ArenaRowSpec] = Field(default_factory=list)
    other_snapshots: list[SnapshotSpec] = Field(default_factory=list)
    """Only beside ``rows``: of a ``table`` the other snapshots are read from the table."""
    table: str | None = None
    style_table: str | None = None
    base: str | None = None
    tuned: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> ArenaSpec:
        if bool(self.rows) == bool(self.table):
            raise ValueError("give either 'rows' or 'table'")
        if self.table and not (self.base and self.tuned):
            raise ValueError("'table' needs 'base' and 'tuned', the two models' names in that table")
        if self.rows and not self.source:
            raise ValueError("'rows' need a 'source'")
        if self.other_snapshots and not (self.rows and self.snapshot):
            raise ValueError("'other_snapshots' need 'rows' and the 'snapshot' these rows are of")
        _distinct([row.category for row in self.rows], "of the rows")
        _distinct([str(self.snapshot), *(item.snapshot for item in self.other_snapshots)], "of the snapshots")
        return self


class OtherScore(Spec):
    """What another publication gives for the same score, with its standard error or its 95 % bounds."""

    side: Literal["base", "tuned"]
    score: float
    se: float | None = Field(default=None, gt=0)
    bounds: tuple[float, float] | None = None
    source: str

    @model_validator(mode="after")
    def _one_error(self) -> OtherScore:
        if (self.se is None) == (self.bounds is None):
            raise ValueError("give either 'se' or 'bounds'")
        _inside(self.score, self.bounds, self.side)
        return self


class BenchmarkSpec(Spec):
    """A published benchmark score of both models in the metric's own unit.

    ``proportion`` is the score of a perfect model (1 or 100) when the score is a mean over ``n`` items: the interval is
    then Newcombe's, unpaired. ``graded`` says that an item may score anything from nothing to all; no mean of such items
    can vary more than one of right and wrong, so the interval is rather too wide. Otherwise bounds or standard errors
    give it; without any there is none, and ``missing`` says why.

    A score that nobody published is null, with ``missing``. ``excluded`` keeps a row out of the table and says why.
    """

    task: str
    metric: str
    n: Annotated[int, Field(strict=True, gt=0)]
    base: float | None
    tuned: float | None
    proportion: Literal[1, 100] | None = None
    graded: bool = False
    base_se: float | None = Field(default=None, gt=0)
    tuned_se: float | None = Field(default=None, gt=0)
    base_bounds: tuple[float, float] | None = None
    tuned_bounds: tuple[float, float] | None = None
    missing: str | None = None
    excluded: str | None = None
    also: list[OtherScore] = Field(default_factory=list)
    source: str

    @model_validator(mode="after")
    def _sound(self) -> BenchmarkSpec:
        known = [score for score in (self.base, self.tuned) if score is not None]
        if not known:
            raise ValueError("neither 'base' nor 'tuned' has a score")
        if len(known) < 2 and not self.missing:
            raise ValueError("a score is null; say under 'missing' why")
        if self.proportion and not all(0 <= score <= self.proportion for score in known):
            raise ValueError(f"scores {self.base} and {self.tuned} lie outside 0 to {self.proportion}")
        if self.graded and self.proportion is None:
            raise ValueError("'graded' needs 'proportion', the score of a perfect model")
        for side, score, bounds in (("base", self.base, self.base_bounds), ("tuned", self.tuned, self.tuned_bounds)):
            if bounds is not None and score is None:
                raise ValueError(f"'{side}_bounds' stand without a score")
            if score is not None:
                _inside(score, bounds, side)
        if any(getattr(self, item.side) is None for item in self.also):
            raise ValueError("'also' speaks of a score that is null; give it as the score")
        return self


def _inside(score: float, bounds: tuple[float, float] | None, side: str) -> None:
    if bounds is not None and not bounds[0] <= score <= bounds[1]:
        raise ValueError(f"the {side} score {score} lies outside its bounds {bounds[0]} to {bounds[1]}")


def _distinct(names: list[str], where: str) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} {where} is given twice")
