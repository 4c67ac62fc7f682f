"""Planted dictionaries: paired activations whose latents are known, for measuring what a method finds.

Models are "base" (0) and "tuned" (1), as everywhere. A token's activations are

    x_m = mean_m + Σ_j a_j · direction_m,j + background + noise_m

where a_j is 0 on most tokens, the background is the same in both models and noise_m is each model's own. What is
planted of each kind, and all other numbers, are in ``data/planted.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from modeldiff_eval.planted_constants import KINDS, Constants, Kind, Scale

_TOKENS = 8192
"""Tokens drawn at a time."""
_MIRRORED: dict[Kind, Kind] = {"base_only": "tuned_only", "tuned_only": "base_only"}


@dataclass(frozen=True)
class Groups:
    """Who fires with whom, and where. ``event_rate`` [topics, groups] and ``own_rate`` [topics, latents] are per token.

    In a group's event each of its ``members`` [groups, size] fires with probability ``coin`` [groups, size].
    """

    members: Int[NDArray[np.int64], "groups size"]
    coin: Float[NDArray[np.float64], "groups size"]
    event_rate: Float[NDArray[np.float64], "topics groups"]
    own_rate: Float[NDArray[np.float64], "topics latents"]


@dataclass(frozen=True)
class World:
    """The truth: planted latents, most frequent first, and the noise around them.

    ``directions`` holds what one unit of a latent adds to each model, so their norms differ between latents and, where the
    kind says so, between models. ``background`` [d_model, d_model] turns white noise into the shared background;
    ``own`` is the standard deviation of a coordinate of each model's own noise.
    """

    kind: tuple[Kind, ...]
    frequency: Float[NDArray[np.float64], " latents"]
    directions: Float[Tensor, "latents 2 d_model"]
    groups: Groups
    background: Float[Tensor, "d_model d_model"]
    own: float
    means: Float[Tensor, "2 d_model"]
    amplitude_spread: float

    def of_kind(self, *kinds: Kind) -> Bool[NDArray[np.bool_], " latents"]:
        """Which latents are of one of these kinds."""
        return np.isin(np.array(self.kind), kinds)

    def nu(self, side: int, scale: Float[NDArray[np.float64], " 2"]) -> Float[NDArray[np.float64], " latents"]:
        """True ν of every latent claimed for ``side``, in a space scaled by ``scale``; NaN where that model lacks it."""
        own, other = (self.directions[:, model].double().numpy() for model in (side, 1 - side))
        squares = (own**2).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = (own * other).sum(1) * scale[1 - side] / (squares * scale[side])
        return np.where(squares > 0, ratio, np.nan)

    def swapped(self) -> World:
        """The same world with base and tuned exchanged."""
        kind = tuple(_MIRRORED.get(name, name) for name in self.kind)
        return replace(self, kind=kind, directions=self.directions.flip(1), means=self.means.flip(0))


@dataclass(frozen=True)
class PlantedPair:
    """Raw activations of both models; ``document`` and ``heldout`` [tokens] say which tokens a training may not see."""

    rows: Float[Tensor, "tokens 2 d_model"]
    document: Int[NDArray[np.int32], " tokens"]
    heldout: Bool[NDArray[np.bool_], " tokens"]

    def swapped(self) -> PlantedPair:
        """Base and tuned exchanged."""
        return replace(self, rows=self.rows.flip(1))

    def identical(self) -> PlantedPair:
        """Base against itself."""
        return replace(self, rows=self.rows[:, :1].repeat(1, 2, 1))

    def tuned_in_bf16(self) -> PlantedPair:
        """The tuned activations rounded to bf16 and back."""
        return replace(self, rows=torch.stack([self.rows[:, 0], self.rows[:, 1].bfloat16().float()], 1))


def make_world(constants: Constants, scale: Scale, *, rng: np.random.Generator) -> World:
    """Plant a dictionary: kinds are dealt to frequencies at random, so every kind has frequent and rare latents."""
    firing, n, d = constants.firing, scale.latents, scale.d_model
    kind = tuple(rng.permutation([name for name in KINDS for _ in range(scale.kinds.get(name, 0))]).tolist())
    rank = np.arange(1, n + 1)
    frequency = np.minimum(scale.frequency_min * (n / rank) ** firing.exponent, firing.frequency_max)
    directions = _directions(constants, kind, d, rng)
    # E[a] = 1 and E[a²] = exp(spread²) where a latent fires.
    moments = frequency * np.exp(firing.amplitude_spread**2) - frequency**2
    energy = float((directions.double().square().sum(2).numpy() * moments[:, None]).sum(0).mean())
    noise = constants.noise
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    variances = np.arange(1, d + 1) ** -noise.shared_exponent
    variances *= noise.shared * energy / variances.sum()
    mean, shift = _units(rng, 2, d) * np.sqrt(energy) * np.array([[noise.mean_offset], [noise.mean_shift]])
    return World(
        kind=kind,
        frequency=frequency,
        directions=directions,
        groups=_make_groups(constants, frequency, rng),
        background=torch.from_numpy(np.sqrt(variances)[:, None] * basis).float(),
        own=float(np.sqrt(noise.own * energy / d)),
        means=torch.from_numpy(np.stack([mean, mean + shift])).float(),
        amplitude_spread=firing.amplitude_spread,
    )


def _units(rng: np.random.Generator, n: int, d: int) -> NDArray[np.float64]:
    rows = rng.standard_normal((n, d))
    units: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units


def _directions(
    constants: Constants, kind: tuple[Kind, ...], d: int, rng: np.random.Generator
) -> Float[Tensor, "latents 2 d_model"]:
    names, n = np.array(kind), len(kind)
    base, other = _units(rng, n, d), _units(rng, n, d)
    tuned = base.copy()
    rotated = names == "rotated"
    across = other[rotated] - (other[rotated] * base[rotated]).sum(1, keepdims=True) * base[rotated]
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    cosine = constants.kinds.rotation_cosine
    tuned[rotated] = cosine * base[rotated] + np.sqrt(1 - cosine**2) * across
    both = np.stack([base, tuned], 1)
    both[names == "base_only", 1] = 0
    both[names == "tuned_only", 0] = 0
    ratios = constants.kinds.rescaled_ratios
    for i, latent in enumerate(np.flatnonzero(names == "rescaled")):
        both[latent, i % 2] *= ratios[i // 2 % len(ratios)]
    strength = np.exp(constants.firing.strength_spread * rng.standard_normal(n))
    return torch.from_numpy(both * strength[:, None, None]).float()


def _make_groups(constants: Constants, frequency: NDArray[np.float64], rng: np.random.Generator) -> Groups:
    """Neighbours in frequency become groups; groups and lone latents may belong to a topic. Frequencies stay as they are."""
    firing, n = constants.firing, len(frequency)
    size, topics = firing.group_size, firing.topics
    blocks = np.arange(n // size * size).reshape(-1, size)
    members = blocks[rng.random(len(blocks)) < firing.group_share]
    group = np.full(n, -1)
    group[members] = np.arange(len(members))[:, None]
    unit = np.where(group >= 0, group, len(members) + np.arange(n))  # a group, or a lone latent of its own
    topic = np.where(rng.random(len(members) + n) < firing.topic_share, rng.integers(topics, size=len(members) + n), -1)
    inside = firing.topic_firings * topics
    highest = np.zeros(len(members) + n)
    np.maximum.at(highest, unit, frequency)
    topic[highest * inside > firing.topic_ceiling] = -1
    outside = (1 - firing.topic_firings) * topics / (topics - 1)
    factor = np.where(topic == np.arange(topics)[:, None], inside, np.where(topic < 0, 1.0, outside))  # [topics, units]
    rate = factor[:, unit] * frequency
    together = np.where(group >= 0, firing.group_firings, 0.0) * rate
    return Groups(
        members=members,
        coin=frequency[members] / frequency[members].max(1, keepdims=True),
        event_rate=firing.group_firings * factor[:, : len(members)] * frequency[members].max(1),
        own_rate=(rate - together) / (1 - together),
    )


def codes(
    world: World, topic: Int[NDArray[np.int64], " tokens"], *, rng: np.random.Generator
) -> Float[Tensor, "tokens latents"]:
    """How strongly each planted latent fires on tokens of documents with these topics; 0 where it does not."""
    groups, n = world.groups, len(world.kind)
    fires = rng.random((len(topic), n), dtype=np.float32) < groups.own_rate.astype(np.float32)[topic]
    events = rng.random((len(topic), len(groups.members)), dtype=np.float32) < groups.event_rate[topic]
    token, group = events.nonzero()
    taken = rng.random((len(group), groups.members.shape[1])) < groups.coin[group]
    fires[np.broadcast_to(token[:, None], taken.shape)[taken], groups.members[group][taken]] = True
    out = torch.zeros(fires.shape)
    spread = world.amplitude_spread
    drawn = np.exp(spread * rng.standard_normal(int(fires.sum()), dtype=np.float32) - spread**2 / 2)
    out[torch.from_numpy(fires)] = torch.from_numpy(drawn.astype(np.float32))
    return out


@dataclass(frozen=True)
class Parts:
    """What the activations of some tokens are made of."""

    planted: Float[Tensor, "tokens 2 d_model"]
    background: Float[Tensor, "tokens d_model"]
    own: Float[Tensor, "tokens 2 d_model"]


def parts(world: World, amplitudes: Float[Tensor, "tokens latents"], *, rng: np.random.Generator) -> Parts:
    """Planted part, shared background and each model's own noise."""
    tokens, d = len(amplitudes), world.means.shape[1]
    white = torch.from_numpy(rng.standard_normal((tokens, d), dtype=np.float32))
    own = torch.from_numpy(rng.standard_normal((tokens, 2, d), dtype=np.float32))
    planted = (amplitudes @ world.directions.flatten(1)).view(tokens, 2, d)
    return Parts(planted, white @ world.background, own * world.own)


def draw(constants: Constants, scale: Scale, world: World, *, rng: np.random.Generator) -> PlantedPair:
    """Documents with topics and lengths, and both models' activations on all of their tokens."""
    kinds, n = constants.documents, scale.documents
    lengths = np.exp(np.log(kinds.tokens_median) + kinds.tokens_spread * rng.standard_normal(n))
    lengths = np.clip(lengths.round().astype(np.int64), kinds.tokens_min, kinds.tokens_max)
    document = np.repeat(np.arange(n, dtype=np.int32), lengths)
    topic = rng.integers(constants.firing.topics, size=n)[document]
    heldout = np.zeros(n, dtype=np.bool_)
    heldout[rng.choice(n, size=round(n * kinds.heldout_share), replace=False)] = True
    rows = torch.empty(len(document), 2, scale.d_model)
    for part in _slices(len(document)):
        made = parts(world, codes(world, topic[part], rng=rng), rng=rng)
        torch.add(made.planted, made.own, out=rows[part])
        rows[part].add_(made.background[:, None]).add_(world.means)
    return PlantedPair(rows, document, heldout[document])


def _slices(tokens: int) -> Iterator[slice]:
    for start in range(0, tokens, _TOKENS):
        yield slice(start, start + _TOKENS)
