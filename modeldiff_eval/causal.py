"""The causal panel: do the latents that a card names carry what was tuned?

Their contribution is patched out of the running tuned model at block L over the assistant's tokens of held-out chats (or
replaced by the other model's), and the change of its next-token distribution is set beside that of random latents of the
same number, frequency and decoder norm. In the anchored design the latents live in the (anchor, tuned) crosscoder, so the
other model is the anchor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from modeldiff_eval import activations as acts
from modeldiff_eval import causal_live as live
from modeldiff_eval import causal_measure as measure
from modeldiff_eval.causal_patch import VARIANTS, Patch
from modeldiff_eval.causal_stats import causal_measure, matched, mean_estimate, resampled
from modeldiff_eval.corpus import TokenCorpus
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.errors import CorpusError, EvidenceError, ModelError
from modeldiff_eval.models import Loaded
from modeldiff_eval.progress import Reporter
from modeldiff_eval.records import CausalEffect, CausalPanel, CausalRow
from modeldiff_eval.store import fingerprint
from modeldiff_eval.turns import Markers, chat_markers

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from modeldiff_eval.workspace import Workspace

FORMAT = 1
RANDOM_SETS = 8
TOP = 6
SHIFTED = 12
TASK_DRAWS = 3
"""Random sets that a benchmark is run with: each costs a whole run of it."""
Kind = Literal["set", "class", "shifted", "latent"]


@dataclass(frozen=True)
class LatentSet:
    """Latents that are patched together, as the card calls them."""

    name: str
    kind: Kind
    latents: tuple[int, ...]
    code: str | None = None


def causal_panel(
    models: tuple[Loaded, Loaded],
    crosscoder: Crosscoder,
    sets: Sequence[LatentSet],
    corpus: TokenCorpus,
    *,
    layer: int,
    markers: Markers | None,
    other: Literal["base", "anchor"] = "base",
    chosen: Literal["specific", "nearest"] = "specific",
    tokens: int = 4096,
    draws: int = RANDOM_SETS,
    top: int = TOP,
    names: Mapping[int, tuple[str, str | None]] | None = None,
    limits: tuple[float, float] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
    folder: Path | None = None,
    reporter: Reporter | None = None,
) -> CausalPanel:
    """Patch every set, and the first ``top`` latents of the first set one by one, out of and into the tuned model.

    Args:
        models: (other, tuned), the first and second model of ``crosscoder``.
        sets: the first is the main one; its latents come in the order of their evidence.
        corpus: its held-out documents with an assistant turn are used, the first ``tokens`` tokens of them.
        markers: how an assistant's turn is told (:func:`~modeldiff_eval.turns.chat_markers`); None patches all tokens.
        draws: random sets for each set, matched in frequency on the patched tokens and in decoder norm.
        names: latent → (label, category) for the single ones.
        limits: (other, tuned) largest norm of a residual that is patched; ten times the median if left out.
        folder: cache; finished batches are kept there below a key of everything that decides them.

    Raises:
        ModelError: the layers of a model cannot be hooked.
        CorpusError: there is nothing to patch, or too few held-out chats for an interval.
    """
    if not sets or not sets[0].latents:
        raise CorpusError("There is no latent to patch: none is specific, and no candidate was asked for.")
    reporter = reporter or Reporter()
    first, tuned = models
    bos = tuned.tokenizer.bos_token_id
    text = measure.panel_text(corpus, markers, tokens=tokens, bos=bos)
    with reporter.task("Causal panel: residuals of both models", unit="tokens") as advance:
        found = measure.residuals(first, tuned, text, layer=layer, limits=limits, advance=advance)
    counts = measure.firing_counts(crosscoder, found)
    active = [j for j in sets[0].latents if counts[j]]
    known = names or {}
    singles = [
        LatentSet(known.get(j, (f"latent {j}", None))[0], "latent", (j,), known.get(j, ("", None))[1])
        for j in active[:top]
    ]
    every = [*sets, *singles]
    random = _random_sets(crosscoder, every, counts, draws=draws, seed=seed)
    flat = [np.sort(np.asarray(s.latents)) for s in every]
    runs = [*flat, *(np.sort(row) for rows in random for row in rows)]
    if folder is not None:
        weights = [float(crosscoder.W_dec.double().sum()), float(crosscoder.W_enc.double().sum())]
        decided = [FORMAT, [m.source.key for m in models], str(tuned.dtype), layer, corpus.key, tokens, weights]
        folder = folder / fingerprint([*decided, [run.tolist() for run in runs], list(found.limits), markers])
    with reporter.task("Causal panel: patching", unit="batches") as advance:
        sums = measure.patch_sets(
            first, tuned, crosscoder, runs, text, found, layer=layer, folder=folder, advance=advance
        )

    weights_of = resampled(text.groups, draws=resamples, rng=np.random.default_rng([seed, 61]))
    at, rows = len(every), []
    for index, (one, controls) in enumerate(zip(every, random, strict=True)):
        own = slice(at, at + len(controls))
        at += len(controls)
        rng = np.random.default_rng([seed, 62, index])
        effects: dict[str, CausalEffect | None] = {}
        for way, variant in enumerate(VARIANTS):
            figures = {
                name: causal_measure(values[index, way], values[own, way], sums.tokens, weights_of, rng=rng)
                for name, values in (("kl", sums.kl), ("nll", sums.nll))
            }
            effects[variant] = CausalEffect(**figures) if sums.fires[index] else None
        share = float(sums.fires[index] / max(found.tokens, 1))
        others = float(sums.fires[own].mean() / max(found.tokens, 1)) if len(controls) else None
        rows.append(
            CausalRow(
                name=one.name, kind=one.kind, code=one.code, latents=list(one.latents), random=controls.tolist(),
                fires=share, random_fires=others, out=effects["out"], into=effects["into"],
            )
        )  # fmt: skip
    return CausalPanel(
        other=other, chosen=chosen, layer=layer, dtype=str(tuned.dtype).removeprefix("torch."),
        assistant_only=markers is not None, documents=text.groups, tokens=int(sums.tokens.sum()), patched_tokens=found.tokens,
        draws=draws, kl=mean_estimate(sums.kl_before, sums.tokens, weights_of),
        nll=mean_estimate(sums.nll_before, sums.tokens, weights_of), rows=rows,
    )  # fmt: skip


def _random_sets(
    crosscoder: Crosscoder, sets: Sequence[LatentSet], counts: NDArray[np.int64], *, draws: int, seed: int
) -> list[NDArray[np.int64]]:
    """[draws, n] matched latents of every set; none of them belongs to any set."""
    norms = crosscoder.decoder_norms()[:, 1].double().numpy()
    features = np.stack([np.log(counts + 0.5), np.log(np.maximum(norms, 1e-12))], axis=1)
    taken = np.concatenate([np.asarray(s.latents, dtype=np.int64) for s in sets])
    pool = np.setdiff1d(np.flatnonzero(norms > 0), taken)
    return [
        matched(np.asarray(s.latents), pool, features, draws=draws, rng=np.random.default_rng([seed, 63, index]))
        for index, s in enumerate(sets)
    ]


def sets_from_table(
    table: pd.DataFrame, classes: Mapping[str, str], *, nearest: int, shifted: bool
) -> tuple[list[LatentSet], Literal["specific", "nearest"], dict[int, tuple[str, str | None]]]:
    """What is patched, from one row per (side, latent): the tuned-specific latents or the ``nearest`` candidates, and these by class.

    Args:
        classes: code → name.
        shifted: add the latents whose activation rose most beyond the null (only where tuned's dictionary measured it).

    Returns:
        The sets, how the first was chosen, and latent → (label, category).
    """
    own = table[table["model"] == "tuned"].sort_values(["rank_key", "latent"])
    chosen: Literal["specific", "nearest"] = "specific" if bool(own["specific"].any()) else "nearest"
    main = own[own["specific"]] if chosen == "specific" else own[own["rank_key"].notna()].head(nearest)
    if not len(main):
        return [], chosen, {}
    what = "All tuned-specific latents" if chosen == "specific" else f"The {len(main)} first candidates of tuned"
    sets = [LatentSet(what, "set", _numbers(main))]
    letters = main["category"].map(lambda c: c.split(".")[0] if isinstance(c, str) else None)
    for code, name in classes.items():
        members = main[letters == code]
        if len(members):
            sets.append(LatentSet(name, "class", _numbers(members), code))
    if shifted:
        beyond = own[(own["shift_low"] > np.maximum(own["shift_null"].fillna(np.inf), 0.05)) & (own["firings"] >= 10)]
        risen = beyond.nlargest(SHIFTED, "shift")
        if len(risen):
            sets.append(LatentSet(f"The {len(risen)} latents whose activation rose most", "shifted", _numbers(risen)))
    names = {
        int(row["latent"]): (
            row["label"] if isinstance(row["label"], str) else f"latent {int(row['latent'])}",
            row["category"] if isinstance(row["category"], str) else None,
        )
        for _, row in main.iterrows()
    }
    return sets, chosen, names


def _numbers(rows: pd.DataFrame) -> tuple[int, ...]:
    return tuple(int(j) for j in rows["latent"])


def causal_stage(
    work: Workspace,
    corpus: TokenCorpus,
    crosscoder: Crosscoder,
    table: pd.DataFrame,
    classes: Mapping[str, str],
    norms: Mapping[str, NDArray[np.float32]],
    *,
    offset: int = 0,
) -> tuple[CausalPanel | None, list[str]]:
    """The panel of one run, with answers and benchmarks, and its caveats; what cannot be patched is a caveat, not an end.

    Args:
        crosscoder: its second model is tuned, its first base or, in an anchored run, the anchor.
        table: one row per (side, latent), from :func:`modeldiff_eval.side_tables.latent_table`.
        classes: code → name.
        norms: role → norms of its residuals over the run's text, from which attention sinks are told.
        offset: added to the crosscoder's numbers of latents in what is returned, so that they are the card's.
    """
    settings = work.settings
    other: Literal["base", "anchor"] = "anchor" if settings.anchor else "base"
    markers = chat_markers(work.tokenizer, work.template)
    sets, chosen, names = sets_from_table(table, classes, nearest=settings.annotate_top, shifted=not settings.anchor)
    limits = tuple(float(acts.OUTLIER_FACTOR * np.median(norms[role])) for role in (other, "tuned"))
    folder = work.cache / "causal"
    try:
        models = work.pool.together(work.sources[other], work.sources["tuned"])
        panel = causal_panel(
            (models[0], models[1]), crosscoder, sets, corpus, layer=work.layer, markers=markers, other=other, chosen=chosen,
            tokens=settings.causal_tokens, names=names, limits=(limits[0], limits[1]), resamples=settings.draws,
            seed=settings.seed, folder=folder, reporter=work.reporter,
        )  # fmt: skip
        main = panel.rows[0]
        patch = Patch(crosscoder, torch.tensor(main.latents))
        stage = live.Stage(
            (models[0], models[1]), work.layer, markers, (limits[0], limits[1]), work.template, settings.seed
        )
        panel = panel.model_copy(update={"texts": live.texts(stage, patch, folder=folder, reporter=work.reporter)})
        if settings.causal_tasks:
            controls = [Patch(crosscoder, torch.tensor(row)) for row in main.random[:TASK_DRAWS]]
            rows, notes = live.tasks(
                stage, patch, controls, settings.causal_tasks, limit=settings.task_limit, draws=settings.draws,
                cache=work.cache / "benchmarks", reporter=work.reporter,
            )  # fmt: skip
            return _numbered(panel.model_copy(update={"tasks": rows}), offset), [*_caveats(panel), *notes]
    except (ModelError, CorpusError, EvidenceError) as error:
        return None, [f"The causal panel was asked for and not made: {error}"]
    return _numbered(panel, offset), _caveats(panel)


def _numbered(panel: CausalPanel, offset: int) -> CausalPanel:
    rows = []
    for row in panel.rows:
        unnamed = row.kind == "latent" and row.name == f"latent {row.latents[0]}"
        rows.append(
            row.model_copy(
                update={
                    "name": f"latent {row.latents[0] + offset}" if unnamed else row.name,
                    "latents": [j + offset for j in row.latents],
                    "random": [[j + offset for j in one] for one in row.random],
                }
            )
        )
    return panel.model_copy(update={"rows": rows})


def _caveats(panel: CausalPanel) -> list[str]:
    seen: list[Any] = [e for row in panel.rows for e in (row.out, row.into) if e is not None]
    out = [
        f"Causal panel: {2 * len(seen)} differences are judged one by one at 95 %, so about {0.05 * 2 * len(seen):.0f} of them would "
        "exclude 0 by chance. Patching shows what latents do at one layer on this text; it removes what they write, not what made them fire."
    ]
    if not panel.assistant_only:
        out.append("Causal panel: the chat template does not show where an answer begins, so all tokens were patched.")
    if panel.chosen == "nearest":
        out.append("Causal panel: no latent is specific to tuned, so its first candidates were patched instead.")
    return out
