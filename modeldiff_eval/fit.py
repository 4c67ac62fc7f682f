"""The crosscoder of a pair of models: loaded, found in the cache, or trained, on rows from the disk or straight from the models."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from modeldiff_eval import activations as acts
from modeldiff_eval import checkpoint
from modeldiff_eval import crosscoder as coders
from modeldiff_eval import crosscoder_import as importing
from modeldiff_eval import models as weights
from modeldiff_eval.corpus import TokenCorpus, heldout_sample
from modeldiff_eval.crosscoder import Crosscoder
from modeldiff_eval.difference import explained
from modeldiff_eval.errors import CorpusError, SettingsError
from modeldiff_eval.methods import train_method
from modeldiff_eval.methods import train_settings as method_settings
from modeldiff_eval.models import Loaded
from modeldiff_eval.quality import Quality, evaluate, write_quality
from modeldiff_eval.ranks import Ranks
from modeldiff_eval.records import CrosscoderInfo, DifferenceInfo
from modeldiff_eval.settings import Method, Settings
from modeldiff_eval.store import copy_folder, fingerprint, making, partial_of
from modeldiff_eval.stream import StreamedSource, default_block
from modeldiff_eval.trackers import Tracker, trackers
from modeldiff_eval.train import MappedSource, RowSource
from modeldiff_eval.train_step import TrainSettings
from modeldiff_eval.training_log import curve
from modeldiff_eval.weighting import weighted_rows
from modeldiff_eval.workspace import Workspace, harvest_role

STEP_COST = 4.0
"""A training step takes about four times as long as its encoder product would at a forward pass's rate (decision 009)."""


@dataclass(frozen=True)
class Material:
    """What crosscoders are trained on and what is measured.

    ``measured`` is the text whose activations, ``rows`` by role, are on the disk: all of ``corpus``, or, when streaming, a
    sample of its held-out documents. ``kept``: its tokens that are no outlier in any of the models. ``tokens``: training
    tokens, of which streaming leaves out outliers as it meets them. ``dropped_bos``: leading BOS tokens left out of the
    whole corpus; ``bos``: their number in the vocabulary.
    """

    corpus: TokenCorpus
    measured: TokenCorpus
    rows: dict[str, acts.Activations]
    kept: acts.Kept
    tokens: int
    dropped_bos: int
    streamed: bool
    bos: int | None

    def of(self, first: str, second: str) -> Material:
        """The same for the crosscoder of two models: outliers of a third one decide nothing about it.

        So the crosscoder of (anchor, base) is one and the same whatever it is compared with.
        """
        kept = acts.keep_tokens(self.measured, [self.rows[role].norms for role in (first, second)], bos=self.bos)
        tokens = self.tokens if self.streamed else len(acts.split_rows(self.measured, kept)[0])
        return replace(self, kept=kept, tokens=tokens)


def harvest(work: Workspace, corpus: TokenCorpus) -> Material:
    """Every model's activations of the text that is measured, from the cache or harvested now."""
    settings, bos = work.settings, work.tokenizer.bos_token_id
    if not corpus.heldout_documents()[corpus.sequences[:, 2]].any():
        raise CorpusError(
            "No document of the text is held out, so nothing could be measured. Give more documents, or a larger heldout_share."
        )
    measured = heldout_sample(corpus, tokens=settings.measure_tokens) if settings.stream else corpus
    rows = {role: harvest_role(work, measured, role) for role in work.sources}
    kept = acts.keep_tokens(measured, [model.norms for model in rows.values()], bos=bos)
    dropped = acts.starts_with_bos(corpus, bos)
    if settings.stream:
        training = ~corpus.heldout_documents()[corpus.sequences[:, 2]]
        lengths = corpus.sequences[:, 1] - corpus.sequences[:, 0] - dropped
        tokens = int(lengths[training].sum())
    else:
        tokens = len(acts.split_rows(corpus, kept)[0])
    return Material(corpus, measured, rows, kept, tokens, int(dropped.sum()), settings.stream, bos)


@dataclass(frozen=True)
class Pair:
    """One crosscoder with the rows it is measured on."""

    first: str
    second: str
    crosscoder: Crosscoder
    info: CrosscoderInfo
    rows: acts.PairedRows
    quality: Quality


