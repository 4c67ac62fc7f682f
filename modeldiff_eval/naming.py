"""How well latents are named, as a stage of a run: the passages to try names on, contrast for annotators, scores.

::

    passages = open_passages(work, corpus)
    probe = probe_latents(work, corpus, kept, pair, evidence, passages, offset=0)
    evidence = probe.contrast()     # for an annotator that reads contrast
    scores = score_names(work, [probe], [annotations], passages, taxonomy)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from modeldiff_eval.activity import Activity, Pool, activity, passage_pool, spread
from modeldiff_eval.analysis import Decoder
from modeldiff_eval.annotate_human import HumanAnnotator
from modeldiff_eval.annotation import Annotation, Annotator, Evidence, Excerpt, context_span
from modeldiff_eval.annotation_scores import Code, Level, codes_of, cohen, fleiss, halves
from modeldiff_eval.contrast import Embed, centres_of, hard_negatives, passage_embedder, with_contrast
from modeldiff_eval.detection import Detection, Mixed, chosen_silent, detect_offline, detect_with, mean_detection, mix
from modeldiff_eval.errors import AnnotationError
from modeldiff_eval.records import AnnotationQuality, Kappa
from modeldiff_eval.side_tables import Measured, Side, asked_latents

if TYPE_CHECKING:
    import pandas as pd

    from modeldiff_eval.activations import Kept
    from modeldiff_eval.ask import Replier
    from modeldiff_eval.corpus import TokenCorpus
    from modeldiff_eval.fit import Pair
    from modeldiff_eval.taxonomy import Taxonomy
    from modeldiff_eval.workspace import Workspace


@dataclass(frozen=True)
class Passages:
    """A pool of passages with their texts and directions. ``group``: documents with equal numbers answer one prompt."""

    pool: Pool
    excerpts: list[Excerpt]
    group: Int[NDArray[np.int64], " passages"]
    names: dict[str, int]
    vectors: Float[NDArray[np.float32], "passages size"]
    embed: Embed
    reader: str


def open_passages(work: Workspace, corpus: TokenCorpus) -> Passages:
    """Draw the pool of a run and embed it; the same settings give the same pool."""
    pool = passage_pool(corpus.sequences, rng=np.random.default_rng([work.settings.seed, 61]))
    decoder = Decoder(work.tokenizer)
    groups = [str(corpus.documents["group"][int(document)]) for document in pool.documents]
    names = {name: i for i, name in enumerate(sorted(set(groups)))}
    excerpts = []
    for (begin, end), group in zip(pool.spans, groups, strict=True):
        ids = corpus.ids[begin:end]
        tokens = [decoder.one(int(token)) for token in ids]
        text = decoder.text(ids)
        excerpts.append(
            Excerpt(text=text, tokens=tokens, activations=[0.0] * len(tokens), context=text, document=group)
        )
    texts = [excerpt.passage for excerpt in excerpts]
    embed, reader = passage_embedder(texts)
    with work.reporter.task("Passages to try names on"):
        vectors = embed(texts)
    return Passages(pool, excerpts, np.array([names[g] for g in groups], dtype=np.int64), names, vectors, embed, reader)


def shared_passages(work: Workspace, corpus: TokenCorpus) -> Passages:
    """:func:`open_passages`, once for a run."""
    if work.passages is None:
        work.passages = open_passages(work, corpus)
    found: Passages = work.passages
    return found


@dataclass(frozen=True)
class Probe:
    """Some latents of one dictionary in a pool: where they fire, and which passages are near and leave them silent.

    ``crosscoder`` names the dictionary's pair as the table of latents does. ``hard`` [latents, hard]: places in the pool,
    nearest first, −1 where there are no more; the first ``shown`` are for annotators. ``firing``: texts of each latent.
    """

    crosscoder: str
    evidence: list[Evidence]
    activity: Activity
    hard: Int[NDArray[np.int64], "latents hard"]
    shown: int
    firing: list[list[str]]
    passages: Passages

    def contrast(self) -> list[Evidence]:
        """The evidence with near passages on which each latent is silent."""
        return with_contrast(self.evidence, self.passages.excerpts, self.hard, self.shown)

    def mixes(self, n: int, *, near: bool, seed: int) -> list[Mixed | None]:
        """What each latent's description is tried on: at most ``n`` passages of either kind.

        Args:
            near: half of the silent passages are hard negatives, after those that an annotator may have seen. Not for the
                offline reader: the very likeness that it reads by has chosen them, so that it would be wrong by design.
        """
        out = []
        for row, item in enumerate(self.evidence):
            rng = np.random.default_rng([seed, 62, item.latent])
            hard, free = self.hard[row], self.activity.silent[row].copy()
            if near:
                free[hard[hard >= 0]] = False
            elif item.contrast:
                free[hard[: self.shown][hard[: self.shown] >= 0]] = False
            places = chosen_silent(hard[self.shown :], free, n=n, near=n // 2 if near else 0, rng=rng)
            silent = [self.passages.excerpts[place].passage for place in places]
            out.append(mix(self.firing[row], silent, rng=rng))
        return out


def probe_latents(
    work: Workspace,
    corpus: TokenCorpus,
    kept: Kept,
    pair: Pair,
    evidence: Sequence[Evidence],
    passages: Passages,
    *,
    offset: int = 0,
) -> Probe:
    """Look where the latents of ``evidence`` fire in the pool, and find near passages that leave them silent.

    Firing passages are of documents whose group is not among the shown ones, at most one a group, spread over the ranks
    of their activations.

    Args:
        offset: number of the dictionary's first latent in ``evidence``.
    """
    settings, pool = work.settings, passages.pool
    latents = np.array([item.latent - offset for item in evidence], dtype=np.int64)
    with work.reporter.task(f"Where {len(latents)} latents fire", unit="tokens") as advance:
        found = activity(
            pair.crosscoder, pair.rows, kept.rows, corpus.document_of_token(), pool, latents, on_progress=advance
        )
    n, shown = settings.detection_examples, settings.contrast_examples
    hard = hard_negatives(
        centres_of(evidence, passages.embed), passages.vectors, found.silent, passages.group, shown + n // 2
    )
    decoder = Decoder(work.tokenizer)
    firing = []
    for row, item in enumerate(evidence):
        seen = [passages.names[e.document] for e in item.examples if e.document in passages.names]
        values = np.where(np.isin(passages.group, seen), np.float32(0), found.value[row])
        tokens = found.token[row, spread(values, passages.group, n)]
        firing.append([decoder.text(corpus.ids[slice(*_around(corpus, int(token)))]) for token in tokens])
    return Probe(f"{pair.first}--{pair.second}", list(evidence), found, hard, shown, firing, passages)


def _around(corpus: TokenCorpus, token: int) -> tuple[int, int]:
    """The stretch of text around a token, cut as for annotators."""
    begin, end, _ = (
        int(x) for x in corpus.sequences[int(np.searchsorted(corpus.sequences[:, 0], token, side="right")) - 1]
    )
    start, stop = context_span(token - begin, end - begin)
    return begin + start, begin + stop


LEVELS: tuple[Level, Level] = ("classes", "categories")
Key = tuple[str, int]


@runtime_checkable
class Repeating(Protocol):
    """An annotator that asks several times: the category of every repeat by latent, None where a repeat failed."""

    def repeat_categories(self, evidence: Sequence[Evidence]) -> Mapping[int, Sequence[Code]]:
        """Codes, "none", or None, for every latent of ``evidence`` that has been annotated."""
        ...


@dataclass(frozen=True)
class Scored:
    """What :func:`score_names` found, by (crosscoder, latent), and the card's record without the shares.

    ``scores``: None where there is none. ``repeats``: the category of every repeat; empty for a single answer.
    """

    scores: dict[Key, Detection | None]
    repeats: dict[Key, tuple[Code, ...]]
    quality: AnnotationQuality

    def add_to(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table of latents with the columns detection, detection_low, detection_high, detection_n and weak."""
        import pandas as pd

        own = [self.scores.get(key) for key in zip(table["crosscoder"], table["latent"].astype(int), strict=True)]
        bar = self.quality.bar
        return table.assign(
            detection=[np.nan if d is None else d.value for d in own],
            detection_low=[np.nan if d is None else d.low for d in own],
            detection_high=[np.nan if d is None else d.high for d in own],
            detection_n=[0 if d is None else d.firing + d.silent for d in own],
            weak=pd.array([None if d is None or bar is None else d.value < bar for d in own], dtype="boolean"),
        )


