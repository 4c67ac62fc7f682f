"""The lm-eval task ``modeldiff`` with real comparisons of tiny models, as lm-eval loads them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from local_arc import NAME, write_arc_easy
from tiny_lm import tiny_tokenizer
from tiny_pair import load_model, save_model

from modeldiff_eval import diff, models
from modeldiff_eval.benchmarks import tasks_dir
from modeldiff_eval.card_file import read_card
from modeldiff_eval.errors import MismatchedModelsError, ModelError
from modeldiff_eval.harness_metrics import card_metrics
from modeldiff_eval.records import Card

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def options(text: Path) -> dict[str, Any]:
    """Settings that are metadata here, for runs of a second."""
    return {
        "method": "batchtopk", "corpus": [str(text)], "rollouts": 0, "latents": 48, "k": 4, "steps": 20, "batch": 256,
        "null_tokens": 1000, "draws": 100, "layer": 1, "tokens": 4000,
    }  # fmt: skip


def evaluate(model_args: str | dict[str, Any], metadata: dict[str, Any], *folders: Path, **more: Any) -> dict[str, Any]:
    """``simple_evaluate`` with a model that lm-eval loads, as the README shows it."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    paths = [str(tasks_dir()), *map(str, folders)]
    manager = TaskManager(include_path=paths, include_defaults=False, metadata=metadata)
    tasks = more.pop("tasks", ["modeldiff"])
    results = simple_evaluate(
        "hf", model_args=model_args, tasks=tasks, task_manager=manager, device="cpu", batch_size=4, bootstrap_iters=0, **more
    )  # fmt: skip
    assert isinstance(results, dict)
    return results


def shown(results: dict[str, Any]) -> dict[str, float]:
    """The metrics in lm-eval's results, without its own "N/A" and names."""
    numbers = {k.partition(",")[0]: v for k, v in results["results"]["modeldiff"].items() if k.endswith(",none")}
    return {name: value for name, value in numbers.items() if value != "N/A"}


def same_findings(one: Card, other: Card) -> bool:
    """Whether two cards say the same of the models."""
    parts = ("latents", "classes", "categories", "activation_by", "differences")
    return all(getattr(one, part) == getattr(other, part) for part in parts)


