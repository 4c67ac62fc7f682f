"""A batch of tiny pairs: what is made once, what a broken model costs the others, and that nothing is done twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
from tiny_pair import perturbed
from tiny_run import Recorder

from modeldiff_eval import activations, batch_run, fit
from modeldiff_eval.batch import Pair, named_pairs
from modeldiff_eval.batch_run import Report, run_batch
from modeldiff_eval.batch_stages import Outcome, write_text
from modeldiff_eval.errors import ModelDiffError, OutputError
from modeldiff_eval.executor import Local
from modeldiff_eval.locks import alone_in, clearing
from modeldiff_eval.progress import Reporter
from modeldiff_eval.records import Card

pytestmark = pytest.mark.usefixtures("quick_runs")
Batch = Callable[..., Report]


@pytest.fixture(scope="module")
def flags(base_model: Path, tuned_model: Path, text: Path) -> dict[str, Any]:
    """An anchored design: every tuned model against ``tuned_model``, both from ``base_model``."""
    return {
        "anchor": str(base_model), "base": str(tuned_model), "corpus": (str(text),), "rollouts": 4, "rollout_tokens": 12,
        "tasks": ("none",), "method": "batchtopk", "latents": 48, "k": 4, "steps": 20, "batch": 256, "null_tokens": 2000, "draws": 200,
        "max_length": 128, "dtype": "float32", "layer": 1, "device": "cpu",
    }  # fmt: skip


@pytest.fixture(scope="module")
def tuned(merged_model: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tuned")
    return {"simpo": merged_model, "dpo": perturbed(base_model, folder / "dpo", seed=11)}


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Path]]:
    """Stands for the pages, which have tests of their own; remembers what they were made of."""
    seen: list[dict[str, Path]] = []

    def finish(done: dict[str, Path], root: Path) -> tuple[dict[str, Path], list[str]]:
        seen.append(done)
        (root / "comparison.html").write_text("a page")
        return {"html": root / "comparison.html"}, []

    monkeypatch.setattr(batch_run, "finish", finish)
    return seen


class Counts:
    """How often each model was run, each dictionary trained, each model asked."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.harvests, self.trainings, self.asked = (
            Counter[str](),
            Counter[str](),
            Counter[str](),
        )  # Tokens; times; times.
        self.tokens: dict[str, int] = {}
        self.forward_tokens = 0
        forward, train = activations.forward_rows, fit._train_into

        def rows(loaded: Any, corpus: Any, part: Any, **options: Any) -> Any:
            key, read = (
                f"{Path(loaded.source.location).name} {loaded.dtype} {corpus.key}",
                int((part[:, 1] - part[:, 0]).sum()),
            )
            self.harvests[key] += read
            self.tokens[key] = corpus.tokens
            self.forward_tokens += read
            return forward(loaded, corpus, part, **options)

        def trained(folder: Path, work: Any, material: Any, pair: Any, method: str, *rest: Any) -> None:
            self.trainings[
                f"{pair[1] if pair[1] == 'base' else Path(work.sources[pair[1]].location).name} {method}"
            ] += 1
            train(folder, work, material, pair, method, *rest)

        def answered(model: Any, *rest: Any, model_key: str, **options: Any) -> Any:
            self.asked[model_key] += 1
            return ask(model, *rest, model_key=model_key, **options)

        from modeldiff_eval import rollouts

        ask = rollouts.rollouts
        patch.setattr(activations, "forward_rows", rows)
        patch.setattr(fit, "_train_into", trained)
        patch.setattr(rollouts, "rollouts", answered)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    return Counts(monkeypatch)


def start(pairs: Sequence[Pair], out: Path | str, cache: Path, reporter: Reporter | None = None) -> Report:
    reporter = reporter or Reporter()
    return run_batch(pairs, str(out), cache=cache, executor=Local(reporter), reporter=reporter)


def make(tuned: dict[str, Path], flags: dict[str, Any], *more: str, **options: Any) -> list[Pair]:
    return named_pairs([*(f"{name}={path}" for name, path in tuned.items()), *more], flags | options)


