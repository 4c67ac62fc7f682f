"""What a training will need, before it starts: memory, disk, time, and whether the machine at hand has it.

Memory and disk follow from sizes (:mod:`modeldiff_eval.plan_costs`), time from measurements of a few seconds
(:mod:`modeldiff_eval.plan_machine`) or, where a model is not in memory, from its parameter count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modeldiff_eval.errors import SettingsError
from modeldiff_eval.plan_costs import (
    Job,
    Part,
    disk,
    duration,
    forward_flops,
    host_memory,
    models_memory,
    passes,
    size,
    trainer_memory,
    whole_pass,
)
from modeldiff_eval.plan_machine import Machine, StepRate, machine, product_rate, step_rate
from modeldiff_eval.plan_shape import GEMMA_2_9B, Shape, shape_of
from modeldiff_eval.records import Record
from modeldiff_eval.settings import Settings

if TYPE_CHECKING:
    import torch

__all__ = ["GEMMA_2_9B", "Job", "Plan", "Shape", "make_job", "plan", "shape_of"]

FORWARD_SHARE = 0.5
"""A forward pass reaches about half the rate of a bare matrix product."""
FULL = 0.95
"""Share of the available memory and disk that may be planned for."""
MAX_RANKS = 1024


class Duration(Record):
    """One piece of work; ``basis`` says what the estimate rests on."""

    name: str
    seconds: float
    basis: str


class Plan(Record):
    """Memory, disk and time of one job on one machine. ``problems``: what does not fit; ``advice``: what would."""

    job: Job
    machine: Machine
    memory: tuple[Part, ...]
    disk: tuple[Part, ...]
    time: tuple[Duration, ...]
    problems: tuple[str, ...]
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the machine at hand has what the job needs."""
        return not self.problems

    def lines(self) -> list[str]:
        """The plan as text, a table with its verdict last."""
        job, place = self.job, self.machine
        device, host = _need(self.memory, place)
        text = [
            f"Models        width {job.shape.d_model:,}, {job.shape.n_layers} blocks, {job.shape.params / 1e9:.2f} billion parameters; "
            f"block {job.layer} is read",
            f"Crosscoder    {job.n_latents:,} latents, k {job.k}, {job.steps:,} steps of {job.batch:,} rows"
            + (f", latents over {job.ranks} ranks" if job.ranks > 1 else ""),
            "Rows          "
            + (
                f"streamed from both models; those of {job.measured:,} held-out tokens kept on the disk"
                if job.streaming
                else "harvested once, kept on the disk"
            ),
            f"Machine       {place.device_name}, {place.cores} cores, {size(place.ram_total)} RAM ({size(place.ram_available)} available)"
            + (f", {size(place.device_total)} on the device" if place.device_total else "")
            + f", {size(place.disk_free)} free on the cache's disk",
            "",
            f"Memory while training{', of a rank' if job.ranks > 1 else ''} (measuring and naming latents afterwards is not in it)",
        ]
        text += [f"  {_place(part, place):7} {size(part.size):>10}  {part.name}" for part in self.memory if part.size]
        text += [f"  together {size(device):>9}" + (f"  on the device, {size(host)} in RAM" if host else "  in RAM")]
        text += ["Disk", *(f"  {'':7} {size(part.size):>10}  {part.name}" for part in self.disk)]
        text += [f"  together {size(sum(part.size for part in self.disk)):>9}"]
        if self.time:
            text += ["Time (estimates)"]
            text += [f"  {'':7} {duration(part.seconds):>10}  {part.name} ({part.basis})" for part in self.time]
            whole = sum(part.seconds for part in self.time)
            text += [f"  together {duration(whole):>9}, without downloads, annotation, measuring and --causal"]
        text += [""]
        text += [f"Does not fit  {problem}" for problem in self.problems] or [
            "Fits          this machine, as far as the training goes"
        ]
        return text + [f"What would    {advice}" for advice in self.advice]

    def to_json(self) -> str:
        """The record with its verdict, as JSON."""
        return json.dumps(self.model_dump() | {"fits": self.fits}, indent=2, ensure_ascii=False) + "\n"

    def require(self) -> None:
        """Raise SettingsError (exit code 2) unless the job fits."""
        if not self.fits:
            raise SettingsError(" ".join((*self.problems, *self.advice)))


