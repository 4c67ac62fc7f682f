"""Which estimator of the paired shift moves least where nothing was learned, and says most where something was?

    python scripts/compare_shift_estimators.py --run DIR

Takes a finished run of base against a tuned model (its crosscoder, corpus and cached activations) and prints for every
estimator: three controls of |relative shift| over latents (base in another precision; a copy of base with its weights
rounded to bfloat16, both in float32; base against itself on the two halves of the documents), and the signal: latents of the
real pair beyond the first control's 99.9th percentile, and the rank correlation of the shifts between halves of documents.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from modeldiff_eval import activations as acts
from modeldiff_eval import corpus as corpora
from modeldiff_eval import fit
from modeldiff_eval import latents as measuring
from modeldiff_eval import shift_estimators as estimating
from modeldiff_eval import workspace as ws
from modeldiff_eval.crosscoder import load
from modeldiff_eval.progress import Reporter
from modeldiff_eval.settings import Settings
from modeldiff_eval.shift_null import enough
from modeldiff_eval.store import cache_dir

Found = dict[str, estimating.Masses]
CALIBRATION_ROWS = 8192


def measure(run: Path) -> dict[str, Found]:
    """Masses [2, blocks, latents] by every estimator of the "pair" and of the controls "precision" and "rounded"."""
    settings = Settings.model_validate(json.loads((run / "run.json").read_text())["settings"])
    work = ws.open_workspace(settings, cache=cache_dir(), reporter=Reporter())
    corpus = ws.gather_text(work)
    material = fit.harvest(work, corpus)
    crosscoder, _ = load(run / "crosscoders" / "base--tuned")
    training, heldout = acts.split_rows(material.measured, material.kept)
    blocks = measuring.document_blocks(heldout, corpus.document_of_token(), seed=settings.seed, limit=256)

    small, place = corpora.heldout_subset(corpus, tokens=corpus.tokens)
    exact = ws.harvest_role(work, small, "base", dtype=torch.float32).mapped()
    model = work.pool.get(work.sources["base"], torch.float32)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).float())
    named = dataclasses.replace(small, key=small.key + "-rounded")
    rounded = acts.harvest(model, named, layer=work.layer, cache=cache_dir()).mapped()
    base, there = material.rows["base"].mapped(), torch.from_numpy(place)
    pair = acts.PairedRows([material.rows["base"], material.rows["tuned"]])
    own = (crosscoder.mean[:1], crosscoder.scale[:1])  # A control is one model: base's normaliser for both.

    def normalised(
        rows: Callable[[torch.Tensor], torch.Tensor], mean: torch.Tensor, scale: torch.Tensor
    ) -> estimating.NormalisedRows:
        return lambda index: (rows(index) - mean) * scale[:, None]

    real = normalised(pair, crosscoder.mean, crosscoder.scale)
    sources = {
        "pair": real,
        "precision": normalised(lambda i: torch.stack([base[i].float(), exact[there[i]].float()], 1), *own),
        "rounded": normalised(lambda i: torch.stack([exact[there[i]], rounded[there[i]]], 1), *own),
    }
    chosen = np.sort(np.random.default_rng(settings.seed).permutation(len(training))[:CALIBRATION_ROWS])
    thresholds = estimating.calibrate(crosscoder, real, training[torch.from_numpy(chosen)])
    group = estimating.Grouping(blocks.block, blocks.n)
    out = {}
    for name, rows in sources.items():
        masses = estimating.group_masses(
            crosscoder, rows, heldout, [group], estimators=estimating.ESTIMATORS, thresholds=thresholds
        )
        out[name] = {estimator: mass[0] for estimator, mass in masses.items()}
    return out


def shift(base: np.ndarray, tuned: np.ndarray) -> np.ndarray:
    """Relative change [latents] from masses [blocks, latents]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: np.ndarray = tuned.sum(0) / base.sum(0) - 1
    return ratio


def z(mass: estimating.Masses) -> np.ndarray:
    """Relative change over its standard error (delta method over blocks), [latents]."""
    value, n = shift(*mass), mass.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = mass[1] - mass[0] * (1 + value)
        score: np.ndarray = value / (np.sqrt((rest**2).sum(0) * n / (n - 1)) / np.abs(mass[0].sum(0)))
    return score


def report(found: dict[str, Found]) -> None:
    """Print one block of lines for each estimator, over the latents that all of them can judge."""
    usable = np.all(
        [enough(mass) & (mass[0].sum(0) > 0) for source in ("pair", "precision") for mass in found[source].values()], 0
    )
    print(f"{usable.sum()} latents; |shift| in percent")
    order = np.random.default_rng(1).permutation(found["pair"]["hard"].shape[1])
    halves = np.array_split(order, 2)
    for name in estimating.ESTIMATORS:
        print(name)
        for control in ("precision", "rounded"):
            mass = found[control][name]
            kept = usable & np.isfinite(z(mass))
            size = 100 * np.abs(shift(*mass)[kept])
            print(
                f"  {control:9s} |z| > 4.5 {(np.abs(z(mass)[kept]) > 4.5).mean():.3f}  median {np.median(size):.3f}  "
                f"99 % {np.quantile(size, 0.99):.2f}  largest {size.max():.1f}"
            )
        one, other = (found["precision"][name][0, half] for half in halves)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.sqrt(sum(len(x) * x.var(0, ddof=1) / x.sum(0) ** 2 for x in (one, other)))
            scores = np.log(other.sum(0) / one.sum(0)) / error
        scores = scores[usable & np.isfinite(scores)]
        print(
            f"  split     |z| > 1.96 {(np.abs(scores) > 1.96).mean():.3f}  |z| > 4.5 {(np.abs(scores) > 4.5).mean():.4f}"
        )
        mass = found["pair"][name]
        limit = np.quantile(np.abs(shift(*found["precision"][name])[usable]), 0.999)
        first, second = (shift(*mass[:, half]) for half in halves)
        both = usable & np.isfinite(first) & np.isfinite(second)
        size = 100 * np.abs(shift(*mass)[usable])
        print(
            f"  pair      median {np.median(size):.2f}  99 % {np.quantile(size, 0.99):.1f}  "
            f"beyond the control's 99.9 % ({100 * limit:.2f}): {(size > 100 * limit).sum()}  "
            f"rank correlation of halves {spearmanr(first[both], second[both]).statistic:.3f}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--run", required=True, type=Path, help="folder of a finished direct run")
    report(measure(parser.parse_args(arguments).run))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
