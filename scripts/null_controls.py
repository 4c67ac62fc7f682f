"""What does the default method find where nothing was changed? Noisy copies of real activations against the original.

    python scripts/null_controls.py --out nulls.json [--runs 20] [--model embedded] [--tokens N]

The base's activations of the packaged text stand for both models. The second copy is, in turn, the same (exactly), rounded to
bfloat16's mantissa about a random offset, or with Gaussian noise of 0.1 to 1 % of the energy. A run counts as false if any latent is
beyond noise, or specific, or shifted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modeldiff_eval import activations as acts
from modeldiff_eval import fit, methods
from modeldiff_eval import latents as measure
from modeldiff_eval import workspace as ws
from modeldiff_eval.dictionaries import null_pair
from modeldiff_eval.difference import EXCHANGE_BLOCKS, changed, exchanged, numerical
from modeldiff_eval.progress import Reporter
from modeldiff_eval.settings import make_settings
from modeldiff_eval.store import cache_dir, write_text
from modeldiff_eval.train import MappedSource


def noisy(x: Tensor, run: int, spread: Tensor, *, generator: torch.Generator) -> tuple[str, Tensor]:
    """The name of the noise of this run, and the copy."""
    if run % 2:
        offset = spread * torch.randn(x.shape[1], generator=generator)
        mantissa, exponent = torch.frexp(x + offset)
        return "bf16 round trip", torch.ldexp(torch.round(mantissa * 256) / 256, exponent) - offset
    share = 0.001 * 10 ** (run / 18)
    return f"noise of {100 * share:.2f} %", x + spread * share**0.5 * torch.randn(x.shape, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--latents", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=150)
    given = parser.parse_args()
    flags = {"base": given.model, "tuned": given.model, "rollouts": 0, "tasks": "none", "tokens": given.tokens}
    settings, _ = make_settings(flags, environ={})
    work = ws.open_workspace(settings, cache=cache_dir(), reporter=Reporter())
    material = fit.harvest(work, ws.gather_text(work))
    train_rows, heldout = acts.split_rows(material.measured, material.kept)
    document = material.measured.document_of_token()
    x = material.rows["base"].mapped().float()
    spread = x[material.kept.rows].std(0)
    control = null_pair(material, ws.null_rows(work, material.measured))
    limits, results = settings.thresholds, []
    for run in range(-1, given.runs):
        generator = torch.Generator().manual_seed(run + 1)
        name, copy = ("identical", x) if run < 0 else noisy(x, run, spread, generator=generator)
        pair = torch.stack([x, copy], 1)
        options = methods.train_settings(
            "difference", n_latents=given.latents, k=32, steps=given.steps, batch=2048, lr=3e-3, seed=run + 1
        )
        with tempfile.TemporaryDirectory() as folder:
            coder = methods.train_method(
                "difference", MappedSource(lambda i, p=pair: p[i], train_rows, batch=2048, seed=run + 1), options,
                rows=lambda i, p=pair: p[i], train_rows=train_rows, heldout=heldout, folder=Path(folder),
            )  # fmt: skip
        sums = measure.scaling(coder, lambda i, p=pair: p[i], measure.document_blocks(heldout, document, seed=run + 1))
        nu = [
            measure.nu_intervals(sums, side, min_firings=limits.min_firings, rng=np.random.default_rng(run + 1))
            for side in (0, 1)
        ]
        blocks = measure.document_blocks(heldout, document, seed=run + 1, limit=EXCHANGE_BLOCKS)
        defined = ~np.isnan(nu[0].rank_error) | ~np.isnan(nu[1].rank_error)
        p = exchanged(coder, lambda i, p=pair: p[i], blocks).p_values()
        beyond = one_sided = changed(p, defined, rate=settings.false_discovery_rate)
        if control is not None:
            beyond = one_sided & ~numerical(coder, lambda i, p=pair: p[i], *control)
        row = {
            "run": run, "noise": name, "measured": int(defined.sum()), "beyond_noise": int(beyond.sum()), "one_sided": int(one_sided.sum()),
            "specific": sum(int((side.absent(limits.nu_error) & beyond).sum()) for side in nu),
            "specific_without_control": sum(int(side.absent(limits.nu_error).sum()) for side in nu),
            "shifted": sum(int((side.less() & beyond).sum()) for side in nu),
        }  # fmt: skip
        results.append(row)
        print(json.dumps(row), flush=True)
    write_text(given.out, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
