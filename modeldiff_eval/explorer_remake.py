"""A run's card made again with a reader's corrections: the run's own command, in a process of its own.

Everything that does not hang on names is found in the cache, so this takes the statistics' time, not the training's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from modeldiff_eval.errors import UsageError
from modeldiff_eval.store import write_json

TAIL = 12
"""Lines of progress that are shown."""


def settings_of(run: Path, review: Path) -> dict[str, object]:
    """The settings of a finished run, but with names as ``review`` has them.

    Raises:
        UsageError: there is no record of them, or a language model named the latents: what was not corrected would then be
            named offline.
    """
    try:
        settings = json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{run / 'run.json'} does not say how the run was made ({error}).") from error
    named_by = str(settings.get("annotator"))
    if named_by != "offline" and not named_by.startswith("human:"):
        raise UsageError(
            f"The latents were named by {named_by}. Making the card again would give every name that you did not correct to the "
            f"offline annotator. To do that all the same, run the comparison with --annotator human:{review}."
        )
    return {**settings, "annotator": f"human:{review.resolve()}"}


class Remake:
    """A card that is being made again. ``log`` holds what the command prints."""

    def __init__(self, run: Path, review: Path) -> None:
        self.log = run / "explore.log"
        config = write_json(run / "explore.settings.json", settings_of(run, review))
        command = [sys.executable, "-m", "modeldiff_eval.cli", "--config", str(config), "--out", str(run), "--force"]
        if (run / "cache").is_dir():
            command.append("--no-cache")
        # What the shell sets for other runs must not win over this run's own settings.
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MODELDIFF_") or k == "MODELDIFF_CACHE"}
        with self.log.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=kept
            )

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def tail(self) -> list[str]:
        """The last lines of the log."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
        except OSError:
            return []

    def stop(self) -> None:
        """End it; what it has finished stays in the cache."""
        if self.code is None:
            self._process.terminate()
            self._process.wait()
