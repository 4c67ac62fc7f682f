"""From trained crosscoders to findings: every latent's ν, shift, examples and name, as one table for each crosscoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from modeldiff_eval import activations as acts
from modeldiff_eval import latents as measure
from modeldiff_eval.annotate import Annotation, Evidence, Excerpt, annotate_all, context_span, get_annotator
from modeldiff_eval.corpus import TokenCorpus
from modeldiff_eval.crosscoder import delta_norm
from modeldiff_eval.errors import MissingDependencyError
from modeldiff_eval.families import families
from modeldiff_eval.shift import Shift
from modeldiff_eval.taxonomy import Taxonomy

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from modeldiff_eval.fit import Pair
    from modeldiff_eval.workspace import Workspace

RADIUS = 24


@dataclass(frozen=True)
class Measured:
    """One crosscoder's latents. ``nu`` by claim side (0 = specific to the first model, 1 = to the second)."""

    pair: Pair
    nu: dict[int, measure.Nu]
    delta_norm: NDArray[np.float64]
    firings: NDArray[np.int64]
    frequency: NDArray[np.float64]
    peaks: list[list[measure.Peak]]
    windows: list[list[measure.Window]]
    annotations: dict[int, Annotation]
    evidence: dict[int, Evidence]

    @property
    def alive(self) -> NDArray[np.bool_]:
        return self.firings > 0


def measure_pair(
    work: Workspace, corpus: TokenCorpus, kept: acts.Kept, pair: Pair, sides: tuple[int, ...], out: Path
) -> Measured:
    """Latent Scaling on held-out documents, top documents over everything, and annotation of every live latent."""
    settings = work.settings
    document = corpus.document_of_token()
    _, heldout = acts.split_rows(corpus, kept)
    blocks = measure.document_blocks(heldout, document, seed=settings.seed)
    title = f"({pair.first}, {pair.second})"
    with work.reporter.task(f"Latent Scaling {title}", unit="tokens") as advance:
        sums = measure.scaling(pair.crosscoder, pair.rows, blocks, on_progress=advance)
    nu = {
        side: measure.nu_intervals(
            sums,
            side,
            min_firings=settings.thresholds.min_firings,
            rng=np.random.default_rng([settings.seed, side, 11]),
        )
        for side in sides
    }
    with work.reporter.task(f"Top documents {title}", unit="tokens") as advance:
        peaks, firings = measure.top_documents(
            pair.crosscoder, pair.rows, kept.rows, document, n=settings.top_examples, on_progress=advance
        )
    with work.reporter.task(f"Examples {title}"):
        windows = measure.windows(pair.crosscoder, pair.rows, peaks, corpus.sequences, kept.rows, radius=RADIUS)
    evidence = _evidence(work, corpus, peaks, windows)
    annotations = _annotate(work, evidence, _background(work, corpus), out / "annotations.jsonl")
    return Measured(
        pair, nu, delta_norm(pair.crosscoder.decoder_norms()).double().numpy(), firings, firings / len(kept.rows), peaks, windows,
        annotations, {item.latent: item for item in evidence},
    )  # fmt: skip


class _Decoder:
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
    work: Workspace, corpus: TokenCorpus, peaks: list[list[measure.Peak]], windows: list[list[measure.Window]]
) -> list[Evidence]:
    decoder = _Decoder(work.tokenizer)
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
        out.append(Evidence(latent=latent, examples=excerpts))
    return out


def _background(work: Workspace, corpus: TokenCorpus, *, passages: int = 800) -> list[str]:
    """Passages drawn at random from the corpus: what ordinary text looks like here, whatever the latents."""
    rng = np.random.default_rng([work.settings.seed, 51])
    decoder = _Decoder(work.tokenizer)
    out = []
    for index in rng.choice(len(corpus.sequences), size=min(passages, len(corpus.sequences)), replace=False):
        begin, end, _ = (int(x) for x in corpus.sequences[index])
        first, stop = context_span(int(rng.integers(end - begin)), end - begin)
        out.append(decoder.text(corpus.ids[begin + first : begin + stop]))
    return out


def _annotate(work: Workspace, evidence: list[Evidence], background: list[str], path: Path) -> dict[int, Annotation]:
    settings = work.settings
    taxonomy = Taxonomy.load(Path(settings.taxonomy) if settings.taxonomy else None)
    options: dict[str, Any] = {"background": background} if settings.annotator == "offline" else {}
    try:
        annotator = get_annotator(settings.annotator, taxonomy, **options)
    except MissingDependencyError as error:
        work.caveats.append(f"Latents are not annotated: {error}")
        return {}
    with work.reporter.task(f"Naming latents ({annotator.name})", unit="latents") as advance:
        annotations = annotate_all(annotator, evidence, path=path, on_progress=advance)
    return {annotation.latent: annotation for annotation in annotations}


