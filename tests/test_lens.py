"""The activation-difference lens: a planted direction comes out as its token, and noise as nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_lm import tiny_model, tiny_tokenizer

from modeldiff_eval import lens
from modeldiff_eval.activations import PairedRows
from modeldiff_eval.errors import ModelError
from modeldiff_eval.records import LensScope

WIDTH, WORDS, PROMPTS, EACH = 16, 200, 40, 6


class Rows(PairedRows):
    """Rows in memory with PairedRows' call."""

    def __init__(self, base: torch.Tensor, tuned: torch.Tensor) -> None:
        self._both = torch.stack([base, tuned], dim=1)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._both[tokens]


def read(shift: torch.Tensor, out: lens.Readout, *, noise: float = 0.1, seed: int = 0) -> LensScope:
    """The lens on a tuned model that adds ``shift`` [d_model] and noise to every row of base."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(PROMPTS * EACH, WIDTH, generator=generator) + 1
    tuned = base + shift + noise * torch.randn(base.shape, generator=generator)
    block = torch.arange(PROMPTS).repeat_interleave(EACH)
    sums = lens.block_sums(Rows(base, tuned), torch.arange(len(base)), block)
    options: Any = {
        "positions": 5,
        "documents": PROMPTS,
        "prompts": PROMPTS,
        "draws": 400,
        "rng": np.random.default_rng(1),
    }
    return lens.scope(sums, out, "t{}".format, **options)


@pytest.fixture(scope="module")
def plain() -> lens.Readout:
    """An identity norm and random words of length 1."""
    words = torch.randn(WORDS, WIDTH, generator=torch.Generator().manual_seed(5))
    return lens.Readout(torch.nn.Identity(), words / words.norm(dim=1, keepdim=True))


def test_a_planted_token_comes_first_and_its_opposite_last(plain: lens.Readout) -> None:
    found = read(plain.unembedding[7], plain)
    assert found.up[0].token == "t7"
    assert found.up[0].p_adjusted < 0.01
    assert found.p < 0.01
    against = read(-plain.unembedding[7], plain)
    assert against.down[0].token == "t7"
    assert found.norm.value == pytest.approx(1.0, abs=0.03)
    assert found.null_norm < 0.5


def test_the_interval_of_the_length_holds_the_truth(plain: lens.Readout) -> None:
    """A difference a third of what chance adds to the mean's length; the plain length would miss it every time."""
    bounds = [read(0.03 * plain.unembedding[7], plain, seed=seed).norm for seed in range(20)]
    assert sum((b.low or 0) <= 0.03 <= (b.high or 0) for b in bounds) >= 17


def test_swapped_models_mirror_the_scores(plain: lens.Readout) -> None:
    base, shift = torch.randn(240, WIDTH, generator=torch.Generator().manual_seed(0)), plain.unembedding[3]
    block = torch.arange(PROMPTS).repeat_interleave(EACH)
    options: Any = {"positions": None, "documents": 40, "prompts": 40, "draws": 50}
    both = []
    for pair in ((base, base + shift), (base + shift, base)):
        sums = lens.block_sums(Rows(*pair), torch.arange(240), block)
        both.append(lens.scope(sums, plain, str, rng=np.random.default_rng(0), **options))
    assert [t.token for t in both[0].up] == [t.token for t in both[1].down]
    assert both[0].up[0].score.value == pytest.approx(-(both[1].down[0].score.value or 0), abs=1e-5)


def test_identical_models_give_no_token(plain: lens.Readout) -> None:
    found = read(torch.zeros(WIDTH), plain, noise=0.0)
    assert (found.up, found.down, found.p) == ([], [], 1.0)
    assert (found.norm.value, found.norm.high) == (0.0, 0.0)


def test_noise_is_rarely_significant(plain: lens.Readout) -> None:
    runs = [read(torch.zeros(WIDTH), plain, seed=seed) for seed in range(30)]
    tokens = [min(t.p_adjusted for t in (*run.up, *run.down)) for run in runs]
    assert sum(p < 0.05 for p in tokens) <= 5
    assert sum(run.p < 0.05 for run in runs) <= 5


def test_scores_and_norm_by_hand() -> None:
    """Two words along the axes, a difference of (2, 0) everywhere: logits +2 and 0, their mean 1 taken off."""
    out = lens.Readout(torch.nn.Identity(), torch.eye(2))
    base = torch.tensor([[0.0, 4.0]]).repeat(20, 1)
    sums = lens.block_sums(Rows(base, base + torch.tensor([2.0, 0.0])), torch.arange(20), torch.arange(20))
    found = lens.scope(
        sums, out, "t{}".format, positions=None, documents=20, prompts=20, draws=100, rng=np.random.default_rng(0)
    )
    assert [(t.token, t.score.value) for t in found.up] == [("t0", 1.0)]
    assert [(t.token, t.score.value) for t in found.down] == [("t1", -1.0)]
    assert (found.norm.value, found.share.value, found.tokens) == (2.0, 50.0, 20)


def test_the_norm_is_taken_to_first_order() -> None:
    """RMS norm at (3, 3): a step along the residual changes nothing, one across it is divided by its root mean square."""
    norm = torch.nn.RMSNorm(2, eps=0.0)
    out = lens.Readout(norm, torch.eye(2))
    moved = out.changes(torch.tensor([3.0, 3.0]), torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    assert torch.allclose(moved, torch.tensor([[0.0, 0.0], [1 / 3, -1 / 3]]), atol=1e-6)


def test_readout_of_a_model_and_of_one_that_has_none() -> None:
    model = tiny_model()
    out = lens.readout(model)
    assert out.unembedding.shape == (259, 16)
    x = torch.randn(3, 16)
    assert torch.allclose(out.norm(x), model.model.norm(x))
    with pytest.raises(ModelError, match="final norm"):
        lens.readout(Headless())


class Headless:
    """A model with blocks and nothing else."""

    def __init__(self) -> None:
        self.model = torch.nn.Module()
        self.model.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])

    def get_decoder(self) -> torch.nn.Module:
        return self.model

    def get_output_embeddings(self) -> None:
        return None


def test_pieces_of_a_character_are_spelled_out() -> None:
    tokenizer = tiny_tokenizer()
    show = lens.token_text(tokenizer)
    half = tokenizer("é").input_ids[0]
    assert "\ufffd" in tokenizer.decode([half])
    assert show(half) == tokenizer.convert_ids_to_tokens(half)
    assert show(tokenizer("a").input_ids[0]) == "a"


def test_prompts_share_a_block_and_never_leave_the_limit() -> None:
    groups = [f"g{n % 50}" for n in range(200)]
    block = lens.prompt_blocks(groups, seed=0, limit=8)
    assert set(block) == set(range(8))
    assert all(len({b for b, g in zip(block, groups, strict=True) if g == name}) == 1 for name in set(groups))
