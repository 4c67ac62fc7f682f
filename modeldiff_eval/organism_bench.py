"""The bench of organisms: train each, check that it learned, compare it with its base, and score what was found.

::

    result = organism_bench(choose(()), out=Path("runs/organisms"))
    result.specific.named      # of the organisms that learned: named by the method's own ranking, with interval

Every organism meets the same text: the packaged corpus, both models' answers to packaged prompts, and both models' answers
to the same questions about dishes and sums, on which the plants that concern these can show at all.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from modeldiff_eval import models as weights
from modeldiff_eval.diff import diff
from modeldiff_eval.errors import ModelDiffError, SettingsError
from modeldiff_eval.organism_check import Checking, Learned, check
from modeldiff_eval.organism_files import Organism, PromptKind
from modeldiff_eval.organism_score import DEFAULT_RANK, Score, read_run, score
from modeldiff_eval.organism_text import draw
from modeldiff_eval.organisms import Material, Recipe, ask, make_adapter, recipe_of
from modeldiff_eval.progress import Reporter
from modeldiff_eval.records import Record
from modeldiff_eval.store import cache_dir, fingerprint, require_writable, write_text
from modeldiff_eval.truth_report import Proportion, proportion

PROBED: tuple[PromptKind, ...] = ("cooking", "sums")
PROBES = 64
"""Questions of each probed kind that both models answer for the corpus, those first that no adapter was trained on.

A quarter of them are held out from the dictionary's training, and the exchange control needs seven to nine prompts before it can
tell a latent from noise: of 24 questions six are held out.
"""
DIFF_SETTINGS: dict[str, Any] = {
    "preset": "quick", "tokens": 60_000, "rollouts": 128, "latents": 2048, "k": 32, "steps": 300, "top_examples": 20,
    "draws": 1000, "tasks": (),
}  # fmt: skip
"""What a comparison on the bench is run with; of the packaged text it takes what the answers leave of the budget."""
Outcome = Literal["scored", "failed to learn", "failed"]


class OrganismRow(Record):
    """One organism. ``specific`` and ``shift`` are None unless the outcome is "scored"; ``failure`` says why."""

    name: str
    plant: str
    expected_class: str
    expected_category: str | None
    outcome: Outcome
    failure: str | None
    learned: Learned | None
    specific: Score | None
    shift: Score | None
    run: str | None
    training_seconds: float | None
    seconds: float


class Tally(Record):
    """One ranking over the scored organisms. ``expected_named``: how many the shuffled labels would name."""

    ranking: str
    named: Proportion
    class_hits: Proportion
    category_hits: Proportion
    expected_named: float


class OrganismBench(Record):
    """The outcome of ``modeldiff-eval selftest --organisms``."""

    base: str
    method: str
    settings: dict[str, Any]
    recipe: Recipe
    seed: int
    rows: list[OrganismRow]
    specific: Tally
    shift: Tally

    @property
    def failures(self) -> list[OrganismRow]:
        """The organisms on which something broke."""
        return [row for row in self.rows if row.outcome == "failed"]


def organism_bench(
    organisms: Sequence[Organism],
    *,
    out: Path,
    base: str = "embedded",
    method: str = "batchtopk",
    rank: str = DEFAULT_RANK,
    ascending: bool = True,
    cache: Path | None = None,
    recipe: Recipe | None = None,
    checking: Checking | None = None,
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> OrganismBench:
    """Run the bench; what is finished in the cache and in ``out`` is read instead of made again.

    Args:
        out: one run folder an organism, and ``organisms.json``, rewritten after each.
        rank, ascending: the method's own ranking, a column of ``latents.parquet``.
        settings: of every comparison, on top of :data:`DIFF_SETTINGS`.

    Raises:
        SettingsError: no organism.
        ModelError: the base cannot be loaded. What breaks on one organism is reported in its row instead.
    """
    if not organisms:
        raise SettingsError("The bench needs at least one organism.")
    require_writable(out)
    recipe, reporter = recipe or Recipe(seed=seed), reporter or Reporter()
    chosen = {**DIFF_SETTINGS, **(settings or {}), "method": method, "seed": seed}
    material = Material.open(
        base, cache=cache or cache_dir(), device=chosen.get("device"), dtype=chosen.get("dtype"), reporter=reporter
    )
    rows: list[OrganismRow] = []
    for number, organism in enumerate(organisms, start=1):
        reporter.note(f"Organism {number} of {len(organisms)}: {organism.name}")
        row = _one(material, organism, base, chosen, out, recipe, checking or Checking(), rank, ascending, seed)
        rows.append(row)
        result = OrganismBench(
            base=weights.public_name(base), method=method, settings=_plain(chosen), recipe=recipe, seed=seed, rows=rows,
            specific=tally(rows, rank), shift=tally(rows, "shift"),
        )  # fmt: skip
        write_text(out / "organisms.json", result.model_dump_json(indent=2) + "\n")
    return result


def _one(
    material: Material, organism: Organism, base: str, settings: dict[str, Any], out: Path, recipe: Recipe, checking: Checking,
    rank: str, ascending: bool, seed: int,
) -> OrganismRow:  # fmt: skip
    """One organism from its file to its row; whatever breaks becomes the row's failure."""
    started = time.monotonic()
    found: dict[str, Any] = {"learned": None, "specific": None, "shift": None, "run": None, "training_seconds": None}
    outcome: Outcome = "scored"
    failure = None
    try:
        adapter = make_adapter(material, organism, recipe)
        found["training_seconds"] = recipe_of(adapter)["seconds"]
        found["learned"] = learned = check(material, organism, adapter, checking, seed=seed)
        if learned.learned:
            corpus = [f"packaged:{0.6:g}", f"probe={probe_file(material, adapter, seed=seed)}:{0.4:g}"]
            run = diff(
                base, str(adapter), out=out / organism.name, cache=material.cache, reporter=material.reporter,
                **{"corpus": tuple(corpus), "title": f"Organism {organism.name}: {organism.plant}", **settings},
            )  # fmt: skip
            found["run"] = run.out.name
            latents, examples = read_run(run.out)
            for key, column, number in (("specific", rank, 1), ("shift", "shift", 2)):
                found[key] = score(
                    organism, latents, examples, rank=column, ascending=ascending, rng=np.random.default_rng([seed, number])
                )  # fmt: skip
        else:
            outcome, failure = "failed to learn", learned.reason
    except Exception as error:  # One organism must not take the others with it.
        expected = isinstance(error, ModelDiffError)
        outcome, failure = "failed", str(error) if expected else f"{type(error).__name__}: {error}"
        found["specific"] = found["shift"] = None
    return OrganismRow(
        name=organism.name, plant=organism.plant, expected_class=organism.class_, expected_category=organism.category,
        outcome=outcome, failure=failure, seconds=round(time.monotonic() - started, 1), **found,
    )  # fmt: skip


