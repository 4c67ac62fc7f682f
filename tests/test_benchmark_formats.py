"""Reading results that other harnesses saved, and what their files may get wrong."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeldiff_eval.benchmarks import Samples, compare, read_pair, read_results, result_files
from modeldiff_eval.errors import EvidenceError

STAMP = "2026-01-02T03-04-05.678901"
RIGHT = {"base": [1, 0, 0, 0, 0, 0, 0, 1], "tuned": [1, 1, 1, 1, 1, 1, 1, 0]}


def _rows(both: tuple[Samples, Samples]) -> dict[str, Any]:
    rows, _ = compare(*both, draws=300, rng=np.random.default_rng(0))
    return {f"{row.task} {row.metric}": row for row in rows}


def _is_the_example(row: Any) -> None:
    """Six won, one lost, one kept, whatever wrote the file."""
    assert row.paired
    assert (row.n, row.wins, row.ties, row.losses) == (8, 6, 1, 1)
    assert row.delta.value == pytest.approx(5 / 8)
    assert row.p == pytest.approx(2 * (1 + 7) / 2**7)


# --- CSV -----------------------------------------------------------------------------------------------------------


def _csv(path: Path, *, header: str = "task,document,base,tuned", more: tuple[str, ...] = ()) -> Path:
    lines = [f"quiz,q{i},{a},{b}" for i, (a, b) in enumerate(zip(RIGHT["base"], RIGHT["tuned"], strict=True))]
    path.write_text("\n".join([header, *lines, *more]) + "\n")
    return path


def test_a_csv_of_both_models(tmp_path: Path) -> None:
    rows = _rows(read_pair(_csv(tmp_path / "own.csv"), base="x", tuned="y"))
    _is_the_example(rows["quiz score"])
    assert rows["quiz score"].clusters is None
    assert rows["quiz score"].source.startswith("table own.csv")


def test_a_csv_may_name_metrics_filters_and_clusters(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    lines = [f"quiz,q{i},{i % 2},1,acc,first,p{i // 4}\nquiz,q{i},0.{i},0.9,f,first,p{i // 4}" for i in range(8)]
    path.write_text("Task,Document,Base,Tuned,Metric,Filter,Cluster\n" + "\n".join(lines) + "\n")
    both = read_pair(path, base="x", tuned="y")
    rows, caveats = compare(*both, draws=300, rng=np.random.default_rng(0))
    assert [(row.metric, row.clusters, row.n, row.headline) for row in rows] == [
        ("acc,first", 2, 8, True), ("f,first", 2, 8, False)
    ]  # fmt: skip
    assert any("Fewer than 20 clusters" in caveat for caveat in caveats)
    assert any("over clusters" in caveat for caveat in caveats)
    named, _ = compare(
        *read_pair(path, base="x", tuned="y", cluster_by="Cluster"), draws=300, rng=np.random.default_rng(0)
    )
    assert [row.clusters for row in named] == [2, 2], "a column is found as it is written"


def test_a_document_without_a_score_is_left_out_of_both_and_counted(tmp_path: Path) -> None:
    path = _csv(tmp_path / "own.csv", more=("quiz,q8,nan,1", "quiz,q9,1,"))
    rows, caveats = compare(*read_pair(path, base="x", tuned="y"), draws=300, rng=np.random.default_rng(0))
    _is_the_example(rows[0])
    assert (rows[0].base, rows[0].tuned) == (2 / 8, 7 / 8)
    assert "1 documents have no score under base and 1 none under tuned" in caveats[0]


@pytest.mark.parametrize(
    ("header", "more", "said"),
    [
        ("task,documents,base,tuned", (), "no column 'document'.*Did you mean 'documents'"),
        ("task,document,base,tuned", ("quiz,q0,1,1",), "line 10: document 'q0' of quiz .* was on line 2"),
        ("task,document,base,tuned", ("quiz,q8,1,yes",), "line 10, column 'tuned': 'yes' is no number"),
        ("task,document,base,tuned", ("quiz,,1,1",), "line 10: the cell"),
    ],
)
def test_what_is_wrong_in_a_csv_is_named_by_line(header: str, more: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=said):
        read_pair(_csv(tmp_path / "own.csv", header=header, more=more), base="x", tuned="y")


def test_a_csv_is_no_single_models_result(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="both models' scores"):
        read_results(_csv(tmp_path / "own.csv"))


# --- lighteval -----------------------------------------------------------------------------------------------------


def _lighteval(root: Path, model: str, right: list[int], *, legacy: bool = False, results: bool = True) -> Path:
    folder = root / "details" / model / STAMP
    folder.mkdir(parents=True)
    mark = "__" if legacy else ""
    docs = [
        {"query": f"question {i}", "choices": ["no", "yes"], "gold_index": 1, "id": str(i), "specific": {"passage": f"p{i // 2}"}}
        for i in range(len(right))
    ]  # fmt: skip
    metrics = [{"em": float(score), "length": 0.5 * score + 0.1} for score in right]
    answers = [{"text": ["yes"], "input": f"Q: question {i}"} for i in range(len(right))]
    table = pa.table({f"{mark}doc{mark}": docs, f"{mark}metric{mark}": metrics, f"{mark}model_response{mark}": answers})
    pq.write_table(table, folder / f"details_lighteval|quiz|5_{STAMP}.parquet")
    if results:
        place = root / "results" / model
        place.mkdir(parents=True)
        name = "lighteval|quiz|5"
        scores = {"em": sum(right) / len(right), "em_stderr": 0.1, "length": 0.5 * sum(right) / len(right) + 0.1}
        saved = {"results": {name: scores, "all": scores}, "versions": {name: 2}, "config_general": {}}
        (place / f"results_{STAMP}.json").write_text(json.dumps(saved))
    return folder


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("results", [False, True])
def test_details_of_lighteval(legacy: bool, results: bool, tmp_path: Path) -> None:
    for role, right in RIGHT.items():
        _lighteval(tmp_path, f"org/{role}-1b", right, legacy=legacy, results=results)
    both = read_pair(tmp_path, base="org/base-1b", tuned="org/tuned-1b")
    [task] = both[0].tasks
    assert (task.task, task.fewshot, task.version) == ("quiz", 5, "2" if results else None)
    assert task.documents[0].answer == "yes"
    assert bool(both[0].caveats) != results
    rows = _rows(both)
    _is_the_example(rows["quiz em"])
    assert rows["quiz length"].paired
    assert rows["quiz em"].flips[0].prompt == "question 1"


def test_details_are_clustered_by_a_field_of_the_document(tmp_path: Path) -> None:
    folders = [_lighteval(tmp_path, f"org/{role}", right) for role, right in RIGHT.items()]
    both = [read_results(folder, cluster_by="passage") for folder in folders]
    assert _rows((both[0], both[1]))["quiz em"].clusters == 4
    with pytest.raises(EvidenceError, match=r"no field 'pasage' to cluster by. Did you mean 'passage'"):
        read_results(folders[0], cluster_by="pasage")


def test_old_or_foreign_parquet_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"metrics": [1.0], "full_prompt": ["x"]}), tmp_path / f"details_quiz|0_{STAMP}.parquet")
    with pytest.raises(EvidenceError, match=r"columns metrics, full_prompt instead of doc and metric"):
        read_results(tmp_path)
    (tmp_path / f"details_quiz|0_{STAMP}.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(EvidenceError, match="cannot be read as parquet"):
        read_results(tmp_path)


# --- inspect_ai ----------------------------------------------------------------------------------------------------


def _inspect_log(model: str, right: list[int], **changes: Any) -> dict[str, Any]:
    letters = {1: "C", 0: "I"}
    samples = [
        {
            "id": i, "epoch": 1, "input": f"question {i}", "target": "yes", "metadata": {"passage": i // 2},
            "scores": {"match": {"value": letters[score], "answer": "yes" if score else "no"}},
        }
        for i, score in enumerate(right)
    ]  # fmt: skip
    mean = sum(right) / len(right)
    return {
        "version": 2,
        "status": "success",
        "eval": {"task": "pkg/quiz", "task_version": 1, "model": model, "created": "2026-01-01T00:00:00+00:00"},
        "results": {
            "completed_samples": len(right),
            "scores": [
                {"name": "match", "metrics": {"accuracy": {"value": mean}, "stderr": {"value": 0.17}}},
            ],
        },
        "samples": samples,
        **changes,
    }


def _save_log(path: Path, log: dict[str, Any], *, summaries: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(log))
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({k: v for k, v in log.items() if k != "samples"}))
        if summaries:
            archive.writestr("summaries.json", json.dumps(log["samples"]))
        for sample in log["samples"]:
            archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
    return path


@pytest.mark.parametrize(("suffix", "summaries"), [("json", True), ("eval", True), ("eval", False)])
def test_logs_of_inspect(suffix: str, summaries: bool, tmp_path: Path) -> None:
    for role, right in RIGHT.items():
        log = _inspect_log(f"hf/org/{role}", right)
        _save_log(tmp_path / f"{role}-log.{suffix}", log, summaries=summaries)
    both = read_pair(tmp_path, base="org/base", tuned="org/tuned", cluster_by="passage")
    row = _rows(both)["quiz score,match"]
    _is_the_example_clustered = (row.n, row.wins, row.losses, row.clusters)
    assert _is_the_example_clustered == (8, 6, 1, 4)
    assert row.p_mcnemar == pytest.approx(2 * (1 + 7) / 2**7)
    with pytest.raises(EvidenceError, match="no log of the tuned model org/other, only of hf/org/base, hf/org/tuned"):
        read_pair(tmp_path, base="org/base", tuned="org/other")


def test_two_files_are_a_pair(tmp_path: Path) -> None:
    paths = [_save_log(tmp_path / f"{role}.eval", _inspect_log(role, right)) for role, right in RIGHT.items()]
    spec = ",".join(map(str, paths))
    _is_the_example(_rows(read_pair(spec, base="x", tuned="y"))["quiz score,match"])
    assert result_files(spec) == paths


def test_epochs_are_one_document_and_mapped_scores_are_metrics(tmp_path: Path) -> None:
    log = _inspect_log("m", [1, 0])
    again = [{**sample, "epoch": 2, "scores": {"match": {"value": "C"}}} for sample in log["samples"]]
    log["samples"] = [
        {**s, "scores": {**s["scores"], "grade": {"value": {"a": 0.25, "b": "P"}}}} for s in log["samples"]
    ]
    log["samples"] += [{**s, "scores": {**s["scores"], "grade": {"value": {"a": 0.75, "b": "C"}}}} for s in again]
    log["results"]["scores"][0]["metrics"]["accuracy"]["value"] = 0.75
    [task] = read_results(_save_log(tmp_path / "log.eval", log)).tasks
    values = {(d.filter, d.doc_id): d.values["score"] for d in task.documents}
    assert values[("match", "0")] == 1.0
    assert values[("match", "1")] == 0.5
    assert values[("a", "0")] == 0.5
    assert values[("b", "1")] == 0.75
    assert task.n == 2


def test_a_log_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="ended as 'error'"):
        read_results(_save_log(tmp_path / "a.eval", _inspect_log("m", [1], status="error")))
    with pytest.raises(EvidenceError, match="version 3"):
        read_results(_save_log(tmp_path / "b.json", _inspect_log("m", [1], version=3)))
    with zipfile.ZipFile(tmp_path / "c.eval", "w") as archive:
        archive.writestr("_journal/start.json", "{}")
    with pytest.raises(EvidenceError, match=r"no header\.json"):
        read_results(tmp_path / "c.eval")
    (tmp_path / "d.eval").write_bytes(b"no zip")
    with pytest.raises(EvidenceError, match="inspect log convert"):
        read_results(tmp_path / "d.eval")


def test_two_kinds_in_one_folder_are_refused(tmp_path: Path) -> None:
    _save_log(tmp_path / "a.eval", _inspect_log("m", [1]))
    (tmp_path / "results_x.json").write_text("{}")
    with pytest.raises(EvidenceError, match="results of inspect_ai and lm-eval"):
        read_results(tmp_path)
