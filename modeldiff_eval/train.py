"""BatchTopK crosscoder training with a sparse decoder and sparse gradients (ALGORITHMS §1 and §2).

One step, for B rows and a budget of k·B active latents:

1. one dense bf16 product gives approximate scores v = f·n, used only to find candidates;
2. the candidates' pre-activations are recomputed in float32 and the k·B largest scores are kept;
3. reconstruction, both weight gradients and the code gradient touch only those k·B entries;
4. latents that have been silent for a while reconstruct the residual (auxiliary loss);
5. gradients are clipped and Adam moves the weights.

:func:`dense_loss` is the same loss written with dense autograd; the tests compare every gradient.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import ActivationsError, SettingsError
from modeldiff_eval.records import Record
from modeldiff_eval.sparse import Sparse, dots_at
from modeldiff_eval.store import write_json

AUX_WEIGHT = 1 / 32
CHECKPOINT_SECONDS = 60.0
_SAMPLE = 1 << 17
Rows = Callable[[Int[Tensor, " rows"]], Float[Tensor, "rows 2 d_model"]]


class TrainSettings(Record):
    """How a crosscoder is trained. ``steps`` × ``batch`` rows are presented in all."""

    n_latents: int
    k: int
    steps: int
    batch: int = 2048
    lr: float = 1e-3
    clip: float = 1.0
    k_start: int = 4
    """k is annealed from ``k_start`` × k."""
    decoder_norm: float = 0.1
    """Initial norm of a decoder row (both models together)."""
    seed: int = 0


def select(
    inputs: Float[Tensor, "rows inputs"],
    W_enc: Float[Tensor, "latents inputs"],
    b_enc: Float[Tensor, " latents"],
    norms: Float[Tensor, " latents"],
    budget: int,
    *,
    approximate: bool = True,
) -> Sparse:
    """The ``budget`` largest positive scores v = f·n of a batch, with exact float32 values.

    Args:
        approximate: screen with a bf16 product; the margin around the threshold is recomputed exactly.
    """
    dtype = torch.bfloat16 if approximate else torch.float32
    screen = torch.addmm(b_enc.to(dtype), inputs.to(dtype), (W_enc.to(dtype)).T)
    screen = screen.mul_(norms.to(dtype))
    flat = screen.flatten()
    threshold = _low_threshold(flat, budget, slack=1.25 if approximate else 1.0)
    found = (flat >= threshold if threshold > 0 else flat > 0).nonzero().squeeze(1)
    row, latent = found // W_enc.shape[0], found % W_enc.shape[0]
    values = dots_at(inputs, W_enc, row, latent) + b_enc[latent]
    scores = values * norms[latent]
    keep = values > 0
    if int(keep.sum()) > budget:
        best = torch.topk(torch.where(keep, scores, -torch.inf), budget, sorted=False).indices
        keep = torch.zeros_like(keep)
        keep[best] = True
    return Sparse((len(inputs), W_enc.shape[0]), row[keep], latent[keep], values[keep])


def _low_threshold(flat: Tensor, budget: int, *, slack: float) -> float:
    """A score that about ``slack`` × budget entries reach, never fewer than the budget; 0 where fewer are positive.

    Estimated on a sample and checked; the exact value where the check fails.
    """
    wanted = min(int(budget * slack) + 1, len(flat))
    if len(flat) > 4 * _SAMPLE:
        stride = len(flat) // _SAMPLE | 1
        sample = flat[::stride].float()
        rank = math.ceil(wanted * 1.1 / stride) + 8
        if rank < len(sample):
            threshold = float(torch.topk(sample, rank).values[-1])
            if threshold <= 0 or int((flat >= threshold).sum()) >= wanted:
                return max(threshold, 0.0)
    return max(float(torch.topk(flat.float(), wanted, sorted=True).values[-1]), 0.0)


def dense_loss(
    inputs: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, *, budget: int, dead: Tensor, aux_k: int
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
    if len(dead):
        residual = error.detach()
        codes = pre[:, dead]
        top = torch.topk(codes * norms[dead], min(aux_k, len(dead)), dim=1).indices
        codes = codes * torch.zeros_like(codes).scatter_(1, top, 1.0)
        aux = (residual - codes @ W_dec[dead]).square().mean() / residual.var().clamp_min(1e-12)
        loss = loss + AUX_WEIGHT * aux
    return loss


class Trainer:
    """Weights, optimiser and counters of one training run; :meth:`step` is the whole algorithm."""

    def __init__(
        self, settings: TrainSettings, mean: Tensor, scale: Tensor, *, device: torch.device | None = None
    ) -> None:
        if settings.k > settings.n_latents:
            raise SettingsError(f"k = {settings.k} exceeds the number of latents, {settings.n_latents}.")
        self.settings, self.mean, self.scale = settings, mean, scale
        inputs = mean.numel()
        generator = torch.Generator().manual_seed(settings.seed)
        # Both models start from the same directions: identical models then stay identical and give ν = 1 exactly.
        rows = torch.randn(settings.n_latents, 1, inputs // 2, generator=generator)
        rows = (rows * (settings.decoder_norm / math.sqrt(2) / rows.norm(dim=2, keepdim=True))).repeat(1, 2, 1)
        device = device or torch.device("cpu")
        self.W_dec = rows.flatten(1).to(device)
        # The encoder starts as the transposed decoder at unit norm, so that codes have the inputs' scale.
        self.W_enc = (self.W_dec / settings.decoder_norm).contiguous()
        self.b_enc = torch.zeros(settings.n_latents, device=device)
        self.b_dec = torch.zeros(inputs, device=device)
        self.parameters = [self.W_enc, self.b_enc, self.W_dec, self.b_dec]
        self.optimiser = torch.optim.Adam(self.parameters, lr=settings.lr, fused=True)
        self.silent_rows = torch.zeros(settings.n_latents, dtype=torch.int64, device=device)
        self.step_number = 0
        self.dead_window = max(1, min(10_000_000, settings.steps * settings.batch // 8))
        self.aux_k = max(1, inputs // 4)

    def current_k(self) -> int:
        """k annealed linearly over the first min(2000 steps, 20 %)."""
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

    def gradients(
        self, inputs: Float[Tensor, "rows inputs"], budget: int, *, approximate: bool = True
    ) -> tuple[float, list[Tensor], Sparse]:
        """Loss, gradients of (W_enc, b_enc, W_dec, b_dec) and the selected codes."""
        d_model = inputs.shape[1] // 2
        norms = self.W_dec.view(-1, 2, d_model).norm(dim=2).sum(1)
        codes = select(inputs, self.W_enc, self.b_enc, norms, budget, approximate=approximate)
        error = (codes.csr() @ self.W_dec).add_(self.b_dec).sub_(inputs)
        loss = float(error.square().mean())
        g = error * (2 / error.numel())
        code_gradient = dots_at(g, self.W_dec, codes.row, codes.latent)
        grads = [
            codes.csr_by_latent(code_gradient) @ inputs,
            torch.zeros_like(self.b_enc).index_add_(0, codes.latent, code_gradient),
            codes.csr_by_latent() @ g,
            g.sum(0),
        ]
        dead = (self.silent_rows > self.dead_window).nonzero().squeeze(1)
        if len(dead):
            loss += self._add_auxiliary(inputs, error.neg_(), norms, dead, grads)
        return loss, grads, codes

    def _add_auxiliary(
        self, inputs: Tensor, residual: Tensor, norms: Tensor, dead: Tensor, grads: list[Tensor]
    ) -> float:
        W_enc, W_dec = self.W_enc[dead], self.W_dec[dead]
        pre = torch.addmm(self.b_enc[dead], inputs, W_enc.T).relu_()
        top = torch.topk(pre * norms[dead], min(self.aux_k, len(dead)), dim=1).indices
        codes = pre * torch.zeros_like(pre).scatter_(1, top, 1.0)
        error = codes @ W_dec - residual
        weight = AUX_WEIGHT / float(residual.var().clamp_min(1e-12))
        g = error * (2 * weight / error.numel())
        code_gradient = (g @ W_dec.T).mul_(codes > 0)
        grads[0].index_add_(0, dead, code_gradient.T @ inputs)
        grads[1].index_add_(0, dead, code_gradient.sum(0))
        grads[2].index_add_(0, dead, codes.T @ g)
        return weight * float(error.square().mean())

    def step(self, rows: Float[Tensor, "rows 2 d_model"]) -> dict[str, float]:
        """One optimiser step on raw activations."""
        inputs = ((rows - self.mean) * self.scale[:, None]).flatten(1).to(self.W_enc.device)
        k = self.current_k()
        loss, grads, codes = self.gradients(inputs, k * len(inputs))
        if not math.isfinite(loss):
            raise ActivationsError(
                f"The loss became {loss} at step {self.step_number}. Lower the learning rate, or check the activations."
            )
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
        factor = min(1.0, self.settings.clip / (norm + 1e-12))
        for parameter, g in zip(self.parameters, grads, strict=True):
            parameter.grad = g.mul_(factor) if factor < 1 else g
        lr = self.optimiser.param_groups[0]["lr"] = self.current_lr()
        self.optimiser.step()
        fired = torch.bincount(codes.latent, minlength=len(self.silent_rows)) > 0
        self.silent_rows += len(inputs)
        self.silent_rows[fired] = 0
        self.step_number += 1
        return {"loss": loss, "k": k, "lr": lr, "dead": int((self.silent_rows > self.dead_window).sum())}

    # Checkpoints: tensors as safetensors, counters as JSON, written together or not at all.

    def save(self, folder: Path) -> None:
        """Write a checkpoint that :meth:`restore` continues from exactly."""
        from safetensors.torch import save_file

        tensors = dict(zip(("W_enc", "b_enc", "W_dec", "b_dec"), self.parameters, strict=True)) | {
            "silent_rows": self.silent_rows
        }
        for name, parameter in zip(("W_enc", "b_enc", "W_dec", "b_dec"), self.parameters, strict=True):
            state = self.optimiser.state[parameter]
            tensors |= {f"m.{name}": state["exp_avg"], f"v.{name}": state["exp_avg_sq"]}
        partial = folder / "checkpoint.partial"
        save_file(
            tensors, partial, metadata={"step": str(self.step_number), "settings": self.settings.model_dump_json()}
        )
        partial.replace(folder / "checkpoint.safetensors")

    def restore(self, folder: Path) -> bool:
        """Continue from a checkpoint of the same settings, if there is one."""
        from safetensors import safe_open

        path = folder / "checkpoint.safetensors"
        if not path.exists():
            return False
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            if json.loads(metadata["settings"]) != json.loads(self.settings.model_dump_json()):
                return False
            for name, parameter in zip(("W_enc", "b_enc", "W_dec", "b_dec"), self.parameters, strict=True):
                parameter.copy_(file.get_tensor(name))
                self.optimiser.state[parameter] = {
                    "step": torch.tensor(float(metadata["step"])),
                    "exp_avg": file.get_tensor(f"m.{name}").to(parameter.device),
                    "exp_avg_sq": file.get_tensor(f"v.{name}").to(parameter.device),
                }
            self.silent_rows.copy_(file.get_tensor("silent_rows"))
        self.step_number = int(metadata["step"])
        return True


def normaliser(rows: Rows, train: Int[Tensor, " train"], *, seed: int, sample: int = 65_536) -> tuple[Tensor, Tensor]:
    """Mean [2, d_model] and scale [2] per model, so that E‖x̃_m‖² = d_model for both (ALGORITHMS §1), from a seeded sample."""
    generator = torch.Generator().manual_seed(seed)
    chosen = train[torch.randperm(len(train), generator=generator)[:sample]].sort().values
    count, total, squares = 0, None, None
    for part in chosen.split(8192):  # type: ignore[no-untyped-call]
        values = rows(part).double()
        count += len(values)
        total = values.sum(0) if total is None else total + values.sum(0)
        squares = values.square().sum((0, 2)) if squares is None else squares + values.square().sum((0, 2))
    assert total is not None
    assert squares is not None
    mean = total / count
    variance = squares / count - mean.square().sum(1)
    if not bool((variance > 0).all()):
        raise ActivationsError("The activations do not vary; is this a trained model?")
    return mean.float(), torch.sqrt(mean.shape[1] / variance).float()


def batches(train: Int[Tensor, " train"], settings: TrainSettings, start: int) -> Any:
    """Row numbers of each step from ``start`` on: a fresh seeded permutation for every pass over the data."""
    per_epoch = max(1, len(train) // settings.batch)
    order, epoch = None, -1
    for step in range(start, settings.steps):
        if step // per_epoch != epoch:
            epoch = step // per_epoch
            order = train[
                torch.randperm(len(train), generator=torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch))
            ]
        assert order is not None
        at = step % per_epoch * settings.batch
        yield order[at : at + settings.batch].sort().values


def train(
    rows: Rows,
    train_rows: Int[Tensor, " train"],
    heldout_rows: Int[Tensor, " heldout"],
    settings: TrainSettings,
    *,
    folder: Path,
    device: torch.device | None = None,
    on_step: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Crosscoder:
    """Train, or continue from the checkpoint in ``folder``; leaves ``training.jsonl`` there.

    Raises:
        SettingsError: fewer training rows than one batch, or impossible settings.
        ActivationsError: the loss is not finite.
    """
    if len(train_rows) < settings.batch:
        raise SettingsError(
            f"{len(train_rows)} training tokens are fewer than one batch of {settings.batch}. Give more text."
        )
    mean, scale = normaliser(rows, train_rows, seed=settings.seed)
    trainer = Trainer(settings, mean, scale, device=device)
    resumed = trainer.restore(folder)
    saved = time.monotonic()
    with (folder / "training.jsonl").open("a" if resumed else "w") as log:
        for chosen in batches(train_rows, settings, trainer.step_number):
            report = trainer.step(rows(chosen))
            if trainer.step_number % 25 == 0 or trainer.step_number == settings.steps:
                log.write(json.dumps({"step": trainer.step_number, **report}) + "\n")
            if on_step:
                on_step(trainer.step_number, settings.steps, report)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                log.flush()
                trainer.save(folder)
                saved = time.monotonic()
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    W_enc, b_enc, W_dec, b_dec = (parameter.detach().cpu() for parameter in trainer.parameters)
    trained = Crosscoder(W_enc, b_enc, W_dec, b_dec, mean, scale, threshold=0.0, k=settings.k)
    return calibrate(trained, rows, heldout_rows)


def calibrate(
    crosscoder: Crosscoder, rows: Rows, heldout: Int[Tensor, " heldout"], *, sample: int = 65_536
) -> Crosscoder:
    """Set θ so that the mean L0 on held-out tokens is k."""
    chosen = heldout[:sample]
    free = replace(crosscoder, threshold=0.0)
    scores = []
    for part in chosen.split(2048):  # type: ignore[no-untyped-call]
        v = free.scaled(crosscoder.normalise(rows(part))).flatten()
        scores.append(torch.topk(v, min(len(v), 4 * crosscoder.k * len(part)), sorted=False).values)
    pooled = torch.cat(scores)
    budget = min(crosscoder.k * len(chosen), len(pooled) - 1)
    return replace(crosscoder, threshold=max(float(torch.topk(pooled, budget + 1).values[-1]), 0.0))


class Quality(Record):
    """Held-out quality. ``fve_*`` pooled over the split; ``dead_share`` is the share of latents silent over ``dead_tokens``."""

    fve_first: float
    fve_second: float
    l0: float
    dead_share: float
    dead_tokens: int
    heldout_tokens: int


def evaluate(
    crosscoder: Crosscoder, rows: Rows, heldout: Int[Tensor, " heldout"], others: Int[Tensor, " others"]
) -> Quality:
    """Pooled fve per model, mean L0 and dead share; nothing is updated (ALGORITHMS §1 and §6).

    Args:
        others: further tokens (training ones) over which latents may prove alive.
    """
    d = crosscoder.d_model
    error = torch.zeros(2, dtype=torch.float64)
    energy = torch.zeros(2, dtype=torch.float64)
    total = torch.zeros(2 * d, dtype=torch.float64)
    active = 0
    alive = torch.zeros(crosscoder.n_latents, dtype=torch.bool)
    for part in heldout.split(2048):  # type: ignore[no-untyped-call]
        x = crosscoder.normalise(rows(part))
        f = crosscoder.encode(x)
        active += int((f > 0).sum())
        alive |= (f > 0).any(0)
        error += (x - crosscoder.decode(f)).double().square().view(-1, 2, d).sum((0, 2))
        energy += x.double().square().view(-1, 2, d).sum((0, 2))
        total += x.double().sum(0)
    for part in others.split(2048):  # type: ignore[no-untyped-call]
        if bool(alive.all()):
            break
        missing = (~alive).nonzero().squeeze(1)
        x = crosscoder.normalise(rows(part))
        v = (x @ crosscoder.W_enc[missing].T + crosscoder.b_enc[missing]) * crosscoder.code_norm()[missing]
        alive[missing] = (v > crosscoder.threshold).any(0)
    spread = energy - (total.view(2, d).square().sum(1) / len(heldout))
    fve = 1 - error / spread
    return Quality(
        fve_first=float(fve[0]),
        fve_second=float(fve[1]),
        l0=active / len(heldout),
        dead_share=float((~alive).float().mean()),
        dead_tokens=len(heldout) + len(others),
        heldout_tokens=len(heldout),
    )


def write_quality(folder: Path, quality: Quality) -> None:
    """Keep the measured quality beside the weights."""
    write_json(folder / "quality.json", quality.model_dump())