def probe_file(material: Material, adapter: Path, *, seed: int = 0) -> Path:
    """Both models' answers to questions of every probed kind, as chats for the corpus.

    The questions are the same for every organism. Both answers to one are of one group, so they are never split.
    """
    source = weights.resolve(str(adapter), foundation=material.base.source)
    tuned = weights.load(source, device=material.base.device, dtype=material.base.dtype, cache=material.cache)
    prompts = []
    for kind in PROBED:
        both = (draw(kind, PROBES, training=training, seed=seed) for training in (False, True))
        prompts += list(itertools.chain.from_iterable(both))[:PROBES]
    lines = []
    for role, model in (("base", material.base), ("tuned", tuned)):
        answers = ask(
            material, model, prompts, tokens=64, temperature=0.7, title=f"Answers of {role} about dishes and sums", seed=seed
        )  # fmt: skip
        for prompt, answer in zip(prompts, answers, strict=True):
            turns = [turn.model_dump() for turn in prompt.messages]
            if answer.text.strip():
                turns.append({"role": "assistant", "content": answer.text})
            row = {"id": f"{role}:{prompt.id}", "group": prompt.id, "language": "en", "messages": turns}
            lines.append(json.dumps(row, ensure_ascii=False))
    path = material.folder / "probes" / f"{fingerprint(lines)}.jsonl"
    return path if path.exists() else write_text(path, "\n".join(lines) + "\n")


def tally(rows: Sequence[OrganismRow], ranking: str) -> Tally:
    """Shares over the scored organisms; those without an expected category are left out of ``category_hits``."""
    scores = [s for row in rows if (s := row.shift if ranking == "shift" else row.specific) is not None]
    categories = [s.category_hit for s in scores if s.category_hit is not None]
    return Tally(
        ranking=ranking,
        named=proportion(sum(s.named for s in scores), len(scores)),
        class_hits=proportion(sum(s.class_hit for s in scores), len(scores)),
        category_hits=proportion(sum(categories), len(categories)),
        expected_named=round(sum(s.baseline.named.value or 0.0 for s in scores), 4),
    )


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