def score_names(
    work: Workspace,
    probes: Sequence[Probe],
    annotations: Sequence[Mapping[int, Annotation]],
    passages: Passages,
    taxonomy: Taxonomy,
    *,
    annotator: Annotator | None = None,
    replier: Replier | None = None,
    path: Path | None = None,
) -> Scored:
    """Detection scores of all probed latents, and the agreement of a free annotator with itself on half the examples.

    Args:
        annotations: for each probe, by latent number as in its evidence.
        annotator: asked again for either half of the examples, where it is free.
        replier: a language model that reads the descriptions, with ``path`` for its replies; None reads offline.
    """
    settings = work.settings
    evidence = [item for probe in probes for item in probe.evidence]
    named = [
        ((probe.crosscoder, item.latent), by_latent[item.latent], own)
        for probe, by_latent in zip(probes, annotations, strict=True)
        for item, own in zip(
            probe.evidence,
            probe.mixes(settings.detection_examples, near=replier is not None, seed=settings.seed),
            strict=True,
        )
        if item.latent in by_latent
    ]
    notes, mixes = [note for _, note, _ in named], [own for _, _, own in named]
    with work.reporter.task("Trying names on passages", unit="latents") as advance:
        if replier is None:
            found = detect_offline(notes, mixes, passages.embed, taxonomy)
        else:
            found = detect_with(replier, notes, mixes, path=path, on_progress=advance)
    rng = np.random.default_rng([settings.seed, 63])
    kappas, repeats = list[Kappa](), dict[Key, tuple[Code, ...]]()
    who: object = annotator
    if isinstance(who, Repeating):
        for probe in probes:
            codes = who.repeat_categories(probe.evidence)
            repeats |= {(probe.crosscoder, latent): tuple(own) for latent, own in codes.items() if len(own) > 1}
        kappas = repeat_agreement(list(repeats.values()), rng=rng)
    elif annotator is not None and not annotator.paid and not isinstance(annotator, HumanAnnotator):
        kappas = half_agreement(annotator, evidence, rng=rng)
    scored = [score for score in found if score is not None]
    return Scored(
        {key: score for (key, _, _), score in zip(named, found, strict=True)},
        repeats,
        AnnotationQuality(
            reader="offline" if replier is None else "model",
            detector=passages.reader if replier is None else replier.name,
            asked=len(evidence),
            scored=len(scored),
            passages=max((score.firing + score.silent for score in scored), default=0),
            detection=mean_detection(found, draws=settings.draws, rng=np.random.default_rng([settings.seed, 64]))
            if scored
            else None,
            bar=settings.detection_bar,
            weak=sum(score.value < settings.detection_bar for score in scored) if scored else None,
            kappas=kappas,
            repeats=max(map(len, repeats.values()), default=1),
        ),
    )