def crosscoder_for(
    work: Workspace,
    material: Material,
    first: str,
    second: str,
    given: str | None,
    out: Path,
    *,
    name: str | None = None,
) -> Pair:
    """Load the given crosscoder, or train one, or find it in the cache; copy it into the run's folder.

    Args:
        name: its folder there, ``first--second`` if left out.
    """
    material = material.of(first, second)
    pair, tokens = acts.PairedRows([material.rows[first], material.rows[second]]), material.tokens
    if given:
        train_rows, heldout = acts.split_rows(material.measured, material.kept)
        found = importing.find(given)
        model, about = importing.read(found)
        coders.require_width(model, material.rows[first].d_model, given)
        if "caveat" in about:
            work.caveats.append(about["caveat"])
        tokens = int(about.get("tokens", tokens))
        quality, source = (
            evaluate(model, pair, heldout, train_rows),
            f"loaded from {weights.public_name(given)}",
        )
        folder = found.folder
    else:
        folder = fit(work, material, first, second, log_folder=out)
        model, _ = coders.load(folder)
        quality = Quality.model_validate_json((folder / "quality.json").read_text())
        source = "trained on this corpus" + (", streamed" if material.streamed else "")
        copy_crosscoder(folder, out / "crosscoders" / (name or f"{first}--{second}"))
    info = CrosscoderInfo(
        first=first, second=second, layer=work.layer, n_latents=model.n_latents, k=model.k or round(quality.l0), tokens=tokens,
        fve_first=quality.fve_first, fve_second=quality.fve_second, l0=quality.l0, dead_share=quality.dead_share, source=source,
        training=curve(folder),
    )  # fmt: skip
    return Pair(first, second, model, info, pair, quality)


def copy_crosscoder(folder: Path, target: Path) -> None:
    """A finished crosscoder's folder as a run holds it: native, jumprelu, training.jsonl, quality.json."""
    for name in ("native", "jumprelu"):
        copy_folder(folder / name, target / name)
    copy_folder(folder, target)


def given_crosscoders(settings: Settings, n: int) -> list[str | None]:
    """The crosscoders named on the command line, one for each that the design needs."""
    if not settings.crosscoder:
        return [None] * n
    if len(settings.crosscoder) != n:
        what = "one (base, tuned)" if n == 1 else "two: (anchor, base) and (anchor, tuned), in this order"
        raise SettingsError(f"--crosscoder was given {len(settings.crosscoder)} times; this design needs {what}.")
    return list(settings.crosscoder)


def require_given(work: Workspace) -> list[str | None]:
    """:func:`given_crosscoders`, each read once and refused if it is of other models, before anything is harvested for it."""
    given = given_crosscoders(work.settings, 2 if work.settings.anchor else 1)
    width = int(work.configs["base"].get_text_config().hidden_size)
    for name in filter(None, given):
        coders.require_width(importing.read(importing.find(name))[0], width, name)
    return given


def difference_for(work: Workspace, material: Material, pair: Pair, out: Path) -> Difference:
    """The dictionary of what differs between the two models of ``pair``: trained, or found in the cache; copied to ``out``."""
    material = material.of(pair.first, pair.second)
    folder = fit(work, material, pair.first, pair.second, log_folder=out.parent.parent, method="difference")
    model, _ = coders.load(folder)
    quality = Quality.model_validate_json((folder / "quality.json").read_text())
    copy_crosscoder(folder, out)
    _, heldout = acts.split_rows(material.measured, material.kept)
    energy, fve = explained(model, pair.rows, heldout)
    info = DifferenceInfo(
        first=pair.first, second=pair.second, n_latents=model.n_latents, k=model.k, tokens=material.tokens, energy_share=energy,
        fve=fve, l0=quality.l0, dead_share=quality.dead_share, training=curve(folder),
    )  # fmt: skip
    own = Pair(pair.first, pair.second, model, pair.info, pair.rows, quality)
    return Difference(own, info)


@dataclass(frozen=True)
class Difference:
    """A dictionary of the difference of two models, as a pair of its own."""

    pair: Pair
    info: DifferenceInfo


def whole_method(settings: Settings) -> Method:
    """The method of the crosscoder that is beside a dictionary of differences, or the run's own."""
    return "batchtopk" if settings.method == "difference" else settings.method


def train_settings(work: Workspace, material: Material, method: Method) -> TrainSettings:
    """How a dictionary of this run is trained."""
    settings = work.settings
    return method_settings(
        method,
        n_latents=settings.latents,
        k=settings.k,
        steps=settings.steps,
        batch=min(settings.batch, max(1, material.tokens)),
        lr=settings.lr,
        seed=settings.seed,
    )


def _weighted(work: Workspace, method: Method) -> bool:
    """Whether training rows are drawn by the run's weighting: for the dictionary that claims are made from."""
    return work.settings.weighting != "none" and method == work.settings.method


def cache_folder(work: Workspace, material: Material, first: str, second: str, method: Method | None = None) -> Path:
    """Where the cache keeps this crosscoder: named by everything that decides it."""
    method, material = method or whole_method(work.settings), material.of(first, second)
    options = train_settings(work, material, method)
    rows, kept = material.rows, material.kept.rows
    parts: list[Any] = [rows[first].key, rows[second].key, fingerprint([len(kept), int(kept.sum())])]
    parts.append(options.model_dump(exclude={"exclusive"}))
    if method != "batchtopk":
        parts.append([f"{method}-2" if method == "difference" else f"{method}-1", options.exclusive])
    if _weighted(work, method):
        parts.append(["weighting-1", work.settings.weighting, *(work.sources[role].key for role in (first, second))])
    if material.streamed:
        block = default_block(options.batch, rows[first].d_model, [work.pool.dtype] * 2)
        stream = [material.corpus.key, str(work.pool.dtype), work.layer, work.tokenizer.bos_token_id, block]
        key = fingerprint(["streamed-1", *parts, *stream])
    else:
        key = fingerprint(["crosscoder-1", *parts])
    return work.cache / "crosscoders" / key


