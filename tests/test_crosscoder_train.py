"""``crosscoder train`` as a user meets it: one process, killed and resumed, two processes; what it refuses; its plan."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from calling import Run, caller
from safetensors.torch import load_file
from test_ranks import free_port
from tiny_lm import tiny_tokenizer
from tiny_pair import load_model, save_corpus
from tiny_run import Recorder

from modeldiff_eval import activations, fit, train
from modeldiff_eval import crosscoder_train as c
from modeldiff_eval.plan import StepRate
from modeldiff_eval.plan_machine import Machine
from modeldiff_eval.settings import Settings, make_settings

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("--rollouts", "0", "--latents", "45", "--k", "3", "--steps", "40", "--dtype", "float32", "--layer", "1")
HIDDEN = {"BATCH": "256", "MAX_LENGTH": "128", "MEASURE_TOKENS": "2000"}
GB = 10**9


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call the command line in an empty working folder; gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    return caller(capsys)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HIDDEN.items():
        monkeypatch.setenv(f"MODELDIFF_{name}", value)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_corpus(tmp_path_factory.mktemp("text") / "text.jsonl", documents=90, seed=5)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache that this test fills alone."""
    monkeypatch.setenv("MODELDIFF_CACHE", str(tmp_path / "fresh"))
    return tmp_path / "fresh"


@pytest.fixture
def fitted(run: Run, base_model: Path, tuned_model: Path, text: Path) -> Run:
    return partial(run, "crosscoder", "train", "--first", base_model, "--second", tuned_model, "--corpus", text, *SMALL)


def settings_of(base_model: Path, tuned_model: Path, text: Path, **changed: Any) -> Settings:
    values = {
        "base": str(base_model), "tuned": str(tuned_model), "corpus": (str(text),), "rollouts": 0, "latents": 45, "k": 3, "steps": 40,
        "dtype": "float32", "layer": 1, "batch": 256, "max_length": 128, "measure_tokens": 2000, "tasks": (), "null_tokens": 500, "draws": 200,
    }  # fmt: skip
    return make_settings(values | changed, environ={})[0]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "native" / "sae_weights.safetensors")


def same(first: Path, second: Path, **tolerance: float) -> bool:
    ours, theirs = weights(first), weights(second)
    assert set(ours) == set(theirs)
    if tolerance:
        return all(torch.allclose(ours[name], theirs[name], **tolerance) for name in ours)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


