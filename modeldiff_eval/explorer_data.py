"""A finished run's latents for looking through: filtered, sorted, a page at a time, each with all its examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, field_validator

from modeldiff_eval.annotation import Evidence
from modeldiff_eval.card_file import read_card
from modeldiff_eval.errors import UsageError
from modeldiff_eval.records import Card, Record, problem_of
from modeldiff_eval.review import evidence_of

if TYPE_CHECKING:
    import pandas as pd

PAGE = 50
KINDS = ("named", "specific", "shifted", "graded", "weak", "all")
ORDERS = ("rank", "latent", "nu_error", "frequency", "shift", "confidence", "detection")
NONE = "none"


class Query(Record):
    """What to show: every field is optional, and empty text is no filter.

    ``side``: base or tuned. ``kind``: one of :data:`KINDS`. ``group``: a class, a category, or "none". ``q``: words that all occur in
    label, description or an example. ``nu_max``: largest ν^ε. ``frequency_min`` and ``frequency_max``: percent of tokens.
    ``page`` counts from 1.
    """

    side: str = ""
    kind: str = "named"
    group: str = ""
    q: str = Field(default="", max_length=200)
    nu_max: float | None = None
    frequency_min: float | None = None
    frequency_max: float | None = None
    order: str = "rank"
    down: bool = False
    page: int = Field(default=1, ge=1, le=1_000_000)

    @field_validator("nu_max", "frequency_min", "frequency_max", mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        return None if value == "" else value

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Query:
        """A query from an address; what it does not know is ignored.

        Raises:
            UsageError: a value that is none.
        """
        try:
            return cls.model_validate({name: value for name, value in given.items() if name in cls.model_fields})
        except ValidationError as error:
            raise UsageError(f"{problem_of(error)}.") from error


@dataclass(frozen=True)
class Latent:
    """One row of ``latents.parquet``; what is not a number there is None here. ``place`` is its row."""

    place: int
    row: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.row.get(name)

    @property
    def kinds(self) -> list[str]:
        """What claims rest on it: specific, shifted, graded, and whether its name is weak."""
        found = [name for name in ("specific", "shifted") if self.row.get(name)]
        return found + ["graded"] * bool(self.row.get("graded_weight")) + ["weak"] * bool(self.row.get("weak"))


@dataclass(frozen=True)
class Page:
    """Latents ``first`` to ``last`` of ``total`` that a query finds."""

    latents: list[Latent]
    first: int
    last: int
    total: int
    pages: int


class Explored:
    """A run's folder, read once.

    Raises:
        UsageError: it is no finished run, or its tables do not belong together.
    """

    def __init__(self, run: Path) -> None:
        import pandas as pd

        self.run = run
        self.card: Card = read_card(run)
        try:
            self.latents: pd.DataFrame = pd.read_parquet(run / "latents.parquet").reset_index(drop=True)
            self._examples: pd.DataFrame = pd.read_parquet(run / "examples.parquet")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"Cannot read the tables of {run}: {error}. Is it the folder of a finished run?"
            ) from error
        needed = {"model", "crosscoder", "latent", "label", "category", "annotation_failure", "specific"}
        if missing := sorted(needed - set(self.latents.columns)):
            raise UsageError(f"{run}/latents.parquet has no column {missing[0]!r}; it was written by another program.")

    @cached_property
    def _texts(self) -> pd.Series[str]:
        """Everything that is searched, by row, in one case."""
        shown = self._examples.groupby(["crosscoder", "latent"])["text"].agg("\n".join)
        own = self.latents.set_index(["crosscoder", "latent"]).index.map(shown.to_dict())
        parts = [self.latents[name].fillna("").astype(str) for name in ("label", "description")]
        joined = parts[0] + "\n" + parts[1] + "\n" + own.to_series(index=self.latents.index).fillna("").astype(str)
        return joined.str.casefold()

    def find(self, query: Query) -> Page:
        """The page that a query asks for; the last one where there are fewer."""
        rows = self._sorted(self.latents[self._mask(query)], query)
        pages = max(1, -(-len(rows) // PAGE))
        first = (min(query.page, pages) - 1) * PAGE
        shown = rows.iloc[first : first + PAGE]
        return Page([self._latent(int(i)) for i in shown.index], first + 1, first + len(shown), len(rows), pages)

    def _mask(self, query: Query) -> Any:
        table = self.latents
        keep = table["latent"].notna()
        if query.side:
            keep &= table["model"] == query.side
        if query.kind == "named":
            keep &= table["annotation_failure"].fillna("") != "not annotated"
        elif query.kind == "graded":
            keep &= table["graded_weight"].fillna(0) > 0
        elif query.kind in table.columns:
            keep &= table[query.kind].fillna(False).astype(bool)
        elif query.kind != "all":
            keep &= False
        if query.group == NONE:
            keep &= table["category"].isna() & table["annotation_failure"].isna()
        elif query.group:
            codes = table["category"].fillna("")
            keep &= codes == query.group if "." in query.group else codes.str.split(".").str[0] == query.group
        if query.nu_max is not None:
            keep &= table["nu_error"] <= query.nu_max
        if query.frequency_min is not None:
            keep &= 100 * table["frequency"] >= query.frequency_min
        if query.frequency_max is not None:
            keep &= 100 * table["frequency"] <= query.frequency_max
        for word in query.q.casefold().split():
            keep &= self._texts.str.contains(word, regex=False)
        return keep

    def _sorted(self, rows: pd.DataFrame, query: Query) -> pd.DataFrame:
        """By the order that is asked for; claims first where it is "rank"."""
        if query.order == "rank" or query.order not in ORDERS or query.order not in rows.columns:
            keyed = rows.assign(_last=~rows["specific"].astype(bool), _rank=rows.get("rank_key"))
            return keyed.sort_values(["_last", "_rank", "latent"], na_position="last", kind="stable")
        return rows.sort_values([query.order, "latent"], ascending=[not query.down, True], na_position="last")

    def _latent(self, place: int) -> Latent:
        import pandas as pd

        row = self.latents.iloc[place].to_dict()
        return Latent(place, {str(name): None if not _listed(v) and pd.isna(v) else v for name, v in row.items()})

    def latent(self, place: int) -> Latent:
        """The latent of one row.

        Raises:
            UsageError: there is no such row.
        """
        if not 0 <= place < len(self.latents):
            raise UsageError(f"There is no row {place}; the run has {len(self.latents):,}.")
        return self._latent(place)

    def evidence(self, latent: Latent) -> Evidence:
        """All examples of a latent, the strongest first; none where the run kept none."""
        own = self._examples
        return evidence_of(
            latent.latent, own[(own["crosscoder"] == latent.crosscoder) & (own["latent"] == latent.latent)]
        )


def _listed(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str)