def test_the_table_is_the_card_of_the_comparison(
    base_model: Path, tuned_model: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    results = evaluate(
        f"pretrained={tuned_model},dtype=float32",
        {"base_model": str(base_model), "out": str(out), **options},
        write_arc_easy(tmp_path / "tasks"),
        tasks=["modeldiff", NAME],
        apply_chat_template=True,
    )
    card = read_card(out)
    assert shown(results) == card_metrics(card).values
    assert results["configs"]["modeldiff"]["metadata"]["card"] == str(out / "card.json")
    assert 0 <= results["results"][NAME]["acc,none"] <= 1
    plain = diff(str(base_model), str(tuned_model), out=tmp_path / "plain", dtype="float32", tasks=(), **options)
    assert same_findings(card, plain.card), "the same as without lm-eval"


def test_with_an_adapter_nothing_is_loaded_twice(
    base_model: Path, adapter: Path, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel

    expected = diff(
        str(base_model), str(adapter), out=tmp_path / "loaded", tasks=(), dtype="float32", **options,
        tuned_loaded=(PeftModel.from_pretrained(load_model(base_model), str(adapter)).eval(), tiny_tokenizer()),
    )  # fmt: skip

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a model was loaded a second time")

    monkeypatch.setattr(models, "load", refuse)
    arguments = {"pretrained": str(base_model), "peft": str(adapter), "dtype": "float32"}
    results = evaluate(arguments, {"out": str(tmp_path / "run"), **options})
    card = read_card(tmp_path / "run")
    assert same_findings(card, expected.card), "the model with its adapter off is the base"
    assert (card.models.base.id, card.models.base.adapter) == (base_model.name, None)
    assert (card.models.tuned.id, card.models.tuned.adapter) == (base_model.name, adapter.name)
    assert card.models.base.revision == card.models.tuned.revision
    assert shown(results) == card_metrics(card).values
    assert str(base_model.parent) not in card.to_json()


def test_no_stale_base_with_both_caches_on(
    base_model: Path, tuned_model: Path, merged_model: Path, options: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import lm_eval.caching.cache

    monkeypatch.setattr(lm_eval.caching.cache, "PATH", str(tmp_path / "requests"))
    cards = []
    for number, base in enumerate((base_model, merged_model)):
        out = tmp_path / str(number)
        results = evaluate(
            f"pretrained={tuned_model},dtype=float32",
            {"base_model": str(base), "out": str(out), **options},
            write_arc_easy(tmp_path / "tasks"),
            tasks=[NAME, "modeldiff"],
            use_cache=str(tmp_path / "responses"),
            cache_requests=True,
        )
        cards.append(read_card(out))
        assert shown(results) == card_metrics(cards[-1]).values
    assert [card.models.base.id for card in cards] == [base_model.name, merged_model.name]
    assert not same_findings(cards[0], cards[1])


def test_the_evaluated_model_is_left_as_it_was(
    base_model: Path, adapter: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from peft import PeftModel

    def weights() -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()

    model = PeftModel.from_pretrained(load_model(base_model), str(adapter)).eval()
    before = weights()
    metadata = {"out": str(tmp_path / "run"), **options}
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False, metadata=metadata)
    lm = HFLM(pretrained=model, tokenizer=tiny_tokenizer(), batch_size="auto")
    results = simple_evaluate(lm, tasks=["modeldiff"], task_manager=manager, bootstrap_iters=0)
    assert results is not None
    assert results["results"]["modeldiff"]["specific_base,none"] >= 0
    assert weights() == before
    assert not any(module._forward_hooks for module in model.modules())
    assert model.active_adapters == ["default"]


def test_bases_that_cannot_be_compared(
    base_model: Path, tuned_model: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    deep = save_model(tmp_path / "deep", seed=0, layers=4)
    arguments = f"pretrained={tuned_model},dtype=float32"
    with pytest.raises(MismatchedModelsError, match="layers 4"):
        evaluate(arguments, {"base_model": str(deep), "out": str(tmp_path / "run"), **options})
    with pytest.raises(ModelError, match="There is no model at"):
        evaluate(arguments, {"base_model": "./nowhere", "out": str(tmp_path / "run"), **options})
    assert not (tmp_path / "run" / "card.json").exists()


def command(*arguments: str, folder: Path, program: str = "modeldiff_eval.cli") -> subprocess.CompletedProcess[str]:
    """Run ``modeldiff-eval lm-eval …`` or stock lm-eval as a user does."""
    ours = "import sys; from modeldiff_eval.cli import main; main(['lm-eval', *sys.argv[1:]])"
    start = ["-c", ours] if program == "modeldiff_eval.cli" else ["-m", program]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *start, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow(minutes=2)
def test_the_command_line(
    base_model: Path, tuned_model: Path, adapter: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    """Both forms of lm-eval's command, stock and ours, a group, own tasks beside ours, metadata as JSON and as pairs."""
    local = str(write_arc_easy(tmp_path / "tasks"))
    common = ("--device", "cpu", "--batch_size", "4", "--limit", "2", "--apply_chat_template")
    metadata = json.dumps({"base_model": str(base_model), "out": "run", **options})
    model = ("--model", "hf", "--model_args", f"pretrained={tuned_model},dtype=float32")
    saved = ("--output_path", str(tmp_path / "out"), "--log_samples")
    done = command(
        "run",
        *model,
        *common,
        "--tasks",
        "with_arc",
        "--include_path",
        local,
        "--metadata",
        metadata,
        *saved,
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    values = card_metrics(read_card(tmp_path / "run")).values
    [results] = (tmp_path / "out").rglob("results_*.json")
    saved_values = json.loads(results.read_text())["results"]["modeldiff"]
    assert {name: saved_values[f"{name},none"] for name in values} == values
    assert len(list((tmp_path / "out").rglob("samples_*.jsonl"))) == 2
    for shown_name in ("modeldiff", NAME, "specific_tuned", "fve_base"):
        assert shown_name in done.stdout
    pairs = [
        "out=peft",
        *(f"{name}={value}" for name, value in options.items() if name != "corpus"),
        f"corpus={options['corpus'][0]}",
    ]
    lora = ("--model", "hf", "--model_args", f"pretrained={base_model},peft={adapter},dtype=float32")
    stock = command(
        *lora, *common, "--tasks", "modeldiff", "--include_path", str(tasks_dir()), "--metadata", *pairs,
        folder=tmp_path, program="lm_eval",
    )  # fmt: skip
    assert stock.returncode == 0, stock.stderr[-3000:]
    assert "specific_tuned" in stock.stdout
    assert read_card(tmp_path / "peft").models.tuned.adapter == adapter.name


@pytest.mark.slow(minutes=1)
def test_the_command_reports_errors_in_one_line(tuned_model: Path, tmp_path: Path) -> None:
    model = ("--model", "hf", "--model_args", f"pretrained={tuned_model}", "--device", "cpu", "--tasks", "modeldiff")
    for arguments, code, text in (
        ((*model,), 2, "error: The task modeldiff needs its base"),
        (("--model", "dummy", "--tasks", "modeldiff", "--metadata", "base_model=x"), 2, "DummyLM does not allow"),
    ):
        failed = command(*arguments, folder=tmp_path)
        assert failed.returncode == code, failed.stderr[-2000:]
        assert text in failed.stderr
        assert "Traceback" not in failed.stderr


def test_the_comparison_comes_before_the_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In our command, whatever the order of --tasks is; the user's folder stands beside ours, and ours may be named too."""
    import lm_eval.__main__
    import lm_eval.tasks

    from modeldiff_eval.harness_cli import evaluate as lm_eval_command

    seen: list[Any] = []
    local = write_arc_easy(tmp_path / "tasks")

    def stub() -> None:
        for path in (str(local), [str(tasks_dir()), str(local)]):
            manager = lm_eval.tasks.TaskManager(include_path=path, include_defaults=False, metadata={"base_model": "b"})
            seen.append((sys.argv, list(manager.load([NAME, "modeldiff"])["tasks"]), manager.include_path))

    stock = lm_eval.tasks.TaskManager
    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", stub)
    assert lm_eval_command(["ls", "tasks"]) == 0
    expected = (["lm-eval", "ls", "tasks"], ["modeldiff", NAME], [str(tasks_dir()), str(local)])
    assert seen == [expected, expected]
    assert lm_eval.tasks.TaskManager is stock, "lm-eval is left as it was"
