"""Training a crosscoder from beginning to end: normaliser, steps, checkpoints, log, threshold.

The step itself is in :mod:`modeldiff_eval.train_step`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from modeldiff_eval import checkpoint
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import ActivationsError, OutputError, SettingsError
from modeldiff_eval.quality import Rows, calibrate
from modeldiff_eval.ranks import Ranks
from modeldiff_eval.stopping import held_back
from modeldiff_eval.trackers import Tracker
from modeldiff_eval.train_step import Trainer, TrainSettings, selection_weights
from modeldiff_eval.training_log import TrainingLog

CHECKPOINT_MINUTES = 2.0
_SAVING_SHARE = 0.05
_NORMALISER_ROWS = 65_536
OnStep = Callable[[int, int, dict[str, float]], None]
"""Called with (step, steps, figures of the step) after every step."""


@runtime_checkable
class RowSource(Protocol):
    """Training rows in batches; batch ``i`` is the same whatever came before it."""

    def normaliser_sample(self, n: int) -> Float[Tensor, "n 2 d_model"]:
        """About ``n`` rows that speak for all."""
        ...

    def batches(self, start: int, stop: int) -> Generator[Float[Tensor, "rows 2 d_model"], None, None]:
        """This rank's rows of the batches ``start`` … ``stop`` − 1."""
        ...


class MappedSource:
    """Rows that lie on disk or in memory, in a fresh seeded permutation for every pass over them."""

    def __init__(
        self,
        rows: Rows,
        train_rows: Int[Tensor, " train"],
        *,
        batch: int,
        seed: int,
        ranks: Ranks | None = None,
    ) -> None:
        if len(train_rows) < batch:
            raise SettingsError(
                f"{len(train_rows)} training tokens are fewer than one batch of {batch}. Give more text."
            )
        self._rows, self._train, self._batch, self._seed = rows, train_rows, batch, seed
        self._share = (ranks or Ranks()).share(batch)

    def normaliser_sample(self, n: int) -> Float[Tensor, "n 2 d_model"]:
        generator = torch.Generator().manual_seed(self._seed)
        return self._rows(self._train[torch.randperm(len(self._train), generator=generator)[:n]].sort().values)

    def batches(self, start: int, stop: int) -> Generator[Float[Tensor, "rows 2 d_model"], None, None]:
        per_pass = len(self._train) // self._batch
        order, number = self._train, -1
        for batch in range(start, stop):
            if batch // per_pass != number:
                number = batch // per_pass
                generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
                order = self._train[torch.randperm(len(self._train), generator=generator)]
            at = batch % per_pass * self._batch
            yield self._rows(order[at : at + self._batch].sort().values[self._share])


def normaliser(rows: Float[Tensor, "rows 2 d_model"]) -> tuple[Float[Tensor, "2 d_model"], Float[Tensor, " 2"]]:
    """Mean and scale of each model, so that E‖x̃_m‖² = d_model for both (ALGORITHMS §1).

    Raises:
        ActivationsError: the rows do not vary, or are not finite.
    """
    values = rows.double()
    mean = values.mean(0)
    variance = (values - mean).square().sum(2).mean(0)
    if not bool((torch.isfinite(variance) & (variance > 0)).all()):
        raise ActivationsError("The activations do not vary, or are not finite; is this a trained model?")
    return mean.float(), torch.sqrt(mean.shape[1] / variance).float()


def measured_normaliser(source: RowSource, ranks: Ranks) -> tuple[Float[Tensor, "2 d_model"], Float[Tensor, " 2"]]:
    """:func:`normaliser` of a sample of the source; the leading rank's on every rank."""
    mean, scale = (ranks.concatenate(part[None])[0] for part in normaliser(source.normaliser_sample(_NORMALISER_ROWS)))
    return mean, scale


