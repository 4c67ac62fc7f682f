"""``--dry-run``: what a comparison will do, take and cost, and whether it could start."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from modeldiff_eval.errors import ModelError, OutputError, UsageError
from modeldiff_eval.plain_json import read_json
from modeldiff_eval.redact import redacted
from modeldiff_eval.remote import is_url
from modeldiff_eval.settings import Settings
from modeldiff_eval.store import cache_dir

_LATENTS = 100
"""The price of names is told for so many."""


def show_plan(settings: Settings, out: Path | str, *, as_json: bool) -> None:
    """Print the plan; its costs take a few seconds of measuring."""
    from modeldiff_eval.plan_run import plan_run

    made, unknown = None, None
    if not as_json:
        print("\n".join(_lines(settings, out)), flush=True)
    try:
        made = plan_run(settings, cache_dir())
    except ModelError as error:
        unknown = str(error)
    if as_json:
        facts = {
            "settings": redacted(settings.model_dump(mode="json")), "out": str(out), "cache": str(cache_dir()),
            "annotator_cost": annotator_cost(settings), "plan": made and made.model_dump(mode="json"), "unknown": unknown,
        }  # fmt: skip
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print(f"Costs         not known: {unknown}" if made is None else "\n" + "\n".join(made.lines()))


def require_ready(settings: Settings, out: Path | str) -> None:
    """Look at every input that is here, and at ``out``, as the run itself will.

    Raises:
        ModelDiffError: the run could not start.
    """
    from modeldiff_eval.inputs import require_inputs

    require_inputs(settings, fetch=False)
    if not is_url(out):
        require_own(Path(out), settings)
        require_possible(Path(out))


def require_own(out: Path, settings: Settings) -> None:
    """Refuse a folder that holds the comparison of other models: its card would be replaced.

    Raises:
        UsageError: with both comparisons.
    """
    try:
        notes = read_json((out / "run.json").read_text(encoding="utf-8"))
        held = {role: notes["settings"].get(role) for role in ("anchor", "base", "tuned")}
        started_in = Path(notes.get("cwd") or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # No run, or one that was never finished.
    asked = {role: redacted(getattr(settings, role)) for role in held}
    if any(not _same(held[role], asked[role], started_in) for role in held):
        raise UsageError(
            f"{out} holds the comparison {_pair(held)}, and this one is {_pair(asked)}. Name another folder with --out; "
            "--force replaces what is there."
        )


def _same(held: str | None, asked: str | None, started_in: Path) -> bool:
    """Whether two names are of one model; ``held`` may be relative to the folder that its run was started in."""
    if held is None or asked is None:
        return held == asked
    return held == asked or (started_in / Path(held).expanduser()).resolve() == Path(asked).expanduser().resolve()


def _pair(models: dict[str, str | None]) -> str:
    anchored = f", anchored in {models['anchor']}" if models["anchor"] else ""
    return f"{models['base']} → {models['tuned']}{anchored}"


def require_possible(out: Path) -> None:
    """Refuse a folder that could not be made or written, and leave nothing behind."""
    place = next((folder for folder in (out, *out.parents) if folder.exists()), Path())
    try:
        with tempfile.TemporaryDirectory(prefix=".write-test-", dir=place):
            pass
    except OSError as error:
        raise OutputError(
            f"Cannot write to {out}: {error.strerror or error}. Choose another folder with --out."
        ) from error


def _lines(settings: Settings, out: Path | str) -> list[str]:
    return [
        f"Design        {'anchored: (anchor, base) and (anchor, tuned)' if settings.anchor else 'direct: (base, tuned)'}",
        *(f"{role:13} {name}" for role in ("anchor", "base", "tuned") if (name := getattr(settings, role))),
        f"Corpus        {', '.join(settings.corpus)}, up to {settings.tokens or 'all'} tokens, "
        f"{settings.rollouts} prompts answered by base and tuned",
        f"Crosscoder    {settings.latents:,} latents, k {settings.k}, {settings.steps:,} steps of {settings.batch:,} rows "
        f"({settings.steps * settings.batch:,} rows)",
        f"Annotator     {annotator_cost(settings)}",
        f"Benchmarks    {settings.benchmarks or ', '.join(settings.tasks) or 'none'}",
        f"Cache         {cache_dir()}",
        f"Writes        {out}/card.html, card.pdf, card.md, card.json, latents.parquet, …",
    ]


def annotator_cost(settings: Settings) -> str:
    """The annotator and what it will cost, as far as that is known before the latents are."""
    if settings.annotator != "claude":
        return f"{settings.annotator} (no cost)"
    from modeldiff_eval.claude_endpoint import DEFAULT_MODEL
    from modeldiff_eval.claude_prices import estimate

    model, repeated = settings.annotator_model or DEFAULT_MODEL, _LATENTS * settings.repeats
    # Shared part, text and longest answer of describing, categorising and trying a description: tokens as quoting.count_tokens
    # counts them in the demo's questions; the last two texts by passages of that size.
    parts = [
        estimate(n, system, text, answer, model, batch=settings.batches)
        for n, system, text, answer in (
            (repeated, 780, 1100, 800),
            (repeated, 2310, 90, 400),
            (_LATENTS, 400, 1400, 256),
        )
    ]
    costs = [part.most for part in parts if part.most is not None]
    price = f"at most {sum(costs):.2f} US$ for every {_LATENTS} latents" if costs else "at an unknown price"
    limit = "" if settings.max_cost is None else f", at most {settings.max_cost:g} US$"
    return f"claude ({model}), {price}{limit}; only latents that claims rest on (140 in the demo). {parts[0].note}"
