"""From trained crosscoders to findings: every latent's ν, shift, examples and name, as one table for each crosscoder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
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
from modeldiff_eval.exchange_control import Control, exchange_control
from modeldiff_eval.families import families
from modeldiff_eval.graded import GradedView, Shifted, SideWeights, Weights, graded_shares, weigh
from modeldiff_eval.shift import Shift

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from modeldiff_eval.fit import Pair
    from modeldiff_eval.workspace import Workspace

RADIUS = 24
CHUNK = 64
"""With a limit on the cost, latents whose two questions are answered before the next are asked about."""


@dataclass(frozen=True)
class Measured:
    """One dictionary's latents. ``nu`` by claim side (0 = specific to the first model, 1 = to the second).

    In tables, evidence and annotations a latent's number is ``offset`` + its place here. ``control``: None but for a dictionary
    of differences.
    """

    pair: Pair
    nu: dict[int, measure.Nu]
    delta_norm: NDArray[np.float64]
    firings: NDArray[np.int64]
    frequency: NDArray[np.float64]
    peaks: list[list[measure.Peak]]
    windows: list[list[measure.Window]]
    annotations: dict[int, Annotation]
    evidence: dict[int, Evidence]
    weights: dict[int, Weights]
    offset: int = 0
    control: Control | None = None

    def rank_key(self, claim: int) -> NDArray[np.float64]:
        """What orders candidates of one claim, smallest first; NaN for latents that are none.

        The upper limit of ν^ε on the ranking half. In a dictionary of differences minus what the latent explains of the difference
        in answers of its own model beyond answers of the other, for latents that are more than noise and of which the other has less.
        """
        if (nu := self.nu.get(claim)) is None:
            return np.full(len(self.firings), np.nan)
        if self.control is None:
            return nu.rank_error_high
        return np.where(self.control.shifted[claim], -self.control.rank[claim], np.nan)

    @property
    def dictionary(self) -> str:
        return "crosscoder" if self.control is None else "difference"

    @property
    def alive(self) -> NDArray[np.bool_]:
        return self.firings > 0


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


def asked_latents(side: Side) -> NDArray[np.int64]:
    """Places of the latents that a side's numbers rest on: specific, nearest candidates, and of a graded weight."""
    weights = side.measured.weights.get(side.claim)
    graded = np.zeros(0, dtype=np.int64) if weights is None else weights.positive
    return np.unique(np.concatenate([side.specific, side.nearest, graded])).astype(np.int64)


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


@dataclass(frozen=True)
class Side:
    """One model of the comparison: the dictionary its specific latents live in, and which they are."""

    role: str
    measured: Measured
    claim: int
    specific: NDArray[np.int64]
    nearest: NDArray[np.int64]
    shift: Shift | None
    null: Shifted | None = None

    @property
    def nu(self) -> measure.Nu | None:
        return self.measured.nu.get(self.claim)


def make_side(work: Workspace, role: str, measured: Measured, claim: int, shift: Shift | None) -> Side:
    """Specific latents by the thresholds, and the nearest candidates by the upper limit of ν^ε on the ranking half.

    In a difference dictionary: |ν^ε| below its threshold among the latents that the exchange control lets through, and shifted
    where the interval of ν^ε lies within ±1. Without ν (the dictionary of the activation view beside one of differences)
    there are none of either.
    """
    limits = work.settings.thresholds
    nu = measured.nu.get(claim)
    if nu is None:
        none = np.zeros(0, dtype=np.int64)
        return Side(role, measured, claim, none, none, shift)
    null = None
    if (control := measured.control) is not None:
        passing = nu.absent(limits.nu_error) & control.shifted[claim]
        if control.null_rate is not None:
            rate = work.settings.false_discovery_rate
            null = Shifted(control.shifted[claim], control.null_rate, 1.0, 0.0, rate)
    else:
        passing = nu.specific(error=limits.nu_error, reconstruction=limits.nu_reconstruction)
    key = measured.rank_key(claim)
    order = np.argsort(np.where(np.isnan(key), np.inf, key), kind="stable")
    nearest = order[: work.settings.annotate_top]
    nearest = nearest[~np.isnan(key[nearest])]
    return Side(role, measured, claim, np.flatnonzero(passing), nearest, shift, null)