def fit(
    work: Workspace,
    material: Material,
    first: str,
    second: str,
    *,
    log_folder: Path,
    ranks: Ranks | None = None,
    checkpoint_minutes: float | None = None,
    method: Method | None = None,
) -> Path:
    """Train the crosscoder, or go on with it, or find it; returns its folder in the cache.

    Trackers (``--log-to``) write below ``log_folder``.

    With several ranks all of them call this and train in one folder; they part when it is trained, and it is finished when
    the leader's call returns.
    """
    ranks, method, material = ranks or Ranks(), method or whole_method(work.settings), material.of(first, second)
    folder = cache_folder(work, material, first, second, method)
    with ExitStack() as held:

        def enter() -> Path | None:
            if ranks.leader:
                return held.enter_context(making(folder))
            return None if folder.is_dir() else partial_of(folder)  # The leader holds the lock: this stays so.

        partial = ranks.after_leader(enter)
        if partial is not None:
            title = f"{first}--{second}" + ("--differences" if method == "difference" else "")
            track = trackers(work.settings.log_to, log_folder, key=folder.name, title=title)
            _train_into(partial, work, material, (first, second), method, ranks, checkpoint_minutes, track)
            work.trained.append(f"({first}, {second})" + (", differences" if method == "difference" else ""))
    return folder


def _threads(models: Sequence[Loaded], layer: int, options: TrainSettings) -> tuple[int | None, int | None]:
    """CPU threads of the harvest and of the trainer, by what a token costs each; where models are on a GPU nothing is divided."""
    if models[0].device.type != "cpu":
        return None, None
    n = torch.get_num_threads()
    parts = [block for model in models for block in weights.blocks(model.model)[: layer + 1]]
    forward = 2 * sum(parameter.numel() for block in parts for parameter in block.parameters())
    training = STEP_COST * 4 * models[0].d_model * options.n_latents
    harvest = min(n, max(1, round(n * forward / (forward + training))))
    return harvest, max(1, n - harvest)


def _train_into(
    folder: Path,
    work: Workspace,
    material: Material,
    pair: tuple[str, str],
    method: Method,
    ranks: Ranks,
    minutes: float | None,
    track: Tracker,
) -> None:
    first, second = pair
    rows = acts.PairedRows([material.rows[first], material.rows[second]])
    train_rows, heldout = acts.split_rows(material.measured, material.kept)
    options = train_settings(work, material, method)
    source: RowSource
    if material.streamed:
        both = work.pool.together(work.sources[first], work.sources[second])
        theirs, ours = _threads(both, work.layer, options)
        source = StreamedSource(
            both, material.corpus, layer=work.layer, batch=options.batch, seed=options.seed, bos=work.tokenizer.bos_token_id,
            harvest_threads=theirs, train_threads=ours, ranks=ranks,
        )  # fmt: skip
        del both
    else:
        work.pool.trim()
        seen = weighted_rows(work, material.measured, pair, train_rows) if _weighted(work, method) else train_rows
        source = MappedSource(rows, seen, batch=options.batch, seed=options.seed, ranks=ranks)
    # On MPS the models run, but the training step has not been tried there.
    device = work.pool.device if work.pool.device.type == "cuda" else torch.device("cpu")
    what = "Learning the differences" if method == "difference" else "Training the crosscoder"
    with work.reporter.task(f"{what} ({first}, {second})", unit="steps") as advance:
        model = train_method(
            method,
            source,
            options,
            rows=rows,
            train_rows=train_rows,
            heldout=heldout,
            folder=folder,
            device=device,
            ranks=ranks,
            checkpoint_minutes=minutes,
            on_step=lambda step, steps, _: advance(step, steps),
            track=track,
        )
    ranks.leave()
    if not ranks.leader:
        return
    del source
    work.pool.trim()
    with work.reporter.task("Measuring its quality"):
        quality = evaluate(model, rows, heldout, train_rows)
    names = [weights.public_name(work.sources[role].name) for role in pair]
    folder_key = cache_folder(work, material, first, second, method).name
    metadata = {
        "first": first, "second": second, "models": names, "layer": work.layer, "training": options.model_dump(), "method": method,
        "tokens": material.tokens, "streamed": material.streamed, "key": folder_key,
    }  # fmt: skip
    coders.save_native(model, folder / "native", metadata)
    coders.save_jumprelu(model, folder / "jumprelu", metadata)
    write_quality(folder, quality)
    checkpoint.remove(folder)  # Not before: a kill until here costs no training.
