"""The parts of a text on which class shifts are told apart: what kind of token it is, and whose text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from modeldiff_eval.corpus import TokenCorpus
from modeldiff_eval.latents import Blocks
from modeldiff_eval.records import ActivationSplit, Estimate
from modeldiff_eval.shift_estimators import Grouping, Masses
from modeldiff_eval.shift_null import MIN_BLOCKS
from modeldiff_eval.stats_bootstrap import two_way_ratio
from modeldiff_eval.token_kinds import TokenKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from modeldiff_eval.workspace import Workspace

PART_BLOCKS = 32
"""Blocks of documents in a part; its intervals need no more, and the masses of all parts are in memory at once."""
MAX_TEXTS = 5
"""Sources told apart, those with the most tokens first; all others together are one part."""
_KINDS: dict[str, tuple[TokenKind, ...]] = {
    "user": (TokenKind.USER,),
    "assistant": (TokenKind.ASSISTANT,),
    "template and system": (TokenKind.TEMPLATE, TokenKind.SYSTEM),
    "plain text": (TokenKind.TEXT,),
}
Split = Literal["token kind", "text"]


@dataclass(frozen=True)
class Part:
    """One part of the held-out tokens. ``mass`` [2, blocks, latents] is there once it was measured."""

    split: Split
    name: str
    tokens: int
    documents: int
    grouping: Grouping
    mass: NDArray[np.float32] | None = None

    def with_mass(self, mass: Masses) -> Part:
        """The part with its masses, kept in single precision."""
        return replace(self, mass=mass.astype(np.float32))

    def changes(
        self, label: NDArray[np.int64], classes: list[str], *, draws: int, rng: np.random.Generator
    ) -> ActivationSplit:
        """Percent change of every class on this part; nulls where fewer than :data:`MIN_BLOCKS` blocks hold the class.

        Args:
            label: [latents] number of each latent's class, −1 for none.
        """
        assert self.mass is not None
        out = {}
        for number, code in enumerate(classes):
            base, tuned = self.mass[:, :, label == number].astype(np.float64)
            total = base.sum()
            if total <= 0 or int((base.sum(axis=1) > 0).sum()) < MIN_BLOCKS:
                out[code] = Estimate(value=None, low=None, high=None)
                continue
            value = 100 * (tuned.sum() / total - 1)
            low, high = (100 * (bound - 1) for bound in two_way_ratio(base, tuned, draws=draws, rng=rng))
            finite = np.isfinite(low) and np.isfinite(high)
            out[code] = Estimate(
                value=value, low=min(low, value) if finite else None, high=max(high, value) if finite else None
            )
        return ActivationSplit(
            split=self.split, part=self.name, tokens=self.tokens, documents=self.documents, changes=out
        )


def parts(work: Workspace, corpus: TokenCorpus, heldout: torch.Tensor, blocks: Blocks) -> list[Part]:
    """The parts of the held-out rows by token kind and by source; a split with one part alone says nothing and is left out.

    Args:
        heldout: token numbers, [rows]; ``blocks``: their blocks of documents.
    """
    kinds = work.token_kinds(corpus)[heldout.numpy()]
    document = corpus.document_of_token()[heldout.numpy()]
    source = np.asarray(corpus.documents["source"], dtype=object)[document]
    tokens = Counter(source.tolist())
    named = [name for name, _ in sorted(tokens.items(), key=lambda item: (-item[1], item[0]))[:MAX_TEXTS]]
    text = {name: source == name for name in named}
    if len(tokens) > MAX_TEXTS:
        text["all other sources"] = ~np.isin(source, named)
    kind = {name: np.isin(kinds, members) for name, members in _KINDS.items()}
    out = []
    splits: list[tuple[Split, dict[str, NDArray[np.bool_]]]] = [("token kind", kind), ("text", text)]
    for split, members in splits:
        found = {name: mask for name, mask in members.items() if mask.any()}
        if len(found) > 1:
            out += [_part(split, name, mask, document, blocks) for name, mask in found.items()]
    return out


def _part(split: Split, name: str, mask: NDArray[np.bool_], document: NDArray[np.int32], blocks: Blocks) -> Part:
    of_row = np.where(mask, blocks.block % PART_BLOCKS, -1)
    grouping = Grouping(of_row.astype(np.int64), min(PART_BLOCKS, blocks.n))
    return Part(split, name, int(mask.sum()), len(np.unique(document[mask])), grouping)
