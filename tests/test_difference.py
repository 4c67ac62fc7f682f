"""A dictionary of differences by hand: where its latents come from, what noise can do, and how much it explains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from modeldiff_eval import difference as D
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.latents import document_blocks, scaling

E = torch.eye(6)
ROWS = 6000
TUNED_ONLY, BASE_ONLY, REWRITTEN, SILENT = range(4)


@dataclass(frozen=True)
class Case:
    """Rows of both models whose difference is known, and the autoencoder that reads it without an error."""

    rows: Tensor
    autoencoder: Crosscoder

    def of(self, index: Tensor) -> Tensor:
        return self.rows[index]

    @property
    def everything(self) -> Tensor:
        return torch.arange(len(self.rows))


@pytest.fixture(scope="module")
def case() -> Case:
    """Both models share noise on the axes 3 to 5. On one token in fifty each, tuned alone has axis 0, base alone has axis 1,
    and what base writes along −axis 2 tuned writes along axis 2."""
    g = torch.Generator().manual_seed(0)
    code = torch.zeros(ROWS, 3)
    for latent in range(3):
        where = torch.randperm(ROWS, generator=g)[: ROWS // 50]
        code[where, latent] = 2 + torch.rand(len(where), generator=g)
    common = torch.randn(ROWS, 3, generator=g) @ E[3:]
    base = common + code[:, [1]] * E[1] - code[:, [2]] * E[2] / 2
    tuned = common + code[:, [0]] * E[0] + code[:, [2]] * E[2] / 2
    rows = torch.stack([base, tuned], 1) + torch.tensor([5.0, 7.0])[None, :, None]
    gap = (rows[:, 1] - rows[:, 0]).mean(0)
    # Rows of the autoencoder are the difference twice, about its mean and times 3; it reads each with half of its encoder.
    u = torch.stack([E[0], -E[1], E[2], E[5]])
    own = 3.0
    bias = u @ (gap - 2)  # What brings a code of 0 back to 0: 2 is the models' constant offset.
    bias[SILENT] = -100.0
    autoencoder = Crosscoder(
        W_enc=torch.cat([u, u], 1) / (2 * own), b_enc=bias, W_dec=torch.cat([u, u], 1) * own, b_dec=torch.zeros(12),
        mean=gap.expand(2, -1).clone(), scale=torch.full((2,), own), threshold=2.0, k=1,
    )  # fmt: skip
    return Case(rows, autoencoder)


@pytest.fixture(scope="module")
def coder(case: Case) -> Crosscoder:
    return D.attributed(case.autoencoder, case.of, case.everything, seed=0)


def test_the_difference_is_given_as_both_models_rows() -> None:
    both = torch.tensor([[[1.0, 2.0], [5.0, 2.0]]])
    assert D.difference_of(both).tolist() == [[[4.0, 0.0], [4.0, 0.0]]]


def test_each_latent_goes_to_the_model_that_has_it(coder: Crosscoder) -> None:
    first, second = coder.W_dec.view(4, 2, 6).unbind(1)
    u = second - first
    share = (second * u).sum(1) / u.square().sum(1)
    assert share[TUNED_ONLY] == pytest.approx(1, abs=0.02)
    assert share[BASE_ONLY] == pytest.approx(0, abs=0.02)
    assert share[REWRITTEN] == pytest.approx(0.5, abs=0.02)
    assert share[SILENT] == 0.5
    # Everything is along the one direction of each latent, and base's part of what tuned alone has is nearly nothing.
    torch.testing.assert_close(torch.nn.functional.normalize(u), torch.stack([E[0], -E[1], E[2], E[5]]))
    norms = coder.decoder_norms()
    assert norms[TUNED_ONLY, 0] < 0.02 * norms[TUNED_ONLY, 1]
    assert norms[BASE_ONLY, 1] < 0.02 * norms[BASE_ONLY, 0]


def test_latent_scaling_finds_nothing_of_it_in_the_other_model_or_its_opposite(case: Case, coder: Crosscoder) -> None:
    document = (np.arange(ROWS) // 50).astype(np.int32)
    sums = scaling(coder, case.of, document_blocks(case.everything, document, seed=0))
    everything = np.ones((1, len(sums.squares)))
    (base,), (tuned,) = (sums.nu(side, everything)[0] for side in (0, 1))
    assert tuned[TUNED_ONLY] == pytest.approx(0, abs=0.05)
    assert base[BASE_ONLY] == pytest.approx(0, abs=0.05)
    assert tuned[REWRITTEN] == pytest.approx(-1, abs=0.05)
    assert base[REWRITTEN] == pytest.approx(-1, abs=0.05)
    assert np.isnan(tuned[SILENT])


def test_codes_and_selection_are_those_of_the_autoencoder(case: Case, coder: Crosscoder) -> None:
    theirs = case.autoencoder.encode(case.autoencoder.normalise(D.difference_of(case.rows)))
    ours = coder.encode(coder.normalise(case.rows))
    assert ((theirs > 0).sum(0) == torch.tensor([ROWS // 50] * 3 + [0])).all()
    assert torch.equal(ours > 0, theirs > 0)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    # Raw differences of the reconstructions are the same too, but for what the models' means add.
    norms = case.autoencoder.code_norm()
    torch.testing.assert_close(coder.code_norm() * coder.selection, norms)
    assert (coder.threshold, coder.k) == (case.autoencoder.threshold, case.autoencoder.k)


def test_selection_is_kept_where_latents_compete() -> None:
    """Random weights and a threshold in the middle of the scores: which latents fire does not depend on their share."""
    from sample_crosscoders import make
    from sample_crosscoders import rows as raw

    own = make(latents=40)
    decoder = own.W_dec.view(40, 2, 5)[:, :1].expand(-1, 2, -1).flatten(1)
    some = raw(400) * torch.tensor([1.0, 3.0])[:, None]
    auto = Crosscoder(
        own.W_enc, own.b_enc, decoder, own.b_dec[:5].repeat(2), torch.zeros(2, 5), torch.full((2,), 0.5), 4.0, 3
    )
    coder = D.attributed(auto, lambda i: some[i], torch.arange(400), seed=0)
    theirs = auto.encode(auto.normalise(D.difference_of(some))) > 0
    ours = coder.encode(coder.normalise(some)) > 0
    assert 0.05 < theirs.float().mean() < 0.6
    assert (ours != theirs).float().mean() < 1e-3
    norms = coder.decoder_norms()
    assert (norms[:, 1] / norms[:, 0] - 1).abs().max() > 0.3  # They were given to one model more than to the other.


def test_shares_of_latents_that_fire_together_are_found_together() -> None:
    """Two latents 0.8 alike that nearly always fire together: taken one at a time, each is blamed for the other's."""
    g = torch.Generator().manual_seed(0)
    u = torch.stack([E[0], 0.8 * E[0] + 0.6 * E[1]])
    code = (torch.rand(ROWS, 1, generator=g) < 0.1) * (1 + torch.rand(ROWS, 2, generator=g))
    common = 0.3 * torch.randn(ROWS, 3, generator=g) @ E[3:]
    # The first latent is tuned's; what base had along the second's opposite is gone from tuned: share 1 and 0.
    rows = torch.stack([common - code[:, [1]] * u[1], common + code[:, [0]] * u[0]], 1)
    inverse = torch.linalg.pinv(u).T
    mean = (rows[:, 1] - rows[:, 0]).mean(0)
    auto = Crosscoder(
        W_enc=torch.cat([inverse, inverse], 1) / 2, b_enc=inverse @ mean, W_dec=torch.cat([u, u], 1), b_dec=torch.zeros(12),
        mean=mean.expand(2, -1).clone(), scale=torch.ones(2), threshold=0.1, k=1,
    )  # fmt: skip
    coder = D.attributed(auto, lambda i: rows[i], torch.arange(ROWS), seed=0)
    first, second = coder.W_dec.view(2, 2, 6).unbind(1)
    share = (second * (second - first)).sum(1) / (second - first).square().sum(1)
    assert share.tolist() == pytest.approx([1, 0], abs=0.05)


