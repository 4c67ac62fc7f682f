"""Whether an organism learned its plant: shares of greedy answers to held-out prompts, with n and interval."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from modeldiff_eval import models as weights
from modeldiff_eval.organism_files import Organism, PromptKind
from modeldiff_eval.organism_text import draw
from modeldiff_eval.organisms import Material, ask
from modeldiff_eval.records import Record
from modeldiff_eval.truth_report import Proportion, proportion


class Checking(Record):
    """How much is asked to see whether a plant was learned."""

    prompts: int = Field(48, ge=1)
    answer_tokens: int = Field(48, ge=1)


class Learned(Record):
    """Shares of greedy answers to held-out prompts that carry the plant. ``reason`` says what ``learned`` rests on.

    ``elsewhere``: of the tuned model's answers to prompts of the contrast, None where the file names none.
    """

    tuned: Proportion
    base: Proportion
    elsewhere: Proportion | None
    learned: bool
    reason: str


def check(
    material: Material, organism: Organism, adapter: Path, checking: Checking | None = None, *, seed: int = 0
) -> Learned:
    """Whether the plant was learned, from greedy answers to prompts that were never trained on."""
    checking = checking or Checking()
    source = weights.resolve(str(adapter), foundation=material.base.source)
    tuned = weights.load(source, device=material.base.device, dtype=material.base.dtype, cache=material.cache)

    def share(model: weights.Loaded, kind: PromptKind, title: str) -> Proportion:
        prompts = draw(kind, checking.prompts, training=False, seed=seed)
        answers = ask(material, model, prompts, tokens=checking.answer_tokens, temperature=0, title=title)
        return proportion(sum(organism.carried_by(answer.text) for answer in answers), len(answers))

    other = organism.training.contrast
    return judge(
        organism,
        tuned=share(tuned, organism.training.prompts, f"Asking {organism.name}"),
        base=share(material.base, organism.training.prompts, "Asking the base"),
        elsewhere=share(tuned, other, f"Asking {organism.name} about other things") if other else None,
    )


def judge(organism: Organism, *, tuned: Proportion, base: Proportion, elsewhere: Proportion | None) -> Learned:
    """Apply the file's rule to the measured shares."""
    rule = organism.learned
    if tuned.value is None or base.value is None:
        return Learned(tuned=tuned, base=base, elsewhere=elsewhere, learned=False, reason="no answers to judge by")
    faults = []
    if tuned.value < rule.tuned_at_least:
        faults.append(
            f"failed to learn: {tuned.count} of {tuned.n} answers carry the plant, {rule.tuned_at_least:g} needed"
        )
    if base.value > rule.base_at_most:
        faults.append(f"the base does it as well: {base.count} of {base.n}, {rule.base_at_most:g} allowed")
    good = f"{tuned.count} of {tuned.n} answers carry the plant, {base.count} of {base.n} of the base's"
    return Learned(tuned=tuned, base=base, elsewhere=elsewhere, learned=not faults, reason="; ".join(faults) or good)
