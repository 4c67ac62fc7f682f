"""Does the measured activation shift grow with the dose of a fine-tune?

    python scripts/dose.py train --pairs FILE --out DIR         one SimPO run at a constant rate, saved at every dose
    python scripts/dose.py scale --adapter DIR --out DIR        the other axis: a finished adapter, its update scaled
    python scripts/dose.py measure --run DIR --out FILE DOSE …  the shift of each of these adapters, in a run's dictionary

``train`` follows the recipe of the demonstration's SimPO adapter except for the schedule: the learning rate stays constant
after six warm-up steps, so that each saved step is a run of that length and not the unfinished part of a longer one.
``measure`` takes the latents and their classes from a finished run, so that all doses are measured with one instrument. Each
model is normalised by its own mean and scale on the measured tokens, so that no dose at all reads exactly 0.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeldiff_eval import activations as acts
from modeldiff_eval import corpus as corpora
from modeldiff_eval import latents as measuring
from modeldiff_eval import shift_estimators as estimating
from modeldiff_eval import workspace as ws
from modeldiff_eval.crosscoder import load
from modeldiff_eval.demo import train_adapter as recipe
from modeldiff_eval.progress import Reporter
from modeldiff_eval.resources import resource
from modeldiff_eval.settings import Settings
from modeldiff_eval.shift_null import beyond_null, enough, null_bars
from modeldiff_eval.stats_bootstrap import bootstrap_ratio, two_way_ratio
from modeldiff_eval.store import cache_dir, write_json
from modeldiff_eval.umask import follow_umask

STEPS = (8, 15, 30, 61, 91, 122)
"""61 steps are one pass over the recipe's 242 pairs, which is what the shipped adapter had: 1/8 to 2 times that."""
SCALES = (0.25, 0.5, 1.0, 2.0)
DRAWS = 1000
GROUPS = 20


def train_doses(pairs: str, out: Path, *, steps: Sequence[int] = STEPS) -> None:
    """One run, its adapter saved at every number of steps in ``steps`` as ``out/steps-<n>``."""
    from transformers import TrainerCallback, set_seed

    shipped = json.loads(resource("demo/adapters/simpo/recipe.json").read_text())
    settings = recipe.TrainSettings(
        **{
            **shipped["settings"],
            "steps": max(steps),
            "schedule": "constant_with_warmup",
            "warmup_share": 6.5 / max(steps),
        }
    )
    set_seed(settings.seed)
    model, tokenizer = recipe.load_base(None, dtype="bfloat16" if settings.bf16 else "float32")
    training, _, preparation = recipe.load_pairs(pairs, tokenizer, settings)
    print(preparation.model_dump_json(), flush=True)

    class Save(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _args: Any, state: Any, _control: Any, *, model: Any, **_: Any) -> None:
            print(f"step {state.global_step}", flush=True)
            if state.global_step in steps:
                model.peft_config["default"].base_model_name_or_path = shipped["base"]
                folder = out / f"steps-{state.global_step:03d}"
                model.save_pretrained(folder, save_embedding_layers=False)
                follow_umask(folder.glob("*.safetensors"))

    _, log = recipe.train(model, tokenizer, training, settings, callbacks=[Save()])
    recipe.write_recipe(out, {"settings": settings.model_dump(mode="json"), "training": log})


def scale_doses(adapter: Path, out: Path, *, scales: Sequence[float] = SCALES) -> None:
    """Copies of an adapter whose update is ``scales`` times as large, as ``out/times-<scale>``: LoRA's alpha is its factor."""
    for scale in scales:
        folder = out / f"times-{scale:g}"
        shutil.copytree(adapter, folder)
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text())
        config["lora_alpha"] *= scale
        write_json(path, config)


def measure_doses(run: Path, doses: Sequence[Path], *, tokens: int, estimator: str) -> dict[str, Any]:
    """Shift of every dose against the run's base on ``tokens`` held-out tokens, and of base in another precision."""
    import pandas as pd

    settings = json.loads((run / "run.json").read_text())["settings"]
    crosscoder, _ = load(run / "crosscoders" / "base--tuned")
    table = pd.read_parquet(run / "latents.parquet", columns=["model", "latent", "category"])
    classes = table[table["model"] == "base"].sort_values("latent")["category"].str[0].to_numpy()
    rows: dict[str, acts.Activations] = {}
    for dose in doses:
        work = ws.open_workspace(
            Settings.model_validate({**settings, "tuned": str(dose)}), cache=cache_dir(), reporter=Reporter()
        )
        corpus = corpora.heldout_sample(ws.gather_text(work), tokens=tokens)
        if not rows:
            other = torch.float32 if work.pool.dtype != torch.float32 else torch.bfloat16
            rows["base"] = ws.harvest_role(work, corpus, "base")
            rows["control"] = ws.harvest_role(work, corpus, "base", dtype=other)
        rows[dose.name] = ws.harvest_role(work, corpus, "tuned")
    kept = acts.keep_tokens(corpus, [model.norms for model in rows.values()], bos=work.tokenizer.bos_token_id).rows
    blocks = measuring.document_blocks(kept, corpus.document_of_token(), seed=work.settings.seed, limit=256)
    statistics = {name: _statistics(model, kept) for name, model in rows.items()}

    def masses(name: str) -> estimating.Masses:
        both = acts.PairedRows([rows["base"], rows[name]])
        # In the control the two are one model: base's own normaliser, as in a run.
        used = [statistics["base"], statistics["base" if name == "control" else name]]
        mean, scale = torch.stack([m for m, _ in used]), torch.stack([s for _, s in used])
        origin, unit = statistics["base"]
        fitted, factor = crosscoder.mean[0], crosscoder.scale[0]

        def normalised(index: torch.Tensor) -> torch.Tensor:
            # Base in the crosscoder's own space; the other model moved and scaled by what it differs from base.
            return (both(index) - (mean - origin + fitted)) * (scale / unit * factor)[:, None]

        group = estimating.Grouping(blocks.block, blocks.n)
        return estimating.group_masses(crosscoder, normalised, kept, [group], estimators=(estimator,))[estimator][0]

    control = masses("control")
    bars = null_bars(control, control[0].sum(0), draws=DRAWS, rng=np.random.default_rng(0))
    out = {name: _dose(masses(name), bars, classes) for name in rows if name not in ("base", "control")}
    return {
        "estimator": estimator,
        "tokens": len(kept),
        "documents": int(blocks.documents.sum()),
        "doses": {"control": _dose(control, bars, classes), **out},
    }