@dataclass(frozen=True)
class Side:
    """One model of the comparison: the dictionary its specific latents live in, and which they are."""

    role: str
    measured: Measured
    claim: int
    specific: NDArray[np.int64]
    nearest: NDArray[np.int64]
    shift: Shift

    @property
    def nu(self) -> measure.Nu:
        return self.measured.nu[self.claim]


def make_side(work: Workspace, role: str, measured: Measured, claim: int, shift: Shift) -> Side:
    """Specific latents by the thresholds, and the nearest candidates by the upper limit of ν^ε on the ranking half."""
    limits = work.settings.thresholds
    nu = measured.nu[claim]
    passing = nu.specific(error=limits.nu_error, reconstruction=limits.nu_reconstruction)
    order = np.argsort(np.where(np.isnan(nu.rank_error_high), np.inf, nu.rank_error_high), kind="stable")
    nearest = order[: work.settings.annotate_top]
    nearest = nearest[~np.isnan(nu.rank_error_high[nearest])]
    return Side(role, measured, claim, np.flatnonzero(passing), nearest, shift)


def side_families(sides: list[Side]) -> list[NDArray[np.int64]]:
    """Family of every specific latent, matched over both sides by decoder direction in the side's own model.

    Co-activation is used within one dictionary only, where it is cheap: top documents shared by both latents.
    """
    directions = []
    for side in sides:
        decoder = side.measured.pair.crosscoder.W_dec.view(side.measured.pair.crosscoder.n_latents, 2, -1)
        directions.append(decoder[torch.from_numpy(side.specific), side.claim].double().numpy())
    activity = [_document_profile(side) for side in sides]
    width = max((a.shape[1] for a in activity), default=0)
    padded = np.concatenate([np.pad(a, ((0, 0), (0, width - a.shape[1]))) for a in activity])
    joint = families(np.concatenate(directions), padded if len(padded) else None)
    return np.split(joint, np.cumsum([len(side.specific) for side in sides])[:-1])


def _document_profile(side: Side) -> NDArray[np.float64]:
    """[specific, documents] largest activation of each latent in its top documents."""
    documents = max((peak.document for own in side.measured.peaks for peak in own), default=-1) + 1
    profile = np.zeros((len(side.specific), documents))
    for row, latent in enumerate(side.specific):
        for peak in side.measured.peaks[latent]:
            profile[row, peak.document] = peak.activation
    return profile


def latent_table(sides: list[Side], family: list[NDArray[np.int64]]) -> pd.DataFrame:
    """One row for each (side, latent): everything measured, NaN where undefined."""
    import pandas as pd

    frames = []
    for side, own in zip(sides, family, strict=True):
        m, nu, n = side.measured, side.nu, len(side.measured.firings)
        number = np.full(n, -1)
        number[side.specific] = own
        named = [m.annotations.get(j) for j in range(n)]
        frames.append(
            pd.DataFrame(
                {
                    "model": side.role,
                    "crosscoder": f"{m.pair.first}--{m.pair.second}",
                    "latent": np.arange(n),
                    "delta_norm": m.delta_norm,
                    "nu_error": nu.error, "nu_error_low": nu.error_low, "nu_error_high": nu.error_high,
                    "nu_reconstruction": nu.reconstruction, "nu_reconstruction_low": nu.reconstruction_low,
                    "nu_reconstruction_high": nu.reconstruction_high,
                    "rank_nu_error": nu.rank_error, "rank_nu_reconstruction": nu.rank_reconstruction,
                    "rank_nu_error_high": nu.rank_error_high,
                    "specific": np.isin(np.arange(n), side.specific),
                    "family": number,
                    "firings": m.firings, "frequency": m.frequency,
                    "shift": side.shift.value, "shift_low": side.shift.low, "shift_high": side.shift.high, "shift_null": side.shift.null,
                    "shift_bar": side.shift.bars, "shift_changed": side.shift.changed_column(),
                    "label": [a.label if a else None for a in named],
                    "description": [a.description if a else None for a in named],
                    "category": [a.category if a else None for a in named],
                    "confidence": [a.confidence if a else None for a in named],
                    "annotation_failure": [a.failure if a else "not annotated" for a in named],
                }
            )
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def example_table(measured: list[Measured]) -> pd.DataFrame:
    """Top examples of every latent, one row each."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "crosscoder": f"{m.pair.first}--{m.pair.second}", "latent": latent, "rank": rank, "document": e.document,
                "activation": peak.activation, "text": e.text, "tokens": e.tokens, "activations": e.activations,
            }
            for m in measured
            for latent, item in m.evidence.items()
            for rank, (e, peak) in enumerate(zip(item.examples, m.peaks[latent], strict=True))
        ]
    )  # fmt: skip
