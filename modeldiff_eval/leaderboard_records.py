"""The record of a leaderboard: ``leaderboard.json`` is exactly :class:`Leaderboard`. One row for a card, no rank anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from modeldiff_eval.records import Estimate, Record, Verdict


class Cell(Record):
    """One figure of a card. ``missing`` says why ``value`` is undefined; ``group`` is None where no group can be given."""

    value: Estimate
    verdict: Verdict | None = None
    group: int | None = None
    """Cards of one group cannot be told apart in this column; each card of a later one is surely below one of the group before."""
    n: int | None = None
    """Tasks in a mean over benchmarks; None elsewhere."""
    missing: str | None = None


class LeaderboardClass(Record):
    """One class column."""

    code: str
    name: str


class LeaderboardRow(Record):
    """One card: what it compared, what its gate says, its figures. ``folder`` is relative to the site."""

    id: str
    title: str
    headline: str
    folder: str
    created: str
    base: str
    tuned: str
    anchor: str | None
    mode: Literal["direct", "anchored"]
    method: str
    gate: Literal["pass", "fail", "inconclusive"] | None
    seal: Literal["whole", "edited", "none"]
    """``edited``: the card was changed since it was made, its checksum is not that of its content. ``none``: it carries no checksum."""
    file: str
    """The card as it was named, without the folders above its own."""
    shares: dict[str, Cell]
    """By class code: difference of the class's share, tuned minus base, in points."""
    activation: dict[str, Cell]
    """By class code: change of the class's activation mass on the same tokens, in percent of base's."""
    elo: Cell
    elo_style: Cell
    benchmarks: Cell
    """Mean difference over benchmarks, in shares of 1."""

    def cell(self, column: str) -> Cell:
        """The cell of a column of :func:`column_names`."""
        view, dot, code = column.partition(".")
        found: Cell = getattr(self, view)[code] if dot else getattr(self, view)
        return found


class Skipped(Record):
    """A file that has no row, or a folder that could not be searched, and why. ``file`` is as it was named, without the folders above it."""

    file: str
    reason: str


class Leaderboard(Record):
    """Many cards side by side (``leaderboard.json``, schema version 1)."""

    schema_version: Literal[1] = 1
    by: str | None
    """Column of the first order: ``elo_style``, ``elo``, ``benchmarks``, ``shares.A`` …, ``activation.A`` …; None where no two cards share one."""
    classes: list[LeaderboardClass]
    rows: list[LeaderboardRow]
    skipped: list[Skipped]
    rules: list[str]
    """How the figures and groups are made, in sentences."""

    @property
    def columns(self) -> list[str]:
        """The columns that have groups."""
        return column_names(self.classes)

    def to_json(self) -> str:
        """Indented JSON; NaN and infinity are refused."""
        return json.dumps(self.model_dump(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def column_names(classes: Sequence[LeaderboardClass]) -> list[str]:
    """The columns that have groups, by name."""
    views = [f"{view}.{c.code}" for view in ("shares", "activation") for c in classes]
    return ["elo_style", "elo", "benchmarks", *views]