def side_families(sides: list[Side]) -> list[NDArray[np.int64]]:
    """Family of every specific latent, matched over both sides by decoder direction in the side's own model.

    Co-activation is used within one dictionary only, where it is cheap: top documents shared by both latents.
    """
    directions = [_directions(side, side.specific) for side in sides]
    activity = [_document_profile(side) for side in sides]
    width = max((a.shape[1] for a in activity), default=0)
    padded = np.concatenate([np.pad(a, ((0, 0), (0, width - a.shape[1]))) for a in activity])
    joint = families(np.concatenate(directions), padded if len(padded) else None)
    return np.split(joint, np.cumsum([len(side.specific) for side in sides])[:-1])


def _directions(side: Side, latents: NDArray[np.int64]) -> NDArray[np.float64]:
    """[latents, d_model] decoder rows in the side's own model."""
    decoder = side.measured.pair.crosscoder.W_dec.view(side.measured.pair.crosscoder.n_latents, 2, -1)
    rows: NDArray[np.float64] = decoder[torch.from_numpy(latents), side.claim].double().numpy()
    return rows


def graded_view(sides: list[Side], groups: dict[str, list[str]], *, draws: int, seed: int) -> GradedView:
    """Class and category shares with every annotated latent weighted by its ν^ε (:mod:`modeldiff_eval.graded`).

    Families of the latents with weight > 0 are by decoder direction alone, matched over both sides.

    Args:
        groups: "classes" and "categories" → codes.
    """
    weights = [side.measured.weights[side.claim] for side in sides]
    positive = [w.positive for w in weights]
    family = families(np.concatenate([_directions(s, p) for s, p in zip(sides, positive, strict=True)]), None)
    both: dict[str, list[SideWeights]] = {level: [] for level in groups}
    own = np.split(family, [len(positive[0])])
    for side, w, latents, number in zip(sides, weights, positive, own, strict=True):
        named = [side.measured.annotations.get(side.measured.offset + int(j)) for j in latents]
        known = np.array([a is not None and a.failure is None for a in named], dtype=bool)
        for level, codes in groups.items():
            index = {code: i for i, code in enumerate(codes)}
            category = [a.category if a and a.category else "" for a in named]
            label = [index.get(c.split(".")[0] if level == "classes" else c, -1) for c in category]
            both[level].append(
                SideWeights(
                    np.array(label, dtype=np.int64)[known], w.weight[latents][known], number[known], w.draws[:, known]
                )
            )
    shares = {
        level: graded_shares(base, tuned, len(groups[level]), draws=draws, rng=np.random.default_rng([seed, 25, i]))
        for i, (level, (base, tuned)) in enumerate(both.items())
    }
    return GradedView(shares, {side.role: w.counts() for side, w in zip(sides, both["classes"], strict=True)})


def _document_profile(side: Side) -> NDArray[np.float64]:
    """[specific, documents] largest activation of each latent in its top documents."""
    documents = max((peak.document for own in side.measured.peaks for peak in own), default=-1) + 1
    profile = np.zeros((len(side.specific), documents))
    for row, latent in enumerate(side.specific):
        for peak in side.measured.peaks[latent]:
            profile[row, peak.document] = peak.activation
    return profile


def seed_table(work: Workspace, measured: list[Measured], claims: list[tuple[int, ...]]) -> pd.DataFrame:
    """The table of another seed's crosscoders, for counts of specific latents by class; without activation shifts."""
    sides = [
        make_side(work, "base", measured[0], claims[0][0], None),
        make_side(work, "tuned", measured[-1], claims[-1][-1], None),
    ]
    return latent_table(sides, side_families(sides))


