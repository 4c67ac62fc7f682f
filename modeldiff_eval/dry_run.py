"""``--dry-run``: what a comparison will do, take and cost, and whether it could start."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from modeldiff_eval.errors import ModelError, OutputError
from modeldiff_eval.held import require_own
from modeldiff_eval.redact import redacted
from modeldiff_eval.remote import is_url
from modeldiff_eval.settings import Settings
from modeldiff_eval.store import cache_dir

FORCE = "--force replaces what is there."
_LATENTS = 100
"""The price of names is told for so many."""


def show_plan(settings: Settings, out: Path | str, *, as_json: bool, force: bool) -> None:
    """Print the plan, but for its costs look at everything that the run would read first; they take seconds to measure.

    Raises:
        ModelDiffError: the run could not start.
    """
    from modeldiff_eval.plan_run import plan_run

    made, unknown = None, None
    if not as_json:
        print("\n".join(_lines(settings, out)), flush=True)
    _require_ready(settings, out, force=force)
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


def _require_ready(settings: Settings, out: Path | str, *, force: bool) -> None:
    """Look at every input that is here, and at ``out``, as the run itself will."""
    from modeldiff_eval.inputs import require_inputs

    require_inputs(settings, fetch=False)
    if not is_url(out):
        if not force:
            require_own(Path(out).expanduser(), settings, otherwise=FORCE)
        require_possible(Path(out).expanduser())


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