def half_agreement(annotator: Annotator, evidence: Sequence[Evidence], *, rng: np.random.Generator) -> list[Kappa]:
    """Cohen's κ of an annotator with itself on two disjoint halves of each latent's examples, by class and category."""
    first, second = (codes_of(list(annotator.annotate(side))) for side in halves(evidence))
    return [
        cohen(first, second, of="two halves of the examples", level=level, rng=own)
        for level, own in zip(LEVELS, rng.spawn(2), strict=True)
    ]


def repeat_agreement(categories: Sequence[Sequence[Code]], *, rng: np.random.Generator) -> list[Kappa]:
    """Fleiss' κ over repeats [latents, repeats], by class and category; nothing for a single answer."""
    most = max(map(len, categories), default=1)
    whole = [row for row in categories if len(row) == most]
    return [
        fleiss(whole, of=f"{most} repeats", level=level, rng=own)
        for level, own in zip(LEVELS, rng.spawn(2), strict=True)
        if most > 1
    ]


def contrast_of(work: Workspace, corpus: TokenCorpus, kept: Kept) -> Callable[[Pair, list[Evidence], int], list[Evidence]]:  # fmt: skip
    """A function that gives the evidence of some latents of a pair near passages on which each is silent."""

    def contrast(pair: Pair, evidence: list[Evidence], offset: int) -> list[Evidence]:
        if not work.settings.contrast_examples:
            return evidence
        passages = shared_passages(work, corpus)
        return probe_latents(work, corpus, kept, pair, evidence, passages, offset=offset).contrast()

    return contrast


def score_sides(
    work: Workspace,
    corpus: TokenCorpus,
    kept: Kept,
    sides: Sequence[Side],
    taxonomy: Taxonomy,
    *,
    annotator: Annotator | None = None,
    replier: Replier | None = None,
    path: Path | None = None,
) -> Scored | None:
    """The whole stage for the latents that claims rest on; None where it is switched off or nothing was named.

    Args:
        annotator: who named them; the run's own where it is left out.
        replier: as for :func:`score_names`.
    """
    who = annotator or work.annotator
    if not work.settings.detection_examples and not (isinstance(who, Repeating) and work.settings.repeats > 1):
        return None
    by_measured: dict[int, tuple[Measured, list[NDArray[np.int64]]]] = {}
    for side in sides:
        by_measured.setdefault(id(side.measured), (side.measured, []))[1].append(asked_latents(side))
    passages, probes, annotations = None, list[Probe](), list[Mapping[int, Annotation]]()
    for measured, asked in by_measured.values():
        numbers = [measured.offset + int(j) for j in np.unique(np.concatenate(asked))]
        evidence = [measured.evidence[j] for j in numbers if j in measured.evidence and j in measured.annotations]
        if evidence:
            passages = passages or shared_passages(work, corpus)
            probes.append(probe_latents(work, corpus, kept, measured.pair, evidence, passages, offset=measured.offset))
            annotations.append(measured.annotations)
    if passages is None:
        return None
    if replier is not None:
        try:
            return score_names(work, probes, annotations, passages, taxonomy, annotator=who, replier=replier, path=path)
        except AnnotationError as error:
            work.caveats.append(
                f"Names were tried on passages by the offline reader, since {replier.name} could not go on: {error}"
            )
    return score_names(work, probes, annotations, passages, taxonomy, annotator=who)
