"""What a run will read, looked at before any long work: a misspelt name costs a second, not an hour."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from modeldiff_eval import crosscoder_import, fit
from modeldiff_eval.agreement import map_for
from modeldiff_eval.annotate import require_annotator
from modeldiff_eval.benchmark_stage import saved_results
from modeldiff_eval.corpus_mixture import parse_sources
from modeldiff_eval.corpus_sources import corpus_files
from modeldiff_eval.model_sources import looks_local, require_model
from modeldiff_eval.models import pick_device
from modeldiff_eval.outside import require_arena_input
from modeldiff_eval.settings import Settings
from modeldiff_eval.taxonomy import Taxonomy
from modeldiff_eval.trackers import require as require_trackers


def require_inputs(settings: Settings, *, given: Collection[str] = (), fetch: bool = True) -> None:
    """Refuse a run that names something which is not there or cannot be used.

    Args:
        given: roles whose models are in memory already.
        fetch: ask hubs for what is not here, as the run itself will; a plan asks none.

    Raises:
        ModelDiffError: as the stage that reads the input would raise it.
    """
    require_trackers(settings.log_to)
    taxonomy = Taxonomy.load(Path(settings.taxonomy) if settings.taxonomy else None)
    map_for(settings.agreement, taxonomy)
    require_arena_input(settings)
    require_annotator(settings.annotator, taxonomy, model=settings.annotator_model, max_cost=settings.max_cost)
    pick_device(settings.device)
    models = {role: getattr(settings, role) for role in ("anchor", "base", "tuned", "text_from")}
    in_memory = {models[role] for role in given}
    for name in models.values():
        if name and name not in in_memory:
            require_model(name)
    for source in parse_sources(settings.corpus):
        corpus_files(source.location)
    if settings.answers:
        corpus_files(settings.answers)
    for spec in fit.given_crosscoders(settings, 2 if settings.anchor else 1):
        if spec and (fetch or looks_local(spec)):
            crosscoder_import.find(spec)
    if settings.benchmarks:
        saved_results(settings)
    tasks = (*(() if settings.benchmarks else settings.tasks), *settings.causal_tasks)
    _require_tasks(tasks, data=fetch)


def _require_tasks(names: Collection[str], *, data: bool) -> None:
    """The packaged group is there; to ask lm-eval takes seconds."""
    from modeldiff_eval.benchmark_guard import generators_kept, quiet
    from modeldiff_eval.benchmark_tasks import SMOKE, load_tasks

    if wanted := [name for name in names if name != SMOKE]:
        with quiet(False), generators_kept():
            load_tasks(wanted, data=data)
