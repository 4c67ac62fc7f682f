"""The methods of training: what each turns its rows into, turns back, and leaves at exactly zero."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from sample_crosscoders import make
from sample_crosscoders import rows as raw
from torch import Tensor

from modeldiff_eval import methods as M
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.settings import Method
from modeldiff_eval.train import MappedSource
from modeldiff_eval.train_step import TrainSettings

METHODS = get_args(Method)
D_MODEL, ROWS = 8, 3000


def planted() -> Tensor:
    """[latents, model, d_model] 8 shared, 2 of tuned alone, 2 of base alone."""
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(12, 2, D_MODEL, generator=g), dim=2)
    directions[:8, 1] = directions[:8, 0]
    directions[8:10, 0] = 0
    directions[10:, 1] = 0
    return directions


@pytest.fixture(scope="module")
def rows() -> Tensor:
    """Sparse latents that both models share, two of tuned alone and two of base alone, and a little noise."""
    directions, g = planted(), torch.Generator().manual_seed(1)
    f = torch.rand(ROWS, 12, generator=g) * 3 * (torch.rand(ROWS, 12, generator=g) < 0.1)
    both = torch.einsum("rl,lmd->rmd", f, directions)
    return both + 0.02 * torch.randn(both.shape, generator=g) + torch.tensor([0.3, -0.2])[None, :, None]


def trained(method: Method, rows: Tensor, folder: Path, *, steps: int = 40, seed: int = 0) -> Crosscoder:
    everything = torch.arange(len(rows))
    train_rows, heldout = everything[: ROWS // 2], everything[ROWS // 2 :]
    settings = M.train_settings(method, n_latents=24, k=3, steps=steps, batch=128, lr=3e-3, seed=seed)
    source = MappedSource(lambda i: rows[i], train_rows, batch=128, seed=seed)
    return M.train_method(
        method, source, settings, rows=lambda i: rows[i], train_rows=train_rows, heldout=heldout, folder=folder
    )


def equal(one: Crosscoder, other: Crosscoder) -> bool:
    def same(a: object, b: object) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b

    return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_crosscoder_with_its_budget(method: Method, rows: Tensor, tmp_path: Path) -> None:
    coder = trained(method, rows, tmp_path)
    settings = M.train_settings(method, n_latents=24, k=3, steps=40, batch=128, lr=3e-3, seed=0)
    assert (coder.n_latents, coder.k, coder.d_model) == (settings.n_latents, settings.k, D_MODEL)
    heldout = rows[ROWS // 2 :]
    codes = coder.encode(coder.normalise(heldout))
    # The threshold was set for this on these very rows.
    assert float((codes > 0).sum(1).float().mean()) == pytest.approx(settings.k, rel=0.02)
    assert torch.isfinite(coder.decode(codes)).all()
    assert (coder.selection is None) == (method == "batchtopk")


def test_sizes_of_a_difference_dictionary() -> None:
    def sizes(lr: float, k: int = 32) -> TrainSettings:
        return M.train_settings("difference", n_latents=3072, k=k, steps=400, batch=64, lr=lr, seed=1)

    made = sizes(5e-4)
    assert (made.n_latents, made.k, made.steps, made.batch, made.seed) == (1024, 12, 800, 64, 1)
    assert made.lr == pytest.approx(1.5e-3)
    assert sizes(2e-3).lr == pytest.approx(3e-3)
    assert sizes(1e-2).lr == pytest.approx(1e-2)
    assert sizes(1e-3, k=1).k == 1
    small = M.train_settings("difference", n_latents=3, k=3, steps=1, batch=1, lr=1.0, seed=0)
    assert (small.n_latents, small.k) == (2, 1)
    plain = M.train_settings("batchtopk", n_latents=3072, k=32, steps=400, batch=64, lr=5e-4, seed=1)
    assert (plain.n_latents, plain.k, plain.steps, plain.lr, plain.exclusive) == (3072, 32, 400, 5e-4, 0.0)


# delta ------------------------------------------------------------------------------------------------


@pytest.fixture
def turned() -> tuple[M.SumAndDifference, Crosscoder, Crosscoder]:
    """A random crosscoder of turned rows, and the same turned back."""
    turn = M.SumAndDifference(
        torch.randn(2, 5, generator=torch.Generator().manual_seed(3)), torch.tensor([0.5, 3]), 2.0
    )
    some = make()
    there = Crosscoder(
        some.W_enc, some.b_enc, some.W_dec, some.b_dec, torch.zeros(2, 5), torch.ones(2), some.threshold, some.k
    )
    return turn, there, turn.back(there)


def test_a_crosscoder_turned_back_is_the_same_function(
    turned: tuple[M.SumAndDifference, Crosscoder, Crosscoder],
) -> None:
    turn, there, back = turned
    some = raw(200)
    theirs, ours = there.encode(there.normalise(turn(some))), back.encode(back.normalise(some))
    assert 0.1 < (theirs > 0).float().mean() < 0.9
    assert torch.equal(ours > 0, theirs > 0)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    rebuilt = turn(back.denormalise(back.decode(ours)))
    torch.testing.assert_close(rebuilt, there.denormalise(there.decode(theirs)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(back.code_norm() * back.selection, there.code_norm())
    assert not torch.allclose(back.code_norm(), there.code_norm(), rtol=0.05)


def test_an_error_in_the_difference_costs_more_by_hand(
    turned: tuple[M.SumAndDifference, Crosscoder, Crosscoder],
) -> None:
    """|e_1|² + |e_2|² + (weight² − 1)/2 · |e_2 − e_1|²."""
    turn, _, _ = turned
    a, b = raw(50, seed=1), raw(50, seed=2)
    x, y = ((some - turn.mean) * turn.scale[:, None] for some in (a, b))
    both, gap = (x - y).square().sum(), ((x - y)[:, 1] - (x - y)[:, 0]).square().sum()
    torch.testing.assert_close((turn(a) - turn(b)).square().sum(), both + (turn.weight**2 - 1) / 2 * gap)
    plain = M.SumAndDifference(torch.zeros(2, 1), torch.ones(2), 1.0)
    assert plain(torch.tensor([[[1.0], [3.0]]])).flatten().tolist() == pytest.approx(
        [4 / math.sqrt(2), 2 / math.sqrt(2)]
    )


# dedicated --------------------------------------------------------------------------------------------


def test_exclusive_latents_have_exactly_nothing_in_the_other_model(rows: Tensor, tmp_path: Path) -> None:
    coder = trained("dedicated", rows, tmp_path)
    own = round(24 * M.DEDICATED_SHARE)
    assert own == 3
    for weights in (coder.W_dec, coder.W_enc):
        first, second = weights.view(24, 2, D_MODEL).unbind(1)
        assert not second[:own].any()
        assert not first[own : 2 * own].any()
        assert (first[:own].norm(dim=1) > 0).all()
        assert (second[own : 2 * own].norm(dim=1) > 0).all()
        assert (first[2 * own :].norm(dim=1) > 0).all()
        assert (second[2 * own :].norm(dim=1) > 0).all()
    assert coder.selection is not None
    assert coder.selection.tolist() == [2.0] * 6 + [1.0] * 18


# difference -------------------------------------------------------------------------------------------


def test_exchanging_the_halves_twice_is_the_identity() -> None:
    some = make()
    once = M.exchange_halves(some)
    assert not equal(once, some)
    assert equal(M.exchange_halves(once), some)


def test_exchanged_halves_read_exchanged_rows() -> None:
    some, both = make(), raw(100)
    other = M.exchange_halves(some)
    f, g = some.encode(some.normalise(both)), other.encode(other.normalise(M.exchange(both)))
    assert (f > 0).any()
    torch.testing.assert_close(g, f, rtol=1e-4, atol=1e-5)
    there = other.denormalise(other.decode(g))
    torch.testing.assert_close(M.exchange(there), some.denormalise(some.decode(f)), rtol=1e-4, atol=1e-4)


def test_exchanging_the_models_exchanges_the_dictionary_and_nothing_else(rows: Tensor, tmp_path: Path) -> None:
    one = trained("difference", rows, tmp_path / "one")
    other = trained("difference", M.exchange(rows), tmp_path / "other")
    assert equal(M.exchange_halves(other), one)


def test_the_exclusive_directions_are_given_to_their_model(rows: Tensor, tmp_path: Path) -> None:
    """Two latents of tuned alone and two of base alone were planted. Eight latents learn these four: some are near copies of
    each other that fire together, and each of them still goes to the model that has it."""
    coder = trained("difference", rows, tmp_path, steps=300)
    f = coder.encode(coder.normalise(rows))
    first, second = coder.W_dec.view(8, 2, D_MODEL).unbind(1)
    u = torch.nn.functional.normalize(second - first)
    share = ((second * u).sum(1) / (second - first).norm(dim=1)).numpy()
    cosine = u @ (planted()[8:, 1] - planted()[8:, 0]).T
    clear = (cosine.max(1).values > 0.9) & ((f > 0).float().mean(0) > 0.03)
    assert np.corrcoef(f.T.numpy())[np.triu_indices(8, 1)].max() > 0.9
    owner = cosine.argmax(1)
    found = {name: share[(clear & (owner // 2 == side)).numpy()] for side, name in enumerate(("tuned", "base"))}
    assert len(found["tuned"]) >= 1
    assert len(found["base"]) >= 1
    assert (abs(found["tuned"] - 1) < 0.2).all()
    assert (abs(found["base"]) < 0.2).all()


def test_models_that_do_not_differ_make_a_dictionary_that_never_fires(rows: Tensor, tmp_path: Path) -> None:
    same = rows[:, :1].expand(-1, 2, -1).contiguous()
    coder = trained("difference", same, tmp_path)
    assert (coder.n_latents, coder.k) == (8, 1)
    codes = coder.encode(coder.normalise(same))
    assert not codes.any()
    middle = same[ROWS // 2 :].double().mean(0).float()
    torch.testing.assert_close(coder.denormalise(coder.decode(codes))[0], middle, atol=1e-5, rtol=1e-5)
    assert not list(tmp_path.iterdir())  # Nothing was trained.


def test_a_constant_difference_makes_a_dictionary_that_never_fires(rows: Tensor, tmp_path: Path) -> None:
    """A steering vector is the same on every token: there is nothing sparse about it."""
    same = rows[:, :1].round(decimals=2).repeat(1, 2, 1)
    same[:, 1] = same[:, 0].round()  # Whole numbers, so that adding and taking away is exact.
    same[:, 0] = same[:, 1]
    same[:, 1] += 3
    coder = trained("difference", same, tmp_path)
    assert not coder.encode(coder.normalise(same)).any()