def train(
    source: RowSource,
    settings: TrainSettings,
    *,
    folder: Path,
    heldout: tuple[Rows, Int[Tensor, " heldout"]],
    device: torch.device | None = None,
    ranks: Ranks | None = None,
    checkpoint_minutes: float | None = None,
    on_step: OnStep | None = None,
    track: Tracker | None = None,
    statistics: tuple[Float[Tensor, "2 d_model"], Float[Tensor, " 2"]] | None = None,
) -> Crosscoder:
    """Train, or continue from the checkpoint in ``folder``; leaves ``training.jsonl`` there.

    The last checkpoint stays as well: whoever has written the result down calls :func:`checkpoint.remove`.

    Args:
        heldout: rows and row numbers on which the threshold is set.
        checkpoint_minutes: what a kill may cost at most, 2 by default; longer where saving would take more than 5 % of the time.
            Ctrl-C and SIGTERM of the command line save first, and cost nothing.
        statistics: mean and scale of the normaliser, where they are not to be measured on the source.
        track: gets the lines of ``training.jsonl`` as they are written, on the leading rank only.

    Returns:
        The whole crosscoder, on every rank.

    Raises:
        SettingsError: fewer training rows than one batch, or impossible settings.
        ActivationsError: rows or the loss are not finite.
        CrosscoderError: the checkpoint in ``folder`` is broken or of other settings.
        RankError: another rank stopped.
    """
    ranks = ranks or Ranks()
    if statistics is None:
        statistics = measured_normaliser(source, ranks)
    trainer = Trainer(settings, *statistics, device=device, ranks=ranks)
    checkpoint.restore(trainer, folder)
    clock = _Clock(60 * (CHECKPOINT_MINUTES if checkpoint_minutes is None else checkpoint_minutes))
    # Closing the batches ends a harvest that runs ahead of them.
    with (
        TrainingLog(folder, settings, done=trainer.step_number, track=track, leader=ranks.leader) as log,
        closing(source.batches(trainer.step_number, settings.steps)) as batches,
        held_back() as stop,
    ):
        for rows in batches:
            report = trainer.step(rows)
            log.write(trainer.step_number, report)
            if on_step:
                on_step(trainer.step_number, settings.steps, report)
            last = bool(stop)  # Asked once: a signal that comes after this finds the next step.
            if clock.due(ranks, stop=last):
                log.save()
                clock.save(trainer, folder)
            if last:
                break
    return _finish(trainer, folder, heldout)


def _finish(trainer: Trainer, folder: Path, heldout: tuple[Rows, Int[Tensor, " heldout"]]) -> Crosscoder:
    if trainer.ranks.world > 1:
        # The ranks meet in the files: no rank needs memory for the whole dictionary on its device.
        checkpoint.save(trainer, folder)
        trainer.ranks.wait()
        whole = checkpoint.weights(folder, trainer.ranks.world)
        trainer.ranks.wait()
    else:
        parameters = zip(checkpoint.NAMES, trainer.parameters, strict=True)
        whole = {name: parameter.detach().cpu() for name, parameter in parameters}
    crosscoder = Crosscoder(
        **whole, mean=trainer.mean, scale=trainer.scale, threshold=0.0, k=trainer.settings.k,
        selection=selection_weights(trainer.settings),
    )  # fmt: skip
    return calibrate(crosscoder, *heldout)


class _Clock:
    """When to save: every ``seconds``, but never so often that saving takes more than 5 % of the time; and before a stop."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._cost, self._last = seconds, 0.0, time.monotonic()

    def due(self, ranks: Ranks, *, stop: bool) -> bool:
        late = stop or time.monotonic() - self._last >= max(self._seconds, self._cost / _SAVING_SHARE)
        # All ranks save at the same step: when the first of them finds it is time.
        return late if ranks.world == 1 else ranks.minimum(int(not late)) == 0

    def save(self, trainer: Trainer, folder: Path) -> None:
        start = time.monotonic()
        try:
            checkpoint.save(trainer, folder)
        except OutputError as error:
            warnings.warn(
                f"No checkpoint at step {trainer.step_number}: {error} Training goes on, and the one before is kept.",
                RuntimeWarning,
                stacklevel=2,
            )
        self._last = time.monotonic()
        self._cost = self._last - start
