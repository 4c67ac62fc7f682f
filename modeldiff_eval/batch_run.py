"""A batch from its pairs to its pages: what is shared once, every pair whatever the others do, then what compares them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from modeldiff_eval._version import __version__
from modeldiff_eval.batch import Pair, grouped
from modeldiff_eval.batch_stages import Outcome, explain, run_pair, share, write_text
from modeldiff_eval.errors import ModelDiffError
from modeldiff_eval.executor import Executor
from modeldiff_eval.locks import alone_in, in_use
from modeldiff_eval.progress import Reporter
from modeldiff_eval.records import Record
from modeldiff_eval.remote import fetch, is_url, local_folder, upload
from modeldiff_eval.store import require_writable, write_json

log = logging.getLogger(__name__)

REPORT = "compare.json"


class Report(Record):
    """``OUT/compare.json``: how every pair ended, the pages made of them, and what was not made, with why."""

    package: str = __version__
    pairs: list[Outcome]
    files: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 when every pair is done and compared, else 3."""
        return 3 if self.notes or any(pair.state == "failed" for pair in self.pairs) else 0


def run_batch(
    pairs: Sequence[Pair],
    out: str,
    *,
    cache: Path,
    executor: Executor,
    reporter: Reporter | None = None,
    force: bool = False,
) -> Report:
    """Run every pair into ``OUT/<name>``; a failed one is reported and stops no other. Run again, it goes on.

    Args:
        out: a folder, or a URL that fsspec can write: pairs are uploaded as they end, the pages last.
        force: start pairs although memory or disk will not do.

    Raises:
        OutputError: OUT cannot be written, or another batch works in it.
    """
    reporter = reporter or Reporter()
    root, cache = local_folder(out, cache).absolute(), cache.absolute()  # Workers may stand elsewhere.
    # The cache is held for the whole batch: what one stage leaves there, the next one reads.
    with alone_in(require_writable(root)), in_use(cache):
        tasks = _submit(pairs, out, root, cache, executor, force)
        outcomes: dict[str, Outcome] = {}
        for name, result in executor.finished(tasks):
            failed = isinstance(result, Exception)
            outcomes[name] = Outcome(name=name, state="failed", error=explain(result)) if failed else result
            reporter.note(progress_line(outcomes[name], len(outcomes), len(pairs)))
        ended = [outcomes[pair.name] for pair in pairs]
        done = {outcome.name: root / outcome.name for outcome in ended if outcome.state != "failed"}
        notes: list[str] = []
        if is_url(out):
            done = {name: folder for name, folder in done.items() if _here(out, name, folder, notes)}
        files, more = finish(done, root)
        notes += more
        report = Report(
            pairs=ended, files={name: path.relative_to(root).as_posix() for name, path in files.items()}, notes=notes
        )
        write_json(root / REPORT, report.model_dump())
        if is_url(out):
            upload(root, out, marker=REPORT, leave=[pair.name for pair in pairs])
    return report


def _submit(
    pairs: Sequence[Pair], out: str, root: Path, cache: Path, executor: Executor, force: bool
) -> dict[str, object]:
    """Stages in the order of what they need: a text for each base, what is shared on it, the pairs."""
    texts = {
        pair.name: text
        for group in grouped(pairs, "text_key")
        for text in [executor.submit(_names("text", group), write_text, group, cache)]
        for pair in group
    }
    shared: dict[str, object] = {}
    for group in grouped(pairs, "shared_key"):
        by_text = grouped(group, "text_key")
        for own in by_text:
            task = None
            if len(own) > 1:  # One pair alone makes all of it itself.
                task = executor.submit(_names("shared", own), share, own[0], texts[own[0].name], root, cache)
            shared |= {pair.name: task for pair in own}
    return {
        pair.name: executor.submit(
            f"{pair.name} ({number}/{len(pairs)})", run_pair,
            pair, texts[pair.name], shared[pair.name], f"{out}/{pair.name}", root / pair.name, cache, force,
        )
        for number, pair in enumerate(pairs, start=1)
    }  # fmt: skip


def _names(what: str, group: Sequence[Pair]) -> str:
    return f"{what} of {len(group)} pairs" if len(group) > 1 else f"{what} of {group[0].name}"


def progress_line(outcome: Outcome, ended: int, total: int) -> str:
    """One line of a batch's progress."""
    said = {"done": "done", "kept": "was done before", "failed": f"failed: {outcome.error}"}[outcome.state]
    return f"[{ended}/{total}] {outcome.name}: {said} ({outcome.seconds:.0f} s)"


def _here(out: str, name: str, folder: Path, notes: list[str]) -> bool:
    """Bring a finished pair's tables here for the comparison; where that fails, a note says that it goes without the pair."""
    try:
        fetch(f"{out}/{name}", folder)
    except ModelDiffError as error:
        notes.append(f"{name} is left out of the comparison: {error}")
        return False
    return True


def finish(done: dict[str, Path], root: Path) -> tuple[dict[str, Path], list[str]]:
    """The comparison of the finished pairs and their leaderboard, below ``root``.

    Returns:
        Written files by name, and a sentence for each of the two that could not be made.
    """
    from modeldiff_eval.comparison import compare_runs
    from modeldiff_eval.leaderboard import write_leaderboard
    from modeldiff_eval.render_comparison import render_comparison

    files: dict[str, Path] = {}
    notes: list[str] = []
    if len(done) > 1:
        try:
            pages = render_comparison(compare_runs(done), root)
            files |= {f"comparison {name}": path for name, path in pages.items()}
        except Exception as error:
            notes.append(f"No comparison page: {_why(error)}")
    if done:
        try:
            made = write_leaderboard([folder / "card.json" for folder in done.values()], root / "leaderboard")
            files |= {f"leaderboard {name}": path for name, path in made.items()}
        except Exception as error:
            notes.append(f"No leaderboard: {_why(error)}")
    return files, notes


def _why(error: Exception) -> str:
    """An error of the pages, which must not take the finished pairs' report with it; one nobody foresaw goes to the log whole."""
    if isinstance(error, ModelDiffError):
        return str(error)
    log.warning("A page of the batch could not be made.", exc_info=error)
    return f"{type(error).__name__}: {error}"
