"""The stages of a batch, from files to files: one text for all, what pairs share, and one pair.

What they make lies in the cache or in a pair's folder; between stages go names of files. So an engine can run them
anywhere that sees these folders, and run a stage again whose machine died: it goes on from what is there.
"""

from __future__ import annotations

import gc
import json
import time
import traceback
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from modeldiff_eval import fit, seeds
from modeldiff_eval import models as weights
from modeldiff_eval import workspace as ws
from modeldiff_eval.batch import Pair
from modeldiff_eval.benchmark_stage import score
from modeldiff_eval.corpus import Document
from modeldiff_eval.diff import diff
from modeldiff_eval.errors import ModelDiffError
from modeldiff_eval.executor import Named
from modeldiff_eval.plan_run import require_room
from modeldiff_eval.progress import Reporter
from modeldiff_eval.records import Record
from modeldiff_eval.remote import MARKER, is_url, working_folder
from modeldiff_eval.settings import Settings
from modeldiff_eval.store import fingerprint, once
from modeldiff_eval.store import write_text as write_file

ERROR_FILE = "error.txt"


class Text(Record):
    """One text for pairs of one base. ``answers``: the file with what their models wrote, None where none was asked for.

    ``text_from``: the model whose chat template writes it. ``broken``: pairs whose models could not be asked, with why.
    """

    answers: str | None = None
    text_from: str | None = None
    broken: dict[str, str] = Field(default_factory=dict)

    def settings_of(self, pair: Pair) -> Settings:
        """The pair's settings with this text in place of answers of its own two models."""
        own = pair.settings
        return own.model_copy(
            update={"answers": self.answers or own.answers, "text_from": self.text_from or own.text_from, "rollouts": 0}
        )


class Outcome(Record):
    """How one pair ended. ``kept``: its finished run was there already and nothing was made."""

    name: str
    state: Literal["done", "kept", "failed"]
    headline: str | None = None
    error: str | None = None
    seconds: float = 0.0


def write_text(pairs: tuple[Pair, ...], cache: Path, *, reporter: Reporter | None = None) -> Text:
    """The answers of base and of every tuned model to the same prompts, in one file of the cache.

    With the answers of its own two models alone each pair would have another text, and nothing could be shared or compared.
    A model that cannot be asked is named in ``broken``; the others' text goes without its answers. What a file of ``answers``
    holds stands after them, as it does for one pair.
    """
    reporter, broken = reporter or Reporter(), dict[str, str]()
    writer = _writer(pairs, cache)
    wanted = pairs[0].settings.rollouts
    documents: dict[str, list[Document]] = {}
    for pair in pairs if wanted else ():
        settings = pair.settings.model_copy(update={"text_from": writer})
        try:
            work = ws.open_workspace(settings, cache=cache, reporter=Named(reporter, pair.name))
            for role, source in (("base", "answers of base"), ("tuned", f"answers of {pair.name}")):
                key = work.sources[role].key
                if key not in documents:
                    documents[key] = _signed(ws.answers_of(work, role), key, source)
        except Exception as error:
            broken[pair.name] = explain(error)
    if not documents:
        return Text(text_from=writer, broken=broken)
    rows = [_row(document) for key in sorted(documents) for document in documents[key]]
    if own := pairs[0].settings.answers:
        try:
            rows += [_row(document) for document in ws.read_answers(own, pairs[0].settings.seed)]
        except Exception as error:
            return Text(text_from=writer, broken=dict.fromkeys((pair.name for pair in pairs), explain(error)))
    folder = cache / "rollouts" / f"batch-{fingerprint(rows)}"
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    once(folder, lambda partial: _written(partial / "answers.jsonl", lines))
    return Text(answers=str(folder / "answers.jsonl"), text_from=writer, broken=broken)


