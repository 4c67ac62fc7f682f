"""The whole story on one page: two models in, one card out.

::

    import modeldiff_eval as md
    run = md.diff("X", "Y", anchor="P")
    run.card; run.latents

Every stage leaves its result in the cache or in the run's folder; run again, it finds it there.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeldiff_eval import activations as acts
from modeldiff_eval import fit, naming, panels, seeds, shift, side_tables
from modeldiff_eval import workspace as ws
from modeldiff_eval._version import __version__
from modeldiff_eval.annotate_human import HumanAnnotator
from modeldiff_eval.benchmarks import result_files, split_paths
from modeldiff_eval.card import Outside, build_card
from modeldiff_eval.card_digest import seal
from modeldiff_eval.causal import causal_stage
from modeldiff_eval.corpus import TokenCorpus
from modeldiff_eval.corpus_mixture import renamed
from modeldiff_eval.dictionaries import measure_latents
from modeldiff_eval.disk import writing
from modeldiff_eval.graded import DRAWS
from modeldiff_eval.in_memory import in_memory
from modeldiff_eval.inputs import require_inputs
from modeldiff_eval.locks import alone_in, in_use
from modeldiff_eval.logs import tell
from modeldiff_eval.memory_meter import high_water
from modeldiff_eval.models import Loaded, public_name
from modeldiff_eval.outside import gather_evidence
from modeldiff_eval.progress import Reporter
from modeldiff_eval.records import Card, Models
from modeldiff_eval.redact import redacted
from modeldiff_eval.remote import is_url, local_folder, working_folder
from modeldiff_eval.render import pdf_available, render
from modeldiff_eval.run import Run
from modeldiff_eval.settings import Settings, make_settings
from modeldiff_eval.store import cache_dir, clear_partial, file_hash, fingerprint, require_writable, write_json
from modeldiff_eval.weighting import caveat

if TYPE_CHECKING:
    import pandas as pd


def diff(
    base: str | None = None,
    tuned: str | None = None,
    *,
    anchor: str | None = None,
    out: Path | str = "runs/latest",
    settings: Settings | None = None,
    cache: Path | None = None,
    reporter: Reporter | None = None,
    base_loaded: tuple[Any, Any] | None = None,
    tuned_loaded: tuple[Any, Any] | None = None,
    created: str | None = None,
    **options: Any,
) -> Run:
    """Compare two models, directly or through an anchor that both come from.

    Args:
        base: the model before tuning: hub id, folder, ``.gguf`` file, adapter folder, or ``"embedded"``.
        tuned: the model after tuning.
        anchor: a model that both come from, for the anchored design.
        out: the run's folder, or a URL that fsspec can write (:mod:`modeldiff_eval.remote`): worked on here, uploaded at the end.
        settings: everything at once; otherwise ``options`` are settings by name (``layer=14, tokens=100_000``).
        base_loaded, tuned_loaded: (model, tokenizer) where they are in memory already; ``base`` and ``tuned`` are then their names.
        created: the card's time stamp; now if left out.

    Raises:
        ModelDiffError: see :mod:`modeldiff_eval.errors`; nothing that was there before is overwritten.
    """
    if settings is None:
        settings, _ = make_settings({"base": base, "tuned": tuned, "anchor": anchor, **options}, environ={})
    if isinstance(out, str) and is_url(out):
        with working_folder(out, local_folder(out, cache or cache_dir())) as folder:
            return diff(
                settings=settings, out=folder, cache=cache, reporter=reporter, base_loaded=base_loaded,
                tuned_loaded=tuned_loaded, created=created,
            )  # fmt: skip
    out, cache = require_writable(Path(out)), cache or cache_dir()
    with alone_in(out), in_use(cache), writing(out / "card.json"):
        clear_partial(out)
        loaded = in_memory(settings, base=base_loaded, tuned=tuned_loaded)
        return _diff(settings, out, cache, reporter or Reporter(), loaded, created)


def _diff(
    settings: Settings, out: Path, cache: Path, reporter: Reporter, loaded: dict[str, Loaded], created: str | None
) -> Run:
    """The story itself, in a folder that is this run's alone."""
    started = time.monotonic()
    require_inputs(settings, given=loaded)

    # Models and text.
    work = ws.open_workspace(settings, cache=cache, reporter=reporter, loaded=loaded)
    taxonomy, given = work.taxonomy, fit.require_given(work)
    corpus = ws.gather_text(work)
    ws.timed(work, "models and text", started)

    # Paired activations of the same tokens: of all the text, or, when streaming, of the part that is measured.
    start = time.monotonic()
    material = fit.harvest(work, corpus)
    measured_text, rows, kept = material.measured, material.rows, material.kept
    null = ws.null_rows(work, measured_text)
    ws.timed(work, "activations", start)

    # One crosscoder for a direct comparison, two with a shared first model for an anchored one.
    start = time.monotonic()
    pairs = [("anchor", "base"), ("anchor", "tuned")] if settings.anchor else [("base", "tuned")]
    coders = [fit.crosscoder_for(work, material, *pair, path, out) for pair, path in zip(pairs, given, strict=True)]
    ws.timed(work, "crosscoders", start)
    others = seeds.train_others(work, material, pairs, out)
    key = _findings_key(work, corpus, [*coders, *(coder for seed in others for coder in seed)])
    if finished := _finished(out, key):
        return finished

    # Latents: which are specific, how they shift, what they are called.
    start = time.monotonic()
    work.contrast = naming.contrast_of(work, measured_text, kept)
    claims: list[tuple[int, ...]] = [(0, 1)] if len(coders) == 1 else [(1,), (1,)]
    measured, whole, differences = measure_latents(work, material, coders, claims, out, null)
    again = [
        measure_latents(work, material, coder, claims, out, null, training=seeds.reseeded(work, number))
        for number, coder in enumerate(others, start=1)
    ]
    shifts = [
        shift.activation_shift(
            work, measured_text, kept, rows, coder, _statistics(coders), null, shared=coder is coders[0]
        )
        for coder in coders
    ]
    sides = [
        side_tables.make_side(
            work, role, measured[number], claims[number][number], None if differences else shifts[number]
        )
        for role, number in (("base", 0), ("tuned", -1))
    ]
    table = side_tables.latent_table(sides, side_tables.side_families(sides))
    if isinstance(work.annotator, HumanAnnotator):
        work.annotator.require_met()
    replier = getattr(work.annotator, "replier", None)  # A language model tries its own descriptions.
    scored = naming.score_sides(work, measured_text, kept, sides, taxonomy, replier=replier, path=out / "replies.jsonl")
    if (spent := getattr(replier, "spent", None)) is not None:
        reporter.note(f"Naming cost {spent:.2f} US$ in this run; what was answered before is not asked again.")
    if differences:
        views = [
            side_tables.make_side(work, role, whole[number], claims[number][number], shifts[number])
            for role, number in (("base", 0), ("tuned", -1))
        ]
        table = side_tables.joined(table, side_tables.latent_table(views, [view.specific for view in views]))
    if scored:
        table = scored.add_to(table)
    agreement = [
        seeds.agree(
            m.pair.crosscoder, m.alive, [(w[i].pair.crosscoder, w[i].alive) for _, w, _ in again], seed=settings.seed
        )
        for i, m in enumerate(whole)
    ]
    tables = [side_tables.seed_table(work, seed, claims) for seed, _, _ in again]
    groups = {"classes": [c.code for c in taxonomy.classes], "categories": [c.code for c in taxonomy.categories]}
    activation = {
        level: shift.group_shifts(
            shifts[0],
            whole[0].annotations,
            codes,
            classes=level == "classes",
            draws=settings.draws,
            seed=settings.seed,
        )
        for level, codes in groups.items()
    }
    graded = side_tables.graded_view(sides, groups, draws=min(settings.draws, DRAWS), seed=settings.seed)
    by_part = shift.split_changes(shifts[0], whole[0].annotations, groups["classes"], seed=settings.seed)
    ws.timed(work, "latents", start)

    # What simpler methods say about the same tokens.
    start = time.monotonic()
    simpler = panels.measure_panels(work, measured_text, kept, rows, taxonomy)
    ws.timed(work, "panels", start)
    # Causes: what tuned does with its latents taken out of it.
    start = time.monotonic()
    causal, causal_notes = None, list[str]()
    if settings.causal or settings.causal_tasks:
        norms = {role: found.norms for role, found in rows.items()}
        classes = {c.code: c.name for c in taxonomy.classes}
        causal, causal_notes = causal_stage(
            work,
            measured_text,
            measured[-1].pair.crosscoder,
            side_tables.claimed_rows(table, measured[-1]),
            classes,
            norms,
            offset=measured[-1].offset,
        )
    ws.timed(work, "causes", start)

    # Evidence from outside.
    start = time.monotonic()
    outside = gather_evidence(work, out)
    ws.timed(work, "evidence", start)

    card = build_card(
        settings=_published(settings),
        models=Models(
            anchor=work.info("anchor") if settings.anchor else None, base=work.info("base"), tuned=work.info("tuned")
        ),
        crosscoders=[
            coder.info.model_copy(update={"seed_agreement": own.value if own else None})
            for coder, own in zip(coders, agreement, strict=True)
        ],
        table=table,
        differences=differences,
        seed_tables=tables,
        evidence={role: whole[i].evidence | measured[i].evidence for role, i in (("base", 0), ("tuned", -1))},
        activation=activation,
        graded=graded,
        nulls={side.role: side.null for side in sides if side.null},
        activation_by=by_part,
        outside=outside,
        causal=causal,
        naming=scored.quality if scored else None,
        repeats=scored.repeats if scored else None,
        taxonomy=taxonomy,
        coverage=measured_text.coverage(),
        corpus_key=corpus.key,
        tokens=corpus.tokens,
        caveats=[
            *_corpus_caveats(settings, material, coders),
            *seeds.caveats(pairs, agreement, settings.seeds),
            *causal_notes,
            *dict.fromkeys(
                [*work.caveats, *work.pool.caveats, *filter(None, [caveat(settings.weighting), pdf_available()])]
            ),
        ],
        versions=_versions(),
        created=created,
    ).model_copy(update=simpler)
    dictionaries = [*measured, *whole] if differences else measured
    masses = shifts[0].shared.table() if shifts[0].shared else None
    return _write(work, card, table, masses, dictionaries, outside, out, key, started)


