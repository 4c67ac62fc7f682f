"""lm-eval's own arc_easy over a few questions of ours: no built-in task ships its data."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lm_eval

NAME = "arc_easy_local"
QUESTIONS = (
    ("What do plants take in through their roots?", ("water", "music", "paint", "sand castles"), 0),
    ("Which of these is the hottest?", ("an ice cube", "a candle flame", "a cold stone", "a wet leaf"), 1),
    ("Where does a fish live?", ("in a cloud", "in a tree", "in a lake", "in a book"), 2),
    ("What pulls a ball back to the ground?", ("light", "sound", "colour", "gravity"), 3),
    ("Which animal has wings?", ("an owl", "a cow", "a whale", "a snake"), 0),
    ("What melts in the sun?", ("a brick", "snow", "a coin", "a nail"), 1),
)


def write_arc_easy(folder: Path, questions: Iterable[tuple[str, Iterable[str], int]] = QUESTIONS) -> Path:
    """The task ``arc_easy_local`` and the group ``with_arc`` of it and ``modeldiff``; the folder for ``include_path``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for question, choices, answer in questions:
        texts = list(choices)
        labels = "ABCDEFGH"[: len(texts)]
        rows.append({"question": question, "choices": {"text": texts, "label": [*labels]}, "answerKey": labels[answer]})
    data = folder / "arc_easy.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    original = Path(lm_eval.__file__).parent / "tasks" / "arc" / "arc_easy.yaml"
    (folder / "arc_easy_local.yaml").write_text(
        f"include: {original}\ntask: {NAME}\ntag: local_only\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {{test: {data}}}}}\ntraining_split: null\nvalidation_split: null\n"
    )
    (folder / "with_arc.yaml").write_text(
        f"group: with_arc\ntask: [modeldiff, {NAME}]\naggregate_metric_list:\n  - {{metric: acc, weight_by_size: true}}\n"
    )
    return folder