def latent_table(sides: list[Side], family: list[NDArray[np.int64]]) -> pd.DataFrame:
    """One row for each (side, latent): everything measured, NaN where undefined."""
    import pandas as pd

    frames = []
    for side, own in zip(sides, family, strict=True):
        m, n = side.measured, len(side.measured.firings)
        unknown = np.full(n, np.nan)
        nu = side.nu or measure.Nu(side.claim, *[unknown] * 10)
        shift = (
            [unknown] * 4
            if side.shift is None
            else [side.shift.value, side.shift.low, side.shift.high, side.shift.null]
        )
        number = np.full(n, -1)
        number[side.specific] = own
        named = [m.annotations.get(m.offset + j) for j in range(n)]
        frames.append(
            pd.DataFrame(
                {
                    "model": side.role,
                    "crosscoder": f"{m.pair.first}--{m.pair.second}",
                    "dictionary": m.dictionary,
                    "latent": m.offset + np.arange(n),
                    "delta_norm": m.delta_norm,
                    "nu_error": nu.error, "nu_error_low": nu.error_low, "nu_error_high": nu.error_high,
                    "nu_reconstruction": nu.reconstruction, "nu_reconstruction_low": nu.reconstruction_low,
                    "nu_reconstruction_high": nu.reconstruction_high,
                    "rank_nu_error": nu.rank_error, "rank_nu_reconstruction": nu.rank_reconstruction,
                    "rank_nu_error_high": nu.rank_error_high, "rank_nu_error_low": nu.rank_error_low,
                    "rank_key": m.rank_key(side.claim),
                    "changed": np.full(n, None) if m.control is None else m.control.changed,
                    "energy": unknown if m.control is None else m.control.energy,
                    "specific": np.isin(np.arange(n), side.specific),
                    "family": number,
                    "shifted": pd.array(side.null.shifted if side.null else [None] * n, dtype="boolean"),
                    "graded_weight": m.weights[side.claim].weight if m.weights else np.zeros(n),
                    "firings": m.firings, "frequency": m.frequency,
                    "shift": shift[0], "shift_low": shift[1], "shift_high": shift[2], "shift_null": shift[3],
                    "shift_bar": unknown if side.shift is None else side.shift.bars,
                    "shift_changed": [None] * n if side.shift is None else side.shift.changed_column(),
                    "label": [a.label if a else None for a in named],
                    "description": [a.description if a else None for a in named],
                    "category": [a.category if a else None for a in named],
                    "confidence": [a.confidence if a else None for a in named],
                    "annotation_failure": [a.failure if a else "not annotated" for a in named],
                }
            )
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def claimed_rows(table: pd.DataFrame, measured: Measured) -> pd.DataFrame:
    """The rows of one dictionary, with latents numbered by their place in it."""
    own = table[table["dictionary"] == measured.dictionary]
    return own.assign(latent=own["latent"] - measured.offset)


def joined(*tables: pd.DataFrame) -> pd.DataFrame:
    """Tables of the same columns below each other."""
    import pandas as pd

    return pd.concat(
        [table.astype({"changed": object, "shifted": object, "shift_changed": object}) for table in tables],
        ignore_index=True,
    )


def example_table(measured: list[Measured]) -> pd.DataFrame:
    """Top examples of every latent, one row each."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "crosscoder": f"{m.pair.first}--{m.pair.second}", "dictionary": m.dictionary, "latent": latent, "rank": rank, "document": e.document,
                "activation": peak.activation, "text": e.text, "tokens": e.tokens, "activations": e.activations,
            }
            for m in measured
            for latent, item in m.evidence.items()
            for rank, (e, peak) in enumerate(zip(item.examples, m.peaks[latent - m.offset], strict=True))
        ]
    )  # fmt: skip
