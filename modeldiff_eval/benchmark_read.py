"""Saved benchmark results, whatever wrote them: one place that finds out which reader fits.

``--benchmarks`` takes a folder that holds both models' results, a CSV with both, or ``BASE,TUNED``: two files or folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from modeldiff_eval.benchmark_csv import read_csv
from modeldiff_eval.benchmark_inspect import is_inspect, model_of, read_inspect
from modeldiff_eval.benchmark_lighteval import read_lighteval
from modeldiff_eval.benchmark_lm_eval import read_lm_eval
from modeldiff_eval.benchmark_samples import Samples
from modeldiff_eval.errors import EvidenceError
from modeldiff_eval.plain_json import read_json

_KINDS = ".json", ".jsonl", ".eval", ".parquet", ".csv"


def split_paths(benchmarks: str) -> list[Path]:
    """The one path, or the two of ``BASE,TUNED``; a path that exists with a comma in it is one."""
    parts = benchmarks.split(",")
    return (
        [Path(benchmarks)] if len(parts) != 2 or Path(benchmarks).exists() else [Path(part.strip()) for part in parts]
    )


def result_files(benchmarks: str) -> list[Path]:
    """All files that the comparison may depend on."""
    found = []
    for path in split_paths(benchmarks):
        found += [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in _KINDS)
    return [file for file in found if file.is_file()]


def read_results(path: Path, *, cluster_by: str | None = None) -> Samples:
    """What one model scored, from files of lm-eval, lighteval or inspect_ai.

    Args:
        path: a results file, or a folder that holds some, directly or in one subfolder (lm-eval makes one per model). Of
            several runs the newest counts for each task.
        cluster_by: a field of the documents.

    Raises:
        EvidenceError: nothing is there, several models are, or a file is malformed (with its line).
    """
    if path.is_file():
        return _read_file(path, cluster_by)
    if not path.is_dir():
        raise EvidenceError(f"{path} does not exist. Pass a results_*.json of lm-eval or the folder that holds it.")
    found = {
        "inspect_ai": _inspect_files(path),
        "lighteval": sorted(path.rglob("details_*.parquet")),
    }
    found["lm-eval"] = [] if found["lighteval"] else _lm_eval_files(path)
    kinds = [kind for kind, files in found.items() if files]
    if not kinds:
        raise EvidenceError(
            f"{path} holds no results_*.json of lm-eval, details_*.parquet of lighteval or *.eval of inspect_ai. "
            "Run lm_eval with --output_path and --log_samples."
        )
    if len(kinds) > 1:
        raise EvidenceError(f"{path} holds results of {' and '.join(kinds)}. Pass one kind of them.")
    readers = {"inspect_ai": read_inspect, "lighteval": read_lighteval, "lm-eval": read_lm_eval}
    if kinds == ["lighteval"] and len(models := {file.parent.parent for file in found["lighteval"]}) > 1:
        raise _several(path, models)
    return readers[kinds[0]](path, found[kinds[0]], cluster_by=cluster_by)


def _read_file(path: Path, cluster_by: str | None) -> Samples:
    if path.suffix == ".eval":
        return read_inspect(path, [path], cluster_by=cluster_by)
    if path.suffix == ".parquet":
        return read_lighteval(path, [path], cluster_by=cluster_by)
    if path.suffix == ".csv":
        raise EvidenceError(f"{path} is a CSV, which holds both models' scores. Give it alone: --benchmarks {path}")
    if path.suffix == ".jsonl":
        raise EvidenceError(f"{path} holds samples only. Pass the results_*.json beside it, or its folder.")
    if _is_inspect_file(path):
        return read_inspect(path, [path], cluster_by=cluster_by)
    return read_lm_eval(path, [path], cluster_by=cluster_by)


def _inspect_files(path: Path) -> list[Path]:
    logs = sorted(path.glob("*.eval"))
    return logs or [file for file in sorted(path.glob("*.json")) if _is_inspect_file(file)]


def _is_inspect_file(file: Path) -> bool:
    """Whether a JSON file is a log of inspect_ai; what cannot be read is left to lm-eval's reader, which says so."""
    if file.name.startswith("results_"):
        return False
    try:
        return is_inspect(read_json(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def _lm_eval_files(path: Path) -> list[Path]:
    """Result files of one model, newest first."""
    files = list(path.glob("results_*.json"))
    if not files:
        folders = {file.parent for file in path.glob("*/results_*.json")}
        if len(folders) > 1:
            raise _several(path, folders)
        files = [file for folder in folders for file in folder.glob("results_*.json")]
    return sorted(files, key=lambda file: file.name, reverse=True)


def _several(path: Path, folders: Iterable[Path]) -> EvidenceError:
    names = ", ".join(sorted(folder.name for folder in folders))
    return EvidenceError(f"{path} holds results of several models ({names}). Pass one of these folders.")


def read_pair(
    benchmarks: str | Path, *, base: str, tuned: str, cluster_by: str | None = None
) -> tuple[Samples, Samples]:
    """Both models' saved results.

    In one folder the two are found as subfolders ``base`` and ``tuned``, by the names that lm-eval and lighteval give to
    the folders of the models ``base`` and ``tuned``, or by the model that inspect_ai's logs name.

    Raises:
        EvidenceError: a model's results are missing; what is there is listed.
    """
    paths = split_paths(str(benchmarks))
    if len(paths) == 2:
        return read_results(paths[0], cluster_by=cluster_by), read_results(paths[1], cluster_by=cluster_by)
    path = paths[0]
    if path.is_file() and path.suffix == ".csv":
        return read_csv(path, cluster_by=cluster_by)
    if not path.is_dir():
        raise EvidenceError(
            f"{path} is not a folder. Pass the folder that holds both models' results, a CSV of both, or BASE,TUNED."
        )
    if logs := _inspect_files(path):
        return (
            _inspect_of(path, logs, "base", base, cluster_by),
            _inspect_of(path, logs, "tuned", tuned, cluster_by),
        )
    return _folder_of(path, "base", base, cluster_by), _folder_of(path, "tuned", tuned, cluster_by)


def _folder_of(path: Path, role: str, model: str, cluster_by: str | None) -> Samples:
    """The results in the subfolder of one model; lighteval keeps them under ``details/ORG/NAME``."""
    places = [path, *(place for place in (path / "details", *path.glob("details/*")) if place.is_dir())]
    folders = {folder.name.lower(): folder for place in places for folder in sorted(place.iterdir()) if folder.is_dir()}
    bare = model.partition("@")[0]
    names = [role, _sanitized(model), _sanitized(bare), bare.replace("/", "__"), Path(bare).name, Path(model).name]
    for name in names:
        if name.lower() in folders:
            return read_results(folders[name.lower()], cluster_by=cluster_by)
    raise EvidenceError(
        f"{path} holds no results of the {role} model {model}: looked for a folder {role!r} or "
        f"{_sanitized(model)!r}, found {sorted(folders) or 'none'}. Rename the right one to {role!r}."
    )


def _inspect_of(path: Path, logs: list[Path], role: str, model: str, cluster_by: str | None) -> Samples:
    """The logs whose model is ``model``, with or without the provider in front of it."""
    named = {file: model_of(file) for file in logs}
    bare = model.partition("@")[0].lower()
    mine = [file for file, name in named.items() if name.lower() == bare or name.lower().endswith(f"/{bare}")]
    if not mine:
        raise EvidenceError(
            f"{path} holds no log of the {role} model {model}, only of {', '.join(sorted(set(named.values())))}. "
            "Give each model's logs a folder, and both as --benchmarks BASE,TUNED."
        )
    return read_inspect(path, mine, cluster_by=cluster_by)


def _sanitized(model: str) -> str:
    """The folder name that lm-eval gives to a model."""
    return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", model)
