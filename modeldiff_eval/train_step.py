"""One step of BatchTopK crosscoder training with a sparse decoder and sparse gradients (ALGORITHMS §1 and §2).

For B rows and a budget of k·B active latents:

1. a bf16 product of the inputs with the norm-scaled encoder gives approximate scores v = f·n; those above a
   threshold guessed from the step before are candidates (:mod:`modeldiff_eval.train_select`);
2. the candidates' values are computed again in float32 and the k·B largest scores are kept; a guess that was too
   high to prove that nothing was missed is lowered and the screening repeated;
3. reconstruction, both weight gradients and the code gradient touch only those k·B entries;
4. latents that have been silent for a while reconstruct the residual (auxiliary loss), sparsely as well;
5. fused Adam, which applies the clipping factor while it reads the gradients.

With several ranks each holds a slice of the latents; three small exchanges make the result that of one process.
:func:`dense_loss` is the same loss written with dense autograd; the tests compare every gradient.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modeldiff_eval.backoff import twice
from modeldiff_eval.errors import ActivationsError, SettingsError
from modeldiff_eval.ranks import Ranks
from modeldiff_eval.records import Record
from modeldiff_eval.sparse import Places, Sparse
from modeldiff_eval.train_select import Selector

AUX_WEIGHT = 1 / 32


class TrainSettings(Record):
    """How a crosscoder is trained. ``steps`` × ``batch`` rows are presented in all.

    The defaults were chosen by sweeps on real activations: docs/decisions/010-training-defaults.md.
    """

    n_latents: int
    k: int
    steps: int
    batch: int = 2048
    lr: float = 3e-3
    betas: tuple[float, float] = (0.5, 0.99)
    """Adam's, shorter than usual: runs are hundreds to thousands of steps, and a latent fires in few rows of each."""
    clip: float = 1.0
    k_start: int = 1
    """k is annealed from ``k_start`` × k; 1 for not at all."""
    decoder_norm: float = 0.4
    """Initial norm of a latent's decoder row and of its encoder row (both models together)."""
    dead_share: float = 1 / 8
    """A latent counts as dead when silent for this share of the run's rows, at most 10 million."""
    seed: int = 0
    exclusive: float = 0.0
    """Share of the latents that only the first model has, and again of those that only the second has; 0 for none."""


EXCLUSIVE_WEIGHT = 2.0
"""What the score of an exclusive latent is multiplied by: it has one decoder row where others have two."""


def ownership(settings: TrainSettings) -> Float[Tensor, "latents 2"] | None:
    """1 where a latent may read and write a model, else 0; None where every latent may do both."""
    n = round(settings.exclusive * settings.n_latents)
    if not n:
        return None
    if 2 * n > settings.n_latents:
        raise SettingsError(f"exclusive = {settings.exclusive:g} for each model leaves no shared latents.")
    own = torch.ones(settings.n_latents, 2)
    own[:n, 1] = 0
    own[n : 2 * n, 0] = 0
    return own


def selection_weights(settings: TrainSettings) -> Float[Tensor, " latents"] | None:
    """What scores are multiplied by; None where all count alike."""
    own = ownership(settings)
    return None if own is None else torch.where(own.sum(1) == 1, EXCLUSIVE_WEIGHT, 1.0)


def dense_loss(
    inputs: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    W_dec: Tensor,
    b_dec: Tensor,
    *,
    budget: int,
    dead: Tensor,
    aux_k: int,
    aux_rows: slice = slice(None),
) -> Tensor:
    """Reference: the training loss in dense autograd. Slow, and the definition of what the sparse step computes."""
    pre = torch.relu(inputs @ W_enc.T + b_enc)
    d_model = inputs.shape[1] // 2
    with torch.no_grad():
        norms = W_dec.view(len(W_dec), 2, d_model).norm(dim=2).sum(1)
        scores = (pre * norms).flatten()
        mask = torch.zeros_like(scores)
        mask[torch.topk(scores, min(budget, len(scores))).indices] = 1
    f = pre * mask.view_as(pre)
    error = inputs - (f @ W_dec + b_dec)
    loss = error.square().mean()
    if len(dead) and len(inputs[aux_rows]):
        residual = error.detach()[aux_rows]
        codes = pre[aux_rows][:, dead]
        top = torch.topk(codes * norms[dead], min(aux_k, len(dead)), dim=1).indices
        codes = codes * torch.zeros_like(codes).scatter_(1, top, 1.0)
        aux = (residual - codes @ W_dec[dead]).square().mean() / residual.var(correction=0).clamp_min(1e-12)
        loss = loss + AUX_WEIGHT * aux
    return loss


