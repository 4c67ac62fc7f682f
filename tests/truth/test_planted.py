"""The generator makes what the file says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from modeldiff_eval import planted as P
from modeldiff_eval.planted_constants import Constants, constants
from modeldiff_eval.truth import null_pair, planted_pair

FILE = constants()
QUICK = FILE.scales["quick"]
TOKENS = 60_000


@pytest.fixture(scope="module")
def world() -> P.World:
    return P.make_world(FILE, QUICK, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def amplitudes(world: P.World) -> torch.Tensor:
    """Topics dealt to single tokens, so that firings of different tokens are independent."""
    rng = np.random.default_rng(1)
    return P.codes(world, rng.integers(FILE.firing.topics, size=TOKENS), rng=rng)


@pytest.mark.parametrize("name", ["quick", "full"])
def test_the_rarest_latent_can_be_measured(name: str) -> None:
    """Expected firings in half of the held-out documents are well above what a ν needs."""
    scale = FILE.scales[name]  # type: ignore[index]
    mean_tokens = FILE.documents.tokens_median * np.exp(FILE.documents.tokens_spread**2 / 2)
    half = scale.documents * mean_tokens * FILE.documents.heldout_share / 2
    assert half * scale.frequency_min > 2.5 * FILE.scoring.min_firings


def test_the_file_refuses_strangers() -> None:
    data = FILE.model_dump()
    data["noise"]["shred"] = 0.1
    with pytest.raises(ValidationError, match="shred"):
        Constants.model_validate(data)
    data = FILE.model_dump()
    data["scales"]["quick"]["kinds"]["chat_only"] = 3
    with pytest.raises(ValidationError, match="chat_only"):
        Constants.model_validate(data)


def test_kinds_and_frequencies(world: P.World) -> None:
    for kind, number in QUICK.kinds.items():
        assert world.of_kind(kind).sum() == number
    assert world.frequency[-1] == pytest.approx(QUICK.frequency_min)
    assert world.frequency.max() == FILE.firing.frequency_max
    # Zipf: half the rank, twice the frequency.
    assert world.frequency[79] == pytest.approx(2 * world.frequency[159])


def test_latents_fire_as_often_as_the_file_says(world: P.World, amplitudes: torch.Tensor) -> None:
    seen = (amplitudes > 0).double().mean(0).numpy()
    off = (seen - world.frequency) / np.sqrt(world.frequency * (1 - world.frequency) / TOKENS)
    assert np.abs(off).max() < 4.5  # of 320 standard normal numbers
    assert 0.85 < off.std() < 1.15
    assert (amplitudes > 0).sum(1).double().mean() == pytest.approx(world.frequency.sum(), rel=0.02)


def test_amplitudes_are_log_normal_with_mean_one(amplitudes: torch.Tensor) -> None:
    drawn = amplitudes[amplitudes > 0].double()
    assert drawn.mean() == pytest.approx(1, abs=0.01)
    assert drawn.log().std() == pytest.approx(FILE.firing.amplitude_spread, abs=0.01)


def test_groups_fire_together_and_others_do_not(world: P.World, amplitudes: torch.Tensor) -> None:
    fires = (amplitudes > 0).double().numpy()
    members = world.groups.members
    assert len(members) * FILE.firing.group_size == pytest.approx(FILE.firing.group_share * QUICK.latents, rel=0.4)

    def phi(pairs: np.ndarray) -> np.ndarray:
        return np.array([np.corrcoef(fires[:, a], fires[:, b])[0, 1] for a, b in pairs])

    assert phi(members[:, :2]).mean() == pytest.approx(FILE.firing.group_firings, abs=0.05)
    across = np.stack([members[:-1, 0], members[1:, 1]], 1)
    assert np.abs(phi(across).mean()) < 0.05


def test_topical_latents_fire_in_documents_of_their_topic(world: P.World) -> None:
    rng = np.random.default_rng(2)
    topics = FILE.firing.topics
    rate = np.stack([(P.codes(world, np.full(8000, t), rng=rng) > 0).double().mean(0).numpy() for t in range(topics)])
    frequent = world.frequency > 0.01
    topical = frequent & (np.ptp(world.groups.own_rate, axis=0) > 0)
    assert topical.sum() > 20
    share = rate.max(0) / rate.sum(0)
    assert share[topical].mean() == pytest.approx(FILE.firing.topic_firings, abs=0.03)
    assert share[frequent & ~topical].mean() < 1.4 / topics
    # Whatever the topic does, the frequency over all documents is the planted one.
    assert rate.mean(0)[topical].sum() == pytest.approx(world.frequency[topical].sum(), rel=0.03)


def test_energies_are_those_of_the_file(world: P.World, amplitudes: torch.Tensor) -> None:
    made = P.parts(world, amplitudes, rng=np.random.default_rng(3))

    def energy(rows: torch.Tensor) -> float:
        return float((rows - rows.mean(0)).double().square().sum(-1).mean())

    planted = energy(made.planted)
    assert energy(made.background) / planted == pytest.approx(FILE.noise.shared, rel=0.05)
    assert energy(made.own) / planted == pytest.approx(FILE.noise.own, rel=0.05)
    spectrum = torch.linalg.svdvals(made.background.double()).square()
    expected = 1 / sum(1 / i for i in range(1, QUICK.d_model + 1))
    assert spectrum[0] / spectrum.sum() == pytest.approx(expected, rel=0.03)
    assert torch.corrcoef(made.own[:, :, 0].T)[0, 1].abs() < 0.02
    offset = world.means.double().norm(dim=1) / np.sqrt(planted)
    assert offset[0] == pytest.approx(FILE.noise.mean_offset, rel=0.03)
    apart = float((world.means[1] - world.means[0]).double().norm()) / np.sqrt(planted)
    assert apart == pytest.approx(FILE.noise.mean_shift, rel=0.03)


def test_the_true_nu_of_every_kind(world: P.World) -> None:
    one = np.ones(2)
    base, tuned = world.nu(0, one), world.nu(1, one)
    np.testing.assert_allclose(base[world.of_kind("shared")], 1)
    np.testing.assert_allclose(base[world.of_kind("base_only")], 0)
    assert np.isnan(base[world.of_kind("tuned_only")]).all()
    np.testing.assert_allclose(tuned[world.of_kind("rotated")], FILE.kinds.rotation_cosine, atol=1e-6)
    weaker = np.minimum(base, tuned)[world.of_kind("rescaled")]
    np.testing.assert_allclose(np.unique(weaker.round(5)), FILE.kinds.rescaled_ratios)
    np.testing.assert_allclose((base * tuned)[world.of_kind("rescaled")], 1, rtol=1e-5)
    np.testing.assert_allclose(world.nu(0, np.array([2.0, 1.0]))[world.of_kind("shared")], 0.5)


def test_swapping_a_world_mirrors_it(world: P.World) -> None:
    mirror = world.swapped()
    one = np.ones(2)
    np.testing.assert_array_equal(mirror.nu(0, one), world.nu(1, one))
    np.testing.assert_array_equal(mirror.of_kind("base_only"), world.of_kind("tuned_only"))
    assert mirror.swapped().kind == world.kind


def test_documents_are_whole_and_a_quarter_is_held_out() -> None:
    _, pair = planted_pair(FILE, QUICK, seed=0)
    lengths = np.bincount(pair.document)
    kinds = FILE.documents
    assert len(lengths) == QUICK.documents
    assert lengths.min() >= kinds.tokens_min
    assert lengths.max() <= kinds.tokens_max
    assert np.median(lengths) == pytest.approx(kinds.tokens_median, rel=0.1)
    held = np.bincount(pair.document, pair.heldout)
    assert set((held / lengths).tolist()) == {0.0, 1.0}
    assert (held > 0).sum() == round(QUICK.documents * kinds.heldout_share)


def test_the_seed_decides() -> None:
    small = QUICK.model_copy(update={"documents": 20})
    one, same, other = (planted_pair(FILE, small, seed=seed)[1].rows for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_nothing_differs_in_a_null_pair_but_noise() -> None:
    world, pair = null_pair(FILE, QUICK.model_copy(update={"documents": 20}), seed=0)
    assert set(world.kind) == {"shared"}
    assert torch.equal(pair.rows[:, 1], pair.rows[:, 1].bfloat16().float())
    assert not torch.equal(pair.rows[:, 0], pair.rows[:, 1])
    assert torch.equal(pair.identical().rows[:, 0], pair.identical().rows[:, 1])
    assert torch.equal(pair.swapped().rows[:, 0], pair.rows[:, 1])
