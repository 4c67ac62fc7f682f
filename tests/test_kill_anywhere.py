"""``kill -9`` at random moments of a whole run, each started again: the same card, but for its date, every time.

Three of them here; ``MODELDIFF_KILLS=30 pytest -m slow tests/test_kill_anywhere.py`` for more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("MODELDIFF_KILLS", "3"))


@pytest.mark.slow(minutes=3)
def test_a_run_killed_anywhere_gives_the_same_card(tmp_path: Path) -> None:
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here.parent), str(here)])
    done = subprocess.run(
        [sys.executable, str(here / "kill_driver.py"), str(tmp_path), str(KILLS), "7"],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [kill for kill in found["kills"] if not (kill["resumed"] and kill["same"])] == []
    assert [kill for kill in found["kills"] if kill["left"] or kill["broken"]] == []
    met = {kill["met"] for kill in found["kills"]}
    assert len(met) >= min(4, KILLS // 3), met  # The kills did fall into different parts of the run.
