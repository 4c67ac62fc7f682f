"""What a patched model writes and scores: greedy answers side by side, and benchmarks with the patch in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeldiff_eval.benchmarks import Samples, compare, run_benchmarks
from modeldiff_eval.causal_patch import LivePatch, Patch
from modeldiff_eval.models import Loaded
from modeldiff_eval.progress import Reporter
from modeldiff_eval.records import CausalTask, CausalText, Estimate, Verdict
from modeldiff_eval.rollouts import packaged_prompts, rollouts
from modeldiff_eval.store import fingerprint, read_kept, write_kept
from modeldiff_eval.turns import Markers

PROMPTS = 6
NEW_TOKENS = 48


@dataclass(frozen=True)
class Stage:
    """Where patches are tried: (other, tuned), the block, how the assistant's tokens and attention sinks are told."""

    models: tuple[Loaded, Loaded]
    layer: int
    markers: Markers | None
    limits: tuple[float, float]
    template: str | None
    seed: int

    def patched(self, patch: Patch) -> LivePatch:
        """A context in which tuned is patched."""
        other, tuned = self.models
        return LivePatch(tuned, other, layer=self.layer, patch=patch, markers=self.markers, limits=self.limits)

    def key(self, patch: Patch) -> str:
        """Hash of everything that a patched model's answers depend on."""
        weights = [float(patch.crosscoder.W_dec.double().sum()), float(patch.crosscoder.W_enc.double().sum())]
        models = [[model.source.key, str(model.dtype)] for model in self.models]
        return fingerprint(
            [models, self.layer, self.limits, self.markers, weights, patch.latents.tolist(), patch.variant]
        )


def texts(stage: Stage, patch: Patch, *, folder: Path | None, reporter: Reporter) -> list[CausalText]:
    """Greedy answers to packaged prompts by tuned, by patched tuned, and by the other model; read again where they were made.

    Raises:
        ModelError: there is no chat template, or the layers cannot be hooked.
    """
    prompts = packaged_prompts(PROMPTS, seed=stage.seed)
    key = fingerprint([stage.key(patch), stage.template, [prompt.key for prompt in prompts], NEW_TOKENS])
    path = folder / f"texts-{key}.json" if folder else None
    if path and (known := read_kept(path)) is not None:
        return [CausalText.model_validate(row) for row in known]
    other, tuned = stage.models

    def answers(model: Loaded) -> list[str]:
        made = rollouts(
            model.model, tuned.tokenizer, prompts, model_key=model.source.key, max_new_tokens=NEW_TOKENS, temperature=0.0,
            chat_template=stage.template,
        )  # fmt: skip
        return [answer.text for answer in made]

    with reporter.task("Causal panel: answers with and without the set", unit="models") as advance:
        columns = [answers(tuned)]
        advance(1, 3)
        with stage.patched(patch):
            columns.append(answers(tuned))
        advance(2, 3)
        columns.append(answers(other))
        advance(3, 3)
    rows = [
        CausalText(prompt=prompt.messages[-1].content, tuned=a, patched=b, other=c)
        for prompt, a, b, c in zip(prompts, *columns, strict=True)
    ]
    if path:
        write_kept(path, [row.model_dump() for row in rows])
    return rows


def tasks(
    stage: Stage,
    patch: Patch,
    controls: Sequence[Patch],
    names: Sequence[str],
    *,
    limit: int | None,
    draws: int,
    cache: Path | None,
    reporter: Reporter,
) -> tuple[list[CausalTask], list[str]]:
    """Benchmarks of tuned with the set taken out, and with each random set, against tuned as it is, paired by document.

    Returns:
        One row a metric, and caveats.

    Raises:
        EvidenceError: a task is unknown or fails. ModelError: the layers cannot be hooked.
    """
    tuned = stage.models[1]
    own = f"{tuned.source.key}-{tuned.dtype}"

    def score(title: str, key: str) -> Samples:
        with reporter.task(f"Benchmarks of {title}", unit="documents") as advance:
            return run_benchmarks(
                tuned.model, tuned.tokenizer, list(names), model_key=key, cache_dir=cache, limit=limit, seed=stage.seed,
                on_progress=advance,
            )  # fmt: skip

    def scored(title: str, one: Patch) -> Samples:
        with stage.patched(one):
            return score(title, f"{own}-patched-{stage.key(one)}")

    before = score("tuned", own)
    after = scored("tuned, set taken out", patch)
    others = [scored(f"tuned, random set {n + 1} taken out", one) for n, one in enumerate(controls)]
    rng = np.random.default_rng([stage.seed, 64])
    rows, notes = compare(before, after, draws=draws, rng=rng)
    changes = [{(r.task, r.metric): r.delta.value for r in compare(before, o, draws=100, rng=rng)[0]} for o in others]
    out = []
    for row in rows:
        values = [v for change in changes if (v := change.get((row.task, row.metric))) is not None]
        random = Estimate(
            value=float(np.mean(values)) if values else None,
            low=min(values, default=None),
            high=max(values, default=None),
        )
        out.append(
            CausalTask(
                task=row.task, metric=row.metric, n=row.n, tuned=row.base, patched=row.tuned, p_adjusted=row.p_adjusted,
                delta=Estimate(value=row.delta.value, low=row.delta.low, high=row.delta.high), random=random,
                draws=len(values), verdict=_verdict(row.verdict, row.delta.value, random),
            )
        )  # fmt: skip
    return out, notes


def _verdict(own: Verdict, value: float | None, random: Estimate) -> Verdict:
    """The benchmark's own verdict, if the change also lies beyond every random set's."""
    if value is None or random.low is None or random.high is None:
        return "unclear"
    return own if value < random.low or value > random.high else "unclear"