def _squares(rows: Float[Tensor, "rows inputs"]) -> Float[Tensor, " 2"]:
    """Σ of squares over rows, for the half of each model."""
    norms: Tensor = torch.linalg.vector_norm(rows.view(len(rows), 2, -1), dim=(0, 2))
    return norms.square()


class Trainer:
    """Weights, optimiser and counters of one training run; :meth:`step` is the whole algorithm.

    Args:
        mean, scale: the normaliser, [2, d_model] and [2].
        ranks: this process among several; it then holds ``ranks.share(n_latents)`` of the latents.
    """

    def __init__(
        self,
        settings: TrainSettings,
        mean: Float[Tensor, "2 d_model"],
        scale: Float[Tensor, " 2"],
        *,
        device: torch.device | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        if settings.k > settings.n_latents:
            raise SettingsError(f"k = {settings.k} exceeds the number of latents, {settings.n_latents}.")
        self.settings, self.mean, self.scale = settings, mean, scale
        self.ranks = ranks or Ranks()
        self.device = device or torch.device("cpu")
        inputs = mean.numel()
        generator = torch.Generator().manual_seed(settings.seed)
        # Both models start from the same directions: identical models then stay identical and give ν = 1 exactly.
        rows = torch.randn(settings.n_latents, 1, inputs // 2, generator=generator)[
            self.ranks.share(settings.n_latents)
        ]
        rows = (rows * (settings.decoder_norm / math.sqrt(2) / rows.norm(dim=2, keepdim=True))).repeat(1, 2, 1)
        own, weights = ownership(settings), selection_weights(settings)
        share = self.ranks.share(settings.n_latents)
        self._own = None if own is None else own[share].to(self.device)
        self._weights = None if weights is None else weights[share].to(self.device)
        if own is not None:
            rows = rows * own[share][:, :, None]
        self.W_dec = rows.flatten(1).to(self.device)
        self.W_enc = self.W_dec.clone()
        self.b_enc = torch.zeros(len(rows), device=self.device)
        self.b_dec = torch.zeros(inputs, device=self.device)
        self.parameters = [self.W_enc, self.b_enc, self.W_dec, self.b_dec]
        self.optimiser = torch.optim.Adam(self.parameters, lr=settings.lr, betas=settings.betas, fused=True)
        self._gradients = [torch.empty_like(parameter) for parameter in self.parameters]
        self.selector = Selector(self.ranks)
        self.silent_rows = torch.zeros(len(rows), dtype=torch.int64, device=self.device)
        self.step_number = 0
        self.dead_window = max(1, min(10_000_000, int(settings.steps * settings.batch * settings.dead_share)))
        self.aux_k = max(1, inputs // 4)
        self.aux_every = max(1, round(self.aux_k / settings.k))

    def current_k(self) -> int:
        """k, or annealed to it linearly over the first min(2000 steps, 20 %)."""
        span = min(2000, self.settings.steps // 5)
        share = min(1.0, self.step_number / span) if span else 1.0
        k = self.settings.k * (self.settings.k_start + (1 - self.settings.k_start) * share)
        return min(round(k), self.settings.n_latents)

    def current_lr(self) -> float:
        """Warm-up over min(1000 steps, 5 %), then constant, then linear to 0 over the last fifth."""
        steps = self.settings.steps
        warm = max(1, min(1000, steps // 20))
        return self.settings.lr * min(
            1.0, (self.step_number + 1) / warm, (steps - self.step_number) / max(1, steps // 5)
        )

    def norms(self) -> Float[Tensor, " latents"]:
        """n_j = Σ_m ‖d_m,j‖ of this rank's latents, times their selection weights."""
        norms: Tensor = torch.linalg.vector_norm(self.W_dec.view(len(self.W_dec), 2, -1), dim=2).sum(1)
        return norms if self._weights is None else norms * self._weights

    def gradients(
        self, inputs: Float[Tensor, "rows inputs"], budget: int
    ) -> tuple[Float[Tensor, " 3"], list[Tensor], Sparse]:
        """Losses and gradients of one batch, the whole of it on every rank.

        Returns:
            [loss, Σ error² of the first model, Σ error² of the second]; gradients of (W_enc, b_enc, W_dec, b_dec), valid
            until the next call; the selected codes of this rank's latents.
        """
        norms = self.norms()
        codes = self.selector(inputs, self.W_enc, self.b_enc, norms, budget)
        g = self.ranks.sum(codes.times(self.W_dec)).add_(self.b_dec).sub_(inputs)
        squares = _squares(g)
        loss = squares.sum() / g.numel()
        g.mul_(2 / g.numel())
        into = self._gradients
        self._backward(codes, inputs, g, slice(None), into)
        torch.sum(g, 0, out=into[3])
        dead = (self.silent_rows > self.dead_window).nonzero().squeeze(1)
        if self.ranks.sum(torch.tensor([len(dead)], device=self.device)) > 0:
            loss = loss + self._auxiliary(inputs, g.mul_(-g.numel() / 2), norms, dead)
        return torch.cat([loss.reshape(1), squares]), into, codes

    def _backward(
        self,
        codes: Sparse,
        inputs: Tensor,
        g: Float[Tensor, "rows inputs"],
        latents: Int[Tensor, " some"] | slice,
        into: list[Tensor],
    ) -> None:
        """Gradients of W_enc, b_enc and W_dec from the gradient of the reconstruction, written to ``into``."""
        code_gradient = codes.dots(g, self.W_dec[latents])
        codes.gather(code_gradient, inputs, into[0])
        into[1].zero_().index_add_(0, codes.latent, code_gradient)
        codes.gather(codes.values, g, into[2])

    def _auxiliary(self, inputs: Tensor, residual: Tensor, norms: Tensor, dead: Int[Tensor, " dead"]) -> Tensor:
        """The loss by which dead latents reconstruct the residual; its gradients are added to the others.

        It sees every ``aux_every``-th row, another set each step, so that it has about as many active entries as the
        main loss and not several times as many.
        """
        seen = slice(self.step_number % self.aux_every, None, self.aux_every)
        inputs, residual = inputs[seen].contiguous(), residual[seen]
        if not len(inputs):
            return torch.zeros((), device=self.device)
        codes = self._dead_codes(inputs, norms, dead)
        W_dec = self.W_dec[dead]
        error = self.ranks.sum(codes.times(W_dec)).sub_(residual)
        weight = AUX_WEIGHT / residual.var(correction=0).clamp_min(1e-12)
        into = [torch.empty_like(W_dec), torch.empty(len(dead), device=self.device), torch.empty_like(W_dec)]
        self._backward(codes, inputs, error * (2 * weight / error.numel()), dead, into)
        for whole, part in zip(self._gradients, into, strict=False):
            whole.index_add_(0, dead, part)
        return weight * error.square().mean()

    def _dead_codes(self, inputs: Tensor, norms: Tensor, dead: Tensor) -> Sparse:
        """For each row the ``aux_k`` dead latents with the largest positive scores, over all ranks."""
        W_enc, b_enc, n = self.W_enc[dead], self.b_enc[dead], norms[dead]
        dtype = self.selector.dtype
        scores = torch.addmm((b_enc * n).to(dtype), inputs.to(dtype), (W_enc * n[:, None]).to(dtype).T).float()
        top = torch.topk(scores, min(self.aux_k, len(dead)), dim=1, sorted=False)
        keep = top.values > 0
        if self.ranks.world > 1:
            padded = torch.zeros(self.aux_k, len(inputs), device=inputs.device)
            padded[: top.values.shape[1]] = top.values.T
            keep &= top.values >= torch.topk(self.ranks.concatenate(padded), self.aux_k, dim=0).values[-1][:, None]
        row, at = keep.nonzero(as_tuple=True)
        latent, order = torch.sort(top.indices[row, at], stable=True)
        places = Places((len(inputs), len(dead)), row[order], latent)
        values = places.dots(inputs, W_enc) + b_enc[latent]
        active = (values > 0).nonzero().squeeze(1)
        return Sparse(places.shape, places.row[active], latent[active], values[active])

    def step(self, rows: Float[Tensor, "rows 2 d_model"]) -> dict[str, float]:
        """One optimiser step on this rank's raw activations of the batch.

        Returns:
            loss, fve_first and fve_second on this batch before the step, k, lr, dead.

        Raises:
            ActivationsError: the batch is empty or the loss not finite. CrosscoderError: memory ran out twice. The weights have not
                been updated.
        """
        part = ((rows - self.mean) * self.scale[:, None]).flatten(1).to(self.device)
        inputs = self.ranks.concatenate(part)
        if not len(inputs):
            raise ActivationsError(
                f"The batch at step {self.step_number} holds no rows: all of its tokens were outliers. Take larger batches."
            )
        k = self.current_k()
        # A batch is not halved: the latents that fire are chosen over the whole of it. A second try changes nothing.
        gradients = (
            self.gradients if self.ranks.world > 1 else twice(self.gradients, f"Training, step {self.step_number}")
        )
        losses, grads, codes = gradients(inputs, k * len(inputs))
        loss, *squares = losses.tolist()
        if not math.isfinite(loss):
            raise ActivationsError(self._not_finite(rows))
        if self._own is not None:
            for g in (grads[0], grads[2]):
                g.view(len(g), 2, -1).mul_(self._own[:, :, None])
        for parameter, g in zip(self.parameters, grads, strict=True):
            parameter.grad = g
        self._clip(grads)
        lr = self.optimiser.param_groups[0]["lr"] = self.current_lr()
        self.optimiser.step()
        fired = torch.bincount(codes.latent, minlength=len(self.silent_rows)) > 0
        self.silent_rows += len(inputs)
        self.silent_rows[fired] = 0
        self.step_number += 1
        dead = (self.silent_rows > self.dead_window).sum().reshape(1)
        mean = inputs.mean(0).view(2, -1)
        spread = (_squares(inputs) - len(inputs) * mean.square().sum(1)).clamp_min(1e-12).tolist()
        return {
            "loss": loss,
            "fve_first": 1 - squares[0] / spread[0],
            "fve_second": 1 - squares[1] / spread[1],
            "k": float(k),
            "lr": lr,
            "dead": float(self.ranks.sum(dead)),
        }

    def _clip(self, grads: list[Tensor]) -> None:
        """Have the optimiser divide the gradients so that their joint norm is at most ``clip``."""
        *latents, b_dec = torch._foreach_norm(grads)
        squares = self.ranks.sum(torch.stack(latents).square().sum()) + b_dec.square()
        # Fused Adam divides by this attribute as it reads a gradient: no pass of its own.
        excess = squares.sqrt() / self.settings.clip
        self.optimiser.grad_scale = excess.clamp_min(1.0).float()  # type: ignore[attr-defined]

    def _not_finite(self, rows: Tensor) -> str:
        bad = (~torch.isfinite(rows).flatten(1).all(1)).nonzero().flatten().tolist()
        if bad:
            return f"Row {bad[0]} of the batch at step {self.step_number} holds NaN or infinity ({len(bad)} such rows)."
        return (
            f"The loss is not finite at step {self.step_number}, though the activations are. Lower the learning rate "
            f"(lr = {self.settings.lr:g})."
        )