def _statistics(coders: list[fit.Pair]) -> dict[str, Any]:
    """Each model's own normaliser: from the one crosscoder, or from the second halves of the two."""
    halves = [(0, 0), (0, 1)] if len(coders) == 1 else [(0, 1), (1, 1)]
    return {
        role: (coders[number].crosscoder.mean[half], coders[number].crosscoder.scale[half])
        for role, (number, half) in zip(("base", "tuned"), halves, strict=True)
    }


def _published(settings: Settings) -> Settings:
    """Settings as a card may show them: file names instead of this machine's folders."""

    def short(name: str | None) -> str | None:
        return None if name is None else public_name(name)

    kind, colon, location = settings.annotator.partition(":")

    return settings.model_copy(
        update={
            "base": public_name(settings.base), "tuned": public_name(settings.tuned), "anchor": short(settings.anchor),
            "corpus": tuple(renamed(spec, public_name) for spec in settings.corpus),
            "crosscoder": tuple(public_name(name) for name in settings.crosscoder),
            "answers": short(settings.answers), "text_from": short(settings.text_from),
            "taxonomy": short(settings.taxonomy),
            "benchmarks": settings.benchmarks and ",".join(public_name(str(path)) for path in split_paths(settings.benchmarks)),
            "arena": short(settings.arena), "arena_style": short(settings.arena_style), "agreement": short(settings.agreement),
            "annotator": kind + colon + public_name(location) if colon else kind,
        }
    )  # fmt: skip


