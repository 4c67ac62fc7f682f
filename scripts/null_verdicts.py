"""Which verdicts does the activation view give where nothing was changed? Noisy copies of base against base.

    python scripts/null_verdicts.py --run RUN --out verdicts.json [--runs 20]

``RUN`` is a finished direct run with ``--base embedded``: its crosscoder is the instrument and its names sort latents into
classes. The second model is base's activations with the noise of ``scripts/null_controls.py``: rounded to bfloat16's mantissa about
a random offset, or Gaussian of 0.1 to 1 % of the energy. A run counts as false if any class has a verdict.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import pandas as pd
import torch
from null_controls import noisy

from modeldiff_eval import activations as acts
from modeldiff_eval import fit, shift
from modeldiff_eval import workspace as ws
from modeldiff_eval.annotation import Annotation
from modeldiff_eval.crosscoder import load
from modeldiff_eval.progress import Reporter
from modeldiff_eval.quality import Quality
from modeldiff_eval.settings import make_settings
from modeldiff_eval.store import cache_dir, write_json
from modeldiff_eval.train import normaliser


@dataclasses.dataclass(frozen=True)
class InMemory(acts.Activations):
    """Rows that lie in memory."""

    rows: torch.Tensor

    def mapped(self) -> torch.Tensor:
        return self.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    settings, _ = make_settings(
        {"base": "embedded", "tuned": "embedded", "rollouts": 0, "tasks": "none", "draws": 2000}, environ={}
    )
    work = ws.open_workspace(settings, cache=cache_dir(), reporter=Reporter())
    material = fit.harvest(work, ws.gather_text(work))
    corpus, kept, base = material.measured, material.kept, material.rows["base"]
    null = ws.null_rows(work, corpus)
    coder, _ = load(given.run / "crosscoders" / "base--tuned")
    table = pd.read_parquet(given.run / "latents.parquet")
    own = table[(table["dictionary"] == "crosscoder") & (table["model"] == "tuned") & table["label"].notna()]
    blank = {"description": None, "confidence": None, "reason": None, "failure": None, "annotator": "run", "key": ""}
    names = {
        int(row.latent): Annotation(
            latent=int(row.latent), label=row.label, category=row.category if isinstance(row.category, str) else None, **blank
        )
        for row in own.itertuples()
    }  # fmt: skip
    classes = [class_.code for class_ in work.taxonomy.classes]
    train_rows, _ = acts.split_rows(corpus, kept)
    x = base.mapped().float()
    spread = x[kept.rows].std(0)
    results = []
    for run in range(-1, given.runs):
        generator = torch.Generator().manual_seed(run + 1)
        name, copy = ("identical", x) if run < 0 else noisy(x, run, spread, generator=generator)
        second = InMemory(f"null-{run}", base.folder, base.d_model, copy.dtype, copy.norm(dim=1).numpy(), copy)
        first = InMemory("base", base.folder, base.d_model, x.dtype, base.norms, x)
        mean, scale = normaliser(torch.stack([x[train_rows], copy[train_rows]], 1))
        statistics = {role: (mean[i], scale[i]) for i, role in enumerate(("base", "tuned"))}
        rows: dict[str, acts.Activations] = {"base": first, "tuned": second}
        pair = fit.Pair("base", "tuned", coder, None, acts.PairedRows([first, second]), Quality.model_construct())  # type: ignore[arg-type]
        found = shift.activation_shift(work, corpus, kept, rows, pair, statistics, null)
        changes = shift.group_shifts(found, names, classes, classes=True, draws=settings.draws, seed=run + 1)
        verdicts = {code: c.verdict for code, c in zip(classes, changes, strict=True) if c.verdict in ("up", "down")}
        sizes = [abs(c.change.value) for c in changes if c.change.value is not None]
        results.append({"run": run, "noise": name, "verdicts": verdicts, "largest_change": max(sizes, default=None)})
        print(results[-1], flush=True)
        write_json(given.out, results)
    false = sum(bool(row["verdicts"]) for row in results[1:])
    print(f"{false} of {given.runs} noisy runs have a verdict; the identical pair has {len(results[0]['verdicts'])}.")


if __name__ == "__main__":
    main()
