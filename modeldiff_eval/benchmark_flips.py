"""Documents that flipped: right under one model, wrong under the other. All of them in a file, a few in the card."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from modeldiff_eval.benchmark_pair import Pair, pair, scored_pairs
from modeldiff_eval.benchmark_samples import Samples
from modeldiff_eval.records import Flip
from modeldiff_eval.store import write_text

SHOWN = 2
"""Examples of either direction in the card: the first ones, not chosen."""
_TEXT = 200
_HARM = re.compile(
    r"harm(?!less)|unsafe|toxi|jailbreak|strongreject|advbench|wmdp|do_?not_?answer|beavertails|cyberseceval",
    re.IGNORECASE,
)


def asks_for_harm(task: str) -> bool:
    """Whether a task's name says that its prompts ask for harm: a card, which is passed on, gives counts of it and no texts."""
    return _HARM.search(task) is not None


class Tally(NamedTuple):
    """Documents on which tuned scores higher, the same and lower than base."""

    wins: int
    ties: int
    losses: int
    binary: bool
    """Whether every score is 0 or 1."""


def tally(pairs: Sequence[Pair], metric: str) -> Tally | None:
    """How the documents moved; ``None`` for metrics that are not one number a document."""
    scores = [(base.values[metric], tuned.values[metric]) for base, tuned in pairs]
    numbers = [(a, b) for a, b in scores if isinstance(a, float) and isinstance(b, float)]
    if not scores or len(numbers) < len(scores):
        return None
    wins, losses = sum(b > a for a, b in numbers), sum(b < a for a, b in numbers)
    binary = all(a in (0.0, 1.0) and b in (0.0, 1.0) for a, b in numbers)
    return Tally(wins, len(numbers) - wins - losses, losses, binary)


def flips_of(pairs: Sequence[Pair], metric: str, *, shown: int | None = None, text: int | None = None) -> list[Flip]:
    """The documents whose score of 0 or 1 changed, in their order.

    Args:
        shown: the first so many of either direction only.
        text: characters kept of each text.
    """
    counts = {1.0: 0, 0.0: 0}
    out = []
    for base, tuned in pairs:
        before, after = base.values[metric], tuned.values[metric]
        if not isinstance(before, float) or not isinstance(after, float) or before == after:
            continue
        counts[after] = counts.get(after, 0) + 1
        if shown is not None and counts[after] > shown:
            continue
        texts = (base.prompt, base.target, base.answer, tuned.answer)
        prompt, target, base_answer, tuned_answer = (
            None if each is None else each[-(text or len(each)) :] for each in texts
        )
        out.append(
            Flip(
                document=base.doc_hash if base.doc_id is None else str(base.doc_id), base=before, tuned=after, prompt=prompt,
                target=target, base_answer=base_answer, tuned_answer=tuned_answer,
            )
        )  # fmt: skip
    return out


def examples(pairs: Sequence[Pair], metric: str) -> list[Flip]:
    """The few flips that a card shows."""
    return flips_of(pairs, metric, shown=SHOWN, text=_TEXT)


def all_flips(base: Samples, tuned: Samples) -> Iterator[tuple[str, str, str, Flip]]:
    """Every flip as (task, filter, metric, document), for all metrics of 0 and 1.

    Raises:
        EvidenceError: documents that cannot be paired (see :func:`~modeldiff_eval.benchmark_pair.pair`).
    """
    theirs = {task.task: task for task in tuned.tasks}
    for task in base.tasks:
        other = theirs.get(task.task)
        if other is None or not task.documents or not other.documents:
            continue
        for name, pairs in pair(task, other).filters.items():
            for metric in dict.fromkeys(metric for first, _ in pairs for metric in first.values):
                kept, _, _ = scored_pairs(pairs, metric)
                counts = tally(kept, metric)
                if counts is not None and counts.binary:
                    for flip in flips_of(kept, metric):
                        yield task.task, name, metric, flip


def write_flips(path: Path, base: Samples, tuned: Samples) -> Path:
    """All flips as JSON lines, replacing what an earlier run wrote."""
    lines = [
        json.dumps({"task": task, "filter": name, "metric": metric, **flip.model_dump()}, ensure_ascii=False)
        for task, name, metric, flip in all_flips(base, tuned)
    ]
    return write_text(path, "".join(f"{line}\n" for line in lines))
