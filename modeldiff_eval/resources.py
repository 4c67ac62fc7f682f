"""Find packaged files: inside the wheel first, then at the root of a source checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource(name: str) -> Path:
    """Path of a packaged resource such as ``"templates/card.html.j2"``, ``"tasks"`` or ``"data/taxonomy.yaml"``.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    for root in (_PACKAGE, _PACKAGE.parent):
        path = root / name
        if path.exists():
            return path
    raise FileNotFoundError(f"The packaged file {name!r} is missing from {_PACKAGE}; reinstall modeldiff-eval.")
