"""Finished runs that are to be compared: what their folders hold, and whether they can be."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeldiff_eval.card_file import read_card
from modeldiff_eval.errors import UsageError
from modeldiff_eval.records import Card

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

FIXED = (
    "method", "corpus", "tokens", "layer", "max_length", "heldout_share", "rollouts", "rollout_tokens", "latents", "k", "steps", "batch",
    "lr", "weighting", "thresholds", "false_discovery_rate", "annotator", "annotator_model", "taxonomy", "shift_estimator", "seed", "crosscoder",
)  # fmt: skip
"""Settings that must be equal: another value changes what is measured, not what was learned. The crosscoders given must be of one design."""
COLUMNS = {
    "latents": ("model", "crosscoder", "dictionary", "latent", "specific", "family", "category", "annotation_failure", "label"),
    "masses": ("dictionary", "block", "documents", "latent", "base", "tuned"),
    "scores": ("task", "metric", "document", "base", "tuned"),
}  # fmt: skip


@dataclass(frozen=True)
class RunFiles:
    """One finished run. Tables are None where the folder has none: a card from published counts has only its card."""

    name: str
    folder: Path
    card: Card
    latents: pd.DataFrame | None
    masses: pd.DataFrame | None
    scores: pd.DataFrame | None
    notes: dict[str, Any] | None

    @cached_property
    def labels(self) -> pd.Series[Any]:
        """Category of every latent of the dictionary that activation is measured in (code, None for none); index: latent."""
        assert self.latents is not None
        own = self.latents[(self.latents["model"] == "base") & (self.latents["dictionary"] == "crosscoder")]
        return own.set_index("latent")["category"]

    def directions(self, rows: pd.DataFrame) -> NDArray[np.float64] | None:
        """Decoder rows [latents, d_model] of latents of one side, in that side's model; None where the run does not hold its dictionary.

        Args:
            rows: rows of :attr:`latents` from one side and one dictionary.
        """
        if not len(rows) or self.latents is None:
            return np.zeros((0, 0))
        pair, kind = str(rows["crosscoder"].iloc[0]), str(rows["dictionary"].iloc[0])
        decoder = self._decoder("differences" if kind == "difference" else "crosscoders", pair)
        if decoder is None:
            return None
        whole = self.latents[(self.latents["dictionary"] == kind) & (self.latents["crosscoder"] == pair)]
        place = rows["latent"].to_numpy(dtype=np.int64) - int(whole["latent"].min())
        half = 1 if self.card.mode == "anchored" or rows["model"].iloc[0] == "tuned" else 0
        if len(place) and (place.min() < 0 or place.max() >= len(decoder)):
            return None
        return np.asarray(decoder[place, half], dtype=np.float64)

    def _decoder(self, kind: str, pair: str) -> NDArray[np.float32] | None:
        """[latents, 2, d_model], read once."""
        known: dict[tuple[str, str], Any] = self.__dict__.setdefault("_decoders", {})
        if (kind, pair) not in known:
            known[kind, pair] = _read_decoder(self.folder / kind / pair)
        found: NDArray[np.float32] | None = known[kind, pair]
        return found


def read_runs(runs: Mapping[str, Path]) -> list[RunFiles]:
    """The runs by name, each a folder with ``card.json`` and what the run left beside it.

    Raises:
        UsageError: fewer than two, no card, or a table that is not what a run writes.
    """
    if len(runs) < 2:
        raise UsageError(f"A comparison needs two runs or more, got {', '.join(runs) or 'none'}.")
    return [_read(name, Path(folder)) for name, folder in runs.items()]


def _read(name: str, folder: Path) -> RunFiles:
    card = read_card(folder)
    folder = folder if folder.is_dir() else folder.parent
    notes = None
    if (path := folder / "run.json").is_file():
        try:
            notes = json.loads(path.read_text(encoding="utf-8"))
            notes["settings"], notes["models"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(
                f"{path} is not what a run writes ({error}). Run the comparison of {name!r} again."
            ) from error
    tables = {kind: _table(folder / f"{kind}.parquet", columns) for kind, columns in COLUMNS.items()}
    return RunFiles(name, folder, card, notes=notes, **tables)


def _table(path: Path, columns: Sequence[str]) -> pd.DataFrame | None:
    import pandas as pd

    if not path.is_file():
        return None
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}). Run that comparison again.") from error
    if missing := [name for name in columns if name not in frame.columns]:
        raise UsageError(f"{path} lacks {', '.join(missing)}: another version made it. Run that comparison again.")
    return frame


def _read_decoder(folder: Path) -> NDArray[np.float32] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "native" / "sae_weights.safetensors", framework="np") as file:
            rows: NDArray[np.float32] = file.get_tensor("W_dec")
    except (OSError, SafetensorError):
        return None
    return rows.reshape(len(rows), 2, -1) if rows.ndim == 2 and rows.shape[1] % 2 == 0 else None


def require_comparable(runs: Sequence[RunFiles]) -> list[str]:
    """Refuse runs that differ in more than the tuned model; say what is left to know about those that do not.

    Raises:
        UsageError: what differs, between which runs.
    """
    first, notes = runs[0], list[str]()
    for other in runs[1:]:
        for what, mine, yours in (*_facts(first, other), *_settings(first, other)):
            if mine != yours:
                raise UsageError(
                    f"{first.name!r} and {other.name!r} cannot be compared: their {what} differ ({mine!s:.120} and {yours!s:.120}). "
                    "Run both with the same base, anchor, layer, method, taxonomy and text; only the tuned model may differ."
                )
    texts = {run.card.provenance.corpus for run in runs if run.card.provenance.tokens is not None}
    if len(texts) > 1:
        notes.append(
            "The runs' texts differ by the answers of their own models: classes of specific latents are found on each run's own text; activation "
            "is compared on the documents that both runs read."
        )
    return notes


def _facts(first: RunFiles, other: RunFiles) -> list[tuple[str, Any, Any]]:
    a, b = first.card, other.card
    out: list[tuple[str, Any, Any]] = [
        ("base models", _model(a.models.base), _model(b.models.base)),
        ("anchors", _model(a.models.anchor), _model(b.models.anchor)),
        ("designs", a.mode, b.mode),
        ("methods", a.method, b.method),
        ("layers", [c.layer for c in a.crosscoders], [c.layer for c in b.crosscoders]),
        ("classes", [(r.code, r.name) for r in a.classes], [(r.code, r.name) for r in b.classes]),
    ]
    if first.notes and other.notes:
        for role in ("base", "anchor"):
            mine, yours = first.notes["models"].get(role), other.notes["models"].get(role)
            out.append((f"weights of the {role}", mine, yours))
    elif a.provenance.tokens is not None and b.provenance.tokens is not None:
        out.append(("texts", a.provenance.corpus, b.provenance.corpus))
    return out


def _model(info: Any) -> Any:
    return None if info is None else (info.id, info.revision, info.adapter)


def _settings(first: RunFiles, other: RunFiles) -> list[tuple[str, Any, Any]]:
    if first.notes is None or other.notes is None:
        return []
    mine, yours = first.notes["settings"], other.notes["settings"]
    found = [(f"settings {name}", mine.get(name), yours.get(name)) for name in FIXED if name != "crosscoder"]
    return [
        *found,
        ("numbers of given crosscoders", len(mine.get("crosscoder") or ()), len(yours.get("crosscoder") or ())),
    ]