def _statistics(rows: acts.Activations, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [d_model] and scale of the kept rows: centred rows times scale have a mean square of 1 in each coordinate."""
    x = rows.mapped()[kept].double()
    mean = x.mean(0)
    return mean.float(), (x - mean).square().mean().rsqrt().float()


def _dose(mass: estimating.Masses, bars: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    """Changed latents, mean |log shift| weighted by base's mass, and class shifts in percent, each as [value, low, high].

    Only latents with enough mass under both models count. The first two have intervals from the jackknife over twenty groups
    of documents, since a resample's noise would add itself to counts and to means of absolute values; what noise adds to the
    value itself is what the control shows. Class shifts are resampled over documents and latents, as in a card.
    """
    rng = np.random.default_rng(1)
    known = enough(mass) & (mass.sum(1) > 0).all(0)
    value, low, high = (bound - 1 for bound in bootstrap_ratio(mass[1], mass[0], draws=DRAWS, rng=rng))
    reach = np.stack([low, high]) - value

    def summary(base: np.ndarray, tuned: np.ndarray) -> tuple[float, float]:
        good = known & (base > 0) & (tuned > 0)
        ratio = np.divide(tuned, base, out=np.ones_like(base), where=good)
        changed = beyond_null(ratio - 1, *(ratio - 1 + reach), bars) & good
        return float(changed.sum()), float(np.average(np.abs(np.log(ratio[good])), weights=base[good]))

    total = mass.sum(1)
    point = np.array(summary(*total))
    left_out = np.array([summary(*(total - mass[:, group::GROUPS].sum(1))) for group in range(GROUPS)])
    error = 1.96 * np.sqrt((GROUPS - 1) * left_out.var(axis=0))
    groups = {}
    for code in sorted({code for code in classes if isinstance(code, str)}):
        mine = mass[:, :, classes == code]
        ends = two_way_ratio(*mine, draws=DRAWS, rng=rng)
        groups[code] = [100 * (x - 1) for x in (mine[1].sum() / mine[0].sum(), *ends)]
    return {
        "latents": int(known.sum()),
        **{
            name: [float(x) for x in (v, max(0.0, v - e), v + e)]
            for name, v, e in zip(("changed", "log_shift"), point, error, strict=True)
        },
        "classes": groups,
    }


def _print(found: dict[str, Any]) -> None:
    print(f"{found['estimator']}, {found['tokens']:,} tokens of {found['documents']} documents; 95 % intervals")
    for name, dose in found["doses"].items():
        changed, shift = dose["changed"], [100 * x for x in dose["log_shift"]]
        groups = "  ".join(f"{code} {v:+.1f} ({a:+.1f}..{b:+.1f})" for code, (v, a, b) in dose["classes"].items())
        print(
            f"{name:12s} changed {changed[0]:.0f} ({changed[1]:.0f}..{changed[2]:.0f}) of {dose['latents']}   "
            f"|log shift| {shift[0]:.2f} % ({shift[1]:.2f}..{shift[2]:.2f})   {groups}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train")
    train.add_argument("--pairs", required=True, help="preference pairs, as the adapter's recipe reads them")
    scale = commands.add_parser("scale")
    scale.add_argument("--adapter", required=True, type=Path)
    measure = commands.add_parser("measure")
    measure.add_argument(
        "--run", required=True, type=Path, help="folder of a finished run of base against a tuned model"
    )
    measure.add_argument("--tokens", type=int, default=15_000, help="held-out tokens (default 15000)")
    measure.add_argument("--estimator", default="gated", help="of modeldiff_eval.shift_estimators (default gated)")
    measure.add_argument("doses", nargs="+", type=Path, help="adapter folders")
    for command in (train, scale, measure):
        command.add_argument("--out", required=True, type=Path)
    options = parser.parse_args(arguments)
    if options.command == "train":
        train_doses(options.pairs, options.out)
    elif options.command == "scale":
        scale_doses(options.adapter, options.out)
    else:
        found = measure_doses(options.run, options.doses, tokens=options.tokens, estimator=options.estimator)
        write_json(options.out, found)
        _print(found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
