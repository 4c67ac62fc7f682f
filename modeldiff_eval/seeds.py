"""Several crosscoders of one pair that differ by their seed only: how far they hold the same latents (``--seeds N``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from modeldiff_eval import fit
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.matching import LARGEST, has_partner
from modeldiff_eval.workspace import Workspace

LEAST = 0.8
"""Least cosine of both models' decoder rows side by side at which two latents are partners."""
DRAWS = 2000


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Share of ``n`` live latents that have a partner, the mean over ``seeds`` other crosscoders, in [0, 1], with its 95 % interval.

    The interval resamples latents; ``lowest`` and ``highest`` are the shares of single seeds.
    """

    value: float
    low: float
    high: float
    n: int
    lowest: float
    highest: float
    seeds: int


def train_others(
    work: Workspace, material: fit.Material, pairs: Sequence[tuple[str, str]], out: Path
) -> list[list[fit.Pair]]:
    """The crosscoders of the seeds after the first, in the order of ``pairs`` for each seed; cached as any other.

    The text, its split and everything that is measured keep the run's own seed.
    """
    made = []
    for number in range(1, work.settings.seeds):
        other = reseeded(work, number)
        seed = other.settings.seed
        made.append(
            [
                fit.crosscoder_for(other, material, *pair, None, out, name=f"{'--'.join(pair)}--seed-{seed}")
                for pair in pairs
            ]
        )
    return made


def reseeded(work: Workspace, number: int) -> Workspace:
    """The same run with the seed ``number`` further."""
    seed = work.settings.seed + number
    return dataclasses.replace(work, settings=work.settings.model_copy(update={"seed": seed}))


def agree(
    first: Crosscoder,
    alive: Bool[NDArray[np.bool_], " latents"],
    others: Sequence[tuple[Crosscoder, Bool[NDArray[np.bool_], " other"]]],
    *,
    seed: int,
) -> Agreement | None:
    """How many live latents of ``first`` have a partner among the live latents of each other crosscoder, one to one.

    Returns:
        None without another crosscoder or without a live latent.
    """
    if not others or not alive.any():
        return None
    own = first.W_dec.double().numpy()[alive]
    found = np.stack(
        [has_partner(own, other.W_dec.double().numpy()[live], least=LEAST) for other, live in others]
    ).astype(np.float64)
    latent = found.mean(0)
    rng, n = np.random.default_rng([seed, 61]), len(latent)
    levels, copies = np.unique(latent, return_counts=True)  # Few distinct values: a resample is a multinomial of them.
    drawn = rng.multinomial(n, copies / n, size=DRAWS) @ levels / n
    low, high = np.quantile(drawn, (0.025, 0.975))
    single = found.mean(1)
    return Agreement(
        value=round(float(latent.mean()), 6), low=round(float(low), 6), high=round(float(high), 6), n=n,
        lowest=float(single.min()), highest=float(single.max()), seeds=len(others),
    )  # fmt: skip


def caveats(pairs: Sequence[tuple[str, str]], found: Sequence[Agreement | None], n_seeds: int) -> list[str]:
    """Seed agreement with its interval and n, for the card; nothing for one seed."""
    out = []
    for pair, own in zip(pairs, found, strict=True):
        if own is None:
            continue
        way = (
            "by the Hungarian method"
            if own.n <= LARGEST
            else f"by mutual nearest neighbours (more than {LARGEST:,} latents)"
        )
        spread = f", from {own.lowest:.3f} to {own.highest:.3f} over {own.seeds} seeds" if own.seeds > 1 else ""
        out.append(
            f"Seed agreement of ({', '.join(pair)}): {own.value:.3f} of {own.n:,} live latents (95 % {own.low:.3f} to {own.high:.3f}, over latents) "
            f"have a partner of cosine {LEAST:g} or more in a crosscoder of another seed, one to one {way}{spread}."
        )
    if n_seeds > 1:
        out.append(
            f"{n_seeds} seeds of the crosscoder only: the text, its split, activation shifts, graded shares and the latents shown are those of the "
            "first seed."
        )
    return out
