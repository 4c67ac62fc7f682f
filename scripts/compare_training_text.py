"""What do the models' own answers, KL weighting and a share of assistant tokens buy? One organism, four training texts.

    python scripts/compare_training_text.py NAME … --out text.json     organisms by name, from data/organisms

The dictionary of differences is trained on the same activations four times: on all training tokens evenly, without the documents
that either model wrote, and by ``--weighting kl`` and ``assistant``. Steps and batches are the same, and so is everything
that is measured: held-out text with both models' answers, and top documents of the whole text. Reported are the latents that the control lets
through on tuned's side, how many of these carry the plant (half of their top documents), the share of the difference that these
explain, and the first five by rank: top documents with the plant.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeldiff_eval import activations as acts
from modeldiff_eval import analysis, fit, side_tables
from modeldiff_eval import workspace as ws
from modeldiff_eval.annotation import Annotation, Evidence
from modeldiff_eval.dictionaries import null_pair
from modeldiff_eval.organism_bench import DIFF_SETTINGS, probe_file
from modeldiff_eval.organism_files import Organism, choose
from modeldiff_eval.organisms import Material, make_adapter
from modeldiff_eval.progress import Reporter
from modeldiff_eval.quality import Quality
from modeldiff_eval.settings import make_settings
from modeldiff_eval.store import cache_dir, write_json

TOP = 5
VARIANTS = ("even", "without own answers", "kl", "assistant")


class Unnamed:
    """No names are needed here."""

    name, version, paid = "none", "1", False

    def annotate(self, evidence: Any) -> Any:
        for item in evidence:
            yield Annotation(
                latent=item.latent, label=None, description=None, category=None, confidence=None, reason=None, failure="not asked",
                annotator=self.name, key="",
            )  # fmt: skip


def carrying(organism: Organism, evidence: Evidence | None) -> tuple[int, int]:
    texts = [example.text for example in evidence.examples] if evidence else []
    return sum(organism.carried_by(text) for text in texts), len(texts)


def measured(organism: Organism, own: side_tables.Measured) -> dict[str, Any]:
    """The figures of one dictionary, on tuned's side."""
    assert own.control is not None
    shifted = np.flatnonzero(own.control.shifted[1])
    counts = {int(j): carrying(organism, own.evidence.get(int(j))) for j in shifted}
    plant = [j for j, (count, n) in counts.items() if n and count >= n / 2]
    key = own.rank_key(1)
    first = [
        int(j) for j in np.argsort(np.where(np.isnan(key), np.inf, key), kind="stable")[:TOP] if not np.isnan(key[j])
    ]
    hits = [carrying(organism, own.evidence.get(j)) for j in first]
    return {
        "shifted": len(shifted), "with_plant": len(plant), "energy_with_plant": float(own.control.energy[plant].sum()),
        "first_documents": [sum(count for count, _ in hits), sum(n for _, n in hits)],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("organism", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    material, results = Material.open("embedded", cache=cache_dir()), []
    for organism in choose(given.organism):
        adapter = make_adapter(material, organism)
        corpus = ("packaged:0.6", f"probe={probe_file(material, adapter)}:0.4")
        flags = {**DIFF_SETTINGS, "base": "embedded", "tuned": str(adapter), "corpus": corpus, "seed": given.seed}
        settings, _ = make_settings(flags, environ={})
        work = ws.open_workspace(settings, cache=cache_dir(), reporter=Reporter())
        work.annotator = Unnamed()
        text = ws.gather_text(work)
        rows = fit.harvest(work, text)
        null = ws.null_rows(work, text)
        whole = fit.Pair(
            "base",
            "tuned",
            None,
            None,
            acts.PairedRows([rows.rows["base"], rows.rows["tuned"]]),
            Quality.model_construct(),
        )  # type: ignore[arg-type]
        written = np.array([str(name).startswith(("base:", "tuned:")) for name in text.documents["id"]])
        left_out = written & ~text.heldout_documents()
        kept = rows.kept.rows
        others = kept[torch.from_numpy(~left_out[text.document_of_token()[kept.numpy()]])]
        for variant in VARIANTS:
            weighting = variant if variant in ("kl", "assistant") else "none"
            own = dataclasses.replace(work, settings=settings.model_copy(update={"weighting": weighting}))
            source = rows
            if variant == "without own answers":
                source = dataclasses.replace(rows, kept=dataclasses.replace(rows.kept, rows=others))
            out = given.out.with_suffix("") / f"{organism.name}-{variant.replace(' ', '-')}"
            found = fit.difference_for(own, source, whole, out / "differences")
            one = analysis.measure_pair(
                own, text, rows.kept, found.pair, (0, 1), out, control=True, null=null_pair(rows, null)
            )
            training = len(acts.split_rows(text, source.kept)[0])
            results.append(
                {
                    "organism": organism.name,
                    "text": variant,
                    "tokens": training,
                    "fve": found.info.fve,
                    **measured(organism, one),
                }
            )
            print(results[-1], flush=True)
            write_json(given.out, results)


if __name__ == "__main__":
    main()
