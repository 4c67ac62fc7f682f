"""Held-out fve, dead share and time of crosscoder trainings that differ in one setting each, as a Markdown table.

``python scripts/sweep.py lr=1e-3/2e-3 betas=[0.9,0.999] --steps 400`` trains on activations of the embedded model and its
packaged SimPO tune; the first row is the trainer's defaults. A training that is in the cache is not repeated.
docs/decisions/010-training-defaults.md has what the defaults came from.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from modeldiff_eval import activations as acts
from modeldiff_eval import workspace as ws
from modeldiff_eval.progress import Reporter
from modeldiff_eval.quality import evaluate
from modeldiff_eval.resources import resource
from modeldiff_eval.settings import make_settings
from modeldiff_eval.store import cache_dir, fingerprint, once, write_json
from modeldiff_eval.train import MappedSource, train
from modeldiff_eval.train_step import TrainSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vary", nargs="*", metavar="NAME=V/V", help="settings of the trainer and the values to try")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200_000)
    args = parser.parse_args()

    flags = {
        "base": "embedded", "tuned": str(resource("demo/adapters/simpo")), "tokens": args.tokens, "rollouts": 0,
    }  # fmt: skip
    settings, _ = make_settings(flags, environ={})
    work = ws.open_workspace(settings, cache=cache_dir(), reporter=Reporter())
    corpus = ws.gather_text(work)
    both = [ws.harvest_role(work, corpus, role) for role in ("base", "tuned")]
    kept = acts.keep_tokens(corpus, [m.norms for m in both], bos=work.tokenizer.bos_token_id)
    rows, (training, heldout) = acts.PairedRows(both), acts.split_rows(corpus, kept)

    default = TrainSettings(n_latents=args.latents, k=args.k, steps=args.steps)
    variants: list[dict[str, Any]] = [{}]
    for item in args.vary:
        name, _, values = item.partition("=")
        variants += [{name: json.loads(value)} for value in values.split("/")]
    print(f"{len(training):,} training tokens, {len(heldout):,} held out; {default.model_dump()}\n")
    print("| | fve first | fve second | dead | L0 | minutes |\n| --- | --- | --- | --- | --- | --- |")
    for changed in variants:
        options = TrainSettings.model_validate(default.model_dump() | changed)

        def make(partial: Path, options: TrainSettings = options) -> None:
            start = time.monotonic()
            source = MappedSource(rows, training, batch=options.batch, seed=options.seed)
            made = train(source, options, folder=partial, heldout=(rows, heldout))
            minutes = (time.monotonic() - start) / 60
            quality = evaluate(made, rows, heldout, training)
            write_json(partial / "sweep.json", quality.model_dump() | {"minutes": minutes})

        folder = cache_dir() / "sweep" / fingerprint([corpus.key, [m.key for m in both], options.model_dump()])
        once(folder, make)
        q = json.loads((folder / "sweep.json").read_text())
        what = ", ".join(f"{name} {value}" for name, value in changed.items()) or "defaults"
        print(
            f"| {what} | {q['fve_first']:.4f} | {q['fve_second']:.4f} | {q['dead_share']:.1%} | {q['l0']:.1f} | {q['minutes']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
