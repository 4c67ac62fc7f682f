"""Finished runs made by hand: a card with the tables that a run leaves beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sample_cards import CLASSES, full_card

from modeldiff_eval.records import Card

SETTINGS: dict[str, Any] = {"method": "batchtopk", "corpus": ["text"], "layer": 1, "seed": 0, "crosscoder": []}


def plain_card(**update: Any) -> Card:
    """A card without hostile text; ``update`` by its top-level names."""
    return Card.model_validate(full_card(hostile=False).model_dump(by_alias=True) | update)


def latent_rows(
    side: str, crosscoder: str, codes: Sequence[str | None], *, first: int = 0, **more: Any
) -> pd.DataFrame:
    """Specific annotated latents of one side, one for each category code."""
    n = len(codes)
    return pd.DataFrame(
        {
            "model": side, "crosscoder": crosscoder, "dictionary": "crosscoder", "latent": first + np.arange(n), "specific": True,
            "family": np.arange(n) + (0 if side == "base" else 100_000), "category": list(codes), "annotation_failure": None,
            "label": [f"{side} {i}" for i in range(n)], "nu_error": 0.1, "delta_norm": 0.1, "shift": 0.0, "shift_changed": False,
        } | more
    )  # fmt: skip


def save_run(folder: Path, card: Card, *, notes: Mapping[str, Any] | None = None, **tables: pd.DataFrame) -> Path:
    """A run's folder with ``card.json``, ``run.json`` and tables by name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(card.to_json(), encoding="utf-8")
    own = {"settings": SETTINGS, "models": {"base": "b", "anchor": "a", "tuned": folder.name}} | dict(notes or {})
    (folder / "run.json").write_text(json.dumps(own))
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    return folder


def codes_of(counts: Mapping[str, int]) -> list[str]:
    """``{"A": 2}`` → two categories of class A."""
    return [f"{code}.1" for code, n in counts.items() for _ in range(n)]


def mass_rows(
    base: np.ndarray, tuned: np.ndarray, *, dictionary: str = "one", blocks: Sequence[str] | None = None
) -> pd.DataFrame:
    """Masses [blocks, latents] as a run writes them."""
    names = blocks or [f"block {i}" for i in range(len(base))]
    block, latent = np.nonzero(base + tuned)
    return pd.DataFrame(
        {
            "dictionary": dictionary, "block": [names[b] for b in block], "documents": 3, "latent": latent, "base": base[block, latent],
            "tuned": tuned[block, latent],
        }
    )  # fmt: skip


def named_latents(n: int) -> list[str]:
    """Categories of ``n`` latents, class after class."""
    return [f"{list(CLASSES)[i % len(CLASSES)]}.1" for i in range(n)]
