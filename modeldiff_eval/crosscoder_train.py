"""``crosscoder train``: the crosscoder of a pair alone, by one process or several, as a folder that is whole or absent."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from modeldiff_eval import fit
from modeldiff_eval import workspace as ws
from modeldiff_eval.crosscoder_info import describe
from modeldiff_eval.errors import UsageError
from modeldiff_eval.locks import in_use
from modeldiff_eval.plan_run import plan_run, require_room
from modeldiff_eval.progress import Reporter
from modeldiff_eval.ranks import Ranks
from modeldiff_eval.settings import Settings, command_line
from modeldiff_eval.store import cache_dir, partial_of, require_writable
from modeldiff_eval.trackers import require as require_trackers

PAIR = ("base", "tuned")


def train_crosscoder(
    settings: Settings,
    out: Path,
    *,
    cache: Path,
    reporter: Reporter | None = None,
    ranks: Ranks | None = None,
    checkpoint_minutes: float | None = None,
    force: bool = False,
) -> dict[str, Any] | None:
    """Train a crosscoder for base and tuned, or go on with an interrupted training, and leave it in ``out``.

    Args:
        out: what ``--crosscoder`` takes afterwards; it may hold this very crosscoder already.
        ranks: this process among several, which share ``cache``; only the leader writes ``out``.
        force: start although memory or disk will not do.

    Trackers (``settings.log_to``) write to a folder beside ``out``, which is whole or absent: ``OUT.track``.

    Returns:
        What :func:`~modeldiff_eval.crosscoder_info.describe` says of it, with path, caveats and seconds; None on ranks beside
        the leader.

    Raises:
        UsageError: ``out`` holds something else.
        SettingsError: it cannot fit on this machine.
        RankError: another rank stopped.
    """
    started = time.monotonic()
    ranks, reporter = ranks or Ranks(), reporter or Reporter()
    settings = only_the_pair(settings)

    def prepare() -> tuple[ws.Workspace, fit.Material, Path]:
        _require_free(out)
        if ranks.leader:
            require_trackers(settings.log_to)
        if ranks.leader and not (force or out.exists()):
            require_room(settings, cache, ranks=ranks.world)
        work = ws.open_workspace(settings, cache=cache, reporter=reporter)
        material = fit.harvest(work, ws.gather_text(work))
        folder = fit.cache_folder(work, material, *PAIR)
        _require_same(out, folder.name)
        return work, material, folder

    with in_use(cache):
        work, material, folder = ranks.after_leader(prepare)
        if not out.exists():
            beside = out.with_name(f"{out.name}.track")
            fit.fit(work, material, *PAIR, log_folder=beside, ranks=ranks, checkpoint_minutes=checkpoint_minutes)
            if ranks.leader:
                fit.copy_crosscoder(folder, partial_of(out))
                partial_of(out).rename(out)
    ranks.leave()
    if not ranks.leader:
        return None
    return describe(str(out)) | {
        "path": str(out),
        "trained": bool(work.trained),
        "rows_presented": settings.steps * min(settings.batch, max(1, material.tokens)),
        "dropped": {
            "bos": material.dropped_bos,
            "outliers_in_measured_text": material.kept.dropped_outliers,
        },
        "processes": ranks.world,
        "caveats": list(dict.fromkeys([*work.caveats, *work.pool.caveats])),
        "seconds": round(time.monotonic() - started, 1),
    }


def only_the_pair(settings: Settings) -> Settings:
    """Settings without what a comparison adds: an anchor, finished crosscoders, other seeds, a dictionary of differences."""
    alone = {"anchor": None, "crosscoder": (), "seeds": 1, "method": fit.whole_method(settings)}
    return settings.model_copy(update=alone)


def _require_free(out: Path) -> None:
    """Nothing is at ``out``, or a crosscoder of ours; and something can be written beside it."""
    if out.exists() and _key(out) is None:
        raise UsageError(
            f"{out} exists already and is not a crosscoder of `crosscoder train`. Name another folder with --out, or remove it."
        )
    require_writable(out.absolute().parent)


def _require_same(out: Path, key: str) -> None:
    if out.exists() and _key(out) != key:
        raise UsageError(
            f"{out} holds another crosscoder: its models, text or settings differ. Name another folder with --out, or remove it."
        )


def _key(out: Path) -> str | None:
    """What ``fit`` noted as the name of everything that decided the crosscoder in ``out``."""
    try:
        config = json.loads((out / "native" / "cfg.json").read_text(encoding="utf-8"))
        return str(config["metadata"]["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def train_command(
    settings: Settings,
    out: Path,
    *,
    reporter: Reporter,
    no_cache: bool,
    checkpoint_minutes: float | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """The command itself: join the other processes, train, tell."""
    settings = only_the_pair(settings)
    ranks = Ranks.from_environment(settings.device)
    _share_processors()
    facts = train_crosscoder(
        settings,
        out,
        cache=Path(f"{out}.cache") if no_cache else cache_dir(),
        reporter=reporter,
        ranks=ranks,
        checkpoint_minutes=checkpoint_minutes,
        force=force,
    )
    if facts is not None:
        text = "\n".join(_summary(facts, settings))
        print(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else out if quiet else text)


def print_plan(settings: Settings, ranks: int | None, *, as_json: bool) -> bool:
    """Print the plan of a training, once if there are several processes; whether it fits here."""
    made = plan_run(only_the_pair(settings), cache_dir(), ranks=ranks or int(os.environ.get("WORLD_SIZE", "1")))
    if os.environ.get("RANK", "0") == "0":
        print(made.to_json() if as_json else "\n".join(made.lines()))
    return made.fits


def _share_processors() -> None:
    """Give each process of ``torchrun`` its share of the processors; torchrun itself gives each of them one thread."""
    import torch

    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if beside > 1 and os.environ.get("OMP_NUM_THREADS") == "1":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // beside))


def _summary(facts: dict[str, Any], settings: Settings) -> list[str]:
    """The end of a training, for the terminal."""
    about, quality = facts["metadata"], facts["quality"]
    first, second = about["models"]
    how = "streamed" if about["streamed"] else "from the disk"
    following = settings.model_copy(update={"crosscoder": (facts["path"],)})
    return [
        f"{facts['path']}: {facts['n_latents']:,} latents over 2 × {facts['d_model']:,}, k {facts['k']}, block {about['layer']}",
        f"rows      {facts['rows_presented']:,} presented, of {about['tokens']:,} training tokens ({how})",
        f"fve       {first} {quality['fve_first']:.3f}, {second} {quality['fve_second']:.3f} on {quality['heldout_tokens']:,} held-out tokens",
        f"L0        {quality['l0']:.1f} on the same",
        f"dead      {quality['dead_share']:.1%} of the latents, silent over {quality['dead_tokens']:,} tokens"
        + (" (held-out ones only)" if about["streamed"] else ""),
        *(f"caveat    {caveat}" for caveat in facts["caveats"]),
        f"next: {command_line(following)}",
    ]