# One process -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["--no-stream", "--stream"])
def test_a_folder_that_a_comparison_takes(
    fitted: Run,
    run: Run,
    base_model: Path,
    tuned_model: Path,
    text: Path,
    tmp_path: Path,
    how: str,
) -> None:
    code, out, err = fitted(how, "--out", "made/cc", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert {file.name for file in Path("made/cc").iterdir()} == {"native", "jumprelu", "training.jsonl", "quality.json"}
    assert [file.name for file in Path("made").iterdir()] == ["cc"]
    assert "Training the crosscoder" in err
    about, quality = facts["metadata"], facts["quality"]
    assert (facts["path"], facts["n_latents"], facts["k"], about["layer"]) == ("made/cc", 45, 3, 1)
    assert about["models"] == [base_model.name, tuned_model.name]
    assert about["streamed"] is (how == "--stream")
    assert facts["rows_presented"] == 40 * 256
    assert 0.2 < quality["fve_first"] <= 1
    if about["streamed"]:
        assert 2000 <= quality["heldout_tokens"] == quality["dead_tokens"] < 2500
    else:
        assert quality["dead_tokens"] == about["tokens"] + quality["heldout_tokens"]
    code, out, err = run("crosscoder", "info", "made/cc", "--json")
    assert (code, {**facts, **json.loads(out)}) == (0, facts)
    # The printed next command begins a comparison with it.
    code, out, err = fitted(how, "--out", "made/cc")
    assert code == 0, err
    assert f"silent over {quality['dead_tokens']:,} tokens" in out
    words = shlex.split(out.splitlines()[-1].removeprefix("next: "))
    assert words[: len(HIDDEN)] == [
        f"MODELDIFF_{name}={HIDDEN[name]}" for name in ("BATCH", "MEASURE_TOKENS", "MAX_LENGTH")
    ]
    code, out, err = run(*words[len(HIDDEN) + 1 :], "--show-config")
    assert code == 0, err
    shown = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert shown["crosscoder"] == ["('made/cc',)", "flag"]


def test_the_same_command_again_does_nothing(fitted: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitted("--stream", "--out", "cc", "-q") == (0, "cc\n", "")
    for module, name in ((fit, "train_method"), (activations, "forward_rows")):
        monkeypatch.setattr(module, name, None)
    before = {path: path.stat().st_mtime_ns for path in Path("cc").rglob("*")}
    code, out, err = fitted("--stream", "--out", "cc", "--json")
    assert code == 0, err
    assert json.loads(out)["trained"] is False
    assert {path: path.stat().st_mtime_ns for path in Path("cc").rglob("*")} == before
    # Another folder is filled from the cache.
    assert fitted("--stream", "--out", "copy", "-q") == (0, "copy\n", "")
    assert same(Path("copy"), Path("cc"))


def test_base_and_tuned_are_the_same_options(
    run: Run,
    base_model: Path,
    tuned_model: Path,
    text: Path,
    fitted: Run,
) -> None:
    pair = ("--base", base_model, "--tuned", tuned_model)
    assert run("crosscoder", "train", *pair, "--corpus", text, *SMALL, "--out", "cc", "-q")[0] == 0
    assert fitted("--out", "cc", "-q") == (0, "cc\n", "")


def test_streaming_keeps_a_sample_on_the_disk(fitted: Run, fresh: Path) -> None:
    code, out, err = fitted("--stream", "--out", "cc", "--json")
    assert code == 0, err
    measured = json.loads(out)["quality"]["heldout_tokens"]
    sizes = {path.stat().st_size for path in (fresh / "activations").glob("*/rows.bin")}
    assert len(sizes) == 1
    assert sizes.pop() == (measured + json.loads(out)["dropped"]["outliers_in_measured_text"] + _bos(fresh)) * 32 * 4


def _bos(cache: Path) -> int:
    """Leading BOS tokens in the measured text, counted in the norms that the harvest noted."""
    import numpy as np

    (tokens,) = (path for path in (cache / "tokens").iterdir() if path.is_dir())
    documents = json.loads((tokens / "documents.json").read_text())["heldout"]
    sequences, ids = np.load(tokens / "sequences.npy"), np.load(tokens / "ids.npy")
    heldout, seen, bos = -1, 0, 0
    for start, end, document in sequences:
        if documents[document]:
            if document != heldout and seen >= 2000:
                break
            heldout, seen, bos = document, seen + end - start, bos + (ids[start] == 256)
    return int(bos)


def test_an_own_cache_lies_beside_the_folder(fitted: Run, fresh: Path) -> None:
    assert fitted("--stream", "--out", "cc", "--no-cache", "-q")[0] == 0
    assert (Path("cc.cache") / "crosscoders").is_dir()
    assert not fresh.exists()


def test_its_log_has_the_training(fitted: Run, fresh: Path) -> None:
    assert fitted("--out", "cc", "-q", "--log-json", "log.jsonl") == (0, "cc\n", "")
    found = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    ended = [line["task"] for line in found if line["event"] == "task ended"]
    assert "Training the crosscoder (base, tuned)" in ended


def test_an_interrupted_training_goes_on(
    base_model: Path, tuned_model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_SAVING_SHARE", 1e9)
    settings = settings_of(base_model, tuned_model, text, stream=True)
    make = partial(c.train_crosscoder, settings, checkpoint_minutes=0.0)
    assert make(tmp_path / "whole", cache=tmp_path / "one")
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut", cache=tmp_path / "two", reporter=Recorder("Training", 20))
    assert not (tmp_path / "cut").exists()
    rest = Recorder()
    facts = make(tmp_path / "cut", cache=tmp_path / "two", reporter=rest)
    assert facts
    assert facts["trained"]
    (steps,) = (calls for title, calls in rest.calls.items() if title.startswith("Training"))
    assert 10 < steps[0] <= 21
    assert same(tmp_path / "cut", tmp_path / "whole")


# What is refused -------------------------------------------------------------------------------------


def test_a_document_with_nan_is_named(
    run: Run,
    tuned_model: Path,
    base_model: Path,
    tmp_path: Path,
    fresh: Path,
) -> None:
    """One training document alone holds a Z, whose embedding is NaN in the second model."""
    from modeldiff_eval.corpus import is_heldout

    source = save_corpus(tmp_path / "text.jsonl", documents=90, seed=5)
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    at = next(i for i, row in enumerate(rows) if "text" in row)
    group = next(name for name in "abcdef" if not is_heldout(name, share=0.25, seed=0))
    rows[at] |= {"text": "Z" + rows[at]["text"], "group": group}
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = load_model(tuned_model)
    with torch.no_grad():
        model.get_input_embeddings().weight[tiny_tokenizer()("Z").input_ids[-1]] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    tiny_tokenizer().save_pretrained(tmp_path / "nan")
    pair = ("--first", base_model, "--second", tmp_path / "nan", "--corpus", source)
    code, out, err = run("crosscoder", "train", *pair, *SMALL, "--stream", "--out", "cc", "-q")
    assert (code, out) == (3, "")
    assert "nan gives NaN or infinite activations after block 1" in err
    assert f"(document '{rows[at]['id']}'" in err
    # The held-out sample was harvested whole: the row came with the stream.
    assert len(list((fresh / "activations").glob("*/meta.json"))) == 2
    assert not Path("cc").exists()


def test_what_is_there_is_not_overwritten(fitted: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    monkeypatch.setattr(fit, "harvest", None)
    code, out, err = fitted("--out", "mine")
    assert (code, out) == (2, "")
    assert "mine exists already and is not a crosscoder" in err
    monkeypatch.undo()
    for name, value in HIDDEN.items():
        monkeypatch.setenv(f"MODELDIFF_{name}", value)


def test_another_crosscoder_is_not_overwritten(fitted: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitted("--stream", "--out", "cc", "-q")[0] == 0
    before = weights(Path("cc"))
    monkeypatch.setattr(fit, "train_method", None)
    for other in (["--seed", "1"], ["--no-stream"], ["--steps", "41"]):
        code, _, err = fitted("--stream", "--out", "cc", *other)
        assert code == 2
        assert "cc holds another crosscoder" in err
    assert all(torch.equal(tensor, weights(Path("cc"))[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--second", "y", "--out", "cc"], "--first is missing"),
        (["--base", "x", "--out", "cc"], "--second is missing"),
        (["--first", "x", "--second", "y"], "--out is missing"),
        (["--first", "x", "--second", "y", "--out", "cc", "--preset", "quik"], "Did you mean 'quick'"),
        (["--first", "x", "--second", "y", "--out", "cc", "--plan-ranks", "0"], "--plan-ranks"),
        (["--preset", "standard", "--dry-run"], "--first is missing"),
    ],
)
def test_usage_errors(run: Run, words: list[str], message: str) -> None:
    code, out, err = run("crosscoder", "train", *words)
    assert (code, out) == (2, "")
    assert message in err


# The plan --------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A machine by hand, and rates that cost no time."""
    from modeldiff_eval import plan, plan_run

    monkeypatch.setattr(plan, "step_rate", lambda *_: StepRate(product=1e-9, row=1e-6, latent=1e-7))
    monkeypatch.setattr(plan, "product_rate", lambda *_: 1e12)

    def put(ram: float, free: float) -> None:
        place = Machine(
            cores=2, ram_total=int(ram * GB), ram_available=int(ram * GB), disk_free=int(free * GB), device="cpu", device_name="CPU"
        )  # fmt: skip
        monkeypatch.setattr(plan_run, "machine", lambda *_: place)

    return put


def test_the_paper_is_planned_without_models(run: Run, machine: Callable[..., None], fresh: Path) -> None:
    machine(ram=128, free=100)
    code, out, err = run("crosscoder", "train", "--preset", "paper", "--dry-run")
    assert (code, err) == (0, "")
    assert "114,688 latents, k 100, 97,656 steps" in out
    assert "streamed from both models; those of 2,000 held-out tokens" in out
    assert out.rstrip().endswith("Fits          this machine, as far as the training goes")
    machine(ram=16, free=100)
    code, out, _ = run("crosscoder", "train", "--preset", "paper", "--dry-run", "--plan-ranks", "8", "--json")
    planned = json.loads(out)
    assert (code, planned["fits"], planned["job"]["ranks"]) == (2, False, 8)
    assert planned["problems"]
    assert planned["advice"]
    code, out, _ = run("crosscoder", "train", "--preset", "paper", "--dry-run", "--no-stream")
    assert code == 2
    assert "Does not fit" in out
    assert "What would" in out
    assert not fresh.exists()


def test_an_anchor_of_the_environment_is_not_planned_for(
    run: Run, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(ram=128, free=200)
    monkeypatch.setenv("MODELDIFF_ANCHOR", "some/anchor")
    monkeypatch.setenv("MODELDIFF_PRESET", "paper")
    planned = json.loads(run("crosscoder", "train", "--dry-run", "--json")[1])
    assert (planned["job"]["n_models"], planned["job"]["n_crosscoders"]) == (2, 1)
    assert planned["job"]["shape"]["d_model"] == 3584  # the preset came from the environment as well


def test_processes_side_by_side_share_the_memory(
    run: Run,
    machine: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine(ram=100, free=100)
    command = ("crosscoder", "train", "--preset", "paper", "--dry-run", "--json")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "4")
    monkeypatch.setenv("RANK", "0")
    planned = json.loads(run(*command)[1])
    assert (planned["job"]["ranks"], planned["machine"]["ram_available"]) == (4, 25 * GB)
    monkeypatch.setenv("RANK", "1")
    assert run(*command)[1] == ""  # The first of them prints it.


def test_what_cannot_fit_is_refused_before_any_work(
    fitted: Run, machine: Callable[..., None], fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(ram=0.0001, free=100)
    code, out, err = fitted("--out", "cc")
    assert (code, out) == (2, "")
    assert "does not fit here" in err
    assert "of RAM are needed" in err
    assert "--force" in err
    assert not list(fresh.glob("[!.]*"))
    assert fitted("--out", "cc", "--force", "-q") == (0, "cc\n", "")


def test_what_the_cache_holds_counts_as_free(fitted: Run, machine: Callable[..., None], fresh: Path) -> None:
    """A training that is resumed has written most of what it needs."""
    machine(ram=10, free=0)
    code, _, err = fitted("--out", "cc")
    assert code == 2
    assert "of disk are needed" in err
    (fresh / "activations" / "x.partial").mkdir(parents=True)
    with (fresh / "activations" / "x.partial" / "rows.bin").open("wb") as file:
        file.truncate(10 * GB)
    assert fitted("--out", "cc", "-q")[0] == 0


def test_the_main_command_refuses_too(
    run: Run,
    machine: Callable[..., None],
    base_model: Path,
    tuned_model: Path,
    fresh: Path,
) -> None:
    machine(ram=0.0001, free=100)
    code, _, err = run("--base", base_model, "--tuned", tuned_model, *SMALL)
    assert code == 2
    assert "does not fit here" in err
    assert not fresh.exists()


def test_the_main_plan_knows_streaming(
    run: Run,
    machine: Callable[..., None],
    base_model: Path,
    tuned_model: Path,
) -> None:
    machine(ram=10, free=10)
    pair = ("--base", base_model, "--tuned", tuned_model, "--dry-run")
    assert "streamed from both models" in run(*pair, "--stream")[1]
    assert "harvested once" in run(*pair)[1]


# Several processes, and kills ------------------------------------------------------------------------


def words_of(base_model: Path, tuned_model: Path, text: Path, out: Path, *more: str) -> list[str]:
    pair = ["--first", str(base_model), "--second", str(tuned_model), "--corpus", str(text)]
    return ["-m", "modeldiff_eval.cli", "crosscoder", "train", *pair, *SMALL, "--out", str(out), *more]


def environ(cache: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"MODELDIFF_CACHE": str(cache), "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return os.environ | {f"MODELDIFF_{name}": value for name, value in HIDDEN.items()} | own | more


def until_saved(cache: Path, processes: list[subprocess.Popen[str]]) -> None:
    """Wait for a checkpoint of every process."""
    end = time.monotonic() + 120
    while len({path.name.split("-")[2] for path in cache.glob("crosscoders/*.partial/checkpoint-*.safetensors")}) < len(
        processes
    ):
        assert all(process.poll() is None for process in processes), processes[0].communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow(minutes=1)
def test_a_killed_training_gives_the_same_weights_bitwise(
    base_model: Path, tuned_model: Path, text: Path, tmp_path: Path
) -> None:
    more = ("--stream", "--steps", "500", "--checkpoint-minutes", "0")
    whole = words_of(base_model, tuned_model, text, tmp_path / "whole", *more)
    subprocess.run([sys.executable, *whole], env=environ(tmp_path / "one"), check=True, capture_output=True)
    words = words_of(base_model, tuned_model, text, tmp_path / "cut", *more)
    killed = subprocess.Popen([sys.executable, *words], env=environ(tmp_path / "two"), text=True)
    until_saved(tmp_path / "two", [killed])
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut").exists()
    subprocess.run([sys.executable, *words], env=environ(tmp_path / "two"), check=True, capture_output=True)
    assert same(tmp_path / "cut", tmp_path / "whole")
    lines = (tmp_path / "cut" / "training.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == sorted({json.loads(line)["step"] for line in lines})


@pytest.mark.slow(minutes=1)
def test_a_stopped_training_saves_first_and_loses_no_step(
    base_model: Path, tuned_model: Path, text: Path, tmp_path: Path
) -> None:
    more = ("--steps", "1500", "--checkpoint-minutes", "1000")
    words = words_of(base_model, tuned_model, text, tmp_path / "cut", *more)
    stopped = subprocess.Popen(
        [sys.executable, *words], env=environ(tmp_path / "two"), stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    while not list(tmp_path.glob("two/crosscoders/*.partial")):  # Nothing else is written before the first checkpoint.
        assert stopped.poll() is None, stopped.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(1)
    stopped.terminate()
    _, err = stopped.communicate(timeout=60)
    assert stopped.returncode == 143
    assert "Stopping at the next safe place" in err
    assert "run the same command again to resume" in err
    (saved,) = tmp_path.glob("two/crosscoders/*.partial/checkpoint-*.safetensors")
    assert int(saved.name.split("-")[1]) > 20
    subprocess.run([sys.executable, *words], env=environ(tmp_path / "two"), check=True, capture_output=True)
    whole = words_of(base_model, tuned_model, text, tmp_path / "whole", *more)
    subprocess.run([sys.executable, *whole], env=environ(tmp_path / "one"), check=True, capture_output=True)
    assert same(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.slow(minutes=0.5)
@pytest.mark.parametrize("how", ["--no-stream", "--stream"])
def test_two_processes_give_the_result_of_one(
    base_model: Path, tuned_model: Path, text: Path, tmp_path: Path, how: str
) -> None:
    alone = words_of(base_model, tuned_model, text, tmp_path / "alone", how)
    subprocess.run([sys.executable, *alone], env=environ(tmp_path / "one"), check=True, capture_output=True)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = words_of(base_model, tuned_model, text, tmp_path / "both", how, "--json")
    done = subprocess.run(
        [sys.executable, *launch, *words], env=environ(tmp_path / "two"), check=True, capture_output=True, text=True
    )
    facts = json.loads(done.stdout)  # The leader alone talks.
    assert (facts["processes"], facts["trained"]) == (2, True)
    assert same(tmp_path / "both", tmp_path / "alone", rtol=1e-4, atol=1e-4)
    quality = [json.loads((tmp_path / name / "quality.json").read_text()) for name in ("both", "alone")]
    assert quality[0] == pytest.approx(quality[1], rel=1e-4)
    assert not list((tmp_path / "two").rglob("*.partial"))
    assert len([path for path in (tmp_path / "two" / "crosscoders").iterdir() if path.is_dir()]) == 1


@pytest.mark.slow(minutes=1)
def test_a_dead_process_stops_the_other_by_name_and_the_command_resumes(
    base_model: Path, tuned_model: Path, text: Path, tmp_path: Path
) -> None:
    more = ("--stream", "--steps", "200", "--checkpoint-minutes", "0")

    def start(name: str) -> list[subprocess.Popen[str]]:
        words = words_of(base_model, tuned_model, text, tmp_path / name, *more)
        group = {
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
        }
        return [
            subprocess.Popen(
                [sys.executable, *words], env=environ(tmp_path / f"{name}.cache", RANK=str(rank), LOCAL_RANK=str(rank), **group),
                text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for rank in range(2)
        ]  # fmt: skip

    processes = start("cc")
    until_saved(tmp_path / "cc.cache", processes)
    processes[1].kill()
    _, err = processes[0].communicate(timeout=120)
    processes[1].communicate()
    assert processes[0].returncode == 3, err
    assert "error: Rank 0 of 2 lost rank 1" in err
    assert "Traceback" not in err
    assert not (tmp_path / "cc").exists()
    for name in ("cc", "undisturbed"):
        again = start(name)
        assert [process.communicate(timeout=300)[1] for process in again][1] == ""
        assert [process.returncode for process in again] == [0, 0]
    assert same(tmp_path / "cc", tmp_path / "undisturbed")


def test_a_comparison_refuses_several_processes(
    run: Run,
    base_model: Path,
    tuned_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = run("--base", base_model, "--tuned", tuned_model)
    assert code == 2
    assert "runs in one process" in err


def test_each_process_gets_its_share_of_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    c._share_processors()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    c._share_processors()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # The user's own.
    c._share_processors()
    assert set_to == [4]