def _corpus_caveats(settings: Settings, material: fit.Material, coders: list[fit.Pair]) -> list[str]:
    corpus, measured, kept = material.corpus, material.measured, material.kept
    what = f"{corpus.tokens:,} tokens in {len(corpus.documents['id'])} documents, {int(corpus.heldout_documents().sum())} of them held out by prompt"
    sinks = f"with a norm beyond {acts.OUTLIER_FACTOR:g} × the median (attention sinks)"
    if material.streamed:
        rows = settings.steps * min(settings.batch, material.tokens)
        trained = f"{rows:,} training rows were streamed from each pair of models"
        out = [
            f"{what}; {'no crosscoder was trained here' if settings.crosscoder else trained}, and only {measured.tokens:,} tokens of "
            f"{len(set(measured.sequences[:, 2]))} held-out documents were kept for fve, L0, ν, shifts, coverage and examples (and the threshold "
            "of a trained crosscoder): all of these speak about that text only.",
            f"{kept.dropped_bos} leading BOS tokens and {kept.dropped_outliers} tokens {sinks} were dropped from it.",
        ]
        if not settings.crosscoder:
            out.append(
                f"While training, leading BOS tokens were left out as well, tokens with a norm beyond {acts.OUTLIER_FACTOR:g} × the median of the "
                "first block, and of each pass those at the end of a block that fill no batch."
            )
    else:
        out = [
            f"{what}; {kept.dropped_bos} leading BOS tokens and {kept.dropped_outliers} tokens {sinks} were dropped. ν and shifts speak about "
            "this text only."
        ]
    for coder in coders:
        q = coder.quality
        out.append(
            f"Crosscoder ({coder.first}, {coder.second}): fve and L0 over {q.heldout_tokens:,} held-out tokens; dead = silent over "
            + (f"these {q.dead_tokens:,} tokens." if material.streamed else f"all {q.dead_tokens:,} tokens.")
        )
        if min(q.fve_first, q.fve_second) < 0.7:
            out.append(
                f"The crosscoder ({coder.first}, {coder.second}) explains less than 70 % of the variance; train longer or on more text."
            )
    if settings.anchor:
        out.append(
            "In the anchored design the activation view uses the dictionary of (anchor, base), each model with its own normaliser."
        )
    return out