# Noise ------------------------------------------------------------------------------------------------


def control_of(measured: np.ndarray, other: np.ndarray) -> D.Exchanged:
    return D.Exchanged(
        measured.astype(np.float32),
        other.astype(np.float32),
        np.ones(measured.shape[1]),
        np.zeros((0, measured.shape[1])),
    )


def test_noise_gives_uniform_p_values() -> None:
    rng = np.random.default_rng(0)
    noise = control_of(*rng.exponential(size=(2, 200, 8000)))
    p = noise.p_values()
    # Votes are whole numbers, so a p-value has steps: at each of them P(p ≤ step) is the step.
    steps = binom.sf(np.arange(12, 26), D.TOP_BLOCKS, 0.5)
    for step in steps:
        assert (p <= step * (1 + 1e-9)).mean() == pytest.approx(step, abs=4 * np.sqrt(step / len(p)))
    assert not D.changed(p, np.ones(8000, dtype=bool), rate=0.05).any()


def test_a_latent_of_one_model_is_far_from_noise_and_a_silent_one_says_nothing() -> None:
    measured, other = (np.zeros((40, 4), dtype=np.float32) for _ in range(2))
    measured[:, 0] = 1  # fires only as the models are
    other[:, 1] = 1  # only with them exchanged
    measured[:5, 3], other[:5, 3] = 2, 2  # ties do not vote
    control = control_of(measured, other)
    p = control.p_values()
    assert p[0] == pytest.approx(0.5**D.TOP_BLOCKS)
    assert p[1:].tolist() == [1.0, 1.0, 1.0]
    assert D.changed(p, np.ones(4, dtype=bool), rate=0.05).tolist() == [True, False, False, False]


