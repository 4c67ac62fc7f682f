"""Claims and ν of a fit against what was planted: matching, counts and errors."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from modeldiff_eval.latents import Nu
from modeldiff_eval.planted import World
from modeldiff_eval.planted_constants import Kind
from modeldiff_eval.truth_match import cosines, match
from modeldiff_eval.truth_methods import Fit
from modeldiff_eval.truth_rules import Claims, Level

EXCLUSIVE: tuple[Kind, Kind] = ("base_only", "tuned_only")
Floats = Float[NDArray[np.float64], " latents"]


@dataclass(frozen=True)
class Counts:
    """What the claims for some sides turned out to be. Added up over sides and seeds.

    ``planted``: latents that only this model has. ``exclusive``: claims matched to one of them; ``rescaled``: to one that
    this model has more of; ``rotated``: to one that both have in different directions; ``shared``: to any other;
    ``unmatched``: to none, ``duplicates`` of them near an exclusive latent that another claim was matched to.
    """

    planted: int = 0
    claims: int = 0
    exclusive: int = 0
    rescaled: int = 0
    rotated: int = 0
    shared: int = 0
    unmatched: int = 0
    duplicates: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Counts)})

    def judged(self, level: Level) -> int:
        """Claims that precision is a share of: rotated latents are set aside, and rescaled ones where shifted is all that is claimed."""
        return self.claims - self.rotated - (self.rescaled if level == "shifted" else 0)


def count(
    directions: Float[NDArray[np.float64], "latents 2 d_model"],
    chosen: Bool[NDArray[np.bool_], " latents"],
    world: World,
    side: int,
    *,
    least: float,
) -> Counts:
    """Match the latents claimed for one side to what that model has, in that model."""
    planted = world.directions[:, side].double().numpy()
    alive = np.flatnonzero(planted.any(1))
    cosine = cosines(directions[chosen, side], planted[alive])
    partner = match(cosine, least=least)
    matched = alive[partner[partner >= 0]]
    exclusive, rotated = world.of_kind(EXCLUSIVE[side]), world.of_kind("rotated")
    stronger = world.of_kind("rescaled") & (np.nan_to_num(world.nu(side, np.ones(2)), nan=1.0) < 1)
    left = cosine[partner < 0]
    near = left.argmax(1) if left.size else np.zeros(0, dtype=np.int64)
    duplicates = exclusive[alive[near]] & (left[np.arange(len(near)), near] >= least)
    n = [int(kind[matched].sum()) for kind in (exclusive, stronger, rotated)]
    return Counts(
        planted=int(exclusive.sum()),
        claims=int(chosen.sum()),
        exclusive=n[0],
        rescaled=n[1],
        rotated=n[2],
        shared=len(matched) - sum(n),
        unmatched=int((partner < 0).sum()),
        duplicates=int(duplicates.sum()),
    )


def count_claims(fit: Fit, claims: Claims, world: World, *, least: float) -> tuple[Counts, Counts]:
    """:func:`count` for base and for tuned."""
    base, tuned = (count(fit.directions, claims.chosen[side], world, side, least=least) for side in (0, 1))
    return base, tuned


@dataclass(frozen=True)
class NuErrors:
    """ν^ε of the latents that were recovered, against the truth, for one kind. Both sides put together.

    ``planted``, ``recovered`` (a dictionary latent matches in the claimed model), ``measured`` (ν is defined) count
    (latent, side) pairs; ``truth``, ``value``, ``low``, ``high`` [measured] belong to the measured ones.
    """

    planted: int
    recovered: int
    truth: Floats
    value: Floats
    low: Floats
    high: Floats

    def joined(self, other: NuErrors) -> NuErrors:
        """Both together."""
        lists = (np.concatenate([getattr(self, n), getattr(other, n)]) for n in ("truth", "value", "low", "high"))
        return NuErrors(self.planted + other.planted, self.recovered + other.recovered, *lists)


def nu_errors(fit: Fit, world: World, *, least: float) -> dict[str, NuErrors]:
    """Match the whole dictionary on each side, and compare ν of the matched latents (reporting half) with the truth.

    Kinds: shared, exclusive, rotated, and rescaled on the side that has more of it.
    """
    out: dict[str, NuErrors] = {}
    for side in (0, 1):
        planted = world.directions[:, side].double().numpy()
        alive = np.flatnonzero(planted.any(1))
        partner = match(cosines(fit.directions[:, side], planted[alive]), least=least)
        owner = np.full(len(world.kind), -1)
        owner[alive[partner[partner >= 0]]] = np.flatnonzero(partner >= 0)
        truth = world.nu(side, fit.scale)
        ours = world.nu(side, np.ones(2))
        kinds = {
            "shared": world.of_kind("shared"),
            "rescaled": world.of_kind("rescaled") & (np.nan_to_num(ours, nan=1.0) < 1),
            "rotated": world.of_kind("rotated"),
            "exclusive": world.of_kind(EXCLUSIVE[side]),
        }
        for name, members in kinds.items():
            errors = _errors(fit.nu[side], owner, truth, np.flatnonzero(members))
            out[name] = out[name].joined(errors) if name in out else errors
    return out


def _errors(nu: Nu, owner: NDArray[np.int64], truth: Floats, members: NDArray[np.int64]) -> NuErrors:
    recovered = members[owner[members] >= 0]
    latent = owner[recovered]
    known = ~np.isnan(nu.error[latent])
    latent = latent[known]
    return NuErrors(
        len(members),
        len(recovered),
        truth[recovered[known]],
        nu.error[latent],
        nu.error_low[latent],
        nu.error_high[latent],
    )
