"""The cards' pages of a leaderboard: made from the records, by several processes where that is worth it, kept where they are current."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from modeldiff_eval._version import __version__
from modeldiff_eval.leaderboard_files import Found
from modeldiff_eval.records import Card
from modeldiff_eval.render_html import render_html
from modeldiff_eval.store import PARTIAL, write_text

PARALLEL = 8
"""Pages that make another process worth its start."""
_FOLDER = re.compile(r"[a-z0-9-]{1,48}-[0-9a-f]{10}")

Item = tuple[Card, Path, str]
_items: list[Item] = []
"""In a process made by a fork: what it inherited."""


@contextmanager
def making(places: Sequence[tuple[Found, Path]], workers: int) -> Iterator[None]:
    """Make the page of every card in its folder, as far as it is not there; several processes do it while the block runs."""
    items = [
        (item.card, folder, item.digest) for item, folder in places if not _current(folder / "card.html", item.digest)
    ]
    workers = min(workers, len(items) // PARALLEL)
    if workers < 2:
        yield
        for item in items:
            _page(item)
        return
    _page(items.pop(0))  # The templates are compiled with it: once, and not in every fork.
    with _pool(workers, items) as pages:
        yield
        for _ in pages:
            pass


@contextmanager
def _pool(workers: int, items: list[Item]) -> Iterator[Iterator[None]]:
    """The pages as they are done. A fork has the cards already; sending one costs as much as making half its page."""
    if sys.platform == "linux" and threading.active_count() == 1:
        pool = ProcessPoolExecutor(workers, get_context("fork"), initializer=_items.extend, initargs=(items,))
        pages = pool.map(_page_at, range(len(items)), chunksize=4)
    else:
        pool = ProcessPoolExecutor(workers, get_context("spawn"))
        pages = pool.map(_page, items, chunksize=4)
    with pool:
        try:
            yield pages
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def forget(folder: Path, listed: set[str]) -> None:
    """Remove the folders that an earlier site made and that no row names now; nothing else."""
    for old in folder.iterdir() if folder.is_dir() else ():
        if old.name not in listed and _FOLDER.fullmatch(old.name) and old.is_dir() and not old.is_symlink():
            for file in (old / "card.json", old / "card.html", *old.glob(f"card.*{PARTIAL}")):
                file.unlink(missing_ok=True)
            if not any(old.iterdir()):
                old.rmdir()


def _page_at(place: int) -> None:
    _page(_items[place])


def _page(item: Item) -> None:
    card, folder, digest = item
    links = [("Leaderboard", "../../index.html"), ("JSON", "card.json")]
    write_text(folder / "card.html", render_html(card, links=links) + _stamp(digest))


def _stamp(digest: str) -> str:
    return f"<!-- made from card.json {digest} by {__version__} -->\n"


def _current(page: Path, digest: str) -> bool:
    """Whether the page there was made by this version from this very card."""
    try:
        with page.open("rb") as file:
            file.seek(-200, os.SEEK_END)
            return file.read().decode("utf-8", "replace").endswith(_stamp(digest))
    except OSError:
        return False