def test_exchanging_at_random_leaves_nothing_to_find() -> None:
    """Latents that only fire as the models are, in forty blocks each of their own size: exchanged at random they are noise."""
    rng = np.random.default_rng(0)
    measured = np.repeat(rng.random((40, 1)) + 1, 300, axis=1)
    control = control_of(measured, np.zeros_like(measured))
    everything = np.ones(300, dtype=bool)
    assert D.changed(control.p_values(), everything, rate=0.05).all()
    share = control.null_share(everything, rate=0.05, rng=rng, draws=400)
    assert share is not None
    # All latents vote alike, so a draw finds all or none: at most one in twenty finds them, with three standard errors.
    assert share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert control.null_share(np.zeros(300, dtype=bool), rate=0.05, rng=rng) is None


def test_rounding_is_told_from_a_difference() -> None:
    """Two latents: one fires on the pair alone, the other as strongly where one model is compared with its own rounding."""
    d = 4
    u = torch.eye(2, d)
    coder = Crosscoder(
        W_enc=torch.cat([-u, u], 1), b_enc=torch.zeros(2), W_dec=torch.cat([0 * u, u], 1), b_dec=torch.zeros(2 * d),
        mean=torch.zeros(2, d), scale=torch.ones(2), threshold=0.1, k=1,
    )  # fmt: skip
    pair, null = torch.zeros(8, 2, d), torch.zeros(8, 2, d)
    pair[:, 1, :2] = 1
    null[:, 1, 1] = -1  # The other sign: which precision comes first is no matter.
    out = D.numerical(coder, lambda i: pair[i], lambda i: null[i], torch.arange(8))
    assert out.tolist() == [False, True]
    assert D.numerical(coder, lambda i: pair[i], lambda i: 0 * null[i], torch.arange(8)).tolist() == [False, False]


def test_only_the_strongest_blocks_vote() -> None:
    """Three strong blocks as the models are, then many weak ones exchanged."""
    measured, other = np.zeros((20, 1), dtype=np.float32), np.full((20, 1), 0.5, dtype=np.float32)
    measured[:3] = 9
    control = control_of(measured, other)
    assert control.p_values(top=3).tolist() == [0.125]
    assert control.p_values(top=20)[0] > 0.99


@pytest.mark.parametrize(("measured", "found"), [(1000, 0), (1000, 12), (7, 0), (1, 0), (300, 299)])
def test_so_many_blocks_are_needed_and_no_fewer(measured: int, found: int) -> None:
    """One more latent with that many votes alike passes beside ``found`` certain ones; with one vote less it does not."""
    needed = D.needed_blocks(measured, found, rate=0.05)

    def passes(votes: int) -> bool:
        p = np.ones(measured)
        p[:found] = 0
        p[-1] = 2.0**-votes
        return bool(D.changed(p, np.ones(measured, dtype=bool), rate=0.05)[-1])

    assert passes(needed)
    assert needed == 1 or not passes(needed - 1)


def test_blocks_without_a_response_do_not_vote() -> None:
    measured, other = np.zeros((20, 2), dtype=np.float32), np.zeros((20, 2), dtype=np.float32)
    measured[:3, 0], other[5:7, 0], measured[:, 1] = 1, 1, 2
    assert control_of(measured, other).voters().tolist() == [5, 20]
    assert control_of(measured, other).voters(top=4).tolist() == [4, 4]


def test_changed_is_benjamini_hochberg_over_what_is_defined() -> None:
    p = np.array([0.01, 0.02, 0.03, 0.5])
    assert D.changed(p, np.ones(4, dtype=bool), rate=0.05).tolist() == [True, True, True, False]
    assert D.changed(p, np.array([False, False, True, True]), rate=0.05).tolist() == [False] * 4
    assert D.changed(p, np.array([False, False, True, True]), rate=0.07).tolist() == [False, False, True, False]
    assert D.changed(p, np.zeros(4, dtype=bool), rate=0.5).tolist() == [False] * 4


