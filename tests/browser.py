"""A real browser on a page, by its command line alone: what the page says after its scripts have run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
AXE = Path(os.environ.get("MODELDIFF_AXE", "node_modules/axe-core/axe.min.js"))
"""axe-core's file, where somebody has it; it is not part of this repository."""
_FLAGS = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-sync",
        "--no-first-run",
    ),
    *("--disable-extensions", "--virtual-time-budget=20000", "--run-all-compositor-stages-before-draw"),
)


def dumped(page: Path, profile: Path, *, fragment: str = "", flags: tuple[str, ...] = ()) -> str:
    """The document's HTML after its scripts ran, from a fresh profile and without a network."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *_FLAGS, *flags, f"--user-data-dir={profile}", "--dump-dom", f"{page.as_uri()}{fragment}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout


def with_script(html: str, script: str) -> str:
    """``html`` with ``script`` run at its end: the policy that forbids that is taken out, nothing else."""
    open_, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    assert count == 1
    return open_.replace("</body>", f"<script>{script}</script>\n</body>")


def reported(document: str) -> str:
    """What the script wrote into ``<pre id="report">``."""
    found = re.search(r'<pre id="report">(.*?)</pre>', document, re.S)
    assert found is not None, "the script did not finish"
    return unescape(found[1])
