"""A hub that is busy or breaks off: asked again, partial downloads kept, and in the end an error that says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_hub import REVISION, serving

from modeldiff_eval import hub

ROOT = Path(__file__).resolve().parents[1]


class Busy(Exception):
    """An HTTP error as the clients raise it."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(f"Server error '{status}'\nmore")
        self.response = type("Response", (), {"status_code": status, "headers": headers})()


class ReadTimeout(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (Busy(503), True), (Busy(429), True), (Busy(404), False), (Busy(401), False), (ReadTimeout(), True),
        (ConnectionResetError(), True), (ValueError("no connection"), False), (TimeoutError(), True),
    ],
)  # fmt: skip
def test_what_may_pass(error: Exception, found: bool) -> None:
    assert hub.passing(error) is found
    outer = RuntimeError("wrapped")
    outer.__cause__ = error
    assert hub.passing(outer) is found


def test_waits_double_and_the_server_may_say_how_long(caplog: pytest.LogCaptureFixture) -> None:
    waits: list[float] = []
    errors: list[Exception] = [Busy(503), ReadTimeout("slow"), Busy(429, **{"retry-after": "7"})]

    def ask() -> str:
        if errors:
            raise errors.pop(0)
        return "there"

    assert hub.patiently("org/model", ask, sleep=waits.append) == "there"
    assert waits == [2, 4, 7]
    assert "org/model: slow. Trying again in 4 s (3 of 4); what has arrived is kept." in caplog.text


def test_the_last_error_comes_through_and_a_refusal_at_once() -> None:
    calls: list[int] = []

    def ask(status: int) -> Any:
        calls.append(status)
        raise Busy(status)

    with pytest.raises(Busy):
        hub.patiently("x", lambda: ask(503), tries=3, sleep=lambda _: None)
    with pytest.raises(Busy):
        hub.patiently("x", lambda: ask(403), sleep=lambda _: None)
    assert calls == [503, 503, 503, 403]


def fetch(url: str, home: Path, wait: float = 0.1, tries: int = 4) -> subprocess.CompletedProcess[str]:
    """``models.resolve("org/model")`` in a process of its own, as the hub's client reads its address once."""
    script = (
        f"from modeldiff_eval import hub, models\nhub.FIRST_WAIT, hub.TRIES = {wait}, {tries}\n"
        "from modeldiff_eval.errors import ModelError\n"
        "try:\n    print(models.resolve('org/model').revision)\nexcept ModelError as error:\n    print('error:', error)\n"
    )
    own = {
        "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT),
        "HF_HUB_DOWNLOAD_TIMEOUT": "5", "HF_HUB_ETAG_TIMEOUT": "5", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    environ = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")} | own
    return subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=240)


@pytest.fixture
def repository(base_model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    for file in base_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.slow
def test_a_busy_hub_is_asked_again_and_a_broken_download_goes_on(repository: Path, tmp_path: Path) -> None:
    # The client writes ten megabytes at a time: what is kept of a broken line are whole pieces.
    large, cut = repository / "part.safetensors", 25 << 20
    large.write_bytes(bytes(range(256)) * (32 << 12))
    with serving(repository, busy=2, cut=cut, cuts=1) as fake:
        done = fetch(fake.url, tmp_path / "home")
    assert done.stdout.strip() == REVISION, done.stderr
    starts = [int(asked.removeprefix("bytes=").split("-")[0]) for asked in fake.sent() if asked]
    assert max(starts, default=0) >= 10_000_000, fake.log  # What had arrived was not fetched again.
    (stored,) = (tmp_path / "home").rglob("snapshots/*/part.safetensors")
    assert stored.read_bytes() == large.read_bytes()


@pytest.mark.slow
def test_a_hub_that_stays_away_is_an_error_with_what_to_do(repository: Path, tmp_path: Path) -> None:
    with serving(repository, busy=10**6) as fake:
        done = fetch(fake.url, tmp_path / "home", wait=0.0, tries=2)
    assert "error: Cannot get 'org/model' from the hub" in done.stdout, done.stderr
    assert "check the spelling and your connection" in done.stdout
    assert done.stderr.count("Trying again") == 1, done.stderr