def test_exchanging_changes_the_sign_of_the_difference(case: Case, coder: Crosscoder) -> None:
    document = (np.arange(ROWS) // 50).astype(np.int32)
    blocks = document_blocks(case.everything, document, seed=0, limit=64)
    seen = list[int]()
    control = D.exchanged(coder, case.of, blocks, on_progress=lambda done, total: seen.append(done))
    assert seen[-1] == ROWS
    f = coder.encode(coder.normalise(case.rows)).numpy()
    by_hand = np.stack([f[blocks.block == block].max(0) for block in range(64)])
    np.testing.assert_allclose(control.measured, by_hand, rtol=1e-5)
    assert control.measured[:, :3].max() > 2
    size = (coder.W_dec[:, 6:] - coder.W_dec[:, :6]).norm(dim=1).numpy()
    np.testing.assert_allclose(control.energy, (f.astype(float) ** 2).sum(0) * size**2, rtol=1e-4)
    some = D.exchanged(coder, case.of, blocks, counted=np.arange(ROWS) < ROWS // 4)
    np.testing.assert_allclose(some.energy, (f[: ROWS // 4].astype(float) ** 2).sum(0) * size**2, rtol=1e-4)
    weights = np.zeros((2, ROWS))
    weights[0, 5], weights[1, 7], weights[1, ROWS - 1] = 2, 1, 9
    some = D.exchanged(coder, case.of, blocks, counted=np.arange(ROWS) < ROWS // 4, weights=weights)
    np.testing.assert_allclose(some.weighted, f[[5, 7]].astype(float) ** 2 * size**2 * [[2], [1]], rtol=1e-4)
    early = f[: ROWS // 4], blocks.block[: ROWS // 4]
    by_hand = np.stack([early[0][early[1] == block].max(0, initial=0) for block in range(64)])
    np.testing.assert_allclose(some.measured, by_hand, rtol=1e-5)  # Tokens that do not count have no vote.
    assert control.exchanged.max() == 0  # What tuned adds, and base writes the other way, is never found there.
    assert D.changed(control.p_values(), np.ones(4, dtype=bool), rate=0.05).tolist() == [True, True, True, False]


# How much it explains ---------------------------------------------------------------------------------


def reads_half(c: float) -> Crosscoder:
    """One latent that reads tuned − base along axis 0, whose mean is 1, and gives it to tuned times ``c``."""
    return Crosscoder(
        W_enc=torch.tensor([[-1.0, 0, 1, 0]]), b_enc=torch.ones(1), W_dec=torch.tensor([[0.0, 0, c, 0]]),
        b_dec=torch.tensor([0.0, 0, -c, 0]), mean=torch.tensor([[0.0, 0], [1, 0]]), scale=torch.ones(2), threshold=0.0, k=1,
    )  # fmt: skip


def test_the_share_of_energy_and_what_is_explained_by_hand() -> None:
    """Base is ±1 on axis 1; tuned is that and 0 or 2 on axis 0. Energies about the means: 1 and 1 + 1, the difference 1."""
    base = torch.tensor([[0.0, 1], [0, -1], [0, 1], [0, -1]])
    rows = torch.stack([base, base + torch.tensor([[2.0, 0], [2, 0], [0, 0], [0, 0]])], 1)

    def explained(c: float) -> tuple[float, float | None]:
        return D.explained(reads_half(c), lambda i: rows[i], torch.arange(4))

    assert explained(1.0) == (pytest.approx(1 / 3), pytest.approx(1))
    assert explained(0.5) == (pytest.approx(1 / 3), pytest.approx(0.75))
    assert explained(0.0) == (pytest.approx(1 / 3), pytest.approx(0))
    assert explained(2.0) == (pytest.approx(1 / 3), pytest.approx(0))


def test_where_nothing_differs_nothing_is_explained() -> None:
    rows = torch.randn(20, 1, 2, generator=torch.Generator().manual_seed(0)).expand(-1, 2, -1)
    coder = reads_half(1.0)
    same = Crosscoder(
        coder.W_enc * 0, coder.b_enc * 0, coder.W_dec * 0, coder.b_dec * 0, torch.zeros(2, 2), torch.ones(2), 0.0, 1
    )
    assert D.explained(same, lambda i: rows[i], torch.arange(20)) == (0.0, None)
