"""A run's card made again with a reader's corrections: the run's own command, in a process of its own.

Everything that does not hang on names is found in the cache, so this takes the statistics' time, not the training's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modeldiff_eval.errors import UsageError
from modeldiff_eval.plain_json import read_json
from modeldiff_eval.store import cache_dir, write_json

TAIL = 12
"""Lines of progress that are shown."""


def settings_of(run: Path, review: Path) -> dict[str, object]:
    """The settings of a finished run, but with names as ``review`` has them.

    Raises:
        UsageError: there is no record of them, or a language model named the latents: what was not corrected would then be
            named offline.
    """
    settings = _notes(run)["settings"]
    named_by = str(settings.get("annotator"))
    if named_by != "offline" and not named_by.startswith("human:"):
        raise UsageError(
            f"The latents were named by {named_by}. Making the card again would give every name that you did not correct to the "
            f"offline annotator. To do that all the same, run the comparison with --annotator human:{review}."
        )
    taxonomy = taxonomy_of(run)
    return {**settings, "annotator": f"human:{review.resolve()}", "taxonomy": str(taxonomy) if taxonomy else None}


def taxonomy_of(run: Path) -> Path | None:
    """The taxonomy file that a run was made with; None is the packaged one.

    A relative name is looked for where the run was made, in the run's folder, here, and in the folders above the run.

    Raises:
        UsageError: it is at none of these places.
    """
    try:
        notes = _notes(run)
    except UsageError:
        return None
    if not (named := notes["settings"].get("taxonomy")):
        return None
    file, run = Path(named).expanduser(), run.resolve()
    made_in = _made_in(notes)
    places = [made_in / file] if made_in else []
    places += [run / file.name, Path.cwd() / file, *(folder / file for folder in run.parents)]
    for place in places:
        if place.is_file():
            return place.resolve()
    raise UsageError(
        f"The run was made with the taxonomy {named}, which is not at {places[0]} any more. Put it back, or copy it to "
        f"{run / file.name}."
    )


def _made_in(notes: Mapping[str, Any]) -> Path | None:
    """The folder that relative names of the settings start from; None where it is not known or gone."""
    folder = notes.get("cwd")
    return Path(folder) if isinstance(folder, str) and os.path.isdir(folder) else None


def _notes(run: Path) -> dict[str, Any]:
    try:
        notes: dict[str, Any] = read_json((run / "run.json").read_text(encoding="utf-8"))
        if not isinstance(notes["settings"], dict):
            raise TypeError("its settings are no record")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{run / 'run.json'} does not say how the run was made ({error}).") from error
    return notes


class Remake:
    """A card that is being made again. ``log`` holds what the command prints."""

    def __init__(self, run: Path, review: Path) -> None:
        run = run.resolve()
        self.log = run / "explore.log"
        config = write_json(run / "explore.settings.json", settings_of(run, review))
        made_in = _made_in(_notes(run)) or Path.cwd()
        # Modules are not looked for in the folder that a run's file names.
        python = [sys.executable] if made_in == Path.cwd() else [sys.executable, "-P"]
        command = [*python, "-m", "modeldiff_eval.cli", "--config", str(config), "--out", str(run), "--force"]
        if (run / "cache").is_dir():
            command.append("--no-cache")
        # What the shell sets for other runs must not win over this run's own settings.
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MODELDIFF_")}
        kept["MODELDIFF_CACHE"] = str(cache_dir().resolve())
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        places = [str(Path(__file__).parents[1]), *(place for place in given if place)]
        kept["PYTHONPATH"] = os.pathsep.join(os.path.abspath(place) for place in places)
        with self.log.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=kept, cwd=made_in
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