def share(pair: Pair, text: Text, out: Path, cache: Path, *, reporter: Reporter | None = None) -> str | None:
    """Make what all pairs of one base need, as a comparison of base with itself would begin.

    The tokens, the activations of anchor and base, the dictionaries of (anchor, base), and base's benchmarks. The pairs find
    them in the cache.

    Returns:
        What went wrong, if something did: the pairs meet it again and say it themselves.
    """
    try:
        settings = text.settings_of(pair)
        work = ws.open_workspace(
            settings.model_copy(update={"tuned": settings.base, "text_from": settings.text_from or settings.tuned}),
            cache=cache,
            reporter=reporter or Reporter(),
        )
        material = fit.harvest(work, ws.gather_text(work))
        ws.null_rows(work, material.measured)
        if settings.anchor and not settings.crosscoder:
            for number in range(settings.seeds):
                seeded = seeds.reseeded(work, number)
                for method in dict.fromkeys((fit.whole_method(settings), settings.method)):
                    fit.fit(seeded, material, "anchor", "base", log_folder=out / "shared", method=method)
        if settings.tasks and not settings.benchmarks:
            score(work, "base")
    except Exception as error:
        return explain(error)
    return None


def run_pair(
    pair: Pair,
    text: Text,
    shared: str | None,
    out: str,
    folder: Path,
    cache: Path,
    force: bool = False,
    *,
    reporter: Reporter | None = None,
) -> Outcome:
    """Compare one pair into ``folder`` (and upload it to ``out`` where that is a URL). A failure is an outcome.

    Args:
        shared: the result of :func:`share`; given so that an engine runs that stage first.
        force: start although memory or disk will not do.
    """
    del shared
    started = time.monotonic()

    def outcome(state: Literal["done", "kept", "failed"], **more: Any) -> Outcome:
        return Outcome(name=pair.name, state=state, seconds=round(time.monotonic() - started, 2), **more)

    if pair.name in text.broken:
        return outcome("failed", error=text.broken[pair.name])
    try:
        with working_folder(out, folder) if is_url(out) else nullcontext():
            before = _bytes(folder / MARKER)
            settings = text.settings_of(pair)
            if not (force or before or settings.crosscoder):
                require_room(settings, cache)
            run = diff(settings=settings, out=folder, cache=cache, reporter=reporter)
            state: Literal["done", "kept"] = "kept" if before and before == _bytes(folder / MARKER) else "done"
            (folder / ERROR_FILE).unlink(missing_ok=True)
        return outcome(state, headline=run.card.headline)
    except Exception as error:
        if not isinstance(error, ModelDiffError):
            with suppress(ModelDiffError):  # A full disk, say: the outcome still tells what happened.
                write_file(folder / ERROR_FILE, traceback.format_exc())
        return outcome("failed", error=explain(error))
    finally:
        gc.collect()


def explain(error: Exception) -> str:
    """An error in one line: our own say what to do, others get their type's name."""
    if isinstance(error, ModelDiffError):
        return str(error)
    first = str(error).strip().partition("\n")[0][:300]
    return f"{type(error).__name__}: {first} ({ERROR_FILE} in its folder has the traceback)"


def _writer(pairs: tuple[Pair, ...], cache: Path) -> str | None:
    """The model whose chat template writes the text of all pairs.

    A tuned one's where all tuned models that have a template have the same: each pair is then asked as it would be alone. Else
    base's own, else the first there is. None where no tokenizer can be read: the pairs say why.
    """
    first = pairs[0].settings
    if first.text_from:
        return first.text_from
    templates: dict[str, str | None] = {}
    for pair in pairs:
        settings = pair.settings
        try:
            sources = weights.resolve_all(
                settings.base, settings.tuned, settings.anchor, trust_remote_code=settings.trust_remote_code
            )
            for name, role in ((settings.tuned, "tuned"), (settings.base, "base")):
                if name not in templates:
                    templates[name] = weights.load_tokenizer(sources[role], cache=cache).chat_template
        except Exception:
            continue  # A broken model does not write; its pair says what is wrong with it.
    of_base = templates.pop(first.base, None)
    own = {template: name for name, template in reversed(templates.items()) if template is not None}
    if len(own) == 1 or (own and of_base is None):
        return list(own.values())[-1]
    return first.base if of_base is not None else next(iter(templates), None)


def _signed(documents: list[Document], key: str, source: str) -> list[Document]:
    """Answers under the key of the weights that wrote them, whatever the model's role in a pair."""
    return [document.model_copy(update={"id": f"{key}:{document.group}", "source": source}) for document in documents]


def _row(document: Document) -> dict[str, Any]:
    """A document as a line of a corpus file holds it."""
    row = document.model_dump(exclude={"messages"}, exclude_none=True)
    if document.messages is not None:
        row["messages"] = [{"role": role, "content": content} for role, content in document.messages]
    return row


def _written(path: Path, text: str) -> None:
    write_file(path, text)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
