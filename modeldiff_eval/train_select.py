"""BatchTopK selection without the full matrix of scores: screen in bf16, compute the candidates exactly, keep the largest."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from modeldiff_eval.ranks import Ranks
from modeldiff_eval.sparse import Places, Sparse

GUESS = 0.95
"""Candidates are screened at this share of the last step's threshold: θ moves by about 1 % a step."""
SURE = 0.98
"""A screening below this share of the exact θ is taken to have missed nothing: bf16 scores near θ were off by 1.0 % of it at most."""
FEW = 0.8
"""Screened again at this share of the threshold when there are too few candidates, then at ever smaller ones."""
ROUNDING = 1.01
"""Keeps a bound a bound when it is rounded to bf16."""
RETRY = 512
"""Batches after which the short screening is tried again at the latest; first after 8, then twice as many each time."""
SCREEN_ENTRIES = {"cpu": 1 << 20}
"""Scores that are in memory at a time: on a CPU as many as its caches hold,"""
_MANY_ENTRIES = 1 << 25
"""elsewhere so many that starting the kernels does not count."""
_SAMPLE_ROWS = 64


def screened_latents(rows: int, latents: int, device: str) -> int:
    """Latents that are screened at a time for a batch of ``rows``, a multiple of 8 (see :func:`_places`)."""
    return min(latents, max(64, SCREEN_ENTRIES.get(device, _MANY_ENTRIES) // rows // 8 * 8))


class Selector:
    """Finds the ``budget`` largest positive scores of a batch; remembers the threshold from step to step.

    The two models of a pair are close: with x = x̄ ± Δx/2 and W = W̄ ± ΔW/2, a score is x̄·2W̄ + Δx·ΔW/2, and the last
    term is at most ‖Δx‖‖ΔW‖/2. While that bound is small the screening multiplies the means only, half as many columns,
    with the bound as one further column: it may pass too many candidates, never too few. Where it passes more than
    twice the budget the whole product is taken, and the short one tried again later.

    ``screenings`` counts the products that were needed, one a batch when the guess holds; ``candidates`` the entries
    that the last one passed.
    """

    def __init__(
        self,
        ranks: Ranks | None = None,
        *,
        dtype: torch.dtype = torch.bfloat16,
        short: bool = True,
    ) -> None:
        self.ranks, self.dtype = ranks or Ranks(), dtype
        self.low: float | None = None
        self.screenings = self.candidates = 0
        self._pause, self._patience = 0 if short else -1, 8
        self._buffers: dict[str, Tensor] = {}

    def __call__(
        self,
        inputs: Float[Tensor, "rows inputs"],
        W_enc: Float[Tensor, "latents inputs"],
        b_enc: Float[Tensor, " latents"],
        norms: Float[Tensor, " latents"],
        budget: int,
    ) -> Sparse:
        """The selected entries of this rank's latents, with exact float32 values f > 0.

        Entries that tie at the threshold are taken in the order of rank, latent and row until the budget is full.
        """
        shape = (len(inputs), len(W_enc))
        # The first threshold comes from a few rows and is set low: it passes more.
        limit = (4 if self.low is None else 2) * budget
        if self.low is None:
            self.low = self._guess(inputs, W_enc, b_enc, norms, budget)
        low, step = self.low, FEW
        while True:
            short = self._pause == 0
            found = self._screen(inputs, W_enc, b_enc, norms, low, limit if short else None)
            if found is None:
                self._pause, self._patience = self._patience, min(2 * self._patience, RETRY)
                continue
            latent = found // shape[0]
            places = Places(shape, found % shape[0], latent)
            values = places.dots(inputs, W_enc).add_(b_enc[latent])
            scores = values * norms[latent]
            known = self.ranks.concatenate(scores if bool((scores > 0).all()) else scores[scores > 0])
            theta = _kth_largest(known, budget) if len(known) >= budget else 0.0
            if low <= max(SURE * theta, 0.0):
                break
            if theta > 0:
                # Some that belong to the budget may have been screened out. The true θ is at least this one.
                low = SURE * theta
            else:
                low, step = low * step, step**2
                low = low if low > self.low / 100 else 0.0
        self.low = GUESS * theta
        self.candidates = len(latent)
        self._pause -= self._pause > 0
        keep = scores > theta
        if theta > 0:
            self._fill_with_ties(keep, scores == theta, known, theta, budget)
        chosen = keep.nonzero().squeeze(1)
        return Sparse(shape, places.row[chosen], latent[chosen], values[chosen])

    def _left(self, inputs: Tensor) -> Tensor:
        """The batch as the screening multiplies it: [rows, columns].

        The columns are the means, the differences unless their bound is enough, one for the bias and one for the bound, then
        zeros. Rounding the difference itself, and not both models, keeps latents exact that read only the difference.
        """
        d = inputs.shape[1] // 2
        width = d if self._pause == 0 else 2 * d
        left = self._buffer(f"left {width}", (len(inputs), -(-(width + 2) // 32) * 32), inputs.device)
        first, second = inputs.chunk(2, dim=1)
        difference = torch.sub(first, second).mul_(0.5)
        left[:, :d] = torch.add(first, second).mul_(0.5)
        left[:, width] = 1
        if width == d:
            left[:, width + 1] = ROUNDING * difference.norm(dim=1)
        else:
            left[:, d:width] = difference
        return left

    def _right(self, W_enc: Tensor, b_enc: Tensor, norms: Tensor, columns: int) -> Tensor:
        """Some latents' encoders in the same columns: [latents, columns]. Their products are scores, or at least as large."""
        d = W_enc.shape[1] // 2
        width = d if self._pause == 0 else 2 * d
        right = self._buffer(f"right {width}", (len(W_enc), columns), W_enc.device)
        first, second = W_enc.chunk(2, dim=1)
        n = norms[:, None]
        right[:, :d] = torch.add(first, second).mul_(n)
        right[:, width] = norms * b_enc
        difference = torch.sub(first, second)
        if width == d:
            right[:, width + 1] = difference.norm(dim=1).mul_(norms)
        else:
            right[:, d:width] = difference.mul_(n)
        return right

    def _screen(
        self, inputs: Tensor, W_enc: Tensor, b_enc: Tensor, norms: Tensor, low: float, limit: int | None
    ) -> Tensor | None:
        """Flat places (latent · rows + row) whose approximate score reaches ``low``; None beyond ``limit`` of them.

        A piece of the encoder is converted, multiplied and compared while it is in the processor's caches.
        """
        self.screenings += 1
        left = self._left(inputs)
        rows, latents = len(inputs), len(W_enc)
        size = screened_latents(rows, latents, inputs.device.type)
        screen = self._buffer("screen", (size, rows), left.device)
        mask = self._buffer("mask", (size, rows), left.device, torch.bool)
        # Positive floats order like the integers of their bits, which compare twice as fast.
        bits = int(torch.tensor(low, dtype=self.dtype).view(torch.int16)) if self.dtype == torch.bfloat16 else 0
        found, total = [], 0
        for start in range(0, latents, size):
            piece = slice(start, min(start + size, latents))
            n = piece.stop - start
            torch.mm(self._right(W_enc[piece], b_enc[piece], norms[piece], left.shape[1]), left.T, out=screen[:n])
            if bits > 0:
                torch.ge(screen[:n].view(torch.int16), bits, out=mask[:n])
            else:
                torch.gt(screen[:n], low, out=mask[:n])
            found.append(_places(mask[:n].view(-1)).add_(start * rows))
            total += len(found[-1])
            if limit is not None and total > limit:
                return None
        return torch.cat(found)

    def _guess(self, inputs: Tensor, W_enc: Tensor, b_enc: Tensor, norms: Tensor, budget: int) -> float:
        """A threshold for the first batch, from a sample of its rows."""
        sample = inputs[:: max(1, len(inputs) // _SAMPLE_ROWS)]
        wanted = max(1, budget * len(sample) // len(inputs))
        scores = torch.addmm(b_enc, sample, W_enc.T).mul_(norms).flatten()
        top = torch.topk(scores, min(wanted, len(scores)), sorted=False).values
        pooled = self.ranks.concatenate(top)
        return max(0.0, 0.9 * _kth_largest(pooled, min(wanted, len(pooled))))

    def _fill_with_ties(self, keep: Tensor, ties: Tensor, known: Tensor, theta: float, budget: int) -> None:
        """Fill the budget with entries at the threshold itself (nearly always exactly one)."""
        allowed = budget - int((known > theta).sum())
        if self.ranks.world > 1:
            counts = self.ranks.concatenate(ties.sum().reshape(1).to(torch.float64))
            allowed -= int(counts[: self.ranks.rank].sum())
        places = ties.nonzero().squeeze(1)[: max(0, allowed)]
        keep[places] = True

    def _buffer(
        self, name: str, shape: tuple[int, int], device: torch.device, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Memory that is kept from batch to batch; what is not written to is 0."""
        held = self._buffers.get(name)
        if held is None or held.shape[1] != shape[1] or len(held) < shape[0]:
            held = self._buffers[name] = torch.zeros(shape, dtype=dtype or self.dtype, device=device)
        return held[: shape[0]]

    def state(self) -> dict[str, float | int | None]:
        """What the next batch's screening depends on, for a checkpoint."""
        return {"low": self.low, "pause": self._pause, "patience": self._patience}

    def set_state(self, state: dict[str, float | int | None]) -> None:
        """Go on from :meth:`state`."""
        self.low, self._pause, self._patience = state["low"], int(state["pause"] or 0), int(state["patience"] or 8)


def _places(mask: Tensor) -> Tensor:
    """Where a flat, nearly empty mask is true: eight entries are looked at together first."""
    if len(mask) % 8:
        return mask.nonzero().squeeze(1)
    word = mask.view(torch.int64).nonzero().squeeze(1)
    inside = mask.view(-1, 8)[word].nonzero()
    return word[inside[:, 0]] * 8 + inside[:, 1]


def _kth_largest(values: Float[Tensor, " n"], k: int) -> float:
    """The k-th largest value; it cuts away the smaller part, whichever that is."""
    n = len(values)
    if k <= n // 2:
        return float(torch.topk(values, k, sorted=False).values.min())
    return float(torch.topk(values, n - k + 1, largest=False, sorted=False).values.max())
