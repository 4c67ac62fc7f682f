"""A finished run's folder without a run: the card of :mod:`sample_cards` and small tables that fit it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from sample_cards import full_card

NASTY = "<script>alert(1)</script>\u202eevil\x1b[31m"


def latent(number: int, **changes: Any) -> dict[str, Any]:
    """One row of ``latents.parquet``."""
    row = {
        "model": "tuned", "crosscoder": "base--tuned", "dictionary": "difference", "latent": number, "delta_norm": 0.9,
        "nu_error": 0.1 * number, "nu_error_low": 0.05 * number, "nu_error_high": 0.2 * number,
        "nu_reconstruction": 0.2, "nu_reconstruction_low": 0.1, "nu_reconstruction_high": 0.3, "rank_key": float(number),
        "specific": number < 2, "shifted": number < 3, "graded_weight": 0.5 if number < 4 else 0.0, "firings": 100 + number,
        "frequency": 0.001 * (number + 1), "shift": 0.1 * number, "shift_low": 0.05 * number, "shift_high": 0.2 * number,
        "label": f"name {number}", "description": f"Texts of kind {number}.", "category": "A.1", "confidence": 0.8, "annotation_failure": None,
        "detection": 0.6, "detection_low": 0.5, "detection_high": 0.7, "weak": number == 3,
    }  # fmt: skip
    return row | changes


def write_run(
    folder: Path, rows: list[dict[str, Any]] | None = None, *, cwd: str | None = None, **settings: Any
) -> Path:
    """The folder with ``card.json``, ``run.json``, ``latents.parquet`` and ``examples.parquet``; three examples a latent."""
    rows = rows if rows is not None else [latent(n) for n in range(6)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(full_card().to_json(), encoding="utf-8")
    (folder / "card.html").write_text("<!doctype html><title>card</title>", encoding="utf-8")
    notes = {"settings": {"annotator": "offline", "taxonomy": None, **settings}} | ({"cwd": cwd} if cwd else {})
    (folder / "run.json").write_text(json.dumps(notes))
    pd.DataFrame(rows).to_parquet(folder / "latents.parquet", index=False)
    examples = [
        {
            "crosscoder": row["crosscoder"], "dictionary": "difference", "latent": row["latent"], "rank": rank, "document": f"d{rank}",
            "activation": 3.0 - rank, "text": f"word{row['latent']} of {row['crosscoder']} {rank} {NASTY}",
            "tokens": [f"word{row['latent']}", f" of {row['crosscoder']} {rank} ", NASTY], "activations": [3.0 - rank, 0.0, 0.5],
        }
        for row in rows for rank in range(3)
    ]  # fmt: skip
    pd.DataFrame(examples).to_parquet(folder / "examples.parquet", index=False)
    return folder
