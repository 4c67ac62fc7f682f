"""Whether a training fits, what would, and how long it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modeldiff_eval import plan as p
from modeldiff_eval import plan_machine
from modeldiff_eval.errors import SettingsError
from modeldiff_eval.plan_costs import Job, disk
from modeldiff_eval.plan_machine import Machine, StepRate
from modeldiff_eval.settings import make_settings

CPU = torch.device("cpu")
RATE = StepRate(product=1e-9, row=1e-6, latent=1e-7)
GB = 10**9


def paper(*, streaming: bool = False, **changed: Any) -> Job:
    settings, _ = make_settings({"base": "a", "tuned": "b", "preset": "paper", "stream": streaming}, environ={})
    return p.make_job(settings, p.GEMMA_2_9B, **changed)


def place(ram: int = 20, free: int = 50, gpu: int | None = None) -> Machine:
    return Machine(
        cores=2, ram_total=ram * GB, ram_available=ram * GB, disk_free=free * GB,
        device="cuda" if gpu else "cpu", device_name="a GPU" if gpu else "CPU",
        device_total=gpu * GB if gpu else None, device_available=gpu * GB if gpu else None, gpus=1 if gpu else 0,
    )  # fmt: skip


def make(job: Job, at: Machine, **options: Any) -> p.Plan:
    options = {"cache": Path("/"), "device": CPU, "forward_rates": (1000.0, 1000.0), "step": RATE} | options
    return p.plan(job, place=at, **options)


def test_the_job_of_the_paper() -> None:
    job = paper()
    assert (job.layer, job.n_latents, job.k, job.n_models, job.n_crosscoders) == (20, 114_688, 100, 2, 1)
    assert job.steps * job.batch == pytest.approx(200e6, rel=1e-4)


def test_the_dictionary_of_differences_and_other_seeds_take_their_time() -> None:
    settings, _ = make_settings(
        {"base": "X", "tuned": "Y", "method": "difference", "latents": 3000, "steps": 100, "k": 32}, environ={}
    )
    shape = p.Shape(d_model=32, n_layers=3, layer_params=10_000)
    job = p.make_job(settings, shape)
    assert (job.seeds, job.difference_latents, job.difference_steps) == (1, 1000, 200)
    plain = p.make_job(settings.model_copy(update={"method": "batchtopk"}), shape)
    one, alone = (make(some, place(ram=1000, free=1000)) for some in (job, plain))
    assert [part.name for part in one.time] == [*(part.name for part in alone.time), "learning the differences"]
    assert one.time[2].seconds == pytest.approx(200 * RATE.seconds(job.batch, 1000))
    twice = make(p.make_job(settings.model_copy(update={"seeds": 2}), shape), place(ram=1000, free=1000))
    assert [part.seconds for part in twice.time[1:]] == pytest.approx([2 * part.seconds for part in one.time[1:]])
    assert sum(part.size for part in one.disk) > sum(part.size for part in alone.disk)


def test_weighting_by_kl_takes_a_pass_of_both_whole_models() -> None:
    settings, _ = make_settings(
        {"base": "X", "tuned": "Y", "weighting": "kl", "tokens": 8000, "layer": 1, "heldout_share": 0.25}, environ={}
    )
    shape = p.Shape(d_model=32, n_layers=4, layer_params=10_000, other_params=20_000)
    made = make(p.make_job(settings, shape), place(ram=1000, free=1000), forward_rates=(500, 500))
    parts = {part.name: part.seconds for part in made.time}
    # Two models, 6,000 training tokens, four blocks and as much as two more for the unembedding instead of two blocks.
    assert parts["next-token divergence"] == pytest.approx(2 * 6000 * 6 / 2 / 500)


def test_what_does_not_fit_is_told_with_numbers() -> None:
    made = make(paper(), place(ram=20, free=50))
    assert not made.fits
    assert len(made.problems) == 2
    assert "20.0 GB are available" in made.problems[0]
    assert "50.0 GB are free" in made.problems[1]
    with pytest.raises(SettingsError, match=r"of RAM are needed.*of disk are needed.*A machine with") as caught:
        made.require()
    assert caught.value.exit_code == 2
    assert made.lines()[-1].startswith("What would    A machine with ")
    assert json.loads(made.to_json())["fits"] is False


def test_every_advice_is_true() -> None:
    """Each suggestion, followed, gives a plan that fits."""
    at = place(ram=64, free=3500, gpu=30)
    made = make(paper(), at)
    assert not made.fits
    assert made.advice[0].startswith("At most ")
    latents = int(made.advice[0].split()[2].replace(",", ""))
    assert 1000 < latents < 114_688
    assert make(paper().model_copy(update={"n_latents": latents}), at).fits
    assert not make(paper().model_copy(update={"n_latents": int(latents * 1.05)}), at).fits
    ranks = int(made.advice[1].split()[0])
    assert "on " + str(ranks) + " devices like this one" in made.advice[1]
    assert make(paper(ranks=ranks), at).fits
    assert not make(paper(ranks=ranks - 1), at).fits
    assert make(paper(), place(ram=64, free=3500, gpu=128)).fits


def test_streaming_is_named_where_the_disk_is_too_small() -> None:
    at = place(ram=128, free=100)
    made = make(paper(), at)
    assert len(made.problems) == 1
    assert "of disk are needed" in made.problems[0]
    assert made.advice[0] == "The same with streamed rows."
    assert make(paper(streaming=True), at).fits
    assert make(paper(streaming=True), at).require() is None


def test_a_device_and_its_host_are_counted_apart() -> None:
    job = paper(streaming=True)
    assert make(job, place(ram=64, free=100, gpu=90)).fits
    tight = make(job, place(ram=8, free=100, gpu=90))
    assert len(tight.problems) == 1
    assert "beside the device" in tight.problems[0]


def test_time_by_hand() -> None:
    changed = {"tokens": 1_000_000, "steps": 1000, "batch": 1000, "n_latents": 10_000, "measured": 250_000}
    job = paper().model_copy(update=changed)
    harvest, training = make(job, place()).time
    assert harvest.seconds == pytest.approx(1_000_000 * 2 / 1000)
    assert training.seconds == pytest.approx(1000 * (1000 * 10_000 * 1e-9 + 1000 * 1e-6 + 10_000 * 1e-7))
    streamed, _ = make(job.model_copy(update={"streaming": True}), place()).time
    assert streamed.seconds == pytest.approx((1_000_000 + 250_000) * 2 / 1000)
    both = {"streaming": True, "ranks": 2}
    shared, _ = make(job.model_copy(update=both), place()).time
    assert shared.seconds == pytest.approx((500_000 + 250_000) * 2 / 1000)
    _, half = make(job.model_copy(update={"ranks": 2}), place()).time
    assert half.seconds == pytest.approx(1000 * (1000 * 5000 * 1e-9 + 1000 * 1e-6 + 5000 * 1e-7))


def test_without_a_measured_forward_pass_parameters_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p, "product_rate", lambda *_: 1e12)
    job = paper()
    made = make(job, place(), forward_rates=())
    flops = 21 * (2 * p.GEMMA_2_9B.layer_params + 4 * 3584 * 256)
    assert made.time[0].seconds == pytest.approx(2 * 200e6 * flops / 0.5e12)
    assert "parameters" in made.time[0].basis


def test_the_lines_add_up() -> None:
    made = make(paper(ranks=4, streaming=True), place(ram=64, free=100, gpu=80))
    text = "\n".join(made.lines())
    for wanted in (
        "114,688 latents",
        "over 4 ranks",
        "9.24 billion",
        "streamed from both models",
        "Memory while training, of a rank",
    ):
        assert wanted in text
    assert f"{sum(part.size for part in disk(made.job)) / GB:,.1f} GB" in text
    assert text.endswith("Fits          this machine, as far as the training goes")


@pytest.mark.parametrize(
    ("flags", "changed", "message"),
    [
        ({"layer": 42}, {}, "blocks 0 to 41"),
        ({}, {"ranks": 0}, "0 ranks"),
        ({"latents": 100, "k": 2}, {"ranks": 101}, "101 ranks"),
    ],
)
def test_jobs_that_cannot_be(flags: dict[str, Any], changed: dict[str, Any], message: str) -> None:
    settings, _ = make_settings({"base": "a", "tuned": "b"} | flags, environ={})
    with pytest.raises(SettingsError, match=message):
        p.make_job(settings, p.GEMMA_2_9B, **changed)


def test_a_machine_that_is_read_here(tmp_path: Path) -> None:
    settings, _ = make_settings({"base": "a", "tuned": "b", "anchor": "c", "stream": True}, environ={})
    job = p.make_job(settings, p.Shape(d_model=32, n_layers=3, layer_params=10_000))
    assert (job.n_models, job.n_crosscoders, job.streaming, job.measured) == (3, 2, True, 50_000)
    made = p.plan(job, cache=tmp_path, device=CPU, forward_rates=(1000.0,) * 3, step=RATE)
    assert made.machine.ram_total == plan_machine.machine(tmp_path, CPU).ram_total
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_paper_is_planned_with_measured_rates(tmp_path: Path) -> None:
    made = p.plan(paper(), cache=tmp_path, device=CPU)
    assert all(part.seconds > 0 for part in made.time)