def test_two_tuned_models_of_one_base_share_what_is_not_theirs(
    tuned: dict[str, Path], flags: dict[str, Any], counts: Counts, pages: list[Any], tmp_path: Path
) -> None:
    pairs = make(tuned, flags, method="difference")
    report = start(pairs, tmp_path / "out", tmp_path / "cache")
    assert [(p.name, p.state, p.error) for p in report.pairs] == [("simpo", "done", None), ("dpo", "done", None)]
    assert report.exit_code == 0
    # One text: base and both tuned models are asked once each, and every model reads that text once.
    assert sorted(counts.asked.values()) == [1, 1, 1]
    assert counts.harvests == counts.tokens  # Every token of a text once by each model.
    texts = {key.rpartition(" ")[2] for key in counts.harvests if "float32" in key}
    assert len(texts) == 1
    assert sorted(key.rpartition(" ")[0] for key in counts.harvests) == [
        "dpo torch.float32", "tiny-base torch.float32", "tiny-merged torch.float32",
        "tiny-tuned torch.bfloat16", "tiny-tuned torch.float32",
    ]  # fmt: skip
    # Two dictionaries for each of (anchor, base), (anchor, simpo), (anchor, dpo): six, not eight.
    assert counts.trainings == {
        f"{second} {method}": 1 for second in ("base", "dpo", "tiny-merged") for method in ("batchtopk", "difference")
    }
    cards = [Card.model_validate_json((tmp_path / "out" / n / "card.json").read_text()) for n in tuned]
    assert cards[0].crosscoders[0] == cards[1].crosscoders[0]
    assert cards[0].coverage == cards[1].coverage
    assert cards[0].provenance.corpus == cards[1].provenance.corpus
    sources = {row.part for row in cards[0].activation_by if row.split != "token kind"}
    assert {"answers of base", "answers of simpo", "answers of dpo"} <= sources
    assert pages == [{name: tmp_path / "out" / name for name in tuned}]
    written = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert written["files"] == {"html": "comparison.html"}
    # Again: everything is there.
    before = counts.forward_tokens, counts.trainings.total()
    again = start(pairs, tmp_path / "out", tmp_path / "cache")
    assert [pair.state for pair in again.pairs] == ["kept", "kept"]
    assert (counts.forward_tokens, counts.trainings.total()) == before
    assert [p.headline for p in again.pairs] == [p.headline for p in report.pairs]


def test_a_broken_model_stops_no_other(
    tuned: dict[str, Path], flags: dict[str, Any], pages: list[Any], base_model: Path, tmp_path: Path
) -> None:
    broken = perturbed(base_model, tmp_path / "broken", seed=1)
    (broken / "model.safetensors").write_bytes(b"torn")
    pairs = make(tuned, flags, f"broken={broken}", f"absent={tmp_path}/absent", rollouts=0, anchor=None)
    notes: list[str] = []
    recorder = Recorder()
    recorder.note = notes.append  # type: ignore[method-assign]
    report = start(pairs, tmp_path / "out", tmp_path / "cache", recorder)
    assert [pair.state for pair in report.pairs] == ["done", "done", "failed", "failed"]
    assert report.exit_code == 3
    assert "Cannot load" in str(report.pairs[2].error)
    assert "There is no model at" in str(report.pairs[3].error)
    assert list(pages[0]) == ["simpo", "dpo"]
    assert [line.split(":")[0] for line in notes if line.startswith("[")] == [
        "[1/4] simpo", "[2/4] dpo", "[3/4] broken", "[4/4] absent",
    ]  # fmt: skip
    assert {title.split(":")[0] for title in recorder.calls} >= {"shared of 4 pairs", "simpo (1/4)", "dpo (2/4)"}
    # Repaired, only it is made.
    perturbed(base_model, broken, seed=1)
    again = start(pairs, tmp_path / "out", tmp_path / "cache")
    assert [pair.state for pair in again.pairs] == ["kept", "kept", "done", "failed"]
    assert list(pages[1]) == ["simpo", "dpo", "broken"]


def test_a_model_that_cannot_be_asked_is_left_out_of_the_text(
    tuned: dict[str, Path], flags: dict[str, Any], pages: list[Any], tmp_path: Path
) -> None:
    pairs = make({"dpo": tuned["dpo"]}, flags, f"absent={tmp_path}/absent", anchor=None)
    report = start(pairs, tmp_path / "out", tmp_path / "cache")
    assert [(pair.name, pair.state) for pair in report.pairs] == [("dpo", "done"), ("absent", "failed")]
    assert "There is no model at" in str(report.pairs[1].error)
    (answers,) = (tmp_path / "cache" / "rollouts").glob("batch-*/answers.jsonl")
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert Counter(row["source"] for row in rows) == {"answers of base": 4, "answers of dpo": 4}
    assert len({row["group"] for row in rows}) == 4


def test_a_file_of_answers_joins_those_of_the_models(
    tuned: dict[str, Path], flags: dict[str, Any], tmp_path: Path
) -> None:
    own = tmp_path / "own.jsonl"
    chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "well met"}]}
    own.write_text("".join(json.dumps(row) + "\n" for row in (chat, {"text": "a plain page"})))
    pairs = tuple(make({"dpo": tuned["dpo"]}, flags, anchor=None, answers=str(own)))
    text = write_text(pairs, tmp_path / "cache")
    rows = [json.loads(line) for line in Path(str(text.answers)).read_text().splitlines()]
    assert [row["source"] for row in rows[:8]].count("answers of base") == 4
    assert [row.get("messages", row.get("text")) for row in rows[8:]] == [chat["messages"], "a plain page"]
    own.unlink()
    assert "own.jsonl" in write_text(pairs, tmp_path / "cache").broken["dpo"]


