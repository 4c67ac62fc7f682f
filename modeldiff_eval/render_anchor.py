"""Deep links: ``#class-A``, ``#category-A.1``, ``#latent-tuned-123``, safe and unique whatever a record is called."""

from __future__ import annotations

import re

from modeldiff_eval.records import Card

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
LIMIT = 60


def anchor(kind: str, name: object) -> str:
    """``class-A``: what a link to this thing says after the #."""
    return f"{kind}-{_UNSAFE.sub('-', str(name))[:LIMIT]}"


class Anchors:
    """The addresses on one page: each is given out once, and only those that will be there can be linked to."""

    def __init__(self, card: Card) -> None:
        self.there = {anchor("class", row.code) for row in card.classes}
        self.there |= {anchor("category", row.code) for row in card.categories}
        self.there |= {anchor("latent", f"{latent.model}-{latent.latent}") for latent in card.top_latents}
        self._given: set[str] = set()

    def take(self, kind: str, name: object) -> str:
        """The id for the element that shows ``name``; empty when another element has it already."""
        wanted = anchor(kind, name)
        if wanted in self._given or wanted not in self.there:
            return ""
        self._given.add(wanted)
        return wanted

    def find(self, kind: str, name: object) -> str:
        """Where ``name`` is shown, or empty when it is not."""
        wanted = anchor(kind, name)
        return wanted if wanted in self.there else ""
