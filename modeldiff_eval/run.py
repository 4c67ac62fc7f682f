"""A finished comparison: its card, its latents, its files, and how a notebook shows them."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from modeldiff_eval import records
from modeldiff_eval.card_file import read_card
from modeldiff_eval.errors import UsageError
from modeldiff_eval.plots import Plots
from modeldiff_eval.records import Card
from modeldiff_eval.render_html import render_html

if TYPE_CHECKING:
    import pandas as pd

HEIGHT = 720


@dataclass(frozen=True)
class Run:
    """A finished comparison. ``latents``: one row for each (side, latent); ``paths``: what was written."""

    card: Card
    latents: pd.DataFrame
    out: Path
    paths: dict[str, Path | None] = field(repr=False)

    @property
    def plot(self) -> Plots:
        """Charts of the card: ``run.plot.classes()``."""
        return Plots(self.card)

    def _repr_html_(self) -> str:
        return framed(self.card)


def load(out: Path | str) -> Run:
    """The run in a folder, as :func:`modeldiff_eval.diff` returned it.

    Raises:
        UsageError: the folder holds no finished run.
    """
    import pandas as pd

    out = Path(out)
    card = read_card(out)
    try:
        latents = pd.read_parquet(out / "latents.parquet")
    except (OSError, ValueError) as error:
        raise UsageError(f"{out} has a card, but its latents.parquet cannot be read: {error}.") from error
    paths = {
        name: path if (path := out / f"card.{name}").exists() else None for name in ("json", "csv", "html", "pdf", "md")
    }
    return Run(card, latents, out, dict(paths))


def framed(card: Card) -> str:
    """The card inside a frame of its own, so that neither its styles nor its text touch the notebook; no script runs in it."""
    return (
        f'<iframe title="{html.escape(card.title, quote=True)}" sandbox srcdoc="{html.escape(render_html(card), quote=True)}" '
        f'style="width:100%;height:{HEIGHT}px;border:1px solid #dfe2e7"></iframe>'
    )


records.show_cards(framed)