def test_an_error_nobody_foresaw_is_one_pairs_and_leaves_a_traceback(
    tuned: dict[str, Path], flags: dict[str, Any], pages: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modeldiff_eval import batch_stages

    def fail(**options: Any) -> Any:
        if options["settings"].tuned == str(tuned["dpo"]):
            raise ZeroDivisionError("by hand")
        return diff(**options)

    diff = batch_stages.diff
    monkeypatch.setattr(batch_stages, "diff", fail)
    report = start(make(tuned, flags, rollouts=0, anchor=None), tmp_path / "out", tmp_path / "cache")
    assert [pair.state for pair in report.pairs] == ["done", "failed"]
    assert str(report.pairs[1].error).startswith("ZeroDivisionError: by hand (error.txt")
    assert "ZeroDivisionError: by hand" in (tmp_path / "out" / "dpo" / "error.txt").read_text()


def test_an_interrupted_batch_goes_on(
    tuned: dict[str, Path], flags: dict[str, Any], counts: Counts, pages: list[Any], tmp_path: Path
) -> None:
    pairs = make(tuned, flags, rollouts=0, anchor=None)
    stop = Recorder("dpo (2/2): Training", at=1)
    with pytest.raises(KeyboardInterrupt):
        start(pairs, tmp_path / "out", tmp_path / "cache", stop)
    assert pages == []
    report = start(pairs, tmp_path / "out", tmp_path / "cache")
    assert [pair.state for pair in report.pairs] == ["kept", "done"]
    assert counts.trainings["tiny-merged batchtopk"] == 1
    assert counts.harvests == counts.tokens


def test_two_batches_do_not_work_in_one_folder(tuned: dict[str, Path], flags: dict[str, Any], tmp_path: Path) -> None:
    with alone_in(tmp_path / "out"), pytest.raises(OutputError, match="Another run"):
        start(make(tuned, flags), tmp_path / "out", tmp_path / "cache")


class Watched:
    """Runs nothing; every pair "is done" after a look at the locks."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def submit(self, name: str, stage: Any, *arguments: Any) -> str:
        return name

    def finished(self, tasks: Any) -> Iterator[tuple[str, Outcome]]:
        with pytest.raises(OutputError, match="A run is using the cache"), clearing(self._cache):
            pass
        for name in tasks:
            yield name, Outcome(name=name, state="failed", error="not run")


def test_a_whole_batch_holds_the_cache_and_uploads_no_lock(bucket: str, tmp_path: Path) -> None:
    pairs = named_pairs(["a=o/y", "b=o/z"], {"base": "o/x"})
    run_batch(pairs, bucket, cache=tmp_path / "cache", executor=Watched(tmp_path / "cache"))
    with clearing(tmp_path / "cache"):
        pass
    assert fsspec.filesystem("memory").find("/bucket/batch") == ["/bucket/batch/compare.json"]


def test_a_pair_that_cannot_be_fetched_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str, folder: Path) -> bool:
        raise OutputError(f"{url} cannot be read.")

    monkeypatch.setattr(batch_run, "fetch", fail)
    notes: list[str] = []
    assert not batch_run._here("memory://x", "simpo", tmp_path, notes)
    assert notes == ["simpo is left out of the comparison: memory://x/simpo cannot be read."]


def test_pages_that_cannot_be_made_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = pytest.importorskip("modeldiff_eval.comparison")
    leaderboard = pytest.importorskip("modeldiff_eval.leaderboard")

    def fail(*_: Any, **__: Any) -> Any:
        raise ModelDiffError("not today.")

    def break_down(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("by hand")

    monkeypatch.setattr(comparison, "compare_runs", break_down)
    monkeypatch.setattr(leaderboard, "write_leaderboard", fail)
    files, notes = batch_run.finish({"a": tmp_path / "a", "b": tmp_path / "b"}, tmp_path)
    assert (files, notes) == ({}, ["No comparison page: ZeroDivisionError: by hand", "No leaderboard: not today."])
    assert Report(pairs=[], notes=notes).exit_code == 3
    assert batch_run.finish({}, tmp_path) == ({}, [])


@pytest.fixture
def bucket() -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    yield "memory://bucket/batch"
    fs.rm("/bucket", recursive=True)


def test_a_batch_on_remote_storage_is_found_there_by_another_machine(
    tuned: dict[str, Path], flags: dict[str, Any], counts: Counts, pages: list[Any], bucket: str, tmp_path: Path
) -> None:
    pairs = make(tuned, flags, rollouts=0, anchor=None)
    assert start(pairs, bucket, tmp_path / "cache").exit_code == 0
    fs = fsspec.filesystem("memory")
    names = {path.removeprefix("/bucket/batch/") for path in fs.find("/bucket/batch")}
    assert {"compare.json", "comparison.html", "dpo/run.json", "dpo/card.json", "simpo/latents.parquet"} <= names
    assert not [name for name in names if name.endswith((".lock", ".partial"))]
    # Another machine with an empty disk but the same cache of activations and crosscoders.
    (tmp_path / "cache" / "remote").rename(tmp_path / "gone")
    before = counts.forward_tokens, counts.trainings.total()
    again = start(pairs, bucket, tmp_path / "cache")
    assert [pair.state for pair in again.pairs] == ["kept", "kept"]
    assert (counts.forward_tokens, counts.trainings.total()) == before
    assert all((folder / "card.json").exists() for folder in pages[1].values())
