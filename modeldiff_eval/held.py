"""Whose card a run's folder holds."""

from __future__ import annotations

from pathlib import Path

from modeldiff_eval.errors import UsageError
from modeldiff_eval.plain_json import read_json
from modeldiff_eval.redact import redacted
from modeldiff_eval.settings import Settings


def require_own(out: Path, settings: Settings, *, otherwise: str = "") -> None:
    """Refuse a folder that holds the comparison of other models: its card would be replaced.

    Another revision of a model is no other model.

    Args:
        otherwise: what else than another folder helps, as a sentence.

    Raises:
        UsageError: with both comparisons.
    """
    try:
        notes = read_json((out / "run.json").read_text(encoding="utf-8"))
        held = {role: notes["settings"].get(role) for role in ("anchor", "base", "tuned")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # No run, or one that was never finished.
    if not isinstance(held["base"], str) or any(not isinstance(name, str | None) for name in held.values()):
        return
    cwd = notes.get("cwd")
    started_in = Path(cwd) if isinstance(cwd, str) else Path()
    asked = {role: redacted(getattr(settings, role)) for role in held}
    if any(not _same(held[role], asked[role], started_in) for role in held):
        raise UsageError(
            f"{out} holds the comparison {_pair(held)}, and this one is {_pair(asked)}. Name another folder with --out."
            + (f" {otherwise}" if otherwise else "")
        )


def _same(held: str | None, asked: str | None, started_in: Path) -> bool:
    """Whether two names are of one model; ``held`` may be relative to the folder that its run was started in."""
    if held is None or asked is None:
        return held == asked
    if held.partition("@")[0] == asked.partition("@")[0]:
        return True
    return (started_in / Path(held).expanduser()).resolve() == Path(asked).expanduser().resolve()


def _pair(models: dict[str, str | None]) -> str:
    anchored = f", anchored in {models['anchor']}" if models["anchor"] else ""
    return f"{models['base']} → {models['tuned']}{anchored}"