def make_job(settings: Settings, shape: Shape, *, dtype_bytes: int = 2, ranks: int = 1) -> Job:
    """The job that ``settings`` describe, for models of this shape.

    Raises:
        SettingsError: the layer is out of range, or the ranks are more than the latents.
    """
    from modeldiff_eval.activations import check_layer, default_layer

    layer = check_layer(default_layer(shape.n_layers) if settings.layer is None else settings.layer, shape.n_layers)
    if not 1 <= ranks <= settings.latents:
        raise SettingsError(f"{ranks} ranks cannot share {settings.latents:,} latents.")
    tokens = settings.tokens or settings.steps * settings.batch
    differences = None
    if settings.method == "difference":
        from modeldiff_eval.methods import train_settings

        differences = train_settings(
            "difference", n_latents=settings.latents, k=settings.k, steps=settings.steps, batch=settings.batch, lr=settings.lr,
            seed=settings.seed,
        )  # fmt: skip
    return Job(
        shape=shape,
        layer=layer,
        n_models=3 if settings.anchor else 2,
        n_crosscoders=2 if settings.anchor else 1,
        seeds=settings.seeds,
        difference_latents=differences.n_latents if differences else 0,
        difference_steps=differences.steps if differences else 0,
        divergence_tokens=int(tokens * (1 - settings.heldout_share)) if settings.weighting == "kl" else 0,
        n_latents=settings.latents,
        k=settings.k,
        steps=settings.steps,
        batch=settings.batch,
        tokens=tokens,
        dtype_bytes=dtype_bytes,
        ranks=ranks,
        streaming=settings.stream,
        measured=min(settings.measure_tokens, int(tokens * settings.heldout_share)),
    )


def sizes(job: Job, place: Machine, *, device: torch.device) -> Plan:
    """What ``job`` needs of memory and disk on ``place``; nothing is measured, ``time`` is empty."""
    from modeldiff_eval.activations import default_batch_tokens

    batch_tokens = default_batch_tokens(device)
    memory, written = _memory(job, place, batch_tokens), tuple(disk(job))
    problems = _problems(memory, written, place)
    advice = _advice(job, place, batch_tokens) if problems else ()
    return Plan(job=job, machine=place, memory=memory, disk=written, time=(), problems=problems, advice=tuple(advice))


