"""How long the bench of organisms will take here: rough, from a few seconds of measuring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeldiff_eval.organism_bench import DIFF_SETTINGS, PROBED, PROBES
from modeldiff_eval.organism_check import Checking
from modeldiff_eval.organism_files import Organism
from modeldiff_eval.organisms import Recipe
from modeldiff_eval.plan_costs import duration
from modeldiff_eval.plan_run import plan_run
from modeldiff_eval.settings import make_settings

EXAMPLE_TOKENS = 100
"""Tokens of one training example with its chat template; the packaged prompts and answers give 85 to 110."""
BACKWARD = 2.8
"""A training step against a forward pass of the same tokens: measured on one core in bf16 (2.5 s against 0.9 s)."""
DECODING = 3.0
"""A generated token against one of a forward pass, in batches of 32 on one core."""


def plan_lines(
    organisms: Sequence[Organism], *, base: str, method: str, cache: Path, settings: dict[str, Any] | None = None
) -> list[str]:
    """What each organism costs and what all of them do, as text; what the cache holds already is not counted off.

    Raises:
        ModelError: the base cannot be read.
        SettingsError: an impossible setting.
    """
    recipe, checking = Recipe(), Checking()
    chosen = {**DIFF_SETTINGS, **(settings or {}), "method": method}
    made, _ = make_settings({"base": base, "tuned": base, **chosen}, environ={})
    plan = plan_run(made, cache)
    harvest, training = plan.time[0].seconds, sum(part.seconds for part in plan.time[1:])
    # The harvest stops at one block; training and answering go through all of them.
    whole = harvest / (2 * (made.tokens or 1)) * plan.job.shape.n_layers / (plan.job.layer + 1)
    adapter = recipe.steps * recipe.batch * EXAMPLE_TOKENS * BACKWARD * whole
    probes = PROBES * len(PROBED) * 64
    answers = (
        (checking.prompts * checking.answer_tokens + probes + made.rollouts * made.rollout_tokens) * DECODING * whole
    )
    shared = answers + recipe.examples * recipe.answer_tokens * DECODING * whole
    each = adapter + answers + harvest + training
    known = sorted((cache / "organisms").glob("*/recipe.json"))
    trained = {path.parent.name.rpartition("-")[0] for path in known if not path.parent.name.endswith(".partial")}
    return [
        f"Organisms     {len(organisms)}: {', '.join(organism.name for organism in organisms)}",
        f"Trained       {sum(organism.name in trained for organism in organisms)} of them are in the cache (perhaps by another recipe)",
        f"Each          {duration(each)}: adapter {duration(adapter)} ({recipe.steps} steps of {recipe.batch}), answers {duration(answers)}, "
        f"activations {duration(harvest)}, crosscoder {duration(training)}; naming and measuring not counted",
        f"Once          {duration(shared)}: the base's own answers",
        f"All           {duration(shared + len(organisms) * each)}",
    ]
