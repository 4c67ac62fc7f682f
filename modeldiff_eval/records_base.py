"""What every record is made of: the frozen base, that of a card, an estimate with its interval, a verdict."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

Verdict = Literal["up", "down", "unclear", "not covered"]


class Record(BaseModel):
    """A frozen record that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CardRecord(Record):
    """A part of ``card.json``: NaN and infinity, which JSON does not have, are refused."""

    model_config = ConfigDict(allow_inf_nan=False)


def problem_of(error: ValidationError) -> str:
    """The first thing that is wrong with a record, as ``place.in.it: what``."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


class Estimate(CardRecord):
    """A number with its 95 % interval. A bound that is not defined is ``None``."""

    value: float | None
    low: float | None
    high: float | None


class LevelEstimate(Estimate):
    """An estimate that names the level of its interval."""

    level: float = 0.95
