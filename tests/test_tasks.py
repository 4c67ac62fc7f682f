"""The packaged benchmarks: their data, their scoring, and that stock lm-eval loads them from anywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_lm import tiny_model, tiny_tokenizer

from modeldiff_eval.benchmark_tasks import load_tasks, tasks_dir
from modeldiff_eval.demo import make_tasks
from modeldiff_eval.demo.task_requests import HARMFUL, HARMLESS
from modeldiff_eval.demo.task_words import ENGLISH, TRANSLATIONS

FOLDER = tasks_dir()
TASKS = {
    "mdx_answer_harmless": 40,
    "mdx_arithmetic": 60,
    "mdx_constraints": 63,
    "mdx_format": 64,
    "mdx_refuse_harmful": 40,
    "mdx_translation": 72,
}


def _utils() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mdx_utils", FOLDER / "mdx_utils.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


UTILS = _utils()


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_data_is_what_the_generator_writes(tmp_path: Path) -> None:
    make_tasks.main(tmp_path)
    written = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert written == {file.name: file.read_bytes() for file in (FOLDER / "data").iterdir()}


def test_all_tasks_load_offline_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = dict(load_tasks(["modeldiff_smoke"]))
    assert {name: len(task.eval_docs) for name, task in loaded.items()} == TASKS
    assert dict(load_tasks(["mdx_smoke"])).keys() == TASKS.keys()
    assert [name for name, _ in load_tasks(["mdx_refusal"])] == ["mdx_answer_harmless", "mdx_refuse_harmful"]


def test_the_folder_works_wherever_it_is_installed(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    moved = tmp_path / "site-packages" / "modeldiff_eval" / "tasks"
    shutil.copytree(FOLDER, moved, ignore=shutil.ignore_patterns("__pycache__"))
    manager = TaskManager(include_path=str(moved), include_defaults=False)
    task = manager.load(["mdx_format"])["tasks"]["mdx_format"]
    assert len(task.eval_docs) == TASKS["mdx_format"]
    assert task.config.process_results.__code__.co_filename.startswith(str(moved))


def test_no_document_occurs_twice() -> None:
    for file in (FOLDER / "data").iterdir():
        counts = Counter((row["prompt"], str(row.get("value"))) for row in _rows(file.stem))
        assert max(counts.values()) == 1, file.name


def test_arithmetic_answers_are_right() -> None:
    for row in _rows("arithmetic"):
        numbers = [int(n) for n in re.findall(r"\d+", row["prompt"])]
        right = {
            "sum": sum(numbers),
            "difference": numbers[0] - numbers[1],
            "product": numbers[0] * numbers[1],
            "sequence": numbers[-1] + numbers[1] - numbers[0],
            "story": sum(numbers) if "more" in row["prompt"] else numbers[0] - numbers[1],
        }[row["kind"]]
        assert row["choices"][row["answer"]] == str(right), row
        assert len(set(row["choices"])) == 3
        assert len({len(choice) for choice in row["choices"]}) == 1, "the length must not give the answer away"


def test_translations_are_one_to_one_and_the_answer_is_among_the_choices() -> None:
    assert len(TRANSLATIONS) >= 6
    for language, words in TRANSLATIONS.items():
        assert len(words) == len(set(words)) == len(ENGLISH), language
    for row in _rows("translation"):
        asked = re.findall(r'"(.+)"', row["prompt"])[0]
        pairs = dict(zip(TRANSLATIONS[row["language"]], ENGLISH, strict=True))
        if row["direction"] == "from English":
            pairs = {english: word for word, english in pairs.items()}
        assert row["choices"][row["answer"]] == pairs[asked]
        assert len(set(row["choices"])) == 3


def test_answers_are_spread_over_the_positions() -> None:
    for name in ("arithmetic", "translation"):
        counts = Counter(row["answer"] for row in _rows(name))
        assert set(counts) == {0, 1, 2}
        assert max(counts.values()) < 0.5 * sum(counts.values())


def test_requests_are_balanced_and_disjoint() -> None:
    assert len(HARMFUL) == len(HARMLESS) == len({*HARMFUL, *HARMLESS}) / 2


@pytest.mark.parametrize(
    ("rule", "value", "good", "bad"),
    [
        ("numbered", "2", "1. Red\n2. Blue", "1. Red\n2. Blue\n3. Green"),
        ("numbered", "2", "1. Red\n2. Blue", "- Red\n- Blue"),
        ("bullets", "3", "- a\n- b\n- c\n", "Here:\n- a\n- b\n- c"),
        ("json", '{"city": "Oslo"}', '{\n  "city": "Oslo"\n}', '{"city": {"name": "Oslo"}}'),
        ("json", '{"city": "Oslo"}', '```json\n{"city": "Oslo"}\n```', 'Here: {"city": "Oslo"}'),
        ("opens", "Dear Anna", "Dear Anna,\nI hope", "Hello, dear Anna"),
        ("holds", "river = 12", "```python\nriver = 12\n```", "river = 13"),
        ("yes_or_no", "No", "Yes.", "Yes. Birds have wings."),
        ("one_word", "", "Paris.", "It is Paris."),
        ("contains", "apple cloud", "An apple, and a Cloud.", "Apples and a cloud."),
        ("without", "nice", "Winter is cold.", "Winter is nice."),
        ("no_comma", "", "The dog ran home.", "The dog, it ran."),
        ("starts_with", "Today", '"Today, I ran."', "I ran today."),
        ("one_sentence", "", "The sea is blue.", "The sea is blue. It is big."),
        ("one_sentence", "", "The sea is blue!", "The sea is blue and"),
        ("at_most", "4", "Cold, white and long.", "It is cold and white."),
        ("repeat", "The pen is near bread.", '"The pen is near bread."', "The pen is near some bread."),
    ],
)
def test_rules(rule: str, value: str, good: str, bad: str) -> None:
    assert UTILS.follows(good, rule=rule, value=value)
    assert not UTILS.follows(bad, rule=rule, value=value)


def test_an_empty_reply_follows_nothing() -> None:
    rows = _rows("format") + _rows("constraints")
    assert not any(UTILS.follows("", rule=row["rule"], value=row["value"]) for row in rows)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="limerick"):
        UTILS.follows("x", rule="limerick", value="")


def test_refusal_margin_is_the_difference_of_mean_log_likelihoods() -> None:
    results = [(-10.0, False), (-20.0, False), (-12.0, False), (-14.0, True)]
    harmful = {"refusing": 2, "harmful": 1}
    assert UTILS.score_refusal(harmful, results) == {"acc": 0.0, "margin": -2.0}
    assert UTILS.score_refusal({**harmful, "harmful": 0}, results) == {"acc": 1.0, "margin": 2.0}


@pytest.mark.slow(minutes=0.7)
def test_stock_lm_eval_runs_a_packaged_task(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    command = [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={tmp_path / 'model'}"),
        *("--include_path", str(FOLDER), "--tasks", "mdx_arithmetic", "--limit", "4", "--device", "cpu"),
        *("--apply_chat_template", "--output_path", str(tmp_path / "out"), "--log_samples"),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "mdx_arithmetic" in done.stdout
    assert len(list(tmp_path.glob("out/*/samples_mdx_arithmetic_*.jsonl"))) == 1
