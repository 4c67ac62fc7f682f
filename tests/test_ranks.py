"""Two processes with gloo against one: the same batch, the same weights."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from modeldiff_eval import train as L
from modeldiff_eval import train_step as T
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import RankError
from modeldiff_eval.ranks import Ranks
from modeldiff_eval.training_log import read_log

STEPS = 12


def rows() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 16, generator=g), dim=1)
    codes = (torch.rand(3000, 24, generator=g) < 0.08) * (torch.rand(3000, 24, generator=g) + 1)
    first = codes @ directions
    return torch.stack([first, first + 0.1 * torch.randn(3000, 16, generator=g)], 1) * 3


def fit(folder: Path, ranks: Ranks, *, steps: int = STEPS, minutes: float = 60.0) -> Crosscoder:
    folder.mkdir(exist_ok=True, parents=True)
    x = rows()
    # 45 latents: not divisible by two. A short dead window and a small k, so that the auxiliary loss takes part.
    settings = T.TrainSettings(n_latents=45, k=1, steps=steps, batch=256, lr=5e-3, dead_share=0.01)
    source = L.MappedSource(lambda i: x[i], torch.arange(2500), batch=256, seed=0, ranks=ranks)
    heldout = (lambda i: x[i], torch.arange(2500, 3000))
    return L.train(source, settings, folder=folder, heldout=heldout, ranks=ranks, checkpoint_minutes=minutes)


def join(rank: int, world: int, port: int) -> Ranks:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "RANK": str(rank)}
    return Ranks.from_environment()


def work(rank: int, world: int, port: int, folder: str) -> None:
    made = fit(Path(folder) / "run", join(rank, world, port), minutes=0.0)
    torch.save((made.W_enc, made.W_dec, made.b_enc, made.b_dec, made.threshold), Path(folder) / f"{rank}.pt")


def die(rank: int, world: int, port: int, folder: str) -> None:
    ranks = join(rank, world, port)
    if rank == 1:
        os._exit(9)
    try:
        ranks.sum(torch.zeros(3))
    except RankError as error:
        (Path(folder) / "said.txt").write_text(str(error))


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.mark.slow
def test_two_ranks_give_the_result_of_one_process(tmp_path: Path) -> None:
    alone = fit(tmp_path / "alone", Ranks())
    mp.spawn(work, (2, free_port(), str(tmp_path)), nprocs=2)
    for rank in range(2):
        W_enc, W_dec, b_enc, b_dec, threshold = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(W_enc, alone.W_enc, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(W_dec, alone.W_dec, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(b_enc, alone.b_enc, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(b_dec, alone.b_dec, rtol=1e-4, atol=1e-5)
        assert threshold == pytest.approx(alone.threshold, rel=1e-4)
    ours, theirs = read_log(tmp_path / "run"), read_log(tmp_path / "alone")
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-5)
    assert max(line["dead"] for line in ours) > 0


@pytest.mark.slow
def test_a_rank_that_dies_stops_the_others_by_name(tmp_path: Path) -> None:
    with pytest.raises(mp.ProcessExitedException, match="process 1 terminated with exit code 9"):
        mp.spawn(die, (2, free_port(), str(tmp_path)), nprocs=2, join=False).join(timeout=60, grace_period=60)
    assert "Rank 0 of 2 lost rank 1" in (tmp_path / "said.txt").read_text()


def lead(rank: int, world: int, port: int, folder: str) -> None:
    from modeldiff_eval import ranks as module

    module._BEAT_SECONDS = 0.05
    ranks = join(rank, world, port)

    def note() -> float:
        at = time.monotonic()
        time.sleep(0 if rank else 1.0)
        (Path(folder) / f"{rank}.txt").write_text(f"{at} {time.monotonic()}")
        return at

    ranks.after_leader(note)
    assert float(ranks.sum(torch.tensor([1.0]))) == world
    ranks.leave()


def fall(rank: int, world: int, port: int, folder: str) -> None:
    ranks = join(rank, world, port)
    try:
        ranks.after_leader(lambda: os._exit(9) if rank == 0 else None)
    except RankError as error:
        (Path(folder) / "said.txt").write_text(str(error))


@pytest.mark.slow
def test_the_leader_goes_first_however_long_it_takes(tmp_path: Path) -> None:
    mp.spawn(lead, (2, free_port(), str(tmp_path)), nprocs=2)
    first, second = ((tmp_path / f"{rank}.txt").read_text().split() for rank in range(2))
    assert float(first[1]) <= float(second[0])


@pytest.mark.slow
def test_a_leader_that_dies_first_is_missed(tmp_path: Path) -> None:
    with pytest.raises(mp.ProcessExitedException, match="process 0 terminated with exit code 9"):
        mp.spawn(fall, (2, free_port(), str(tmp_path)), nprocs=2, join=False).join(timeout=60, grace_period=60)
    assert "Rank 1 of 2 lost rank 0" in (tmp_path / "said.txt").read_text()


def test_alone_nobody_waits() -> None:
    ranks = Ranks()
    assert ranks.after_leader(lambda: 5) == 5
    ranks.leave()


def test_shares_cover_everything_once() -> None:
    for n in (1, 7, 45):
        parts = [range(n)[Ranks(rank, 4).share(n)] for rank in range(4)]
        assert [i for part in parts for i in part] == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
