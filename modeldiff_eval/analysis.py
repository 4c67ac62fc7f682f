"""From trained crosscoders to findings: every latent's ν, examples and name, and who names it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modeldiff_eval import activations as acts
from modeldiff_eval import latents as measure
from modeldiff_eval.annotate import (
    Annotation,
    Annotator,
    Evidence,
    Excerpt,
    annotate_all,
    context_span,
    get_annotator,
)
from modeldiff_eval.annotate_human import HumanAnnotator
from modeldiff_eval.annotate_model import NO_EXAMPLES, ModelAnnotator
from modeldiff_eval.corpus import TokenCorpus
from modeldiff_eval.crosscoder import delta_norm
from modeldiff_eval.errors import MissingDependencyError
from modeldiff_eval.exchange_control import exchange_control
from modeldiff_eval.graded import weigh
from modeldiff_eval.side_tables import Measured, asked_latents, make_side

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modeldiff_eval.fit import Pair
    from modeldiff_eval.workspace import Workspace

RADIUS = 24
CHUNK = 64
"""With a limit on the cost, latents whose two questions are answered before the next are asked about."""


def measure_pair(
    work: Workspace, corpus: TokenCorpus, kept: acts.Kept, pair: Pair, sides: tuple[int, ...], out: Path, *,
    offset: int = 0, control: bool = False, null: tuple[measure.Rows, torch.Tensor] | None = None, candidates: bool = True,
) -> Measured:  # fmt: skip
    """Latent Scaling on held-out documents, top documents over everything, and annotation of every live latent.

    Args:
        sides: the claims that ν is measured for; none leaves it out.
        control: run the exchange control of a difference dictionary.
        null: with it, rows of one model in two precisions, and the held-out row numbers that there are such rows for.
        candidates: whether a language model is asked about more than specific latents.
    """
    settings = work.settings
    document = corpus.document_of_token()
    _, heldout = acts.split_rows(corpus, kept)
    blocks = measure.document_blocks(heldout, document, seed=settings.seed)
    title = f"({pair.first}, {pair.second})" + (", differences" if control else "")
    nu = {}
    if sides:
        with work.reporter.task(f"Latent Scaling {title}", unit="tokens") as advance:
            sums = measure.scaling(pair.crosscoder, pair.rows, blocks, on_progress=advance)
        nu = {
            side: measure.nu_intervals(
                sums,
                side,
                min_firings=settings.thresholds.min_firings,
                # One set of resamples for both claims: exchanging the models exchanges the bounds.
                rng=np.random.default_rng([settings.seed, 11]),
            )
            for side in sides
        }
    found = exchange_control(work, corpus, pair, heldout, nu, title, null) if control else None
    # One seed for all claims of a run: their documents are resampled together.
    weights = {side: weigh(sums, nu[side], rng=np.random.default_rng([settings.seed, 13])) for side in sides}
    if found is not None:
        weights = {side: own.only(found.changed) for side, own in weights.items()}
    with work.reporter.task(f"Top documents {title}", unit="tokens") as advance:
        peaks, firings = measure.top_documents(
            pair.crosscoder, pair.rows, kept.rows, document, n=settings.top_examples, on_progress=advance
        )
    with work.reporter.task(f"Examples {title}"):
        windows = measure.windows(pair.crosscoder, pair.rows, peaks, corpus.sequences, kept.rows, radius=RADIUS)
    evidence = _evidence(work, corpus, peaks, windows, offset)
    measured = Measured(
        pair, nu, delta_norm(pair.crosscoder.decoder_norms()).double().numpy(), firings, firings / len(kept.rows), peaks, windows,
        {}, {item.latent: item for item in evidence}, weights, offset, found,
    )  # fmt: skip
    claims = [make_side(work, "", measured, side, None) for side in sides]
    asked = {offset + int(j) for claim in claims for j in (asked_latents(claim) if candidates else claim.specific)}
    annotations, shown = _annotate(work, measured, asked, corpus, out)
    return dataclasses.replace(measured, annotations=annotations, evidence=measured.evidence | shown)


class Decoder:
    """Token ids to text, each id decoded once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._known = tokenizer, dict[int, str]()

    def one(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self._tokenizer.decode([token])
        return self._known[token]

    def text(self, ids: NDArray[np.int32]) -> str:
        return str(self._tokenizer.decode(ids.tolist()))


def _evidence(
    work: Workspace,
    corpus: TokenCorpus,
    peaks: list[list[measure.Peak]],
    windows: list[list[measure.Window]],
    offset: int,
) -> list[Evidence]:
    decoder = Decoder(work.tokenizer)
    starts = corpus.sequences[:, 0]
    contexts: dict[tuple[int, int], str] = {}
    out = []
    for latent, (own, around) in enumerate(zip(peaks, windows, strict=True)):
        if not own:
            continue
        excerpts = []
        for peak, window in zip(own, around, strict=True):
            begin, end, _ = (
                int(x) for x in corpus.sequences[int(np.searchsorted(starts, peak.token, side="right")) - 1]
            )
            first, stop = context_span(peak.token - begin, end - begin)
            span = (begin + first, begin + stop)
            if span not in contexts:
                contexts[span] = decoder.text(corpus.ids[span[0] : span[1]])
            ids = corpus.ids[window.start : window.end]
            excerpts.append(
                Excerpt(
                    text=decoder.text(ids),
                    tokens=[decoder.one(int(token)) for token in ids],
                    activations=[round(float(a), 3) for a in window.activations],
                    context=contexts[span],
                    document=str(corpus.documents["group"][peak.document]),
                )
            )
        out.append(Evidence(latent=offset + latent, examples=excerpts))
    return out


def _background(work: Workspace, corpus: TokenCorpus, *, passages: int = 800) -> list[str]:
    """Passages drawn at random from the corpus: what ordinary text looks like here, whatever the latents."""
    rng = np.random.default_rng([work.settings.seed, 51])
    decoder = Decoder(work.tokenizer)
    out = []
    for index in rng.choice(len(corpus.sequences), size=min(passages, len(corpus.sequences)), replace=False):
        begin, end, _ = (int(x) for x in corpus.sequences[index])
        first, stop = context_span(int(rng.integers(end - begin)), end - begin)
        out.append(decoder.text(corpus.ids[begin + first : begin + stop]))
    return out


def _annotate(
    work: Workspace, measured: Measured, asked: set[int], corpus: TokenCorpus, out: Path
) -> tuple[dict[int, Annotation], dict[int, Evidence]]:
    """Names of a dictionary's latents by the run's annotator, and the evidence that a language model saw more of.

    A language model is asked about the latents in ``asked`` alone, those that claims rest on; the offline annotator names the others.
    """
    annotator = work.annotator = work.annotator or _annotator(work, corpus, out)
    evidence = list(measured.evidence.values())
    found: list[Annotation] = []
    shown: dict[int, Evidence] = {}
    if isinstance(annotator, HumanAnnotator):
        annotator.meet(evidence)
    if isinstance(annotator, ModelAnnotator):
        own = [item for item in evidence if item.latent in asked]
        if own:
            if work.contrast is not None:
                own = work.contrast(measured.pair, own, measured.offset)
            with work.reporter.task(f"Asking {annotator.name} about {len(own)} latents", unit="questions") as advance:
                annotator.on_progress = advance
                found += annotate_all(annotator, own, path=out / "annotations.jsonl")
            shown = {item.latent: item for item in own}
        work.incomplete |= annotator.stopped is not None or any(a.failure and a.failure != NO_EXAMPLES for a in found)
        if annotator.stopped:
            work.caveats.append(f"Naming stopped early: {annotator.stopped}")
        evidence = [item for item in evidence if item.latent not in asked]
        annotator = work.other_annotator = work.other_annotator or _offline(work, corpus)
    if annotator is not None and evidence:
        with work.reporter.task(f"Naming latents ({annotator.name})", unit="latents") as advance:
            found += annotate_all(annotator, evidence, path=out / "annotations.jsonl", on_progress=advance)
    return {annotation.latent: annotation for annotation in found}, shown


def _annotator(work: Workspace, corpus: TokenCorpus, out: Path) -> Annotator | None:
    """The run's annotator; None, with a caveat, where the offline one is asked for and its weights are missing."""
    settings = work.settings
    if settings.annotator == "offline":
        return _offline(work, corpus)
    options: dict[str, Any]
    if settings.annotator.startswith("human:"):
        options = {"fallback": _offline(work, corpus)}
    else:
        options = {"path": out / "replies.jsonl", "repeats": settings.repeats}
    if settings.annotator == "claude":
        given: dict[str, Any] = {
            "model": settings.annotator_model,
            "max_cost": settings.max_cost,
            "batch": settings.batches or None,
        }
        if settings.batches:
            given["on_wait"] = work.reporter.note
        elif settings.max_cost is not None:
            given["chunk"] = CHUNK
        options |= {key: value for key, value in given.items() if value is not None}
    return get_annotator(settings.annotator, work.taxonomy, **options)


def _offline(work: Workspace, corpus: TokenCorpus) -> Annotator | None:
    try:
        return get_annotator("offline", work.taxonomy, background=_background(work, corpus))
    except MissingDependencyError as error:
        caveat = f"Latents are not annotated: {error}"
        if caveat not in work.caveats:
            work.caveats.append(caveat)
        return None
