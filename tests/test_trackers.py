"""TensorBoard and W&B beside a training: what they are told, and that they can fail without harm."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from modeldiff_eval import trackers as tracking
from modeldiff_eval.errors import MissingDependencyError, SettingsError, UsageError
from modeldiff_eval.trackers import require, trackers

FIGURES = {"loss": 0.5, "fve_first": 0.25}


class FakeRun:
    def __init__(self, options: dict[str, Any]) -> None:
        self.options, self.logged, self.ended = options, [], None
        self.broken = False

    def log(self, figures: dict[str, float], *, step: int) -> None:
        if self.broken:
            raise ConnectionError("the server is gone")
        self.logged.append((step, figures))

    def finish(self, *, exit_code: int) -> None:
        self.ended = exit_code


class FakeWandb(ModuleType):
    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[FakeRun] = []
        self.logins = 0
        self.login_error: Exception | None = None

    def login(self, *, verify: bool) -> bool:
        self.logins += 1
        if self.login_error:
            raise self.login_error
        return True

    def init(self, **options: Any) -> FakeRun:
        self.runs.append(FakeRun(options))
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("MODE", "PROJECT", "DIR", "NAME", "RUN_ID", "RESUME"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    return fake


def a_run(folder: Path, *, key: str = "k", done: int = 0, failed: bool = False) -> None:
    track = trackers(["wandb"], folder, key=key, title="base--tuned")
    track.start(done, {"steps": 9})
    track.log(done + 1, FIGURES)
    track.stop(failed=failed)


def test_wandb_is_told_everything_once(wandb: FakeWandb, tmp_path: Path) -> None:
    a_run(tmp_path / "mine")
    (run,) = wandb.runs
    assert run.options.pop("id").isalnum()
    assert run.options == {
        "project": "modeldiff-eval", "dir": str(tmp_path / "mine"), "name": "mine/base--tuned", "resume": "allow",
        "reinit": "create_new", "config": {"steps": 9},
    }  # fmt: skip
    assert run.logged == [(1, FIGURES)]
    assert run.ended == 0


def test_a_resumed_training_goes_on_in_its_wandb_run(wandb: FakeWandb, tmp_path: Path) -> None:
    a_run(tmp_path / "one", failed=True)
    a_run(tmp_path / "one", done=1)
    a_run(tmp_path / "two")
    a_run(tmp_path / "one", key="another training")
    first, resumed, elsewhere, other = (run.options["id"] for run in wandb.runs)
    assert first == resumed
    assert len({first, elsewhere, other}) == 3
    assert [run.ended for run in wandb.runs] == [1, 0, 0, 0]


def test_what_the_environment_says_about_wandb_wins(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_RUN_ID", "sweep1")
    a_run(tmp_path)
    assert not {"project", "id"} & set(wandb.runs[0].options)
    assert wandb.runs[0].options["resume"] == "allow"


def test_a_tracker_that_fails_is_warned_about_once(wandb: FakeWandb, tmp_path: Path) -> None:
    track = trackers(["wandb"], tmp_path, key="k")
    track.start(0, {})
    wandb.runs[0].broken = True
    with pytest.warns(RuntimeWarning, match=r"W&B stopped \(ConnectionError: the server is gone\)") as caught:
        track.log(1, FIGURES)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        track.log(2, FIGURES)
        track.stop(failed=False)
    assert wandb.runs[0].ended is None


def test_one_that_cannot_start_leaves_the_other_alone(
    wandb: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: str, purge_step: int) -> None:
        raise PermissionError(folder)

    fake = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    track = trackers(["tensorboard", "wandb"], tmp_path, key="k")
    with pytest.warns(RuntimeWarning, match=r"TensorBoard stopped \(PermissionError"):
        track.start(0, {})
    track.log(1, FIGURES)
    track.stop(failed=False)
    assert wandb.runs[0].logged == [(1, FIGURES)]


def test_no_names_no_trackers(tmp_path: Path) -> None:
    require(())
    track = trackers((), tmp_path, key="k")
    track.start(0, {})
    track.log(1, FIGURES)
    track.stop(failed=False)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_named() -> None:
    with pytest.raises(SettingsError, match=r"no tracker 'tensorbord'\. Did you mean 'tensorboard'"):
        require(["tensorbord"])


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_missing_library_is_named_with_its_install_line(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"--log-to {name} needs .*pip install {name}$"):
        require([name])


def test_wandb_without_an_account_is_refused_unless_it_is_offline(
    wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(["wandb"])
    assert wandb.logins == 1
    wandb.login_error = RuntimeError("api_key not configured (no-tty)")
    with pytest.raises(UsageError, match=r"not logged in \(api_key not configured.*WANDB_MODE=offline"):
        require(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    require(["wandb"])
    assert wandb.logins == 2


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself would draw."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(folder))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_reads_back_what_was_logged_and_a_resumed_step_is_there_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    require(["tensorboard"])
    for done, steps in ((0, 5), (3, 6)):
        track = trackers(["tensorboard"], tmp_path, key="k", title="base--tuned")
        track.start(done, {})
        for step in range(done + 1, steps + 1):
            track.log(step, {"loss": step / 2, "fve_first": 0.5})
        track.stop(failed=False)
    drawn = scalars(tmp_path / "tensorboard" / "base--tuned")
    assert drawn["loss"] == [(step, step / 2) for step in range(1, 7)]
    assert [step for step, _ in drawn["fve_first"]] == [1, 2, 3, 4, 5, 6]


def test_real_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    require(["wandb"])
    track = tracking.trackers(["wandb"], tmp_path, key="k", title="base--tuned")
    track.start(0, {"steps": 2})
    for step in (1, 2):
        track.log(step, FIGURES)
    track.stop(failed=False)
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