def plan(
    job: Job,
    *,
    cache: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    heldout_share: float = 0.25,
    forward_rates: Sequence[float] = (),
    step: StepRate | None = None,
    place: Machine | None = None,
) -> Plan:
    """:func:`sizes` on this machine (or on ``place``), and time, with short measurements where none are given.

    Args:
        device: where the models run and the trainer works.
        dtype: the models' number format; bf16 by default.
        forward_rates: measured tokens a second of each model up to the layer (:func:`plan_machine.forward_rate`).
        step: a measured training step; a few seconds are spent on it otherwise.
    """
    import torch

    made = sizes(job, place or machine(cache, device), device=device)
    step = step or step_rate(device, job.shape.d_model, job.k)
    presented = passes(job, heldout_share=heldout_share)
    if forward_rates:
        per_token, basis = sum(1 / rate for rate in forward_rates), "forward passes measured here"
    else:
        rate = FORWARD_SHARE * product_rate(device, dtype or torch.bfloat16, job.shape.d_model)
        per_token = job.n_models * forward_flops(job) / rate
        basis = "parameters, and half the rate of a matrix product measured here"
    # Streamed rows are harvested again on every pass, by all ranks; an anchored run streams two pairs of models. What is
    # kept on the disk is harvested by the first rank.
    steps = job.seeds * (job.steps + job.difference_steps)
    kept, streamed = (job.measured, steps * job.batch) if job.streaming else (job.tokens, 0)
    forward = per_token * (kept + streamed * 2 * job.n_crosscoders / job.n_models / job.ranks)
    measured = "training steps measured here at small sizes"
    if job.ranks > 1:
        measured += ", without the exchange between ranks"
    time: tuple[Duration, ...] = (
        Duration(name=f"activations of {kept + streamed:,} tokens", seconds=forward, basis=basis),
        Duration(
            name=f"training, {presented:,.1f} passes over the corpus",
            seconds=job.n_crosscoders * job.seeds * job.steps * step.seconds(job.batch, job.latents_of_rank),
            basis=measured,
        ),
    )
    if job.divergence_tokens:
        seconds = 2 * job.n_crosscoders * job.divergence_tokens * whole_pass(job) * per_token / job.n_models
        time += (Duration(name="next-token divergence", seconds=seconds, basis=basis),)
    if job.difference_steps:
        own = step.seconds(job.batch, -(-job.difference_latents // job.ranks))
        seconds = job.n_crosscoders * job.seeds * job.difference_steps * own
        time += (Duration(name="learning the differences", seconds=seconds, basis=measured),)
    return made.model_copy(update={"time": time})


def _memory(job: Job, place: Machine, batch_tokens: int) -> tuple[Part, ...]:
    on_cpu = place.device_total is None
    return (
        *trainer_memory(job, device=place.device),
        *models_memory(job, batch_tokens=batch_tokens, device=place.device),
        *host_memory(job, on_cpu=on_cpu),
    )


def _need(memory: Sequence[Part], place: Machine) -> tuple[int, int]:
    """(device, host) bytes; on a CPU both are RAM, and the second is 0."""
    host = sum(part.size for part in memory if part.place == "host")
    device = sum(part.size for part in memory) - host
    return (device + host, 0) if place.device_total is None else (device, host)


def _problems(memory: Sequence[Part], written: Sequence[Part], place: Machine) -> tuple[str, ...]:
    device, host = _need(memory, place)
    needed = sum(part.size for part in written)
    most = f", {FULL:.0%} of which may be planned for."
    found = []
    if place.device_total is None and device > FULL * place.ram_available:
        found.append(f"{size(device)} of RAM are needed, {size(place.ram_available)} are available{most}")
    if place.device_total is not None and device > FULL * (place.device_available or 0):
        found.append(
            f"{size(device)} are needed on the device, {size(place.device_available or 0)} are available{most}"
        )
    if place.device_total is not None and host > FULL * place.ram_available:
        found.append(
            f"{size(host)} of RAM are needed beside the device, {size(place.ram_available)} are available{most}"
        )
    if needed > FULL * place.disk_free:
        found.append(f"{size(needed)} of disk are needed, {size(place.disk_free)} are free{most}")
    return tuple(found)


def _advice(job: Job, place: Machine, batch_tokens: int) -> list[str]:
    """Changes that make the job fit, each alone; then the machine that fits it as it is."""

    def fits(changed: Job) -> bool:
        return not _problems(_memory(changed, place, batch_tokens), disk(changed), place)

    found = []
    other = job.model_copy(update={"streaming": not job.streaming})
    how = " with streamed rows" if other.streaming else " with activations kept on the disk"
    if fits(other):
        found.append(f"The same{how}.")
    for changed, note in ((job, ""), (other, how)):
        if not fits(changed) and (latents := _largest(fits, changed)):
            found.append(f"At most {latents:,} latents{note}, on this machine.")
            break
    roomy = place.model_copy(update={"disk_free": 1 << 62})
    for changed, note in ((job, ""), (other, how)):
        if ranks := _ranks(changed, roomy, batch_tokens):
            where = "machines" if place.device_total is None else "devices"
            needed = sum(part.size for part in disk(changed))
            space = f" with {size(needed / FULL)} of free disk" if needed > FULL * place.disk_free else ""
            share = -(-job.n_latents // ranks)
            found.append(f"{ranks} ranks on {ranks} {where} like this one{space}, {share:,} latents each{note}.")
            break
    device, host = _need(_memory(job, place, batch_tokens), place)
    ram = f"{size(device / FULL)} of RAM" if place.device_total is None else f"{size(device / FULL)} on the device"
    beside = f", {size(host / FULL)} of RAM" if host else ""
    needed = sum(part.size for part in disk(job))
    found.append(f"A machine with {ram}{beside} and {size(needed / FULL)} of free disk.")
    return found


def _ranks(job: Job, place: Machine, batch_tokens: int) -> int | None:
    """The smallest larger number of ranks with which the memory of each suffices, where it does not now."""

    def fits(ranks: int) -> bool:
        return not _problems(_memory(job.model_copy(update={"ranks": ranks}), place, batch_tokens), (), place)

    if fits(job.ranks):
        return None
    return next((n for n in range(job.ranks + 1, min(MAX_RANKS, job.n_latents) + 1) if fits(n)), None)


def _largest(fits: Callable[[Job], bool], job: Job) -> int:
    """The largest number of latents with which ``job`` fits, to about 2 %; 0 if none does."""
    least = max(job.k, job.ranks)
    low, high = least - 1, job.n_latents
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(job.model_copy(update={"n_latents": middle})) else (low, middle)
    return low if low >= least else 0


def _place(part: Part, place: Machine) -> str:
    return "RAM" if part.place == "host" or place.device_total is None else place.device