def _findings_key(work: ws.Workspace, corpus: TokenCorpus, coders: list[fit.Pair]) -> str:
    """What everything after the crosscoders depends on."""
    settings = work.settings
    kind, _, reviewed = settings.annotator.partition(":")
    reviews = reviewed if kind == "human" else None
    files = [settings.taxonomy, settings.arena, settings.arena_style, settings.agreement, reviews]
    paths = [Path(name).expanduser() for name in files if name]
    outside = [
        file_hash(path)
        for one in paths
        for path in ([one] if one.is_file() else sorted(one.rglob("*")))
        if path.is_file()
    ]
    if settings.benchmarks:
        outside += [file_hash(path) for path in result_files(settings.benchmarks)]
    weights = [fingerprint([coder.info.model_dump(), coder.crosscoder.W_dec.sum().item()]) for coder in coders]
    models = {role: source.key for role, source in work.sources.items()}
    deciding = settings.deciding() | {"answers": None}  # Their text is in the corpus's key, wherever the file lies.
    return fingerprint([__version__, deciding, models, str(work.pool.dtype), work.layer, corpus.key, weights, outside])


def _finished(out: Path, key: str) -> Run | None:
    """The run that is in ``out`` already, if it is this very one and whole: nothing is repeated then."""
    import pandas as pd

    try:
        notes = json.loads((out / "run.json").read_text())
        done = notes["findings"] == key
        paths = {name: out / file if file else None for name, file in notes["files"].items()}
        card = Card.model_validate_json((out / "card.json").read_text()) if done else None
        table = pd.read_parquet(out / "latents.parquet") if done else None
    except (OSError, ValueError, KeyError):
        return None
    if card is None or table is None or not all(path is None or path.exists() for path in paths.values()):
        return None
    return Run(card, table, out, paths)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "transformers", "numpy", "lm-eval")}


def _write(
    work: ws.Workspace,
    card: Card,
    table: pd.DataFrame,
    masses: pd.DataFrame | None,
    measured: list[side_tables.Measured],
    outside: Outside,
    out: Path,
    key: str,
    started: float,
) -> Run:
    import pandas as pd

    card = seal(card)
    for name, frame in (
        ("latents", table),
        ("examples", side_tables.example_table(measured)),
        ("evidence", pd.DataFrame([row.model_dump() for row in outside.benchmarks])),
        ("masses", masses),
        ("scores", outside.scores),
    ):
        if frame is None:
            continue
        partial = out / f"{name}.parquet.partial"
        frame.to_parquet(partial, index=False)
        partial.replace(out / f"{name}.parquet")
    with work.reporter.task("Writing the card"):
        paths = render(card, out)
    seconds, peak = round(time.monotonic() - started, 2), high_water()
    write_json(
        out / "run.json",
        {
            "findings": None if work.incomplete else key, "files": {name: path.name if path else None for name, path in paths.items()},
            "settings": redacted(work.settings.model_dump()), "layer": work.layer,
            "device": str(work.pool.device), "dtype": str(work.pool.dtype),
            "models": {role: source.key for role, source in work.sources.items()}, "trained": work.trained,
            "durations_s": {**work.durations, "total": seconds},
            "peak_memory_bytes": peak, "peak_memory_by_stage": work.memory, "argv": redacted(sys.argv[1:]),
            "cwd": _made_in(),
        },
    )  # fmt: skip
    tell("run ended", card.headline, seconds=seconds, peak_memory_process=peak, out=str(out))
    return Run(card, table, out, paths)


def _made_in() -> str | None:
    """The folder that relative names of the settings start from; None where it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return None
